"""What a forecast says, beside what happens to thousands of users."""

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import pytest

from ringkeeper.clock import from_ms
from ringkeeper.layout import BUCKET
from ringkeeper.signed import step_of
from ringkeeperd.forecast import (
    Outstanding,
    forecast_drain,
    forecast_revocation,
    forecast_switch,
)

AT = 1_800_000_000
NOW = from_ms(AT * 1000)
HOUR = timedelta(hours=1)
OUTSTANDING = Outstanding(
    {"d-1": {AT: 7, AT + 60: 10, AT + 600: 20}, "d-2": {AT + 60: 30}, "s-1": {}}, NOW
)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def test_what_has_not_expired_is_known_at_any_time_to_come() -> None:
    assert [OUTSTANDING.tokens("d-1", NOW + seconds(s)) for s in (-1, 0, 59.5, 60, 600)] == [
        37, 30, 30, 20, 0,
    ]  # fmt: skip
    assert OUTSTANDING.total(NOW) == 60
    assert OUTSTANDING.tokens("d-9", NOW) == 0


def test_without_a_rate_of_requests_there_is_no_peak_and_every_token_counts() -> None:
    for rate in (None, 0.0):
        forecast = forecast_revocation(
            OUTSTANDING, "d-1", NOW, verifies_per_second=rate, baseline_per_second=2.0
        )
        assert (forecast.tokens, forecast.refreshes) == (30, 30)
        assert (forecast.peak_per_second, forecast.peak_rate, forecast.ratio) == (None, None, None)
        assert forecast.baseline_per_second == 2.0


def test_a_key_without_tokens_brings_nothing_but_an_ordinary_day() -> None:
    forecast = forecast_revocation(
        OUTSTANDING, "s-1", NOW, verifies_per_second=5.0, baseline_per_second=2.0
    )
    assert (forecast.tokens, forecast.refreshes, forecast.peak_per_second) == (0, 0, 2.0)
    assert forecast.ratio == 1.0


def test_what_is_usual_is_worked_out_from_the_tokens_where_nobody_counts_refreshes() -> None:
    forecast, unknown = (
        forecast_revocation(
            OUTSTANDING,
            "d-1",
            NOW,
            verifies_per_second=6.0,
            baseline_per_second=None,
            validity=validity,
        )
        for validity in (seconds(600), None)
    )
    peak = 30 * (1 - math.exp(-5.9 / 60)) + 0.1
    assert forecast.baseline_per_second == 0.1
    assert forecast.peak_per_second == pytest.approx(peak)
    assert forecast.ratio == pytest.approx(peak / 0.1)
    assert (unknown.baseline_per_second, unknown.ratio) == (None, None)
    assert unknown.peak_per_second == pytest.approx(30 * (1 - math.exp(-0.1)))


def test_fewer_requests_than_refreshes_are_all_good_ones() -> None:
    """Other counters are at work: then nothing is taken off."""
    forecast = forecast_revocation(
        OUTSTANDING, "d-1", NOW, verifies_per_second=6.0, baseline_per_second=9.0
    )
    assert forecast.peak_per_second == pytest.approx(30 * (1 - math.exp(-0.1)) + 9)


def test_a_switch_refuses_nobody_unless_verifiers_are_strict() -> None:
    lenient, strict = forecast_switch(
        OUTSTANDING, ["d-1", "d-2"], NOW, verifies_per_second=60.0, baseline_per_second=1.0
    )
    assert (lenient.tokens, lenient.refreshes, lenient.ratio) == (60, 0, 1.0)
    assert (strict.tokens, strict.refreshes) == (60, 60)
    assert strict.peak_per_second == pytest.approx(60 * (1 - math.exp(-59 / 60)) + 1)


# --- a drain -------------------------------------------------------------------------------------


