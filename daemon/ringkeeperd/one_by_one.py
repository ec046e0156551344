"""Packages whose modules are loaded one by one, each when it is imported. Import this before them.

Of redis, aiohttp and prometheus-client most is loaded by the packages' own `__init__`: Clusters, an
HTTP client, HTTP servers. Here that does not run before something is asked for that no module of
theirs is. So a daemon imports from the modules (`redis.asyncio.client`, not `redis.asyncio`), and
does without the rest: 5 MB, and an eighth of the time that its start took. Whatever else asks for
the rest gets it, as if nothing had been put off.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Final

_PERHAPS: Final = ("__all__", "__file__", "__wrapped__")
"""What Python asks a module for in passing."""

_running: Final = threading.RLock()
"""Held while a package's own code runs: other threads that ask it for something wait."""
_begun: Final = set[str]()


class _Package(ModuleType):
    """A package whose own code runs once something is asked for that is no module of it."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if spec is None or spec.loader is None or name in _PERHAPS:
            raise AttributeError(name)
        if not name.startswith("__") and find_spec(f"{self.__name__}.{name}"):
            return import_module(f"{self.__name__}.{name}")
        with _running:
            if self.__name__ not in _begun:  # else its own code asks, or another thread was faster
                _begun.add(self.__name__)
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment] # from now on like any other
        return ModuleType.__getattribute__(self, name)


def _put_off(package: str, **known: str) -> None:
    """Let `package`, if it is not loaded, be one of those; `known` is what it has all the same."""
    spec = None if package in sys.modules else find_spec(package)
    if spec is None:
        return
    module = module_from_spec(spec)
    module.__class__ = _Package
    vars(module).update(known)
    sys.modules[package] = module
    parent, _, name = package.rpartition(".")
    if parent:
        setattr(sys.modules[parent], name, module)


_put_off("redis")
_put_off("redis.asyncio")
_put_off("prometheus_client")
# Its servers and clients call themselves by this: what we serve names no version.
_put_off("aiohttp", __version__="")
