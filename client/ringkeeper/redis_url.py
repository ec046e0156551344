"""`redis.url`: which URLs are read, and what of one may be shown.

No message quotes a URL, nor any part of one that was not understood: a password may stand there.
What is wrong with one is handed on as text and raised further up, where no local holds the URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ringkeeper.secret import Secret

REDIS_WANTED: Final = (
    "write redis://host:6379/0 (rediss:// for TLS, unix:///run/redis.sock, embedded:./var to try "
    "it out), with / ? # @ in a password percent-encoded"
)
_REDIS_OPTIONS: Final = frozenset({"db", "username", "password"})
_SENTINEL: Final = frozenset({"redis+sentinel", "rediss+sentinel"})
_CLUSTER: Final = frozenset({"redis+cluster", "rediss+cluster"})
_FLEETS: Final = _SENTINEL | _CLUSTER
_SENTINEL_PORT: Final = 26379
_REDIS_PORT: Final = 6379
_SENTINEL_OPTIONS: Final = frozenset({"db", "sentinel_username", "sentinel_password"})


# --- one server ----------------------------------------------------------------------------------


def check_url(url: object) -> Secret:
    """`url`, if Redis may be there.

    Raises:
        ValueError: "why; what to do", without quoting it.
    """
    url = Secret(url) if isinstance(url, str) else url
    if not isinstance(url, Secret):
        raise ValueError(f"is no line of text; {REDIS_WANTED}")
    if why := problem_with(url):
        raise ValueError(why)
    return url


def problem_with(url: Secret) -> str:
    """Why Redis cannot be there, and what to do; empty if it can."""
    try:
        if is_fleet(url):
            _parse_fleet(url.reveal())
        else:
            _check_one(url.reveal())
    except ValueError as error:
        return str(error)
    return ""


def _check_one(url: str) -> None:
    if not url.isprintable():
        raise ValueError(f"is no line of text; {REDIS_WANTED}")
    scheme, _, rest = url.partition(":")
    if scheme == "embedded":
        if not rest or rest.startswith("//"):
            raise ValueError("names no directory; write embedded:./var")
        return
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
        _check_option(option, given)


def _check_place(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if parts.hostname or parts.path in ("", "/"):
            raise ValueError("names no socket; write unix:///run/redis.sock, with three slashes")
    elif not parts.hostname or not re.fullmatch(r"(?:/[0-9]{0,5})?", parts.path):
        raise ValueError(f"names no host, or a database that is no number; {REDIS_WANTED}")


def _check_option(option: str, given: str) -> None:
    if option.startswith("ssl_"):
        raise ValueError(
            "has an option for TLS after ?; give redis.tls.ca_file, redis.tls.cert_file and "
            "redis.tls.key_file instead (in code: tls=)"
        )
    if option not in _REDIS_OPTIONS:
        raise ValueError(
            "has an option after ? that is not known here; only db, username and password may "
            "stand there"
        )
    if option == "db" and not re.fullmatch(r"[0-9]{1,5}", given):
        raise ValueError(f"names a database that is no number; {REDIS_WANTED}")


@dataclass(frozen=True, slots=True)
class OneServer:
    """`redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…`, or `unix://USER:PASSWORD@/PATH?db=DB`."""

    host: str
    port: int
    socket: str = ""
    """The path of the unix socket, where it is one."""
    db: int = 0
    username: str | None = None
    password: Secret | None = None


def server_of(url: Secret) -> OneServer:
    """The server that a checked URL names."""
    parts = urlsplit(url.reveal())
    options = dict(parse_qsl(parts.query))
    is_socket = parts.scheme == "unix"
    db = options.get("db") or ("" if is_socket else parts.path.strip("/"))
    return OneServer(
        host=parts.hostname or "",
        port=parts.port or _REDIS_PORT,
        socket=unquote(parts.path) if is_socket else "",
        db=int(db or 0),
        username=unquote(parts.username or "") or options.get("username"),
        password=_hidden(unquote(parts.password or "") or options.get("password")),
    )


def _hidden(password: str | None) -> Secret | None:
    return Secret(password) if password else None


# --- several servers in one URL ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fleet:
    """`redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/PRIMARY/DB`, or `redis+cluster://…`.

    Either with TLS: `rediss+sentinel://…`, `rediss+cluster://…`.
    """

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    service: str = ""
    """What the Sentinels call the primary."""
    db: int = 0
    username: str | None = None
    password: Secret | None = None
    sentinel_username: str | None = None
    sentinel_password: Secret | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether it is a Cluster, and no primary behind Sentinels."""
        return self.scheme in _CLUSTER


