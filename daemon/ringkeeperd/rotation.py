"""The lifecycle of signing keys. Promises 1, 2, 3, 5 and 11 live here. Pure.

**The problem.** A key that signs for ever is a prize worth stealing, so the key must change. But
tokens are checked on many hosts, each with its own idea of which keys exist. Two mistakes log
people out: signing with a key that some verifier has not heard of yet, and removing a key while
a token of its is still alive.

**The answer** is to move every key through four states, slowly enough (RFC 7583 section 3):

    published ──▶ active ──▶ retired ──▶ (removed)
        └────────────┴──────────┴─────▶ revoked ──▶ (removed)

*published*: every verifier can learn it, nobody signs with it. There is always one such key, the
**standby**: so when the active key leaks, its successor is known everywhere already.
*active*: the one that signs. *retired*: signs no more, verifies what it signed until the last such
token has expired. *revoked*: its tokens are refused, from any state, at once; it stays as a
tombstone so that no late news brings it back to life.

**When may the standby sign?** When three things hold: the active key's cryptoperiod is over; the
standby has been public for the publication interval, long enough for every cache behind HTTP to
have run out; and every live instance has confirmed that it can use it. An instance that never
confirms holds this up for a bounded time only, and is then named.

**When may a retired key go?** After `token_validity + max_staleness + 2 x clock_skew`: the most
that a cut-off app could have gone on signing, plus the longest life of its last token, plus two
clocks that disagree. The values are the greatest that were in force while the key signed, kept
with the key; a configuration edited later never shortens the life of a token already given out.

**How it is driven.** `next_step` looks at the ring and says the one thing to do now, or until
when to wait. `apply` does it and returns the next version. Between any two steps the process may
die: every ring on the way is safe to live with for ever, and whoever comes next asks `next_step`
again. Nothing here reads a clock, draws a random number or talks to anyone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.algorithms import kid_of
from ringkeeper.durations import format_duration
from ringkeeper.errors import RequestRefused
from ringkeeper.policy import MAX_KEYS
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason

if TYPE_CHECKING:
    from ringkeeper.algorithms import PublicJwk
    from ringkeeper.policy import Policy


# --- the states, as a table: the diagram in docs/lifecycle.md is drawn from it -------------------


class Transition(NamedTuple):
    """One arrow of the state diagram; `None` stands for outside the ring."""

    before: KeyState | None
    after: KeyState | None
    when: str


TRANSITIONS: Final = (
    Transition(None, KeyState.PUBLISHED, "a standby or static key is missing"),
    Transition(None, KeyState.ACTIVE, "first ring: no cache can lack it"),
    Transition(KeyState.PUBLISHED, KeyState.ACTIVE, "due, public long enough, confirmed"),
    Transition(KeyState.ACTIVE, KeyState.RETIRED, "its successor became active"),
    Transition(KeyState.PUBLISHED, KeyState.RETIRED, "superseded by another algorithm's standby"),
    Transition(KeyState.RETIRED, None, "no unexpired token of its can exist"),
    Transition(KeyState.PUBLISHED, KeyState.REVOKED, "operator"),
    Transition(KeyState.ACTIVE, KeyState.REVOKED, "operator; the standby signs at once"),
    Transition(KeyState.RETIRED, KeyState.REVOKED, "operator"),
    Transition(KeyState.REVOKED, None, "no unexpired token of its can exist"),
)
_ALLOWED: Final = frozenset((t.before, t.after) for t in TRANSITIONS)


def _move(key: Key, state: KeyState) -> None:
    """Check that `key` may go to `state`; a mistake here would be ours, never the user's."""
    if (key.state, state) not in _ALLOWED:
        raise AssertionError(f"{key.kid}: {key.state} keys never become {state}")


