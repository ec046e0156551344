"""What is a spike, what is none, and what it came from."""

import random
from collections.abc import Iterable, Sequence

import pytest

from ringkeeper.errors import RefreshReason
from ringkeeperd.spikes import LEARNING, LONGEST, USUAL, Bucket, Cause, Change, Spike, judge

FIRST = 180_000_000
"""The number of the first bucket of a series."""
OTHER = RefreshReason.OTHER


def series(totals: Iterable[int], reason: str = OTHER, first: int = FIRST) -> list[Bucket]:
    return [Bucket(first + index, {reason: total}) for index, total in enumerate(totals)]


def usual(count: int = USUAL, mean: int = 100, seed: int = 1) -> list[int]:
    chance = random.Random(seed)
    return [max(0, round(chance.gauss(mean, mean**0.5))) for _ in range(count)]


def judged(
    buckets: Sequence[Bucket], changes: Sequence[Change] = (), keep: int = 400
) -> list[Spike]:
    """Every spike that is told of as the series grows, as it was when it ended."""
    found: list[Spike] = []
    former: Spike | None = None
    for end in range(1, len(buckets) + 1):
        now = judge(former, buckets[max(0, end - keep) : end], changes)
        if now is not None and (former is None or former.is_over) and not now.is_over:
            found.append(now)
        elif now is not None and found:
            found[-1] = now
        former = now
    return found


def test_an_ordinary_day_has_no_spike() -> None:
    assert judged(series(usual(1000))) == []
    assert judge(None, []) is None


@pytest.mark.parametrize("mean", [10, 100, 10_000])
@pytest.mark.parametrize("times", [3, 5, 20])
def test_a_spike_is_found_measured_and_over(mean: int, times: int) -> None:
    before, after = usual(USUAL, mean), usual(60, mean, seed=2)
    (spike,) = judged(series([*before, *[times * mean] * 12, *after]))
    assert abs(spike.first - (FIRST + USUAL)) <= 1
    assert abs(spike.length - 12) <= 2
    assert spike.is_over
    assert spike.cause is Cause.UNATTRIBUTED
    assert spike.peak == times * mean
    assert spike.ratio == pytest.approx(times, rel=0.15)
    assert spike.excess == pytest.approx((times - 1) * mean * 12, rel=0.15)


def test_what_is_steep_is_told_at_once_even_before_its_bucket_is_full() -> None:
    past = series(usual())
    assert judge(None, [*past, Bucket(FIRST + USUAL, {OTHER: 150})]) is None
    spike = judge(None, [*past, Bucket(FIRST + USUAL, {OTHER: 300})])
    assert spike is not None
    grown = judge(spike, [*past, Bucket(FIRST + USUAL, {OTHER: 500})])
    assert grown is not None
    assert (grown.peak, grown.first, grown.last) == (500, FIRST + USUAL, FIRST + USUAL)
    assert grown.excess == pytest.approx(400, abs=5), "not counted twice"


def test_a_few_are_no_spike_whatever_the_ratio() -> None:
    quiet = [1, 0, 0, 0] * 50
    assert judged(series([*quiet, 9, *quiet])) == []
    assert len(judged(series([*quiet, 30, *quiet]))) == 1


def test_an_end_is_seen_before_another_spike_begins() -> None:
    """Even where both come to light at the same look."""
    calm = [100] * 20
    buckets = series([*usual(), 900, 900, *calm, 900])
    spike = judge(None, buckets[: USUAL + 2])
    assert spike is not None
    ended = judge(spike, buckets)
    assert ended is not None
    assert (ended.first, ended.is_over) == (spike.first, True)
    another = judge(ended, buckets)
    assert another is not None
    assert (another.first, another.is_over) == (FIRST + USUAL + 22, False)


def test_nothing_is_told_before_it_is_known_what_is_usual() -> None:
    assert judged(series([*usual(LEARNING - 3), 900, 900])) == []
    assert len(judged(series([*usual(LEARNING), 900, 900]))) == 1


def test_one_spike_does_not_hide_the_next() -> None:
    calm = usual(30)
    spikes = judged(series([*usual(), *[400] * 20, *calm, *[300] * 6, *calm]))
    assert [spike.peak for spike in spikes] == [400, 300]
    assert spikes[1].usual == pytest.approx(100, abs=5)


def test_a_long_spike_is_not_taken_for_what_is_usual() -> None:
    calm = usual(40)
    spikes = judged(series([*usual(), *[400] * 150, *calm, *[300] * 6, *calm]))
    assert [spike.peak for spike in spikes] == [400, 300]


def test_chance_is_allowed_for_where_it_happened_not_to_show() -> None:
    """A count strays by its root, even after half an hour of the very same one."""
    change = Change(FIRST + USUAL, Cause.ROTATION)
    assert judge(None, series([*[100] * USUAL, 125]), [change]) is None
    assert judge(None, series([*[100] * USUAL, 150]), [change]) is not None


def test_what_stays_is_how_it_is_now() -> None:
    (spike,) = judged(series([*usual(), *[300] * (LONGEST + 200)]))
    assert spike.is_over
    assert spike.last - spike.first <= LONGEST


