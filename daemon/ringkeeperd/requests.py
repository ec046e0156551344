"""What operators ask of the leader, done or refused. It takes effect on its version, or never."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import DocumentError, RedisUnavailable, RequestRefused, SealBroken
from ringkeeper.wire import Command, open_request
from ringkeeperd.audit import REQUEST_REFUSED, event, numbered, ring_rewrapped
from ringkeeperd.operations import revocation_wants, revoke, rotate
from ringkeeperd.rewrapping import lacking, rewrapped, sealed_otherwise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringkeeper.sealing import Kek
    from ringkeeper.trust import TrustRoot
    from ringkeeper.wire import Event, Request
    from ringkeeperd.audit import Fields
    from ringkeeperd.leader_store import Entry
    from ringkeeperd.term import Term

_ANSWERS_A_TURN: Final = 20
"""Requests answered between two steps: whoever floods the stream holds up nothing else."""
_REWRAPPING: Final = (Command.REWRAP, Command.REWRAP_NOW)
_NAMED: Final = 5


class Requests:
    """The operators' requests of one term."""

    def __init__(self, term: Term) -> None:
        self.asked: list[Entry] = []
        """What was not answered yet."""
        self._term = term
        self._leader = term.leader
        self._store = term.store
        self._has_told_of_garbage = False

    async def hear(self) -> None:
        """Note what operators ask for; `answer` comes between two steps."""
        while True:
            try:
                async with self._store.requests() as stream:
                    while True:
                        asked = await stream.next()
                        self.asked += asked
                        if asked:
                            self._leader.wake.set()
            except RedisUnavailable as error:
                self._term.observer.failed(error)
                await asyncio.sleep(1.0)

    async def answer(self) -> None:
        """Answer what was asked for so far, a turn's share of it."""
        for asked in self.asked[:_ANSWERS_A_TURN]:
            refusal = await self._done(asked)
            self.asked.remove(asked)
            if refusal:
                (refusal,) = numbered([refusal], after=self._leader.told)
                self._term.observer.refused(refusal)
            is_told = await self._term.tell(refusal, asked)
            if refusal and not is_told:
                self._leader.told = refusal.number  # lost for good: whoever reads sees a gap

    async def _done(self, asked: Entry) -> Event | None:
        """Do what was asked for; or the event that says why not."""
        term, now = self._term, self._term.now()
        try:
            request = open_request(asked.document, self._leader.follower.replica.roots)
        except DocumentError as error:
            # Nobody waits for an answer to what no operator signed; anyone may write such things.
            if self._has_told_of_garbage:
                return None
            self._has_told_of_garbage = True
            return event(term.ring, now, REQUEST_REFUSED, {"why": str(error)})
        if request.id == self._leader.fulfilled:
            return None
        context = {"request": request.id, "by": request.by, "reason": request.reason}
        try:
            while not await self._fulfil(request, context):
                pass
        except RequestRefused as error:
            return event(term.ring, now, REQUEST_REFUSED, {**context, "why": str(error)})
        return None

    async def _fulfil(self, request: Request, context: Mapping[str, str]) -> bool:
        """Whether the ring is now as asked; False if it moved on meanwhile: look again.

        Raises:
            RequestRefused: meant for another ring, version or time, or not possible.
        """
        term = self._term
        self._check(request)
        if request.command in _REWRAPPING:
            return await self._rewrap(request, context)
        began, ring = term.clock.monotonic(), term.ring
        if request.command is not Command.REVOKE:
            hasten = request.command is Command.ROTATE_NOW
            turned = rotate(ring, now=term.now(), epoch=term.epoch, hasten=hasten)
            return await term.commit(turned, {}, context, began)
        wanted = revocation_wants(ring, request.kid, term.now())
        minted = await term.mint(wanted) if wanted else None
        revoked = revoke(
            ring,
            request.kid,
            reason=request.reason,
            now=term.now(),
            epoch=term.epoch,
            fresh=minted.fresh if minted else None,
        )
        return await term.commit(revoked, minted.put if minted else {}, context, began)

    def _check(self, request: Request) -> None:
        ring = self._term.ring
        if (request.ring_id, request.name) != (ring.id, ring.name):
            raise RequestRefused("the request is for another ring")
        if request.version != ring.version:
            raise RequestRefused(
                f"decided on version {request.version}, the ring is at {ring.version}; look again"
            )
        if self._term.now() > request.until + ring.policy.clock_skew:
            raise RequestRefused(
                "it came too late: nobody has waited for it since "
                f"{request.until:%Y-%m-%d %H:%M:%S} UTC; is the clock right where it was made?"
            )

    # --- other secrets ---------------------------------------------------------------------------

    async def _rewrap(self, request: Request, context: Mapping[str, str]) -> bool:
        """Seal every private key by our first KEK, and sign by our first root from now on."""
        term, began = self._term, self._term.clock.monotonic()
        ring, kek, root = term.ring, self._leader.kek, self._leader.root
        blobs = await self._store.sealed([key.kid for key in ring.keys if key.may_verify])
        is_signed_so = root.kid == term.root.kid
        if is_signed_so and kek.kid == ring.kek and not sealed_otherwise(ring, blobs, kek.kid):
            raise RequestRefused(
                f"the leader's files have {kek.kid} and the root {root.kid} first, which seal and "
                "sign already; give it files that have the new ones first: it reads them within "
                "seconds, and its log tells if it cannot use them"
            )
        if request.command is Command.REWRAP:
            await self._check_followed(kek, root)
        put, left = await self._resealed(blobs, kek)
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

    async def _check_followed(self, kek: Kek, root: TrustRoot) -> None:
        """Whether every live instance could follow.

        Raises:
            RequestRefused: who could not, or that nobody knows yet.
        """
        term = self._term
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
        self, blobs: Mapping[str, str], kek: Kek
    ) -> tuple[dict[str, str], list[str]]:
        """What `kek` has not sealed yet, sealed by it; and what signs no more and does not open.

        Raises:
            RequestRefused: the private half of a key that may sign does not open.
        """
        ring = self._term.ring
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
