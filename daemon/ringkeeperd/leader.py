"""Leads a ring while the lease lasts. Promises 3, 6 and 7 live here; `rotation` decides what to do.

What is *not* guaranteed: that one leader acts at a time. A paused or cut-off leader may still
believe in its lease. It is harmless: every write is one script in Redis that checks owner, epoch
and version, so a stale leader's write is refused there. The lease only spares the others the work.

The lease's rules are client-go's: its deadline is counted from before the request was sent, by a
clock that nobody steps, and leading stops at two thirds of the TTL, before anyone else may begin.

Here it is tried for; what is done with it is `term`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from ringkeeper.errors import (
    ClocksApart,
    DocumentError,
    ForgedDocument,
    RedisUnavailable,
    RingkeeperError,
    SecretError,
)
from ringkeeper.progress import Progress
from ringkeeperd.healing import evidence_of
from ringkeeperd.leader_store import Acquired, HandedOver, LeaseLost
from ringkeeperd.minting import WORK_WITHIN
from ringkeeperd.overrides import Rules
from ringkeeperd.term import Term

if TYPE_CHECKING:
    from ringkeeper.clock import Clock
    from ringkeeper.follower import Follower
    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import TrustRoot
    from ringkeeper.wire import Event
    from ringkeeperd.healing import Evidence
    from ringkeeperd.leader_store import LeaderStore
    from ringkeeperd.minting import Minted
    from ringkeeperd.refresh_series import RefreshView
    from ringkeeperd.refresh_watch import CountStore
    from ringkeeperd.rotation import Instance, WaitUntil
    from ringkeeperd.spikes import Spike
    from ringkeeperd.term import Pending
    from ringkeeperd.transitions import KeyWanted

Mint = Callable[["KeyWanted", "Kek"], Awaitable["Minted"]]

ANOTHER_LEADS = "another daemon leads"
_RETRY_FIRST = 0.2
_RETRY_MOST = 3.0
_LEASE_MARGIN = timedelta(milliseconds=50)
_HAND_OVER_WITHIN = 15.0
"""Seconds after which a ring that was busy all the time is kept."""


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

    def recalled(self, events: Iterable[Event]) -> None:
        """The newest that the audit of the ring tells of; numbers may come again."""

    def changed(self, ring: Ring, told: tuple[Event, ...], took: timedelta) -> None:
        """A new version is published."""

    def forced(self, kid: str, instances: tuple[str, ...]) -> None:
        """A key was activated although these never confirmed it."""

    def refused(self, told: Event) -> None:
        """An operator's request was refused."""

    def waiting(self, wait: WaitUntil, instances: tuple[Instance, ...]) -> None:
        """Nothing to do for now."""

    def contradicted(self, why: str) -> None:
        """What files say does not count."""

    def propagated(self, took: timedelta) -> None:
        """Every live instance has confirmed the newest version."""

    def failed(self, error: RingkeeperError) -> None:
        """A change could not be made; it will be tried again."""

    def refreshed(self, news: Mapping[str, int], view: RefreshView) -> None:
        """Sessions were refreshed: by reason, since this was told last."""

    def spiked(self, told: Event, spike: Spike) -> None:
        """There are too many refreshes, or there were until now."""

    def unwatched(self, error: Exception) -> None:
        """Refreshes could not be watched for a reason that nobody thought of."""


