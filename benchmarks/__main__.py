"""`python -m benchmarks`: every figure beside its peers, in one run; a table, and JSON.

`--write` keeps the tables in docs/performance.md, and the picture beside it. A missed goal is told
as missed, and is no error. `--quick` looks whether everything works; its figures are worth little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.chaos.guarantees import write
from tests.plugins.servers import VALKEY

from benchmarks import (
    fanout,
    growth,
    ladder,
    opening,
    report,
    rest,
    resting,
    rings,
    signing,
    starting,
    threads,
    traffic,
    verifying,
)
from benchmarks.peers import versions
from benchmarks.picture import drawn
from benchmarks.primitive import ALGORITHMS
from benchmarks.rounds import plain
from benchmarks.stand import stand
from benchmarks.waiting import INTERVAL, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND: Final = "make bench ARGS=--write"
DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = DOCS / "performance.md"
PICTURE: Final = DOCS / "performance.svg"


class Effort(NamedTuple):
    """How long everything is measured."""

    rounds: int
    """Of signing and verifying."""
    calls: int
    """In a round."""
    traffic_rounds: int
    sessions: int
    fanout: dict[int, int]
    """Rounds, by the number of instances."""
    starts: int
    rest: float
    """Seconds."""
    rings: tuple[int, ...]
    """In daemons that rest beside others."""
    many: tuple[int, ...]
    """In daemons that rest by themselves."""
    interval: float
    """Seconds, of those who poll."""
    crowd: int
    """Idle instances that one Redis serves; 0: nobody asks."""


WHOLE: Final = Effort(
    30, 60, 20, traffic.SESSIONS, {1: 20, 10: 20, 100: 20, 1_000: 15, 10_000: 6},
    8, 60.0, resting.FEW, (100, 1_000), INTERVAL, 10_000,
)  # fmt: skip
QUICK: Final = Effort(4, 10, 2, 500, {1: 3, 10: 3, 100: 3}, 2, 3.0, (1, 3), (), 10.0, 0)


def measure(effort: Effort) -> dict[str, Any]:
    """Everything."""
    began = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {what} …", file=sys.stderr, flush=True)

    found: dict[str, Any] = {"machine": machine(), "versions": versions()}
    found |= {name: {} for name in ("verify", "sign", "traffic", "fanout", "ladder")}
    waiting = Waiting(effort.interval)
    try:
        for algorithm in ALGORITHMS:
            tell(f"verify and sign, {algorithm}")
            _tokens(algorithm, effort, found)
        for size, rounds in effort.fanout.items():
            tell(f"publish to {size:,}")
            found["fanout"][size] = fanout.measure(size, rounds)
        tell("private halves")
        found["opening"] = opening.measure(effort.rounds)
        tell("imports")
        found["import"] = rest.importing(effort.starts)
        tell("starts")
        found["start"] = starting.measure(effort.starts)
        tell("rest")
        found["rest"] = resting.measure(effort.rest, effort.rings)
        found["rings"] = found["rest"].pop("rings")
        for count in effort.many:
            tell(f"{count:,} rings at rest")
            found["rings"][count] = rings.measure(count, effort.rest / 3, turns=False)
        found["crowd"] = {}
        if effort.crowd:
            tell(f"a Redis with {effort.crowd:,} idle instances")
            found["crowd"][effort.crowd] = rest.crowd(effort.rest / 2, effort.crowd)
        tell("the last who poll")
        found["waits"] = waiting.result()
    finally:
        waiting.stop()
    found["machine"]["load_after"] = os.getloadavg()[0]
    found["seconds"] = time.perf_counter() - began
    return found


def _tokens(algorithm: str, effort: Effort, found: dict[str, Any]) -> None:
    """All about tokens of one algorithm."""
    with stand(algorithm) as on:
        found["verify"][algorithm] = verifying.measure(on, effort.rounds, effort.calls)
        calls = 8 if algorithm in ("RS256", "PS256") else effort.calls
        found["sign"][algorithm] = signing.measure(on, effort.rounds, calls)
        if algorithm in ("RS256", "ES256"):
            measured = traffic.measure(on, effort.traffic_rounds, effort.sessions)
            measured["fastest"] = measured["times_faster_than"][measured["fastest_peer"]]
            found["traffic"][algorithm] = measured
            found["ladder"][algorithm] = ladder.measure(on, effort.rounds, effort.calls)
        if algorithm == "ES256":
            wide = traffic.measure(on, max(2, effort.traffic_rounds // 4), 10 * effort.sessions)
            found["wide_traffic"] = wide
            found["threads"] = threads.measure(on, effort.traffic_rounds)
            rounds = max(2, effort.rounds // 3)
            found["payload"] = growth.with_payload(on, rounds, effort.calls // 2)
            found["keys"] = growth.with_keys(on, rounds, effort.calls // 2)


def machine() -> dict[str, Any]:
    """What it is measured on."""
    told = subprocess.run([VALKEY, "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "valkey": told.partition("v=")[2].partition(" ")[0],
        "load_before": os.getloadavg()[0],
    }


def keep(found: dict[str, Any], page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write the tables into `page`, and the picture beside it."""
    write("goals", COMMAND, f"{report.conditions(found)}\n\n{report.goals(found)}", page)
    write("peers", COMMAND, report.peers(found), page)
    write("growth", COMMAND, report.growth_in_words(found), page)
    picture.write_text(drawn(report.PICTURE_OF, report.panels(found)), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, tell, and perhaps write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short, and worth little")
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), metavar="FILE",
        help="where to put every figure and its spread (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="keep the result in the docs")
    given = parser.parse_args(arguments)
    if given.write and given.quick:
        parser.error("--write keeps what the whole run measures")
    if not given.json.parent.is_dir():
        parser.error(f"--json: there is no folder {given.json.parent}; make it, or name another")
    found = measure(QUICK if given.quick else WHOLE)
    found["command"] = f"make bench{' ARGS=--quick' if given.quick else ''}"
    if given.quick:
        print(
            "A short run, to see whether all works: its figures are worth little, and so is what "
            "it says of the goals.",
            end="\n\n",
        )
    for part in (report.conditions(found), report.goals(found), report.peers(found)):
        print(part, end="\n\n")
    print(report.growth_in_words(found))
    given.json.write_text(json.dumps(plain(found), indent=2) + "\n")
    print(f"\nAll of it, with spreads: {given.json}")
    if given.write:
        keep(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
