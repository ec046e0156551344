"""`ringkeeper restore`: a backup is shown to the leader, as a witness would. Promises 6 and 7.

Nothing is written to a ring from here. The leader checks what it is shown, joins it with what Redis
holds and what daemons and apps know, and publishes what comes of it: so a backup adds what was
lost, and never takes anything back. Whether it lacked nothing, or was taken up, is seen by what
Redis holds then.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ringkeeper.clock import SystemClock
from ringkeeper.errors import (
    DocumentError,
    InfrastructureError,
    RequestRefused,
    RingkeeperError,
    SealBroken,
    WrongRing,
)
from ringkeeper.ring import KeyState
from ringkeeper.secret_files import read_pinned_roots
from ringkeeper.wire import open_event
from ringkeeper.witness import Witness
from ringkeeperd.audit import (
    DRAIN_BEGAN,
    DRAIN_CALLED_OFF,
    KEY_REVOKED,
    REQUEST_REFUSED,
    RING_HEALED,
)
from ringkeeperd.backup import broken_seal, kek_here, read
from ringkeeperd.backup_sources import AT_ONCE, Findings, read_whole
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.merge import heal
from ringkeeperd.operator import some
from ringkeeperd.words import age, harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.ring import Key, Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import PinnedRoots
    from ringkeeper.wire import Event
    from ringkeeperd.backup_file import Backup, Saved

_LOOK_EVERY: Final = 0.2
_HANDOVER: Final = 1.0
"""Seconds in which one leader may have let the lease go and the next not taken it yet."""
_LONG_AGO: Final = 1000
"""Audit events among which is looked for what operators did since the backup."""
_STAYS: Final = (REQUEST_REFUSED, KEY_REVOKED, DRAIN_BEGAN, DRAIN_CALLED_OFF)
"""Of what operators do: what changes nothing, and what no merge takes back."""
_RECENT: Final = 50
"""Audit events among which the leader's answer is looked for."""


class Became(Enum):
    """What became of one ring."""

    HEALED = auto()
    NOTHING = auto()
    """Redis lacks nothing of it."""
    WOULD = auto()
    """Something would be added, and was not: only asked for."""
    REFUSED = auto()
    SILENT = auto()
    """Nobody answered."""
    UNTRIED = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one ring, in words."""

    name: str
    became: Became
    words: str


@dataclass(frozen=True, slots=True)
class Wanting:
    """What Redis lacks of a ring that a backup has."""

    finding: str
    """What is wrong with Redis, in words."""
    is_decided: bool
    """Whether the backup's states would count where Redis has others: its version is higher."""
    keys: frozenset[str]
    revoked: frozenset[str]
    private: frozenset[str]

    def __str__(self) -> str:
        added = [
            f"{len(kids)} {what}"
            for kids, what in (
                (self.keys, "keys"),
                (self.revoked, "revocations"),
                (self.private, "private halves"),
            )
            if kids
        ]
        return f"{', '.join(added) or 'times and states alone'} ({self.finding})"


def wanting(there: Saved | None, saved: Saved, kek: Kek | None, now: datetime) -> Wanting | None:
    """What Redis, which holds `there`, lacks of what `saved` knows; None if that is nothing."""
    found = there.history if there else None
    cure = heal(found, [saved.history], now=now, epoch=saved.ring.epoch)
    former = found.ring.keys if found else ()
    ring = cure.ring if cure else (found.ring if found else saved.ring)
    private = _private_lacking(ring, there.testimony.sealed if there else {}, saved, kek)
    if cure is None and not private:
        return None
    known = {key.kid for key in former}
    buried = {key.kid for key in former if key.state is KeyState.REVOKED}
    revoked = {key.kid for key in ring.in_state(KeyState.REVOKED)}
    return Wanting(
        cure.finding if cure else "redis lacked private halves",
        cure is not None and found is not None and cure.newest != found.ring,
        frozenset({key.kid for key in ring.keys} - known),
        frozenset(revoked - buried),
        frozenset(private),
    )


def _private_lacking(
    ring: Ring, there: Mapping[str, str], saved: Saved, kek: Kek | None
) -> set[str]:
    """The kids of private halves that `saved` has, and Redis not, or not so that they open."""
    lacking: set[str] = set()
    if kek and ring.kek and ring.kek not in kek.kids:
        kek = None  # rewrapped since: this host cannot judge what lies in Redis
    for key in ring.keys:
        ours, theirs = saved.testimony.sealed.get(key.kid), there.get(key.kid)
        if not ours or not key.may_verify or ours == theirs:
            continue
        if theirs is None or (kek and _opens(kek, ours, key) and not _opens(kek, theirs, key)):
            lacking.add(key.kid)
    return lacking


