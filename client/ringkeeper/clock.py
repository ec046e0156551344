"""The only door to the time of day.

Everything else is handed a `Clock`, so the same code runs on a virtual clock in the simulator.
Instants are aware UTC datetimes in whole milliseconds: what is written to the wire is exactly
what is held in memory.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ZERO = timedelta(0)
LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: no instant lies behind it."""


class Clock(Protocol):
    """Where a process takes its time from."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC, whole milliseconds. It may be stepped at any moment."""
        ...

    def timestamp(self) -> float:
        """As `now`, in seconds since 1970: for what is asked at each request."""
        ...

    def monotonic(self) -> float:
        """Seconds that only ever grow and go on while the machine is suspended."""
        ...


class SystemClock:
    """The clocks of this machine."""

    # A lease must run out while a laptop or a paused virtual machine sleeps; CLOCK_MONOTONIC
    # stands still then. CLOCK_BOOTTIME is Linux's; elsewhere the monotonic clock has to do.
    monotonic: staticmethod[[], float] = staticmethod(
        partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
    )
    """Seconds that only ever grow, suspend included."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC, whole milliseconds."""
        return from_ms(time.time_ns() // 1_000_000)

    timestamp: staticmethod[[], float] = staticmethod(time.time)
    """The wall clock, in seconds since 1970."""


def to_ms(value: datetime | timedelta) -> int:
    """Whole milliseconds: since 1970 for an instant, in all for a duration (rounded down)."""
    if isinstance(value, datetime):
        value -= _EPOCH
    return value // MILLISECOND


def from_ms(ms: int) -> datetime:
    """The instant that many milliseconds after 1970, aware and UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


def from_seconds(seconds: float) -> datetime:
    """The instant that many seconds after 1970, in whole milliseconds, aware and UTC."""
    return from_ms(int(seconds * 1000))
