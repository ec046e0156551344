"""Many rings and several daemons: each leads its share, and who survives leads them all."""

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.layout import Layout
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create
from tests.plugins.candidates import TTL as TTL_OF_CANDIDATES
from tests.plugins.candidates import Candidate, until
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

RINGS = 30
NAMES = ["access-token", *(f"tenant-{number:02}" for number in range(1, RINGS))]
TTL = 4.0
MANY: dict[str, Any] = {"keyrings": dict.fromkeys(NAMES[1:]), "lease_ttl": f"{TTL:g}s"}


def led(daemon: Daemon) -> set[str]:
    """The rings that it leads."""
    lines = daemon.get("/metrics")[2].decode().splitlines()
    heads = (
        line for line in lines if line.startswith("ringkeeper_leader{") and line.endswith("1.0")
    )
    return {head.split('"')[1] for head in heads}


def epochs(server: Server) -> dict[str, int]:
    with server.client() as client:
        return {name: int(client.get(Layout(name).epoch) or 0) for name in NAMES}


def given_up(daemons: list[Daemon]) -> tuple[Counter[str], Counter[str]]:
    """How often the lease of each ring was handed over, and how often it was lost."""
    told = [each for daemon in daemons for each in daemon.events("not leading any more")]
    handed = Counter(each["ring"] for each in told if each["why"].startswith("handed over"))
    return handed, Counter(each["ring"] for each in told) - handed


@pytest.mark.parametrize("count", [2, 3])
def test_each_leads_its_share_and_who_survives_leads_all(
    site: Site, valkey: Server, count: int
) -> None:
    first = site.daemon(init=True, **MANY)
    eventually(lambda: len(led(first)) == RINGS, within=30)
    began = epochs(valkey)
    daemons = [first, *(site.daemon(**MANY) for _ in range(count - 1))]
    share = RINGS // count

    def is_spread() -> bool:
        return [len(led(daemon)) for daemon in daemons] == [share] * count

    eventually(is_spread, within=60)
    after = epochs(valkey)
    handed, lost = given_up(daemons)  # lost by whoever has no time to renew it, on a busy machine
    moved = {name: after[name] - began[name] - 2 * lost[name] for name in NAMES}
    assert max(moved.values()) <= 2, f"to and fro: {moved}"
    assert sum(handed.values()) <= RINGS - share + count + sum(lost.values())
    # What was spread stays so: nobody is dissatisfied with its share.
    settled, until = epochs(valkey), time.monotonic() + 4
    while time.monotonic() < until:
        assert is_spread() or given_up(daemons)[1] != lost
    assert (epochs(valkey), given_up(daemons)[0]) == (settled, handed) or given_up(daemons)[
        1
    ] != lost

    daemons[-1].kill()
    killed = time.monotonic()
    left = daemons[:-1]
    eventually(lambda: sum(len(led(daemon)) for daemon in left) == RINGS, within=15)
    assert time.monotonic() - killed < TTL + 4
    for name, epoch in epochs(valkey).items():
        assert epoch <= settled[name] + 2
    for daemon in left:
        daemon.stop()


def test_one_ring_stays_where_it_is(site: Site, valkey: Server) -> None:
    first = site.daemon(init=True)
    eventually(first.leads)
    other = site.daemon()
    with valkey.client() as client:
        epoch = client.get(Layout("access-token").epoch)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert first.leads()
            assert not other.leads()
        assert client.get(Layout("access-token").epoch) == epoch


def test_who_cannot_open_the_keys_is_left_nothing(site: Site, valkey: Server) -> None:
    """It says that it would lead, and nobody would lead what is left to it."""
    few = {**MANY, "keyrings": dict.fromkeys(NAMES[1:4])}
    first = site.daemon(init=True, **few)
    eventually(lambda: len(led(first)) == 4)
    create(site.folder / "other.jwk", Kek.generate().secret_jwk())
    blind = site.daemon(**few, kek="other.jwk", is_ready=False)

    def that_would_lead(client: Any, name: str) -> int:
        rows = client.hvals(Layout(name).instances)
        return sum('"lead":true' in row for row in rows)

    with valkey.client() as client:
        eventually(lambda: all(that_would_lead(client, name) == 2 for name in NAMES[:4]))
        _, lost = given_up([first])
        until = time.monotonic() + 6
        while time.monotonic() < until:
            assert len(led(first)) == 4 or given_up([first])[1] != lost
    assert not given_up([first])[0]
    assert not led(blind)


async def test_what_is_left_to_others_is_taken_back_if_nobody_takes_it(
    valkey: Server, candidates_of: Any
) -> None:
    led = LedRing(valkey, poll_interval=timedelta(seconds=0.1))
    alone: Candidate = candidates_of(led)("one")
    await until(lambda: alone.told.named("leading"))
    alone.leader.hand_over()
    await until(lambda: alone.told.named("not_leading"))
    went = asyncio.get_running_loop().time()
    assert await alone.store.owner() == ""
    await until(lambda: len(alone.told.all_named("leading")) > 1)
    assert asyncio.get_running_loop().time() - went > TTL_OF_CANDIDATES.total_seconds() / 2 - 0.1
    (first,), (second,) = alone.told.all_named("leading")
    assert second == first + 1


async def test_a_ring_that_turns_soon_stays_where_it_is(valkey: Server, candidates_of: Any) -> None:
    """Who takes it listens for a while before it turns a key."""
    soon = timedelta(seconds=20)
    led = LedRing(valkey, cryptoperiod=soon, access_token_validity=soon, clock_skew=soon / 4)
    one: Candidate = candidates_of(led)("one")
    await until(lambda: one.told.named("leading"))
    one.leader.hand_over()
    with pytest.raises(TimeoutError):
        await until(lambda: one.told.named("not_leading"), within=2)