def _opens(kek: Kek, blob: str, key: Key) -> bool:
    try:
        kek.unseal(blob, key)
    except SealBroken:
        return False
    return True


def restore(  # noqa: PLR0913 - most by name
    configuration: Configuration,
    rings: Sequence[RingConfiguration],
    file: str,
    *,
    wait: timedelta,
    is_dry: bool,
    takes_back: bool,
    begin: Callable[[Backup, Findings], None],
    tell: Callable[[Outcome], None],
) -> None:
    """Show the leaders of `rings` what `file` knows of them.

    `begin` is called once the file is known to be good, then `tell` for each ring, as it comes.
    `takes_back`: let the backup's states count even where operators have changed the ring since.

    Raises:
        DocumentError, RequestRefused: nothing was shown to anybody, and why.
    """
    roots = read_pinned_roots(configuration.trust_root_public)
    backup, found = read(file, roots), Findings()
    chosen = [saved for ring in rings if (saved := backup.ring(ring.name))]
    if not chosen:
        raise RequestRefused(
            f"{file}: holds {_named(backup)}, and not {', '.join(ring.name for ring in rings)}"
        )
    kek = kek_here(configuration, found)
    begin(backup, found)
    showing = _Showing(configuration, roots, kek, wait, tell, is_dry=is_dry, takes_back=takes_back)
    asyncio.run(showing.show_all(chosen))


def _named(backup: Backup) -> str:
    names = [saved.ring.name for saved in backup.rings]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""  # noqa: PLR2004 - for a line
    return ", ".join(names[:5]) + more


