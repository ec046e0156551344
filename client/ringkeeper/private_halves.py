"""How a process comes by the private halves that it holds ready. Promise 4."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.errors import SealBroken
from ringkeeper.sealing import kek_of
from ringkeeper.tasks import apart

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ringkeeper.algorithms import PrivateKey
    from ringkeeper.replica import Held
    from ringkeeper.ring import Key
    from ringkeeper.sealing import Kek
    from ringkeeper.store import Store


SLOW: Final = frozenset(("RS256", "RS384", "RS512", "PS256"))
"""Algorithms whose private keys take milliseconds to try, in which they need no interpreter."""


class Fetched(NamedTuple):
    """What came of it: what was opened, and why the rest was not; one spoils no other."""

    sealed: Mapping[str, str]
    """kid to sealed private half, as it is in Redis now."""
    opened: Mapping[str, PrivateKey]
    broken: list[SealBroken]


async def fetch(
    held: Held, kek: Kek | None, store: Store, *, keeps_all: bool, told: Mapping[str, str]
) -> Fetched:
    """What `held` lacks: with a `kek` opened, and `keeps_all` of them sealed, to give back.

    `told` are sealed halves that came with the version, by kid: what opens of them is not read.

    Raises:
        RedisUnavailable: not now.
    """
    sealed_by, signers = held.ring.kek, {key.kid for key in held.ring.may_sign_next}
    # Anybody may have said it, and again what was sealed by a former KEK.
    told = {kid: blob for kid, blob in told.items() if sealed_by in ("", kek_of(blob))}
    # What is held may have been sealed anew since, by another KEK: then Redis' is the one, and to
    # open it once more, though it is open, shows that this process has that KEK.
    outdated = {kid for kid, blob in held.sealed.items() if sealed_by not in ("", kek_of(blob))}
    opening = {*held.lacks, *(outdated & signers)} if kek else set()
    at_hand = {**told, **{k: v for k, v in held.sealed.items() if k not in outdated}}
    opened, _ = await _unsealed(held, kek, sorted(opening & at_hand.keys()), at_hand)
    wanted = {kid for kid in opening | outdated if kid not in opened}
    if keeps_all:
        wanted |= {k.kid for k in held.ring.keys if k.may_verify and k.kid not in held.sealed}
    sealed = await store.sealed(sorted(wanted))
    still = sorted(kid for kid in opening if kid not in opened)
    more, broken = await _unsealed(held, kek, still, sealed)
    good = {kid: blob for kid, blob in sealed.items() if kid in more or kid not in still}
    good |= {kid: at_hand[kid] for kid in opened}  # no other: what was not opened may be forged
    return Fetched(good, {**opened, **more}, broken)


async def _unsealed(
    held: Held, kek: Kek | None, kids: Collection[str], blobs: Mapping[str, str]
) -> tuple[dict[str, PrivateKey], list[SealBroken]]:
    """The private halves of `kids` that open, and why the others do not."""
    keys = [key for key in map(held.ring.key, kids) if key]
    if not keys or kek is None:
        return {}, []
    work = partial(_opened, kek, keys, blobs)
    return await apart(work) if any(key.algorithm in SLOW for key in keys) else work()


def _opened(
    kek: Kek, keys: Iterable[Key], blobs: Mapping[str, str]
) -> tuple[dict[str, PrivateKey], list[SealBroken]]:
    opened: dict[str, PrivateKey] = {}
    broken: list[SealBroken] = []
    for key in keys:
        try:
            opened[key.kid] = kek.unseal(blobs.get(key.kid, ""), key)
        except SealBroken as error:
            broken.append(error)
    return opened, broken
