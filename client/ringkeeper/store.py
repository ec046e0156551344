"""Redis as a reader of a ring sees it: the hash, the sealed keys, the channel, the confirmations.

`Store` is what the follower needs; `RedisStore` is the real one. What Redis says is never trusted
here: it is handed on as text, and `replica` judges it.
"""

from __future__ import annotations

import asyncio
import importlib.resources
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ringkeeper.clock import SystemClock
from ringkeeper.errors import ConfigurationError, RedisUnavailable
from ringkeeper.layout import Layout, embedded_socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from redis.asyncio.client import PubSub

    from ringkeeper.clock import Clock

COMMAND_TIMEOUT: Final = 2.0
"""Seconds: a server that takes longer for one of our commands counts as gone."""
_EARLY_NONES: Final = 3


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
    """The server answered a ping: it is there, and so is the way to it."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Somebody knows something that Redis seems to have lost, and wrote it down there."""


Heard = Subscribed | Published | Released | Witnessed | Pong
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
        """Listen to the channel."""
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

    async def close(self) -> None:
        """Let every connection go."""
        ...


# --- the real one --------------------------------------------------------------------------------


def connection_for(
    url: str, *, password: str | None = None, name: str = "", timeout: float = COMMAND_TIMEOUT
) -> redis.Redis:
    """A client for `url`: `redis:// rediss:// unix://`, or `embedded:DIR` of a running daemon.

    It fails fast and never retries by itself: a retry after a lost reply would see its own write
    and mistake it for another's, and backing off is the callers' business.

    Raises:
        ConfigurationError: not such a URL.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",  # a forger's bytes are for the signature check to refuse
        "protocol": 2,
        "socket_timeout": timeout,
        "socket_connect_timeout": COMMAND_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "client_name": name or "ringkeeper",
    }
    if password is not None:
        options["password"] = password
    if url.startswith("embedded:"):
        socket = embedded_socket(Path(url.removeprefix("embedded:")))
        return redis.Redis(unix_socket_path=str(socket), **options)
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError(
            [
                (
                    f"redis.url: {shown(url)!r} is no URL that ringkeeper reads; "
                    "use redis://, rediss://, unix:// or embedded:DIR"
                )
            ]
        )
    try:
        return redis.Redis.from_url(url, **options)
    except ValueError as error:
        raise ConfigurationError([f"redis.url: {shown(url)!r}: {error}"]) from None


def shown(url: str) -> str:
    """`url` without the password that it may hold."""
    if url.startswith("embedded:") or "@" not in url:
        return url.partition("?")[0]
    scheme, _, rest = url.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2].partition('?')[0]}"


@contextmanager
def speaking(where: str, doing: str) -> Iterator[None]:
    """Turn redis-py's errors into one line that says what failed and what to do.

    Raises:
        RedisUnavailable: Redis did not answer, refused us, or is not what it should be.
    """
    try:
        yield
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        why = _first_line(error) or type(error).__name__
        raise RedisUnavailable(f"{where}: {doing}: {why}; {_remedy(error, why)}") from None


# What Redis' own words begin with or hold, and what to do about it.
_REMEDIES: Final = (
    ("valkey.sock", "the embedded server is not running: start the daemon, ringkeeper run"),
    ("username-password", "check the user and password in redis.url"),
    ("WRONGPASS", "check the user and password in redis.url"),
    ("Authentication required", "give redis.url, or redis.password_file, the password"),
    ("NOAUTH", "give redis.url, or redis.password_file, the password"),
    ("NOPERM", "widen this user's ACL"),
    ("no permissions", "widen this user's ACL"),
    ("read only replica", "this is a read-only replica: give redis.url the primary"),
    ("READONLY", "this is a read-only replica: give redis.url the primary"),
    ("WRONGTYPE", "something else uses a key of this ring's; move it, or rename the ring"),
    ("OOM", "give Redis more memory, and set maxmemory-policy noeviction"),
    ("NOREPLICAS", "bring a replica back, or lower min-replicas-to-write"),
    ("MISCONF", "free the server's disk"),
)


def _remedy(error: BaseException, why: str) -> str:
    for words, remedy in _REMEDIES:
        if words in why:
            return remedy
    if isinstance(error, exceptions.ResponseError):
        return "see Redis' own documentation of that message"
    return "is Redis up and reachable?"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200]


def script(package: str, name: str) -> str:
    """The text of a Lua script that ships with `package`."""
    return importlib.resources.files(package).joinpath("lua", name).read_text("utf-8")


class RedisStore:
    """A ring's place in a real Redis, for reading."""

    def __init__(self, client: redis.Redis, name: str, *, clock: Clock | None = None) -> None:
        """Read the ring `name` with `client`, which this store closes in the end."""
        self._client = client
        self._clock = clock or SystemClock()
        self.layout = Layout(name)
        self.where = f"redis, ring {name!r}"
        self._confirm = client.register_script(script("ringkeeper", "confirm.lua"))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        """Listen to the channel on a connection of its own.

        Of a pool of its own, too: in the common one it would, closed, be the next to be used, and
        `forget` would have to connect anew, which a program that ends cannot do (no look-ups).
        """
        common = self._client.connection_pool
        pool = redis.ConnectionPool(common.connection_class, **common.connection_kwargs)
        pubsub = redis.Redis(connection_pool=pool).pubsub()
        try:
            with speaking(self.where, "subscribing"):
                await pubsub.subscribe(self.layout.published)
            yield _RedisSubscription(pubsub, self._clock, self.where)
        finally:
            # Never politely: a polite goodbye to a dead peer waits for its answer.
            with suppress(exceptions.RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            with suppress(exceptions.RedisError, OSError):
                await pool.aclose()

    async def read(self) -> Stored:
        """The documents in the hash."""
        with speaking(self.where, "reading the keyring"):
            reply = await self._client.hmget(self.layout.keyring, ["snapshot", "proof", "version"])
        snapshot, proof, version = reply
        return Stored(str(snapshot or ""), str(proof or ""), str(version or "0"))

    async def sealed(self, kids: Sequence[str]) -> dict[str, str]:
        """The sealed private keys of those kids, as far as there are any."""
        if not kids:
            return {}
        with speaking(self.where, "reading sealed keys"):
            found = await self._client.hmget(self.layout.sealed, list(kids))
        return {kid: str(sealed) for kid, sealed in zip(kids, found, strict=True) if sealed}

    async def confirm(self, instance: str, record: str) -> None:
        """Say that `instance` is alive and what it confirms."""
        with speaking(self.where, "confirming"):
            await self._confirm(
                keys=[self.layout.instances, self.layout.seen], args=[instance, record]
            )

    async def forget(self, instance: str) -> None:
        """Say that `instance` leaves."""
        with speaking(self.where, "leaving"):
            await self._client.hdel(self.layout.instances, instance)
            await self._client.zrem(self.layout.seen, instance)

    async def testimony(self) -> str:
        """What a witness wrote down, unverified; empty if none did."""
        with speaking(self.where, "reading the witness"):
            return str(await self._client.get(self.layout.witness) or "")

    async def testify(self, testimony: str, ttl: timedelta) -> None:
        """Write down, for `ttl`, what Redis seems to have lost, and call the leader."""
        with speaking(self.where, "being a witness"):
            await self._client.set(self.layout.witness, testimony, px=ttl)
            await self._client.publish(self.layout.published, _WITNESSED)

    async def close(self) -> None:
        """Let every connection go."""
        with suppress(exceptions.RedisError, OSError):
            await self._client.aclose()


class _RedisSubscription:
    """redis-py's PubSub, with its two silences made loud.

    A dead peer makes `get_message` return None at once, for ever: three that come early mean
    that the connection is gone. And a connection that redis-py restored by itself shows only in
    a second confirmation of the subscription: it is handed on, because messages were missed.
    """

    def __init__(self, pubsub: PubSub, clock: Clock, where: str) -> None:
        self._pubsub = pubsub
        self._clock = clock
        self._where = where
        self._early = 0

    async def next(self, timeout: float) -> Heard | None:  # noqa: ASYNC109
        """The next thing heard, or None after `timeout` seconds of silence."""
        asked = self._clock.monotonic()
        with speaking(self._where, "listening"):
            message = await self._pubsub.get_message(timeout=timeout)
        # A dead peer may answer without ever yielding to the event loop: see to it that it runs.
        await asyncio.sleep(0)
        if message is None:
            self._judge_silence(self._clock.monotonic() - asked, timeout)
            return None
        self._early = 0
        match message["type"]:
            case "subscribe":
                return Subscribed()
            case "message":
                return Published.decode(str(message["data"]))
            case "pong":
                return Pong()
            case _:
                return None

    async def ping(self) -> None:
        """Ask for a `Pong`."""
        with speaking(self._where, "listening"):
            await self._pubsub.ping()

    def _judge_silence(self, lasted: float, timeout: float) -> None:
        self._early = self._early + 1 if lasted < timeout / 2 else 0
        if self._early >= _EARLY_NONES:
            raise RedisUnavailable(f"{self._where}: listening: the connection is dead")
