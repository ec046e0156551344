"""Many app instances in one process: `python -m tests.chaos.crowd CONFIG`. They hold, and say so."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from ringkeeper.asyncio import Keyring
from tests.chaos.app import say

SIZE = 200


async def main(config: Path) -> None:
    """Hold the ring many times over, and tell of the one that is furthest behind."""
    async with AsyncExitStack() as stack:
        rings = [
            await stack.enter_async_context(await Keyring.from_config(config, timeout=30))
            for _ in range(SIZE)
        ]
        while True:
            last = min(rings, key=lambda ring: ring.version)
            staleness = max(ring.staleness.total_seconds() for ring in rings)
            epoch = last.snapshot.epoch
            say(did="holds", version=last.version, epoch=epoch, staleness=staleness)
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
