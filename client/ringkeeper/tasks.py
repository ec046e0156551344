"""Several things at once, that begin and end together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

_CANCEL_AGAIN: Final = 1.5
"""Seconds; longer than anything that is stopped takes to say goodbye, over a slow network, too."""
_ENDING: Final = ("interpreter shutdown", "can't register atexit after shutdown")
"""In what Python says where it gives no more threads, for the program is about to end."""


async def first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of `work` until one ends; then stop the others and end as it did."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await stopped(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen: where several fail, one of them is raised
    for task in done:
        task.result()


async def aside(work: Callable[[], _T]) -> _T:
    """What `work` says, asked on another thread while the event loop does other things."""
    try:
        asked = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError as error:
        if not any(said in str(error) for said in _ENDING):
            raise
        # A keyring for threads goes on until its goodbye, on a thread of its own, where nobody is
        # held up.
        return work()
    return await asked


async def apart(work: Callable[[], _T]) -> _T:
    """As `aside`, on a thread of its own: what a program left to its threads does not come first.

    Where there is no thread to be had, it is done here.
    """
    try:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - rarely needed

        pool = ThreadPoolExecutor(1, "ringkeeper")
        asked = asyncio.get_running_loop().run_in_executor(pool, work)
    except RuntimeError:  # as many as there may be, or the program is about to end
        return work()
    pool.shutdown(wait=False)
    return await asked


def to_beat(every: float) -> float:
    """Seconds until the loop's clock shows a multiple of `every` seconds.

    Who looks now and then looks together with others: a process at rest is woken once for all.
    """
    return every - asyncio.get_running_loop().time() % every


async def stopped(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel `tasks` and wait until they have ended, however often the caller is cancelled itself.

    More than once: what is built on others' code may lose a cancellation (`topology.speaking`), and
    a task group would wait for it for ever. But not at once: whoever was cancelled may be saying
    goodbye.
    """
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        again = loop.time() + _CANCEL_AGAIN
        while any(not task.done() for task in pending) and (left := again - loop.time()) > 0:
            try:
                await asyncio.wait(pending, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled:
        raise cancelled