class _Showing:
    """Shows rings to their leaders, some at a time."""

    def __init__(
        self,
        configuration: Configuration,
        roots: PinnedRoots,
        kek: Kek | None,
        wait: timedelta,
        tell: Callable[[Outcome], None],
        *,
        is_dry: bool,
        takes_back: bool,
    ) -> None:
        self._configuration = configuration
        self._roots = roots
        self._kek = kek
        self._wait = wait
        self._tell = tell
        self._is_dry = is_dry
        self._takes_back = takes_back
        self._clock: Clock = SystemClock()
        # Where nobody answered for the first ones, a thousand are not waited for one by one.
        self._silent = 0
        self._is_anybody_there = False

    async def show_all(self, chosen: Sequence[Saved]) -> None:
        """Show each of `chosen`, and tell what became of it."""
        places = asyncio.Semaphore(AT_ONCE)

        async def one(saved: Saved) -> None:
            async with places:
                self._tell(await self._outcome(saved))

        await asyncio.gather(*map(one, chosen))

    async def _outcome(self, saved: Saved) -> Outcome:
        name = saved.ring.name
        if self._silent >= AT_ONCE and not self._is_anybody_there:
            return Outcome(name, Became.UNTRIED, "not tried: nobody answered for the others")
        store = RedisLeaderStore.configured(self._configuration, name, self._clock)
        try:
            return await self._shown(store, saved)
        except InfrastructureError as error:
            self._silent += 1
            return Outcome(name, Became.SILENT, str(error))
        except RingkeeperError as error:
            return Outcome(name, Became.REFUSED, str(error))
        finally:
            await store.close()

    async def _shown(self, store: RedisLeaderStore, saved: Saved) -> Outcome:
        """Show one ring, and wait until Redis lacks nothing of it any more."""
        name = saved.ring.name
        there = await self._there(store, saved)
        if problem := broken_seal(saved, self._kek):
            raise SealBroken(f"{problem}; nothing is changed")
        wants = wanting(there, saved, self._kek, self._clock.now())
        if wants is None:
            self._is_anybody_there = True
            held = f"redis holds version {there.ring.version if there else 0}"
            return Outcome(name, Became.NOTHING, f"{held}, which lacks nothing that is in it")
        if there and wants.is_decided and not self._takes_back:
            await self._check_untouched(store, saved, there)
        if self._is_dry:
            next_turn = overdue(saved.ring, self._clock.now()) if there is None else ""
            return Outcome(name, Became.WOULD, f"would add {wants}{next_turn}")
        signers = {key.kid for key in there.ring.may_sign_next} if there else set()
        # For want of a signer's private half nobody leads: that is no reason to wait for a leader.
        if there and not signers & wants.private:
            await self._check_led(store)
        healed = await self._taken_up(store, saved, there)
        self._is_anybody_there = True
        return Outcome(name, Became.HEALED, f"{healed}; added {wants}")

    async def _there(self, store: RedisLeaderStore, saved: Saved) -> Saved | None:
        """What Redis holds.

        Raises:
            DocumentError: what the leader would not touch either, and what to do.
        """
        name, place = saved.ring.name, store.layout.keyring
        try:
            there = await read_whole(store, name, self._roots)
        except DocumentError as error:
            raise type(error)(
                f"redis holds a ring {name!r} that cannot be verified ({error}); nothing is put in "
                f"its place; if the backup is what counts: HDEL {place} snapshot, and restore again"
            ) from None
        if there and there.ring.id != saved.ring.id:
            raise WrongRing(
                f"redis holds another ring {name!r} than the backup, made anew since; nothing is "
                "changed; if the backup is what counts, and everybody may be logged out who "
                "logged in since: stop all daemons, remove this ring's file in state_dir, "
                f"DEL {place} {store.layout.sealed}, start them, and restore again"
            )
        return there

    async def _check_untouched(self, store: RedisLeaderStore, saved: Saved, there: Saved) -> None:
        """Whether anything that operators did would be undone: Redis lost versions, and went on.

        Then the backup's number is the higher one, though what Redis holds is younger.

        Raises:
            RequestRefused: what they did, and what to do.
        """
        told_of: list[Event] = []
        for entry in await store.recent_events(_LONG_AGO):
            with suppress(DocumentError):
                told = open_event(entry.document, self._roots)
                is_since = told.ring_id == saved.ring.id and told.at > saved.history.proved_at
                if is_since and told.fields.get("by"):
                    told_of.append(told)
        # What a drain brought stays as long as the drain does.
        off = {told.fields.get("kid") for told in told_of if told.event == DRAIN_CALLED_OFF}
        staying = {
            told.fields.get("request")
            for told in told_of
            if told.event in _STAYS
            and not (told.event == DRAIN_BEGAN and told.fields.get("kid") in off)
        }
        done = [told for told in told_of if told.fields.get("request") not in staying]
        if not done:
            return
        named = [
            f"{told.event} by {harmless(str(told.fields['by']))} at {told.at:%Y-%m-%d %H:%M:%S} UTC"
            for told in sorted(done, key=lambda told: told.number)
        ]
        raise RequestRefused(
            f"redis lost versions, and operators have changed the ring since: {some(named)}; redis "
            f"is at version {there.ring.version}, so the states of the backup's version "
            f"{saved.ring.version} would count, and take that back; nothing is changed; if that is "
            "meant: --take-back, and then do again what is named here"
        )

    async def _check_led(self, store: RedisLeaderStore) -> None:
        """Whether anybody would hear: a ring that is there is led, or nobody runs."""
        until = self._clock.monotonic() + _HANDOVER
        while not await store.owner():
            if self._clock.monotonic() > until:
                raise InfrastructureError(
                    "nobody leads it, and nothing is changed: start a daemon with lead: true "
                    "(ringkeeper run; its log says what keeps one from it), then restore"
                )
            await asyncio.sleep(_LOOK_EVERY)

    async def _taken_up(self, store: RedisLeaderStore, saved: Saved, former: Saved | None) -> str:
        """Wait until Redis lacks nothing; what the leader says that it did."""
        witness = Witness(saved.ring.name, self._roots, store, None)
        until = self._clock.monotonic() + self._wait.total_seconds()
        while self._clock.monotonic() < until:
            # Again and again: there is room for one witness, and an app may have more to say.
            await witness.speak(saved.testimony)
            await asyncio.sleep(_LOOK_EVERY)
            there = await self._there(store, saved)
            if there and wanting(there, saved, self._kek, self._clock.now()) is None:
                return await self._answer(store, there.ring, former)
        raise InfrastructureError(
            f"no leader took it up within {self._wait.total_seconds():g} s; is a daemon with lead: "
            "true running, and what does its log say? What it was shown stays in Redis for an hour"
        )

    async def _answer(self, store: RedisLeaderStore, ring: Ring, former: Saved | None) -> str:
        """What the audit says of it, and what comes next."""
        above = former.ring.version if former else 0
        said = f"healed, version {ring.version}"
        for entry in await store.recent_events(_RECENT):
            with suppress(DocumentError):
                event = open_event(entry.document, self._roots)
                if _is_answer(event, ring, above):
                    said = f"healed, version {event.version}"
                    break
        return said + overdue(ring, self._clock.now())


def _is_answer(event: Event, ring: Ring, above: int) -> bool:
    is_ours = event.ring_id == ring.id and event.event == RING_HEALED
    return is_ours and above < event.version <= ring.version


def overdue(ring: Ring, now: datetime) -> str:
    """What the leader does next with a ring that had been forgotten for long."""
    active = ring.active()
    if active is None or active.due_at is None or active.due_at > now:
        return ""
    late = age(now - active.due_at)
    return f", whose key is {late} overdue: its turn is next, once all have confirmed the standby"
