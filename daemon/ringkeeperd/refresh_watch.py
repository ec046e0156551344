"""Watches over session refreshes, for one leadership. `spikes` judges what is too many.

Apps count into buckets of time in Redis; every few seconds they are read. Whether it is a spike is
decided beside the turning of the keys; telling of it is left to that, so that the audit's numbers
have one writer. What the audit told of last is all that is remembered: whatever fails, it is read
there again, and what it lacks is told. No trouble here ever keeps a key from turning.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from ringkeeper.clock import ZERO
from ringkeeper.errors import DocumentError, RedisUnavailable
from ringkeeper.layout import BUCKET
from ringkeeper.wire import open_event
from ringkeeperd.audit import numbered
from ringkeeperd.leader_store import LeaseLost
from ringkeeperd.spike_events import LOOK_BACK, bucket_at, cause_in, last_spike, spike_event
from ringkeeperd.spikes import LEARNING, LONGEST, USUAL, Bucket, Cause, Change, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from ringkeeper.wire import Event
    from ringkeeperd.spikes import Spike
    from ringkeeperd.term import Term

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the newest counts."""
_IDLE_EVERY: Final = 15.0
"""The same, while nobody counts anything."""
SERIES: Final = USUAL + LONGEST
"""Buckets that are kept: what is usual, and before that the longest spike."""
_LIVE: Final = 12
"""Buckets that are read at each look; all of them each minute, for counts may come late."""
_WHOLE_EVERY: Final = 60.0
_SETTLING: Final = 15.0
"""Seconds after Redis was away, or another led, in which apps tell what they counted meanwhile."""
_AGAIN_AFTER_DEFECT: Final = 60.0
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_RATE_OVER: Final = 3
"""Buckets that the rate is the mean of."""


class CountStore(Protocol):
    """Where the counts are."""

    async def refreshes(self, first: int, last: int) -> Mapping[int, Mapping[str, int]]:
        """Bucket, from `first` to `last`, to reason to how many; raises `RedisUnavailable`."""
        ...


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
        return statistics.median(b.total for b in past) / BUCKET

    @property
    def is_spike(self) -> bool:
        """Whether there is one now."""
        return self.spike is not None and not self.spike.is_over


class RefreshSeries:
    """The counts of the last hour, as one leader came to know them."""

    def __init__(self) -> None:
        self._known: dict[int, Mapping[str, int]] = {}
        self._is_begun = False

    def take(self, found: Mapping[int, Mapping[str, int]], now: int) -> Counter[str]:
        """Note what was found; what of it is news, by reason.

        What is found first is none: another leader told of it, or nobody did. Never twice, rather
        not at all. Redis may lose counts, and none is taken back: the highest that was seen stays.
        """
        news: Counter[str] = Counter()
        is_news, self._is_begun = self._is_begun, True
        for bucket, counts in found.items():
            known = self._known.get(bucket, {})
            more = {r: count - known.get(r, 0) for r, count in counts.items()}
            more = {r: count for r, count in more.items() if count > 0}
            if more:
                news.update(more)
                self._known[bucket] = {**known, **{r: counts[r] for r in more}}
        for bucket in [b for b in self._known if b <= now - SERIES]:
            del self._known[bucket]
        return news if is_news else Counter()

    def buckets(self, now: int) -> tuple[Bucket, ...]:
        """From the first that holds anything on: before that, nobody counted."""
        first = min((b for b in self._known if b <= now), default=now + 1)
        return tuple(Bucket(n, self._known.get(n, _NOTHING)) for n in range(first, now + 1))


