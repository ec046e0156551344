"""A plan in a terminal: a row a key, time from left to right, and a table of what happens when.

Every state has a character of its own, so that a picture without colour says as much. Pure.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.text import Text

from ringkeeper.ring import KeyState
from ringkeeperd.page.axis import Span, ticks
from ringkeeperd.words import CHOSEN, age, harmless, ordered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ringkeeper.ring import Ring
    from ringkeeperd.foresight import Foresight, Life, Moment, Phase
    from ringkeeperd.planning import Outstanding, Plan

_LEAST_LANE: Final = 24
_WIDEST_NAME: Final = 26
_NARROW: Final = 88
"""Columns below which a kid is cut: the picture needs the room, and the table below has it."""
_CUT: Final = 13
_LEAST_MARGIN: Final = timedelta(seconds=1)
_MOST_ROWS: Final = 24
"""Moments that the table has."""


class Look(NamedTuple):
    """How a phase is drawn, and what that means."""

    character: str
    plain: str
    """Where only ASCII can be written."""
    style: str
    meaning: str


SIGNS: Final = Look("█", "#", "bold green", "signs")
IDLE: Final = Look("▒", "=", "green", f"active, {CHOSEN}")
PUBLISHED: Final = Look("·", ".", "cyan", "published: known, signs nothing yet")
RETIRED: Final = Look("─", "-", "dim", "retired: only verifies")
DRAINING: Final = Look("┄", "~", "yellow", "draining: fewer and fewer of its tokens count")
REVOKED: Final = Look("×", "x", "red", "revoked: refused")  # noqa: RUF001 - is to look like a cross
LOOKS: Final = (SIGNS, IDLE, PUBLISHED, RETIRED, DRAINING, REVOKED)
_HAPPENS: Final = {
    "published": "is published",
    "activated": "becomes active",
    "retired": "retires",
    "returned": "is to sign again",
    "drained": "begins to drain",
    "spared": "is drained no more",
    "revoked": "is revoked",
    "removed": "goes",
}
_TOLD_FIRST: Final = ("revoked", "drained", "returned", "activated")
_PLAIN: Final = str.maketrans(
    {**{look.character: look.plain for look in LOOKS}, "→": "->", "…": "~", "┬": "+", "│": "|"}
)


def look_of(phase: Phase) -> Look:
    """How a key in that phase is drawn."""
    match phase.state:
        case KeyState.PUBLISHED:
            return PUBLISHED
        case KeyState.ACTIVE:
            return SIGNS if phase.signs else IDLE
        case KeyState.RETIRED:
            return DRAINING if phase.is_draining else RETIRED
        case KeyState.REVOKED:
            return REVOKED


def plain(text: Text) -> Text:
    """`text` in characters that every terminal has."""
    made = Text(text.plain.translate(_PLAIN))
    made.spans = text.spans
    return made


def rows_of(future: Foresight, ring: Ring) -> list[Life]:
    """The keys in the order of `ringkeeper status`, then those that will be made."""
    order = [key.kid for key in ordered(ring)]
    lives = (life for life in future.lives if life.phases and _is_to_come(life, future))
    return sorted(
        lives, key=lambda life: order.index(life.kid) if life.kid in order else len(order)
    )


def _is_to_come(life: Life, future: Foresight) -> bool:
    return any(phase.end is None or phase.end > future.now for phase in life.phases)


def drawn(plan: Plan, columns: int) -> Iterator[Text]:
    """The lines of a plan, for a terminal of so many columns."""
    yield _heading(plan)
    looks: set[Look] = set()
    for title, future in plan.futures:
        yield Text()
        if title:
            yield Text(harmless(title), "bold")
        rows = rows_of(future, plan.ring)
        yield from _picture(rows, future, plan.outstanding, columns)
        looks |= {look_of(phase) for life in rows for phase in life.phases}
    yield Text()
    yield _legend(look for look in LOOKS if look in looks)
    yield Text()
    yield from _table(plan.futures[-1][1])
    if plan.differences:
        yield from (Text(), Text("what differs", "bold"))
        yield from (Text(f"  {line}") for line in plan.differences)
    if plan.commands:
        yield from (Text(), Text("to do it", "bold"))
        yield from (Text(f"  {line}") for line in plan.commands)
    yield Text()
    yield from (Text(line, "yellow") for line in plan.warnings)
    yield from (Text(line, "dim") for line in plan.remarks)


def _heading(plan: Plan) -> Text:
    ring, now = plan.ring, plan.before.now
    text = Text.assemble((ring.name, "bold"), f"  version {ring.version}, epoch {ring.epoch}\n")
    text.append(f"now     {now:%Y-%m-%d %H:%M:%S}, all times are UTC\n")
    turn = plan.before.next_activation
    text.append("next    ")
    if turn is None:
        return text.append("no other key signs in this time")
    text.append(f"{turn.kid} at {turn.at:%Y-%m-%d %H:%M:%S}")
    return text.append(f", in {age(turn.at - now)}" if turn.at > now else ", at once", "dim")


# --- the picture ---------------------------------------------------------------------------------


def _picture(
    rows: Sequence[Life], future: Foresight, outstanding: Outstanding | None, columns: int
) -> Iterator[Text]:
    names = [_name(life, columns) for life in rows]
    wide = max(map(len, (*names, "key")))
    counts = ["" if outstanding is None else _count(life, outstanding) for life in rows]
    room = max(map(len, (*counts, "" if outstanding is None else "tokens")))
    left = wide + (2 + room if room else 0) + 2
    lane = max(_LEAST_LANE, columns - left - 1)
    span = window(future)
    head = f"{'key':<{wide}}" + (f"  {'tokens':>{room}}" if room else "")
    yield Text(f"{head}  {_labels(span, lane)}".rstrip(), "dim")
    yield Text(" " * left + _rule(span, lane), "dim")
    for life, name, count in zip(rows, names, counts, strict=True):
        line = Text(f"{name:<{wide}}", "italic" if life.is_foreseen else "")
        line.append(f"  {count:>{room}}" if room else "")
        line.append("  ")
        yield line.append_text(_lane(life, span, lane))


def window(future: Foresight) -> Span:
    """What of time is shown: a little more than is foreseen, so that the end can be seen."""
    return Span(future.now, future.until + max((future.until - future.now) / 50, _LEAST_MARGIN))


def _name(life: Life, columns: int) -> str:
    name = harmless(life.kid)
    most = _CUT if columns < _NARROW else _WIDEST_NAME
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _count(life: Life, outstanding: Outstanding) -> str:
    return f"{outstanding[life.kid]:,}" if life.kid in outstanding else ""


def _cell(span: Span, at: datetime, lane: int) -> int:
    share = (at - span.begin) / (span.end - span.begin)
    return min(lane, max(0, int(share * lane)))


def _labels(span: Span, lane: int) -> str:
    """The labels of the ticks, as far as one has room behind the other."""
    line = "now"
    for at, label in ticks(span):
        cell = _cell(span, at, lane)
        if label and cell >= len(line) + 2 and cell + len(label) <= lane:
            line = line.ljust(cell) + label
    return line


def _rule(span: Span, lane: int) -> str:
    marks = {_cell(span, at, lane) for at, _ in ticks(span)} | {0}
    return "".join("┬" if cell in marks else "─" for cell in range(lane))


def _lane(life: Life, span: Span, lane: int) -> Text:
    """One key's row. However short it signs, or drains, that takes a cell: it is drawn last."""
    cells: list[Look | None] = [None] * lane
    for phase in sorted(life.phases, key=_is_not_to_be_missed):
        end = span.end if phase.end is None else phase.end
        if end <= span.begin:
            continue
        first = min(_cell(span, phase.begin, lane), lane - 1)
        past = max(first + 1, _cell(span, end, lane))
        cells[first:past] = [look_of(phase)] * (past - first)
    text = Text()
    for look, alike in groupby(cells):
        count = len(list(alike))
        text.append(*((look.character * count, look.style) if look else (" " * count,)))
    text.rstrip()
    return text


