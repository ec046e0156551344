"""The benchmark of refresh spikes works, can go red, and wrote what the page says."""

import re
import shutil
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks import refresh_spike as bench
from benchmarks import refresh_spike_changes as changes
from benchmarks import refresh_spike_days as days
from benchmarks.refresh_spike import Detection
from benchmarks.refresh_spike_days import Alarm, Injected, Site, Verdict, Young

from ringkeeper.ring import Key
from ringkeeperd.spikes import Cause

SESSIONS = 150
SITE = days.SITES[0]
HOUR = 3600.0


@pytest.fixture(scope="module")
def rows() -> list[changes.Row]:
    return changes.measure(SESSIONS, seed=7)


def detection(made: Verdict, length: int = 1) -> Detection:
    by_site = {site.name: {bench.OURS: made} for site in days.SITES}
    return Detection(length, by_site, {site.name: Young(10, 0, 9, 8) for site in days.SITES})


def spike(cause: Cause = Cause.ROTATION, begin: float = HOUR) -> Injected:
    return Injected(begin, begin + 120, 3, "other", cause)


def test_nobody_refreshes_for_a_change_but_where_tokens_are_to_be_refused(
    rows: list[changes.Row],
) -> None:
    for row in rows:
        if row.scenario.goal:
            assert row.ours.after == row.our_control.after, row.scenario.name
            assert set(row.ours.reasons) == {"expired"}
        else:
            assert row.factor > 2, row.scenario.name
    refused = {row.scenario.name: set(row.ours.reasons) - {"expired"} for row in rows}
    assert refused[changes.STRICT] == {"kind_mismatch"}
    assert refused["revocation of the key that signs"] == {"revoked_kid"}


def test_their_rule_costs_nothing_at_a_scheduled_rotation_and_everything_else_much(
    rows: list[changes.Row],
) -> None:
    for row in rows:
        if row.scenario.name == changes.ROTATION:
            assert row.their_factor == 1
        else:
            assert row.their_factor > 2, row.scenario.name


def test_the_change_of_algorithm_brings_another_algorithm() -> None:
    fleet = changes._algorithm(changes.Keys())
    algorithms = []
    for seconds in (-1.0, 1.0 + changes.TAKE_UP):
        fleet.advance(seconds)
        signer = fleet.held.ring.signer
        assert signer
        algorithms.append(signer.algorithm)
    assert algorithms == ["RS256", changes.OTHER_ALGORITHM]


def test_requests_are_as_many_as_the_load_makes_and_any_session_s() -> None:
    asked = changes.requests(1000, 0.0, 600.0, seed=1)
    expected = 1000 * 600 / changes.PAUSE * changes._load_then(300)
    assert len(asked) == pytest.approx(expected, rel=0.1)
    assert len({each.session for each in asked}) > 800
    assert [each.at for each in asked] == sorted(each.at for each in asked)


def test_a_fleet_that_lets_go_of_keys_too_early_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Key, "retain_for", property(lambda _: timedelta(0)))
    monkeypatch.setattr(changes, "SCENARIOS", changes.SCENARIOS[:1])
    (row,) = changes.measure(SESSIONS, seed=7)
    assert row.factor > 2
    assert row.ours.reasons["unknown_kid"] > SESSIONS / 2
    assert "| 1.05, MISSED |" in bench.table_of_changes([row], SESSIONS)


def test_a_change_that_is_none_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = changes.Scenario("nothing", changes._fleet, changes.SuperTokens, 1.05)
    monkeypatch.setattr(changes, "SCENARIOS", (idle,))
    with pytest.raises(AssertionError, match="a change that was none"):
        changes.measure(5, seed=7)


def test_spikes_of_a_day_are_found() -> None:
    made = days.watch(SITE, 1, seed=7)
    ours = made[bench.OURS]
    assert sum(map(len, ours.found.values())) >= 9
    assert ours.false_attributions == 0
    assert len(made) == 3
    young = days.young(SITE, 20, seed=7)
    assert (young.changes, young.spikes, young.false_attributions) == (20, 20, 0)
    assert young.found > 10


