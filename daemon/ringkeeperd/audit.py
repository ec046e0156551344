"""What changed between two versions of a ring, told. Promise 12 lives here. Pure.

The same event becomes one log line, one entry of the audit stream and one movement of a metric,
so the three can never tell different stories.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ringkeeper.ring import KeyKind, KeyState, RotationReason
from ringkeeper.wire import Event
from ringkeeperd.rotation import public_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from ringkeeper.ring import Key, Ring

Fields = dict[str, str | int | float | bool]

RING_MADE: Final = "ring made"
POLICY_ADOPTED: Final = "policy adopted"
ROTATION_ASKED: Final = "rotation asked for"
ROTATION_CALLED_OFF: Final = "rotation called off"
REQUEST_REFUSED: Final = "request refused"
KEY_PUBLISHED: Final = "key published"
KEY_ACTIVATED: Final = "key activated"
KEY_RETIRED: Final = "key retired"
KEY_REVOKED: Final = "key revoked"
KEY_REMOVED: Final = "key removed"
KEY_RETURNED: Final = "key returned"
"""It signed before, and is to sign again."""
DRAIN_BEGAN: Final = "drain began"
"""A key's tokens are refused little by little from now on; then it is revoked."""
DRAIN_CALLED_OFF: Final = "drain called off"
SETTING_CHANGED: Final = "setting changed"
RING_HEALED: Final = "ring healed"
RING_REWRAPPED: Final = "ring rewrapped"
SPIKE_BEGAN: Final = "refresh spike began"
SPIKE_ENDED: Final = "refresh spike ended"

_SETTING: Final = {
    "cryptoperiod": "access_token_dynamic_signing_key_update_interval",
    "use_dynamic": "use_dynamic_access_token_signing_key",
}
"""What an operator calls a value of a policy; the others are called as they are."""
_FROM_NEXT_KEY: Final = ("cryptoperiod", "algorithm")
"""Values that a key takes when it begins: those that are there keep theirs."""

_MOVED: Final = {
    KeyState.PUBLISHED: KEY_PUBLISHED,
    KeyState.ACTIVE: KEY_ACTIVATED,
    KeyState.RETIRED: KEY_RETIRED,
    KeyState.REVOKED: KEY_REVOKED,
}


def event(
    ring: Ring, at: datetime, name: str, fields: Mapping[str, str | int | float | bool]
) -> Event:
    """One event of this version of `ring`."""
    return Event(ring.id, ring.name, ring.version, ring.epoch, at, name, dict(fields))


def ring_rewrapped(
    ring: Ring, at: datetime, fields: Mapping[str, str | int | float | bool]
) -> Event:
    """That from this version on the ring is sealed, or signed, by another secret."""
    return event(ring, at, RING_REWRAPPED, {"kek": ring.kek, **fields})


def events_between(
    before: Ring | None, after: Ring, at: datetime, context: Mapping[str, str | int | float | bool]
) -> tuple[Event, ...]:
    """One event for each change of state; `context` (who asked, why) goes with all of them."""
    return tuple(
        event(after, at, name, {**fields, **context})
        for name, fields in _changes(before, after, at)
    )


def numbered(events: Iterable[Event], *, after: int) -> tuple[Event, ...]:
    """`events`, numbered on from the one numbered `after`: whoever reads them can see a gap."""
    return tuple(replace(each, number=n) for n, each in enumerate(events, after + 1))


def _changes(before: Ring | None, after: Ring, at: datetime) -> Iterator[tuple[str, Fields]]:
    if before is None:
        yield RING_MADE, {"keys": len(after.keys), "algorithm": after.policy.algorithm}
    elif before.policy != after.policy:
        yield POLICY_ADOPTED, _changed_policy(before, after)
    if before:
        yield from _changed_settings(before, after)
    former = {key.kid: key for key in before.keys} if before else {}
    for key in after.keys:
        known = former.pop(key.kid, None)
        if known is None or known.state is not key.state:
            yield _moved(key), _fields(key, before, after, at)
        if key.drained_until and not (known and known.drained_until):
            yield DRAIN_BEGAN, {"kid": key.kid, "until": key.drained_until.isoformat()}
        if known and known.drained_until and not key.drained_until:
            yield DRAIN_CALLED_OFF, {"kid": key.kid}
    if before:
        yield from _asked(before, after, at)
    for key in former.values():
        yield KEY_REMOVED, {"kid": key.kid, "kind": key.kind.value}


