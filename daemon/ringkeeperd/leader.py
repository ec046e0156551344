"""Leads a ring while the lease lasts. Promises 3, 6 and 7 live here; `rotation` decides what to do.

What is *not* guaranteed: that one leader acts at a time. A paused or cut-off leader may still
believe in its lease. It is harmless: every write is one script in Redis that checks owner, epoch
and version, so a stale leader's write is refused there. The lease only spares the others the work.

The lease's rules are client-go's: its deadline is counted from before the request was sent, by a
clock that nobody steps, and leading stops at two thirds of the TTL, before anyone else may begin.

Nothing here remembers a half-done change. Whatever fails, the ring is read again and `next_step`
is asked again: a version that could not be written in time is not written late, with times that
are long past. Every time it is read, what Redis holds is laid beside what is known of the ring, by
this process, by its former self (a file), by a witness; what Redis lost is put back (`merge`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ringkeeper.clock import ZERO
from ringkeeper.durations import format_duration
from ringkeeper.errors import (
    ClocksApart,
    DocumentError,
    RedisUnavailable,
    RequestRefused,
    RingkeeperError,
    RingMissing,
    SealBroken,
)
from ringkeeper.ring import KeyState
from ringkeeper.tasks import first_of
from ringkeeper.testimony import Testimony
from ringkeeper.wire import (
    Command,
    open_request,
    sign_event,
    sign_proof,
    sign_snapshot,
)
from ringkeeperd.audit import REQUEST_REFUSED, event, events_between
from ringkeeperd.healing import check_identity, diagnose, evidence_of, found_in
from ringkeeperd.leader_store import (
    Acquired,
    Edition,
    Entry,
    Fenced,
    HeldByAnother,
    Stale,
)
from ringkeeperd.rotation import (
    Activate,
    Confirmations,
    KeyWanted,
    WaitUntil,
    apply,
    next_step,
    revocation_wants,
    revoke,
    rotate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ringkeeper.clock import Clock
    from ringkeeper.follower import Follower
    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.testimony import History
    from ringkeeper.trust import TrustRoot
    from ringkeeper.wire import Event, Request
    from ringkeeperd.healing import Diagnosis, Evidence
    from ringkeeperd.leader_store import LeaderStore
    from ringkeeperd.minting import Minted
    from ringkeeperd.rotation import Change, Instance

Mint = Callable[[KeyWanted], Awaitable["Minted"]]

ANOTHER_LEADS = "another daemon leads"
_RETRY_FIRST = 0.2
_RETRY_MOST = 3.0
_LOOK_AGAIN = timedelta(seconds=1)
"""How often the table of instances is read while somebody is waited for."""
_LEASE_MARGIN = timedelta(milliseconds=50)
_ANSWERS_A_TURN = 20
"""Requests answered between two steps: whoever floods the stream holds up nothing else."""
_LONGEST_SLEEP = timedelta(seconds=60)
"""The wall clock may be stepped while we sleep: look at it at least this often."""


class Observer(Protocol):
    """Where leading is told: logs and metrics."""

    def leading(self, epoch: int) -> None:
        """The lease is ours."""

    def not_leading(self, why: str) -> None:
        """It is not, or not any more."""

    def cannot_lead(self, error: RingkeeperError) -> None:
        """We could have had the lease, and must not use it."""

    def broken(self, error: Exception) -> None:
        """Leading failed in a way that nobody thought of."""

    def changed(self, ring: Ring, told: tuple[Event, ...], took: timedelta) -> None:
        """A new version is published."""

    def forced(self, kid: str, instances: tuple[str, ...]) -> None:
        """A key was activated although these never confirmed it."""

    def refused(self, told: Event) -> None:
        """An operator's request was refused."""

    def waiting(self, wait: WaitUntil, instances: tuple[Instance, ...]) -> None:
        """Nothing to do for now."""

    def propagated(self, took: timedelta) -> None:
        """Every live instance has confirmed the newest version."""

    def failed(self, error: RingkeeperError) -> None:
        """A change could not be made; it will be tried again."""


class LeaseLost(Exception):
    """Stop leading at once. An expected race, not an error."""


class Pending(NamedTuple):
    """A publication whose reply was lost: it may have been made, and must then be told of."""

    ring: Ring
    snapshot: str
    events: tuple[Event, ...]
    began: float


