"""`python -m tests.fuzz.one NAME …`: one target under libFuzzer; what follows NAME is for that."""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["ringkeeper", "ringkeeperd", "joserfc", "yaml"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer has done its runs, or found something: then it ends this process."""
    logging.disable()  # aiohttp tells of each bad request
    target = TARGETS[sys.argv[1]]
    for seed in target.seeds():
        target.check(seed)  # what is loaded lazily is loaded now
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
