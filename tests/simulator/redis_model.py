"""Redis, as the Lua scripts see it, and a network that loses, delays and doubles.

The semantics are those of lua/*.lua: tests/daemon/test_model.py performs the same operations on
this model and on real servers, and compares.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Protocol, TypeVar

from ringkeeper.errors import RedisUnavailable, StateUnusable
from ringkeeper.store import (
    Heard,
    Pong,
    Published,
    Released,
    Sealed,
    Stored,
    Subscribed,
    Witnessed,
)
from ringkeeper.testimony import Testimony
from ringkeeperd.leader_store import (
    Acquired,
    Edition,
    Entry,
    Fenced,
    HeldByAnother,
    Outcome,
    RollCall,
    Stale,
    Written,
)
from ringkeeperd.rotation import Instance
from tests.simulator.loop import VirtualClock

T = TypeVar("T")
_LONGEST_LEASE = timedelta(minutes=10)
_LEAST_LIMIT = timedelta(minutes=1)


@dataclass
class Data:
    """What a server holds of one ring: it can be lost, and put back as it once was."""

    version: str = "0"
    snapshot: str = ""
    proof: str = ""
    epoch: str = ""
    owner: str = ""
    lease_ends: datetime | None = None
    sealed: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    requests: dict[str, str] = field(default_factory=dict)
    instances: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    mark: str = ""
    witness: str = ""


class Watcher(Protocol):
    """Who looks at every write the moment it happens."""

    def published(self, redis: SimRedis, edition: Edition) -> None:
        """`redis` is about to replace what it holds by `edition`."""

    def proved(self, proof: str) -> None:
        """A proof of freshness was published."""

    def heard(self, instance: str) -> None:
        """An instance said that it is alive."""


class Unwatched:
    """Nobody looks."""

    def published(self, redis: SimRedis, edition: Edition) -> None:
        """As `Watcher.published`."""

    def proved(self, proof: str) -> None:
        """As `Watcher.proved`."""

    def heard(self, instance: str) -> None:
        """As `Watcher.heard`."""


@dataclass
class SimRedis:
    """One primary."""

    clock: VirtualClock
    watcher: Watcher = field(default_factory=Unwatched)
    data: Data = field(default_factory=Data)
    subscribers: list[SimSubscription] = field(default_factory=list)
    serial: int = 0

    def holder(self) -> str:
        """Who has the lease."""
        if self.data.lease_ends and self.clock.now() >= self.data.lease_ends:
            self.data.owner, self.data.lease_ends = "", None
        return self.data.owner

    def acquire(self, owner: str, ttl: timedelta, seen: int) -> Acquired | HeldByAnother:
        """acquire.lua."""
        now, holder, data = self.clock.now(), self.holder(), self.data
        counted = int(data.epoch) if re.fullmatch(r"[0-9]{1,15}", data.epoch) else 0
        is_sound = seen < counted <= seen + 1_000_000
        if holder == owner and is_sound:
            data.lease_ends = now + ttl
            return Acquired(counted, now)
        if holder and holder != owner and data.lease_ends:
            left = data.lease_ends - now
            if left <= min(max(10 * ttl, _LEAST_LIMIT), _LONGEST_LEASE):
                return HeldByAnother(left, now)
        epoch = (counted if is_sound else seen) + 1
        data.epoch, data.owner, data.lease_ends = str(epoch), owner, now + ttl
        return Acquired(epoch, now)

    def renew(self, owner: str, ttl: timedelta) -> datetime | None:
        """renew.lua."""
        if self.holder() != owner:
            return None
        self.data.lease_ends = self.clock.now() + ttl
        return self.clock.now()

    def release(self, owner: str) -> None:
        """release.lua."""
        if self.holder() == owner:
            self.data.owner, self.data.lease_ends = "", None
            self.say(Released())

    def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        """publish.lua."""
        data = self.data
        if not self.is_owner(owner):
            return Fenced("the lease is not ours any more")
        if self.is_fenced(edition.epoch):
            return Fenced("another leadership came after ours")
        if data.snapshot == edition.snapshot:
            return Written()
        if not self.is_expected(expected):
            return Stale(data.version)
        self.watcher.published(self, edition)
        self.watcher.proved(edition.proof)
        data.sealed |= edition.put
        data.sealed = {kid: blob for kid, blob in data.sealed.items() if kid in edition.kept}
        data.version = str(edition.version)
        data.snapshot, data.proof = edition.snapshot, edition.proof
        data.events += edition.events
        for kid, sealed in edition.put.items() if len(edition.put) <= 4 else ():
            self.say(Sealed(kid, sealed))
        self.say(Published(edition.snapshot, edition.proof))
        return Written()

    def is_owner(self, owner: str) -> bool:
        """Whether the lease is `owner`'s."""
        return self.holder() == owner

    def is_fenced(self, epoch: int) -> bool:
        """Whether a later leadership than `epoch` began."""
        # Lua has no integers: beyond 2^53 two numbers may be one to it.
        is_count = re.fullmatch(r"[0-9]+", self.data.epoch)
        return bool(is_count) and float(self.data.epoch) > float(epoch)

    def is_expected(self, snapshot: str) -> bool:
        """Whether the keyring is `snapshot`."""
        return self.data.snapshot == snapshot

    def prove(
        self, owner: str, version: int, snapshot: str, proof: str, sealed: Mapping[str, str]
    ) -> Outcome:
        """prove.lua."""
        data = self.data
        if not self.is_owner(owner):
            return Fenced("the lease is not ours any more")
        is_whole = all(data.sealed.get(kid) == blob for kid, blob in sealed.items())
        is_it = data.version == str(version) and data.snapshot != ""
        if not (is_it and self.is_expected(snapshot) and is_whole):
            return Stale(data.version)
        data.proof = proof
        self.watcher.proved(proof)
        self.say(Published("", proof))
        return Written(has_witness=bool(data.witness))

    def tell(self, owner: str, event: str, entry: str) -> Outcome:
        """tell.lua."""
        if not self.is_owner(owner):
            return Fenced("the lease is not ours any more")
        self.data.requests.pop(entry, None)
        if event and self.data.events[-1:] != [event]:
            self.data.events.append(event)
        return Written()

    def heard(self, owner: str, testimony: str) -> None:
        """hear.lua."""
        if self.is_owner(owner) and self.data.witness == testimony:
            self.data.witness = ""

    def confirm(self, instance: str, record: str) -> None:
        """An instance writes its row, by Redis' clock."""
        self.watcher.heard(instance)
        self.data.instances[instance] = (record, self.clock.now())

    def live(self, window: timedelta) -> tuple[Instance, ...]:
        """instances.lua."""
        now = self.clock.now()
        return tuple(
            Instance(
                name,
                fields["role"],
                fields["epoch"],
                fields["version"],
                seen,
                tuple(fields.get("keks", ())),
                tuple(fields.get("roots", ())),
                algorithms=tuple(fields.get("algorithms", ())),
            )
            for name, (record, seen) in self.data.instances.items()
            if now - seen <= window and (fields := json.loads(record))
        )

    def roll_call(self, owner: str, window: timedelta) -> RollCall:
        """As instances.lua with a leader's mark."""
        is_whole, self.data.mark = self.data.mark == owner, owner
        return RollCall(self.live(window), is_whole)

    def ask(self, document: str) -> None:
        """An operator's request goes into the stream."""
        self.serial += 1
        self.data.requests[str(self.serial)] = document

    def testify(self, testimony: str) -> None:
        """A witness writes down what it knows, and calls."""
        self.data.witness = testimony
        self.say(Witnessed())

    def say(self, message: Heard) -> None:
        """PUBLISH."""
        for subscriber in list(self.subscribers):
            if subscriber.hears_sealed or not isinstance(message, Sealed):
                subscriber.carry(message)

    def copied(self) -> Data:
        """What it holds now, to be put back later."""
        return copy.deepcopy(self.data)

    def drop(self, link: Link | None = None) -> None:
        """The connections that listen, all or one process', are gone, and are told so."""
        for subscriber in list(self.subscribers):
            if link in (None, subscriber.link):
                subscriber.break_off()


