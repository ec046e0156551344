"""Two histories of one ring become one again. Promise 6 lives here. Pure.

Redis may lose writes that it acknowledged, and two primaries may each have had a leader. Both
sides are signed by the trust root, so both are true; they only know different things. What must
not be lost is whatever keeps a token valid (a key that signed) or refused (a tombstone, a drain).

A side speaks for the time of its newest proof and no later: nobody signs under an edition that no
leader vouches for any more. So last month's edition, put back by an attacker, adds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from ringkeeper.policy import CAPACITY
from ringkeeper.ring import Key, KeyState, Ring
from ringkeeper.testimony import History

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime


class Cure(NamedTuple):
    """What to put in place of what Redis holds."""

    ring: Ring
    newest: Ring
    """The newest edition that any side knew."""
    finding: str
    """What was wrong, in words."""


def heal(
    found: History | None, known: Iterable[History], *, now: datetime, epoch: int
) -> Cure | None:
    """The cure for a Redis that holds `found`; None where that lacks nothing.

    `known` is what else was seen of this ring: by this daemon, by its former self, by a witness.
    """
    known = list(known)
    lost = [side for side in known if found is None or lacks(found.ring, side, now)]
    if not lost:
        return None
    # All of them, for what one side adds may be what another one knows better.
    shown = [*known, *([found] if found else [])]
    sides = sorted(_without_called_off(shown), key=_rank, reverse=True)
    version = sides[0].ring.version + 1

    def joined(one: History, other: History) -> History:
        ring = merge(one, other, now=now, epoch=epoch, version=version)
        return History(ring, max(one.proved_at, other.proved_at))

    merged = reduce(joined, sides).ring
    tombstones = {key.kid: key for side in sides for key in side.ring.in_state(KeyState.REVOKED)}
    editions = [key for side in sides for key in side.ring.keys]
    drained = (_drained(key, (k for k in editions if k.kid == key.kid)) for key in merged.keys)
    keys = tuple(_buried(key, tombstones.get(key.kid)) for key in drained)
    newest = sides[0].ring
    ring = replace(merged, version=version, epoch=epoch, keys=keys)
    return Cure(ring, newest, _finding(found, newest, lost))


def _without_called_off(sides: list[History]) -> Iterator[History]:
    """`sides` without the drains that one of them tells were called off: they retire nobody."""
    keys = [key for side in sides for key in side.ring.keys]
    off = {key.kid: _undrained_at(k for k in keys if k.kid == key.kid) for key in keys}
    for side in sides:
        told = (_drained(k, (replace(k, undrained_at=off[k.kid]),)) for k in side.ring.keys)
        yield side._replace(ring=replace(side.ring, keys=tuple(told)))


def _finding(found: History | None, newest: Ring, lost: list[History]) -> str:
    if found is None:
        return "redis held no ring"
    if found.ring.version < newest.version:
        return f"redis went back from version {newest.version} to {found.ring.version}"
    if any(side.ring.version == newest.version for side in lost):
        return f"there were two different versions {newest.version}"
    return "redis lacked keys or revocations that are known"


def lacks(ring: Ring, side: History, now: datetime) -> bool:
    """Whether `side` knows something that must not be lost, and that `ring` does not show.

    The past of `ring` never does: whatever it held and `ring` does not has had its time. Two
    leaders' clocks may tell that time differently, hence the leeway.
    """
    theirs = side.ring
    if theirs.version > ring.version or (theirs.version == ring.version and theirs != ring):
        return True
    ends_after = now + ring.policy.clock_skew
    last = min(side.proved_at, now)
    for key in theirs.keys:
        mine = ring.key(key.kid)
        if mine is None:
            adopted = _adopted(key, last)
            if adopted.remove_at and adopted.remove_at > ends_after and _fits(adopted, ring):
                return True
        elif mine.may_verify and (not key.may_verify or _drains_otherwise(mine, key)):
            return True
        elif mine.remove_at:
            met = _met(mine, key, now, last)
            if met.remove_at and met.remove_at > mine.remove_at + ring.policy.clock_skew:
                return True
    return False


def merge(
    one: History, other: History, *, now: datetime, epoch: int, version: int | None = None
) -> Ring:
    """The ring that keeps what either side knows, at `version`, else at one above both.

    The higher (version, epoch) decides the states. The other side adds its tombstones and drains
    (and that one was called off), and the keys that only it has, as retired: some token of theirs
    may be out there. A standby that the other side, still alive when it was published, did not
    show starts its publication anew.
    """
    if (one.ring.id, one.ring.name) != (other.ring.id, other.ring.name):
        raise AssertionError("rings of different identity are never merged")
    winner, loser = sorted((one, other), key=_rank, reverse=True)
    version = version or winner.ring.version + 1
    known = {key.kid: key for key in loser.ring.keys}
    keys = []
    for key in winner.ring.keys:
        theirs = known.pop(key.kid, None)
        if theirs:
            keys.append(_met(key, theirs, min(winner.proved_at, now), min(loser.proved_at, now)))
        elif key.state is KeyState.PUBLISHED and loser.proved_at >= key.published_at:
            keys.append(_shown_anew(key, winner.ring, now, epoch, version))
        else:
            keys.append(key)
    adopted = (_adopted(key, min(loser.proved_at, now)) for key in known.values())
    keys += [key for key in adopted if key.remove_at and key.remove_at > now]
    kept = sorted(keys, key=_importance)[:CAPACITY]
    until = max(filter(None, (one.ring.caches_until, other.ring.caches_until)), default=None)
    return replace(winner.ring, version=version, epoch=epoch, keys=tuple(kept), caches_until=until)


def _rank(side: History) -> tuple[int, int, str]:
    """Version, then epoch; one leader never writes two rings of both, and if, all merge alike."""
    return side.ring.version, side.ring.epoch, repr(side.ring)


def _shown_anew(key: Key, ring: Ring, now: datetime, epoch: int, version: int) -> Key:
    return replace(
        key,
        published_at=now,
        published_epoch=epoch,
        published_version=version,
        ready_at=max(key.ready_at, now + ring.policy.publication_interval),
        unhastened_at=None,
    )


def _met(mine: Key, theirs: Key, mine_until: datetime, theirs_until: datetime) -> Key:
    """A key that both sides have: the winner's, kept for as long as either side's tokens live.

    `mine_until`, `theirs_until`: when a leader last vouched for that side.
    """
    key = replace(
        mine,
        token_validity=max(mine.token_validity, theirs.token_validity),
        max_staleness=max(mine.max_staleness, theirs.max_staleness),
        clock_skew=max(mine.clock_skew, theirs.clock_skew),
    )
    is_revoked = KeyState.REVOKED in (mine.state, theirs.state)
    is_drained = _drain((mine, theirs)) is not None
    if mine.remove_at is None and not is_revoked and not is_drained:
        return _drained(key, (key, theirs))
    # Each side by the promises it made itself: so it matters not who is merged with whom first.
    ends = [
        until + side.retain_for
        for side, until in ((mine, mine_until), (theirs, theirs_until))
        if side.state is KeyState.ACTIVE
    ]
    ends += [side.remove_at for side in (mine, theirs) if side.remove_at]
    remove_at = max(ends)
    if is_revoked and mine.state is not KeyState.REVOKED:
        return replace(
            key,
            state=KeyState.REVOKED,
            revoked_at=theirs.revoked_at,
            remove_at=remove_at,
            reason=theirs.reason,
        )
    if is_drained:
        key = _adopted(key, mine_until)
    return replace(_drained(key, (key, theirs)), remove_at=remove_at)


def _drain(editions: Iterable[Key]) -> Key | None:
    """The edition of a key whose drain ends first; None if none is drained, or all called off."""
    editions = tuple(editions)
    off = _undrained_at(editions)
    drained = (
        (key.drained_until, key)
        for key in editions
        if key.drained_from and key.drained_until and not (off and key.drained_from <= off)
    )
    return min(drained, key=lambda drain: drain[0], default=(None, None))[1]


def _undrained_at(editions: Iterable[Key]) -> datetime | None:
    """When a drain of that key was called off last."""
    return max((key.undrained_at for key in editions if key.undrained_at), default=None)


def _drained(key: Key, editions: Iterable[Key]) -> Key:
    """`key`, refused as soon as any of its `editions` says so, unless one called that off."""
    if not key.may_verify:
        return key
    editions = tuple(editions)
    drain = _drain(editions)
    return replace(
        key,
        drained_from=drain.drained_from if drain else None,
        drained_until=drain.drained_until if drain else None,
        reason=drain.reason if drain else "",
        undrained_at=_undrained_at(editions),
    )


def _drains_otherwise(mine: Key, theirs: Key) -> bool:
    """Whether `theirs` is drained sooner than `mine`, or tells that a drain was called off."""
    is_off = _undrained_at((mine, theirs)) != mine.undrained_at
    return is_off or _drain((mine, theirs)) is not (mine if mine.drained_until else None)


def _adopted(key: Key, last: datetime) -> Key:
    """A key that only the losing side has: what may still sign there has retired by `last`."""
    if key.state in (KeyState.REVOKED, KeyState.RETIRED):
        return key
    return replace(key, state=KeyState.RETIRED, retired_at=last, remove_at=last + key.retain_for)


def _fits(key: Key, ring: Ring) -> bool:
    """Whether a merge would keep `key` beside what `ring` holds; it drops what has no room."""
    if len(ring.keys) < CAPACITY:
        return True
    return _importance(key) < max(_importance(each) for each in ring.keys)


def _buried(key: Key, tombstone: Key | None) -> Key:
    """`key`, revoked if any side ever showed it so: another one may have signed with it since."""
    if tombstone is None or key.state is KeyState.REVOKED or key.remove_at is None:
        return key
    return replace(
        key, state=KeyState.REVOKED, revoked_at=tombstone.revoked_at, reason=tombstone.reason
    )


def _importance(key: Key) -> tuple[int, float]:
    """Should there be too many: what signs, then what lives longest."""
    rank = [KeyState.ACTIVE, KeyState.PUBLISHED, KeyState.REVOKED, KeyState.RETIRED]
    return rank.index(key.state), -(key.remove_at or key.published_at).timestamp()
