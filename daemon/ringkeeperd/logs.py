"""Logs: structlog, JSON for machines, colours for people; a constant event name, then fields."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from ringkeeperd.lean import structlog

if TYPE_CHECKING:
    from ringkeeper.configuration import Configuration


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
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
