"""How long those should wait who all have to refresh at once: a crowd, spread out.

After a revocation everybody whose token it took comes back within moments, and what refreshes
sessions (a login server, a database) gets them all at once. An app that answers such a request with
`Retry-After` lets them come one after the other, no faster than twice as usual:

    except TokenError as error:
        ring.record_refresh(error.reason)
        wait = ring.retry_after()
        headers = {"Retry-After": str(wait)} if wait else {}

The crowd are those whose tokens were good until their key was revoked, or its kind changed
(`revoked_kid`, `kind_mismatch`): no stranger can make these up, for their signatures were checked.
What is usual are the other refreshes that this very process counted in ten minutes before. One that
runs for less than a minute does not know, and spreads them as far as it may.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.errors import RefreshReason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

LEAST: Final = 10
"""Of a crowd, within a minute: fewer are none."""
OF_A_CROWD: Final = frozenset({RefreshReason.REVOKED_KID.value, RefreshReason.KIND_MISMATCH.value})
_CROWD: Final = 60.0
"""Seconds in which a crowd comes."""
_USUAL: Final = 600.0
"""Seconds before that show what is usual, if so much is known."""
_KNOWN: Final = 60.0
"""Seconds that have to be known of them."""


class _Note(NamedTuple):
    since: float
    until: float
    usual: int
    crowd: int


class Pace:
    """What was counted of late, in stretches of a few seconds. Any thread may ask."""

    def __init__(self) -> None:
        self._notes: tuple[_Note, ...] = ()
        self._until: float | None = None

    def note(self, counts: Mapping[str, int], now: float) -> None:
        """That these were counted since the last note, by reason; `now` in monotonic seconds."""
        if self._until is not None:
            late = (n for n in self._notes if n.until > now - _CROWD - _USUAL)
            crowd = _crowd(counts)
            usual = sum(counts.values()) - crowd
            self._notes = (*late, _Note(self._until, now, usual, crowd))
        self._until = now

    def crowd(self, pending: Mapping[str, int], now: float) -> float:
        """Seconds that it takes to serve the crowd of the last minute, as fast as usual.

        `pending` are counted, and not noted yet. Infinite where nobody knows what is usual.
        """
        late = [n for n in self._notes if n.until > now - _CROWD]
        crowd = _crowd(pending) + sum(n.crowd for n in late)
        if crowd < LEAST:
            return 0.0
        known = sum(n.until - n.since for n in self._notes)
        usual = sum(n.usual for n in self._notes)
        return crowd * known / max(usual, known / _CROWD) if known >= _KNOWN else math.inf


def _crowd(counts: Mapping[str, int]) -> int:
    return sum(counts.get(reason, 0) for reason in OF_A_CROWD)


def retry_after(crowd: float, most: float, random: Random) -> int:
    """Whole seconds for the newest of a crowd that takes `crowd` seconds to serve; 0 without one.

    That is its place in a queue that nobody keeps; a third more or less is left to chance. Where
    there is not as much time, all of it: evenly up to `most`.
    """
    if not (crowd >= 1 and most >= 1):
        return 0
    first, last = (1.0, most) if crowd > most else (crowd * 2 / 3, crowd * 4 / 3)
    return math.floor(random.uniform(first, min(last, most)))
