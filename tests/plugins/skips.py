"""Where skips are not allowed (RINGKEEPER_SKIPS_FAIL=1), a skipped test or module fails.

An expected failure (xfail) is not a skip: it ran.
"""

import os
from collections.abc import Generator

import pytest


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make the report of a skip one of a failure that says so."""
    if os.environ.get("RINGKEEPER_SKIPS_FAIL") != "1":
        return
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and here that is a failure: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module may skip itself whole (importorskip): no test of it would ever report."""
    report = yield
    _refuse(report)
    return report
