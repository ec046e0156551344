"""Key pairs, made and sealed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ringkeeper.algorithms import PrivateKey
from ringkeeperd.rotation import FreshKey

if TYPE_CHECKING:
    from ringkeeper.sealing import Kek
    from ringkeeperd.rotation import KeyWanted


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
    private = PrivateKey.generate(wanted.algorithm)
    fresh = FreshKey(wanted.kind, wanted.algorithm, private.public_jwk)
    return Minted(fresh, kek.seal(private))


async def mint_aside(wanted: KeyWanted, kek: Kek) -> Minted:
    """As `mint`, on a thread: the lease is renewed meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(_ASIDE, mint, wanted, kek)
