"""What a change will do to sessions, before it is made. Pure.

Apps count what they sign by when it expires, and how many tokens they verify a second. Let N_all
tokens have not expired, and R of them be presented a second: each is presented as a Poisson
process, R / N_all times a second. (R is what is verified, less the refreshes of an ordinary day:
each of these was a token that had expired.) A revocation refuses the N tokens of its key when they
are presented next: N (1 - exp(-t R / N_all)) of them within t seconds, beside those refreshes.

Not all users are alike, and the more they differ the fewer come at first: 1 - exp is concave, so
that the peak is one that is hardly exceeded (Jensen's inequality). The same way errs what is not
known: tokens that nobody presents any more, and expiries rounded up. What leads astray the other
way are verifiers that nobody counts, behind HTTP or in another language.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.clock import ZERO
from ringkeeper.draining import drained_fraction
from ringkeeper.layout import BUCKET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

_SLICES: Final = 50
"""Parts of a drain's window that are looked at, each for itself."""


@dataclass(frozen=True, slots=True)
class Outstanding:
    """The tokens that have not expired, as apps counted them."""

    counted: Mapping[str, Mapping[int, int]]
    """Kid to when they expire (seconds since the epoch, Redis' clock) to how many."""
    at: datetime
    """When that was so, by Redis' clock."""

    def tokens(self, kid: str, now: datetime) -> int:
        """Those of `kid` that have not expired at `now`."""
        return sum(count for _, count in self._ahead(kid, now))

    def total(self, now: datetime) -> int:
        """All that have not expired at `now`."""
        return sum(self.tokens(kid, now) for kid in self.counted)

    def ahead(self, kid: str, now: datetime) -> list[tuple[timedelta, int]]:
        """How long the tokens of `kid` still live, and how many each time; the first ones first."""
        since = now.timestamp()
        return [(timedelta(seconds=at - since), count) for at, count in self._ahead(kid, now)]

    def _ahead(self, kid: str, now: datetime) -> Iterator[tuple[int, int]]:
        since = now.timestamp()
        return (each for each in sorted(self.counted.get(kid, {}).items()) if each[0] > since)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected. Rates are refreshes a second, ordinary ones among them."""

    tokens: int
    """Those of the keys that it is about which have not expired."""
    refreshes: int
    """How many of them are refused: presented before they expire, by users who then refresh."""
    peak_per_second: float | None
    """In the first second; None where nobody tells how many tokens are presented."""
    baseline_per_second: float | None
    """As usual; None where that is not known."""
    peak_rate: float | None = None
    """In the fullest ten seconds, as a spike's event tells what was measured."""

    @property
    def ratio(self) -> float | None:
        """The peak, in times of what is usual, of which one in ten seconds is the least."""
        if self.peak_per_second is None or self.baseline_per_second is None:
            return None
        return self.peak_per_second / max(self.baseline_per_second, 1 / BUCKET)


class SwitchForecast(NamedTuple):
    """What another kind of key that signs comes to, by who verifies."""

    lenient: Forecast
    """Our client as it is by default: both kinds verify."""
    strict: Forecast
    """SuperTokens' SDKs, and our client with `strict_key_kind`."""


def forecast_revocation(
    outstanding: Outstanding,
    kid: str,
    now: datetime,
    *,
    verifies_per_second: float | None,
    baseline_per_second: float | None,
    validity: timedelta | None = None,
) -> Forecast:
    """What follows if `kid` is revoked at `now`.

    `baseline_per_second`: refreshes as usual, as far as they are counted. Where they are not, all
    tokens by their `validity`: in the long run as many are signed as expire.
    """
    usual = _usual(outstanding, now, baseline_per_second, validity)
    return _refused(outstanding, [kid], now, verifies_per_second, usual)


