"""How long a busy event loop stands still while an app takes up the next key's private half.

The loop does nothing but look at the clock, again and again: the longest time between two looks is
what a request would have waited. Opened is what comes out of Redis; who has a JWK in the clear, and
loads it as libraries do, has OpenSSL search for factors of its primes.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from joserfc.jwk import ECKey, RSAKey

from benchmarks.peers import JOSERFC
from benchmarks.rounds import interleaved, spreads
from benchmarks.stand import OURS
from ringkeeper.algorithms import PrivateKey
from ringkeeper.private_halves import SLOW
from ringkeeper.sealing import Kek
from ringkeeper.tasks import apart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEYS: Final = {
    "RS256": ("RS256", 2048),
    "RS256, 4,096 bits": ("RS256", 4096),
    "ES256": ("ES256", 0),
}
HERE: Final = "the same on the loop"
NOTHING: Final = "nothing"
_SETTLES: Final = 0.003
"""Seconds that the loop runs before, and after."""


def measure(rounds: int) -> dict[str, Any]:
    """Milliseconds that the loop stands still, for each kind of key and contender."""
    return {"ms": {name: _stood_still(*key, rounds) for name, key in KEYS.items()}}


def _stood_still(algorithm: str, bits: int, rounds: int) -> dict[str, Any]:
    private, kek = PrivateKey.generate(algorithm, bits), Kek.generate()
    key: Any = SimpleNamespace(kid="d-x", algorithm=algorithm, public=private.public_jwk)
    open_it, jwk = partial(kek.unseal, kek.seal(private), key), private.secret_jwk()

    async def nothing() -> None:
        await asyncio.sleep(_SETTLES)

    async def ours() -> None:
        # As `ringkeeper.private_halves` does.
        await apart(open_it) if algorithm in SLOW else open_it()

    async def here() -> None:
        open_it()

    async def with_joserfc() -> None:
        loaded: Any = (ECKey if algorithm.startswith("ES") else RSAKey).import_key(jwk)
        _ = loaded.private_key

    work = {NOTHING: nothing, OURS: ours, HERE: here, JOSERFC: with_joserfc}
    contenders = {name: partial(_longest, each) for name, each in work.items()}
    return spreads(interleaved(contenders, rounds), 1000)


def _longest(work: Callable[[], Awaitable[None]], _round: int) -> float:
    """Seconds between two looks at the clock, at most, while `work` is done."""

    async def busy() -> float:
        loop, is_on, last, longest = asyncio.get_running_loop(), True, time.perf_counter(), 0.0

        def look() -> None:
            nonlocal last, longest
            now = time.perf_counter()
            last, longest = now, max(longest, now - last)
            if is_on:
                loop.call_soon(look)

        loop.call_soon(look)
        await asyncio.sleep(_SETTLES)
        longest = 0.0
        await work()
        await asyncio.sleep(0)
        found, is_on = longest, False
        await asyncio.sleep(_SETTLES)
        return found

    return asyncio.run(busy())
