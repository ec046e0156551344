"""One read for all who ask for it."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ringkeeper.clock import Clock


class SharedRead:
    """A read that is under way once at most, however many wait for it.

    All who ask while one is under way share the next: what that one began to read may be older
    than what they ask about.
    """

    def __init__(self, read: Callable[[], Coroutine[None, None, bool]], clock: Clock) -> None:
        """`read`: what it takes; whether there was an answer."""
        self._read = read
        self._clock = clock
        self._present: asyncio.Task[bool] | None = None
        self._next: asyncio.Task[bool] | None = None
        self._began_at = self._ended_at = -math.inf

    async def fresh(self) -> bool:
        """Wait for one that begins from now on; whether there was an answer."""
        if self._present is None or self._present.done():
            self._present = asyncio.create_task(self._timed())
            return await asyncio.shield(self._present)
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._present))
        return await asyncio.shield(self._next)

    @property
    def ended_ago(self) -> float:
        """Seconds since the newest one ended."""
        return self._clock.monotonic() - self._ended_at

    @property
    def lasts(self) -> float:
        """Seconds for which one has been under way; 0 where none is."""
        is_under_way = self._present is not None and not self._present.done()
        return self._clock.monotonic() - self._began_at if is_under_way else 0.0

    async def _after(self, former: asyncio.Task[bool]) -> bool:
        await asyncio.wait([former])
        self._present, self._next = self._next, None
        return await self._timed()

    async def _timed(self) -> bool:
        self._began_at = self._clock.monotonic()
        try:
            return await self._read()
        finally:
            self._ended_at = self._clock.monotonic()
