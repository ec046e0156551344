"""Refreshes are counted at no cost, and told once, in the hour that they belong to."""

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import ExpiredToken, RedisUnavailable, RefreshReason, RevokedKid
from ringkeeper.layout import Layout
from ringkeeper.refreshes import KEPT, MOST, RefreshCounts, RefreshTeller
from ringkeeper.secret import Secret
from ringkeeper.signed import Signed, SignedCounts
from ringkeeper.store import RedisStore
from ringkeeper.topology import connection_for
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server


class Clock(SystemClock):
    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Told:
    """Redis, as far as counts are concerned; its clock is its own."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.counted: dict[int, dict[str, int]] = {}
        self.signed: list[Signed] = []
        self.is_away = False
        self.loses_answers = False
        self.ahead = 1_800_000_000 - 1000

    async def seconds(self) -> int:
        if self.is_away:
            raise RedisUnavailable("away")
        return int(self.clock.at) + self.ahead

    async def count_refreshes(self, counted: Mapping[int, Mapping[str, int]]) -> None:
        for bucket, counts in counted.items():
            there = self.counted.setdefault(bucket, {})
            for reason, count in counts.items():
                there[reason] = there.get(reason, 0) + count
        if self.loses_answers:
            raise RedisUnavailable("no answer")

    async def count_signed(self, signed: Iterable[Signed]) -> None:
        self.signed += signed
        if self.loses_answers:
            raise RedisUnavailable("no answer")


def telling() -> tuple[RefreshCounts, RefreshTeller, Told, list[str]]:
    clock, counts, notices = Clock(), RefreshCounts(), list[str]()
    told = Told(clock)

    def notice(event: str, /, **_: object) -> None:
        notices.append(event)

    return counts, RefreshTeller(counts, told, clock, random.Random(1), notice), told, notices


@pytest.mark.parametrize(
    ("reason", "count", "counted"),
    [
        ("expired", 1, {"expired": 1}),
        (RefreshReason.UNKNOWN_KID, 3, {"unknown_kid": 3}),
        (RevokedKid.reason, 1, {"revoked_kid": 1}),
        ("because", 1, {"other": 1}),
        ("", MOST, {"other": MOST}),
        ("expired", 0, {}),
        ("expired", -1, {}),
        ("expired", MOST + 1, {}),
        ("expired", float("nan"), {}),
        ("expired", "many", {}),
        ("expired", 1.5, {"expired": 1}),
        ("expired", float("inf"), {}),
        (["expired"], 1, {}),
        (None, 1, {"other": 1}),
    ],
)
def test_whatever_is_recorded_fails_no_request(
    reason: Any, count: Any, counted: dict[str, int]
) -> None:
    counts = RefreshCounts()
    counts.record(reason, count)
    assert counts.take() == counted
    assert counts.take() == {}


def test_no_count_is_lost_between_threads() -> None:
    counts, taken = RefreshCounts(), 0

    def count() -> None:
        for _ in range(5000):
            counts.record("expired")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += counts.take().get("expired", 0)
    assert taken + counts.take().get("expired", 0) == 20_000


async def test_what_was_counted_while_redis_was_away_is_told_where_it_belongs() -> None:
    counts, teller, told, notices = telling()
    told.is_away = True
    for _ in range(KEPT // 5 + 100):
        counts.record("expired")
        await teller.tell()
        told.clock.at += 5
    assert notices == ["counting refreshes is troubled"], "once, however long"
    told.is_away = False
    await teller.tell()
    newest = (int(told.clock.at) + told.ahead) // 10
    assert max(told.counted) <= newest
    assert min(told.counted) >= newest - KEPT // 10
    assert {sum(each.values()) for each in told.counted.values()} <= {1, 2}
    assert sum(each["expired"] for each in told.counted.values()) == KEPT // 5 - 1
    before = dict(told.counted)
    await teller.tell()
    assert told.counted == before


@pytest.mark.parametrize("is_answer", [False, True])
async def test_tokens_that_wait_to_be_counted_are_no_second_word_on_an_outage(
    is_answer: bool,
) -> None:
    """Whoever follows the ring says that Redis is away; that it refuses counts, nobody else."""
    _, teller, told, notices = telling()
    signed = SignedCounts()
    signed.record("d-1", 60.0, told.clock.at)
    teller._signed = signed

    async def fails() -> int:
        raise RedisUnavailable("redis", is_answer=is_answer)

    told.seconds = fails  # type: ignore[method-assign]
    for _ in range(30):
        told.clock.at += 5
        await teller.tell()
    assert notices == (["counting refreshes is troubled"] if is_answer else [])


async def test_nothing_is_told_twice_where_an_answer_was_lost() -> None:
    counts, teller, told, _ = telling()
    counts.record("expired", 7)
    told.loses_answers = True
    await teller.tell()
    told.loses_answers = False
    await teller.tell()
    assert [each["expired"] for each in told.counted.values()] == [7]


async def test_a_defect_in_telling_ends_nothing() -> None:
    """The ring is followed beside it, and must be, whatever becomes of numbers for a diagram."""
    counts, teller, told, notices = telling()

    async def fails() -> int:
        raise ZeroDivisionError

    seconds, told.seconds = told.seconds, fails  # type: ignore[method-assign]
    counts.record("expired", 5)
    await teller.tell()
    assert notices == ["counting refreshes is troubled"]
    told.seconds = seconds  # type: ignore[method-assign]
    await teller.tell()
    assert list(told.counted.values()) == [{"expired": 5}]


async def test_the_last_ones_are_told_at_the_end() -> None:
    counts, teller, told, _ = telling()
    running = asyncio.create_task(teller.run())
    await asyncio.sleep(0)
    counts.record("revoked_kid", 2)
    running.cancel()
    await asyncio.wait([running])
    assert list(told.counted.values()) == [{"revoked_kid": 2}]


async def test_a_real_redis_adds_up_and_forgets(any_server: Server) -> None:
    client = connection_for(Secret.of(any_server.url), key=Layout("r").keyring, name="test")
    store = RedisStore(client, "r", clock=SystemClock())
    now = await store.seconds()
    bucket = now // 10
    await store.count_refreshes({bucket: {"expired": 2}, bucket - 60: {"other": 1}})
    await store.count_refreshes({bucket: {"expired": 3, "manual": 1}})
    with any_server.client() as raw:
        key = Layout("r").refreshes(bucket)
        assert raw.hgetall(key) == {f"{bucket}:expired": "5", f"{bucket}:manual": "1"}
        assert 7000 < raw.ttl(key) <= 7200
        assert raw.hgetall(Layout("r").refreshes(bucket - 60)) == {f"{bucket - 60}:other": "1"}
    await store.close()


def told_in(server: Server) -> dict[str, int]:
    """Reason to count, over all buckets that there are."""
    total: dict[str, int] = {}
    with server.client() as client:
        for key in client.keys(Layout("access-token").key("refreshes:*")):
            for field, count in client.hgetall(key).items():
                reason = field.partition(":")[2]
                total[reason] = total.get(reason, 0) + int(count)
    return total


async def test_a_live_ring_has_told_everything_when_it_is_closed(led: LedRing) -> None:
    ring = await asyncio.to_thread(
        Keyring.connect, led.server.url, trust_root=led.root.public, kek=led.kek
    )
    for error in (ExpiredToken, RevokedKid):
        ring.record_refresh(error.reason)
    other = await ringkeeper.asyncio.Keyring.connect(led.server.url, trust_root=led.root.public)
    other.record_refresh("expired", 3)
    await other.close()
    assert told_in(led.server) == {"expired": 3}
    await asyncio.to_thread(ring.close)
    assert told_in(led.server) == {"expired": 4, "revoked_kid": 1}
    ring.record_refresh("expired")  # too late, and nobody's request fails for that


@pytest.mark.parametrize("use", ["ring.version", "pass"])
def test_a_forked_child_tells_its_own_counts_alone(led: LedRing, use: str) -> None:
    """Also one that does nothing else: a worker with no more than the middleware."""
    program = """
import json, os, sys
from ringkeeper import Keyring
from ringkeeper.trust import PinnedRoots
ring = Keyring.connect(sys.argv[1], trust_root=PinnedRoots.from_jwk(json.loads(sys.argv[2])))
ring.record_refresh("expired", 5)
pid = os.fork()
if not pid:
    ring.record_refresh("manual", 2)
    exec(sys.argv[3])
    ring.close()
    os._exit(0)
os.waitpid(pid, 0)
ring.close()
"""
    root = json.dumps(led.root.public.as_jwk())
    done = subprocess.run(
        [sys.executable, "-c", program, led.server.url, root, use],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert told_in(led.server) == {"expired": 5, "manual": 2}
