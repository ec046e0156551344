"""What an operator thinks of changing, tried on a copy of the ring before it is asked for. Pure.

The change is made by the very functions that a leader makes it with (`rotation.adopted`,
`operations`), and so it is refused here for the reasons that it would be refused for there. What
comes of it is foreseen (`foresight`), once as the ring is and once as it would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.durations import format_duration
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, KeyState
from ringkeeperd import operations
from ringkeeperd.foresight import TURNS, Foresight, foresee, placeholder
from ringkeeperd.rotation import Confirmations, adopted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from ringkeeper.ring import Ring
    from ringkeeperd.foresight import Moment
    from ringkeeperd.rotation import Instance

Outstanding = Mapping[str, int]
"""By kid, how many tokens that have not expired yet depend on the key."""

MOST_ROWS: Final = 40
"""Keys that one picture shows and that can still be read."""
_MOST: Final = 8
"""Keys of which it is said that they go at another time."""
_SETTINGS: Final = {
    "cryptoperiod": "access_token_dynamic_signing_key_update_interval",
    "use_dynamic": "use_dynamic_access_token_signing_key",
}
"""What an operator calls a value of a policy; the others are called as they are."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is thought of, beside settings: at most one of them."""

    revoke: str = ""
    """The kid of the key."""
    drain: timedelta | None = None
    rotate: bool = False
    hasten: bool = False
    """With `rotate`: after `jwks_max_age`, as `rotate --now` does."""
    rollback: bool = False
    call_off: bool = False
    call_off_drain: str = ""
    """The kid of the key that is being drained."""

    def applied(self, ring: Ring, now: datetime, confirmed: Confirmations | None = None) -> Ring:
        """`ring` after it.

        `confirmed`: what a leader would know of the instances; None: they have confirmed all.

        Raises:
            RequestRefused: a leader would refuse it, and why.
        """
        epoch = ring.epoch
        if self.rotate:
            return operations.rotate(ring, now=now, epoch=epoch, hasten=self.hasten)
        if self.rollback:
            return operations.rollback(ring, now=now, epoch=epoch)
        if self.call_off:
            return operations.call_off(ring, now=now, epoch=epoch)
        if self.call_off_drain:
            return operations.call_off_drain(ring, self.call_off_drain, now=now, epoch=epoch)
        if not self.revoke:
            return ring
        wanted = operations.revocation_wants(ring, self.revoke, now)
        fresh = placeholder(wanted, {key.kid for key in ring.keys}) if wanted else None
        return operations.revoke(
            ring,
            self.revoke,
            reason="a plan",
            now=now,
            epoch=epoch,
            fresh=fresh,
            drain=self.drain,
            confirmed=confirmed or Confirmations((), now),
        )


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Which live instances know an algorithm, as far as they tell."""

    algorithm: str
    lacking: tuple[str, ...]
    untold: tuple[str, ...]
    """They do not tell: they are older than the telling."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A ring's future, and what a change would make of it."""

    ring: Ring
    before: Foresight
    after: Foresight | None
    """None where no change is thought of."""
    title: str = ""
    """What is thought of, as it was written."""
    differences: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """What would do it."""
    warnings: tuple[str, ...] = ()
    """What is to be seen to first."""
    remarks: tuple[str, ...] = ()
    """What it does not take into account, or what is wrong already."""
    knowledge: Knowledge | None = None
    """Where keys of another algorithm would come: who could confirm them."""
    outstanding: Outstanding | None = None
    """None where nobody counts tokens."""

    @property
    def futures(self) -> tuple[tuple[str, Foresight], ...]:
        """What there is to show, each under its title."""
        if self.after is None:
            return (("", self.before),)
        return (("as it is", self.before), (self.title, self.after))


