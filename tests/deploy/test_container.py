"""The image, run as closed as can be: what deploy/compose/README.md promises of it is so."""

from __future__ import annotations

import json
import re
import signal
import time
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.containers import CLOSED, OUTSIDE, Container, Host, Network
from tests.deploy.engines import Docker, checkout
from tests.deploy.images import IMAGE, ROOT, build, podman
from tests.docs.test_docs import commands
from tests.plugins.daemons import eventually
from tests.plugins.servers import free_port

# The first test may have to make the base and fetch all wheels.
pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

USER = 65532
PORT = 9465
QUICK = {
    "ACCESS_TOKEN_DYNAMIC_SIGNING_KEY_UPDATE_INTERVAL": str(8 / 3600),
    "ACCESS_TOKEN_VALIDITY": "10",
    "RINGKEEPER_PUBLICATION_INTERVAL": "2s",
    "RINGKEEPER_MAX_STALENESS": "16s",
    "RINGKEEPER_CLOCK_SKEW": "1s",
    "RINGKEEPER_ALGORITHM": "ES256",
}
EMBEDDED = {"RINGKEEPER_REDIS__URL": "embedded:/var/lib/ringkeeper/var"}
STATE = "/var/lib/ringkeeper"
SECRETS = "/etc/ringkeeper"


def inspected(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman("image", "inspect", image).stdout)[0]
    return found


def is_ready(host: Host, port: int = PORT) -> bool:
    return host.network.get(f"http://127.0.0.1:{port}/readyz")[0] == 200


def wait_until_ready(host: Host, container: Container) -> None:
    def ready() -> bool:
        assert container.is_running, container.log
        return is_ready(host)

    eventually(ready, within=40)


def ring_of(host: Host) -> dict[str, Any]:
    status, body = host.network.get(f"http://127.0.0.1:{PORT}/v1/keyring")
    assert status == 200, body
    ring: dict[str, Any] = json.loads(body)["access-token"]
    return ring


def active_of(host: Host) -> dict[str, Any]:
    active: dict[str, Any]
    (active,) = (
        key
        for key in ring_of(host)["keys"]
        if key["state"] == "active" and key["kind"] == "dynamic"
    )
    return active


@pytest.fixture
def embedded(host: Host, image: str) -> Container:
    """The two-person start-up's: one container, and a volume."""
    volume = f"--volume={host.volume('state')}:{STATE}"
    container = host.start(
        image,
        options=(*CLOSED, volume),
        ACCESS_TOKEN_DYNAMIC_SIGNING_KEY_UPDATE_INTERVAL="24",
        **EMBEDDED,
    )
    wait_until_ready(host, container)
    return container


# --- what is in it -------------------------------------------------------------------------------


def test_the_image_says_what_it_is_and_what_it_needs(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = inspected(image)
    config = found["Config"]
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in config["Labels"].items()
    }
    assert labels["title"] == project["name"]
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["ringkeeper"]
    assert config["Cmd"] == ["run"]
    assert list(config["ExposedPorts"]) == [f"{PORT}/tcp"]
    assert list(config["Volumes"]) == [STATE]
    assert config["StopSignal"] == "SIGTERM"
    assert found["Healthcheck"]["Test"] == ["CMD", "ringkeeper", "check", "--alive"]


def test_every_base_is_named_by_a_tag_that_can_be_changed() -> None:
    text = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases == ["${PYTHON_IMAGE}", "${RUNTIME_IMAGE}"]
    (pinned,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"\S+:\d+\.\d+\.\d+-\S+", pinned)


def test_the_image_adds_the_program_and_nothing_to_build_with(
    image: str, base_image: str, host: Host
) -> None:
    added = inspected(image)["Size"] - inspected(base_image)["Size"]
    print(f"\nthe image adds {added / 1e6:.0f} MB to its base")
    assert added < 80e6
    script = (
        "import importlib.metadata as m, pathlib as p;"
        "print(*sorted(d.name.lower().replace('_', '-') for d in m.distributions()));"
        "print(*(f for f in p.Path('/').rglob('*.jwk')));"
        "import importlib.util as u, ringkeeperd.cli, ringkeeperd.daemon, sys;"
        "files = {m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)};"
        "files |= set(map(str, p.Path('/opt/ringkeeper/lib').rglob('*.py')));"
        "print(*(f for f in files if f.endswith('.py')"
        "  and not p.Path(u.cache_from_source(f)).exists()));"
        "print(*(f for f in p.Path('/opt').rglob('*') if f.stat().st_uid or f.stat().st_mode & 0o22"
        "  and not f.is_symlink()))"
    )
    done = host.run(image, "-c", script, options=("--entrypoint=python", *CLOSED))
    installed, secrets, uncompiled, writable = done.stdout.split("\n")[:4]
    pinned = re.findall(
        r"^([a-z0-9.-]+)==", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE
    )
    assert set(installed.split()) == {*pinned, "ringkeeper"}
    assert (secrets, uncompiled, writable) == ("", "", "")


# --- how it runs ---------------------------------------------------------------------------------


