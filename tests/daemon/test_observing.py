"""One log line for each change of state, silence while it lasts, and the metric that goes with it.

Promise 12, as the observer of one ring's leading keeps it; real daemons are asked elsewhere.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from ringkeeper.errors import RedisUnavailable, RingMissing
from ringkeeperd.audit import event
from ringkeeperd.leader import ANOTHER_LEADS
from ringkeeperd.metrics import Metrics
from ringkeeperd.refresh_series import RefreshView
from ringkeeperd.rotation import Instance, WaitUntil
from ringkeeperd.service import LeadingState, _Telling
from ringkeeperd.spike_events import spike_event
from ringkeeperd.spikes import Bucket, Cause, Spike
from tests.core.builders import NOW, new_ring

RING = new_ring()
TOOK = timedelta(milliseconds=20)


class Observed:
    """An observer, what it logged, and what it counted."""

    def __init__(self, lines: list[Any]) -> None:
        self.metrics = Metrics()
        self.state = LeadingState()
        self.by = _Telling("r", structlog.get_logger(), self.metrics, self.state)
        self.lines = lines

    @property
    def told(self) -> list[str]:
        return [line["event"] for line in self.lines]

    def metric(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(
            f"ringkeeper_{name}", {"ring": "r", **labels}
        )
        return value or 0.0


@pytest.fixture
def observed() -> Iterator[Observed]:
    with capture_logs() as lines:
        yield Observed(lines)


def test_a_term_is_told_when_it_begins_and_when_it_ends(observed: Observed) -> None:
    observed.by.leading(7)
    assert (observed.state.is_leading, observed.state.epoch) == (True, 7)
    for _ in range(3):
        observed.by.not_leading("the lease is lost")
    assert observed.told == ["leading", "not leading any more", "leading is troubled"]
    assert not observed.state.is_leading
    assert observed.metric("leader_transitions_total") == 1


def test_standing_by_is_told_once_for_as_long_as_another_leads(observed: Observed) -> None:
    for _ in range(3):
        observed.by.not_leading(ANOTHER_LEADS)
    observed.by.not_leading("redis: no answer")
    observed.by.not_leading(ANOTHER_LEADS)
    assert observed.told == ["standing by", "leading is troubled", "standing by"]


def test_why_it_cannot_lead_is_told_once_for_each_reason_and_forgotten_when_it_can(
    observed: Observed,
) -> None:
    for error in [RingMissing("no ring")] * 3 + [RingMissing("another"), RingMissing("no ring")]:
        observed.by.cannot_lead(error)
        assert observed.state.trouble == str(error)
    assert [line["error"] for line in observed.lines] == ["no ring", "another"]
    observed.by.leading(1)
    assert observed.state.trouble == ""
    observed.by.cannot_lead(RingMissing("no ring"))
    assert not observed.state.is_leading
    assert observed.told[-2:] == ["leading", "cannot lead"]


def test_a_defect_is_told_once_with_its_place_and_without_its_text(observed: Observed) -> None:
    observed.by.leading(1)
    for _ in range(3):
        try:
            dict[str, str]()["a secret"]
        except LookupError as error:
            observed.by.broken(error)
    _, line = observed.lines
    assert line["event"] == "cannot lead"
    assert "KeyError at test_observing.py" in line["error"]
    assert "a secret" not in line["error"]
    assert observed.state.trouble == line["error"]
    assert not observed.state.is_leading


def test_each_event_is_a_line_and_rotations_and_cures_are_counted(observed: Observed) -> None:
    told = (
        event(RING, NOW, "ring healed", {"found": "nothing"}),
        event(RING, NOW, "key activated", {"kid": "d-1", "rotation": "scheduled"}),
        event(RING, NOW, "key activated", {"kid": "s-1", "rotation": "first"}),
        event(RING, NOW, "key published", {"kid": "d-2"}),
    )
    observed.by.changed(RING, told, TOOK)
    assert observed.told == [each.event for each in told]
    assert observed.lines[1] == {
        "event": "key activated", "log_level": "info", "ring": "r", "version": RING.version,
        "kid": "d-1", "rotation": "scheduled",
    }  # fmt: skip
    assert observed.metric("rotations_total", reason="scheduled") == 1
    assert observed.metric("rotations_total", reason="first") == 0, "nothing turned"
    assert observed.metric("heals_total") == 1
    assert observed.metric("rotation_duration_seconds_sum") == pytest.approx(0.02)


def test_what_is_waited_for_is_told_once_and_a_clock_that_is_off_is_counted(
    observed: Observed,
) -> None:
    instance = Instance("app-9", "sign", 1, 1, NOW)
    silent = WaitUntil(NOW, None)
    confirming = WaitUntil(NOW, None, ("app-9",), "not every live instance has confirmed")
    clock = WaitUntil(NOW, None, (), "the clock differs from Redis' by too much")
    for wait in (silent, confirming, confirming, clock, clock, silent, clock):
        observed.by.waiting(wait, (instance,))
        assert (observed.state.wait, observed.state.instances) == (wait, (instance,))
    assert [line["why"] for line in observed.lines] == [confirming.why, clock.why, clock.why]
    assert observed.lines[0]["awaiting"] == ["app-9"]
    assert observed.metric("rotation_failures_total", reason="clock") == 2


def test_a_failure_is_counted_each_time_and_told_once_until_something_succeeds(
    observed: Observed,
) -> None:
    for _ in range(3):
        observed.by.failed(RedisUnavailable("no answer"))
    observed.by.changed(RING, (), TOOK)
    observed.by.failed(RedisUnavailable("no answer"))
    assert observed.told == ["leading is troubled"] * 2
    assert observed.metric("rotation_failures_total", reason="redis") == 4
    assert observed.metric("redis_errors_total", operation="leading") == 2


def test_a_propagation_is_measured_and_a_refusal_told(observed: Observed) -> None:
    observed.by.propagated(TOOK)
    assert observed.metric("propagation_seconds_count") == 1
    observed.by.refused(event(RING, NOW, "request refused", {"why": "too late"}))
    assert observed.lines == [
        {"event": "request refused", "log_level": "warning", "ring": "r", "why": "too late"}
    ]


def test_what_the_follower_notices_is_told_and_troubles_are_counted(observed: Observed) -> None:
    observed.by.noticed("ring troubled", ring="r", doing="reading", error="no answer")
    observed.by.noticed("ring well again", ring="r", doing="reading")
    assert [(line["event"], line["log_level"]) for line in observed.lines] == [
        ("ring troubled", "warning"),
        ("ring well again", "info"),
    ]
    assert observed.metric("redis_errors_total", operation="reading") == 1


def test_a_spike_is_told_when_it_begins_and_when_it_ends_and_counted_once(
    observed: Observed,
) -> None:
    spike = Spike(1, 3, Cause.REVOCATION, "revoked_kid", 20.0, 5.0, 400, 900.0)
    over = replace(spike, is_over=True)
    for each in (spike, over):
        observed.by.spiked(spike_event(RING, NOW, each), each)
    began, ended = observed.lines
    assert (began["event"], began["log_level"]) == ("refresh spike began", "warning")
    assert (ended["event"], ended["log_level"]) == ("refresh spike ended", "info")
    assert (began["cause"], began["ratio"], began["peak_rate"]) == ("revocation", 20.0, 40.0)
    assert (ended["duration_seconds"], ended["extra_refreshes"]) == (30, 900)
    assert observed.metric("refresh_spikes_total", cause="revocation") == 1


def test_refreshes_are_added_up_and_shown_while_this_daemon_leads(observed: Observed) -> None:
    view = RefreshView((Bucket(1, {"expired": 3}),))
    observed.by.leading(1)
    for _ in range(2):
        observed.by.refreshed({"expired": 3, "other": 1}, view)
    assert observed.metric("session_refreshes_total", reason="expired") == 6
    assert observed.metric("session_refreshes_total", reason="other") == 2
    assert observed.state.refreshes is view
    observed.by.not_leading("the lease is lost")
    assert observed.state.refreshes == RefreshView()
    assert observed.metric("session_refreshes_total", reason="expired") == 6


def test_a_defect_in_watching_refreshes_is_told_once(observed: Observed) -> None:
    for _ in range(3):
        observed.by.unwatched(ZeroDivisionError("hunter2"))
    assert observed.told == ["refreshes unwatched"]
    assert "hunter2" not in observed.lines[0]["error"]
