"""`python -m tests.controls`: does a test fail for each control that is taken away?

For each row of docs/threat-model.md a copy of this tree is made, the control is taken away there,
and the tests of that row are run. One at least has to go red. Exit 1 if any control is missed by
none, or if an edit makes nothing run at all.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.broken import is_noticed
from tests.controls.page import ROOT, Row, rows
from tests.controls.table import CONTROLS, Control

_COPIED: Final = ("client", "daemon", "tests", "docs", "requirements", "examples", "deploy")
_FILES: Final = ("Makefile", "README.md", "config.yaml", "pyproject.toml")
_WITHIN: Final = 300.0


def copied(folder: Path) -> None:
    """This tree, as far as tests need it, in `folder`."""
    for name in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in _FILES:
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")


def take_away(control: Control, folder: Path) -> None:
    """Edit the copy in `folder`."""
    for edit in control.edits:
        path = folder / edit.file
        text = path.read_text("utf-8")
        if text.count(edit.text) != 1:
            raise SystemExit(f"{control.name}: {edit.file} has not once {edit.text!r}")
        path.write_text(text.replace(edit.text, edit.by), "utf-8")


def missed(control: Control, tests: tuple[str, ...]) -> tuple[bool, str]:
    """Whether a test goes red without `control`, and which, or what happened instead."""
    with tempfile.TemporaryDirectory(prefix="rk-control-") as name:
        folder = Path(name)
        copied(folder)
        take_away(control, folder)
        return is_noticed(folder, tests, _WITHIN)


def one(row: Row) -> bool:
    """Try one row, and tell."""
    control = next(each for each in CONTROLS if each.name == row.control)
    began = time.monotonic()
    try:
        is_missed, said = missed(control, row.tests)
    except subprocess.TimeoutExpired:
        is_missed, said = False, f"no end within {_WITHIN:g} s"
    mark = "red" if is_missed else "NOT MISSED"
    print(f"{time.monotonic() - began:5.0f} s  {mark:10}  {control.name}: {said}", flush=True)
    return is_missed


def main() -> int:
    """Try every row, or some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="", help="the controls whose name matches this expression"
    )
    parser.add_argument(
        "--at-once", type=int, default=2, help="controls that are tried side by side"
    )
    given = parser.parse_args()
    chosen = [row for row in rows() if re.search(given.only, row.control)]
    if not chosen:
        parser.error("no control has such a name")
    with ThreadPoolExecutor(given.at_once) as pool:
        outcomes = list(pool.map(partial(one), chosen))
    print(f"{sum(outcomes)} of {len(outcomes)} controls are missed by a test once they are gone")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
