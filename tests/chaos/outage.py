"""`python -m tests.chaos.outage --minutes 10`: Redis is gone that long, under a hundred apps.

They go on signing and verifying all the while; memory must not grow, logs must not swell, and
within five seconds of Redis' return all of them, and the daemon, are as they should be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chaos.guarantees import write
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import VALKEY, Server

APPS = 100
MOST_GROWTH_MB = 5.0
BACK_WITHIN = 5.0
MOST_LINES = 6
"""Log lines an app may write about one outage: gone and back, in listening, reading, preparing."""
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_CROWD = Path(__file__).with_name("crowd.py").stem


def resident_mb(pid: int) -> float:
    """Memory that a process holds, in MiB (proc(5), statm)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB


class Crowd:
    """A hundred apps in one process that sign and verify, and what they say."""

    def __init__(self, site: Site, config: Path) -> None:
        self.log = site.folder / "crowd.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.chaos.{_CROWD}", str(config), str(APPS)],
                cwd=Path(__file__).parents[2],
                env=clean_environment(),
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def says(self) -> Iterator[dict[str, Any]]:
        """One report after another."""
        assert self.process.stdout
        for line in self.process.stdout:
            with suppress(ValueError):
                yield json.loads(line)


def outage(minutes: float) -> dict[str, Any]:
    """What came of it."""
    server = Server(VALKEY, "--appendonly", "yes", "--appendfsync", "always")
    site = Site(server.url)
    rules: dict[str, Any] = {
        "access_token_dynamic_signing_key_update_interval": 0.2,
        "access_token_validity": 60,
        "max_staleness": "1h",
        "poll_interval": "30s",
        "lease_ttl": "10s",
        "log": {"format": "json"},
    }
    crowd = None
    try:
        daemon = site.daemon(init=True, **rules)
        crowd = Crowd(site, site.configure("crowd.yaml", **rules))
        says = crowd.says()
        before = _settled(says, 5.0)
        server.kill()
        memory = [resident_mb(crowd.process.pid)]
        daemon_memory = [resident_mb(daemon.process.pid)]
        until = time.monotonic() + 60 * minutes
        last = before
        while time.monotonic() < until:
            last = next(says)
            memory.append(resident_mb(crowd.process.pid))
            daemon_memory.append(resident_mb(daemon.process.pid))
        server.start()
        back = time.monotonic()
        gone_for = 60 * minutes
        after = next(said for said in says if said["staleness"] < 1.5 * (time.monotonic() - back))
        took = time.monotonic() - back
        eventually(lambda: daemon.answers("/readyz"))
        lines = crowd.log.read_text().splitlines()
        return {
            "apps": APPS,
            "seconds without Redis": gone_for,
            "tokens signed meanwhile": last["signed"] - before["signed"],
            "tokens verified meanwhile": last["verified"] - before["verified"],
            "refused or not signed": after["failed"],
            "apps grew by MiB": round(max(memory) - memory[0], 1),
            "daemon grew by MiB": round(max(daemon_memory) - daemon_memory[0], 1),
            "seconds until all were fresh again": round(took, 1),
            "log lines an app": len(lines) / APPS,
            "log lines of the daemon": len(daemon.log.splitlines()),
        }
    finally:
        if crowd:
            crowd.process.kill()
            crowd.process.communicate()
        site.close()
        server.stop()


def _settled(says: Iterator[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The first report after all apps were up, signing and verifying, for a while."""
    began = None
    for said in says:
        began = began or time.monotonic()
        if time.monotonic() - began > seconds:
            return said
    raise AssertionError("the apps ended")


def keep(told: dict[str, Any]) -> None:
    """Write it down as a table."""
    rows = "\n".join(f"| {name} | {figure:,} |" for name, figure in told.items())
    write("outage", "make outage", f"| | |\n|---|--:|\n{rows}")


def main() -> int:
    """Run, tell; 1 if it went otherwise than promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--write", action="store_true", help="keep it in docs/guarantees.md")
    given = parser.parse_args()
    told = outage(given.minutes)
    print(json.dumps(told, indent=2))
    if given.write:
        keep(told)
    is_good = (
        told["refused or not signed"] == 0
        and told["tokens signed meanwhile"] > 0
        and told["tokens verified meanwhile"] > 0
        and told["apps grew by MiB"] < MOST_GROWTH_MB
        and told["daemon grew by MiB"] < MOST_GROWTH_MB
        and told["seconds until all were fresh again"] < BACK_WITHIN
        and told["log lines an app"] <= MOST_LINES
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