# --- what the leader knows and what it may do ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instance:
    """A live process that holds the ring, and the edition of it that it confirmed."""

    id: str
    role: str
    epoch: int
    version: int
    seen_at: datetime
    keks: tuple[str, ...] = ()
    """The ids of the KEKs that it has, the one that would seal first."""
    roots: tuple[str, ...] = ()
    """The thumbprints of the roots that it pins, in the order of its file."""

    def named(self, now: datetime) -> str:
        """Its id, and for how long it has been silent: who has just ended counts as live, too."""
        silent = timedelta(seconds=max(0, (now - self.seen_at) // timedelta(seconds=1)))
        return f"{self.id} (last heard of {format_duration(silent)} ago)"


@dataclass(frozen=True, slots=True)
class Confirmations:
    """Who is live, and what each of them can use."""

    instances: tuple[Instance, ...]
    trusted_from: datetime
    """Before this the table may lack someone who is live: a new leader waits one window."""

    def missing(self, key: Key) -> tuple[str, ...]:
        """The live instances that have not confirmed `key`, sorted.

        Epoch before version: an edition that a lost leadership wrote may bear a higher version
        and yet lack the key.
        """
        edition = (key.published_epoch, key.published_version)
        return tuple(sorted(i.id for i in self.instances if (i.epoch, i.version) < edition))


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A key pair just made: its public half. The private half is sealed by the caller."""

    kind: KeyKind
    algorithm: str
    public: PublicJwk

    @property
    def kid(self) -> str:
        """The kid it will have."""
        return kid_of(self.public, prefix=self.kind.prefix)


class KeyWanted(NamedTuple):
    """A key pair that the caller is to make before it applies the step."""

    kind: KeyKind
    algorithm: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take the configured policy into the ring, so that every app learns of it."""

    policy: Policy
    wants: KeyWanted | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """Show a fresh key to the world, long before it signs."""

    wants: KeyWanted
    why: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a published key sign, retire the former one, and publish the next standby."""

    kid: str
    reason: RotationReason
    wants: KeyWanted | None
    forced: tuple[str, ...] = ()
    """Instances that never confirmed, and were waited for long enough."""


@dataclass(frozen=True, slots=True)
class Supersede:
    """Retire a standby whose algorithm is no longer the policy's, now that another is ready."""

    kid: str
    wants: KeyWanted | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Drop keys of which no unexpired token can exist."""

    kids: tuple[str, ...]
    wants: KeyWanted | None = None


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do before `when`, unless a confirmation, a request or a policy comes in."""

    when: datetime
    activation_at: datetime | None
    """When the next key will sign, all going well; None while there is no standby."""
    awaiting: tuple[str, ...] = ()
    """The instances that hold an activation up right now."""
    why: str = ""


Change = Adopt | Publish | Activate | Supersede | Remove
Step = Change | WaitUntil


# --- deciding ------------------------------------------------------------------------------------


def next_step(
    ring: Ring,
    policy: Policy,
    confirmed: Confirmations,
    now: datetime,
    *,
    clock_offset: timedelta = timedelta(0),
) -> Step:
    """The one thing to do to `ring` at `now`, or how long to wait.

    `policy` is the configured one. `clock_offset` is how far Redis' clock is from the leader's:
    beyond the clock skew the leader trusts neither, and writes down no time of its own accord.
    """
    if abs(clock_offset) > policy.clock_skew:
        when = now + policy.proof_interval
        return WaitUntil(when, activation_at(ring), why="the clock differs from Redis' by too much")
    if ring.policy != policy:
        return Adopt(policy)
    step = (
        _removal(ring, now)
        or _missing_key(ring)
        or _static_activation(ring, confirmed, now)
        or _supersession(ring, confirmed, now)
    )
    return step or _activation(ring, confirmed, now)


def activation_at(ring: Ring) -> datetime | None:
    """When the next dynamic key will sign, if every instance has confirmed it by then."""
    standby, active = ring.standby, ring.active()
    if standby is None:
        return None
    if active is None or active.due_at is None:
        return standby.ready_at
    return max(active.due_at, standby.ready_at)


def _removal(ring: Ring, now: datetime) -> Remove | None:
    gone = tuple(key.kid for key in ring.keys if key.remove_at is not None and key.remove_at <= now)
    return Remove(gone) if gone else None


def _missing_key(ring: Ring) -> Publish | None:
    """A static key, or a standby of the policy's algorithm, where there is none."""
    if not ring.has_room:
        return None
    algorithm = ring.policy.algorithm
    usable = (KeyState.PUBLISHED, KeyState.ACTIVE)
    if not any(key.kind is KeyKind.STATIC and key.state in usable for key in ring.keys):
        return Publish(KeyWanted(KeyKind.STATIC, algorithm), "the static key is missing")
    standby = ring.standby
    if standby is None:
        return Publish(KeyWanted(KeyKind.DYNAMIC, algorithm), "the standby is missing")
    waiting = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    if not ring.is_full and all(key.algorithm != algorithm for key in waiting):
        return Publish(KeyWanted(KeyKind.DYNAMIC, algorithm), "the algorithm changed")
    return None


def _static_activation(ring: Ring, confirmed: Confirmations, now: datetime) -> Activate | None:
    """A static key takes its place (only after a revocation) as carefully as any other."""
    if ring.active(KeyKind.STATIC):
        return None
    for key in ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC):
        cleared = _clearance(key, key.ready_at, ring.policy, confirmed, now)
        if not isinstance(cleared, datetime):
            return Activate(key.kid, RotationReason.REVOCATION, None, cleared)
    return None


def _supersession(ring: Ring, confirmed: Confirmations, now: datetime) -> Supersede | None:
    """The former algorithm's standby goes once another one could sign in its stead."""
    standby = ring.standby
    if standby is None or standby.algorithm != ring.policy.algorithm:
        return None
    cleared = _clearance(standby, standby.ready_at, ring.policy, confirmed, now)
    if isinstance(cleared, datetime):
        return None
    others = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    return next((Supersede(k.kid) for k in others if k.algorithm != standby.algorithm), None)


def _activation(ring: Ring, confirmed: Confirmations, now: datetime) -> Step:
    """The turn of the dynamic key, when its time has come."""
    active = ring.active()
    if active is None:
        # Revoked, and no standby was at hand. Nobody can sign: every wait would be an outage.
        successor = _successor(ring, now)
        if successor:
            return Activate(successor.kid, RotationReason.REVOCATION, _wanted(ring, successor))
    at = activation_at(ring)
    standby = ring.standby
    if active is None or standby is None or at is None or now < at:
        return _wait(ring, confirmed, now, at)
    cleared = _clearance(standby, at, ring.policy, confirmed, now)
    if isinstance(cleared, datetime):
        return _wait(ring, confirmed, now, at)
    wanted = _wanted(ring, standby)
    if wanted and ring.is_full:
        # The room above is for emergencies: the schedule waits until a key is removed.
        return replace(_wait(ring, confirmed, now, at), why="the ring is full until a key goes")
    return Activate(standby.kid, active.due_reason, wanted, cleared)


def _clearance(
    key: Key, wanted_at: datetime, policy: Policy, confirmed: Confirmations, now: datetime
) -> tuple[str, ...] | datetime:
    """The instances that are passed over if `key` signs now, as a rule nobody; or: not before.

    Promise 2: public long enough (`wanted_at` is never before the key is ready), and confirmed
    by every live instance, or waited for until the timeout.
    """
    start = max(wanted_at, confirmed.trusted_from)
    if now < start:
        return start
    missing = confirmed.missing(key)
    limit = start + policy.confirmation_timeout
    return limit if missing and now < limit else missing


def _successor(ring: Ring, now: datetime) -> Key | None:
    """Who signs when the active key was revoked: public long enough first, then the oldest."""
    return min(
        ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC),
        key=lambda key: (key.ready_at > now, key.ready_at, key.kid),
        default=None,
    )


