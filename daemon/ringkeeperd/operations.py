"""What operators may change about a ring, and what it would break. Pure.

Each function says what the ring is like afterwards, or refuses with the reason and the remedy. No
way leads from here around the waits of `rotation`: a turn that an operator asks for is a turn that
is due at once, and `next_step` takes it when it is safe. The one exception is a revocation, for
there every wait would be worse.

Every one of them can be taken back, but for a revocation that is whole: a rotation that is due by
`call_off`, one that took place by `rollback`, a drain by `call_off_drain`, a setting by setting it
again, the retirement of a static key by `reinstate`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ringkeeper.clock import MILLISECOND, ZERO
from ringkeeper.draining import last_expiry
from ringkeeper.durations import format_duration
from ringkeeper.errors import RequestRefused
from ringkeeper.policy import MAX_KEYS
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeperd.rotation import (
    adopted,
    heir_in,
    key_wanted,
    public_at,
    standby_wanted,
    static_followers,
    successor,
    what_differs,
)
from ringkeeperd.transitions import (
    FreshKey,
    KeyWanted,
    activated,
    next_version,
    published,
    retired,
    returned,
    revoked,
)

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from ringkeeper.policy import Policy
    from ringkeeperd.rotation import Confirmations

_USABLE = (KeyState.PUBLISHED, KeyState.ACTIVE)


# --- turning -------------------------------------------------------------------------------------


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
    check_room(ring)
    turning = active
    if active.due_at > now:
        turning = _due(active, now, RotationReason.MANUAL)
    ready = standby
    if standby and hasten:
        soonest = standby.published_at + ring.policy.jwks_max_age
        soonest = max(soonest, ring.caches_until or soonest)
        if soonest < standby.ready_at:
            whole = standby.unhastened_at or standby.ready_at
            ready = replace(standby, ready_at=soonest, unhastened_at=whole)
    if (turning, ready) == (active, standby):
        when = "at the earliest safe moment; ringkeeper status says when"
        if standby and standby.ready_at > now:
            when = f"at {standby.ready_at:%Y-%m-%d %H:%M:%S} UTC at the earliest"
        elif standby:
            when = "once every live instance has confirmed the next key (ringkeeper status)"
        raise RequestRefused(
            f"a rotation is due already and takes place {when}; ringkeeper rotate --call-off takes "
            "it back"
        )
    changed = {key.kid: key for key in (turning, ready) if key}
    return next_version(ring, epoch, tuple(changed.get(key.kid, key) for key in ring.keys))


def _due(active: Key, now: datetime, reason: RotationReason) -> Key:
    """`active`, due at once, with the time when it would have been."""
    whole = active.scheduled_at or active.due_at
    return replace(active, due_at=now, due_reason=reason, scheduled_at=whole)


def call_off(ring: Ring, *, now: datetime, epoch: int) -> Ring:
    """The ring in which no turn is asked for: `rotate` or `rollback` undone, before it took place.

    The key that signs has its own time again, and a standby that was hastened its whole wait.

    Raises:
        RequestRefused: none was asked for.
    """
    active, standby = ring.active(), ring.standby
    if active is None:
        raise RequestRefused("no dynamic key is active; the standby is about to take its place")
    waiting = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    is_hastened = any(key.unhastened_at and key.unhastened_at > now for key in waiting)
    if active.due_reason is RotationReason.SCHEDULED and not is_hastened:
        when = "the next one is the schedule's (ringkeeper plan)"
        if standby and (heir := heir_in(ring)):
            setting, value = what_differs(heir, standby)
            when = (
                f"{standby.kid} makes way for a key of {setting} {value}; set that back to undo it "
                f"(ringkeeper set {setting})"
            )
        elif standby and ring.former:
            when += f"; {active.kid} is active by now, and ringkeeper rollback turns back from it"
        raise RequestRefused(f"no rotation is asked for that could be called off: {when}")
    changed: dict[str, Key] = {}
    if active.due_reason is not RotationReason.SCHEDULED:
        changed[active.kid] = _on_schedule(active, ring)
    for key in waiting:
        if key.is_returning:
            changed[key.kid] = retired(key, now)
        elif key.unhastened_at:
            changed[key.kid] = replace(key, ready_at=key.unhastened_at, unhastened_at=None)
    return next_version(ring, epoch, tuple(changed.get(key.kid, key) for key in ring.keys))


def _on_schedule(active: Key, ring: Ring) -> Key:
    """`active`, which is due when its own cryptoperiod ends."""
    # An older release asked for the turn where there is no telling when it would have been due.
    since = active.activated_at or active.published_at
    due_at = active.scheduled_at or since + ring.policy.cryptoperiod
    return replace(active, due_at=due_at, due_reason=RotationReason.SCHEDULED, scheduled_at=None)


def revocation_wants(ring: Ring, kid: str, now: datetime) -> KeyWanted | None:
    """The fresh key that `revoke` takes along: no version is ever without the key that signs next.

    Who is cut off right after the revocation knows that one, and bears the next activation.
    """
    key = ring.key(kid)
    if key is None or key.state not in _USABLE or key.kind is KeyKind.FOREIGN:
        return None
    if key.kind is KeyKind.DYNAMIC:
        return standby_wanted(ring, successor(ring, now) if key is ring.active() else key)
    others = [k for k in ring.keys if k.kind is KeyKind.STATIC and k.state in _USABLE and k != key]
    return None if others or not ring.has_room else key_wanted(ring.policy, KeyKind.STATIC)


def revoke(  # noqa: PLR0913 - all but two by name
    ring: Ring,
    kid: str,
    *,
    reason: str,
    now: datetime,
    epoch: int,
    fresh: FreshKey | None = None,
    drain: timedelta | None = None,
    confirmed: Confirmations | None = None,
) -> Ring:
    """The ring in which `kid` is a tombstone. If it was signing, the standby signs at once.

    `fresh` becomes the next standby, or static key; see `revocation_wants`. With `drain` the key
    only verifies from now on, fewer and fewer of its tokens (`ringkeeper.draining`), and is a
    tombstone that long from now: for a key of which nobody knows that it leaked. There is time
    then, so its successor must be one that all who are live have `confirmed`; that of a static key
    is a static one.

    Raises:
        RequestRefused: no such key, revoked already, or nobody could sign in its stead.
    """
    key = known(ring, kid)
    if key.state is KeyState.REVOKED:
        raise RequestRefused(f"{kid} is revoked already")
    chosen = successor(ring, now) if key is ring.active() else None
    if key is ring.active() and not (chosen or fresh):
        raise RequestRefused(
            f"{kid} is the last key that can sign, and the ring has no room for another; wait "
            "until a key is removed (ringkeeper status says when)"
        )
    if drain:
        gone = _drained(key, reason, now, drain)
        _check_lasting(key, drain, ring.policy)
        _check_followed(key, chosen, now, confirmed)
        chosen = chosen or _static_follower(ring, key, now, confirmed)
    else:
        gone = revoked(key, reason, now)
    keys = tuple(gone if k is key else k for k in ring.keys)
    if _is_rolled_back_to(key):
        keys = tuple(
            _on_schedule(k, ring)
            if k is ring.active() and k.due_reason is RotationReason.ROLLBACK
            else k
            for k in keys
        )
    if chosen:
        keys = tuple(activated(k, ring, now) if k is chosen else k for k in keys)
    if chosen and chosen.kind is KeyKind.DYNAMIC:
        # Nobody is to roll back from it any more, and who would have come back goes again.
        keys = tuple(retired(k, now) if _is_rolled_back_to(k) else k for k in keys)
    if fresh:
        keys += (published(ring, fresh, now, epoch),)
    return next_version(ring, epoch, keys)


def _is_rolled_back_to(key: Key) -> bool:
    return key.is_returning and key.kind is KeyKind.DYNAMIC


def _check_followed(
    key: Key, chosen: Key | None, now: datetime, confirmed: Confirmations | None
) -> None:
    """Refuse to take `key` from those who sign with it before all can go on with `chosen`."""
    if key.state is not KeyState.ACTIVE or key.kind is not KeyKind.DYNAMIC:
        return
    if chosen is None or chosen.ready_at > now:
        when = f" before {chosen.ready_at:%Y-%m-%d %H:%M:%S} UTC" if chosen else ""
        raise RequestRefused(
            f"{key.kid} signs, and the next key cannot follow it without a risk{when}: it has not "
            "been public for long enough; drain it then, or revoke it without --drain"
        )
    _check_confirmed(key, chosen, now, confirmed)


def _check_confirmed(
    key: Key, follower: Key, now: datetime, confirmed: Confirmations | None
) -> None:
    if confirmed and now < confirmed.trusted_from:
        raise RequestRefused(
            f"{key.kid} signs, and the leader has just begun: it first hears of every live "
            f"instance; ask again after {confirmed.trusted_from:%H:%M:%S} UTC"
        )
    if confirmed is None or confirmed.missing(follower):
        raise RequestRefused(
            f"{key.kid} signs, and not every live instance has confirmed {follower.kid} yet; "
            "ringkeeper status says who has not; ask again then"
        )


def _check_lasting(key: Key, drain: timedelta, policy: Policy) -> None:
    """Refuse a window that is over before every instance has heard of it: it spreads nobody."""
    if drain < policy.poll_interval:
        raise RequestRefused(
            f"a drain of {format_duration(drain)} is over before every instance has heard of it, "
            f"and {key.kid} revoked for good: let it last {format_duration(policy.poll_interval)} "
            "at least; or revoke it without --drain"
        )


def _drained(key: Key, reason: str, now: datetime, drain: timedelta) -> Key:
    """`key`, revoked little by little."""
    if key.drained_until:
        raise RequestRefused(
            f"{key.kid} is being drained already, until {key.drained_until:%H:%M:%S} UTC; without "
            "--drain it is revoked at once"
        )
    if key.state is KeyState.PUBLISHED and (key.kind is KeyKind.FOREIGN or key.is_returning):
        raise RequestRefused(f"{key.kid} is not retired: only then can it be drained")
    if key.state is KeyState.PUBLISHED:
        raise RequestRefused(f"{key.kid} has no tokens to drain; revoke it without --drain")
    gone = key
    if key.state is KeyState.ACTIVE:
        gone = retired(key, now) if key.kind is KeyKind.DYNAMIC else _retired(key, now)
    # A drain that was called off counts nowhere any more: this one begins after that.
    begin = max(now, key.undrained_at + MILLISECOND) if key.undrained_at else now
    last = last_expiry(gone, begin)
    if drain >= last - begin:
        raise RequestRefused(
            f"its last token ends in {format_duration(max(last - begin, ZERO))} by itself: a drain "
            "must be shorter than that"
        )
    return replace(gone, reason=reason, drained_from=begin, drained_until=begin + drain)


def call_off_drain(ring: Ring, kid: str, *, now: datetime, epoch: int) -> Ring:
    """The ring in which `kid` is drained no more: every token that it signed counts again.

    It only verifies, as any retired key does, and may be rolled back to.

    Raises:
        RequestRefused: no such key, or it is not being drained, or is revoked by now.
    """
    key = known(ring, kid)
    if _is_revoked(key, now):
        raise RequestRefused(f"too late: {kid} is revoked, and a revocation is never taken back")
    if key.drained_from is None:
        raise RequestRefused(f"{kid} is not being drained; ringkeeper status shows what is")
    spared = replace(
        key,
        drained_from=None,
        drained_until=None,
        reason="",
        undrained_at=max(now, key.drained_from),
    )
    return next_version(ring, epoch, tuple(spared if k is key else k for k in ring.keys))


def rollback(ring: Ring, *, now: datetime, epoch: int) -> Ring:
    """The ring in which the former signer is to sign again, once every instance can.

    It signs for a whole cryptoperiod more. What signs now then only verifies, and one can go back
    to it, too.

    Raises:
        RequestRefused: there is none to go back to, or it is under way.
    """
    active, former = ring.active(), ring.former
    if any(map(_is_rolled_back_to, ring.keys)):
        raise RequestRefused("a rollback is under way already; ringkeeper status says for whom")
    if active is None:
        raise RequestRefused("no dynamic key is active; the standby is about to take its place")
    draining = _drained_since(ring, former, now)
    if draining:
        raise RequestRefused(
            f"{draining.kid}, which signed before, is being drained; end that first (ringkeeper "
            f"revoke {draining.kid} --call-off --reason WHY), or wait until it is revoked: then a "
            "rollback is to the key before it"
        )
    if former is None:
        raise RequestRefused(
            f"{_why_none_before(ring, active, now)}, so there is none to go back to; ringkeeper "
            "rotate turns to the next one"
        )
    changed = {
        # An emergency, or --now, may have let it sign before it was public for long enough.
        former.kid: returned(former, ring, max(now, public_at(former)), epoch),
        active.kid: _due(active, now, RotationReason.ROLLBACK),
    }
    return next_version(ring, epoch, tuple(changed.get(key.kid, key) for key in ring.keys))


def _drained_since(ring: Ring, former: Key | None, now: datetime) -> Key | None:
    """The key that signed after `former` and is being drained: it is the one that is meant."""
    since = former.retired_at if former else None
    drained = (
        (key.retired_at, key)
        for key in ring.in_state(KeyState.RETIRED, KeyKind.DYNAMIC)
        if key.activated_at and key.retired_at and key.drained_until and key.drained_until > now
    )
    later = (each for each in drained if since and each[0] > since)
    return max(later, key=lambda each: each[0], default=(now, None))[1]


def _why_none_before(ring: Ring, active: Key, now: datetime) -> str:
    """What became of the key that signed before the active one, as far as the ring tells."""
    gone = [k for k in ring.keys if k.kind is KeyKind.DYNAMIC and k.activated_at and k != active]
    last = max(gone, key=lambda k: k.retired_at or k.revoked_at or now, default=None)
    if last and _is_revoked(last, now):
        return f"too late: {last.kid}, which signed before, is revoked"
    if last and last.drained_until:
        return (
            f"{last.kid}, which signed before, is being drained (ringkeeper revoke {last.kid} "
            "--call-off --reason WHY ends that)"
        )
    if active.activated_version == 1:
        return f"too early: {active.kid} is the first dynamic key that signs"
    return "too late: the key that signed before is removed"


def _is_revoked(key: Key, now: datetime) -> bool:
    """Whether none of its tokens counts any more, and none ever will."""
    return key.state is KeyState.REVOKED or (
        key.drained_until is not None and key.drained_until <= now
    )


# --- static and foreign keys ---------------------------------------------------------------------


def add(ring: Ring, fresh: FreshKey, *, now: datetime, epoch: int) -> Ring:
    """The ring that shows a static or foreign key, too; no other signs for it.

    Raises:
        RequestRefused: it is there already, or there is no room.
    """
    check_room(ring)
    _check_room_to_last(ring)
    for key in ring.keys:
        if key.kid == fresh.kid:
            raise RequestRefused(f"the ring has a key {key.kid} already; nothing was changed")
        if key.public == fresh.public:
            raise RequestRefused(f"the ring has this very key already, as {key.kid}")
    return next_version(ring, epoch, (*ring.keys, published(ring, fresh, now, epoch)))


def room_in(ring: Ring) -> int:
    """How many static or foreign keys `add` would take, one after the other."""
    return max(0, min(_room_to_last(ring), MAX_KEYS - len(ring.keys)))


def _lasting(ring: Ring) -> tuple[Key, ...]:
    return tuple(k for k in ring.keys if k.kind is not KeyKind.DYNAMIC and k.state in _USABLE)


def _room_to_last(ring: Ring) -> int:
    """These go by no schedule: they may not take the room that the dynamic keys turn in."""
    # What is kept as keys turn counts one static key already.
    return MAX_KEYS + 1 - ring.policy.keys_kept - len(_lasting(ring))


def _check_room_to_last(ring: Ring) -> None:
    if _room_to_last(ring) < 1:
        raise RequestRefused(
            f"the ring keeps up to {ring.policy.keys_kept} keys as they turn, besides "
            f"{len(_lasting(ring))} static and foreign; {MAX_KEYS} is the most: retire one first "
            "(ringkeeper static retire)"
        )


def retire(
    ring: Ring, kid: str, *, now: datetime, epoch: int, confirmed: Confirmations | None = None
) -> Ring:
    """The ring in which the static or foreign `kid` verifies what was signed, and then goes.

    Where it signs, the static key that was made to follow it signs at once: it is public long
    enough, and all who are live have `confirmed` it.

    Raises:
        RequestRefused: no such key, of another kind, or none could follow it yet.
    """
    key = known(ring, kid)
    if key.kind is KeyKind.DYNAMIC:
        raise RequestRefused(f"{kid} is a dynamic key, which retires by itself; ringkeeper rotate")
    if key.state not in _USABLE:
        raise RequestRefused(f"{kid} is {key.state} already")
    if (
        key.kind is KeyKind.STATIC
        and key.state is KeyState.PUBLISHED
        and not (ring.active(KeyKind.STATIC) or any(k is not key for k in static_followers(ring)))
    ):
        raise RequestRefused(f"{kid} is the only static key, and about to sign; make another first")
    follower = _static_follower(ring, key, now, confirmed)
    keys = tuple(_retired(k, now) if k is key else k for k in ring.keys)
    keys = tuple(activated(k, ring, now) if k is follower else k for k in keys)
    return next_version(ring, epoch, keys)


def _static_follower(
    ring: Ring, key: Key, now: datetime, confirmed: Confirmations | None
) -> Key | None:
    """Who signs in the place of `key` at once, if that is the static key that signs.

    A dynamic key would stand in, which those do not know who have the public half of a static one.

    Raises:
        RequestRefused: there is none yet, and no haste that would be worth it.
    """
    if key is not ring.active(KeyKind.STATIC):
        return None
    follower = next((k for k in static_followers(ring) if k is not key), None)
    if follower is None:
        raise RequestRefused(
            f"{key.kid} is the only static key; make the one that follows it first: ringkeeper "
            "static create, or static import"
        )
    if follower.ready_at > now:
        raise RequestRefused(
            f"{follower.kid} is to follow it, and has to be public until "
            f"{follower.ready_at:%Y-%m-%d %H:%M:%S} UTC first; ask again then"
        )
    _check_confirmed(key, follower, now, confirmed)
    return follower


def reinstate(ring: Ring, kid: str, *, now: datetime, epoch: int) -> Ring:
    """The ring in which the retired static or foreign `kid` is published again: `retire` undone.

    A static key that signed before follows the one that signs now before any other, as soon as
    every instance has confirmed it anew. One that never signed waits like a fresh one.

    Raises:
        RequestRefused: no such key, of another kind, not retired, or there is no room.
    """
    key = known(ring, kid)
    if key.kind is KeyKind.DYNAMIC:
        raise RequestRefused(f"{kid} is a dynamic key; ringkeeper rollback turns back to the last")
    if _is_revoked(key, now):
        raise RequestRefused(
            f"{kid} is revoked: it never comes back; make another: ringkeeper static create, or "
            "static import"
        )
    if key.drained_until:
        raise RequestRefused(
            f"{kid} is being drained: end that first (ringkeeper revoke {kid} --call-off --reason "
            "WHY)"
        )
    if key.state is not KeyState.RETIRED:
        raise RequestRefused(f"{kid} is {key.state}, and not retired: there is nothing to undo")
    _check_room_to_last(ring)
    # Until an operator retired it, it signed here, and every verifier knows it. What a merge
    # retired may be news to some.
    is_known = key.activated_at is not None and key.due_reason is RotationReason.MANUAL
    publicly = max(now + ring.policy.publication_interval, ring.caches_until or now)
    back = returned(key, ring, now if is_known else publicly, epoch)
    return next_version(ring, epoch, tuple(back if k is key else k for k in ring.keys))


def _retired(key: Key, now: datetime) -> Key:
    """`key`, retired because an operator said so."""
    return retired(replace(key, due_reason=RotationReason.MANUAL), now)


# --- settings ------------------------------------------------------------------------------------


def override(
    ring: Ring, key: str, text: str | None, policy: Policy, *, now: datetime, epoch: int
) -> Ring:
    """The ring whose setting `key` is `text` whatever files say; None leaves it to them again.

    `policy` is what comes of it.

    Raises:
        RequestRefused: it is so already.
    """
    overrides = dict(ring.overrides)
    former = overrides.pop(key, None)
    if former == text:
        is_so = f"is set to {text} already" if text else "is not set for the ring: files say it"
        raise RequestRefused(f"{key} {is_so}; nothing was changed")
    if text is not None:
        overrides[key] = text
    amended = replace(ring, overrides=tuple(sorted(overrides.items())))
    if policy == ring.policy:
        return next_version(amended, epoch, ring.keys)
    return adopted(amended, policy, now=now, epoch=epoch)


def check_room(ring: Ring) -> None:
    """Refuse what would fill the room that is for emergencies."""
    if ring.is_full:
        raise RequestRefused(
            f"the ring holds {MAX_KEYS} keys, the most there may be; wait until one is removed "
            "(ringkeeper status says when)"
        )


def known(ring: Ring, kid: str) -> Key:
    """The key of `ring` that is called so.

    Raises:
        RequestRefused: there is none.
    """
    key = ring.key(kid)
    if key is None:
        raise RequestRefused(
            f"unknown kid {kid!r}; ringkeeper status lists the keys of ring {ring.name} (another "
            "one is named with --ring)"
        )
    return key
