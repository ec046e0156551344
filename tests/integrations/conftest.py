"""Where stacks are put on; and the table of what was seen, at the end of a whole run."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integrations.stacks import STACKS
from tests.integrations.stage import Stage
from tests.integrations.table import PAGE, open_cells, table, written
from tests.plugins.daemons import Site

Shows = Callable[..., None]

_shown: dict[str, set[str]] = defaultdict(set)
_failed: list[str] = []
_ran: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="write the table in docs/integrations.md")


@pytest.fixture
def stage(site: Site) -> Iterator[Stage]:
    made = Stage(site)
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that is on no disk, for a signing key."""
    folder = Path(tempfile.mkdtemp(prefix="rk-files-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shows(record_property: Callable[[str, object], None]) -> Shows:
    """Tell what a test has gone through, `shows("FastAPI", "sign", "verify")`; if it passes."""

    def tell(stack: str, *columns: str) -> None:
        for column in columns:
            record_property("shows", [stack, column])

    return tell


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "tests/integrations" not in report.nodeid:
        return
    if not report.passed:
        _failed.append(report.nodeid)
    if report.when == "call":
        _ran.append(report.nodeid)
        if report.passed:
            for name, value in report.user_properties:
                if name == "shows" and isinstance(value, list | tuple):
                    _shown[value[0]].add(value[1])


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput") or not _ran or _failed or _is_part(config):
        return
    found = table(STACKS, _shown)
    if missing := open_cells(STACKS, _shown):
        _fail(session, "tests/integrations/stacks.py does not say what was seen: ", missing)
    page = PAGE.read_text()
    if config.getoption("write"):
        PAGE.write_text(written(page, found))
    elif written(page, found) != page:
        _fail(session, "docs/integrations.md tells something else: ARGS=--write writes it", [])


def _is_part(config: pytest.Config) -> bool:
    """Whether not all of them were asked for."""
    return bool(
        config.getoption("keyword")
        or config.getoption("lf", default=False)
        or any("tests/integrations/" in argument for argument in config.args)
    )


def _fail(session: pytest.Session, what: str, which: list[str]) -> None:
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter
    reporter.write_line("")
    reporter.write_line(what + "; ".join(which), red=True)
