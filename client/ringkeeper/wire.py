"""The documents that daemons, operators and apps exchange, and their exact form.

Each is a JSON object in a compact JWS (see `trust`). Times are whole milliseconds since 1970,
durations whole milliseconds; both end in `_ms`. `schema` is the number of this format: a reader
refuses one that it does not know and ignores members that it does not know. docs/wire-format.md
and tests/vectors/ show each document to other implementations.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ringkeeper.algorithms import ALGORITHMS, LONGEST_KID, RSA_BITS, is_own_kid, kid_of
from ringkeeper.clock import LATEST_MS, from_ms, to_ms
from ringkeeper.errors import MalformedDocument
from ringkeeper.policy import CAPACITY, Policy
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeper.trust import DocumentType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ringkeeper.trust import PinnedRoots, TrustRoot

SCHEMA: Final = 1
SNAPSHOT: Final = DocumentType("ringkeeper-snapshot+json", 128 * 1024)
PROOF: Final = DocumentType("ringkeeper-proof+json", 4 * 1024)
REQUEST: Final = DocumentType("ringkeeper-request+json", 16 * 1024)
EVENT: Final = DocumentType("ringkeeper-event+json", 8 * 1024)
MAX_TEXT: Final = 200
"""Characters of what an operator may write as a reason, or of who wrote it."""
MAX_GIVEN: Final = 8 * 1024
"""Characters of a value that comes with a request: the sealed half of a 4096-bit RSA key fits."""
MAX_SETTING: Final = 200
_MAX_TEXTS: Final = 32
_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Proof:
    """The leader's word that at `at` this version was the newest: the heartbeat."""

    ring_id: str
    name: str
    version: int
    epoch: int
    digest: str
    """Of the snapshot, see `digest_of`."""
    at: datetime
    events: int = 0
    """The number of the newest audit event at that time: whoever reads the audit can tell whether
    its end is missing."""


class Command(StrEnum):
    """What an operator may ask of the leader."""

    ROTATE = "rotate"
    ROTATE_NOW = "rotate-now"
    REVOKE = "revoke"
    REWRAP = "rewrap"
    REWRAP_NOW = "rewrap-now"
    """Even if a live instance does not have the secrets for it."""
    ROLLBACK = "rollback"
    CALL_OFF = "call-off"
    """A rotation or rollback that was asked for and has not taken place."""
    CALL_OFF_DRAIN = "call-off-drain"
    STATIC_CREATE = "static-create"
    IMPORT = "import"
    """A key that was made elsewhere."""
    RETIRE = "retire"
    """A static or foreign key."""
    SET = "set"
    """A setting, for the ring itself; or leave it to the files again."""


@dataclass(frozen=True, slots=True)
class Request:
    """An operator's request. It takes effect on its version, in time, or never."""

    id: str
    ring_id: str
    name: str
    version: int
    command: str
    """A `Command`, or one that a newer release has."""
    kid: str
    """Of the key that it is about; empty where it is about none."""
    reason: str
    by: str
    at: datetime
    until: datetime
    """Nobody waits for an answer any longer: from here on it has lapsed."""
    given: Mapping[str, str] = field(default_factory=dict)
    """What else the command needs; docs/wire-format.md has the names."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit: what changed, in which version, why."""

    ring_id: str
    name: str
    version: int
    epoch: int
    at: datetime
    event: str
    fields: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    number: int = 0
    """Of the ring's events the how-manieth it is, from 1 on; 0 before it is told."""


def digest_of(snapshot: str) -> str:
    """SHA-256 over the compact JWS of a snapshot, base64url: what a proof vouches for."""
    return base64.urlsafe_b64encode(hashlib.sha256(snapshot.encode()).digest())[:-1].decode()


def policy_digest(policy: Policy) -> str:
    """What tells one policy from another: 22 characters of SHA-256 over its members, base64url."""
    members = json.dumps(_policy_members(policy), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest())[:22].decode()


# --- writing -------------------------------------------------------------------------------------


