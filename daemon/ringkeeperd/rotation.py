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
from typing import TYPE_CHECKING

from ringkeeper.durations import format_duration
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeperd.transitions import (
    FreshKey,
    KeyWanted,
    activated,
    next_version,
    published,
    retired,
    revoked,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringkeeper.policy import Policy


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
    verifies: float = 0.0
    """How many tokens it was asked to verify a second; 0 where it does not say."""
    known: float = 0.0
    """Those of them whose signature it had checked before, a second."""
    may_lead: bool = False
    """Whether it is a daemon that would lead, were the lease free."""
    policy: str = ""
    """The digest of the policy in its files, of a daemon that may lead."""
    algorithms: tuple[str, ...] = ()
    """Those that it can use keys of; empty where it did not tell."""

    def knows(self, algorithm: str) -> bool | None:
        """Whether it can use keys of `algorithm`; None where it did not tell."""
        return algorithm in self.algorithms if self.algorithms else None

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
class Revoke:
    """Make a tombstone of a key whose tokens were refused little by little: all are refused now."""

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


Change = Adopt | Publish | Activate | Supersede | Revoke | Remove
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
        _end_of_drain(ring, now)
        or _removal(ring, now)
        or _missing_key(ring)
        or _static_activation(ring, confirmed, now)
        or _supersession(ring, confirmed, now)
        or _making_way(ring, confirmed, now)
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


def heir_in(ring: Ring) -> Key | None:
    """The key that the policy wants, where it waits behind a standby of another kind.

    The standby makes way for it, by taking its own turn early, once every instance could use the
    heir: whoever is cut off by then knows the standby, so promise 1 holds, and the heir signs one
    cryptoperiod after that. Only where that turn alone brings nothing else: where a change was
    taken back, what nobody wants any more does not sign any sooner (ADR 3). Nor where an operator
    asked for the turn anyway.
    """
    active, standby = ring.active(), ring.standby
    if active is None or standby is None or ring.policy.suits(standby):
        return None
    if active.due_reason is not RotationReason.SCHEDULED:
        return None
    if (standby.algorithm, standby.bits) != (active.algorithm, active.bits):
        return None
    waiting = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    return next(filter(ring.policy.suits, waiting), None)


def makes_way_at(ring: Ring) -> datetime | None:
    """From when on the standby makes way for its heir; None where there is none.

    Not so soon after the last turn that who was cut off for a while has missed both.
    """
    active, standby, heir = ring.active(), ring.standby, heir_in(ring)
    if heir is None or active is None or standby is None or active.activated_at is None:
        return None
    return max(heir.ready_at, standby.ready_at, active.activated_at + active.max_staleness)


def what_differs(heir: Key, standby: Key) -> tuple[str, str]:
    """The setting by which `heir` is another kind of key than `standby`, and its value."""
    if heir.algorithm != standby.algorithm:
        return "algorithm", heir.algorithm
    return "rsa_key_size", str(heir.bits)


def public_at(key: Key) -> datetime:
    """When `key` will have been public for the publication interval, even if it was hastened."""
    return key.unhastened_at or key.ready_at


def _end_of_drain(ring: Ring, now: datetime) -> Revoke | None:
    drained = (k.kid for k in _draining(ring) if k.drained_until and k.drained_until <= now)
    return next(map(Revoke, drained), None)


def _draining(ring: Ring) -> tuple[Key, ...]:
    return tuple(key for key in ring.in_state(KeyState.RETIRED) if key.drained_until)


def _removal(ring: Ring, now: datetime) -> Remove | None:
    gone = tuple(key.kid for key in ring.keys if key.remove_at is not None and key.remove_at <= now)
    return Remove(gone) if gone else None


def _missing_key(ring: Ring) -> Publish | None:
    """A static key, or a standby of the policy's algorithm, where there is none."""
    if not ring.has_room:
        return None
    usable = (KeyState.PUBLISHED, KeyState.ACTIVE)
    if not any(key.kind is KeyKind.STATIC and key.state in usable for key in ring.keys):
        return Publish(key_wanted(ring.policy, KeyKind.STATIC), "the static key is missing")
    waiting = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    if not waiting:
        return Publish(key_wanted(ring.policy), "the standby is missing")
    if not ring.is_full and not any(ring.policy.suits(key) for key in waiting):
        return Publish(key_wanted(ring.policy), "the algorithm changed")
    return None


def key_wanted(policy: Policy, kind: KeyKind = KeyKind.DYNAMIC) -> KeyWanted:
    """A key pair such as `policy` has them made."""
    return KeyWanted(kind, policy.algorithm, policy.key_bits)


def _static_activation(ring: Ring, confirmed: Confirmations, now: datetime) -> Activate | None:
    """A static key takes its place as carefully as any other: after a revocation, or a move."""
    if ring.active(KeyKind.STATIC):
        return None
    for key in static_followers(ring):
        cleared = _clearance(key, key.ready_at, ring.policy, confirmed, now)
        if not isinstance(cleared, datetime):
            return Activate(key.kid, RotationReason.REVOCATION, None, cleared)
    return None


def static_followers(ring: Ring) -> tuple[Key, ...]:
    """The static keys that wait, in the order in which they are to sign.

    One that an operator brought back goes before any other: it signed before, so all know it.
    """
    waiting = ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    return tuple(sorted(waiting, key=lambda key: (not key.is_returning, key.ready_at, key.kid)))


def _supersession(ring: Ring, confirmed: Confirmations, now: datetime) -> Supersede | None:
    """The former algorithm's standby goes once another one could sign in its stead."""
    # What an operator rolled back to is no such standby: it goes first, and signs soon.
    standby = ring.standby
    if standby is None or standby.is_returning or not ring.policy.suits(standby):
        return None
    cleared = _clearance(standby, standby.ready_at, ring.policy, confirmed, now)
    if isinstance(cleared, datetime):
        return None
    others = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    return next((Supersede(k.kid) for k in others if not ring.policy.suits(k)), None)


def _activation(ring: Ring, confirmed: Confirmations, now: datetime) -> Step:
    """The turn of the dynamic key, when its time has come."""
    active = ring.active()
    if active is None:
        # Revoked, and no standby was at hand. Nobody can sign: every wait would be an outage.
        chosen = successor(ring, now)
        if chosen:
            return Activate(chosen.kid, RotationReason.REVOCATION, standby_wanted(ring, chosen))
    at = activation_at(ring)
    standby = ring.standby
    if active is None or standby is None or at is None or now < at:
        return _wait(ring, confirmed, now, at)
    cleared = _clearance(standby, at, ring.policy, confirmed, now)
    if isinstance(cleared, datetime):
        return _wait(ring, confirmed, now, at)
    wanted = standby_wanted(ring, standby)
    if wanted and ring.is_full:
        # The room above is for emergencies: the schedule waits until a key is removed.
        return replace(_wait(ring, confirmed, now, at), why="the ring is full until a key goes")
    return Activate(standby.kid, active.due_reason, wanted, cleared)


def _making_way(ring: Ring, confirmed: Confirmations, now: datetime) -> Activate | None:
    """The early turn of a standby for its heir, for which nobody is passed over."""
    at, active, standby, heir = makes_way_at(ring), ring.active(), ring.standby, heir_in(ring)
    if at is None or now < max(at, confirmed.trusted_from):
        return None
    if not (active and active.due_at and standby and heir) or active.due_at <= now:
        return None
    if confirmed.missing(heir):
        return None
    return Activate(standby.kid, RotationReason.ALGORITHM, None)


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


def successor(ring: Ring, now: datetime) -> Key | None:
    """Who signs when the active key was revoked: public long enough first, then the oldest."""
    return min(
        ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC),
        key=lambda key: (key.ready_at > now, key.ready_at, key.kid),
        default=None,
    )


