"""How well spikes are told: the second half of `benchmarks.refresh_spike`.

Thirty simulated days of each of several sites, and `ringkeeperd.spikes.judge` over them as the
daemon calls it: every five seconds, with the last buckets, the newest of them growing, and with
what happened to the ring of late. Beside it, two detectors as one would write them in a minute
look at the very same counts.

**A day.** What is usual follows the hours, times a noise that wanders about (log-normal, a tenth,
and forgets itself within five minutes), and chance on top (Poisson). Apps tell what they counted
every five seconds, each in its own rhythm, so the newest bucket is about half told when it ends.
Keys turn every hour and cause nothing; daemons fail over, and somebody changes the configuration,
some times a day, and cause nothing as a rule either.

**Spikes** of 2, 3, 5 and 20 times what is usual, of 1 to 10 minutes, twelve a day. Half of them
begin up to twenty seconds after a change that caused them, with a reason that this change may
have. The others begin at random, but not in the minute after a change: nobody could tell those
apart where the reason says nothing. Changes are two minutes apart at least.

**Judged**: a spike is found when an alarm begins while it lasts, or within a minute after. Any
other alarm is a false one. An attribution is false if the alarm names a cause and the spike had
another or none, or if there was no spike.
"""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.errors import RefreshReason
from ringkeeper.layout import BUCKET
from ringkeeperd.spikes import USUAL, Bucket, Cause, Change, Spike, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

DAY: Final = 86_400
DAY_BUCKETS: Final = DAY // BUCKET
EPOCH: Final = 20_000 * DAY_BUCKETS
"""The number of the first bucket: a midnight."""
KEPT: Final = 400
"""Buckets that are shown to a detector."""
LOOKS: Final = (2.5, 7.5, 12.5, 17.5)
"""How old a bucket is, in seconds, when one looks; every five seconds."""
TOLD_EVERY: Final = 5.0
NOISE: Final = 0.10
FORGETS: Final = 300.0
"""Seconds in which the noise forgets itself."""
TURNS_EVERY: Final = 3600
APART: Final = 120
"""Seconds between two changes, at least."""
LATE: Final = 60
"""Seconds after its end in which an alarm still counts for a spike."""
WORTH: Final = 30.0
"""Refreshes above what is usual, in its first minute, from which on a spike deserves the word."""
SIZES: Final = (2, 3, 5, 20)
SPIKES_A_DAY: Final = 12
EXACT_BELOW: Final = 30.0
"""A Poisson number of a greater mean is drawn as a normal one, rounded."""
REASONS: Final = {
    RefreshReason.EXPIRED: 0.97,
    RefreshReason.OTHER: 0.02,
    RefreshReason.MANUAL: 0.01,
}
"""The shares of an ordinary day."""
CAUSED: Final = (
    (Cause.REVOCATION, RefreshReason.REVOKED_KID),
    (Cause.REVOCATION, RefreshReason.UNKNOWN_KID),
    (Cause.REVOCATION, RefreshReason.OTHER),
    (Cause.MODE_SWITCH, RefreshReason.KIND_MISMATCH),
    (Cause.MODE_SWITCH, RefreshReason.OTHER),
    (Cause.CONFIGURATION, RefreshReason.EXPIRED),
    (Cause.CONFIGURATION, RefreshReason.UNKNOWN_KID),
    (Cause.CONFIGURATION, RefreshReason.OTHER),
    (Cause.FAILOVER, RefreshReason.EXPIRED),
    (Cause.FAILOVER, RefreshReason.UNKNOWN_KID),
    (Cause.ROTATION, RefreshReason.UNKNOWN_KID),
    (Cause.ROTATION, RefreshReason.OTHER),
)
"""What a spike may come from, and what apps then say."""
UNCAUSED: Final = (RefreshReason.EXPIRED, RefreshReason.OTHER, RefreshReason.MANUAL)


class Site(NamedTuple):
    """An app, as the detector sees it."""

    name: str
    fullest: float
    """Refreshes in ten seconds when the day is fullest."""
    least: float
    """The part of that which is left when it is emptiest."""
    is_told: bool = True
    """Whether apps tell reasons, or `other` alone."""

    def load(self, second: float) -> float:
        """Refreshes in ten seconds, so many seconds from the first midnight."""
        wave = (1 - math.cos(2 * math.pi * (second / 3600 - 2) / 24)) / 2
        return self.fullest * (self.least + (1 - self.least) * wave)


