"""The rules of a ring: what is derived, and what is refused."""

from datetime import timedelta

import pytest

from ringkeeper.durations import format_duration, parse_duration
from ringkeeper.policy import Policy
from tests.core.builders import HOUR, MINUTE, SECOND, policy


def test_defaults_are_those_of_the_design() -> None:
    rules = policy()
    assert rules.cryptoperiod == 168 * HOUR
    assert rules.retire_interval == 25 * HOUR + 2 * MINUTE
    assert rules.publication_interval == 4 * HOUR
    assert rules.max_staleness == 24 * HOUR
    assert rules.confirmation_timeout == 10 * MINUTE
    assert rules.jwks_max_age == 5 * MINUTE
    assert rules.poll_interval == 30 * SECOND
    assert rules.proof_interval == MINUTE
    assert rules.liveness_window == 90 * SECOND


def test_a_short_cryptoperiod_caps_every_wait() -> None:
    rules = policy(
        cryptoperiod=10 * SECOND, access_token_validity=20 * SECOND, clock_skew=1 * SECOND
    )
    quarter = 2.5 * SECOND
    assert rules.publication_interval == quarter
    assert rules.confirmation_timeout == rules.jwks_max_age == rules.poll_interval == quarter
    assert rules.max_staleness == 10 * SECOND
    assert rules.proof_interval == SECOND


@pytest.mark.parametrize(
    ("changes", "named", "remedy"),
    [
        ({"algorithm": "HS256"}, "algorithm: 'HS256'", "use one of"),
        ({"cryptoperiod": timedelta(0)}, "interval: must be longer than 0", "write"),
        ({"access_token_validity": -SECOND}, "access_token_validity: must", "write"),
        ({"clock_skew": -SECOND}, "clock_skew: must be at least 1s", "write"),
        ({"clock_skew": timedelta(0)}, "clock_skew: must be at least 1s", "write"),
        ({"access_token_validity": SECOND / 2}, "must be at least 1 second", "write"),
        ({"max_verify_staleness": timedelta(0)}, "max_verify_staleness: must", "write"),
        (
            {"cryptoperiod": HOUR, "access_token_validity": 30 * 24 * HOUR},
            "keeps 725 keys",
            "lengthen the interval",
        ),
        ({"publication_interval": 200 * HOUR}, "publication_interval: 8d 8h", "shorten it"),
        ({"jwks_max_age": 5 * HOUR}, "jwks_max_age: 5h", "shorten it"),
        ({"max_staleness": MINUTE}, "max_staleness: 1m", "lengthen it"),
        ({"confirmation_timeout": 200 * HOUR}, "confirmation_timeout: 8d 8h", "shorten it"),
        ({"poll_interval": 30 * HOUR}, "poll_interval: 30h", "shorten it"),
        ({"clock_skew": 2 * HOUR}, "clock_skew: 2h", "set it to at most 1h"),
        ({"max_verify_staleness": HOUR}, "max_verify_staleness: 1h", "lengthen it"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason_and_a_remedy(
    changes: dict, named: str, remedy: str
) -> None:
    problem = next(p for p in Policy.derive(**changes).problems() if named in p)
    assert named in problem
    assert remedy in problem


def test_every_problem_is_named_at_once() -> None:
    problems = Policy.derive(
        algorithm="x", clock_skew=-SECOND, access_token_validity=-SECOND
    ).problems()
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30s", 30 * SECOND),
        ("15m", 15 * MINUTE),
        ("24h", 24 * HOUR),
        ("7d", 168 * HOUR),
        ("1h 30m", 90 * MINUTE),
        ("500ms", SECOND / 2),
        ("1.5h", 90 * MINUTE),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "30", "abc", "-5s", "1e9h", "٣s", "9" * 39 + "d", "11y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number and a unit|ten years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (25 * HOUR + 2 * MINUTE, "25h 2m"),
        (168 * HOUR, "7d"),
        (-SECOND, "-1s"),
        (SECOND / 4, "250ms"),
        (3 * 24 * HOUR + 4 * HOUR + 5 * SECOND, "3d 4h"),
    ],
)
def test_durations_are_shown_in_their_two_largest_units(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text