def sign_snapshot(ring: Ring, root: TrustRoot) -> str:
    """`ring` as a signed snapshot.

    Raises:
        MalformedDocument: nobody could read it. Signed all the same, it would end the ring.
    """
    document = root.sign(
        SNAPSHOT,
        {
            "schema": SCHEMA,
            "ring_id": ring.id,
            "name": ring.name,
            "version": ring.version,
            "epoch": ring.epoch,
            "policy": _policy_members(ring.policy),
            "caches_until_ms": _ms_or_none(ring.caches_until),
            "kek": ring.kek,
            "overrides": dict(ring.overrides),
            "keys": [_key_members(key) for key in ring.keys],
        },
    )
    if open_snapshot(document, root.public) != ring:
        raise MalformedDocument(f"{SNAPSHOT.typ}: version {ring.version} would be read otherwise")
    return document


def sign_proof(ring: Ring, snapshot: str, at: datetime, root: TrustRoot, *, events: int = 0) -> str:
    """The proof that at `at` nothing newer than `snapshot`, which holds `ring`, exists."""
    return root.sign(
        PROOF,
        {
            "schema": SCHEMA,
            "ring_id": ring.id,
            "name": ring.name,
            "version": ring.version,
            "epoch": ring.epoch,
            "digest": digest_of(snapshot),
            "at_ms": to_ms(at),
            "events": events,
        },
    )


def sign_request(request: Request, root: TrustRoot) -> str:
    """`request`, signed."""
    return root.sign(
        REQUEST,
        {
            "schema": SCHEMA,
            "id": request.id,
            "ring_id": request.ring_id,
            "name": request.name,
            "version": request.version,
            "command": str(request.command),
            "kid": request.kid,
            "reason": request.reason,
            "by": request.by,
            "at_ms": to_ms(request.at),
            "until_ms": to_ms(request.until),
            "given": dict(request.given),
        },
    )


def sign_event(event: Event, root: TrustRoot) -> str:
    """`event`, signed."""
    return root.sign(
        EVENT,
        {
            "schema": SCHEMA,
            "ring_id": event.ring_id,
            "name": event.name,
            "version": event.version,
            "epoch": event.epoch,
            "at_ms": to_ms(event.at),
            "number": event.number,
            "event": event.event,
            "fields": dict(event.fields),
        },
    )


def _policy_members(policy: Policy) -> dict[str, Any]:
    return {
        "cryptoperiod_ms": to_ms(policy.cryptoperiod),
        "access_token_validity_ms": to_ms(policy.access_token_validity),
        "use_dynamic_access_token_signing_key": policy.use_dynamic,
        "algorithm": policy.algorithm,
        "rsa_key_size": policy.rsa_key_size,
        "publication_interval_ms": to_ms(policy.publication_interval),
        "max_staleness_ms": to_ms(policy.max_staleness),
        "clock_skew_ms": to_ms(policy.clock_skew),
        "confirmation_timeout_ms": to_ms(policy.confirmation_timeout),
        "jwks_max_age_ms": to_ms(policy.jwks_max_age),
        "poll_interval_ms": to_ms(policy.poll_interval),
        "max_verify_staleness_ms": _ms_or_none(policy.max_verify_staleness),
    }


def _key_members(key: Key) -> dict[str, Any]:
    former = {
        "scheduled_at_ms": key.scheduled_at,
        "unhastened_at_ms": key.unhastened_at,
        "undrained_at_ms": key.undrained_at,
    }
    return {
        "jwk": {**dict(key.public), "kid": key.kid, "alg": key.algorithm, "use": "sig"},
        "kind": key.kind.value,
        "state": key.state.value,
        "published_at_ms": to_ms(key.published_at),
        "published_epoch": key.published_epoch,
        "published_version": key.published_version,
        "ready_at_ms": to_ms(key.ready_at),
        "activated_at_ms": _ms_or_none(key.activated_at),
        "activated_version": key.activated_version,
        "due_at_ms": _ms_or_none(key.due_at),
        "due_reason": key.due_reason.value,
        "retired_at_ms": _ms_or_none(key.retired_at),
        "revoked_at_ms": _ms_or_none(key.revoked_at),
        "remove_at_ms": _ms_or_none(key.remove_at),
        "token_validity_ms": to_ms(key.token_validity),
        "max_staleness_ms": to_ms(key.max_staleness),
        "clock_skew_ms": to_ms(key.clock_skew),
        "reason": key.reason,
        "drained_from_ms": _ms_or_none(key.drained_from),
        "drained_until_ms": _ms_or_none(key.drained_until),
        **{name: to_ms(at) for name, at in former.items() if at},
    }


