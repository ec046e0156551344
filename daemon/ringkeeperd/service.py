"""One ring in a daemon: it is followed, perhaps led, and told of in log and metrics."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ringkeeper.clock import SystemClock
from ringkeeper.connection import instance_id
from ringkeeper.errors import Defect
from ringkeeper.follower import HANDING_ON, Follower
from ringkeeper.presence import Presence
from ringkeeper.refreshes import RefreshCounts, RefreshTeller
from ringkeeper.state_file import StateFile
from ringkeeper.tasks import first_of
from ringkeeper.wire import Event, policy_digest
from ringkeeperd.audit import KEY_ACTIVATED, RING_HEALED, RING_REWRAPPED
from ringkeeperd.handing_on import HandingOn
from ringkeeperd.last_events import LastEvents
from ringkeeperd.leader import ANOTHER_LEADS, Leader
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.merge import lacks
from ringkeeperd.minting import mint_aside
from ringkeeperd.refresh_series import RefreshView
from ringkeeperd.troubles import classified
from ringkeeperd.words import without_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from structlog.stdlib import BoundLogger

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.errors import RingkeeperError
    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeperd.metrics import Metrics
    from ringkeeperd.minting import Minted
    from ringkeeperd.own_secrets import Secrets
    from ringkeeperd.rotation import Instance, WaitUntil
    from ringkeeperd.shared_redis import SharedRedis
    from ringkeeperd.spikes import Spike
    from ringkeeperd.transitions import KeyWanted

_FORGOTTEN_AFTER: Final = 60.0
"""Seconds of standing by after which what kept this daemon from leading is news again."""
_BEGINS_WITHIN: Final = 1.0
"""Seconds that the first steps of a ring may keep the next one from its own."""
_LOOK_EVERY: Final = 0.05
_TOLD_MOST: Final = 8
_FORCED: Final = "activated without confirmation"
_NAMED_MOST: Final = 20
"""Instances that one log line names."""


@dataclass(slots=True)
class LeadingState:
    """What the newest turn of leading showed: for metrics and pages."""

    is_leading: bool = False
    epoch: int = 0
    trouble: str = ""
    """What keeps this daemon from leading."""
    trouble_kind: str = ""
    """Its kind (`troubles`), where an error of ours says it."""
    wait: WaitUntil | None = None
    instances: tuple[Instance, ...] = ()
    looked_at: datetime | None = None
    """When these were live."""
    refreshes: RefreshView = field(default_factory=RefreshView)
    events: LastEvents = field(default_factory=LastEvents)


class RingService:
    """One ring of one daemon."""

    def __init__(
        self,
        ring: RingConfiguration,
        configuration: Configuration,
        own: Secrets,
        clock: Clock,
        log: BoundLogger,
        metrics: Metrics,
        shared: SharedRedis | None = None,
    ) -> None:
        """Connect nothing yet; `run` does. `shared`: the connections of all rings."""
        self.name = ring.name
        self.configured = ring.policy
        self.clock = clock
        self.state = LeadingState()
        self.store = (
            shared.store(ring.name)
            if shared
            else RedisLeaderStore.configured(configuration, ring.name, clock)
        )
        instance = self.instance = instance_id()
        self._keeper = StateFile(configuration.state_dir, ring.name, "state_dir", own.roots)
        observer = self._telling = _Telling(ring.name, log, metrics, self.state, clock=clock)
        self.counts = RefreshCounts()
        """What apps tell this daemon of refreshes."""
        self._teller = RefreshTeller(
            self.counts,
            self.store,
            clock,
            random.Random(),  # noqa: S311 - for jitter alone
            observer.noticed,
        )
        self._turnstile = shared.turnstile if shared else asyncio.Semaphore()
        self.leader: Leader | None = None
        self.handing_on = HandingOn(
            ring,
            configuration,
            lambda: self.follower.replica.held,
            clock,
            log,
            observer.noticed,
            metrics,
        )
        self.follower = Follower(
            name=ring.name,
            roots=own.roots,
            store=self.store,
            clock=clock,
            random=random.Random(),  # noqa: S311 - for jitter alone
            presence=Presence(
                id=instance,
                role="daemon",
                leads_by=self._policy if own.root and own.kek else None,
            ),
            kek=own.kek,
            notice=observer.noticed,
            on_change=self.handing_on.heard,
            on_release=self._lease_is_free,
            on_doubt=self._doubt,
            keeper=self._keeper,
            loses=lacks,
            able=own.able,
            outlet=self.handing_on.files,
        )
        if own.root and own.kek:
            self.leader = Leader(
                policy=ring.policy,
                given=ring.given,
                store=self.store,
                follower=self.follower,
                root=own.root,
                kek=own.kek,
                clock=clock,
                owner=lambda: f"{instance}/{secrets.token_urlsafe(16)}",
                mint=self._mint,
                lease_ttl=configuration.lease_ttl,
                observer=observer,
                counts=self.store,
                turnstile=self._turnstile,
            )

    async def run(self) -> None:
        """Follow, and lead where that may be, until cancelled."""
        try:
            async with AsyncExitStack() as turn:
                await turn.enter_async_context(self._turnstile)
                await self.follower.recall()  # before anything is led, or healed
                following = [self.follower.run(), self._teller.run(), *self.handing_on.work()]
                await first_of(self._lead_in_turn(turn), *following)
        finally:
            self.state.is_leading = False
            await self.store.close()

    async def _lead_in_turn(self, turn: AsyncExitStack) -> None:
        """End this ring's `turn` to begin once it is loaded, or is seen not to be; then lead."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _BEGINS_WITHIN
        while loop.time() < until and not self.follower.troubles:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self.follower.ready.wait()
                    break
        await turn.aclose()
        if self.leader:
            await self.leader.run()
        await asyncio.Event().wait()

    async def change_secrets(self, own: Secrets) -> None:
        """From now on hold these; whether this daemon may lead does not change while it runs."""
        self._keeper.roots = own.roots
        self._telling.told.clear()
        await self.follower.change_secrets(own.roots, own.kek, own.able)
        if self.leader and own.root and own.kek:
            self.leader.change_secrets(own.root, own.kek)

    async def _mint(self, wanted: KeyWanted, kek: Kek) -> Minted:
        return await mint_aside(wanted, kek, self.leader.progress if self.leader else None)

    def _policy(self) -> Policy:
        """What the files of this daemon say."""
        return self.leader.policy if self.leader else self.configured

    def drift(self) -> int:
        """How many live daemons have files that say something else of the policy."""
        mine = policy_digest(self._policy())
        return sum(i.may_lead and i.policy not in ("", mine) for i in self.state.instances)

    def _doubt(self) -> None:
        if self.leader:
            self.leader.doubt()

    def _lease_is_free(self) -> None:
        if self.leader and not self.state.is_leading:
            self.leader.wake.set()


