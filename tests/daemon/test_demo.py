"""The demo proves what it claims, in a short run with fast keys."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.plugins.daemons import clean_environment


@pytest.mark.parametrize("faults", [[], ["--faults"]], ids=["calm", "faults"])
def test_no_valid_token_is_rejected_while_keys_turn(faults: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        result = subprocess.run(
            [
                sys.executable, "-m", "ringkeeperd", "demo", "--json",
                "--interval", "3", "--seconds", "32" if faults else "20", *faults,
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env={**clean_environment(), "TMPDIR": folder},
        )  # fmt: skip
        left = list(Path(folder).iterdir())
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout)
    assert summary["rejected"] == 0
    assert summary["rotations"] >= 5
    assert summary["removed"] >= 1
    assert summary["verified"] > 1000
    assert bool(summary["killed"]) == bool(faults)
    assert left == []
