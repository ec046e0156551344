"""The status page as a document: from plain values to HTML, the same for the same values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringkeeperd.page import axis, chart
from ringkeeperd.page.html import code, el, moment, written
from ringkeeperd.rotation import activation_at
from ringkeeperd.words import age, next_change, ordered, since, turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from xml.etree.ElementTree import Element

    from ringkeeperd.page.html import Child
    from ringkeeperd.page.view import EventRow, InstanceRow, InstancesView, PageView, RingView
    from ringkeeperd.words import Outlook

_RELOAD: Final = 30
"""Seconds between two looks where no script runs."""
_OPEN: Final = 3
"""Rings of many that are shown opened."""
_ELSEWHERE: Final = "The leader knows; this daemon follows."


def rendered(view: PageView) -> bytes:
    """The whole page."""
    return written(el("html", _head(view), _body(view), lang="en"))


def _head(view: PageView) -> Element:
    reload = el("meta", http_equiv="refresh", content=_RELOAD)
    state = f"{len(view.concerns)} to look at" if view.concerns else "all is well"
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"ringkeeper: {state}"),
        el("link", rel="icon", href="data:,"),
        el("link", rel="stylesheet", href="/status.css"),
        el("script", src="/status.js", defer=""),
        el("noscript", reload),
    )


def _body(view: PageView) -> Element:
    heading = el(
        "header",
        el("h1", el("a", "ringkeeper", href="/")),
        el("p", "as of ", moment(view.now), " UTC", class_="asof"),
        el("p", id="connection", role="status"),
    )
    rings = [_ring(ring, number, view) for number, ring in enumerate(view.rings)]
    content = el("main", _verdict(view), _others(view), *rings, id="main")
    return el("body", heading, content, _footer(view))


def _verdict(view: PageView) -> Element:
    if not view.concerns:
        return el("p", "All is well.", class_="verdict")
    items = [el("li", concern) for concern in view.concerns]
    title = el("h2", "To look at")
    return el("section", title, el("ul", *items), class_="concerns", aria_label="To look at")


def _others(view: PageView) -> Element | None:
    if not view.others:
        return None
    links = [el("li", el("a", name, href=f"/?ring={name}")) for name in view.others]
    return el("nav", el("h2", "Other rings"), el("ul", *links), aria_label="Other rings")


def _footer(view: PageView) -> Element:
    items = [
        el("li", _place(path), el("span", told, class_="told"))
        for path, told in view.places.items()
    ]
    return el("footer", el("h2", "Also here"), el("ul", *items, class_="places"))


def _place(path: str) -> Element:
    return el("code", path) if "{" in path else el("a", path, href=path)


# --- one ring ------------------------------------------------------------------------------------


def _ring(ring: RingView, number: int, view: PageView) -> Element:
    """A ring; among many, one that can be closed."""
    name = f"ring-{ring.name}"
    title = el("h2", el("span", "ring ", class_="kind"), ring.name, id=name)
    content = _content(ring, view)
    if len(view.rings) == 1:
        return el("section", title, *content, class_="ring", aria_labelledby=name)
    short = el("span", _in_short(ring), class_="short")
    is_open = "" if number < _OPEN else None
    summary = el("summary", title, short, id=f"{name}-summary")
    details = el("details", summary, *content, id=f"{name}-details", open=is_open)
    return el("section", details, class_="ring", aria_labelledby=name)


def _in_short(ring: RingView) -> str:
    if ring.trouble or ring.outlook is None:
        return "needs a look"
    return f"next change {turn(ring.outlook)}"


def _content(ring: RingView, view: PageView) -> list[Element]:
    if ring.outlook is None:
        return [el("p", "The ring is not loaded yet.")]
    table = f"keys-{ring.name}"
    return [
        _facts(ring, ring.outlook),
        _part("Keys", axis.drawn(ring.outlook, table), _keys(ring.outlook, table)),
        _part("Session refreshes", *_refreshes(ring, view)),
        _part("Instances", *_instances(ring)),
        _part("Last events", *_events(ring.events)),
    ]


def _part(title: str, *content: Child) -> Element:
    kind = title.lower().replace(" ", "-")
    return el("section", el("h3", title), *content, class_=f"part {kind}")


def _facts(ring: RingView, outlook: Outlook) -> Element:
    held, signer = outlook.ring, outlook.ring.signer
    facts: list[tuple[str, list[Child]]] = [
        ("Next change", _next(ring, outlook)),
        ("Signs now", [code(signer.kid) if signer else "nothing"]),
        ("Leader", [ring.leader]),
        ("Version", [f"{held.version}", _small(f"epoch {held.epoch}")]),
        ("Proof of freshness", [f"{age(ring.proof_age)} old"]),
    ]
    if ring.instances:
        behind = f"{ring.instances.behind or 'none'} behind"
        facts.append(("Instances", [f"{ring.instances.count}", _small(behind)]))
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", *what)) for name, what in facts),
        class_="facts",
    )


def _next(ring: RingView, outlook: Outlook) -> list[Child]:
    at = activation_at(outlook.ring)
    words: list[Child] = [turn(outlook)]
    if at and at > outlook.now:
        words.append(el("small", moment(at, "%Y-%m-%d %H:%M"), " UTC"))
    if ring.awaited:
        words.append(_small(f"waits for {ring.awaited} to confirm"))
    return words


def _small(text: str) -> Element:
    return el("small", text)


def _keys(outlook: Outlook, name: str) -> Element:
    ring, now = outlook.ring, outlook.now
    rows = [
        [
            code(key.kid),
            key.kind.value,
            key.algorithm,
            el("span", key.state.value, class_=f"state {key.state}"),
            age(now - since(key)),
            next_change(key, outlook),
        ]
        for key in ordered(ring)
    ]
    return _table(("key", "kind", "algorithm", "state", "for", "next change"), rows, id_=name)


def _refreshes(ring: RingView, view: PageView) -> Sequence[Element]:
    if ring.refreshes is None:
        return [el("p", _ELSEWHERE, class_="calm")]
    return chart.drawn(ring.refreshes, view.now)


def _instances(ring: RingView) -> list[Element]:
    seen = ring.instances
    if seen is None:
        return [el("p", _ELSEWHERE, class_="calm")]
    if not seen.count:
        return [el("p", "No live instance has been heard of yet.", class_="calm")]
    is_named = any(row.name for row in seen.shown)
    columns = ("instance", "role", "version", "", "last heard of")
    rows = [_instance(row, is_named=is_named) for row in seen.shown]
    parts = [_table(columns if is_named else columns[1:], rows)]
    if not is_named:
        parts.append(
            el("p", "Names are shown to who looks from this daemon's host.", class_="calm")
        )
    return [_count(seen), *parts]


def _count(seen: InstancesView) -> Element:
    more = seen.count - len(seen.shown)
    what = "live instance" if seen.count == 1 else "live instances"
    shown = f" {len(seen.shown)} are shown, and there are {more} more." if more else ""
    told = f"{seen.count} {what}, {seen.behind or 'none'} behind, as of "
    return el("p", told, moment(seen.at, "%H:%M:%S"), f".{shown}")


def _instance(row: InstanceRow, *, is_named: bool) -> list[Child]:
    behind = el("span", "behind", class_="behind") if row.is_behind else "up to date"
    heard = moment(row.heard_at, "%H:%M:%S")
    cells: list[Child] = [el("bdi", row.role), f"{row.version}", behind, heard]
    return [code(row.name), *cells] if is_named else cells


def _events(events: Iterable[EventRow] | None) -> list[Element]:
    if events is None:
        return [el("p", _ELSEWHERE, class_="calm")]
    rows = [
        el(
            "li",
            moment(row.at),
            el("span", el("bdi", row.name), class_="what"),
            el("span", code(row.kid) if row.kid else None, *_fields(row), class_="about"),
        )
        for row in events
    ]
    return [el("ol", *rows, class_="events") if rows else el("p", "None is known.", class_="calm")]


def _fields(row: EventRow) -> list[Element]:
    return [
        el("span", f"{name.replace('_', ' ')} ", el("bdi", text), class_="field")
        for name, text in row.fields
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Child]], id_: str = "") -> Element:
    """A table that stays one for who listens, though a phone shows its rows one below the other."""
    heads = [el("th", column or "state", role="columnheader", scope="col") for column in columns]
    head = el("thead", el("tr", *heads, role="row"), role="rowgroup")
    lines = [
        el(
            "tr",
            *(
                el("td", cell, role="cell", data_label=column)
                for column, cell in zip(columns, row, strict=True)
            ),
            role="row",
        )
        for row in rows
    ]
    body = el("tbody", *lines, role="rowgroup")
    return el("table", head, body, role="table", id=id_ or None)
