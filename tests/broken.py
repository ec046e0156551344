"""Whether a test notices that something is broken: what `make controls` and `make snippets` ask."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TESTS_FAILED: Final = 1


def is_noticed(folder: Path, tests: Sequence[str], within: float) -> tuple[bool, str]:
    """Whether one of `tests` goes red in the tree in `folder`, and which, or what happened instead.

    `within`: seconds; `subprocess.TimeoutExpired` if they take longer.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{folder}/client:{folder}/daemon"},
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
    )
    red = re.findall(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)
    if done.returncode == _TESTS_FAILED and red:
        return True, str(red[0])
    return False, (done.stdout + done.stderr).strip().rpartition("\n")[2]