def test_one_container_is_a_whole_installation(embedded: Container, host: Host) -> None:
    """As SuperTokens documents it: the environment says how long a key signs."""
    active = active_of(host)
    due, since = (datetime.fromisoformat(active[name]) for name in ("due_at", "activated_at"))
    assert due - since == timedelta(hours=24)
    assert host.network.get(f"http://{OUTSIDE}:{PORT}/healthz")[0] == 200, "the loopback is its own"
    assert active["kid"] in embedded.done("ringkeeper", "status")
    assert active["kid"] in embedded.done("ringkeeper", "jwks")
    embedded.done("ringkeeper", "check")


@pytest.mark.runs("deploy/compose/README.md", 1)
def test_what_deploy_readme_shows_works(docker: Docker, network: Network, base_image: str) -> None:
    """Word for word, by docker's client, in a checkout that checkout() says more of."""
    text = (ROOT / "deploy/compose/README.md").read_text()
    building, running, *asking = commands(text)[:4]
    folder = checkout(docker.folder / "checkout", base_image)
    docker.does(building, folder)
    docker.does(running)
    ready = f"http://127.0.0.1:{PORT}/readyz"
    eventually(lambda: network.get(ready)[0] == 200, within=40)
    docker.check_health("name=ringkeeper")
    # podman's `docker ps` leaves it out.
    assert docker.does("docker inspect -f '{{.State.Health.Status}}' ringkeeper") == "healthy"
    looking, rotating = asking
    (kid,) = re.findall(r"^signs +(\S+)$", docker.does(looking), re.MULTILINE)
    assert docker.does(rotating)
    pages = "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    looks = {line for line in commands(pages) if line.startswith("docker ")}
    assert looks == {"docker logs ringkeeper 2>&1 | grep 'ring troubled'"}
    for line in looks:
        shown, _, sought = line.partition(" | ")
        assert "ring made" in docker.does(shown)
        assert sought == "grep 'ring troubled'"

    # And with the configuration as it ships, mounted as the page says.
    docker.does("docker stop ringkeeper && docker rename ringkeeper former")
    (mounting,) = re.findall(r'`(-v "\$PWD/config.yaml:\S+")`', text)
    tag = building.split()[-2]
    docker.does(running.replace(f" {tag}", f" {mounting} {tag}"), folder)
    eventually(lambda: network.get(ready)[0] == 200, within=40)
    assert kid in docker.does(looking), "the ring is that of before"


