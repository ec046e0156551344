"""Promise 4: no private key of ours ends in a core dump."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def leave_no_dumps() -> None:
    """From now on this process, and what it starts, leaves no core dump, wherever dumps go.

    The limit keeps a dump from being written as a file; a kernel that hands dumps to a program
    (systemd-coredump) takes no notice of it, but heeds that a process is not dumpable (Linux).
    No other process of the same user can read its memory then, either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
