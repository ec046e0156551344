"""Where skips are not allowed (RINGKEEPER_SKIPS_FAIL=1), a skipped test fails."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("RINGKEEPER_SKIPS_FAIL") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, and here that is a failure: {report.longrepr}"
    return report
