"""Fixtures live in tests/plugins, a file per subject."""

pytest_plugins = [
    "tests.plugins.skips",
    "tests.plugins.servers",
    "tests.plugins.rings",
    "tests.plugins.daemons",
]
