"""What a daemon and an app cost while nothing happens."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.plugins.servers import VALKEY, Server, free_port

from ringkeeper.asyncio import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.policy import Policy
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeperd.founding import found
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.minting import mint_aside

APPS = 20


def daemon(seconds: float) -> dict[str, Any]:
    """RSS and CPU of `ringkeeper run` as shipped, leading a ring at rest."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        config = Path(folder, "config.yaml")
        config.write_text(
            json.dumps({"redis": {"url": "embedded:./var"}, "listen": f"127.0.0.1:{port}"})
        )
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
            ready_ms = 1000 * (time.monotonic() - began)
            time.sleep(5)
            before = cpu_ms(process.pid)
            time.sleep(seconds)
            cpu = cpu_ms(process.pid) - before
            memory = memory_mib(process.pid)
        finally:
            process.terminate()
            process.wait()
    return {
        "rss_mib": round(memory, 1),
        "cpu_ms_a_minute": round(cpu * 60 / seconds, 1),
        "start_to_ready_ms": round(ready_ms),
    }


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


def memory_mib(pid: int) -> float:
    """What of the process is resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def apps(seconds: float) -> dict[str, Any]:
    """Redis commands a second that an idle instance costs: pings, polls, confirmations."""
    server = Server(VALKEY)
    try:
        return asyncio.run(_apps(server, seconds))
    finally:
        server.stop()


async def _apps(server: Server, seconds: float) -> dict[str, Any]:
    clock, root, kek = SystemClock(), TrustRoot.generate(), Kek.generate()
    store = RedisLeaderStore.connect(server.url, "bench", clock, password=None)
    policy = Policy.derive(algorithm="ES256")
    await found(
        name="bench", ring_id="bench", policy=policy, store=store, root=root,
        kek=kek, mint=mint_aside, clock=clock, owner="bench",
    )  # fmt: skip
    rings = [
        await Keyring.connect(server.url, name="bench", trust_root=root.public, kek=kek)
        for _ in range(APPS)
    ]
    await asyncio.sleep(2)
    before = _commands(server)
    await asyncio.sleep(seconds)
    spent = _commands(server) - before
    for ring in rings:
        await ring.close()
    await store.close()
    return {"commands_a_second_an_instance": round(spent / seconds / APPS, 3)}


def _commands(server: Server) -> int:
    """Commands that clients sent; what a script calls inside the server is not one of them."""
    with server.client() as client:
        stats: Any = client.info("commandstats")
    sent = ("ping", "time", "hstrlen", "hmget", "zadd", "hset", "subscribe", "hgetall")
    return sum(
        value["calls"] for name, value in stats.items() if name.removeprefix("cmdstat_") in sent
    )


def importing(rounds: int) -> dict[str, Any]:
    """Import time of the client, in times of importing redis and cryptography alone."""
    base = "import redis.asyncio, cryptography.hazmat.primitives.asymmetric.rsa"
    times: dict[str, list[float]] = {base: [], f"{base}; import ringkeeper": []}
    for _ in range(rounds):
        for code, taken in times.items():
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True)
            taken.append(time.monotonic() - began)
    alone, ours = (sorted(taken)[rounds // 2] for taken in times.values())
    return {"import_ratio": round(ours / alone, 2)}
