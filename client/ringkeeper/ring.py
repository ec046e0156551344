"""A keyring as a value: its keys, their states, their absolute times. Pure.

The leader is the only one that moves a key from state to state, and what it decided is stored
here. Readers never work a state out from a time (promise 11): a host with a wrong clock may
misjudge a token's `exp`, but never which key signs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.algorithms import modulus_bits
from ringkeeper.policy import CAPACITY, MAX_KEYS, Policy

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from ringkeeper.algorithms import PublicJwk


class KeyKind(StrEnum):
    """Who turns the key."""

    DYNAMIC = "dynamic"
    """The daemon, on schedule."""
    STATIC = "static"
    """Nobody: for those who hardcode the public key."""
    FOREIGN = "foreign"
    """Somebody else, who has its private half: here it verifies, and signs nothing."""

    @property
    def prefix(self) -> str:
        """What the kid of such a key starts with, if it was made here."""
        return self.value[0]


class KeyState(StrEnum):
    """Where a key is in its life (RFC 7583 section 3.1 gives the terms their meaning)."""

    PUBLISHED = "published"
    """In the JWKS, signs nothing yet."""
    ACTIVE = "active"
    """The one of its kind that signs."""
    RETIRED = "retired"
    """Verifies what it signed, signs no more."""
    REVOKED = "revoked"
    """Must not verify: a tombstone for as long as a token of its could live."""


class RotationReason(StrEnum):
    """Why a key became active; the label of `ringkeeper_rotations_total`."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    ROLLBACK = "rollback"
    ALGORITHM = "algorithm"
    """A standby of the former algorithm made way for one of the new."""
    REVOCATION = "revocation"


_MISLEADING: Final = {KeyKind.DYNAMIC: ("s-",), KeyKind.STATIC: ("d-",)}
"""What SuperTokens' SDKs would take for a key of the other kind."""


