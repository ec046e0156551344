"""Every command and snippet that a page shows is run by a test, which says so (pages.py)."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT, Block, claims, fenced, pages, shown, unfenced
from tests.docs.test_docs import commands

NOTHING_TO_RUN: dict[tuple[str, int | str], str] = {
    ("README.md", "mermaid"): "a picture",
    ("docs/lifecycle.md", "mermaid"): "a picture",
    ("docs/api.md", "py"): "signatures, which docs/generate.py writes from the code",
    ("docs/cli.md", "text"): "synopses, which docs/generate.py writes from the parser",
}
CLAIMS = list(claims())


def why_not_run(block: Block) -> str:
    """Why nobody need run it; empty for all that is to be run."""
    told = NOTHING_TO_RUN.get
    return told((block.page, block.number)) or told((block.page, block.language)) or ""


def test_every_block_that_a_page_shows_is_run() -> None:
    """Else: run it in a test that takes it from the page, and is marked `runs`."""
    blocks = [block for block in shown() if not why_not_run(block)]
    assert len(blocks) >= 130
    assert [str(b) for b in blocks if not any(claim.covers(b) for claim in CLAIMS)] == []


def test_nobody_says_that_he_runs_what_is_not_there() -> None:
    blocks = shown()
    for claim in CLAIMS:
        covered = [block for block in blocks if claim.covers(block)]
        assert covered, claim
        found = {block.number for block in covered} | {block.language for block in covered}
        assert set(claim.which) <= found, claim
        assert not any(map(why_not_run, covered)), claim
    known = {(b.page, which) for b in blocks for which in (b.number, b.language)}
    assert set(NOTHING_TO_RUN) <= known


def test_code_is_shown_in_no_other_way_than_fenced() -> None:
    """For nothing else is found here."""
    for page in pages():
        rest = unfenced(page.read_text())
        assert re.findall(r"\n\n(?: {4}|\t)\S.*|<pre|^ *[`~]{3}", rest, re.MULTILINE) == [], page


def test_ci_runs_what_contributors_are_told_to_run() -> None:
    programs = (".ci/run", ".github/workflows/ci.yml")
    text = "\n".join((ROOT / each).read_text() for each in programs)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for line in commands(f"```console\n{fenced(page)[1].text}```"):
        assert re.search(rf"\b{line}\b", text), line


def test_a_block_is_found_however_it_is_fenced() -> None:
    text = """
```console
$ a
```
- In a list:

  ```python title="b"
  b
    b
  ```
~~~
c
```
~~~
````sh
```
d
````
"""
    assert [(b.number, b.language, b.text) for b in fenced(text)] == [
        (1, "console", "$ a\n"),
        (2, "python", "b\n  b\n"),
        (3, "", "c\n```\n"),
        (4, "sh", "```\nd\n"),
    ]
