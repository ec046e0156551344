"""Contenders in turn, round after round, and what their times say.

Other work on the machine comes and goes within seconds. So each round has every contender once, in
an order that rotates, and contenders are compared within a round; what is told is the median of
the rounds' ratios, and between which values eight rounds in ten lie.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")


class Spread(NamedTuple):
    """Many measurements of one thing."""

    median: float
    low: float
    """A tenth of them lie below."""
    high: float
    """A tenth of them lie above."""

    def __str__(self) -> str:
        low, high = told(self.low), told(self.high)
        return told(self.median) + ("" if low == high else f" ({low} to {high})")

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """What `values` say; at least one."""
        ordered = sorted(values)
        if len(ordered) == 1:
            return cls(*ordered * 3)
        tenths = statistics.quantiles(ordered, n=10, method="inclusive")
        return cls(statistics.median(ordered), tenths[0], tenths[-1])

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(*(factor * value for value in self))


def told(value: float) -> str:
    """A figure with three digits that count."""
    if value == 0:
        return "0"
    whole = abs(value) >= 100
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def rotated(names: Sequence[T], round_: int) -> Sequence[T]:
    """`names`, begun with another one each round."""
    start = round_ % len(names)
    return [*names[start:], *names[:start]]


def interleaved(work: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """What each of `work` measures in each round, given the round's number."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds):
        for name in rotated(list(work), round_):
            found[name].append(work[name](round_))
    return found


def ratios(times: Mapping[str, Sequence[float]], to: str) -> dict[str, Spread]:
    """Each contender in times of the contender `to`, round by round."""
    return {
        name: Spread.of(a / b for a, b in zip(each, times[to], strict=True))
        for name, each in times.items()
    }


def spreads(times: Mapping[str, Sequence[float]], factor: float = 1.0) -> dict[str, Spread]:
    """Each contender by itself."""
    return {name: Spread.of(each).times(factor) for name, each in times.items()}


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in pieces of `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def plain(value: Any) -> Any:
    """`value` as JSON has it: a spread with its names, figures with six digits that count."""
    match value:
        case Spread():
            return {name: plain(each) for name, each in value._asdict().items()}
        case dict():
            return {str(name): plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case float():
            return float(f"{value:.6g}")
        case _:
            return value
