"""The session refreshes of the last hour: how many, what is usual, what happened. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ringkeeper.layout import BUCKET
from ringkeeperd.page.axis import Span
from ringkeeperd.page.html import el, moment
from ringkeeperd.spike_events import begin_of
from ringkeeperd.words import spike_told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from xml.etree.ElementTree import Element

    from ringkeeperd.refresh_series import RefreshView
    from ringkeeperd.spikes import Change, Spike

_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(minutes=15)
_TOP: Final = 22
_HEIGHT: Final = 96
_MARKED_MOST: Final = 20
_ROOM: Final = 16
"""Percent of the width that the label of a mark needs."""


def drawn(view: RefreshView, now: datetime) -> list[Element]:
    """What is known of the refreshes, in words and as a picture."""
    said = told(view, now)
    totals = [bucket.total for bucket in view.buckets[:-1]]  # the newest one still grows
    if not any(totals):
        return [el("p", said)]
    span = Span(now - _HOUR, now)
    changes = sorted(c for c in view.changes if begin_of(c.bucket) >= span.begin)[-_MARKED_MOST:]
    label = f"Session refreshes of the last hour. {said}"
    picture = _picture(view, totals, changes, span)
    marks = [
        el("li", moment(begin_of(change.bucket), "%H:%M:%S"), f" {_cause(change)}")
        for change in reversed(changes)
    ]
    return [
        el("p", said),
        el("div", picture, class_="chart", role="img", aria_label=label),
        *([el("ol", *marks, class_="marks")] if marks else []),
    ]


def told(view: RefreshView, now: datetime) -> str:
    """The rate of now, what is usual, and the newest spike."""
    if not any(bucket.counts for bucket in view.buckets):
        return "None was counted in the last hour."
    baseline = view.baseline
    usual = "what is usual is not known yet" if baseline is None else f"{_rate(baseline)} are usual"
    text = f"{_rate(view.rate)} a second; {usual}."
    return f"{text} Newest spike: {spike_told(view.spike, now)}." if view.spike else text


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"  # noqa: PLR2004 - three digits


def _cause(change: Change) -> str:
    return change.cause.value.replace("_", " ")


def _picture(
    view: RefreshView, totals: Sequence[int], changes: Sequence[Change], span: Span
) -> Element:
    baseline, most = view.baseline, max(totals)
    usual = (baseline or 0.0) * BUCKET
    top = max(most, usual) * 1.1
    parts: list[Element] = [*_ticks(span)]
    if view.spike:
        parts += _band(view.spike, span)
    parts.append(_area(begin_of(view.buckets[0].number), totals, top, span))
    if baseline is not None:
        y = _TOP + _HEIGHT * (1 - usual / top)
        parts.append(el("line", x1="0", x2="100%", y1=y, y2=y, class_="usual"))
        parts.append(el("text", "usual", x=2, y=y - 5, class_="label"))
    parts += _marks(changes, span)
    parts.append(el("text", f"{_rate(most / BUCKET)} a second", x=2, y=14, class_="label"))
    return el("svg", *parts, width="100%", height=_TOP + _HEIGHT + 20)


def _area(begin: datetime, totals: Sequence[int], top: float, span: Span) -> Element:
    """Steps: a bucket is a count, and between two there is nothing. In seconds, by a thousand."""
    length = (span.end - span.begin).total_seconds()
    first = (begin - span.begin).total_seconds()
    steps = "".join(f"V{1000 - 1000 * total / top:.0f}h{BUCKET}" for total in totals)
    return el(
        "svg",
        el("path", d=f"M{first:.0f} 1000{steps}V1000Z", class_="area"),
        x="0",
        y=_TOP,
        width="100%",
        height=_HEIGHT,
        viewBox=f"0 0 {length:.0f} 1000",
        preserveAspectRatio="none",
    )


def _band(spike: Spike, span: Span) -> Iterator[Element]:
    left, right = span.place(begin_of(spike.first)), span.place(begin_of(spike.last + 1))
    if right > left:
        width = f"{right - left:.2f}%"
        yield el("rect", x=f"{left}%", y=_TOP, width=width, height=_HEIGHT, class_="spike")


def _marks(changes: Sequence[Change], span: Span) -> Iterator[Element]:
    """A line at each change, and its cause in words where there is room."""
    free_from = 24.0  # before that stands the scale
    for change in changes:
        place = span.place(begin_of(change.bucket))
        at = f"{place}%"
        yield el("line", x1=at, x2=at, y1=_TOP - 6, y2=_TOP + _HEIGHT, class_="change")
        yield el("circle", cx=at, cy=_TOP - 6, r=3, class_="change")
        side = "end" if place > 100 - _ROOM else "start"
        left = place - _ROOM if side == "end" else place
        if left >= free_from:
            dx = -6 if side == "end" else 6
            yield el("text", _cause(change), x=at, y=14, dx=dx, text_anchor=side, class_="change")
            free_from = left + _ROOM + 1


def _ticks(span: Span) -> Iterator[Element]:
    bottom = _TOP + _HEIGHT
    yield el("line", x1="0", x2="100%", y1=bottom, y2=bottom, class_="ground")
    at = span.begin.replace(minute=0, second=0, microsecond=0)
    while at < span.end:
        if at > span.begin:
            place = f"{span.place(at)}%"
            yield el("line", x1=place, x2=place, y1=bottom, y2=bottom + 5, class_="ground")
            if span.place(at) < 90:  # noqa: PLR2004 - else its label would stand out
                yield el("text", f"{at:%H:%M}", x=place, y=bottom + 15, dx=4, class_="label")
        at += _TICK
