"""`python -m tests.secrets`: turn keys for a long time, and find no private number anywhere.

Searched are Redis' dumps, its append-only file, what MONITOR shows and DUMP of each key; every
page over HTTP; what daemon, apps and commands wrote at DEBUG; `state_dir` and `cache_dir`. Exit 1
on any finding. With `--write` the result goes into docs/threat-model.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.chaos.guarantees import write
from tests.plugins.daemons import eventually
from tests.plugins.servers import VALKEY, Server
from tests.secrets.fleet import RINGS, SERVER, Fleet
from tests.secrets.scanner import FORMS, WINDOW, Finding

PAGE: Final = Path(__file__).parents[2] / "docs" / "threat-model.md"
PERIOD: Final = 10.0
"""Seconds that a key signs."""
RULES: Final[dict[str, Any]] = {"lease_ttl": "10s", "max_staleness": "30s", "clock_skew": "2s"}
"""A machine that has much else to do is to turn keys all the same."""
PATIENCE: Final = 300.0
LOOK_EVERY: Final = 5.0
TROUBLE_EVERY: Final = 300.0


def run(fleet: Fleet, minutes: float) -> int:
    """Let it work for so long, with trouble now and then; how many rotations there were."""
    fleet.start()
    begun = time.monotonic()
    troubled, rotations = begun, 0
    while (now := time.monotonic()) < begun + 60 * minutes:
        if now - troubled > min(TROUBLE_EVERY, 20 * minutes):
            troubled = now
            trouble(fleet)
            rotations += counted(fleet)
            fleet.restart()
            print(
                f"{rotations} rotations, {len(fleet.scanner.numbers)} private numbers", flush=True
            )
        fleet.work()
        time.sleep(LOOK_EVERY)
    trouble(fleet)
    return rotations + counted(fleet)


def trouble(fleet: Fleet) -> None:
    """Revoke keys, err, be asked for nonsense, and dump; on a busy machine, as much as goes."""
    revocations: list[Callable[[], None]] = [partial(fleet.revoke, name) for name in fleet.rings]
    for doing in (*revocations, fleet.err, fleet.bad_requests, fleet.save):
        try:
            doing()
        except (AssertionError, OSError) as error:
            print(f"on the way: {type(error).__name__}: {str(error)[:200]}", flush=True)


def counted(fleet: Fleet) -> int:
    """Rotations of the daemon that runs now."""
    found: int = eventually(partial(_asked, fleet), within=PATIENCE)[0]
    return found


def _asked(fleet: Fleet) -> list[int]:
    with suppress(OSError):
        return [fleet.rotations]
    return []


def table(fleet: Fleet, minutes: float, rotations: int, found: list[Finding]) -> str:
    """What came of it."""
    rows = {
        "minutes": f"{minutes:g}",
        "rings, one for each of": ", ".join(fleet.rings.values()),
        "rotations": f"{rotations:,}",
        "private keys that ever lived, KEK and trust root included": f"{len(fleet.vault.kids) + 2}",
        "private numbers known": f"{len(fleet.scanner.numbers):,}",
        "forms of each that were looked for": ", ".join(form.name for form in FORMS),
        "bytes in a row that count": f"{WINDOW}",
        "bytes searched": f"{fleet.scanner.scanned:,}",
        "keys that were public and not opened here": f"{len(fleet.unopened())}",
        "private numbers found": f"{len(found)}",
    }
    return "\n".join(["| | |", "|---|--:|", *(f"| {k} | {v} |" for k, v in rows.items())])


def main() -> int:
    """Run, tell, and perhaps write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--write", action="store_true", help=f"keep the result in {PAGE.name}")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))  # and so leave nothing running
    server = Server(VALKEY, *SERVER)
    fleet = Fleet(server, period=PERIOD, patience=PATIENCE, **RULES)
    try:
        rotations = run(fleet, given.minutes)
        fleet.stop()
        found, missing = fleet.findings(), fleet.unopened()
        told = table(fleet, given.minutes, rotations, found)
    finally:
        fleet.close()
        server.stop()
    print(told)
    for finding in found[:100]:
        print(finding)
    if given.write:
        write("scan", "make scan", told, PAGE)
    is_enough = rotations >= len(RINGS) * given.minutes
    print("" if is_enough else "too few rotations: was the machine too busy?")
    return 1 if found or missing or not is_enough else 0


if __name__ == "__main__":
    sys.exit(main())
