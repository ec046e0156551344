"""What the figures are to be, and whether they are. A missed goal is told as missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks import starting
from benchmarks.rounds import Spread, told
from benchmarks.stand import OURS, SEEN

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES: Final = {"EdDSA": "Ed25519"}
"""How people call an algorithm that tokens call otherwise."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, where it is found, and its bound."""

    title: str
    path: tuple[Any, ...]
    bound: float
    unit: str = ""
    at_least: bool = False

    def measured(self, found: Mapping[str, Any]) -> Spread | None:
        """What was measured; none if it could not be."""
        value: Any = found
        for name in self.path:
            if not isinstance(value, dict) or name not in value:
                return None
            value = value[name]
        assert isinstance(value, Spread)
        return value

    def is_met(self, measured: Spread) -> bool:
        """Whether the median is as good as the goal."""
        if self.at_least:
            return measured.median >= self.bound
        return measured.median <= self.bound

    @property
    def told(self) -> str:
        """The goal in words."""
        return f"{'≥' if self.at_least else '≤'} {told(self.bound)}{self.unit}"


def _each(title: str, path: tuple[str, ...], last: str, bounds: Mapping[str, float]) -> list[Goal]:
    return [
        Goal(f"{title}, {NAMES.get(name, name)}", (path[0], name, *path[1:], last), bound)
        for name, bound in bounds.items()
    ]


GOALS: Final = (
    *(
        Goal(
            f"verify, realistic traffic, {name}: times faster than the fastest peer",
            ("traffic", name, "fastest"), 10, at_least=True,
        )
        for name in ("RS256", "ES256")
    ),
    *_each(
        "verify, first sight, times raw", ("verify", "ratio"), OURS,
        {"RS256": 1.3, "ES256": 1.12, "EdDSA": 1.08},
    ),
    *_each(
        "verify, token seen before, times raw", ("verify", "ratio"), SEEN,
        {"RS256": 0.05, "ES256": 0.015},
    ),
    Goal("two threads over one, first sight, ES256", ("threads", "gain", OURS), 1.8, at_least=True),
    *_each(
        "sign, times raw", ("sign", "ratio"), OURS, {"RS256": 1.04, "ES256": 1.2, "EdDSA": 1.12}
    ),
    *(
        Goal(
            f"publish until the last of {size:,} can verify and sign, times raw sockets",
            ("fanout", size, "ratio", OURS), bound,
        )
        for size, bound in ((1_000, 1.5), (100, 1.6), (1, 1.6))
    ),
    Goal("daemon at rest, resident", ("rest", "daemon", "rss_mb"), 45, " MB"),
    Goal("daemon at rest, private", ("rest", "daemon", "private_mb"), 28, " MB"),
    Goal("daemon at rest, its own CPU a minute", ("rest", "daemon", "cpu_ms_a_minute"), 15, " ms"),
    Goal("daemon, start until ready", ("start", "ms", starting.OURS), 250, " ms"),
    Goal(
        "client, import time over `redis` and `cryptography` alone",
        ("import", "ratio", OURS), 1.25,
    ),
    Goal(
        "client, just imported: resident memory on top of those",
        ("import", "added_mb", OURS), 6, " MB",
    ),
    Goal(
        "idle instance, Redis commands a second", ("rest", "apps", "commands_a_second"), 0.3
    ),
)  # fmt: skip


def verdict(goal: Goal, measured: Spread | None) -> str:
    """How a goal is told."""
    if measured is None:
        return "not measured"
    return "met" if goal.is_met(measured) else "MISSED"


def rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """For each goal its figure, the median, where most rounds lie, the goal, and the verdict."""
    lines = []
    for goal in GOALS:
        measured = goal.measured(found)
        median = told(measured.median) + goal.unit if measured else ""
        spread = f"{told(measured.low)} to {told(measured.high)}" if measured else ""
        title = goal.title
        if goal.path[0] == "traffic" and measured:
            title += f" ({found['traffic'][goal.path[1]]['fastest_peer']})"
        lines.append((title, median, spread, goal.told, verdict(goal, measured)))
    return lines
