"""A crowd is told to come back one after the other; nobody else is told to wait."""

import math
import random
from collections import Counter
from datetime import timedelta

import pytest

from ringkeeper.errors import RefreshReason
from ringkeeper.pacing import LEAST, OF_A_CROWD, Pace, retry_after
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.testing import keyring

NOBODY: dict[str, int] = {}


def revoked(count: int) -> dict[str, int]:
    return {"revoked_kid": count}


def paced(usual: int, crowd: int = 0, minutes: int = 10) -> tuple[Pace, float]:
    """`usual` refreshes every five seconds for so long, and then that and a `crowd`."""
    pace, now = Pace(), 1000.0
    pace.note(NOBODY, now)
    for _ in range(12 * minutes):
        now += 5
        pace.note({"expired": usual}, now)
    now += 5
    pace.note({"expired": usual, **revoked(crowd)}, now)
    return pace, now


@pytest.mark.parametrize("usual", [0, 1, 50, 5000])
@pytest.mark.parametrize("reason", [r for r in RefreshReason if r not in OF_A_CROWD])
def test_nobody_waits_for_what_any_stranger_can_make_up(usual: int, reason: str) -> None:
    pace, now = paced(usual)
    assert pace.crowd({reason: 100_000}, now) == 0


@pytest.mark.parametrize(
    ("usual", "crowd", "takes"), [(50, 1000, 100), (5, 30, 30), (0, 30, 1800), (5, LEAST - 1, 0)]
)
def test_a_crowd_takes_as_long_as_it_would_as_fast_as_usual(
    usual: int, crowd: int, takes: float
) -> None:
    pace, now = paced(usual, crowd)
    assert pace.crowd(NOBODY, now) == pytest.approx(takes)


def test_what_was_counted_just_now_belongs_to_the_crowd() -> None:
    pace, now = paced(50)
    assert pace.crowd({"kind_mismatch": 400, **revoked(600)}, now) == pytest.approx(100)


def test_where_nobody_knows_what_is_usual_a_crowd_is_spread_as_far_as_may_be() -> None:
    """After a revocation apps may have been restarted, too."""
    assert Pace().crowd(revoked(LEAST), 1000.0) == math.inf
    assert Pace().crowd(revoked(LEAST - 1), 1000.0) == 0
    counts = RefreshCounts()
    counts.record("revoked_kid", 1000)
    assert {counts.retry_after(30, 1000.0) for _ in range(1000)} == set(range(1, 30))


def test_a_crowd_is_over_after_a_minute_and_never_becomes_what_is_usual() -> None:
    pace, now = paced(50, 3000)
    for _ in range(13):
        now += 5
        pace.note({"expired": 50}, now)
    assert pace.crowd(NOBODY, now) == 0
    assert pace.crowd(revoked(1000), now) == pytest.approx(100)


def test_only_the_last_minutes_are_kept() -> None:
    pace, _ = paced(50, minutes=600)
    assert len(pace._notes) < 140


def test_they_do_not_come_back_together() -> None:
    chance = random.Random(1)
    waits = Counter(retry_after(100.0, 30.0, chance) for _ in range(3000))
    assert set(waits) == set(range(1, 30))
    assert max(waits.values()) < 2 * 3000 / 30
    assert {retry_after(12.0, 30.0, chance) for _ in range(200)} == set(range(8, 16))
    assert {retry_after(27.0, 30.0, chance) for _ in range(200)} == set(range(18, 30))


@pytest.mark.parametrize("most", [0.5, 0, -1, math.nan, -math.inf])
def test_who_may_not_wait_does_not(most: float) -> None:
    assert retry_after(100.0, most, random.Random(1)) == 0
    assert retry_after(0.0, 30.0, random.Random(1)) == 0


def test_a_crowd_that_waits_as_told_comes_no_faster_than_twice_as_usual() -> None:
    """The measure: 3,000 whose tokens were revoked, at an app that refreshes 10 a second."""
    counts, now, back = RefreshCounts(), 0.0, Counter[int]()
    for _ in range(130):
        now += 5
        counts.note({"expired": 50}, now)
    for n in range(3000):
        counts.record("revoked_kid")
        wait = counts.retry_after(timedelta(minutes=10), now + n / 1000)
        back[int(n / 1000) + wait] += 1
    busiest = max(sum(back[second + n] for n in range(10)) for second in range(10, 600)) / 10
    assert busiest < 2 * 10


def test_a_keyring_for_tests_answers_what_it_is_told_to() -> None:
    ring = keyring()
    assert ring.retry_after() == 0
    ring.crowd = 40
    assert ring.retry_after() == 30
    assert ring.retry_after(35) == 35
    assert ring.retry_after(timedelta(minutes=1)) == 40
