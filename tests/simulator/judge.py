"""What must hold, in plain words and in code, looked at whenever something happens.

The judge sees everything: each write to Redis before it is made, each token, each process'
memory. It knows the true time and which process was cut off, paused, or given a wrong clock.
It excuses only what docs/guarantees.md says is not promised.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from ringkeeper import tokens
from ringkeeper.errors import (
    InfrastructureError,
    NoSigningKey,
    RevokedKid,
    StaleRing,
    TokenError,
    UnknownKid,
)
from ringkeeper.ring import KeyKind, KeyState
from ringkeeper.wire import open_event
from ringkeeperd.audit import RING_HEALED

if TYPE_CHECKING:
    from datetime import datetime

    from ringkeeper.ring import Key, Ring
    from ringkeeperd.leader_store import Edition
    from tests.simulator.redis_model import SimRedis
    from tests.simulator.world import Process, World

SECOND: Final = timedelta(seconds=1)


class Invariant(Enum):
    """What must hold; in brackets the promise of docs/guarantees.md that it stands for."""

    ACCEPTED = (
        "a valid token is accepted by every app, up to the second activation after the app's last "
        "proof of freshness (1)"
    )
    FOUND = "an app that can reach Redis finds a kid there that it does not know, at once (1)"
    PUBLIC = (
        "a key signs only after it was public for the publication interval, or for jwks_max_age "
        "where an operator hastened it; only a revocation is no time to wait (2)"
    )
    CONFIRMED = "a key signs only when each live instance confirmed it, or was waited for (2)"
    FOLLOWS = "each version follows one that was written, and none is written twice (3)"
    KEPT = "a key is removed only when no unexpired token of its exists (5)"
    REMEMBERED = "a revoked key never comes back (6)"
    WHOLE = "a version is published together with the private halves that may sign in it (6)"
    SAVED = (
        "what Redis lost is back as soon as the fleet is well: every key of an unexpired token, "
        "every revocation (6)"
    )
    FORWARD = "no process goes back to an earlier version (8)"
    SIGNS = "an app signs while its proof is younger than max_staleness, and no longer (9)"
    REFUSED = (
        "a revoked key is refused within 2 s by an app that hears every message, within four "
        "polls by an app that reaches Redis (10)"
    )
    CURRENT = "a process that reaches Redis holds at least what Redis held four polls ago"
    LISTENS = "a process whose subscription went deaf listens again within 25 s"
    TURNS = "in calm weather keys turn"
    CONVERGED = "in the end all hold what Redis holds, fresh, with every private half"


class Violation(AssertionError):
    """An invariant did not hold."""

    def __init__(self, invariant: Invariant, seed: int, at: datetime, what: str) -> None:
        super().__init__(f"seed {seed}, {at:%H:%M:%S}: {invariant.name}: {what}")
        self.invariant = invariant


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, its key, and until when (by the signer's clock) it lives."""

    token: str
    kid: str
    expires_at: datetime


def _is_lost(key: Key) -> bool:
    return key.state is KeyState.RETIRED and key.activated_at is None


