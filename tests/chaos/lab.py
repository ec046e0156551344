"""A fleet under observation: Redis, two daemons that may lead, three apps, tokens between them.

Everything is real: processes, servers, and (where a round needs them) hosts of their own. The
watcher reads Redis by a side door that no fault closes, so it knows what was public, and when.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis

from ringkeeper.errors import RingkeeperError
from ringkeeper.layout import Layout
from ringkeeper.tokens import kid_in
from ringkeeper.wire import open_snapshot
from tests.chaos.history import History, Seen, Signed, Verified
from tests.plugins.daemons import Daemon, Here, Site

RULES: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 8 / 3600,
    "access_token_validity": 10,
    "publication_interval": "2s",
    "jwks_max_age": "1s",
    "confirmation_timeout": "2s",
    "max_staleness": "16s",
    "clock_skew": "1s",
    "poll_interval": "1s",
    "lease_ttl": "2s",
    "algorithm": "ES256",
    "log": {"format": "json"},
}
"""Keys turn every 8 s: each round sees some come, sign, retire and go."""
VALIDITY = 10.0
LOOK_EVERY = 0.02
LAG = 0.5
"""Seconds after which an edition in Redis was surely seen by the watcher, on a busy machine."""
NORMAL_WITHIN = 45.0
LAYOUT = Layout("access-token")


RUNNING: list[Lab] = []


class App:
    """One app process: started, and read, by the lab."""

    def __init__(
        self, lab: Lab, name: str, config: Path, place: Here, program: tuple[str, ...] = ()
    ) -> None:
        self.lab = lab
        self.name = name
        self.config = config
        self.place = place
        self.program = program or ("tests.chaos.app", str(config))
        self.held: dict[str, Any] = {}
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Run it, anew if it ran before."""
        self.held = {}
        with (self.lab.site.folder / f"{self.name}.log").open("a") as log:
            self.process = self.place.start(
                sys.executable, "-m", *self.program,
                cwd=Path(__file__).parents[2], text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        # A stopped app must not stop whoever talks to it: what does not fit in is dropped.
        assert self.process.stdin
        os.set_blocking(self.process.stdin.fileno(), False)
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            with suppress(ValueError):
                self.lab.heard(self, json.loads(line))

    def ask(self, number: int, token: str) -> None:
        """Give it a token to verify."""
        assert self.process
        assert self.process.stdin
        with suppress(OSError, ValueError):
            os.write(self.process.stdin.fileno(), f"{number} {token}\n".encode())

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Dead at once."""
        assert self.process
        self.signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError, ValueError):
                if stream:
                    stream.close()


class Lab:
    """A running fleet, and its history so far."""

    def __init__(self, url: str, nodes: Callable[[], list[redis.Redis]], seed: int) -> None:
        self.site = Site(url)
        self.history = History()
        self.random = random.Random(seed)
        self.daemons: list[Daemon] = []
        self.apps: list[App] = []
        RUNNING.append(self)
        self.leaving = ExitStack()
        """What is to be taken down in the end, last of all."""
        self._nodes = nodes
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._known: dict[str, tuple[int, int]] = {}
        self._present: set[tuple[int, int]] = set()
        self._looks = 0
        self._later: list[tuple[float, int, str]] = []
        self._number = 0
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._watch, self._again)
        ]

    # --- from the beginning to the end -----------------------------------------------------------

    def begin(self, daemons: list[Here], apps: list[Here], **settings: Any) -> None:
        """Start all of it, each on its host, and wait until keys turn and tokens go about."""
        for number, place in enumerate(daemons):
            rules = {**RULES, **settings}
            daemon = self.site.daemon(init=number == 0, place=place, **rules)
            daemon.patience = 0.5
            self.daemons.append(daemon)
        for number, place in enumerate(apps):
            config = self.site.configure(
                f"app{number}.yaml", **RULES, cache_dir=f"cache{number}", lead=False
            )
            self.apps.append(App(self, f"app{number}", config, place))
        for thread in self._threads:
            thread.start()
        assert self.await_normal() is not None, "the fleet never came up"
        self.await_turn()

    def restart(self, daemon: Daemon) -> None:
        """Start a daemon again that was killed."""
        again = daemon.again()
        again.patience = daemon.patience
        self.daemons[self.daemons.index(daemon)] = again
        self.site.daemons.append(again)

    def finish(self) -> float:
        """Stop asking, hear what is still being answered; when that was."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        time.sleep(0.5)
        return time.monotonic()

    def close(self) -> None:
        """End everything that was started."""
        self._over.set()
        for app in self.apps:
            app.kill()
        self.site.close()
        self.leaving.close()
        RUNNING.remove(self)

    def ask_for_a_turn(self) -> None:
        """An operator's `rotate`, right after a turn: the new standby has to become ready first."""
        self.site.run("rotate", "--no-wait", config="daemon0.yaml")

    def revoke(self) -> None:
        """An operator's `revoke` of the key that signs."""
        active = self.newest.ring.active()
        assert active
        with self._lock:
            self.history.revoked[active.kid] = float("inf")  # refused from now on, or soon
        self.site.done("revoke", active.kid, "--reason", "chaos", config="daemon0.yaml")
        with self._lock:
            self.history.revoked[active.kid] = time.monotonic()

    # --- the workload ----------------------------------------------------------------------------

    def heard(self, app: App, said: dict[str, Any]) -> None:
        """Write down what an app said; a fresh token goes to the others."""
        now = time.monotonic()
        with self._lock:
            if said["did"] == "holds":
                app.held = {**said, "at": now}
            elif said["did"] == "verified":
                self.history.verified.append(Verified(said["number"], app.name, now, said["said"]))
            elif said["did"] == "signed" and not self._over.is_set():
                self._number += 1
                number, token = self._number, said["token"]
                self.history.signed[number] = Signed(
                    number, app.name, kid_in(token), now, now + VALIDITY - 1.0
                )
                for other in self.apps:
                    other.ask(number, token)
                later = now + self.random.uniform(0.5, VALIDITY - 1.2)
                self._later.append((later, number, token))

    def _again(self) -> None:
        """Show tokens once more when they are older, at a random app."""
        while not self._over.wait(0.05):
            now = time.monotonic()
            with self._lock:
                due = [each for each in self._later if each[0] <= now]
                self._later = [each for each in self._later if each[0] > now]
            for _, number, token in due:
                self.random.choice(self.apps).ask(number, token)

    # --- the watcher -----------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            present: set[tuple[int, int]] = set()
            for node in self._nodes():
                with suppress(redis.RedisError, RingkeeperError, OSError):
                    snapshot = str(node.hget(LAYOUT.keyring, "snapshot") or "")
                    if not snapshot:
                        continue
                    if snapshot not in self._known:
                        ring = open_snapshot(snapshot, self.site.root.public)
                        self._known[snapshot] = (ring.version, ring.epoch)
                        self.history.seen.append(Seen(time.monotonic(), ring))
                    present.add(self._known[snapshot])
            self._present, self._looks = present, self._looks + 1

    @property
    def newest(self) -> Seen:
        """The newest edition that was seen."""
        return max(self.history.seen, key=lambda seen: (seen.ring.version, seen.at))

    # --- waiting ---------------------------------------------------------------------------------

    def is_normal(self) -> bool:
        """Redis and all apps hold the newest version, fresh, and one daemon leads."""
        if not self.history.seen:
            return False
        now, newest = time.monotonic(), self.newest.ring
        if (newest.version, newest.epoch) not in self._present:
            return False
        for app in self.apps:
            held = app.held
            if not held or now - held["at"] > 1.0 or held["staleness"] > 3.0:
                return False
            if (held["version"], held["epoch"]) != (newest.version, newest.epoch):
                return False
        return sum(daemon.is_running and daemon.leads() for daemon in self.daemons) == 1

    def await_normal(self) -> float | None:
        """Seconds until the fleet is as it should be; None if it never is."""
        began, looks = time.monotonic(), self._looks
        _seconds_until(lambda: self._looks >= looks + 2, NORMAL_WITHIN)
        is_normal = _seconds_until(self.is_normal, NORMAL_WITHIN)
        return None if is_normal is None else time.monotonic() - began

    def await_turn(self) -> None:
        """Wait until another key signs."""
        before = self.newest.ring.active()

        def has_turned() -> bool:
            active = self.newest.ring.active()
            return active is not None and active != before and before is not None

        _seconds_until(has_turned, NORMAL_WITHIN)

    def heals(self) -> float:
        """How often the daemons that run have healed the ring."""
        return sum(daemon.metric("heals_total") or 0 for daemon in self.daemons)

    def leader(self) -> Daemon:
        """The daemon that leads."""
        found: list[Daemon] = []

        def find() -> bool:
            found[:] = [d for d in self.daemons if d.is_running and d.leads()]
            return bool(found)

        assert _seconds_until(find, NORMAL_WITHIN) is not None, "nobody leads"
        return found[0]

    def standby(self) -> Daemon:
        """The daemon that does not."""
        leader = self.leader()
        return next(daemon for daemon in self.daemons if daemon is not leader)


def _seconds_until(is_so: Callable[[], bool], within: float) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < within:
        if is_so():
            return time.monotonic() - began
        time.sleep(0.05)
    return None


def pause(duration: timedelta) -> None:
    """Let a fault last, while the workload goes on."""
    time.sleep(duration.total_seconds())
