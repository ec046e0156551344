"""Container images, built for real without a registry: a base made by debootstrap, and ours on it.

What is costly is kept between runs, outside of the tree: the base's root file system and the wheels,
in `$RINGKEEPER_TEST_CACHE`, or `~/.cache/ringkeeper-tests`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = "localhost/ringkeeper-test/python:bookworm"
REDIS = "localhost/ringkeeper-test/redis:bookworm"
PROMETHEUS = "localhost/ringkeeper-test/prometheus:bookworm"
# Each checkout has an image of its own: another one's tests may run at the same time.
_CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]
IMAGE = f"localhost/ringkeeper-test/ringkeeper:{_CHECKOUT}"
_ENOUGH = 16384


def cache() -> Path:
    """Where things are kept that take minutes to make."""
    named = os.environ.get("RINGKEEPER_TEST_CACHE")
    folder = Path(named) if named else Path.home() / ".cache/ringkeeper-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Nobody else on this machine makes `what` meanwhile."""
    with (cache() / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def podman(
    *arguments: str, check: bool = True, within: float = 300
) -> subprocess.CompletedProcess[str]:
    """One podman command, to its end."""
    done = subprocess.run(
        ["podman", *arguments],
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
        env=podman_environment(),
    )
    assert not check or done.returncode == 0, f"podman {' '.join(arguments)}:\n{done.stderr}"
    return done


def podman_environment() -> dict[str, str]:
    """This process' environment, with settings for podman that work on any machine."""
    kept, text = cache() / "containers.conf", podman_settings()
    if not kept.exists() or kept.read_text() != text:
        kept.write_text(text)
    return {**os.environ, "CONTAINERS_CONF": str(kept)}


def podman_settings(containers: str = "", engine: str = "") -> str:
    """Its containers.conf, with more lines for two of its tables."""
    # podman's own limits are higher than some machines let even root have.
    limits = [
        f'"{name}={most}:{most}"'
        for name, most in (
            ("nofile", _at_most(resource.RLIMIT_NOFILE)),
            ("nproc", _at_most(resource.RLIMIT_NPROC)),
        )
    ]
    return (
        f"[containers]\ndefault_ulimits = [{', '.join(limits)}]\n{containers}"
        f'[engine]\nruntime = "runc"\nevents_logger = "none"\n{engine}'
    )


def _at_most(which: int) -> int:
    _, hard = resource.getrlimit(which)
    return _ENOUGH if hard == resource.RLIM_INFINITY else min(_ENOUGH, hard)


def is_there(image: str) -> bool:
    return podman("image", "exists", image, check=False).returncode == 0


def have_podman() -> None:
    """Skip where containers cannot be made."""
    for program in ("podman", "debootstrap"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed: run tests/provision deploy")
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")


# --- what ours is built on -----------------------------------------------------------------------


def mirror() -> str:
    """The mirror that this machine's apt uses."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.splitlines()[0]


def _packed(archive: Path, *packages: str) -> None:
    """Make `archive`, a Debian 12 with these packages and little else."""
    with tempfile.TemporaryDirectory(prefix="rk-base-", dir=archive.parent) as folder:
        root = Path(folder) / "root"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}",
             "bookworm", str(root), mirror()],
            stdout=subprocess.DEVNULL, check=True, timeout=600,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        )  # fmt: skip
        # Whoever gets the image need not know where it was made.
        (root / "etc/apt/sources.list").write_text(
            "deb http://deb.debian.org/debian bookworm main\n"
        )
        unfinished = archive.with_suffix(".part")
        subprocess.run(
            ["tar", "-C", str(root), "-cf", str(unfinished), "--exclude=./dev/*",
             "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./var/cache/apt/*",
             "--exclude=./var/lib/apt/lists/*", "."],
            check=True, timeout=120,
        )  # fmt: skip
        unfinished.rename(archive)


def debian(image: str, *packages: str) -> str:
    """`image`, a Debian 12 with these packages, imported if it is not there."""
    have_podman()
    archive = cache() / f"{image.rpartition('/')[2].replace(':', '-')}.tar"
    with alone("images"):
        if not archive.exists():
            _packed(archive, *packages)
        if not is_there(image):
            podman("import", str(archive), image)
    return image


@pytest.fixture(scope="session")
def base_image() -> str:
    """Debian 12 with its Python 3.11.2, in the place of the Dockerfile's PYTHON_IMAGE."""
    return debian(BASE, "python3", "python3-venv")


@pytest.fixture(scope="session")
def redis_image() -> str:
    """Debian's Redis 7.0."""
    return debian(REDIS, "redis-server")


@pytest.fixture(scope="session")
def prometheus_image() -> str:
    """Debian's Prometheus 2.42."""
    return debian(PROMETHEUS, "prometheus")


# --- ours ----------------------------------------------------------------------------------------


def wheels() -> Path:
    """A folder with all that the image installs, as this machine's pip comes by it."""
    wanted = "".join((ROOT / f"requirements/{name}.txt").read_text() for name in ("run", "build"))
    # Whether a marker holds is for the Python in the image to say: here all are fetched.
    wanted = re.sub(r" ; [^\\\n]+", " ", wanted)
    folder = cache() / f"wheels-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    with alone("wheels"):
        if folder.exists():
            return folder
        with tempfile.TemporaryDirectory(dir=cache()) as fresh:
            listed = Path(fresh) / "wanted.txt"
            listed.write_text(wanted)
            into = Path(fresh) / "wheels"
            done = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                 "--require-hashes", "--only-binary", ":all:", "--python-version", "3.11",
                 "--dest", str(into), "--requirement", str(listed)],
                capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            into.rename(folder)
    return folder


def build_arguments(base: str) -> dict[str, str]:
    """What the Dockerfile has to be told where no registry is: the wheels are at /wheels."""
    return {"PYTHON_IMAGE": base, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}


def build(image: str, base: str, **arguments: str) -> str:
    """Build the Dockerfile on `base`, and tag it as `image`."""
    given = build_arguments(base) | arguments
    told = [f"--build-arg={name}={value}" for name, value in given.items()]
    with alone("images"):
        podman(
            "build", "--format=docker", "--pull=never", "--network=none", "--quiet", "--layers",
            f"--volume={wheels()}:/wheels:ro", *told, f"--tag={image}", str(ROOT),
        )  # fmt: skip
    return image


@pytest.fixture(scope="session")
def image(base_image: str) -> str:
    """The ringkeeper image, built from this tree."""
    return build(IMAGE, base_image)
