"""Who may do what in Redis: one ACL user for each role, and no more than its code does.

Written for Redis 7.0 or newer and Valkey, whose ACLs tell reading from writing (`%R~`, `%W~`) and
have selectors, `(…)`: what stands in one is allowed for the keys named there alone.

Roles that only read a ring run no scripts. Whoever may run one may run any of its own, within its
ACL, and an endless one keeps Redis from everybody else: that is left to daemons and operators.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ringkeeper.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Role(StrEnum):
    """Who connects to Redis; the user is called `ringkeeper-ROLE`."""

    DAEMON = "daemon"
    SIDECAR = "sidecar"
    SIGNER = "signer"
    VERIFIER = "verifier"
    OPERATOR = "operator"

    @property
    def user(self) -> str:
        """The name of the ACL user."""
        return f"ringkeeper-{self}"


WHO: Final[Mapping[Role, str]] = MappingProxyType(
    {
        Role.DAEMON: "a daemon that may lead (lead: true), and ringkeeper init",
        Role.SIDECAR: "a daemon that only follows (lead: false)",
        Role.SIGNER: "an app that signs, and ringkeeper token sign",
        Role.VERIFIER: "an app that only verifies, and ringkeeper token verify",
        Role.OPERATOR: (
            "the command: check, status, plan, jwks, rotate, rollback, revoke, static, set, "
            "rewrap, watch, doctor, backup, restore"
        ),
    }
)
SENTINEL_RULES: Final = ("+sentinel|masters",)
"""What the user in `sentinel_username` needs at each Sentinel, whatever the role."""

# --- what each role does -------------------------------------------------------------------------
# Commands by the key they are for. A letter says how the key is used: R is read, W written; where
# a script is handed a key, Redis asks for both.

_CONNECTED: Final = ("client|setname",)
_FOLLOWING: Final = ("ping", "subscribe", "time")
_CONFIRMING: Final = (
    ("W", ("instances",), ("hset", "hdel")),
    ("W", ("seen",), ("zadd", "zrem")),
)
_COUNTING: Final = (("RW", ("refreshes:*",), ("hincrby", "expire")),)
_COUNTING_TOKENS: Final = (("RW", ("signed:*",), ("hincrby", "expireat")),)
_WITNESSING: Final = (("RW", ("witness",), ("getrange", "set")),)
_READING: Final = (("R", ("keyring",), ("hmget", "hstrlen")),)
_READING_SEALED: Final = (("R", ("keyring", "sealed"), ("hmget", "hstrlen")),)
_LEADING: Final = (
    *("evalsha", "script|load", "exists", "type", "del", "publish", "info"),
    *("hmget", "hstrlen", "hget", "hset", "hdel", "hkeys"),  # the keyring, the sealed keys
    *("get", "set", "pttl", "getrange"),  # the lease, the epoch, the witness
    *("zadd", "zrem", "zrange"),  # the instances
    *("xadd", "xread", "xrevrange", "xdel", "xinfo|stream"),  # requests and events
    *("hincrby", "expire"),  # refreshes that apps tell it of
)

_Parts = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
_OF_KEYS: Final[Mapping[Role, _Parts]] = MappingProxyType(
    {
        Role.DAEMON: (("RW", ("*",), _LEADING),),
        Role.SIDECAR: (*_READING_SEALED, *_CONFIRMING, *_COUNTING, *_WITNESSING),
        Role.SIGNER: (
            *_READING_SEALED,
            *_CONFIRMING,
            *_COUNTING,
            *_COUNTING_TOKENS,
            *_WITNESSING,
        ),
        Role.VERIFIER: (*_READING, *_CONFIRMING, *_COUNTING, *_WITNESSING),
        Role.OPERATOR: (
            *_READING_SEALED,  # sealed, for check: does this KEK open them?
            ("R", ("lease",), ("getrange",)),
            (
                "RW",
                ("instances", "seen"),
                ("evalsha", "type", "del", "hstrlen", "hget", "hdel", "zrange", "zrem"),
            ),
            ("RW", ("signed:*",), ("evalsha", "type", "hstrlen", "hget")),
            ("W", ("requests",), ("xadd", "xdel")),
            ("R", ("events",), ("xread", "xrevrange")),
            *_WITNESSING,  # to restore
        ),
    }
)
_OF_NO_KEY: Final[Mapping[Role, tuple[str, ...]]] = MappingProxyType(
    {
        Role.DAEMON: _FOLLOWING,
        Role.SIDECAR: _FOLLOWING,
        Role.SIGNER: (*_FOLLOWING, "publish"),  # to call the leader, as a witness
        Role.VERIFIER: _FOLLOWING,
        # info and whoami for doctor, publish for restore: to call the leader
        Role.OPERATOR: ("script|load", "time", "info", "acl|whoami", "publish"),
    }
)
_HEAR_OF_SEALED: Final = (Role.DAEMON, Role.SIGNER)
"""A leader hands out what is new there; a daemon that only follows reads it."""
_IN_A_CLUSTER: Final = {"publish": "spublish", "subscribe": "ssubscribe"}


# --- as Redis writes it --------------------------------------------------------------------------


def acl_lines(
    names: Sequence[str],
    *,
    is_cluster: bool = False,
    database: int = 0,
    hashes: Mapping[Role, str] | None = None,
) -> tuple[str, ...]:
    """The ACL users for the rings `names`, as lines for redis.conf, each below what it is for.

    For an aclfile leave the lines out that begin with `#`: it has no comments. For a server that
    runs, put `ACL SETUSER` for `user`. `is_cluster`: messages go by shard there, on every node the
    same users. `database`: the number in `redis.url`, if it is not 0.

    `hashes` are of passwords, as `password_hash` makes them. A user without one exists and lets
    nobody in: no password is made up here that could be forgotten in a file.

    Raises:
        ValueError: no ring, or a hash that is none.
    """
    given = hashes or {}
    lines: list[str] = []
    for role in Role:
        rules = acl_rules(
            role, names, is_cluster=is_cluster, database=database, password_hash=given.get(role, "")
        )
        lines += [f"# {WHO[role]}", " ".join(("user", role.user, *rules))]
    if len(given) < len(Role):
        lines.append("# nobody can log in without a password: ACL SETUSER USER '>PASSWORD'")
    lines.append(
        f"# at Sentinels with users of their own: user {Role.DAEMON.user} reset on "
        f"{' '.join(SENTINEL_RULES)}, and a password"
    )
    return tuple(lines)


def acl_rules(
    role: Role,
    names: Sequence[str],
    *,
    is_cluster: bool = False,
    database: int = 0,
    password_hash: str = "",
) -> tuple[str, ...]:
    """What `ACL SETUSER USER` is to be told for `role`; it forgets all that the user had before.

    Raises:
        ValueError: no ring, or a hash that is none.
    """
    if not names:
        raise ValueError("name a ring: without one a user would be of no use")
    if password_hash and not _SHA256.fullmatch(password_hash):
        raise ValueError("a password's hash is 64 hex digits (SHA-256)")
    layouts = [Layout(name) for name in names]
    commands = [*_CONNECTED, *_OF_NO_KEY[role]]
    commands += ["cluster|slots"] if is_cluster else []
    commands += ["select"] if database else []
    channels = [f"&{layout.published}" for layout in layouts]
    if role in _HEAR_OF_SEALED:
        channels += [f"&{layout.sealed}" for layout in layouts]
    password = [f"#{password_hash}"] if password_hash else []
    of_keys = [_selector(*part, layouts, is_cluster=is_cluster) for part in _OF_KEYS[role]]
    if role is Role.DAEMON:  # one selector would say the same as none
        of_keys = of_keys[0].strip("()").split(" ")
    return (
        "reset", "on", *password, *channels, *_allowed(commands, is_cluster=is_cluster), *of_keys,
    )  # fmt: skip


def password_hash(password: str) -> str:
    """What Redis keeps of a password. It is not salted: let it be random and long."""
    return hashlib.sha256(password.encode()).hexdigest()


def _selector(
    use: str,
    suffixes: Iterable[str],
    commands: Iterable[str],
    layouts: Iterable[Layout],
    *,
    is_cluster: bool,
) -> str:
    """Those commands for those keys of each ring."""
    sign = "~" if use == "RW" else f"%{use}~"
    keys = [f"{sign}{layout.key(suffix)}" for layout in layouts for suffix in suffixes]
    return f"({' '.join([*keys, *_allowed(commands, is_cluster=is_cluster)])})"


def _allowed(commands: Iterable[str], *, is_cluster: bool) -> list[str]:
    return [
        f"+{_IN_A_CLUSTER.get(command, command) if is_cluster else command}" for command in commands
    ]
