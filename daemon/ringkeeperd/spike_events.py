"""Spikes in the audit, and what the audit tells of their causes. Pure.

The audit is also a leader's memory: who comes after it reads there which spike it told of last.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from ringkeeper.clock import from_ms, to_ms
from ringkeeper.layout import BUCKET
from ringkeeperd.audit import (
    DRAIN_BEGAN,
    KEY_ACTIVATED,
    KEY_REVOKED,
    POLICY_ADOPTED,
    RING_HEALED,
    SPIKE_BEGAN,
    SPIKE_ENDED,
    event,
)
from ringkeeperd.spikes import Cause, Foretold, Spike

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ringkeeper.ring import Ring
    from ringkeeper.wire import Event
    from ringkeeperd.audit import Fields
    from ringkeeperd.forecast import Forecast

_BUCKET_MS: Final = BUCKET * 1000
LOOK_BACK: Final = 100
"""Audit events to look through for the last spike."""
_MODE: Final = {"use_dynamic_access_token_signing_key", "use_dynamic"}
"""The setting; and as older audits call it."""
_FIRST: Final = "first"
_CAUSED_BY: Final = {
    KEY_ACTIVATED: Cause.ROTATION,
    KEY_REVOKED: Cause.REVOCATION,
    DRAIN_BEGAN: Cause.REVOCATION,
    RING_HEALED: Cause.FAILOVER,
}


def bucket_at(time: datetime) -> int:
    """The number of the bucket that `time` (Redis') falls in."""
    return to_ms(time) // _BUCKET_MS


def begin_of(bucket: int) -> datetime:
    """When that bucket begins."""
    return from_ms(bucket * _BUCKET_MS)


def cause_in(told: Event) -> Cause | None:
    """What sessions may feel of an event of the ring; None if they cannot."""
    if told.event == KEY_ACTIVATED and told.fields.get("rotation") == _FIRST:
        return None  # nobody had a token before
    if told.event == POLICY_ADOPTED:
        changed = str(told.fields.get("changed", "")).split(", ")
        return Cause.MODE_SWITCH if _MODE.intersection(changed) else Cause.CONFIGURATION
    return _CAUSED_BY.get(told.event)


def forecast_told(forecast: Forecast) -> Fields:
    """What the event of a revocation says of what is to come."""
    fields: Fields = {
        "tokens_outstanding": forecast.tokens,
        "forecast_refreshes": forecast.refreshes,
    }
    if forecast.peak_rate is not None:
        fields["forecast_peak_rate"] = round(forecast.peak_rate, 1)
    return fields


def foretold_in(told: Event) -> Foretold | None:
    """What the event of a revocation says of what is to come; None if it says nothing."""
    return _foretold(told.fields) if told.event in (KEY_REVOKED, DRAIN_BEGAN) else None


def _foretold(fields: Mapping[str, object]) -> Foretold | None:
    refreshes, peak = fields.get("forecast_refreshes"), fields.get("forecast_peak_rate")
    if not isinstance(refreshes, int):
        return None
    return Foretold(refreshes, float(peak) if isinstance(peak, int | float) else None)


def spike_event(ring: Ring, at: datetime, spike: Spike) -> Event:
    """That `spike` began, or that it is over."""
    return event(ring, at, SPIKE_ENDED if spike.is_over else SPIKE_BEGAN, spike_fields(spike))


def spike_fields(spike: Spike) -> Fields:
    """What is told of a spike; how long and how much, once it is over. Rates are per second."""
    fields: Fields = {
        "cause": spike.cause.value,
        "reason": spike.reason,
        "began_at": begin_of(spike.first).isoformat(),
        "peak_rate": spike.peak / BUCKET,
        "baseline_rate": spike.usual / BUCKET,
        "deviation_rate": round(spike.strays / BUCKET, 3),
        "ratio": round(spike.ratio, 2),
    }
    if spike.foretold:
        fields["forecast_refreshes"] = spike.foretold.refreshes
        if spike.foretold.peak_rate is not None:
            fields["forecast_peak_rate"] = spike.foretold.peak_rate
    if spike.is_over:
        fields["duration_seconds"] = spike.length * BUCKET
        fields["extra_refreshes"] = round(spike.excess)
    return fields


def shown_spike(spike: Spike) -> dict[str, object]:
    """A spike for programs: in the audit's words, and whether it still goes on."""
    return {"active": not spike.is_over, **spike_fields(spike)}


def last_spike(events: Iterable[Event]) -> Spike | None:
    """The spike that was told of last; None if none was, or it is not told as we do.

    By the events' numbers: whoever may write to Redis may put them there in any order.
    """
    for told in sorted(events, key=lambda each: each.number, reverse=True):
        if told.event in (SPIKE_BEGAN, SPIKE_ENDED):
            return _spike(told)
    return None


def _spike(told: Event) -> Spike | None:
    fields, is_over = told.fields, told.event == SPIKE_ENDED
    try:
        first = bucket_at(datetime.fromisoformat(str(fields["began_at"])))
        length = int(fields["duration_seconds"]) // BUCKET if is_over else 1
        return Spike(
            first=first,
            last=first + length - 1,
            cause=Cause(str(fields["cause"])),
            reason=str(fields["reason"]),
            usual=float(fields["baseline_rate"]) * BUCKET,
            strays=float(fields["deviation_rate"]) * BUCKET,
            peak=round(float(fields["peak_rate"]) * BUCKET),
            excess=float(fields["extra_refreshes"]) if is_over else 0.0,
            is_over=is_over,
            foretold=_foretold(fields),
        )
    except (KeyError, ValueError, OverflowError):
        return None
