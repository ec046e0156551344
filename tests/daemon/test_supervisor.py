"""What a supervisor hears: ready, how it is, that it lives, and when it does not (promise 7, ADR 10)."""

import asyncio
import io
import json
import math
import os
import signal
import socket
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import SystemClock
from ringkeeper.configuration import load
from ringkeeper.errors import ConfigurationError, RedisUnavailable, RingMissing
from ringkeeper.follower import Follower
from ringkeeper.policy import Policy
from ringkeeper.presence import Presence
from ringkeeper.ring import KeyKind
from ringkeeper.sealing import Kek
from ringkeeper.tasks import first_of
from ringkeeper.trust import TrustRoot
from ringkeeperd import commands
from ringkeeperd.condition import summary
from ringkeeperd.founding import found
from ringkeeperd.leader import Leader
from ringkeeperd.metrics import Metrics
from ringkeeperd.minting import WORK_WITHIN, Minted, mint, mint_aside
from ringkeeperd.own_secrets import read_secrets
from ringkeeperd.report import READY_WITHIN, Report
from ringkeeperd.service import LeadingState, RingService
from ringkeeperd.supervisor import Supervisor
from ringkeeperd.transitions import KeyWanted
from tests.plugins.candidates import Candidate, ShiftedClock, until
from tests.plugins.daemons import Site, eventually
from tests.simulator.loop import VirtualClock, VirtualLoop
from tests.simulator.redis_model import Link, SimRedis, SimStore


class Ear:
    """A supervisor: what it was told, line by line."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)
        self._lines: list[str] = []

    @property
    def lines(self) -> list[str]:
        while True:
            try:
                self._lines += self.socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return self._lines

    @property
    def states(self) -> list[str]:
        """What it was told of states, without words, clocks and signs of life."""
        others = ("STATUS=", "MONOTONIC_USEC=", "WATCHDOG=")
        return [line for line in self.lines if not line.startswith(others)]

    @property
    def status(self) -> str:
        said = [line for line in self.lines if line.startswith("STATUS=")]
        return said[-1].removeprefix("STATUS=") if said else ""


@pytest.fixture
def ear(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ear]:
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        is_abstract = getattr(request, "param", "a file") == "an abstract name"
        name = f"@{folder}" if is_abstract else f"{folder}/notify"
        heard = Ear(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield heard
        heard.socket.close()


def test_the_variables_are_taken_once_and_for_oneself_alone() -> None:
    own = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000", "OTHER": "x"}
    supervisor = Supervisor.taken_from(own)
    assert (supervisor.listens, supervisor.watchdog_every) == (True, 30.0)
    assert own == {"OTHER": "x"}
    assert not Supervisor.taken_from(own).listens
    meant = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid())}
    assert Supervisor.taken_from(dict(meant)).watchdog_every > 0
    for another in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        assert Supervisor.taken_from({**meant, **another}).watchdog_every == 0


@pytest.mark.parametrize("ear", ["a file", "an abstract name"], indirect=True)
def test_a_daemon_tells_its_supervisor_what_becomes_of_it(ear: Ear, site: Site) -> None:
    daemon = site.daemon(init=True)
    eventually(lambda: "READY=1" in ear.states)
    assert ear.states == ["READY=1"]
    eventually(lambda: "access-token: leading, version 1; d-" in ear.status)
    kid = json.loads(daemon.get("/v1/keyring")[2])["access-token"]["signer"]
    eventually(lambda: ear.status.endswith("UTC; 1 instance, 0 behind"))
    assert f"{kid[:10]}… signs until 20" in ear.status
    said = len(ear.lines)
    written = daemon.config.read_text()
    daemon.config.write_text(written.replace("60", "61"))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: ear.states == ["READY=1", "RELOADING=1", "READY=1"])
    since = ear.lines[said:]
    assert since[since.index("RELOADING=1") + 1].removeprefix("MONOTONIC_USEC=").isdigit()
    assert daemon.stop() < 2
    assert ear.states[-1] == "STOPPING=1"
    assert ear.status.startswith("stopping")


def test_a_refused_reload_ends_too_and_the_status_says_so(ear: Ear, site: Site) -> None:
    daemon = site.daemon(init=True)
    eventually(lambda: "READY=1" in ear.states)
    written = daemon.config.read_text()
    daemon.config.write_text("access_token_validity: secret-word")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: ear.states[-2:] == ["RELOADING=1", "READY=1"])
    assert "configuration rejected at the last reload" in ear.status
    assert "secret-word" not in "".join(ear.lines)
    daemon.config.write_text(written)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: "rejected" not in ear.status)


def test_the_status_is_told_when_it_changes_and_not_each_second(ear: Ear, site: Site) -> None:
    daemon = site.daemon(init=True)
    eventually(lambda: "1 instance, 0 behind" in ear.status)
    began = daemon.metric("proof_age_seconds")
    said = [line for line in ear.lines if line.startswith("STATUS=")]
    eventually(lambda: (daemon.metric("proof_age_seconds") or 0) > (began or 0) + 3)
    assert [line for line in ear.lines if line.startswith("STATUS=")] == said
    assert len(said) == len(set(said))


def test_what_fails_after_a_change_is_told_wherever_somebody_looks(ear: Ear, site: Site) -> None:
    """In constant words: commands and URLs may hold what is nobody's business."""
    works = site.folder / "works"
    script = ["sh", "-c", f"test -e {works} # t0ps3cret"]
    daemon = site.daemon(init=True, on_change={"command": script})

    def told() -> dict[str, bool]:
        health = json.loads(daemon.get("/healthz")[2])["rings"]["access-token"]["on_change"]
        places = {
            "/healthz": health,
            "/readyz": daemon.get("/readyz")[2].decode(),
            "/": daemon.get("/", Accept="text/html")[2].decode(),
            "the supervisor": ear.status,
        }
        assert "t0ps3cret" not in str(places)
        words = "on_change: what is to be done after a change fails"
        return {place: words in said for place, said in places.items()}

    eventually(lambda: all(told().values()))
    works.touch()
    eventually(lambda: not any(told().values()), within=90)