@dataclass(frozen=True, slots=True)
class Key:
    """One signing key's public half and its life so far."""

    kid: str
    kind: KeyKind
    algorithm: str
    public: PublicJwk
    state: KeyState
    published_at: datetime
    published_epoch: int
    """With `published_version`: the edition of the ring that first held the key."""
    published_version: int
    ready_at: datetime
    """From here on it has been public for the publication interval and may sign."""
    token_validity: timedelta
    """The greatest in force while it signed, whatever the configuration says now."""
    max_staleness: timedelta
    """The greatest in force while it signed."""
    clock_skew: timedelta
    """The greatest in force while it signed."""
    activated_at: datetime | None = None
    activated_version: int = 0
    """The version of the ring in which it began to sign; 0 if it never did."""
    due_at: datetime | None = None
    """When its cryptoperiod ends and the standby takes over; a static key has none."""
    due_reason: RotationReason = RotationReason.SCHEDULED
    retired_at: datetime | None = None
    revoked_at: datetime | None = None
    remove_at: datetime | None = None
    """From here on no unexpired token of its can exist."""
    reason: str = ""
    """What the operator said when revoking it."""
    drained_from: datetime | None = None
    """It will be revoked, and its tokens are refused little by little from here on."""
    drained_until: datetime | None = None
    """From here on all of them are refused; it is revoked then."""
    scheduled_at: datetime | None = None
    """When it would have been due, had nobody asked for a turn."""
    unhastened_at: datetime | None = None
    """When it would have been ready, had nobody hastened it."""
    undrained_at: datetime | None = None
    """When its drain was called off: whatever began until then is over, whoever still shows it."""

    def __post_init__(self) -> None:
        """Refuse a key whose times do not fit its state."""
        needed = {
            KeyState.PUBLISHED: (),
            KeyState.ACTIVE: (self.activated_at,),
            KeyState.RETIRED: (self.retired_at, self.remove_at),
            KeyState.REVOKED: (self.revoked_at, self.remove_at),
        }[self.state]
        if any(time is None for time in needed):
            raise ValueError(f"key {self.kid}: {self.state} without the times that go with it")
        if self.kid.startswith(_MISLEADING.get(self.kind, ())):
            other = _MISLEADING[self.kind][0]
            raise ValueError(f"key {self.kid}: the kid of a {self.kind} key may not start {other}")
        if (self.drained_from is None) != (self.drained_until is None):
            raise ValueError(f"key {self.kid}: a drain has a begin and an end")
        is_turned = self.kind is KeyKind.DYNAMIC and self.state is KeyState.ACTIVE
        if is_turned and self.due_at is None:
            raise ValueError(f"key {self.kid}: a dynamic key signs until a set time")

    @property
    def may_verify(self) -> bool:
        """Whether its tokens count: in every state but revoked."""
        return self.state is not KeyState.REVOKED

    def jwk(self) -> dict[str, Any]:
        """Its public JWK (RFC 7517 section 4), as a JWK Set has it."""
        return {**dict(self.public), "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    @property
    def bits(self) -> int:
        """The size of its modulus, where it is an RSA key; else 0."""
        return modulus_bits(self.public)

    @property
    def is_returning(self) -> bool:
        """Whether it signed before, and an operator brought it back: it is to sign next."""
        return self.state is KeyState.PUBLISHED and self.activated_at is not None

    @property
    def retain_for(self) -> timedelta:
        """How long it must verify after it signed last.

        An app cut off just before signs on for `max_staleness`; its last token then lives for
        `token_validity`; its clock and a verifier's may each be off by `clock_skew`.
        """
        return self.token_validity + self.max_staleness + 2 * self.clock_skew

    def under(self, policy: Policy) -> Key:
        """This key, kept at least as long as tokens signed under `policy` need it."""
        return replace(
            self,
            token_validity=max(self.token_validity, policy.access_token_validity),
            max_staleness=max(self.max_staleness, policy.max_staleness),
            clock_skew=max(self.clock_skew, policy.clock_skew),
        )


@dataclass(frozen=True, slots=True)
class Ring:
    """One version of a keyring, whole."""

    id: str
    """Random, made once by `init`: two rings of one name are not the same ring."""
    name: str
    version: int
    """Grows by one with every change."""
    epoch: int
    """The leadership that made this version."""
    policy: Policy
    keys: tuple[Key, ...]
    caches_until: datetime | None = None
    """Caches filled under an earlier, longer `jwks_max_age` may live until then."""
    kek: str = ""
    """The id of the KEK that seals its private keys."""
    overrides: tuple[tuple[str, str], ...] = ()
    """Settings that operators set for the ring itself, sorted: they count more than any file."""

    def __post_init__(self) -> None:
        """Refuse a ring that would break promise 3: one key signs per kind."""
        if len({key.kid for key in self.keys}) != len(self.keys):
            raise ValueError(f"ring {self.name}: two keys of one kid")
        if len(self.keys) > CAPACITY:
            raise ValueError(f"ring {self.name}: more than {CAPACITY} keys")
        for kind in KeyKind:
            if len(self.in_state(KeyState.ACTIVE, kind)) > 1:
                raise ValueError(f"ring {self.name}: two active {kind} keys")

    def key(self, kid: str) -> Key | None:
        """The key of that kid, in whatever state."""
        return next((key for key in self.keys if key.kid == kid), None)

    def in_state(self, state: KeyState, kind: KeyKind | None = None) -> tuple[Key, ...]:
        """The keys in that state, of that kind only where one is given."""
        return tuple(
            key for key in self.keys if key.state is state and (kind is None or key.kind is kind)
        )

    def active(self, kind: KeyKind = KeyKind.DYNAMIC) -> Key | None:
        """The key of that kind that signs."""
        return next(iter(self.in_state(KeyState.ACTIVE, kind)), None)

    @property
    def standby(self) -> Key | None:
        """The published key that will sign next: as a rule there is only one.

        While the algorithm changes there are two. The one of the policy's algorithm goes first,
        but only if it was public by the last activation: an instance that was cut off since then
        knows it. Otherwise the older one still has its turn, and promise 1 holds (ADR 3).
        One that an operator rolled back to goes before both: it signed before, so all know it.
        """
        active = self.active()

        def comes_first(key: Key) -> tuple[bool, bool, int, str]:
            is_known = active is None or key.published_version <= active.activated_version
            return (
                not key.is_returning,
                not (is_known and self.policy.suits(key)),
                key.published_version,
                key.kid,
            )

        return min(
            self.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC), key=comes_first, default=None
        )

    @property
    def former(self) -> Key | None:
        """The dynamic key that signed before the active one, while one can still go back to it."""
        retired = self.in_state(KeyState.RETIRED, KeyKind.DYNAMIC)
        signed = [k for k in retired if k.activated_at and k.retired_at and not k.drained_until]
        return max(signed, key=lambda k: (k.retired_at or k.published_at, k.kid), default=None)

    @property
    def signer(self) -> Key | None:
        """The key that apps sign with now."""
        return self.signer_for(None)

    def signer_for(self, use_dynamic: bool | None) -> Key | None:  # noqa: FBT001 - as the setting
        """The key that an app signs with that chose so; None leaves it to the policy.

        Where static keys sign and the static one was revoked, the dynamic one stands in until
        there is a static key again.
        """
        dynamic = self.active(KeyKind.DYNAMIC)
        if self.policy.use_dynamic if use_dynamic is None else use_dynamic:
            return dynamic
        return self.active(KeyKind.STATIC) or dynamic

    @property
    def may_sign_next(self) -> tuple[Key, ...]:
        """The keys whose private half a signing app holds ready: active and published."""
        ready = self.in_state(KeyState.ACTIVE) + self.in_state(KeyState.PUBLISHED)
        return tuple(key for key in ready if key.kind is not KeyKind.FOREIGN)

    @property
    def is_full(self) -> bool:
        """Whether another key is for emergencies and the schedule alone, until one is removed."""
        return len(self.keys) >= MAX_KEYS

    @property
    def has_room(self) -> bool:
        """Whether another key fits in at all."""
        return len(self.keys) < CAPACITY

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The JWK Set (RFC 7517 section 5) of every key whose tokens count; signers first."""
        order = list(KeyState)
        order.sort(key=lambda state: state is not KeyState.ACTIVE)
        verifying = sorted(
            (key for key in self.keys if key.may_verify),
            key=lambda key: (order.index(key.state), key.kind, -key.published_at.timestamp()),
        )
        return {"keys": [key.jwk() for key in verifying]}
