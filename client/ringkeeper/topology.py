"""Where Redis is: one server, the primary that Sentinels name, or the node of a Cluster.

All keys of a ring share one slot, so in a Cluster, too, a ring lives at one server at a time, and
redis-py's plain client can speak to it: a connection asks where that is whenever it connects, as
one behind Sentinels does, and lets go of a server that says it is elsewhere.

Every client fails fast and never retries by itself: a retry after a lost reply would see its own
write and mistake it for another's, and backing off is the callers' business.
"""

from __future__ import annotations

import ast
import asyncio
import random
from contextlib import asynccontextmanager, contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions
from redis.asyncio.client import Redis
from redis.asyncio.connection import Connection, ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.credentials import CredentialProvider

from ringkeeper.errors import ConfigurationError, RedisUnavailable
from ringkeeper.layout import embedded_socket
from ringkeeper.redis_url import (
    REDIS_WANTED,
    OneServer,
    fleet_of,
    has_password,
    has_tls,
    is_fleet,
    problem_with,
    scheme_of,
    server_of,
)
from ringkeeper.scripts import explained
from ringkeeper.secret import Secret
from ringkeeper.tls import REMEDIES, Contexts, Tls, TlsConnection, TlsSentinelConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from redis.asyncio.connection import AbstractConnection

    from ringkeeper.redis_url import Fleet

COMMAND_TIMEOUT: Final = 2.0
"""Seconds: a server that takes longer for one of our commands counts as gone."""
ASKING_TIMEOUT: Final = 0.5
"""Seconds that one node has to say where the primary is before the next one is asked."""
FINDING_TIMEOUT: Final = 3.0
"""Seconds that all nodes of a Cluster together have for it: of sixty, many may be silent."""


# --- clients -------------------------------------------------------------------------------------


def connection_for(
    url: str | Secret,
    *,
    key: str = "",
    password: str | Secret | None = None,
    name: str = "",
    tls: Tls | None = None,
) -> Redis:
    """A client for `url`, as in the configuration, or `embedded:DIR` of a running daemon.

    In a Cluster it speaks to whichever node has `key`'s slot, and to no other.

    Raises:
        ConfigurationError: not such a URL, or what does not belong together.
        SecretError: a file for TLS that cannot be used.
    """
    # Hidden at once: error reporters ship the locals of all frames.
    url = Secret.of(url)
    password = None if password is None else Secret.of(password)
    files = tls or Tls()
    if problem := _problem(url, password, files):
        raise ConfigurationError([f"redis.url: {problem}"])
    options: dict[str, Any] = {
        "decode_responses": True,
        "encoding_errors": "replace",  # a forger's bytes are for the signature check to refuse
        "protocol": 2,
        "socket_timeout": COMMAND_TIMEOUT,
        "socket_connect_timeout": COMMAND_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "client_name": name or "ringkeeper",
        # Which library this is need not be asked leave for, with an ACL, on every connection.
        "driver_info": None,
    }
    contexts = Contexts(files) if has_tls(url) else None
    if is_fleet(url):
        return _fleet_client(fleet_of(url), key, password, options, contexts)
    if scheme_of(url) == "embedded":
        socket = embedded_socket(Path(url.reveal().removeprefix("embedded:")))
        server = OneServer("", 0, str(socket))
    else:
        server = server_of(url)
    return _server_client(server, password, options, contexts)


def _problem(url: object, password: Secret | None, tls: Tls) -> str:
    if not isinstance(url, Secret):
        return f"is no line of text; {REDIS_WANTED}"
    if problem := problem_with(url):
        return problem
    if password and has_password(url):
        return "holds a password, and one is given; remove one"
    if tls and not has_tls(url):
        return "has no TLS, and files for it are given; write rediss:// for TLS, or remove them"
    return ""


def _server_client(
    server: OneServer, password: Secret | None, options: dict[str, Any], contexts: Contexts | None
) -> Redis:
    options = {**options, "db": server.db, **_login(server.username, password or server.password)}
    if server.socket:
        kind: type[AbstractConnection] = UnixDomainSocketConnection
        where: dict[str, Any] = {"path": server.socket}
    else:
        kind, where = _kind(contexts), {"host": server.host, "port": server.port}
    return Redis.from_pool(ConnectionPool(kind, **options, **where, **_secured(contexts)))


