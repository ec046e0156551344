"""Two histories of one ring become one again. Promise 6 lives here. Pure.

Redis may lose writes that it acknowledged, and two primaries may each have had a leader. Both
sides are signed by the trust root, so both are true; they only know different things. What must
not be lost is whatever keeps a token valid (a key that signed) or refused (a tombstone).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ringkeeper.policy import MAX_KEYS
from ringkeeper.ring import Key, KeyState, Ring

if TYPE_CHECKING:
    from datetime import datetime


def merge(one: Ring, other: Ring, *, now: datetime, epoch: int) -> Ring:
    """The ring that keeps what either side knows, at a version above both.

    The higher (version, epoch) decides the states. The other side adds its tombstones, and the
    keys that only it has, as retired: some token of theirs may be out there. A standby that only
    one side has shown starts its publication interval anew.
    """
    if (one.id, one.name) != (other.id, other.name):
        raise AssertionError("rings of different identity are never merged")
    # The keys break a tie (same version and epoch, never by one leader), so that every daemon
    # merges to the same states.
    winner, loser = sorted((one, other), key=_rank, reverse=True)
    version = max(one.version, other.version) + 1
    known = {key.kid: key for key in loser.keys}
    keys = [_met(key, known.pop(key.kid, None), winner, now, epoch, version) for key in winner.keys]
    keys += [_adopted(key, now) for key in known.values() if not _is_past(key, now)]
    kept = sorted(keys, key=_importance)[:MAX_KEYS]
    return replace(winner, version=version, epoch=epoch, keys=tuple(kept))


def _rank(ring: Ring) -> tuple[int, int, list[str]]:
    return ring.version, ring.epoch, sorted(key.kid + key.state for key in ring.keys)


def _met(
    mine: Key, theirs: Key | None, winner: Ring, now: datetime, epoch: int, version: int
) -> Key:
    """A key of the winning side, with what the other side knows of it."""
    if theirs is None:
        if mine.state is not KeyState.PUBLISHED:
            return mine
        return replace(
            mine,
            published_at=now,
            published_epoch=epoch,
            published_version=version,
            ready_at=now + winner.policy.publication_interval,
        )
    longest = replace(
        mine,
        token_validity=max(mine.token_validity, theirs.token_validity),
        max_staleness=max(mine.max_staleness, theirs.max_staleness),
        clock_skew=max(mine.clock_skew, theirs.clock_skew),
    )
    if theirs.state is KeyState.REVOKED and mine.state is not KeyState.REVOKED:
        return _buried(longest, theirs)
    if mine.remove_at is None:
        return longest
    # The other side may have let it sign for longer.
    last_signed = theirs.retired_at or (now if theirs.state is KeyState.ACTIVE else None)
    until = mine.remove_at if last_signed is None else last_signed + longest.retain_for
    return replace(longest, remove_at=max(mine.remove_at, until, theirs.remove_at or until))


def _buried(mine: Key, tombstone: Key) -> Key:
    """`mine`, revoked as the other side revoked it."""
    return replace(
        mine,
        state=KeyState.REVOKED,
        revoked_at=tombstone.revoked_at,
        remove_at=max(filter(None, (mine.remove_at, tombstone.remove_at))),
        reason=tombstone.reason,
    )


def _adopted(key: Key, now: datetime) -> Key:
    """A key that only the losing side has: a tombstone as it is, any other one retired."""
    if key.state in (KeyState.REVOKED, KeyState.RETIRED):
        return key
    return replace(key, state=KeyState.RETIRED, retired_at=now, remove_at=now + key.retain_for)


def _is_past(key: Key, now: datetime) -> bool:
    """Whether the winning side lacks it because its time was over."""
    return key.remove_at is not None and key.remove_at <= now


def _importance(key: Key) -> tuple[int, float]:
    """Should there be too many: what signs, then what lives longest."""
    rank = [KeyState.ACTIVE, KeyState.PUBLISHED, KeyState.REVOKED, KeyState.RETIRED]
    return rank.index(key.state), -(key.remove_at or key.published_at).timestamp()