def evenly(count: int, lifetime: int, kid: str = "d-1") -> Outstanding:
    """As many tokens each second, and all that have not expired."""
    step = step_of(lifetime)
    return Outstanding(
        {kid: {AT + at: count * step // lifetime for at in range(step, lifetime + 1, step)}}, NOW
    )


def test_a_drain_makes_it_even() -> None:
    """H / W times what is usual, all the time."""
    forecast = forecast_drain(
        evenly(36_000, 3600),
        "d-1",
        NOW,
        HOUR / 4,
        last=NOW + HOUR,
        baseline_per_second=None,
        validity=HOUR,
    )
    assert forecast.tokens == 36_000
    assert forecast.baseline_per_second == 10.0
    assert forecast.peak_per_second == pytest.approx(40.0, rel=0.02)
    assert forecast.ratio == pytest.approx(4.0, rel=0.02)
    # N (H - W) / W ln(H / (H - W)), by the integral of (H - t) f'(t)
    assert forecast.refreshes == pytest.approx(36_000 * 3 * 0.287682, rel=0.02)


def test_a_drain_as_long_as_the_tokens_live_refuses_nobody() -> None:
    for window in (HOUR, 5 * HOUR):
        forecast = forecast_drain(
            evenly(36_000, 3600), "d-1", NOW, window, last=NOW + HOUR, baseline_per_second=10.0
        )
        assert forecast.refreshes == 0
        assert forecast.ratio == pytest.approx(1.0, rel=0.02)


def test_other_keys_go_on_as_usual_beside_a_drain() -> None:
    one, other = evenly(18_000, 3600), evenly(18_000, 3600, "d-2")
    both = Outstanding({**one.counted, **other.counted}, NOW)
    forecast = forecast_drain(both, "d-1", NOW, HOUR / 4, last=NOW + HOUR, baseline_per_second=10.0)
    assert forecast.peak_per_second == pytest.approx(5 + 20, rel=0.02)
    unknown = forecast_drain(both, "d-1", NOW, HOUR / 4, last=NOW + HOUR, baseline_per_second=None)
    assert unknown.peak_per_second is None
    assert unknown.refreshes == forecast.refreshes


def test_a_drain_of_nothing_and_one_in_no_time() -> None:
    none = forecast_drain(OUTSTANDING, "s-1", NOW, HOUR, last=NOW + HOUR, baseline_per_second=2.0)
    assert (none.tokens, none.refreshes, none.peak_per_second) == (0, 0, 2.0)
    at_once = forecast_drain(
        OUTSTANDING, "d-1", NOW, 0 * HOUR, last=NOW + HOUR, baseline_per_second=2.0
    )
    assert (at_once.tokens, at_once.refreshes, at_once.peak_per_second) == (30, 30, None)


# --- beside users --------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What happened to users whose key was revoked."""

    outstanding: Outstanding
    verifies: float
    baseline: float
    per_second: Counter[int]
    """Second after the revocation to refreshes, of any reason."""
    refused: int
    """How many were refused for the revocation."""


def seen(users: int, lifetime: int, pace: Callable[[random.Random], float], seed: int = 1) -> Seen:
    """Users who each come back as a Poisson process, at a pace of their own, and refresh then.

    Two lifetimes until it is an ordinary day; then the only key is revoked.
    """
    chance = random.Random(seed)
    paces = [pace(chance) for _ in range(users)]
    expiries = [lifetime * chance.random() for _ in range(users)]
    revoked_at, until = 2.0 * lifetime, 3.0 * lifetime
    is_good = [False] * users
    coming = [(chance.expovariate(each), user) for user, each in enumerate(paces)]
    heapq.heapify(coming)
    step, verifies, before, refused = step_of(lifetime), 0, 0, 0
    counted: Counter[int] = Counter()
    per_second: Counter[int] = Counter()
    while coming[0][0] < until:
        at, user = coming[0]
        heapq.heapreplace(coming, (at + chance.expovariate(paces[user]), user))
        is_after, is_expired = at >= revoked_at, at >= expiries[user]
        verifies += lifetime <= at < revoked_at
        is_refused = is_after and not is_good[user]
        if not (is_expired or is_refused):
            continue
        is_good[user] = is_after
        refused += is_refused and not is_expired
        expiries[user] = at + lifetime
        if is_after:
            per_second[int(at - revoked_at)] += 1
        else:
            before += at >= lifetime
            counted[-(-int(at + lifetime) // step) * step] += 1
    live = {AT + int(e - revoked_at): n for e, n in counted.items() if e > revoked_at}
    rates = (verifies / lifetime, before / lifetime)
    return Seen(Outstanding({"d-1": live}, NOW), *rates, per_second, refused)


@pytest.mark.parametrize("visits_every", [10, 30, 120])
def test_a_forecast_is_what_happens_where_users_are_alike(visits_every: int) -> None:
    """Within a tenth: the peak, in its fullest second and ten seconds, and the refused."""
    it = seen(3000, 600, lambda _: 1 / visits_every)
    forecast = forecast_revocation(
        it.outstanding, "d-1", NOW, verifies_per_second=it.verifies, baseline_per_second=it.baseline
    )
    assert forecast.refreshes == pytest.approx(it.refused, rel=0.1)
    assert forecast.peak_per_second == pytest.approx(it.per_second[0], rel=0.25, abs=15)
    fullest = measured(it)
    assert forecast.peak_rate == pytest.approx(fullest, rel=0.12)


def measured(it: Seen) -> float:
    """Refreshes a second in the fullest bucket, on the average over where buckets begin."""
    fullest = 0.0
    for left in range(1, BUCKET + 1):
        buckets = Counter({0: 0})
        for second, count in it.per_second.items():
            buckets[(second + BUCKET - left) // BUCKET] += count
        buckets[0] += round(it.baseline * (BUCKET - left))
        fullest += max(buckets.values()) / BUCKET
    return fullest / BUCKET


@pytest.mark.parametrize("spread", [1.0, 1.5])
def test_where_users_differ_fewer_come_at_first_than_foretold(spread: float) -> None:
    """Never more than a tenth above it, and not below a third of it: that is how far it strays."""
    it = seen(3000, 600, lambda chance: chance.lognormvariate(-4, spread))
    forecast = forecast_revocation(
        it.outstanding, "d-1", NOW, verifies_per_second=it.verifies, baseline_per_second=it.baseline
    )
    assert forecast.peak_rate is not None
    assert forecast.peak_rate / 3 < measured(it) < 1.1 * forecast.peak_rate
    assert it.refused < 1.05 * forecast.refreshes
    assert it.refused > 0.6 * forecast.refreshes
