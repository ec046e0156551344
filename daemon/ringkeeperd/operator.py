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

from ringkeeper.clock import SystemClock
from ringkeeper.durations import format_duration
from ringkeeper.errors import DocumentError, InfrastructureError, RequestRefused, RingMissing
from ringkeeper.secret_files import read_pinned_roots
from ringkeeper.trust import root_of
from ringkeeper.wire import (
    MAX_TEXT,
    Command,
    Proof,
    Request,
    digest_of,
    open_event,
    open_proof,
    open_snapshot,
    sign_request,
)
from ringkeeperd.audit import REQUEST_REFUSED
from ringkeeperd.forecasting import longest_life, verifying
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.misuse import Misused
from ringkeeperd.operations import known
from ringkeeperd.rotation import Confirmations, activation_at, heir_in
from ringkeeperd.spike_events import LOOK_BACK, last_spike
from ringkeeperd.words import harmless

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, timedelta
    from typing import TypeVar

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration
    from ringkeeper.ring import Key, Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.store import Stored
    from ringkeeper.trust import PinnedRoots, TrustRoot
    from ringkeeper.wire import Event
    from ringkeeperd.forecast import Outstanding
    from ringkeeperd.leader_store import Entry, EntryStream
    from ringkeeperd.rotation import Instance
    from ringkeeperd.spikes import Spike

    _T = TypeVar("_T")

