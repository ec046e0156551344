"""`ringkeeper doctor`: what would bite one day, judged from facts, each with its remedy. Pure.

`doctor_facts` gathers them. One that could not be had (an ACL that forbids to look) is None, and is
told as such: what was not seen is not well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.durations import format_duration
from ringkeeper.errors import ConfigurationError
from ringkeeperd.operator import some
from ringkeeperd.overrides import Rules
from ringkeeperd.rewrapping import lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ringkeeper.policy import Policy
    from ringkeeperd.operator import Seen

OLDEST_REDIS: Final = (7, 0)
_CACHED_BY_SUPERTOKENS: Final = timedelta(hours=4)
_CROWDED: Final = 0.8
_WIDE: Final = frozenset({"+@all", "allcommands"})


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Way(StrEnum):
    """How one gets to Redis."""

    SOCKET = "a unix socket"
    LOOPBACK = "this host's loopback"
    TLS = "TLS"
    CLEAR = "a network, in the clear"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's letter."""

    about: str
    level: Level
    what: str
    remedy: str = ""
    """What to do about it; empty where all is well."""


def told(about: str, line: str) -> Finding:
    """The finding that an error is, which says in one line "what; what to do"."""
    what, _, remedy = line.rpartition("; ")
    return Finding(about, Level.FAIL, what or line, remedy if what else "see ringkeeper status")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a Redis says of itself; None where it would not."""

    version: str | None = None
    settings: Mapping[str, str] | None = None
    """CONFIG GET of what matters here."""
    info: Mapping[str, str] | None = None
    """INFO, flat."""
    user: str | None = None
    """Who we are there."""
    rights: Sequence[str] | None = None
    """Our user's commands, keys and flags, as ACL GETUSER shows them."""
    offset: timedelta = timedelta(0)
    """How far its clock is ahead of ours."""
    way: Way = Way.SOCKET


@dataclass(frozen=True, slots=True)
class RingFacts:
    """What can be seen of one ring."""

    name: str
    policy: Policy
    """As configured here."""
    now: datetime
    given: Mapping[str, Any] | None = None
    """What of it is written down; None: all of it."""
    seen: Seen | None = None
    trouble: str = ""
    """Why it could not be seen, or not be opened."""
    keks: tuple[str, ...] = ()
    """The KEKs of this host, the first one first; none where it has none."""
    roots: tuple[str, ...] = ()
    """The pinned roots, the first one of the private file first."""
    flaws: tuple[str, ...] = ()
    """What is wrong with the audit."""


def examine_server(facts: ServerFacts, policy: Policy) -> Iterator[Finding]:
    """What is to be said of Redis."""
    yield _version(facts)
    yield _clock(facts, policy)
    yield _privacy(facts)
    yield _acl(facts)
    if facts.settings is None:
        yield Finding(
            "settings",
            Level.WARN,
            "this user may not run INFO, so eviction and persistence were not seen",
            "run ringkeeper doctor as a user who may",
        )
    else:
        yield _eviction(facts.settings)
        yield _persistence(facts.settings, facts.info or {})
        yield _replicas(facts.settings, facts.info or {})
    yield _connections(facts)


def _version(facts: ServerFacts) -> Finding:
    if facts.version is None:
        return Finding("version", Level.WARN, "not seen", "let this user run INFO")
    number = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if number < OLDEST_REDIS:
        oldest = ".".join(map(str, OLDEST_REDIS))
        what = f"{facts.version} is older than {oldest}"
        return Finding("version", Level.FAIL, what, f"upgrade to {oldest} or newer, or to Valkey")
    return Finding("version", Level.OK, facts.version)


def _clock(facts: ServerFacts, policy: Policy) -> Finding:
    apart = format_duration(abs(facts.offset))
    most = format_duration(policy.clock_skew)
    if abs(facts.offset) > policy.clock_skew:
        what = f"Redis' clock and this one differ by {apart}, more than clock_skew ({most})"
        return Finding("clock", Level.FAIL, what, "set both right (chrony, systemd-timesyncd)")
    if abs(facts.offset) > policy.clock_skew / 2:
        what = f"Redis' clock and this one differ by {apart}; {most} is the most"
        return Finding("clock", Level.WARN, what, "set both right before it is too much")
    return Finding("clock", Level.OK, f"within {apart} of Redis'")


