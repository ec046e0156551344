"""deploy/compose/compose.yaml, run: from nothing to tokens that one app signs and another knows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ringkeeper.configuration import parse
from ringkeeperd.command_line.tree import parser
from tests.deploy.compose import Project, read
from tests.deploy.containers import Network
from tests.deploy.engines import Docker
from tests.deploy.images import ROOT
from tests.docs.test_docs import blocks, commands
from tests.plugins.daemons import eventually

COMPOSE = ROOT / "deploy/compose/compose.yaml"
README = (COMPOSE.parent / "README.md").read_text()
RUNBOOK = ROOT / "docs/runbooks/target-absent.md"
SHOWN = blocks(README, "console")[1]
OURS = ("init", "ringkeeper", "second", "signing-app", "verifying-app")


# --- what it says --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document() -> dict:
    return read(COMPOSE, {})


def test_it_has_all_that_an_installation_has(document: dict) -> None:
    assert set(document["services"]) == {*OURS, "redis", "prometheus", "grafana"}
    for service in document["services"].values():
        assert set(service.get("depends_on", {})) <= set(document["services"])
        named = [volume.partition(":")[0] for volume in service.get("volumes", ())]
        assert {name for name in named if not name.startswith(".")} <= set(document["volumes"])


def test_every_image_is_pinned_by_a_variable() -> None:
    images = re.findall(r"^ *(?:image|PYTHON_IMAGE): (.*)$", COMPOSE.read_text(), re.MULTILINE)
    assert len(images) == 5
    for image in images:
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z./]+:v?\d+\.\d+\.\d+[a-z-]*\}", image)


def test_what_is_mounted_from_here_is_here(document: dict) -> None:
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), source


def test_nothing_is_published_beyond_this_host(document: dict) -> None:
    ports = [port for each in document["services"].values() for port in each.get("ports", ())]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_each_container_has_the_secrets_that_it_needs_and_no_others(document: dict) -> None:
    secrets = {"root", "public", "kek"}
    has = {
        name: {volume.partition(":")[0] for volume in service.get("volumes", ())} & secrets
        for name, service in document["services"].items()
    }
    assert has == {
        "redis": set(),
        "init": secrets,
        "ringkeeper": secrets,
        "second": secrets,
        "signing-app": {"public", "kek"},
        "verifying-app": {"public"},
        "prometheus": set(),
        "grafana": set(),
    }
    for name, service in document["services"].items():
        for volume in service.get("volumes", ()):
            if volume.partition(":")[0] in secrets and name != "init":
                assert volume.endswith(":ro")


def test_who_may_make_the_ring_sees_all_that_is_known_of_it(document: dict) -> None:
    """Promise 7: else a Redis that was lost would get a second ring at the next `up`."""
    kept = {name: _mounted_at("/var/lib/ringkeeper", document, name) for name in OURS[:3]}
    assert kept == {"init": "state:ro", "ringkeeper": "state", "second": "state"}


def _mounted_at(place: str, document: dict, name: str) -> str:
    volumes: list[str] = document["services"][name]["volumes"]
    return next(each.replace(f":{place}", "") for each in volumes if place in each)


@pytest.mark.parametrize("name", OURS)
def test_ours_are_closed_and_told_what_they_understand(document: dict, name: str) -> None:
    service = document["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if "entrypoint" not in service:
        parser(is_demo=False).parse_args(service["command"])
    environment = {key: str(value) for key, value in service["environment"].items()}
    configuration = parse({}, environment, base=Path("/var/lib/ringkeeper"))
    mounted = {volume.split(":")[1] for volume in service["volumes"]}
    assert str(configuration.trust_root_public.parent) in mounted
    assert configuration.is_kek_named == ("/etc/ringkeeper/kek" in mounted)


# --- what it does: the first of these may have to make the base, and images of others ---------------


@pytest.mark.deploy
@pytest.mark.timeout(900)
@pytest.mark.runs("deploy/compose/README.md", 2)
def test_it_goes_from_nothing_to_tokens(
    docker: Docker, network: Network, base_image: str, stand_ins: dict[str, str]
) -> None:
    """The page's commands word for word, in one shell; what is published, is in its network."""
    interval = {"ACCESS_TOKEN_DYNAMIC_SIGNING_KEY_UPDATE_INTERVAL": "24"}
    project = Project(docker, base_image, stand_ins | interval)
    script = "\n".join(commands(f"```console\n{SHOWN}```"))
    shell = f"nsenter --net={network.path} bash -euo pipefail -c {shlex.quote(script)}"
    said = project.does(shell, project.root)
    assert "hello alice" in said
    assert re.search(r"^next +in 23h ", said, re.MULTILINE), said
    signs_and_verifies(project, network)
    is_scraped(network)
    secrets_are_made_in_a_volume(project)
    the_second_takes_over(project)

    # Once more: the ring is there, and that is fine.
    docker.does("docker compose rm --force init", project.folder)
    project.does("docker compose up -d")
    assert "ring access-token exists" in project.log("init")


