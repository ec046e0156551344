"""When many sessions are refreshed at once: is it a spike, and what caused it? Pure.

Refreshes are counted in buckets of ten seconds. What is usual is the median of the last half hour,
and how far it strays the median absolute deviation (MAD): a spike of some minutes moves neither. An
alarm wants all three: more than so many deviations above the median, more than so many times it,
and a number that is worth the word. Of two windows either one may raise it: a short one, for what
is steep and wants no second look, and a longer one, that averages chance away and sees what is
flat.

A *cause* is never guessed. Apps tell why a session was refreshed, and some reasons have one cause
alone: `revoked_kid` is a revocation's, whenever it comes. Where the reason says little (`other`,
as a middleware counts that only sees the route), a change of the ring within the minute before
stands for it; where it says that nothing of the ring's was the matter (`manual`), nothing does.
What follows upon a change may be smaller than what is found anywhere, and a minute of history is
enough: there it is looked for. But what had begun before a change was not caused by it.

Two minutes of statistics: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.5.6.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate, takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.errors import RefreshReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

USUAL: Final = 180
"""Buckets that say what is usual: half an hour."""
LEARNING: Final = 36
"""Buckets that are needed to say so: six minutes without an alarm."""
LEAST: Final = 10
"""Refreshes above what is usual, in a window: fewer are no spike, whatever the ratio."""
LONGEST: Final = 180
"""Buckets after which what began as a spike is how it is now."""
_MAD_TO_SIGMA: Final = 1.4826
"""MAD of a normal distribution to its standard deviation."""
_MINUTE: Final = 6
"""Buckets of a minute."""
_AFTER_CHANGE: Final = _MINUTE
"""Buckets after a change of the ring in which its spike begins, if it makes one."""
_CALM: Final = 6
"""Buckets that must be usual again for a spike to be over."""


class Cause(StrEnum):
    """What a spike comes from; the label of `ringkeeper_refresh_spikes_total`."""

    REVOCATION = "revocation"
    MODE_SWITCH = "mode_switch"
    CONFIGURATION = "configuration"
    FAILOVER = "failover"
    ROTATION = "rotation"
    UNATTRIBUTED = "unattributed"


class Threshold(NamedTuple):
    """How much is a spike, in a window of so many buckets."""

    window: int
    deviations: float
    ratio: float
    learning: int = LEARNING
    """Buckets before it that are needed to compare with."""
    pasts: tuple[int, ...] = (USUAL,)
    """So many buckets before it, each time, are what it must exceed."""


_LATE: Final = 30
"""Buckets of the last five minutes: what has grown within them is a spike, and no morning."""
ANYWHERE: Final = (
    Threshold(1, 8.0, 2.5, pasts=(USUAL, _LATE)),
    Threshold(3, 5.0, 1.75, pasts=(USUAL, _LATE)),
)
AFTER_CHANGE: Final = Threshold(0, 4.0, 1.2, pasts=(USUAL, _MINUTE))
EARLY: Final = Threshold(0, 6.0, 1.5, learning=_MINUTE)
"""The same while only minutes are known: by so few, chance strays further."""
"""The window is what has passed since. What the minute before it held already it did not cause."""

_OF_REASON: Final[Mapping[str, Cause]] = MappingProxyType(
    {
        RefreshReason.REVOKED_KID: Cause.REVOCATION,
        RefreshReason.KIND_MISMATCH: Cause.MODE_SWITCH,
    }
)
"""Reasons that have one cause alone."""
_POSSIBLE: Final[Mapping[str, frozenset[Cause]]] = MappingProxyType(
    {
        RefreshReason.UNKNOWN_KID: frozenset(
            {Cause.REVOCATION, Cause.ROTATION, Cause.FAILOVER, Cause.CONFIGURATION}
        ),
        RefreshReason.EXPIRED: frozenset({Cause.CONFIGURATION}),
        RefreshReason.OTHER: frozenset(Cause),
        RefreshReason.MANUAL: frozenset(),
    }
)
"""What a change within the minute before may have caused, by the reason that stands out."""


class Bucket(NamedTuple):
    """The refreshes of ten seconds (`ringkeeper.layout.BUCKET`)."""

    number: int
    """Of buckets since the epoch."""
    counts: Mapping[str, int]
    """By reason."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


