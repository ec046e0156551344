"""How many tokens this process signed, by key and by when they expire: for forecasts.

What a revocation will do depends on how many tokens of that key are still good, and no app knows of
the others'. So each signature is counted, under a lock that nobody holds for longer, and told in
the background, as refreshes are. It is counted by when the token expires, for then it is known how
many are left at any time to come. That is rounded up, by a step of a few per cent of the token's
life, so that neither a busy app nor Redis holds many numbers.

Time is counted as what is left of a token's life, and becomes a time of day by Redis' clock alone.
While Redis is away, what was counted is kept until it has expired. Numbers for a forecast, not for
an invoice: what may have arrived already is not told again.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.layout import STRETCH

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS: Final = (1, 10, 60, 600, 3_600, 21_600, 604_800)
"""Seconds that an expiry may be rounded up to a multiple of."""
SHARE: Final = 30
"""A step is at most such a part of a token's life."""
NUMBERS_MOST: Final = 10_000
"""Numbers that a process holds between two tellings: what does not fit in is not counted."""
_SHORTEST: Final = tuple(SHARE * step for step in STEPS[1:])
_FINER: Final = 4
"""What waits to be told is rounded to such a part of its step."""
_LATEST: Final = 30.0
"""Seconds that what was counted waits at the most; less where tokens live for minutes."""


class Signed(NamedTuple):
    """So many tokens of a key that expire together."""

    step: int
    """Seconds; `expires` is a multiple of it."""
    expires: int
    """In seconds since the epoch, by Redis' clock."""
    kid: str
    tokens: int


def step_of(lifetime: float) -> int:
    """The step for tokens that live for so many seconds."""
    return STEPS[bisect_right(_SHORTEST, lifetime)]


def hashes(now: int, longest: float) -> Iterator[tuple[int, int]]:
    """Where tokens are counted that live at `now`, and lived for `longest` seconds at the most.

    Each is a step, and the first expiry that lies in the hash; the first ones may be past.
    """
    for step, shortest, bound in zip(STEPS, (0, *_SHORTEST), (*_SHORTEST, math.inf), strict=True):
        if shortest > longest:
            return
        held = step * STRETCH
        last = now + int(min(bound, longest)) + step
        yield from ((step, first) for first in range(now - now % held, last + 1, held))


class SignedCounts:
    """What was counted, and not told yet. Any thread may count; one tells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, int, int], int] = {}
        self._pending: Counter[tuple[int, int, str]] = Counter()
        """Step, and when it expires (monotonic, in fine steps), and kid, to how many."""
        self._told_at = -math.inf

    def record(self, kid: str, lifetime: float, now: float) -> None:
        """Count a token of `kid` that lives for `lifetime` seconds from `now` (monotonic) on."""
        key = (kid, int(lifetime), int(now))
        with self._lock:
            counts = self._counts
            if key in counts:
                counts[key] += 1
            elif len(counts) < NUMBERS_MOST:
                counts[key] = 1

    def gather(self, now: float) -> None:
        """Take up what was counted, to be told, and forget what has expired."""
        with self._lock:
            counts, self._counts = self._counts, {}
        for (kid, lifetime, at), count in counts.items():
            step = step_of(lifetime)
            key = (step, int((at + lifetime) / _fine(step)), kid)
            if key in self._pending or len(self._pending) < NUMBERS_MOST:
                self._pending[key] += count
        for key in [key for key in self._pending if _expires(key) <= now]:
            del self._pending[key]

    def is_due(self, now: float, *, is_last: bool = False) -> bool:
        """Whether it is time to tell what was gathered; the last time it always is."""
        if not self._pending or is_last:
            return bool(self._pending)
        step = min(step for step, _, _ in self._pending)
        return now >= self._told_at + min(step / 2, _LATEST)

    def hand_over(self, now: float, there: int) -> list[Signed]:
        """What is to be told now that it is `there` by Redis' clock; it is kept here no longer."""
        pending, self._pending = self._pending, Counter()
        self._told_at = now
        told: Counter[tuple[int, int, str]] = Counter()
        for key, count in pending.items():
            step, _, kid = key
            told[step, math.ceil((there + _expires(key) - now) / step) * step, kid] += count
        return [Signed(*key, count) for key, count in told.items()]


def _fine(step: int) -> float:
    return max(1.0, step / _FINER)


def _expires(key: tuple[int, int, str]) -> float:
    step, fine, _ = key
    return fine * _fine(step)
