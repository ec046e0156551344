"""Where Redis is: one server, the primary that Sentinels name, or the node of a Cluster.

All keys of a ring share one slot, so in a Cluster, too, a ring lives at one server at a time, and
redis-py's plain client can speak to it: a connection asks where that is whenever it connects, as
one behind Sentinels does, and lets go of a server that says it is elsewhere.

Every client fails fast and never retries by itself: a retry after a lost reply would see its own
write and mistake it for another's, and backing off is the callers' business.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as redis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot

from ringkeeper.errors import ConfigurationError, RedisUnavailable
from ringkeeper.layout import embedded_socket
from ringkeeper.redis_url import CLUSTER, check_url, fleet_of, has_password, is_fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from ringkeeper.redis_url import Fleet

COMMAND_TIMEOUT: Final = 2.0
"""Seconds: a server that takes longer for one of our commands counts as gone."""
ASKING_TIMEOUT: Final = 0.5
"""Seconds that one node has to say where the primary is before the next one is asked."""
FINDING_TIMEOUT: Final = 3.0
"""Seconds that all nodes of a Cluster together have for it: of sixty, many may be silent."""


# --- clients -------------------------------------------------------------------------------------


def connection_for(
    url: str, *, key: str = "", password: str | None = None, name: str = ""
) -> redis.Redis:
    """A client for `url`, as in the configuration, or `embedded:DIR` of a running daemon.

    In a Cluster it speaks to whichever node has `key`'s slot, and to no other.

    Raises:
        ConfigurationError: not such a URL.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise ConfigurationError([f"redis.url: {error}"]) from None
    if password and has_password(url):
        raise ConfigurationError(["redis.url: holds a password, and one is given; remove one"])
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",  # a forger's bytes are for the signature check to refuse
        "protocol": 2,
        "socket_timeout": COMMAND_TIMEOUT,
        "socket_connect_timeout": COMMAND_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "client_name": name or "ringkeeper",
    }
    if is_fleet(url):
        return _fleet_client(fleet_of(url), key, password, options)
    if password is not None:
        options["password"] = password
    if url.startswith("embedded:"):
        socket = embedded_socket(Path(url.removeprefix("embedded:")))
        return redis.Redis(unix_socket_path=str(socket), **options)
    return redis.Redis.from_url(url, **options)


def _fleet_client(
    fleet: Fleet, key: str, password: str | None, options: dict[str, Any]
) -> redis.Redis:
    options = {
        **options,
        "username": fleet.username,
        "password": password if password is not None else fleet.password,
    }
    if fleet.scheme == CLUSTER:
        patience = {"socket_timeout": ASKING_TIMEOUT, "socket_connect_timeout": ASKING_TIMEOUT}
        finder = SlotFinder(fleet.nodes, key, {**options, **patience})
        pool = redis.ConnectionPool(connection_class=SlotConnection, finder=finder, **options)
        return redis.Redis.from_pool(pool)
    asking = {
        "username": fleet.sentinel_username,
        "password": fleet.sentinel_password,
        "socket_timeout": ASKING_TIMEOUT,
        "socket_connect_timeout": ASKING_TIMEOUT,
        "retry": options["retry"],
        "protocol": 2,
    }
    sentinel = Sentinel(list(fleet.nodes), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    primary: redis.Redis = sentinel.master_for(fleet.service, db=fleet.db, **options)
    return primary


def is_sharded(client: redis.Redis) -> bool:
    """Whether messages go by shard (SPUBLISH): in a Cluster."""
    return issubclass(client.connection_pool.connection_class, SlotConnection)


async def close(client: redis.Redis) -> None:
    """Let every connection of `client` go, those to its Sentinels, too."""
    pool = client.connection_pool
    sentinels = pool.sentinel_manager.sentinels if isinstance(pool, SentinelConnectionPool) else ()
    for each in (client, *sentinels):
        with suppress(exceptions.RedisError, OSError):
            await each.aclose()


@asynccontextmanager
async def waiting_apart(
    client: redis.Redis,
    *,
    timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
) -> AsyncIterator[redis.Redis]:
    """A client for the same server, with connections of its own, to wait at.

    `timeout` (seconds) is for its commands. Of a pool of its own: in the common one a connection
    that listened would, closed, be the next to be used, and a program that ends could not say
    goodbye (it cannot connect any more).
    """
    common = client.connection_pool
    options = {**common.connection_kwargs, "socket_timeout": timeout}
    if isinstance(common, SentinelConnectionPool):
        options.pop("connection_pool", None)
        pool: redis.ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            common.service_name, common.sentinel_manager, **options
        )
    else:
        pool = redis.ConnectionPool(common.connection_class, **options)
    apart = redis.Redis.from_pool(pool)
    try:
        yield apart
    finally:
        with suppress(exceptions.RedisError, OSError):
            await apart.aclose()


