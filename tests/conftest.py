"""Fixtures live in tests/plugins, a file per subject."""

pytest_plugins = [
    "tests.plugins.skips",
    "tests.plugins.servers",
    "tests.plugins.fleets",
    "tests.plugins.rings",
    "tests.plugins.daemons",
]
