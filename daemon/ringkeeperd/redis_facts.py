"""What a Redis says of itself, for `doctor` to judge; None for what it would not say."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from redis import exceptions

from ringkeeper.clock import SystemClock, from_ms
from ringkeeper.layout import Layout
from ringkeeper.redis_url import fleet_of, has_tls, is_fleet, scheme_of, shown
from ringkeeper.topology import close, connection_for, speaking
from ringkeeperd.doctor import ServerFacts, Way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import redis.asyncio as redis

    from ringkeeper.configuration import Configuration
    from ringkeeper.secret import Secret

_SETTINGS: Final = (
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "save",
    "min-replicas-to-write",
    "maxclients",
)


async def server_facts(configuration: Configuration, *, is_brief: bool = False) -> ServerFacts:
    """What the server says of itself; `is_brief`: what INFO alone tells.

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
    try:
        return await facts_of(client, _way(configuration.redis_url), is_brief=is_brief)
    finally:
        await close(client)


async def facts_of(client: redis.Redis, way: Way, *, is_brief: bool = False) -> ServerFacts:
    """The same of the server that `client` speaks to, reached in this `way`."""
    clock = SystemClock()
    with speaking("redis", "asking for its time"):
        before = clock.now()
        seconds, micros = await client.time()
        after = clock.now()
    there = from_ms(int(seconds) * 1000 + int(micros) // 1000)
    info = await _info(client)
    facts = ServerFacts(
        version=_version(info),
        settings=_told_by(info),
        info=info,
        offset=there - before - (after - before) / 2,
        way=way,
    )
    if is_brief:  # what this user may not ask would stand in the server's ACL LOG, again and again
        return facts
    user = await _allowed(client.acl_whoami)
    settings = await _allowed(lambda: client.config_get(*_SETTINGS))
    return replace(
        facts,
        settings=settings or facts.settings,
        user=str(user) if user else None,
        rights=_rights(await _allowed(lambda: client.acl_getuser(str(user)))) if user else None,
    )


async def _allowed(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What is answered; None where this user may not ask, or the server does not know how."""
    try:
        return await ask()
    except exceptions.ResponseError:
        return None


async def _info(client: redis.Redis) -> dict[str, str] | None:
    found = await _allowed(client.info)
    return None if found is None else {str(k): str(v) for k, v in found.items()}


def _told_by(info: dict[str, str] | None) -> dict[str, str] | None:
    """As far as INFO shows them, the settings that CONFIG GET would."""
    if info is None:
        return None
    return {
        "maxmemory": info.get("maxmemory", "0"),
        "maxmemory-policy": info.get("maxmemory_policy", ""),
        "appendonly": "yes" if info.get("aof_enabled") == "1" else "no",
    }


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