def forecast_switch(
    outstanding: Outstanding,
    kids: Iterable[str],
    now: datetime,
    *,
    verifies_per_second: float | None,
    baseline_per_second: float | None,
    validity: timedelta | None = None,
) -> SwitchForecast:
    """What follows if at `now` keys of another kind sign; `kids` are those of every other kind."""
    usual = _usual(outstanding, now, baseline_per_second, validity)
    strict = _refused(outstanding, kids, now, verifies_per_second, usual)
    return SwitchForecast(Forecast(strict.tokens, 0, usual, usual, usual), strict)


def forecast_drain(
    outstanding: Outstanding,
    kid: str,
    now: datetime,
    window: timedelta,
    *,
    last: datetime,
    baseline_per_second: float | None,
    validity: timedelta | None = None,
) -> Forecast:
    """What follows if `kid`, which signs no more, is drained from `now` on, within `window`.

    `last` is when its last token expires: `ringkeeper.draining.last_expiry`.
    As if each token were presented at once when its turn comes: who comes later makes it flatter.
    `ringkeeper.draining` has the pace, and why it is even where tokens expire evenly.
    """
    ahead = outstanding.ahead(kid, now)
    tokens = sum(count for _, count in ahead)
    usual = _usual(outstanding, now, baseline_per_second, validity)
    horizon = last - now
    if not ahead or min(window, horizon) <= ZERO:
        return Forecast(tokens, tokens, None if ahead else usual, usual)
    early = sum(count * drained_fraction(life, window, horizon) for life, count in ahead)
    rest = None if usual is None else usual * (1 - tokens / outstanding.total(now))
    peak = None if rest is None else rest + _steepest(ahead, window, horizon)
    return Forecast(tokens, round(early), peak, usual, peak)


def _usual(
    outstanding: Outstanding, now: datetime, counted: float | None, validity: timedelta | None
) -> float | None:
    """Refreshes a second as usual; None if neither counts nor tokens tell."""
    if counted is None and validity:
        return outstanding.total(now) / validity.total_seconds()
    return counted


def _refused(
    outstanding: Outstanding,
    kids: Iterable[str],
    now: datetime,
    verifies: float | None,
    usual: float | None,
) -> Forecast:
    """What follows if the tokens of `kids` are refused from `now` on."""
    ahead = [each for kid in kids for each in outstanding.ahead(kid, now)]
    tokens = sum(count for _, count in ahead)
    if not ahead:
        return Forecast(0, 0, usual, usual, usual)
    if not verifies:
        return Forecast(tokens, tokens, None, usual)
    others = usual or 0.0
    good = verifies - others if others < verifies else verifies
    pace = good / outstanding.total(now)
    refreshes = sum(count * _within(pace, life.total_seconds()) for life, count in ahead)
    peak = others + tokens * _within(pace, 1)
    fullest = others + tokens * _fullest(pace) / BUCKET
    return Forecast(tokens, round(refreshes), peak, usual, fullest)


def _within(pace: float, seconds: float) -> float:
    """The share of tokens that is presented within so many seconds."""
    return -math.expm1(-pace * seconds)


def _fullest(pace: float) -> float:
    """The share that falls into the fullest bucket; the change comes anywhere within one."""
    shares = (
        max(_within(pace, left), (1 - _within(pace, left)) * _within(pace, BUCKET))
        for left in (n + 0.5 for n in range(BUCKET))
    )
    return math.fsum(shares) / BUCKET


def _steepest(ahead: list[tuple[timedelta, int]], window: timedelta, horizon: timedelta) -> float:
    """The most tokens a second that expire or are drained, in any part of the time that it takes.

    Between two expiries that were counted, tokens are taken to expire evenly.
    """
    width = min(window, horizon) / _SLICES
    left = [
        _left(ahead, n * width) * (1 - drained_fraction(n * width, window, horizon))
        for n in range(_SLICES + 1)
    ]
    drops = (before - after for before, after in pairwise(left))
    return max(drops) / width.total_seconds()


def _left(ahead: list[tuple[timedelta, int]], after: timedelta) -> float:
    """How many have not expired `after` so long."""
    left, since = 0.0, ZERO
    for life, count in ahead:
        left += count * min(1.0, max(ZERO, life - after) / (life - since))
        since = life
    return left