# --- one slot of a Cluster -----------------------------------------------------------------------


class SlotFinder:
    """Knows which node of a Cluster has one slot, by asking the nodes."""

    def __init__(
        self, seeds: Sequence[tuple[str, int]], key: str, options: Mapping[str, Any]
    ) -> None:
        """Look for the slot of `key`, asking `seeds` first, each with `options`."""
        self._seeds = tuple(seeds)
        self._known: tuple[tuple[str, int], ...] = ()
        self._slot = key_slot(key.encode())
        self._options = dict(options)

    async def primary(self) -> tuple[str, int]:
        """Host and port of the slot's primary, as the first node says that answers.

        Raises:
            redis.RedisError: none answers in time, or the slot is nobody's.
        """
        try:
            async with asyncio.timeout(FINDING_TIMEOUT):
                return await self._asked_for()
        except TimeoutError:
            raise exceptions.ConnectionError(
                f"no node of the Cluster said within {FINDING_TIMEOUT:g} s who has the slot"
            ) from None

    async def _asked_for(self) -> tuple[str, int]:
        failed: Exception = exceptions.ConnectionError("no node of the Cluster answers")
        asked = list(dict.fromkeys((*self._seeds, *self._known)))
        random.shuffle(asked)
        for host, port in asked:
            try:
                async with redis.Redis(host=host, port=port, **self._options) as node:
                    ranges: list[Any] = await node.execute_command(  # type: ignore[no-untyped-call]
                        "CLUSTER", "SLOTS"
                    )
            except (exceptions.RedisError, OSError) as error:
                failed = error
                continue
            self._known = tuple(_address(at, host) for r in ranges for at in r[2:])[:_MOST_KNOWN]
            for first, last, primary, *_ in ranges:
                if int(first) <= self._slot <= int(last):
                    return _address(primary, host)
            failed = exceptions.ClusterDownError("CLUSTERDOWN no node has the slot of this ring")
        raise failed


class SlotConnection(redis.Connection):
    """A connection to the primary of one slot, looked for anew whenever it connects."""

    def __init__(self, *, finder: SlotFinder, **options: Any) -> None:
        """Go where `finder` says."""
        super().__init__(**options)
        self._finder = finder

    async def connect(self) -> None:
        """Find the primary, and connect to it."""
        if not self.is_connected:
            self.host, self.port = await self._finder.primary()
        await super().connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next reply; where it says that the slot is not here, the connection is let go of."""
        try:
            return await super().read_response(*args, **options)
        except (
            exceptions.MovedError,
            exceptions.AskError,
            exceptions.ClusterDownError,
            exceptions.ReadOnlyError,
        ):
            await self.disconnect()
            raise


def _address(node: Sequence[Any], asked: str) -> tuple[str, int]:
    return str(node[0] or asked), int(node[1])


_MOST_KNOWN: Final = 64


# --- what fails ----------------------------------------------------------------------------------


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
        if isinstance(error, exceptions.MovedError):  # redis-py takes Redis' first word away
            why = f"MOVED {why}"
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
    ("'maxmemory'", "give Redis more memory, and set maxmemory-policy noeviction"),
    ("NOREPLICAS", "bring a replica back, or lower min-replicas-to-write"),
    ("MISCONF", "free the server's disk"),
    ("No master found", "are the Sentinels reachable, and is that what they call the primary?"),
    ("cluster mode disabled", "that is no Cluster: give redis.url redis:// instead"),
    ("MOVED", "that is a Cluster: give redis.url redis+cluster:// instead"),
    ("CLUSTERDOWN", "a part of the Cluster is down; it goes on when that is back"),
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
