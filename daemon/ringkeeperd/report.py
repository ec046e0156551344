"""What the supervisor hears of this daemon: when it is ready, how its rings are, that it lives.

A sign of life says more than that the event loop runs: every ring still goes round, too. Redis
being away is no hang, for attempts count; a task that waits for what never comes is one, and then
the supervisor starts this daemon anew.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ringkeeper.tasks import first_of
from ringkeeperd.condition import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from structlog.stdlib import BoundLogger

    from ringkeeper.progress import Progress
    from ringkeeperd.service import RingService
    from ringkeeperd.supervisor import Supervisor

READY_WITHIN: Final = 5.0
"""Seconds: Redis may be away, and what is started after us need not wait for it any longer."""
_LOOK_EVERY: Final = 1.0
_NOT_FED: Final = (
    "it has not come round for too long, a defect of ringkeeper: please report it; the supervisor "
    "gets no sign of life until it does, and is to start this daemon anew"
)


class Report:
    """What one daemon tells `supervisor`; nothing at all where none listens."""

    def __init__(
        self,
        supervisor: Supervisor,
        services: Mapping[str, RingService],
        reservations: Callable[[], Sequence[str]],
        log: BoundLogger,
    ) -> None:
        """`reservations`: what is not as it should be beside the rings, in constant words."""
        self._supervisor = supervisor
        self._services = services
        self._reservations = reservations
        self._log = log
        self._is_ready = False
        self._is_reloading = False
        self._is_stopping = False
        self._told = ""
        self._owed: list[Callable[[], bool]] = []
        """What was not taken yet, in its order: it may listen late, and waits for each of them."""

    async def run(self) -> None:
        """Report until cancelled. What is served is served already."""
        if self._supervisor.listens:
            await first_of(self._become_ready(), self._tell_how_it_is(), self._show_life())
        await asyncio.Event().wait()

    def reload_asked(self) -> None:
        """Somebody waits for a reload."""
        if self._is_ready and not self._is_reloading:
            self._is_reloading = True
            self._owe(self._supervisor.reloading)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """A reload, from its begin to its end: also one that comes to nothing."""
        self.reload_asked()
        try:
            yield
        finally:
            self._tell_status()
            if self._is_reloading:
                self._is_reloading = False
                self._owe(self._supervisor.ready)

    def _owe(self, telling: Callable[[], bool]) -> None:
        self._owed.append(telling)
        self._tell_what_is_owed()

    def _tell_what_is_owed(self) -> None:
        while self._owed and not self._is_stopping and self._owed[0]():
            del self._owed[0]

    def stopping(self) -> None:
        """From now on we stop."""
        self._is_stopping = True
        self._supervisor.stopping()
        self._supervisor.status("stopping: letting the lease go")

    async def _become_ready(self) -> None:
        """Say so once every ring is loaded, or after a while all the same."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN):
                for service in self._services.values():
                    await service.follower.ready.wait()
        self._tell_status()
        while not self._supervisor.ready():
            await asyncio.sleep(_LOOK_EVERY)
        self._is_ready = True
        await asyncio.Event().wait()

    async def _tell_how_it_is(self) -> None:
        """In words, whenever they change; and what was not taken before."""
        while True:
            self._tell_what_is_owed()
            self._tell_status()
            await asyncio.sleep(_LOOK_EVERY)

    def _tell_status(self) -> None:
        now = next(iter(self._services.values())).clock.now()
        line = summary(self._services.values(), self._reservations(), now)
        if line != self._told and not self._is_stopping and self._supervisor.status(line):
            self._told = line

    # --- the watchdog ----------------------------------------------------------------------------

    async def _show_life(self) -> None:
        """Give signs of life, twice as often as is asked for, while every ring goes round.

        What is late once may have been held up with all of this process: it gets another round.
        """
        pause = self._supervisor.watchdog_every / 2
        late: set[tuple[str, str]] = set()
        hanging: set[tuple[str, str]] = set()
        while pause:
            former, late = late, self._late()
            for ring, doing in sorted(former & late - hanging):
                self._log.error("hangs", ring=ring, doing=doing, error=_NOT_FED)
            hanging = former & late
            if not hanging:
                self._supervisor.alive()
            await asyncio.sleep(pause)
        await asyncio.Event().wait()

    def _late(self) -> set[tuple[str, str]]:
        """What did not come round when it should have: of which ring, and doing what."""
        return {
            (name, doing)
            for name, service in self._services.items()
            for doing, progress in _rounds(service)
            if progress.overdue > 0
        }


def _rounds(service: RingService) -> Iterator[tuple[str, Progress]]:
    yield "following", service.follower.progress
    if service.leader:
        yield "leading", service.leader.progress
