"""The same done at many rings: a few at a time, by common connections, and told how far it is."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final, TypeVar

from ringkeeper.clock import SystemClock
from ringkeeper.errors import RingkeeperError
from ringkeeper.secret_files import read_pinned_roots
from ringkeeperd.operator import Operator
from ringkeeperd.shared_redis import SharedRedis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ringkeeper.configuration import Configuration, RingConfiguration

_T = TypeVar("_T")
AT_ONCE: Final = 32
_TOLD_EVERY: Final = 2.0
"""Seconds of work after which, and after each of which, it is told how far it is."""


def at_rings(
    configuration: Configuration,
    rings: Iterable[RingConfiguration],
    work: Callable[[Operator, RingConfiguration], Awaitable[_T]],
    doing: str = "looked at",
) -> dict[str, _T | RingkeeperError]:
    """What `work` says of each of `rings`, or why it could not, by name and in their order."""
    roots = read_pinned_roots(configuration.trust_root_public)

    async def do() -> dict[str, _T | RingkeeperError]:
        clock = SystemClock()
        shared = SharedRedis(configuration, clock)

        async def at(ring: RingConfiguration) -> _T:
            store = shared.store(ring.name)
            try:
                return await work(Operator(store, roots, clock), ring)
            finally:
                await store.close()

        try:
            return await at_each(rings, at, doing)
        finally:
            await shared.close()

    return asyncio.run(do())


async def at_each(
    rings: Iterable[RingConfiguration],
    work: Callable[[RingConfiguration], Awaitable[_T]],
    doing: str,
) -> dict[str, _T | RingkeeperError]:
    """The same, with whatever `work` connects by."""
    turn, wanted = asyncio.Semaphore(AT_ONCE), list(rings)
    done = 0

    async def one(ring: RingConfiguration) -> _T | RingkeeperError:
        nonlocal done
        async with turn:
            try:
                return await work(ring)
            except RingkeeperError as error:
                return error
            finally:
                done += 1

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY)
            if len(wanted) > AT_ONCE:
                sys.stderr.write(f"{doing} {done} of {len(wanted)} rings …\n")
                sys.stderr.flush()

    telling = asyncio.create_task(tell())
    try:
        found = await asyncio.gather(*map(one, wanted))
    finally:
        telling.cancel()
    return dict(zip((ring.name for ring in wanted), found, strict=True))


def good(found: Mapping[str, _T | RingkeeperError]) -> dict[str, _T]:
    """What could be found of the rings.

    Raises:
        RingkeeperError: the first reason why one could not be seen.
    """
    seen: dict[str, _T] = {}
    for name, each in found.items():
        if isinstance(each, RingkeeperError):
            raise each
        seen[name] = each
    return seen
