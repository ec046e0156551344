"""Key pairs, made and sealed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ringkeeper.algorithms import PrivateKey
from ringkeeperd.rotation import FreshKey

if TYPE_CHECKING:
    from ringkeeper.sealing import Kek
    from ringkeeperd.rotation import KeyWanted


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
    return await asyncio.to_thread(mint, wanted, kek)
