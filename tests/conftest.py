"""Fixtures live in tests/plugins, a file per subject; those of containers and machines with their tests."""

import pytest

pytest_plugins = [
    "tests.plugins.skips",
    "tests.plugins.servers",
    "tests.plugins.certificates",
    "tests.plugins.fleets",
    "tests.plugins.rings",
    "tests.plugins.candidates",
    "tests.plugins.daemons",
    "tests.deploy.images",
    "tests.deploy.containers",
    "tests.deploy.services",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: what waits for a minute waits beside the others, not after them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
