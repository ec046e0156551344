"""Keeps a replica live. Promises 6, 9 and 10 live here.

The truth is the hash; messages are hints that spare a read. So a message is applied at once, and
its loss is normal: the hash is read on every (re)subscription, when a proof speaks of a version
not seen, on a jittered poll, and once for an unknown kid. Whatever fails, what is held stays.

After each new version a signing app opens, unhurriedly, the private halves it lacks, which came
with it (what did not come is read), and then the version is confirmed: from then on this instance
can use every key in it.

Redis may lose what it acknowledged. Who sees it go back, or empty, keeps what it holds and shows
it as a witness, so that a leader can put it back. What is held outlives the process in a file.

Clock, store, file and randomness are handed in, so this runs unchanged in the simulator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from ringkeeper.durations import format_duration
from ringkeeper.errors import (
    Defect,
    DocumentError,
    FilesUnusable,
    InfrastructureError,
    RedisUnavailable,
    RingkeeperError,
    RingMissing,
    RolledBack,
    SealBroken,
    SecretError,
    StaleRing,
    WrongRing,
)
from ringkeeper.kept import Kept
from ringkeeper.policy import CAPACITY
from ringkeeper.private_halves import fetch
from ringkeeper.progress import Progress
from ringkeeper.replica import Replica
from ringkeeper.shared_read import SharedRead
from ringkeeper.store import Pong, Published, Released, Sealed, Subscribed, Witnessed
from ringkeeper.tasks import aside, first_of
from ringkeeper.troubles import Troubles
from ringkeeper.witness import Loses, Witness

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from random import Random

    from ringkeeper.clock import Clock
    from ringkeeper.kept import Keeper
    from ringkeeper.notices import Notice
    from ringkeeper.presence import Presence
    from ringkeeper.replica import Held
    from ringkeeper.sealing import Kek
    from ringkeeper.secret_files import Holdings
    from ringkeeper.store import Heard, Store, Stored, Subscription
    from ringkeeper.testimony import Testimony
    from ringkeeper.trust import PinnedRoots

PING_EVERY: Final = 10.0
PONG_WITHIN: Final = 2.0
"""Seconds: together they bound how long a cut connection goes unnoticed."""
_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MOST: Final = 3.0
"""Seconds between two attempts, give or take a fifth: so soon after its return Redis is used."""
_FIRST_POLL: Final = 1.0
_POLL_WITHIN: Final = 60.0
"""Seconds that a poll takes at the very most: two reads, one after the other, of a Redis that is
looked for anew and gives no answer, on a host that has no time for us."""
_OPENS_WITHIN: Final = 0.002
"""Seconds, as a rule, after which it is looked again whether a private half is open."""
_SEEK_WITHIN: Final = 1.0
_SEEK_SPACING: Final = 0.25
_UNKNOWN_MOST: Final = 1024
_UNHURRIED_MOST: Final = 1.0
_DOUBT_MOST: Final = 10.0
"""Seconds between two attempts of a witness: where nobody leads, a whole fleet goes on trying."""
_RECALL_AFTER: Final = 1.0
"""Seconds that Redis has to answer before a start falls back on what was kept."""
_LOOK_EVERY: Final = 5.0
"""Seconds between two looks at where the secrets come from."""
HANDING_ON: Final = "handing on"
"""What is being done where that needs no Redis."""
_PROOFS_MISSED: Final = 3
"""So many proofs missed in a row: perhaps this Redis is not the one that is led any more."""


class SecretSource(Protocol):
    """Where the pinned roots and the KEK come from; see `watched`."""

    def renewed(self) -> Holdings | None:
        """What is there now, if that changed since it was looked at; raises SecretError."""
        ...


class Outlet(Protocol):
    """Where a ring is handed on, to those who do not follow it themselves; see `ring_files`."""

    async def put(self, held: Callable[[], Held | None]) -> None:
        """Hand on what `held` says; raises FilesUnusable."""
        ...


OnChange = Callable[[Replica], None]


class Follower:
    """Follows one ring. `replica` is always the newest verified state, swapped whole."""

    def __init__(  # noqa: PLR0913 - everything that is not pure is handed in
        self,
        *,
        name: str,
        roots: PinnedRoots,
        store: Store,
        clock: Clock,
        random: Random,
        presence: Presence,
        kek: Kek | None = None,
        notice: Notice,
        on_change: OnChange | None = None,
        on_release: Callable[[], None] | None = None,
        on_doubt: Callable[[], None] | None = None,
        replica: Replica | None = None,
        keeper: Keeper | None = None,
        loses: Loses | None = None,
        able: Collection[str] | None = None,
        source: SecretSource | None = None,
        outlet: Outlet | None = None,
        use_dynamic: bool | None = None,
    ) -> None:
        """Follow `name`; with a `kek`, hold the private halves ready, too.

        `presence` is what this instance is to the others.

        `on_change` is called with every replica that holds another version, or a younger proof.
        `on_release` is called when a leader let the lease go.
        `on_doubt` is called when Redis may lack something that is known, here or by a witness.
        `replica` is what is known already, from before a fork.
        `keeper` keeps the ring for the next start.
        `loses` makes this one of the processes that a lost ring can be healed from: they hold
        every sealed key, and what a newer version unduly lacks.
        `able` are the roots that this process could follow, where those are not all it pins.
        `source` is where `roots` and `kek` come from: it is looked at again and again.
        `outlet` is where each version is handed on before it is confirmed.
        `use_dynamic` is what this process signs with, where it does not leave that to the policy.
        """
        self.replica: Replica = replace(replica, roots=roots) if replica else Replica(name, roots)
        self._use_dynamic = use_dynamic
        self._troubles = Troubles(name, notice)
        self.ready: asyncio.Event = asyncio.Event()
        """Set once the ring was loaded and, for a signing app, its private halves opened."""
        self.progress: Progress = Progress()
        """Whether it still polls, with or without success."""
        self._store = store
        self._clock = clock
        self._random = random
        self._presence = presence
        self._kek = kek
        self._able = roots.kids if able is None else able
        self._source = source
        self._outlet = outlet
        self._notice = notice
        self._on_change = on_change or (lambda _: None)
        self._on_release = on_release or (lambda: None)
        self._on_doubt = on_doubt or (lambda: None)
        self._loses = loses
        self._witness = Witness(name, roots, store, loses)
        self._kept = Kept(name, keeper, notice, self._troubles)
        self._to_keep = asyncio.Event()
        self._to_show = asyncio.Event()
        self._usable = (0, 0)
        """Epoch and version of the newest edition that this instance can use."""
        self._confirmed: tuple[int, int] | None = None
        self._reading = SharedRead(self._read, clock)
        self._fresh_at = 0.0
        """When a younger proof was last taken in."""
        self._unknown: set[str] = set()
        self._told_sealed: dict[str, str] = {}
        """Sealed halves that came as messages, by kid, of keys not taken in yet."""
        self._wanted = asyncio.Event()
        if replica:
            self._wanted.set()  # a forked child is an instance of its own: it confirms, too

    async def run(self) -> None:
        """Follow until cancelled; then tell the others not to wait for this instance."""
        try:
            await self.recall()
            await first_of(
                self._kept_up("listening", self._listen),
                self._kept_up("polling", self._poll),
                self._kept_up("preparing", self._prepare_when_wanted),
                self._kept_up("keeping", self._keep_when_changed),
                self._kept_up("taking up secrets", self._take_up_secrets),
                self._kept_up("being a witness", self._show_when_doubted),
                self._kept_up("starting on what was kept", self._fall_back),
            )
        finally:
            with suppress(InfrastructureError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._store.forget(self._presence.id)

    async def _kept_up(self, doing: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep `work` up, whatever goes wrong in it: a process must not become deaf unnoticed."""
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the last barrier
                self._troubles.begin(doing, Defect.of(error))
            await asyncio.sleep(self._jittered(_BACKOFF_MOST))

    # --- learning: messages, and the hash behind them --------------------------------------------

    async def _listen(self) -> None:
        pause = _BACKOFF_FIRST
        while True:
            began = self._clock.monotonic()
            try:
                async with self._store.subscribe() as subscription:
                    await self._hear(subscription)
            except InfrastructureError as error:
                self._troubles.begin("listening", error)
            if self._clock.monotonic() - began > _BACKOFF_MOST:
                pause = _BACKOFF_FIRST
            await asyncio.sleep(self._jittered(pause))
            pause = min(2 * pause, _BACKOFF_MOST)

    async def _hear(self, subscription: Subscription) -> None:
        """Take in what comes, until nothing does: then raise, to start afresh elsewhere.

        Whatever is heard proves that the way to Redis is open; silence is broken by a ping.
        """
        joined = heard = self._clock.monotonic()
        is_asked = False
        while True:
            deadline = heard + PING_EVERY + (PONG_WITHIN if is_asked else 0)
            message = await subscription.next(max(0.01, deadline - self._clock.monotonic()))
            await self._heed(message)
            now = self._clock.monotonic()
            if message is not None:
                heard, is_asked = now, False
            elif now >= deadline and is_asked:
                raise RedisUnavailable("redis: no answer to a ping; connecting anew")
            elif now >= deadline:
                await subscription.ping()
                is_asked = True
            if now - max(joined, self._fresh_at) > self._heartbeat():
                await self._look_for_another_primary()
                return

    async def _heed(self, message: Heard | None) -> None:
        match message:
            case Subscribed():
                if not await self.refresh():
                    raise RedisUnavailable("redis: joined the channel, and could not read the hash")
                self._troubles.end("listening")
            case Published():
                await self._receive(message)
            case Sealed(kid, sealed):
                self._told_sealed[kid] = sealed
                if len(self._told_sealed) > CAPACITY:  # no ring has as many
                    del self._told_sealed[next(iter(self._told_sealed))]
            case Released():
                self._on_release()
            case Witnessed():
                self._on_doubt()
            case Pong() | None:
                pass

    def _heartbeat(self) -> float:
        """Seconds within which a ring that is led shows a younger proof."""
        held = self.replica.held
        return _PROOFS_MISSED * held.ring.policy.proof_interval.total_seconds() if held else 60.0

    async def _look_for_another_primary(self) -> None:
        """Redis answers, and nobody leads there: after a failover it may be the wrong one."""
        if self.replica.held:
            age = format_duration(self.replica.held.staleness(self._clock.now()))
            self._troubles.begin(
                "hearing of a leader",
                StaleRing(
                    f"ring {self.replica.name!r}: the newest proof of freshness is {age} old, "
                    "though Redis answers; is a daemon leading there?"
                ),
            )
        await self._store.reconnect()

    async def _receive(self, message: Published) -> None:
        try:
            if self.replica.held is None:
                await self.refresh()  # where it is laid beside what was kept
            elif message.snapshot:
                self._take(self.replica.offer(message.snapshot, message.proof, self._clock.now()))
            elif self.replica.lags(message.proof):
                await self.refresh()
            else:
                self._take(self.replica.prove(message.proof, self._clock.now()))
        except RolledBack:
            # A read may overtake messages that are on their way: the hash says whether it is so.
            await self.refresh()
        except (DocumentError, InfrastructureError) as error:
            self._troubles.begin("hearing", error)

    async def _poll(self) -> None:
        while True:
            held = self.replica.held
            every = held.ring.policy.poll_interval.total_seconds() if held else _FIRST_POLL
            pause = self._jittered(every)
            self.progress.back_within(pause + _POLL_WITHIN)
            await asyncio.sleep(pause)
            if await self.refresh():
                self._troubles.end("hearing")
            self._confirmed = None
            self._wanted.set()

    def take(self, snapshot: str, proof: str, sealed: Mapping[str, str]) -> None:
        """Take in what this very process has just published."""
        with suppress(DocumentError, InfrastructureError):
            offered = self.replica.offer(snapshot, proof, self._clock.now())
            self._take(offered.with_keys(sealed, {}))
            if isinstance(self._troubles.of("reading"), RingMissing):
                self._troubles.end("reading")  # it is there: this process wrote it

    async def refresh(self) -> bool:
        """Read the hash and take in what it holds; whether Redis answered.

        All who ask while a read is under way share the next one.
        """
        return await self._reading.fresh()

    async def _read(self) -> bool:
        try:
            await self._read_judged()
        except (RolledBack, RingMissing) as error:
            self._troubles.begin("reading", error)
            self._doubt()
        except RedisUnavailable as error:
            self._troubles.begin("reading", error)
            return False
        except (DocumentError, InfrastructureError) as error:
            self._troubles.begin("reading", error)
        except Exception as error:  # noqa: BLE001 - nobody who waits for the read is to blame
            self._troubles.begin("reading", Defect.of(error))
        else:
            self._troubles.end("reading")
        return True

    async def _read_judged(self) -> None:
        while True:
            before = self.replica.version
            stored = await self._store.read()
            try:
                self._judge(stored)
            except WrongRing:
                if not await self._is_kept_one_gone(stored):
                    raise
            except RolledBack:
                if self.replica.version == before:
                    raise
                # A message overtook the read: what was read is not older than what was known.
            else:
                return

    def _judge(self, stored: Stored) -> None:
        if not stored.snapshot:
            raise RingMissing(
                f"redis holds no ring {self.replica.name!r}; is that its name? if it is new, run "
                "ringkeeper init, otherwise this is a loss of data: keep the daemons running"
            )
        now = self._clock.now()
        replica = self.replica if self.replica.held else self._known_before(now)
        try:
            self._take(replica.offer(stored.snapshot, stored.proof, now), replica)
        except RolledBack:
            self._take(replica)
            raise

    async def _is_kept_one_gone(self, stored: Stored) -> bool:
        """Whether an app's file, which held a ring that was replaced, is out of the way now.

        Only for a ring that could be taken in without it: else any document of another ring would
        do. A daemon's file is never moved: what it holds may be what was lost.
        """
        if self.replica.held or self._kept.testimony is None or self._loses:
            return False
        try:
            self.replica.offer(stored.snapshot, stored.proof, self._clock.now())
        except (DocumentError, InfrastructureError):
            return False
        await self._kept.set_aside("replaced")
        return True

    def _known_before(self, now: datetime) -> Replica:
        """What was kept, to begin with where that is young enough: Redis may hold less."""
        with suppress(DocumentError, InfrastructureError):
            return self._recalled(now) or self.replica
        return self.replica

    def _recalled(self, now: datetime) -> Replica | None:
        """The replica with what was kept; raises as `Replica.offer` where that is of no use."""
        if (kept := self._kept.testimony) is None:
            return None
        return self.replica.offer(kept.snapshot, kept.proof, now).with_keys(kept.sealed, {})

    def _take(self, replica: Replica, past: Replica | None = None) -> None:
        """Hold `replica` from now on; `past` is what was known before, if not held."""
        former, self.replica = self.replica, replica
        if replica is former or replica.held is None:
            return
        known = (past or former).held
        if known is None or replica.held.proof != known.proof:
            self._fresh_at = self._clock.monotonic()
            self._troubles.end("hearing of a leader")
        self._troubles.end("starting on what was kept")
        if former.is_disowned:
            left = former.version
            self._notice("ring of a dropped root left", ring=replica.name, version=left)
        if former.held is None or replica.held.digest != former.held.digest:
            self._unknown.clear()
            self._wanted.set()
            if not replica.misfit(self._kek):
                self._troubles.end("using its secrets")
            self._look_back(known, replica.held)
        self._to_keep.set()
        self._on_change(replica)

    def _look_back(self, former: Held | None, held: Held) -> None:
        """Hold on to what `held` unduly lacks, until a version comes that has it."""
        if self._loses is None:
            return
        past = former.testimony if former else None
        if self._witness.look_back(past, held.ring, self._clock.now()):
            self._doubt()

    async def seek(self, kid: str) -> bool:
        """Whether there is news since `kid` was looked for: one bounded read for all who ask.

        A kid that a read did not find stays unknown until the next version, without a read.
        """
        held = self.replica.held
        if held and held.ring.key(kid):
            return True
        just_read = self._reading.ended_ago < _SEEK_SPACING
        hangs = self._reading.lasts > _SEEK_WITHIN
        if kid in self._unknown or just_read or hangs:
            return False
        is_answered = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEEK_WITHIN):
                is_answered = await self.refresh()
        held = self.replica.held
        if held and held.ring.key(kid):
            return True
        if is_answered and len(self._unknown) < _UNKNOWN_MOST:
            self._unknown.add(kid)
        return False

    # --- other secrets, while we run --------------------------------------------------------------

    async def _take_up_secrets(self) -> None:
        """Look at where the secrets come from, again and again; bad ones change nothing."""
        while self._source:
            await asyncio.sleep(self._jittered(_LOOK_EVERY))
            try:
                found = await aside(self._source.renewed)
            except SecretError as error:
                self._troubles.begin("taking up secrets", error)
                continue
            if found:
                self._notice("secrets taken up", ring=self.replica.name)
                await self.change_secrets(found.roots, found.kek)
            self._troubles.end("taking up secrets")
        await asyncio.Event().wait()

    async def change_secrets(
        self, roots: PinnedRoots, kek: Kek | None, able: Collection[str] | None = None
    ) -> None:
        """From now on trust `roots`, and open private halves with `kek`."""
        self.replica = replace(self.replica, roots=roots)
        self._witness.roots = roots
        self._able = roots.kids if able is None else able
        self._kek = kek
        self._confirmed = None
        await self.refresh()  # what was refused may be good now
        self._judge_secrets()
        self._wanted.set()

    def _judge_secrets(self) -> None:
        """Tell at once if these secrets are not the ring's: what is held may last for a while."""
        misfit = self.replica.misfit(self._kek)
        if misfit:
            self._troubles.begin("using its secrets", SecretError(misfit))
        else:
            self._troubles.end("using its secrets")

    # --- making ready: private halves, then the confirmation -------------------------------------

    async def _prepare_when_wanted(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._unhurried()):
                    await self._wanted.wait()  # one version after another: now it is enough
            self._wanted.clear()
            try:
                await self.prepare()
            except InfrastructureError as error:
                self._troubles.begin("preparing", error)
                # Soon again: who is not heard of for three polls is not waited for any more.
                await asyncio.sleep(self._jittered(_BACKOFF_MOST))
                self._wanted.set()
            except SealBroken as error:
                # The next poll, or the next version, tries again.
                self._troubles.begin("preparing", error)
            else:
                self._troubles.end("preparing")

    def _unhurried(self) -> float:
        """Seconds to wait before preparing a version, so that a fleet does not do it all at once.

        What is new in a version is the next standby, which signs nothing for a long time. Only
        what is needed now is opened now: at the start, and after having been away.
        """
        held = self.replica.held
        if held is None or not self.ready.is_set() or self._loses:
            return 0.0
        if self._lacks_signer:
            return 0.0
        policy = held.ring.policy
        # Nor so long that it is not heard of within three polls: then nobody would wait for it.
        most = min(policy.publication_interval / 20, policy.poll_interval / 4).total_seconds()
        return self._random.random() * min(_UNHURRIED_MOST, most)

    @property
    def _lacks_signer(self) -> bool:
        """Whether this process is to sign, and its private half is not open yet."""
        held = self.replica.held
        signer = held.ring.signer_for(self._use_dynamic) if held else None
        return bool(self._kek and held and signer and signer.kid in held.lacks)

    async def catch_up(self) -> None:
        """Read what is new, and open what it takes to sign by that."""
        await self.refresh()
        while self._lacks_signer:
            await asyncio.sleep(_OPENS_WITHIN)

    async def prepare(self) -> None:
        """Open what this instance lacks, and confirm the version, or the last one it can use.

        Raises:
            SealBroken: a private half that does not open; the version stays unconfirmed.
            RedisUnavailable: not now.
        """
        held = self.replica.held
        if held is None:
            return
        keeps_all = self._loses is not None
        # Of now: a version that comes meanwhile was not made ready by this.
        edition = (held.ring.epoch, held.ring.version)
        told = {kid: each for kid, each in self._told_sealed.items() if held.ring.key(kid)}
        try:
            fetched = await fetch(held, self._kek, self._store, keeps_all=keeps_all, told=told)
        except InfrastructureError:
            await self._is_handed_on()  # what is held is better than nothing
            raise
        for kid in told:  # used once
            self._told_sealed.pop(kid, None)
        if fetched.sealed or fetched.opened:
            self.replica = self.replica.with_keys(fetched.sealed, fetched.opened)
            self._to_keep.set()
            self._on_change(self.replica)
        held = self.replica.held or held
        signer = held.ring.signer_for(self._use_dynamic)
        if self._kek is None or signer is None or signer.kid in held.signing:
            self.ready.set()  # to verify, and to sign: what signs later has time
        is_handed_on = await self._is_handed_on()
        if not fetched.broken and is_handed_on:
            self._usable = edition
        # Who cannot use this version is heard of all the same, so that it is waited for, and named.
        await self._confirm(self._usable)
        if fetched.broken:
            raise fetched.broken[0]

    async def _is_handed_on(self) -> bool:
        """Whether those have this version, too, who have it from here; if not, soon once more."""
        if self._outlet is None:
            return True
        try:
            await self._outlet.put(lambda: self.replica.held)
        except FilesUnusable as error:
            self._troubles.begin(HANDING_ON, error)
            asyncio.get_running_loop().call_later(_BACKOFF_MOST, self._wanted.set)
            return False
        self._troubles.end(HANDING_ON)
        return True

    async def _confirm(self, edition: tuple[int, int]) -> None:
        if edition == self._confirmed:
            return
        row = self._presence.row(edition, self._kek, self._able, self._clock.monotonic())
        await self._store.confirm(self._presence.id, row)
        self._confirmed = edition

    # --- what outlives a loss: the file, the witness ---------------------------------------------

    async def recall(self) -> None:
        """Read what was kept by this process' former self; once."""
        await self._kept.recall(self.replica.roots)

    async def _fall_back(self) -> None:
        """Start on what was kept, if Redis does not answer and the proof is young enough."""
        await asyncio.sleep(_RECALL_AFTER)
        if self.replica.held is None:
            try:
                self._take(self._recalled(self._clock.now()) or self.replica)
            except (DocumentError, InfrastructureError) as error:
                self._troubles.begin("starting on what was kept", error)
        await asyncio.Event().wait()

    async def _keep_when_changed(self) -> None:
        while True:
            await self._to_keep.wait()
            self._to_keep.clear()
            if held := self.replica.held:
                await self._kept.write(held.testimony)

    def testimonies(self) -> list[Testimony]:
        """All that this process can show of the ring; the newest first."""
        held = self.replica.held
        known = [held.testimony if held else None, self._witness.contested, self._kept.testimony]
        return [testimony for testimony in known if testimony]

    def _doubt(self) -> None:
        """Redis lacks something that is known here."""
        if self.replica.held:
            self._to_show.set()
        self._on_doubt()

    @property
    def _is_in_doubt(self) -> bool:
        is_lost = isinstance(self._troubles.of("reading"), RolledBack | RingMissing)
        return is_lost or self._witness.contested is not None

    async def _show_when_doubted(self) -> None:
        """Be a witness until Redis has again what is known here; others may be before us."""
        while True:
            await self._to_show.wait()
            self._to_show.clear()
            await asyncio.sleep(self._random.random())
            pause = _BACKOFF_MOST
            while self._is_in_doubt and self.replica.held:
                try:
                    await self._witness.speak(self.replica.held.testimony)
                except InfrastructureError as error:
                    self._troubles.begin("being a witness", error)
                else:
                    self._troubles.end("being a witness")
                await asyncio.sleep(self._jittered(pause))
                pause = min(2 * pause, _DOUBT_MOST)

    @property
    def trouble(self) -> RingkeeperError | None:
        """Why something fails at the moment; None when all is well."""
        return next(iter(self.troubles), None)

    @property
    def troubles(self) -> tuple[RingkeeperError, ...]:
        """All that fails at the moment."""
        return self._troubles.all

    @property
    def is_connected(self) -> bool:
        """Whether Redis answers, as far as the newest attempts tell."""
        return self._troubles.is_connected

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.8 + 0.4 * self._random.random())
