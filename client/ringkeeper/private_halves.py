"""How a process comes by the private halves that it holds ready. Promise 4."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from ringkeeper.errors import SealBroken
from ringkeeper.sealing import kek_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ringkeeper.algorithms import PrivateKey
    from ringkeeper.replica import Held
    from ringkeeper.sealing import Kek
    from ringkeeper.store import Store


class Fetched(NamedTuple):
    """What came of it: what was opened, and why the rest was not; one spoils no other."""

    sealed: Mapping[str, str]
    """kid to sealed private half, as it is in Redis now."""
    opened: Mapping[str, PrivateKey]
    broken: list[SealBroken]


async def fetch(held: Held, kek: Kek | None, store: Store, *, keeps_all: bool) -> Fetched:
    """What `held` lacks: with a `kek` opened, and `keeps_all` of them sealed, to give back.

    Raises:
        RedisUnavailable: not now.
    """
    sealed_by, signers = held.ring.kek, {key.kid for key in held.ring.may_sign_next}
    # What is held may have been sealed anew since, by another KEK: then Redis' is the one, and to
    # open it once more, though it is open, shows that this process has that KEK.
    outdated = {kid for kid, blob in held.sealed.items() if sealed_by not in ("", kek_of(blob))}
    opening = {*held.lacks, *(outdated & signers)} if kek else set()
    opened, _ = await _unsealed(held, kek, sorted(opening - outdated), held.sealed)
    wanted = {kid for kid in opening if kid not in opened} | outdated
    if keeps_all:
        wanted |= {k.kid for k in held.ring.keys if k.may_verify and k.kid not in held.sealed}
    sealed = await store.sealed(sorted(wanted))
    still = sorted(kid for kid in opening if kid not in opened)
    more, broken = await _unsealed(held, kek, still, sealed)
    good = {kid: blob for kid, blob in sealed.items() if kid in more or kid not in still}
    return Fetched(good, {**opened, **more}, broken)


async def _unsealed(
    held: Held, kek: Kek | None, kids: Iterable[str], blobs: Mapping[str, str]
) -> tuple[dict[str, PrivateKey], list[SealBroken]]:
    """The private halves of `kids` that open, and why the others do not."""
    opened: dict[str, PrivateKey] = {}
    broken: list[SealBroken] = []
    for kid in kids:
        key = held.ring.key(kid)
        try:
            if key and kek:
                # Here, and not on another thread: that would hold the interpreter for most of the
                # time, and wait for it; and what an app left to its threads would come first.
                opened[kid] = kek.unseal(blobs.get(kid, ""), key)
        except SealBroken as error:
            broken.append(error)
        await asyncio.sleep(0)  # an RSA key takes a millisecond, or three
    return opened, broken