def _wanted(ring: Ring, activated: Key | None) -> KeyWanted | None:
    """The standby to publish when `activated` signs, unless one waits already or none fits in."""
    others = [k for k in ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC) if k != activated]
    if not ring.has_room or any(k.algorithm == ring.policy.algorithm for k in others):
        return None
    return KeyWanted(KeyKind.DYNAMIC, ring.policy.algorithm)


def _wait(
    ring: Ring, confirmed: Confirmations, now: datetime, activation: datetime | None
) -> WaitUntil:
    """Until the first thing that time alone brings: an activation, a removal, a clearance."""
    waking = [activation, *(key.remove_at for key in ring.keys)]
    awaiting: set[str] = set()
    wishes = [(key, key.ready_at) for key in ring.in_state(KeyState.PUBLISHED)]
    if activation and ring.standby:
        wishes.append((ring.standby, activation))
    for key, wanted_at in wishes:
        cleared = _clearance(key, wanted_at, ring.policy, confirmed, now)
        if isinstance(cleared, datetime):
            waking.append(cleared)
            if now >= max(wanted_at, confirmed.trusted_from):
                awaiting.update(confirmed.missing(key))
    why = "not every live instance has confirmed the next key" if awaiting else ""
    if activation and activation <= now < confirmed.trusted_from:
        why = "a new leader first hears of every live instance"
    ahead = [when for when in waking if when is not None and when > now]
    # A day is a number to wake up at; nothing depends on it.
    when = min(ahead, default=now + timedelta(days=1))
    return WaitUntil(when, activation, tuple(sorted(awaiting)), why)


