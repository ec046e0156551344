"""Gathers what `doctor` judges: from this host's files, from Redis, from each ring."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import stat
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis import exceptions

from ringkeeper.clock import SystemClock, from_ms
from ringkeeper.errors import RingkeeperError
from ringkeeper.kek_variable import WHY_NOT, KekVariable
from ringkeeper.layout import Layout
from ringkeeper.redis_url import fleet_of, has_tls, is_fleet, scheme_of, shown
from ringkeeper.topology import close, connection_for, speaking
from ringkeeperd.daemon import read_secrets
from ringkeeperd.doctor import (
    Finding,
    Level,
    RingFacts,
    ServerFacts,
    Way,
    examine_ring,
    examine_server,
)
from ringkeeperd.operator import Operator, at_ring
from ringkeeperd.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    import redis.asyncio as redis

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.sealing import Kek
    from ringkeeper.secret import Secret
    from ringkeeperd.service import Secrets

_SETTINGS: Final = (
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "save",
    "min-replicas-to-write",
    "maxclients",
)
_EVENTS_READ: Final = 1_000
_OTHERS_MAY: Final = stat.S_IRWXO


def examine(
    configuration: Configuration, rings: Sequence[RingConfiguration]
) -> Iterator[tuple[str, Finding]]:
    """Every finding, and what it is about: this host, Redis, or a ring by its name."""
    own: Secrets | None = None
    try:
        own = read_secrets(configuration)
    except RingkeeperError as error:
        yield "host", Finding("secrets", Level.FAIL, *_told(error))
    else:
        yield "host", _files(configuration)
    yield "host", _state_dir(configuration)
    try:
        facts = asyncio.run(_server(configuration))
    except RingkeeperError as error:
        yield "redis", Finding("connection", Level.FAIL, *_told(error))
        return
    for finding in examine_server(facts, rings[0].policy):
        yield "redis", finding
    if own is None:
        return
    for ring in rings:
        for finding in examine_ring(_ring(configuration, ring, own)):
            yield f"ring {ring.name}", finding


def _told(error: RingkeeperError) -> tuple[str, str]:
    """An error's line, "what; what to do", in two."""
    what, _, remedy = str(error).rpartition("; ")
    return (what, remedy) if what else (str(error), "see the daemon's log")


# --- this host -----------------------------------------------------------------------------------


def _files(configuration: Configuration) -> Finding:
    """The secret files were read, so their own modes are right; what of the way to them?"""
    for path in (configuration.trust_root, configuration.kek, configuration.trust_root_public):
        if isinstance(path, KekVariable):
            return Finding("secrets", Level.WARN, f"the KEK is in {path}", WHY_NOT)
        with suppress(OSError):
            folder = path.parent.stat()
            if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
                what = f"anyone may replace {path}: its folder is open to all"
                return Finding("secrets", Level.FAIL, what, f"chmod o-w {path.parent}")
    if configuration.lead:
        return Finding("secrets", Level.OK, "root and KEK are readable by this user alone")
    return Finding("secrets", Level.OK, "the public root alone: this daemon only follows")


def _state_dir(configuration: Configuration) -> Finding:
    where = configuration.state_dir
    try:
        mode = where.stat().st_mode
    except FileNotFoundError:
        what = f"{where}: not made yet; the daemon makes it"
        return Finding("state_dir", Level.OK, what)
    except OSError as error:
        what = f"{where}: {error.strerror}".lower()
        return Finding("state_dir", Level.FAIL, what, "let the daemon's user read and write there")
    if not os.access(where, os.R_OK | os.W_OK | os.X_OK):
        what = f"{where}: cannot be written by this user, so nothing outlives a loss of Redis"
        return Finding("state_dir", Level.FAIL, what, "run this as the daemon's user, or chown it")
    if mode & _OTHERS_MAY:
        what = f"{where}: others may look in (mode {stat.S_IMODE(mode):04o}); it holds sealed keys"
        return Finding("state_dir", Level.WARN, what, f"chmod 700 {where}")
    return Finding("state_dir", Level.OK, f"{where}: this user's own")