class Change(NamedTuple):
    """Something that happened to the ring, which sessions may feel."""

    bucket: int
    cause: Cause


class Foretold(NamedTuple):
    """What was expected of a change."""

    refreshes: int
    """Above what is usual, in all."""
    peak_rate: float | None
    """Refreshes a second, in the fullest bucket; None where that was not known."""


@dataclass(frozen=True, slots=True)
class Spike:
    """One spike, from its first bucket on."""

    first: int
    """The number of its first bucket."""
    last: int
    """That of the newest one in which there were too many."""
    cause: Cause
    reason: str
    """Why most of the refreshes that are too many happened, as apps told it."""
    usual: float
    """Refreshes in a bucket, before it began."""
    strays: float
    """How far that strayed: a standard deviation."""
    peak: int
    """The most refreshes in a bucket."""
    excess: float
    """Refreshes above what is usual, so far."""
    is_over: bool = False
    foretold: Foretold | None = None
    """What had been expected of the change that caused it."""
    counted: Mapping[int, int] = field(default_factory=dict, repr=False)

    @property
    def ratio(self) -> float:
        """The peak, in times of what is usual."""
        return self.peak / max(self.usual, 1.0)

    @property
    def length(self) -> int:
        """Buckets from its first to its last one."""
        return self.last - self.first + 1


def judge(
    former: Spike | None, buckets: Sequence[Bucket], changes: Iterable[Change] = ()
) -> Spike | None:
    """The spike that goes on, begins or has just ended with the newest of `buckets`.

    `buckets`: an unbroken series, the oldest first; the newest may still be growing, and what is
    too much already stays so. `former`: what was said of the series before.
    """
    changes = list(changes)
    # Apps tell what they counted some seconds late: the newest but one is whole only by now.
    for series in filter(None, (buckets[:-1], buckets)):
        if former and not former.is_over:
            former = _gone_on(former, series)
            if former.is_over:
                break  # whoever asks must see that it ended before they see another begin
        else:
            former = _begun(former, series, changes) or former
    return former


def beside_forecast(spike: Spike, foretold: Mapping[int, Foretold]) -> Spike:
    """`spike` with what was expected of the revocation that caused it, by the bucket of each.

    Of several the newest: who revokes two keys within a minute was told of each by itself.
    """
    if spike.foretold or spike.cause is not Cause.REVOCATION:
        return spike
    near = [bucket for bucket in foretold if -_AFTER_CHANGE < bucket - spike.first <= spike.length]
    return replace(spike, foretold=foretold[max(near)]) if near else spike


# --- how much is usual ---------------------------------------------------------------------------