def test_it_may_do_nothing_on_its_host(embedded: Container) -> None:
    told = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{embedded.pid}/status").read_text().splitlines()
    )
    assert set(told["Uid"].split()) == {str(USER)}
    assert set(told["Gid"].split()) == {str(USER)}
    assert {int(told[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd", "Amb")} == {0}
    assert told["NoNewPrivs"] == "1"
    assert told["NSpid"].split()[-1] == "1", "it is the first process, under no shell"


def test_it_writes_where_its_state_belongs_and_nowhere_else(image: str, host: Host) -> None:
    volume = f"--volume={host.volume('state')}:{STATE}"
    container = host.start(image, options=(volume, "--cap-drop=ALL"), **EMBEDDED)
    wait_until_ready(host, container)
    container.done("ringkeeper", "status")
    code, _ = container.stop()
    assert code == 0
    # What the runtime itself puts there for every container does not count.
    theirs = {
        "/etc",
        "/etc/group",
        "/etc/mtab",
        "/etc/passwd",
        "/run",
        "/run/secrets",
        "/var",
        "/var/lib",
    }
    changed = {line[2:] for line in podman("diff", container.id).stdout.splitlines()}
    assert changed <= theirs
    written = host.folder("state")
    assert written.stat().st_mode & 0o777 == 0o700
    assert {"root.jwk", "kek.jwk", "root.pub.jwk"} <= {f.name for f in (written / "var").iterdir()}
    assert {f.stat().st_uid for f in written.rglob("*")} == {USER}


def test_sigterm_ends_it_at_once(embedded: Container) -> None:
    code, took = embedded.stop()
    assert code == 0, embedded.log
    assert took < 2
    print(f"\nSIGTERM as PID 1: {took:.2f} s")


def test_it_goes_on_with_the_ring_that_its_volume_holds(
    embedded: Container, image: str, host: Host
) -> None:
    before = active_of(host)["kid"]
    embedded.stop()
    volume = f"--volume={host.volume('state')}:{STATE}"
    again = host.start(image, options=(*CLOSED, volume), **EMBEDDED)
    wait_until_ready(host, again)
    assert active_of(host)["kid"] == before


def test_the_health_check_tells_a_daemon_that_hangs(embedded: Container) -> None:
    def health() -> int:
        return podman("healthcheck", "run", embedded.id, check=False).returncode

    assert health() == 0
    embedded.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert health() == 1
        assert time.monotonic() - began < 5
    finally:
        embedded.signal(signal.SIGCONT)
    assert eventually(lambda: health() == 0)


def test_keys_turn(image: str, host: Host) -> None:
    container = host.start(image, **EMBEDDED, **QUICK)
    wait_until_ready(host, container)
    first = active_of(host)["kid"]
    eventually(lambda: active_of(host)["kid"] != first, within=40)
    known = json.loads(host.network.get(f"http://127.0.0.1:{PORT}/.well-known/jwks.json")[1])
    assert first in {key["kid"] for key in known["keys"]}


@pytest.fixture(scope="session")
def image_without_a_shell(base_image: str, image: str, tmp_path_factory: Any) -> str:
    """The image on a base from which every shell was taken away."""
    folder = tmp_path_factory.mktemp("shell-less")
    shells = ["sh", "dash", "bash", "rbash", "perl", "env"]
    removed = json.dumps(["rm", "-f", *(f"/usr/bin/{name}" for name in shells), "/usr/bin/rm"])
    (folder / "Dockerfile").write_text(f"FROM {base_image}\nRUN {removed}\n")
    base = f"{IMAGE}-base-without-a-shell"
    podman("build", "--quiet", "--network=none", "--pull=never", f"--tag={base}", str(folder))
    return build(f"{IMAGE}-without-a-shell", base_image, RUNTIME_IMAGE=base)


def test_it_needs_no_shell(image_without_a_shell: str, host: Host) -> None:
    shell = host.run(image_without_a_shell, options=("--entrypoint=/bin/sh", *CLOSED))
    assert shell.returncode == 127, "there is none"
    container = host.start(image_without_a_shell, **EMBEDDED, **QUICK)
    wait_until_ready(host, container)
    first = active_of(host)["kid"]
    assert podman("healthcheck", "run", container.id, check=False).returncode == 0
    container.done("ringkeeper", "doctor")
    eventually(lambda: active_of(host)["kid"] != first, within=40)
    assert container.stop()[0] == 0


# --- with a Redis, and secrets as files ----------------------------------------------------------


@pytest.fixture
def redis_url(host: Host, redis_image: str) -> str:
    port = free_port()
    options = ("--entrypoint=redis-server", "--user=nobody", "--tmpfs=/data", *CLOSED)
    told = ("--port", str(port), "--appendonly", "yes", "--dir", "/data")
    host.start(redis_image, *told, "--maxmemory-policy", "noeviction", options=options)
    return f"redis://127.0.0.1:{port}/0"


def test_secrets_that_are_files_and_an_init_that_is_run_again(
    image: str, host: Host, redis_url: str
) -> None:
    writable = (*CLOSED, f"--volume={host.volume('secrets')}:{SECRETS}")
    mounted = (*CLOSED, f"--volume={host.volume('secrets')}:{SECRETS}:ro")
    told = {"RINGKEEPER_REDIS__URL": redis_url}
    made = host.run(image, "init", "--secrets-only", "--directory", SECRETS, options=writable)
    assert made.returncode == 0, made.stderr
    first = eventually(lambda: _done(host.run(image, "init", options=mounted, **told)))
    assert "made ring access-token" in first
    again = _done(host.run(image, "init", "--if-missing", options=mounted, **told))
    assert "ring access-token exists" in again
    container = host.start(image, options=mounted, **told)
    wait_until_ready(host, container)
    kid = active_of(host)["kid"]
    shown = host.run(image, "status", options=mounted, **told)
    assert kid in _done(shown)

    folder = host.folder("secrets")
    private = [
        json.loads((folder / name).read_text())[part]
        for name, part in (("root.jwk", "d"), ("kek.jwk", "k"))
    ]
    places = [
        podman("history", "--no-trunc", image).stdout,
        podman("image", "inspect", image).stdout,
        podman("inspect", container.id).stdout,
        container.log,
        made.stdout + first + again,
    ]
    assert all(len(place) > 20 for place in places)
    assert not [secret for secret in private for place in places if secret in place]


def _done(done: Any) -> str:
    """What it said, once it could be done."""
    return str(done.stdout) if done.returncode == 0 else ""


# --- what cannot be ------------------------------------------------------------------------------


def refused(host: Host, image: str, *options: str, **environment: str) -> str:
    """The one line that a start says which cannot work."""
    done = host.run(image, options=(*CLOSED, *options), **environment)
    assert done.returncode in (1, 2), done.stdout
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    return str(line)


def test_a_start_that_cannot_work_says_why_in_one_line(
    image: str, host: Host, tmp_path: Path
) -> None:
    assert "name one with --config" in refused(host, image)
    config = tmp_path / "config.yaml"
    config.write_text("redis: {url: 'redis://127.0.0.1:1'}")
    config.chmod(0o600)  # root's, and it runs as another
    mounted = f"--volume={config}:{SECRETS}/config.yaml:ro"
    assert "cannot be read (permission denied)" in refused(host, image, mounted)
    config.chmod(0o644)
    assert "there is no public trust root here" in refused(host, image, mounted)
    read_only = f"--volume={host.volume('other')}:{STATE}:ro"
    assert "read-only file system" in refused(host, image, read_only, **EMBEDDED)
