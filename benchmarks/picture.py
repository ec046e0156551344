"""Panels of curves on logarithmic axes, as an SVG: no scripts, for light and for dark. Pure.

Curves differ in dashes and marks as well as in colour, and the description says in words what they
show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from benchmarks.rounds import told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 330
HEIGHT: Final = 170
"""Of a panel's field, in pixels; the margins come on top."""
LEFT: Final = 56
RIGHT: Final = 16
LEGEND: Final = 15
"""Pixels for each line of the legend."""
ABOVE: Final = 30
BELOW: Final = 42
ACROSS: Final = 2
_STEPS: Final = (
    (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
    tuple(tenth / 10 for tenth in range(10, 100)),
)  # fmt: skip
"""Where ticks may be, times a power of ten; the first of these that gives three is taken."""
_DASHES: Final = ("", "6 3", "2 3", "9 3 2 3", "4 4", "1 4")
_STYLE: Final = """
:root { color-scheme: light dark; --ground: #ffffff; --text: #1a1a1a; --soft: #5c636b;
  --line: #e2e2e2; --c0: #0b5fb0; --c1: #c8500a; --c2: #0f6b4f; --c3: #8a2f8f; --c4: #6b7078;
  --c5: #8a6a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --text: #e4e6e8; --soft: #a2a9b0;
  --line: #343a40; --c0: #6db3f7; --c1: #ff9b5c; --c2: #5cc9a0; --c3: #d990de; --c4: #a0a6ad;
  --c5: #d9b84a; } }
text { fill: var(--text); font: 11px sans-serif; } .head { font-weight: bold; font-size: 12px; }
.soft { fill: var(--soft); } .ground { fill: var(--ground); } .grid { stroke: var(--line); }
.axis { stroke: var(--soft); }
"""
_LOOKS: Final = "".join(
    f".s{n} {{ stroke: var(--c{n}); fill: none; stroke-width: 1.8; }} "
    f".m{n} {{ fill: var(--c{n}); }}\n"
    for n in range(len(_DASHES))
)


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of one unit over one quantity; all values are greater than 0."""

    title: str
    across: str
    """What the horizontal axis counts."""
    unit: str
    curves: Mapping[str, Sequence[tuple[float, float]]]

    @property
    def words(self) -> str:
        """What it shows, for who does not see it."""
        told_ = (
            f"{name} {_point(points[0])}, {_point(points[-1])}"
            for name, points in self.curves.items()
            if points
        )
        return f"{self.title}, {self.unit} by {self.across}: {'; '.join(told_)}."

    @property
    def height(self) -> int:
        """Of all of it, in pixels."""
        return ABOVE + LEGEND * len(self.curves) + HEIGHT + BELOW


def _point(point: tuple[float, float]) -> str:
    return f"{told(point[1])} at {point[0]:,g}"


def drawn(title: str, panels: Sequence[Panel]) -> str:
    """All panels, two in a row."""
    wide, parts, y = ACROSS * (LEFT + WIDTH + RIGHT), list[str](), 0.0
    for start in range(0, len(panels), ACROSS):
        row = panels[start : start + ACROSS]
        high = max(panel.height for panel in row)
        for column, panel in enumerate(row):
            parts += _panel(panel, LEFT + column * (LEFT + WIDTH + RIGHT), y + high - BELOW)
        y += high
    words = " ".join(panel.words for panel in panels)
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {y:.0f}" '
                f'width="{wide}" height="{y:.0f}" role="img" aria-labelledby="title words">'
            ),
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="words">{escape(words)}</desc>',
            f"<style>{_STYLE}{_LOOKS}</style>",
            f'<rect class="ground" width="{wide}" height="{y:.0f}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def ticks(low: float, high: float) -> list[float]:
    """Round values within, on a logarithmic axis: powers of ten, or finer where those are few."""
    for steps in _STEPS:
        found = [
            step * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in steps
            if low <= step * 10.0**power * (1 + 1e-9) and step * 10.0**power <= high * (1 + 1e-9)
        ]
        if len(found) >= 3:
            return found
    return found


def _panel(panel: Panel, x: float, bottom: float) -> list[str]:
    curves = {name: points for name, points in panel.curves.items() if points}
    top = bottom - HEIGHT
    head = top - LEGEND * len(curves)
    parts = [_text(x, head - 12, f"{panel.title}, {panel.unit}", "head")]
    for number, name in enumerate(curves):
        y = head + LEGEND * number
        parts.append(_line(x, y, x + 28, y, f"s{number}", _DASHES[number]))
        parts.append(_text(x + 36, y + 4, name))
    across = _Axis([at for points in curves.values() for at, _ in points], x, x + WIDTH)
    up = _Axis([value for points in curves.values() for _, value in points], bottom, top)
    for value in ticks(up.low, up.high):
        parts.append(_line(x, up.at(value), x + WIDTH, up.at(value), "grid"))
        parts.append(_text(x - 6, up.at(value) + 4, f"{value:,g}", "soft", "end"))
    for value in sorted({at for points in curves.values() for at, _ in points}):
        parts.append(_line(across.at(value), bottom, across.at(value), bottom + 4, "axis"))
        parts.append(_text(across.at(value), bottom + 17, f"{value:,g}", "soft", "middle"))
    parts.append(_line(x, bottom, x + WIDTH, bottom, "axis"))
    parts.append(_text(x + WIDTH, bottom + 32, panel.across, "soft", "end"))
    for number, points in enumerate(curves.values()):
        places = [(across.at(at), up.at(value)) for at, value in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(
            f'<polyline class="s{number}" points="{path}" stroke-dasharray="{_DASHES[number]}"/>'
        )
        parts += [
            f'<circle class="m{number}" cx="{px:.1f}" cy="{py:.1f}" r="2.6"/>' for px, py in places
        ]
    return parts


class _Axis:
    """Where values lie, on a logarithmic axis with a little room at the ends."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        room = 1.08
        self.low, self.high = min(values) / room, max(values) * room
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        """The place of `value`, in pixels."""
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self._begin + part * (self._end - self._begin)


def _line(x: float, y: float, x2: float, y2: float, look: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line class="{look}" x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{dashed}/>'


def _text(x: float, y: float, text: str, look: str = "", anchor: str = "start") -> str:
    looks = f' class="{look}"' if look else ""
    return f'<text{looks} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
