"""What pyright says of the types of an installed ringkeeper."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.package.distributions import ROOT

PYRIGHT = ROOT / "tests/package/pyright/node_modules/pyright/index.js"


def completeness(commands: Path, cwd: Path) -> dict[str, Any]:
    """As the Python in the folder `commands` has it installed."""
    node = shutil.which("node")
    if not node or not PYRIGHT.exists():
        pytest.skip(
            "pyright is not installed: make package-test and make integrations do it with npm"
        )
    done = subprocess.run(
        [node, PYRIGHT, "--outputjson", "--ignoreexternal", "--verifytypes", "ringkeeper"],
        cwd=cwd,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    told: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    return told


def incomplete(told: dict[str, Any]) -> set[str]:
    """The names of what is public and has no type, or one that is guessed."""
    exported = [symbol for symbol in told["symbols"] if symbol["isExported"]]
    assert len(exported) >= 1000
    return {
        symbol["name"]
        for symbol in exported
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    }
