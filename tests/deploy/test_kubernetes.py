"""deploy/k8s, checked against the newest schema and played as pods by podman (tests/deploy/pods.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from ringkeeper.sealing import Kek
from ringkeeper.trust import PinnedRoots, TrustRoot
from ringkeeperd.cli import main
from tests.deploy.images import podman
from tests.deploy.manifests import containers_of, rendered
from tests.deploy.pods import Cluster, Pod
from tests.docs.test_kubernetes import BASE, EXAMPLE, named, of_any_app, pod_of
from tests.plugins.daemons import eventually
from tests.plugins.servers import REDIS7

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]
__all__ = ["of_any_app"]

FAST = {
    "access_token_dynamic_signing_key_update_interval": 1,
    "publication_interval": "2s",
    "jwks_max_age": "1s",
    "poll_interval": "1s",
    "clock_skew": "5s",
    "lease_ttl": "2s",
}
"""A ring that nobody has to wait for; the cryptoperiod is an hour."""


# --- the schema ----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
def test_every_document_is_what_the_newest_kubernetes_knows(folder: Path) -> None:
    import kubernetes_validate

    newest = kubernetes_validate.latest_version()
    assert newest == "1.37.0", "a newer schema: see that it was read, and name it here"
    for document in rendered(folder):
        kubernetes_validate.validate(document, newest, strict=True)


@pytest.mark.parametrize(
    ("component", "versions"),
    [("sidecar", ["1.29", "1.37.0"]), ("sidecar-classic", ["1.25", "1.28", "1.37.0"])],
)
def test_sidecars_are_what_their_versions_know(
    component: str, versions: list[str], of_any_app: Callable[[str], list[dict[str, Any]]]
) -> None:
    import kubernetes_validate

    for document in of_any_app(component):
        if document["kind"] == "Deployment":
            for version in versions:
                kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_finds_a_misspelt_key() -> None:
    import kubernetes_validate

    (deployment,) = (d for d in rendered(BASE) if d["kind"] == "Deployment")
    broken = json.loads(json.dumps(deployment).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


# --- played --------------------------------------------------------------------------------------


def fast(cluster: Cluster, name: str, **more: Any) -> str:
    """The rendered configuration of that name, in a hurry, with this cluster's Redis."""
    document = yaml.safe_load(cluster.file("ConfigMap", name, "config.yaml"))
    url = f"redis://{cluster.redis.address}:6379/0"
    return yaml.safe_dump({**document, **FAST, "redis": {"url": url}, **more})


@pytest.fixture(scope="module")
def make_cluster(
    image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Cluster]]:
    """Makes clusters with a Redis and the secrets, and no pod yet."""
    made: list[Cluster] = []
    if not REDIS7.exists():
        pytest.skip("redis-server is not installed: run tests/provision deploy")

    def make() -> Cluster:
        folder = tmp_path_factory.mktemp("cluster")
        folder.chmod(0o755)
        cluster = Cluster(rendered(EXAMPLE), image, folder)
        made.append(cluster)
        for name in ("ringkeeper", "ringkeeper-sidecar"):
            cluster.put("ConfigMap", name, config_yaml=fast(cluster, name))
        with pytest.raises(SystemExit, match="0"):
            main(["init", "--secrets-only", "--directory", str(folder / "secrets")])
        cluster.put("ConfigMap", "ringkeeper-root", root_pub_jwk=secret(folder, "root.pub.jwk"))
        cluster.put(
            "Secret", "ringkeeper-secrets",
            root_jwk=secret(folder, "root.jwk"), kek_jwk=secret(folder, "kek.jwk"),
        )  # fmt: skip
        return cluster

    yield make
    for cluster in made:
        cluster.close()


def secret(folder: Path, name: str) -> str:
    return (folder / "secrets" / name).read_text()


