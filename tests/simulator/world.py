"""A fleet in a box: real leaders, followers and tokens on virtual time, everything else seeded.

`judge` says what must hold, `trouble` what goes wrong. The same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from random import Random
from typing import Any, Final
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringkeeper import compact, replica, testimony
from ringkeeper.algorithms import PrivateKey, PublicKey
from ringkeeper.follower import Follower
from ringkeeper.policy import Policy
from ringkeeper.presence import Presence
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.tasks import first_of
from ringkeeper.trust import PinnedRoots, TrustRoot
from ringkeeper.wire import Command, Event, Request, open_snapshot, sign_request
from ringkeeperd.audit import RING_HEALED
from ringkeeperd.founding import found
from ringkeeperd.leader import Leader
from ringkeeperd.merge import lacks
from ringkeeperd.minting import Minted
from ringkeeperd.transitions import FreshKey, KeyWanted
from tests.simulator import trouble
from tests.simulator.judge import Judge
from tests.simulator.loop import VirtualClock, VirtualLoop
from tests.simulator.redis_model import Data, Link, SimDisk, SimRedis, SimStore

SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)
LEASE_TTL: Final = 6 * SECOND
POLICY: Final = Policy.derive(
    cryptoperiod=100 * SECOND,
    access_token_validity=100 * SECOND,
    algorithm="EdDSA",
    clock_skew=2 * SECOND,
    poll_interval=8 * SECOND,
    confirmation_timeout=15 * SECOND,
    jwks_max_age=15 * SECOND,
)
"""So short that a run of six minutes sees keys come and go: publication 25 s, kept 204 s."""
POLICIES: Final = (
    POLICY,
    replace(POLICY, use_dynamic=False),
    replace(POLICY, access_token_validity=MINUTE),
    replace(POLICY, cryptoperiod=150 * SECOND),
)
"""What an operator changes to and fro."""
TROUBLED: Final = 0.55
"""The part of a run in which things go wrong; the rest is calm."""


@dataclass
class Process:
    """A daemon or an app: what it runs, and its way to Redis."""

    name: str
    link: Link
    clock: VirtualClock
    follower: Follower
    task: asyncio.Task[None]
    leads: bool
    kek: Kek | None
    began_at: float
    version: int = 0
    took_at: float = 0.0
    """When it last took something in."""
    hindrances: int = 0
    mended_at: float = 0.0
    deaf_since: float = 0.0
    known: set[tuple[str, KeyState | None]] = field(default_factory=set)
    """Which keys it has ever seen, in which states, if it is a daemon."""

    @property
    def well_since(self) -> float:
        """Since when it is neither cut off nor paused nor dead; never, while it is."""
        return float("inf") if self.hindrances else max(self.mended_at, self.began_at)

    @contextmanager
    def hindered(self) -> Iterator[None]:
        """It cannot do as it would, for whatever reason; there may be others."""
        self.hindrances += 1
        try:
            yield
        finally:
            self.hindrances -= 1
            self.mended_at = asyncio.get_running_loop().time()

    @property
    def is_awake(self) -> bool:
        """Whether it runs just now."""
        return not self.link.is_dead and self.link.wakes_at <= asyncio.get_running_loop().time()


@dataclass
class Report:
    """What a run did; two runs of one seed give the same."""

    digest: str
    verified: int
    activations: int
    versions: int
    removed: int
    heals: int


class _Told:
    """An observer that counts healing, and cares for nothing else."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def changed(self, ring: Ring, told: tuple[Event, ...], took: timedelta) -> None:
        self._judge.heals += any(each.event == RING_HEALED for each in told)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@dataclass
