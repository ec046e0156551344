"""Watches over session refreshes, for one leadership. `spikes` judges what is too many.

Apps count into buckets of time in Redis; every few seconds they are read. Whether it is a spike is
decided beside the turning of the keys; telling of it is left to that, so that the audit's numbers
have one writer. What the audit told of last is all that is remembered: whatever fails, it is read
there again, and what it lacks is told. No trouble here ever keeps a key from turning.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from ringkeeper.clock import ZERO
from ringkeeper.errors import DocumentError, RedisUnavailable
from ringkeeper.wire import open_event
from ringkeeperd.audit import numbered
from ringkeeperd.leader_store import LeaseLost
from ringkeeperd.refresh_series import SERIES, RefreshSeries, RefreshView
from ringkeeperd.spike_events import (
    LOOK_BACK,
    bucket_at,
    cause_in,
    foretold_in,
    last_spike,
    spike_event,
)
from ringkeeperd.spikes import Change, beside_forecast, judge

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ringkeeper.wire import Event
    from ringkeeperd.forecast import Outstanding
    from ringkeeperd.spikes import Foretold, Spike
    from ringkeeperd.term import Term

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the newest counts."""
_IDLE_EVERY: Final = 15.0
"""The same, while nobody counts anything."""
_LIVE: Final = 12
"""Buckets that are read at each look; all of them each minute, for counts may come late."""
_AHEAD: Final = 60
"""Buckets ahead of Redis' clock that are looked at, at first: was another Redis' clock ahead?"""
_WHOLE_EVERY: Final = 60.0
_SETTLING: Final = 15.0
"""Seconds after Redis was away, or another led, in which apps tell what they counted meanwhile."""
_JUMP: Final = timedelta(seconds=5)
"""By so much Redis' clock may go faster or slower than ours between two looks."""
_AGAIN_AFTER: Final = 60.0
"""Seconds from what failed to the next attempt."""


class CountStore(Protocol):
    """Where the counts are."""

    async def refreshes(self, first: int, last: int) -> Mapping[int, Mapping[str, int]]:
        """Bucket, from `first` to `last`, to reason to how many; raises `RedisUnavailable`."""
        ...

    async def outstanding(self, kids: Sequence[str], longest: timedelta) -> Outstanding:
        """The tokens of `kids`, of those that lived for up to `longest`; raises the same."""
        ...


