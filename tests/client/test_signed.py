"""Tokens are counted at no cost, by when they expire, and told once."""

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import MalformedToken
from ringkeeper.layout import STRETCH, Layout
from ringkeeper.meter import Meter
from ringkeeper.refreshes import RefreshCounts, RefreshTeller
from ringkeeper.secret import Secret
from ringkeeper.secret_files import create
from ringkeeper.signed import NUMBERS_MOST, SHARE, Signed, SignedCounts, hashes, step_of
from ringkeeper.store import RedisStore
from ringkeeper.tokens import kid_in
from ringkeeper.topology import connection_for
from tests.client.test_refreshes import Clock, Told
from tests.plugins.daemons import eventually
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

DAY = 86_400
THERE = 1_800_000_000
"""Redis' time."""


def told_in(server: Server) -> Counter[str]:
    """Kid to how many tokens were counted, over all hashes that there are."""
    total: Counter[str] = Counter()
    with server.client() as client:
        for key in client.keys(Layout("access-token").key("signed:*")):
            for field, count in client.hgetall(key).items():
                total[field.partition(":")[2]] += int(count)
    return total


@pytest.mark.parametrize(
    ("lifetime", "step"),
    [
        (1, 1),
        (299, 1),
        (300, 10),
        (3600, 60),
        (DAY, 600),
        (30 * DAY, 21_600),
        (3660 * DAY, 604_800),
    ],
)
def test_a_step_is_a_few_per_cent_of_a_tokens_life(lifetime: float, step: int) -> None:
    assert step_of(lifetime) == step
    assert step == 1 or step <= lifetime / SHARE


@pytest.mark.parametrize("lifetime", [0.5, 1, 4, 300, 3600, 3601.5, DAY, 30 * DAY, 3660 * DAY])
def test_an_expiry_is_rounded_up_by_no_more_than_a_step_and_is_where_readers_look(
    lifetime: float,
) -> None:
    counts = SignedCounts()
    counts.record("d-1", lifetime, 1000.0)
    counts.gather(1000.2)
    assert counts.is_due(1000.2, is_last=True) or lifetime < 1
    for step, expires, kid, tokens in counts.hand_over(1000.2, THERE):
        assert (kid, tokens, step) == ("d-1", 1, step_of(lifetime))
        assert expires % step == 0
        assert -1 - step / 4 <= expires - (THERE + int(lifetime)) <= step
        layout = Layout("r")
        looked_at = {layout.signed(*each) for each in hashes(THERE, lifetime)}
        assert layout.signed(step, expires) in looked_at


def test_readers_look_at_few_hashes_whatever_the_lifetimes() -> None:
    assert len(list(hashes(THERE, 3600))) <= 16
    assert len(list(hashes(THERE, 30 * DAY))) <= 31
    assert len(list(hashes(THERE, 3660 * DAY))) <= 60
    assert len(set(hashes(THERE, 3660 * DAY))) == len(list(hashes(THERE, 3660 * DAY)))
    for step, first in hashes(THERE, 30 * DAY):
        assert first % (step * STRETCH) == 0


def test_tokens_that_expire_together_are_one_number() -> None:
    counts = SignedCounts()
    for second in range(30):
        for _ in range(10):
            counts.record("d-1", 3600, 1000.0 + second)
    counts.record("d-2", 3600, 1000.0)
    counts.gather(1030.0)
    assert counts.is_due(1030.0)
    told = counts.hand_over(1030.0, THERE)
    assert sum(each.tokens for each in told if each.kid == "d-1") == 300
    assert len(told) <= 3
    assert not counts.is_due(1060.0), "told once"


def test_what_lives_for_hours_is_told_less_often_but_at_last() -> None:
    counts = SignedCounts()
    for lifetime, pause in ((3600, 30.0), (600, 5.0), (60, 0.5)):
        counts.record("d-1", lifetime, 1000.0)
        counts.gather(1000.0)
        assert counts.is_due(1000.0)
        counts.hand_over(1000.0, THERE)
        counts.record("d-1", lifetime, 1000.0)
        counts.gather(1000.0)
        assert not counts.is_due(1000.0 + pause - 0.1)
        assert counts.is_due(1000.0, is_last=True)
        assert counts.is_due(1000.0 + pause)
        counts.hand_over(0.0, THERE)


def test_no_lifetimes_make_it_grow_without_end() -> None:
    counts = SignedCounts()
    for number in range(NUMBERS_MOST + 100):
        counts.record(f"d-{number}", 3600, 1000.0)
    counts.record("d-1", 3600, 1000.0)
    assert len(counts._counts) == NUMBERS_MOST
    counts.gather(1000.0)
    for number in range(NUMBERS_MOST):
        counts.record(f"d-{number}", 1000 * DAY, 1000.0)
    counts.gather(1000.0)
    assert len(counts._pending) == NUMBERS_MOST
    assert counts._pending.total() == NUMBERS_MOST + 1


def test_no_signature_is_lost_between_threads() -> None:
    counts, told = SignedCounts(), 0

    def count() -> None:
        for _ in range(5000):
            counts.record("d-1", 3600, 1000.0)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counts.gather(1000.0)
        told += sum(each.tokens for each in counts.hand_over(1000.0, THERE))
    counts.gather(1000.0)
    assert told + sum(each.tokens for each in counts.hand_over(1000.0, THERE)) == 20_000


def telling() -> tuple[SignedCounts, RefreshTeller, Told]:
    clock, signed = Clock(), SignedCounts()
    told = Told(clock)

    def quiet(_event: str, /, **_: object) -> None:
        """Nobody listens."""

    teller = RefreshTeller(RefreshCounts(), told, clock, random.Random(1), quiet, signed)
    return signed, teller, told