# --- doing ---------------------------------------------------------------------------------------


def first_ring(
    *,
    ring_id: str,
    name: str,
    policy: Policy,
    fresh: tuple[FreshKey, ...],
    kek: str,
    now: datetime,
    epoch: int,
) -> Ring:
    """The ring that `init` makes: an active, a standby and a static key in one commit.

    `fresh` holds two dynamic keys and a static one. No cache can lack any of them yet, so none
    of them has to wait.
    """
    empty = Ring(id=ring_id, name=name, version=0, epoch=epoch, policy=policy, keys=(), kek=kek)
    active, standby, static = (_published(empty, key, now, epoch) for key in fresh)
    keys = (
        _activated(replace(active, ready_at=now), empty, now),
        replace(standby, ready_at=now),
        _activated(replace(static, ready_at=now), empty, now),
    )
    return _next_version(empty, epoch, keys)


def first_keys_wanted(policy: Policy) -> tuple[KeyWanted, ...]:
    """The key pairs that `first_ring` takes, in its order."""
    kinds = (KeyKind.DYNAMIC, KeyKind.DYNAMIC, KeyKind.STATIC)
    return tuple(KeyWanted(kind, policy.algorithm) for kind in kinds)


def apply(
    ring: Ring, step: Change, *, now: datetime, epoch: int, fresh: FreshKey | None = None
) -> Ring:
    """The next version of `ring`, made by the leadership `epoch`.

    `fresh` is the key that `step.wants`.
    """
    if (step.wants is None) != (fresh is None):
        raise AssertionError(f"{step} and {fresh} do not go together")
    match step:
        case Adopt(policy):
            # Apps sign under it from now on, so what signs now is kept for as long as it needs.
            # And what is cached by now may be cached for as long as the former policy said.
            until = max(now + ring.policy.jwks_max_age, ring.caches_until or now)
            ring = replace(ring, policy=policy, caches_until=until)
            keys = tuple(k.under(policy) if k.state is KeyState.ACTIVE else k for k in ring.keys)
        case Publish():
            keys = ring.keys
        case Activate(kid):
            keys = _turned(ring, kid, now)
        case Supersede(kid):
            keys = tuple(_retired(key, now) if key.kid == kid else key for key in ring.keys)
        case Remove(kids):  # pragma: no branch - mypy sees to it that this was the last
            keys = tuple(key for key in ring.keys if key.kid not in kids)
    if fresh:
        keys += (_published(ring, fresh, now, epoch),)
    return _next_version(ring, epoch, keys)


def _next_version(ring: Ring, epoch: int, keys: tuple[Key, ...]) -> Ring:
    return replace(ring, version=ring.version + 1, epoch=epoch, keys=keys)


def _turned(ring: Ring, kid: str, now: datetime) -> tuple[Key, ...]:
    """The keys with `kid` active and the former active key of its kind retired."""
    chosen = ring.key(kid)
    if chosen is None:
        raise AssertionError(f"{kid} is not in the ring")
    former = ring.active(chosen.kind)
    return tuple(
        _activated(key, ring, now)
        if key is chosen
        else _retired(key, now)
        if key is former
        else key
        for key in ring.keys
    )


def _published(ring: Ring, fresh: FreshKey, now: datetime, epoch: int) -> Key:
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


def _activated(key: Key, ring: Ring, now: datetime) -> Key:
    _move(key, KeyState.ACTIVE)
    is_dynamic = key.kind is KeyKind.DYNAMIC
    return replace(
        key.under(ring.policy),
        state=KeyState.ACTIVE,
        activated_at=now,
        activated_version=ring.version + 1,
        # Counted from the actual activation: a late turn does not shorten the next key's life.
        due_at=now + ring.policy.cryptoperiod if is_dynamic else None,
    )


def _retired(key: Key, now: datetime) -> Key:
    _move(key, KeyState.RETIRED)
    return replace(key, state=KeyState.RETIRED, retired_at=now, remove_at=now + key.retain_for)


# --- what operators ask for ----------------------------------------------------------------------