class Leader:
    """One daemon's part in leading one ring: tries for the lease, and leads while it has it."""

    def __init__(  # noqa: PLR0913 - everything that is not pure is handed in
        self,
        *,
        policy: Policy,
        given: Mapping[str, Any] | None = None,
        store: LeaderStore,
        follower: Follower,
        root: TrustRoot,
        kek: Kek,
        clock: Clock,
        owner: Callable[[], str],
        mint: Mint,
        lease_ttl: timedelta,
        observer: Observer,
        counts: CountStore | None = None,
        turnstile: asyncio.Semaphore | None = None,
    ) -> None:
        """Lead the ring that `follower` follows, by `policy`, of which files say `given`.

        `root` and `kek`: what may be used; the ring says what is. `owner` makes a random token for
        each term; `mint` makes a key pair and seals it. `counts`: where apps count session
        refreshes, to watch over them. `turnstile` lets a few of many rings take the lease, and up
        what they find, at a time: if all did it at once, none could renew its lease in time.
        """
        self.rules = Rules.of(policy, given)
        self.store = store
        self.follower = follower
        self.root = root
        self.kek = kek
        self.clock = clock
        self.mint = mint
        self.ttl = lease_ttl
        self.observer = observer
        self.counts = counts
        self.wake = asyncio.Event()
        """Set when there may be something to do sooner than thought."""
        self.progress = Progress()
        """Whether it still leads, or tries to, with or without success."""
        self.is_doubtful = False
        """Whether Redis may lack something that is known."""
        self.bereft_since: float | None = None
        """Since when the private half of a key that may sign has been nowhere to be found."""
        self.gave_way_at: float | None = None
        """When the lease was last let go because our clock and Redis' differ."""
        self.seen_epoch = 0
        """The highest epoch that was found in Redis, or with a witness."""
        self.pending: Pending | None = None
        self.told = 0
        """The number of the newest audit event."""
        self.rootless_since: float | None = None
        """Since when the ring has been signed by a root whose private half is not here."""
        self.fulfilled = ""
        """The operator's request that was found to be done after its reply had been lost."""
        self._owner = owner
        self._turnstile = turnstile or asyncio.Semaphore()
        self.hesitation: Callable[[], float] = float
        """Seconds that others are let go first where the lease may be free."""
        self.led_since: float | None = None
        """Since when this term lasts; None where another leads."""
        self.handed_over_at: float | None = None
        """When the ring was last left to others who lead less."""
        self._to_hand_over_until = 0.0

    @property
    def policy(self) -> Policy:
        """What the files of this daemon say."""
        return self.rules.policy

    def change_policy(self, policy: Policy, given: Mapping[str, Any] | None = None) -> None:
        """From now on lead by `policy`, of which files say `given`."""
        self.rules = Rules.of(policy, given)
        self.wake.set()

    def change_secrets(self, root: TrustRoot, kek: Kek) -> None:
        """From now on these may be used."""
        self.root, self.kek = root, kek
        self.doubt()

    def hand_over(self) -> None:
        """Leave the ring to others, as soon as nothing is on its way; if not soon, not at all."""
        self._to_hand_over_until = self.clock.monotonic() + _HAND_OVER_WITHIN
        self.wake.set()

    @property
    def is_to_hand_over(self) -> bool:
        """Whether the ring is to be left to others."""
        return self.clock.monotonic() < self._to_hand_over_until

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
                self.led_since = self.clock.monotonic()
                try:
                    await term.serve()
                finally:
                    self.led_since = None
                    await self._release(owner)
            except HandedOver as change:
                self.observer.not_leading(str(change))
                await self._abstain()
                pause = _RETRY_FIRST
            except (LeaseLost, RedisUnavailable) as error:
                self.observer.not_leading(str(error))
                pause = _RETRY_FIRST if isinstance(error, LeaseLost) else pause
            except (DocumentError, SecretError, ClocksApart) as error:
                # Promise 7: what cannot be read is not overwritten. Another daemon may read it.
                self.observer.cannot_lead(error)
                pause = _RETRY_MOST
            except Exception as error:  # noqa: BLE001 - a defect of ours must not end the serving
                self.observer.broken(error)
                pause = _RETRY_MOST
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_MOST)

    async def _campaign(self, owner: str) -> Term:
        """A term as leader, its ring taken up, once nobody else has the lease."""
        while True:
            if seconds := self.hesitation():
                await self.rest(timedelta(seconds=seconds), wakes=False)
            self.progress.back_some_time()
            async with self._turnstile:
                self.progress.back_within(WORK_WITHIN)
                asked_at = self.clock.monotonic()
                self.wake.clear()
                answer = await self.store.acquire(owner, self.ttl, self._seen_epoch())
                if isinstance(answer, Acquired):
                    return await self._taken_up(Term(self, owner, answer, asked_at))
            self.observer.not_leading(ANOTHER_LEADS)
            await self.rest(min(answer.remaining + _LEASE_MARGIN, self.ttl))

    async def _taken_up(self, term: Term) -> Term:
        try:
            await term.take_up()
        except BaseException:
            await self._release(term.owner)
            raise
        return term

    def _seen_epoch(self) -> int:
        """The highest epoch that this process knows of."""
        return max(self.seen_epoch, *(side.history.ring.epoch for side in self.known()), 0)

    def known(self) -> list[Evidence]:
        """What this process can show of the ring."""
        replica = self.follower.replica
        shown = self.follower.testimonies()
        known: list[Evidence] = []
        for each in shown:
            # What a root signed that is not trusted any more is no evidence.
            with suppress(ForgedDocument):
                known.append(evidence_of(each, replica.name, replica.roots))
        return known

    async def _release(self, owner: str) -> None:
        with suppress(RedisUnavailable, TimeoutError):
            # Not for long: while this waits, nobody is told that we lead no more.
            async with asyncio.timeout(min(1.0, self.ttl.total_seconds() / 6)):
                await self.store.release(owner)

    async def _abstain(self) -> None:
        """Let others take what was left to them; if nobody does, it is taken back."""
        self.handed_over_at, self._to_hand_over_until = self.clock.monotonic(), 0.0
        await self.rest(self.ttl / 2 + _LEASE_MARGIN, wakes=False)

    async def rest(self, duration: timedelta, *, wakes: bool = True) -> None:
        """Sleep for `duration`, or until there may be something to do."""
        seconds = max(0.0, duration.total_seconds())
        self.progress.back_within(seconds + WORK_WITHIN)
        if not wakes:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        self.wake.clear()
