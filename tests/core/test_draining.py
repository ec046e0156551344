"""Who is refused, and when, while a key is drained."""

import random
from datetime import timedelta
from itertools import pairwise

import pytest

from ringkeeper.draining import drained_fraction, is_drained

HOUR = timedelta(hours=1)
KID = "d-" + "x" * 22


@pytest.mark.parametrize("window", [HOUR, 2 * HOUR])
def test_nobody_is_refused_early_where_there_is_time_until_all_have_expired(
    window: timedelta,
) -> None:
    for elapsed in (-HOUR, 0 * HOUR, HOUR / 2, HOUR, 3 * HOUR):
        assert drained_fraction(elapsed, window, HOUR) == 0.0


@pytest.mark.parametrize("window", [0 * HOUR, HOUR / 60, HOUR / 4, HOUR * 0.99])
def test_all_are_refused_at_the_end_of_the_window_and_more_each_time(window: timedelta) -> None:
    fractions = [drained_fraction(window * n / 10, window, HOUR) for n in range(1, 11)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert drained_fraction(-HOUR, window, HOUR) == 0.0
    assert drained_fraction(2 * HOUR, window, HOUR) == 1.0


def test_tokens_go_at_an_even_pace() -> None:
    """Those that expire and those that are refused, together, over each tenth of the window."""
    chance = random.Random(1)
    tokens = [(f"user-{n}", HOUR * chance.random()) for n in range(20_000)]
    window = HOUR / 4
    left = [
        sum(
            life > elapsed and not is_drained(KID, user, drained_fraction(elapsed, window, HOUR))
            for user, life in tokens
        )
        for elapsed in (window * n / 10 for n in range(11))
    ]
    gone = [before - after for before, after in pairwise(left)]
    assert sum(gone) == 20_000
    assert max(gone) < 1.08 * 2000
    assert min(gone) > 0.92 * 2000


def test_a_place_is_the_kid_s_and_the_subject_s_and_everybody_finds_the_same() -> None:
    """SHA-256 of the kid, a zero byte and the subject: another language finds it, too."""
    place = 0x17DBC0B10E7D2991 / 2**64
    assert not is_drained("d-1", "alice", place - 1e-9)
    assert is_drained("d-1", "alice", place + 1e-9)


def test_who_is_drained_stays_so_and_the_share_is_what_was_asked_for() -> None:
    users = [f"user-{n}" for n in range(5000)]
    sets = [{u for u in users if is_drained(KID, u, share)} for share in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert [len(each) for each in sets] == pytest.approx([0, 500, 2500, 4500, 5000], abs=150)
    assert all(less <= more for less, more in pairwise(sets))
    other = {u for u in users if is_drained("d-" + "y" * 22, u, 0.5)}
    assert len(other & sets[2]) == pytest.approx(1250, abs=150), "each key has an order of its own"


def test_a_subject_that_only_json_can_carry_has_a_place() -> None:
    assert is_drained(KID, "\ud800", 1.0)
    assert not is_drained(KID, "\ud800", 0.0)