async def test_what_a_supervisor_does_not_take_is_told_again_in_its_order(ear: Ear) -> None:
    """While it is busy its queue may be full; and it waits for the end of a reload for ever."""
    ready = asyncio.Event()
    ready.set()
    ring = ring_like("r")
    ring.clock, ring.follower.ready = ShiftedClock(), ready
    reservations: list[str] = []
    log: Any = structlog.get_logger()
    report = Report(Supervisor(ear.address), {"r": ring}, lambda: reservations, log)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(report.run())
        await until(lambda: ear.states == ["READY=1"])
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crowd, suppress(BlockingIOError):
            crowd.setblocking(False)
            crowd.connect(ear.address)
            while True:
                crowd.send(b"WATCHDOG=1")
        with report.reloading():
            reservations.append("redis: eviction")
        await until(lambda: ear.states == ["READY=1", "RELOADING=1", "READY=1"])
        await until(lambda: ear.status.endswith("redis: eviction"))
        running.cancel()


def test_without_redis_it_is_ready_after_a_while_and_says_what_is_missing(
    ear: Ear, make_site: Callable[[str], Site]
) -> None:
    site = make_site("unix:///nowhere/redis.sock")
    daemon = site.daemon(is_ready=False)
    eventually(lambda: daemon.answers("/healthz"))
    assert ear.states == []
    eventually(lambda: ear.states == ["READY=1"], within=READY_WITHIN + 5)
    eventually(lambda: "Redis does not answer as it should" in ear.status)
    assert "nowhere" not in "".join(ear.lines)


