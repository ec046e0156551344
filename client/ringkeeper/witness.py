"""Speaks up when Redis lost what this process knows. Promise 6.

Redis may go back, be emptied, or be split in two. Whoever sees that it lacks something holds on to
it and writes it where a leader looks (`testimony`), until it is back. There is room for one witness
at a time: the leader lets each go whom it has heard, and the others go on trying as long as they
are in doubt. What stands there is believed by nobody before its signatures are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import DocumentError
from ringkeeper.ring import Ring
from ringkeeper.testimony import History, Testimony, open_testimony
from ringkeeper.trust import root_of

if TYPE_CHECKING:
    from ringkeeper.store import Store
    from ringkeeper.trust import PinnedRoots

WITNESS_TTL: Final = timedelta(hours=1)
"""How long what was written down waits for a leader."""
Loses = Callable[[Ring, History, datetime], bool]
"""Whether a ring lacks something that a history knows and that must not be lost."""


class Witness:
    """What this process holds against Redis, and how it says so."""

    def __init__(self, name: str, roots: PinnedRoots, store: Store, loses: Loses | None) -> None:
        """Speak for the ring `name`; with `loses`, look back at each version for what it lacks."""
        self.contested: Testimony | None = None
        """What a newer version unduly lacks; None once there is one that has it."""
        self._name = name
        self.roots = roots
        self._store = store
        self._loses = loses

    def look_back(self, former: Testimony | None, ring: Ring, now: datetime) -> bool:
        """Whether `ring`, now the newest, lacks what `former`, or one before it, knew."""
        past = [self.contested, former]
        self.contested = next((t for t in past if t and self._is_lost(t, ring, now)), None)
        return self.contested is not None

    def _is_lost(self, testimony: Testimony, ring: Ring, now: datetime) -> bool:
        if self._loses is None or not self._is_trusted(testimony):
            return False
        history = open_testimony(testimony, self._name, self.roots)
        return self._loses(ring, history, now)

    def _is_trusted(self, testimony: Testimony) -> bool:
        """Whether a root that is pinned still signed it: it may have been dropped since."""
        signed = filter(None, (testimony.snapshot, testimony.proof))
        return set(map(root_of, signed)) <= set(self.roots.kids)

    async def speak(self, known: Testimony) -> None:
        """Write down what Redis lacks, `known` unless something is contested, if there is room.

        Raises:
            RedisUnavailable: not now.
        """
        ours = self.contested or known
        if not self._is_trusted(ours):
            return
        told = self._added(await self._store.testimony(), ours)
        if told:
            await self._store.testify(told.encode(), WITNESS_TTL)

    def _added(self, text: str, ours: Testimony) -> Testimony | None:
        """What the witness in Redis and this one know together; None if that one knows it all."""
        try:
            shown = Testimony.decode(text)
            theirs = open_testimony(shown, self._name, self.roots).ring
        except DocumentError:
            return ours
        ring = open_testimony(ours, self._name, self.roots).ring
        if theirs.id != ring.id:
            return ours
        is_newer = (ring.version, ring.epoch) > (theirs.version, theirs.epoch)
        newest = ours if is_newer else shown
        told = replace(newest, sealed=MappingProxyType({**shown.sealed, **ours.sealed}))
        return None if told == shown else told
