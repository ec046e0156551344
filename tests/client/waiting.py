"""Waiting for a condition, never for time."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_PAUSE = 0.005


def eventually(condition: Callable[[], _T | None], within: float = 20) -> _T:
    """What `condition` returns once that is true."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not so after {within:g} s"
        time.sleep(_PAUSE)
    return found


async def eventually_async(condition: Callable[[], _T | None], within: float = 20) -> _T:
    """As `eventually`, while the event loop runs on."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"still not so after {within:g} s"
        await asyncio.sleep(_PAUSE)
    return found


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel `task` until it has ended: redis-py may take a cancellation for a time-out of its own."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1)
