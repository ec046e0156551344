"""`python -m tests.chaos`: what becomes of a fleet under each fault, as a table.

The whole table, with `--write`, goes into docs/guarantees.md. Needs root (network namespaces,
mounts), iproute2 and a C compiler. Exit 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS, SECOND, Fault, lab_for
from tests.chaos.guarantees import write
from tests.chaos.history import Verdict, judge
from tests.chaos.lab import LAG, RUNNING, pause

HEADER = (
    "| fault | rounds | tokens verified | valid tokens rejected | signed by an unpublished key | "
    "keys lost | revoked tokens accepted | seconds until normal |\n|---|--:|--:|--:|--:|--:|--:|--:|"
)


@dataclass
class Row:
    """What came of one fault, over all its rounds."""

    fault: Fault
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every round was."""
        return bool(self.verdicts) and not self.failures and all(v.is_good for v in self.verdicts)

    @property
    def line(self) -> str:
        """As a line of the table."""
        normal = [v.seconds_until_normal for v in self.verdicts]
        longest = "never" if None in normal or not normal else f"{max(filter(None, normal)):.1f}"
        counts = [
            len(self.verdicts),
            f"{sum(v.verified for v in self.verdicts):,}",
            sum(len(v.rejected) for v in self.verdicts),
            sum(len(v.unpublished) for v in self.verdicts),
            sum(len(v.lost) for v in self.verdicts),
            sum(len(v.accepted) for v in self.verdicts),
            longest,
        ]
        return f"| {self.fault.name} | {' | '.join(map(str, counts))} |"


def one_round(fault: Fault, seed: int) -> Verdict:
    """A fleet, the fault, and what the judge says of it all."""
    lab = lab_for(fault, seed)
    try:
        lab.ask_for_a_turn()
        fault.do(lab)
        after = lab.await_normal()
        if after is None or lab.history.seconds_until_normal is None:
            lab.history.seconds_until_normal = after
        lab.await_turn()
        lab.revoke()
        if lab.await_normal() is None:
            lab.history.seconds_until_normal = None
        pause(3 * SECOND)
        return judge(lab.history, now=lab.finish(), lag=LAG)
    finally:
        lab.close()


def run(faults: list[Fault], rounds: int, at_once: int, seed: int) -> list[Row]:
    """All of `faults`, some of them at once; told as they end."""
    rows = {fault.name: Row(fault) for fault in faults}
    began = time.monotonic()

    def work(job: tuple[int, Fault]) -> None:
        number, fault = job
        row = rows[fault.name]
        try:
            verdict = one_round(fault, seed + number)
        except Exception:  # told, and the others go on
            row.failures.append(traceback.format_exc())
            print(f"{fault.name}: FAILED\n{row.failures[-1]}", flush=True)
            return
        row.verdicts.append(verdict)
        mark = "ok" if verdict.is_good else "BROKEN"
        print(f"{time.monotonic() - began:6.0f} s  {mark:6} {row.line}", flush=True)
        for broken in verdict.broken[:10]:
            print(f"           {broken}", flush=True)

    jobs = [*enumerate(fault for _ in range(rounds) for fault in faults)]
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, (job for job in jobs if not job[1].is_alone)))
    for job in jobs:
        if job[1].is_alone:
            work(job)
    return list(rows.values())


def take_down(number: int, frame: object) -> None:
    """Told to end: leave nothing running, no host and no mount."""
    for lab in list(RUNNING):
        with suppress(Exception):
            lab.close()
    os._exit(128 + number)


def main() -> int:
    """Run, tell, and perhaps write it down."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, take_down)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="of each fault")
    parser.add_argument("--only", help="the faults whose name matches this expression")
    parser.add_argument("--at-once", type=int, default=3, help="rounds that run side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the table in docs/guarantees.md")
    given = parser.parse_args()
    chosen = [f for f in FAULTS if not given.only or re.search(given.only, f.name)]
    if not chosen:
        parser.error("no fault has such a name; " + ", ".join(fault.name for fault in FAULTS))
    rows = run(chosen, given.rounds, given.at_once, given.seed)
    table = "\n".join([HEADER, *(row.line for row in rows)])
    print(f"\n{table}")
    if given.write and not given.only:
        write("chaos", "make chaos", table)
    return 0 if all(row.is_good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
