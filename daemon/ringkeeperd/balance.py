"""Keeps one daemon at its share of the rings: `spreading` decides, and here it is carried out."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ringkeeperd.spreading import Part, has_its_share, share, to_hand_over

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ringkeeper.clock import Clock
    from ringkeeperd.service import RingService

_LOOK_EVERY: Final = 1.0
_LOOKS: Final = 10
"""The part of all tables that is read in a second while rings are handed over; and the least."""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_HESITATION: Final = 0.7
"""Seconds that who has its share lets others go first."""


class Balance:
    """One daemon's share of `services`."""

    def __init__(self, services: Mapping[str, RingService], clock: Clock) -> None:
        """Do nothing yet; `run` does."""
        self._services = services
        self._clock = clock
        self._jitter = random.Random()  # noqa: S311 - spreads a crowd, and keeps no secret
        self._hesitation = 0.0
        self.changed = asyncio.Event()
        """Set when rings came or went."""

    async def run(self) -> None:
        """Let others have what is too much, a little at a time, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY * (0.8 + 0.4 * self._jitter.random()))
            self.changed.clear()
            if len(self._services) == 1:
                self._hesitation = 0.0  # whoever leads it has its share
                await self.changed.wait()
                continue
            now = self._clock.monotonic()
            parts = [part_in(service, now) for service in self._services.values()]
            self._hesitation = _HESITATION if has_its_share(parts) else 0.0
            self._look_closer(parts)
            for name in to_hand_over(parts):
                if leader := self._services[name].leader:
                    leader.hand_over()

    def _look_closer(self, parts: Sequence[Part]) -> None:
        """Let some leaders read who is live: a ring where nothing happens does it once a minute.

        One of them shows that a daemon came. Then it is asked sooner who else may lead the others.
        """
        led = [self._services[part.name] for part in parts if part.led_for is not None]
        led.sort(key=lambda service: service.state.looked_at or _LONG_AGO)
        most = 1 if len(led) <= share(parts) else max(_LOOKS, len(led) // _LOOKS)
        for service in led[:most]:
            if service.leader:
                service.leader.wake.set()

    def hesitation(self) -> float:
        """Seconds to wait before a free lease is taken."""
        return self._hesitation * (0.7 + 0.6 * self._jitter.random())


def part_in(service: RingService, now: float) -> Part:
    """What this daemon has to do with that ring."""
    state, leader, held = service.state, service.leader, service.follower.replica.held
    if leader is None or held is None or not state.is_leading or leader.led_since is None:
        return Part(service.name, None)
    handed, edition = leader.handed_over_at, (held.ring.epoch, held.ring.version)
    able = [each for each in state.instances if each.may_lead and each.id != service.instance]
    return Part(
        service.name,
        now - leader.led_since,
        sum((each.epoch, each.version) >= edition for each in able),
        held.ring.policy.liveness_window.total_seconds(),
        None if handed is None else now - handed,
        is_unwanted=handed is not None and leader.led_since - handed < leader.ttl.total_seconds(),
    )