def _privacy(facts: ServerFacts) -> Finding:
    if facts.way is not Way.CLEAR:
        return Finding("transport", Level.OK, f"over {facts.way}: nobody else reads along")
    what = "the connection crosses a network in the clear: whoever listens learns the password"
    return Finding("transport", Level.WARN, what, "use rediss:// (docs/redis.md)")


def _acl(facts: ServerFacts) -> Finding:
    if facts.rights is None:
        who = f"user {facts.user!r}" if facts.user else "a user who may not even ask who it is"
        return Finding("acl", Level.OK, f"{who}, who may not look at itself")
    rights = {right for text in facts.rights for right in text.split()}
    if "nopass" in rights:
        what = f"over {facts.way} user {facts.user!r} needs no password"
        if facts.way is Way.SOCKET:
            return Finding("acl", Level.OK, f"{what}; who may open the socket may do everything")
        level = Level.WARN if facts.way is Way.LOOPBACK else Level.FAIL
        return Finding("acl", level, what, "set one, for users of their own: doctor --acl")
    if rights & _WIDE:
        what = f"user {facts.user!r} may do everything"
        return Finding(
            "acl", Level.WARN, what, "give it less: ringkeeper doctor --acl prints users"
        )
    return Finding("acl", Level.OK, f"user {facts.user!r}, with a password and no right too many")


def _eviction(settings: Mapping[str, str]) -> Finding:
    policy = settings.get("maxmemory-policy", "")
    limit = settings.get("maxmemory", "0")
    if policy == "noeviction" or limit == "0":
        told = policy if policy == "noeviction" else f"{policy}, with no maxmemory to reach"
        level = Level.OK if policy == "noeviction" else Level.WARN
        remedy = "" if level is Level.OK else "set maxmemory-policy noeviction before a limit"
        return Finding("eviction", level, told, remedy)
    return Finding(
        "eviction",
        Level.FAIL,
        f"{policy}: a full server throws rings and leases away",
        "set maxmemory-policy noeviction; give a cache a server of its own",
    )


def _persistence(settings: Mapping[str, str], info: Mapping[str, str]) -> Finding:
    broken = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status")
        if info.get(name, "ok") != "ok"
    ]
    if broken:
        what = f"the last save failed ({', '.join(broken)})"
        return Finding("persistence", Level.FAIL, what, "free the server's disk, see its log")
    if settings.get("appendonly") == "yes":
        return Finding("persistence", Level.OK, "AOF")
    if settings.get("save"):
        what = "snapshots (RDB) only: a crash loses what was written since the last one"
        return Finding("persistence", Level.WARN, what, "set appendonly yes")
    what = "none: after a restart Redis is empty until a daemon or an app puts the ring back"
    return Finding("persistence", Level.WARN, what, "set appendonly yes")


def _replicas(settings: Mapping[str, str], info: Mapping[str, str]) -> Finding:
    connected = int(info.get("connected_slaves", "0"))
    if "min-replicas-to-write" not in settings and connected:
        what = f"{connected} replicas; whether one must hear each write was not seen"
        return Finding("replicas", Level.WARN, what, "run ringkeeper doctor as an administrator")
    needed = int(settings.get("min-replicas-to-write", "0"))
    if connected and not needed:
        what = f"{connected} replicas, and a cut-off primary goes on accepting writes"
        remedy = "set min-replicas-to-write 1 and min-replicas-max-lag 2"
        return Finding("replicas", Level.WARN, what, remedy)
    if needed > connected:
        what = f"{connected} replicas where min-replicas-to-write asks for {needed}"
        return Finding("replicas", Level.FAIL, what, "bring a replica back: nothing can be written")
    return Finding("replicas", Level.OK, f"{connected}, of which {needed} must hear each write")


def _connections(facts: ServerFacts) -> Finding:
    info = facts.info or {}
    most = info.get("maxclients") or (facts.settings or {}).get("maxclients")
    if not most or "connected_clients" not in info:
        return Finding("connections", Level.WARN, "not seen", "let this user run INFO")
    used, limit = int(info["connected_clients"]), int(most)
    what = f"{used} of {limit}; each instance takes two, or three while it starts"
    if used > limit * _CROWDED:
        return Finding("connections", Level.WARN, what, "raise maxclients, and the host's nofile")
    return Finding("connections", Level.OK, what)


