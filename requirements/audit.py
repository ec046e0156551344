"""Whether any requirement is known to be vulnerable: `python requirements/audit.py`.

pip-audit asks OSV, the open database of vulnerabilities, about every pin here. Exit 1 on findings
alone. Where OSV cannot be reached nothing is said about the pins, in one line, and the exit is 0:
a check that fails without a network would be switched off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

OSV: Final = "https://api.osv.dev/v1/query"
WITHIN: Final = 5.0
"""Seconds within which OSV has to answer at all, its name looked up included."""
ASKED_WITHIN: Final = 300.0
LET_PASS: Final = {
    "GHSA-wj6h-64fc-37mp": "ecdsa signs in a time that tells of the key, and its authors leave it "
    "so; python-jose brings it along to `make bench` alone, where nobody calls it",
}
"""Known vulnerabilities that are no finding, and why."""
HERE: Final = Path(__file__).parent


def why_unreachable(url: str) -> str:
    """Why nobody answers at `url`; empty if somebody does, whatever the answer."""
    said = [f"no answer within {WITHIN:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=WITHIN):  # noqa: S310 - OSV, or a test's own
                said[0] = ""
        except urllib.error.HTTPError:
            said[0] = ""
        except OSError as error:
            said[0] = str(getattr(error, "reason", error)).lower()

    # On a thread: looking a name up takes as long as it takes.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(WITHIN)
    return said[0]


def findings(report: dict[str, Any]) -> list[str]:
    """A line for each vulnerability that pip-audit reports."""
    return [
        f"{package['name']} {package['version']}: {found['id']}, mended in "
        f"{', '.join(found['fix_versions']) or 'no release yet'}"
        for package in report["dependencies"]
        for found in package.get("vulns", [])
    ]


def audit(url: str, files: list[Path]) -> int:
    """Ask about every pin in `files`, tell, and say how it went."""
    why = why_unreachable(url)
    if why:
        print(f"audit: skipped, the advisory service cannot be reached ({why})")
        return 0
    done = subprocess.run(  # noqa: S603 - all of it is ours
        [
            str(Path(sys.executable).with_name("pip-audit")),
            *(part for file in files for part in ("--requirement", str(file))),
            *("--disable-pip", "--require-hashes", "--progress-spinner", "off"),
            *("--vulnerability-service", "osv", "--osv-url", url, "--format", "json"),
            *("--timeout", f"{WITHIN:g}"),
            *(part for known in LET_PASS for part in ("--ignore-vuln", known)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=ASKED_WITHIN,
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"audit: skipped, the advisory service gave no verdict ({last})")
        return 0
    found = findings(report)
    print(*found, sep="\n", end="\n" if found else "")
    print(f"audit: {len(found)} known vulnerabilities in {len(report['dependencies'])} packages")
    return 1 if found else 0


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.txt"))
    sys.exit(audit(os.environ.get("RINGKEEPER_OSV", OSV), given))
