"""The benchmarks run, and clean up; their figures are not judged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from benchmarks import (
    fanout,
    ladder,
    opening,
    rest,
    rings,
    signing,
    stand,
    starting,
    threads,
    traffic,
    verifying,
    waiting,
)
from benchmarks import primitive as primitives
from benchmarks.claims import sized
from benchmarks.peers import JOSERFC
from benchmarks.stand import OURS, RAW, SEEN, Stand

from tests.plugins.servers import VALKEY


def valkeys() -> set[str]:
    """The servers of ours that run now, of all tests."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/exe"):
        try:
            if path.readlink() == Path(VALKEY).resolve():
                found.add(path.parent.name)
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def children() -> set[str]:
    """The processes that this one started and that still run."""
    pids: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        pids |= set((task / "children").read_text().split())
    return pids


@pytest.mark.parametrize("size", [1, 12])
def test_the_fan_out_is_measured_and_leaves_no_process(size: int) -> None:
    before = children()
    found = fanout.measure(size, 2)
    assert found["real"] == 1
    assert set(found["ratio"]) == {fanout.RAW, fanout.REDIS_PY, fanout.OURS}
    assert all(0 < each.low <= each.high for each in found["ms"].values())
    # What multiprocessing itself keeps, for the life of the process, is no server of ours.
    assert not (children() - before) & valkeys()


def test_who_waits_for_a_change_of_the_keys_is_measured() -> None:
    before = children()
    watched = waiting.Waiting(interval=2.0)
    try:
        found = watched.result()
    finally:
        watched.stop()
    for what in ("fresh", "revoked"):
        assert found[what][OURS]["mean_s"] > 0
        # Spread evenly over two seconds, and looked at twice a second.
        assert 1 <= found[what][waiting.POLLER]["mean_s"] < 4
    assert not (children() - before) & valkeys()


def test_commands_of_idle_apps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "APPS", 2)
    before = children()
    found = rest.apps(0.5)
    assert found["commands_a_second_an_instance"] >= 0
    assert len(found["parts"]) == 2
    assert children() == before


def test_imports_are_measured_beside_what_others_import() -> None:
    found = rest.importing(1)
    assert found["import_ratio"] > 0
    assert found["added_mb"][OURS].median > 1
    assert {"PyJWT", "joserfc"} <= set(found["ms"])


def test_starts_are_measured_and_leave_nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("RINGKEEPER_")]:
        monkeypatch.delenv(name)
    before, places = children(), [Path("/etc/ringkeeper"), Path("/var/lib/ringkeeper")]
    there = [place.exists() for place in places]
    found = starting.measure(1)
    assert found["ms"][starting.OURS].median > 0
    assert [place.exists() for place in places] == there
    assert children() == before


def test_tokens_are_measured_beside_the_raw_primitive() -> None:
    before = children()
    with stand.stand("ES256") as on:
        for module, more in ((verifying, {SEEN}), (signing, set[str]())):
            found = module.measure(on, 2, 3)
            assert found["ratio"][RAW] == (1, 1, 1)
            assert {OURS, "joserfc", *more} <= set(found["us"])
        found = traffic.measure(on, 2, sessions=20)
        assert found["fastest_peer"] in on.peers
        assert 0 < found["new_share"] < 0.1
        assert threads.measure(on, 2, 5)["gain"][OURS].median > 0
        rungs = ladder.measure(on, 2, 3)
        assert tuple(rungs) == ladder.RUNGS[1:]
        assert on.ring.token_cache.misses >= 6, "the last one is the whole call"
    assert children() == before


def test_a_loop_stands_still_while_a_private_half_is_taken_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "KEYS", {"RS256": ("RS256", 2048)})
    found = opening.measure(3)["ms"]["RS256"]
    assert all(each.low > 0 for each in found.values())
    assert set(found) == {opening.NOTHING, OURS, opening.HERE, JOSERFC}
    assert found[JOSERFC].low > found[opening.HERE].low, "it looks for factors"


DEPRECATED = pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
"""Joserfc says of EdDSA that RFC 9864 has another name for it."""


@pytest.fixture(scope="module", params=primitives.ALGORITHMS)
def on(request: pytest.FixtureRequest) -> object:
    with stand.stand(request.param) as found:
        yield found


@DEPRECATED
def test_all_verify_the_same_tokens_and_refuse_a_changed_one(on: Stand) -> None:
    token = on.issuer.sign({"sub": "alice"})
    head, body, signature = token.split(".")
    changed = (
        f"{head}.{body}.{signature[:-9]}{'A' if signature[-9] != 'A' else 'B'}{signature[-8:]}"
    )
    all_ = {name: peer.verify for name, peer in on.peers.items()}
    all_ |= {OURS: on.ring.verify, stand.CAREFUL: on.key.careful_verify}
    for verify in all_.values():
        verify(token)
        with pytest.raises(Exception):  # noqa: B017 - each has its own
            verify(changed)
    on.key.public.verify(*on.key.to_verify(token))


@DEPRECATED
def test_all_sign_tokens_of_the_same_size_that_the_ring_takes(on: Stand) -> None:
    claims = sized(385, 7)
    all_ = {name: peer.sign for name, peer in on.peers.items() if peer.sign}
    all_ |= {OURS: on.issuer.sign, stand.CAREFUL: on.key.careful_sign}
    for name, sign in all_.items():
        token: Any = sign(claims)
        told = on.ring.verify(token.decode() if isinstance(token, bytes) else token)
        assert told["sub"] == claims["sub"], name
        assert len(json.dumps(told, separators=(",", ":"))) == 385, name


def test_rings_are_measured_by_the_daemon_that_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "_SETTLES", 0.0)
    before = children()
    assert [rings.once_each(count) >= count for count in (1, 100, 1000)] == [True] * 3
    found = rings.measure(3, 0.5, turns=False)
    assert (found["turns_made"], found["rings_turned"]) == (0, 0)
    assert found["led"] == 3
    assert found["rss_mb"] > 0
    assert "| 3, at rest | 3 |" in rings.as_markdown({"3": {"rest": found}})
    assert children() == before
