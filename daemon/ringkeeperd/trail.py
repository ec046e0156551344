"""The audit, read with suspicion. Promise 12. Pure.

Every event is signed by the trust root and numbered, one more than the one before; and each proof
of freshness says how many there were. So whoever writes in Redis can take events away, put them
back or make some up, and cannot do so unseen: it shows as a gap, a repetition, or a forgery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ringkeeper.errors import DocumentError
from ringkeeper.trust import root_of
from ringkeeper.wire import open_event

if TYPE_CHECKING:
    from ringkeeper.trust import PinnedRoots
    from ringkeeper.wire import Event, Proof


class Line(NamedTuple):
    """One entry of the stream, as far as it can be believed, and what is wrong with it."""

    event: Event | None
    flaw: str = ""
    remark: str = ""
    """Why it cannot be believed, where nothing is wrong with that."""


class Trail:
    """Reads one ring's events in their order."""

    def __init__(self, name: str, ring_id: str, roots: PinnedRoots) -> None:
        """Begin anywhere: what came before the first event may have been trimmed.

        And what comes before the first one that a pinned root signed cannot be judged here.
        """
        self.last = 0
        """The number of the newest event that was read."""
        self._name = name
        self._ring_id = ring_id
        self._roots = roots

    def read(self, document: str) -> Line:
        """The next entry."""
        try:
            event = open_event(document, self._roots)
        except DocumentError as error:
            root = root_of(document)
            if root and root not in self._roots.kids and not self.last:
                # What a root signed before it was changed stands in front, until it is trimmed.
                return Line(None, remark=f"signed by the root {root}, which is not pinned here")
            return Line(None, f"forged, or signed by a root that is not pinned here: {error}")
        if (event.ring_id, event.name) != (self._ring_id, self._name):
            return Line(None, f"an event of another ring, {event.name!r} {event.ring_id!r}")
        last, self.last = self.last, max(self.last, event.number)
        if last and event.number <= last:
            return Line(event, f"number {event.number} comes again, after number {last}")
        if last and event.number > last + 1:
            missing = event.number - last - 1
            return Line(
                event, f"{missing} missing before it: numbers {last + 1} to {event.number - 1}"
            )
        return Line(event)

    def is_news(self, document: str) -> bool:
        """Whether an entry holds anything else than an event that was read before."""
        try:
            return open_event(document, self._roots).number > self.last
        except DocumentError:
            return True

    def end(self, proof: Proof | None) -> str:
        """What is wrong with where the stream ends, by what the newest proof says."""
        if proof is None:
            return (
                "no proof of freshness vouches for the ring, so nobody knows where the stream ends"
            )
        if proof.events <= self.last:
            return ""
        return f"the stream ends at number {self.last}, and {proof.events} events were told"