def standby_wanted(ring: Ring, chosen: Key | None) -> KeyWanted | None:
    """The standby to publish when `chosen` signs, unless one waits already or none fits in."""
    waiting = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    # One that was to come back goes again, if another is chosen before it.
    others = [key for key in waiting if key != chosen and not key.is_returning]
    if not ring.has_room or any(ring.policy.suits(key) for key in others):
        return None
    return key_wanted(ring.policy)


def _wait(
    ring: Ring, confirmed: Confirmations, now: datetime, activation: datetime | None
) -> WaitUntil:
    """Until the first thing that time alone brings: an activation, a removal, a clearance."""
    waking = [activation, *(key.remove_at for key in ring.keys)]
    waking += [key.drained_until for key in _draining(ring)]
    waking.append(makes_way_at(ring))
    awaiting: set[str] = set()
    wishes = [(k, k.ready_at) for k in ring.may_sign_next if k.state is KeyState.PUBLISHED]
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


def first_ring(  # noqa: PLR0913 - all by name
    *,
    ring_id: str,
    name: str,
    policy: Policy,
    fresh: Sequence[FreshKey],
    kek: str,
    now: datetime,
    epoch: int,
    former: Sequence[FreshKey] = (),
) -> Ring:
    """The ring that `init` makes: an active, a standby and a static key in one commit.

    `fresh` holds two dynamic keys and a static one. No cache can lack any of them yet, so none
    of them has to wait. But where an issuer moves here that has signed before (see `importing`),
    its verifiers know what came along from there, and have yet to hear of what was made here: the
    standby waits, and so does a fresh static key. Of `former` ones the dynamic are retired.
    """
    empty = Ring(id=ring_id, name=name, version=0, epoch=epoch, policy=policy, keys=(), kek=kek)
    active, standby, static = (published(empty, key, now, epoch) for key in fresh)
    is_known = not any(key.own_kid for key in (*fresh, *former))
    keys: tuple[Key, ...] = (
        activated(replace(active, ready_at=now), empty, now),
        replace(standby, ready_at=now) if is_known else standby,
        activated(replace(static, ready_at=now), empty, now)
        if is_known or fresh[2].own_kid
        else static,
    )
    shown = (published(empty, key, now, epoch) for key in former)
    keys += tuple(retired(key, now) if key.kind is KeyKind.DYNAMIC else key for key in shown)
    return next_version(empty, epoch, keys)


