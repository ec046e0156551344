"""Redis as the leader of a ring sees it: the lease, the one script that writes, the requests.

`LeaderStore` is what leading needs; `RedisLeaderStore` is the real one, the simulator has its own.
Every write is one script (lua/) that checks the lease and what it replaces; all are idempotent.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

from redis import exceptions

from ringkeeper.clock import LATEST_MS, from_ms, to_ms
from ringkeeper.errors import RefreshReason
from ringkeeper.layout import STRETCH, Layout
from ringkeeper.refreshes import MOST
from ringkeeper.scripts import script
from ringkeeper.signed import hashes
from ringkeeper.store import Published, RedisStore, Store
from ringkeeper.topology import (
    COMMAND_TIMEOUT,
    connection_for,
    speaking,
    unavailable,
    waiting_apart,
)
from ringkeeperd.forecast import Outstanding
from ringkeeperd.rotation import Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    import redis.asyncio as redis

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration
    from ringkeeper.errors import RedisUnavailable
    from ringkeeper.secret import Secret
    from ringkeeper.tls import Tls

EVENTS_KEPT: Final = 10_000
REQUESTS_KEPT: Final = 1_000
STREAM_WAIT: Final = 20.0
"""Seconds that one blocking read waits for a stream's next entry."""
_UNANSWERED_WAIT: Final = 1.0
"""The same while a request is handed out and not answered yet."""
_UNANSWERED_MOST: Final = 200
"""Requests handed out at a time: no operator has more, and all are read again each time."""
_VERIFIES_MOST: Final = 1e6
_DIGEST: Final = 22
"""Characters of a policy's digest."""
"""A second, by one process: no machine does more."""
_FIELDS_AT_ONCE: Final = 10_000
"""Fields that one script looks at: Redis does nothing else meanwhile."""
_OWNER_MOST: Final = 200
"""Characters of an owner token to look at: anyone may have written more."""
_REASONS: Final = tuple(reason.value for reason in RefreshReason)
_NAMES_MOST: Final = 32
_NAME_MOST: Final = 20
"""Names of algorithms in a row of the table of instances, and characters of each."""
_EVENT_MOST: Final = 16 * 1024
"""Bytes of an audit event, signed."""
_LAST_ID: Final = f"{2**64 - 1}-{2**64 - 1}"


class LeaseLost(Exception):
    """Stop leading at once. An expected race, not an error."""


class HandedOver(LeaseLost):
    """Stop leading, and let others take the lease: this daemon leads more than its share."""


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

    untold: str = ""
    """Why the audit events could not be written; empty where they were."""
    has_witness: bool = False
    """Whether somebody wrote down what Redis may have lost."""


def untold(ring: str, outcome: Written) -> RedisUnavailable:
    """The error that says why audit events of what was done are missing."""
    return unavailable(f"redis, ring {ring!r}", "telling the audit by xadd", outcome.untold)


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
class Entry:
    """What stands in one of the ring's streams: its id there, and the document, unverified."""

    id: str
    document: str


class RollCall(NamedTuple):
    """Who was heard of, by the table of instances."""

    instances: tuple[Instance, ...]
    is_whole: bool
    """Whether the table is the one that the same leader saw before."""


class EntryStream(Protocol):
    """Waits for what comes into a stream, on a connection of its own."""

    async def next(self) -> tuple[Entry, ...]:
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
        """Replace the keyring if its snapshot is still `expected`; "" where there is none."""
        ...

    async def prove(
        self, owner: str, version: int, snapshot: str, proof: str, sealed: Mapping[str, str]
    ) -> Outcome:
        """Publish a fresh proof, if Redis holds `snapshot` and these sealed keys."""
        ...

    async def heard(self, owner: str, testimony: str) -> None:
        """Let the witness go who wrote down `testimony`, so that the next one can speak."""
        ...

    async def instances(self, window: timedelta) -> tuple[Instance, ...]:
        """Who was heard of within `window`."""
        ...

    async def roll_call(self, owner: str, window: timedelta) -> RollCall:
        """As `instances`, and whether the table was lost since `owner` last asked."""
        ...

    def requests(self) -> AbstractAsyncContextManager[EntryStream]:
        """Listen for operators' requests."""
        ...

    async def tell(self, owner: str, event: str, answering: Entry | None = None) -> Outcome:
        """Write an audit event that no publication tells, "" if one did; take a request off."""
        ...

    async def newest_events(self, most: int) -> tuple[Entry, ...]:
        """The newest audit events, the newest first, as far as they are no longer than may be."""
        ...


