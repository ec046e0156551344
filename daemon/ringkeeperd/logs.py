"""Logs: structlog, JSON for machines, colours for people; a constant event name, then fields.

A line that cannot be written (a full disk, a reader that is gone) is lost, and counted: the keys
are turned all the same.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from prometheus_client.metrics import Counter

from ringkeeperd.lean import structlog

if TYPE_CHECKING:
    from ringkeeper.configuration import Configuration


LOST = Counter(
    "ringkeeper_log_lines_lost",
    "Lines that could not be written to the log.",
    registry=None,
)


class _Lines:
    """Writes lines to stderr, as far as it takes them."""

    def msg(self, line: str) -> None:
        """Write `line`, or count it as lost."""
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            LOST.inc()

    debug = info = warning = error = critical = msg


def set_up(configuration: Configuration) -> structlog.stdlib.BoundLogger:
    """The logger of this process: to stderr, as `log.level` and `log.format` say."""
    is_console = configuration.log_format == "console" or (
        configuration.log_format == "auto" and sys.stderr.isatty()
    )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if is_console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # A traceback has no local variables in it: they might hold a secret.
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[configuration.log_level.upper()]
        ),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
