"""The rings that a daemon runs: they come and go with the configuration, never by themselves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ringkeeper.tasks import stopped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ringkeeperd.service import RingService


class RunningRings:
    """The services of one daemon, by name; the first of them stays as long as the daemon does."""

    def __init__(self) -> None:
        """None yet."""
        self.services: dict[str, RingService] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def add(self, service: RingService) -> None:
        """Run one more; it begins with `run`, or at once where that runs."""
        self.services[service.name] = service
        self._changed.set()

    async def remove(self, names: Iterable[str]) -> None:
        """Let rings go: their leases are free at once, and they are no services any more."""
        gone = []
        for name in names:
            del self.services[name]
            if running := self._running.pop(name, None):
                gone.append(running)
        self._changed.set()
        if gone:
            await stopped(gone)

    async def run(self) -> None:
        """Run them all until cancelled, or one of them ends: then end as it did."""
        try:
            while True:
                self._changed.clear()
                for name, service in self.services.items():
                    if name not in self._running:
                        self._running[name] = asyncio.create_task(service.run())
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait(
                        [*self._running.values(), changed], return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    changed.cancel()
                for running in self._running.values():
                    if running.done():
                        running.result()
                        return
        finally:
            await stopped(list(self._running.values()))
