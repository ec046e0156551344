"""What a daemon tells of leading: each thing once, in few words (promise 12)."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from ringkeeper.clock import SystemClock
from ringkeeper.errors import ClocksApart, RingMissing
from ringkeeperd.leader import ANOTHER_LEADS
from ringkeeperd.metrics import Metrics
from ringkeeperd.rotation import WaitUntil
from ringkeeperd.service import LeadingState, _Telling


class Daemon:
    """The telling part of one, and the lines that it wrote."""

    def __init__(self) -> None:
        self.stream, self.metrics, self.state = io.StringIO(), Metrics(), LeadingState()
        log: Any = structlog.wrap_logger(
            structlog.PrintLogger(self.stream), processors=[structlog.processors.JSONRenderer()]
        )
        self.telling = _Telling("r", log, self.metrics, self.state)

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def lines(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.stream.getvalue().splitlines())


def test_a_clock_that_is_off_by_more_each_time_is_told_once() -> None:
    daemon = Daemon()
    for seconds in range(70, 75):
        daemon.telling.cannot_lead(ClocksApart(f"this clock differs by {seconds}s"))
    assert daemon.events() == ["cannot lead"]
    assert "74s" in daemon.state.trouble, "pages show how it is now"
    daemon.telling.cannot_lead(RingMissing("redis holds no ring"))
    assert daemon.events() == ["cannot lead"] * 2
    daemon.telling.leading(1)
    daemon.telling.cannot_lead(RingMissing("redis holds no ring"))
    assert daemon.events() == ["cannot lead", "cannot lead", "leading", "cannot lead"]


def test_who_was_kept_from_leading_and_stands_by_tells_both_once() -> None:
    daemon = Daemon()
    for _ in range(3):
        daemon.telling.not_leading("redis, ring 'r': taking the lease: no")
    assert daemon.state.trouble
    for _ in range(3):
        daemon.telling.not_leading(ANOTHER_LEADS)
    assert daemon.state.trouble == ""
    assert daemon.events() == ["leading is troubled", "standing by"]


@pytest.mark.parametrize("count", [20, 20_000])
def test_a_log_line_names_a_few_instances_and_counts_the_others(count: int) -> None:
    daemon = Daemon()
    names = tuple(f"ghost-{number}" for number in range(count))
    wait = WaitUntil(SystemClock().now(), None, names, "not every live instance has confirmed")
    daemon.telling.waiting(wait, ())
    daemon.telling.forced("d-1", names)
    for line in daemon.lines():
        named = line.get("awaiting") or line["instances"]
        assert named[:20] == list(names[:20])
        assert named[20:] == ([] if count == 20 else ["and 19980 more"])
