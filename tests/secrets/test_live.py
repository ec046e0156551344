"""A fleet at work leaves no private number anywhere. Promise 4; `make scan` is the long form."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from ringkeeper.layout import DEFAULT_NAME
from tests.plugins.daemons import eventually
from tests.plugins.servers import Server
from tests.secrets.fleet import RINGS, SECRET_FILES, SERVER, Fleet


@pytest.fixture
def fleet(own_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")  # it tells of every call that took long
    made = Fleet(own_server(*SERVER), period=4)
    yield made
    made.close()


@pytest.mark.long
def test_a_fleet_at_work_leaves_no_private_number_anywhere(fleet: Fleet) -> None:
    fleet.start()
    began = fleet.versions

    def has_turned() -> bool:
        fleet.work()
        time.sleep(0.5)
        return all(version >= began[name] + 3 for name, version in fleet.versions.items())

    eventually(has_turned, within=80)
    fleet.revoke(DEFAULT_NAME)
    fleet.err()
    fleet.bad_requests()
    fleet.save()
    fleet.restart()
    fleet.work()
    assert fleet.rotations >= 0
    fleet.stop()
    assert [str(finding) for finding in fleet.findings()] == []
    assert fleet.unopened() == set()
    # And it was not blind: all sources are there, and every kind of key was known.
    seen = {path.name for path in fleet.folder.rglob("*") if path.is_file()}
    assert {"http", "monitor", "keys", "commands", "rdb-1", "rdb-2", "daemon0.log"} <= seen
    assert {f"cache-{name}.json" for name in RINGS} | {f"app-{name}.log" for name in RINGS} <= seen
    assert len(fleet.vault.kids) >= 6 * len(RINGS)
    names = {number.name for number in fleet.scanner.numbers.values()}
    assert names == {"d", "p", "q", "dp", "dq", "qi", "k"}
    aof = b"".join(p.read_bytes() for p in fleet.server.directory.rglob("*.aof"))
    assert b"publish" in aof.lower() or b"sealed" in aof
    told = (fleet.folder / f"app-{DEFAULT_NAME}.log").read_text()
    assert "Traceback" in told and "held = " in told


def test_the_search_finds_what_lies_in_any_of_these_places(fleet: Fleet) -> None:
    """One number, planted in each place in turn; the secret files themselves do not count."""
    secret = json.loads((fleet.folder / "root.jwk").read_text())["d"]
    with fleet.server.client() as client:
        client.set("a key", secret)
        client.config_set("save", "")
    eventually(lambda: b"a key" in (fleet.folder / "seen" / "monitor").read_bytes())
    fleet.keep("http", f"/healthz 200 {secret}".encode())
    (fleet.folder / "daemon0.log").write_text(json.dumps({"event": "leading", "error": secret}))
    (fleet.folder / "state0").mkdir()
    (fleet.folder / "state0" / "state-access-token.json").write_text(secret)
    fleet.save()
    places = {finding.source for finding in fleet.findings()}
    assert places >= {
        "monitor", "http", "keys", "rdb-1", "dump.rdb", "daemon0.log", "state-access-token.json",
        "appendonly.aof.1.incr.aof",
    }  # fmt: skip
    assert not places & {*SECRET_FILES}