def first_keys_wanted(policy: Policy) -> tuple[KeyWanted, ...]:
    """The key pairs that `first_ring` takes, in its order."""
    kinds = (KeyKind.DYNAMIC, KeyKind.DYNAMIC, KeyKind.STATIC)
    return tuple(key_wanted(policy, kind) for kind in kinds)


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
            return adopted(ring, policy, now=now, epoch=epoch)
        case Publish():
            keys = ring.keys
        case Activate(kid):
            keys = turned(ring, kid, now)
        case Supersede(kid):
            keys = tuple(retired(key, now) if key.kid == kid else key for key in ring.keys)
        case Revoke(kid):
            keys = tuple(
                revoked(key, key.reason, now) if key.kid == kid else key for key in ring.keys
            )
        case Remove(kids):  # pragma: no branch - mypy sees to it that this was the last
            keys = tuple(key for key in ring.keys if key.kid not in kids)
    if fresh:
        keys += (published(ring, fresh, now, epoch),)
    return next_version(ring, epoch, keys)


def adopted(ring: Ring, policy: Policy, *, now: datetime, epoch: int) -> Ring:
    """The next version of `ring`, under `policy`.

    Apps sign under it from now on, so what signs now is kept for as long as it needs. And where
    caches are to forget sooner, what is cached by now may stay as long as the former policy said.
    """
    until = ring.caches_until
    if policy.jwks_max_age < ring.policy.jwks_max_age:
        until = max(now + ring.policy.jwks_max_age, until or now)
    keys = tuple(k.under(policy) if k.state is KeyState.ACTIVE else k for k in ring.keys)
    return next_version(replace(ring, policy=policy, caches_until=until), epoch, keys)


# --- what nobody can sign with any more -----------------------------------------------------------


def lose(ring: Ring, kids: frozenset[str], *, now: datetime, epoch: int) -> Ring:
    """The ring after the private halves of `kids` were lost: they verify on, and sign no more.

    `next_step` does the rest: it publishes what is missing, and lets the standby, or if need be
    a fresh key, sign at once.
    """
    keys = tuple(retired(key, now) if key.kid in kids else key for key in ring.keys)
    return next_version(ring, epoch, keys)


def put_off(ring: Ring, by: timedelta) -> Ring:
    """`ring`, whose newest keys are ready later by that much: nobody knows what time it is."""
    keys = tuple(
        replace(key, ready_at=key.ready_at + by) if key.published_version == ring.version else key
        for key in ring.keys
    )
    return replace(ring, keys=keys)
