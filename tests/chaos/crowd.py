"""Many apps in one process: `python -m tests.chaos.crowd CONFIG APPS`.

Each has a live keyring of its own; they sign and verify one after the other, and say how the one
is that is worst off.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from ringkeeper.asyncio import Keyring
from ringkeeper.errors import RingkeeperError
from tests.chaos.app import say

SIZE = 200
TELL_EVERY = 0.2
WORK_EVERY = 0.05


class Work:
    """Signing here, verifying there."""

    def __init__(self, rings: list[Keyring]) -> None:
        self.rings = rings
        self.signed = self.verified = self.failed = 0

    async def go_on(self) -> None:
        """One app signs and another verifies, every now and then."""
        while True:
            signer, verifier = random.sample(self.rings, 2)
            try:
                token = await signer.sign({})
                self.signed += 1
                await verifier.verify(token)
                self.verified += 1
            except RingkeeperError:
                self.failed += 1
            await asyncio.sleep(WORK_EVERY)

    async def tell(self) -> None:
        """Say how it goes."""
        while True:
            last = min(self.rings, key=lambda ring: ring.version)
            say(
                did="holds",
                version=last.version,
                epoch=last.snapshot.epoch,
                staleness=max(ring.staleness.total_seconds() for ring in self.rings),
                signed=self.signed,
                verified=self.verified,
                failed=self.failed,
            )
            await asyncio.sleep(TELL_EVERY)


async def main(config: Path, apps: int) -> None:
    """Hold the ring many times over."""
    async with AsyncExitStack() as stack:
        rings = [
            await stack.enter_async_context(await Keyring.from_config(config, timeout=30))
            for _ in range(apps)
        ]
        work = Work(rings)
        await asyncio.gather(work.go_on(), work.tell())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