class World:
    """One run."""

    seed: int
    minutes: float = 6
    policy: Policy = POLICY
    policies: tuple[Policy, ...] = POLICIES
    lease_ttl: timedelta = LEASE_TTL
    processes: dict[str, Process] = field(default_factory=dict)
    leaders: dict[str, Leader] = field(default_factory=dict)
    disks: dict[str, SimDisk] = field(default_factory=dict)
    reached: dict[str, SimRedis] = field(default_factory=dict)
    """The primary that a process takes for the only one."""
    history: Any = field(default_factory=hashlib.sha256)
    backups: list[Data] = field(default_factory=list)
    stepped: set[VirtualClock] = field(default_factory=set)
    """The clocks that are off just now: who goes by one of them judges `exp` wrongly by itself."""
    disturbed_at: float = 0.0
    """When a clock was last put right."""
    whole_since: float = 0.0
    """Since when there is one primary, and it has lost nothing."""

    def run(self) -> Report:
        """The whole run.

        Raises:
            Violation: naming what was broken, when, and how.
        """
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        try:
            with _each_thing_computed_once() as self._open:
                self.loop.run_until_complete(self._run())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
        judge = self.judge
        return Report(
            self.history.hexdigest(),
            judge.verified,
            len(judge.activations),
            self.ring.version,
            judge.removed,
            judge.heals,
        )

    async def _run(self) -> None:
        self.random = Random(self.seed)
        self.clock = VirtualClock(self.loop)
        self.root = TrustRoot.from_secret_jwk(self._ed25519())
        self.roots = self.root.public
        self.kek = self.some_kek()
        self.judge = Judge(self)
        self.redis_clock = VirtualClock(self.loop)
        self.redis = SimRedis(self.redis_clock, self.judge)
        self.reached["founder"] = self.redis
        await found(
            name="sim",
            ring_id="sim-ring",
            policy=self.policy,
            store=SimStore(lambda: self.reached["founder"], Link(self.random, loss=0)),
            root=self.root,
            kek=self.kek,
            mint=self._mint,
            clock=self.clock,
            owner="founder",
        )
        for number in range(3):
            self.start(f"daemon{number}", leads=True)
        for number in range(3):
            self.start(f"app{number}", leads=False)
        self._spawned: set[asyncio.Task[None]] = set()
        try:
            await first_of(
                self._traffic(), self._look_around(), self._trouble(), self._operators(),
                self._back_up(),
            )  # fmt: skip
            if self.judge.broken is None:
                self.judge.look_at_the_end()
            if self.judge.broken:
                raise self.judge.broken
        finally:
            for process in self.processes.values():
                process.link.is_dead = True
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=1)

    # --- the fleet -------------------------------------------------------------------------------

    def start(self, name: str, *, leads: bool, kek: Kek | None = None) -> None:
        """Start a process anew, on the disk of its former self; with `kek` instead of the right one."""
        opener = None if name == "app2" else kek or self.kek
        link = Link(self.random)
        skew = self.policy.clock_skew // timedelta(milliseconds=2)
        clock = VirtualClock(self.loop, timedelta(milliseconds=self.random.randint(-skew, skew)))
        self.reached.setdefault(name, self.redis)
        hears_sealed = opener is not None and not leads
        store = SimStore(lambda: self.reached[name], link, hears_sealed=hears_sealed)
        keeps = leads or name == "app0"
        follower = Follower(
            name="sim",
            roots=self.roots,
            store=store,
            clock=clock,
            random=self.random,
            presence=Presence(
                id=f"{name}-{self.random.randrange(10**6)}",
                role="daemon" if leads else "verify" if name == "app2" else "sign",
            ),
            kek=opener,
            notice=lambda event, /, **fields: None,
            on_change=lambda _: self._took(name),
            on_release=lambda: self.leaders[name].wake.set(),  # noqa: PLW0108 - made below
            on_doubt=lambda: self.leaders[name].doubt(),  # noqa: PLW0108 - made below
            keeper=self.disks.setdefault(name, SimDisk()) if keeps else None,
            loses=lacks if leads else None,
        )
        self.leaders[name] = Leader(
            policy=self.policy,
            store=store,
            follower=follower,
            root=self.root,
            kek=self.kek,
            clock=clock,
            owner=lambda: f"{name}/{self.random.randrange(10**9)}",
            mint=self._mint,
            lease_ttl=self.lease_ttl,
            observer=_Told(self.judge),
        )
        work = [follower.run()] + ([self.leaders[name].run()] if leads else [])
        task = asyncio.ensure_future(first_of(*work))
        self.processes[name] = Process(name, link, clock, follower, task, leads, opener, self.time)

    def stop(self, process: Process) -> None:
        """As kill -9 does."""
        process.link.is_dead = True
        process.task.cancel()
        for redis in self.primaries:
            redis.drop(process.link)

    def _took(self, name: str) -> None:
        process = self.processes.get(name)
        if process and process.is_awake:
            process.took_at = self.time
            self.judge.changed(process)

    async def _mint(self, wanted: KeyWanted, kek: Kek) -> Minted:
        await asyncio.sleep(self.random.uniform(0.05, 0.5))
        private = PrivateKey.from_secret_jwk(self._ed25519(), "EdDSA")
        return Minted(
            FreshKey(wanted.kind, wanted.algorithm, private.public_jwk), kek.seal(private)
        )

    def some_kek(self) -> Kek:
        """A KEK that nobody else has."""
        return Kek.from_secret_jwk({"kty": "oct", "k": _b64(self.random.randbytes(32))})

    def _ed25519(self) -> dict[str, str]:
        secret = self.random.randbytes(32)
        public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": "Ed25519", "x": _b64(public), "d": _b64(secret)}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside everything else."""
        task = asyncio.ensure_future(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    # --- what anyone may ask -----------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Seconds since the beginning."""
        return self.loop.time()

    @property
    def calm(self) -> float:
        """Seconds of calm at the end of a run."""
        return self.minutes * 60 * (1 - TROUBLED)

    @property
    def until_calm(self) -> float:
        """Seconds until nothing goes wrong any more."""
        return max(0.0, self.minutes * 60 - self.calm - self.time)

    @property
    def primaries(self) -> list[SimRedis]:
        """All that somebody takes for the only one."""
        return list({id(each): each for each in self.reached.values()}.values())

    @property
    def ring(self) -> Ring:
        """What the one primary holds; while there are two, the one that will win."""
        data = self.redis.data
        return self.opened(data.snapshot) if data.snapshot else self.opened(self.last_snapshot)

    def opened(self, snapshot: str) -> Ring:
        """The ring in `snapshot`."""
        self.last_snapshot = snapshot
        return self._open(snapshot, self.roots)

    @property
    def four_polls(self) -> float:
        """Seconds in which a process polls four times, even if answers get lost."""
        return 4 * 1.2 * self.policy.poll_interval.total_seconds() + 4

    @property
    def least_publication(self) -> timedelta:
        """The shortest publication interval that any policy of this world has."""
        return min(policy.publication_interval for policy in self.policies)

    @property
    def is_whole(self) -> bool:
        """Whether there is one primary, which has long lost nothing."""
        return self.time - self.whole_since > self.four_polls

    def is_mended_for(self, seconds: float) -> bool:
        """Whether, for that long, there was one primary that lost nothing, and clocks were right."""
        since = max(self.whole_since, self.disturbed_at)
        return not self.stepped and self.time - since > seconds

    def living(self) -> list[Process]:
        """The processes that are up and awake."""
        return [process for process in self.processes.values() if process.is_awake]

    # --- what happens to it ------------------------------------------------------------------------

    async def _trouble(self) -> None:
        """One thing after another goes wrong, until the calm at the end of a run."""
        while self.time < self.minutes * 60 * TROUBLED:
            await asyncio.sleep(self.random.uniform(3, 30))
            await trouble.strike(self)
        await asyncio.sleep(10**9)

    async def _back_up(self) -> None:
        """Note what Redis holds, every now and then: that is what it may fall back to."""
        while True:
            self.backups = [*self.backups[-11:], self.redis.copied()]
            await asyncio.sleep(self.random.uniform(1, 15))

    async def _operators(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(40, 200))
            if self.time > self.minutes * 60 * TROUBLED:
                continue
            wanted = [Command.ROTATE, Command.ROTATE_NOW, Command.ROLLBACK, Command.CALL_OFF]
            wanted += 2 * [Command.REVOKE]
            # One static key after the other: all that are made would fill the ring.
            is_waiting = self.ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
            wanted.append(Command.RETIRE if is_waiting else Command.STATIC_CREATE)
            self.ask(self.random.choice(wanted))

    def ask(self, command: Command) -> None:
        """An operator asks for something."""
        ring, now, given = self.ring, self.clock.now(), {}
        kid = self.random.choice(ring.keys).kid if command is Command.REVOKE else ""
        if kid and self.random.random() < 0.5:
            given["drain_ms"] = str(self.random.randint(2_000, 60_000))
        if command is Command.RETIRE:
            kid = next((key.kid for key in ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)), "")
        request = Request(
            f"q{self.redis.serial}", ring.id, ring.name, ring.version, command, kid,
            "simulated", "operator", now, now + 60 * SECOND, given,
        )  # fmt: skip
        self.redis.ask(sign_request(request, self.root))

    async def _traffic(self) -> None:
        """Apps sign, and check each other's tokens."""
        while self.time < self.minutes * 60 and self.judge.broken is None:
            await asyncio.sleep(4)
            able = [p for p in self.living() if not p.leads and p.clock not in self.stepped]
            signers = [p for p in able if p.kek is self.kek]
            for process in self.random.sample(signers, min(2, len(signers))):
                self.judge.sign(process)
            shown = sorted(
                (newest[-1] for newest in self.judge.issued.values()), key=lambda t: t.expires_at
            )
            for process in able if shown else ():
                self.judge.check(process, self.random.choice(shown[-2:]))
                self.judge.check(process, self.random.choice(shown))

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(3)
            self.judge.look_around()

    def lose(self, left: Data) -> None:
        """Redis restarts with what is `left` of its data."""
        self.is_losing()
        self.redis.data = copy.deepcopy(left)
        self.redis.drop()

    def is_losing(self) -> None:
        """Something that was acknowledged is lost to whom it matters."""
        self.whole_since = self.time if len(self.primaries) == 1 else float("inf")
        self.judge.written.clear()


@contextmanager
def _each_thing_computed_once() -> Iterator[Callable[[str, PinnedRoots], Ring]]:
    """Six processes in one: what is a pure function of public bytes is not computed six times."""
    snapshots = lru_cache(256)(open_snapshot)
    documents: Callable[..., Any] = lru_cache(512)(PinnedRoots.open)
    verdicts: dict[tuple[Any, str], bool] = {}
    verifies = PublicKey.verifies

    def verified(self: PublicKey, token: str) -> bool:
        known = verdicts.get((self.jwk, token))
        if known is None:
            known = verdicts[self.jwk, token] = verifies(self, token)
        return known

    with (
        patch.object(PublicKey, "verifies", verified),
        patch.object(PinnedRoots, "open", lambda *given: documents(*given)),  # noqa: PLW0108
        patch.object(replica, "open_snapshot", snapshots),
        patch.object(testimony, "open_snapshot", snapshots),
        patch.object(compact, "read", lru_cache(1024)(compact.read)),
    ):
        yield snapshots


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
