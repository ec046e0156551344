"""Daemons' parts in leading one ring on a real server, all in this process."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.follower import Follower
from ringkeeper.presence import Presence
from ringkeeper.tasks import first_of
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Command, Event, Request, open_event, sign_request
from ringkeeperd.leader import Leader
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.minting import mint_aside
from ringkeeperd.rotation import Instance, WaitUntil
from tests.plugins.rings import LedRing

TTL = timedelta(seconds=2)


class ShiftedClock(SystemClock):
    """This machine's clock, `by` off."""

    def __init__(self, by: timedelta = timedelta(0)) -> None:
        self.by = by
        self.uptime = timedelta(0)
        """How much later it is by the clock that nobody steps."""

    def now(self) -> datetime:
        return super().now() + self.by

    def timestamp(self) -> float:
        return self.now().timestamp()

    def monotonic(self) -> float:
        return super().monotonic() + self.uptime.total_seconds()


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.whole: list[tuple[str, tuple[Any, ...]]] = []
        self.instances: tuple[Instance, ...] = ()
        """Who was live when the leader last had to wait."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self._note(name, given)

    def _note(self, name: str, given: tuple[Any, ...]) -> None:
        self.calls.append((name, given[0] if given else None))
        self.whole.append((name, given))

    def named(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]

    def all_named(self, name: str) -> list[tuple[Any, ...]]:
        """The same, with all that was given each time."""
        return [given for called, given in self.whole if called == name]

    def waiting(self, wait: WaitUntil, instances: tuple[Instance, ...]) -> None:
        self.calls.append(("waiting", wait))
        self.instances = instances


def _silent(event: str, /, **fields: object) -> None:
    """Nobody listens."""


class Candidate:
    """One daemon's part in leading, with a clock of its own."""

    def __init__(
        self, led: LedRing, url: str, name: str, clock: SystemClock, root: TrustRoot | None
    ) -> None:
        self.told = Told()
        self.store = RedisLeaderStore.connect(url, led.name, clock, password=None)
        self.follower = Follower(
            name=led.name,
            roots=root.public.joined(led.root.public) if root else led.root.public,
            store=self.store,
            clock=clock,
            random=random.Random(),
            presence=Presence(id=name, role="daemon"),
            kek=led.kek,
            notice=_silent,
        )
        terms = iter(range(1000))
        self.leader = Leader(
            policy=led.policy,
            store=self.store,
            follower=self.follower,
            root=root or led.root,
            kek=led.kek,
            clock=clock,
            owner=lambda: f"{name}/{next(terms)}",
            mint=mint_aside,
            lease_ttl=TTL,
            observer=self.told,
            counts=self.store,
        )
        self.task = asyncio.ensure_future(first_of(self.follower.run(), self.leader.run()))

    @property
    def version(self) -> int:
        """The ring's, as this one knows it."""
        return self.follower.replica.loaded().ring.version

    async def close(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self.store.close()


@pytest.fixture
async def candidates_of() -> AsyncIterator[Any]:
    """Candidates for any ring, `candidates_of(led)(name)`."""
    made: list[Candidate] = []

    def of(led: LedRing) -> Any:
        def candidate(
            name: str, clock: SystemClock | None = None, root: TrustRoot | None = None
        ) -> Candidate:
            made.append(Candidate(led, led.server.url, name, clock or SystemClock(), root))
            return made[-1]

        return candidate

    yield of
    for each in made:
        await each.close()


@pytest.fixture
def candidates(led: LedRing, candidates_of: Any) -> Any:
    return candidates_of(led)


async def until(is_so: Any, within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not is_so():
            await asyncio.sleep(0.02)


def request(led: LedRing, command: Command, **changes: Any) -> str:
    """What an operator asks for now, about the ring as `led` knows it; signed."""
    now = SystemClock().now()
    given: dict[str, Any] = {
        "id": "asked",
        "ring_id": led.ring.id,
        "name": led.name,
        "version": led.ring.version,
        "command": command,
        "kid": "",
        "reason": "",
        "by": "alice",
        "at": now,
        "until": now + timedelta(seconds=10),
        **changes,
    }
    return sign_request(Request(**given), led.root)


def told_in_audit(led: LedRing) -> list[Event]:
    with led.server.client() as client:
        entries: Any = client.xrange(led.layout.events)
    return [open_event(fields["event"], led.root.public) for _, fields in entries]
