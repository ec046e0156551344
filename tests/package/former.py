"""Which release came before this one, by the history of this clone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEFORE_ANY_RELEASE = "2f97572200d4eee87524d9327c0017954ab37ff0"
"""What stands for the former release while there is none: a commit of some days before."""


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def former_commit() -> str:
    """The newest release before this commit; without any, a commit of some days ago."""
    tags = git("tag", "--merged", "HEAD", "--sort=-v:refname", "--list", "v[0-9]*").split()
    for tag in tags:
        is_this = git("rev-list", "-n1", tag) == git("rev-parse", "HEAD")
        if not is_this and re.fullmatch(r"v\d+\.\d+\.\d+", tag):
            return tag
    return BEFORE_ANY_RELEASE


def is_former_release_here() -> bool:
    """Whether this clone has it: a shallow one has not (git fetch --unshallow --tags)."""
    return git("cat-file", "-t", f"{former_commit()}^{{commit}}") == "commit"
