"""`ringkeeper demo`: a daemon, four apps and a thousand users, keys turning every ten seconds.

Everything is real: the daemon, its embedded server, four app processes. Users' tokens are issued
by one app and checked by the others. With `--faults` an app, then the daemon, are killed (kill -9)
and started again, over and over; with `--secrets` the KEK and the trust root are changed meanwhile;
with `--spikes` the kind of key is changed, and a key revoked.
It ends with the count that matters: valid tokens rejected.

However it ends, also when interrupted, it takes every process that it started along.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ringkeeper.asyncio import Keyring
from ringkeeper.errors import InfrastructureError
from ringkeeper.tasks import first_of
from ringkeeperd.command_line.arguments import positive
from ringkeeperd.demo_spikes import INTERVAL, SECONDS, Spikes, cause_spikes
from ringkeeperd.embedded import EmbeddedServer

if TYPE_CHECKING:
    from asyncio.subprocess import Process

_APPS = 4
_USERS_AN_APP = 250
_FULL_LENGTH = 60.0
_ROTATIONS_WANTED = 5
_INTERVAL = 10.0
_LEAST_INTERVAL = 3.0
_READY_WITHIN = 30.0
"""Seconds that the apps may take to start."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `ringkeeper demo` takes."""
    parser.add_argument("--faults", action="store_true", help="kill -9 apps and the daemon, 120 s")
    parser.add_argument(
        "--secrets", action="store_true", help="change the KEK and the trust root meanwhile"
    )
    parser.add_argument(
        "--spikes",
        action="store_true",
        help="change the kind of key (nobody refreshes), then revoke a key (a spike that is told)",
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="SECONDS",
        help="how long it lasts (default: 60, with --faults 120, with --spikes 165)",
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        metavar="SECONDS",
        help=f"how long a key signs (default: 10, with --spikes 300; at least {_LEAST_INTERVAL:g})",
    )
    parser.add_argument("--json", action="store_true", help="print only the summary, as JSON")


def _interval(text: str) -> float:
    seconds = positive(text)
    if seconds < _LEAST_INTERVAL:
        raise argparse.ArgumentTypeError(
            f"is less than {_LEAST_INTERVAL:g} seconds, in which no lease and no proof of "
            "freshness has room"
        )
    return seconds


