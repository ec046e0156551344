"""How a live keyring tells what happens to it: the standard library's logging."""

from __future__ import annotations

import logging

_logger = logging.getLogger("ringkeeper")


def log(event: str, /, **fields: object) -> None:
    """One line: the constant event name, then the fields. Troubles are warnings."""
    level = logging.WARNING if "troubled" in event else logging.INFO
    if _logger.isEnabledFor(level):
        _logger.log(level, "%s %s", event, " ".join(f"{k}={v!r}" for k, v in fields.items()))