def test_a_start_that_fails_tells_why_and_leaves_nothing_to_what_is_started(
    ear: Ear, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    wrong: dict[str, Any] = {f"surprise{number}": 1 for number in range(20)}
    config = site.configure(**wrong)
    with pytest.raises(ConfigurationError):
        commands.run(Namespace(config=config))
    assert ear.status.startswith(f"cannot run: {config}: ")
    assert len(ear.status) == 400
    assert [name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG"))] == []


def test_signs_of_life_are_given_by_a_real_daemon(
    ear: Ear, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    site.daemon(init=True)
    eventually(lambda: ear.lines.count("WATCHDOG=1") > 3)


def test_a_supervisor_that_does_not_listen_harms_nobody(ear: Ear, site: Site) -> None:
    ear.socket.close()
    daemon = site.daemon(init=True)
    eventually(daemon.leads)
    assert daemon.stop() < 2


# --- words -----------------------------------------------------------------------------------------


WELL = SimpleNamespace(is_failing=False)


def ring_like(name: str, trouble: str = "", error: Any = None) -> Any:
    replica = SimpleNamespace(held=None)
    follower = SimpleNamespace(replica=replica, trouble=error)
    state = LeadingState(trouble=trouble)
    return SimpleNamespace(
        name=name, follower=follower, state=state, leader=object(), handing_on=WELL
    )


def test_the_troubled_rings_come_first_and_no_error_is_quoted() -> None:
    now = ShiftedClock().now()
    well = [ring_like(f"ring{number}") for number in range(3)]
    bad = ring_like("bad", error=RedisUnavailable("redis: host.internal does not answer"))
    line = summary([*well, bad], ["redis: eviction"], now)
    assert line.startswith(
        "bad: Redis does not answer as it should | ring0: not loaded yet | ring1"
    )
    assert line.endswith(" | redis: eviction")
    assert "host.internal" not in line


# --- the watchdog ----------------------------------------------------------------------------------


class Heard(Supervisor):
    """One that notes when it was told what, by the loop's time."""

    def __init__(self, watchdog_every: float) -> None:
        super().__init__("@nobody", watchdog_every)
        self.fed: list[float] = []

    def _tell(self, *lines: str) -> bool:
        if "WATCHDOG=1" in lines:
            self.fed.append(asyncio.get_running_loop().time())
        return True


class Watched:
    """A daemon's ring on virtual time, which leads, and what its supervisor and its log hear."""

    PERIOD = 30.0
    HALF = PERIOD / 2 + 0.001

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.random = Random(1)
        self.link = Link(self.random, loss=0)
        self.redis = SimRedis(self.clock)
        self.store: Any = SimStore(lambda: self.redis, self.link)
        self.heard = Heard(self.PERIOD)
        self.log = io.StringIO()
        self.mint_hangs = False

    async def _mint(self, wanted: KeyWanted, kek: Kek) -> Minted:
        while self.mint_hangs:
            await asyncio.sleep(1)
        return mint(wanted, kek)

    async def _began(self) -> None:
        root, kek = TrustRoot.generate(), Kek.generate()
        policy = Policy.derive(algorithm="ES256", cryptoperiod=timedelta(hours=2))
        common: dict[str, Any] = {"policy": policy, "root": root, "kek": kek, "mint": self._mint}
        await found(name="r", ring_id="id", store=self.store, clock=self.clock, owner="f", **common)
        self.follower = Follower(
            name="r", roots=root.public, store=self.store, clock=self.clock, random=self.random,
            presence=Presence(id="i", role="daemon"), kek=kek, notice=lambda event, /, **fields: None,
        )  # fmt: skip
        self.leader = Leader(
            store=self.store, follower=self.follower, clock=self.clock,
            owner=lambda: f"i/{self.random.random()}", lease_ttl=timedelta(seconds=10),
            observer=_Unheard(), **common,
        )  # fmt: skip
        service: Any = SimpleNamespace(
            name="r", follower=self.follower, leader=self.leader, state=LeadingState(),
            clock=self.clock, handing_on=WELL,
        )  # fmt: skip
        log: Any = structlog.wrap_logger(
            structlog.PrintLogger(self.log), processors=[structlog.processors.JSONRenderer()]
        )
        self.report = Report(self.heard, {"r": service}, lambda: (), log)

    def run(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            await self._began()
            await first_of(self.follower.run(), self.leader.run(), self.report.run(), story())

        self.loop.run_until_complete(main())

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return self.loop.time() - self.heard.fed[-1]

    @property
    def longest_silence(self) -> float:
        fed = self.heard.fed
        return max(b - a for a, b in pairwise(fed))

    @property
    def hangs(self) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [(line["ring"], line["doing"]) for line in lines if line["event"] == "hangs"]


class _Unheard:
    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    asyncio.set_event_loop(made.loop)
    yield made
    asyncio.set_event_loop(None)
    made.loop.close()


def test_who_leads_well_gives_signs_of_life_through_many_turns(watched: Watched) -> None:
    """Turns of keys included."""

    async def story() -> None:
        await asyncio.sleep(5 * 3600)
        assert watched.follower.replica.loaded().ring.version > 2

    watched.run(story)
    assert watched.longest_silence <= watched.HALF
    assert watched.hangs == []


def test_a_ring_that_this_process_published_is_not_missing(watched: Watched) -> None:
    """Once it healed an emptied Redis nobody need wait for the next poll to say so."""

    async def story() -> None:
        await asyncio.sleep(60)
        follower, held = watched.follower, watched.follower.replica.loaded()
        follower._troubles.begin("reading", RingMissing("redis holds no such ring"))
        assert follower.trouble
        follower.take(held.snapshot, held.proof, {})
        assert follower.trouble is None

    watched.run(story)


def test_redis_being_away_for_long_is_no_hang(watched: Watched) -> None:
    async def story() -> None:
        await asyncio.sleep(60)
        watched.link.cuts += 1
        await asyncio.sleep(3 * 3600)
        assert not watched.follower.is_connected
        watched.link.cuts -= 1
        await asyncio.sleep(60)
        assert watched.follower.is_connected

    watched.run(story)
    assert watched.longest_silence <= watched.HALF
    assert watched.hangs == []


def test_turns_that_fail_while_the_lease_is_renewed_are_no_hang(watched: Watched) -> None:
    async def refused(*_: object) -> None:
        raise RedisUnavailable("redis: NOPERM")

    async def story() -> None:
        await asyncio.sleep(60)
        watched.store.roll_call = refused
        await asyncio.sleep(1800)
        assert watched.redis.holder().startswith("i/")
        del watched.store.roll_call

    watched.run(story)
    assert watched.longest_silence <= watched.HALF
    assert watched.hangs == []


def test_a_follower_that_waits_for_ever_is_named_and_no_sign_of_life_is_given(
    watched: Watched,
) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        await asyncio.sleep(60)
        watched.store.read = never
        await asyncio.sleep(30)
        assert watched.silence <= watched.HALF, "one poll is no hang"
        await asyncio.sleep(600)
        assert watched.silence > 300
        del watched.store.read

    watched.run(story)
    assert watched.hangs == [("r", "following")], "once, not at each look"


def test_a_leader_that_waits_for_ever_holds_the_lease_and_is_named(watched: Watched) -> None:
    async def story() -> None:
        await asyncio.sleep(60)
        watched.mint_hangs = True
        await asyncio.sleep(3 * 3600)
        assert watched.redis.holder().startswith("i/"), "its lease is renewed: nobody takes over"
        assert watched.silence > 1800
        watched.mint_hangs = False
        await asyncio.sleep(60)
        assert watched.silence <= watched.HALF, "who came round after all is well again"

    watched.run(story)
    assert watched.hangs == [("r", "leading")]


class SlowKek(Kek):
    """Seals once it may."""

    begun: threading.Event
    may: threading.Event

    def seal(self, private: PrivateKey) -> str:
        self.begun.set()
        self.may.wait(10)
        return super().seal(private)

    @classmethod
    def made(cls) -> "SlowKek":
        kek = cls.generate()
        assert isinstance(kek, cls)
        kek.begun, kek.may = threading.Event(), threading.Event()
        return kek


async def test_waiting_for_the_key_pairs_of_other_rings_is_no_hang(site: Site) -> None:
    """A thousand rings that are due at once share one thread; the one being made may hang."""
    configuration = load(site.configure(), {})
    own, log = read_secrets(configuration), structlog.get_logger()
    ring, metrics = configuration.rings[0], Metrics()
    service = RingService(ring, configuration, own, SystemClock(), log, metrics)
    assert service.leader
    progress, wanted = service.leader.progress, KeyWanted(KeyKind.DYNAMIC, "EdDSA")
    first, second = SlowKek.made(), SlowKek.made()
    progress.back_within(-1)
    others = asyncio.ensure_future(mint_aside(wanted, first))
    await until(first.begun.is_set)
    waiting = asyncio.ensure_future(service.leader.mint(wanted, second))
    await until(lambda: progress.overdue == -math.inf)
    first.may.set()
    await others
    await until(second.begun.is_set)
    await until(lambda: -WORK_WITHIN <= progress.overdue < 0)
    progress.back_within(-1)
    second.may.set()
    await waiting
    assert -WORK_WITHIN <= progress.overdue < 0
    await service.store.close()


async def test_a_machine_that_was_suspended_makes_nobody_late(candidates: Any) -> None:
    clock = ShiftedClock()
    candidate: Candidate = candidates("one", clock)
    await until(lambda: candidate.told.named("leading"))
    clock.uptime += timedelta(hours=8)
    await until(lambda: candidate.told.named("not_leading"))
    assert candidate.follower.progress.overdue < 0
    assert candidate.leader.progress.overdue < 0
