"""One app of a fleet under faults: signs all the time, and verifies what it is given.

`python -m tests.chaos.app CONFIG`. Standard input: `TOKEN_NUMBER TOKEN` lines to verify. Standard
output: one JSON object a line, for `history`. It is what an app would be: a live keyring, and
nothing else of ringkeeper.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ringkeeper.asyncio import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import InfrastructureError, RingkeeperError

SIGN_EVERY = 0.1
TELL_EVERY = 0.1


def say(**fields: Any) -> None:
    """One line for the history."""
    print(json.dumps(fields, separators=(",", ":")), flush=True)


async def sign(ring: Keyring) -> None:
    """Sign a token every now and then, as users come to log in or refresh."""
    number = 0
    while True:
        number += 1
        try:
            say(did="signed", token=await ring.sign({"n": number}))
        except InfrastructureError as error:
            say(did="could not sign", why=type(error).__name__)
        await asyncio.sleep(SIGN_EVERY)


async def verify(ring: Keyring) -> None:
    """Verify what comes."""
    reader = asyncio.StreamReader(limit=2**20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        number, _, token = line.decode().strip().partition(" ")
        try:
            await ring.verify(token)
            said = "ok"
        except InfrastructureError:
            said = "no verdict"
        except RingkeeperError as error:
            said = f"{type(error).__name__}: {error}"
        say(did="verified", number=int(number), said=said, version=ring.version)


async def tell(ring: Keyring) -> None:
    """Say what is held."""
    clock = SystemClock()
    while True:
        snapshot = ring.snapshot
        say(
            did="holds",
            version=snapshot.version,
            epoch=snapshot.epoch,
            kids=[key.kid for key in snapshot.keys if key.may_verify],
            staleness=ring.staleness.total_seconds(),
            now=clock.now().timestamp(),
        )
        await asyncio.sleep(TELL_EVERY)


async def main(config: Path) -> None:
    """Serve until killed; a start that fails is tried again, as a supervisor would."""
    while True:
        with suppress(InfrastructureError):
            async with await Keyring.from_config(config, timeout=5) as ring:
                await asyncio.gather(sign(ring), verify(ring), tell(ring))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(Path(sys.argv[1])))
