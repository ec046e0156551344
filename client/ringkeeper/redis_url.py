"""`redis.url`: which URLs are read, and what of one may be shown.

No message quotes a URL, nor any part of one that was not understood: a password may stand there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

REDIS_WANTED: Final = (
    "write redis://host:6379/0 (rediss:// for TLS, unix:///run/redis.sock, embedded:./var to try "
    "it out), with / ? # @ in a password percent-encoded"
)
# What redis-py takes from a URL wins over what we ask of it, so only these may stand there.
_REDIS_OPTIONS: Final = frozenset({"db", "username", "password"})
_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
SENTINEL: Final = "redis+sentinel"
CLUSTER: Final = "redis+cluster"
_PORTS: Final = {SENTINEL: 26379, CLUSTER: 6379}
_OPTIONS: Final = {
    SENTINEL: frozenset({"db", "sentinel_username", "sentinel_password"}),
    CLUSTER: frozenset(),
}


# --- one server ----------------------------------------------------------------------------------


def check_url(url: object) -> str:
    """`url`, if Redis may be there.

    Raises:
        ValueError: "why; what to do", without quoting it.
    """
    if not isinstance(url, str) or not url.isprintable():
        raise ValueError(f"is no line of text; {REDIS_WANTED}")
    scheme, _, rest = url.partition(":")
    if scheme == "embedded":
        if not rest or rest.startswith("//"):
            raise ValueError("names no directory; write embedded:./var")
        return url
    if is_fleet(url):
        fleet_of(url)
        return url
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"is no URL that ringkeeper reads; {REDIS_WANTED}")
    try:
        parts = urlsplit(url)
        _ = parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # whose text may quote the password
        raise ValueError(f"cannot be taken apart; {REDIS_WANTED}") from None
    if not rest.startswith("//") or "#" in url:
        raise ValueError(f"cannot be taken apart; {REDIS_WANTED}")
    _check_place(parts)
    for option, given in options:
        _check_option(scheme, option, given)
    return url


def _check_place(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if parts.hostname or parts.path in ("", "/"):
            raise ValueError("names no socket; write unix:///run/redis.sock, with three slashes")
    elif not parts.hostname or not re.fullmatch(r"(?:/[0-9]{0,5})?", parts.path):
        raise ValueError(f"names no host, or a database that is no number; {REDIS_WANTED}")


def _check_option(scheme: str, option: str, given: str) -> None:
    known = _REDIS_OPTIONS | (_TLS_OPTIONS if scheme == "rediss" else frozenset())
    if option not in known:
        raise ValueError(
            "has an option after ? that is not known here; only db, username, password and, with "
            f"rediss://, {', '.join(sorted(_TLS_OPTIONS))} may stand there"
        )
    if option == "db" and not re.fullmatch(r"[0-9]{1,5}", given):
        raise ValueError(f"names a database that is no number; {REDIS_WANTED}")


# --- several servers in one URL ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fleet:
    """`redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/PRIMARY/DB`, or `redis+cluster://…`."""

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    service: str = ""
    """What the Sentinels call the primary."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)


def is_fleet(url: str) -> bool:
    """Whether `url` names several servers."""
    return url.partition(":")[0] in _PORTS


def fleet_of(url: str) -> Fleet:
    """The servers that such a URL names.

    Raises:
        ValueError: what is wrong with it, without quoting it: a password may stand there.
    """
    try:
        parts = urlsplit(url)
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError:
        parts, options = SplitResult("", "", "", "", ""), {}
    scheme = parts.scheme
    example = "name-of-the-primary/0" if scheme == SENTINEL else ""
    wanted = f"write {url.partition(':')[0]}://host:{_PORTS[url.partition(':')[0]]},host2/{example}"
    if not parts.netloc or "#" in url:
        raise ValueError(f"cannot be taken apart; {wanted}")
    if options.keys() - _OPTIONS[scheme]:  # not named: it may be a password
        raise ValueError(
            f"has an option after ? that is not known here; "
            f"{', '.join(sorted(_OPTIONS[scheme])) or 'none'} may stand there"
        )
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    db = options.get("db", db)
    if scheme == CLUSTER and (service or db):
        raise ValueError(f"names a database, and a Cluster has only one; {wanted}")
    if scheme == SENTINEL and not service:
        raise ValueError(f"does not say what the Sentinels call the primary; {wanted}")
    if db and not (db.isascii() and db.isdecimal() and len(db) < 6):  # noqa: PLR2004
        raise ValueError(f"names a database that is no number; {wanted}")
    return Fleet(
        scheme=scheme,
        nodes=tuple(_node(host, scheme, wanted) for host in hosts.split(",")),
        service=unquote(service),
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _node(text: str, scheme: str, wanted: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError(f"names no host; {wanted}")
    return host, port or _PORTS[scheme]


def has_password(url: str) -> bool:
    """Whether the password for Redis stands in `url`."""
    if is_fleet(url):
        return fleet_of(url).password is not None
    parts = urlsplit(url)
    return bool(parts.password) or "password" in dict(parse_qsl(parts.query))


# --- what may be shown ---------------------------------------------------------------------------


def shown(url: str) -> str:
    """Where `url` leads, and nothing else that stands in it: user, password, options."""
    try:
        parts = urlsplit(check_url(url))
    except ValueError:
        return "a URL that cannot be read"
    if parts.scheme == "embedded":
        return url
    if is_fleet(url):
        fleet = fleet_of(url)
        hosts, path = ",".join(_host(*node) for node in fleet.nodes), f"/{fleet.service}"
        return f"{fleet.scheme}://{hosts}{path if fleet.service else ''}"
    return f"{parts.scheme}://{_host(parts.hostname or '', parts.port)}{parts.path}"


def _host(name: str, port: int | None) -> str:
    host = f"[{name}]" if ":" in name else name
    return host if port is None else f"{host}:{port}"
