"""Everything that an app can import has a type that pyright knows, too; mypy is not alone there."""

import sys
from pathlib import Path

import pytest

from tests.package.completeness import completeness, incomplete
from tests.package.distributions import ROOT, Built, Environment, pinned

pytestmark = pytest.mark.package
OF_FRAMEWORKS = ("authlib", "django", "fastapi", "flask", "pyjwt", "rest_framework")
"""Modules for frameworks that are not installed beside the light client, so their bases are unknown
there; `tests/integrations/test_types.py` has them."""
LIGHT = ["redis[hiredis]", "cryptography", "joserfc", "msgspec", "pybase64"]


def test_pyright_knows_the_type_of_all_that_is_public(built: Built, tmp_path: Path) -> None:
    environment = Environment(Path(sys.executable), tmp_path / "venv")
    environment.install(
        built.wheel, pinned(ROOT / "requirements/run.txt", LIGHT, environment.python)
    )
    told = completeness(environment.folder / "bin", tmp_path)
    assert told["pyTypedPath"].endswith("/ringkeeper/py.typed")
    unknown = {name for name in incomplete(told) if name.split(".")[1] not in OF_FRAMEWORKS}
    assert unknown == set()