def found(cluster: Cluster) -> None:
    """Let the Job run, to its end."""
    job = cluster.play("Job", "ringkeeper-init")
    assert job.ended("init") == 0, job.log("init")


@pytest.fixture(scope="module")
def played(make_cluster: Callable[[], Cluster]) -> tuple[Cluster, Pod, Pod]:
    """A cluster with a founded ring, a daemon that leads, and an app with its sidecar."""
    cluster = make_cluster()
    found(cluster)
    leader = cluster.play("Deployment", "ringkeeper")
    app = cluster.play("Deployment", "app")
    eventually(lambda: leads(leader))
    eventually(lambda: app.get("/readyz")[0] == 200)
    return cluster, leader, app


def leads(pod: Pod) -> bool:
    return 'ringkeeper_leader{ring="access-token"} 1.0' in pod.get("/metrics")[1]


def sign(leader: Pod, name: str = "alice") -> str:
    """A token by the key that signs now."""
    return leader.done(
        "ringkeeper", "ringkeeper", "token", "sign", "--claims", json.dumps({"sub": name})
    )


def greeted(app: Pod, token: str) -> bool:
    """Whether the app knows whose token it is."""
    return app.get("/", port=8080, token=token) == (200, "hello alice")


def rotate(leader: Pod) -> None:
    """Another key signs."""
    before = leader.done("ringkeeper", "ringkeeper", "jwks")
    leader.done("ringkeeper", "ringkeeper", "rotate", "--answer-within", "30")
    eventually(lambda: leader.done("ringkeeper", "ringkeeper", "jwks") != before, within=30)


class Watch:
    """Looks at the sidecar's file and asks the app, all the time, until the end."""

    def __init__(self, app: Pod, token: str) -> None:
        self.app, self.token = app, token
        self.looks = 0
        self.amiss: list[str] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        path = self.app.folder / "ringkeeper-files/jwks.json"
        while not self._end.is_set():
            try:
                if len(json.loads(path.read_bytes())["keys"]) < 2:
                    self.amiss.append("a key is missing")
            except (OSError, ValueError) as error:
                self.amiss.append(repr(error))
            if not greeted(self.app, self.token):
                self.amiss.append(str(self.app.get("/", port=8080, token=self.token)))
            self.looks += 1
            time.sleep(0.01)


def test_daemons_wait_for_the_ring_which_the_job_makes_once(
    make_cluster: Callable[[], Cluster],
) -> None:
    cluster = make_cluster()
    daemon = cluster.play("Deployment", "ringkeeper")
    eventually(lambda: daemon.get("/healthz")[0] == 200)
    assert daemon.get("/readyz")[0] == 503
    eventually(lambda: "ringkeeper init" in daemon.get("/readyz")[1])
    found(cluster)
    eventually(lambda: daemon.get("/readyz")[0] == 200, within=20)
    before = daemon.get("/.well-known/jwks.json")
    found(cluster)
    assert daemon.get("/.well-known/jwks.json") == before
    assert daemon.inspected("ringkeeper", ".RestartCount") == "0"


def test_the_app_verifies_across_a_rotation(played: tuple[Cluster, Pod, Pod]) -> None:
    _, leader, app = played
    former = sign(leader)
    eventually(lambda: greeted(app, former))
    assert app.get("/", port=8080)[0] == 401
    with Watch(app, former) as watch:
        rotate(leader)
        fresh = sign(leader)
        eventually(lambda: greeted(app, fresh))
    assert former.split(".")[0] != fresh.split(".")[0], "another kid"
    assert (watch.amiss, watch.looks > 10) == ([], True)


