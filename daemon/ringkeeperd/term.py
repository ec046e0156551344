"""One leadership: the lease, the keys' turns, the heartbeat. `rotation` decides what to do.

Nothing here remembers a half-done change. Whatever fails, the ring is read again and `next_step`
is asked again: a version that could not be written in time is not written late, with times that
are long past.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.clock import ZERO
from ringkeeper.durations import format_duration
from ringkeeper.errors import ClocksApart, ConfigurationError, RedisUnavailable
from ringkeeper.ring import KeyState
from ringkeeper.tasks import first_of
from ringkeeper.wire import sign_event, sign_proof, sign_snapshot
from ringkeeperd.audit import events_between, numbered
from ringkeeperd.leader_store import Edition, Fenced, HandedOver, LeaseLost, Stale, Written, untold
from ringkeeperd.loading import Loading
from ringkeeperd.minting import WORK_WITHIN
from ringkeeperd.refresh_watch import RefreshWatch
from ringkeeperd.requests import Requests
from ringkeeperd.rotation import (
    Activate,
    Confirmations,
    WaitUntil,
    apply,
    next_step,
    put_off,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeper.trust import TrustRoot
    from ringkeeper.wire import Event
    from ringkeeperd.leader import Leader
    from ringkeeperd.leader_store import Acquired, Entry
    from ringkeeperd.minting import Minted
    from ringkeeperd.rotation import Change, Instance
    from ringkeeperd.transitions import KeyWanted

_RETRY_AFTER: Final = 0.2
_LOOK_AGAIN: Final = timedelta(seconds=1)
"""How often the table of instances is read while somebody is waited for."""
_LONGEST_SLEEP: Final = timedelta(seconds=60)
"""The wall clock may be stepped while we sleep: look at it at least this often."""


class Pending(NamedTuple):
    """A publication whose reply was lost: it may have been made, and must then be told of."""

    ring: Ring
    snapshot: str
    events: tuple[Event, ...]
    began: float


class Term:
    """One leadership: from taking the lease to losing it or letting it go."""

    def __init__(self, leader: Leader, owner: str, acquired: Acquired, asked_at: float) -> None:
        self.leader = leader
        self.store = leader.store
        self.clock = leader.clock
        self.observer = leader.observer
        self.owner = owner
        self.epoch = acquired.epoch
        self._deadline = 0.0
        self._redis_was = acquired.redis_now
        """What Redis' clock showed when it was last seen, and our own that nobody steps then."""
        self._redis_was_at = asked_at
        self._is_ours_from(asked_at, acquired.redis_now)
        self._trusted_from: datetime | None = None
        self.sealed: dict[str, str] = {}
        """The sealed private keys in Redis, as they were when they were last judged or written."""
        self.root = leader.root
        """The root that signs this ring, first in its file or not."""
        self._loading = Loading(self)
        self._requests = Requests(self)
        self._refreshes = RefreshWatch(self, leader.counts)
        self._proved_at: float | None = None
        self.vouched_at: datetime | None = None
        """When the newest proof that Redis held was signed."""
        self._contradiction = ""
        """Why the files do not count, as it was told last."""
        self._published_at: float | None = None
        """When the newest version went out, while it is not confirmed by all."""
        self._heard_wider: tuple[timedelta, float] = (ZERO, 0.0)
        """The longer liveness window that was in force until lately, and how long it counts on."""

    async def take_up(self) -> None:
        """Hold the ring, healed where it has to be; raises as `Loading.load`."""
        await self._loading.load()

    async def serve(self) -> None:
        """Lead what was taken up: until cancelled, or an error says why not."""
        self.check_lease()
        self.observer.leading(self.epoch)
        await first_of(
            self._keep_lease(), self._requests.hear(), self._refreshes.watch(), self._turn()
        )

    # --- the lease -------------------------------------------------------------------------------

    def _is_ours_from(self, asked_at: float, redis_now: datetime) -> None:
        """Note how long the lease is good for, and what Redis' clock shows."""
        self._deadline = asked_at + self.leader.ttl.total_seconds() * 2 / 3
        self._redis_was = redis_now
        self._redis_was_at = (asked_at + self.clock.monotonic()) / 2

    @property
    def offset(self) -> timedelta:
        """How far Redis' clock is ahead of ours at this moment, even if ours was just stepped."""
        since = timedelta(seconds=self.clock.monotonic() - self._redis_was_at)
        return self._redis_was + since - self.clock.now()

    def now(self) -> datetime:
        """The time to write down.

        Where the two clocks differ by more than the skew, nobody knows which one is right, and
        some things must be written all the same: proofs, an operator's emergency. Then it is the
        earlier of the two (what lies in the future would bind everybody until then), yet not
        before the newest proof.
        """
        ours, offset = self.clock.now(), self.offset
        if abs(offset) <= self.leader.policy.clock_skew:
            return ours
        held = self.leader.follower.replica.held
        earlier = min(ours, ours + offset)
        earlier -= timedelta(microseconds=earlier.microsecond % 1000)
        # A follower whose clock is behind does not believe the newest proof, and Redis holds it.
        newest = filter(None, (held.proof_at if held else None, self.vouched_at))
        return max([earlier, *newest])

    def check_lease(self) -> None:
        """Go on only while the lease is ours; else raises `LeaseLost`."""
        if self.clock.monotonic() >= self._deadline:
            raise LeaseLost("the lease could not be renewed in time")

    async def _keep_lease(self) -> None:
        every = self.leader.ttl.total_seconds() / 3
        while True:
            await asyncio.sleep(every)
            while not await self._is_renewed():
                await asyncio.sleep(min(_RETRY_AFTER, every / 4))

    async def _is_renewed(self) -> bool:
        self.check_lease()
        asked_at = self.clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline - asked_at):
                redis_now = await self.store.renew(self.owner, self.leader.ttl)
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
            self.leader.progress.back_within(WORK_WITHIN)
            self.check_lease()
            try:
                if self.leader.is_doubtful:
                    await self._loading.load()
                if self._proof_due_in() <= ZERO:
                    await self._prove()
                await self._requests.answer()
                await self._refreshes.tell()
                await self._step()
            except RedisUnavailable as error:
                self.observer.failed(error)
                await asyncio.sleep(_RETRY_AFTER)

    async def _step(self) -> None:
        instances = await self.instances()
        confirmed = Confirmations(instances, self.trusts_from())
        step = next_step(
            self.ring,
            self._policy(),
            confirmed,
            self.now(),
            clock_offset=self.offset,
        )
        if not isinstance(step, WaitUntil):
            await self._take(step)
            return
        self._watch_propagation(instances)
        self.observer.waiting(step, instances)
        if self.leader.is_to_hand_over and self._is_quiet(step):
            raise HandedOver("handed over: this daemon leads more rings than its share")
        await self.leader.rest(self._sleep_for(step))

    def _policy(self) -> Policy:
        """What to lead by: what the files say, but for the ring's own settings."""
        try:
            policy = self.policy_under(self.ring.overrides)
        except ConfigurationError as error:
            told = (
                f"ring {self.ring.name} goes on as it is, for settings of its own contradict this "
                f"daemon's files: {error.problems[0]} (or ringkeeper set --unset)"
            )
            if told != self._contradiction:
                self.observer.contradicted(told)
            self._contradiction = told
            return self.ring.policy
        self._contradiction = ""
        return policy

    def policy_under(self, overrides: Iterable[tuple[str, str]]) -> Policy:
        """What comes of these settings; raises ConfigurationError where it cannot be led here."""
        policy = self.leader.rules.under(overrides)
        if problem := policy.lease_problem(self.leader.ttl, self.ring.name):
            raise ConfigurationError([problem])
        return policy

    def _is_quiet(self, wait: WaitUntil) -> bool:
        """Whether another can take over from here, and be ready for what comes next."""
        begins = self.ring.policy.liveness_window + 2 * self.leader.ttl
        is_busy = wait.awaiting or self._requests.asked or self._published_at is not None
        return not is_busy and not self.leader.is_doubtful and wait.when - self.now() > begins

    async def instances(self) -> tuple[Instance, ...]:
        """Who is live, by the table; one that was lost is not trusted before `trusts_from`."""
        window = self.ring.policy.liveness_window
        former, counts_until = self._heard_wider
        if self.clock.monotonic() < counts_until:
            window = max(window, former)  # who is asked to come oftener has yet to hear of it
        instances, is_whole = await self.store.roll_call(self.owner, window)
        if not is_whole:
            self._trusted_from = None
        return instances

    def trusts_from(self) -> datetime:
        """The table of instances is trusted one liveness window after the term, or it, began."""
        if self._trusted_from is None:
            self._trusted_from = self.now() + self.ring.policy.liveness_window
        return self._trusted_from

    @property
    def usual_refreshes(self) -> float | None:
        """Session refreshes a second, as usual; None while too little is known."""
        return self._refreshes.view.baseline

    def _sleep_for(self, wait: WaitUntil) -> timedelta:
        waits = [wait.when - self.now(), self._proof_due_in(), _LONGEST_SLEEP]
        if self._requests.asked:
            waits.append(ZERO)
        if wait.awaiting:
            waits.append(_LOOK_AGAIN)
        if self._published_at is not None:
            waits.append(_LOOK_AGAIN / 4)
        return min(waits)

    async def mint(self, wanted: KeyWanted) -> Minted:
        """A fresh key pair, sealed by the KEK that the ring is sealed by."""
        return await self.leader.mint(wanted, self.leader.kek.using(self.ring.kek))

    async def _take(self, step: Change) -> None:
        began = self.clock.monotonic()
        minted = await self.mint(step.wants) if step.wants else None
        ring = apply(
            self.ring,
            step,
            now=self.now(),
            epoch=self.epoch,
            fresh=minted.fresh if minted else None,
        )
        is_done = await self.commit(ring, minted.put if minted else {}, {}, began)
        if is_done and isinstance(step, Activate) and step.forced:
            self.observer.forced(step.kid, step.forced)

    # --- publishing ------------------------------------------------------------------------------

    async def commit(
        self,
        ring: Ring,
        put: Mapping[str, str],
        context: Mapping[str, str | int | float | bool],
        began: float,
    ) -> bool:
        """Publish `ring` in place of the one decided on; whether that is now the truth.

        `context` (who asked, why) goes with the event of each change.
        """
        apart = abs(self.offset)
        if apart > ring.policy.clock_skew:
            # An emergency. What is written down is the earlier time (`now`): by the later one a
            # fresh key would sign too soon. A cryptoperiod at most, for a clock may be absurd.
            whole = timedelta(milliseconds=apart // timedelta(milliseconds=1) + 1)
            ring = put_off(ring, min(whole, ring.policy.cryptoperiod))
        events = events_between(self.ring, ring, self.now(), context)
        return await self.replace(ring, put, events, began)

    async def replace(
        self,
        ring: Ring,
        put: Mapping[str, str],
        events: tuple[Event, ...],
        began: float,
        *,
        by: TrustRoot | None = None,
    ) -> bool:
        """As `commit`, telling `events`, and signed `by` another root from now on."""
        former = self.ring.policy.liveness_window
        if ring.policy.liveness_window < former:
            self._heard_wider = (former, self.clock.monotonic() + former.total_seconds())
        if not await self.publish(ring, self.snapshot, put, events, began, by=by):
            await self._loading.load()
            return False
        return True

    async def publish(
        self,
        ring: Ring,
        expected: str,
        put: Mapping[str, str],
        events: tuple[Event, ...],
        began: float,
        *,
        by: TrustRoot | None = None,
    ) -> bool:
        """Write `ring` over the snapshot `expected`; False if Redis holds something else.

        Raises:
            LeaseLost: Redis refused us.
            RedisUnavailable: nobody knows what Redis holds now; it is read before anything else.
        """
        leader, root = self.leader, by or self.root
        snapshot = sign_snapshot(ring, root)
        told = numbered(events, after=leader.told)
        proof = sign_proof(ring, snapshot, self.now(), root, events=leader.told + len(told))
        edition = Edition(
            version=ring.version,
            epoch=self.epoch,
            snapshot=snapshot,
            proof=proof,
            put=put,
            kept=frozenset(k.kid for k in ring.keys if k.state is not KeyState.REVOKED),
            events=tuple(sign_event(each, root) for each in told),
        )
        self.check_lease()
        leader.pending = Pending(ring, snapshot, told, began)
        try:
            outcome = await self.store.publish(self.owner, expected, edition)
        except RedisUnavailable:
            leader.is_doubtful = True
            raise
        if isinstance(outcome, Fenced):
            raise LeaseLost(outcome.why)
        if isinstance(outcome, Stale):
            leader.pending = None
            return False
        self.ring, self.snapshot, self.root = ring, snapshot, root
        self.sealed |= put
        self._published_at = self._proved_at = self.clock.monotonic()
        leader.follower.take(snapshot, proof, put)
        self.tell_of_pending(snapshot)
        if outcome.untold:
            self.observer.failed(untold(ring.name, outcome))
        return True

    async def tell(self, told: Event | None, answering: Entry | None = None) -> bool:
        """Write into the audit what no publication tells, and take a request off the stream.

        False if the audit takes no event.

        Raises:
            LeaseLost: Redis refused us.
            RedisUnavailable: nobody knows whether its number was used; it is counted anew.
        """
        document = sign_event(told, self.root) if told else ""
        try:
            outcome = await self.store.tell(self.owner, document, answering)
        except RedisUnavailable:
            self.leader.is_doubtful = True
            raise
        if not isinstance(outcome, Written):
            raise LeaseLost("the lease ended while the audit was told")
        if outcome.untold:
            self.observer.failed(untold(self.ring.name, outcome))
            return False
        if told:
            self.leader.told = told.number
        return True

    def tell_of_pending(self, there: str) -> None:
        """If what was to be published is `there`, tell of it, once (promise 12)."""
        pending, self.leader.pending = self.leader.pending, None
        if pending and pending.snapshot == there:
            self.leader.told = max(self.leader.told, *(told.number for told in pending.events), 0)
            took = timedelta(seconds=self.clock.monotonic() - pending.began)
            self.observer.changed(pending.ring, pending.events, took)
            asked = (told.fields.get("request") for told in pending.events)
            self.leader.fulfilled = str(next(filter(None, asked), ""))
            self._refreshes.note(pending.events)

    # --- the heartbeat ---------------------------------------------------------------------------

    def _proof_due_in(self) -> timedelta:
        if self._proved_at is None:
            return ZERO
        age = timedelta(seconds=self.clock.monotonic() - self._proved_at)
        return self.ring.policy.proof_interval - age

    async def _prove(self) -> None:
        """Sign and publish that this is still the newest version.

        Raises:
            ClocksApart: another daemon's clock may be better; ours signs if nobody's is.
        """
        self._give_way(self.ring.policy)
        asked_at = self.clock.monotonic()
        proof = self._signed_proof()
        version, snapshot = self.ring.version, self.snapshot
        sealed = {key.kid: self.sealed.get(key.kid, "") for key in self.ring.may_sign_next}
        self.check_lease()
        outcome = await self.store.prove(self.owner, version, snapshot, proof, sealed)
        if isinstance(outcome, Fenced):
            raise LeaseLost(outcome.why)
        if isinstance(outcome, Stale):
            await self._loading.load()
            return
        self._proved_at = asked_at
        self.leader.follower.take(self.snapshot, proof, {})
        if outcome.has_witness:
            self.leader.doubt()

    def _signed_proof(self) -> str:
        told = self.leader.told
        return sign_proof(self.ring, self.snapshot, self.now(), self.root, events=told)

    def _give_way(self, policy: Policy) -> None:
        """Let another lead while our clock and Redis' differ, if there is one that can."""
        leader, now = self.leader, self.clock.monotonic()
        if abs(self.offset) <= policy.clock_skew:
            leader.gave_way_at = None
            return
        again = policy.max_staleness.total_seconds() / 4
        if leader.gave_way_at is None or now - leader.gave_way_at > again:
            leader.gave_way_at = now
            raise ClocksApart(
                f"this clock differs from Redis' by {format_duration(abs(self.offset))}, more "
                "than clock_skew; giving way to any other daemon; set both clocks right"
            )

    def _watch_propagation(self, instances: tuple[Instance, ...]) -> None:
        edition = (self.ring.epoch, self.ring.version)
        is_everywhere = all((i.epoch, i.version) >= edition for i in instances)
        if self._published_at is not None and is_everywhere:
            took = self.clock.monotonic() - self._published_at
            self.observer.propagated(timedelta(seconds=took))
            self._published_at = None
