"""What README.md, CONTRIBUTING.md and the tutorial begin with, in a fresh clone and an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_docs import blocks, commands
from tests.package.distributions import copy_of_sources, run
from tests.plugins.daemons import clean_environment, eventually
from tests.plugins.servers import free_port

pytestmark = [pytest.mark.package, pytest.mark.long, pytest.mark.timeout(600)]
EDITOR = """#!/bin/sh
# A case more, and a comment: what somebody's first change could be.
set -eu
printf '\\n\\ndef test_a_first_change() -> None:\\n    assert Policy.derive()\\n' >>"$1"
echo '# a first change' >>"$2"
"""
WHO = {"NAME": "Alice", "EMAIL": "alice@example.com"}


def an_environment() -> dict[str, str]:
    """Without what make, pytest and Python would hand on to those that a test starts."""
    ours = ("MAKE", "MFLAGS", "ARGS", "WORKERS", "PYTEST_", "PYTHON")
    return {k: v for k, v in clean_environment().items() if not k.startswith(ours)}


class Clone:
    """This checkout as one gets it by git, with nothing installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_of_sources(folder)
        self.environment = {
            **an_environment(),
            "PYTHON": sys.executable,
            **{f"GIT_{role}_{what}": WHO[what] for role in ("AUTHOR", "COMMITTER") for what in WHO},
        }
        for words in ("init --quiet", "add --all", "commit --quiet --message=All"):
            run("git", *words.split(), cwd=self.folder, env=self.environment)

    def does(self, *lines: str, **more: str) -> str:
        return run(
            *("bash", "-euo", "pipefail", "-c", "\n".join(lines)),
            cwd=self.folder, env=self.environment | more,
        )  # fmt: skip


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    with tempfile.TemporaryDirectory(prefix="rk-", dir="/tmp") as name:  # a socket's path is short
        yield Clone(Path(name) / "ringkeeper")


def shown(page: str, number: int) -> list[str]:
    """The commands of that console block."""
    block = blocks((ROOT / page).read_text(), "console")[number]
    return commands(f"```console\n{block}```")


@pytest.mark.runs("CONTRIBUTING.md", 1)
def test_the_first_green_change_is_made_as_the_page_says(clone: Clone, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    clone.does(*shown("CONTRIBUTING.md", 0), EDITOR=str(editor), GIT_EDITOR="echo A change >")
    told = clone.does("git show --stat --format=%s%n%an")
    assert told.startswith("A change\nAlice\n")
    assert "tests/core/test_policy.py" in told
    assert clone.does("git status --short") == ""


@pytest.mark.runs("CONTRIBUTING.md", 2)
def test_what_is_to_be_run_before_a_change_is_sent_runs(clone: Clone) -> None:
    """By a few of the tests, and one module that they must cover: else this one ran itself."""
    few = {
        "ARGS": "tests/daemon/test_status.py",
        "PURE": "*/ringkeeperd/transitions.py",
        "PURE_TESTS": "tests/core/test_policy.py tests/core/test_rotation.py",
        "WORKERS": "2",
    }
    for line in shown("CONTRIBUTING.md", 1):
        # What stands in the environment counts more than in the Makefile (-e).
        said = clone.does(line, **few, MAKEFLAGS="-e")
        assert re.search(r"^=* [\d,]+ passed in ", said, re.MULTILINE), said[-2000:]
    assert re.search(r"^TOTAL .* 100%$", said, re.MULTILINE), said[-2000:]
    assert clone.does("git status --short") == ""


@pytest.mark.runs("README.md", 1)
def test_it_is_tried_as_the_readme_says(clone: Clone) -> None:
    """Each in a terminal of its own."""
    running, demonstrating = shown("README.md", 0)
    port = free_port()
    process = subprocess.Popen(
        running.split(),
        cwd=clone.folder,
        env={**clone.environment, "RINGKEEPER_LISTEN": f"127.0.0.1:{port}"},
        start_new_session=True,
    )
    try:
        asking = f"curl -s -o /dev/null --fail localhost:{port}/readyz && echo ready || true"
        eventually(lambda: process.poll() is not None or clone.does(asking), within=300)
        assert process.poll() is None
        said = clone.does(demonstrating)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    assert re.search(r"it worked: of [\d,]+ valid tokens none was refused", said)


@pytest.mark.runs("docs/tutorial.md", 1)
def test_the_tutorial_s_installation_has_what_the_tutorial_runs(tmp_path: Path) -> None:
    source = copy_of_sources(tmp_path / "source")
    lines = [
        line.replace("/path/to/ringkeeper", str(source)) for line in shown("docs/tutorial.md", 0)
    ]
    environment = an_environment()
    path = f"{Path(sys.executable).resolve().parent}:{environment['PATH']}"
    last = "for each in ringkeeper uvicorn; do command -v $each; done; python -c 'import ringkeeper.fastapi'"
    said = run(
        "bash", "-euo", "pipefail", "-c", "\n".join([*lines, last]),
        cwd=tmp_path, env={**environment, "PATH": path},
    )  # fmt: skip
    assert said.splitlines()[-2:] == [
        f"{tmp_path}/shop/.venv/bin/{e}" for e in ("ringkeeper", "uvicorn")
    ]
