"""An app that signs, verifies, meets errors, and tells far too much: `… tests.secrets.app CONFIG`.

Every logger writes at DEBUG. Whatever goes wrong is told with all local variables, as an error
reporter would. It shows its keyring in every way that a program may show an object.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from ringkeeper import Keyring
from ringkeeper.errors import RingkeeperError
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import read_kek
from tests.secrets.showing import shown

LOG = logging.getLogger("app")
EVERY = 20
"""Versions from one round of errors to the next: they fill the log."""


def told(error: Exception) -> str:
    """`error` with its traceback, and what every local variable of every frame held."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def errs(ring: Keyring, token: str, kek: Path) -> None:
    """Whatever can go wrong in an app, each of it told."""
    wrong = Kek.generate()
    held = ring._held()
    for attempt in (
        lambda: ring.verify(token[:-6] + "AAAAAA"),
        lambda: ring.verify("not a token"),
        lambda: ring.sign({"sub": {1, 2}}),
        lambda: ring.sign({"exp": 1}),
        lambda: wrong.unseal(next(iter(held.sealed.values())), held.ring.keys[0]),
        lambda: held.signing["no such kid"],
        lambda: read_kek(kek.with_name("no-such-kek.jwk")),
        lambda: read_kek(kek.with_name("root.pub.jwk")),
        lambda: 1 // (len(held.signing) - len(held.signing)),
    ):
        try:
            attempt()
        except Exception as error:
            print(told(error), file=sys.stderr)


def main(config: Path, name: str) -> None:
    """Serve the ring `name` until standard input ends."""
    with Keyring.from_config(config, name=name, timeout=30) as ring:
        print("ready", flush=True)
        version = -EVERY
        while sys.stdin.readline():
            with suppress(RingkeeperError):
                token = ring.sign({"sub": "alice"})
                LOG.info("signed %s with %r, claims %s", token, ring, ring.verify(token))
                if ring.version >= version + EVERY:
                    version = ring.version
                    errs(ring, token, config.parent / "kek.jwk")
                    for value in (ring, *ring._held().signing.values()):
                        LOG.info("%s", shown(value))
        print(f"version {version}", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    main(Path(sys.argv[1]), sys.argv[2])