def main(parsed: argparse.Namespace) -> int:
    """Run the demo; 0 if no valid token was rejected, and enough keys turned to tell."""
    length = 2 * _FULL_LENGTH if parsed.faults else _FULL_LENGTH
    demo = Demo(
        parsed.seconds or (SECONDS if parsed.spikes else length),
        parsed.interval or (INTERVAL if parsed.spikes else _INTERVAL),
        has_faults=parsed.faults,
        has_new_secrets=parsed.secrets,
        has_spikes=parsed.spikes,
        is_quiet=parsed.json,
    )
    try:
        asyncio.run(demo.run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    finally:
        shutil.rmtree(demo.folder, ignore_errors=True)
    return demo.tell()


@dataclass
class Totals:
    """What all apps together have done, those killed meanwhile included."""

    signed: int = 0
    verified: int = 0
    unanswered: int = 0
    paused: int = 0
    overdue: int = 0
    revoked: int = 0
    rejected: list[str] = field(default_factory=list)
    propagation_ms: list[int] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        """Add what one app has done."""
        self.signed += line["signed"]
        self.verified += line["verified"]
        self.unanswered += line["unanswered"]
        self.paused += line["paused"]
        self.overdue += line["overdue"]
        self.revoked += line["revoked"]
        self.rejected += line["rejected"]
        self.propagation_ms += line["propagation_ms"]


class Demo:
    """One run."""

    def __init__(
        self,
        seconds: float,
        interval: float,
        *,
        has_faults: bool,
        has_new_secrets: bool,
        is_quiet: bool,
        has_spikes: bool = False,
    ) -> None:
        """Last `seconds`, with keys that sign for `interval` seconds."""
        self.folder = Path(tempfile.mkdtemp(prefix="ringkeeper-demo-"))
        self.config = self.folder / "config.yaml"
        self._seconds = seconds
        self._interval = interval
        self._has_faults = has_faults
        self._has_new_secrets = has_new_secrets
        self._changed: list[str] = []
        """What was changed, and is not needed any more."""
        self._spikes = Spikes() if has_spikes else None
        self._is_quiet = is_quiet
        self._daemon: Process | None = None
        self._apps: dict[int, Process] = {}
        self._killed: set[int] = set()
        self._newest: dict[int, dict[str, Any]] = {}
        self._gone = Totals()
        self._reading: set[asyncio.Task[None]] = set()
        self._signers: list[str] = []
        self._seen: set[str] = set()
        self._removed: set[str] = set()
        self._faults: list[str] = []
        self._began = 0.0

    async def run(self) -> None:
        """Start everything, watch, stop everything; also when this process is told to end.

        Raises:
            InfrastructureError: something did not start, or died without being killed.
        """
        self._heed_signals()
        self.config.write_text(json.dumps(self._configuration()))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop)
            await self._start_daemon()
            ring = await stack.enter_async_context(await self._keyring())
            for number in range(_APPS):
                await self._start_app(number)
            await self._apps_ready()
            self._began = asyncio.get_running_loop().time()
            work = [self._watch(ring)]
            work += [self._break_things()] if self._has_faults else []
            work += [self._change_secrets()] if self._has_new_secrets else []
            if self._spikes:
                work.append(cause_spikes(self._spikes, ring, self.config, self._command))
            await first_of(*work)

    def _heed_signals(self) -> None:
        """End in order on the first signal; an impatient second one must not cut that short."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        is_ending = False

        def end() -> None:
            nonlocal is_ending
            if task and not is_ending:
                is_ending = True
                task.cancel()

        for told in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(told, end)

    # --- the processes ---------------------------------------------------------------------------

    def _configuration(self) -> dict[str, Any]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return {
            "access_token_dynamic_signing_key_update_interval": self._interval / 3600,
            "access_token_validity": 2 * self._interval,
            "clock_skew": "1s",
            "lease_ttl": "2s",
            "redis": {"url": "embedded:."},
            "listen": f"127.0.0.1:{port}",
        }

    async def _start(self, *arguments: str, is_heard: bool = False) -> Process:
        log = (self.folder / "log").open("ab")
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if is_heard else log,
                stderr=log,
                cwd=self.folder,
                env={k: v for k, v in os.environ.items() if not k.startswith("RINGKEEPER_")},
                start_new_session=True,
                limit=2**22,
            )
        finally:
            log.close()

    async def _start_daemon(self) -> None:
        self._daemon = await self._start("ringkeeperd", "run", "--config", str(self.config))

    async def _start_app(self, number: int) -> None:
        arguments = map(str, (self.folder, number, _APPS, _USERS_AN_APP))
        self._apps[number] = await self._start("ringkeeperd.demo_app", *arguments, is_heard=True)
        task = asyncio.create_task(self._read(number, self._apps[number]))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(self, number: int, process: Process) -> None:
        """Take in what an app reports, to its end; what it had done by then still counts."""
        assert process.stdout  # noqa: S101 - it was asked for
        while (line := await process.stdout.readline()).endswith(b"\n"):
            self._newest[number] = json.loads(line)
        if number in self._newest:
            self._gone.add(self._newest.pop(number))

    async def _apps_ready(self) -> None:
        try:
            async with asyncio.timeout(_READY_WITHIN):
                while len(self._newest) < _APPS:
                    self._check_alive()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise InfrastructureError(
                f"the apps did not start within {_READY_WITHIN:g} s: {self._last_words()}"
            ) from None

    def _check_alive(self) -> None:
        """An app that is gone verifies nothing, and would reject nothing, either.

        Raises:
            InfrastructureError: a process ended, and it was not us who killed it.
        """
        processes = {f"app {number}": process for number, process in self._apps.items()}
        if self._daemon:
            processes["the daemon"] = self._daemon
        for who, process in processes.items():
            if process.returncode is not None and process.pid not in self._killed:
                raise InfrastructureError(f"{who} ended by itself: {self._last_words()}")

    async def _keyring(self) -> Keyring:
        for _ in range(100):
            with suppress(InfrastructureError, OSError):
                if (self.folder / "founded-access-token").exists():
                    return await Keyring.from_config(self.config, timeout=20)
            await asyncio.sleep(0.1)
        raise InfrastructureError(f"the daemon did not start: {self._last_words()}")

    def _last_words(self) -> str:
        lines = (self.folder / "log").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    async def _stop(self) -> None:
        for process in self._apps.values():
            await _end(process, signal.SIGKILL)
        if self._daemon:
            await _end(self._daemon, signal.SIGTERM)
        if (self.folder / "valkey.pid").exists():
            # The daemon was killed and left its server, which removes this file when it stops.
            server = await EmbeddedServer.start(self.folder)
            await server.stop()

    async def _kill(self, process: Process) -> None:
        self._killed.add(process.pid)
        await _end(process, signal.SIGKILL)

    async def _break_things(self) -> None:
        """Kill -9 an app, then the daemon, and start them again; and so on."""
        number = 0
        while True:
            await asyncio.sleep(1.3 * self._interval)
            await self._kill(self._apps[number])
            self._faults.append(f"app {number}")
            await asyncio.sleep(1)
            await self._start_app(number)
            number = (number + 1) % _APPS
            await asyncio.sleep(0.7 * self._interval)
            if self._daemon:
                await self._kill(self._daemon)
            self._faults.append("daemon")
            await asyncio.sleep(1)
            await self._start_daemon()

    async def _change_secrets(self) -> None:
        """A fresh KEK and a fresh root, in the order of docs/secrets.md, as often as fits."""
        while True:
            await asyncio.sleep(self._interval / 2)
            await self._command("init", "--new-kek")
            await self._command("init", "--new-root")
            while not await self._command("rewrap", "--reason", "demo"):
                await asyncio.sleep(0.5)
            while not await self._command("rewrap", "--drop-former"):
                await asyncio.sleep(0.5)
            self._changed += ["KEK", "root"]

    async def _command(self, *arguments: str) -> bool:
        """Whether a `ringkeeper` command did what it was to do."""
        process = await self._start("ringkeeperd", *arguments, "--config", str(self.config))
        try:
            return await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()

    # --- watching --------------------------------------------------------------------------------

    async def _watch(self, ring: Keyring) -> None:
        loop = asyncio.get_running_loop()
        console = Console(quiet=self._is_quiet)
        with Live(console=console, refresh_per_second=4, auto_refresh=False) as live:
            while loop.time() < self._began + self._seconds:
                self._check_alive()
                self._note(ring)
                live.update(self._view(ring, loop.time() - self._began), refresh=True)
                await asyncio.sleep(0.1)

    def _note(self, ring: Keyring) -> None:
        keys = {key.kid: key.state.value for key in ring.snapshot.keys}
        active = [kid for kid in keys if keys[kid] == "active" and kid.startswith("d-")]
        if active and self._signers[-1:] != active:
            self._signers += active
        self._removed |= self._seen - keys.keys()
        self._seen |= keys.keys()

    def _totals(self) -> Totals:
        totals = Totals()
        for line in self._newest.values():
            totals.add(line)
        gone = self._gone
        totals.add(vars(gone))
        if not self._spikes:
            totals.rejected += ["RevokedKid: and nobody revoked a key"] * totals.revoked
        return totals

    def _view(self, ring: Keyring, elapsed: float) -> Table:
        totals = self._totals()
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_row("", f"[bold]ringkeeper demo[/]  {elapsed:.0f} of {self._seconds:.0f} s")
        turned = f"{self._rotations} rotations, {len(self._removed)} removed"
        table.add_row("ring", f"version {ring.version}, {turned}")
        colours = {"active": "green", "published": "cyan", "retired": "dim", "revoked": "red"}
        for key in sorted(ring.snapshot.keys, key=lambda k: (k.kind, list(colours).index(k.state))):
            table.add_row(key.state.value, f"[{colours[key.state]}]{key.kid}[/] {key.kind.value}")
        table.add_row("signed", f"{totals.signed:,} tokens")
        table.add_row("verified", f"{totals.verified:,} by another app than the one that signed")
        colour = "bold red" if totals.rejected else "bold green"
        table.add_row("rejected", f"[{colour}]{len(totals.rejected)}[/]")
        table.add_row("no verdict", _without_verdict(totals))
        last = [ms[-1] for line in self._newest.values() if (ms := line["propagation_ms"])]
        if last:
            table.add_row("propagation", f"{max(last)} ms from the decision to the last app")
        if self._faults:
            table.add_row("killed", ", ".join(self._faults[-4:]))
        if self._has_new_secrets:
            table.add_row("changed", ", ".join(self._changed[-4:]) or "nothing yet")
        if self._spikes:
            table.add_row("spikes", self._spikes.shown)
        return table

    @property
    def _rotations(self) -> int:
        return max(0, len(self._signers) - 1)

    def tell(self) -> int:
        """Print the summary; the exit status."""
        totals = self._totals()
        spread = totals.propagation_ms or [0]
        summary = {
            "seconds": round(self._seconds),
            "rotations": self._rotations,
            "removed": len(self._removed),
            "signed": totals.signed,
            "verified": totals.verified,
            "rejected": len(totals.rejected),
            "unanswered": totals.unanswered,
            "paused": totals.paused,
            "overdue": totals.overdue,
            "killed": len(self._faults),
            "secrets_changed": len(self._changed),
            **({"revoked": totals.revoked, **self._spikes.summary()} if self._spikes else {}),
            "propagation_ms_median": round(statistics.median(spread)),
            "propagation_ms_max": max(spread),
        }
        too_few = self._seconds >= 6 * self._interval and (
            self._rotations < _ROTATIONS_WANTED or not self._removed
        )
        if totals.rejected:
            verdict = f"it failed: valid tokens were refused, {len(totals.rejected)} of them"
        elif self._spikes and self._spikes.verdict:
            verdict = self._spikes.verdict
        elif self._has_new_secrets and not self._changed:
            verdict = "it proves nothing: neither KEK nor root was changed in that time"
        elif too_few or not totals.verified:
            verdict = "it proves nothing: too few keys turned, or nothing was verified"
        else:
            verdict = f"it worked: of {totals.verified:,} valid tokens none was refused"
        if self._is_quiet:
            print(json.dumps({**summary, "rejections": totals.rejected[:10]}))  # noqa: T201
        else:
            told = [
                f"{name:<22}{value!s:>9}  {_MEANING.get(name, '')}"
                for name, value in summary.items()
            ]
            print("", verdict, *map(str.rstrip, told), sep="\n")  # noqa: T201
        for line in totals.rejected[:10]:
            print(f"rejected: {line}", file=sys.stderr)  # noqa: T201
        is_good = verdict.startswith("it worked")
        if self._is_quiet and not is_good:
            print(verdict, file=sys.stderr)  # noqa: T201
        return 0 if is_good else 1


_MEANING = {
    "rotations": "times another key began to sign",
    "removed": "keys of which no valid token was left",
    "verified": "by another app than the one that signed",
    "rejected": "valid, and refused: there should be none",
    "unanswered": "asked of an app that was gone: nobody said no",
    "paused": "asked of an app without Redis: nothing judged",
    "overdue": "expired on the way, and refused for that",
    "killed": "apps and daemons, with kill -9",
    "secrets_changed": "KEKs and roots of before, out of every file",
    "revoked": "of the key that was revoked: refused, as they should be",
    "switch_ratio": "refreshes after the change of kind, times usual",
    "switch_spikes": "spikes by then: there should be none",
    "told_after": "seconds until the revocation's spike was told",
    "cause": "what the daemon says that it came from",
    "ratio": "its peak, times usual",
    "propagation_ms_max": "from a decision to the last app that has it",
}


def _without_verdict(totals: Totals) -> str:
    return (
        f"{totals.unanswered} unanswered, {totals.paused} while an app could not, "
        f"{totals.overdue} expired on the way"
    )


async def _end(process: Process, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        async with asyncio.timeout(8):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
