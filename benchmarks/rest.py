"""What a daemon and an app cost while nothing happens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hiredis
from tests.plugins.servers import VALKEY, Server, free_port

from benchmarks.rounds import Spread, ratios, rotated, spreads
from ringkeeper.asyncio import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.follower import PING_EVERY
from ringkeeper.layout import Layout
from ringkeeper.policy import Policy
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeperd.founding import found
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.minting import mint_aside

APPS = 20
_PARTS = 2
"""Of the time in which commands are counted: each long enough for an instance to do all it does."""
_OWN = ("cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo", "cmdstat_select")
"""Commands of the one who counts."""
_BASE = "redis and cryptography"
_IMPORTS = {
    _BASE: "import redis.asyncio, cryptography.hazmat.primitives.asymmetric.rsa",
    "ringkeeper": "import ringkeeper",
    "PyJWT": "import jwt",
    "joserfc": "import joserfc.jwt",
    "Authlib": "import authlib.jose",
    "python-jose": "import jose.jwt",
}
_MEASURED = (
    "import time; began = time.process_time(); {code}; spent = time.process_time() - began; "
    "rss = next(x for x in open('/proc/self/status') if x.startswith('VmRSS')); "
    "print(spent, rss.split()[1])"
)


def daemon(seconds: float) -> dict[str, Any]:
    """Memory, CPU and start of `ringkeeper run` as shipped, leading a ring at rest.

    The first start also makes three RSA keys, secrets and a ring; the next one does not.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        config = Path(folder, "config.yaml")
        config.write_text(
            json.dumps({"redis": {"url": "embedded:./var"}, "listen": f"127.0.0.1:{port}"})
        )
        process, first_ms = _started(config, port)
        process.terminate()
        process.wait()
        process, ready_ms = _started(config, port)
        try:
            time.sleep(_SETTLES)
            server = int(Path(folder, "var/valkey.pid").read_text())
            before, woken = cpu_ms(process.pid), wakes(process.pid)
            served = cpu_ms(server)
            time.sleep(seconds)
            cpu, woken = cpu_ms(process.pid) - before, wakes(process.pid) - woken
            served = cpu_ms(server) - served
            memory, private = memory_mb(process.pid), private_mb(process.pid)
            server_memory = memory_mb(server)
        finally:
            process.terminate()
            process.wait()
    return {
        "rss_mb": round(memory, 1),
        "private_mb": round(private, 1),
        "cpu_ms_a_minute": round(cpu * 60 / seconds, 1),
        "wakes_a_minute": round(woken * 60 / seconds),
        "server_rss_mb": round(server_memory, 1),
        "server_cpu_ms_a_minute": round(served * 60 / seconds, 1),
        "first_start_to_ready_ms": round(first_ms),
        "start_to_ready_ms": round(ready_ms),
    }


_SETTLES = 10.0
"""Seconds after which a daemon is at rest."""


def _started(config: Path, port: int) -> tuple[subprocess.Popen[bytes], float]:
    """A daemon that is ready, and how many milliseconds that took."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ringkeeperd", "run", "--config", str(config)],
        stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith("RINGKEEPER_")},
    )
    try:
        while not _is_ready(port):
            assert process.poll() is None
            assert time.monotonic() < began + 30
            time.sleep(0.01)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, 1000 * (time.monotonic() - began)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
            return True
    except OSError:
        return False


def cpu_ms(pid: int) -> float:
    """CPU time that the process has used, in all its threads."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def memory_mb(pid: int) -> float:
    """What of the process is resident, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1.024e-3


def private_mb(pid: int) -> float:
    """What of the process is resident, and no other process has, MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1.024e-3


def wakes(pid: int) -> int:
    """How often its threads waited for something, and were woken."""
    lines = "".join(
        path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")
    ).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


def apps(seconds: float) -> dict[str, Any]:
    """Redis commands a second of an idle instance: pings, polls, confirmations, watchdog."""
    server = Server(VALKEY)
    try:
        return asyncio.run(_apps(server, seconds))
    finally:
        server.stop()


async def _found(server: Server, root: TrustRoot | None = None, kek: Kek | None = None) -> Policy:
    """Make a ring there; its policy."""
    clock, policy = SystemClock(), Policy.derive(algorithm="ES256")
    store = RedisLeaderStore.connect(server.url, "bench", clock, password=None)
    await found(
        name="bench", ring_id="bench", policy=policy, store=store,
        root=root or TrustRoot.generate(), kek=kek or Kek.generate(),
        mint=mint_aside, clock=clock, owner="bench",
    )  # fmt: skip
    await store.close()
    return policy


async def _apps(server: Server, seconds: float) -> dict[str, Any]:
    root, kek = TrustRoot.generate(), Kek.generate()
    await _found(server, root, kek)
    rings = [
        await Keyring.connect(server.url, name="bench", trust_root=root.public, kek=kek)
        for _ in range(APPS)
    ]
    await asyncio.sleep(2)
    rates = []
    for _ in range(_PARTS):
        before, began = _commands(server), time.monotonic()
        await asyncio.sleep(seconds / _PARTS)
        rates.append((_commands(server) - before) / (time.monotonic() - began) / APPS)
    for ring in rings:
        await ring.close()
    return {
        "commands_a_second_an_instance": round(statistics.mean(rates), 3),
        "parts": [round(rate, 3) for rate in rates],
    }


