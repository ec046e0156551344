"""A ring in words: `ringkeeper status` and the status page say the same. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ringkeeper.durations import format_duration
from ringkeeper.layout import BUCKET
from ringkeeper.ring import Key, KeyKind, KeyState, RotationReason
from ringkeeperd.rotation import (
    activation_at,
    heir_in,
    makes_way_at,
    public_at,
    static_followers,
    what_differs,
)
from ringkeeperd.spike_events import begin_of

if TYPE_CHECKING:
    from datetime import datetime

    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeperd.spikes import Spike

_FINENESS: Final = ((2 * 86400, 3600), (3600, 60))
"""From so many seconds on a duration is told in whole hours, and in whole minutes."""
CHOSEN: Final = "signs only for apps that choose so"
"""What the active key of the other kind does: an app may have a mode of its own."""
_ORDER: Final = (KeyState.ACTIVE, KeyState.PUBLISHED, KeyState.RETIRED, KeyState.REVOKED)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the words depend on: a ring, when, and who is known to be there."""

    ring: Ring
    now: datetime
    is_led: bool
    is_awaited: bool
    """Whether a live instance has not confirmed the next key yet."""


def harmless(text: str, most: int = 100) -> str:
    """`text`, to be shown. Whoever writes in Redis chose it: it could move a cursor, too."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:most])
    return f"{shown}…" if len(text) > most else shown


def counted(count: int, what: str) -> str:
    """So many of `what`: 1 key, 2 keys."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def without_numbers(text: str) -> str:
    """`text` with a mark for each number: to tell whether it says something new, not only when."""
    return re.sub("[0-9]+", "#", text)


def ordered(ring: Ring) -> list[Key]:
    """The keys as one reads them: those that are turned first, of each kind by who signs first."""
    return sorted(
        ring.keys,
        key=lambda k: (
            k.kind is KeyKind.STATIC,
            _ORDER.index(k.state),
            k != ring.standby,
            k.kind is KeyKind.DYNAMIC and not ring.policy.suits(k),
            -k.published_at.timestamp(),
        ),
    )


def since(key: Key) -> datetime:
    """When `key` came into its state."""
    return key.revoked_at or key.retired_at or key.activated_at or key.published_at


def hastened(kid: str, until: datetime) -> str:
    """What it risks to shorten the publication interval of `kid`, which would end at `until`."""
    return (
        f"warning: this shortens the wait of {kid}: verifiers behind HTTP whose caches do not obey "
        f"our Cache-Control may refuse its tokens until {until:%Y-%m-%d %H:%M:%S} UTC, when it "
        "would have been public for the publication interval"
    )


def unready(key: Key, policy: Policy, now: datetime) -> str:
    """What `key` risks, signing at `now`; empty if it has been public for long enough."""
    until, obeyed = public_at(key), key.published_at + policy.jwks_max_age
    if until <= now:
        return ""
    public, whole = age(now - key.published_at), format_duration(until - key.published_at)
    sooner = (
        f" (those that obey jwks_max_age: until {obeyed:%H:%M:%S})" if now < obeyed < until else ""
    )
    return (
        f"warning: {key.kid} has been public for {public} of {whole}: verifiers behind HTTP may "
        f"refuse its tokens until {until:%Y-%m-%d %H:%M:%S} UTC{sooner}"
    )


def next_change(key: Key, outlook: Outlook) -> str:
    """What becomes of `key`, and when."""
    ring, now = outlook.ring, outlook.now
    match key.state:
        case KeyState.ACTIVE:
            change = f"retires {turn(outlook)}" if key.due_at else "stays: static"
            return change if key == ring.signer else f"{change}; {CHOSEN}"
        case KeyState.PUBLISHED if key.kind is KeyKind.FOREIGN:
            return "stays: verifies, and signs nothing"
        case KeyState.PUBLISHED if key.kind is KeyKind.STATIC and (told := _follows(key, ring)):
            return told
        case KeyState.PUBLISHED if key.kind is KeyKind.STATIC:
            when = _when(key.ready_at, now, "when confirmed")
            idle = f"active {when}; {CHOSEN}"
            return idle if ring.policy.use_dynamic else f"signs {when}"
        case KeyState.PUBLISHED if key != ring.standby and not ring.policy.suits(key):
            return "retires unused: other keys are wanted"
        case KeyState.PUBLISHED if ring.signer and ring.signer.kind is KeyKind.STATIC:
            return f"active {_in_turn(key, outlook)}; {CHOSEN}"
        case KeyState.PUBLISHED:
            return f"signs {_in_turn(key, outlook)}"
        case KeyState.RETIRED if key.drained_until:
            return f"drained: revoked {_when(key.drained_until, now, 'now')}"
        case KeyState.RETIRED | KeyState.REVOKED:
            return f"goes {_when(key.remove_at, now, 'now')}"


def _in_turn(key: Key, outlook: Outlook) -> str:
    """When the standby takes its turn, or who comes after it."""
    when = turn(outlook) if key == outlook.ring.standby else "a turn later"
    ready_in = key.ready_at - outlook.now
    return f"{when}, ready in {age(ready_in)}" if ready_in > timedelta(0) else when


def _follows(key: Key, ring: Ring) -> str:
    """Behind which static key that one waits; empty where it signs as soon as it may."""
    kids = [each.kid for each in static_followers(ring)]
    if at := kids.index(key.kid):
        return f"after {kids[at - 1]}"
    signer = ring.active(KeyKind.STATIC)
    return f"follows {signer.kid} next" if signer else ""


def turn(outlook: Outlook) -> str:
    """When the standby signs."""
    at, now = activation_at(outlook.ring), outlook.now
    if not outlook.is_led:
        return _when(at, now, "when somebody leads")
    # A leader that has just begun listens for one window before it turns a key.
    heard = format_duration(outlook.ring.policy.liveness_window)
    return _when(at, now, "when confirmed" if outlook.is_awaited else f"within {heard}")


def turn_told(ring: Ring) -> str:
    """Why the next turn comes when it does; empty where that is the schedule's."""
    active, standby = ring.active(), ring.standby
    if active is None or standby is None:
        return ""
    if (heir := heir_in(ring)) and (at := makes_way_at(ring)):
        setting, value = what_differs(heir, standby)
        soonest = f"at {at:%Y-%m-%d %H:%M:%S} UTC at the earliest"
        return f"the standby makes way for a key of {setting} {value}, {soonest}"
    back = "ringkeeper rotate --call-off takes that back"
    if active.due_reason is RotationReason.ROLLBACK and standby.is_returning:
        return f"rolled back to {standby.kid}; {back}"
    return f"asked for; {back}" if active.due_reason is RotationReason.MANUAL else ""


def spike_told(spike: Spike, now: datetime) -> str:
    """A spike of refreshes."""
    lasting = now - begin_of(spike.first)
    lasted = timedelta(seconds=spike.length * BUCKET) if spike.is_over else lasting
    when = f", {age(lasting)} ago" if spike.is_over else ", still going on"
    what = f"refreshes {spike.ratio:.1f} times usual for {age(lasted)}"
    return f"{what}, cause: {spike.cause.replace('_', ' ')}{when}"


def age(duration: timedelta) -> str:
    """`duration`, no finer than one reads it: 25h, not 25h 58s."""
    seconds = int(max(0.0, duration.total_seconds()))
    fineness = next((step for least, step in _FINENESS if seconds >= least), 1)
    return format_duration(timedelta(seconds=seconds - seconds % fineness))


def _when(at: datetime | None, now: datetime, due: str) -> str:
    if at is None:
        return "unknown"
    return f"in {age(at - now)}" if at > now else due
