"""What the status page draws of plain values: the truth, in words and to scale, and never markup."""

from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from ringkeeper.ring import KeyKind, KeyState
from ringkeeperd.page import axis, chart
from ringkeeperd.page.document import rendered
from ringkeeperd.page.html import el, written
from ringkeeperd.page.view import PageView
from ringkeeperd.refresh_series import RefreshView
from ringkeeperd.rotation import activation_at
from ringkeeperd.spikes import Bucket
from ringkeeperd.words import Outlook
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, new_ring, policy
from tests.core.views import (
    DAY,
    LATER,
    event,
    instances,
    lived,
    page_view,
    refreshes,
    ring_view,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "\"' onmouseover=alert(1) style='x",
    "--></style></svg><img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp;",
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} 1",
    "a" * 10_000,
)
_VOID = {"meta", "link"}


class Read(HTMLParser):
    """A page as a browser reads it."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def shown(view: PageView) -> str:
    return Read(rendered(view)).text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_shown_as_text_wherever_it_stands(text: str) -> None:
    hostile = ring_view(
        lived(),
        LATER,
        name=text,
        leader=text,
        instances=instances((text,)),
        events=(event(LATER, text, kid=text, reason=text),),
    )
    plain = Read(rendered(page_view(ring_view(lived(), LATER, instances=instances(("app",))))))
    found = Read(rendered(page_view(hostile, concerns=(text,), others=(text,))))
    assert found.text.count(text) >= 7
    assert len(found.all("script")) == len(plain.all("script")) == 1
    assert found.all("img") == []
    known = {name for _, attributes in plain.elements for name in attributes}
    assert {name for _, attributes in found.elements for name in attributes} == known
    assert not [name for name in known if name.startswith("on") or name == "style"]


def test_the_page_brings_nothing_from_elsewhere_and_no_script_of_its_own() -> None:
    page = Read(rendered(page_view(ring_view(lived(), LATER))))
    links = [each.get("href") or each.get("src") or "" for _, each in page.elements]
    assert {link for link in links if link} >= {"/status.css", "/status.js", "data:,", "/metrics"}
    assert [link for link in links if link and not link.startswith(("/", "data:,"))] == []
    assert [each["content"] for each in page.all("meta") if "http-equiv" in each] == ["30"]


def test_the_other_rings_come_before_those_that_are_shown_whole() -> None:
    """Who has many looks for one of them."""
    view = page_view(ring_view(lived(), LATER), others=("orders", "billing"))
    page = Read(rendered(view))
    tags = [tag for tag, _ in page.elements]
    assert tags.index("nav") < tags.index("dl")
    assert {"/?ring=orders", "/?ring=billing"} <= {a["href"] for a in page.all("a")}


def test_no_line_runs_through_a_label_of_the_axis() -> None:
    for hours in range(0, 24 * 7, 5):
        now = LATER + hours * HOUR
        outlook = Outlook(lived(now), now, True, False)
        page = Read(written(el("html", axis.drawn(outlook, "t"))))
        crossing = [
            float((a["x1"] or "").rstrip("%"))
            for a in page.all("line")
            if a["class"] in ("now", "next")
        ]
        labels = [
            float((a["x"] or "").rstrip("%"))
            for a in page.all("text")
            if (a["class"] or "").startswith("label")
        ]
        assert labels
        assert len(crossing) == 2
        assert not [1 for label in labels for line in crossing if 0 <= line - label < 10]


def test_every_key_is_told_in_words_with_what_becomes_of_it() -> None:
    ring, text = lived(), shown(page_view(ring_view(lived(), LATER)))
    for key in lived().keys:
        state = key.state.value
        assert key.kind.value in text
        assert state in text
    assert "next change in 6d 19h" in text
    assert "goes in 20h 2m" in text
    assert {key.state for key in ring.keys} == {
        KeyState.ACTIVE,
        KeyState.PUBLISHED,
        KeyState.REVOKED,
    }


def test_all_is_well_or_it_is_said_what_is_not() -> None:
    calm, worried = page_view(ring_view(lived(), LATER)), ("ring r: Redis does not answer",)
    assert "All is well." in shown(calm)
    text = shown(replace(calm, concerns=worried))
    assert "All is well." not in text
    assert worried[0] in text
    assert "ringkeeper: 1 to look at" in text


def test_what_only_the_leader_knows_is_not_made_up_by_others() -> None:
    ring = ring_view(
        lived(), LATER, leader="another daemon", instances=None, refreshes=None, events=None
    )
    assert shown(page_view(ring)).count("The leader knows") == 3
    empty = ring_view(lived(), LATER, instances=instances(()), refreshes=RefreshView(), events=())
    text = shown(page_view(empty))
    assert "No live instance has been heard of yet." in text
    assert "None was counted in the last hour." in text
    assert "None is known." in text


def test_a_ring_that_is_not_loaded_is_told_and_the_others_are_shown() -> None:
    lost = ring_view(lived(), LATER, outlook=None, trouble="Redis holds no such ring", name="lost")
    text = shown(page_view(lost, ring_view(lived(), LATER)))
    assert "The ring is not loaded yet." in text
    assert "needs a look" in text
    assert "next change in 6d 19h" in text


def test_among_many_rings_the_first_ones_are_open_and_each_can_be_told_apart() -> None:
    many = page_view(*(ring_view(lived(), LATER, name=f"r{n}") for n in range(5)), others=("r5",))
    page = Read(rendered(many))
    assert ["open" in each for each in page.all("details")] == [True] * 3 + [False] * 2
    ids = [each["id"] for _, each in page.elements if each.get("id")]
    assert len(ids) == len(set(ids))
    assert {"href": "/?ring=r5"} in page.all("a")


def test_more_instances_than_are_shown_are_counted() -> None:
    some = instances(f"app-{n}" for n in range(20))
    text = shown(page_view(ring_view(lived(), LATER, instances=replace(some, count=500))))
    assert (
        "500 live instances, 1 behind, as of 05:00:00. 20 are shown, and there are 480 more."
        in text
    )


# --- the axis ------------------------------------------------------------------------------------


def outlook(now: datetime = LATER) -> Outlook:
    return Outlook(lived(now), now, is_led=True, is_awaited=False)


def test_a_key_s_life_is_cut_at_the_present_and_goes_on_as_planned() -> None:
    seen = outlook()
    ring, now = seen.ring, seen.now
    signer, standby, at = ring.signer, ring.standby, activation_at(ring)
    assert signer and signer.activated_at and standby and at
    end = now + 30 * DAY
    assert [tuple(each) for each in axis.stretches(signer, seen, end)] == [
        (KeyState.PUBLISHED, signer.published_at, signer.activated_at, False),
        (KeyState.ACTIVE, signer.activated_at, now, False),
        (KeyState.ACTIVE, now, at, True),
        (KeyState.RETIRED, at, at + signer.retain_for, True),
    ]
    assert [tuple(each) for each in axis.stretches(standby, seen, end)] == [
        (KeyState.PUBLISHED, standby.published_at, now, False),
        (KeyState.PUBLISHED, now, at, True),
        (KeyState.ACTIVE, at, end, True),
    ]
    (revoked,) = ring.in_state(KeyState.REVOKED)
    assert revoked.revoked_at and revoked.remove_at
    assert [tuple(each) for each in axis.stretches(revoked, seen, end)][-2:] == [
        (KeyState.REVOKED, revoked.revoked_at, now, False),
        (KeyState.REVOKED, now, revoked.remove_at, True),
    ]
    (static,) = [key for key in ring.keys if key.kind is KeyKind.STATIC]
    assert axis.stretches(static, seen, end)[-1] == (KeyState.ACTIVE, now, end, True)


def test_a_turn_that_is_overdue_is_drawn_at_the_present_and_not_before() -> None:
    ring = new_ring()
    now = NOW + 8 * DAY
    late = Outlook(ring, now, is_led=False, is_awaited=False)
    assert ring.signer and ring.standby
    states = [
        (each.state, each.is_planned) for each in axis.stretches(ring.signer, late, now + DAY)
    ]
    assert states == [(KeyState.ACTIVE, False), (KeyState.RETIRED, True)]
    assert "next change when somebody leads" in shown(
        page_view(ring_view(ring, now, outlook=late), now=now)
    )


@pytest.mark.parametrize(
    ("hours", "age"),
    [(1 / 60, 10 * SECOND), (1, 5 * MINUTE), (24, 3 * HOUR), (168, 5 * DAY), (8760, 300 * DAY)],
)
def test_the_axis_shows_the_present_and_the_next_change_with_room_for_both(
    hours: float, age: timedelta
) -> None:
    rules = policy(
        cryptoperiod=timedelta(hours=hours),
        publication_interval=timedelta(hours=hours / 4),
        access_token_validity=timedelta(hours=hours / 10),
        clock_skew=SECOND,
    )
    now = NOW + age
    seen = Outlook(new_ring(rules), now, is_led=True, is_awaited=False)
    span, at = axis.span_of(seen), activation_at(seen.ring)
    assert at
    assert 5 < span.place(now) < 95
    assert span.place(now) < span.place(at) < 100
    ticks = axis.ticks(span)
    assert 2 <= len(ticks) <= 9
    assert all(span.begin <= each <= span.end for each, _ in ticks)
    assert all(former[1] != latter[1] for former, latter in pairwise(ticks))


def test_a_key_that_stays_leaves_room_for_those_that_turn() -> None:
    seen = outlook(NOW + 200 * DAY)
    (static,) = [key for key in seen.ring.keys if key.kind is KeyKind.STATIC]
    assert static.published_at == NOW
    span = axis.span_of(seen)
    assert span.begin > seen.now - 30 * DAY
    assert span.place(static.published_at) == 0


def test_what_lies_beyond_the_axis_is_at_its_edge() -> None:
    span = axis.Span(NOW, NOW + HOUR)
    assert [span.place(NOW + n * HOUR) for n in (-5, 0, 0.25, 1, 7)] == [0, 0, 25, 100, 100]


# --- refreshes -----------------------------------------------------------------------------------


def test_refreshes_are_told_in_words_and_drawn_with_what_happened() -> None:
    view = refreshes(LATER)
    words = chart.told(view, LATER)
    assert "are usual" in words
    assert "cause: revocation" in words
    page = Read(rendered(page_view(ring_view(lived(), LATER, refreshes=view))))
    assert len([each for each in page.all("rect") if each.get("class") == "spike"]) == 1
    assert len([each for each in page.all("circle") if each.get("class") == "change"]) == 2
    for cause in ("rotation", "revocation"):
        assert page.text.count(cause) >= 2


def test_marks_that_stand_close_are_not_written_over_one_another() -> None:
    view = refreshes(LATER)
    first = view.changes[0]
    crowd = tuple(first._replace(bucket=first.bucket + n) for n in range(10))
    page = Read(
        rendered(page_view(ring_view(lived(), LATER, refreshes=replace(view, changes=crowd))))
    )
    assert len([each for each in page.all("circle") if each.get("class") == "change"]) == 10
    assert len([each for each in page.all("text") if each.get("class") == "change"]) == 1


def test_what_is_not_known_of_refreshes_is_not_made_up() -> None:
    few = RefreshView((Bucket(1, {}), Bucket(2, {"expired": 10}), Bucket(3, {})))
    assert "what is usual is not known yet" in chart.told(few, NOW)
    assert chart.told(RefreshView((Bucket(1, {}),)), NOW) == "None was counted in the last hour."
