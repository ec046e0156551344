"""`docker` for a test of deploy/k8s/README.md where there is no engine.

What would run in a container runs on this host, by the Dockerfile's own entry point, with the volume
where it is. Any other word is refused, exit 1. With Docker's own client, an engine and a registry
the same lines run in tests/deploy.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

IMAGES = Path(os.environ["PLAYED"]) / "images"


def refuse(why: str) -> NoReturn:
    sys.exit(f"played: {why}: {' '.join(sys.argv[1:])}")


def docker(words: list[str]) -> None:
    built = IMAGES.read_text().splitlines() if IMAGES.exists() else []
    match words:
        case ["build", "-t", image, "."] if Path("Dockerfile").exists():
            IMAGES.write_text("\n".join([*built, image]))
        case ["push", image] if image in built:
            pass
        case ["run", "--rm", "--user", user, "-v", volume, image, *command] if image in built:
            here, _, there = volume.partition(":")
            if user != f"{os.getuid()}:{os.getgid()}":
                refuse("it would run as another user")
            if not Path(here).is_absolute() or not Path(here).is_dir():
                refuse("it would mount something else")
            (entry,) = [
                json.loads(line.partition(" ")[2])
                for line in Path("Dockerfile").read_text().splitlines()
                if line.startswith("ENTRYPOINT ")
            ]
            command = [here if word == there else word for word in [*entry, *command]]
            os.execvp(command[0], command)  # noqa: S606
        case _:
            refuse("nobody plays this")


if __name__ == "__main__":
    docker(sys.argv[1:])