class RefreshWatch:
    """Sees to it that a spike is seen, and told of, while one term lasts."""

    def __init__(self, term: Term, store: CountStore | None) -> None:
        """Watch nothing where there is no `store`."""
        self._term = term
        self._store = store
        self._series = RefreshSeries()
        self._changes = [Change(self._now(), Cause.FAILOVER)]
        self._spike: Spike | None = None
        self._told: Spike | None = None
        """The spike that the audit told of last."""
        self._is_recalled = False
        self._is_retold = False
        """Whether the audit was read since it became doubtful what stands there."""
        self._steady_from: float | None = None
        self._whole_at: float | None = None

    # --- seeing ----------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look every few seconds, until cancelled."""
        if self._store is None:
            await asyncio.Event().wait()
            return
        while True:
            try:
                pause = LOOK_EVERY if await self._look(self._store) else _IDLE_EVERY
            except LeaseLost:
                raise
            except RedisUnavailable:
                pause = LOOK_EVERY
                self._steady_from = self._whole_at = None  # turning the keys tells of it
            except Exception as error:  # noqa: BLE001 - whatever it is, keys go on turning
                self._term.observer.unwatched(error)
                pause = _AGAIN_AFTER_DEFECT
            await asyncio.sleep(pause)

    async def _look(self, store: CountStore) -> bool:
        """Whether anything was counted within the hour."""
        now, clock = self._now(), self._term.clock.monotonic()
        is_whole = self._whole_at is None or clock - self._whole_at >= _WHOLE_EVERY
        is_steady = self._steady_from is not None and clock >= self._steady_from
        found = await store.refreshes(
            now - (_LIVE if is_steady and not is_whole else SERIES) + 1, now
        )
        self._term.check_lease()  # else another leader counts these
        if is_whole:
            self._whole_at = clock
        if self._steady_from is None:
            self._steady_from = clock + _SETTLING
        news = self._series.take(found, now)
        buckets = self._series.buckets(now)
        self._changes = [c for c in self._changes if c.bucket > now - SERIES]
        if is_steady and self._is_recalled and not self._is_behind:
            self._spike = judge(self._spike, buckets, self._changes)
        self._term.observer.refreshed(news, RefreshView(buckets, tuple(self._changes), self._spike))
        if self._is_behind:
            self._term.leader.wake.set()
        return bool(buckets)

    def _now(self) -> int:
        return bucket_at(self._redis_now())

    def _redis_now(self) -> datetime:
        return self._term.clock.now() + self._term.offset

    def note(self, events: Iterable[Event]) -> None:
        """Take up what happened to the ring just now: it may be the cause of a spike."""
        causes = filter(None, map(cause_in, events))
        self._changes += [Change(self._now(), cause) for cause in causes]

    # --- telling ---------------------------------------------------------------------------------

    def _untold(self) -> Iterator[Spike]:
        """What the audit has to be told, the oldest first."""
        spike, told = self._spike, self._told
        if spike is None:
            return
        if told is None or told.first != spike.first:
            yield replace(spike, is_over=False)
            told = None
        if spike.is_over and not (told and told.is_over):
            yield spike

    @property
    def _is_behind(self) -> bool:
        """Whether the audit lacks something: until it is told, nothing else is judged."""
        return next(self._untold(), None) is not None

    async def tell(self) -> None:
        """Tell the audit, and all who watch, that a spike began, or ended.

        Raises:
            LeaseLost, RedisUnavailable: nobody knows whether it was told; it is looked up again.
        """
        if self._store is None:
            return
        try:
            await self._tell()
        except (LeaseLost, RedisUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, keys go on turning
            self._spike = self._told
            self._term.observer.unwatched(error)

    async def _tell(self) -> None:
        if not self._is_retold:
            await self._recall()
        term = self._term
        for spike in list(self._untold()):
            told = spike_event(term.ring, term.now(), spike)
            (told,) = numbered([told], after=term.leader.told)
            self._is_retold = False
            await term.tell(told)
            self._is_retold, self._told = True, spike
            term.observer.spiked(told, spike)

    async def _recall(self) -> None:
        """Know from the audit which spike was told of last, and what happened to the ring."""
        term = self._term
        events = await self._events()
        self._told = last_spike(events)
        if not self._is_recalled:
            self._spike = self._told
            ages = [(term.now() - e.at, cause_in(e)) for e in events]
            now = self._redis_now()
            self._changes += [
                Change(bucket_at(now - age), cause) for age, cause in ages if cause and age >= ZERO
            ]
        self._is_recalled = self._is_retold = True

    async def _events(self) -> list[Event]:
        """The newest of this ring that a pinned root signed."""
        term, events = self._term, []
        roots = term.leader.follower.replica.roots
        for entry in await term.store.recent_events(LOOK_BACK):
            with suppress(DocumentError):
                events.append(open_event(entry.document, roots))
            await asyncio.sleep(0)
        return [each for each in events if each.ring_id == term.ring.id]
