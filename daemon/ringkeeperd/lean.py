"""Libraries without what they bring along and a daemon never uses: import them from here.

structlog loads rich, where it is installed, for tracebacks that we never draw (5 MB). aiohttp
loads the system's CA certificates for its client (2 MB), which is used for `on_change.url` alone:
whoever does brings an SSL context along.

`one_by_one` keeps the rest of it away. `make bench` measures what a daemon weighs.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ringkeeperd.one_by_one  # noqa: F401 - before what it puts off

if TYPE_CHECKING:
    from collections.abc import Iterator

_CA_VARIABLES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}


@contextmanager
def _as_if_absent(module: str) -> Iterator[None]:
    """While it lasts, `module` cannot be imported: None in its place says so to Python."""
    known = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if known:
            sys.modules[module] = known


@contextmanager
def _without_ca_certificates() -> Iterator[None]:
    """While it lasts, the default place of CA certificates is empty."""
    known = {name: os.environ.get(name) for name in _CA_VARIABLES}
    os.environ |= _CA_VARIABLES
    try:
        yield
    finally:
        for name, value in known.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


with _as_if_absent("rich"):
    import structlog

with _without_ca_certificates():
    import aiohttp
    from aiohttp import web


def load_client() -> None:
    """Load aiohttp's client, which most daemons never need."""
    if "aiohttp.connector" in sys.modules:
        return
    with _without_ca_certificates():
        _ = aiohttp.ClientSession  # asked for, and so it is there


__all__ = ["aiohttp", "load_client", "structlog", "web"]
