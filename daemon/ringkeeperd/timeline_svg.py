"""A plan as a picture of its own: SVG, without scripts, for light and for dark. Pure.

Elements are made as such and written by the standard library, so no text becomes markup. The
states differ in height as well as in colour, and the description says in words what is drawn.
"""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, tostring

from ringkeeperd.page.axis import ticks
from ringkeeperd.page.html import el
from ringkeeperd.timeline import (
    DRAINING,
    IDLE,
    LOOKS,
    PUBLISHED,
    RETIRED,
    REVOKED,
    SIGNS,
    look_of,
    rows_of,
    window,
)
from ringkeeperd.words import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ringkeeperd.foresight import Foresight, Life, Phase
    from ringkeeperd.page.axis import Span
    from ringkeeperd.planning import Outstanding, Plan
    from ringkeeperd.timeline import Look

_WIDTH: Final = 1080
_MARGIN: Final = 24
_NAMES: Final = 232
_COUNTS: Final = 84
_LANE: Final = 24
_LABEL: Final = 52
"""What the label of a tick takes."""
_NAMED_MOST: Final = 27
_LINE: Final = 135
"""Characters that fit into the width."""
_SHAPES: Final = {
    # Name of the class, y and height within the lane.
    SIGNS: ("signs", 4, 16),
    IDLE: ("idle", 6, 12),
    PUBLISHED: ("published", 8, 8),
    RETIRED: ("retired", 10, 4),
    DRAINING: ("draining", 9, 6),
    REVOKED: ("revoked", 11, 2),
}
_STYLE: Final = """
:root { color-scheme: light dark; --ground: #fcfcfa; --text: #1f2328; --soft: #5c636b;
  --line: #dcdad3; --band: #f3f2ee; --signs: #0f6b4f; --published: #2458b3; --retired: #6b7078;
  --draining: #8a4b00; --revoked: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --text: #e4e6e8; --soft: #a2a9b0;
  --line: #343a40; --band: #1d2125; --signs: #5cc9a0; --published: #86aef5; --retired: #a0a6ad;
  --draining: #f0b068; --revoked: #ff8d83; } }
text { fill: var(--text); font: 13px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.kid { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.made { fill: var(--soft); font-style: italic; }
.title { font-size: 17px; font-weight: 600; } .head { font-weight: 600; }
.soft { fill: var(--soft); } .count { text-anchor: end; font-variant-numeric: tabular-nums; }
.ground { fill: var(--ground); } .band { fill: var(--band); }
.tick { stroke: var(--line); } .now { stroke: var(--text); stroke-width: 1.5; }
.signs { fill: var(--signs); } .idle { fill: none; stroke: var(--signs); stroke-width: 1.5; }
.published { fill: var(--published); } .retired { fill: var(--retired); }
.draining { fill: none; stroke: var(--draining); stroke-width: 3; stroke-dasharray: 5 3; }
.revoked { fill: var(--revoked); } .cross { stroke: var(--revoked); stroke-width: 2.5; }
"""


