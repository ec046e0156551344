"""The rules for Prometheus: each alert fires when it should, and not when it nearly should.

promtool plays series against the shipped rules. What real daemons tell is asked in
tests/deploy/test_prometheus.py.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringkeeper.ring import RotationReason
from ringkeeperd.troubles import KINDS
from tests.docs.alert_cases import CASES
from tests.docs.alert_stories import QUIET, STEPS, Case
from tests.docs.test_docs import commands

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus"
RUNBOOKS = ROOT / "docs/runbooks"


def groups(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load((RULES / name).read_text())["groups"]
    return loaded


ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in groups("alerts.yaml") for rule in group["rules"]
}
RECORDED = [rule for group in groups("recording.yaml") for rule in group["rules"]]


# --- promtool ------------------------------------------------------------------------------------


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: run make provision, or apt-get install prometheus")
    return subprocess.run(
        [found, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def needed(alert: str, *, waits: bool = True) -> list[dict[str, Any]]:
    """That alert, or all that match, and what they ask of the recording rules, as rules alone."""
    fired = [rule for name, rule in ALERTS.items() if re.fullmatch(alert, name)]
    asked = {name for rule in fired for name in re.findall(r"\w+:ringkeeper_\w+:\w+", rule["expr"])}
    assert asked <= {rule["record"] for rule in RECORDED}
    kept = [{k: v for k, v in rule.items() if waits or k != "for"} for rule in fired]
    return [rule for rule in RECORDED if rule["record"] in asked] + kept


def played(cases: Sequence[Case], folder: Path, *, waits: bool = True) -> str:
    """What promtool finds wrong with these stories of one alert; empty if nothing is."""
    rules = needed(cases[0].alert, waits=waits)
    # One group: an alert sees what was recorded in the same round.
    file = folder / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    stories = folder / "stories.json"
    every = f"{60 // STEPS}s"
    tests = [case.as_test() for case in cases]
    stories.write_text(
        json.dumps({"rule_files": [str(file)], "evaluation_interval": every, "tests": tests})
    )
    done = promtool("test", "rules", str(stories))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_and_the_configuration_are_what_prometheus_reads() -> None:
    done = promtool("check", "config", str(RULES / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == 2
    assert "SUCCESS" in done.stdout
    linted = promtool(
        "check", "rules", "--lint=all", "--lint-fatal",
        str(RULES / "recording.yaml"), str(RULES / "alerts.yaml"),
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_not_when_it_nearly_should(
    alert: str, tmp_path: Path
) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert any(case.fires for case in cases), "no story in which it fires"
    assert any(not case.fires for case in cases), "no story in which it nearly does"
    assert played(cases, tmp_path) == ""


@pytest.mark.parametrize("story", QUIET, ids=str)
def test_no_alert_fires_when_all_goes_as_planned(story: Case, tmp_path: Path) -> None:
    assert played([story], tmp_path) == ""


@pytest.mark.parametrize("alert", [name for name, rule in ALERTS.items() if "for" in rule])
def test_each_wait_is_one_that_a_story_needs(alert: str, tmp_path: Path) -> None:
    """Else a `for` could be lost, or a story be one that never came near."""
    nearly = [case for case in CASES if case.alert == alert and not case.fires]
    assert played(nearly, tmp_path, waits=False) != ""


def test_what_goes_as_planned_would_alert_if_nobody_waited(tmp_path: Path) -> None:
    """Else these stories show nothing."""
    for story in QUIET:
        assert played([story], tmp_path, waits=False) != "", story


# --- alerts and their pages ----------------------------------------------------------------------

PAGES = sorted(RUNBOOKS.glob("*.md"))


def test_each_alert_says_what_is_wrong_where_and_which_page_helps() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"}), name
        told = rule["annotations"]
        assert set(told) == {"summary", "description", "runbook_url"}, name
        assert (ROOT / told["runbook_url"]).is_file(), name
        is_of_all = name == "RingkeeperTargetAbsent"
        assert is_of_all or re.search(r"\$labels\.(ring|instance) ", told["summary"]), name


def test_each_page_is_of_an_alert_that_it_names() -> None:
    pages: dict[str, list[str]] = {}
    for name, rule in ALERTS.items():
        pages.setdefault(rule["annotations"]["runbook_url"], []).append(name)
    assert set(pages) == {str(page.relative_to(ROOT)) for page in PAGES}
    for page, names in pages.items():
        text = (ROOT / page).read_text()
        assert set(re.findall(r"\bRingkeeper[A-Z]\w+", text.partition("\n## ")[0])) == set(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_answers_what_somebody_at_night_asks(page: Path) -> None:
    headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
    assert headings[:1] == ["Does anybody notice?"]
    assert [h for h in headings if h in ("Look", "Do", "It ends")] == ["Look", "Do", "It ends"]
    assert len(page.read_text().splitlines()) <= 60, "short"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_metrics_that_exist_and_a_command_to_begin_with(page: Path) -> None:
    """That the commands parse is seen to in test_docs.py, as for every page."""
    text = page.read_text()
    told = (ROOT / "docs/metrics.md").read_text()
    known = set(re.findall(r"^\| `(ringkeeper_\w+)`", told, re.MULTILINE))
    assert set(re.findall(r"\bringkeeper_\w+", text)) <= known
    assert commands(text.partition("## Look")[2].partition("\n## ")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_that_sends_to_a_log_shows_how_and_by_what_is_written_there(page: Path) -> None:
    text = page.read_text()
    look = text.partition("## Look")[2].partition("\n## ")[0]
    told = [line for line in commands(look) if line.startswith("journalctl -u ringkeeper -o cat")]
    is_sent = re.search(r"(?<!Apps )\blog\b", look) is not None
    assert bool(told) == is_sent == ("](../metrics.md#the-log)" in text)
    code = "".join(
        file.read_text()
        for folder in ("client", "daemon")
        for file in (ROOT / folder).rglob("*.py")
    )
    for events in re.findall(r"grep (?:-E )?'([^']+)'", "".join(told)):
        assert {event for event in events.split("|") if f'"{event}"' not in code} == set()


def test_the_page_on_trouble_knows_every_kind() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (RUNBOOKS / "trouble.md").read_text(), re.MULTILINE)
    assert sorted([*rows[1:], "redis", "secret", "files"]) == sorted(KINDS)


# --- the dashboard: what needs no SDK; the rest is in tests/deploy/test_prometheus.py ------------


def test_rules_and_dashboard_name_only_what_is_told_or_recorded() -> None:
    told = (ROOT / "docs/metrics.md").read_text()
    families = re.findall(r"^\| `(ringkeeper_\w+)` \| (\w+)", told, re.MULTILINE)
    known = {rule["record"] for rule in RECORDED}
    for name, kind in families:
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        known |= {name + part for part in parts}
    dashboard = (ROOT / "deploy/grafana/ringkeeper.json").read_text()
    expressions = [rule["expr"] for rule in [*RECORDED, *ALERTS.values()]]
    expressions += re.findall(r'"(?:expr|query)": "(.*)"', dashboard)
    assert len(expressions) > 80
    for expression in expressions:
        named = set(re.findall(r"(?:\w+:)?\bringkeeper_\w+(?::\w+)?", expression))
        assert named <= known, expression


def test_every_recorded_series_is_asked_for() -> None:
    dashboard = (ROOT / "deploy/grafana/ringkeeper.json").read_text()
    asked = dashboard + "".join(rule["expr"] for rule in ALERTS.values())
    assert [rule["record"] for rule in RECORDED if rule["record"] not in asked] == []


@pytest.mark.parametrize("reason", RotationReason)
def test_a_rotation_is_marked_in_the_dashboard_whatever_its_reason(reason: str) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/ringkeeper.json").read_text())
    marks = [each.get("expr", "") for each in dashboard["annotations"]["list"]]
    assert sum(f'rotations_total{{ring="$ring", reason="{reason}"}}' in each for each in marks) == 1