def _changed_settings(before: Ring, after: Ring) -> Iterator[tuple[str, Fields]]:
    """The settings that the ring itself holds, or does not any more: files say them again."""
    was, now = dict(before.overrides), dict(after.overrides)
    for setting in sorted({**was, **now}):
        if was.get(setting) != now.get(setting):
            yield SETTING_CHANGED, {"setting": setting, "value": now.get(setting, "")}


def _moved(key: Key) -> str:
    return KEY_RETURNED if key.is_returning else _MOVED[key.state]


def _fields(key: Key, before: Ring | None, after: Ring, at: datetime) -> Fields:
    fields: Fields = {"kid": key.kid, "kind": key.kind.value}
    if key.state is KeyState.PUBLISHED:
        fields["ready_at"] = key.ready_at.isoformat()
    elif key.state is KeyState.ACTIVE:
        fields["rotation"] = _why(key, before, after, at)
        if key.due_at:
            fields["due_at"] = key.due_at.isoformat()
    elif key.remove_at:
        fields["remove_at"] = key.remove_at.isoformat()
    return fields


def _next_turn(ring: Ring) -> Fields:
    """Who is to sign next, and when at the earliest; nothing while a standby is being made."""
    standby = ring.standby
    return {"kid": standby.kid, "ready_at": standby.ready_at.isoformat()} if standby else {}


def _asked(before: Ring, after: Ring, at: datetime) -> Iterator[tuple[str, Fields]]:
    """That a turn was asked for, or called off: of keys whose state is the same."""
    pairs = [(known, key) for key in after.keys if (known := before.key(key.kid))]
    # What is shown anew, as healing does, is no operator's doing.
    stayed = [
        (known, key)
        for known, key in pairs
        if (known.state, known.published_version) == (key.state, key.published_version)
    ]
    reasons = {
        key.due_reason
        for known, key in stayed
        if (known.due_at, known.due_reason) != (key.due_at, key.due_reason)
    }
    is_sooner = any(key.ready_at < known.ready_at for known, key in stayed)
    is_later = any(key.ready_at > known.ready_at for known, key in stayed)
    if reasons - {RotationReason.SCHEDULED} or is_sooner:
        cut = [known for known, key in stayed if at < known.ready_at > key.ready_at]
        until = [public_at(known).isoformat() for known in cut]
        yield (
            ROTATION_ASKED,
            {**_next_turn(after), **({"shortened_from": until[-1]} if cut else {})},
        )
    elif reasons or is_later:
        yield ROTATION_CALLED_OFF, _present_turn(after)


def _present_turn(ring: Ring) -> Fields:
    """Who signs, and until when."""
    active = ring.active()
    if active is None or active.due_at is None:
        return {}
    return {"kid": active.kid, "due_at": active.due_at.isoformat()}


def _why(key: Key, before: Ring | None, after: Ring, at: datetime) -> str:
    """Why `key` signs now: its predecessor was due, or asked to go, or is not there any more.

    Or it makes way itself, before that is due, for one of the algorithm that is wanted now.
    """
    if before is None:
        return "first"
    predecessor = before.active(key.kind)
    if predecessor is None and key.kind is KeyKind.STATIC and not _has_signed(before, key.kind):
        return "first"  # keys moved here and no static one, so that a fresh one had to wait
    left = after.key(predecessor.kid) if predecessor else None
    if predecessor is None or left is None or not left.may_verify or left.drained_until:
        return RotationReason.REVOCATION.value
    if predecessor.due_at and predecessor.due_at > at and not after.policy.suits(key):
        return RotationReason.ALGORITHM.value
    return predecessor.due_reason.value


def _has_signed(ring: Ring, kind: KeyKind) -> bool:
    return any(key.activated_at for key in ring.keys if key.kind is kind)


def _changed_policy(before: Ring, after: Ring) -> Fields:
    """What it says by the names of settings, and what of it a key that is there goes without."""
    names = type(after.policy).__dataclass_fields__
    changed = [n for n in names if getattr(before.policy, n) != getattr(after.policy, n)]
    fields: Fields = {"changed": _settings(changed)}
    if later := [name for name in changed if name in _FROM_NEXT_KEY]:
        fields["from_next_key"] = _settings(later)
    return fields


def _settings(names: Iterable[str]) -> str:
    return ", ".join(_SETTING.get(name, name) for name in names)
