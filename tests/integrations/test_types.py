"""What is for a framework has a type that pyright knows, where the framework is installed."""

import sys
from pathlib import Path

import pytest

from tests.package.completeness import completeness, incomplete

pytestmark = pytest.mark.integrations
UNTYPED = {"ringkeeper.rest_framework.RingAuthentication"}
"""Django REST framework says nothing of its own types, so neither does a class that has its base."""


def test_pyright_knows_the_type_of_all_that_is_for_a_framework(tmp_path: Path) -> None:
    assert incomplete(completeness(Path(sys.executable).parent, tmp_path)) == UNTYPED
