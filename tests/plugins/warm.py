"""`python -m ringkeeperd`, forked from a process that has loaded everything already.

Half of what `make test` cost was Python loading the same modules seven hundred times. What is
forked has its own arguments, folder, environment and streams, and ends as Python ends, but for the
taking apart of all modules: that touches, and so copies, all their memory, and was half of what a
command took. It is not a fresh interpreter: a test of what is loaded, or of PYTHON… variables,
starts one itself, and RINGKEEPER_TESTS_COLD=1 makes all tests do so.

The test's process makes a `Parent` (in a process of its own: `python -m tests.plugins.warm FD`)
and sends it requests; the parent forks, and tells how each child ended.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST: Final = 128 * 1024
"""Bytes of a request: arguments and environment."""
_STREAMS: Final = 3
_ROOT: Final = Path(__file__).parents[2]
_KNOWN: Final = {"cwd", "env", "stdin", "stdout", "stderr"}
Stream = int | IO[Any]


def is_possible(**given: Any) -> bool:
    """Whether there are pidfds (Linux), and nothing is asked for but what `start` knows."""
    is_wanted = hasattr(os, "pidfd_open") and os.environ.get("RINGKEEPER_TESTS_COLD") != "1"
    return is_wanted and given.keys() <= _KNOWN and subprocess.PIPE not in given.values()


class Forked:
    """One such process, as `subprocess.Popen` would have it."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._line = line

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it ended.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("ringkeeperd", timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                told = self._line.recv(64)
            except (BlockingIOError, TimeoutError):
                return None
            self._line.close()
            assert told, "the process that forks for the tests is gone"
            self.returncode = int(told)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> Literal[False]:
        self.wait()
        return False


def start(
    *arguments: str, cwd: Any, env: dict[str, str], stdin: Stream, stdout: Stream, stderr: Stream
) -> Forked:
    """`python -m ringkeeperd ARGUMENTS`, running in the background."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked = {"arguments": arguments, "cwd": os.fspath(cwd), "env": env}
    with theirs, Path(os.devnull).open("r+b") as nothing:
        streams = [_number(each, nothing) for each in (stdin, stdout, stderr)]
        socket.send_fds(_parent(), [json.dumps(asked).encode()], [theirs.fileno(), *streams])
    told = ours.recv(64)
    assert told, "the process that forks for the tests is gone"
    return Forked(int(told), ours)


def _number(stream: Stream, nothing: IO[bytes]) -> int:
    if isinstance(stream, int):
        assert stream == subprocess.DEVNULL, "only files, and subprocess.DEVNULL"
        return nothing.fileno()
    return stream.fileno()


@cache
def _parent() -> socket.socket:
    """The line to this process's parent of all that it forks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.plugins.warm", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            command, cwd=_ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- in the parent's process ---------------------------------------------------------------------


class Parent:
    """Forks what is asked for on `line`, until that is closed; then what still runs is killed."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._heard = selectors.DefaultSelector()
        self._heard.register(line, selectors.EVENT_READ)

    def serve(self) -> list[str] | None:
        """None in the end; in each child, the arguments of what it is to be."""
        while True:
            for key, _ in self._heard.select():
                if key.fileobj is not self._line:
                    self._bury(key)
                    continue
                request, given, *_ = socket.recv_fds(self._line, _MOST, 1 + _STREAMS)
                if not request:
                    self._kill_all()
                    return None
                if (mine := self._fork(json.loads(request), *given)) is not None:
                    return mine

    def _fork(self, asked: dict[str, Any], reply: int, *streams: int) -> list[str] | None:
        pid = os.fork()
        if pid == 0:
            _become(asked, streams)
            return list(asked["arguments"])
        for each in streams:
            os.close(each)
        line = socket.socket(fileno=reply)
        self._heard.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, line))
        line.send(str(pid).encode())
        return None

    def _bury(self, key: selectors.SelectorKey) -> None:
        pid, line = key.data
        self._heard.unregister(key.fileobj)
        os.close(key.fd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with line:
            try:
                line.send(str(code).encode())
            except BrokenPipeError:
                return  # nobody waits for it

    def _kill_all(self) -> None:
        for key in list(self._heard.get_map().values()):
            if key.data:
                os.kill(key.data[0], signal.SIGKILL)
                self._bury(key)


def _become(asked: dict[str, Any], streams: tuple[int, ...]) -> None:
    """Be in the folder, have the environment and the streams that are asked for, and no others."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(_STREAMS, os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.stdin = os.fdopen(0, closefd=False)
    # As Python does it: unbuffered, what could not be written is not tried again at exit.
    size = 0 if asked["env"].get("PYTHONUNBUFFERED") else -1
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            os.fdopen(number, "wb", size, closefd=False),
            errors="backslashreplace" if number == 2 else "strict",
            line_buffering=number == 2,
            write_through=not size,
        )
        for number in (1, 2)
    )


def load_everything() -> None:
    """Import all of both packages but the demo; what is loaded is left alone by the collector."""
    for package in ("ringkeeper", "ringkeeperd"):
        found = importlib.import_module(package)
        for each in pkgutil.walk_packages(found.__path__, f"{package}."):
            if each.name.rpartition(".")[2].startswith(("__main__", "demo")):
                continue
            try:
                importlib.import_module(each.name)
            except ModuleNotFoundError as error:  # a framework that only make integrations has
                if (error.name or "ringkeeper").partition(".")[0] in ("ringkeeper", "ringkeeperd"):
                    raise
    gc.collect()
    gc.freeze()


def _run_to_the_end(command: Callable[[], None]) -> None:
    """Do what it does, and end; what is not the usual end is left to Python."""
    code: Any = None
    try:
        command()
    except SystemExit as end:
        code = end.code
        if not (code is None or isinstance(code, int)):
            raise
    # As Python does: the threads, what is registered, and what was written.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit((code or 0) & 0xFF)


def main() -> None:
    """Serve the line that is inherited as the descriptor in the argument."""
    from ringkeeperd.__main__ import main as command

    load_everything()
    arguments = Parent(socket.socket(fileno=int(sys.argv[1]))).serve()
    if arguments is not None:
        sys.argv = ["ringkeeperd", *arguments]
        _run_to_the_end(command)


if __name__ == "__main__":
    main()
