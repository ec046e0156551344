"""Work that may hang, on a thread of its own: file systems do, and nothing ends what waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Hanging(Exception):
    """It gave no answer in time; what came of it is not known."""


class Aside(Generic[T]):
    """One thing after another, each within a time. While one hangs, nothing more is begun.

    The thread is a daemon: one that hangs keeps no process from ending, as an executor's would.
    """

    def __init__(self, name: str, within: float) -> None:
        """`within`: seconds that each has."""
        self._name = name
        self._within = within
        self._thread: Thread | None = None
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` says; or what it raises.

        Raises:
            Hanging: it takes too long, or what was begun before it still does.
        """
        try:
            async with asyncio.timeout(self._within), self._turn:
                if self._thread and self._thread.is_alive():
                    raise Hanging
                future = asyncio.get_running_loop().create_future()
                self._thread = Thread(
                    target=_perform, args=(work, future), name=self._name, daemon=True
                )
                self._thread.start()
                try:
                    done: T = await future
                finally:
                    if future.done() and not future.cancelled():
                        self._thread.join(1.0)  # it is about to end
                return done
        except TimeoutError:
            raise Hanging from None


def _perform(work: Callable[[], T], future: asyncio.Future[T]) -> None:
    tell: Callable[[], None]
    try:
        tell = partial(future.set_result, work())
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        tell = partial(future.set_exception, error)

    def tell_who_waits() -> None:
        if not future.done():
            tell()

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        future.get_loop().call_soon_threadsafe(tell_who_waits)
