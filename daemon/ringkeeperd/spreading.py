"""Who leads which of many rings: no daemon much more than its share. Pure: it decides, and no more.

A daemon sees what it leads itself, and who else may lead those rings: their tables of instances
tell. They are not authenticated. So whoever writes to them moves a ring once in a while, and to
nobody's harm: what nobody takes is taken back.

Somebody who died is in the tables for one liveness window more. That is why nothing is handed over
before this daemon has led all that it leads for longer: what it took from the dead counts as news.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT: Final = 600.0
"""Seconds in which one daemon hands a ring over once at the most."""
_MARGIN: Final = 2.0
_EASING: Final = 30
"""The part of what is too much that goes at a time: at first more, and never less than one."""


@dataclass(frozen=True, slots=True)
class Part:
    """This daemon's part in one ring."""

    name: str
    led_for: float | None
    """Seconds; None where it does not lead."""
    others: int = 0
    """Live daemons that may lead this ring, too, and hold its keys, as far as its leader knows."""
    window: float = 0.0
    """Seconds for which one that died counts as live."""
    handed_over: float | None = None
    """Seconds since this daemon last let others have it; None if it never did."""
    is_unwanted: bool = False
    """Whether nobody took it then."""


def share(parts: Sequence[Part]) -> int:
    """How many of these rings are one daemon's, all daemons being equal."""
    daemons = 1 + max((part.others for part in parts if part.led_for is not None), default=0)
    return -(-len(parts) // daemons)


def has_its_share(parts: Sequence[Part]) -> bool:
    """Whether others should be let go first where a ring is free."""
    led = sum(part.led_for is not None for part in parts)
    return 0 < led >= share(parts) < len(parts)


def to_hand_over(parts: Sequence[Part]) -> tuple[str, ...]:
    """The rings to let others have now, those first that have been led the longest.

    None for a while after one that nobody took: each would be led by nobody for some seconds.
    """
    led = [(part.led_for, part) for part in parts if part.led_for is not None]
    if any(part.is_unwanted and _is_recent(part) for _, part in led):
        return ()
    excess = len(led) - share(parts)
    if excess <= 0 or min(since for since, _ in led) < max(p.window for _, p in led) + _MARGIN:
        return ()
    free = [(since, part.name) for since, part in led if part.others and not _is_recent(part)]
    free.sort(key=lambda each: (-each[0], each[1]))
    return tuple(name for _, name in free[: max(1, excess // _EASING)])


def _is_recent(part: Part) -> bool:
    return part.handed_over is not None and part.handed_over < KEPT
