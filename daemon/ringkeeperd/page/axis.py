"""The keys of a ring on a time axis: what each was, is, and will be if nothing unforeseen happens.

Places are shares of the width, so that it fits a phone as well as a wall; words keep their size.
Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.ring import Key, KeyKind, KeyState
from ringkeeperd.page.html import code, el
from ringkeeperd.rotation import activation_at
from ringkeeperd.words import ordered, turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

    from ringkeeperd.words import Outlook

_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_STEPS: Final = (
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 4, 7, 14, 28, 91, 182, 364, 1820, 3640)),
)
_MOST_TICKS: Final = 8
_SHORTEST: Final = timedelta(minutes=2)
_MARGIN: Final = 6
"""Of the longer side of now, the other one has at least one part in so many."""
_LABEL: Final = 10
"""Percent of the width that a tick's label takes where there is little."""
_LANE: Final = 26
_SHAPES: Final = {
    # Told apart by shape as well as by colour: y and height within the lane.
    KeyState.PUBLISHED: (9, 8),
    KeyState.ACTIVE: (5, 16),
    KeyState.RETIRED: (10, 6),
    KeyState.REVOKED: (12, 2),
}
_MEANINGS: Final = {
    KeyState.PUBLISHED: "published: known, signs nothing yet",
    KeyState.ACTIVE: "active: signs",
    KeyState.RETIRED: "retired: only verifies",
    KeyState.REVOKED: "revoked: refused",
}


class Span(NamedTuple):
    """What of time is shown."""

    begin: datetime
    end: datetime

    def place(self, at: datetime) -> float:
        """Where `at` is, in percent of the width; at the edge, what lies beyond."""
        share = (at - self.begin) / (self.end - self.begin)
        return round(100 * min(1.0, max(0.0, share)), 2)


class Stretch(NamedTuple):
    """A key in one state."""

    state: KeyState
    begin: datetime
    end: datetime
    is_planned: bool


def drawn(outlook: Outlook, described_by: str) -> Element:
    """The axis with all keys; the element of the id `described_by` says the same in words."""
    span, keys = span_of(outlook), ordered(outlook.ring)
    lanes = [_lane(key, outlook, span) for key in keys]
    says = "The keys of this ring on a time axis; the table after it says the same in words."
    picture = el("div", _grid(outlook, span), *lanes, class_="axis", role="img", aria_label=says)
    picture.set("aria-describedby", described_by)
    return el("figure", picture, _legend({key.state for key in keys}))


def span_of(outlook: Outlook) -> Span:
    """From the first that is known of a key that turns, to the last that is planned.

    A key that stays does not count: it would leave no room for those that turn.
    """
    ring, now = outlook.ring, outlook.now
    turned = [key for key in ring.keys if key.kind is KeyKind.DYNAMIC] or ring.keys
    times = [time for key in turned for _, time in _stations(key, outlook)]
    past = max([now - time for time in times] + [_SHORTEST])
    future = max([time - now for time in times] + [_SHORTEST])
    return Span(now - max(past, future / _MARGIN), now + max(future, past / _MARGIN))


def stretches(key: Key, outlook: Outlook, end: datetime) -> list[Stretch]:
    """The life of `key` until `end`, cut at the present."""
    now, found = outlook.now, []
    for (state, begin), (_, until) in pairwise([*_stations(key, outlook), (None, end)]):
        if state is None:
            break
        parts = [(begin, min(until, now), False), (max(begin, now), until, True)]
        found += [Stretch(state, *part) for part in parts if part[0] < part[1]]
    return found


def _stations(key: Key, outlook: Outlook) -> list[tuple[KeyState | None, datetime]]:
    """When `key` came, or will come, into which state; None is its end."""
    now = outlook.now
    stations: list[tuple[KeyState | None, datetime | None]] = [
        (KeyState.PUBLISHED, key.published_at),
        (KeyState.ACTIVE, key.activated_at),
        (KeyState.RETIRED, key.retired_at),
        (KeyState.REVOKED, key.revoked_at),
    ]
    at = activation_at(outlook.ring)
    turns = max(at, now) if at else None
    if key == outlook.ring.standby:
        stations.append((KeyState.ACTIVE, turns))
    elif key.due_at and turns and key.state is KeyState.ACTIVE:
        stations += [(KeyState.RETIRED, turns), (None, turns + key.retain_for)]
    else:
        stations.append((None, key.remove_at and max(key.remove_at, now)))
    return [(state, time) for state, time in stations if time]


