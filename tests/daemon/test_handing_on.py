"""Real daemons hand a ring on: apps that read files go on through rotation, kill and outage."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import JWKRegistry, KeySet

from tests.daemon.test_bad_input import failure
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

SWIFT: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 0.005,  # 18 s, so a proof every 1.8 s
    "access_token_validity": 5,
    "max_staleness": "4s",
    "lease_ttl": "2s",
}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that reaches no disk. Ask for it first: who writes there is to end before it goes."""
    folder = Path(tempfile.mkdtemp(prefix="rk-files-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def sidecar(site: Site, memory: Path, **settings: Any) -> Daemon:
    """A daemon that only follows, and keeps the signing key in files."""
    files = {"directory": str(memory / "ring"), "signing_key": True}
    return site.daemon(lead=False, trust_root=None, **{"files": files, **settings})


class App:
    """It knows a folder, and nothing of ringkeeper."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def signer(self) -> str:
        return str(self.read("signing-key.jwk")["kid"])

    def sign(self) -> str:
        key: Any = JWKRegistry.import_key(self.read("signing-key.jwk"))
        header = {"alg": "ES256", "kid": key.kid}
        return jwt.encode(header, {"sub": "alice", "iat": 0, "exp": 4_000_000_000}, key)

    def verifies(self, token: str) -> bool:
        keys = KeySet.import_key_set(self.read("jwks.json"))
        return bool(jwt.decode(token, keys, algorithms=["ES256"]).claims["sub"] == "alice")


def test_an_app_that_reads_files_signs_and_verifies_through_a_rotation_and_a_kill(
    memory: Path, site: Site
) -> None:
    site.daemon(init=True)
    note = memory / "changes"
    script = "import os; print(os.environ['RINGKEEPER_SIGNER'], file=open(os.environ['NOTE'], 'a'))"
    daemon = sidecar(
        site,
        memory,
        on_change={"command": ["env", f"NOTE={note}", sys.executable, "-c", script]},
    )
    app = App(memory / "ring")
    eventually((memory / "ring/signing-key.jwk").exists)
    first, token = app.signer, app.sign()
    assert app.verifies(token)
    site.done("rotate", "--now", "--reason", "a test")
    eventually(lambda: app.signer != first, within=60)
    assert app.signer == site.status()["signer"]
    assert app.verifies(token), "signed before"
    assert app.verifies(app.sign())
    told = eventually(lambda: app.signer in note.read_text().split() and note.read_text().split())
    assert told[0] in (first, "")
    assert daemon.metric("on_change_total", result="success") == len(told)
    assert daemon.metric("file_writes_total", result="failure") == 0
    daemon.kill()
    assert app.verifies(app.sign()), "the daemon was killed: the app goes on"
    before = (memory / "ring/..data").readlink()
    again = daemon.again()
    site.daemons.append(again)
    again.wait_until_ready()
    assert app.verifies(token)
    assert (memory / "ring/..data").readlink() == before, "nothing had changed"
    assert not [line for line in again.log.splitlines() if '"d":' in line or "BEGIN" in line]


def behind(site: Site) -> list[bool]:
    """Of each instance, whether it lacks the newest version; those that do first."""
    seen = site.status()
    return sorted((i["version"] < seen["version"] for i in seen["instances"]), reverse=True)


def test_a_version_is_confirmed_once_the_files_hold_it(memory: Path, site: Site) -> None:
    """Those who read the files must know a key before it signs."""
    site.daemon(init=True)
    (memory / "ring").write_text("in the way")
    daemon = sidecar(site, memory)
    (told,) = eventually(
        lambda: [e for e in daemon.events("ring troubled") if e["doing"] == "handing on"]
    )
    assert "the files for apps cannot be written" in told["error"]
    assert "the files for apps cannot be kept" in daemon.get("/healthz")[2].decode()
    assert eventually(lambda: behind(site) == [True, False])
    assert daemon.metric("file_writes_total", result="failure")
    assert not daemon.metric("redis_errors_total", operation="handing on"), "that is not Redis"
    (memory / "ring").unlink()
    assert eventually(lambda: behind(site) == [False, False], within=20)
    assert App(memory / "ring").signer == site.status()["signer"]
    assert len(daemon.events("ring troubled")) == 1, "told once"


def test_the_key_is_withdrawn_in_an_outage_and_comes_back(
    memory: Path, make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(server.url)
    site.daemon(init=True, **SWIFT)
    daemon = sidecar(site, memory, **SWIFT)
    app = App(memory / "ring")
    eventually((memory / "ring/signing-key.jwk").exists)
    server.pause()
    eventually(lambda: not (memory / "ring/signing-key.jwk").exists(), within=20)
    assert not (memory / "ring/signing-key.pem").exists()
    assert app.read("jwks.json")["keys"], "what was signed still verifies"
    eventually(lambda: daemon.events("signing key withdrawn"))
    server.resume()
    eventually((memory / "ring/signing-key.jwk").exists, within=30)
    assert app.verifies(app.sign())
    assert len(daemon.events("signing key withdrawn")) == 1, "told once"


def test_each_ring_has_its_own_files(memory: Path, site: Site) -> None:
    site.daemon(init=True, keyrings={"refresh": None}, files={"directory": str(memory / "ring")})
    other = memory / "ring/rings/refresh/jwks.json"
    eventually(lambda: other.exists() and (memory / "ring/jwks.json").exists())
    kids = {key["kid"] for key in json.loads(other.read_text())["keys"]}
    assert kids
    assert not kids & {key["kid"] for key in App(memory / "ring").read("jwks.json")["keys"]}
    assert not list(memory.glob("ring/..*/signing-key*"))


def test_the_key_of_a_ring_that_is_not_configured_any_more_is_removed(
    memory: Path, site: Site
) -> None:
    files = {"directory": str(memory / "ring"), "signing_key": True}
    daemon = site.daemon(init=True, keyrings={"refresh": None}, files=files)
    key = memory / "ring/rings/refresh/signing-key.jwk"
    eventually(key.exists)
    daemon.stop()
    site.daemon(files=files)
    assert not key.exists()
    assert not list(memory.glob("ring/rings/*/..*/signing-key*"))
    assert (memory / "ring/signing-key.jwk").exists()


def test_who_was_not_told_by_a_daemon_that_died_is_told_by_the_next(
    memory: Path, site: Site
) -> None:
    mended = memory / "mended"
    script = "import os, sys; sys.exit(not os.path.exists(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(mended)]
    files = {"directory": str(memory / "ring")}
    daemon = site.daemon(init=True, files=files, on_change={"command": command})
    eventually(lambda: daemon.events("on_change failed"))
    daemon.kill()
    mended.touch()
    again = daemon.again()
    site.daemons.append(again)
    eventually(lambda: again.events("on_change done"))


def test_a_command_that_hangs_or_fails_holds_nothing_up(memory: Path, site: Site) -> None:
    script = "import os, sys, time; print('no such proxy'); sys.exit(3)"
    hang = [sys.executable, "-c", "import time; time.sleep(600)"]
    leader = site.daemon(
        init=True,
        files={"directory": str(memory / "a")},
        on_change={"command": hang, "timeout": "300ms", "url": "http://127.0.0.1:9/"},
    )
    other = site.daemon(
        files={"directory": str(memory / "b")},
        on_change={"command": [sys.executable, "-c", script]},
    )
    site.done("rotate", "--now", "--reason", "a test")
    (failed, *_) = eventually(lambda: other.events("on_change failed"))
    assert "exited with 3: no such proxy" in failed["error"]
    actions = {"command", "post"}
    eventually(lambda: {e["action"] for e in leader.events("on_change failed")} == actions)
    assert leader.metric("on_change_total", result="failure")
    assert site.leader().metric("rotations_total", reason="manual") == 1
    assert leader.stop() < 2, "a command that hangs holds up no stop"


def test_a_signing_key_on_a_disk_does_not_start(site: Site) -> None:
    folder = Path(__file__).parent / f"files-{os.getpid()}"
    files = {"directory": str(folder), "signing_key": True}
    site.configure(files=files)
    line = failure(site.daemon(is_ready=False, files=files), 2)
    assert "is not in memory (tmpfs)" in line
    assert "files.signing_key_on_disk: true" in line
    assert "is not in memory (tmpfs)" in site.refused("check")
    assert not folder.exists()


def test_a_group_that_there_is_not_does_not_start(memory: Path, site: Site) -> None:
    files = {"directory": str(memory), "signing_key": True, "group": "no-such-group"}
    site.configure(files=files)
    assert "is no group of this host; make it" in failure(
        site.daemon(is_ready=False, files=files), 2
    )


def test_a_sidecar_without_the_kek_that_it_needs_says_so(memory: Path, site: Site) -> None:
    site.daemon(init=True)
    (site.folder / "kek.jwk").unlink()
    files = {"directory": str(memory / "ring"), "signing_key": True}
    told = failure(site.daemon(is_ready=False, lead=False, trust_root=None, files=files))
    assert "there is no KEK here" in told


def test_a_reload_names_what_of_this_needs_a_restart(memory: Path, site: Site) -> None:
    daemon = site.daemon(init=True, files={"directory": str(memory / "a")})
    document = json.loads(daemon.config.read_text()) | {"files": {"directory": str(memory / "b")}}
    daemon.config.write_text(json.dumps(document))
    daemon.signal(signal.SIGHUP)
    (told,) = eventually(lambda: daemon.events("configuration reloaded"))
    assert told["needs_restart"] == ["files.directory"]
