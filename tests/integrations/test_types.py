"""What is for a framework has a type that pyright knows, where the framework is installed."""

import sys
from pathlib import Path

import pytest

from tests.package.completeness import completeness, incomplete

pytestmark = pytest.mark.integrations


def test_pyright_knows_the_type_of_all_that_is_for_a_framework(tmp_path: Path) -> None:
    """Django REST framework's by the stubs that others keep of it."""
    assert incomplete(completeness(Path(sys.executable).parent, tmp_path)) == set()
