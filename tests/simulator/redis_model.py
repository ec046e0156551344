"""Redis, as the Lua scripts see it, and a network that loses, delays and doubles.

The semantics are those of lua/*.lua; tests/daemon/test_scripts.py shows the same of real servers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar

from ringkeeper.errors import RedisUnavailable
from ringkeeper.store import Heard, Pong, Published, Released, Stored, Subscribed, Witnessed
from ringkeeper.testimony import Testimony
from ringkeeperd.leader_store import (
    Acquired,
    Edition,
    Entry,
    Fenced,
    HeldByAnother,
    Outcome,
    Stale,
    Written,
)
from ringkeeperd.rotation import Instance
from tests.simulator.loop import VirtualClock

T = TypeVar("T")


@dataclass
class SimRedis:
    """The server's state."""

    clock: VirtualClock
    on_publish: Callable[[Edition], None]
    version: int = 0
    snapshot: str = ""
    proof: str = ""
    epoch: int = 0
    owner: str = ""
    lease_ends: datetime | None = None
    checks_version: bool = True
    sealed: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    requests: dict[str, str] = field(default_factory=dict)
    instances: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    subscribers: list[SimSubscription] = field(default_factory=list)
    witness: str = ""
    serial: int = 0

    def holder(self) -> str:
        if self.lease_ends and self.clock.now() >= self.lease_ends:
            self.owner, self.lease_ends = "", None
        return self.owner

    def acquire(self, owner: str, ttl: timedelta, seen: int) -> Acquired | HeldByAnother:
        now, holder = self.clock.now(), self.holder()
        if holder and holder != owner:
            assert self.lease_ends
            return HeldByAnother(self.lease_ends - now, now)
        if not holder:
            self.epoch = max(self.epoch, seen) + 1
        self.owner, self.lease_ends = owner, now + ttl
        return Acquired(self.epoch, now)

    def renew(self, owner: str, ttl: timedelta) -> datetime | None:
        if self.holder() != owner:
            return None
        self.lease_ends = self.clock.now() + ttl
        return self.clock.now()

    def release(self, owner: str) -> None:
        if self.holder() == owner:
            self.owner, self.lease_ends = "", None
            self.say(Released())

    def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        if self.holder() != owner:
            return Fenced("the lease is not ours any more")
        if self.epoch > edition.epoch:
            return Fenced("another leadership came after ours")
        if self.version == edition.version and self.snapshot == edition.snapshot:
            return Written()
        if str(self.version) != expected and self.checks_version:
            return Stale(str(self.version))
        self.on_publish(edition)
        self.sealed |= edition.put
        self.sealed = {kid: blob for kid, blob in self.sealed.items() if kid in edition.kept}
        self.version = edition.version
        self.snapshot, self.proof = edition.snapshot, edition.proof
        self.events += edition.events
        self.say(Published(edition.snapshot, edition.proof))
        return Written()

    def prove(
        self, owner: str, version: int, snapshot: str, proof: str, kids: Sequence[str]
    ) -> Outcome:
        if self.holder() != owner:
            return Fenced("the lease is not ours any more")
        is_whole = all(kid in self.sealed for kid in kids)
        if (self.version, self.snapshot) != (version, snapshot) or not is_whole:
            return Stale(str(self.version))
        self.proof = proof
        self.say(Published("", proof))
        return Written()

    def live(self, window: timedelta) -> tuple[Instance, ...]:
        now = self.clock.now()
        return tuple(
            Instance(name, fields["role"], fields["epoch"], fields["version"], seen)
            for name, (record, seen) in self.instances.items()
            if now - seen <= window and (fields := json.loads(record))
        )

    def ask(self, document: str) -> None:
        self.serial += 1
        self.requests[str(self.serial)] = document

    def say(self, message: Heard) -> None:
        for subscriber in list(self.subscribers):
            subscriber.carry(message)


@dataclass
class Link:
    """One process' way to Redis, and all that can go wrong on it."""

    random: Random
    loss: float = 0.01
    is_cut: bool = False
    is_dead: bool = False
    wakes_at: float = 0.0

    async def call(self, do: Callable[[], T]) -> T:
        """`do`, done at the server: perhaps not, perhaps without an answer."""
        await self._alive()
        await asyncio.sleep(self.random.uniform(0.0005, 0.02))
        if self.is_cut or self.random.random() < self.loss:
            await self._silence("the request was lost")
        result = do()
        await asyncio.sleep(self.random.uniform(0.0005, 0.02))
        if self.is_cut or self.random.random() < self.loss:
            await self._silence("the answer was lost")
        await self._alive()
        return result

    async def _silence(self, why: str) -> None:
        await asyncio.sleep(2)
        await self._alive()
        raise RedisUnavailable(f"redis: {why}")

    async def _alive(self) -> None:
        """A dead process does nothing more; a paused one waits, and the world goes on."""
        while self.is_dead:
            await asyncio.sleep(3600)
        while (left := self.wakes_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)


