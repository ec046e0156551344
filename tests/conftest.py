"""Fixtures live in tests/plugins, a file per subject; those of containers and machines with their tests."""

import os
from collections.abc import Iterator
from itertools import islice

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
    "tests.deploy.engines",
    "tests.deploy.compose",
    "tests.deploy.services",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: what waits for a minute waits beside the others, not after them.

    Each worker begins with an equal share of the list (worksteal), and so with its share of them.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = iter([item for item in items if not item.get_closest_marker("long")])
    bounds = [len(items) * number // workers for number in range(workers + 1)]
    ordered: list[pytest.Item] = []
    for number, size in enumerate(map(int.__sub__, bounds[1:], bounds)):
        mine = long[number::workers]
        ordered += [*mine, *islice(others, max(0, size - len(mine)))]
    items[:] = [*ordered, *others]


@pytest.fixture(scope="session", autouse=True)
def may_dump() -> Iterator[None]:
    """A command that is run inside the tests' process leaves that as it is.

    A limit that it lowered could not be raised again, for the sake of a test of dumps.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ringkeeperd.cli.leave_no_dumps", lambda: None)
        yield
