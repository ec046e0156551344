"""How what happens is told: by a live keyring, in the standard library's logging."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

_logger = logging.getLogger("ringkeeper")


class Notice(Protocol):
    """Where changes of state are told: a constant event name, and fields."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Tell it."""
        ...


def log(event: str, /, **fields: object) -> None:
    """One line: the constant event name, then the fields. Troubles are warnings.

    A handler of the app's that raises is the app's own affair: the ring is followed on.
    """
    _tell(logging.WARNING if "troubled" in event else logging.INFO, event, fields)


def warn(event: str, /, **fields: object) -> None:
    """The same for what somebody should change."""
    _tell(logging.WARNING, event, fields)


def _tell(level: int, event: str, fields: Mapping[str, object]) -> None:
    with suppress(Exception):
        if _logger.isEnabledFor(level):
            _logger.log(level, "%s %s", event, " ".join(f"{k}={v!r}" for k, v in fields.items()))