class SimSubscription:
    """One subscription: messages may be lost, late, or come twice."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: asyncio.Queue[Heard] = asyncio.Queue()

    def carry(self, message: Heard) -> None:
        link = self._link
        if link.is_cut or link.random.random() < link.loss:
            return
        times = 2 if link.random.random() < link.loss else 1
        delay = link.random.choice([0.001, 0.005, 0.02, 0.8])
        for _ in range(times):
            asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, message)

    async def next(self, timeout: float) -> Heard | None:
        try:
            async with asyncio.timeout(timeout):
                message = await self._queue.get()
        except TimeoutError:
            return None
        await self._link._alive()
        return message

    async def ping(self) -> None:
        self.carry(Pong())


class SimStore:
    """A process' store: `LeaderStore`, over a bad network to the model."""

    def __init__(self, redis: SimRedis, link: Link) -> None:
        self.redis = redis
        self.link = link

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[SimSubscription]:
        subscription = SimSubscription(self.link)
        await self.link.call(lambda: self.redis.subscribers.append(subscription))
        subscription._queue.put_nowait(Subscribed())
        try:
            yield subscription
        finally:
            self.redis.subscribers.remove(subscription)

    async def read(self) -> Stored:
        return await self.link.call(
            lambda: Stored(self.redis.snapshot, self.redis.proof, str(self.redis.version))
        )

    async def sealed(self, kids: Sequence[str]) -> dict[str, str]:
        found = self.redis.sealed
        return await self.link.call(lambda: {kid: found[kid] for kid in kids if kid in found})

    async def confirm(self, instance: str, record: str) -> None:
        def do() -> None:
            self.redis.instances[instance] = (record, self.redis.clock.now())

        await self.link.call(do)

    async def forget(self, instance: str) -> None:
        await self.link.call(lambda: self.redis.instances.pop(instance, None))

    async def testimony(self) -> str:
        return await self.link.call(lambda: self.redis.witness)

    async def testify(self, testimony: str, ttl: timedelta) -> None:
        def do() -> None:
            self.redis.witness = testimony
            self.redis.say(Witnessed())

        await self.link.call(do)

    async def close(self) -> None:
        pass

    async def acquire(self, owner: str, ttl: timedelta, seen_epoch: int) -> Any:
        return await self.link.call(lambda: self.redis.acquire(owner, ttl, seen_epoch))

    async def renew(self, owner: str, ttl: timedelta) -> datetime | None:
        return await self.link.call(lambda: self.redis.renew(owner, ttl))

    async def release(self, owner: str) -> None:
        await self.link.call(lambda: self.redis.release(owner))

    async def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        return await self.link.call(lambda: self.redis.publish(owner, expected, edition))

    async def prove(
        self, owner: str, version: int, snapshot: str, proof: str, kids: Sequence[str]
    ) -> Outcome:
        return await self.link.call(lambda: self.redis.prove(owner, version, snapshot, proof, kids))

    async def instances(self, window: timedelta) -> tuple[Instance, ...]:
        return await self.link.call(lambda: self.redis.live(window))

    @asynccontextmanager
    async def requests(self) -> AsyncIterator[SimStore]:
        yield self

    async def next(self) -> tuple[Entry, ...]:
        await asyncio.sleep(0.5)
        waiting = await self.link.call(lambda: dict(self.redis.requests))
        return tuple(Entry(entry, document) for entry, document in waiting.items())

    async def dismiss(self, asked: Entry, event: str | None) -> None:
        await self.link.call(lambda: self.redis.requests.pop(asked.id, None))


@dataclass
class SimDisk:
    """A daemon's `state_dir`: it outlives the process."""

    kept: Testimony | None = None

    async def read(self) -> Testimony | None:
        await asyncio.sleep(0.001)
        return self.kept

    async def write(self, testimony: Testimony) -> None:
        await asyncio.sleep(0.005)
        self.kept = testimony

    async def set_aside(self) -> str:
        self.kept = None
        return "aside"
