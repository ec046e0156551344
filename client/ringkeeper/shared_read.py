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

    All who ask before it begins share it, and all who ask while it is under way share the next:
    what that one began to read may be older than what they ask about.
    """

    def __init__(self, read: Callable[[], Coroutine[None, None, bool]], clock: Clock) -> None:
        """`read`: what it takes; whether there was an answer."""
        self._read = read
        self._clock = clock
        self._present: asyncio.Task[bool] | None = None
        """The newest one that has begun, or is about to."""
        self._next: asyncio.Task[bool] | None = None
        """The one that begins when that has ended."""
        self._began_at: float | None = None
        """When the present one began; None as long as it has not."""
        self._ended_at = -math.inf

    async def fresh(self) -> bool:
        """Wait for one that begins from now on; whether there was an answer."""
        if self._next and not self._next.done():
            return await asyncio.shield(self._next)
        if self._present is None or self._present.done():
            self._began_at = None
            self._present = asyncio.create_task(self._timed())
        elif self._began_at is not None:
            self._next = asyncio.create_task(self._after(self._present))
            return await asyncio.shield(self._next)
        return await asyncio.shield(self._present)

    @property
    def ended_ago(self) -> float:
        """Seconds since the newest one ended."""
        return self._clock.monotonic() - self._ended_at

    @property
    def lasts(self) -> float:
        """Seconds for which one has been under way; 0 where none is."""
        if self._present is None or self._present.done() or self._began_at is None:
            return 0.0
        return self._clock.monotonic() - self._began_at

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
