"""`ringkeeper status` of many rings: a line each, those first that somebody should look at."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ringkeeper.errors import RingkeeperError
from ringkeeperd.rotation import activation_at
from ringkeeperd.words import Outlook, age, turn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ringkeeperd.operator import Seen

FEW: Final = 5
"""Rings that are shown whole, one below the other."""
_UNBOUNDED: Final = 1000
_COLUMNS: Final = ("ring", "version", "signs", "next turn", "leader", "instances", "")


def show(found: Mapping[str, Seen | RingkeeperError], now: datetime) -> None:
    """Print a table, and how many there are of what."""
    width = None if sys.stdout.isatty() else _UNBOUNDED
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in _COLUMNS:
        table.add_column(column, no_wrap=column != "")
    rows = [(_wrong(seen, now), name, seen) for name, seen in found.items()]
    rows.sort(key=lambda row: not row[0])  # else as they are configured
    for wrong, name, seen in rows:
        if isinstance(seen, RingkeeperError):
            table.add_row(Text(name, "bold red"), "", "", "", "", "", Text(wrong, "red"))
        else:
            table.add_row(*_cells(name, seen, now, wrong))
    console = Console(highlight=False, width=width)
    console.print(table)
    troubled = sum(bool(wrong) for wrong, _, _ in rows)
    console.print(f"\n{len(rows)} rings, {troubled} to look at; one of them whole: --ring NAME")


def _cells(name: str, seen: Seen, now: datetime, wrong: str) -> tuple[Text, ...]:
    """What a line says; a `Text`, for in a plain one Redis' writers could set marks of rich's."""
    ring = seen.ring
    outlook = Outlook(ring, now, bool(seen.leader), bool(seen.awaited))
    return (
        Text(name, "yellow" if wrong else ""),
        Text(str(ring.version)),
        Text(ring.signer.kid) if ring.signer else Text("nothing", "red"),
        Text(turn(outlook)),
        Text(seen.leader) if seen.leader else Text("nobody", "bold red"),
        Text(str(len(seen.instances))),
        Text(wrong, "yellow"),
    )


def _wrong(seen: Seen | RingkeeperError, now: datetime) -> str:
    """What is to be looked at; empty where all is well."""
    if isinstance(seen, RingkeeperError):
        return str(seen)
    ring, found = seen.ring, []
    if not seen.leader:
        found.append("nobody leads")
    if seen.proof is None:
        found.append("no proof of freshness")
    elif now - seen.proof.at > ring.policy.max_staleness:
        found.append(f"its proof is {age(now - seen.proof.at)} old")
    at = activation_at(ring)
    if seen.awaited and at and at <= now:
        found.append(f"{len(seen.awaited)} to confirm the next key, which is due")
    if seen.behind:
        found.append(f"{len(seen.behind)} behind")
    return ", ".join(found)
