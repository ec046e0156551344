"""What the audit tells of a spike and of its causes, and how it is read again."""

from dataclasses import replace

import pytest

from ringkeeper.clock import to_ms
from ringkeeperd.audit import (
    DRAIN_BEGAN,
    KEY_ACTIVATED,
    KEY_PUBLISHED,
    KEY_REMOVED,
    KEY_REVOKED,
    POLICY_ADOPTED,
    RING_HEALED,
    RING_REWRAPPED,
    Fields,
    event,
)
from ringkeeperd.forecast import Forecast
from ringkeeperd.spike_events import (
    begin_of,
    bucket_at,
    cause_in,
    forecast_told,
    foretold_in,
    last_spike,
    shown_spike,
    spike_event,
)
from ringkeeperd.spikes import Cause, Foretold, Spike, beside_forecast
from tests.core.builders import NOW, new_ring

RING = new_ring()
FIRST = bucket_at(NOW)
SPIKE = Spike(FIRST, FIRST + 4, Cause.MODE_SWITCH, "kind_mismatch", 21.0, 4.5, 80, 60.0)


@pytest.mark.parametrize(
    ("name", "fields", "cause"),
    [
        (KEY_ACTIVATED, {"rotation": "scheduled"}, Cause.ROTATION),
        (KEY_ACTIVATED, {"rotation": "manual"}, Cause.ROTATION),
        (KEY_ACTIVATED, {"rotation": "first"}, None),
        (KEY_REVOKED, {}, Cause.REVOCATION),
        (DRAIN_BEGAN, {}, Cause.REVOCATION),
        (RING_HEALED, {}, Cause.FAILOVER),
        (
            POLICY_ADOPTED,
            {"changed": "clock_skew, use_dynamic_access_token_signing_key"},
            Cause.MODE_SWITCH,
        ),
        (POLICY_ADOPTED, {"changed": "cryptoperiod, use_dynamic"}, Cause.MODE_SWITCH),
        (POLICY_ADOPTED, {"changed": "access_token_validity"}, Cause.CONFIGURATION),
        (POLICY_ADOPTED, {}, Cause.CONFIGURATION),
        (RING_REWRAPPED, {}, None),
        (KEY_PUBLISHED, {}, None),
        (KEY_REMOVED, {}, None),
    ],
)
def test_what_sessions_may_feel(name: str, fields: Fields, cause: Cause | None) -> None:
    assert cause_in(event(RING, NOW, name, fields)) == cause


def test_a_bucket_is_ten_seconds_of_redis_time() -> None:
    assert to_ms(begin_of(FIRST)) % 10_000 == 0
    assert begin_of(FIRST) <= NOW < begin_of(FIRST + 1)


@pytest.mark.parametrize("is_over", [False, True])
def test_a_spike_is_read_as_it_was_told(is_over: bool) -> None:
    spike = replace(SPIKE, is_over=is_over)
    read = last_spike([spike_event(RING, NOW, spike)])
    if not is_over:  # how long it is shows in the end
        spike = replace(spike, last=spike.first, excess=0.0)
    assert read == spike


def test_the_highest_number_was_told_last_wherever_it_stands() -> None:
    began = replace(spike_event(RING, NOW, SPIKE), number=7)
    ended = replace(spike_event(RING, NOW, replace(SPIKE, is_over=True)), number=8)
    other = replace(event(RING, NOW, KEY_REMOVED, {}), number=9)
    for order in ((began, ended, other), (other, ended, began), (ended, other, began)):
        found = last_spike(order)
        assert found is not None
        assert found.is_over
    assert last_spike([other]) is None


def test_what_is_not_told_as_we_do_is_none() -> None:
    told = spike_event(RING, NOW, SPIKE)
    for fields in ({}, {**told.fields, "cause": "?"}, {**told.fields, "began_at": "x"}):
        assert last_spike([replace(told, fields=fields)]) is None
    huge: Fields = {**told.fields, "peak_rate": float("inf")}
    assert last_spike([replace(told, fields=huge)]) is None


# --- what was expected ---------------------------------------------------------------------------

REVOKED = replace(SPIKE, cause=Cause.REVOCATION, reason="revoked_kid")


@pytest.mark.parametrize(
    ("peak", "foretold"), [(86.44, Foretold(840, 86.4)), (None, Foretold(840, None))]
)
def test_what_a_revocation_foretells_is_read_as_it_was_told(
    peak: float | None, foretold: Foretold
) -> None:
    fields = forecast_told(Forecast(900, 840, peak, 2.0, peak))
    assert fields["tokens_outstanding"] == 900
    assert foretold_in(event(RING, NOW, KEY_REVOKED, fields)) == foretold
    assert foretold_in(event(RING, NOW, DRAIN_BEGAN, fields)) == foretold
    assert foretold_in(event(RING, NOW, KEY_ACTIVATED, fields)) is None
    assert foretold_in(event(RING, NOW, KEY_REVOKED, {})) is None
    for is_over in (False, True):
        spike = replace(REVOKED, foretold=foretold, is_over=is_over)
        read = last_spike([spike_event(RING, NOW, spike)])
        assert read is not None
        assert read.foretold == foretold
        assert shown_spike(spike)["forecast_refreshes"] == 840


@pytest.mark.parametrize("garbage", ["840", 1.5, ""])
def test_what_is_no_forecast_is_none(garbage: str | float) -> None:
    assert foretold_in(event(RING, NOW, KEY_REVOKED, {"forecast_refreshes": garbage})) is None


def test_a_spike_has_the_forecast_of_its_own_revocation() -> None:
    early, late = Foretold(1, 1.0), Foretold(2, 2.0)
    cases = [
        ({FIRST: early}, early),
        ({FIRST - 5: early}, early),
        ({FIRST - 6: early}, None),
        ({FIRST + REVOKED.length: early}, early),
        ({FIRST + REVOKED.length + 1: early}, None),
        ({FIRST - 1: early, FIRST: late}, late),
        ({}, None),
    ]
    for foretold, expected in cases:
        assert beside_forecast(REVOKED, foretold).foretold == expected
    told = replace(REVOKED, foretold=early)
    assert beside_forecast(told, {FIRST: late}) is told, "what was told stays"
    assert beside_forecast(SPIKE, {FIRST: late}).foretold is None, "a switch has another cause"
