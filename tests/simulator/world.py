"""A fleet in a box: real leaders, followers and tokens on virtual time, everything else seeded.

What must hold is stated at each check, in plain words. The same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringkeeper import tokens
from ringkeeper.algorithms import PrivateKey
from ringkeeper.errors import InfrastructureError, RevokedKid, TokenError
from ringkeeper.follower import Follower
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.tasks import first_of
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Command, Request, open_snapshot, sign_request
from ringkeeperd.founding import found
from ringkeeperd.leader import Leader
from ringkeeperd.leader_store import Edition
from ringkeeperd.merge import lacks
from ringkeeperd.minting import Minted
from ringkeeperd.rotation import FreshKey, KeyWanted
from tests.simulator.loop import VirtualClock, VirtualLoop
from tests.simulator.redis_model import Data, Link, SimDisk, SimRedis, SimStore

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
POLICY = Policy.derive(
    cryptoperiod=10 * MINUTE,
    access_token_validity=5 * MINUTE,
    algorithm="EdDSA",
    clock_skew=5 * SECOND,
    poll_interval=10 * SECOND,
    confirmation_timeout=MINUTE,
)
COMMIT = 10 * SECOND
"""A publication may be that much younger in Redis than its own times say: retries, latency."""


class Violation(AssertionError):
    """A promise was broken."""


class _Silent:
    """An observer that is not interested."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@dataclass
class Process:
    """A daemon or an app: what it runs, and its way to Redis."""

    name: str
    link: Link
    clock: VirtualClock
    follower: Follower
    task: asyncio.Task[None]
    leads: bool
    version: int = 0
    cut_at: datetime | None = None
    began_at: float = 0.0


@dataclass
class Issued:
    """A token, its key, and until when (by the signer's clock) it lives."""

    token: str
    kid: str
    expires_at: datetime


@dataclass
class Report:
    """What a run did; two runs of one seed give the same."""

    digest: str
    verified: int
    activations: int
    versions: int
    removed: int


