"""How rings are, in one line of constant words: for a supervisor, which shows it to whoever asks.

An error's own text may name hosts, files or what somebody wrote to Redis. So it is quoted nowhere
here: the log has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringkeeperd.rotation import activation_at
from ringkeeperd.troubles import not_handed_on, wrong_with

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ringkeeper.ring import Ring
    from ringkeeperd.rotation import Instance
    from ringkeeperd.service import RingService

_SHOWN: Final = 10
"""Of a kid: enough to tell it from the others."""


def summary(services: Iterable[RingService], reservations: Sequence[str], now: datetime) -> str:
    """How all rings are, in one line: the troubled first."""
    rings = sorted(services, key=lambda each: not (wrong_with(each) or not_handed_on(each)))
    return " | ".join([*(_condition(service, now) for service in rings), *reservations])


def _condition(service: RingService, now: datetime) -> str:
    """How one ring is."""
    held = service.follower.replica.held
    trouble = "; ".join(filter(None, (wrong_with(service), not_handed_on(service))))
    if held is None:
        return f"{service.name}: {trouble or 'not loaded yet'}"
    state = service.state
    said = [f"{_part(service)}, version {held.ring.version}", trouble, _signing(held.ring, now)]
    if state.is_leading and state.wait:
        said += [_fleet(held.ring, state.instances), _awaited(len(state.wait.awaiting))]
    return f"{service.name}: {'; '.join(filter(None, said))}"


def _part(service: RingService) -> str:
    if service.state.is_leading:
        return "leading"
    if service.leader is None:
        return "following"
    return "not leading" if wrong_with(service) else "standing by"


def _signing(ring: Ring, now: datetime) -> str:
    signer = ring.signer
    if signer is None:
        return "nothing signs"
    name = f"{signer.kid[:_SHOWN]}…"
    at = activation_at(ring) if signer == ring.active() else None
    if at is None:
        return f"{name} signs"
    return f"{name} signs until {at:%Y-%m-%d %H:%M} UTC" if at > now else f"{name} is to retire"


def _fleet(ring: Ring, instances: Sequence[Instance]) -> str:
    edition = (ring.epoch, ring.version)
    behind = sum((each.epoch, each.version) < edition for each in instances)
    return f"{len(instances)} instance{'' if len(instances) == 1 else 's'}, {behind} behind"


def _awaited(count: int) -> str:
    return f"waiting for {count} to confirm" if count else ""
