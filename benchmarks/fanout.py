"""Publish to many instances: beside sockets that only receive, and subscribers of redis-py.

What counts is the time from the publication until the last of all has it. An instance has a
machine to itself, so thousands of them cannot be measured on one: one in a hundred is real (a live
keyring each, in one process, where they wait for one another; ten at most), the others are sockets
that only load the server. For redis-py as many are real. Everybody receives the same bytes.

An instance has it when its keyring holds the version; that it then signs with the new key and
verifies is tried right after, out of the measured time, which is that of ten machines and would
otherwise be spent on one. Keyrings are looked at five times a millisecond.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import selectors
import time
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as redis
from tests.plugins.servers import VALKEY, Server

from benchmarks.leading import NAME, Leading, message
from benchmarks.rounds import Spread, ratios, rotated
from ringkeeper.asyncio import Keyring
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from multiprocessing.connection import Connection as Pipe

SIZES: Final = (1, 10, 100, 1_000, 10_000)
_ONE_IN: Final = 100
_MOST_REAL: Final = 10
RAW: Final = "raw sockets"
REDIS_PY: Final = "redis-py"
OURS: Final = "ringkeeper"
_RAW_CHANNEL: Final = "raw"
_PEER_CHANNEL: Final = "peer"
_KEYS: Final = 4
"""In the ring: one retired, beside the one that signs, the standby and the static one."""
_LOOK: Final = 0.0002
_WITHIN: Final = 30.0
_SPARE: Final = 200
"""Files that a process has open besides its subscribers' sockets."""


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Milliseconds to the last of `size`, and times raw sockets; empty if files are too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = size + _SPARE
    if most != resource.RLIM_INFINITY and most < wanted:
        return {}
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    server = Server(VALKEY, "--maxclients", str(size + 3 * _MOST_REAL + 50))
    processes: list[Any] = []
    try:
        return asyncio.run(_measure(server, size, rounds, processes))
    finally:
        for process in processes:
            process.kill()
            process.join()
        server.stop()


def real_of(size: int) -> int:
    """How many of `size` instances are real ones."""
    return min(max(1, size // _ONE_IN), _MOST_REAL)


async def _measure(server: Server, size: int, rounds: int, processes: list[Any]) -> dict[str, Any]:
    leading = await Leading.found(server.url, "RS256")
    spawn = multiprocessing.get_context("spawn")
    real = real_of(size)

    def start(target: Any, *given: Any) -> Pipe:
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=target, args=(there, *given), daemon=True))
        processes[-1].start()
        return here

    channels = {_RAW_CHANNEL: size, _PEER_CHANNEL: size - real, leading.channel: size - real}
    raw = start(_sockets, server.port, size, channels)
    peer = start(_subscribers, server.tcp_url, real)
    secrets = {"root": leading.root.secret_jwk(), "kek": leading.kek.secret_jwk()}
    ours = start(_instances, server.tcp_url, real, secrets)
    for pipe in (raw, peer, ours):
        await _said(pipe)
    client = redis.Redis(port=server.port)
    loaded = [raw] if size > real else []
    times: dict[str, list[float]] = {RAW: [], REDIS_PY: [], OURS: []}
    length = 0
    for round_ in range(rounds):
        edition = await leading.prepare(_KEYS)
        text = message(edition)
        length = len(text)

        def told(channel: str, text: str = text) -> Callable[[], Awaitable[object]]:
            return lambda: client.publish(channel, text)

        async def of(pipes: list[Pipe], publish: Callable[[], Awaitable[object]]) -> float:
            began = time.monotonic()
            await publish()
            return max([await _said(pipe) for pipe in pipes]) - began

        for name in rotated(list(times), round_):
            if name == RAW:
                taken = await of([raw], told(_RAW_CHANNEL))
            elif name == REDIS_PY:
                taken = await of([*loaded, peer], told(_PEER_CHANNEL))
            else:
                ours.send(edition.version)
                await _said(ours)  # that it looks
                taken = await of([*loaded, ours], lambda e=edition: leading.publish(e))  # type: ignore[misc]
                await leading.confirmed(real)
            times[name].append(taken)
    await client.aclose()
    await leading.close()
    return {
        "real": real,
        "rounds": rounds,
        "message_bytes": length,
        "ms": {name: Spread.of(each).times(1000) for name, each in times.items()},
        "ratio": ratios(times, RAW),
    }