@dataclass
class Link:
    """One process' way to Redis, and all that can go wrong on it."""

    random: Random
    loss: float = 0.01
    cuts: int = 0
    """How many times over it is cut."""
    is_dead: bool = False
    wakes_at: float = 0.0
    is_deaf: bool = False
    """Its subscription hears nothing any more, not even an end: a router forgot it."""
    heard_all_since: float = float("inf")
    """Since when it has listened, and no message has got lost on the way."""
    silent_at: float = float("-inf")
    """When a request was last left without an answer."""

    @property
    def is_cut(self) -> bool:
        """Whether nothing comes through."""
        return self.cuts > 0

    async def call(self, do: Callable[[], T]) -> T:
        """`do`, done at the server: perhaps not, perhaps without an answer."""
        await self.alive()
        await asyncio.sleep(self.random.uniform(0.0005, 0.02))
        if self.is_cut or self.random.random() < self.loss:
            await self._silence("the request was lost")
        if self.random.random() < self.loss / 4:
            later = self.random.uniform(2, 8)
            asyncio.get_running_loop().call_later(later, do)
            await self._silence("the request was late, and carried out all the same")
        result = do()
        await asyncio.sleep(self.random.uniform(0.0005, 0.02))
        if self.is_cut or self.random.random() < self.loss:
            await self._silence("the answer was lost")
        await self.alive()
        return result

    async def _silence(self, why: str) -> None:
        await asyncio.sleep(2)
        self.silent_at = asyncio.get_running_loop().time()
        await self.alive()
        raise RedisUnavailable(f"redis: {why}")

    async def alive(self) -> None:
        """A dead process does nothing more; a paused one waits, and the world goes on."""
        while self.is_dead:
            await asyncio.sleep(3600)
        while (left := self.wakes_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)


