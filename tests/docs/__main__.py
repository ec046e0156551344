"""`python -m tests.docs`: does a test fail for each command and snippet that is broken on its page?

Each block that a test says that it runs (pages.py) is broken in a copy of this tree: of commands one
after the other gets an option that there is not, any other block a last line that nothing takes. One
of the tests that say so has to go red. Exit 1 if none does, or if it is skipped.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.broken import is_noticed
from tests.docs.pages import ROOT, Block, Claim, claims, shown
from tests.package.distributions import copy_of_sources, run

_WITHIN: Final = 400.0
_NONSENSE: Final = {"python": "1 /\n", "yaml": "]\n", "json": "]\n"}
_SHELL: Final = ("console", "sh")


@dataclass(frozen=True)
class Break:
    """A block's text as it is, and as nothing can run it; of which line, if it is one's."""

    block: Block
    line: str
    text: str


def breaks(block: Block) -> Iterator[Break]:
    """Each way to break it."""
    if block.language not in _SHELL:
        yield Break(block, "", block.text + _NONSENSE.get(block.language, "nonsense\n"))
        return
    lines = block.text.splitlines(keepends=True)
    is_command = False
    for number, line in enumerate(lines):
        is_command |= block.language == "sh" or re.match(r"\$ [^…]", line) is not None
        if is_command and not line.endswith("\\\n"):
            is_command = False
            # These do what they can before they complain, if ever.
            end = r"(?<=^\$ kill)|(?<=^\$ umask)|(?<=^\$ redis-cli)|( &| \|\| true)?( {2,}#.*)?$"
            broken = re.sub(end, r" --no-such-thing\g<0>", line, count=1)
            text = "".join([*lines[:number], broken, *lines[number + 1 :]])
            yield Break(block, line.strip(), text)


def is_missed(broken: Break, tests: list[str]) -> tuple[bool, str]:
    """Whether one of `tests` goes red, and which, or what happened instead."""
    with tempfile.TemporaryDirectory(prefix="rk-", dir="/tmp") as name:  # a socket's path is short
        folder = copy_of_sources(Path(name))
        (folder / ".venv").symlink_to(ROOT / ".venv")
        run("git", "init", "--quiet", cwd=folder)  # some tests copy it once more
        (folder / ".git/info/exclude").write_text("/.venv\n")
        page = folder / broken.block.page
        text, block = page.read_text(), broken.block
        new = textwrap.indent(broken.text, block.indent)
        page.write_text(text[: block.start] + new + text[block.end :])
        return is_noticed(folder, tests, _WITHIN)


def one(broken: Break, known: list[Claim]) -> bool:
    """Try one, and tell."""
    tests = sorted({claim.test for claim in known if claim.covers(broken.block)})
    began = time.monotonic()
    try:
        missed, said = is_missed(broken, tests)
    except subprocess.TimeoutExpired:
        missed, said = False, f"no end within {_WITHIN:g} s"
    mark = "red" if missed else "NOT MISSED"
    took = time.monotonic() - began
    print(f"{took:5.0f} s  {mark:10}  {broken.block}: {broken.line} {said}", flush=True)
    return missed


def main() -> int:
    """Try every block, or some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="the blocks whose page matches this expression")
    parser.add_argument("--by", default="", help="the tests whose path matches this expression")
    parser.add_argument("--at-once", type=int, default=2, help="how many are tried side by side")
    given = parser.parse_args()
    known = [claim for claim in claims() if re.search(given.by, claim.test)]
    chosen = [
        broken
        for block in shown()
        if re.search(given.only, str(block)) and any(claim.covers(block) for claim in known)
        for broken in breaks(block)
    ]
    if not chosen:
        parser.error("no block is such a one")
    with ThreadPoolExecutor(given.at_once) as pool:
        outcomes = list(pool.map(partial(one, known=known), chosen))
    print(f"{sum(outcomes)} of {len(outcomes)} are missed by a test once they are broken")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