def rotate(ring: Ring, *, now: datetime, epoch: int, hasten: bool = False) -> Ring:
    """The ring with its turn due at once; `next_step` takes it at the earliest safe moment.

    `hasten` shortens the standby's publication interval to `jwks_max_age`: caches that obey our
    Cache-Control have it by then, those with rules of their own may not. Confirmations are
    waited for in any case.

    Raises:
        RequestRefused: there is nothing to turn, or nothing that would change.
    """
    active, standby = ring.active(), ring.standby
    if active is None or active.due_at is None:
        raise RequestRefused("no dynamic key is active; the standby is about to take its place")
    if ring.is_full:
        raise RequestRefused(
            f"the ring holds {MAX_KEYS} keys, the most there may be; wait until one is removed "
            "(ringkeeper status says when)"
        )
    turning = active
    if active.due_at > now:
        turning = replace(active, due_at=now, due_reason=RotationReason.MANUAL)
    ready = standby
    if standby and hasten:
        soonest = standby.published_at + ring.policy.jwks_max_age
        soonest = max(soonest, ring.caches_until or soonest)
        ready = replace(standby, ready_at=min(standby.ready_at, soonest))
    if (turning, ready) == (active, standby):
        raise RequestRefused(
            "a rotation is due already and takes place at the earliest safe moment; "
            "ringkeeper status says when"
        )
    changed = {key.kid: key for key in (turning, ready) if key}
    return _next_version(ring, epoch, tuple(changed.get(key.kid, key) for key in ring.keys))


def revocation_wants(ring: Ring, kid: str, now: datetime) -> KeyWanted | None:
    """The fresh key that `revoke` takes along: no version is ever without the key that signs next.

    Who is cut off right after the revocation knows that one, and bears the next activation.
    """
    key, usable = ring.key(kid), (KeyState.PUBLISHED, KeyState.ACTIVE)
    if key is None or key.state not in usable:
        return None
    if key.kind is KeyKind.DYNAMIC:
        return _wanted(ring, _successor(ring, now) if key is ring.active() else key)
    others = [k for k in ring.keys if k.kind is KeyKind.STATIC and k.state in usable and k != key]
    return None if others or not ring.has_room else KeyWanted(KeyKind.STATIC, ring.policy.algorithm)


def revoke(
    ring: Ring, kid: str, *, reason: str, now: datetime, epoch: int, fresh: FreshKey | None = None
) -> Ring:
    """The ring in which `kid` is a tombstone. If it was signing, the standby signs at once.

    `fresh` becomes the next standby, or static key; see `revocation_wants`.

    Raises:
        RequestRefused: no such key, or revoked already.
    """
    key = ring.key(kid)
    if key is None:
        raise RequestRefused(
            f"unknown kid {kid!r}; ringkeeper status lists the keys of ring {ring.name}"
        )
    if key.state is KeyState.REVOKED:
        raise RequestRefused(f"{kid} is revoked already")
    tombstone = _revoked(key, reason, now)
    keys = tuple(tombstone if k is key else k for k in ring.keys)
    successor = _successor(ring, now)
    if key is ring.active() and successor:
        keys = tuple(_activated(k, ring, now) if k is successor else k for k in keys)
    if fresh:
        keys += (_published(ring, fresh, now, epoch),)
    return _next_version(ring, epoch, keys)


# --- what nobody can sign with any more -----------------------------------------------------------


def lose(ring: Ring, kids: frozenset[str], *, now: datetime, epoch: int) -> Ring:
    """The ring after the private halves of `kids` were lost: they verify on, and sign no more.

    `next_step` does the rest: it publishes what is missing, and lets the standby, or if need be
    a fresh key, sign at once.
    """
    keys = tuple(_retired(key, now) if key.kid in kids else key for key in ring.keys)
    return _next_version(ring, epoch, keys)


def put_off(ring: Ring, by: timedelta) -> Ring:
    """`ring`, whose newest keys are ready later by that much: nobody knows what time it is."""
    keys = tuple(
        replace(key, ready_at=key.ready_at + by) if key.published_version == ring.version else key
        for key in ring.keys
    )
    return replace(ring, keys=keys)


def _revoked(key: Key, reason: str, now: datetime) -> Key:
    _move(key, KeyState.REVOKED)
    remove_at = max(now + key.retain_for, key.remove_at or now)
    return replace(key, state=KeyState.REVOKED, revoked_at=now, remove_at=remove_at, reason=reason)