@dataclass
class World:
    """One run."""

    seed: int
    minutes: int = 60
    policy: Policy = POLICY
    processes: dict[str, Process] = field(default_factory=dict)
    leaders: dict[str, Leader] = field(default_factory=dict)
    disks: dict[str, SimDisk] = field(default_factory=dict)
    issued: list[Issued] = field(default_factory=list)
    revoked: dict[str, datetime] = field(default_factory=dict)
    activations: list[datetime] = field(default_factory=list)
    history: Any = field(default_factory=hashlib.sha256)
    verified: int = 0
    removed: int = 0
    broken: str = ""
    backups: list[Data] = field(default_factory=list)
    losses: int = 0
    written_at: float = 0.0
    """When the newest version was written."""
    stepped: list[VirtualClock] = field(default_factory=list)
    """The clocks that are off just now: who goes by one of them judges `exp` wrongly by itself."""
    lost_at: float = -1e9
    """When Redis last lost data that it had acknowledged."""
    healed_at: float | None = -1e9
    """When a leader first wrote after that; None until one does."""

    def run(self) -> Report:
        """The whole run.

        Raises:
            Violation: naming what was broken, when, and how.
        """
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._run())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
        return Report(
            self.history.hexdigest(),
            self.verified,
            len(self.activations),
            int(self.redis.data.version),
            self.removed,
        )

    async def _run(self) -> None:
        self.random = Random(self.seed)
        self.clock = VirtualClock(self.loop)
        self.root = TrustRoot.from_secret_jwk(self._ed25519())
        self.kek = Kek.from_secret_jwk({"kty": "oct", "k": _b64(self.random.randbytes(32))})
        self.redis_clock = VirtualClock(self.loop)
        self.redis = SimRedis(self.redis_clock, self._published)
        self.public_since: dict[str, datetime] = {}
        self.ring: Ring | None = None
        await found(
            name="sim",
            ring_id="sim-ring",
            policy=self.policy,
            store=SimStore(lambda: self.redis, Link(self.random, loss=0)),
            root=self.root,
            mint=self._mint,
            clock=self.clock,
            owner="founder",
        )
        for number in range(3):
            self._start(f"daemon{number}", leads=True)
        for number in range(4):
            self._start(f"app{number}", leads=False)
        try:
            await first_of(self._traffic(), self._trouble(), self._operators(), self._back_up())
            self._check_progress()
            if self.broken:
                raise Violation(self.broken)
        finally:
            for process in self.processes.values():
                process.link.is_dead = True
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1)

    # --- the fleet ---------------------------------------------------------------------------------

    def _start(self, name: str, *, leads: bool) -> None:
        link = Link(self.random)
        skew = self.policy.clock_skew // timedelta(milliseconds=2)
        clock = VirtualClock(self.loop, timedelta(milliseconds=self.random.randint(-skew, skew)))
        store = SimStore(lambda: self.redis, link)
        follower = Follower(
            name="sim",
            roots=self.root.public,
            store=store,
            clock=clock,
            random=self.random,
            instance=f"{name}-{self.random.randrange(10**6)}",
            role="daemon" if leads else "sign",
            kek=self.kek,
            notice=lambda event, /, **fields: None,
            on_release=lambda: self._wake(name),
            on_doubt=lambda: self._doubt(name),
            keeper=self.disks.setdefault(name, SimDisk()) if leads else None,
            loses=lacks if leads else None,
        )
        leader = Leader(
            policy=self.policy,
            store=store,
            follower=follower,
            root=self.root,
            kek=self.kek,
            clock=clock,
            owner=lambda: f"{name}/{self.random.randrange(10**9)}",
            mint=self._mint,
            lease_ttl=10 * SECOND,
            observer=_Silent(),
        )
        self.leaders[name] = leader
        work = [follower.run()] + ([leader.run()] if leads else [])
        task = asyncio.ensure_future(first_of(*work))
        self.processes[name] = Process(
            name, link, clock, follower, task, leads, began_at=self.loop.time()
        )

    def _wake(self, name: str) -> None:
        self.leaders[name].wake.set()

    def _doubt(self, name: str) -> None:
        self.leaders[name].doubt()

    async def _mint(self, wanted: KeyWanted) -> Minted:
        await asyncio.sleep(self.random.uniform(0.05, 0.5))
        private = PrivateKey.from_secret_jwk(self._ed25519(), "EdDSA")
        return Minted(
            FreshKey(wanted.kind, wanted.algorithm, private.public_jwk), self.kek.seal(private)
        )

    def _ed25519(self) -> dict[str, str]:
        secret = self.random.randbytes(32)
        public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": "Ed25519", "x": _b64(public), "d": _b64(secret)}

    # --- what happens to it -----------------------------------------------------------------------

    async def _trouble(self) -> None:
        """Crashes, pauses, partitions; the last fifth of a run is calm."""
        calm_from = self.minutes * 60 * 0.75
        while self.loop.time() < calm_from:
            await asyncio.sleep(self.random.uniform(20, 120))
            process = self.random.choice(list(self.processes.values()))
            match self.random.choice(
                [
                    "crash",
                    "pause",
                    "cut",
                    "cut",
                    "deaf",
                    "restart",
                    "roll back",
                    "flush",
                    "clock",
                    "redis clock",
                ]
            ):
                case "crash":
                    process.link.is_dead = True
                    process.task.cancel()
                    await asyncio.sleep(self.random.uniform(1, 30))
                    self._start(process.name, leads=process.leads)
                case "pause":
                    process.link.wakes_at = self.loop.time() + self.random.uniform(5, 60)
                    process.cut_at = process.cut_at or self.clock.now()
                    await asyncio.sleep(70)
                    process.cut_at = None
                case "deaf":
                    process.link.is_deaf = True
                case "clock":
                    await self._step(process.clock)
                case "redis clock":
                    await self._step(self.redis_clock)
                case "restart":
                    self.redis.drop_everybody()
                case "roll back":
                    self._lose(self.random.choice(self.backups))
                case "flush":
                    self._lose(Data())
                case _:
                    process.link.is_cut = True
                    process.cut_at = process.cut_at or self.clock.now()
                    await asyncio.sleep(self.random.uniform(5, 400))
                    process.link.is_cut = False
                    await asyncio.sleep(30)
                    process.cut_at = None
        await asyncio.sleep(10**9)

    async def _step(self, clock: VirtualClock) -> None:
        """A wall clock is ten minutes or an hour off, and then right again."""
        minutes = self.random.choice([-60, -10, 10, 60])
        usual, clock.offset = clock.offset, clock.offset + timedelta(minutes=minutes)
        self.stepped.append(clock)
        await asyncio.sleep(self.random.uniform(1, 60))
        clock.offset = usual
        self.stepped.remove(clock)

    def _lose(self, left: Data) -> None:
        """Redis restarts with what is `left` of its data."""
        self.lost_at = self.loop.time()
        self.healed_at = None
        self.redis.data = copy.deepcopy(left)
        self.redis.drop_everybody()
        self.losses += 1

    async def _back_up(self) -> None:
        """Note what Redis holds, every now and then: that is what it may fall back to."""
        while True:
            self.backups = [*self.backups[-11:], self.redis.copied()]
            await asyncio.sleep(self.random.uniform(1, 20))

    async def _operators(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(300, 900))
            ring = self.ring
            if ring is None or self.loop.time() > self.minutes * 60 * 0.7:
                continue
            command = self.random.choice([Command.ROTATE, Command.ROTATE_NOW, Command.REVOKE])
            kid = self.random.choice(ring.keys).kid if command is Command.REVOKE else ""
            request = Request(
                f"q{self.redis.serial}", ring.id, ring.name, ring.version, command, kid,
                "simulated", "operator", self.clock.now(), self.clock.now() + 60 * SECOND,
            )  # fmt: skip
            self.redis.ask(sign_request(request, self.root))

    async def _traffic(self) -> None:
        """Apps sign, and check each other's tokens, every two seconds."""
        while self.loop.time() < self.minutes * 60 and not self.broken:
            await asyncio.sleep(2)
            now = self.clock.now()
            self.issued = [i for i in self.issued if i.expires_at > now][-800:]
            for process in self._apps():
                self._sign(process)
            for process in self._apps():
                self._check(process, now)

    def _apps(self) -> list[Process]:
        return [p for p in self.processes.values() if not p.leads and not p.link.is_dead]

    def _sign(self, process: Process) -> None:
        held = process.follower.replica.held
        if held is None or process.link.wakes_at > self.loop.time():
            return
        if process.clock in self.stepped:
            return
        with suppress(InfrastructureError):
            token = tokens.sign(held, {"sub": process.name}, process.clock.now())
            expires = process.clock.now() + self.policy.access_token_validity
            self.issued.append(Issued(token, tokens.kid_in(token), expires - 2 * SECOND))

    # --- what must hold ------------------------------------------------------------------------------

    def _check(self, process: Process, now: datetime) -> None:
        held = process.follower.replica.held
        if held is None or process.link.wakes_at > self.loop.time():
            return
        if held.ring.version < process.version:
            self._violated(f"{process.name} went back to version {held.ring.version}")
        process.version = held.ring.version
        if process.clock in self.stepped:
            return
        for issued in self.random.sample(self.issued, min(3, len(self.issued))):
            self._check_token(process, issued, now)

    def _check_token(self, process: Process, issued: Issued, now: datetime) -> None:
        held = process.follower.replica.loaded()
        try:
            tokens.verify(held, issued.token, process.clock.now())
        except RevokedKid:
            if issued.kid not in self.revoked:
                self._violated(f"{process.name} refuses {issued.kid}, which nobody revoked")
        except TokenError as error:
            if issued.kid not in self.revoked and not self._is_excused(process):
                self._violated(
                    f"a valid token is rejected: {process.name} at version {held.ring.version}: "
                    f"{error}"
                )
        else:
            self.verified += 1
            revoked_at = self.revoked.get(issued.kid)
            late = 2 * self.policy.poll_interval + 5 * SECOND
            if revoked_at and not process.cut_at and now > revoked_at + late:
                self._violated(f"{process.name} still takes tokens of {issued.kid}, revoked")

    def _is_excused(self, process: Process) -> bool:
        """Cut off through two activations (an emergency counts as two), or begun on a loss.

        Who starts while Redis lacks what it lost, and no leader has put it back, knows no better.
        """
        healed_at = self.loop.time() if self.healed_at is None else self.healed_at
        polls = 3 * self.policy.poll_interval.total_seconds()
        if self.lost_at <= process.began_at <= healed_at and self.loop.time() < healed_at + polls:
            return True
        since = process.cut_at
        if since is None:
            return False
        turns = sum(at > since for at in self.activations)
        return turns + 2 * sum(at > since for at in self.revoked.values()) > 1

    def _published(self, redis: SimRedis, edition: Edition) -> None:
        """Every write to Redis is looked at the moment it happens."""
        now = self.clock.now()
        self.written_at = self.loop.time()
        was_lost = self.healed_at is None
        if was_lost:
            self.healed_at = self.loop.time()
        ring = open_snapshot(edition.snapshot, self.root.public)
        before, self.ring = self.ring, ring
        self.history.update(f"{now} {edition.version} {edition.epoch}".encode())
        for key in ring.keys:
            self.public_since.setdefault(key.kid, now)
            if key.state is KeyState.REVOKED:
                self.revoked.setdefault(key.kid, now)
            elif key.kid in self.revoked:
                self._violated(f"{key.kid} was revoked and is {key.state} again")
        if before is None:
            return
        if not was_lost and (ring.version, ring.epoch) != (
            before.version + 1,
            max(before.epoch, ring.epoch),
        ):
            self._violated(f"version {ring.version} of epoch {ring.epoch} follows {before.version}")
        self._check_turn(before, ring, now)
        self._check_removals(before, ring, now)

    def _check_turn(self, before: Ring, ring: Ring, now: datetime) -> None:
        """A key signs only after it was public long enough, but for an emergency."""
        for kind in KeyKind:
            former, active = before.active(kind), ring.active(kind)
            if active is None or (former and former.kid == active.kid):
                continue
            if kind is KeyKind.DYNAMIC:
                self.activations.append(now)
            left = ring.key(former.kid) if former else None
            if kind is KeyKind.DYNAMIC and (left is None or not left.may_verify):
                continue
            least = min(ring.policy.publication_interval, ring.policy.jwks_max_age)
            if now - self.public_since[active.kid] < least - COMMIT and before.version > 1:
                self._violated(
                    f"{active.kid} signs, public for {now - self.public_since[active.kid]}"
                )

    def _check_removals(self, before: Ring, ring: Ring, now: datetime) -> None:
        """No key goes while an unexpired token of its exists."""
        gone = {key.kid for key in before.keys} - {key.kid for key in ring.keys}
        self.removed += len(gone)
        for issued in self.issued:
            if issued.kid in gone and issued.kid not in self.revoked and issued.expires_at > now:
                self._violated(f"{issued.kid} was removed; a token of its lives")

    def _check_progress(self) -> None:
        """After a calm stretch the ring has turned."""
        if self.broken:
            return
        calm = timedelta(minutes=self.minutes * 0.25)
        if calm > 1.4 * self.policy.cryptoperiod and not any(
            at > self.clock.now() - calm for at in self.activations
        ):
            self._violated("no key has turned in calm weather")
        self._check_convergence()

    def _check_convergence(self) -> None:
        """After a calm stretch all hold one ring, fresh."""
        data = self.redis.data
        ring = open_snapshot(data.snapshot, self.root.public)
        is_new = (
            self.loop.time() - self.written_at < 1.3 * ring.policy.poll_interval.total_seconds()
        )
        for process in self.processes.values():
            held = process.follower.replica.held
            # A message may be lost, and a poll not be due yet.
            if held and is_new and held.ring.version == ring.version - 1:
                continue
            if held is None or held.snapshot != data.snapshot:
                version = held.ring.version if held else 0
                self._violated(f"{process.name} holds {version}, redis {ring.version}, in the end")
            elif held.staleness(process.clock.now()) > 2 * ring.policy.proof_interval + 5 * SECOND:
                self._violated(f"{process.name} has an old proof in the end")
        self._check_nothing_is_lost(ring)

    def _check_nothing_is_lost(self, ring: Ring) -> None:
        """Every private half that may be needed is there, every token's key, every revocation."""
        for key in ring.may_sign_next:
            if key.kid not in self.redis.data.sealed:
                self._violated(f"the private half of {key.kid} is not in redis in the end")
        for issued in self.issued:
            found = ring.key(issued.kid)
            if issued.kid not in self.revoked and (found is None or not found.may_verify):
                self._violated(f"{issued.kid} is lost; a token of its lives")
        for kid in self.revoked:
            tombstone = ring.key(kid)
            if tombstone and tombstone.may_verify:
                self._violated(f"{kid} was revoked, and verifies in the end")

    def _violated(self, what: str) -> None:
        """Note the first one; whoever noticed may be a process, and it is not for that to fail."""
        self.broken = self.broken or f"seed {self.seed}, {self.clock.now():%H:%M:%S}: {what}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
