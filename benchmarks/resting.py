"""What is spent while nothing happens: daemons, instances, and daemons of many rings, all at once.

They do next to nothing, and each figure is of one process, or of one server: so they rest beside
each other, and a minute is enough for all. Those of many rings are measured by themselves.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks import rest, rings
from benchmarks.rounds import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

DAEMONS: Final = 3
FEW: Final = (1, 10)
"""Rings of a daemon; one of a hundred already leaves traces in what others cost."""


def measure(seconds: float, few: Sequence[int] = FEW) -> dict[str, Any]:
    """Three daemons as shipped, idle instances, and a daemon for each number of rings."""
    with ThreadPoolExecutor(DAEMONS + 1 + len(few)) as pool:
        apps = pool.submit(rest.apps, seconds)
        daemons = [pool.submit(rest.daemon, seconds) for _ in range(DAEMONS)]
        many = [pool.submit(partial(rings.measure, count, seconds, turns=False)) for count in few]
        found = [daemon.result() for daemon in daemons]
        return {
            "daemon": {
                "rss_mb": Spread.of(each["rss_mb"] for each in found),
                "private_mb": Spread.of(each["private_mb"] for each in found),
                "cpu_ms_a_minute": Spread.of(each["cpu_ms_a_minute"] for each in found),
            },
            "server": {
                "rss_mb": Spread.of(each["server_rss_mb"] for each in found),
                "cpu_ms_a_minute": Spread.of(each["server_cpu_ms_a_minute"] for each in found),
            },
            "apps": {"commands_a_second": Spread.of(apps.result()["parts"])},
            "rings": {count: each.result() for count, each in zip(few, many, strict=True)},
        }