def median_of(values: Iterable[float]) -> float:
    """Their median. The library's own loads fractions and decimals: a daemon would weigh more."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


class _Usual(NamedTuple):
    """What a bucket held, before those that are looked at."""

    median: float
    strays: float

    @classmethod
    def of(cls, totals: Sequence[int]) -> _Usual:
        median = median_of(totals)
        return cls(median, _strays(totals, median))


def _strays(sums: Sequence[int], median: float) -> float:
    """How far they stray. Chance alone makes a count stray by its root, and never by nothing."""
    mad = median_of([abs(each - median) for each in sums])
    return max(_MAD_TO_SIGMA * mad, math.sqrt(median), 1.0)


def _is_exceeded(totals: Sequence[int], value: int, threshold: Threshold) -> bool:
    """Whether `value`, of a window, is a spike after buckets of these totals."""
    if value < LEAST:
        return False
    sums = _sums(totals, threshold.window)
    median = median_of(sums)
    return (
        value - median >= LEAST
        and value > threshold.ratio * median
        and value > median + threshold.deviations * _strays(sums, median)
    )


def _sums(totals: Sequence[int], window: int) -> list[int]:
    """What each window of that many buckets held."""
    until = list(accumulate(totals, initial=0))
    return [end - begin for begin, end in zip(until, until[window:], strict=False)]


# --- a spike begins, goes on, ends ---------------------------------------------------------------


def _begun(
    former: Spike | None, buckets: Sequence[Bucket], changes: Iterable[Change]
) -> Spike | None:
    """The spike that has begun, anywhere or upon a change that could have caused it."""
    series = [
        (bucket, bucket.total)
        for bucket in buckets[-USUAL - _AFTER_CHANGE :]
        if not (former and former.first <= bucket.number <= former.last)
    ]
    known, newest = list(changes), buckets[-1].number if buckets else 0
    for threshold in ANYWHERE:
        if found := _found(series, newest, threshold, known):
            return found
    for change in _within(known, newest):
        after = AFTER_CHANGE if len(series) > LEARNING + _AFTER_CHANGE else EARLY
        threshold = after._replace(window=newest - change.bucket + 1)
        found = _found(series, newest, threshold, known)
        if found and found.cause is not Cause.UNATTRIBUTED:
            return found
    return None


def _within(changes: Iterable[Change], bucket: int) -> list[Change]:
    """Those that a spike in `bucket` may come from."""
    return [change for change in changes if 0 <= bucket - change.bucket < _AFTER_CHANGE]


def _found(
    series: Sequence[tuple[Bucket, int]],
    newest: int,
    threshold: Threshold,
    changes: Sequence[Change],
) -> Spike | None:
    """A spike in the newest of `series`, which are buckets with their totals."""
    now = [each for each in series if each[0].number > newest - threshold.window]
    before = series[: len(series) - len(now)][-USUAL:]
    totals, value = [total for _, total in before], sum(total for _, total in now)
    if len(totals) < max(threshold.learning, threshold.window):
        return None
    pasts = [totals[-max(past, threshold.window) :] for past in threshold.pasts]
    if not all(_is_exceeded(past, value, threshold) for past in pasts):
        return None
    usual = _Usual.of(totals)
    most = usual.median + 2 * usual.strays
    too_many = [b for b, total in now if total > most] or [b for b, _ in now]
    since = takewhile(lambda each: each[1] > most, reversed(before))
    too_many = [*reversed([b for b, _ in since]), *too_many]
    reason = _reason([b for b, _ in before], [b for b, _ in now])
    first, last = too_many[0].number, too_many[-1].number
    cause = _cause(reason, _within(changes, first))
    return _with(Spike(first, last, cause, reason, *usual, 0, 0.0), too_many)


def _with(spike: Spike, buckets: Sequence[Bucket]) -> Spike:
    """`spike`, with these buckets taken in, perhaps once more since they grew."""
    counted = {**spike.counted, **{b.number: b.total for b in buckets}}
    return replace(
        spike,
        last=max([spike.last, *(b.number for b in buckets)]),
        peak=max([spike.peak, *counted.values()]),
        excess=sum(counted.values()) - spike.usual * len(counted),
        counted=counted,
    )


def _gone_on(spike: Spike, buckets: Sequence[Bucket]) -> Spike:
    most = 1.2 * spike.usual + 3 * spike.strays
    spike = _with(spike, [b for b in buckets if b.number >= spike.first and b.total > most])
    newest = buckets[-1].number
    calm = newest - 1 - spike.last  # the newest one is growing
    if calm >= _CALM or newest - spike.first >= LONGEST:
        return replace(spike, is_over=True)
    return spike


# --- why -----------------------------------------------------------------------------------------


def _reason(before: Sequence[Bucket], now: Sequence[Bucket]) -> str:
    """The reason of which `now` has the most too many."""
    usually: Counter[str] = Counter()
    for bucket in before:
        usually.update(bucket.counts)
    found: Counter[str] = Counter()
    for bucket in now:
        found.update(bucket.counts)
    share = len(now) / len(before)
    return max(found, key=lambda each: found[each] - share * usually[each])


def _cause(reason: str, changes: Iterable[Change]) -> Cause:
    """What refreshes for `reason` come from that began soon after these `changes`."""
    if reason in _OF_REASON:
        return _OF_REASON[reason]
    possible = [c.cause for c in changes if c.cause in _POSSIBLE.get(reason, ())]
    order = list(Cause)
    return min(possible, key=order.index, default=Cause.UNATTRIBUTED)