class RedisLeaderStore(RedisStore):
    """A ring's place in a real Redis, for leading."""

    def __init__(self, client: redis.Redis, name: str, clock: Clock) -> None:
        """Lead the ring `name` through `client`, which this store closes in the end."""
        super().__init__(client, name, clock=clock)
        register = client.register_script
        self._acquire = register(script("ringkeeperd", "acquire.lua"))
        self._renew = register(script("ringkeeperd", "renew.lua"))
        self._release = register(script("ringkeeperd", "release.lua"))
        self._publish = register(script("ringkeeperd", "publish.lua"))
        self._prove = register(script("ringkeeperd", "prove.lua"))
        self._hear = register(script("ringkeeperd", "hear.lua"))
        self._tell = register(script("ringkeeperd", "tell.lua"))
        self._instances = register(script("ringkeeperd", "instances.lua"))
        self._refreshes = register(script("ringkeeperd", "refreshes.lua"))
        self._outstanding = register(script("ringkeeperd", "outstanding.lua"))
        self._recent = register(script("ringkeeperd", "recent.lua"))

    @classmethod
    def connect(
        cls,
        url: str | Secret,
        name: str,
        clock: Clock,
        *,
        password: str | Secret | None,
        tls: Tls | None = None,
    ) -> Self:
        """A store with connections of its own; `close` lets them go."""
        client = connection_for(
            url, key=Layout(name).keyring, password=password, name=f"ringkeeperd:{name}", tls=tls
        )
        return cls(client, name, clock)

    @classmethod
    def configured(cls, configuration: Configuration, name: str, clock: Clock) -> Self:
        """The same, where the configuration says that Redis is."""
        return cls.connect(
            configuration.redis_url,
            name,
            clock,
            password=configuration.redis_password,
            tls=configuration.redis_tls,
        )

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
            await self._release(
                keys=[self.layout.lease], args=[owner, self.layout.published, self.publishing]
            )

    async def publish(self, owner: str, expected: str, edition: Edition) -> Outcome:
        """Replace the keyring if its snapshot is still `expected`; "" where there is none."""
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
                    self.publishing,
                    *edition.events,
                ],
            )
        return _outcome(reply) or Written(untold=str(reply[1]))

    async def prove(
        self, owner: str, version: int, snapshot: str, proof: str, sealed: Mapping[str, str]
    ) -> Outcome:
        """Publish a fresh proof, if Redis holds `snapshot` and these sealed keys."""
        layout = self.layout
        message = Published("", proof).encode()
        with speaking(self.where, "publishing a proof"):
            reply = await self._prove(
                keys=[layout.keyring, layout.lease, layout.sealed, layout.witness],
                args=[
                    owner,
                    version,
                    snapshot,
                    proof,
                    layout.published,
                    message,
                    self.publishing,
                    *(part for pair in sealed.items() for part in pair),
                ],
            )
        return _outcome(reply) or Written(has_witness=bool(reply[1]))

    async def heard(self, owner: str, testimony: str) -> None:
        """Let the witness go who wrote down `testimony`, so that the next one can speak."""
        with speaking(self.where, "hearing a witness"):
            await self._hear(keys=[self.layout.witness, self.layout.lease], args=[owner, testimony])

    async def instances(self, window: timedelta) -> tuple[Instance, ...]:
        """Who was heard of within `window`."""
        return (await self.roll_call("", window)).instances

    async def roll_call(self, owner: str, window: timedelta) -> RollCall:
        """As `instances`, and whether the table was lost since `owner` last asked."""
        keys = [self.layout.instances, self.layout.seen]
        with speaking(self.where, "reading the instances"):
            is_marked, *flat = await self._instances(keys=keys, args=[to_ms(window), owner])
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return RollCall(tuple(_instance(*row) for row in rows), is_whole=bool(is_marked))

    @asynccontextmanager
    async def requests(self) -> AsyncIterator[EntryStream]:
        """Listen for operators' requests, from the oldest that is still there."""
        async with self._waiting("waiting for requests") as there:
            yield Requested(there, self.layout.requests)

    @asynccontextmanager
    async def events(self, after: str) -> AsyncIterator[EntryStream]:
        """Listen for audit events that come after the entry `after`."""
        async with self._waiting("waiting for events") as there:
            yield _Tail(there, self.layout.events, "event", after)

    @asynccontextmanager
    async def _waiting(self, doing: str) -> AsyncIterator[redis.Redis]:
        patience = STREAM_WAIT + COMMAND_TIMEOUT
        with speaking(self.where, doing):
            async with waiting_apart(self._client, timeout=patience) as there:
                yield there

    async def last_event(self) -> str:
        """The id of the newest audit event's entry; "0" if there is none."""
        with speaking(self.where, "reading events"):
            found = await self._client.xrevrange(self.layout.events, count=1)
        return str(found[0][0]) if found else "0"

    async def ask(self, request: str) -> str:
        """Put an operator's signed request into the stream; the id of its entry."""
        with speaking(self.where, "asking the leader"):
            entry = await self._client.xadd(
                self.layout.requests, {"request": request}, maxlen=REQUESTS_KEPT, approximate=True
            )
        return str(entry)

    async def withdraw(self, entry: str) -> bool:
        """Take a request back that nobody answered; False if a leader has taken it."""
        with speaking(self.where, "withdrawing the request"):
            return bool(await self._client.xdel(self.layout.requests, entry))

    async def owner(self) -> str:
        """Who holds the lease, as its owner token says; empty if nobody does."""
        with speaking(self.where, "reading the lease"):
            return str(await self._client.getrange(self.layout.lease, 0, _OWNER_MOST) or "")

    async def tell(self, owner: str, event: str, answering: Entry | None = None) -> Outcome:
        """Write an audit event that no publication tells, "" if one did; take a request off."""
        layout = self.layout
        with speaking(self.where, "answering a request" if answering else "telling the audit"):
            reply = await self._tell(
                keys=[layout.lease, layout.requests, layout.events],
                args=[owner, answering.id if answering else "", event, EVENTS_KEPT],
            )
        return _outcome(reply) or Written(untold=str(reply[1]))

    async def refreshes(self, first: int, last: int) -> dict[int, dict[str, int]]:
        """The refreshes counted from bucket `first` to `last`: bucket to reason to how many.

        Not authenticated: what is no number counts as nothing, what is more than can be as that.
        """
        stretches = range(first - first % STRETCH, last + 1, STRETCH)
        keys = [self.layout.refreshes(bucket) for bucket in stretches]
        with speaking(self.where, "reading the refreshes"):
            flat = await self._refreshes(keys=keys, args=[first, last, STRETCH, *_REASONS])
        found: dict[int, dict[str, int]] = {}
        for bucket, place, value in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            if count := _count(value):
                found.setdefault(int(bucket), {})[_REASONS[int(place) - 1]] = count
        return found

    async def outstanding(self, kids: Sequence[str], longest: timedelta) -> Outstanding:
        """The tokens of `kids` that have not expired, of those that lived for up to `longest`.

        Not authenticated, and judged as `refreshes` are. For leaders and operators.
        """
        now = await self.seconds()
        held = list(hashes(now, longest.total_seconds()))
        counted: dict[str, dict[int, int]] = {kid: {} for kid in kids}
        at_once = max(1, _FIELDS_AT_ONCE // (STRETCH * max(1, len(kids))))
        for some in (held[n : n + at_once] for n in range(0, len(held), at_once)):
            with speaking(self.where, "reading the tokens"):
                flat = await self._outstanding(
                    keys=[self.layout.signed(*each) for each in some],
                    args=[now, STRETCH, len(kids), *kids, *chain.from_iterable(some)],
                )
            for expires, place, value in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                if count := _count(value):
                    counts = counted[kids[int(place) - 1]]
                    counts[int(expires)] = counts.get(int(expires), 0) + count
        return Outstanding(counted, from_ms(1000 * now))

    async def newest_events(self, most: int) -> tuple[Entry, ...]:
        """The newest audit events, the newest first, as far as they are no longer than may be."""
        with speaking(self.where, "reading events"):
            flat = await self._recent(keys=[self.layout.events], args=[most, _EVENT_MOST])
        return tuple(Entry(str(i), str(e)) for i, e in zip(flat[::2], flat[1::2], strict=True))

    async def recent_events(self, most: int) -> tuple[Entry, ...]:
        """The newest entries of the audit, the newest first, whatever they are: for operators."""
        with speaking(self.where, "reading events"):
            try:
                found: Any = await self._client.xrevrange(self.layout.events, count=most)
            except exceptions.ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                return ()  # no stream: what is told next says so
        return tuple(Entry(str(entry), str(fields.get("event", ""))) for entry, fields in found)


class _Tail:
    """What comes into a stream, in the order of its ids."""

    def __init__(self, client: redis.Redis, stream: str, field: str, after: str) -> None:
        self._client = client
        self._stream = stream
        self._field = field
        self._after = after

    async def next(self) -> tuple[Entry, ...]:
        """What came since the last call, perhaps nothing after some seconds."""
        found = await _read(self._client, self._stream, self._field, self._after, STREAM_WAIT)
        if found:
            self._after = found[-1].id
        return found


class Requested:
    """Whatever is in the stream of requests and was not handed out yet, whatever its id.

    Anyone who may write to Redis may choose an id, or delete the stream: then ids begin anew, lower
    than what was seen. So no place in the stream is remembered. It is read from its beginning each
    time: what was answered is not there any more.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: str,
        wait: Callable[[str, float], Awaitable[bool]] | None = None,
    ) -> None:
        """Wait by `wait`, behind an id and for so many seconds, or by reading itself."""
        self._client = client
        self._stream = stream
        self._wait = wait
        self._handed_out: set[str] = set()
        self._is_checked = False

    async def next(self) -> tuple[Entry, ...]:
        """What was not handed out yet, perhaps nothing after some seconds."""
        if not self._is_checked and not self._handed_out:
            await self._renew_if_exhausted()
        there: set[str] = set()
        # Until what was handed out is answered, the stream is read anew soon.
        after, wait = "0", _UNANSWERED_WAIT if self._handed_out else STREAM_WAIT
        while found := await self._read(after, wait):
            there.update(entry.id for entry in found)
            fresh = tuple(entry for entry in found if entry.id not in self._handed_out)
            if fresh and len(self._handed_out) >= _UNANSWERED_MOST:
                await asyncio.sleep(_UNANSWERED_WAIT)
                break
            if fresh:
                self._handed_out.update(entry.id for entry in fresh)
                self._is_checked = False
                return fresh
            after = found[-1].id
        self._handed_out &= there
        return ()

    async def _read(self, after: str, wait: float) -> tuple[Entry, ...]:
        """The next entries behind the id `after`; waits up to `wait` seconds for one."""
        if self._wait is None:
            return await _read(self._client, self._stream, "request", after, wait)
        found = await _read(self._client, self._stream, "request", after, None)
        if found:
            return found
        if not await self._wait(after, wait):
            return ()
        return await _read(self._client, self._stream, "request", after, None)

    async def _renew_if_exhausted(self) -> None:
        """Delete the stream if its last id is the last of all: nobody could ask for anything."""
        self._is_checked = True
        try:
            known: Any = await self._client.xinfo_stream(self._stream)
        except exceptions.NoPermissionError:
            raise
        except exceptions.ResponseError:  # there is none; or reading it says what it is
            return
        if known["length"] == 0 and known["last-generated-id"] == _LAST_ID:
            await self._client.delete(self._stream)


async def _read(
    client: redis.Redis, stream: str, field: str, after: str, wait: float | None
) -> tuple[Entry, ...]:
    """The next entries after the id `after`; waits up to `wait` seconds for one, None for not."""
    block = None if wait is None else int(wait * 1000)
    reply: Any = await client.xread({stream: after}, 20, block)
    return _entries(reply, field)


def _entries(reply: Any, field: str) -> tuple[Entry, ...]:
    """The entries of one stream's XREAD, in either shape that redis-py gives it."""
    streams = reply.values() if isinstance(reply, dict) else [rows for _, rows in reply or []]
    return tuple(
        Entry(str(entry), str(fields.get(field, "")))
        for rows in streams
        for entry, fields in (rows[0] if rows and isinstance(rows[0], list) else rows)
    )


def _outcome(reply: Sequence[Any]) -> Fenced | Stale | None:
    """Why nothing was written; None if it was."""
    status, value = reply
    match status:
        case "ok":
            return None
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
        keks, roots = (tuple(map(str, fields.get(name, ()))) for name in ("keks", "roots"))
        may_lead, policy = fields.get("lead") is True, str(fields.get("policy", ""))[:_DIGEST]
        algorithms = _algorithms(fields.get("algorithms"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        fields, edition, role = {}, (0, 0), "unknown"
        keks = roots = algorithms = ()
        may_lead, policy = False, ""
    seen_at = from_ms(int(min(max(0.0, float(seen)), LATEST_MS)))
    verifies, known = _rate(fields.get("verifies")), _rate(fields.get("known"))
    return Instance(
        str(instance)[:80], role, *edition, seen_at, keks, roots,
        verifies=verifies, known=known, may_lead=may_lead, policy=policy, algorithms=algorithms,
    )  # fmt: skip


def _count(value: object) -> int:
    """How many that says; 0 for what is no number, and no more than can be."""
    return min(int(str(value)), MOST) if re.fullmatch("[0-9]+", str(value), re.ASCII) else 0


def _rate(told: Any) -> float:
    """What an instance says that it verifies a second; 0 for what none can."""
    if type(told) not in (int, float) or not 0 <= told <= _VERIFIES_MOST:
        return 0.0
    return float(told)


def _algorithms(told: object) -> tuple[str, ...]:
    """The names of algorithms in a row of the table; none where it tells nothing of the kind."""
    names = told if isinstance(told, list) else []
    return tuple(name[:_NAME_MOST] for name in names[:_NAMES_MOST] if isinstance(name, str))
