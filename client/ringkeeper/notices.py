"""How a live keyring tells what happens to it: the standard library's logging."""

from __future__ import annotations

import logging
from contextlib import suppress

_logger = logging.getLogger("ringkeeper")


def log(event: str, /, **fields: object) -> None:
    """One line: the constant event name, then the fields. Troubles are warnings.

    A handler of the app's that raises is the app's own affair: the ring is followed on.
    """
    level = logging.WARNING if "troubled" in event else logging.INFO
    with suppress(Exception):
        if _logger.isEnabledFor(level):
            _logger.log(level, "%s %s", event, " ".join(f"{k}={v!r}" for k, v in fields.items()))