class Leader:
    """One daemon's part in leading one ring: tries for the lease, and leads while it has it."""

    def __init__(  # noqa: PLR0913 - everything that is not pure is handed in
        self,
        *,
        policy: Policy,
        store: LeaderStore,
        follower: Follower,
        root: TrustRoot,
        kek: Kek,
        clock: Clock,
        owner: Callable[[], str],
        mint: Mint,
        lease_ttl: timedelta,
        observer: Observer,
    ) -> None:
        """Lead the ring that `follower` follows, by `policy`.

        `owner` makes a random token for each term; `mint` makes and seals a key pair.
        """
        self.policy = policy
        self.store = store
        self.follower = follower
        self.root = root
        self.kek = kek
        self.clock = clock
        self.mint = mint
        self.ttl = lease_ttl
        self.observer = observer
        self.wake = asyncio.Event()
        """Set when there may be something to do sooner than thought."""
        self.is_doubtful = False
        """Whether Redis may lack something that is known."""
        self.bereft_since: float | None = None
        """Since when the private half of a key that may sign has been nowhere to be found."""
        self.gave_way_at: float | None = None
        """When the lease was last let go because our clock and Redis' differ."""
        self.seen_epoch = 0
        """The highest epoch that was found in Redis, or with a witness."""
        self.pending: Pending | None = None
        self.fulfilled = ""
        """The operator's request that was found to be done after its reply had been lost."""
        self._owner = owner

    def change_policy(self, policy: Policy) -> None:
        """From now on lead by `policy`."""
        self.policy = policy
        self.wake.set()

    def doubt(self) -> None:
        """Redis may lack something that is known, here or by a witness: look at once."""
        self.is_doubtful = True
        self.wake.set()

    async def run(self) -> None:
        """Lead whenever the lease can be had, until cancelled; then let it go."""
        pause = _RETRY_FIRST
        while True:
            owner = self._owner()
            try:
                term = await self._campaign(owner)
                try:
                    await term.serve()
                finally:
                    await self._release(owner)
            except (LeaseLost, RedisUnavailable) as error:
                self.observer.not_leading(str(error))
                pause = _RETRY_FIRST if isinstance(error, LeaseLost) else pause
            except (DocumentError, SealBroken, ClocksApart) as error:
                # Promise 7: what cannot be read is not overwritten. Another daemon may read it.
                self.observer.cannot_lead(error)
                pause = _RETRY_MOST
            except Exception as error:  # noqa: BLE001 - a defect of ours must not end the serving
                self.observer.broken(error)
                pause = _RETRY_MOST
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_MOST)

    async def _campaign(self, owner: str) -> _Term:
        """A term as leader, once nobody else has the lease."""
        while True:
            asked_at = self.clock.monotonic()
            self.wake.clear()
            answer = await self.store.acquire(owner, self.ttl, self._seen_epoch())
            match answer:
                case Acquired():
                    return _Term(self, owner, answer, asked_at)
                case HeldByAnother(remaining):
                    self.observer.not_leading(ANOTHER_LEADS)
                    await self.rest(min(remaining + _LEASE_MARGIN, self.ttl))

    def _seen_epoch(self) -> int:
        """The highest epoch that this process knows of."""
        return max(self.seen_epoch, *(side.history.ring.epoch for side in self.known()), 0)

    def known(self) -> list[Evidence]:
        """What this process can show of the ring."""
        replica = self.follower.replica
        shown = self.follower.testimonies()
        return [evidence_of(each, replica.name, replica.roots) for each in shown]

    async def _release(self, owner: str) -> None:
        with suppress(RedisUnavailable, TimeoutError):
            # Not for long: while this waits, nobody is told that we lead no more.
            async with asyncio.timeout(min(1.0, self.ttl.total_seconds() / 6)):
                await self.store.release(owner)

    async def rest(self, duration: timedelta) -> None:
        """Sleep for `duration`, or until there may be something to do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, duration.total_seconds())):
                await self.wake.wait()
        self.wake.clear()


class _Term:
    """One leadership: from taking the lease to losing it or letting it go."""

    def __init__(self, leader: Leader, owner: str, acquired: Acquired, asked_at: float) -> None:
        self._leader = leader
        self._store = leader.store
        self._clock = leader.clock
        self._observer = leader.observer
        self._owner = owner
        self._epoch = acquired.epoch
        self._deadline = 0.0
        self._redis_was = acquired.redis_now
        """What Redis' clock showed when it was last seen, and our own that nobody steps then."""
        self._redis_was_at = asked_at
        self._is_ours_from(asked_at, acquired.redis_now)
        self._trusted_from: datetime | None = None
        self._had_instances = False
        self._asked: list[Entry] = []
        self._has_told_of_garbage = False
        self._proved_at: float | None = None
        self._vouched_at: datetime | None = None
        """When the newest proof that Redis held was signed."""
        self._published_at: float | None = None
        """When the newest version went out, while it is not confirmed by all."""

    async def serve(self) -> None:
        """Lead: until cancelled, or an error says why not."""
        await self._load()
        self._observer.leading(self._epoch)
        await first_of(self._keep_lease(), self._hear_requests(), self._turn())

    # --- the lease -------------------------------------------------------------------------------

    def _is_ours_from(self, asked_at: float, redis_now: datetime) -> None:
        """Note how long the lease is good for, and what Redis' clock shows."""
        self._deadline = asked_at + self._leader.ttl.total_seconds() * 2 / 3
        self._redis_was = redis_now
        self._redis_was_at = (asked_at + self._clock.monotonic()) / 2

    @property
    def _offset(self) -> timedelta:
        """How far Redis' clock is ahead of ours at this moment, even if ours was just stepped."""
        since = timedelta(seconds=self._clock.monotonic() - self._redis_was_at)
        return self._redis_was + since - self._clock.now()

    def _now(self) -> datetime:
        """The time to write down.

        Where the two clocks differ by more than the skew, nobody knows which one is right, and
        some things must be written all the same: proofs, an operator's emergency. Then it is the
        earlier of the two (what lies in the future would bind everybody until then), yet not
        before the newest proof.
        """
        ours, offset = self._clock.now(), self._offset
        if abs(offset) <= self._leader.policy.clock_skew:
            return ours
        held = self._leader.follower.replica.held
        earlier = min(ours, ours + offset)
        earlier -= timedelta(microseconds=earlier.microsecond % 1000)
        # A follower whose clock is behind does not believe the newest proof, and Redis holds it.
        newest = filter(None, (held.proof_at if held else None, self._vouched_at))
        return max([earlier, *newest])

    def _check_lease(self) -> None:
        if self._clock.monotonic() >= self._deadline:
            raise LeaseLost("the lease could not be renewed in time")

    async def _keep_lease(self) -> None:
        every = self._leader.ttl.total_seconds() / 3
        while True:
            await asyncio.sleep(every)
            while not await self._is_renewed():
                await asyncio.sleep(min(_RETRY_FIRST, every / 4))

    async def _is_renewed(self) -> bool:
        self._check_lease()
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline - asked_at):
                redis_now = await self._store.renew(self._owner, self._leader.ttl)
        except (RedisUnavailable, TimeoutError):
            return False
        if redis_now is None:
            raise LeaseLost("another daemon has the lease, or Redis lost it")
        self._is_ours_from(asked_at, redis_now)
        return True

    # --- turning the keys ------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Ask for the one thing to do, do it, ask again."""
        while True:
            self._check_lease()
            try:
                if self._leader.is_doubtful:
                    await self._load()
                if self._proof_due_in() <= ZERO:
                    await self._prove()
                await self._answer_requests()
                await self._step()
            except RedisUnavailable as error:
                self._observer.failed(error)
                await asyncio.sleep(_RETRY_FIRST)

    async def _step(self) -> None:
        instances = await self._store.instances(self._ring.policy.liveness_window)
        if self._had_instances and not instances:
            self._trusted_from = None  # the table was lost: we ourselves would be in it
        self._had_instances = bool(instances)
        confirmed = Confirmations(instances, self._trusts_from())
        step = next_step(
            self._ring,
            self._leader.policy,
            confirmed,
            self._now(),
            clock_offset=self._offset,
        )
        if not isinstance(step, WaitUntil):
            await self._take(step)
            return
        self._watch_propagation(instances)
        self._observer.waiting(step, instances)
        await self._leader.rest(self._sleep_for(step))

    def _trusts_from(self) -> datetime:
        """The table of instances is trusted one liveness window after this term began."""
        if self._trusted_from is None:
            self._trusted_from = self._now() + self._ring.policy.liveness_window
        return self._trusted_from

    def _sleep_for(self, wait: WaitUntil) -> timedelta:
        waits = [wait.when - self._now(), self._proof_due_in(), _LONGEST_SLEEP]
        if self._asked:
            waits.append(ZERO)
        if wait.awaiting:
            waits.append(_LOOK_AGAIN)
        if self._published_at is not None:
            waits.append(_LOOK_AGAIN / 4)
        return min(waits)

    async def _take(self, step: Change) -> None:
        began = self._clock.monotonic()
        minted = await self._leader.mint(step.wants) if step.wants else None
        ring = apply(
            self._ring,
            step,
            now=self._now(),
            epoch=self._epoch,
            fresh=minted.fresh if minted else None,
        )
        is_done = await self._commit(ring, minted, {}, began)
        if is_done and isinstance(step, Activate) and step.forced:
            self._observer.forced(step.kid, step.forced)

    async def _commit(
        self, ring: Ring, minted: Minted | None, context: dict[str, str], began: float
    ) -> bool:
        """Publish `ring` in place of the one decided on; whether that is now the truth."""
        events = events_between(self._ring, ring, self._now(), context)
        put = {minted.fresh.kid: minted.sealed} if minted else {}
        if not await self._publish(ring, self._snapshot, put, events, began):
            await self._load()
            return False
        return True

    async def _publish(
        self,
        ring: Ring,
        expected: str,
        put: Mapping[str, str],
        events: tuple[Event, ...],
        began: float,
    ) -> bool:
        """Write `ring` over the snapshot `expected`; False if Redis holds something else.

        Raises:
            LeaseLost: Redis refused us.
            RedisUnavailable: nobody knows what Redis holds now; it is read before anything else.
        """
        leader, root = self._leader, self._leader.root
        snapshot = sign_snapshot(ring, root)
        proof = sign_proof(ring, snapshot, self._now(), root)
        edition = Edition(
            version=ring.version,
            epoch=self._epoch,
            snapshot=snapshot,
            proof=proof,
            put=put,
            kept=frozenset(k.kid for k in ring.keys if k.state is not KeyState.REVOKED),
            events=tuple(sign_event(told, root) for told in events),
        )
        self._check_lease()
        leader.pending = Pending(ring, snapshot, events, began)
        try:
            outcome = await self._store.publish(self._owner, expected, edition)
        except RedisUnavailable:
            leader.is_doubtful = True
            raise
        if isinstance(outcome, Fenced):
            raise LeaseLost(outcome.why)
        if isinstance(outcome, Stale):
            leader.pending = None
            return False
        self._ring, self._snapshot = ring, snapshot
        self._published_at = self._proved_at = self._clock.monotonic()
        leader.follower.take(snapshot, proof, put)
        self._tell_of_pending(snapshot)
        if outcome.untold:
            self._observer.failed(
                RedisUnavailable(
                    f"redis: the audit events of version {ring.version} could not be written "
                    f"({outcome.untold}); see what holds the events' key"
                )
            )
        return True

    def _tell_of_pending(self, there: str) -> None:
        """If what was to be published is `there`, tell of it, once (promise 12)."""
        pending, self._leader.pending = self._leader.pending, None
        if pending and pending.snapshot == there:
            took = timedelta(seconds=self._clock.monotonic() - pending.began)
            self._observer.changed(pending.ring, pending.events, took)
            asked = (told.fields.get("request") for told in pending.events)
            self._leader.fulfilled = str(next(filter(None, asked), ""))

    # --- the heartbeat ---------------------------------------------------------------------------

    def _proof_due_in(self) -> timedelta:
        if self._proved_at is None:
            return ZERO
        age = timedelta(seconds=self._clock.monotonic() - self._proved_at)
        return self._ring.policy.proof_interval - age

    async def _prove(self) -> None:
        """Sign and publish that this is still the newest version.

        Raises:
            ClocksApart: another daemon's clock may be better; ours signs if nobody's is.
        """
        self._give_way(self._ring.policy)
        asked_at = self._clock.monotonic()
        proof = sign_proof(self._ring, self._snapshot, self._now(), self._leader.root)
        version, snapshot = self._ring.version, self._snapshot
        signers = [key.kid for key in self._ring.may_sign_next]
        self._check_lease()
        outcome = await self._store.prove(self._owner, version, snapshot, proof, signers)
        if isinstance(outcome, Fenced):
            raise LeaseLost(outcome.why)
        if isinstance(outcome, Stale):
            await self._load()
            return
        self._proved_at = asked_at
        self._leader.follower.take(self._snapshot, proof, {})
        if outcome.has_witness:
            self._leader.doubt()

    def _give_way(self, policy: Policy) -> None:
        """Let another lead while our clock and Redis' differ, if there is one that can."""
        leader, now = self._leader, self._clock.monotonic()
        if abs(self._offset) <= policy.clock_skew:
            leader.gave_way_at = None
            return
        again = policy.max_staleness.total_seconds() / 4
        if leader.gave_way_at is None or now - leader.gave_way_at > again:
            leader.gave_way_at = now
            raise ClocksApart(
                f"this clock differs from Redis' by {format_duration(abs(self._offset))}, more "
                "than clock_skew; giving way to any other daemon; set both clocks right"
            )

    def _watch_propagation(self, instances: tuple[Instance, ...]) -> None:
        edition = (self._ring.epoch, self._ring.version)
        is_everywhere = all((i.epoch, i.version) >= edition for i in instances)
        if self._published_at is not None and is_everywhere:
            took = self._clock.monotonic() - self._published_at
            self._observer.propagated(timedelta(seconds=took))
            self._published_at = None

    # --- what Redis holds, and what it lost ------------------------------------------------------

    async def _load(self) -> None:
        """Take up the ring that Redis holds; heal it first where it lacks what is known.

        Raises:
            DocumentError, SealBroken, ClocksApart: it must not be led from here; nothing changed.
        """
        while not await self._is_taken_up():
            await asyncio.sleep(_RETRY_FIRST)
            self._check_lease()

    async def _is_taken_up(self) -> bool:
        """Whether the ring is ours to lead now; False if Redis changed meanwhile: look again."""
        leader, began = self._leader, self._clock.monotonic()
        name, roots = leader.follower.replica.name, leader.follower.replica.roots
        leader.is_doubtful = False
        stored = await self._store.read()
        found = found_in(Testimony(stored.snapshot, stored.proof, {}), name, roots)
        self._vouched_at = found.proved_at if found else None
        told = await self._store.testimony()
        known = self._known(found, told)
        editions = [side.history.ring for side in known] + ([found.ring] if found else [])
        kids = {key.kid for ring in editions for key in ring.keys if key.may_verify}
        there = await self._store.sealed(sorted(kids))
        now = self._now()
        diagnosis = diagnose(found, known, there, stored.version, now=now, epoch=self._epoch)
        if diagnosis is None:
            raise RingMissing(
                f"redis holds no ring {name!r}, and nobody here knows it; if it is new, run "
                "ringkeeper init; else start a daemon or an app that knew it, or restore Redis"
            )
        leader.seen_epoch = max(leader.seen_epoch, *(ring.epoch for ring in editions))
        if leader.seen_epoch > self._epoch:
            raise LeaseLost("redis counts epochs from further back; leading anew, above the ring's")
        self._wait_for_lost(diagnosis)
        self._check_seals(diagnosis, there)
        self._tell_of_pending(stored.snapshot)
        if not diagnosis.finding:
            self._ring, self._snapshot = diagnosis.ring, stored.snapshot
        else:
            self._check_clocks(diagnosis.ring.policy.clock_skew)
            ring, events = diagnosis.cure(now, self._epoch)
            if not await self._publish(ring, stored.snapshot, diagnosis.put, events, began):
                return False
        if told:
            await self._store.heard(self._owner, told)
        return True

    def _known(self, found: History | None, told: str) -> list[Evidence]:
        """What else is known of this ring: by this process first, then by who `told` it."""
        replica = self._leader.follower.replica
        known = self._leader.known()
        ring_id = check_identity(found, known)
        with suppress(DocumentError):
            testimony = Testimony.decode(told)
            witness = evidence_of(testimony, replica.name, replica.roots)
            # What was signed for a ring of before is nobody's loss.
            if ring_id in (None, witness.history.ring.id):
                known.append(self._tried(witness))
        return known

    def _tried(self, witness: Evidence) -> Evidence:
        """`witness` without sealed keys that do not open: anyone may have written them there."""
        opening: dict[str, str] = {}
        for kid, blob in witness.sealed.items():
            key = witness.history.ring.key(kid)
            with suppress(SealBroken):
                if key:
                    self._leader.kek.unseal(blob, key)
                    opening[kid] = blob
        return witness._replace(sealed=opening)

    def _wait_for_lost(self, diagnosis: Diagnosis) -> None:
        """Give others the time to show private halves that seem to be gone for good.

        Raises:
            SealBroken: they still have it.
        """
        leader, now = self._leader, self._clock.monotonic()
        if not diagnosis.lost:
            leader.bereft_since = None
            return
        if leader.bereft_since is None:
            leader.bereft_since = now
        window = diagnosis.ring.policy.liveness_window
        if now - leader.bereft_since < window.total_seconds():
            raise SealBroken(
                f"the private halves of {', '.join(sorted(diagnosis.lost))} are not in Redis; "
                f"waiting {format_duration(window)} for a daemon or a signing app that has them"
            )

    def _check_seals(self, diagnosis: Diagnosis, there: Mapping[str, str]) -> None:
        """Promise 7: who cannot open the private keys must not lead."""
        held = self._leader.follower.replica.held
        opened = held.signing if held else {}
        blobs = {**diagnosis.put, **there}
        for key in diagnosis.ring.may_sign_next:
            if key.kid not in opened and key.kid not in diagnosis.lost:
                self._leader.kek.unseal(blobs[key.kid], key)

    def _check_clocks(self, skew: timedelta) -> None:
        if abs(self._offset) > skew:
            raise ClocksApart(
                "the ring is to be healed, but this clock differs from Redis' by "
                f"{format_duration(abs(self._offset))}; set both right, and it goes on by itself"
            )

    # --- operators -------------------------------------------------------------------------------

    async def _hear_requests(self) -> None:
        """Note what operators ask for; `_turn` answers between two steps."""
        while True:
            try:
                async with self._store.requests() as stream:
                    while True:
                        asked = await stream.next()
                        self._asked += asked
                        if asked:
                            self._leader.wake.set()
            except RedisUnavailable as error:
                self._observer.failed(error)
                await asyncio.sleep(1.0)

    async def _answer_requests(self) -> None:
        for asked in self._asked[:_ANSWERS_A_TURN]:
            refusal = await self._answer(asked)
            told = None
            if refusal:
                self._observer.refused(refusal)
                told = sign_event(refusal, self._leader.root)
            self._asked.remove(asked)
            await self._store.dismiss(asked, told)

    async def _answer(self, asked: Entry) -> Event | None:
        """Do what was asked for; or the event that says why not."""
        now = self._now()
        try:
            request = open_request(asked.document, self._leader.follower.replica.roots)
        except DocumentError as error:
            # Nobody waits for an answer to what no operator signed; anyone may write such things.
            if self._has_told_of_garbage:
                return None
            self._has_told_of_garbage = True
            return event(self._ring, now, REQUEST_REFUSED, {"why": str(error)})
        if request.id == self._leader.fulfilled:
            return None
        context = {"request": request.id, "by": request.by, "reason": request.reason}
        try:
            while not await self._fulfil(request, context):
                pass
        except RequestRefused as error:
            return event(self._ring, now, REQUEST_REFUSED, {**context, "why": str(error)})
        return None

    async def _fulfil(self, request: Request, context: dict[str, str]) -> bool:
        """Whether the ring is now as asked; False if it moved on meanwhile: look again.

        Raises:
            RequestRefused: meant for another ring, version or time, or not possible.
        """
        ring, now = self._ring, self._now()
        if (request.ring_id, request.name) != (ring.id, ring.name):
            raise RequestRefused("the request is for another ring")
        if request.version != ring.version:
            raise RequestRefused(
                f"decided on version {request.version}, the ring is at {ring.version}; look again"
            )
        if now > request.until + ring.policy.clock_skew:
            raise RequestRefused(
                "it came too late: nobody has waited for it since "
                f"{request.until:%Y-%m-%d %H:%M:%S} UTC; is the clock right where it was made?"
            )
        began = self._clock.monotonic()
        if request.command is not Command.REVOKE:
            hasten = request.command is Command.ROTATE_NOW
            turned = rotate(ring, now=now, epoch=self._epoch, hasten=hasten)
            return await self._commit(turned, None, context, began)
        wanted = revocation_wants(ring, request.kid, now)
        minted = await self._leader.mint(wanted) if wanted else None
        revoked = revoke(
            ring,
            request.kid,
            reason=request.reason,
            now=self._now(),
            epoch=self._epoch,
            fresh=minted.fresh if minted else None,
        )
        return await self._commit(revoked, minted, context, began)
