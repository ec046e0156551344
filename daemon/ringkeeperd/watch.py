"""`ringkeeper watch`: what happens to a ring, as it happens, and whether the audit is whole."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ringkeeper.errors import InfrastructureError
from ringkeeperd.operator import harmless
from ringkeeperd.trail import Line, Trail

if TYPE_CHECKING:
    from ringkeeperd.operator import Operator


class Watch:
    """Prints a ring's events, the newest few first, then whatever comes."""

    def __init__(self, *, last: int, is_followed: bool, as_json: bool) -> None:
        """`last`: how many of those that are there; `is_followed`: whether to wait for more."""
        self.flaws = 0
        """How often something was wrong."""
        self._last = last
        self._is_followed = is_followed
        self._as_json = as_json
        self._told_end = ""

    async def run(self, operator: Operator) -> None:
        """Print until there is nothing more; where it follows, until interrupted.

        Raises:
            RingMissing, DocumentError, RedisUnavailable: the ring cannot be seen, and why.
        """
        seen = await operator.look()
        trail = Trail(seen.ring.name, seen.ring.id, operator.roots)
        entries = (await operator.recent_events(self._last))[::-1]
        for entry in entries:
            self._print(trail.read(entry.document))
        after = entries[-1].id if entries else "0"
        await self._judge_end(operator, trail, after)
        while self._is_followed:
            with suppress(InfrastructureError):  # Redis is away: go on where we were
                async with operator.events(after) as stream:
                    while True:
                        fresh = await stream.next()
                        for entry in fresh:
                            after = entry.id
                            self._print(trail.read(entry.document))
                        if not fresh:
                            await self._judge_end(operator, trail, after)

    async def _judge_end(self, operator: Operator, trail: Trail, after: str) -> None:
        """Say so if events are missing behind `after`, the last entry that was read."""
        # The proof first: what it counts was written to the stream before.
        seen = await operator.look()
        if any(entry.id != after for entry in await operator.recent_events(1)):
            return  # more came meanwhile
        flaw = trail.end(seen.proof)
        if flaw != self._told_end:
            self._told_end = flaw
            if flaw:
                self._print(Line(None, flaw))

    def _print(self, line: Line) -> None:
        self.flaws += bool(line.flaw)
        text = json.dumps(_as_json(line)) if self._as_json else _as_text(line)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _as_json(line: Line) -> dict[str, Any]:
    told = line.event
    if told is None:
        return {"flaw": line.flaw or None, "remark": line.remark or None}
    return {
        "number": told.number,
        "at": told.at.isoformat(),
        "version": told.version,
        "epoch": told.epoch,
        "event": told.event,
        "fields": dict(told.fields),
        "flaw": line.flaw or None,
    }


def _as_text(line: Line) -> str:
    flaw, told = f"!! {harmless(line.flaw, most=400)}", line.event
    if told is None:
        return flaw if line.flaw else f"-- {harmless(line.remark, most=400)}"
    fields = "  ".join(f"{name}={harmless(str(value))}" for name, value in told.fields.items())
    text = f"{told.at:%Y-%m-%d %H:%M:%S}  #{told.number:<5} {harmless(told.event):<18} {fields}"
    return f"{flaw}\n{text.rstrip()}" if line.flaw else text.rstrip()
