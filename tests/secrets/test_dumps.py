"""Nothing outside the process gets at its memory, by a core dump or by another process. Promise 4.

All of it is tried on a process that does not protect itself, too: where the system forbids it
anyway, there is nothing to be seen, and the test is skipped.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.daemons import Daemon, Here, Site, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="dumps are Linux's here")

_WAITING = "import time; print('ready', flush=True); time.sleep(600)"
# What another process of the same user may do: read the memory, and attach as a debugger does.
_SPY = """
import ctypes, json, os, sys
pid, libc, done = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True), {}
try:
    place = next(line for line in open(f"/proc/{pid}/maps") if "[heap]" in line).split("-")[0]
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(int(place, 16))
        done["read"] = len(memory.read(4096))
except OSError as error:
    done["read"] = 0
try:
    done["environ"] = len(open(f"/proc/{pid}/environ", "rb").read())
except OSError:
    done["environ"] = 0
done["attached"] = libc.ptrace(16, pid, None, None) == 0  # PTRACE_ATTACH
if done["attached"]:
    os.waitpid(pid, 0x40000000)  # __WALL
    libc.ptrace(17, pid, None, None)
print(json.dumps(done))
"""


class Ordinary(Here):
    """Where processes have no privileges, and may dump as much as they like."""

    def start(self, *command: str, **streams: Any) -> subprocess.Popen[Any]:
        return super().start(*self.without_privileges(*command), **streams)

    @staticmethod
    def without_privileges(*command: str) -> tuple[str, ...]:
        unlimited = ("prlimit", "--core=unlimited")
        if os.geteuid():
            return ("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh", *command)
        return (*unlimited, "setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *command)


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes there, in a folder of their own, and ends them."""
    if not os.geteuid() and not (shutil.which("setpriv") and shutil.which("prlimit")):
        pytest.skip("setpriv and prlimit are not installed: apt-get install util-linux")
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(Ordinary().start(*command, cwd=tmp_path, **streams))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def unprotected(
    ordinary: Callable[..., subprocess.Popen[bytes]],
) -> subprocess.Popen[bytes]:
    """A Python process as any other."""
    process = ordinary(sys.executable, "-c", _WAITING)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.fixture
def command(
    ordinary: Callable[..., subprocess.Popen[bytes]], site: Site
) -> subprocess.Popen[bytes]:
    """`ringkeeper token verify -`, which waits for a token to come."""
    config = site.configure()
    process = ordinary(
        sys.executable, "-m", "ringkeeperd", "token", "verify", "-", "--config", str(config)
    )

    assert process.stdin
    stdin = process.stdin.fileno()
    os.write(stdin, b"eyJ")
    unread = array("i", [1])

    def reads() -> bool:
        """It has come as far as to take that from its standard input."""
        fcntl.ioctl(stdin, termios.FIONREAD, unread)
        return unread[0] == 0

    eventually(reads)
    return process


@pytest.fixture
def daemon(ordinary: object, site: Site) -> Daemon:
    return site.daemon(init=True, place=Ordinary())


def dumped(process: subprocess.Popen[bytes]) -> bool:
    """Whether it left a core dump when it was told to abort."""
    os.kill(process.pid, signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGABRT
    return os.WCOREDUMP(status)


def spied(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What another process of the same user gets out of it."""
    done = subprocess.run(
        Ordinary.without_privileges(sys.executable, "-c", _SPY, str(process.pid)),
        capture_output=True,
        check=True,
        timeout=30,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_daemon_that_aborts_leaves_no_core_dump(
    unprotected: subprocess.Popen[bytes], daemon: Daemon, tmp_path: Path
) -> None:
    if not dumped(unprotected):
        pytest.skip("no process leaves a core dump here")
    for core in tmp_path.glob("core*"):
        core.unlink()
    assert not dumped(daemon.process)
    assert list(daemon.site.folder.glob("core*")) == []


def test_a_command_that_aborts_leaves_no_core_dump(
    unprotected: subprocess.Popen[bytes], command: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    if not dumped(unprotected):
        pytest.skip("no process leaves a core dump here")
    for core in tmp_path.glob("core*"):
        core.unlink()
    assert not dumped(command)
    assert list(tmp_path.glob("core*")) == []


def test_no_other_process_of_the_same_user_reads_the_memory_of_a_daemon(
    unprotected: subprocess.Popen[bytes], daemon: Daemon
) -> None:
    if spied(unprotected) != {"read": 4096, "environ": _some(unprotected), "attached": True}:
        pytest.skip("no process may read another one's memory here")
    assert spied(daemon.process) == {"read": 0, "environ": 0, "attached": False}


def test_no_other_process_of_the_same_user_reads_the_memory_of_a_command(
    unprotected: subprocess.Popen[bytes], command: subprocess.Popen[bytes]
) -> None:
    if spied(unprotected) != {"read": 4096, "environ": _some(unprotected), "attached": True}:
        pytest.skip("no process may read another one's memory here")
    assert spied(command) == {"read": 0, "environ": 0, "attached": False}


def _some(process: subprocess.Popen[bytes]) -> int:
    return len(Path(f"/proc/{process.pid}/environ").read_bytes())
