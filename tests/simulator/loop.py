"""An event loop whose time jumps to the next thing that happens: an hour takes a second."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import Any

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class _Jumping(selectors.SelectSelector):
    """Instead of waiting for the time to pass, lets it have passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "deadlock: nothing is ever going to happen"
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio, on virtual time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class VirtualClock:
    """One process' clock: the loop's time, with a wall clock that may be off."""

    def __init__(self, loop: VirtualLoop, offset: timedelta = timedelta(0)) -> None:
        self._loop = loop
        self.offset = offset

    def now(self) -> datetime:
        passed = timedelta(milliseconds=int(self._loop.time() * 1000))
        return BEGINNING + passed + self.offset

    def monotonic(self) -> float:
        return self._loop.time()
