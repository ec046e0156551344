"""Redis as the leader of a ring sees it: the lease, the one script that writes, the requests.

`LeaderStore` is what leading needs; `RedisLeaderStore` is the real one, the simulator has its own.
Every write is one script (lua/), checks the lease and the version inside it, and is idempotent:
a lost reply is answered by asking again.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from redis import exceptions

from ringkeeper.clock import from_ms, to_ms
from ringkeeper.store import (
    COMMAND_TIMEOUT,
    Published,
    RedisStore,
    Store,
    connection_for,
    script,
    speaking,
)
from ringkeeperd.rotation import Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    import redis.asyncio as redis

    from ringkeeper.clock import Clock

EVENTS_KEPT: Final = 10_000
REQUESTS_KEPT: Final = 1_000
REQUEST_WAIT: Final = 20.0
"""Seconds that one blocking read waits for a request."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lease is ours, in this epoch."""

    epoch: int
    redis_now: datetime


@dataclass(frozen=True, slots=True)
class HeldByAnother:
    """Somebody else leads, for at least this long."""

    remaining: timedelta
    redis_now: datetime


@dataclass(frozen=True, slots=True)
class Written:
    """The keyring is as we wrote it."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The lease ended: stop leading."""

    why: str


@dataclass(frozen=True, slots=True)
class Stale:
    """The keyring is not what we decided on: load it and decide again."""

    version: str
    """What the scripts compare with. Not signed: it may be anything."""


Outcome = Written | Fenced | Stale


@dataclass(frozen=True, slots=True)
class Edition:
    """What one publication writes: documents, and how the sealed keys change with them."""

    version: int
    epoch: int
    snapshot: str
    proof: str
    put: Mapping[str, str]
    """Sealed private keys to add."""
    kept: frozenset[str]
    """The kids whose sealed keys are to be there afterwards; all others go."""
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator's request as it stands in the stream, unverified."""

    entry: str
    document: str


class RequestStream(Protocol):
    """Waits for operators' requests on a connection of its own."""

    async def next(self) -> tuple[Asked, ...]:
        """What came since the last call, perhaps nothing after some seconds."""
        ...


class LeaderStore(Store, Protocol):
    """A ring's place in Redis, for reading and leading. Every method raises `RedisUnavailable`."""

    async def acquire(
        self, owner: str, ttl: timedelta, seen_epoch: int
    ) -> Acquired | HeldByAnother:
        """Take the lease, if nobody has it."""
        ...

    async def renew(self, owner: str, ttl: timedelta) -> datetime | None:
        """Hold on to the lease: Redis' time; None if it is lost."""
        ...

    async def release(self, owner: str) -> None:
        """Let the lease go."""
        ...

    async def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        """Replace the keyring if it is still at version `expected`; "0" where there is none."""
        ...

    async def prove(
        self, owner: str, version: int, snapshot: str, proof: str, kids: Sequence[str]
    ) -> Outcome:
        """Publish a fresh proof, if Redis holds `snapshot` and the sealed keys of `kids`."""
        ...

    async def instances(self, window: timedelta) -> tuple[Instance, ...]:
        """Who was heard of within `window`."""
        ...

    def requests(self) -> AbstractAsyncContextManager[RequestStream]:
        """Listen for operators' requests."""
        ...

    async def dismiss(self, asked: Asked, event: str | None) -> None:
        """Take a request off the stream; `event` is the answer where no publication told it."""
        ...