_TRIES = 5
_NAMED = 5
_OF_ONE_KEY = (Command.REVOKE, Command.CALL_OFF_DRAIN, Command.RETIRE)
"""Each is about a key that there has to be."""
_TURNS = (Command.ROTATE, Command.ROTATE_NOW, Command.ROLLBACK, Command.CALL_OFF)
"""Each asks for one turn, of the ring that was looked at, or that there be none."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A ring as Redis shows it at one moment, verified."""

    ring: Ring
    proof: Proof | None
    """None where there is none that vouches for this ring at this version."""
    leader: str
    """Who holds the lease, as far as the owner token tells; empty if nobody does."""
    instances: tuple[Instance, ...]
    signed_by: str = ""
    """The thumbprint of the root that signed it."""
    spike: Spike | None = None
    """The newest spike of refreshes, where it was asked for."""

    @property
    def behind(self) -> tuple[str, ...]:
        """The live instances that have not confirmed this version."""
        edition = (self.ring.epoch, self.ring.version)
        return tuple(sorted(i.id for i in self.instances if (i.epoch, i.version) < edition))

    @property
    def drifting(self) -> tuple[str, ...]:
        """The daemons whose files say something else of the policy than the leader's."""
        told = {i.id: i.policy for i in self.instances if i.may_lead and i.policy}
        leader = told.get(self.leader)
        return tuple(sorted(i for i in told if told[i] != leader)) if leader else ()

    @property
    def awaited(self) -> tuple[str, ...]:
        """The live instances that have not confirmed the next key yet."""
        return self._missing(self.ring.standby)

    @property
    def awaited_behind(self) -> tuple[str, ...]:
        """Those that have not confirmed the key for which the next one would make way."""
        return self._missing(heir_in(self.ring))

    def _missing(self, key: Key | None) -> tuple[str, ...]:
        return Confirmations(self.instances, key.published_at).missing(key) if key else ()


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
            raise RingMissing(
                f"redis holds no ring {name!r}; a new one is made by ringkeeper init; one that was "
                "there before is put back by a daemon that knows it, or ringkeeper restore"
            )
        ring = open_snapshot(stored.snapshot, self._roots)
        owner = await self._store.owner()
        instances = await self._store.instances(ring.policy.liveness_window)
        return Seen(
            ring,
            self._proof_of(ring, stored),
            harmless(owner.partition("/")[0]),
            tuple(map(_shown, instances)),
            root_of(stored.snapshot),
        )

    async def survey(self) -> Seen:
        """As `look`, with the newest spike of refreshes that the audit tells of."""
        seen, events = await self.look(), []
        for entry in await self._store.recent_events(LOOK_BACK):
            with suppress(DocumentError):
                events.append(open_event(entry.document, self._roots))
        ours = [each for each in events if each.ring_id == seen.ring.id]
        return replace(seen, spike=last_spike(ours))

    def _proof_of(self, ring: Ring, stored: Stored) -> Proof | None:
        """The proof that vouches for just this; there is always one, unless it was taken away."""
        vouched = (ring.id, ring.name, ring.version, digest_of(stored.snapshot))
        with suppress(DocumentError):
            proof = open_proof(stored.proof, self._roots)
            if (proof.ring_id, proof.name, proof.version, proof.digest) == vouched:
                return proof
        return None

    @property
    def roots(self) -> PinnedRoots:
        """The pinned roots, by which everything is verified."""
        return self._roots

    async def recent_events(self, most: int) -> tuple[Entry, ...]:
        """The newest entries of the audit, the newest first."""
        return await self._store.recent_events(most)

    def events(self, after: str) -> AbstractAsyncContextManager[EntryStream]:
        """Listen for what comes into the audit behind the entry `after`."""
        return self._store.events(after)

    async def sealed(self, ring: Ring) -> dict[str, str]:
        """The sealed private keys of `ring` that Redis holds."""
        return await self._store.sealed([key.kid for key in ring.keys if key.may_verify])

    async def outstanding(self, ring: Ring) -> Outstanding:
        """The tokens of `ring` that have not expired, as far as apps counted them."""
        return await self._store.outstanding(verifying(ring), longest_life(ring))

    async def inspect(self, kek: Kek | None) -> Seen:
        """The ring as it is now, with every private key that may sign opened; raises as `look`.

        Raises:
            SealBroken: `kek` is not the one that sealed them, or they were damaged.
        """
        seen = await self.look()
        sealed = await self._store.sealed([key.kid for key in seen.ring.may_sign_next])
        if kek is not None:
            for key in seen.ring.may_sign_next:
                kek.unseal(sealed.get(key.kid, ""), key)
        return seen

    async def ask(
        self,
        root: TrustRoot,
        command: Command,
        *,
        kid: str = "",
        reason: str,
        wait: timedelta,
        given: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Event:
        """Ask the leader, and return its answer; a ring that moved on meanwhile is asked again.

        But not if another operator moved it: whoever asked has not seen what that brought. `tell`
        hears why it may take a while.

        Raises:
            Misused: `reason` is too long.
            RequestRefused: the leader said no, and why; or what another operator asked for first.
            InfrastructureError: nobody answered within `wait`; what became of the request.
        """
        by = caller()
        if len(reason) > MAX_TEXT:
            raise Misused(f"a reason has {MAX_TEXT} characters at the most; shorten it")
        for _ in range(_TRIES):
            seen, now = await self.look(), self._clock.now()
            ring = seen.ring
            if command in _OF_ONE_KEY:
                known(ring, kid)  # the leader would say so, too: nobody need wait for one
            if not seen.leader:
                tell(
                    f"nobody leads ring {ring.name} now; waiting for a daemon that does, for "
                    f"{wait.total_seconds():g} s (--answer-within)"
                )
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
                given=given or {},
            )
            document = sign_request(request, root.using(seen.signed_by))
            answer = await self._exchange(document, request.id, wait)
            if answer.event != REQUEST_REFUSED:
                return answer
            moved = (await self.look()).ring
            if ring.version == moved.version:
                break
            if command is not Command.REVOKE:  # an emergency holds whatever others did meanwhile
                await self._check_alone(ring)
            if command in _TURNS:
                decided_on = ring.active()
                check_not_turned(moved, decided_on.kid if decided_on else "")
        # Signed, and yet it may quote what anyone wrote into the table of instances.
        raise RequestRefused(harmless(str(answer.fields.get("why", "refused")), most=2000))

    async def _check_alone(self, decided_on: Ring) -> None:
        """Go on unless another operator moved the ring on from what was decided on.

        Raises:
            RequestRefused: who did, and what came of it.
        """
        others: list[Event] = []
        for entry in await self._store.recent_events(LOOK_BACK):
            with suppress(DocumentError):
                told = open_event(entry.document, self._roots)
                is_newer = told.ring_id == decided_on.id and told.version > decided_on.version
                is_done = told.event != REQUEST_REFUSED
                if is_newer and is_done and told.fields.get("by"):
                    others.append(told)
        if others:
            first = min(others, key=lambda told: told.number)
            who = harmless(str(first.fields["by"]))
            raise RequestRefused(
                f"{who} was first: {first.event} in version {first.version}, and nothing was done "
                "for you; look (ringkeeper status), and ask again if that still has to be"
            )

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