def test_a_killed_sidecar_is_back_and_the_app_has_not_noticed(
    played: tuple[Cluster, Pod, Pod],
) -> None:
    _, leader, app = played
    token = sign(leader)
    eventually(lambda: greeted(app, token))
    apps = app.pid("app")
    with Watch(app, token) as watch:
        for _ in range(5):
            killed = app.pid("ringkeeper")
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: app.pid("ringkeeper") not in (0, killed))  # noqa: B023
        eventually(lambda: app.get("/readyz")[0] == 200)
        rotate(leader)
        fresh = sign(leader)
        eventually(lambda: greeted(app, fresh))
    assert (watch.amiss, watch.looks > 10) == ([], True)
    assert app.pid("app") == apps


def test_the_app_can_only_read_what_the_sidecar_writes(played: tuple[Cluster, Pod, Pod]) -> None:
    _, _, app = played
    tried = app.run("app", "python", "-c", "open('/run/ringkeeper/jwks.json', 'w')")
    assert "Read-only file system" in tried.stderr
    status = app.done("ringkeeper", "python", "-c", "print(open('/proc/1/status').read())")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65532"] * 4
    assert (facts["CapBnd"], facts["NoNewPrivs"], facts["Seccomp"]) == ("0" * 16, "1", "2")


@pytest.mark.parametrize("owner", ["ringkeeper", "app"])
def test_a_daemon_stays_within_what_it_requests(
    owner: str, played: tuple[Cluster, Pod, Pod]
) -> None:
    """Its own memory within the request; the most that it ever had, within two thirds of the limit."""
    cluster, leader, app = played
    pod = leader if owner == "ringkeeper" else app
    process = Path(f"/proc/{pod.pid('ringkeeper')}")
    own = sum(kib(process / "smaps_rollup", f"Private_{kind}") for kind in ("Clean", "Dirty"))
    spec = named(containers_of(pod_of(cluster.documents, "Deployment", owner)))
    requested, bound = (
        1024 * int(spec["resources"][key]["memory"].removesuffix("Mi"))
        for key in ("requests", "limits")
    )
    assert 0 < own <= requested
    assert 0 < kib(process / "status", "VmHWM") <= bound * 2 / 3


