"""`python -m tests.fuzz`: every target under a coverage-guided fuzzer, for so many inputs in all.

Inputs begin with what is good (the vectors, the shipped configuration) and are kept in memory. One
that crashes the code, hangs it, or is accepted though nobody signed it, is saved, with the command
that tries it again; then the exit is 1. `--write` puts the table into docs/threat-model.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import IN_MEMORY, SCRATCH, TARGETS, Target

DOCUMENT = Path(__file__).parents[2] / "docs" / "threat-model.md"
FOUND = Path("var/fuzz")
HANG = 30
"""Seconds for one input: a thousandth of it is plenty, but the machine may be busy."""
MEMORY = 1024
"""MiB that a target may have."""
HEADER = "| target | inputs | a second | new ones kept | coverage | crashed, hung, accepted |\n|---|--:|--:|--:|--:|--:|"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target."""

    target: Target
    inputs: int
    seconds: float
    kept: int
    coverage: int
    failures: tuple[Path, ...]
    output: str

    @property
    def line(self) -> str:
        """As a line of the table."""
        rate = self.inputs / self.seconds if self.seconds else 0
        counts = (self.inputs, int(rate), self.kept, self.coverage, len(self.failures))
        return f"| {self.target.name} | {' | '.join(f'{n:,}' for n in counts)} |"


def fuzz(target: Target, runs: int, seed: int) -> Outcome:
    """Run `target` on `runs` inputs, in a process of its own."""
    FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rk-fuzz-", dir=IN_MEMORY) as scratch:
        corpus, words = Path(scratch) / "corpus", Path(scratch) / "words"
        corpus.mkdir()
        for number, given in enumerate(target.seeds()):
            (corpus / f"seed{number}").write_bytes(given)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        prefix = f"{FOUND}/{target.name}-{seed}-"
        command = [
            sys.executable, "-m", "tests.fuzz.one", target.name, f"-runs={runs}", f"-seed={seed}",
            f"-max_len={target.longest}", f"-timeout={HANG}", f"-rss_limit_mb={MEMORY}",
            "-print_final_stats=1", "-len_control=0", f"-artifact_prefix={prefix}",
            f"-dict={words}", str(corpus),
        ]  # fmt: skip
        before = set(FOUND.glob(f"{target.name}-*"))
        began = time.monotonic()
        environ = {**os.environ, SCRATCH: scratch}
        done = subprocess.run(command, capture_output=True, check=False, env=environ)
        seconds = time.monotonic() - began
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        failures = sorted(set(FOUND.glob(f"{target.name}-*")) - before)
        if done.returncode and not failures:
            failures = [FOUND / f"{target.name}-{seed}-log"]
            failures[0].write_text(output)
        kept = len(list(corpus.iterdir())) - len(target.seeds())
    inputs = _number(r"stat::number_of_executed_units:\s+(\d+)", output)
    coverage = _number(r"cov: (\d+)", output)
    return Outcome(target, inputs, seconds, kept, coverage, tuple(failures), output)


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def replay(name: str, path: Path) -> int:
    """Try one saved input again, without the fuzzer: a traceback tells what is wrong."""
    TARGETS[name].check(path.read_bytes())
    print("nothing is wrong with it")
    return 0


def write(text: str) -> None:
    """Put `text` in place of the table that was written before."""
    begin, end = "<!-- fuzz: written by make fuzz ARGS=--write -->", "<!-- /fuzz -->"
    head, rest = DOCUMENT.read_text("utf-8").split(begin)
    DOCUMENT.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--only", default="", metavar="PATTERN", help="targets of such names")
    parser.add_argument("--seed", type=int, default=1, help="other seeds make other inputs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"), help="one saved input")
    given = parser.parse_args()
    if given.replay:
        return replay(given.replay[0], Path(given.replay[1]))
    if not importlib.util.find_spec("atheris"):
        print("the fuzzer (atheris) has wheels for Linux on x86-64 alone: nothing was fuzzed")
        return 1 if os.environ.get("RINGKEEPER_SKIPS_FAIL") else 0
    chosen = [target for name, target in TARGETS.items() if re.search(given.only, name)]
    whole = sum(target.share for target in chosen)
    print(HEADER, flush=True)

    def run(target: Target) -> Outcome:
        outcome = fuzz(target, int(given.runs * target.share / whole) + 1, given.seed)
        print(outcome.line, flush=True)
        return outcome

    slowest = sorted(chosen, key=lambda target: target.share, reverse=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        outcomes = list(pool.map(run, slowest))
    return conclude(outcomes, chosen, is_written=given.write)


def conclude(outcomes: list[Outcome], chosen: list[Target], *, is_written: bool) -> int:
    """Say what came of it, and write it down if wanted; the exit."""
    outcomes.sort(key=lambda outcome: chosen.index(outcome.target))
    total = sum(outcome.inputs for outcome in outcomes)
    failures = [(outcome, path) for outcome in outcomes for path in outcome.failures]
    print(f"{total:,} inputs; {len(failures)} failures")
    for outcome, path in failures:
        print(f"{outcome.target.name}: {path}", *outcome.output.splitlines()[-40:], sep="\n  ")
        print(f"again: python -m tests.fuzz --replay {outcome.target.name} {path}")
    if is_written:
        rows = "\n".join(outcome.line for outcome in outcomes)
        write(f"{HEADER}\n{rows}\n\n{total:,} inputs in all.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
