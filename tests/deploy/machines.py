"""A machine with a systemd of its own: Debian in a folder, booted in namespaces, thrown away after.

The folder is made once, by debootstrap from the mirror that this host's apt uses, and kept under
~/.cache/ringkeeper-tests, or in $RINGKEEPER_TEST_CACHE. Whatever a booted machine writes is gone
with it: it runs on an overlay in memory. It has no network but its own loopback.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.plugins.daemons import eventually

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("systemd-sysv", "procps", "python3-venv", "redis-server")
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "apt-get")
_SOURCE = "/usr/src/ringkeeper"
_WHEELS = "/usr/src/wheels"
_GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
"""


class Machine:
    """One that has booted. What it sees of this host: the source, and wheels of what it needs."""

    said = ""
    """What install.sh said when it was first run here."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self._cgroups = _own_cgroups()
        binds = {REPOSITORY: _SOURCE, wheels: _WHEELS}
        self._process = subprocess.Popen(
            [
                # Whatever becomes of the tests, the machine does not outlive them.
                "setpriv", "--pdeathsig", "KILL",
                "sh", "-c", 'for each in $CGROUPS; do echo $$ >"$each/cgroup.procs"; done; exec "$@"', "-",
                "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no",
                "--private-network", "--volatile=overlay", "--console=pipe", "--machine=ringkeeper",
                *(f"--bind-ro={here}:{there}" for here, there in binds.items()),
                "--directory", str(root), "--boot",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "CGROUPS": " ".join(map(str, self._cgroups))},
        )  # fmt: skip
        try:
            self.leader: int = eventually(self._init, within=20)
            eventually(self._is_up, within=30)
        except BaseException:
            self.close()
            raise

    def _init(self) -> int:
        """The process id of its init, once it runs; 0 before."""
        assert self._process.poll() is None, (self._process.communicate()[1], "did not boot")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for child in map(int, children.split()):
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return child
        return 0

    def _is_up(self) -> bool:
        told = self.run("systemctl", "is-system-running", is_checked=False).stdout
        return told.strip() in ("running", "degraded")

    def run(
        self, *command: str, is_checked: bool = True, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`command` in the machine, as root, to its end."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
             "LANG=C.UTF-8", *command],
            input=text, stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not is_checked, (command, done.stdout, done.stderr)
        return done

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, text=text)

    def get(self, url: str) -> str:
        """What is served there, within the machine."""
        command = ["nsenter", "-t", str(self.leader), "-n", sys.executable, "-c", _GET, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        return done.stdout

    def install(self, *options: str) -> str:
        """Run install.sh; what it said."""
        pip = ("PIP_NO_INDEX=1", f"PIP_FIND_LINKS={_WHEELS}", "PIP_DISABLE_PIP_VERSION_CHECK=1")
        script = f"{_SOURCE}/deploy/systemd/install.sh"
        return self.run("env", *pip, "sh", script, *options).stdout

    def close(self) -> None:
        """End it at once, with all that runs in it, and leave nothing behind."""
        namespace = 0
        if init := getattr(self, "leader", 0):
            with suppress(OSError):
                namespace = _pid_namespace(init)
                os.kill(init, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.communicate(timeout=30)
        for each in self._cgroups:
            eventually(partial(_is_removed, each))
        processes = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
        assert not namespace or namespace not in map(_pid_namespace, processes)


def _pid_namespace(process: int) -> int:
    """Which one `process` lives in; 0 for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/ns/pid").stat().st_ino
    return 0


def _own_cgroups() -> list[Path]:
    """A cgroup of our own below that of this process, in each hierarchy that systemd uses."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, below = line.split(":", 2)
        mounts = {"": ("unified", "."), "name=systemd": ("systemd",)}.get(controllers, ())
        for mount in mounts:
            hierarchy = Path("/sys/fs/cgroup") / mount
            if (hierarchy / "cgroup.procs").exists():
                made.append(hierarchy / below.lstrip("/") / f"ringkeeper-{os.getpid()}")
                made[-1].mkdir(exist_ok=True)
                break
    return made


def _is_removed(cgroup: Path) -> bool:
    if not cgroup.exists():
        return True
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
    return not cgroup.exists()


# --- what is made once ---------------------------------------------------------------------------


def cache() -> Path:
    given = os.environ.get("RINGKEEPER_TEST_CACHE")
    folder = Path(given) if given else Path.home() / ".cache/ringkeeper-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _made_once(name: str) -> Iterator[tuple[Path, Path | None]]:
    """The folder of that name, and where to make it if it is not there yet."""
    whole, partial = cache() / name, cache() / f"{name}.partial"
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists():
            yield whole, None
            return
        shutil.rmtree(partial, ignore_errors=True)
        yield whole, partial
        partial.rename(whole)


def debian() -> Path:
    """A root folder that boots: this host's Debian, with a Python and a Redis."""
    codename = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    ).get("VERSION_CODENAME", "")
    recipe = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:8]
    with _made_once(f"{codename}-{recipe}") as (root, partial):
        if partial:
            _run(
                "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
                codename, str(partial), _mirror(codename),
            )  # fmt: skip
    return root


def _mirror(codename: str) -> str:
    """Where apt has this release from; debootstrap has its own default, which may not be reached."""
    targets = _run(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"
    )
    found = re.search(rf"^{codename} (\S+)$", targets, re.MULTILINE)
    assert found, f"apt knows no mirror of {codename}"
    return found[1]


def wheels(root: Path) -> Path:
    """A folder with all that install.sh has pip install, for the Python of `root`."""
    texts = [(REPOSITORY / f"requirements/{n}.txt").read_text() for n in ("run", "build")]
    # For whichever Python: what another one needs besides does no harm.
    everything = re.sub(r" ;.* \\$", r" \\", "".join(texts), flags=re.MULTILINE)
    (python,) = (root / "usr/bin").glob("python3.[0-9]*[0-9]")
    digest = hashlib.sha256(f"{everything}{python.name}".encode()).hexdigest()[:8]
    with _made_once(f"wheels-{digest}") as (folder, partial):
        if partial:
            partial.mkdir()
            listed = partial / "requirements.txt"
            listed.write_text(everything)
            _run(
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                "--only-binary", ":all:", "--python-version", python.name.removeprefix("python"),
                "--dest", str(partial), "--requirement", str(listed),
            )  # fmt: skip
    return folder


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def boot() -> Machine:
    """A fresh machine, or a skip that says why not."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a machine needs root and {', '.join(TOOLS)}: run make deploy-test as root")
    root = debian()
    return Machine(root, wheels(root))