SITES: Final = (
    Site("100,000 sessions", 278.0, 0.2),
    Site("3,000 sessions", 8.3, 0.2),
    Site("20,000 sessions, hardly any at night", 55.0, 0.01),
    Site("20,000 sessions, no reasons told", 55.0, 0.2, is_told=False),
)


# --- what happens --------------------------------------------------------------------------------


class Injected(NamedTuple):
    """A spike that is put in; times in seconds from the first midnight."""

    begin: float
    end: float
    size: int
    reason: str
    cause: Cause

    def part(self, bucket: int, age: float) -> float:
        """The part of a bucket's time that it takes and that is told when that is so old."""
        since = bucket * BUCKET
        begin = min(max(self.begin - since, 0.0), BUCKET)
        end = min(max(self.end - since, 0.0), BUCKET)
        return _told(begin, end, age)


def _told(begin: float, end: float, age: float) -> float:
    """The part of a bucket that was counted from `begin` to `end`, and is told at `age`."""

    def until(passed: float) -> float:
        if passed <= 0:
            return 0.0
        if passed <= TOLD_EVERY:
            return passed * passed / (2 * TOLD_EVERY)
        return passed - TOLD_EVERY / 2

    return (until(age - begin) - until(age - min(end, max(age, begin)))) / BUCKET


