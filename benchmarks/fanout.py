"""Publish to 1,000 instances: beside 1,000 raw sockets that only receive.

An instance has a machine to itself, so a thousand of them cannot be measured on one: ten are
real (a live keyring each, in one process), the others are raw sockets that only load the server.
What counts is the time from the publication until the last of them all has it: for a real one,
until it verifies with the new version.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import statistics
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import redis.asyncio as redis
from tests.plugins.servers import VALKEY, Server

from ringkeeper.asyncio import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, RotationReason
from ringkeeper.sealing import Kek
from ringkeeper.store import Published
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.founding import found
from ringkeeperd.leader_store import Edition, RedisLeaderStore, Written
from ringkeeperd.minting import mint, mint_aside
from ringkeeperd.rotation import Activate, apply
from ringkeeperd.transitions import KeyWanted

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

INSTANCES = 1000
REAL = 10
RAW_CHANNEL = "raw"


class _Raw(asyncio.Protocol):
    """A subscriber that counts bytes: the least that receiving can cost."""

    def __init__(self, channel: str, done: Any) -> None:
        self._channel = channel
        self._done = done
        self._left = 0
        self._is_subscribed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(f"SUBSCRIBE {self._channel}\r\n".encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._is_subscribed:
            self._is_subscribed = True
            self._done(None)
            return
        if self._left == 0:
            head = data.split(b"\r\n", 6)
            self._left = int(head[5][1:]) + 2 + len(b"\r\n".join(head[:6])) + 2
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._done(time.monotonic())


def _raw_process(pipe: Pipe, port: int, channel: str, count: int) -> None:
    """`count` raw subscribers; each round, tell when the last one had the whole message."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        arrived = 0

        def done(_: float | None) -> None:
            nonlocal arrived
            arrived += 1
            if arrived % count == 0:
                pipe.send(time.monotonic())

        for _ in range(count):
            await loop.create_connection(lambda: _Raw(channel, done), "127.0.0.1", port)
        await asyncio.Event().wait()

    asyncio.run(run())


def _real_process(pipe: Pipe, url: str, count: int, given: dict[str, Any]) -> None:
    """`count` live keyrings; each round, tell when the last one verifies with the new version."""

    async def run() -> None:
        rings = [
            await Keyring.connect(
                url,
                name="bench",
                trust_root=TrustRoot.from_secret_jwk(given["root"]).public,
                kek=Kek.from_secret_jwk(given["kek"]),
            )
            for _ in range(count)
        ]
        pipe.send(time.monotonic())
        version = rings[0].version
        while True:
            await asyncio.sleep(0.0005)
            if all(ring.version > version for ring in rings):
                for ring in rings:
                    await ring.verify(await ring.sign({"sub": "bench"}))
                pipe.send(time.monotonic())
                version = rings[0].version
                await asyncio.sleep(0.05)

    asyncio.run(run())


def measure(rounds: int, real: int = REAL) -> dict[str, Any]:
    """Milliseconds to the last of 1,000: raw sockets, and instances; and their ratio."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, most), most))
    server = Server(VALKEY, "--maxclients", "4000")
    processes: list[Any] = []
    try:
        return asyncio.run(_measure(server, rounds, real, processes))
    finally:
        for process in processes:
            process.kill()
            process.join()
        server.stop()


async def _measure(server: Server, rounds: int, count: int, processes: list[Any]) -> dict[str, Any]:
    clock, root, kek = SystemClock(), TrustRoot.generate(), Kek.generate()
    store = RedisLeaderStore.connect(server.url, "bench", clock, password=None)
    policy = Policy.derive(poll_interval=timedelta(minutes=30))
    ring = await found(
        name="bench",
        ring_id="bench",
        policy=policy,
        store=store,
        root=root,
        kek=kek,
        mint=mint_aside,
        clock=clock,
        owner="bench",
    )
    spawn = multiprocessing.get_context("spawn")

    def start(target: Any, *given: Any) -> Pipe:
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=target, args=(there, *given), daemon=True))
        processes[-1].start()
        return here

    raw = start(_raw_process, server.port, RAW_CHANNEL, INSTANCES)
    load = start(_raw_process, server.port, store.layout.published, INSTANCES - count)
    given = {"root": root.secret_jwk(), "kek": kek.secret_jwk()}
    real = start(_real_process, server.tcp_url, count, given)
    for pipe in (raw, load, real):
        assert pipe.poll(60)
        pipe.recv()
    client = redis.Redis(port=server.port)
    times: dict[str, list[float]] = {"raw": [], "instances": []}
    acquired = await store.acquire("bench", timedelta(minutes=10), 0)
    former = (await store.read()).snapshot
    for _ in range(rounds):
        wanted = KeyWanted(KeyKind.DYNAMIC, policy.algorithm)
        assert ring.standby
        minted = mint(wanted, kek)
        step = Activate(ring.standby.kid, RotationReason.MANUAL, wanted)
        ring = apply(ring, step, now=clock.now(), epoch=acquired.epoch, fresh=minted.fresh)  # type: ignore[union-attr]
        snapshot = sign_snapshot(ring, root)
        proof = sign_proof(ring, snapshot, clock.now(), root)
        put = {minted.fresh.kid: minted.sealed}
        kept = frozenset(key.kid for key in ring.keys)
        edition = Edition(ring.version, ring.epoch, snapshot, proof, put, kept, ())

        began = time.monotonic()
        await client.publish(RAW_CHANNEL, Published(snapshot, proof).encode())
        times["raw"].append(await _said(raw) - began)

        began = time.monotonic()
        assert isinstance(await store.publish("bench", former, edition), Written)
        former = snapshot
        times["instances"].append(max(await _said(load), await _said(real)) - began)
        await _confirmed(store, ring.version, count)
    await client.aclose()
    await store.close()
    ratios = [a / b for a, b in zip(times["instances"], times["raw"], strict=True)]
    return {
        "raw_ms": round(1000 * statistics.median(times["raw"]), 1),
        "instances_ms": round(1000 * statistics.median(times["instances"]), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "message_bytes": len(json.dumps(snapshot)) + len(proof),
    }


async def _confirmed(store: RedisLeaderStore, version: int, count: int) -> None:
    """Wait as a leader does: until all `count` instances can use everything in `version`."""
    async with asyncio.timeout(10):
        while True:
            rows = await store.instances(timedelta(minutes=10))
            if sum(row.version == version for row in rows) == count:
                return
            await asyncio.sleep(0.05)


async def _said(pipe: Pipe) -> float:
    """What a process says next; it must, within ten seconds."""
    arrived = await asyncio.to_thread(pipe.poll, 10)
    assert arrived, "a subscriber never had the message"
    moment: float = pipe.recv()
    return moment