# --- Redis ---------------------------------------------------------------------------------------


async def _server(configuration: Configuration) -> ServerFacts:
    """What the server says of itself.

    Raises:
        RedisUnavailable: nothing at all, and why.
    """
    client = connection_for(
        configuration.redis_url,
        key=Layout(configuration.rings[0].name).keyring,
        password=configuration.redis_password,
        name="ringkeeper:doctor",
        tls=configuration.redis_tls,
    )
    clock = SystemClock()
    try:
        with speaking("redis", "asking for its time"):
            before = clock.now()
            seconds, micros = await client.time()
            after = clock.now()
        there = from_ms(int(seconds) * 1000 + int(micros) // 1000)
        user = await _allowed(client.acl_whoami)
        return ServerFacts(
            version=_version(await _info(client, "server")),
            settings=await _allowed(lambda: client.config_get(*_SETTINGS)),
            info={
                **(await _info(client, "clients") or {}),
                **(await _info(client, "replication") or {}),
                **(await _info(client, "persistence") or {}),
            },
            user=str(user) if user else None,
            rights=_rights(await _allowed(lambda: client.acl_getuser(str(user)))) if user else None,
            offset=there - before - (after - before) / 2,
            way=_way(configuration.redis_url),
        )
    finally:
        await close(client)


async def _allowed(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What is answered; None where this user may not ask, or the server does not know how."""
    try:
        return await ask()
    except exceptions.ResponseError:
        return None


async def _info(client: redis.Redis, section: str) -> dict[str, str] | None:
    found = await _allowed(lambda: client.info(section))
    return None if found is None else {str(k): str(v) for k, v in found.items()}


def _version(info: dict[str, str] | None) -> str | None:
    if info is None:
        return None
    valkey = info.get("valkey_version")
    return f"{valkey} (Valkey)" if valkey else info.get("redis_version")


def _rights(found: Any) -> tuple[str, ...] | None:
    if not isinstance(found, dict):
        return None
    told = [found.get(name) for name in ("flags", "commands", "keys", "channels")]
    told += [found.get("categories")]
    return tuple(
        part
        for each in told
        if each
        for part in ([each] if isinstance(each, str) else map(str, each))
    )


def _way(url: Secret) -> Way:
    if scheme_of(url) in ("embedded", "unix"):
        return Way.SOCKET
    if has_tls(url):
        return Way.TLS
    parts = urlsplit(shown(url))
    hosts = [host for host, _ in fleet_of(url).nodes] if is_fleet(url) else [parts.hostname]
    return Way.LOOPBACK if all(_is_here(host or "") for host in hosts) else Way.CLEAR


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- a ring --------------------------------------------------------------------------------------


def _ring(configuration: Configuration, ring: RingConfiguration, own: Secrets) -> RingFacts:
    keks = own.kek.kids if own.kek else ()
    roots = own.root.kids if own.root else ()
    facts = RingFacts(ring.name, ring.policy, SystemClock().now(), keks=keks, roots=roots)
    try:
        return at_ring(configuration, ring.name, lambda operator: _seen(operator, facts, own.kek))
    except RingkeeperError as error:
        return replace(facts, trouble=str(error))


async def _seen(operator: Operator, facts: RingFacts, kek: Kek | None) -> RingFacts:
    seen = await operator.inspect(kek)
    trail = Trail(seen.ring.name, seen.ring.id, operator.roots)
    lines = [trail.read(e.document) for e in (await operator.recent_events(_EVENTS_READ))[::-1]]
    flaws = [line.flaw for line in lines if line.flaw]
    end = trail.end(seen.proof)
    return replace(facts, seen=seen, flaws=tuple([*flaws, end] if end else flaws))
