"""How long those should wait who all have to refresh at once: a crowd, spread out.

After a revocation everybody whose token it took comes back within moments, and what refreshes
sessions (a login server, a database) gets them all at once. An app that answers such a request with
`Retry-After` lets them come one after the other, no faster than twice as usual:

    except TokenError as error:
        ring.record_refresh(error.reason)
        wait = ring.retry_after()
        headers = {"Retry-After": str(wait)} if wait else {}

What is usual is what this very process counted in the ten minutes before the last. A process that
runs for less than that knows of no crowd, and says so: 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

LEAST: Final = 10
"""Refreshes above what is usual, within a minute: fewer are no crowd."""
_CROWD: Final = 60.0
"""Seconds in which a crowd comes."""
_USUAL: Final = 600.0
"""Seconds before that show what is usual, if so much is known."""
_KNOWN: Final = 60.0
"""Seconds that have to be known of them."""


class _Note(NamedTuple):
    since: float
    until: float
    refreshes: int


class Pace:
    """What was counted of late, in stretches of a few seconds. Any thread may ask."""

    def __init__(self) -> None:
        self._notes: tuple[_Note, ...] = ()
        self._until: float | None = None

    def note(self, count: int, now: float) -> None:
        """That `count` were counted since the last note; `now` in monotonic seconds."""
        if self._until is not None:
            late = (n for n in self._notes if n.until > now - _CROWD - _USUAL)
            self._notes = (*late, _Note(self._until, now, count))
        self._until = now

    def crowd(self, pending: int, now: float) -> float:
        """Seconds that it takes to serve those who are too many, as fast as usual.

        `pending` are counted, and not noted yet.
        """
        border = now - _CROWD
        late = [n for n in self._notes if n.until > border]
        before = [n for n in self._notes if n.until <= border]
        known = sum(n.until - n.since for n in before)
        if known < _KNOWN:
            return 0.0
        usual = sum(n.refreshes for n in before) / known
        crowd = pending + sum(n.refreshes for n in late) - usual * _CROWD
        return crowd / max(usual, 1 / _CROWD) if crowd >= LEAST else 0.0


def retry_after(crowd: float, most: float, random: Random) -> int:
    """Whole seconds for the newest of a crowd that takes `crowd` seconds to serve; 0 without one.

    That is its place in a queue that nobody keeps; a third more or less is left to chance. Where
    there is not as much time, all of it: evenly up to `most`.
    """
    first, last = (1.0, most) if crowd > most else (crowd * 2 / 3, crowd * 4 / 3)
    return math.floor(random.uniform(first, min(last, most))) if min(crowd, most) >= 1 else 0
