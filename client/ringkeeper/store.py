"""Redis as a reader of a ring sees it: the hash, the sealed keys, the channel, the confirmations.

`Store` is what the follower needs; `RedisStore` is the real one. What Redis says is never trusted
here: it is handed on as text, and `replica` judges it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis import exceptions

from ringkeeper.algorithms import LONGEST_KID
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RedisUnavailable
from ringkeeper.layout import KEPT_THERE, STRETCH, Layout
from ringkeeper.sealing import MAX_SEALED
from ringkeeper.testimony import MAX_TESTIMONY
from ringkeeper.topology import close, is_sharded, speaking, waiting_apart
from ringkeeper.wire import PROOF, SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    import redis.asyncio as redis
    from redis.asyncio.client import PubSub

    from ringkeeper.clock import Clock
    from ringkeeper.signed import Signed

_EARLY_NONES: Final = 3
_DOCUMENTS: Final = {"snapshot": SNAPSHOT.limit, "proof": PROOF.limit, "version": 20}
"""The fields of the hash, and the most bytes that each of them may have."""


# --- what a follower needs -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """The documents in the hash, unverified; empty where there is none."""

    snapshot: str
    proof: str
    version: str = "0"
    """What the scripts compare with; readers trust only what is signed."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The channel was joined, or joined again: whatever came before may have been missed."""


@dataclass(frozen=True, slots=True)
class Published:
    """A message: a new version with its proof, or (empty `snapshot`) a proof alone."""

    snapshot: str
    proof: str

    @classmethod
    def decode(cls, text: str) -> Published | Released | Witnessed:
        """The message that `encode` made; whatever else comes is left for `replica` to refuse."""
        if text == _WITNESSED:
            return Witnessed()
        snapshot, _, proof = text.partition("\n")
        return cls(snapshot, proof) if text else Released()

    def encode(self) -> str:
        """Two lines: the snapshot, the proof."""
        return f"{self.snapshot}\n{self.proof}"


@dataclass(frozen=True, slots=True)
class Released:
    """A leader let the lease go: whoever may lead can take it at once."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The server answered, a ping as a rule: it is there, and so is the way to it."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Somebody knows something that Redis seems to have lost, and wrote it down there."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed private key of the version that comes next, so that nobody has to read it."""

    kid: str
    sealed: str = field(repr=False)

    @classmethod
    def decode(cls, text: str) -> Sealed | None:
        """The message that publish.lua makes, two lines; None for what is none."""
        kid, _, sealed = text.rpartition("\n")
        is_sound = 0 < len(kid) <= LONGEST_KID and 0 < len(sealed) <= MAX_SEALED
        return cls(kid, sealed) if is_sound else None


Heard = Subscribed | Published | Sealed | Released | Witnessed | Pong
_WITNESSED: Final = "witness"


class Subscription(Protocol):
    """One connection that listens to a ring's channel."""

    async def next(self, timeout: float) -> Heard | None:  # noqa: ASYNC109
        """The next thing heard, or None after `timeout` seconds of silence."""
        ...

    async def ping(self) -> None:
        """Ask for a `Pong`."""
        ...


class Store(Protocol):
    """A ring's place in Redis, for reading. Every method raises `RedisUnavailable`."""

    def subscribe(self) -> AbstractAsyncContextManager[Subscription]:
        """Listen to the channel, and perhaps to that of sealed keys."""
        ...

    async def read(self) -> Stored:
        """The documents in the hash."""
        ...

    async def sealed(self, kids: Sequence[str]) -> dict[str, str]:
        """The sealed private keys of those kids, as far as there are any."""
        ...

    async def confirm(self, instance: str, record: str) -> None:
        """Say that `instance` is alive and what it confirms."""
        ...

    async def forget(self, instance: str) -> None:
        """Say that `instance` leaves, so that nobody waits for it."""
        ...

    async def testimony(self) -> str:
        """What a witness wrote down, unverified; empty if none did."""
        ...

    async def testify(self, testimony: str, ttl: timedelta) -> None:
        """Write down, for `ttl`, what Redis seems to have lost, and call the leader."""
        ...

    async def reconnect(self) -> None:
        """Let the connections for commands go: the next one asks anew where the primary is."""
        ...

    async def close(self) -> None:
        """Let every connection go."""
        ...


# --- the real one --------------------------------------------------------------------------------


