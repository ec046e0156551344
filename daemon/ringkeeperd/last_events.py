"""What happened to a ring of late, as one leader told it: for whoever looks at its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ringkeeper.wire import Event

KEPT: Final = 20


class LastEvents:
    """The newest events, each once, the oldest first; never more than `KEPT`."""

    def __init__(self) -> None:
        self._kept: list[Event] = []

    def note(self, *told: Event) -> None:
        """What has just happened."""
        self._kept = [*self._kept, *self._unknown(told)][-KEPT:]

    def recall(self, audited: Iterable[Event]) -> None:
        """What the audit tells of, in any order."""
        # By their times: what the audit does not hold has no number.
        every = [*self._kept, *self._unknown(audited)]
        self._kept = sorted(every, key=lambda each: each.at)[-KEPT:]

    def _unknown(self, told: Iterable[Event]) -> list[Event]:
        known = {each.number for each in self._kept if each.number}
        return [each for each in told if each.number not in known]

    def forget(self) -> None:
        """Another led meanwhile, and its audit tells what happened."""
        self._kept = []

    def __iter__(self) -> Iterator[Event]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
