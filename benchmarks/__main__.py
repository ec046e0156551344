"""`python -m benchmarks [--quick] [--json FILE]`: measure, print a table, write JSON.

It takes a quarter of an hour, for a thousand rings have to be due one after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import crypto, fanout, rest, rings

if TYPE_CHECKING:
    from collections.abc import Callable

GOALS = (
    ("publish to the last of 1,000, times raw sockets", ("fanout", "ratio"), 2.5),
    ("daemon at rest, RSS, MiB", ("daemon", "rss_mib"), 60.0),
    ("daemon at rest, CPU, ms a minute", ("daemon", "cpu_ms_a_minute"), 30.0),
    ("idle instance, Redis commands a second", ("apps", "commands_a_second_an_instance"), 0.5),
)


def main() -> int:
    """Measure everything; a missed goal is printed as missed, and is no error."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short windows, more noise")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), metavar="FILE")
    given = parser.parse_args()
    seconds, rounds = (20.0, 5) if given.quick else (60.0, 20)
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in ("redis", "cryptography", "joserfc")},
    }
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "fanout": partial(fanout.measure, rounds),
        "daemon": partial(rest.daemon, seconds),
        "apps": partial(rest.apps, seconds + 15),
        "import": partial(rest.importing, rounds),
        "RS256": partial(crypto.measure, "RS256", rounds),
        "ES256": partial(crypto.measure, "ES256", rounds),
        "rings": partial(rings.table, seconds, rings.COUNTS[:-1] if given.quick else rings.COUNTS),
    }
    for name, measure in work.items():
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        found[name] = measure()
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    _tell(found)
    return 0


def _tell(found: dict[str, Any]) -> None:
    print(f"{'figure':50} {'measured':>9} {'goal':>7}")
    for title, (group, name), goal in GOALS:
        value = found[group][name]
        verdict = "met" if value <= goal else "MISSED"
        print(f"{title:50} {value:9} {goal:7}  {verdict}")
    print(f"{'import, times redis and cryptography alone':50} {found['import']['import_ratio']:9}")
    low, high = found["fanout"]["ratio_spread"]
    print(f"{'its rounds, least and greatest':50} {low:9} {high:7}")
    raw, ours = found["fanout"]["raw_ms"], found["fanout"]["instances_ms"]
    print(f"{'the same in ms: raw, instances':50} {raw:9} {ours:7}")
    for algorithm in ("RS256", "ES256"):
        for what in ("sign", "verify"):
            ratios = found[algorithm][what]
            title = f"{what} {algorithm}, times raw: ringkeeper, joserfc"
            print(f"{title:50} {ratios['ringkeeper']:9} {ratios['joserfc']:7}")
    print()
    print(rings.as_markdown(found["rings"]), end="")


if __name__ == "__main__":
    sys.exit(main())
