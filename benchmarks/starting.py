"""How long a daemon takes until it is ready, beside an interpreter that only imports.

Ready is when `/readyz` says so: it leads, and has a JWKS to serve. What it leads exists already, in
a server of its own. The interpreter beside it imports what the daemon uses of others, and ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from tests.plugins.servers import VALKEY, Server, free_port

from benchmarks.rounds import interleaved, ratios, spreads

OURS: Final = "start to ready"
IMPORTS: Final = "interpreter, and libraries it uses, all of each"
_WITHIN: Final = 30.0


def measure(rounds: int) -> dict[str, Any]:
    """Milliseconds by the clock, of either."""
    with tempfile.TemporaryDirectory(prefix="rk-") as folder, ExitStack() as after:
        server = Server(VALKEY)
        after.callback(server.stop)
        port = free_port()
        config = Path(folder, "config.yaml")
        places = {
            "trust_root": "root.jwk",
            "trust_root_public": "root.pub.jwk",
            "kek": "kek.jwk",
            "state_dir": "state",
        }
        config.write_text(
            json.dumps({"redis": {"url": server.url}, "listen": f"127.0.0.1:{port}", **places})
        )

        def ours(_: int) -> float:
            return _started(config, port)

        def imports(_: int) -> float:
            code = (
                "import aiohttp.web, redis.asyncio, joserfc.jws, prometheus_client, structlog, yaml"
            )
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            return time.perf_counter() - began

        subprocess.run(
            [sys.executable, "-m", "ringkeeperd", "init", "--config", str(config)],
            check=True,
            capture_output=True,
            env=_environment(),
        )
        ours(0)  # what it compiles is there from now on
        times = interleaved({OURS: ours, IMPORTS: imports}, rounds)
    return {"ms": spreads(times, 1000), "ratio": ratios(times, IMPORTS)}


def _started(config: Path, port: int) -> float:
    """Seconds until a daemon is ready; then it is stopped."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ringkeeperd", "run", "--config", str(config)],
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    try:
        while not _is_ready(port):
            assert process.poll() is None
            assert time.perf_counter() < began + _WITHIN
            time.sleep(0.002)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def _environment() -> dict[str, str]:
    """This one's, but for what would override the configuration."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RINGKEEPER_")}


def _is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