@dataclass
class Story:
    """What happens on a site: changes of the ring, and spikes."""

    changes: list[Change]
    spikes: list[Injected]

    @classmethod
    def of(cls, site: Site, days: int, chance: random.Random) -> Story:
        """Drawn at random."""
        changes = [(float(t), Cause.ROTATION) for t in range(0, days * DAY, TURNS_EVERY)]
        for cause, a_day in ((Cause.FAILOVER, 3), (Cause.CONFIGURATION, 2)):
            for _ in range(a_day * days):
                when = chance.uniform(0, days * DAY)
                if _is_apart(when, changes):
                    changes.append((when, cause))
        spikes: list[Injected] = []
        slot = DAY / SPIKES_A_DAY
        for day in range(days):
            sizes = list(SIZES) * (SPIKES_A_DAY // len(SIZES))
            chance.shuffle(sizes)
            for number, size in enumerate(sizes):
                begin = day * DAY + number * slot
                spikes.append(_spike(site, begin, size, changes, chance))
        changes.sort()
        return cls([Change(EPOCH + int(t) // BUCKET, cause) for t, cause in changes], spikes)


def _is_apart(when: float, changes: Iterable[tuple[float, Cause]]) -> bool:
    return all(abs(when - other) >= APART for other, _ in changes)


def _spike(
    site: Site, slot: float, size: int, changes: list[tuple[float, Cause]], chance: random.Random
) -> Injected:
    """A spike some time in the two hours from `slot`; its change is added, if one caused it."""
    length = chance.uniform(60, 600)
    is_caused = chance.random() < 1 / 2
    while True:
        begin = slot + chance.uniform(600, 4800)
        if not is_caused:
            if any(0 <= begin - when <= 60 + BUCKET for when, _ in changes):
                continue
            reason, cause = chance.choice(UNCAUSED), Cause.UNATTRIBUTED
            break
        when = begin - chance.uniform(0, 20)
        if _is_apart(when, changes):
            cause, reason = chance.choice(CAUSED)
            changes.append((when, cause))
            break
    told = reason if site.is_told else RefreshReason.OTHER
    return Injected(begin, begin + length, size, told, cause)


def poisson(mean: float, chance: random.Random) -> int:
    """A Poisson number."""
    if mean >= EXACT_BELOW:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, number = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        number += 1
    return number


class Look(NamedTuple):
    """What one sees, and when."""

    at: float
    """Seconds from the first midnight."""
    buckets: list[Bucket]
    """The newest `KEPT`; do not keep it, it changes."""


def looks(site: Site, story: Story, numbers: range, chance: random.Random) -> Iterator[Look]:
    """Every five seconds, the last buckets as far as they are told; `numbers` from midnight on."""
    shares: dict[RefreshReason, float] = REASONS if site.is_told else {RefreshReason.OTHER: 1.0}
    told = [_told(0, BUCKET, age) for age in LOOKS]
    steps = [b - a for a, b in zip([0.0, *told], [*told, 1.0], strict=False)]
    keeps = math.exp(-BUCKET / FORGETS)
    noise, spikes = chance.gauss(0, NOISE), deque(story.spikes)
    buckets: list[Bucket] = []
    late: list[dict[str, int]] = []
    for number in numbers:
        noise = keeps * noise + chance.gauss(0, NOISE * math.sqrt(1 - keeps * keeps))
        mean = site.load(number * BUCKET) * math.exp(noise - NOISE * NOISE / 2)
        if spikes and spikes[0].end < number * BUCKET:
            spikes.popleft()
        spike = spikes[0] if spikes and spikes[0].begin < (number + 1) * BUCKET else None
        shown: list[dict[str, int]] = []
        age = 0.0
        for step, until in zip(steps, LOOKS, strict=False):
            counts: dict[str, int] = {**dict.fromkeys(shares, 0), **(shown[-1] if shown else {})}
            for reason, share in shares.items():
                counts[reason] += poisson(share * step * mean, chance)
            if spike:
                part = spike.part(number, until) - spike.part(number, age)
                more = poisson((spike.size - 1) * mean * part, chance)
                counts[spike.reason] = counts.get(spike.reason, 0) + more
            shown.append(counts)
            age = until
        buckets.append(Bucket(EPOCH + number, shown[0]))
        del buckets[:-KEPT]
        for index in (0, 1):
            buckets[-1] = Bucket(EPOCH + number, shown[index])
            if late:
                buckets[-2] = Bucket(EPOCH + number - 1, late[index])
            yield Look(number * BUCKET + LOOKS[index], buckets)
        late = shown[2:]


# --- who looks -----------------------------------------------------------------------------------


class Alarm(NamedTuple):
    """When it began, and what it was said to come from."""

    at: float
    cause: Cause


class Running:
    """Medians of the last windows of totals, kept sorted as they come: quick, and the same."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._sums: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, value: int) -> None:
        """Take in a window's sum; the oldest leaves when there are `USUAL` buckets of them."""
        self._sums.append(value)
        insort(self._sorted, value)
        if len(self._sums) > USUAL - self._window + 1:
            del self._sorted[bisect_left(self._sorted, self._sums.popleft())]

    @property
    def median(self) -> float:
        """Of what it holds."""
        return statistics.median(self._sorted) if self._sorted else 0.0


@dataclass
class Ours:
    """`spikes.judge`, every five seconds."""

    alarms: list[Alarm] = field(default_factory=list)
    _former: Spike | None = None

    def look(self, look: Look, recent: Sequence[Change]) -> None:
        """Ask it."""
        now = judge(self._former, look.buckets, recent)
        is_new = now is not None and (self._former is None or self._former.is_over)
        if now is not None and is_new and not now.is_over:
            self.alarms.append(Alarm(look.at, now.cause))
        self._former = now


@dataclass
class Naive:
    """A detector of full buckets, and of the newest as it grows; it knows no causes."""

    name: str
    is_much: Callable[[int], bool]
    learn: Callable[[int], None]
    alarms: list[Alarm] = field(default_factory=list)
    _calm: int = 99

    def look(self, at: float, growing: int) -> None:
        """See whether the newest bucket holds too much already."""
        if not self.is_much(growing):
            return
        if self._calm >= CALM:
            self.alarms.append(Alarm(at, Cause.UNATTRIBUTED))
        self._calm = 0

    def full(self, at: float, total: int) -> None:
        """See a bucket that is told in full, and learn from it."""
        self._calm += 1
        self.look(at, total)
        self.learn(total)


CALM: Final = 6
"""Ordinary buckets after which a naive detector's alarm is over, as ours."""
EWMA_WEIGHT: Final = 0.05
EWMA_Z: Final = 4.0
MEDIAN_TIMES: Final = 1.8


def ewma() -> Naive:
    """Exponentially weighted mean and variance; too much is four deviations above."""
    mean, variance, seen = 0.0, 0.0, 0

    def learn(total: int) -> None:
        nonlocal mean, variance, seen
        off = total - mean
        weight = max(EWMA_WEIGHT, 1 / (seen + 1))
        mean += weight * off
        variance = (1 - weight) * (variance + weight * off * off)
        seen += 1

    def is_much(total: int) -> bool:
        return seen >= USUAL and total > mean + EWMA_Z * math.sqrt(max(variance, 1.0))

    return Naive("EWMA, z > 4", is_much, learn)


def times_median() -> Naive:
    """Too much is 1.8 times the median of half an hour."""
    usual = Running(1)
    seen = 0

    def learn(total: int) -> None:
        nonlocal seen
        usual.add(total)
        seen += 1

    def is_much(total: int) -> bool:
        return seen >= USUAL and total > MEDIAN_TIMES * usual.median

    return Naive("1.8 x the median", is_much, learn)


# --- what comes of it ----------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What a detector made of a site."""

    found: dict[int, list[float]]
    """Seconds from begin to alarm of the spikes that deserve the word, by their size."""
    missed: dict[int, int]
    told_again: int
    false_alarms: int
    caused: int
    """Spikes with a cause that were found."""
    attributed: int
    """Those whose cause was named."""
    false_attributions: int


def verdict(site: Site, spikes: Sequence[Injected], alarms: Sequence[Alarm]) -> Verdict:
    """Lay alarms beside what was put in."""
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    missed = dict.fromkeys(SIZES, 0)
    unmatched, again, caused, attributed, wrong = list(alarms), 0, 0, 0, 0
    for spike in spikes:
        mine = [a for a in unmatched if spike.begin <= a.at <= spike.end + LATE]
        unmatched = [a for a in unmatched if a not in mine]
        wrong += sum(a.cause not in (spike.cause, Cause.UNATTRIBUTED) for a in mine)
        again += max(0, len(mine) - 1)
        if is_worth(site, spike) and mine:
            found[spike.size].append(mine[0].at - spike.begin)
        elif is_worth(site, spike):
            missed[spike.size] += 1
        if mine and spike.cause is not Cause.UNATTRIBUTED:
            caused += 1
            attributed += mine[0].cause is spike.cause
    wrong += sum(a.cause is not Cause.UNATTRIBUTED for a in unmatched)
    return Verdict(found, missed, again, len(unmatched), caused, attributed, wrong)


def is_worth(site: Site, spike: Injected) -> bool:
    """Whether it brings enough refreshes to deserve the word."""
    buckets = 60 / BUCKET
    return (spike.size - 1) * site.load(spike.begin) * buckets >= WORTH


def watch(site: Site, days: int, seed: int) -> dict[str, Verdict]:
    """Let every detector look at that many days of a site."""
    chance = random.Random(f"{site.name} {seed}")
    story = Story.of(site, days, chance)
    ours, naive = Ours(), [ewma(), times_median()]
    changes = deque(story.changes)
    recent: deque[Change] = deque()
    for number, look in enumerate(looks(site, story, range(days * DAY_BUCKETS), chance)):
        newest = look.buckets[-1].number
        while changes and changes[0].bucket <= newest:
            recent.append(changes.popleft())
        while recent and recent[0].bucket < newest - 2 * KEEPS_CHANGES:
            recent.popleft()
        ours.look(look, recent)
        for each in naive:
            if number % 2 == 0 and len(look.buckets) > 2:
                each.full(look.at, look.buckets[-3].total)
            each.look(look.at, look.buckets[-1].total)
    shown = {"ringkeeper": ours.alarms} | {each.name: each.alarms for each in naive}
    return {name: verdict(site, story.spikes, alarms) for name, alarms in shown.items()}


KEEPS_CHANGES: Final = 12
"""Buckets for which a change is handed on: more than matter."""


class Young(NamedTuple):
    """What is told upon a change where counts go back a minute, and no further."""

    changes: int
    """That caused nothing."""
    false_attributions: int
    spikes: int
    """Of three times what is usual, that a change caused."""
    found: int
    """Those told within a minute, by their cause."""


YOUNG_HISTORY: Final = 7
"""Buckets before the change: a minute, and one that is still told when it comes."""
YOUNG_SIZE: Final = 3


def young(site: Site, trials: int, seed: int) -> Young:
    """So many changes that cause nothing, and so many that cause a spike, at any time of day."""
    chance = random.Random(f"young {site.name} {seed}")
    wrong = spikes = found = 0
    for number in range(2 * trials):
        first = chance.randrange(DAY_BUCKETS)
        change = Change(EPOCH + first + YOUNG_HISTORY, Cause.ROTATION)
        begin = float((first + YOUNG_HISTORY) * BUCKET)
        spike = Injected(begin, begin + 60, YOUNG_SIZE, RefreshReason.OTHER, change.cause)
        is_spike = number % 2 == 0
        story = Story([change], [spike] if is_spike else [])
        ours = Ours()
        for look in looks(site, story, range(first, first + YOUNG_HISTORY + 7), chance):
            ours.look(look, [change] if look.buckets[-1].number >= change.bucket else [])
        is_told = any(alarm.cause is change.cause for alarm in ours.alarms)
        wrong += is_told and not is_spike
        spikes += is_spike and is_worth(site, spike)
        found += is_spike and is_worth(site, spike) and is_told
    return Young(trials, wrong, spikes, found)