class RedisStore:
    """A ring's place in a real Redis, for reading."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        *,
        clock: Clock | None = None,
        hears_sealed: bool = False,
    ) -> None:
        """Read the ring `name` with `client`, which this store closes in the end.

        `hears_sealed`: who subscribes is also handed new private keys, sealed, if it may be.
        """
        self._client = client
        self._hears_sealed = hears_sealed
        self._clock = clock or SystemClock()
        self._is_sharded = is_sharded(client)
        self.layout: Layout = Layout(name)
        self.where: str = f"redis, ring {name!r}"

    @property
    def publishing(self) -> str:
        """The command that reaches all who listen."""
        return "SPUBLISH" if self._is_sharded else "PUBLISH"

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        """Listen to the channel, or both, on a connection of its own."""
        also = self.layout.sealed if self._hears_sealed else ""
        async with AsyncExitStack() as leaving:
            with speaking(self.where, "subscribing"):
                there = await leaving.enter_async_context(waiting_apart(self._client))
                pubsub = await leaving.enter_async_context(_listening(there))
                join = pubsub.ssubscribe if self._is_sharded else pubsub.subscribe
                await join(self.layout.published)
                if also:
                    await join(also)  # by itself, for it may be refused
            yield _RedisSubscription(pubsub, self._clock, self.where, also)

    async def read(self) -> Stored:
        """The documents in the hash."""
        with speaking(self.where, "reading the keyring"):
            snapshot, proof, version = await self._fetched(self.layout.keyring, _DOCUMENTS)
        return Stored(snapshot, proof, version or "0")

    async def sealed(self, kids: Sequence[str]) -> dict[str, str]:
        """The sealed private keys of those kids, as far as there are any."""
        if not kids:
            return {}
        with speaking(self.where, "reading sealed keys"):
            found = await self._fetched(self.layout.sealed, dict.fromkeys(kids, MAX_SEALED))
        return {
            kid: sealed for kid, sealed in zip(dict.fromkeys(kids), found, strict=True) if sealed
        }

    async def _fetched(self, key: str, limits: Mapping[str, int]) -> list[str]:
        """The fields that `limits` names, with the most bytes of each; empty where there is none.

        What is longer is not read: in its place stands a text that is too long for a document, too,
        and whoever opens it says so. Lengths are asked for first (O(1) each), not by a script: who
        may run one may run any, for as long as it likes, and apps need not.
        """
        async with self._client.pipeline(transaction=False) as asking:
            for name in limits:
                asking.hstrlen(key, name)
            lengths = await asking.execute()
        found = {
            name: "?" * (most + 1)
            for (name, most), length in zip(limits.items(), lengths, strict=True)
            if length > most
        }
        wanted = [name for name in limits if name not in found]
        if wanted:
            values = await self._client.hmget(key, wanted)
            found |= {name: str(v or "") for name, v in zip(wanted, values, strict=True)}
        return [found[name] for name in limits]

    async def confirm(self, instance: str, record: str) -> None:
        """Say that `instance` is alive and what it confirms; by Redis' clock, which all share.

        Not by a script: who may run one may run any, for as long as it likes, and apps need not.
        """
        with speaking(self.where, "confirming"):
            seconds, microseconds = await self._client.time()
            now_ms = seconds * 1000 + microseconds // 1000
            async with self._client.pipeline(transaction=False) as both:
                # In this order: who is heard of without a row confirmed nothing, and is forgotten
                # in time; a row that was never heard of would stay.
                both.zadd(self.layout.seen, {instance: now_ms})
                both.hset(self.layout.instances, instance, record)
                await both.execute()

    async def forget(self, instance: str) -> None:
        """Say that `instance` leaves."""
        with speaking(self.where, "leaving"):
            await self._client.hdel(self.layout.instances, instance)
            await self._client.zrem(self.layout.seen, instance)

    async def testimony(self) -> str:
        """What a witness wrote down, unverified; empty if none did."""
        with speaking(self.where, "reading the witness"):
            try:
                # One more than there may be: what is longer is refused, and never read whole.
                told = await self._client.getrange(self.layout.witness, 0, MAX_TESTIMONY)
            except exceptions.ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                return ""  # whoever has something to say will write over it
        return str(told or "")

    async def testify(self, testimony: str, ttl: timedelta) -> None:
        """Write down, for `ttl`, what Redis seems to have lost, and call the leader."""
        with speaking(self.where, "being a witness"):
            await self._client.set(self.layout.witness, testimony, px=ttl)
            say = self._client.spublish if self._is_sharded else self._client.publish
            # Whose ACL has no such leave is heard all the same: the leader looks with each proof.
            with suppress(exceptions.NoPermissionError):
                await say(self.layout.published, _WITNESSED)

    async def seconds(self) -> int:
        """Redis' time, in seconds since the epoch."""
        with speaking(self.where, "asking for its time"):
            seconds, _ = await self._client.time()
        return int(seconds)

    async def count_refreshes(self, counted: Mapping[int, Mapping[str, int]]) -> None:
        """Add these: bucket, by its number since the epoch, to reason to how many."""
        with speaking(self.where, "counting refreshes"):
            async with self._client.pipeline(transaction=False) as adding:
                for bucket, counts in counted.items():
                    key = self.layout.refreshes(bucket)
                    for reason, count in counts.items():
                        adding.hincrby(key, f"{bucket}:{reason}", count)
                    adding.expire(key, KEPT_THERE)
                await adding.execute()

    async def count_signed(self, signed: Iterable[Signed]) -> None:
        """Add these tokens; what they lie in goes once all of it has expired."""
        gone_at: dict[str, int] = {}
        with speaking(self.where, "counting tokens"):
            async with self._client.pipeline(transaction=False) as adding:
                for step, expires, kid, tokens in signed:
                    key, held = self.layout.signed(step, expires), step * STRETCH
                    gone_at[key] = (expires // held + 1) * held
                    adding.hincrby(key, f"{expires}:{kid}", tokens)
                for key, at in gone_at.items():
                    adding.expireat(key, at)
                await adding.execute()

    async def reconnect(self) -> None:
        """Let the connections for commands go: the next one asks anew where the primary is."""
        with suppress(exceptions.RedisError, OSError):
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Let every connection go."""
        await close(self._client)


@asynccontextmanager
async def _listening(there: redis.Redis) -> AsyncIterator[PubSub]:
    pubsub = there.pubsub()
    try:
        yield pubsub
    finally:
        # Never politely: a polite goodbye to a dead peer waits for its answer.
        with suppress(exceptions.RedisError, OSError):
            await pubsub.aclose()  # type: ignore[no-untyped-call]


class _RedisSubscription:
    """redis-py's PubSub, with its two silences made loud.

    A dead peer makes `get_message` return None at once, for ever: three that come early mean
    that the connection is gone. And a connection that redis-py restored by itself shows only in
    a second confirmation of the subscription: it is handed on, because messages were missed.

    Who may not hear of sealed keys, for its ACL is of an earlier release, goes on without.
    """

    def __init__(self, pubsub: PubSub, clock: Clock, where: str, also: str = "") -> None:
        self._pubsub = pubsub
        self._clock = clock
        self._where = where
        self._also = also
        """The channel of sealed keys, if that was asked for."""
        self._awaited = also
        """The same, until Redis has answered."""
        self._is_joined = False
        self._early = 0

    async def next(self, timeout: float) -> Heard | None:  # noqa: ASYNC109
        """The next thing heard, or None after `timeout` seconds of silence."""
        asked = self._clock.monotonic()
        with speaking(self._where, "listening"):
            message = await self._message(timeout)
        # A dead peer may answer without ever yielding to the event loop: see to it that it runs.
        await asyncio.sleep(0)
        if message is None:
            self._judge_silence(self._clock.monotonic() - asked, timeout)
            return None
        self._early = 0
        is_sealed = self._also != "" and message["channel"] == self._also
        match message["type"]:
            case "subscribe" | "ssubscribe" if is_sealed:
                self._awaited = ""
                return Pong()
            case "subscribe" | "ssubscribe":
                self._is_joined = True
                return Subscribed()
            case "sunsubscribe":
                raise RedisUnavailable(f"{self._where}: listening: the ring moved to another node")
            case "message" | "smessage" if is_sealed:
                return Sealed.decode(str(message["data"])) or Pong()
            case "message" | "smessage":
                return Published.decode(str(message["data"]))
            case "pong":
                return Pong()
            case _:
                return None

    async def _message(self, timeout: float) -> dict[str, Any] | None:  # noqa: ASYNC109
        """What redis-py has heard; that the second channel was refused is an answer like a pong."""
        try:
            message: dict[str, Any] | None = await self._pubsub.get_message(timeout=timeout)
        except exceptions.NoPermissionError:
            if not (self._is_joined and self._awaited):
                raise
            # Not to be asked for again: where redis-py connects anew, it asks for both at once.
            self._pubsub.channels.pop(self._also, None)
            self._pubsub.shard_channels.pop(self._also, None)
            self._awaited = ""
            return {"type": "pong", "channel": None}
        except (exceptions.RedisError, OSError):
            self._is_joined = False  # it may ask for both at once from now on
            raise
        return message

    async def ping(self) -> None:
        """Ask for a `Pong`."""
        with speaking(self._where, "listening"):
            await self._pubsub.ping()

    def _judge_silence(self, lasted: float, timeout: float) -> None:
        self._early = self._early + 1 if lasted < timeout / 2 else 0
        if self._early >= _EARLY_NONES:
            raise RedisUnavailable(f"{self._where}: listening: the connection is dead")
