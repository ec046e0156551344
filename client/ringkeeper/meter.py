"""How often something happens, at a cost of some tens of nanoseconds each time."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST: Final = 1.0
"""Seconds that a rate is the mean of, at least."""


class Tally:
    """Counts without a lock: a counter's next number is taken whole, whichever thread takes it."""

    __slots__ = ("_looks", "_looking", "tick")

    def __init__(self) -> None:
        self.tick: Callable[[], int] = itertools.count().__next__
        """It happened once more."""
        self._looks = 0
        self._looking = threading.RLock()
        """A signal handler that looks, too, may have interrupted who looks: off by one then."""

    @property
    def count(self) -> int:
        """How often it happened so far."""
        with self._looking:
            # There is no other way to see it: looking counts, too.
            self._looks += 1
            return self.tick() - self._looks + 1


class Meter(Tally):
    """A tally that knows how often a second it ticks."""

    __slots__ = ("_rate", "_read", "_since")

    def __init__(self) -> None:
        super().__init__()
        self._read = 0
        self._since: float | None = None
        self._rate = 0.0

    def rate(self, now: float) -> float:
        """Times a second since this was last asked; `now` in monotonic seconds. One may ask."""
        since = self._since
        if since is not None and now - since < _LEAST:
            return self._rate
        count = self.count
        if since is not None:
            self._rate = (count - self._read) / (now - since)
        self._read, self._since = count, now
        return self._rate
