"""The future of a ring: what its leader will do, and when, if nothing unforeseen happens. Pure.

Nothing is estimated here. The leader's own functions say what there is to do and do it
(`rotation.next_step`, `rotation.apply`), with keys that are only names in place of those that it
would make, and the clock goes on to the moment that it would wait for. What changes from one
version to the next is told as the audit will tell it (`audit.events_between`).

It is assumed that somebody leads all the time, and that every live instance confirms at once. One
that does not holds a turn up by the confirmation timeout at the most; and one that is early, for
another kind of key, until it is due.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.algorithms import ALGORITHMS
from ringkeeper.ring import Key, KeyKind, KeyState, Ring
from ringkeeperd import audit
from ringkeeperd.rotation import Confirmations, WaitUntil, apply, next_step
from ringkeeperd.transitions import FreshKey

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from ringkeeper.algorithms import PublicJwk
    from ringkeeper.policy import Policy
    from ringkeeperd.transitions import KeyWanted

    Version = tuple[datetime, Ring]
    """What a ring is like from a moment on."""

TURNS: Final = 3
_MOST_STEPS: Final = 2000
_NAMES: Final = {KeyKind.DYNAMIC: "next", KeyKind.STATIC: "next-static"}
ACTIVATED: Final = "activated"
REMOVED: Final = "removed"
_WHAT: Final = {
    audit.KEY_PUBLISHED: "published",
    audit.KEY_ACTIVATED: ACTIVATED,
    audit.KEY_RETIRED: "retired",
    audit.KEY_RETURNED: "returned",
    audit.DRAIN_BEGAN: "drained",
    audit.DRAIN_CALLED_OFF: "spared",
    audit.KEY_REVOKED: "revoked",
    audit.KEY_REMOVED: REMOVED,
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One change of one key's state."""

    at: datetime
    kid: str
    what: str
    """published, activated, retired, returned, drained (it begins), spared (it was called off),
    revoked or removed."""


class Phase(NamedTuple):
    """A key in one state, from its begin to its end."""

    state: KeyState
    begin: datetime
    end: datetime | None
    """None where it lasts beyond what is foreseen."""
    signs: bool
    """Whether apps sign with it: in static mode the active dynamic key signs nothing."""
    is_draining: bool


@dataclass(frozen=True, slots=True)
class Life:
    """One key, in all its phases from now on; the first may have begun long ago."""

    kid: str
    """Its own, or a name such as `next-1` for one that will be made."""
    kind: KeyKind
    algorithm: str
    is_foreseen: bool
    """Whether it will only be made."""
    phases: tuple[Phase, ...]


