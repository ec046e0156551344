"""The blocks of code that pages show, and the tests that say of themselves that they run them.

`@pytest.mark.runs("docs/plan.md", 1, 3)`: this test takes the first and the third fenced block of
that page, as they stand there, and executes them (data it loads with what reads it in earnest).
Without numbers it does so with all blocks of the page; with a language, with all of that language:
`runs("docs/**/*.md", "yaml")`. `python -m tests.docs` breaks each of them: such a test has to fail.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHOWING = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**/*.md",
    "deploy/**/README.md",
    "examples/**/*.md",
)
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[^\s`]*)[^\n`]*\n"
    r"(?P<text>.*?)^ *(?P=fence)[`~]* *$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block; the first one of a page has the number 1."""

    page: str
    number: int
    language: str
    text: str
    start: int
    end: int
    """Where on the page that text stands, `indent` before each of its lines."""
    indent: str

    def __str__(self) -> str:
        return f"{self.page} {self.number} ({self.language or 'no language'})"


def fenced(text: str, page: str = "") -> list[Block]:
    """Every block of a page's `text`, without its indentation."""
    return [
        Block(
            page,
            number,
            found["language"],
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            *found.span("text"),
            found["indent"],
        )
        for number, found in enumerate(_FENCE.finditer(text), 1)
    ]


def unfenced(text: str) -> str:
    """What is left of a page without them."""
    return _FENCE.sub("", text)


def pages() -> list[Path]:
    """Every page of this repository for readers."""
    found = {page for pattern in SHOWING for page in ROOT.glob(pattern)}
    return sorted(page for page in found if "node_modules" not in page.parts)


def shown() -> list[Block]:
    """Every block that they are shown."""
    return [
        block for page in pages() for block in fenced(page.read_text(), str(page.relative_to(ROOT)))
    ]


@dataclass(frozen=True)
class Claim:
    """A test, and which blocks it says that it runs."""

    test: str
    page: str
    which: tuple[int | str, ...]

    def covers(self, block: Block) -> bool:
        is_one = block.number in self.which or block.language in self.which
        return fnmatchcase(block.page, self.page) and (is_one or not self.which)


def claims() -> Iterator[Claim]:
    """What all tests say of themselves."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                test = f"{path.relative_to(ROOT)}::{node.name}"
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.runs":
                        page, *which = map(ast.literal_eval, mark.args)
                        yield Claim(test, page, tuple(which))