def _fleet_client(
    fleet: Fleet,
    key: str,
    password: Secret | None,
    options: dict[str, Any],
    contexts: Contexts | None,
) -> Redis:
    options = {**options, **_login(fleet.username, password or fleet.password)}
    patience = {"socket_timeout": ASKING_TIMEOUT, "socket_connect_timeout": ASKING_TIMEOUT}
    secured = _secured(contexts)
    if fleet.is_cluster:
        finder = SlotFinder(fleet.nodes, key, {**options, **patience}, contexts)
        kind = TlsSlotConnection if contexts else SlotConnection
        return Redis.from_pool(ConnectionPool(kind, finder=finder, **options, **secured))
    asking = {
        **_login(fleet.sentinel_username, fleet.sentinel_password),
        **patience,
        "retry": options["retry"],
        "protocol": 2,
        "driver_info": None,
    }
    sentinel = _Sentinels([])  # type: ignore[no-untyped-call]
    sentinel.sentinels = [
        Redis.from_pool(ConnectionPool(_kind(contexts), host=host, port=port, **asking, **secured))
        for host, port in fleet.nodes
    ]
    if contexts:
        options |= {"connection_class": TlsSentinelConnection, **secured}
    primary: Redis = sentinel.master_for(fleet.service, db=fleet.db, **options)
    return primary


def _kind(contexts: Contexts | None) -> type[Connection]:
    return TlsConnection if contexts else Connection


def _secured(contexts: Contexts | None) -> dict[str, Any]:
    return {"contexts": contexts} if contexts else {}


class _Sentinels(Sentinel):
    """redis-py's Sentinels, but that they say why none of them answered, and none is lost.

    redis-py puts the one that answered first in its list by the place where it stood before it was
    asked: of two that ask at once, the later would write over a Sentinel that the other had moved.
    Each asks with a list of its own.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        asking = copy(self)
        asking.sentinels = list(self.sentinels)
        with suppress(MasterNotFoundError):
            found: tuple[str, int] = await super(_Sentinels, asking).discover_master(service_name)
            answered = asking.sentinels[0]
            self.sentinels.sort(key=lambda each: each is not answered)
            return found
        why = ""
        try:
            await self.sentinels[0].sentinel_masters()
        except exceptions.RedisError as error:
            why = f": {error}"
        raise MasterNotFoundError(f"No master found for {service_name!r}{why}")


class _Login(CredentialProvider):
    """Who we are, asked for by redis-py each time it connects: it keeps no password itself."""

    def __init__(self, username: str | None, password: Secret | None) -> None:
        self._username = username
        self._password = password

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password.reveal() if self._password else ""
        return (self._username, password) if self._username else (password,)


def _login(username: str | None, password: Secret | None) -> dict[str, Any]:
    is_named = username or password
    return {"credential_provider": _Login(username, password)} if is_named else {}


def is_sharded(client: Redis) -> bool:
    """Whether messages go by shard (SPUBLISH): in a Cluster."""
    return issubclass(client.connection_pool.connection_class, SlotConnection)


async def close(client: Redis) -> None:
    """Let every connection of `client` go, those to its Sentinels, too."""
    pool = client.connection_pool
    sentinels = pool.sentinel_manager.sentinels if isinstance(pool, SentinelConnectionPool) else ()
    for each in (client, *sentinels):
        with suppress(exceptions.RedisError, OSError):
            await each.aclose()


@asynccontextmanager
async def waiting_apart(
    client: Redis,
    *,
    timeout: float = COMMAND_TIMEOUT,  # noqa: ASYNC109
) -> AsyncIterator[Redis]:
    """A client for the same server, with connections of its own, to wait at.

    `timeout` (seconds) is for its commands. Of a pool of its own: in the common one a connection
    that listened would, closed, be the next to be used, and a program that ends could not say
    goodbye (it cannot connect any more).
    """
    common = client.connection_pool
    options = {**common.connection_kwargs, "socket_timeout": timeout}
    if isinstance(common, SentinelConnectionPool):
        options.pop("connection_pool", None)
        options["connection_class"] = common.connection_class
        pool: ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            common.service_name, common.sentinel_manager, **options
        )
    else:
        pool = ConnectionPool(common.connection_class, **options)
    apart = Redis.from_pool(pool)
    try:
        yield apart
    finally:
        with suppress(exceptions.RedisError, OSError):
            await apart.aclose()


# --- one slot of a Cluster -----------------------------------------------------------------------


class SlotFinder:
    """Knows which node of a Cluster has one slot, by asking the nodes."""

    def __init__(
        self,
        seeds: Sequence[tuple[str, int]],
        key: str,
        options: Mapping[str, Any],
        contexts: Contexts | None = None,
    ) -> None:
        """Look for the slot of `key`, asking `seeds` first, each with `options`."""
        self._seeds = tuple(seeds)
        self._known: tuple[tuple[str, int], ...] = ()
        self._slot = key_slot(key.encode())
        self._kind = _kind(contexts)
        self._options = {**options, **_secured(contexts)}

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
                pool = ConnectionPool(self._kind, host=host, port=port, **self._options)
                async with Redis.from_pool(pool) as node:
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


class SlotConnection(Connection):
    """A connection to the primary of one slot, looked for anew whenever it connects."""

    host: str
    port: int

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


class TlsSlotConnection(SlotConnection, TlsConnection):
    """The same with TLS; the certificate is to be for the host that the Cluster names."""


def _address(node: Sequence[Any], asked: str) -> tuple[str, int]:
    return str(node[0] or asked), int(node[1])


_MOST_KNOWN: Final = 64


# --- what fails ----------------------------------------------------------------------------------


@contextmanager
def speaking(where: str, doing: str) -> Iterator[None]:
    """Turn redis-py's errors into one line that says what failed and what to do.

    Whoever is cancelled meanwhile is: redis-py waits for what it sends with `asyncio.wait_for`,
    which forgets a cancellation that comes as that ends (Python 3.11), and elsewhere takes one for
    a time-out of its own.

    Raises:
        RedisUnavailable: Redis did not answer, refused us, or is not what it should be.
    """
    before = _cancellations()
    try:
        yield
        if _cancellations() > before:
            raise asyncio.CancelledError
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        if _cancellations() > before:
            raise asyncio.CancelledError from None
        why = _first_line(error) or type(error).__name__
        if isinstance(error, exceptions.MovedError):  # redis-py takes Redis' first word away
            why = f"MOVED {why}"
        remedy = _remedy(error, why)
        _forget_frames(error)
        is_answer = isinstance(error, exceptions.ResponseError)
        # No local of this frame: it would hold its own traceback, and that all the frames.
        raise RedisUnavailable(f"{where}: {doing}: {why}; {remedy}", is_answer=is_answer) from None


def _cancellations() -> int:
    """How often the present task was asked to end, if one runs."""
    with suppress(RuntimeError):
        task = asyncio.current_task()
        return task.cancelling() if task else 0
    return 0


def _forget_frames(error: BaseException | None) -> None:
    """Leave nothing of redis-py's frames: where a login was refused, the password is a local."""
    while error:
        error.__traceback__ = None
        error = error.__context__


