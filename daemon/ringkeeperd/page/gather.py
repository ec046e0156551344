"""Gathers what the status page shows from what this daemon holds anyway; Redis is not asked.

Who may know what is decided here. Instances' ids name hosts, and what an operator wrote as a reason
was written for colleagues: both are for who looks from this host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringkeeper.clock import ZERO
from ringkeeper.errors import RedisUnavailable
from ringkeeperd.page.view import EventRow, InstanceRow, InstancesView, PageView, RingView
from ringkeeperd.troubles import (
    not_fresh,
    not_loaded,
    not_usable,
    reservation,
    trouble_of,
    unheard,
)
from ringkeeperd.words import Outlook, harmless, since

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from ringkeeper.replica import Held
    from ringkeeper.ring import Ring
    from ringkeeper.wire import Event
    from ringkeeperd.service import LeadingState, RingService

INSTANCES_SHOWN: Final = 20
RINGS_WHOLE: Final = 6
"""Rings that one page shows; the others have one of their own."""
_EVENTS_SHOWN: Final = 12
_LATE: Final = 3
"""Proofs that may be missing before nobody seems to lead."""
_FOR_ALL: Final = (
    "rotation",
    "cause",
    "ratio",
    "changed",
    "from_next_key",
    "algorithm",
    "duration_seconds",
)
_FOR_THIS_HOST: Final = ("reason", "by", "why", "found", "instances")
_LONGEST_TEXT: Final = 200


def gathered(
    services: Mapping[str, RingService],
    chosen: str,
    concerns: Sequence[str],
    places: Mapping[str, str],
    *,
    is_from_here: bool,
) -> PageView:
    """What is shown of all rings, or of the `chosen` one."""
    wanted = [services[chosen]] if chosen else list(services.values())[:RINGS_WHOLE]
    clock = next(iter(services.values())).clock
    rings = tuple(_ring(service, is_from_here=is_from_here) for service in wanted)
    # Of every ring, shown or not: that is what somebody comes to see.
    troubles = [why for each in services.values() for why in _troubles(each)]
    return PageView(
        now=clock.now(),
        concerns=(*concerns, *troubles),
        rings=rings,
        others=tuple(name for name in services if name not in {ring.name for ring in rings}),
        places=places,
    )


def _troubles(service: RingService) -> list[str]:
    """What is wrong with a ring here, or needs somebody to look."""
    asked = (reservation, not_loaded, not_usable, not_fresh)
    found = [next(filter(None, (ask(service) for ask in asked)), ""), unheard(service)]
    held, state, now = service.follower.replica.held, service.state, service.clock.now()
    if held and not state.is_leading and not _is_led(held, now):
        found.append(f"ring {service.name}: nobody seems to lead it")
    if held and state.is_leading:
        found += [f"ring {service.name}: {what}" for what in _news(state, held.ring, now)]
    return [each for each in found if each]


def _news(state: LeadingState, ring: Ring, now: datetime) -> Iterator[str]:
    """What a leader sees that somebody should see, too."""
    if state.refreshes.is_spike:
        yield "too many sessions are refreshed"
    if (awaited := _awaited(state)) and _is_due(state, now):
        yield f"the next key is due, and waits for {awaited} to confirm it"
    behind = sum((i.epoch, i.version) < (ring.epoch, ring.version) for i in state.instances)
    # Who has had the time to take it up.
    is_late = now - max(map(since, ring.keys), default=now) > ring.policy.liveness_window
    if behind and is_late:
        yield f"{behind} instance{'' if behind == 1 else 's'} behind"


def _is_due(state: LeadingState, now: datetime) -> bool:
    """Whether the next key would sign already; before that there is time to confirm it."""
    at = state.wait.activation_at if state.wait else None
    return at is not None and at <= now


def _awaited(state: LeadingState) -> int:
    return len(state.wait.awaiting) if state.is_leading and state.wait else 0


def _is_led(held: Held, now: datetime) -> bool:
    policy = held.ring.policy
    return held.staleness(now) <= _LATE * policy.proof_interval + policy.clock_skew


def _ring(service: RingService, *, is_from_here: bool) -> RingView:
    held, state, now = service.follower.replica.held, service.state, service.clock.now()
    awaited = _awaited(state)
    is_led = state.is_leading or (held is not None and _is_led(held, now))
    leads = state.is_leading
    return RingView(
        name=service.name,
        leader="this daemon" if leads else _other_leader(service, is_led=is_led),
        trouble=trouble_of(service),
        outlook=Outlook(held.ring, now, is_led, awaited > 0) if held else None,
        proof_age=held.staleness(now) if held else ZERO,
        awaited=awaited,
        instances=_instances(service, held, is_from_here=is_from_here) if leads and held else None,
        refreshes=state.refreshes if leads else None,
        events=tuple(_events(state.events, is_from_here=is_from_here)) if leads else None,
    )


def _other_leader(service: RingService, *, is_led: bool) -> str:
    """A young proof tells that somebody led a moment ago, not that somebody does."""
    is_deaf = isinstance(service.follower.trouble, RedisUnavailable)
    if service.state.trouble or is_deaf:
        return "nobody is known"
    return "another daemon" if is_led else "nobody, it seems"


def _instances(service: RingService, held: Held, *, is_from_here: bool) -> InstancesView:
    """Those first that are behind, then those that were not heard of for the longest."""
    edition = held.ring.epoch, held.ring.version
    known = sorted(
        (((i.epoch, i.version) >= edition, i) for i in service.state.instances),
        key=lambda each: (each[0], each[1].seen_at, each[1].id),
    )
    return InstancesView(
        at=service.state.looked_at or service.clock.now(),
        count=len(known),
        behind=sum(not is_current for is_current, _ in known),
        shown=tuple(
            InstanceRow(
                name=harmless(i.id) if is_from_here else "",
                role=harmless(i.role),
                version=i.version,
                is_behind=not is_current,
                heard_at=i.seen_at,
            )
            for is_current, i in known[:INSTANCES_SHOWN]
        ),
    )


def _events(events: Iterable[Event], *, is_from_here: bool) -> list[EventRow]:
    """The newest first."""
    shown = (*_FOR_ALL, *_FOR_THIS_HOST) if is_from_here else _FOR_ALL
    return [
        EventRow(
            at=told.at,
            name=harmless(told.event),
            kid=harmless(str(told.fields.get("kid", ""))),
            fields=tuple(
                (name, harmless(str(told.fields[name]), _LONGEST_TEXT))
                for name in shown
                if told.fields.get(name) not in (None, "")
            ),
        )
        for told in [*events][: -_EVENTS_SHOWN - 1 : -1]
    ]