class RedisLeaderStore(RedisStore):
    """A ring's place in a real Redis, for leading."""

    def __init__(self, client: redis.Redis, patient: redis.Redis, name: str, clock: Clock) -> None:
        """Lead the ring `name` through `client`; `patient` waits longer, for requests."""
        super().__init__(client, name, clock=clock)
        self._patient = patient
        register = client.register_script
        self._acquire = register(script("ringkeeperd", "acquire.lua"))
        self._renew = register(script("ringkeeperd", "renew.lua"))
        self._release = register(script("ringkeeperd", "release.lua"))
        self._publish = register(script("ringkeeperd", "publish.lua"))
        self._prove = register(script("ringkeeperd", "prove.lua"))
        self._instances = register(script("ringkeeperd", "instances.lua"))

    @classmethod
    def connect(cls, url: str, name: str, clock: Clock, *, password: str | None) -> Self:
        """A store with connections of its own; `close` lets them go."""
        label = f"ringkeeperd:{name}"
        patient = connection_for(
            url, password=password, name=label, timeout=REQUEST_WAIT + COMMAND_TIMEOUT
        )
        return cls(connection_for(url, password=password, name=label), patient, name, clock)

    async def close(self) -> None:
        """Let every connection go."""
        await super().close()
        with suppress(exceptions.RedisError, OSError):
            await self._patient.aclose()

    async def acquire(
        self, owner: str, ttl: timedelta, seen_epoch: int
    ) -> Acquired | HeldByAnother:
        """Take the lease, if nobody has it."""
        with speaking(self.where, "taking the lease"):
            status, value, now = await self._acquire(
                keys=[self.layout.lease, self.layout.epoch], args=[owner, to_ms(ttl), seen_epoch]
            )
        if status == "ok":
            return Acquired(int(value), from_ms(int(now)))
        return HeldByAnother(timedelta(milliseconds=max(0, int(value))), from_ms(int(now)))

    async def renew(self, owner: str, ttl: timedelta) -> datetime | None:
        """Hold on to the lease: Redis' time; None if it is lost."""
        with speaking(self.where, "renewing the lease"):
            status, now = await self._renew(keys=[self.layout.lease], args=[owner, to_ms(ttl)])
        return from_ms(int(now)) if status == "ok" else None

    async def release(self, owner: str) -> None:
        """Let the lease go."""
        with speaking(self.where, "releasing the lease"):
            await self._release(keys=[self.layout.lease], args=[owner, self.layout.published])

    async def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        """Replace the keyring if it is still at version `expected`; "0" where there is none."""
        layout = self.layout
        sealed = {"put": dict(edition.put), "kept": sorted(edition.kept)}
        with speaking(self.where, "publishing"):
            reply = await self._publish(
                keys=[layout.keyring, layout.sealed, layout.lease, layout.epoch, layout.events],
                args=[
                    owner,
                    edition.epoch,
                    expected,
                    edition.version,
                    edition.snapshot,
                    edition.proof,
                    layout.published,
                    Published(edition.snapshot, edition.proof).encode(),
                    EVENTS_KEPT,
                    json.dumps(sealed),
                    *edition.events,
                ],
            )
        return _outcome(reply)

    async def prove(
        self, owner: str, version: int, snapshot: str, proof: str, kids: Sequence[str]
    ) -> Outcome:
        """Publish a fresh proof, if Redis holds `snapshot` and the sealed keys of `kids`."""
        layout = self.layout
        message = Published("", proof).encode()
        with speaking(self.where, "publishing a proof"):
            reply = await self._prove(
                keys=[layout.keyring, layout.lease, layout.sealed],
                args=[owner, version, snapshot, proof, layout.published, message, *kids],
            )
        return _outcome(reply)

    async def instances(self, window: timedelta) -> tuple[Instance, ...]:
        """Who was heard of within `window`."""
        keys = [self.layout.instances, self.layout.seen]
        with speaking(self.where, "reading the instances"):
            _, *flat = await self._instances(keys=keys, args=[to_ms(window)])
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return tuple(_instance(*row) for row in rows)

    @asynccontextmanager
    async def requests(self) -> AsyncIterator[RequestStream]:
        """Listen for operators' requests, from the oldest that is still there."""
        yield _RedisRequests(self._patient, self.layout.requests, self.where)

    async def dismiss(self, asked: Asked, event: str | None) -> None:
        """Take a request off the stream; `event` is the answer where no publication told it."""
        with speaking(self.where, "answering a request"):
            if event:
                await self._client.xadd(
                    self.layout.events, {"event": event}, maxlen=EVENTS_KEPT, approximate=True
                )
            await self._client.xdel(self.layout.requests, asked.entry)


class _RedisRequests:
    def __init__(self, client: redis.Redis, stream: str, where: str) -> None:
        self._client = client
        self._stream = stream
        self._where = where
        self._after = "0"

    async def next(self) -> tuple[Asked, ...]:
        """What came since the last call, perhaps nothing after some seconds."""
        with speaking(self._where, "waiting for requests"):
            reply: Any = await self._client.xread(
                {self._stream: self._after}, 20, int(REQUEST_WAIT * 1000)
            )
        asked = _entries(reply)
        if asked:
            self._after = asked[-1].entry
        return asked


def _entries(reply: Any) -> tuple[Asked, ...]:
    """The entries of one stream's XREAD, in either shape that redis-py gives it."""
    streams = reply.values() if isinstance(reply, dict) else [rows for _, rows in reply or []]
    return tuple(
        Asked(str(entry), str(fields.get("request", "")))
        for rows in streams
        for entry, fields in (rows[0] if rows and isinstance(rows[0], list) else rows)
    )


def _outcome(reply: Sequence[Any]) -> Outcome:
    status, value = reply
    match status:
        case "ok":
            return Written()
        case "stale":
            return Stale(str(value))
        case _:
            return Fenced(str(value))


def _instance(instance: str, seen: str, record: str) -> Instance:
    """One row of the table. It is not authenticated: nonsense counts as nothing confirmed."""
    try:
        fields = json.loads(record)
        edition = int(fields["epoch"]), int(fields["version"])
        role = str(fields["role"])[:20]
    except (ValueError, KeyError, TypeError):
        edition, role = (0, 0), "unknown"
    return Instance(str(instance)[:80], role, *edition, from_ms(int(float(seen))))
