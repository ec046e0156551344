"""Apps with SuperTokens' own SDKs, and what stands where they look for a core."""

from __future__ import annotations

import fcntl
import http.client
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ringkeeper import Keyring
from tests.integrations.stage import Stage, eventually, free_port

ROOT = Path(__file__).parents[2]
PYTHON_APP = ROOT / "examples/supertokens_python/app.py"
NODE = Path(__file__).parent / "supertokens_node"
PYTHON, NODEJS = "supertokens-python", "supertokens-node"
SDKS = (PYTHON, NODEJS)

HELLO, REFRESH, UNAUTHORISED = "hello alice", "try refresh token", "unauthorised"
"""What an app says: the last two with 401, and told apart by their message alone."""
FAILED = "500"


class Core:
    """What the SDKs take for a core: it passes the daemon's JWKS on, and keeps who asked what."""

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        """`answer` is given the path of a request."""
        self.asked: list[str] = []
        core = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                core.asked.append(self.path)
                body = answer(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def core_of(stage: Stage) -> Iterator[Core]:
    """A core whose JWKS is what the daemon serves at that moment."""
    core = Core(lambda path: stage.daemon.get(path)[2])
    try:
        yield core
    finally:
        core.close()


class App:
    """A running app with one of the SDKs."""

    def __init__(
        self,
        stage: Stage,
        sdk: str,
        keys: str = "",
        *,
        is_dynamic: bool = True,
        cached: int | None = None,
        program: str = "app.js",
    ) -> None:
        """`keys`: where its core is; the daemon. `cached`: seconds for a JWKS, if not 4 hours.

        `program`: which one in the folder of Node's.
        """
        self.port = free_port()
        keys = keys or f"http://127.0.0.1:{stage.daemon.port}"
        environment = {
            **stage.environment,
            "USE_DYNAMIC_ACCESS_TOKEN_SIGNING_KEY": str(is_dynamic).lower(),
        }
        if cached is not None:
            environment["JWKS_REFRESH_INTERVAL_SEC"] = str(cached)
        command = [sys.executable, str(PYTHON_APP)] if sdk == PYTHON else ["node", program]
        self._process = stage.start(
            *command, str(self.port), keys, env=environment, cwd=NODE if sdk != PYTHON else None
        )

    def wait_until_up(self) -> App:
        eventually(self._answers, within=30)
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None
        try:
            return bool(self.says(""))
        except OSError:
            return False

    def says(self, token: str) -> str:
        """The answer to a request with `token`: a greeting, or why there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request("GET", "/", headers=headers)
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status == 200:
            return body
        if answer.status == 500:
            return FAILED
        assert answer.status == 401, (answer.status, body)
        return next(each for each in (REFRESH, UNAUTHORISED) if f'"{each}"' in body)

    def accepts(self, token: str) -> bool:
        said = self.says(token)
        assert said != UNAUTHORISED, "it is no access token to the SDK"
        return said == HELLO

    def login(self) -> str:
        """A token of the app's own."""
        url = f"http://127.0.0.1:{self.port}/login"
        with urllib.request.urlopen(url, timeout=10) as answer:
            token: str = answer.read().decode()
        return token


SESSION = {
    "sub": "alice",
    "rsub": "alice",
    "tId": "public",
    "sessionHandle": "7d9a3a2e-6c1b-4e6f-8f0a-2f6c1f0e9b11",
    "refreshTokenHash1": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
"""What SuperTokens writes into an access token of version 5, but for the times."""
VERSION = {"version": "5"}


def issue(ring: Keyring) -> str:
    return ring.sign(SESSION, header=VERSION)


def needs(sdk: str) -> None:
    """Skip where it is not installed and cannot be; what npm installs is installed here."""
    hint = "run tests/provision integrations"
    if sdk == PYTHON:
        if not find_spec("supertokens_python"):
            pytest.skip("supertokens-python is not installed; run make .venv/integrations")
        return
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip(f"no node and npm here; {hint}")
    lock = (NODE / "package-lock.json").read_bytes()
    modules = NODE / "node_modules"
    installed = modules / ".installed"
    with (NODE / "package.json").open() as held:  # one of several workers does it
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (installed.is_file() and installed.read_bytes() == lock):
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                check=False,
                cwd=NODE,
                capture_output=True,
                text=True,
                timeout=100,
            )
            if done.returncode:
                pytest.skip(f"npm could not install {sdk}: {done.stderr.strip()[-300:]}; {hint}")
            installed.write_bytes(lock)
