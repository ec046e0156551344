"""One blocking read for the streams of many rings: whoever waits at one is told when to look.

It only rings. What came is read by the ring itself, with its own command, so that no ring's trouble
is another's: where one stream is none, the read of all fails, and each looks at its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis import exceptions

from ringkeeper.topology import COMMAND_TIMEOUT, waiting_apart

if TYPE_CHECKING:
    import redis.asyncio as redis

_WAIT: Final = 20.0
"""Seconds that one blocking read waits."""
_GATHER: Final = 0.2
"""Seconds in which those who begin to wait are gathered, before the read begins anew with them."""
_AGAIN_AFTER: Final = 1.0


class _Wanted(NamedTuple):
    after: str
    rung: asyncio.Future[None]


class Doorbell:
    """Waits at the streams of all who want it, on one connection."""

    def __init__(self, client: redis.Redis) -> None:
        """Wait where `client` speaks to; connect once somebody waits."""
        self._client = client
        self._wanted: dict[str, _Wanted] = {}
        self._covered: dict[str, str] = {}
        """What the read under way waits for: stream to the id behind which something may come."""
        self._reading: asyncio.Task[Any] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._is_gathering = False

    async def rung(self, stream: str, after: str, wait: float) -> bool:
        """Whether something came into `stream` behind the id `after` within `wait` seconds.

        Raises:
            RedisError, OSError, TimeoutError: nobody can wait there.
        """
        loop = asyncio.get_running_loop()
        wanted = _Wanted(after, loop.create_future())
        self._wanted[stream] = wanted
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._wait())
        elif self._covered.get(stream) != after and not self._is_gathering:
            self._is_gathering = True
            loop.call_later(_GATHER, self._begin_anew)
        try:
            async with asyncio.timeout(wait) as patience:
                await wanted.rung
        except TimeoutError:
            if not patience.expired():
                raise
            return False
        finally:
            if self._wanted.get(stream) is wanted:
                del self._wanted[stream]
        return True

    @property
    def covered(self) -> frozenset[str]:
        """The streams that are waited at this moment."""
        return frozenset(self._covered)

    async def close(self) -> None:
        """Wait no more."""
        if self._waiting:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])

    def _begin_anew(self) -> None:
        self._is_gathering = False
        is_whole = all(self._covered.get(s) == w.after for s, w in self._wanted.items())
        if self._reading and not is_whole:
            self._reading.cancel()

    async def _wait(self) -> None:
        try:
            while self._wanted:  # or again: somebody may come while the connection is let go
                async with waiting_apart(self._client, timeout=_WAIT + COMMAND_TIMEOUT) as there:
                    await asyncio.sleep(_GATHER)
                    while self._wanted:
                        await self._ring_once(there)
        except Exception as error:  # noqa: BLE001 - it is for those to judge who wait
            for wanted in self._wanted.values():
                if not wanted.rung.done():
                    wanted.rung.set_exception(error)
        finally:
            self._covered = {}

    async def _ring_once(self, there: redis.Redis) -> None:
        self._covered = {stream: wanted.after for stream, wanted in self._wanted.items()}
        covered: Any = dict(self._covered)
        self._reading = asyncio.ensure_future(there.xread(covered, 1, int(_WAIT * 1000)))
        try:
            await asyncio.wait([self._reading])
        finally:
            self._reading.cancel()
        if self._reading.cancelled():
            return  # others wait now, too
        try:
            found = self._reading.result()
        except exceptions.ResponseError:
            # Of one of them, nobody knows which: each looks for itself, and tells.
            found = dict.fromkeys(covered, ())
            await asyncio.sleep(_AGAIN_AFTER)
        for stream in found if isinstance(found, dict) else [name for name, _ in found or []]:
            wanted = self._wanted.pop(str(stream), None)
            if wanted and not wanted.rung.done():
                wanted.rung.set_result(None)