def _is_not_to_be_missed(phase: Phase) -> bool:
    return phase.state is KeyState.ACTIVE or phase.is_draining


def _legend(looks: Iterable[Look]) -> Text:
    parts = [
        part for look in looks for part in ((look.character * 2, look.style), f" {look.meaning}\n")
    ]
    text = Text.assemble(*parts)
    text.rstrip()
    return text


# --- the table -----------------------------------------------------------------------------------


def _table(future: Foresight) -> Iterator[Text]:
    """What happens when: all that happens at one moment in one line."""
    grouped = [(at, list(told)) for at, told in groupby(future.moments, lambda moment: moment.at)]
    if not grouped:
        yield Text("nothing changes in this time")
        return
    spans = ["now" if at == future.now else age(at - future.now) for at, _ in grouped]
    wide = max(len("in"), *(len(span) for span in spans[:_MOST_ROWS]))
    yield Text(f"{'at (UTC)':<19}  {'in':<{wide}}  what happens", "bold")
    for (at, told), span in list(zip(grouped, spans, strict=True))[:_MOST_ROWS]:
        yield Text(f"{at:%Y-%m-%d %H:%M:%S}  {span:<{wide}}  {_sentence(told)}")
    if len(grouped) > _MOST_ROWS:
        left = len(grouped) - _MOST_ROWS
        yield Text(
            f"and {left} more until {future.until:%Y-%m-%d %H:%M:%S} (--json has all)", "dim"
        )


def _sentence(told: Iterable[Moment]) -> str:
    """The most important first: who signs from now on."""
    order = {what: place for place, what in enumerate(_TOLD_FIRST)}
    sorted_ = sorted(told, key=lambda moment: order.get(moment.what, len(order)))
    return ", ".join(f"{harmless(moment.kid)} {_HAPPENS[moment.what]}" for moment in sorted_)
