"""What is kept of a ring from one start to the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from ringkeeper.errors import Defect, DocumentError, StateUnusable
from ringkeeper.testimony import Testimony, open_testimony

if TYPE_CHECKING:
    from ringkeeper.notices import Notice
    from ringkeeper.troubles import Troubles
    from ringkeeper.trust import PinnedRoots

_RECALL_WITHIN: Final = 5.0
"""Seconds that a disk has to answer: one that hangs must not keep an app from starting."""
_KEEPING: Final = "keeping"


class Keeper(Protocol):
    """Where a ring is kept for the next start; see `state_file`."""

    async def read(self) -> Testimony | None:
        """What was kept; raises MalformedDocument, StateUnusable."""
        ...

    async def write(self, testimony: Testimony) -> None:
        """Keep it; raises StateUnusable."""
        ...

    async def set_aside(self) -> str:
        """Move what cannot be used out of the way; where it is now."""
        ...


class Kept:
    """What this process' former self knew; and what its next one is to know."""

    def __init__(
        self, ring: str, keeper: Keeper | None, notice: Notice, troubles: Troubles
    ) -> None:
        """Of the ring of that name; without a `keeper`, nothing."""
        self._ring = ring
        self._keeper = keeper
        self._notice = notice
        self._troubles = troubles
        self.testimony: Testimony | None = None
        """What was kept for this start, once `recall` has read it."""

    async def recall(self, roots: PinnedRoots) -> None:
        """Read what was kept, signed by `roots`; once."""
        if self._keeper is None or self.testimony:
            return
        try:
            async with asyncio.timeout(_RECALL_WITHIN):
                testimony = await self._keeper.read()
            if testimony:
                open_testimony(testimony, self._ring, roots)
        except TimeoutError:
            why = f"the disk does not answer within {_RECALL_WITHIN:g} s; starting without it"
            self._troubles.begin(_KEEPING, StateUnusable(why))
        except DocumentError as error:
            # Never overwritten: whoever knows better may still need it.
            await self.set_aside(str(error))
        except StateUnusable as error:
            self._troubles.begin(_KEEPING, error)
        except Exception as error:  # noqa: BLE001 - a file is no reason not to start
            self._troubles.begin(_KEEPING, Defect.of(error))
        else:
            self.testimony = testimony

    async def set_aside(self, why: str) -> None:
        """Move the file out of the way: what it holds is of no use here."""
        if self._keeper:
            self.testimony = None
            where = await self._keeper.set_aside()
            self._notice("kept ring set aside", ring=self._ring, file=where, error=why)

    async def write(self, testimony: Testimony) -> None:
        """Keep that for the next start."""
        if self._keeper is None:
            return
        try:
            await self._keeper.write(testimony)
        except StateUnusable as error:
            self._troubles.begin(_KEEPING, error)
        else:
            self._troubles.end(_KEEPING)