def check_not_turned(ring: Ring, former: str) -> None:
    """Go on unless another key than `former` signs by now: one turn is what was asked for.

    Raises:
        RequestRefused: who signs.
    """
    active = ring.active()
    if active and active.kid != former:
        raise RequestRefused(
            f"{active.kid} began to sign meanwhile, in version {ring.version} or before, and "
            "nothing was done for you; look (ringkeeper status), and ask again if that still has "
            "to be"
        )


def _shown(instance: Instance) -> Instance:
    """`instance`, of which anyone may have written the row."""
    return replace(
        instance,
        id=harmless(instance.id),
        role=harmless(instance.role),
        algorithms=tuple(map(harmless, instance.algorithms)),
    )


def at_ring(
    configuration: Configuration, name: str, work: Callable[[Operator], Awaitable[_T]]
) -> _T:
    """What `work` says, done with an operator at the ring of that name."""
    roots = read_pinned_roots(configuration.trust_root_public)

    async def do() -> _T:
        clock = SystemClock()
        store = RedisLeaderStore.configured(configuration, name, clock)
        try:
            return await work(Operator(store, roots, clock))
        finally:
            await store.close()

    return asyncio.run(do())


def caller() -> str:
    """Who asks, for the audit: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in a container; OSError from Python 3.13 on
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:MAX_TEXT]


def some(names: Sequence[str]) -> str:
    """The first of `names`, and how many there are besides."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def outlook(seen: Seen, now: datetime) -> tuple[str, ...]:
    """When the next key will sign, and what it waits for: a line each, as far as can be known."""
    ring, standby, at = seen.ring, seen.ring.standby, activation_at(seen.ring)
    if standby is None or at is None:
        return ("there is no standby yet: the leader publishes one first",)
    heard = format_duration(ring.policy.liveness_window)
    next_ = f"{standby.kid} {'signs' if ring.policy.use_dynamic else 'becomes active'}"
    lines = [
        f"{next_} once every live instance has confirmed it"
        if seen.awaited
        else f"{next_} next: at once, unless the leader has just begun and listens for {heard}"
    ]
    if at > now:
        earliest = f"{at:%Y-%m-%d %H:%M:%S} UTC at the earliest"
        lines = [f"{next_} at {earliest}: it has to be public for long enough"]
    if seen.awaited:
        patience = format_duration(ring.policy.confirmation_timeout)
        lines.append(f"not confirmed yet by {some(seen.awaited)}; waited for {patience} at most")
    if not ring.policy.use_dynamic:
        lines.append("the static key goes on signing: that is the dynamic key's turn")
    return tuple(lines)


def without_past(seen: Seen) -> Seen:
    """`seen`, with instances in a stable order: who is behind first."""
    edition = (seen.ring.epoch, seen.ring.version)
    order = sorted(seen.instances, key=lambda i: ((i.epoch, i.version) >= edition, i.id))
    return replace(seen, instances=tuple(order))


def delay(seen: Seen) -> str:
    """Why a turn that is due is not taken, as far as can be known from outside."""
    if seen.awaited:
        return f"waiting for {some(seen.awaited)}, to confirm the next key"
    if not seen.leader:
        return "nobody leads; start a daemon, ringkeeper run"
    heard = format_duration(seen.ring.policy.liveness_window)
    return f"the leader has just begun: it listens for {heard}, to hear of every instance"