def kib(path: Path, key: str) -> int:
    (found,) = re.findall(rf"^{key}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found)


# --- changes without a restart -------------------------------------------------------------------


def test_a_configmap_that_changed_is_taken_up(played: tuple[Cluster, Pod, Pod]) -> None:
    cluster, leader, _ = played
    process = leader.pid("ringkeeper")
    edited = fast(cluster, "ringkeeper", access_token_validity=1234)
    cluster.put("ConfigMap", "ringkeeper", config_yaml=edited)
    eventually(lambda: "configuration reloaded" in leader.log("ringkeeper"))

    def lives_for() -> int:
        claims = leader.done("ringkeeper", "ringkeeper", "token", "verify", sign(leader))
        times: dict[str, int] = json.loads(claims)
        return times["exp"] - times["iat"]

    eventually(lambda: lives_for() == 1234)
    assert leader.pid("ringkeeper") == process


def test_a_bad_configmap_is_told_in_one_line_and_keys_go_on_turning(
    played: tuple[Cluster, Pod, Pod],
) -> None:
    cluster, leader, _ = played
    process = leader.pid("ringkeeper")
    bad = fast(cluster, "ringkeeper", access_token_validity="soon")
    with cluster.meanwhile("ConfigMap", "ringkeeper", config_yaml=bad):
        (told,) = lines_with(leader, "configuration rejected", 1)
        assert "access_token_validity" in told
        turn(cluster, leader)
    eventually(lambda: '"configuration": ""' in leader.get("/healthz")[1])
    assert leader.pid("ringkeeper") == process


def test_an_unreadable_configmap_is_told_in_one_line_and_keys_go_on_turning(
    played: tuple[Cluster, Pod, Pod],
) -> None:
    """As the kubelet writes one where `defaultMode` or `fsGroup` is wrong."""
    cluster, leader, _ = played
    told_before = leader.log("ringkeeper").count('"configuration rejected"')
    process = leader.pid("ringkeeper")
    present = cluster.file("ConfigMap", "ringkeeper", "config.yaml")
    with cluster.meanwhile("ConfigMap", "ringkeeper", config_yaml=present + "# changed\n"):
        (leader.folder / "ringkeeper-config/config.yaml").resolve().chmod(0o400)
        told = lines_with(leader, "configuration rejected", told_before + 1)
        assert "config.yaml: cannot be read (permission denied)" in told[-1]
        turn(cluster, leader)
    eventually(lambda: '"configuration": ""' in leader.get("/healthz")[1])
    assert leader.pid("ringkeeper") == process


def test_a_bad_secret_is_told_in_one_line_and_keys_go_on_turning(
    played: tuple[Cluster, Pod, Pod],
) -> None:
    cluster, leader, _ = played
    process = leader.pid("ringkeeper")
    with cluster.meanwhile("Secret", "ringkeeper-secrets", kek_jwk="not a key"):
        (told,) = lines_with(leader, "secrets rejected", 1)
        assert "kek.jwk" in told
        assert "not a key" not in leader.log("ringkeeper")
        eventually(lambda: "secrets: the files of now" in leader.get("/readyz")[1])
        turn(cluster, leader)
    eventually(lambda: "secrets" not in leader.get("/readyz")[1])
    assert leader.pid("ringkeeper") == process


def test_a_kek_that_was_added_to_the_secret_is_taken_up(played: tuple[Cluster, Pod, Pod]) -> None:
    cluster, leader, _ = played
    process = leader.pid("ringkeeper")
    present = cluster.file("Secret", "ringkeeper-secrets", "kek.jwk")
    fresh = Kek.generate()
    joined = fresh.joined(Kek.from_secret_jwk(json.loads(present)))
    cluster.put("Secret", "ringkeeper-secrets", kek_jwk=json.dumps(joined.secret_jwk()))
    eventually(lambda: fresh.kid in lines_with(leader, "secrets taken up", 1)[-1])
    leader.done("ringkeeper", "ringkeeper", "rewrap", "--answer-within", "30")
    rotate(leader)
    assert leader.pid("ringkeeper") == process


def turn(cluster: Cluster, leader: Pod) -> None:
    """Let keys turn in `leader`, asked by an operator whose own files are good."""
    own = cluster.folder / "config.yaml"
    files = {
        key: str(cluster.folder / f"secrets/{file}")
        for key, file in (("trust_root", "root.jwk"), ("trust_root_public", "root.pub.jwk"))
    }
    own.write_text(fast(cluster, "ringkeeper", access_token_validity=3600, **files))
    before = leader.get("/.well-known/jwks.json")[1]
    with pytest.raises(SystemExit, match="0"):
        main(["rotate", "--config", str(own), "--answer-within", "30"])
    eventually(lambda: leader.get("/.well-known/jwks.json")[1] != before, within=30)


def lines_with(pod: Pod, event: str, count: int) -> list[str]:
    """The log's lines of that event, once there are so many."""

    def find() -> list[str]:
        lines = [line for line in pod.log("ringkeeper").splitlines() if f'"{event}"' in line]
        return lines if len(lines) >= count else []

    found: list[str] = eventually(find, within=20)
    return found


def test_a_public_root_that_was_added_reaches_the_sidecar(played: tuple[Cluster, Pod, Pod]) -> None:
    cluster, _, app = played
    process = app.pid("ringkeeper")
    present = cluster.file("ConfigMap", "ringkeeper-root", "root.pub.jwk")
    fresh = TrustRoot.generate().public
    joined = fresh.joined(PinnedRoots.from_jwk(json.loads(present)))
    files = {"root_pub_jwk": json.dumps(joined.as_jwk())}
    with cluster.meanwhile("ConfigMap", "ringkeeper-root", **files):
        assert fresh.kids[0] in lines_with(app, "secrets taken up", 1)[-1]
    assert app.pid("ringkeeper") == process


# --- without Redis -------------------------------------------------------------------------------


def test_no_probe_fails_when_redis_is_away_for_longer_than_max_staleness(
    make_cluster: Callable[[], Cluster],
) -> None:
    """Else an outage of Redis would take all daemons out of their Service at once."""
    cluster = make_cluster()
    for name in ("ringkeeper", "ringkeeper-sidecar"):
        hasty = fast(
            cluster,
            name,
            access_token_dynamic_signing_key_update_interval=0.02,
            access_token_validity=60,
            max_staleness="15s",
        )
        cluster.put("ConfigMap", name, config_yaml=hasty)
    found(cluster)
    leader, app = (cluster.play("Deployment", name) for name in ("ringkeeper", "app"))
    eventually(lambda: leads(leader))
    token = sign(leader)
    eventually(lambda: greeted(app, token))
    cluster.server.send_signal(signal.SIGSTOP)
    try:
        for pod in (leader, app):
            stale = "its newest proof of freshness is too old to sign by"
            eventually(lambda: stale in pod.get("/readyz")[1], within=40)  # noqa: B023
            asked = [pod.get(path)[0] for path in ("/readyz", "/healthz", "/.well-known/jwks.json")]
            assert asked == [200, 200, 200]
        assert greeted(app, token)
    finally:
        cluster.server.send_signal(signal.SIGCONT)
    restarts = [pod.inspected("ringkeeper", ".RestartCount") for pod in (leader, app)]
    assert restarts == ["0", "0"]


# --- what cannot start ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "status", "why"),
    [
        ("config.yaml", 2, "config.yaml"),
        ("root.jwk", 1, "root.jwk: there is no trust root here"),
        ("kek.jwk", 1, "kek.jwk: there is no KEK here"),
    ],
)
@pytest.mark.parametrize("is_there", [True, False], ids=["unreadable", "missing"])
def test_what_is_missing_at_the_start_is_one_clear_line(
    missing: str, status: int, why: str, is_there: bool, image: str,
    played: tuple[Cluster, Pod, Pod], tmp_path: Path,
) -> None:  # fmt: skip
    _, leader, _ = played
    tmp_path.chmod(0o755)
    mounted = tmp_path / "mounted"
    mounted.mkdir(mode=0o755)
    for file in (leader.folder / "ringkeeper-config/..data").resolve().iterdir():
        (mounted / file.name).write_text(file.read_text())
        (mounted / file.name).chmod(0o440)
        os.chown(mounted / file.name, 0, 65532)
    if is_there:
        (mounted / missing).chmod(0o400)
        why = f"{missing}:" if missing != "config.yaml" else why
    else:
        (mounted / missing).unlink()
    done = podman(
        "run", "--rm", "--no-healthcheck", "--network=none", "--read-only", "--cap-drop=ALL",
        f"--volume={mounted}:/etc/ringkeeper:ro", image, "run",
        "--config", "/etc/ringkeeper/config.yaml", check=False,
    )  # fmt: skip
    (line,) = done.stderr.splitlines() or [done.stdout]
    assert line.startswith("ringkeeper: ")
    assert why in line
    assert ("permission denied" in line.lower()) == is_there
    assert done.returncode == status


def test_a_pod_that_is_told_to_end_hands_over_and_ends(make_cluster: Callable[[], Cluster]) -> None:
    """The preStop needs no shell either, and what it starts is in the image."""
    cluster = make_cluster()
    found(cluster)
    first, second = (cluster.play("Deployment", "ringkeeper") for _ in range(2))
    eventually(lambda: leads(first) or leads(second))
    leading, other = (first, second) if leads(first) else (second, first)
    container = named(pod_of(cluster.documents, "Deployment", "ringkeeper")["containers"])
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    leading.done("ringkeeper", *command)
    leading.stop()
    assert leading.inspected("ringkeeper", ".State.ExitCode") == "0"
    eventually(lambda: leads(other))