@dataclass
class Judge:
    """Looks at everything that happens in `world`, and notes the first thing that must not be."""

    world: World
    broken: Violation | None = None
    verified: int = 0
    removed: int = 0
    heals: int = 0
    activations: list[datetime] = field(default_factory=list)
    turns: list[datetime] = field(default_factory=list)
    """Activations, and the ends of a key that would have signed next (revoked, or its private half
    lost by all): it has no heir that an app which is cut off would know."""
    issued: dict[str, deque[Issued]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=12))
    )
    """The newest tokens of each key: they live longest."""
    revoked: dict[str, datetime] = field(default_factory=dict)
    drained: set[str] = field(default_factory=set)
    """Keys whose tokens may be refused: they are to be revoked."""
    public_since: dict[str, datetime] = field(default_factory=dict)
    hastened: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    """Keys that nobody had the private half of any more before they ever signed."""
    versions: set[int] = field(default_factory=lambda: {0})
    proofs: dict[str, datetime] = field(default_factory=dict)
    """Proof -> when it was published."""
    written: list[tuple[float, SimRedis, int]] = field(default_factory=list)
    """When which version was written where, as far as nothing was lost since."""
    absent: dict[str, float] = field(default_factory=dict)
    """kid -> when a primary was last seen without it, although another has it or its token lives."""
    audible: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Instance -> when it last said that it is alive, and since when it has done so regularly."""
    led_since: float = 0.0
    leader: str = ""

    # --- writes ----------------------------------------------------------------------------------

    def published(self, redis: SimRedis, edition: Edition) -> None:
        """A leader replaces what `redis` holds."""
        world, now = self.world, self.world.clock.now()
        ring = world.opened(edition.snapshot)
        before = world.opened(redis.data.snapshot) if redis.data.snapshot else None
        world.history.update(f"{now} {edition.version} {edition.epoch}".encode())
        for key in ring.keys:
            if key.kid in self.public_since and key.kid not in self.lost and _is_lost(key):
                self.lost.add(key.kid)
                self.turns.append(now)
            self.public_since.setdefault(key.kid, now)
            if key.state is KeyState.REVOKED:
                self.revoked.setdefault(key.kid, now)
            elif key.drained_until:
                self.drained.add(key.kid)
            elif key.kid in self.revoked and world.is_whole:
                self.note(Invariant.REMEMBERED, f"{key.kid} was revoked, and is {key.state}")
        if ring.version - 1 not in self.versions or (before and ring.version <= before.version):
            self.note(Invariant.FOLLOWS, f"version {ring.version} is written; never one before it")
        self.versions.add(ring.version)
        self.written.append((world.time, redis, ring.version))
        there = redis.data.sealed.keys() | edition.put.keys()
        known = {key.kid for key in before.may_sign_next} if before else set()
        for key in ring.may_sign_next:
            if (key.kid not in there and key.kid not in known) or key.kid not in edition.kept:
                self.note(Invariant.WHOLE, f"{key.kid} is published without its private half")
        if before:
            told = (open_event(each, world.roots).event for each in edition.events)
            self._look_at_turn(redis, before, ring, is_healed=RING_HEALED in told)
            self._look_at_removals(redis, before, ring)

    def proved(self, proof: str) -> None:
        """A leader vouches for what Redis holds."""
        self.proofs.setdefault(proof, self.world.clock.now())

    def heard(self, instance: str) -> None:
        """An instance said that it is alive: note since when it has done so without a long break."""
        now = self.world.time
        last, since = self.audible.get(instance, (now, now))
        self.audible[instance] = (now, since if now - last < 18 else now)

    def _look_at_turn(self, redis: SimRedis, before: Ring, ring: Ring, *, is_healed: bool) -> None:
        now = self.world.clock.now()
        standby = before.standby
        if standby and (later := ring.key(standby.kid)) and later.ready_at < standby.ready_at:
            self.hastened.add(standby.kid)
        next_ones = [ring.key(key.kid) for key in before.may_sign_next]
        is_turn = any(key and key.state is KeyState.REVOKED for key in next_ones)
        for kind in KeyKind:
            former, active = before.active(kind), ring.active(kind)
            if active is None or (former and former.kid == active.kid):
                continue
            is_turn = True
            if kind is KeyKind.DYNAMIC:
                self.activations.append(now)
            left = ring.key(former.kid) if former else None
            # A merge takes over what the other side has turned.
            if former and left and left.may_verify and not is_healed:
                self._look_at_wait(ring, active)
                self._look_at_confirmations(redis, former, active)
        if is_turn:
            self.turns.append(now)

    def _look_at_wait(self, ring: Ring, active: Key) -> None:
        now, public = self.world.clock.now(), self.public_since[active.kid]
        is_hasty = active.kid in self.hastened
        least = ring.policy.jwks_max_age if is_hasty else self.world.least_publication
        if now - public < least - self.world.lease_ttl:  # it may be written that much later
            self.note(Invariant.PUBLIC, f"{active.kid} signs, public for {now - public}")

    def _look_at_confirmations(self, redis: SimRedis, former: Key, active: Key) -> None:
        """Who has said for longer than the liveness window that it is alive is waited for."""
        world, now = self.world, redis.clock.now()
        wanted = max(filter(None, (former.due_at, active.ready_at)))
        is_patient = now - wanted >= world.policy.confirmation_timeout - world.lease_ttl
        edition = (active.published_epoch, active.published_version)
        for process in world.living():
            last, since = self.audible.get(process.follower._presence.id, (world.time, world.time))
            is_heard = world.time - last < 18 and world.time - since > 30
            is_there = world.time - process.well_since > 30 and world.reached[process.name] is redis
            is_behind = process.follower._usable < edition
            if is_heard and is_there and is_behind and not is_patient and not world.stepped:
                what = f"{active.kid} signs, and {process.name} has not confirmed"
                self.note(Invariant.CONFIRMED, what)

    def _look_at_removals(self, redis: SimRedis, before: Ring, ring: Ring) -> None:
        gone = {key.kid for key in before.keys} - {key.kid for key in ring.keys}
        self.removed += len(gone)
        # In a split one side may turn back to a key that has had its time on the other one. There
        # the first one's tokens do not count, as those of any key that it made meanwhile; once
        # both are one again, it has to be saved.
        others = (each for each in self.world.primaries if each is not redis)
        kept = {key.kid for each in others for key in self._ring_in(each)}
        for kid in gone - self.revoked.keys() - kept:
            if self._lives(kid):
                self.note(Invariant.KEPT, f"{kid} is removed; a token of its lives")

    def _ring_in(self, redis: SimRedis) -> tuple[Key, ...]:
        return self.world.opened(redis.data.snapshot).keys if redis.data.snapshot else ()

    def _lives(self, kid: str) -> bool:
        now = self.world.clock.now()
        return any(each.expires_at > now for each in self.issued.get(kid, ()))

    # --- processes -------------------------------------------------------------------------------

    def changed(self, process: Process) -> None:
        """A process took something in."""
        version = process.follower.replica.version
        if process.leads and version != process.version:
            keys = process.follower.replica.loaded().ring.keys
            process.known |= {(key.kid, state) for key in keys for state in (None, key.state)}
        if version < process.version:
            self.note(Invariant.FORWARD, f"{process.name} from {process.version} to {version}")
        process.version = version

    def look_around(self) -> None:
        """Every few seconds: what no single event shows."""
        world = self.world
        owner = world.redis.holder()
        if owner != self.leader:
            self.leader, self.led_since = owner, world.time
        ring = world.ring
        rings = [world.opened(each.data.snapshot) for each in world.primaries if each.data.snapshot]
        known = {key.kid for each in rings for key in each.keys}
        known |= {kid for kid in self.issued if self._lives(kid)}
        for kid in known:
            if len(rings) < len(world.primaries) or any(each.key(kid) is None for each in rings):
                self.absent[kid] = world.time
        if owner and world.time - self.led_since > 20 and world.is_mended_for(25):
            self._look_at_what_is_saved(ring)
        for process in world.living():
            self._look_at_deafness(process)
            self._look_at_currency(process)

    def _look_at_what_is_saved(self, ring: Ring, *, is_the_end: bool = False) -> None:
        """In the end everything; before, what a process knows that could have said so by now."""
        lost = [kid for kid in self.issued if ring.key(kid) is None and self._lives(kid)]
        revived = [key.kid for key in ring.keys if key.may_verify and key.kid in self.revoked]
        for kid in lost:
            if kid not in self.revoked and (is_the_end or self._is_known(kid)):
                self.note(Invariant.SAVED, f"{kid} is lost; a token of its lives")
        for kid in revived:
            if is_the_end or self._is_known(kid, KeyState.REVOKED):
                self.note(Invariant.SAVED, f"{kid} was revoked, and verifies")

    def _is_known(self, kid: str, state: KeyState | None = None) -> bool:
        """Whether a daemon that reaches Redis for long enough has ever seen `kid`, in that state."""
        world = self.world
        return any(
            (kid, state) in process.known
            for process in world.living()
            if world.time - process.well_since > 25 and process.clock not in world.stepped
        )

    def _look_at_deafness(self, process: Process) -> None:
        if not process.link.is_deaf:
            process.deaf_since = self.world.time
        deaf_for = self.world.time - max(process.deaf_since, process.well_since)
        if deaf_for > 25:
            self.note(Invariant.LISTENS, f"{process.name} is deaf for {deaf_for:.0f} s")

    def _known_for_long(self, there: SimRedis) -> int:
        """The newest version that `there` held four polls ago."""
        then = self.world.time - self.world.four_polls
        return max((v for at, redis, v in self.written if at <= then and redis is there), default=0)

    def _look_at_currency(self, process: Process) -> None:
        then = self.world.time - self.world.four_polls
        if max(process.well_since, process.began_at, self.world.whole_since) > then:
            return
        held = process.follower.replica.version
        known = self._known_for_long(self.world.reached[process.name])
        if held < known:
            self.note(Invariant.CURRENT, f"{process.name} holds {held}, Redis long {known}")

    # --- tokens ----------------------------------------------------------------------------------

    def sign(self, process: Process) -> None:
        """An app signs, or says why not."""
        held, now = process.follower.replica.held, process.clock.now()
        if held is None or process.kek is not self.world.kek:
            return
        is_stale = held.staleness(now) > held.ring.policy.max_staleness
        try:
            token = tokens.sign(held, {"sub": process.name}, now)
        except StaleRing:
            if not is_stale:
                self.note(Invariant.SIGNS, f"{process.name} does not sign, and its proof is young")
        except NoSigningKey as error:
            since = max(process.well_since, process.began_at, process.took_at)
            is_settled = self.world.time - max(since, self.world.whole_since) > 15
            if held.ring.signer and is_settled:
                self.note(Invariant.SIGNS, f"{process.name} cannot sign: {error}")
        except InfrastructureError as error:
            self.note(Invariant.SIGNS, f"{process.name} cannot sign: {error}")
        else:
            if is_stale:
                self.note(Invariant.SIGNS, f"{process.name} signs on an old proof")
            lifetime = held.ring.policy.access_token_validity
            kid = tokens.kid_in(token)
            self.issued[kid].append(Issued(token, kid, now + lifetime - 2 * SECOND))

    def check(self, process: Process, issued: Issued) -> None:
        """An app is shown a token."""
        held, now = process.follower.replica.held, self.world.clock.now()
        if held is None or issued.expires_at <= now:
            return
        is_revoked = issued.kid in self.revoked or issued.kid in self.drained
        try:
            tokens.verify(held, issued.token, process.clock.now())
        except RevokedKid:
            if not is_revoked:
                self.note(Invariant.ACCEPTED, f"{process.name}: {issued.kid} was never revoked")
        except UnknownKid as error:
            if not is_revoked:
                self._look_at_unknown(process, issued, error)
        except TokenError as error:
            if not is_revoked:
                self.note(Invariant.ACCEPTED, f"{process.name} at {held.ring.version}: {error}")
        else:
            self.verified += 1
            if issued.kid in self.revoked:
                self._look_at_lateness(process, issued.kid)

    def _look_at_lateness(self, process: Process, kid: str) -> None:
        """A revoked key's token was accepted: perhaps the news was still on its way."""
        world = self.world
        late = (world.clock.now() - self.revoked[kid]).total_seconds()
        hears_all = world.time - process.link.heard_all_since > late + 0.01
        within = 2.0 if hears_all else world.four_polls
        is_in_reach = world.time - max(process.well_since, process.began_at) > within
        if late > within and is_in_reach and world.is_whole:
            self.note(Invariant.REFUSED, f"{process.name} takes tokens of {kid} after {late:.0f} s")

    def _look_at_unknown(self, process: Process, issued: Issued, error: UnknownKid) -> None:
        if self.world.redis.data.snapshot == "" or self.world.ring.key(issued.kid) is None:
            self.absent[issued.kid] = self.world.time
        missing_at = self.absent.get(issued.kid, -1e9)
        if self.world.time - missing_at < self.world.four_polls:
            return  # Redis itself lacked it until just now
        held = process.follower.replica.loaded()
        fresh_at = self.proofs[held.proof]
        if sum(at > fresh_at for at in self.turns) < 2:
            self.note(Invariant.ACCEPTED, f"{process.name} at {held.ring.version}: {error}")
        elif self.world.ring.key(issued.kid) and self.world.time > process.well_since:
            self.world.spawn(self._look_whether_found(process, issued))

    async def _look_whether_found(self, process: Process, issued: Issued) -> None:
        """The way to Redis is open: so the app learns of the kid within some tries."""
        well_since, began_at = process.well_since, self.world.time
        for _ in range(5):
            if await process.follower.seek(issued.kid):
                return
            await asyncio.sleep(0.5)
        is_undisturbed = process.well_since == well_since and self.world.whole_since < began_at
        is_undisturbed &= process.link.silent_at < began_at
        if is_undisturbed and self.world.ring.key(issued.kid):
            self.note(Invariant.FOUND, f"{process.name} does not find {issued.kid}")

    # --- the end ---------------------------------------------------------------------------------

    def look_at_the_end(self) -> None:
        """After a calm stretch."""
        world = self.world
        calm = timedelta(seconds=world.calm)
        now = world.clock.now()
        is_led = world.time - self.led_since > 60  # a new leader first listens for a window
        is_long = calm > 1.6 * world.policy.cryptoperiod
        if is_led and is_long and not any(at > now - calm for at in self.activations):
            self.note(Invariant.TURNS, "no key has turned in calm weather")
        data = world.redis.data
        if not data.snapshot:
            self.note(Invariant.CONVERGED, "redis holds nothing")
            return
        ring = world.ring
        known = self._known_for_long(world.redis)
        for process in world.living():
            held = process.follower.replica.held
            # A message may be lost, and a poll not be due yet.
            if held and known <= held.ring.version < ring.version:
                continue
            if held is None or held.snapshot != data.snapshot:
                version = held.ring.version if held else 0
                what = f"{process.name} holds {version}, redis {ring.version}"
                self.note(Invariant.CONVERGED, what)
            elif held.staleness(process.clock.now()) > 2 * ring.policy.proof_interval + 5 * SECOND:
                self.note(Invariant.CONVERGED, f"{process.name} has an old proof")
        for key in ring.may_sign_next:
            if key.kid not in data.sealed:
                self.note(Invariant.CONVERGED, f"the private half of {key.kid} is not in redis")
        self._look_at_what_is_saved(ring, is_the_end=True)

    def note(self, invariant: Invariant, what: str) -> None:
        """Note the first violation; whoever noticed may be a process: it is not for that to fail."""
        if self.broken is None:
            world = self.world
            self.broken = Violation(invariant, world.seed, world.clock.now(), what)
