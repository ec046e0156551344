"""Key pairs, made and sealed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ringkeeper.algorithms import RSA_BITS, PrivateKey
from ringkeeperd.transitions import FreshKey

if TYPE_CHECKING:
    from ringkeeper.progress import Progress
    from ringkeeper.sealing import Kek
    from ringkeeperd.transitions import KeyWanted


WORK_WITHIN: Final = 120.0
"""Seconds that a turn's work takes at the very most: dozens of commands, each slow, and key pairs
made on a host that has no time for us."""
_ASIDE: Final = ThreadPoolExecutor(1, thread_name_prefix="minting")
"""A thread that nothing else uses: a disk that hangs holds up those that read and write files."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A fresh key: its public half, and its private half sealed."""

    fresh: FreshKey
    sealed: str

    @property
    def put(self) -> dict[str, str]:
        """What goes beside the snapshot that shows it: kid to sealed private key."""
        return {self.fresh.kid: self.sealed}


def mint(wanted: KeyWanted, kek: Kek) -> Minted:
    """A fresh key pair. RSA takes a tenth of a second or more."""
    private = PrivateKey.generate(wanted.algorithm, wanted.bits or RSA_BITS)
    fresh = FreshKey(wanted.kind, wanted.algorithm, private.public_jwk)
    return Minted(fresh, kek.seal(private))


async def mint_aside(wanted: KeyWanted, kek: Kek, progress: Progress | None = None) -> Minted:
    """As `mint`, on a thread: the lease is renewed meanwhile.

    A thousand rings may be due at once, and wait for one another: that is no hang, and `progress`
    promises nothing before the turn of this one comes.
    """
    loop = asyncio.get_running_loop()
    if progress is None:
        return await loop.run_in_executor(_ASIDE, mint, wanted, kek)

    def begin() -> Minted:
        loop.call_soon_threadsafe(progress.back_within, WORK_WITHIN)
        return mint(wanted, kek)

    progress.back_some_time()
    minted = await loop.run_in_executor(_ASIDE, begin)
    progress.back_within(WORK_WITHIN)
    return minted