async def test_what_was_signed_while_redis_was_away_is_told_unless_it_has_expired() -> None:
    signed, teller, told = telling()
    told.is_away = True
    began = told.clock.at
    for _ in range(200):
        signed.record("d-1", 60, told.clock.at)
        signed.record("d-1", 3600, told.clock.at)
        await teller.tell()
        told.clock.at += 5
    assert len(signed._pending) < 100
    told.is_away = False
    await teller.tell()
    lived = Counter({60: 0, 1: 0})
    for each in told.signed:
        lived[each.step] += each.tokens
    assert lived == {60: 200, 1: 11}
    first, last = (f(each.expires for each in told.signed if each.step == 60) for f in (min, max))
    assert abs(first - (began + told.ahead + 3600)) <= 60
    assert abs(last - (told.clock.at - 5 + told.ahead + 3600)) <= 60
    told.signed.clear()
    told.clock.at += 60
    await teller.tell()
    assert told.signed == []


async def test_nothing_is_told_twice_where_an_answer_was_lost() -> None:
    signed, teller, told = telling()
    signed.record("d-1", 60, told.clock.at)
    told.loses_answers = True
    await teller.tell()
    told.loses_answers = False
    told.clock.at += 40
    await teller.tell()
    assert [each.tokens for each in told.signed] == [1]


async def test_the_last_ones_are_told_at_the_end() -> None:
    signed, teller, told = telling()
    signed.record("d-1", DAY, told.clock.at)
    await teller.tell()
    signed.record("d-1", DAY, told.clock.at)
    await teller.tell()
    assert len(told.signed) == 1, "it can wait"
    running = asyncio.create_task(teller.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert len(told.signed) == 2


async def test_a_real_redis_adds_up_and_forgets_once_all_has_expired(any_server: Server) -> None:
    client = connection_for(Secret.of(any_server.url), key=Layout("r").keyring, name="test")
    store = RedisStore(client, "r", clock=SystemClock())
    now = await store.seconds()
    expires = (now // 60 + 60) * 60
    await store.count_signed([Signed(60, expires, "d-1", 2), Signed(600, now // 600 * 600, "s", 1)])
    await store.count_signed([Signed(60, expires, "d-1", 3), Signed(60, expires, "d-2", 1)])
    with any_server.client() as raw:
        key = Layout("r").signed(60, expires)
        assert raw.hgetall(key) == {f"{expires}:d-1": "5", f"{expires}:d-2": "1"}
        assert raw.expiretime(key) == (expires // 3600 + 1) * 3600
        assert len(raw.keys("*signed*")) == 2
    await store.close()


@pytest.mark.parametrize("lifetime", [None, timedelta(minutes=2)])
async def test_a_live_ring_has_told_all_that_it_signed_when_it_is_closed(
    led: LedRing, lifetime: timedelta | None
) -> None:
    ring = await asyncio.to_thread(
        Keyring.connect, led.server.url, trust_root=led.root.public, kek=led.kek
    )
    kid = kid_in(ring.sign({"sub": "alice"}, lifetime=lifetime))
    ring.sign({"sub": "bob"})
    other = await ringkeeper.asyncio.Keyring.connect(
        led.server.url, trust_root=led.root.public, kek=led.kek
    )
    await other.sign({"sub": "carol"})
    await other.close()
    await asyncio.to_thread(ring.close)
    assert told_in(led.server) == {kid: 3}


def test_a_forked_child_tells_what_it_signed_alone(led: LedRing, tmp_path: Path) -> None:
    program = """
import json, os, sys
from ringkeeper import Keyring
from ringkeeper.sealing import Kek
from ringkeeper.trust import PinnedRoots
url, root, kek = sys.argv[1:]
ring = Keyring.connect(url, trust_root=PinnedRoots.from_jwk(json.loads(root)), kek=kek)
for _ in range(5):
    ring.sign({})
pid = os.fork()
if not pid:
    ring.sign({})
    ring.close()
    os._exit(0)
os.waitpid(pid, 0)
ring.close()
"""
    root = json.dumps(led.root.public.as_jwk())
    create(tmp_path / "kek.jwk", led.kek.secret_jwk())
    done = subprocess.run(
        [sys.executable, "-c", program, led.server.url, root, tmp_path / "kek.jwk"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert told_in(led.server) == {led.signer.kid: 6}


# --- how much is verified ------------------------------------------------------------------------


def test_a_meter_tells_what_happened_since_it_was_last_asked() -> None:
    meter = Meter()
    assert meter.rate(10.0) == 0.0
    for _ in range(30):
        meter.tick()
    assert meter.rate(10.5) == 0.0, "too soon to know"
    assert meter.rate(13.0) == 10.0
    assert meter.rate(13.5) == 10.0
    assert meter.rate(15.0) == 0.0
    meter.tick()
    assert meter.rate(16.0) == 1.0


def test_a_meter_loses_nothing_between_threads() -> None:
    meter = Meter()
    meter.rate(0.0)
    threads = [
        threading.Thread(target=lambda: [meter.tick() for _ in range(50_000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.rate(2.0) == 100_000


def test_an_instance_tells_how_much_it_verifies_good_or_not(
    make_ring: Callable[..., LedRing], valkey: Server
) -> None:
    led = make_ring(valkey, poll_interval=timedelta(seconds=1))
    with Keyring.connect(valkey.url, trust_root=led.root.public, kek=led.kek) as ring:
        token = ring.sign({})

        def is_told() -> bool:
            for _ in range(10):
                ring.verify(token)
                with pytest.raises(MalformedToken):
                    ring.verify("no token")
            with valkey.client() as client:
                (record,) = client.hvals(led.layout.instances)
            return bool(json.loads(record)["verifies"] > 10)

        eventually(is_told, within=10)
