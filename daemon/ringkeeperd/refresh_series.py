"""The session refreshes of the last hour, as one leader came to know them. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ringkeeper.layout import BUCKET
from ringkeeperd.spikes import LEARNING, LEAST, LONGEST, USUAL, Bucket, median_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringkeeperd.spikes import Change, Spike

SERIES: Final = USUAL + LONGEST
"""Buckets that are kept: what is usual, and before that the longest spike."""
SILENCE: Final = 12
"""So many buckets without any, where there were many before: nobody could count, or tell."""
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_RATE_OVER: Final = 3
"""Buckets that the rate is the mean of."""


@dataclass(frozen=True, slots=True)
class RefreshView:
    """What is known of the refreshes of a ring at this moment."""

    buckets: tuple[Bucket, ...] = ()
    """An unbroken series, the oldest first, the newest one still growing."""
    changes: tuple[Change, ...] = ()
    """What happened to the ring meanwhile."""
    spike: Spike | None = None
    """The newest one, perhaps over."""

    @property
    def rate(self) -> float:
        """Refreshes a second, of late."""
        late = self.buckets[-1 - _RATE_OVER : -1]  # the newest one is still growing
        return sum(b.total for b in late) / (BUCKET * _RATE_OVER)

    @property
    def baseline(self) -> float | None:
        """Refreshes a second, as usual; None while too little is known."""
        if self.is_spike and self.spike:
            return self.spike.usual / BUCKET
        past = self.buckets[-USUAL - 1 : -1]
        if len(past) < LEARNING:
            return None
        return median_of(b.total for b in past) / BUCKET

    @property
    def is_spike(self) -> bool:
        """Whether there is one now."""
        return self.spike is not None and not self.spike.is_over


class RefreshSeries:
    """The counts, bucket by bucket."""

    def __init__(self) -> None:
        self._known: dict[int, Mapping[str, int]] = {}
        self._is_begun = False
        self._gone = -1
        """What was counted until this bucket was let go, and would look like news."""
        self._from = 0

    def take(self, found: Mapping[int, Mapping[str, int]], now: int) -> Counter[str]:
        """Note what was found; what of it is news, by reason.

        What is found first is none: another leader told of it, or nobody did. Never twice, rather
        not at all. Redis may lose counts, and none is taken back: the highest that was seen stays.
        """
        news: Counter[str] = Counter()
        is_news, self._is_begun = self._is_begun, True
        self._gone = max(self._gone, now - SERIES)
        for bucket, counts in found.items():
            if bucket <= self._gone:
                continue  # only a clock that was set back looks there again
            known = self._known.get(bucket, {})
            more = {r: count - known.get(r, 0) for r, count in counts.items()}
            more = {r: count for r, count in more.items() if count > 0}
            if more:
                news.update(more)
                self._known[bucket] = {**known, **{r: counts[r] for r in more}}
        for bucket in [b for b in self._known if b <= self._gone]:
            del self._known[bucket]
        return news if is_news else Counter()

    @property
    def newest(self) -> int:
        """The newest bucket in which anything was counted; 0 without one."""
        return max(self._known, default=0)

    def forget(self, until: int) -> None:
        """What was counted until that bucket is no measure any more: a clock was stepped."""
        self._from = max(self._from, until + 1)

    def buckets(self, now: int) -> tuple[Bucket, ...]:
        """From the first that holds anything on: before that, nobody counted.

        A long silence in a busy series is none: it begins anew behind it.
        """
        first = max(min(self._known, default=now + 1), self._from)
        made: list[Bucket] = []
        silent = 0
        for number in range(first, now + 1):
            bucket = Bucket(number, self._known.get(number, _NOTHING))
            if bucket.counts and silent >= SILENCE and _is_busy(made[:-silent]):
                made = []
            silent = 0 if bucket.counts else silent + 1
            made.append(bucket)
        return tuple(made)


def _is_busy(buckets: list[Bucket]) -> bool:
    late = [b.total for b in buckets[-LEARNING:]]
    return bool(late) and median_of(late) >= LEAST
