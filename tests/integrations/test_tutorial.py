"""docs/tutorial.md, walked through as it is written, but for its installation and its ports."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_docs import BIN, Place, blocks, commands
from tests.plugins.daemons import clean_environment, eventually
from tests.plugins.servers import free_port

pytestmark = [pytest.mark.integrations, pytest.mark.long]
PAGE = (ROOT / "docs/tutorial.md").read_text()
INSTALL, RUN, SERVE, LOG_IN, LOOK, ROTATE, REVOKE = blocks(PAGE, "console")
(CONFIG,) = blocks(PAGE, "yaml")
(APP,) = blocks(PAGE, "python")


class Walk:
    """One who follows the page, in a folder that held nothing."""

    def __init__(self) -> None:
        self.place = Place()
        self.folder = self.place.folder
        for shipped in ("config.yaml", "examples"):
            subprocess.run(["rm", "-r", str(self.folder / shipped)], check=True)
        self.port, self.http = free_port(), free_port()
        (self.folder / "config.yaml").write_text(CONFIG)
        (self.folder / "app.py").write_text(APP)
        self.place.environment = {
            **clean_environment(),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RINGKEEPER_LISTEN": f"127.0.0.1:{self.http}",
        }

    def adapted(self, text: str) -> str:
        return text.replace("8000", str(self.port))

    def begin(self, block: str) -> None:
        """What goes on running, in a terminal of its own."""
        (line,) = commands(f"```console\n{block}```")
        self.place.start(*self.adapted(line).split())

    def does(self, *shown: str) -> list[str]:
        """What these commands print, which must be what the page says that they print."""
        lines = [line for block in shown for line in commands(f"```console\n{block}```")]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.adapted("\n".join(lines))],
            cwd=self.folder, env=self.place.environment, capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + self.place.told()
        return done.stdout.splitlines()


@pytest.fixture
def walk() -> Iterator[Walk]:
    made = Walk()
    try:
        yield made
    finally:
        made.place.close()


def said_on_the_page(block: str) -> list[str]:
    return [line for line in block.splitlines() if not line.startswith("$ ")]


def test_the_installation_names_extras_that_there_are() -> None:
    asked = INSTALL.partition("[")[2].partition("]")[0].split(",")
    text = (ROOT / "pyproject.toml").read_text()
    for extra in asked:
        assert f"\n{extra} = [" in text


@pytest.mark.runs("docs/tutorial.md", 2, 3, 4, 5, 6, 7, 8, 9)
def test_the_tutorial_works_as_it_is_written(walk: Walk) -> None:
    walk.begin(RUN)
    eventually(lambda: walk.place.answers(walk.http, "/readyz")[0] == 200)
    told = walk.place.told()
    assert "ring made" in told
    eventually(lambda: '"leading"' in walk.place.told())
    walk.begin(SERVE)
    eventually(lambda: walk.place.answers(walk.port, "/me")[0] == 401)

    # One shell for the rest: what it keeps in variables goes on through the blocks.
    began = time.monotonic()
    printed = walk.does(LOG_IN, LOOK, ROTATE, REVOKE)
    assert time.monotonic() - began < 90
    wanted = [
        line.strip() for block in (LOG_IN, ROTATE, REVOKE) for line in said_on_the_page(block)
    ]
    assert len(wanted) == 4
    rest = "\n".join(printed)
    for line in wanted:  # curl ends no line that the app did not end
        _, found, rest = rest.partition(line)
        assert found, (line, printed)
    assert any("active" in line for line in printed)
    assert any("published" in line for line in printed)
    assert any("signs now" in line for line in printed)
