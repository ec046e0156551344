"""The table of docs/threat-model.md, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "threat-model.md"
_CELLS: Final = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One threat."""

    threat: str
    control: str
    """Its name, the part in bold."""
    remains: str
    tests: tuple[str, ...]
    """As pytest takes them: `tests/path.py::test_name`."""


def rows(text: str | None = None) -> list[Row]:
    """Every row of the table of threats.

    Raises:
        ValueError: a row without a control in bold, or without a test.
    """
    section = (text or PAGE.read_text("utf-8")).partition("\n## Threats\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [_row(line) for line in lines if not line.startswith("| threat |")]


def _row(line: str) -> Row:
    cells = [cell.strip() for cell in line.strip("|").split(" | ")]
    name = re.match(r"\*\*(.+?)\*\*", cells[1]) if len(cells) == _CELLS else None
    tests = tuple(re.findall(r"`(tests/[^`]+)`", cells[-1]))
    if name is None or not tests:
        raise ValueError(f"four cells, a control in bold and a test at least: {line}")
    return Row(cells[0], name[1], cells[2], tests)
