"""The table in docs/integrations.md: what the run of these tests has shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/integrations.md"
BEGIN = "<!-- integrations: written by make integrations ARGS=--write -->"
END = "<!-- /integrations -->"
COLUMNS = ("sign", "verify", "rotate", "revoke", "algorithm")
HEAD = {"algorithm": "change of algorithm"}


@dataclass(frozen=True)
class Stack:
    """A row."""

    name: str
    where: str
    """Where to read on: a link of the page."""
    how: str
    """With what it is tested."""
    because: dict[str, str] = field(default_factory=dict)
    """Why a column cannot be, each in a few words."""


def table(stacks: list[Stack], shown: dict[str, set[str]]) -> str:
    """The page's part: `shown` are the columns of each stack that a test went through."""
    head = [HEAD.get(column, column) for column in COLUMNS]
    lines = [
        f"| | {' | '.join(head)} | how it is tested |",
        f"|---|{'---|' * len(COLUMNS)}---|",
    ]
    for stack in stacks:
        cells = [_cell(stack, column, shown.get(stack.name, set())) for column in COLUMNS]
        lines.append(f"| [{stack.name}]({stack.where}) | {' | '.join(cells)} | {stack.how} |")
    return "\n".join(lines)


def _cell(stack: Stack, column: str, shown: set[str]) -> str:
    if column in shown:
        return "yes"
    return stack.because.get(column, "**not tested**")


def open_cells(stacks: list[Stack], shown: dict[str, set[str]]) -> list[str]:
    """The cells that are neither shown nor have a reason, and those that have both."""
    wrong = []
    for stack in stacks:
        seen = shown.get(stack.name, set())
        wrong += [
            f"{stack.name}: {column}"
            for column in COLUMNS
            if (column in seen) == (column in stack.because)
        ]
    known = {stack.name for stack in stacks}
    return wrong + [f"{name}: has no row" for name in sorted(set(shown) - known)]


def written(page: str, part: str) -> str:
    """`page` with this part."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{part}\n{END}{tail}"