def foreseen(
    ring: Ring,
    policy: Policy,
    wish: Wish,
    now: datetime,
    *,
    turns: int = TURNS,
    confirmed: Confirmations | None = None,
) -> tuple[Foresight, Foresight | None]:
    """The future of `ring` as it is, and under `policy` with `wish` fulfilled.

    None for the latter where nothing would be different. Both until the same moment. `confirmed`:
    who has to have confirmed what a drained key's successor is; nobody, where it is None.

    Raises:
        RequestRefused: as `Wish.applied`.
    """
    before = foresee(ring, ring.policy, now, turns=turns)
    changed = ring
    if policy != ring.policy:
        changed = adopted(changed, policy, now=now, epoch=ring.epoch)
    changed = wish.applied(changed, now, confirmed)
    if changed == ring:
        return before, None
    after = foresee(changed, policy, now, turns=turns, former=ring)

    def both(until: datetime) -> tuple[Foresight, Foresight]:
        return (
            foresee(ring, ring.policy, now, until=until),
            foresee(changed, policy, now, until=until, former=ring),
        )

    ends = before.until, after.until
    shown = both(max(ends))
    return both(min(ends)) if max(len(each.lives) for each in shown) > MOST_ROWS else shown


def knowledge_of(instances: Iterable[Instance], algorithm: str) -> Knowledge:
    """Which of `instances` know `algorithm`."""
    known = [(each.id, each.knows(algorithm)) for each in instances]
    return Knowledge(
        algorithm,
        tuple(sorted(name for name, knows in known if knows is False)),
        tuple(sorted(name for name, knows in known if knows is None)),
    )


# --- what differs, in words ----------------------------------------------------------------------


def differences(
    before: Foresight, after: Foresight, outstanding: Outstanding | None = None
) -> tuple[str, ...]:
    """What `after` brings that `before` does not, a line each."""
    lines = [
        *_settings(before.policy, after.policy),
        *_bounds(before.policy, after.policy),
        *_signing(before, after),
        *_lost(before.ring, after.ring, outstanding or {}),
        *_next_turns(before, after),
        *_lasting(before, after),
    ]
    return tuple(lines) or ("nothing that can be seen until then",)


def _settings(before: Policy, after: Policy) -> Iterator[str]:
    for field in fields(Policy):
        was, is_now = getattr(before, field.name), getattr(after, field.name)
        if was != is_now:
            name = _SETTINGS.get(field.name, field.name)
            yield f"{name} {_shown(was)} → {_shown(is_now)}"


def _shown(value: Any) -> str:
    match value:
        case timedelta():
            return format_duration(value)
        case bool():
            return str(value).lower()
        case None:
            return "off"
        case _:
            return str(value)


def _bounds(before: Policy, after: Policy) -> Iterator[str]:
    """What follows from the settings, though nobody sets it."""
    if before.keys_kept != after.keys_kept:
        yield f"keys kept, at the most: {before.keys_kept} → {after.keys_kept}"
    was, is_now = before.retire_interval, after.retire_interval
    if was != is_now:
        yield (
            f"retired keys verify for {format_duration(was)} → {format_duration(is_now)}; those "
            "that signed before for the longer of the two"
        )


def _signing(before: Foresight, after: Foresight) -> Iterator[str]:
    was, is_now = before.ring.signer, after.ring.signer
    if was != is_now and (was and was.kid) != (is_now and is_now.kid):
        signs = is_now.kid if is_now else "nothing"
        yield f"signs at once: {was.kid if was else 'nothing'} → {signs}"
    if was and is_now and before.policy.use_dynamic != after.policy.use_dynamic:
        yield f"tokens of {was.kid} go on being good: both kinds verify"


def _lost(before: Ring, after: Ring, outstanding: Outstanding) -> Iterator[str]:
    """Whose tokens are refused, and what that means for those who have them."""
    for key in after.keys:
        former = before.key(key.kid)
        if former is None or (former.state, former.drained_until) == (key.state, key.drained_until):
            continue
        if former.drained_until and key.may_verify and not key.drained_until:
            yield f"{key.kid}: all of its unexpired tokens count again"
            continue
        count = outstanding.get(key.kid)
        if count == 0:
            yield f"{key.kid}: none of its tokens is unexpired, as far as apps count them"
            continue
        tokens = "its tokens are" if count is None else f"its {count:,} unexpired tokens are"
        tokens = "its one unexpired token is" if count == 1 else tokens
        if key.state is KeyState.REVOKED:
            yield f"{key.kid}: {tokens} refused at once; who has one must refresh or log in"
        elif key.drained_from and key.drained_until and not former.drained_until:
            lasts = format_duration(key.drained_until - key.drained_from)
            yield f"{key.kid}: {tokens} refused little by little, all of them in {lasts}"


