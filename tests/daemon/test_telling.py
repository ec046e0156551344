"""What a daemon tells of leading: each thing once, in few words (promise 12)."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from ringkeeper.clock import SystemClock
from ringkeeper.configuration import load
from ringkeeper.errors import ClocksApart, RingMissing, SealBroken, SecretError
from ringkeeperd import daemon as daemon_module
from ringkeeperd.leader import ANOTHER_LEADS
from ringkeeperd.metrics import Metrics
from ringkeeperd.rotation import WaitUntil
from ringkeeperd.service import LeadingState, _Telling


class StoppedClock(SystemClock):
    """One that the test moves."""

    at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Daemon:
    """The telling part of one, and the lines that it wrote."""

    def __init__(self) -> None:
        self.stream, self.metrics, self.state = io.StringIO(), Metrics(), LeadingState()
        log: Any = structlog.wrap_logger(
            structlog.PrintLogger(self.stream), processors=[structlog.processors.JSONRenderer()]
        )
        self.telling = _Telling("r", log, self.metrics, self.state)

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def lines(self) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.stream.getvalue().splitlines())


def test_a_clock_that_is_off_by_more_each_time_is_told_once() -> None:
    daemon = Daemon()
    for seconds in range(70, 75):
        daemon.telling.cannot_lead(ClocksApart(f"this clock differs by {seconds}s"))
    assert daemon.events() == ["cannot lead"]
    assert "74s" in daemon.state.trouble, "pages show how it is now"
    daemon.telling.cannot_lead(RingMissing("redis holds no ring"))
    assert daemon.events() == ["cannot lead"] * 2
    daemon.telling.leading(1)
    daemon.telling.cannot_lead(RingMissing("redis holds no ring"))
    assert daemon.events() == ["cannot lead", "cannot lead", "leading", "cannot lead"]


def test_who_was_kept_from_leading_and_stands_by_tells_both_once() -> None:
    daemon = Daemon()
    for _ in range(3):
        daemon.telling.not_leading("redis, ring 'r': taking the lease: no")
    assert daemon.state.trouble
    for _ in range(3):
        daemon.telling.not_leading(ANOTHER_LEADS)
    assert daemon.state.trouble == ""
    assert daemon.events() == ["leading is troubled", "standing by"]


def test_two_that_cannot_lead_and_meet_one_anothers_lease_tell_it_once() -> None:
    daemon = Daemon()
    for _ in range(9):
        daemon.telling.cannot_lead(SealBroken("sealed by another KEK"))
        daemon.telling.not_leading(ANOTHER_LEADS)
    assert daemon.events().count("cannot lead") == 1


def test_another_trouble_is_told_though_this_daemon_stood_by_meanwhile() -> None:
    """It has another remedy; and a defect, or two troubles by turns, make no storm."""
    daemon, clock = Daemon(), StoppedClock()
    daemon.telling.clock = clock
    for _ in range(9):
        daemon.telling.cannot_lead(SecretError("the KEK of file 1"))
        daemon.telling.not_leading(ANOTHER_LEADS)
        daemon.telling.cannot_lead(SecretError("signed by another root"))
        daemon.telling.broken(ValueError("no"))
        daemon.telling.not_leading(ANOTHER_LEADS)
    assert daemon.events().count("cannot lead") == 3
    for number in range(50):
        daemon.telling.cannot_lead(SecretError(f"{'x' * number} does not pin it"))
    assert daemon.events().count("cannot lead") == 8, "whoever writes in Redis may word it anew"
    clock.at += 61
    daemon.telling.not_leading(ANOTHER_LEADS)
    daemon.telling.cannot_lead(SecretError("the KEK of file 1"))
    assert daemon.events().count("cannot lead") == 9, "after a good while it is news"


@pytest.mark.parametrize("count", [20, 20_000])
def test_a_log_line_names_a_few_instances_and_counts_the_others(count: int) -> None:
    daemon = Daemon()
    names = tuple(f"ghost-{number}" for number in range(count))
    wait = WaitUntil(SystemClock().now(), None, names, "not every live instance has confirmed")
    daemon.telling.waiting(wait, ())
    daemon.telling.forced("d-1", names)
    for line in daemon.lines():
        named = line.get("awaiting") or line["instances"]
        assert named[:20] == list(names[:20])
        assert named[20:] == ([] if count == 20 else ["and 19980 more"])


async def test_a_look_at_redis_that_cannot_be_taken_ends_no_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a pair for TLS was replaced so far: that is told elsewhere, and passes."""
    looks: list[bool] = []

    async def facts(*_: object, **__: object) -> None:
        looks.append(True)
        raise SecretError("ca.pem: the CA file cannot be read; name another")

    monkeypatch.setattr(daemon_module, "server_facts", facts)
    monkeypatch.setattr(daemon_module, "_LOOK_AT_REDIS_EVERY", 0.01)
    (tmp_path / "config.yaml").write_text("redis: {url: redis://127.0.0.1}\n")
    looking = daemon_module.Daemon(
        load(tmp_path / "config.yaml", {}), structlog.get_logger()
    )._look_at_redis()
    task = asyncio.create_task(looking)
    async with asyncio.timeout(5):
        while len(looks) < 3 and not task.done():
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