def crowd(seconds: float, instances: int = 10_000) -> dict[str, Any]:
    """What of a core a Redis needs for so many idle instances, with nobody publishing.

    They are simulated: each listens on a socket of its own and pings when nothing came for
    `PING_EVERY`; what each sends every `poll_interval` (the reads, the confirmation, as `store`
    sends them) goes through a hundred sockets.
    """
    server = Server(VALKEY, "--maxclients", str(instances + 1000))
    try:
        return asyncio.run(_crowd(server, seconds, instances))
    finally:
        server.stop()


_ASKING = 100
"""Sockets through which a crowd's polls go."""


async def _crowd(server: Server, seconds: float, instances: int) -> dict[str, Any]:
    _need_files(instances + 1000)
    policy = await _found(server)
    layout = Layout("bench")
    listening = []
    for _ in range(instances):
        listening.append(await _Line.to(server))
        await listening[-1].ask(["SUBSCRIBE", layout.published])
    every = policy.poll_interval.total_seconds()
    work = [
        asyncio.create_task(_ping_in_turn(listening[n::_ASKING], n / _ASKING))
        for n in range(_ASKING)
    ]
    work += [
        asyncio.create_task(_poll_in_turn(server, layout, instances // _ASKING, every, n))
        for n in range(_ASKING)
    ]
    await asyncio.sleep(every)  # until each has a row in the table
    before, began = _server_cpu(server), time.monotonic()
    commands = _commands(server)
    await asyncio.sleep(seconds)
    spent, took = _server_cpu(server) - before, time.monotonic() - began
    commands = _commands(server) - commands
    for task in work:
        task.cancel()
    return {
        "redis_cpu_percent": round(100 * spent / took, 1),
        "commands_a_second_an_instance": round(commands / took / instances, 3),
    }


def _need_files(count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise OSError(f"{count} open files are needed, and {most} allowed: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))


def _packed(command: list[str]) -> bytes:
    parts = (f"${len(part.encode())}\r\n{part}\r\n" for part in command)
    return f"*{len(command)}\r\n{''.join(parts)}".encode()


class _Line:
    """A raw connection: the least that asking can cost whoever asks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = hiredis.Reader()

    @classmethod
    async def to(cls, server: Server) -> _Line:
        return cls(*await asyncio.open_unix_connection(server.socket))

    async def ask(self, *commands: list[str]) -> None:
        self._writer.write(b"".join(map(_packed, commands)))
        answered = 0
        while answered < len(commands):
            self._parser.feed(await self._reader.read(65536))
            while self._parser.gets() is not False:
                answered += 1


async def _ping_in_turn(lines: list[_Line], begin: float) -> None:
    """Each of `lines` pings every so often, one after the other."""
    await asyncio.sleep(begin * PING_EVERY / len(lines))
    while True:
        for line in lines:
            await asyncio.gather(line.ask(["PING"]), asyncio.sleep(PING_EVERY / len(lines)))


async def _poll_in_turn(
    server: Server, layout: Layout, instances: int, every: float, number: int
) -> None:
    """Each of so many instances reads the ring and confirms it, one after the other."""
    line = await _Line.to(server)
    fields = ("snapshot", "proof", "version")
    record = json.dumps({"role": "sign", "version": 1, "epoch": 1, "capabilities": ["RS256"] * 7})
    await asyncio.sleep(number / _ASKING * every / instances)
    while True:
        for n in range(instances):
            began, name = time.monotonic(), f"host-{number}-{n}-abcdef"
            await line.ask(*(["HSTRLEN", layout.keyring, field] for field in fields))
            await line.ask(["HMGET", layout.keyring, *fields])
            await line.ask(["TIME"])
            at = str(time.time_ns() // 1_000_000)
            await line.ask(
                ["ZADD", layout.seen, at, name], ["HSET", layout.instances, name, record]
            )
            await asyncio.sleep(max(0.0, began + every / instances - time.monotonic()))


def _server_cpu(server: Server) -> float:
    """Seconds of CPU that the server has used."""
    with server.client() as client:
        told: Any = client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def _commands(server: Server) -> int:
    """Commands that clients sent; apps run no scripts, so none of them called another."""
    with server.client() as client:
        stats: Any = client.info("commandstats")
    return sum(value["calls"] for name, value in stats.items() if name not in _OWN)


def importing(rounds: int) -> dict[str, Any]:
    """CPU time and memory of importing the client, and what others import, beside the base alone.

    The base is `redis` and `cryptography`, which an app has anyway. Each is a fresh interpreter.
    """
    modules = {
        name: text for name, text in _IMPORTS.items() if find_spec(re.split("[ .,]", text)[1])
    }
    found = {name: list[tuple[float, float]]() for name in modules}
    for round_ in range(-1, rounds):  # the first only compiles
        for name in rotated(list(modules), round_):
            code = _MEASURED.format(code=f"{_IMPORTS[_BASE]}; {modules[name]}")
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True
            )
            if round_ >= 0:
                seconds, kib = map(float, done.stdout.split())
                found[name].append((seconds, kib * 1024 / 1e6))
    spent = {name: [each[0] for each in times] for name, times in found.items()}
    memory = {name: [each[1] for each in times] for name, times in found.items()}
    ratio = ratios(spent, _BASE)
    return {
        "import_ratio": round(ratio["ringkeeper"].median, 2),
        "ratio": ratio,
        "ms": spreads(spent, 1000),
        "added_mb": {
            name: Spread.of(a - b for a, b in zip(each, memory[_BASE], strict=True))
            for name, each in memory.items()
        },
    }