@pytest.mark.parametrize(
    ("reason", "causes", "cause"),
    [
        ("revoked_kid", [], Cause.REVOCATION),
        ("revoked_kid", [Cause.ROTATION], Cause.REVOCATION),
        ("kind_mismatch", [], Cause.MODE_SWITCH),
        ("unknown_kid", [], Cause.UNATTRIBUTED),
        ("unknown_kid", [Cause.ROTATION], Cause.ROTATION),
        ("unknown_kid", [Cause.REVOCATION], Cause.REVOCATION),
        ("expired", [Cause.ROTATION], Cause.UNATTRIBUTED),
        ("expired", [Cause.CONFIGURATION], Cause.CONFIGURATION),
        ("expired", [Cause.FAILOVER], Cause.UNATTRIBUTED),
        ("manual", [Cause.REVOCATION, Cause.ROTATION], Cause.UNATTRIBUTED),
        ("other", [], Cause.UNATTRIBUTED),
        ("other", [Cause.ROTATION], Cause.ROTATION),
        ("other", [Cause.ROTATION, Cause.REVOCATION], Cause.REVOCATION),
    ],
)
def test_a_cause_is_what_the_reason_allows(reason: str, causes: list[Cause], cause: Cause) -> None:
    ordinary = [Bucket(bucket.number, {"expired": bucket.total}) for bucket in series(usual())]
    now = Bucket(FIRST + USUAL, {"expired": 100, reason: 500})
    spike = judge(None, [*ordinary, now], [Change(FIRST + USUAL, each) for each in causes])
    assert spike is not None
    assert spike.cause is cause


@pytest.mark.parametrize(("buckets_ago", "cause"), [(5, "rotation"), (6, "unattributed")])
def test_a_change_of_more_than_a_minute_ago_is_not_blamed(buckets_ago: int, cause: str) -> None:
    change = Change(FIRST + USUAL - buckets_ago, Cause.ROTATION)
    spike = judge(None, series([*usual(), 600]), [change])
    assert spike is not None
    assert spike.cause == cause


def test_upon_a_change_less_is_enough() -> None:
    """Where one looks for it; and only if the change could have caused it."""
    small = [160] * 3
    assert judged(series([*usual(), *small, *usual(20)])) == []
    change = Change(FIRST + USUAL, Cause.ROTATION)
    (spike,) = judged(series([*usual(), *small, *usual(20)]), [change])
    assert spike.cause is Cause.ROTATION
    assert judged(series([*usual(), *usual(20)]), [change]) == []
    manual = series([*usual(), *small, *usual(20)], reason="manual")
    assert judged(manual, [change]) == []


def test_upon_a_change_a_minute_of_history_is_enough() -> None:
    spiky = [*usual(6), 300, 300]
    change = Change(FIRST + 6, Cause.ROTATION)
    spike = judge(None, series(spiky), [change])
    assert spike is not None
    assert (spike.cause, spike.first) == (Cause.ROTATION, FIRST + 6)
    assert judge(None, series(spiky)) is None
    late = Change(FIRST + 5, Cause.ROTATION)
    assert judge(None, series([*usual(5), 300, 300]), [late]) is None


@pytest.mark.parametrize("before", [1, 3, 12])
def test_what_had_begun_before_a_change_was_not_caused_by_it(before: int) -> None:
    spiky = series([*usual(), *[160] * before, 160, 160])
    change = Change(FIRST + USUAL + before, Cause.ROTATION)
    assert judge(None, spiky, [change]) is None
    steep = series([*usual(), *[400] * before, 400, 400])
    spike = judge(None, steep, [change])
    assert spike is not None
    assert (spike.cause, spike.first) == (Cause.UNATTRIBUTED, FIRST + USUAL)


def test_the_end_of_a_spike_is_not_the_next_change_s() -> None:
    chance = usual(20)
    change = Change(FIRST + USUAL + 11, Cause.ROTATION)
    (spike,) = judged(series([*usual(), *[2000] * 12, *chance]), [change])
    assert spike.cause is Cause.UNATTRIBUTED
    gone = Spike(FIRST + 6, FIRST + 12, Cause.UNATTRIBUTED, OTHER, 100, 10, 900, 900, is_over=True)
    whole = series([*usual(6), *[900] * 7])
    assert judge(gone, whole, [Change(FIRST + 12, Cause.ROTATION)]) is gone


def test_a_spike_says_the_reason_that_stood_out() -> None:
    now = Bucket(FIRST + USUAL, {"expired": 100, "revoked_kid": 200, "unknown_kid": 150})
    ordinary = [Bucket(bucket.number, {"expired": bucket.total}) for bucket in series(usual())]
    spike = judge(None, [*ordinary, now])
    assert spike is not None
    assert spike.reason == "revoked_kid"


@pytest.mark.parametrize("minutes", [60, 90])
def test_a_morning_is_no_spike(minutes: int) -> None:
    """From hardly any to ten a second: it grows within half an hour, and not within minutes."""
    chance = random.Random(7)
    night, morning = [chance.randint(0, 1) for _ in range(USUAL)], []
    for index in range(minutes * 6):
        mean = 100 ** (index / (minutes * 6))
        morning.append(max(0, round(chance.gauss(mean, mean**0.5))))
    assert judged(series([*night, *morning])) == []
