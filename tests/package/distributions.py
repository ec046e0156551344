"""Wheels, sdists and empty environments, made for a test from what lies in this checkout."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BUILDER = ROOT / ".venv/package/bin/python"
PIP = Path(sys.executable).with_name("pip")
A_TIME = "1700000000"
"""What a build takes for the time of the sources, whenever they were written."""
_PIN = re.compile(r"^([a-z0-9.-]+)==(\S+).*(?:\n {4}.*)*", re.MULTILINE)


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def run(*command: str | Path, **more: object) -> str:
    """What `command` prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def copy_of_sources(folder: Path) -> Path:
    """What git would take of this checkout as it is, without what it ignores."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
            target.chmod((ROOT / name).stat().st_mode)
    return folder


def build(source: Path, folder: Path) -> Built:
    """The sdist of `source`, and the wheel that is made of that sdist."""
    command = ("-m", "build", "--no-isolation", "--outdir", folder, source)
    run(BUILDER, *command, env={**os.environ, "SOURCE_DATE_EPOCH": A_TIME})
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def built_wheel(source: Path, folder: Path) -> Path:
    """The wheel of `source`, by pip, as whoever has only the source makes it."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir")
    run(BUILDER, "-m", "pip", "wheel", "--quiet", *options, folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


# --- interpreters and environments ---------------------------------------------------------------


def interpreter(version: str) -> Path | None:
    """A Python of that version (`3.12`): this one, one on the PATH, or one of pyenv's."""
    candidates = [sys.executable, shutil.which(f"python{version}") or ""]
    candidates += map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    code = f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for candidate in filter(None, candidates):
        if (
            subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode
            == 0
        ):
            return Path(candidate)
    return None


class Environment:
    """An empty environment, and what a test installs there: no pip, no tests."""

    def __init__(self, python: Path, folder: Path) -> None:
        run(python, "-m", "venv", "--without-pip", folder)
        self.folder = folder
        self.python = folder / "bin/python"

    def install(self, wheel: Path, requirements: str) -> None:
        """Put `wheel` there, and what hashed `requirements` name; nothing may be missing then."""
        file = self.folder / "requirements.txt"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        ours = f"ringkeeper @ {wheel.as_uri()} --hash=sha256:{digest}\n"
        file.write_text(requirements + ours)
        options = ("--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:")
        pip = (PIP, "--python", self.python)
        run(*pip, "install", *options, "--require-hashes", "-r", file)
        assert run(*pip, "check").strip() == "No broken requirements found."

    def packages(self) -> set[str]:
        """What is installed, by name."""
        code = "from importlib.metadata import distributions as d; print(*(e.name for e in d()))"
        return {canonicalize_name(name) for name in run(self.python, "-c", code).split()}

    def said(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """What the environment's own Python or, by its name, a command of it says."""
        program, *rest = arguments
        return subprocess.run(
            [self.folder / "bin" / program, *rest],
            cwd=cwd,
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(cwd)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )


def pinned(requirements: Path, wanted: list[str], python: Path) -> str:
    """The part of hashed `requirements` that `wanted` need on `python`.

    What a package needs is asked of those that are installed here; `Environment.install` says
    whether anything was forgotten.
    """
    from importlib.metadata import requires

    pins = {match[1]: match[0] for match in _PIN.finditer(requirements.read_text())}
    version = run(python, "-c", "import platform; print(platform.python_version())").strip()
    about = {"python_version": version.rpartition(".")[0], "python_full_version": version}
    found: dict[str, str] = {}
    left = [Requirement(each) for each in wanted]
    asked: set[str] = set()
    while left:
        requirement = left.pop()
        if str(requirement) in asked:
            continue
        asked.add(str(requirement))
        name = canonicalize_name(requirement.name)
        found[name] = pins[name]
        for text in requires(name) or []:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if not needed.marker or any(
                needed.marker.evaluate({**about, "extra": extra}) for extra in {"", *extras}
            ):
                left.append(needed)
    return "\n".join(found[name] for name in sorted(found)) + "\n"