def document(plan: Plan) -> bytes:
    """The whole picture, in UTF-8."""
    parts: list[Element] = []
    y = 72
    for title, future in plan.futures:
        made, y = _panel(title, future, plan, y)
        parts += made
    made, y = _legend(y)
    parts += made
    made, y = _differences(plan, y)
    parts += made
    ring, now = plan.ring, plan.before.now
    name = f"The future of ring {harmless(ring.name)}"
    told = f"version {ring.version}, as foreseen on {now:%Y-%m-%d at %H:%M:%S} UTC"
    picture = el(
        "svg",
        el("title", name, id="name"),
        el("desc", _described(plan), id="told"),
        el("style", _STYLE),
        el("rect", width=_WIDTH, height=y, class_="ground"),
        el("text", name, x=_MARGIN, y=34, class_="title"),
        el("text", told, x=_MARGIN, y=54, class_="soft"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {y}",
        width=_WIDTH,
        height=y,
        role="img",
        aria_labelledby="name",
        aria_describedby="told",
    )
    markup: str = tostring(picture, encoding="unicode")
    return f"{markup}\n".encode(errors="xmlcharrefreplace")


def _described(plan: Plan) -> str:
    """In words what the picture shows, for those who do not see it."""
    lines = []
    for title, future in plan.futures:
        told = (
            f"{moment.at:%Y-%m-%d %H:%M:%S} UTC {harmless(moment.kid)} {moment.what}"
            for moment in future.moments
        )
        lines.append(f"{harmless(title or 'foreseen')}: {'; '.join(told) or 'nothing changes'}.")
    return " ".join([*lines, *(f"{line}." for line in plan.differences)])


# --- one future ----------------------------------------------------------------------------------


def _panel(title: str, future: Foresight, plan: Plan, top: int) -> tuple[list[Element], int]:
    """Its parts, and where the next thing may begin."""
    rows, span = rows_of(future, plan.ring), window(future)
    left = _MARGIN + _NAMES + (_COUNTS if plan.outstanding is not None else 0)
    parts = [el("text", harmless(title), x=_MARGIN, y=top + 16, class_="head")] if title else []
    begin = top + (46 if title else 26)
    end = begin + len(rows) * _LANE
    parts += _bands(rows, begin)
    parts += _grid(span, left, begin, end)
    if plan.outstanding is not None:
        place = {"x": left - 14, "y": begin - 8}
        parts.append(el("text", "tokens", class_="soft count", **place))
    for number, life in enumerate(rows):
        y = begin + number * _LANE
        parts += _row(life, span, left, y, plan.outstanding)
    return parts, end + 34


def _bands(rows: Sequence[Life], begin: int) -> Iterator[Element]:
    """Every other row on another ground: an eye keeps to its row."""
    for number in range(0, len(rows), 2):
        yield el(
            "rect",
            x=_MARGIN - 8,
            y=begin + number * _LANE,
            width=_WIDTH - 2 * _MARGIN + 16,
            height=_LANE,
            class_="band",
        )


def _grid(span: Span, left: int, begin: int, end: int) -> Iterator[Element]:
    free = left + 56.0  # there stands the word now
    for at, label in ticks(span):
        x = _place(span, at, left)
        yield el("line", x1=x, x2=x, y1=begin, y2=end, class_="tick")
        if x >= free and x + _LABEL / 2 <= _WIDTH - _MARGIN + 8:
            yield el("text", label, x=x, y=begin - 8, text_anchor="middle", class_="soft")
            free = x + _LABEL
    yield el("line", x1=left, x2=left, y1=begin - 4, y2=end, class_="now")
    yield el("text", "now", x=left, y=begin - 8)


def _place(span: Span, at: datetime, left: int) -> float:
    return round(left + span.place(at) / 100 * (_WIDTH - _MARGIN - left), 1)


def _row(
    life: Life, span: Span, left: int, y: int, outstanding: Outstanding | None
) -> Iterator[Element]:
    kid = harmless(life.kid)
    shown = kid if len(kid) <= _NAMED_MOST else f"{kid[: _NAMED_MOST - 1]}…"
    kind = "kid made" if life.is_foreseen else "kid"
    yield el("text", shown, x=_MARGIN, y=y + 16, class_=kind)
    if outstanding is not None and life.kid in outstanding:
        count = f"{outstanding[life.kid]:,}"
        yield el("text", count, x=left - 14, y=y + 16, class_="count")
    for phase in life.phases:
        yield from _bar(kid, phase, span, left, y)


def _bar(kid: str, phase: Phase, span: Span, left: int, y: int) -> Iterator[Element]:
    end = span.end if phase.end is None else phase.end
    x, right = _place(span, phase.begin, left), _place(span, end, left)
    if end <= span.begin:
        return
    look = look_of(phase)
    until = f"until {phase.end:%Y-%m-%d %H:%M:%S} UTC" if phase.end else "until later"
    told = el("title", f"{kid} {look.meaning}, {until}")
    # However short it is, it is to be seen.
    yield _shape(look, x, y, max(1.5, right - x), told)
    if look is REVOKED:
        yield _cross(x + 6, y)


def _shape(look: Look, x: float, y: int, width: float, told: Element | None = None) -> Element:
    name, down, height = _SHAPES[look]
    if look is DRAINING:
        place = y + down + height / 2
        return el("line", told, x1=x, x2=round(x + width, 1), y1=place, y2=place, class_=name)
    return el(
        "rect", told, x=x, y=y + down, width=round(width, 1), height=height, rx=1.5, class_=name
    )


def _cross(x: float, y: int) -> Element:
    return el("path", d=f"M{x - 5:g} {y + 7}l10 10m-10 0l10 -10", class_="cross")


# --- below ---------------------------------------------------------------------------------------


def _legend(top: int) -> tuple[list[Element], int]:
    parts: list[Element] = []
    for number, look in enumerate(LOOKS):
        x = _MARGIN + (number % 3) * 344
        y = top + (number // 3) * _LANE
        parts.append(_shape(look, x, y, 26))
        if look is REVOKED:
            parts.append(_cross(x + 13, y))
        parts.append(el("text", look.meaning, x=x + 36, y=y + 16, class_="soft"))
    return parts, top + 2 * _LANE + 20


def _differences(plan: Plan, top: int) -> tuple[list[Element], int]:
    if not plan.differences:
        return [], top
    lines = [part for line in plan.differences for part in wrap(harmless(line, 400), _LINE)]
    parts = [el("text", "What differs", x=_MARGIN, y=top + 14, class_="head")]
    for number, line in enumerate(lines, 1):
        parts.append(el("text", line, x=_MARGIN, y=top + 14 + number * 20))
    return parts, top + 14 + len(lines) * 20 + 24