_WIDEN: Final = "widen this user's ACL: docs/redis.md has what each needs"
_LOGIN: Final = "check the user and password, in redis.url or in redis.password_file"
_NO_LOGIN: Final = (
    "that Redis asks for no password: leave out redis.password_file, and the one in redis.url"
)
_EMBEDDED: Final = "valkey.sock"
_PERHAPS_TLS: Final = (
    "is Redis up and reachable? where it speaks TLS, write rediss://, and where it asks for a "
    "client certificate, give redis.tls.cert_file one"
)
# What Redis' own words begin with or hold, and what to do about it.
_REMEDIES: Final = (
    *REMEDIES,
    ("Permission denied", "let this user open it, or do this as the user whose server that is"),
    (_EMBEDDED, "the embedded server is not running: start the daemon, ringkeeper run"),
    ("Name or service not known", "is the host in redis.url right?"),
    ("without any password configured", _NO_LOGIN),
    ("username-password", _LOGIN),
    ("WRONGPASS", _LOGIN),
    ("Authentication required", "give redis.url, or redis.password_file, the password"),
    ("NOAUTH", "give redis.url, or redis.password_file, the password"),
    ("o permissions", _WIDEN),
    ("user executing the script can't", _WIDEN),
    ("read only replica", "this is a read-only replica: give redis.url the primary"),
    ("READONLY", "this is a read-only replica: give redis.url the primary"),
    ("WRONGTYPE", "something else uses a key of this ring's; move it, or rename the ring"),
    ("OOM", "give Redis more memory, and set maxmemory-policy noeviction"),
    ("'maxmemory'", "give Redis more memory, and set maxmemory-policy noeviction"),
    ("NOREPLICAS", "bring a replica back, or lower min-replicas-to-write"),
    ("MISCONF", "free the server's disk"),
    ("reset by peer", _PERHAPS_TLS),
    ("closed by server", _PERHAPS_TLS),
    ("No master found", "are the Sentinels reachable, and is that what they call the primary?"),
    ("cluster mode disabled", "that is no Cluster: give redis.url redis:// instead"),
    ("MOVED", "that is a Cluster: give redis.url redis+cluster:// instead"),
    ("CLUSTERDOWN", "a part of the Cluster is down; it goes on when that is back"),
)


def unavailable(where: str, doing: str, why: str) -> RedisUnavailable:
    """The error that says what Redis refused inside a script that went on all the same."""
    refusal = exceptions.ResponseError(why)
    return RedisUnavailable(f"{where}: {doing}: {why}; {_remedy(refusal, why)}")


def _remedy(error: BaseException, why: str) -> str:
    if _EMBEDDED in why and why.startswith("Timeout"):
        return "the embedded server does not answer: it hangs, or this host is overloaded"
    for words, remedy in _REMEDIES:
        if words in why:
            return remedy
    if isinstance(error, exceptions.ResponseError):
        return "see Redis' own documentation of that message"
    return "is Redis up and reachable?"


def _first_line(error: BaseException) -> str:
    _, of_pipeline, told = str(error).rpartition(" of pipeline caused error: ")
    if of_pipeline:  # what redis-py puts there is the tuple of the error's arguments
        with suppress(ValueError, SyntaxError, LookupError, TypeError):
            told = str(ast.literal_eval(told)[0])
    return explained(told).strip().split("\n")[0].rstrip(".")[:200]
