"""Whether a loop that never ends still goes round.

Before it goes to sleep, or to work, it says by when it will be back. What it meets there is not
asked: an attempt that failed is a round, too, so Redis may be away for a week. Time is the event
loop's own, by which it sleeps: a machine that was suspended makes nobody late.
"""

from __future__ import annotations

import asyncio
import math


class Progress:
    """By when something that goes round and round will be back."""

    __slots__ = ("_back_at",)

    def __init__(self) -> None:
        """Nothing was promised yet."""
        self._back_at = math.inf

    def back_within(self, seconds: float) -> None:
        """Promise to come round again in so many seconds at the most."""
        self._back_at = asyncio.get_running_loop().time() + seconds

    def back_some_time(self) -> None:
        """Promise nothing for now: it waits for its turn, and others are seen to."""
        self._back_at = math.inf

    @property
    def overdue(self) -> float:
        """Seconds since it should have been back; 0 or less while all is well."""
        return asyncio.get_running_loop().time() - self._back_at