@pytest.mark.parametrize(
    ("alarms", "found", "false_alarms", "false_attributions"),
    [
        ([], 0, 0, 0),
        ([Alarm(HOUR + 20, Cause.ROTATION)], 1, 0, 0),
        ([Alarm(HOUR + 20, Cause.UNATTRIBUTED)], 1, 0, 0),
        ([Alarm(HOUR + 20, Cause.FAILOVER)], 1, 0, 1),
        ([Alarm(HOUR - 20, Cause.UNATTRIBUTED)], 0, 1, 0),
        ([Alarm(HOUR - 20, Cause.ROTATION)], 0, 1, 1),
        ([Alarm(HOUR + 200, Cause.ROTATION)], 0, 1, 1),
    ],
)
def test_alarms_are_laid_beside_what_happened(
    alarms: list[Alarm], found: int, false_alarms: int, false_attributions: int
) -> None:
    made = days.verdict(SITE, [spike()], alarms)
    assert len(made.found[3]) == found
    assert made.missed[3] == 1 - found
    assert made.false_alarms == false_alarms
    assert made.false_attributions == false_attributions


def test_missed_goals_of_detection_are_told() -> None:
    alarms = [Alarm(HOUR * 9, Cause.ROTATION), Alarm(HOUR * 10, Cause.UNATTRIBUTED)]
    text = bench.table_of_detection(detection(days.verdict(SITE, [spike()], alarms)))
    assert text.count("MISSED") == 3
    alarms = [Alarm(HOUR + 20, Cause.ROTATION)]
    text = bench.table_of_detection(detection(days.verdict(SITE, [spike()], alarms)))
    assert text.count("| met |") == 3


def test_what_is_told_of_a_bucket_grows_to_the_whole_of_it() -> None:
    parts = [days._told(0, 10, age) for age in (0, *days.LOOKS)]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)
    late = Injected(105.0, 200.0, 3, "other", Cause.ROTATION)
    assert late.part(10, 99.0) == pytest.approx(0.5)
    assert late.part(9, 99.0) == 0
    assert Site("x", 10.0, 0.1).load(14 * HOUR) == pytest.approx(10.0)


# --- the page ------------------------------------------------------------------------------------


def written(part: str, page: Path = bench.PAGE) -> str:
    text = page.read_text("utf-8")
    begin = f"<!-- {part}: written by {bench.COMMAND} -->\n"
    return text.partition(begin)[2].partition(f"\n<!-- /{part} -->")[0]


def test_the_command_writes_the_tables_and_the_picture(
    rows: list[changes.Row], tmp_path: Path
) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "page.svg"
    shutil.copy(bench.PAGE, page)
    found = detection(days.verdict(SITE, [spike()], [Alarm(HOUR + 20, Cause.ROTATION)]))
    bench.keep(rows, found, SESSIONS, page, picture)
    assert written("changes", page) == bench.table_of_changes(rows, SESSIONS)
    assert written("detection", page) == bench.table_of_detection(found)
    root = ET.fromstring(picture.read_text("utf-8"))  # noqa: S314 - it is ours
    lines = [each for each in root.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 2 * len(rows)


def test_the_page_holds_what_a_whole_run_measured() -> None:
    text = written("changes")
    assert text.startswith("100,000 sessions.\n")
    for scenario in changes.SCENARIOS:
        (line,) = (each for each in text.splitlines() if each.startswith(f"| {scenario.name} |"))
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        factor = float(cells[2].strip("*"))
        verdict = bench.verdict(is_met=factor <= scenario.goal) if scenario.goal else ""
        assert cells[3].endswith(verdict), line
    text = written("detection")
    assert text.startswith("30 days of each site")
    for site in days.SITES:
        found = re.findall(rf"^\| {site.name} \| ([^|]+?) \|", text, re.MULTILINE)
        assert found[:3] == [bench.OURS, days.ewma().name, days.times_median().name]
    panels = bench.PICTURE.read_text("utf-8").count("<polyline")
    assert panels == 2 * len(changes.SCENARIOS)


def test_a_short_run_is_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--quick", "--write"])
    assert "--write keeps what the whole run measures" in capsys.readouterr().err
