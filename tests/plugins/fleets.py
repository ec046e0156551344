"""Several real servers together: a primary with replicas and Sentinels, and a Cluster."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.plugins.servers import VALKEY, free_port

_T = TypeVar("_T")
SERVICE = "keys"


def until(is_so: Callable[[], _T | None], what: str, within: float = 30.0) -> _T:
    """What `is_so` says once it says yes; errors of Redis count as no."""
    deadline = time.monotonic() + within
    while True:
        try:
            answer = is_so()
        except redis.RedisError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


class Node:
    """One server process on a port of its own."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        is_sentinel: bool = False,
        binary: Path = VALKEY,
    ) -> None:
        self.binary = binary
        self.port = free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self.options = options
        self.is_sentinel = is_sentinel
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        flat = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        flat += ["--daemonize", "no", "--loglevel", "notice"]
        if self.is_sentinel:
            config = self.folder / "sentinel.conf"
            config.touch()
            command = [str(self.binary), str(config), "--sentinel", *flat, *self.options]
        else:
            command = [str(self.binary), *flat, "--save", "", "--appendonly", "no", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(lambda: self.client().ping(), f"the server on {self.port} answers")

    def client(self) -> redis.Redis:
        return redis.Redis(
            port=self.port,
            decode_responses=True,
            protocol=2,
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )

    def call(self, *command: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.info(section)
            return found

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Fleet:
    """What both have: nodes, a URL, and the node that a ring is written to."""

    url: str

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rk-fleet-", dir="/tmp"))
        self.nodes: list[Node] = []
        try:
            self._build()
        except BaseException:  # nobody else knows of it yet
            self.stop()
            raise

    def _build(self) -> None:
        raise NotImplementedError

    def node(self, *options: str, is_sentinel: bool = False) -> Node:
        self.nodes.append(Node(self.folder, *options, is_sentinel=is_sentinel))
        return self.nodes[-1]

    def primary(self) -> Node:
        """The node that a ring is written to now."""
        raise NotImplementedError

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class SentinelFleet(Fleet):
    """A primary, two replicas, three Sentinels that give a primary up after a second."""

    def _build(self) -> None:
        first = self.node()
        self.servers = [first]
        for _ in range(2):
            self.servers.append(self.node("--replicaof", f"127.0.0.1 {first.port}"))
        self._await_replicas(first, 2)
        self.sentinels = [self.node(is_sentinel=True) for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.call("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", first.port, 2)
            for name, value in (("down-after-milliseconds", 1000), ("failover-timeout", 3000)):
                sentinel.call("SENTINEL", "SET", SERVICE, name, value)
        for sentinel in self.sentinels:
            until(lambda s=sentinel: self._knows_all(s), "the Sentinels know each other")  # type: ignore[misc]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    def _knows_all(self, sentinel: Node) -> bool:
        (about,) = sentinel.call("SENTINEL", "MASTERS")
        found = (
            about if isinstance(about, dict) else dict(zip(about[::2], about[1::2], strict=True))
        )
        return int(found["num-other-sentinels"]) == 2 and int(found["num-slaves"]) == 2

    def _await_replicas(self, primary: Node, count: int) -> None:
        until(
            lambda: primary.info("replication")["connected_slaves"] >= count,
            f"{count} replicas follow",
        )

    def primary(self) -> Node:
        """The one that most Sentinels name and that says so itself."""

        def find() -> Node | None:
            for sentinel in self.sentinels:
                if sentinel.is_running:
                    _, port = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                    node = next(n for n in self.servers if n.port == int(port))
                    if node.is_running and node.info("replication")["role"] == "master":
                        return node
            return None

        return until(find, "the Sentinels name a primary")


class ClusterFleet(Fleet):
    """Three primaries with a replica each; a node is given up after a second."""

    def _build(self) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        options += ["--repl-diskless-sync-delay", "0"]
        ports = [free_port() for _ in range(6)]  # of the bus; by default 10000 above the other
        self.servers = [self.node(*options, "--cluster-port", str(port)) for port in ports]
        primaries, replicas = self.servers[:3], self.servers[3:]
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(primaries):
            node.call("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.servers[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port, ports[0])
        until(lambda: all(self._sees(node, 6) for node in self.servers), "all nodes meet")
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.call("CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID"))
        until(lambda: all(self._is_ok(node) for node in self.servers), "the Cluster is up")
        for replica in replicas:
            until(
                lambda r=replica: r.info("replication").get("master_link_status") == "up",  # type: ignore[misc]
                "the replicas follow",
            )
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in primaries)
        self.url = f"redis+cluster://{hosts}"

    def _says(self, node: Node, name: str) -> str:
        told = node.call("CLUSTER", "INFO")
        lines = told.items() if isinstance(told, dict) else re.findall(r"(\w+):(\S+)", told)
        return str(dict(lines)[name])

    def _sees(self, node: Node, count: int) -> bool:
        return self._says(node, "cluster_known_nodes") == str(count)

    def _is_ok(self, node: Node) -> bool:
        return self._says(node, "cluster_state") == "ok"

    def primary(self, key: str = "ringkeeper:{access-token}:keyring") -> Node:
        """The primary of the slot that the ring is in."""

        def find() -> Node | None:
            for node in self.servers:
                if node.is_running and node.info("replication")["role"] == "master":
                    try:
                        node.call("EXISTS", key)
                    except redis.RedisError:
                        continue
                    return node
            return None

        return until(find, "a node serves the ring's slot")


@pytest.fixture
def sentinel_fleet() -> Iterator[SentinelFleet]:
    """A primary with two replicas and three Sentinels, of the test's own."""
    fleet = SentinelFleet()
    yield fleet
    fleet.stop()


@pytest.fixture
def cluster_fleet() -> Iterator[ClusterFleet]:
    """Three primaries with a replica each, of the test's own."""
    fleet = ClusterFleet()
    yield fleet
    fleet.stop()


@pytest.fixture(params=["sentinel", "cluster"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """Both, one after the other."""
    found: Fleet = request.getfixturevalue(f"{request.param}_fleet")
    return found
