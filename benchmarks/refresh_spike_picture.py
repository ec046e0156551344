"""The picture of docs/refresh-spikes.md: the refresh rate around each change, as an SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from benchmarks.refresh_spike_changes import AFTER, BEFORE
from ringkeeper.layout import BUCKET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.refresh_spike_changes import Measured, Row

WIDTH: Final = 300
HEIGHT: Final = 130
"""Of a panel, in pixels; the margins come on top."""
LEFT: Final = 40
ABOVE: Final = 34
BELOW: Final = 26
ACROSS: Final = 2
HEAD: Final = 28
"""Pixels above the first panel, for what the lines mean."""
OURS: Final = "#0b5fb0"
THEIRS: Final = "#c8500a"
GREY: Final = "#767676"
_TIMES: Final = (1, 5, 10, 15, 20)


def drawn(rows: Sequence[Row]) -> str:
    """A panel a change: refreshes in ten seconds, in times of the baseline, over twenty minutes."""
    down = -(-len(rows) // ACROSS)
    wide, high = ACROSS * (LEFT + WIDTH) + 12, HEAD + down * (ABOVE + HEIGHT + BELOW) + 6
    most = 1.05 * max(max(_times(each)) for row in rows for each in (row.ours, row.theirs))
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
            f'height="{high}" font-family="sans-serif" font-size="11" role="img">'
        ),
        "<title>Session refreshes before and after a change, in times of what is usual</title>",
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
        _text(LEFT, 18, "refreshes in 10 s, times the baseline:", GREY),
        _text(LEFT + 210, 18, "ringkeeper", OURS),
        _text(LEFT + 280, 18, "SuperTokens' rule", THEIRS),
    ]
    for index, row in enumerate(rows):
        x = LEFT + index % ACROSS * (LEFT + WIDTH)
        y = HEAD + ABOVE + index // ACROSS * (ABOVE + HEIGHT + BELOW)
        parts += _panel(row, x, y, most)
    return "\n".join([*parts, "</svg>", ""])


def _panel(row: Row, x: float, y: float, most: float) -> list[str]:
    bottom, change = y + HEIGHT, x + WIDTH * BEFORE / (BEFORE + AFTER)
    title = row.scenario.name.replace("`", "")
    parts = [_text(x, y - 14, title, "#1a1a1a", weight="bold")]
    for times in _TIMES:
        if times <= most:
            level = bottom - HEIGHT * times / most
            parts.append(_line(x, level, x + WIDTH, level, "#e2e2e2"))
            parts.append(_text(x - 6, level + 4, f"{times}", GREY, anchor="end"))
    parts += [
        _line(x, bottom, x + WIDTH, bottom, GREY),
        _line(change, y - 6, change, bottom, GREY, dashes="3 3"),
        _text(change, bottom + 14, "the change", GREY, anchor="middle"),
        _text(x, bottom + 14, f"-{BEFORE // 60} min", GREY),
        _text(x + WIDTH, bottom + 14, f"+{AFTER // 60} min", GREY, anchor="end"),
        _curve(row.theirs, x, bottom, most, THEIRS),
        _curve(row.ours, x, bottom, most, OURS),
    ]
    return parts


def _times(measured: Measured) -> list[float]:
    baseline = max(measured.baseline, 1 / BUCKET)
    return [count / baseline for count in (*measured.before, *measured.after)]


def _curve(measured: Measured, x: float, bottom: float, most: float, colour: str) -> str:
    values = _times(measured)
    points = " ".join(
        f"{x + WIDTH * (index + 0.5) / len(values):.1f},{bottom - HEIGHT * value / most:.1f}"
        for index, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'


def _line(x: float, y: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'
    )


def _text(
    x: float, y: float, text: str, colour: str, *, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
