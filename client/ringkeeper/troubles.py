"""What fails at the moment, in whatever this process does all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeeper.errors import RedisUnavailable

if TYPE_CHECKING:
    from ringkeeper.errors import RingkeeperError
    from ringkeeper.notices import Notice


class Troubles:
    """What fails, by what was being done; each kind is told once, until all is well again."""

    def __init__(self, ring: str, notice: Notice) -> None:
        """Of the ring of that name."""
        self._ring = ring
        self._notice = notice
        self._present: dict[str, RingkeeperError] = {}
        self._told: set[tuple[str, type[RingkeeperError]]] = set()

    def begin(self, doing: str, error: RingkeeperError) -> None:
        """That fails, now as before."""
        self._present[doing] = error
        if (doing, type(error)) not in self._told:
            self._told.add((doing, type(error)))
            self._notice("ring troubled", ring=self._ring, doing=doing, error=str(error))

    def end(self, doing: str) -> None:
        """That succeeds, now as before."""
        if self._present.pop(doing, None):
            self._told = {each for each in self._told if each[0] != doing}
            self._notice("ring well again", ring=self._ring, doing=doing)

    def of(self, doing: str) -> RingkeeperError | None:
        """Why that fails; None where it does not."""
        return self._present.get(doing)

    @property
    def all(self) -> tuple[RingkeeperError, ...]:
        """Whatever fails, in the order in which it began to."""
        return tuple(self._present.values())

    @property
    def is_connected(self) -> bool:
        """Whether Redis answers, as far as the newest attempts tell."""
        return not any(isinstance(error, RedisUnavailable) for error in self.all)
