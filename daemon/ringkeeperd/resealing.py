"""A ring put under the newest secrets, as an operator asked: its keys sealed, its snapshot signed.

`rewrapping` says what that means.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import RequestRefused, SealBroken
from ringkeeperd.audit import ring_rewrapped
from ringkeeperd.rewrapping import lacking, rewrapped, sealed_otherwise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import TrustRoot
    from ringkeeperd.audit import Fields
    from ringkeeperd.term import Term

_NAMED: Final = 5


async def reseal(term: Term, context: Mapping[str, str], *, is_forced: bool) -> bool:
    """Seal every private key by our first KEK, and sign by our first root from now on.

    `is_forced`: even if a live instance could not follow. False if the ring moved on meanwhile.

    Raises:
        RequestRefused: it is so already, or who could not follow.
    """
    began = term.clock.monotonic()
    ring, kek, root = term.ring, term.leader.kek, term.leader.root
    blobs = await term.store.sealed([key.kid for key in ring.keys if key.may_verify])
    is_signed_so = root.kid == term.root.kid
    if is_signed_so and kek.kid == ring.kek and not sealed_otherwise(ring, blobs, kek.kid):
        raise RequestRefused(
            f"the leader's files have {kek.kid} and the root {root.kid} first, which seal and "
            "sign already; give it files that have the new ones first: it reads them within "
            "seconds, and its log tells if it cannot use them"
        )
    if not is_forced:
        await _check_followed(term, kek, root)
    put, left = await _resealed(ring, blobs, kek)
    now = term.now()
    after = rewrapped(ring, kek=kek.kid, epoch=term.epoch)
    about: Fields = {
        "root": root.kid,
        "former_kek": ring.kek,
        "former_root": term.root.kid,
        "resealed": len(put),
        "left": ", ".join(left),
        **context,
    }
    told = (ring_rewrapped(after, now, about),)
    return await term.replace(after, put, told, began, by=root)


async def _check_followed(term: Term, kek: Kek, root: TrustRoot) -> None:
    """Whether every live instance could follow.

    Raises:
        RequestRefused: who could not, or that nobody knows yet.
    """
    instances = await term.instances()
    trusted_from = term.trusts_from()
    if term.now() < trusted_from:
        raise RequestRefused(
            "the leader has just begun, or Redis lost the table of instances, and first it "
            f"hears of every live instance; ask again after {trusted_from:%H:%M:%S} UTC"
        )
    behind = lacking(instances, kek=kek.kid, root=root.kid)
    if behind:
        now = term.now()
        named = "; ".join(f"{who.named(now)} {what}" for who, what in behind[:_NAMED])
        raise RequestRefused(
            f"{len(behind)} of {len(instances)} live instances could not follow: {named}; give "
            "them the file that holds both, or pass over them with --now"
        )


async def _resealed(
    ring: Ring, blobs: Mapping[str, str], kek: Kek
) -> tuple[dict[str, str], list[str]]:
    """What `kek` has not sealed yet, sealed by it; and what signs no more and does not open.

    Raises:
        RequestRefused: the private half of a key that may sign does not open.
    """
    signers = {key.kid for key in ring.may_sign_next}
    put: dict[str, str] = {}
    left: list[str] = []
    for key in sealed_otherwise(ring, blobs, kek.kid):
        try:
            put[key.kid] = kek.seal(kek.unseal(blobs[key.kid], key))
        except SealBroken as error:
            if key.kid in signers:
                raise RequestRefused(str(error)) from None
            left.append(key.kid)
        await asyncio.sleep(0)  # an RSA key takes a while, and the lease is to be renewed
    return put, left