class RefreshWatch:
    """Sees to it that a spike is seen, and told of, while one term lasts."""

    def __init__(self, term: Term, store: CountStore | None) -> None:
        """Watch nothing where there is no `store`."""
        self._term = term
        self._store = store
        self._series = RefreshSeries()
        self._changes: dict[Change, None] = {}
        self._foretold: dict[int, Foretold] = {}
        """What was expected of each revocation, by its bucket."""
        self.view = RefreshView()
        """What is known of the refreshes."""
        self._spike: Spike | None = None
        self._told: Spike | None = None
        """The spike that the audit told of last."""
        self._is_recalled = False
        """Whether the audit was read at all, and what it told of last taken up."""
        self._is_retold = False
        """Whether it was read since it became doubtful what stands there."""
        self._doubtful: tuple[Event, Spike] | None = None
        """What may have been told."""
        self._tell_from = 0.0
        self._steady_from: float | None = None
        self._whole_at: float | None = None
        self._clocks: tuple[float, datetime] | None = None
        """Our clock that nobody steps and Redis', at the last look."""

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
                self._unsettle()  # turning the keys tells of it
            except Exception as error:  # noqa: BLE001 - whatever it is, keys go on turning
                self._term.observer.unwatched(error)
                pause = _AGAIN_AFTER
            await asyncio.sleep(pause)

    async def _look(self, store: CountStore) -> bool:
        """Whether anything was counted within the hour."""
        now, clock = bucket_at(self._redis_now()), self._term.clock.monotonic()
        is_steady = self._steady_from is not None and clock >= self._steady_from
        is_whole = not is_steady or self._whole_at is None or clock >= self._whole_at + _WHOLE_EVERY
        news = await self._read(store, now - (SERIES if is_whole else _LIVE) + 1, now)
        if self._is_stepped(now):
            is_steady = False
        if self._steady_from is None:
            self._steady_from = clock + _SETTLING
        buckets = self._series.buckets(now)
        self._changes = {c: None for c in self._changes if now - SERIES < c.bucket <= now}
        self._foretold = {b: told for b, told in self._foretold.items() if b > now - SERIES}
        if is_steady and self._is_recalled and not self._is_behind:
            spike = judge(self._spike, buckets, self._changes)
            if spike and not (spike.is_over or (self._spike and not self._spike.is_over)):
                # It begins, or somebody told late what the hour before was like.
                news += await self._read(store, now - SERIES + 1, now)
                buckets = self._series.buckets(now)
                spike = judge(self._spike, buckets, self._changes)
            self._spike = spike and beside_forecast(spike, self._foretold)
        self.view = RefreshView(buckets, tuple(self._changes), self._spike)
        self._term.observer.refreshed(news, self.view)
        if self._is_behind:
            self._term.leader.wake.set()
        return bool(buckets)

    async def _read(self, store: CountStore, first: int, now: int) -> Counter[str]:
        """Take up what is counted there; what of it is news."""
        clock = self._term.clock.monotonic()
        ahead = 1 if self._clocks else _AHEAD
        found = await store.refreshes(first, now + ahead)
        self._term.check_lease()  # else another leader counts these
        if first <= now - SERIES + 1:
            self._whole_at = clock
        return self._series.take(found, now)

    def _is_stepped(self, now: int) -> bool:
        """Whether Redis' clock was stepped since the last look, or is behind what apps counted by.

        Then buckets hold what belongs to others, and are no measure of what is usual.
        """
        clocks = self._term.clock.monotonic(), self._redis_now()
        former, self._clocks = self._clocks, clocks
        jump = ZERO
        if former:
            jump = clocks[1] - former[1] - timedelta(seconds=clocks[0] - former[0])
        if abs(jump) <= _JUMP and self._series.newest <= now + 1:
            return False
        self._series.forget(max(now, self._series.newest, bucket_at(former[1]) if former else 0))
        if self._spike:
            self._spike = replace(self._spike, is_over=True)
        self._unsettle()
        return True

    def _unsettle(self) -> None:
        """For a while judge nothing: apps have to tell what they counted meanwhile."""
        self._steady_from = self._whole_at = None

    def _redis_now(self) -> datetime:
        return self._term.clock.now() + self._term.offset

    def note(self, events: Iterable[Event]) -> None:
        """Take up what happened to the ring just now: it may be the cause of a spike."""
        try:
            now = bucket_at(self._redis_now())
            for told in events:
                self._note(told, now)
        except Exception as error:  # noqa: BLE001 - whatever it is, keys go on turning
            self._term.observer.unwatched(error)

    def _note(self, told: Event, bucket: int) -> None:
        if cause := cause_in(told):
            self._changes[Change(bucket, cause)] = None
        if foretold := foretold_in(told):
            self._foretold[bucket] = foretold

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
        """Tell the audit, and all who watch, that a spike began, or ended; if not now, later.

        Raises:
            LeaseLost: it is for another leader to tell.
        """
        if self._store is None or self._term.clock.monotonic() < self._tell_from:
            return
        self._tell_from = self._term.clock.monotonic() + _AGAIN_AFTER
        try:
            is_told = await self._is_told()
        except LeaseLost:
            raise
        except RedisUnavailable as error:
            self._tell_from = self._term.clock.monotonic() + LOOK_EVERY
            self._term.observer.failed(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, keys go on turning
            self._spike, self._doubtful = self._told, None
            self._term.observer.unwatched(error)
        else:
            self._tell_from = 0.0 if is_told else self._tell_from

    async def _is_told(self) -> bool:
        """Whether the audit knows all; False if it takes nothing."""
        term = self._term
        if not self._is_retold:
            await self._recall()
        for spike in list(self._untold()):
            told = spike_event(term.ring, term.now(), spike)
            (told,) = numbered([told], after=term.leader.told)
            if self._doubtful and self._doubtful[0].number == told.number:
                told, spike = self._doubtful  # noqa: PLW2901 - the very same: twice is once
            self._doubtful, self._is_retold = (told, spike), False
            if not await term.tell(told):
                self._doubtful = None
                return False
            self._has_told(told, spike)
        return True

    def _has_told(self, told: Event, spike: Spike) -> None:
        self._doubtful, self._is_retold, self._told = None, True, spike
        self._term.observer.spiked(told, spike)

    async def _recall(self) -> None:
        """Know from the audit which spike was told of last, and what happened to the ring."""
        term, now = self._term, self._redis_now()
        events = await self._events()
        if self._doubtful and self._doubtful[0] in events:
            self._has_told(*self._doubtful)
        elif max((each.number for each in events), default=0) >= term.leader.told:
            told = last_spike(events)
            # One that began long ago was put back, or is of no use to anybody.
            is_ours = told and (told.is_over or told.first > bucket_at(now) - SERIES)
            self._told = told if is_ours else None
        if not self._is_recalled:
            self._spike = self._told
            for each in events:
                if (age := term.now() - each.at) >= ZERO:
                    self._note(each, bucket_at(now - age))
        self._is_recalled = self._is_retold = True

    async def _events(self) -> list[Event]:
        """The newest of this ring that a pinned root signed."""
        term, events = self._term, []
        roots = term.leader.follower.replica.roots
        for entry in await term.store.newest_events(LOOK_BACK):
            with suppress(DocumentError):
                events.append(open_event(entry.document, roots))
            await asyncio.sleep(0)
        return [each for each in events if each.ring_id == term.ring.id]