def _ms_or_none(value: datetime | timedelta | None) -> int | None:
    return None if value is None else to_ms(value)


# --- reading -------------------------------------------------------------------------------------


def open_snapshot(document: str, roots: PinnedRoots) -> Ring:
    """The ring in a signed snapshot.

    Raises:
        MalformedDocument: not a snapshot of this schema, or one that contradicts itself.
        ForgedDocument: no pinned root signed it.
    """
    members = _opened(SNAPSHOT, document, roots)
    keys = members.each("keys", _key)
    try:
        return Ring(
            id=members.text("ring_id"),
            name=members.text("name"),
            version=members.count("version"),
            epoch=members.count("epoch"),
            policy=_policy(members.inner("policy")),
            keys=keys,
            caches_until=members.maybe("caches_until_ms", members.instant),
            kek=members.maybe("kek", members.text) or "",
            overrides=tuple(sorted(members.texts("overrides", MAX_SETTING).items())),
        )
    except ValueError as error:
        raise MalformedDocument(f"{SNAPSHOT.typ}: {error}") from None


def open_proof(document: str, roots: PinnedRoots) -> Proof:
    """The proof in a signed document; raises as `open_snapshot`."""
    members = _opened(PROOF, document, roots)
    return Proof(
        ring_id=members.text("ring_id"),
        name=members.text("name"),
        version=members.count("version"),
        epoch=members.count("epoch"),
        digest=members.text("digest"),
        at=members.instant("at_ms"),
        events=members.maybe("events", members.count) or 0,
    )


def open_request(document: str, roots: PinnedRoots) -> Request:
    """The request in a signed document; raises as `open_snapshot`."""
    members = _opened(REQUEST, document, roots)
    return Request(
        id=members.text("id"),
        ring_id=members.text("ring_id"),
        name=members.text("name"),
        version=members.count("version"),
        command=members.text("command"),
        kid=members.text("kid"),
        reason=members.text("reason", MAX_TEXT),
        by=members.text("by", MAX_TEXT),
        at=members.instant("at_ms"),
        until=members.instant("until_ms"),
        given=members.texts("given", MAX_GIVEN),
    )


def open_event(document: str, roots: PinnedRoots) -> Event:
    """The event in a signed document; raises as `open_snapshot`."""
    members = _opened(EVENT, document, roots)
    return Event(
        ring_id=members.text("ring_id"),
        name=members.text("name"),
        version=members.count("version"),
        epoch=members.count("epoch"),
        at=members.instant("at_ms"),
        number=members.maybe("number", members.count) or 0,
        event=members.text("event"),
        fields=members.take("fields", dict),
    )


def _opened(kind: DocumentType, document: str, roots: PinnedRoots) -> _Members:
    members = _Members(roots.open(kind, document), kind)
    schema = members.count("schema")
    if schema != SCHEMA:
        raise MalformedDocument(
            f"{kind.typ} of schema {schema}; this release reads {SCHEMA}: upgrade ringkeeper here"
        )
    return members


def _policy(members: _Members) -> Policy:
    policy = Policy(
        cryptoperiod=members.duration("cryptoperiod_ms"),
        access_token_validity=members.duration("access_token_validity_ms"),
        use_dynamic=members.take("use_dynamic_access_token_signing_key", bool),
        algorithm=members.text("algorithm"),
        rsa_key_size=members.maybe("rsa_key_size", members.count) or RSA_BITS,
        publication_interval=members.duration("publication_interval_ms"),
        max_staleness=members.duration("max_staleness_ms"),
        clock_skew=members.duration("clock_skew_ms"),
        confirmation_timeout=members.duration("confirmation_timeout_ms"),
        jwks_max_age=members.duration("jwks_max_age_ms"),
        poll_interval=members.duration("poll_interval_ms"),
        max_verify_staleness=members.maybe("max_verify_staleness_ms", members.duration),
    )
    problems = policy.problems()
    if problems:
        raise MalformedDocument(f"{members.kind.typ}: impossible policy: {problems[0]}")
    return policy


