"""`ringkeeper watch`: what happens to a ring, as it happens, and whether the audit is whole."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.errors import DocumentError, InfrastructureError, RingkeeperError
from ringkeeperd.trail import Line, Trail
from ringkeeperd.words import harmless

if TYPE_CHECKING:
    from ringkeeperd.leader_store import Entry
    from ringkeeperd.operator import Operator

_LONGEST: Final = 2000
"""Characters of a field: a refusal has that many."""
_AGAIN_AFTER: Final = 1.0
_LOOK_BACK: Final = 100
"""Entries that are looked at anew when those that were newest are gone."""


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
        self._remark = ""
        """What was remarked on at the entry just before."""
        self._trouble: type[RingkeeperError] | None = None
        """Why nothing can be seen at the moment."""
        self._after = "0"
        """The entry that was read last."""

    async def run(self, operator: Operator) -> None:
        """Print until there is nothing more; where it follows, until interrupted.

        Raises:
            RingMissing, DocumentError, RedisUnavailable: the ring cannot be seen, and why.
        """
        seen = await operator.look()
        trail = Trail(seen.ring.name, seen.ring.id, operator.roots)
        for entry in (await operator.recent_events(self._last))[::-1]:
            self._take(trail, entry)
        if not self._is_followed:
            await self._judge_end(operator, trail)
        while self._is_followed:
            try:
                await self._follow(operator, trail)
            except InfrastructureError as error:
                self._tell_once(error, Line(None, remark=f"{error}; trying again"))
                await asyncio.sleep(_AGAIN_AFTER)
            except DocumentError as error:
                self._tell_once(error, Line(None, f"the ring cannot be read: {error}"))
                await asyncio.sleep(_AGAIN_AFTER)

    async def _follow(self, operator: Operator, trail: Trail) -> None:
        """Print whatever comes, until the stream is begun anew; raises as `run`."""
        async with operator.events(self._after) as stream:
            await self._judge_end(operator, trail)
            while True:
                fresh = await stream.next()
                for entry in fresh:
                    self._take(trail, entry)
                if not fresh and await self._has_gone_back(operator, trail):
                    return
                if not fresh:
                    await self._judge_end(operator, trail)
                self._trouble = None

    async def _has_gone_back(self, operator: Operator, trail: Trail) -> bool:
        """Whether what was newest is gone: then what comes may have lower ids, and go unseen."""
        there = await operator.recent_events(_LOOK_BACK)
        newest = there[0].id if there else "0"
        if _place(newest) >= _place(self._after):
            return False
        self._print(Line(None, "what was newest in the stream was taken away, or all of it"))
        self._after = newest
        for entry in there[::-1]:
            if trail.is_news(entry.document):
                self._take(trail, entry)
        return True

    async def _judge_end(self, operator: Operator, trail: Trail) -> None:
        """Say so if events are missing behind the last entry that was read."""
        # The proof first: what it counts was written to the stream before.
        seen = await operator.look()
        if any(_place(entry.id) > _place(self._after) for entry in await operator.recent_events(1)):
            return  # more came meanwhile
        flaw = trail.end(seen.proof)
        if flaw != self._told_end:
            self._told_end = flaw
            if flaw:
                self._print(Line(None, flaw))

    def _take(self, trail: Trail, entry: Entry) -> None:
        self._after = entry.id
        line = trail.read(entry.document)
        # After a change of root all the events of before: told once, but for programs.
        if self._as_json or not line.remark or line.remark != self._remark:
            self._print(line)
        self._remark = line.remark

    def _tell_once(self, error: RingkeeperError, line: Line) -> None:
        """Print `line` if the trouble is not of the same kind as just before."""
        if type(error) is not self._trouble:
            self._trouble = type(error)
            self._print(line)

    def _print(self, line: Line) -> None:
        self.flaws += bool(line.flaw)
        text = json.dumps(_as_json(line)) if self._as_json else _as_text(line)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _place(entry: str) -> tuple[int, int]:
    """Where in a stream an entry of that id stands."""
    ms, _, sequence = entry.partition("-")
    return int(ms), int(sequence or 0)


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
    fields = "  ".join(
        f"{name}={harmless(str(value), most=_LONGEST)}" for name, value in told.fields.items()
    )
    text = f"{told.at:%Y-%m-%d %H:%M:%S}  #{told.number:<5} {harmless(told.event):<19} {fields}"
    return f"{flaw}\n{text.rstrip()}" if line.flaw else text.rstrip()
