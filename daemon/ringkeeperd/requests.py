"""What operators ask of the leader, done or refused. It takes effect on its version, or never."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import DocumentError, RedisUnavailable, RequestRefused, SecretError
from ringkeeper.wire import open_request
from ringkeeperd.audit import REQUEST_REFUSED, event, numbered
from ringkeeperd.fulfilment import fulfil
from ringkeeperd.leader_store import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringkeeper.wire import Event, Request
    from ringkeeperd.leader_store import Entry
    from ringkeeperd.term import Term

_WHY: Final = 2000
"""Characters of a refusal: an event has 8 KiB in all."""
_ANSWERS_A_TURN: Final = 20
"""Requests answered between two steps: whoever floods the stream holds up nothing else."""


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
            while not await self._is_fulfilled(request, context):
                pass
        except RequestRefused as error:
            return event(term.ring, now, REQUEST_REFUSED, {**context, "why": str(error)[:_WHY]})
        except (LeaseLost, RedisUnavailable, SecretError):
            raise
        except Exception as error:  # noqa: BLE001 - what a request breaks must not end a leadership
            term.observer.broken(error)
            why = f"it cannot be done ({type(error).__name__}); the leader's log has more"
            return event(term.ring, now, REQUEST_REFUSED, {**context, "why": why})
        return None

    async def _is_fulfilled(self, request: Request, context: Mapping[str, str]) -> bool:
        """Whether the ring is now as asked; False if it moved on meanwhile: look again.

        Raises:
            RequestRefused: meant for another ring, version or time, or not possible.
        """
        self._check(request)
        return await fulfil(self._term, request, context)

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
