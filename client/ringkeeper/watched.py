"""What files hold, read anew once one of them was changed, or replaced as Kubernetes does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


class Watched(Generic[T]):
    """What `read` makes of some files. Nothing happens by itself: whoever wants news asks."""

    def __init__(self, paths: Iterable[str | Path], read: Callable[[], T]) -> None:
        """Read them; raises what `read` raises."""
        self._paths = tuple(map(Path, paths))
        self._read = read
        # Before they are read: what changes meanwhile is a change.
        self._seen = self._signatures()
        self.value: T = read()
        """The newest that could be read."""

    def renewed(self) -> T | None:
        """What they hold now; None where none was changed since.

        Raises what `read` raises: then `value` stays, and the next time they are read again.
        """
        seen = self._signatures()
        if seen == self._seen:
            return None
        self.value = self._read()
        self._seen = seen
        return self.value

    def _signatures(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(signature, self._paths))


def signature(path: Path | None) -> tuple[int, ...]:
    """What changes when a file does, or who may read it."""
    try:
        status = path.stat() if path else None
    except OSError:
        status = None
    if status is None:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode
