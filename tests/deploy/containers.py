"""Containers that run: in a network of their own, ended and removed by their ids."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.images import have_podman, podman

CLOSED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)
"""As closed as a container can be; by itself podman would let it write to /tmp and /run."""
OUTSIDE = "10.251.0.1"
"""An address of such a network that is not its loopback's."""
_ASK = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[2]))
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    with error:
        print(error.code, error.read().decode())
except OSError:
    print(0)
"""


class Network:
    """A network namespace with a loopback and no way out, that containers share."""

    def __init__(self) -> None:
        self.name = f"rk-{secrets.token_hex(4)}"
        self.path = Path("/run/netns") / self.name
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        ip = ("ip", "-n", self.name)
        subprocess.run([*ip, "link", "set", "lo", "up"], check=True)
        subprocess.run([*ip, "address", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)

    def get(self, url: str, **headers: str) -> tuple[int, str]:
        """Status and body; 0 where nobody answers."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", sys.executable, "-c", _ASK, url, json.dumps(headers)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        status, _, body = done.stdout.partition(" ")
        return int(status), body.strip()

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


class Container:
    """One container that was started."""

    def __init__(self, name: str) -> None:
        self.id = name

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(podman("inspect", self.id).stdout)[0]["State"]
        return found

    @property
    def is_running(self) -> bool:
        return bool(self.state["Running"])

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""
        return int(self.state["Pid"])

    @property
    def log(self) -> str:
        done = podman("logs", self.id)
        return done.stdout + done.stderr

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def done(self, *command: str) -> str:
        """What a command in it prints; it must succeed."""
        return podman("exec", self.id, *command).stdout.strip()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self) -> tuple[int, float]:
        """SIGTERM; its exit status, and the seconds that it took to end."""
        pid, began = self.pid, time.monotonic()
        os.kill(pid, signal.SIGTERM)
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() - began < 20, self.log
            time.sleep(0.02)
        took = time.monotonic() - began
        return int(podman("wait", self.id).stdout), took


class Host:
    """Where containers run, with volumes that go with it."""

    def __init__(self) -> None:
        self.network = Network()
        self.containers: list[Container] = []
        self._volumes: dict[str, str] = {}

    def volume(self, name: str) -> str:
        """A volume of this host alone."""
        if name not in self._volumes:
            self._volumes[name] = f"{self.network.name}-{name}"
            podman("volume", "create", self._volumes[name])
        return self._volumes[name]

    def folder(self, volume: str) -> Path:
        """Where this machine has what is in a volume."""
        shown = podman("volume", "inspect", "--format={{.Mountpoint}}", self.volume(volume))
        return Path(shown.stdout.strip())

    def options(self, environment: Mapping[str, str], *options: str) -> list[str]:
        told = [f"--env={name}={value}" for name, value in environment.items()]
        return [f"--network=ns:{self.network.path}", *told, *options]

    def start(
        self, image: str, *command: str, options: Sequence[str] = CLOSED, **environment: str
    ) -> Container:
        """A container that runs in the background."""
        made = podman("run", "--detach", *self.options(environment, *options), image, *command)
        self.containers.append(Container(made.stdout.strip()))
        return self.containers[-1]

    def run(
        self, image: str, *command: str, options: Sequence[str] = CLOSED, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A container, to its end."""
        done = podman(
            "run", "--rm", *self.options(environment, *options), image, *command, check=False
        )
        # podman's own complaint where there is no systemd that could run health checks
        lines = [line for line in done.stderr.splitlines() if "level=error" not in line]
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout, "\n".join(lines)
        )

    def close(self) -> None:
        for container in reversed(self.containers):
            podman("rm", "--force", "--volumes", "--time=0", container.id, check=False)
        for volume in self._volumes.values():
            podman("volume", "rm", "--force", volume, check=False)
        self.network.remove()


@pytest.fixture
def network() -> Iterator[Network]:
    have_podman()
    made = Network()
    yield made
    made.remove()


@pytest.fixture
def host() -> Iterator[Host]:
    have_podman()
    made = Host()
    yield made
    made.close()