class Delay(NamedTuple):
    """Something keeps the leader from what is due."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Foresight:
    """What becomes of a ring until some moment."""

    ring: Ring
    """As it is, after the change that is thought of, if one is."""
    policy: Policy
    now: datetime
    until: datetime
    moments: tuple[Moment, ...]
    lives: tuple[Life, ...]
    """Of every key, in the order in which they came."""
    delays: tuple[Delay, ...]
    is_cut: bool
    """Whether there is more than was looked at."""

    @property
    def next_activation(self) -> Moment | None:
        """When a dynamic key will next begin to sign."""
        dynamic = {life.kid for life in self.lives if life.kind is KeyKind.DYNAMIC}
        turns = (m for m in self.moments if m.what == ACTIVATED and m.kid in dynamic)
        return next(turns, None)

    def gone_at(self, kid: str) -> datetime | None:
        """When the key of that kid will be removed; None if not until `until`."""
        gone = (m.at for m in self.moments if m.kid == kid and m.what == REMOVED)
        return next(gone, None)


def foresee(
    ring: Ring,
    policy: Policy,
    now: datetime,
    *,
    turns: int = TURNS,
    until: datetime | None = None,
    former: Ring | None = None,
    confirmed: Confirmations | None = None,
) -> Foresight:
    """What a leader makes of `ring` from `now` on, led by `policy`.

    Until that moment; else until `turns` dynamic keys have begun to sign and every key that turns
    and is there now has gone. `former`: what the ring was before a change that is made now, of
    which is told, too. `confirmed`: who is waited for (nobody, as a rule).
    """
    walk = _Walk(ring, policy, now, until, turns)
    walk.go(confirmed or Confirmations((), trusted_from=now))
    history = ([(now, former)] if former else []) + walk.history
    moments = tuple(_moments(history))
    end = until or max([moment.at for moment in moments], default=now)
    known = {key.kid for key in (former or ring).keys}
    return Foresight(
        ring, policy, now, end, moments, _lives(history, known), tuple(walk.delays), walk.is_cut
    )


def placeholder(wanted: KeyWanted, taken: Collection[str]) -> FreshKey:
    """A key that is only a name, none of those `taken`, in place of one that will be made."""
    names = (f"{_NAMES[wanted.kind]}-{number}" for number in count(1))
    name = next(name for name in names if name not in taken)
    public: PublicJwk = (("kty", ALGORITHMS[wanted.algorithm].kty),)
    if wanted.bits:
        modulus = urlsafe_b64encode(b"\xff" * (wanted.bits // 8)).decode().rstrip("=")
        public += (("n", modulus),)  # its size is all that anybody asks for
    return FreshKey(wanted.kind, wanted.algorithm, public, name)


@dataclass(slots=True)
class _Walk:
    """The leader's way from one version to the next."""

    ring: Ring
    policy: Policy
    now: datetime
    until: datetime | None
    turns: int
    history: list[Version] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    is_cut: bool = False
    named: set[str] = field(default_factory=set)
    """Every kid so far: two keys of one name, one after the other, would be taken for one."""

    def go(self, confirmed: Confirmations) -> None:
        """Take every step, as far as one is to look."""
        self.history.append((self.now, self.ring))
        self.named |= {key.kid for key in self.ring.keys}
        awaited = {key.kid for key in self.ring.keys if _will_go(key)}
        left, at = self.turns, self.now
        for _ in range(_MOST_STEPS):
            step = next_step(self.ring, self.policy, confirmed, at)
            if isinstance(step, WaitUntil):
                self._note(at, step)
                at = step.when
                if self._is_far(at, awaited, left):
                    return
                continue
            before = self.ring.active()
            fresh = placeholder(step.wants, self.named) if step.wants else None
            self.named |= {fresh.kid} if fresh else set()
            self.ring = apply(self.ring, step, now=at, epoch=self.ring.epoch, fresh=fresh)
            self.history.append((at, self.ring))
            after = self.ring.active()
            left -= after is not None and (before is None or before.kid != after.kid)
        self.is_cut = True

    def _is_far(self, at: datetime, awaited: set[str], left: int) -> bool:
        if self.until:
            return at > self.until
        return left <= 0 and not any(self.ring.key(kid) for kid in awaited)

    def _note(self, at: datetime, wait: WaitUntil) -> None:
        if wait.why and wait.why not in {delay.why for delay in self.delays}:
            self.delays.append(Delay(at, wait.why))


def _will_go(key: Key) -> bool:
    return key.kind is KeyKind.DYNAMIC or key.state in (KeyState.RETIRED, KeyState.REVOKED)


# --- what is told of the way ---------------------------------------------------------------------


def _moments(history: Sequence[Version]) -> Iterable[Moment]:
    for (_, before), (at, after) in pairwise(history):
        for told in audit.events_between(before, after, at, {}):
            if told.event in _WHAT:
                yield Moment(at, str(told.fields["kid"]), _WHAT[told.event])


def _lives(history: Sequence[Version], known: set[str]) -> tuple[Life, ...]:
    keys: dict[str, Key] = {}
    phases: dict[str, list[Phase]] = {}
    for number, (at, ring) in enumerate(history):
        there = {key.kid: key for key in ring.keys}
        keys = there | keys
        for kid in phases.keys() - there.keys():
            _end(phases[kid], at)
        for kid, key in there.items():
            began = at if number else _since(key)
            _go_on(phases.setdefault(kid, []), _phase(key, ring, began))
    return tuple(
        Life(kid, key.kind, key.algorithm, kid not in known, tuple(phases[kid]))
        for kid, key in sorted(keys.items(), key=lambda each: (each[1].published_at, each[0]))
    )


def _since(key: Key) -> datetime:
    """When a key that is there now came into its state."""
    times = (key.published_at, key.activated_at, key.retired_at, key.revoked_at)
    return max(time for time in times if time)


def _phase(key: Key, ring: Ring, began: datetime) -> Phase:
    drains = key.state is KeyState.RETIRED and key.drained_until is not None
    return Phase(key.state, began, None, key == ring.signer, drains)


def _go_on(phases: list[Phase], newest: Phase) -> None:
    """`newest` as the last of `phases`, unless the last one goes on."""
    if phases:
        last = phases[-1]
        if (last.state, last.signs, last.is_draining) == (
            newest.state,
            newest.signs,
            newest.is_draining,
        ):
            return
        _end(phases, newest.begin)
    phases.append(newest)


def _end(phases: list[Phase], at: datetime) -> None:
    """End the last of `phases`; what lasted for no time at all never was."""
    if phases and phases[-1].end is None:
        last = phases.pop()
        phases += [last._replace(end=at)] if at > last.begin else []
