"""Each row of the threat model names tests that there are, and a control that can be taken away."""

import ast
from functools import cache
from pathlib import Path

import pytest

from ringkeeperd import limits
from tests.controls.page import PAGE, ROOT, rows
from tests.controls.table import CONTROLS, Control

ROWS = rows()


@cache
def functions_of(file: Path) -> set[str]:
    """The names of the test functions of a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:5] == "test_"
    }


def test_the_table_has_rows_and_each_says_what_remains() -> None:
    assert len(ROWS) >= 60
    assert [row.threat for row in ROWS if not row.remains] == []


@pytest.mark.parametrize("test", sorted({test for row in ROWS for test in row.tests}))
def test_each_named_test_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in functions_of(ROOT / file)


def test_each_row_has_a_control_to_take_away_and_the_other_way_round() -> None:
    names = [control.name for control in CONTROLS]
    assert len(set(names)) == len(names)
    assert sorted(row.control for row in ROWS) == sorted(names)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_each_control_stands_where_it_would_be_taken_away(control: Control) -> None:
    edited: dict[str, str] = {}
    for edit in control.edits:
        text = edited.get(edit.file) or (ROOT / edit.file).read_text("utf-8")
        assert text.count(edit.text) == 1, (edit.file, edit.text)
        assert edit.by != edit.text
        edited[edit.file] = text.replace(edit.text, edit.by)
    # What does not even run is missed by every test, and by none that counts.
    for file, text in edited.items():
        if file.endswith(".py"):
            compile(text, file, "exec")


def test_a_row_without_a_control_or_a_test_is_told() -> None:
    head = "x\n## Threats\n\n| threat | control | what remains | test |\n|---|---|---|---|\n"
    good = "| a | **b** c | d | `tests/x.py::test_y` |\n"
    assert [row.control for row in rows(head + good)] == ["b"]
    for bad in (good.replace("**", ""), good.replace("`", ""), good.replace("| d ", "")):
        with pytest.raises(ValueError, match="four cells"):
            rows(head + bad)


def test_the_limits_over_http_are_those_of_the_code() -> None:
    section = PAGE.read_text("utf-8").partition("## Limits over HTTP")[2].partition("\n## ")[0]
    for number in (
        limits.PLACES,
        limits.HEAD_WITHIN,
        limits.ANSWER_WITHIN,
        limits.QUIET_MOST,
        limits.MAX_LINE,
        limits.MAX_FIELD,
        limits.MAX_FIELDS,
        limits.MAX_BODY,
        limits.MAX_TAKEN,
        limits.MAX_DRAINED,
    ):
        assert f"| {number:,.0f} |" in section or f"| {number:,.0f}," in section, number
    assert f"| {limits.RATE:.0f} on the average, {limits.BURST:,.0f} at once |" in section
