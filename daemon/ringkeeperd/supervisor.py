"""Whoever started this daemon and wants to hear how it is: systemd's notification protocol.

A datagram of NAME=VALUE lines to the unix socket that NOTIFY_SOCKET names, as sd_notify(3) has it.
Where nobody wants to hear, nothing is said; and one who does not listen is no reason to stop.
docs/adr/0010 says why no library does this.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_LONGEST: Final = 400
"""Characters: what a terminal can show of one line."""
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Supervisor:
    """The one that listens at `address`; none where that is empty."""

    def __init__(self, address: str = "", watchdog_every: float = 0.0) -> None:
        """`watchdog_every`: seconds within which it wants a sign of life; 0 for never."""
        # A name that begins with @ is one of Linux' own, which no file bears: unix(7).
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_every = watchdog_every if address else 0.0

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """The one that `environ` tells of, which then tells of it no more.

        So that what this process starts does not take itself for the one that is meant.
        """
        address, period, pid = (environ.pop(name, "") for name in _VARIABLES)
        is_meant = pid in ("", str(os.getpid()))
        seconds = int(period) / 1_000_000 if period.isdecimal() and is_meant else 0.0
        is_known = address.startswith(("/", "@"))
        return cls(address if is_known else "", seconds)

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def ready(self) -> bool:
        """The start, or a reload, is over; whether that was taken."""
        return self._tell("READY=1")

    def reloading(self) -> bool:
        """A reload begins; whether that was taken."""
        # It compares this with its own record of when it asked: by the clock that both have.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The end begins."""
        self._tell("STOPPING=1")

    def status(self, line: str) -> bool:
        """How we are, in a line for people; whether that was taken."""
        return self._tell(f"STATUS={_shortened(line)}")

    def alive(self) -> None:
        """A sign of life."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> bool:
        if not self._address:
            return False
        # Never waiting: while one that is slow takes nothing, keys turn all the same.
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, kind) as speaking:
            speaking.connect(self._address)
            speaking.sendall("\n".join(lines).encode())
            return True
        return False


def _shortened(line: str) -> str:
    """`line` as one that is not too long."""
    whole = " ".join(line.split())
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 1]}…"
