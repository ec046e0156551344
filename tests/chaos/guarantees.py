"""Where the long suites keep what they measured: docs/guarantees.md, unless told otherwise."""

from pathlib import Path

GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"


def write(part: str, command: str, text: str, page: Path = GUARANTEES) -> None:
    """Put `text` in place of what `command` wrote as `part` of `page` before."""
    begin, end = f"<!-- {part}: written by {command} -->", f"<!-- /{part} -->"
    whole = page.read_text("utf-8")
    head, rest = whole.split(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")