def is_fleet(url: Secret) -> bool:
    """Whether `url` names several servers."""
    return scheme_of(url) in _FLEETS


def has_tls(url: Secret) -> bool:
    """Whether Redis is spoken to with TLS there."""
    return scheme_of(url).startswith("rediss")


def scheme_of(url: Secret) -> str:
    """What stands before the first colon."""
    return url.reveal().partition(":")[0]


def fleet_of(url: Secret) -> Fleet:
    """The servers that a checked URL names."""
    return _parse_fleet(url.reveal())


def _parse_fleet(url: str) -> Fleet:
    """The same of one that was not checked.

    Raises:
        ValueError: what is wrong with it, without quoting it: a password may stand there.
    """
    if not url.isprintable():
        raise ValueError(f"is no line of text; {REDIS_WANTED}")
    try:
        parts = urlsplit(url)
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError:
        parts, options = SplitResult("", "", "", "", ""), {}
    scheme = url.partition(":")[0]
    is_cluster = scheme in _CLUSTER
    default_port = _REDIS_PORT if is_cluster else _SENTINEL_PORT
    example = "" if is_cluster else "name-of-the-primary/0"
    wanted = f"write {scheme}://host:{default_port},host2/{example}"
    if not parts.netloc or "#" in url:
        raise ValueError(f"cannot be taken apart; {wanted}")
    known = frozenset[str]() if is_cluster else _SENTINEL_OPTIONS
    if options.keys() - known:  # not named: it may be a password
        raise ValueError(
            f"has an option after ? that is not known here; "
            f"{', '.join(sorted(known)) or 'none'} may stand there"
        )
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    db = options.get("db", db)
    if is_cluster and (service or db):
        raise ValueError(f"names a database, and a Cluster has only one; {wanted}")
    if not is_cluster and not service:
        raise ValueError(f"does not say what the Sentinels call the primary; {wanted}")
    if not re.fullmatch(r"[A-Za-z0-9._-]*", unquote(service)):
        # Nor may it be shown: what is left of a password that was not percent-encoded.
        raise ValueError(f"names a primary that no Sentinel knows; {wanted}")
    if db and not (db.isascii() and db.isdecimal() and len(db) < 6):  # noqa: PLR2004
        raise ValueError(f"names a database that is no number; {wanted}")
    return Fleet(
        scheme=scheme,
        nodes=tuple(_node(host, default_port, wanted) for host in hosts.split(",")),
        service=unquote(service),
        db=int(db or 0),
        username=unquote(username) or None,
        password=_hidden(unquote(password)),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=_hidden(options.get("sentinel_password")),
    )


def _node(text: str, default_port: int, wanted: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError(f"names no host; {wanted}")
    return host, port or default_port


def has_password(url: Secret) -> bool:
    """Whether the password for Redis stands in a checked `url`."""
    if scheme_of(url) == "embedded":
        return False
    return bool((fleet_of(url) if is_fleet(url) else server_of(url)).password)


# --- what may be shown ---------------------------------------------------------------------------


def shown(url: Secret) -> str:
    """Where `url` leads, and nothing else that stands in it: user, password, options."""
    if problem_with(url):
        return "a URL that cannot be read"
    if scheme_of(url) == "embedded":
        return url.reveal()
    if is_fleet(url):
        fleet = fleet_of(url)
        hosts, path = ",".join(_host(*node) for node in fleet.nodes), f"/{fleet.service}"
        return f"{fleet.scheme}://{hosts}{path if fleet.service else ''}"
    parts = urlsplit(url.reveal())
    path = re.sub(".*@", "…@", parts.path, flags=re.DOTALL)  # who wrote one slash too many
    return f"{parts.scheme}://{_host(parts.hostname or '', parts.port)}{path}"


def _host(name: str, port: int | None) -> str:
    host = f"[{name}]" if ":" in name else name
    return host if port is None else f"{host}:{port}"
