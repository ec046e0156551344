"""Makes a ring, once. Promise 7: nothing else ever does."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ringkeeper.errors import RequestRefused
from ringkeeper.wire import sign_event, sign_proof, sign_snapshot
from ringkeeperd.audit import events_between
from ringkeeperd.leader_store import Acquired, Edition, Written
from ringkeeperd.rotation import first_keys_wanted, first_ring

if TYPE_CHECKING:
    from ringkeeper.clock import Clock
    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeper.trust import TrustRoot
    from ringkeeperd.leader import Mint
    from ringkeeperd.leader_store import LeaderStore

_TTL = timedelta(seconds=30)


async def found(  # noqa: PLR0913 - everything that is not pure is handed in
    *,
    name: str,
    ring_id: str,
    policy: Policy,
    store: LeaderStore,
    root: TrustRoot,
    mint: Mint,
    clock: Clock,
    owner: str,
) -> Ring:
    """Make the ring `name` and its first keys, and publish it as version 1.

    Raises:
        RequestRefused: there is one already, or somebody leads one this very moment.
    """
    taken = await store.acquire(owner, _TTL, 0)
    if not isinstance(taken, Acquired):
        raise RequestRefused(f"ring {name!r} is being led already; ringkeeper status shows it")
    try:
        if (await store.read()).snapshot:
            raise RequestRefused(
                f"ring {name!r} exists already and is left as it is; ringkeeper status shows it"
            )
        minted = [await mint(wanted) for wanted in first_keys_wanted(policy)]
        now = clock.now()
        ring = first_ring(
            ring_id=ring_id,
            name=name,
            policy=policy,
            fresh=tuple(each.fresh for each in minted),
            now=now,
            epoch=taken.epoch,
        )
        snapshot = sign_snapshot(ring, root)
        edition = Edition(
            version=ring.version,
            epoch=taken.epoch,
            snapshot=snapshot,
            proof=sign_proof(ring, snapshot, now, root),
            put={each.fresh.kid: each.sealed for each in minted},
            kept=frozenset(each.fresh.kid for each in minted),
            events=tuple(sign_event(e, root) for e in events_between(None, ring, now, {})),
        )
        outcome = await store.publish(owner, "0", edition)
        if not isinstance(outcome, Written):
            raise RequestRefused(f"ring {name!r} was made by somebody else this very moment")
        return ring
    finally:
        await store.release(owner)