def signs_and_verifies(project: Project, network: Network) -> None:
    """Tokens of one app are the other's, until their key is revoked."""
    get = network.get

    def bearer() -> dict[str, str]:
        _, token = eventually(lambda: _good(get("http://127.0.0.1:8001/login")))
        return {"Authorization": f"Bearer {token}"}

    first, greeting = bearer(), (200, "hello alice")
    assert get("http://127.0.0.1:8001/", **first) == greeting
    assert get("http://127.0.0.1:8002/", **first) == greeting
    assert get("http://127.0.0.1:8002/login")[0] == 503, "it has no KEK to sign with"
    kid = json.loads(get("http://127.0.0.1:9465/v1/keyring")[1])["access-token"]["signer"]
    revoking = f"docker compose exec ringkeeper ringkeeper revoke {kid} --reason 'a test'"
    project.docker.does(revoking, project.folder)
    eventually(lambda: get("http://127.0.0.1:8002/", **first)[0] == 401)
    second = bearer()
    assert eventually(lambda: _good(get("http://127.0.0.1:8002/", **second))) == greeting


def is_scraped(network: Network) -> None:
    """Prometheus reads the daemon, by its name."""
    asking = "http://127.0.0.1:9090/api/v1/query?query=up%7Bjob=%22ringkeeper%22%7D"
    eventually(
        lambda: (
            [each["value"][1] for each in json.loads(network.get(asking)[1])["data"]["result"]]
            == ["1"]
        )
    )


def secrets_are_made_in_a_volume(project: Project) -> None:
    """By the page's line, for another ring in that Redis."""
    (making,) = re.findall(r"`(docker run [^`]+ init)`", README)
    here = making.replace("redis://…", "redis://redis:6379/1")
    said = project.docker.does(here.replace("run", "run --network ringkeeper_default", 1))
    assert "made /etc/ringkeeper/kek.jwk" in said
    assert "made ring access-token" in said


def the_second_takes_over(project: Project) -> None:
    """What the page says between its blocks; and all of ours end at once when they are told to."""
    second, copying = re.findall(r"`(docker compose [^`]+)`", README)
    project.does(second)
    for secret in ("kek", "root"):
        project.docker.does(copying.replace("kek", secret), project.folder)
        assert json.loads((project.folder / secret / f"{secret}.jwk").read_text())["kty"]
    ours = ("ringkeeper", "signing-app", "verifying-app")
    project.docker.does(f"docker compose stop {' '.join(ours)}", project.folder)
    assert {name: project.inspected(name, ".State.ExitCode") for name in ours} == dict.fromkeys(
        ours, "0"
    )
    (looking,) = re.findall(r"docker compose ps$", RUNBOOK.read_text(), re.MULTILINE)
    states = project.docker.does(looking, project.folder)
    assert re.search(r"^ringkeeper_ringkeeper_1 .* Exit 0 ", states, re.MULTILINE), states
    asking = "docker compose exec second ringkeeper status"
    leads = rf"^leader +{project.id_of('second')[:12]}"
    eventually(lambda: re.search(leads, project.docker.does(asking, project.folder), re.MULTILINE))


@pytest.mark.deploy
@pytest.mark.timeout(900)
def test_an_init_that_came_before_redis_comes_again(
    docker: Docker, image: str, base_image: str, stand_ins: dict[str, str]
) -> None:
    """As podman-compose 1.0 starts it."""
    project = Project(docker, base_image, stand_ins | {"RINGKEEPER_IMAGE": image})
    alone = "docker compose up -d --no-deps"
    docker.does(f"{alone} init", project.folder)
    eventually(lambda: int(project.inspected("init", ".RestartCount")) > 0)
    docker.does(f"{alone} redis", project.folder)
    eventually(lambda: "made ring access-token" in project.log("init"), within=60)
    eventually(lambda: project.inspected("init", ".State.Running") == "false")
    assert project.inspected("init", ".State.ExitCode") == "0"


def _good(answer: tuple[int, str]) -> tuple[int, str] | None:
    return answer if answer[0] == 200 else None
