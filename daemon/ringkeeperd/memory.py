"""What a process does about its memory: nothing while it loads, much once it is at rest."""

from __future__ import annotations

import gc
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Load modules meanwhile: they stay, and to search them for garbage is a tenth of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def give_memory_back() -> None:
    """Return to the system what only starting up needed, where the C library can (glibc)."""
    import ctypes  # noqa: PLC0415 - in its turn: a start does without

    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