async def _said(pipe: Pipe) -> float:
    """What a process says next, in time."""
    arrived = await asyncio.to_thread(pipe.poll, _WITHIN)
    assert arrived, "a subscriber never had the message"
    moment: float = pipe.recv()
    return moment


class Socket(asyncio.Protocol):
    """A subscriber that looks for the ends of messages: the least that receiving can cost."""

    def __init__(self, channels: list[str], done: Callable[[str], None]) -> None:
        self._channels = channels
        self._done = done
        self._greetings = len(channels)
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Subscribe."""
        transport.write(f"SUBSCRIBE {' '.join(self._channels)}\r\n".encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Tell of each whole message which channel it was on; empty once it is subscribed."""
        self._buffer = self._buffer + data if self._buffer else data
        if self._greetings:
            # *3 $9 subscribe $5 place :1, a line each
            while self._greetings and self._buffer.count(b"\r\n") >= 6:
                self._buffer = self._buffer.split(b"\r\n", 6)[6]
                self._greetings -= 1
            if not self._greetings:
                self._done("")
            return
        # *3 $7 message $5 place $1234 text
        while len(head := self._buffer.split(b"\r\n", 6)) == 7:
            rest = len(head[6]) - int(head[5][1:]) - 2
            if rest < 0:
                return
            self._buffer = self._buffer[len(self._buffer) - rest :]
            self._done(head[4].decode())


def _sockets(pipe: Pipe, port: int, count: int, channels: dict[str, int]) -> None:
    """`count` sockets, so many on each channel; tell when the last had the whole message."""

    async def run() -> None:
        loop, arrived = asyncio.get_running_loop(), dict.fromkeys(channels, 0) | {"": 0}
        expected = channels | {"": count}

        def done(channel: str) -> None:
            arrived[channel] += 1
            if arrived[channel] % expected[channel] == 0:
                pipe.send(time.monotonic())

        for number in range(count):
            mine = [name for name, most in channels.items() if number < most]
            await loop.create_connection(lambda m=mine: Socket(m, done), "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.Event().wait()

    _raise_limit(count)
    asyncio.run(run())


def _subscribers(pipe: Pipe, url: str, count: int) -> None:
    """`count` subscribers of redis-py, with hiredis; tell when the last had the message."""

    async def run() -> None:
        arrived = 0

        async def listen(subscriber: Any) -> None:
            nonlocal arrived
            async for _ in subscriber.listen():
                arrived += 1
                if arrived % count == 0:  # the first time: all are subscribed
                    pipe.send(time.monotonic())

        subscribers = [redis.Redis.from_url(url).pubsub() for _ in range(count)]
        for subscriber in subscribers:
            await subscriber.subscribe(_PEER_CHANNEL)
        await asyncio.gather(*map(listen, subscribers))

    _run(run())


def _instances(pipe: Pipe, url: str, count: int, secrets: dict[str, Any]) -> None:
    """`count` live keyrings; told a version, tell when the last of them holds it."""

    async def run() -> None:
        root, kek = TrustRoot.from_secret_jwk(secrets["root"]), Kek.from_secret_jwk(secrets["kek"])
        rings = [
            await Keyring.connect(url, name=NAME, trust_root=root.public, kek=kek)
            for _ in range(count)
        ]
        pipe.send(time.monotonic())
        while True:
            try:
                version = await asyncio.to_thread(pipe.recv)
            except EOFError:  # all is measured
                return
            pipe.send(time.monotonic())
            while any(ring.version < version for ring in rings):
                await asyncio.sleep(_LOOK)
            held = time.monotonic()
            for ring in rings:
                await ring.verify(await ring.sign({"sub": "bench"}))
            pipe.send(held)

    _run(run())


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it in a loop whose timers are finer than a millisecond; the usual one rounds up to it."""
    fine = lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())  # noqa: E731
    with asyncio.Runner(loop_factory=fine) as runner:
        runner.run(work)


def _raise_limit(count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + _SPARE, most))