def _lane(key: Key, outlook: Outlook, span: Span) -> Element:
    bars = [bar for each in stretches(key, outlook, span.end) for bar in _bar(each, span)]
    if key.revoked_at:
        bars.append(_cross(span.place(key.revoked_at)))
    return el(
        "div",
        el("div", code(key.kid), " ", _state(key, outlook), class_="who"),
        el("svg", *bars, class_="lane", width="100%", height=_LANE),
        class_="row",
    )


def _state(key: Key, outlook: Outlook) -> Element:
    if key == outlook.ring.signer:
        return el("span", "signs now", class_="state active")
    words = f"{key.state}, not signing" if key.state is KeyState.ACTIVE else key.state.value
    return el("span", words, class_=f"state {key.state}")


def _bar(each: Stretch, span: Span) -> Iterator[Element]:
    left, right = span.place(each.begin), span.place(each.end)
    y, height = _SHAPES[each.state]
    if right > left:
        yield el(
            "rect",
            x=f"{left}%",
            y=y,
            width=f"{right - left:.2f}%",
            height=height,
            class_=f"{each.state}{' planned' if each.is_planned else ''}",
        )


def _cross(place: float) -> Element:
    mark = el("path", d="M-5 -5L5 5M-5 5L5 -5", class_="cross")
    return el("svg", mark, x=f"{place}%", y=_LANE // 2, overflow="visible", class_="mark")


# --- what lies behind all keys -------------------------------------------------------------------


def _grid(outlook: Outlook, span: Span) -> Element:
    """Ticks, the present, and when the next key signs."""
    parts: list[Element] = []
    now, turns_at = span.place(outlook.now), activation_at(outlook.ring)
    next_ = span.place(max(turns_at, outlook.now)) if turns_at else now
    for count, (at, label) in enumerate(ticks(span)):
        place = span.place(at)
        # A line through a label leaves neither to be read, and both lines are told in words.
        is_crossed = any(0 <= line - place < _LABEL for line in (now, next_))
        parts += _tick(place, "" if is_crossed else label, is_odd=count % 2 == 1)
    parts += [_upright(now, "now", 22), _words(now, "now", 18, "now")]
    if turns_at:
        parts += [
            _upright(next_, "next", 8),
            _words(next_, f"next change {turn(outlook)}", 5, "next"),
        ]
    return el("svg", *parts, class_="grid", width="100%", height="100%")


def _tick(place: float, label: str, *, is_odd: bool) -> Iterator[Element]:
    yield _upright(place, "tick", 22)
    if label and place <= 100 - _LABEL:  # else it would stand out
        kind = "label odd" if is_odd else "label"
        yield el("text", label, x=f"{place}%", y="100%", dx=4, dy=-5, class_=kind)


def _upright(place: float, kind: str, top: int) -> Element:
    return el("line", x1=f"{place}%", x2=f"{place}%", y1=top, y2="100%", class_=kind)


def _words(place: float, text: str, y: int, kind: str) -> Element:
    """Beside their line, on the side that has room for them."""
    side, dx = ("start", 5) if place < 55 else ("end", -5)  # noqa: PLR2004 - a little over the half
    return el("text", text, x=f"{place}%", y=y, dx=dx, dy=6, text_anchor=side, class_=kind)


def ticks(span: Span) -> list[tuple[datetime, str]]:
    """Where the axis is labelled, and how: by the hour, by the day, as the span has it."""
    length = span.end - span.begin
    step = next((each for each in _STEPS if length / each <= _MOST_TICKS), length)
    origin = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday: weeks begin there
    first = origin + -((origin - span.begin) // step) * step
    found = []
    while first < span.end:
        found.append((first, _label(first, step, span)))
        first += step
    return found


def _label(at: datetime, step: timedelta, span: Span) -> str:
    if step < _DAY and (at.hour, at.minute) != (0, 0):
        return f"{at:%H:%M}"
    is_long = span.end - span.begin > 300 * _DAY
    return f"{at:%b %Y}" if is_long else f"{at.day} {at:%b}"


def _legend(states: set[KeyState]) -> Element:
    items = [
        el("li", _swatch(state), meaning) for state, meaning in _MEANINGS.items() if state in states
    ]
    planned = el("li", _swatch(KeyState.ACTIVE, " planned"), "paler: as planned")
    return el("figcaption", el("ul", *items, planned, el("li", "times are UTC"), class_="legend"))


def _swatch(state: KeyState, more: str = "") -> Element:
    y, height = _SHAPES[state]
    bar = el("rect", x=1, y=y, width=20, height=height, class_=f"{state}{more}")
    mark = _cross(50.0) if state is KeyState.REVOKED else None
    return el("svg", bar, mark, width=22, height=_LANE, class_="swatch", aria_hidden="true")
