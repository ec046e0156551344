"""Makes a ring, once. Promise 7: nothing else ever does."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from ringkeeper.clock import SystemClock
from ringkeeper.durations import format_duration
from ringkeeper.errors import (
    ClocksApart,
    DocumentError,
    MalformedDocument,
    RequestRefused,
    RingLed,
    RingLost,
    RingMissing,
)
from ringkeeper.state_file import StateFile
from ringkeeper.testimony import Testimony, open_testimony
from ringkeeper.wire import sign_event, sign_proof, sign_snapshot
from ringkeeperd.audit import events_between, numbered
from ringkeeperd.leader_store import Acquired, Edition, RedisLeaderStore, Written
from ringkeeperd.minting import Minted, mint_aside
from ringkeeperd.operator import Operator
from ringkeeperd.own_secrets import read_secrets
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.shared_redis import SharedRedis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import PinnedRoots, TrustRoot
    from ringkeeperd.importing import Brought, Move
    from ringkeeperd.leader import Mint
    from ringkeeperd.leader_store import LeaderStore

FOUNDING_TTL = timedelta(seconds=30)
"""How long making a ring keeps others out, should it be killed."""


async def found(  # noqa: PLR0913 - everything that is not pure is handed in
    *,
    name: str,
    ring_id: str,
    policy: Policy,
    store: LeaderStore,
    root: TrustRoot,
    kek: Kek,
    mint: Mint,
    clock: Clock,
    owner: str,
    move: Move | None = None,
) -> Ring:
    """Make the ring `name` and its first keys, and publish it as version 1.

    With `move`, the keys of an issuer that has signed before are among them.

    Raises:
        RequestRefused: there is one already.
        RingLed: somebody leads one, or is about to make it, this very moment.
        ClocksApart: the times in it would be wrong.
    """
    await _check_absent(store, name)
    taken = await store.acquire(owner, FOUNDING_TTL, 0)
    if not isinstance(taken, Acquired):
        raise RingLed(
            f"ring {name!r} is being made or led by somebody; try again in "
            f"{format_duration(FOUNDING_TTL)}, or see ringkeeper status"
        )
    try:
        await _check_absent(store, name)
        apart = abs(taken.redis_now - clock.now())
        if apart > policy.clock_skew:
            raise ClocksApart(
                f"ring {name!r} is not made: this clock differs from Redis' by "
                f"{format_duration(apart)}, more than clock_skew; set both right"
            )
        first = await _first_keys(policy, kek, mint, move)
        former = [_sealed(each, kek) for each in move.former] if move else []
        now = clock.now()
        ring = first_ring(
            ring_id=ring_id,
            name=name,
            policy=policy,
            fresh=tuple(each.fresh for each in first),
            kek=kek.kid,
            now=now,
            epoch=taken.epoch,
            former=tuple(each.fresh for each in former),
        )
        put = {each.fresh.kid: each.sealed for each in (*first, *former) if each.sealed}
        _check_opened(ring, put, kek)
        snapshot = sign_snapshot(ring, root)
        told = numbered(events_between(None, ring, now, {}), after=0)
        edition = Edition(
            version=ring.version,
            epoch=taken.epoch,
            snapshot=snapshot,
            proof=sign_proof(ring, snapshot, now, root, events=len(told)),
            put=put,
            kept=frozenset(put),
            events=tuple(sign_event(each, root) for each in told),
        )
        outcome = await store.publish(owner, "", edition)
        if not isinstance(outcome, Written):
            raise RequestRefused(f"ring {name!r} was made by somebody else this very moment")
        return ring
    finally:
        await store.release(owner)


async def _first_keys(policy: Policy, kek: Kek, mint: Mint, move: Move | None) -> list[Minted]:
    """The key that signs, the standby and the static key: fresh ones where none comes along."""
    brought = (move.active, None, move.static) if move else (None, None, None)
    return [
        _sealed(each, kek) if each else await mint(wanted, kek)
        for wanted, each in zip(first_keys_wanted(policy), brought, strict=True)
    ]


def _sealed(brought: Brought, kek: Kek) -> Minted:
    """A key that comes along; of a foreign one there is nothing to seal."""
    return Minted(brought.fresh, kek.seal(brought.private) if brought.private else "")


def _check_opened(ring: Ring, put: Mapping[str, str], kek: Kek) -> None:
    """Whether apps can open what was sealed: nobody tried it on keys that were made elsewhere.

    Raises:
        SealBroken: they could not.
    """
    for key in ring.keys:
        if key.kid in put:
            kek.unseal(put[key.kid], key)


async def _check_absent(store: LeaderStore, name: str) -> None:
    if (await store.read()).snapshot:
        raise RequestRefused(
            f"ring {name!r} exists already and is left as it is; ringkeeper status shows it"
        )


# --- by a configuration --------------------------------------------------------------------------


async def found_ring(
    configuration: Configuration,
    ring: RingConfiguration,
    shared: SharedRedis | None = None,
    *,
    move: Move | None = None,
) -> Ring:
    """Make `ring` in Redis, with the secrets that are there, and the keys that `move` brings.

    By `shared` connections, or its own.

    Raises:
        RequestRefused: it exists.
    """
    own = read_secrets(configuration)
    if own.root is None or own.kek is None:
        raise RequestRefused("lead is false here; make the ring where the private root is")
    clock = SystemClock()
    store = _store(configuration, ring, shared)
    try:
        await _check_unknown(configuration, ring.name, own.roots, store)
        return await found(
            name=ring.name,
            ring_id=secrets.token_urlsafe(12),
            policy=ring.policy,
            store=store,
            root=own.root,
            kek=own.kek,
            mint=mint_aside,
            clock=clock,
            owner=secrets.token_urlsafe(16),
            move=move,
        )
    finally:
        await store.close()


def _store(
    configuration: Configuration, ring: RingConfiguration, shared: SharedRedis | None
) -> RedisLeaderStore:
    if shared:
        return shared.store(ring.name)
    return RedisLeaderStore.configured(configuration, ring.name, SystemClock())


async def find_ring(
    configuration: Configuration, ring: RingConfiguration, shared: SharedRedis | None = None
) -> Ring | None:
    """`ring` as Redis holds it, verified, its private keys opened; None if Redis holds none.

    Raises:
        DocumentError, SealBroken: it was made with other secrets than are here.
    """
    own = read_secrets(configuration)
    clock = SystemClock()
    store = _store(configuration, ring, shared)
    try:
        return (await Operator(store, own.roots, clock).inspect(own.kek)).ring
    except RingMissing:
        return None
    finally:
        await store.close()


def is_any_kept(configuration: Configuration) -> bool:
    """Whether a ring of this configuration is known to `state_dir`."""
    return any(
        StateFile(configuration.state_dir, ring.name, "state_dir").path.exists()
        for ring in configuration.rings
    )


async def any_ring(configuration: Configuration) -> bool:
    """Whether a ring of this configuration is known, to Redis or to `state_dir`."""
    if is_any_kept(configuration):
        return True
    shared = SharedRedis(configuration, SystemClock())
    try:
        for ring in configuration.rings:
            store = shared.store(ring.name)
            try:
                if (await store.read()).snapshot:
                    return True
            finally:
                await store.close()
    finally:
        await shared.close()
    return False


async def _check_unknown(
    configuration: Configuration, name: str, roots: PinnedRoots, store: RedisLeaderStore
) -> None:
    """Promise 7: where Redis is empty and the ring is known all the same, it was lost.

    Raises:
        RingLost: it is to be healed, not made anew.
        RequestRefused: something is kept here, and it is no ring.
        StateUnusable: where it would be kept, there is another ring.
    """
    if (await store.read()).snapshot:
        return
    kept = StateFile(configuration.state_dir, name, "state_dir", roots)
    try:
        is_kept = await kept.read() is not None
    except MalformedDocument as error:
        raise RequestRefused(
            f"{error}, and Redis holds no ring {name!r}: it may have been lost; restore a backup "
            "of either; only to begin anew, and log everybody out, remove that file"
        ) from None
    if is_kept:
        raise RingLost(
            f"{kept.path}: ring {name!r} is known here, and Redis lost it: start the daemon to put "
            "it back; only to begin anew, and log everybody out, remove that file"
        )
    with suppress(DocumentError):
        open_testimony(Testimony.decode(await store.testimony()), name, roots)
        raise RingLost(
            f"ring {name!r} is known to an app that runs, and Redis lost it: start the daemon to "
            "put it back; only to begin anew, and log everybody out, stop all apps for an hour"
        )
