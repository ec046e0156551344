"""How many sessions this process had to refresh, and why: counted here, told in the background.

Counting is one addition under a lock that nobody holds for longer: it slows no request and fails
none. Every few seconds what was counted goes to Redis, into buckets of time that expire. While
Redis is away it is kept, by when it was counted, so that it does not look like a spike when it
arrives; what is older than an hour is of no use to anybody and is dropped, and so is what may have
arrived already. Numbers for a diagram, not for an invoice.

The hour is Redis': the clock of an app that counts may be wrong.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from ringkeeper.errors import Defect, InfrastructureError, RefreshReason
from ringkeeper.layout import BUCKET
from ringkeeper.pacing import Pace, retry_after
from ringkeeper.signed import SignedCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ringkeeper.clock import Clock
    from ringkeeper.notices import Notice
    from ringkeeper.signed import Signed

KEPT: Final = 3600
"""Seconds that counts are kept while Redis is away."""
MOST: Final = 10**9
"""Refreshes that one call may add, and that a bucket counts: more is a mistake, or a lie."""
FLUSH_EVERY: Final = 5.0
"""Seconds, give or take a fifth, from one telling to the next."""
_GOODBYE: Final = 1.0
_JITTER: Final = random.Random()  # noqa: S311 - spreads a crowd, and keeps no secret
_REASONS: Final = {reason.value: reason.value for reason in RefreshReason}


class RefreshStore(Protocol):
    """Where counts are told."""

    async def seconds(self) -> int:
        """Redis' time, in seconds since the epoch; raises RedisUnavailable."""
        ...

    async def count_refreshes(self, counted: Mapping[int, Mapping[str, int]]) -> None:
        """Add these, bucket (its number since the epoch) to reason to how many; raises the same."""
        ...

    async def count_signed(self, signed: Iterable[Signed]) -> None:
        """Add these tokens to those that were signed; raises the same."""
        ...


class RefreshCounts:
    """What was counted since it was last taken. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(_REASONS, 0)
        self._pace = Pace()

    def record(self, reason: str = RefreshReason.OTHER, count: int = 1) -> None:
        """Count a session that has to be refreshed; a reason that is none counts as `other`."""
        try:
            reason, whole = _REASONS.get(reason, "other"), int(count)
        except (TypeError, ValueError, OverflowError):
            return  # no text, no number: nobody's request fails for that
        if 0 < whole <= MOST:
            with self._lock:
                self._counts[reason] += whole

    def take(self) -> dict[str, int]:
        """What was counted, by reason; it is not counted here any more."""
        fresh = dict.fromkeys(_REASONS, 0)
        with self._lock:
            counts, self._counts = self._counts, fresh
        return {reason: count for reason, count in counts.items() if count}

    def note(self, taken: Mapping[str, int], now: float) -> None:
        """Remember for a while that these were taken, at `now` (monotonic seconds)."""
        self._pace.note(taken, now)

    def retry_after(self, most: timedelta | float, now: float) -> int:
        """Seconds for a `Retry-After` of at most `most`; 0 unless a crowd comes."""
        seconds = most.total_seconds() if isinstance(most, timedelta) else float(most)
        return retry_after(self._pace.crowd(self._counts, now), seconds, _JITTER)


class RefreshTeller:
    """Tells Redis what was counted: refreshes, and where there is a `signed` tokens, too."""

    def __init__(
        self,
        counts: RefreshCounts,
        store: RefreshStore,
        clock: Clock,
        jitter: random.Random,
        notice: Notice,
        signed: SignedCounts | None = None,
    ) -> None:
        self._counts = counts
        self._signed = signed or SignedCounts()
        self._store = store
        self._clock = clock
        self._jitter = jitter
        self._notice = notice
        self._pending: dict[int, Mapping[str, int]] = {}
        """When, in seconds of our monotonic clock, to what had been counted by then."""
        self._is_troubled = False

    async def run(self) -> None:
        """Tell every few seconds, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(FLUSH_EVERY * (0.8 + 0.4 * self._jitter.random()))
                await self.tell()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    await self.tell(is_last=True)

    async def tell(self, *, is_last: bool = False) -> None:
        """Tell what there is; if Redis is away, next time. Tokens may wait, unless it is the last.

        They go beside the refreshes, to ask for Redis' time once.
        """
        now = int(self._clock.monotonic())
        fresh = self._counts.take()
        self._counts.note(fresh, self._clock.monotonic())
        if fresh:
            self._pending[now] = Counter(fresh) + Counter(self._pending.get(now, {}))
        self._pending = {at: counts for at, counts in self._pending.items() if at > now - KEPT}
        self._signed.gather(now)
        is_signed = self._signed.is_due(now, is_last=is_last)
        if not (self._pending or is_signed):
            return
        has_refreshes = bool(self._pending)
        try:
            there = await self._store.seconds()
            # From here on it may arrive: never twice, rather not at all.
            if self._pending:
                await self._store.count_refreshes(self._by_bucket(now, there))
            if is_signed:
                await self._store.count_signed(self._signed.hand_over(now, there))
        except InfrastructureError as error:
            # That Redis is away, whoever follows the ring says; of tokens there are more to come.
            if has_refreshes or getattr(error, "is_answer", False):
                self._tell_of(error)
        except Exception as error:  # noqa: BLE001 - whoever follows the ring goes on, whatever it is
            self._tell_of(Defect.of(error))
        else:
            self._is_troubled = False

    def _by_bucket(self, now: int, there: int) -> dict[int, Counter[str]]:
        """What is to be told now that it is `there` by Redis' clock; it is kept here no longer."""
        pending, self._pending = self._pending, {}
        counted: dict[int, Counter[str]] = {}
        for at, counts in pending.items():
            counted.setdefault((there - (now - at)) // BUCKET, Counter()).update(counts)
        return counted

    def _tell_of(self, error: InfrastructureError) -> None:
        if not self._is_troubled:
            self._notice("counting refreshes is troubled", doing="counting", error=str(error))
        self._is_troubled = True
