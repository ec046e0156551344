"""Who takes events away, repeats them or makes them up is seen. Promise 12."""

from dataclasses import replace
from typing import Any

import pytest

from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Event, Proof, sign_event
from ringkeeperd.audit import numbered
from ringkeeperd.trail import Trail
from tests.core.builders import NOW

ROOT = TrustRoot.generate()
EVENTS = numbered(
    [Event("r1", "access-token", 1, 1, NOW, f"event {n}") for n in range(1, 7)], after=10
)


def trail() -> Trail:
    return Trail("access-token", "r1", ROOT.public)


def flaws(*events: Event, root: TrustRoot = ROOT) -> list[str]:
    reading = trail()
    return [reading.read(sign_event(event, root)).flaw for event in events]


def test_what_is_whole_has_no_flaw_wherever_one_begins() -> None:
    assert flaws(*EVENTS) == [""] * 6
    assert flaws(*EVENTS[2:]) == [""] * 4


def test_a_gap_is_seen_and_says_which_numbers_are_missing() -> None:
    assert flaws(EVENTS[0], EVENTS[3], EVENTS[4]) == [
        "",
        "2 missing before it: numbers 12 to 13",
        "",
    ]


def test_a_repetition_is_seen() -> None:
    assert flaws(EVENTS[0], EVENTS[1], EVENTS[0], EVENTS[2]) == [
        "",
        "",
        "number 11 comes again, after number 12",
        "",
    ]


@pytest.mark.parametrize("change", [{"ring_id": "r2"}, {"name": "refresh-token"}])
def test_an_event_of_another_ring_is_no_part_of_it(change: dict[str, Any]) -> None:
    (flaw,) = flaws(replace(EVENTS[0], **change))
    assert "another ring" in flaw


def test_what_nobody_pinned_signed_is_forged() -> None:
    reading = trail()
    assert reading.read("garbage").flaw.startswith("forged")
    assert reading.read(sign_event(EVENTS[0], ROOT)).flaw == ""
    line = reading.read(sign_event(EVENTS[1], TrustRoot.generate()))
    assert line.event is None
    assert line.flaw.startswith("forged")
    assert reading.last == EVENTS[0].number


def test_what_a_root_signed_that_was_changed_since_stands_in_front_and_is_no_flaw() -> None:
    """Else nobody could change the root without an alarm that lasts until all is trimmed."""
    former, reading = TrustRoot.generate(), trail()
    lines = [reading.read(sign_event(event, former)) for event in EVENTS[:2]]
    lines += [reading.read(sign_event(event, ROOT)) for event in EVENTS[2:]]
    assert [line.flaw for line in lines] == [""] * 6
    assert [bool(line.event) for line in lines] == [False] * 2 + [True] * 4
    assert lines[0].remark == f"signed by the root {former.kid}, which is not pinned here"


@pytest.mark.parametrize(("counted", "is_seen"), [(16, False), (15, False), (17, True)])
def test_a_missing_end_is_seen_by_what_the_newest_proof_counts(counted: int, is_seen: bool) -> None:
    reading = trail()
    for event in EVENTS:
        reading.read(sign_event(event, ROOT))
    flaw = reading.end(Proof("r1", "access-token", 1, 1, "", NOW, counted))
    assert (flaw == f"the stream ends at number 16, and {counted} events were told") == is_seen
    assert reading.end(None).startswith("no proof of freshness")


def test_what_was_read_is_no_news() -> None:
    reading = trail()
    first, second = (sign_event(event, ROOT) for event in EVENTS[:2])
    reading.read(first)
    assert [reading.is_news(each) for each in (first, second, "x")] == [False, True, True]
