"""What all rings of a daemon share on the way to Redis: three connections, however many rings.

One for commands (`bundled`), one that listens to the channels (`switchboard`), one that waits at
the streams of requests (`doorbell`). In a Cluster each ring lives at the node that has its slot,
channels and blocking reads do, too: there each ring has connections of its own, as an app has.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from ringkeeper.store import RedisStore
from ringkeeper.topology import close, connection_for, is_sharded, speaking
from ringkeeperd.bundled import BundledRedis
from ringkeeperd.doorbell import Doorbell
from ringkeeperd.leader_store import RedisLeaderStore, Requested
from ringkeeperd.switchboard import Switchboard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration
    from ringkeeper.store import Subscription
    from ringkeeperd.leader_store import EntryStream

_AT_ONCE: Final = 32
"""Rings that are taken up at once: each costs some hundredths of a second of work."""
_RECONNECT_EVERY: Final = 1.0
"""Seconds: where nobody leads, every ring wants another primary to be looked for."""


class SharedRedis:
    """The connections of one daemon, or of one command that looks at many rings."""

    def __init__(self, configuration: Configuration, clock: Clock, *, name: str = "") -> None:
        """Connect nothing yet. `name` is what Redis calls the connections."""
        self._configuration = configuration
        self._clock = clock
        client = connection_for(
            configuration.redis_url,
            password=configuration.redis_password,
            name=name or "ringkeeperd",
            tls=configuration.redis_tls,
        )
        self._is_sharded = is_sharded(client)
        self.client = BundledRedis(client)
        self._pooled = client
        self.switchboard = Switchboard(client, clock)
        self.doorbell = Doorbell(client)
        self.turnstile = asyncio.Semaphore(_AT_ONCE)
        """Through which rings begin, to follow and to lead: so many at a time."""
        self._reconnected_at = -_RECONNECT_EVERY

    def store(self, name: str) -> RedisLeaderStore:
        """The ring `name`, as its leader sees it."""
        if self._is_sharded:
            return RedisLeaderStore.configured(self._configuration, name, self._clock)
        return _SharedStore(self, name, self._clock)

    async def reconnect(self) -> None:
        """Let the connection for commands go, for whoever asked first of many."""
        now = self._clock.monotonic()
        if now - self._reconnected_at >= _RECONNECT_EVERY:
            self._reconnected_at = now
            await RedisStore(self._pooled, "").reconnect()

    async def close(self) -> None:
        """Let every connection go."""
        await self.switchboard.close()
        await self.doorbell.close()
        await close(self._pooled)


class _SharedStore(RedisLeaderStore):
    """A ring's place in Redis, reached by connections that are not its own."""

    def __init__(self, shared: SharedRedis, name: str, clock: Clock) -> None:
        super().__init__(shared.client, name, clock)
        self._shared = shared

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        async with self._shared.switchboard.listen(self.layout.published, self.where) as line:
            yield line

    @asynccontextmanager
    async def requests(self) -> AsyncIterator[EntryStream]:
        with speaking(self.where, "waiting for requests"):
            yield Requested(self._client, self.layout.requests, self._wait)

    async def _wait(self, after: str, seconds: float) -> bool:
        return await self._shared.doorbell.rung(self.layout.requests, after, seconds)

    async def reconnect(self) -> None:
        await self._shared.reconnect()

    async def close(self) -> None:
        """Nothing: the connections are all rings'."""
        await asyncio.sleep(0)
