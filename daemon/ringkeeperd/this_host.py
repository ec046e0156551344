"""Who asks over HTTP from this very host: to them more may be told, and from them more is taken."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ringkeeperd.lean import web

_FOR_OTHERS: Final = re.compile(
    r"forwarded|via|x-forwarded-.*|x-real-ip|x-client-ip|x-envoy-external-address|true-client-ip"
    r"|cf-connecting-ip",
    re.IGNORECASE,
)
"""Headers that proxies send."""
_THIS_HOST: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?", re.IGNORECASE)


def is_from_here(request: web.Request) -> bool:
    """Whether `request` comes from this host, to localhost: no web page's trick with names."""
    return _is_loopback(request.remote) and _THIS_HOST.fullmatch(request.host) is not None


def speaks_for_others(request: web.Request) -> str:
    """The header that gives a proxy away; empty if none does."""
    return next(filter(_FOR_OTHERS.fullmatch, request.headers), "")


def _is_loopback(remote: str | None) -> bool:
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