def _key(members: _Members) -> Key:
    jwk = members.inner("jwk")
    algorithm = jwk.text("alg")
    if algorithm not in ALGORITHMS:
        raise MalformedDocument(f"{members.kind.typ}: algorithm {algorithm!r} is not known here")
    kind = members.one_of("kind", KeyKind)
    public = tuple((name, jwk.text(name)) for name in ALGORITHMS[algorithm].members)
    kid = jwk.text("kid", LONGEST_KID)
    # What was made elsewhere keeps the kid that its tokens name.
    if is_own_kid(kid) and kid != kid_of(public, prefix=kid[0]):
        raise MalformedDocument(f"{members.kind.typ}: kid {kid!r} is not its key's thumbprint")
    return Key(
        kid=kid,
        kind=kind,
        algorithm=algorithm,
        public=public,
        state=members.one_of("state", KeyState),
        published_at=members.instant("published_at_ms"),
        published_epoch=members.count("published_epoch"),
        published_version=members.count("published_version"),
        ready_at=members.instant("ready_at_ms"),
        activated_at=members.maybe("activated_at_ms", members.instant),
        activated_version=members.count("activated_version"),
        due_at=members.maybe("due_at_ms", members.instant),
        due_reason=members.one_of("due_reason", RotationReason),
        retired_at=members.maybe("retired_at_ms", members.instant),
        revoked_at=members.maybe("revoked_at_ms", members.instant),
        remove_at=members.maybe("remove_at_ms", members.instant),
        token_validity=members.duration("token_validity_ms"),
        max_staleness=members.duration("max_staleness_ms"),
        clock_skew=members.duration("clock_skew_ms"),
        reason=members.text("reason"),
        drained_from=members.maybe("drained_from_ms", members.instant),
        drained_until=members.maybe("drained_until_ms", members.instant),
        scheduled_at=members.maybe("scheduled_at_ms", members.instant),
        unhastened_at=members.maybe("unhastened_at_ms", members.instant),
        undrained_at=members.maybe("undrained_at_ms", members.instant),
    )


class _Members:
    """A JSON object whose members are asked for by name and type; anything else is refused."""

    def __init__(self, members: dict[str, Any], kind: DocumentType) -> None:
        self._members = members
        self.kind = kind

    def take(self, name: str, expected: type[_T]) -> _T:
        value = self._members.get(name)
        # True is an int to Python, and not to us.
        if type(value) is not expected:
            raise MalformedDocument(f"{self.kind.typ}: {name} is missing or of the wrong type")
        return value

    def text(self, name: str, most: int = 2048) -> str:
        value = self.take(name, str)
        if len(value) > most:  # the modulus of a 4096-bit RSA key has 683
            raise MalformedDocument(f"{self.kind.typ}: {name} is too long")
        return value

    def texts(self, name: str, most: int) -> dict[str, str]:
        """A mapping of texts; where there is none, an empty one."""
        found = self.maybe(name, lambda _: self.take(name, dict)) or {}
        if len(found) > _MAX_TEXTS:
            raise MalformedDocument(f"{self.kind.typ}: {name} is too long")
        inner = _Members(found, self.kind)
        return {each: inner.text(each, most) for each in found}

    def count(self, name: str) -> int:
        value = self.take(name, int)
        if not 0 <= value < 2**53:
            raise MalformedDocument(f"{self.kind.typ}: {name} is out of range")
        return value

    def instant(self, name: str) -> datetime:
        return from_ms(min(self.count(name), LATEST_MS))

    def duration(self, name: str) -> timedelta:
        return timedelta(milliseconds=min(self.count(name), LATEST_MS))

    def maybe(self, name: str, read: Callable[[str], _T]) -> _T | None:
        return None if self._members.get(name) is None else read(name)

    def one_of(self, name: str, choices: type[_E]) -> _E:
        value = self.text(name)
        try:
            return choices(value)
        except ValueError:
            raise MalformedDocument(
                f"{self.kind.typ}: {name} {value[:40]!r} is not known here"
            ) from None

    def inner(self, name: str) -> _Members:
        return _Members(self.take(name, dict), self.kind)

    def each(self, name: str, read: Callable[[_Members], _T]) -> tuple[_T, ...]:
        values = self.take(name, list)
        if len(values) > CAPACITY or not all(isinstance(value, dict) for value in values):
            raise MalformedDocument(f"{self.kind.typ}: {name} is not a list of {CAPACITY} at most")
        try:
            return tuple(read(_Members(value, self.kind)) for value in values)
        except ValueError as error:
            raise MalformedDocument(f"{self.kind.typ}: {error}") from None
