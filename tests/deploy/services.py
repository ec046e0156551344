"""ringkeeper on a machine with a systemd, as install.sh puts it there."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.machines import Machine, boot
from tests.plugins.daemons import FAST, eventually

UNIT = "ringkeeper.service"
FILES_UNIT = "ringkeeper-files.service"
ETC = "/etc/ringkeeper"
URL = "http://127.0.0.1:9465"
READY = "access-token: leading, version"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One with ringkeeper installed as the README says, and a Redis of Debian's."""
    booted = boot()
    try:
        booted.said = booted.install()
        yield booted
    finally:
        booted.close()


class Service:
    """ringkeeper on that machine, under systemd."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._started_at = "0"

    def configure(self, **settings: Any) -> None:
        document = {**FAST, "redis": {"url": "redis://127.0.0.1:6379/0"}, **settings}
        self.machine.write(f"{ETC}/config.yaml", json.dumps(document))

    def unit(self, *lines: str) -> None:
        """What systemctl edit would write."""
        text = "\n".join(["[Service]", *lines, ""])
        self.machine.write(f"/run/systemd/system/{UNIT}.d/test.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def do(self, verb: str, *, is_checked: bool = True) -> float:
        """`systemctl VERB ringkeeper`; how many seconds it took."""
        if verb == "start":
            self._started_at = self.machine.run("date", "+%s.%N").stdout.strip()
        began = time.monotonic()
        self.machine.run("systemctl", verb, UNIT, is_checked=is_checked)
        return time.monotonic() - began

    def show(self, name: str) -> str:
        return self.machine.run("systemctl", "show", "--value", "-p", name, UNIT).stdout.strip()

    @property
    def status(self) -> str:
        return self.show("StatusText")

    def whole_status(self) -> str:
        """What systemctl status prints."""
        return self.machine.run("systemctl", "status", UNIT, is_checked=False).stdout

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def log(self) -> str:
        """What it and systemd said since it was last started by `do`."""
        since = f"--since=@{self._started_at}"
        return self.machine.run("journalctl", "-o", "cat", "-u", UNIT, since).stdout

    def complaint(self) -> str:
        """The one line of a start that failed."""
        lines = [line for line in self.log().splitlines() if line.startswith("ringkeeper: ")]
        assert len(set(lines)) == 1, self.log()  # each attempt says the same
        assert self.status == lines[0].replace("ringkeeper", "cannot run", 1)
        return lines[0]

    def leads(self) -> bool:
        return self.status.startswith(READY)

    def version(self) -> int:
        state = json.loads(self.machine.get(f"{URL}/v1/keyring"))
        return int(state["access-token"]["version"])

    def close(self) -> None:
        self.machine.run("systemctl", "stop", UNIT, FILES_UNIT, is_checked=False)
        self.machine.run("systemctl", "reset-failed", UNIT, is_checked=False)
        self.machine.run("rm", "-rf", f"/run/systemd/system/{UNIT}.d")
        self.machine.run("systemctl", "daemon-reload")


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    made = Service(machine)
    made.configure()
    yield made
    made.close()


@pytest.fixture
def running(service: Service) -> Service:
    """It leads."""
    service.do("start")
    eventually(service.leads)
    return service
