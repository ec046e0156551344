"""Hosts of a fleet: each a network namespace with a wall clock of its own, on one bridge.

A host can be cut off the others, and its wall clock stepped, while its processes run. Traffic
never leaves the namespaces that are made here. All of it is taken down by `Network.close`.
"""

from __future__ import annotations

import itertools
import secrets
import struct
import subprocess
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.plugins.daemons import Here, clean_environment

_SHIM_SOURCE = Path(__file__).with_name("wallclock.c")


def build_shim(folder: Path) -> Path:
    """The library that shifts a process' wall clock, compiled."""
    shim = folder / "wallclock.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(_SHIM_SOURCE)]
    subprocess.run(command, check=True)
    return shim


class Network:
    """A bridge with hosts on it, out of everybody else's sight."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rk-chaos-", dir="/tmp"))
        self.shim = build_shim(self.folder)
        self.name = f"rk{secrets.token_hex(3)}"
        # Random: what a run that was killed left behind must not get in the way.
        self.prefix = f"10.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}"
        self._numbers = itertools.count(10)
        self.hosts: list[Host] = []
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.prefix}.1/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def host(self, name: str) -> Host:
        """A new host."""
        self.hosts.append(Host(self, name, next(self._numbers)))
        return self.hosts[-1]

    def close(self) -> None:
        """Take everything down."""
        for host in self.hosts:
            host.close()
        _ip("link", "del", self.name)


class Host(Here):
    """One machine: processes see its network and its wall clock."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.name = name
        self.address = f"{network.prefix}.{number}"
        self.folder = network.folder / name
        self.folder.mkdir()
        self.space = f"{network.name}-{number}"
        self._link = f"{network.name}v{number}"
        self._shim = network.shim
        self._clock = self.folder / "clock"
        self.shift = timedelta(0)
        self.step(self.shift)
        _ip("netns", "add", self.space)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        _ip("link", "set", self._link, "master", network.name, "up")
        inside = ["-n", self.space]
        _ip(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")

    def start(self, *command: str, **streams: Any) -> subprocess.Popen[Any]:
        """`command`, running on this host, in the background."""
        environment = clean_environment()
        environment |= {"LD_PRELOAD": str(self._shim), "WALLCLOCK_FILE": str(self._clock)}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.space, *command],
            env=environment,
            **{"stdin": subprocess.DEVNULL, "cwd": self.folder, **streams},
        )

    def cut(self) -> None:
        """From now on nothing arrives here or leaves: packets vanish, connections hang."""
        _ip("link", "set", self._link, "down")

    def mend(self) -> None:
        """The network is there again."""
        _ip("link", "set", self._link, "up")

    def step(self, shift: timedelta) -> None:
        """Set this host's wall clock off by `shift`, from one moment to the next."""
        self.shift = shift
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("<q", shift // timedelta(milliseconds=1)))

    def close(self) -> None:
        """Take the host down; whoever started processes has ended them."""
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.space)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