def _next_turns(before: Foresight, after: Foresight) -> Iterator[str]:
    was, is_now = before.next_activation, after.next_activation
    if was != is_now:
        yield f"next activation {_turn(was, before.now)} → {_turn(is_now, after.now)}"
    elif before.policy.cryptoperiod != after.policy.cryptoperiod:
        yield (
            f"next activation stays {_turn(is_now, after.now)}: the key that signs keeps its time, "
            "unless it is rotated"
        )
    if before.policy.algorithm != after.policy.algorithm:
        yield _first_of(after, after.policy.algorithm)


def _turn(moment: Moment | None, now: datetime) -> str:
    if moment is None:
        return "later"
    when = "at once" if moment.at == now else f"{moment.at:%Y-%m-%d %H:%M:%S}"
    return f"{when} ({moment.kid})"


def _first_of(after: Foresight, algorithm: str) -> str:
    """When the first key of `algorithm` will sign that did not sign before."""
    for life in after.lives:
        for phase in life.phases:
            is_new = phase.state is KeyState.ACTIVE and phase.begin >= after.now
            if life.algorithm == algorithm and is_new:
                at = f"{phase.begin:%Y-%m-%d %H:%M:%S}"
                return f"the first {algorithm} key signs at {at} ({life.kid})"
    return f"no {algorithm} key signs until {after.until:%Y-%m-%d %H:%M:%S}"


def signers_to_come(ring: Ring, now: datetime) -> str:
    """Who signs next, up to the first key such as the policy wants; empty where that is known."""
    active, standby, wants = ring.active(), ring.standby, ring.policy
    if active is None or standby is None or (wants.suits(active) and wants.suits(standby)):
        return ""
    coming = sorted(
        (phase.begin, life.kid, life.algorithm, _bits(ring, life.kid))
        for life in foresee(ring, wants, now).lives
        for phase in life.phases
        if phase.state is KeyState.ACTIVE and life.kind is KeyKind.DYNAMIC
        if life.kid != active.kid
    )
    kinds = [(algorithm, bits) for _, _, algorithm, bits in coming]
    wanted = (wants.algorithm, wants.key_bits)
    end = kinds.index(wanted) + 1 if wanted in kinds else len(kinds)
    told = [
        f"{kid} ({f'{algorithm}, {bits} bits' if bits else algorithm}) from {at:%Y-%m-%d %H:%M:%S}"
        for at, kid, algorithm, bits in coming[:end]
    ]
    line = f"next to sign: {', then '.join(told) or 'nobody, as long as the ring is full'}"
    if ring.former and kinds and kinds[0] not in (wanted, (active.algorithm, active.bits)):
        line += "; ringkeeper rollback goes round the first"
    return line if wants.use_dynamic else f"{line}; the static key goes on signing"


def _bits(ring: Ring, kid: str) -> int:
    key = ring.key(kid)
    return key.bits if key else ring.policy.key_bits


def _lasting(before: Foresight, after: Foresight) -> Iterator[str]:
    """The keys that are there now and go sooner, or later."""
    ends = [(k.kid, before.gone_at(k.kid), after.gone_at(k.kid)) for k in before.ring.keys]
    others = [end for end in ends if end[1] != end[2]]
    yield from (f"{kid} goes {_gone(was)} → {_gone(is_now)}" for kid, was, is_now in others[:_MOST])
    if len(others) > _MOST:
        yield f"and {len(others) - _MOST} more keys go at other times"


def _gone(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "later"
