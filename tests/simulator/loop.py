"""An event loop whose time jumps to the next thing that happens: an hour takes seconds."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio, on virtual time, and with nothing to wait for outside."""

    _ready: Any
    _scheduled: Any
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        """As asyncio's own, without a selector: if nothing is ready, the next timer is due."""
        ready = self._ready
        if not ready:
            ready.append(self._next_timer())
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Here and now: a thread would be of another time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _next_timer(self) -> asyncio.TimerHandle:
        while self._scheduled:
            timer: Any = heapq.heappop(self._scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self._now = max(self._now, timer.when())
                return timer  # type: ignore[no-any-return]
            self._timer_cancelled_count -= 1
        raise AssertionError("deadlock: nothing is ever going to happen")


class VirtualClock:
    """One process' clock: the loop's time, with a wall clock that may be off."""

    def __init__(self, loop: VirtualLoop, offset: timedelta = timedelta(0)) -> None:
        self._loop = loop
        self.offset = offset

    def now(self) -> datetime:
        passed = timedelta(milliseconds=int(self._loop.time() * 1000))
        return BEGINNING + passed + self.offset

    def timestamp(self) -> float:
        return self.now().timestamp()

    def monotonic(self) -> float:
        return self._loop.time()
