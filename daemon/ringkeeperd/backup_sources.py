"""Where a ring is found that is to be saved: in Redis, or with the daemon of this host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import DocumentError, RedisUnavailable, RingkeeperError, StateUnusable
from ringkeeper.sealing import kek_of
from ringkeeper.state_file import StateFile
from ringkeeper.testimony import Testimony, open_testimony
from ringkeeperd.backup_file import Saved
from ringkeeperd.healing import found_in
from ringkeeperd.leader_store import RedisLeaderStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.trust import PinnedRoots

AT_ONCE: Final = 32
"""Rings that are read, or restored, at the same time."""
_TRIES: Final = 3
"""A ring that moved on while it was read is read again."""


@dataclass
class Findings:
    """What there is to say besides: of a ring, of this host."""

    problems: list[str] = field(default_factory=list)
    """What has to be mended: the backup is not what it should be."""
    remarks: list[str] = field(default_factory=list)
    """What is worth knowing."""


async def gather(
    configuration: Configuration,
    rings: Sequence[RingConfiguration],
    roots: PinnedRoots,
    clock: Clock,
    found: Findings,
) -> list[Saved]:
    """What is known of `rings`, in their order; what is not, becomes a problem of `found`."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(ring: RingConfiguration) -> Saved | None:
        async with places:
            return await _known(configuration, ring.name, roots, clock, found)

    return [saved for saved in await asyncio.gather(*map(one, rings)) if saved]


async def _known(
    configuration: Configuration, name: str, roots: PinnedRoots, clock: Clock, found: Findings
) -> Saved | None:
    """The newest edition of a ring that Redis or this host's daemon knows."""
    there, why_not = await _in_redis(configuration, name, roots, clock)
    kept, problem = await _on_disk(configuration, name, roots)
    told = f"ring {name!r}"
    if there and kept and there.ring.id != kept.ring.id:
        found.remarks.append(
            f"{told}: state_dir holds another ring of that name, which is left out"
        )
        return there
    if kept and (there is None or _rank(kept) > _rank(there)):
        why = why_not or f"redis holds only version {there.ring.version if there else 0}"
        found.remarks.append(f"{told}: {why}; version {kept.ring.version} of state_dir is saved")
        return _joined(kept, there)
    if there is None:
        beside = f"; {problem}" if problem else ", and state_dir holds nothing of it"
        found.problems.append(f"{told}: {why_not}{beside}")
        return None
    return _joined(there, kept)


async def _in_redis(
    configuration: Configuration, name: str, roots: PinnedRoots, clock: Clock
) -> tuple[Saved | None, str]:
    """What Redis holds of a ring, verified; None, and why, where that is nothing to be saved."""
    store = RedisLeaderStore.configured(configuration, name, clock)
    try:
        saved = await read_whole(store, name, roots)
    except RingkeeperError as error:
        return None, str(error)
    finally:
        await store.close()
    return saved, "" if saved else "redis holds no such ring"


async def read_whole(store: RedisLeaderStore, name: str, roots: PinnedRoots) -> Saved | None:
    """The ring that Redis holds, with its sealed keys; None if it holds none.

    Raises:
        DocumentError, RedisUnavailable: it cannot be read, and why.
    """
    for _ in range(_TRIES):
        stored = await store.read()
        testimony = Testimony(stored.snapshot, stored.proof, {})
        history = found_in(testimony, name, roots)
        if history is None:
            return None
        sealed = await store.sealed([k.kid for k in history.ring.keys if k.may_verify])
        whole = Testimony(stored.snapshot, stored.proof, MappingProxyType(sealed))
        if (await store.read()).snapshot == stored.snapshot:
            return Saved(history, _without_bad_proof(whole, name, roots))
    raise RedisUnavailable(f"ring {name!r} changes all the time; try again")


def _without_bad_proof(testimony: Testimony, name: str, roots: PinnedRoots) -> Testimony:
    """`testimony`; a proof that nobody signed vouches for nothing, and the ring is good without."""
    try:
        open_testimony(testimony, name, roots)
    except DocumentError:
        return replace(testimony, proof="")
    return testimony


async def _on_disk(
    configuration: Configuration, name: str, roots: PinnedRoots
) -> tuple[Saved | None, str]:
    """What the daemon of this host kept, verified; None, and perhaps why not."""
    try:
        testimony = await StateFile(configuration.state_dir, name, "state_dir", roots).read()
        if testimony is None:
            return None, ""
        return Saved(open_testimony(testimony, name, roots), testimony), ""
    except (DocumentError, StateUnusable) as error:
        return None, str(error)


def _rank(saved: Saved) -> tuple[int, int]:
    return saved.ring.version, saved.ring.epoch


def _joined(saved: Saved, other: Saved | None) -> Saved:
    """`saved`, with those private keys of it that only the other place has, or has whole."""
    if other is None:
        return saved
    held = {key.kid for key in saved.ring.keys if key.may_verify}
    lent = {kid: blob for kid, blob in other.testimony.sealed.items() if kid in held}
    kek, mine = saved.ring.kek, saved.testimony.sealed
    # What the ring's KEK did not seal is damaged, or was put there.
    good = {k: b for k, b in mine.items() if k not in lent or kek_of(b) == kek}
    sealed = MappingProxyType({**lent, **good})
    return replace(saved, testimony=replace(saved.testimony, sealed=sealed))
