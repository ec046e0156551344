"""What operators do from a command line: look at a ring, and ask its leader for a change.

Nothing is changed from here. A request is signed by the trust root, names the version that it was
decided on, and takes effect at the leader, there or nowhere; its answer is an audit event.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ringkeeper.errors import DocumentError, InfrastructureError, RequestRefused, RingMissing
from ringkeeper.wire import (
    MAX_TEXT,
    Command,
    Proof,
    Request,
    open_event,
    open_proof,
    open_snapshot,
    sign_request,
)
from ringkeeperd.audit import REQUEST_REFUSED

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from ringkeeper.clock import Clock
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import PinnedRoots, TrustRoot
    from ringkeeper.wire import Event
    from ringkeeperd.leader_store import RedisLeaderStore
    from ringkeeperd.rotation import Instance

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """A ring as Redis shows it at one moment, verified."""

    ring: Ring
    proof: Proof | None
    leader: str
    """Who holds the lease, as far as the owner token tells; empty if nobody does."""
    instances: tuple[Instance, ...]


class Operator:
    """One operator at one ring."""

    def __init__(self, store: RedisLeaderStore, roots: PinnedRoots, clock: Clock) -> None:
        """Look and ask through `store`."""
        self._store = store
        self._roots = roots
        self._clock = clock

    def now(self) -> datetime:
        """The time on this machine."""
        return self._clock.now()

    async def look(self) -> Seen:
        """The ring as it is now.

        Raises:
            RingMissing, DocumentError, RedisUnavailable: it cannot be seen, and why.
        """
        stored = await self._store.read()
        name = self._store.layout.name
        if not stored.snapshot:
            raise RingMissing(f"redis holds no ring {name!r}; ringkeeper init makes one")
        ring = open_snapshot(stored.snapshot, self._roots)
        proof = None
        with suppress(DocumentError):
            proof = open_proof(stored.proof, self._roots)
        owner = await self._store.owner()
        instances = await self._store.instances(ring.policy.liveness_window)
        leader = owner.partition("/")[0]
        return Seen(ring, proof, leader, instances)

    async def inspect(self, kek: Kek | None) -> None:
        """See the ring, and open every private key that may sign; raises as `look`.

        Raises:
            SealBroken: `kek` is not the one that sealed them, or they were damaged.
        """
        ring = (await self.look()).ring
        sealed = await self._store.sealed([key.kid for key in ring.may_sign_next])
        if kek is None:
            return
        for key in ring.may_sign_next:
            kek.unseal(sealed.get(key.kid, ""), key)

    async def ask(
        self, root: TrustRoot, command: Command, *, kid: str = "", reason: str, wait: timedelta
    ) -> Event:
        """Ask the leader, and return its answer; a ring that moved on meanwhile is asked again.

        Raises:
            RequestRefused: the leader said no, and why.
            InfrastructureError: nobody answered within `wait`; what became of the request.
        """
        by = caller()
        if len(reason) > MAX_TEXT:
            raise RequestRefused(f"a reason has {MAX_TEXT} characters at the most; shorten it")
        for _ in range(_TRIES):
            ring, now = (await self.look()).ring, self._clock.now()
            request = Request(
                id=secrets.token_urlsafe(12),
                ring_id=ring.id,
                name=ring.name,
                version=ring.version,
                command=command,
                kid=kid,
                reason=reason,
                by=by,
                at=now,
                until=now + wait,
            )
            answer = await self._exchange(sign_request(request, root), request.id, wait)
            if answer.event != REQUEST_REFUSED:
                return answer
            if ring.version == (await self.look()).ring.version:
                break
        raise RequestRefused(str(answer.fields.get("why", "refused")))

    async def _exchange(self, document: str, request: str, wait: timedelta) -> Event:
        """Ask, and wait for the answer; a request that gets none is not left lying about."""
        after = await self._store.last_event()
        entry = await self._store.ask(document)
        is_withdrawn = False
        try:
            async with asyncio.timeout(wait.total_seconds()):
                return await self._answer(request, after)
        except TimeoutError:
            pass
        finally:
            is_withdrawn = await self._is_withdrawn(entry)
        became = (
            "the request was withdrawn; is a daemon with lead: true running?"
            if is_withdrawn
            else "yet the request may have been carried out; look"
        )
        raise InfrastructureError(
            f"no leader answered within {wait.total_seconds():g} s: {became} (ringkeeper status)"
        )

    async def _is_withdrawn(self, entry: str) -> bool:
        """Whether the request could be taken back; else it was taken, or lapses by itself."""
        with suppress(InfrastructureError, TimeoutError):
            async with asyncio.timeout(1):
                return await self._store.withdraw(entry)
        return False

    async def _answer(self, request: str, after: str) -> Event:
        async with self._store.events(after) as events:
            while True:
                for entry in await events.next():
                    with suppress(DocumentError):
                        told = open_event(entry.document, self._roots)
                        if told.fields.get("request") == request:
                            return told


def caller() -> str:
    """Who asks, for the audit: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in a container; OSError from Python 3.13 on
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:MAX_TEXT]


def without_past(seen: Seen) -> Seen:
    """`seen`, with instances in a stable order: who is behind first."""
    edition = (seen.ring.epoch, seen.ring.version)
    order = sorted(seen.instances, key=lambda i: ((i.epoch, i.version) >= edition, i.id))
    return replace(seen, instances=tuple(order))
