"""What the benchmarks write: the picture, and docs/performance.md."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks import __main__ as bench
from benchmarks import fanout, growth, ladder, opening, report, starting
from benchmarks.goals import GOALS
from benchmarks.peers import JOSERFC, PYJWK_CLIENT, PYJWT
from benchmarks.picture import HEIGHT, WIDTH, Panel, drawn, ticks
from benchmarks.rounds import Spread, plain
from benchmarks.stand import CAREFUL, OURS, RAW, SEEN
from benchmarks.waiting import POLLER

SVG = "{http://www.w3.org/2000/svg}"
PANEL = Panel(
    "Cost & <effect>", "things", "ms", {"a": [(1, 2.0), (10, 20.0), (100, 200.0)], "b": [(1, 5.0)]}
)


def one(value: float = 2.0) -> Spread:
    return Spread(value, value / 2, value * 2)


def of(*names: str) -> dict[str, Spread]:
    return {name: one() for name in names}


def both(*names: str) -> dict[str, Any]:
    return {"ratio": of(*names), "us": of(*names)}


@pytest.fixture
def found() -> dict[str, Any]:
    """As if all had been measured."""
    verify = both(RAW, CAREFUL, OURS, PYJWT, JOSERFC, SEEN)
    sign = both(RAW, CAREFUL, OURS, PYJWT, JOSERFC)
    traffic = {
        "times_faster_than": of(PYJWT, JOSERFC), "new_share": 0.05, "miss_share": 0.06, "cache_mb": 29.0,
        "sessions": 10_000, "fastest_peer": JOSERFC,
        "fastest": one(),
    }  # fmt: skip
    wait = {name: {"mean_s": 1.0, "s": one()} for name in (OURS, POLLER, PYJWK_CLIENT)}
    published = {
        size: {
            "real": 1, "ms": of(fanout.RAW, fanout.REDIS_PY, OURS),
            "ratio": of(fanout.RAW, fanout.REDIS_PY, OURS),
        }
        for size in fanout.SIZES
    }  # fmt: skip
    rings = {"rss_mb": 60, "private_mb": 40, "cpu_percent": 0.1, "commands_a_second": 1.0}
    return {
        "machine": {
            "cores": 2, "system": "Linux", "python": "3.11.7", "valkey": "9.1", "load_before": 0.1, "load_after": 1.2,
        },
        "versions": {"pyjwt": "2.15.1", "joserfc": "1.8.0"},
        "command": "make bench",
        "seconds": 500.0,
        "verify": dict.fromkeys(("RS256", "PS256", "ES256", "EdDSA"), verify),
        "sign": dict.fromkeys(("RS256", "PS256", "ES256", "EdDSA"), sign),
        "traffic": dict.fromkeys(("RS256", "ES256"), traffic),
        "wide_traffic": {**traffic, "sessions": 100_000},
        "crowd": {10_000: {"redis_cpu_percent": 3.0, "commands_a_second_an_instance": 0.3}},
        "ladder": dict.fromkeys(("RS256", "ES256"), of(*ladder.RUNGS[1:])),
        "threads": {"gain": of(RAW, OURS)},
        "fanout": published,
        "waits": {"interval_s": 300.0, "each": 20, "fresh": wait, "revoked": wait},
        "opening": {
            "ms": {n: of(opening.NOTHING, OURS, opening.HERE, JOSERFC) for n in opening.KEYS}
        },
        "rest": {
            "daemon": of("rss_mb", "private_mb", "cpu_ms_a_minute"),
            "server": of("rss_mb", "cpu_ms_a_minute"),
            "apps": of("commands_a_second"),
        },
        "start": {"ms": of(starting.OURS, starting.IMPORTS)},
        "import": {"ratio": of(OURS), "ms": of(OURS), "added_mb": of(OURS)},
        "rings": {1: rings, 1_000: rings | {"cpu_percent": 0.0}},
        "keys": {
            keys: {"message_bytes": 3_000, **both(RAW, OURS, PYJWK_CLIENT, growth.KEY_SET)}
            for keys in growth.KEYS
        },
        "payload": {size: {"verify": verify, "sign": sign} for size in growth.PAYLOADS},
    }  # fmt: skip


# --- the picture -----------------------------------------------------------------------------------


def test_the_picture_is_an_svg_without_scripts_for_light_and_dark() -> None:
    text = drawn("Costs & more", [PANEL])
    root = ET.fromstring(text)  # noqa: S314 - it is ours
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == "Costs & more"
    assert not [each for each in root.iter() if each.tag.removeprefix(SVG) == "script"]
    assert "prefers-color-scheme: dark" in text
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_is_drawn_is_told_in_words() -> None:
    root = ET.fromstring(drawn("Costs", [PANEL]))  # noqa: S314
    words = "Cost & <effect>, ms by things: a 2 at 1, 200 at 100; b 5 at 1, 5 at 1."
    assert root.findtext(f"{SVG}desc") == words


def test_curves_lie_where_their_values_are() -> None:
    """Ten times as much is as far up as ten times as many are to the right, within the field."""
    root = ET.fromstring(drawn("Costs", [PANEL]))  # noqa: S314
    line, alone = root.findall(f"{SVG}polyline")
    (x1, y1), (x2, y2), (x3, y3) = (
        tuple(map(float, point.split(","))) for point in line.attrib["points"].split()
    )
    assert 0 < x3 - x1 < WIDTH
    assert 0 < y1 - y3 < HEIGHT
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y2 < float(alone.attrib["points"].split(",")[1]) < y1
    assert line.attrib["class"] != alone.attrib["class"]
    assert line.attrib["stroke-dasharray"] != alone.attrib["stroke-dasharray"]


def test_nothing_is_drawn_outside_of_the_picture(found: dict[str, Any]) -> None:
    root = ET.fromstring(drawn("Costs", report.panels(found)))  # noqa: S314
    wide, high = (float(root.attrib[name]) for name in ("width", "height"))
    for each in root.iter():
        for name, most in (("x", wide), ("x2", wide), ("cx", wide), ("y", high), ("cy", high)):
            assert 0 <= float(each.attrib.get(name, 0)) <= most


@pytest.mark.parametrize(
    ("low", "high", "there"),
    [
        (0.9, 11_000, [1, 10, 100, 1_000, 10_000]),
        (80, 150, [80, 100, 150]),
        (1.9, 33, [3, 10, 30]),
        (1.5, 2.9, [1.5, 2]),
        (1.1, 1.4, [1.2]),
    ],
)
def test_ticks_are_round_and_at_least_three(low: float, high: float, there: list[float]) -> None:
    found = ticks(low, high)
    assert len(found) >= 3
    assert all(low <= each <= high for each in found)
    assert set(there) <= {round(each, 6) for each in found}


# --- the page --------------------------------------------------------------------------------------


def test_the_page_is_written_between_its_marks(tmp_path: Path, found: dict[str, Any]) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "page.svg"
    shutil.copy(bench.PAGE, page)
    bench.keep(found, page, picture)
    text = page.read_text()
    for goal in GOALS:
        assert f"| {goal.title}" in text
    assert "pyjwt 2.15.1" in text
    assert "`make bench`" in text
    assert "when it ended: 1.2" in text
    assert "MISSED" in text
    assert "| Verify, times the raw primitive |" in text
    assert "(performance.svg)" in text
    outside = re.compile(r"(<!-- (\w+): written by make bench.*?-->).*?(<!-- /\2 -->)", re.DOTALL)
    assert outside.sub(r"\1\3", text) == outside.sub(r"\1\3", bench.PAGE.read_text())
    assert picture.read_text().startswith("<svg")
    bench.keep(found, page, picture)
    assert page.read_text() == text


def test_a_number_of_instances_that_could_not_be_had_is_left_out(found: dict[str, Any]) -> None:
    found["fanout"][10_000], found["crowd"] = {}, {}
    assert "| 10,000 |" not in report.peers(found)
    assert "10,000" not in report.panels(found)[0].words
    assert "idle instances" not in report.peers(found)


def test_all_of_it_can_be_told_as_json(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(plain(found)))["fanout"]["1000"]["ratio"][OURS]["median"] == 2


def test_the_page_holds_what_a_whole_run_found() -> None:
    text = bench.PAGE.read_text()
    for goal in GOALS:
        assert f"| {goal.title}" in text, "run make bench ARGS=--write"
    root = ET.fromstring(bench.PICTURE.read_text())  # noqa: S314
    assert len(root.findall(f"{SVG}polyline")) >= 15


def test_a_quick_run_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--quick", "--write"])
    assert "--write keeps what the whole run measures" in capsys.readouterr().err
