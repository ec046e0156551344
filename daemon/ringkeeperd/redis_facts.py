"""What a Redis says of itself, for `doctor` to judge; None for what it would not say."""

from __future__ import annotations

import ipaddress
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


async def server_facts(configuration: Configuration) -> ServerFacts:
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
