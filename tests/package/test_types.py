"""Everything that an app can import has a type that pyright knows, too; mypy is not alone there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.package.distributions import ROOT, Built, Environment, pinned

pytestmark = pytest.mark.package
PYRIGHT = ROOT / "tests/package/pyright/node_modules/pyright/index.js"
OF_FRAMEWORKS = ("authlib", "django", "fastapi", "flask", "pyjwt", "rest_framework")
"""Modules for frameworks that are not installed beside the light client: their bases are unknown."""
LIGHT = ["redis[hiredis]", "cryptography", "joserfc", "pybase64"]


@pytest.fixture
def verdict(built: Built, tmp_path: Path) -> dict[str, Any]:
    """What pyright says of the types of the installed wheel."""
    node = shutil.which("node")
    if not node or not PYRIGHT.exists():
        pytest.skip("pyright is not installed: run make package-test, which needs npm")
    environment = Environment(Path(sys.executable), tmp_path / "venv")
    environment.install(
        built.wheel, pinned(ROOT / "requirements/run.txt", LIGHT, environment.python)
    )
    done = subprocess.run(
        [node, PYRIGHT, "--outputjson", "--ignoreexternal", "--verifytypes", "ringkeeper"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{environment.folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    told: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    return told


def test_pyright_knows_the_type_of_all_that_is_public(verdict: dict[str, Any]) -> None:
    assert verdict["pyTypedPath"].endswith("/ringkeeper/py.typed")
    exported = [symbol for symbol in verdict["symbols"] if symbol["isExported"]]
    assert len(exported) >= 1000
    unknown = [
        symbol["name"]
        for symbol in exported
        if (not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"])
        and symbol["name"].split(".")[1] not in OF_FRAMEWORKS
    ]
    assert unknown == []
