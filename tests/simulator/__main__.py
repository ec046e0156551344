"""`python -m tests.simulator --seeds 200 --seed-start 0`: run that many seeded fleets."""

from __future__ import annotations

import argparse
import sys

from tests.simulator.world import Violation, World


def main() -> int:
    """Run the seeds; 1 if a promise was broken in any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--seed-start", type=int, default=0)
    parser.add_argument("--minutes", type=int, default=60)
    given = parser.parse_args()
    passed = failed = verified = activations = 0
    for seed in range(given.seed_start, given.seed_start + given.seeds):
        try:
            report = World(seed, given.minutes).run()
        except Violation as error:
            failed += 1
            print(f"\n{error}\n  again: make simulate SEEDS=1 SEED_START={seed}", flush=True)
            continue
        passed += 1
        verified += report.verified
        activations += report.activations
        if passed % 10 == 0:
            print(f"{passed} seeds, {activations} activations, {verified} tokens", flush=True)
    print(f"{activations} activations, {verified} tokens verified")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