class SimSubscription:
    """One subscription: messages may be lost, late, or come twice."""

    def __init__(self, link: Link, *, hears_sealed: bool = False) -> None:
        self.link = link
        self.hears_sealed = hears_sealed
        self._queue: asyncio.Queue[Heard | None] = asyncio.Queue()
        self._is_broken = False

    def carry(self, message: Heard) -> None:
        """Bring `message` to the process, more or less."""
        link, now = self.link, asyncio.get_running_loop().time()
        if link.is_cut or link.is_deaf or link.random.random() < link.loss:
            link.heard_all_since = now
            return
        times = 2 if link.random.random() < link.loss else 1
        delay = link.random.choice([0.001, 0.005, 0.02, 0.8])
        for _ in range(times):
            asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, message)

    def break_off(self) -> None:
        """The connection ends, and both sides know."""
        self.link.heard_all_since = float("inf")
        self._queue.put_nowait(None)

    async def next(self, timeout: float) -> Heard | None:
        """As `Subscription.next`."""
        try:
            async with asyncio.timeout(timeout):
                message = await self._queue.get()
        except TimeoutError:
            return None
        await self.link.alive()
        if message is None:
            raise RedisUnavailable("redis: listening: the connection is dead")
        return message

    async def ping(self) -> None:
        """As `Subscription.ping`."""
        self.carry(Pong())


