"""Real daemons: processes of their own, with configurations and secrets in temporary folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create
from ringkeeper.trust import TrustRoot
from tests.plugins import warm
from tests.plugins.servers import free_port

MODULE = (sys.executable, "-m", "ringkeeperd")
FAST: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 1,
    "access_token_validity": 60,
    "clock_skew": "5s",
    "lease_ttl": "2s",
    "poll_interval": "500ms",
    "algorithm": "ES256",
}
"""A ring that nobody has to wait for: keys of an hour, and a liveness window of 1.5 s."""
PATIENCE = 30.0
"""Seconds to wait for what has no deadline of its own: long, for machines with other work to do."""


def eventually(is_so: Callable[[], Any], within: float = PATIENCE) -> Any:
    """What `is_so` says once it says yes; an assertion if it never does."""
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        answer = is_so()
        if answer:
            return answer
        now = time.monotonic()
        assert now < deadline, "it never came about"
        time.sleep(max(0.03, now - began))  # a command costs what the daemon waited for needs


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One `ringkeeper` command in the folder `cwd`, to its end."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        with Here().start(*MODULE, *arguments, cwd=cwd, stdout=said, stderr=complained) as process:
            try:
                code = process.wait(60)
            finally:
                process.kill()
        said.seek(0)
        complained.seek(0)
        return subprocess.CompletedProcess(arguments, code, said.read(), complained.read())


class Site:
    """A folder with a trust root and a KEK, where daemons and commands run."""

    def __init__(self, redis_url: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rk-site-"))
        self.redis_url = redis_url
        self.root = TrustRoot.generate()
        create(self.folder / "root.jwk", self.root.secret_jwk())
        create(self.folder / "root.pub.jwk", self.root.public_jwk(), mode=0o644)
        create(self.folder / "kek.jwk", Kek.generate().secret_jwk())
        self.daemons: list[Daemon] = []

    def configure(self, name: str = "config.yaml", **settings: Any) -> Path:
        """Write a configuration; JSON is YAML."""
        document = {
            **FAST,
            "redis": {"url": self.redis_url},
            "trust_root": "root.jwk",
            "trust_root_public": "root.pub.jwk",
            "kek": "kek.jwk",
            "state_dir": "state",  # never the machine's own
            "listen": "127.0.0.1:1",  # nobody's: commands ask the daemon here how it is
            **settings,
        }
        path = self.folder / name
        path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
        return path

    def run(self, *arguments: str, config: str = "config.yaml") -> subprocess.CompletedProcess[str]:
        """One `ringkeeper` command, to its end."""
        return command(*arguments, "--config", config, cwd=self.folder)

    def done(self, *arguments: str, config: str = "config.yaml") -> str:
        """As `run`; it must succeed."""
        result = self.run(*arguments, config=config)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def refused(self, *arguments: str, config: str = "config.yaml", code: int = 1) -> str:
        """As `run`; it must fail with one clear line."""
        result = self.run(*arguments, config=config)
        assert result.returncode == code, result.stdout
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        return lines[0]

    def misused(self, *arguments: str) -> str:
        """As `refused`, for what nobody could do: wrong usage."""
        return self.refused(*arguments, code=2)

    def status(self) -> Any:
        return json.loads(self.done("status", "--json"))

    def daemon(
        self,
        *,
        is_ready: bool = True,
        init: bool = False,
        place: Here | None = None,
        **settings: Any,
    ) -> Daemon:
        """A running daemon; with `init`, the ring is made first."""
        number = len(self.daemons)
        port, address = free_port(), place.address if place else Here.address
        settings.setdefault("state_dir", f"state{number}")
        config = self.configure(f"daemon{number}.yaml", listen=f"{address}:{port}", **settings)
        if number == 0:
            self.configure(**settings)
        if init:
            self.done("init", config=config.name)
        self.daemons.append(Daemon(self, config, port, place))
        if is_ready:
            self.daemons[-1].wait_until_ready()
        return self.daemons[-1]

    def leader(self) -> Daemon:
        """The daemon that leads, once one does."""

        def find() -> Daemon | None:
            return next((d for d in self.daemons if d.is_running and d.leads()), None)

        found: Daemon = eventually(find, within=15)
        return found

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.kill()
        # A daemon that was killed leaves its embedded server to the next one, which never comes.
        for left in self.folder.rglob("valkey.pid"):  # wherever a test had it put
            with suppress(ValueError, ProcessLookupError):
                os.kill(int(left.read_text()), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Here:
    """Where processes run unless a test has hosts of its own: this machine."""

    address = "127.0.0.1"

    def start(self, *command: str, **streams: Any) -> subprocess.Popen[Any]:
        """`command`, running in the background; the daemon's own is forked (warm.py)."""
        given = {"stdin": subprocess.DEVNULL, "env": clean_environment(), **streams}
        if command[: len(MODULE)] == MODULE and warm.is_possible(**given):
            forked = warm.start(*command[len(MODULE) :], **given)
            return cast("subprocess.Popen[Any]", forked)  # it does as much
        return subprocess.Popen(command, **given)


class Daemon:
    """One `ringkeeper run`."""

    patience = 5.0
    """Seconds that an answer over HTTP may take."""

    def __init__(self, site: Site, config: Path, port: int, place: Here | None = None) -> None:
        self.site = site
        self.config = config
        self.port = port
        self.place = place or Here()
        self.log_path = config.with_suffix(".log")
        with self.log_path.open("ab") as log:
            self.process = self.place.start(
                *MODULE, "run", "--config", str(config), cwd=site.folder, stdout=log, stderr=log
            )

    def again(self) -> Daemon:
        """The same daemon, started again after its end."""
        return Daemon(self.site, self.config, self.port, self.place)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def told(self, name: str, times: int = 1) -> list[dict[str, Any]]:
        """Its log lines of that event, once there are so many; there must be no more.

        What a command has seen done in Redis the leader tells a moment later.
        """
        found: list[dict[str, Any]] = eventually(
            lambda: len(lines := self.events(name)) >= times and lines
        )
        assert len(found) == times, found
        return found

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(
            f"http://{self.place.address}:{self.port}{path}", headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=self.patience) as response:  # noqa: S310
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def answers(self, path: str, status: int = 200) -> bool:
        assert self.is_running, self.log
        try:
            return self.get(path)[0] == status
        except OSError:
            return False

    def wait_until_ready(self) -> None:
        eventually(lambda: self.answers("/readyz"), within=20)

    def metric(self, name: str, **labels: str) -> float | None:
        """The value of one series; None where it does not exist."""
        text = self.get("/metrics")[2].decode()
        for line in text.splitlines():
            head, _, value = line.rpartition(" ")
            is_it = head.partition("{")[0] == f"ringkeeper_{name}"
            if is_it and all(f'{key}="{given}"' in head for key, given in labels.items()):
                return float(value)
        return None

    def leads(self) -> bool:
        try:
            return self.metric("leader") == 1
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.is_running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> float:
        """SIGTERM; how many seconds it took to end, with exit status 0."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log
        return time.monotonic() - began


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("RINGKEEPER_", "ACCESS_"))}


@pytest.fixture
def make_site() -> Iterator[Callable[[str], Site]]:
    """Makes sites; everything that runs there is stopped in the end."""
    sites: list[Site] = []

    def make(redis_url: str) -> Site:
        sites.append(Site(redis_url))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[[str], Site], valkey: Any) -> Site:
    """A site at the shared Valkey, empty at first."""
    return make_site(valkey.url)
