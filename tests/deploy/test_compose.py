"""deploy/compose/compose.yaml, run: from nothing to tokens that one app signs and another knows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ringkeeper.configuration import parse
from ringkeeperd.cli import _parser
from tests.deploy.compose import UNDERSTOOD, Project, read
from tests.deploy.containers import Host
from tests.deploy.images import ROOT
from tests.docs.test_docs import blocks, commands
from tests.plugins.daemons import eventually

COMPOSE = ROOT / "deploy/compose/compose.yaml"
SHOWN = blocks((COMPOSE.parent / "README.md").read_text(), "console")[1]
OURS = ("init", "ringkeeper", "second", "signing-app", "verifying-app")


# --- what it says --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document() -> dict:
    return read(COMPOSE, {})


def test_it_has_all_that_an_installation_has(document: dict) -> None:
    assert set(document["services"]) == {*OURS, "redis", "prometheus", "grafana"}
    for service in document["services"].values():
        assert set(service) <= UNDERSTOOD
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
        _parser(is_demo=False).parse_args(service["command"])
    environment = {key: str(value) for key, value in service["environment"].items()}
    configuration = parse({}, environment, base=Path("/var/lib/ringkeeper"))
    mounted = {volume.split(":")[1] for volume in service["volumes"]}
    assert str(configuration.trust_root_public.parent) in mounted
    assert configuration.is_kek_named == ("/etc/ringkeeper/kek" in mounted)


# --- what it does --------------------------------------------------------------------------------


@pytest.mark.deploy
@pytest.mark.timeout(600)
@pytest.mark.runs("deploy/compose/README.md", 2)
def test_it_goes_from_nothing_to_tokens(host: Host, image: str, redis_image: str) -> None:
    """Redis, init, the daemon and both apps; Prometheus and Grafana have tests of their own.

    As the page shows it; but we start the services, and ask from within their network.
    """
    up, login, hello, asking = commands(f"```console\n{SHOWN}```")
    assert up == f"cd {COMPOSE.parent.relative_to(ROOT)} && docker compose up -d"
    (signing,) = re.findall(r"^token=\$\(curl -s (http:\S+)\)$", login)
    curl, *bearing, verifying = shlex.split(hello)
    assert [curl, *bearing] == ["curl", "-H", "Authorization: Bearer $token"]
    compose, of, within, service, *asked = shlex.split(asking)
    assert [compose, of, within] == ["docker", "compose", "exec"]
    images = {"RINGKEEPER_IMAGE": image, "REDIS_IMAGE": redis_image}
    interval = {"ACCESS_TOKEN_DYNAMIC_SIGNING_KEY_UPDATE_INTERVAL": "24"}
    project = Project(COMPOSE, host, images | interval)
    project.up("signing-app", "verifying-app")
    get = host.network.get

    status, token = eventually(lambda: _good(get(signing)), within=30)
    assert status == 200
    bearer = {"Authorization": f"Bearer {token}"}
    greeting = (200, "hello alice")
    assert eventually(lambda: _good(get(verifying, **bearer)), within=30) == greeting
    assert get("http://127.0.0.1:8001/", **bearer) == greeting
    assert get("http://127.0.0.1:8002/login")[0] == 503, "it has no KEK to sign with"

    daemon = project.containers["ringkeeper"]
    assert "access-token" in project.containers[service].done(*asked)
    shown = json.loads(daemon.done("ringkeeper", "status", "--json"))
    assert "access-token" in json.dumps(shown)
    kid = json.loads(get("http://127.0.0.1:9465/v1/keyring")[1])["access-token"]["signer"]
    daemon.done("ringkeeper", "revoke", kid, "--reason", "a test")
    eventually(lambda: get("http://127.0.0.1:8002/", **bearer)[0] == 401)
    status, token = eventually(lambda: _good(get("http://127.0.0.1:8001/login")))
    bearer = {"Authorization": f"Bearer {token}"}
    assert eventually(lambda: _good(get("http://127.0.0.1:8002/", **bearer))) == greeting

    for name in ("signing-app", "verifying-app", "ringkeeper"):
        code, took = project.containers[name].stop()
        assert (code, took < 3) == (0, True), project.containers[name].log
    # Once more, as `docker compose up` does it: the ring is there, and that is fine.
    del project.containers["init"], project.containers["ringkeeper"]
    project.up("ringkeeper")
    assert "ring access-token exists" in project.containers["init"].log


@pytest.mark.deploy
@pytest.mark.timeout(600)
def test_an_init_that_came_before_redis_comes_again(
    host: Host, image: str, redis_image: str
) -> None:
    images = {"RINGKEEPER_IMAGE": image, "REDIS_IMAGE": redis_image}
    project = Project(COMPOSE, host, images)
    project.start_alone("init")
    init = project.containers["init"]
    eventually(lambda: init.restarts > 0, within=30)
    project.start_alone("redis")
    eventually(lambda: "made ring access-token" in init.log, within=60)
    eventually(lambda: not init.is_running, within=30)
    assert init.state["ExitCode"] == 0


def _good(answer: tuple[int, str]) -> tuple[int, str] | None:
    return answer if answer[0] == 200 else None