class SimStore:
    """A process' store: `LeaderStore`, over a bad network to whichever primary it takes for one."""

    def __init__(
        self, primary: Callable[[], SimRedis], link: Link, *, hears_sealed: bool = False
    ) -> None:
        self._primary = primary
        self._hears_sealed = hears_sealed
        self.link = link

    @property
    def redis(self) -> SimRedis:
        """The primary that this process reaches now."""
        return self._primary()

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[SimSubscription]:
        """As `Store.subscribe`."""
        subscription = SimSubscription(self.link, hears_sealed=self._hears_sealed)
        there = self.redis

        def join() -> None:
            there.subscribers.append(subscription)
            self.link.is_deaf = False
            self.link.heard_all_since = asyncio.get_running_loop().time()

        try:
            await self.link.call(join)
            subscription._queue.put_nowait(Subscribed())
            yield subscription
        finally:
            self.link.heard_all_since = float("inf")
            with suppress(ValueError):  # that server was taken down
                there.subscribers.remove(subscription)

    async def read(self) -> Stored:
        """As `Store.read`."""

        def do() -> Stored:
            data = self.redis.data
            return Stored(data.snapshot, data.proof, data.version)

        return await self.link.call(do)

    async def sealed(self, kids: Sequence[str]) -> dict[str, str]:
        """As `Store.sealed`."""
        if not kids:
            return {}

        def do() -> dict[str, str]:
            found = self.redis.data.sealed
            return {kid: found[kid] for kid in kids if kid in found}

        return await self.link.call(do)

    async def confirm(self, instance: str, record: str) -> None:
        """As `Store.confirm`."""
        await self.link.call(lambda: self.redis.confirm(instance, record))

    async def forget(self, instance: str) -> None:
        """As `Store.forget`."""
        await self.link.call(lambda: self.redis.data.instances.pop(instance, None))

    async def testimony(self) -> str:
        """As `Store.testimony`."""
        return await self.link.call(lambda: self.redis.data.witness)

    async def testify(self, testimony: str, ttl: timedelta) -> None:
        """As `Store.testify`; nothing of it expires within a run."""
        await self.link.call(lambda: self.redis.testify(testimony))

    async def reconnect(self) -> None:
        """As `Store.reconnect`."""

    async def close(self) -> None:
        """As `Store.close`."""

    async def acquire(self, owner: str, ttl: timedelta, seen_epoch: int) -> Any:
        """As `LeaderStore.acquire`."""
        return await self.link.call(lambda: self.redis.acquire(owner, ttl, seen_epoch))

    async def renew(self, owner: str, ttl: timedelta) -> datetime | None:
        """As `LeaderStore.renew`."""
        return await self.link.call(lambda: self.redis.renew(owner, ttl))

    async def release(self, owner: str) -> None:
        """As `LeaderStore.release`."""
        await self.link.call(lambda: self.redis.release(owner))

    async def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        """As `LeaderStore.publish`."""
        return await self.link.call(lambda: self.redis.publish(owner, expected, edition))

    async def prove(
        self, owner: str, version: int, snapshot: str, proof: str, sealed: Mapping[str, str]
    ) -> Outcome:
        """As `LeaderStore.prove`."""
        return await self.link.call(
            lambda: self.redis.prove(owner, version, snapshot, proof, sealed)
        )

    async def heard(self, owner: str, testimony: str) -> None:
        """As `LeaderStore.heard`."""
        await self.link.call(lambda: self.redis.heard(owner, testimony))

    async def instances(self, window: timedelta) -> tuple[Instance, ...]:
        """As `LeaderStore.instances`."""
        return await self.link.call(lambda: self.redis.live(window))

    async def roll_call(self, owner: str, window: timedelta) -> RollCall:
        """As `LeaderStore.roll_call`."""
        return await self.link.call(lambda: self.redis.roll_call(owner, window))

    @asynccontextmanager
    async def requests(self) -> AsyncIterator[SimStore]:
        """As `LeaderStore.requests`."""
        yield self

    async def next(self) -> tuple[Entry, ...]:
        """As `EntryStream.next`."""
        await asyncio.sleep(2)
        waiting = await self.link.call(lambda: dict(self.redis.data.requests))
        return tuple(Entry(entry, document) for entry, document in waiting.items())

    async def tell(self, owner: str, event: str, answering: Entry | None = None) -> Outcome:
        """As `LeaderStore.tell`."""
        entry = answering.id if answering else ""
        return await self.link.call(lambda: self.redis.tell(owner, event, entry))

    async def newest_events(self, most: int) -> tuple[Entry, ...]:
        """As `LeaderStore.newest_events`."""
        newest = await self.link.call(lambda: self.redis.data.events[-most:])
        return tuple(Entry("", document) for document in reversed(newest))


@dataclass
class SimDisk:
    """A `state_dir` or `cache_dir`: it outlives the process, and may fail."""

    kept: Testimony | None = None
    is_writable: bool = True

    async def read(self) -> Testimony | None:
        """As `Keeper.read`."""
        await asyncio.sleep(0.001)
        return self.kept

    async def write(self, testimony: Testimony) -> None:
        """As `Keeper.write`."""
        await asyncio.sleep(0.005)
        if not self.is_writable:
            raise StateUnusable("the disk is full")
        self.kept = testimony

    async def set_aside(self) -> str:
        """As `Keeper.set_aside`."""
        self.kept = None
        return "aside"
