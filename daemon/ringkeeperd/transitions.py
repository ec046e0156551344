"""The moves of a key: which there are, and what each writes down. Promises 5 and 11. Pure.

`rotation` decides when a key moves by itself, `operations` what operators may move. Both move it
here alone, so no key ever takes a way that is not in the table, and every time that others rely on
is written down at the move, once, and never worked out again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.algorithms import kid_of
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason

if TYPE_CHECKING:
    from datetime import datetime

    from ringkeeper.algorithms import PublicJwk


# --- the states, as a table: the diagram in docs/lifecycle.md is drawn from it -------------------


class Transition(NamedTuple):
    """One arrow of the state diagram; `None` stands for outside the ring."""

    before: KeyState | None
    after: KeyState | None
    when: str


TRANSITIONS: Final = (
    Transition(None, KeyState.PUBLISHED, "a standby or static key is missing; operator"),
    Transition(None, KeyState.ACTIVE, "first ring: no cache can lack it"),
    Transition(None, KeyState.RETIRED, "first ring: what signed before it was moved here"),
    Transition(KeyState.PUBLISHED, KeyState.ACTIVE, "due, public long enough, confirmed"),
    Transition(KeyState.ACTIVE, KeyState.RETIRED, "its successor became active"),
    Transition(
        KeyState.PUBLISHED,
        KeyState.RETIRED,
        "another algorithm's is ready, or a rollback called off",
    ),
    Transition(KeyState.RETIRED, KeyState.PUBLISHED, "operator: rollback, static reinstate"),
    Transition(KeyState.RETIRED, None, "no unexpired token of its can exist"),
    Transition(KeyState.PUBLISHED, KeyState.REVOKED, "operator"),
    Transition(KeyState.ACTIVE, KeyState.REVOKED, "operator; the standby signs at once"),
    Transition(KeyState.RETIRED, KeyState.REVOKED, "operator, or a drain is over"),
    Transition(KeyState.REVOKED, None, "no unexpired token of its can exist"),
)
_ALLOWED: Final = frozenset((t.before, t.after) for t in TRANSITIONS)


def _move(key: Key, state: KeyState) -> None:
    """Check that `key` may go to `state`; a mistake here would be ours, never the user's."""
    if (key.state, state) not in _ALLOWED:
        raise AssertionError(f"{key.kid}: {key.state} keys never become {state}")


# --- keys that come in ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A key that a ring does not have yet: its public half. The caller sees to the private one."""

    kind: KeyKind
    algorithm: str
    public: PublicJwk
    own_kid: str = ""
    """What it is called where it was made; empty for one that was made here."""

    @property
    def kid(self) -> str:
        """The kid it will have."""
        return self.own_kid or kid_of(self.public, prefix=self.kind.prefix)


class KeyWanted(NamedTuple):
    """A key pair that the caller is to make before it applies the step."""

    kind: KeyKind
    algorithm: str
    bits: int = 0
    """Of an RSA key; 0 for any other."""


def published(ring: Ring, fresh: FreshKey, now: datetime, epoch: int) -> Key:
    """`fresh` as the next version of `ring` shows it to the world."""
    policy = ring.policy
    return Key(
        kid=fresh.kid,
        kind=fresh.kind,
        algorithm=fresh.algorithm,
        public=fresh.public,
        state=KeyState.PUBLISHED,
        published_at=now,
        published_epoch=epoch,
        published_version=ring.version + 1,
        ready_at=max(now + policy.publication_interval, ring.caches_until or now),
        token_validity=policy.access_token_validity,
        max_staleness=policy.max_staleness,
        clock_skew=policy.clock_skew,
    )


# --- keys that are there -------------------------------------------------------------------------


def activated(key: Key, ring: Ring, now: datetime) -> Key:
    """`key`, which signs from the next version of `ring` on."""
    _move(key, KeyState.ACTIVE)
    is_dynamic = key.kind is KeyKind.DYNAMIC
    return replace(
        key.under(ring.policy),
        state=KeyState.ACTIVE,
        activated_at=now,
        activated_version=ring.version + 1,
        # Counted from the actual activation: a late turn does not shorten the next key's life.
        due_at=now + ring.policy.cryptoperiod if is_dynamic else None,
        due_reason=RotationReason.SCHEDULED,
        scheduled_at=None,
    )


def retired(key: Key, now: datetime) -> Key:
    """`key`, which signs no more, and verifies what it signed until no such token can exist."""
    _move(key, KeyState.RETIRED)
    return replace(key, state=KeyState.RETIRED, retired_at=now, remove_at=now + key.retain_for)


def returned(key: Key, ring: Ring, ready_at: datetime, epoch: int) -> Key:
    """The retired `key`, published again, to sign from `ready_at` on.

    Every verifier knows it. But signing apps let its private half go, so they confirm it anew.
    """
    _move(key, KeyState.PUBLISHED)
    return replace(
        key,
        state=KeyState.PUBLISHED,
        published_epoch=epoch,
        published_version=ring.version + 1,
        ready_at=ready_at,
        unhastened_at=None,
        retired_at=None,
        remove_at=None,
    )


def revoked(key: Key, reason: str, now: datetime) -> Key:
    """`key` as a tombstone, for as long as a token of its could live."""
    _move(key, KeyState.REVOKED)
    remove_at = max(now + key.retain_for, key.remove_at or now)
    return replace(key, state=KeyState.REVOKED, revoked_at=now, remove_at=remove_at, reason=reason)


# --- the ring around them ------------------------------------------------------------------------


def next_version(ring: Ring, epoch: int, keys: tuple[Key, ...]) -> Ring:
    """The next version of `ring`, made by the leadership `epoch`."""
    return replace(ring, version=ring.version + 1, epoch=epoch, keys=keys)


def turned(ring: Ring, kid: str, now: datetime) -> tuple[Key, ...]:
    """The keys with `kid` active and the former active key of its kind retired."""
    chosen = ring.key(kid)
    if chosen is None:
        raise AssertionError(f"{kid} is not in the ring")
    former = ring.active(chosen.kind)
    return tuple(
        activated(key, ring, now) if key is chosen else retired(key, now) if key is former else key
        for key in ring.keys
    )