@dataclass(slots=True)
class _Telling:
    """One log line and one movement of a metric for each thing that happens."""

    ring: str
    log: BoundLogger
    metrics: Metrics
    state: LeadingState
    failing: str = field(default="")
    is_standing_by: bool = field(default=False)
    clock: Clock = field(default_factory=SystemClock)
    told: set[str] = field(default_factory=set)
    """What was said to keep this daemon from leading, less its numbers: each is told once, though
    daemons that cannot lead stand by for one another between two attempts."""
    _kept_from_leading_at: float = field(default=0.0)

    def noticed(self, event: str, /, **fields: object) -> None:
        """What the follower has to tell."""
        if "troubled" in event:
            if fields.get("doing", HANDING_ON) != HANDING_ON:  # that needs no Redis
                self.metrics.redis_errors.labels(self.ring, str(fields["doing"])).inc()
            self.log.warning(event, **{"ring": self.ring, **fields})
        else:
            self.log.info(event, **{"ring": self.ring, **fields})

    def leading(self, epoch: int) -> None:
        self._is_free_of_trouble()
        self.state.is_leading, self.state.epoch = True, epoch
        self.state.refreshes = RefreshView()
        self.is_standing_by = False
        self.metrics.transitions.labels(self.ring).inc()
        self.log.info("leading", ring=self.ring, epoch=epoch)

    def not_leading(self, why: str) -> None:
        if why == ANOTHER_LEADS:
            # What kept us from leading may keep that one, too: then it is told once, not each time.
            self.failing = ""
            self._is_not_kept()
            if not self.is_standing_by and not self.state.is_leading:
                self.log.info("standing by", ring=self.ring, why=why)
            if self.clock.monotonic() - self._kept_from_leading_at > _FORGOTTEN_AFTER:
                self.told.clear()  # that other one does lead
        elif self.state.is_leading:
            self._is_free_of_trouble()
            self.log.info("not leading any more", ring=self.ring, why=why)
        else:
            self._is_failing(why)
            self.state.trouble, self.state.trouble_kind = why, ""
        self.is_standing_by = why == ANOTHER_LEADS
        self.state.is_leading, self.state.wait = False, None
        self.state.refreshes = RefreshView()

    def cannot_lead(self, error: RingkeeperError) -> None:
        if self._is_news(error):
            self.log.error("cannot lead", ring=self.ring, error=str(error))
        self._is_kept_from_leading(error)

    def broken(self, error: Exception) -> None:
        defect = Defect.of(error)
        if self._is_news(defect):
            self.log.error("cannot lead", ring=self.ring, error=str(defect), exc_info=error)
        self._is_kept_from_leading(defect)

    def _is_news(self, error: RingkeeperError) -> bool:
        """Whether this was not told yet. What a writer in Redis can word anew is told so often."""
        said = f"{type(error).__name__}: {without_numbers(str(error))}"
        is_news = said not in self.told and len(self.told) < _TOLD_MOST
        if is_news:
            self.told.add(said)
        return is_news

    def _is_kept_from_leading(self, error: RingkeeperError) -> None:
        self.failing, self._kept_from_leading_at = "", self.clock.monotonic()
        self.state.is_leading, self.state.wait = False, None
        self.state.trouble, self.state.trouble_kind = str(error), classified(error).kind

    def _is_free_of_trouble(self) -> None:
        self.told.clear()
        self.failing = ""
        self._is_not_kept()

    def _is_not_kept(self) -> None:
        self.state.trouble = self.state.trouble_kind = ""

    def recalled(self, events: Iterable[Event]) -> None:
        if not self.state.is_leading:
            self.state.events.forget()
        self.state.events.recall(events)

    def changed(self, ring: Ring, told: tuple[Event, ...], took: timedelta) -> None:
        self.failing = ""
        self.state.events.note(*told)
        self.metrics.rotation_duration.labels(self.ring).observe(took.total_seconds())
        for event in told:
            self.log.info(event.event, ring=self.ring, version=ring.version, **event.fields)
            if event.event == KEY_ACTIVATED and event.fields["rotation"] != "first":
                self.metrics.rotations.labels(self.ring, event.fields["rotation"]).inc()
            elif event.event == RING_HEALED:
                self.metrics.heals.labels(self.ring).inc()
            elif event.event == RING_REWRAPPED:
                self.metrics.rewraps.labels(self.ring).inc()

    def forced(self, kid: str, instances: tuple[str, ...]) -> None:
        self.metrics.forced.labels(self.ring).inc()
        named = _some_of(instances)
        self.log.warning(_FORCED, ring=self.ring, kid=kid, instances=named)
        fields = {"kid": kid, "instances": ", ".join(named)}
        at, epoch = self.clock.now(), self.state.epoch
        self.state.events.note(Event("", self.ring, 0, epoch, at, _FORCED, fields))

    def refused(self, told: Event) -> None:
        self.state.events.note(told)
        self.log.warning(told.event, ring=self.ring, **told.fields)

    def waiting(self, wait: WaitUntil, instances: tuple[Instance, ...]) -> None:
        if wait.why and (self.state.wait is None or self.state.wait.why != wait.why):
            self.log.info("waiting", ring=self.ring, why=wait.why, awaiting=_some_of(wait.awaiting))
            if "clock" in wait.why:
                self.metrics.rotation_failures.labels(self.ring, "clock").inc()
        self.state.wait, self.state.instances = wait, instances
        self.state.looked_at = self.clock.now()

    def propagated(self, took: timedelta) -> None:
        self.metrics.propagation.labels(self.ring).observe(took.total_seconds())

    def refreshed(self, news: Mapping[str, int], view: RefreshView) -> None:
        for reason, count in news.items():
            self.metrics.session_refreshes.labels(self.ring, reason).inc(count)
        self.state.refreshes = view

    def spiked(self, told: Event, spike: Spike) -> None:
        self.state.events.note(told)
        if spike.is_over:
            self.log.info(told.event, ring=self.ring, **told.fields)
        else:
            self.metrics.refresh_spikes.labels(self.ring, spike.cause.value).inc()
            self.log.warning(told.event, ring=self.ring, **told.fields)

    def unwatched(self, error: Exception) -> None:
        defect = Defect.of(error)
        if self._is_news(defect):
            self.log.error("refreshes unwatched", ring=self.ring, error=str(defect), exc_info=error)

    def contradicted(self, why: str) -> None:
        self.log.warning("files do not count", ring=self.ring, why=why)

    def failed(self, error: RingkeeperError) -> None:
        self.metrics.rotation_failures.labels(self.ring, "redis").inc()
        self._is_failing(str(error))

    def _is_failing(self, why: str) -> None:
        if not self.failing:
            self.metrics.redis_errors.labels(self.ring, "leading").inc()
            self.log.warning("leading is troubled", ring=self.ring, error=why)
        self.failing = why


def _some_of(names: Sequence[str]) -> list[str]:
    """The first of `names`, and how many more there are: anyone may write to their table."""
    more = len(names) - _NAMED_MOST
    return [*names[:_NAMED_MOST], *([f"and {more} more"] if more > 0 else [])]
