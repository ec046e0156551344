"""A way to Redis that misbehaves on command: `python -m tests.chaos.proxy LISTEN_PORT HOST PORT`.

Each line on standard input sets what it does from then on: `open`; `blackhole` (bytes vanish,
connections stay); `reset` (every connection is reset, and each new one); `delay SECONDS` (each
way takes that long).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from contextlib import suppress


class Proxy:
    """Carries bytes both ways, as the present mode says."""

    def __init__(self, host: str, port: int) -> None:
        self.target = host, port
        self.mode = "open"
        self.delay = 0.0
        self.changed = asyncio.Event()
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, port: int) -> None:
        """Listen, and obey."""
        server = await asyncio.start_server(self._carry, "0.0.0.0", port)  # noqa: S104
        print("ready", flush=True)
        async with server:
            await self._obey()

    async def _obey(self) -> None:
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            self.mode, _, argument = line.strip().partition(" ")
            self.delay = float(argument or 0)
            self.changed.set()
            self.changed = asyncio.Event()
            if self.mode == "reset":
                for writer in list(self.writers):
                    _reset(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            _reset(writer)
            return
        while self.mode == "blackhole":
            await self.changed.wait()
        try:
            there, back = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        self.writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self.writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def write() -> None:
            while True:
                at, data = await queue.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                writer.write(data)
                await writer.drain()

        writing = asyncio.create_task(write())
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.mode != "blackhole":
                    queue.put_nowait((loop.time() + self.delay, data))
        writing.cancel()
        with suppress(OSError, asyncio.CancelledError):
            await writing
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, with a reset instead of a goodbye."""
    with suppress(OSError):
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(Proxy(sys.argv[2], int(sys.argv[3])).serve(int(sys.argv[1])))
