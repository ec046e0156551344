"""`python -m tests.simulator --seeds 200`: seeded fleets, each for some virtual minutes.

`--protections` takes every protection away in turn, and says how soon that is noticed. `--write`
keeps what came of either in docs/guarantees.md. Exit 1 if an invariant was violated, or a missing
protection not noticed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from tests.chaos.guarantees import write
from tests.simulator.judge import Invariant, Violation
from tests.simulator.protections import PROTECTIONS
from tests.simulator.trouble import TROUBLES
from tests.simulator.world import World

BATCH = 10
TELL_EVERY = 30.0
"""Seconds between two lines that tell how far it is."""


class Totals(NamedTuple):
    """What a batch of seeds came to."""

    counts: Counter[str]
    violations: list[str]


def run_batch(minutes: float, seeds: range) -> Totals:
    """Run `seeds`, each in a world of its own."""
    counts, violations = Counter[str](), list[str]()
    gc.disable()  # a batch is short, and leaves with its process
    for seed in seeds:
        try:
            report = World(seed, minutes).run()
        except Violation as violation:
            again = f"make simulate SEEDS=1 SEED_START={seed}"
            violations.append(f"{violation}\n  again: {again}")
            continue
        counts["seeds"] += 1
        counts["activations"] += report.activations
        counts["removals"] += report.removed
        counts["heals"] += report.heals
        counts["tokens verified"] += report.verified
    gc.collect()
    return Totals(counts, violations)


def batches(seeds: int, start: int) -> Iterator[range]:
    """`seeds` seeds from `start`, some at a time."""
    for begin in range(start, start + seeds, BATCH):
        yield range(begin, min(begin + BATCH, start + seeds))


def simulate(seeds: int, start: int, minutes: float, workers: int) -> Totals:
    """Run all the seeds, and tell how far it is."""
    counts, violations = Counter[str](), list[str]()
    told_at = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for done in pool.map(partial(run_batch, minutes), batches(seeds, start)):
            counts += done.counts
            violations += done.violations
            for violation in done.violations:
                print(f"\n{violation}", flush=True)
            if time.monotonic() - told_at > TELL_EVERY:
                told_at = time.monotonic()
                print(f"{counts['seeds']:,} of {seeds:,} seeds passed", flush=True)
    return Totals(counts, violations)


def noticed(name: str, most: int, minutes: float) -> tuple[int, Invariant] | None:
    """How many seeds it takes to notice that the protection `name` is off, and what notices."""
    (protection,) = (each for each in PROTECTIONS if each.name == name)
    with protection.is_off():
        for seed in range(most):
            try:
                World(seed, minutes).run()
            except Violation as violation:
                return seed + 1, violation.invariant
    return None


def try_protections(most: int, minutes: float, workers: int) -> tuple[str, bool]:
    """A line for each protection, as a table; whether each was missed when it was gone."""
    lines = ["| protection | while it is off | noticed after seeds | by |", "|---|---|--:|---|"]
    is_good = True
    with ProcessPoolExecutor(workers) as pool:
        names = [protection.name for protection in PROTECTIONS]
        answers = pool.map(partial(noticed, most=most, minutes=minutes), names)
        for protection, answer in zip(PROTECTIONS, answers, strict=True):
            is_good = is_good and answer is not None
            after, by = (f"{answer[0]}", answer[1].name) if answer else ("never", "")
            lines.append(f"| {protection.name} | {protection.without} | {after} | {by} |")
            print(lines[-1], flush=True)
    return "\n".join(lines), is_good


def what_is_simulated() -> str:
    """What goes wrong, and what must hold all the same, as two lists."""
    troubles = [f"- {str(each.__doc__).rstrip('.')}" for each in TROUBLES]
    invariants = [f"- **{each.name}**: {each.value}" for each in Invariant]
    return "\n".join(
        ["What goes wrong:", "", *troubles, "", "What must hold all the same:", "", *invariants]
    )


def main() -> int:
    """Run, tell, and perhaps write it down."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many (200; 500 with --protections)")
    parser.add_argument("--seed-start", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--minutes", type=float, help="virtual minutes of each run (6; 12 with --protections)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--protections", action="store_true", help="take each away in turn")
    parser.add_argument("--invariants", action="store_true", help="say what happens and must hold")
    parser.add_argument("--write", action="store_true", help="keep the result in the docs")
    given = parser.parse_args()
    if given.invariants:
        print(what_is_simulated())
        return 0
    if given.protections:
        # Both sides of a split that is to make keys of their own need time for it.
        table, is_good = try_protections(given.seeds or 500, given.minutes or 12, given.workers)
        if given.write:
            write("protections", "make simulate ARGS=--protections", table)
        return 0 if is_good else 1
    began = time.monotonic()
    counts, violations = simulate(
        given.seeds or 200, given.seed_start, given.minutes or 6, given.workers
    )
    counts["violations"] = len(violations)
    table = "\n".join(
        ["| | |", "|---|--:|", *(f"| {name} | {number:,} |" for name, number in counts.items())]
    )
    print(f"\n{table}\n{time.monotonic() - began:.0f} s")
    print(f"{counts['seeds']} passed, {len(violations)} failed")
    if given.write:
        write("simulation", "make simulate ARGS=--write", table)
        write("invariants", "make simulate ARGS=--write", what_is_simulated())
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