def examine_ring(facts: RingFacts) -> Iterator[Finding]:
    """What is to be said of one ring."""
    if facts.trouble or facts.seen is None:
        yield told("ring", facts.trouble or "not seen")
        return
    for check in _RING_CHECKS:
        yield check(facts, facts.seen)


def _freshness(facts: RingFacts, seen: Seen) -> Finding:
    policy = seen.ring.policy
    if seen.proof is None:
        return Finding("freshness", Level.FAIL, "no proof", "start a daemon, ringkeeper run")
    age = facts.now - seen.proof.at
    what = f"version {seen.ring.version}, proved {format_duration(max(age, timedelta(0)))} ago"
    if age > policy.max_staleness:
        return Finding("freshness", Level.FAIL, what, "apps do not sign: start a daemon")
    if age > 3 * policy.proof_interval or not seen.leader:
        return Finding(
            "freshness", Level.WARN, what, "nobody leads: start a daemon, ringkeeper run"
        )
    return Finding("freshness", Level.OK, f"{what}; {seen.leader} leads")


def _keys(facts: RingFacts, seen: Seen) -> Finding:
    ring = seen.ring
    count = len(ring.may_sign_next)
    if not facts.keks:
        return Finding("keys", Level.OK, "no KEK here: this host only follows or verifies")
    what = f"all {count} private keys that may sign open with the KEK {ring.kek}"
    if ring.standby is None:
        return Finding("keys", Level.FAIL, "no standby", "start a daemon: it publishes one at once")
    return Finding("keys", Level.OK, what)


def _secrets(facts: RingFacts, seen: Seen) -> Finding:
    kek, root = (facts.keks or ("",))[0], (facts.roots or (seen.signed_by,))[0]
    behind = lacking(seen.instances, kek=kek, root=root)
    if behind:
        named = some([f"{who.named(facts.now)} {lack}" for who, lack in behind])
        what = f"{len(behind)} live instances could not follow the first secrets: {named}"
        return Finding("secrets", Level.WARN, what, "give them the files that hold both")
    if max(len(facts.keks), len(facts.roots)) > 1:
        is_moved = seen.ring.kek in ("", kek) and seen.signed_by == root
        then = "rewrap --check, then rewrap --drop-former" if is_moved else "rewrap"
        return Finding("secrets", Level.WARN, "being changed", f"finish it: ringkeeper {then}")
    return Finding("secrets", Level.OK, f"signed by the root {seen.signed_by}, which is pinned")


def _instances(_: RingFacts, seen: Seen) -> Finding:
    if seen.behind:
        what = f"{len(seen.behind)} of {len(seen.instances)} are behind: {some(seen.behind)}"
        return Finding(
            "instances", Level.WARN, what, "see their logs; ringkeeper status shows more"
        )
    return Finding("instances", Level.OK, f"{len(seen.instances)} live, all confirmed")


def _intervals(facts: RingFacts, seen: Seen) -> Finding:
    policy = seen.ring.policy
    try:
        wanted = Rules.of(facts.policy, facts.given).under(seen.ring.overrides)
    except ConfigurationError as error:
        what = f"the ring's own settings contradict this file: {error.problems[0]}"
        return Finding("intervals", Level.WARN, what, "ringkeeper set --unset, or mend this file")
    if policy != wanted:
        what = "the ring's policy is not the one that is configured here"
        return Finding("intervals", Level.WARN, what, "reload the leader, or mend this file")
    if policy.publication_interval < _CACHED_BY_SUPERTOKENS:
        shown = format_duration(policy.publication_interval)
        what = f"publication_interval {shown}: SuperTokens' SDKs cache a JWKS for 4h"
        remedy = "fine where all verifiers refetch sooner, or for an unknown kid"
        return Finding("intervals", Level.OK, f"{what}; {remedy}")
    return Finding("intervals", Level.OK, f"a key signs for {format_duration(policy.cryptoperiod)}")


def _audit(facts: RingFacts, _: Seen) -> Finding:
    if facts.flaws:
        what = f"{len(facts.flaws)} flaws, the last one: {facts.flaws[-1]}"
        return Finding("audit", Level.FAIL, what, "who may write in Redis? see ringkeeper watch")
    return Finding("audit", Level.OK, "signed, numbered, no gap")


_RING_CHECKS: Final[tuple[Callable[[RingFacts, Seen], Finding], ...]] = (
    _freshness,
    _keys,
    _secrets,
    _instances,
    _intervals,
    _audit,
)
