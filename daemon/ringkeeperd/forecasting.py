"""What a leader expects of a revocation, just before it: told beside what is measured later.

An emergency waits for no forecast: it is made in a moment, or not at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ringkeeper.draining import last_expiry
from ringkeeper.errors import RedisUnavailable
from ringkeeperd.forecast import forecast_drain, forecast_revocation
from ringkeeperd.spike_events import forecast_told

if TYPE_CHECKING:
    from datetime import timedelta

    from ringkeeper.ring import Ring
    from ringkeeperd.audit import Fields
    from ringkeeperd.term import Term

_WITHIN: Final = 0.2
"""Seconds that a revocation may be held up."""


async def forecast_fields(term: Term, kid: str, *, drain: timedelta | None = None) -> Fields:
    """What the event of revoking `kid` is to say of what follows; empty where nobody knows.

    `drain` is how long that is to take, if not at once.
    Whatever goes wrong, it raises nothing but a cancellation.
    """
    try:
        async with asyncio.timeout(_WITHIN):
            return await _foretold(term, kid, drain)
    except (RedisUnavailable, TimeoutError):
        return {}  # whoever writes next tells of it
    except Exception as error:  # noqa: BLE001 - whatever it is, the key is revoked
        term.observer.unwatched(error)
        return {}


async def _foretold(term: Term, kid: str, drain: timedelta | None) -> Fields:
    kids, counts, ring = verifying(term.ring), term.leader.counts, term.ring
    key = ring.key(kid)
    if counts is None or key is None or kid not in kids:
        return {}
    outstanding = await counts.outstanding(kids, longest_life(ring))
    if not outstanding.total(outstanding.at):
        return {}  # nobody counts
    at, usual = outstanding.at, term.usual_refreshes
    validity = ring.policy.access_token_validity
    if drain:
        last = last_expiry(key, at)
        forecast = forecast_drain(
            outstanding, kid, at, drain, last=last, baseline_per_second=usual, validity=validity
        )
        return forecast_told(forecast)
    instances = await term.store.instances(ring.policy.liveness_window)
    forecast = forecast_revocation(
        outstanding,
        kid,
        at,
        verifies_per_second=sum(each.verifies for each in instances),
        baseline_per_second=usual,
        validity=validity,
    )
    return forecast_told(forecast)


def verifying(ring: Ring) -> tuple[str, ...]:
    """The kids of the keys whose tokens count."""
    return tuple(key.kid for key in ring.keys if key.may_verify)


def longest_life(ring: Ring) -> timedelta:
    """The longest that a token of the ring may have been given to live."""
    lives = (key.token_validity for key in ring.keys)
    return max([ring.policy.access_token_validity, *lives])
