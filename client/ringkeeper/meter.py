"""How often something happens, at a cost of some tens of nanoseconds each time."""

from __future__ import annotations

import itertools
from typing import Final

_LEAST: Final = 1.0
"""Seconds that a rate is the mean of, at least."""


class Meter:
    """Counts without a lock: a counter's next number is taken whole, whichever thread takes it."""

    def __init__(self) -> None:
        self.tick = itertools.count().__next__
        """It happened once more."""
        self._read = -1
        self._since: float | None = None
        self._rate = 0.0

    def rate(self, now: float) -> float:
        """Times a second since this was last asked; `now` in monotonic seconds. One may ask."""
        since = self._since
        if since is not None and now - since < _LEAST:
            return self._rate
        read = self.tick()  # there is no other way to see it: reading counts, too
        if since is not None:
            self._rate = (read - self._read - 1) / (now - since)
        self._read, self._since = read, now
        return self._rate
