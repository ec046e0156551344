"""The simulator's model of Redis and real servers: the same operations, the same answers."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from ringkeeper.clock import SystemClock
from ringkeeperd.leader_store import Acquired, Edition, Entry, HeldByAnother, RedisLeaderStore
from tests.plugins.examples import examples
from tests.plugins.servers import Server
from tests.simulator.redis_model import SimRedis

TTL = timedelta(minutes=5)
WINDOW = timedelta(hours=1)
OWNERS = st.sampled_from(["a", "b", "c"])
KIDS = ["k1", "k2", "k3"]
SOME = st.frozensets(st.sampled_from(KIDS))
SMALL = st.integers(0, 4)
MOSTLY = st.sampled_from([True, True, True, False])
"""Most of what is done should be what a leader does."""


class ManualClock:
    """A clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.time = SystemClock().now()

    def now(self) -> datetime:
        return self.time

    def timestamp(self) -> float:
        return self.now().timestamp()


class Agreement(RuleBasedStateMachine):
    """Whatever is done, in whatever order: both sides answer alike, and hold the same."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        clock: Any = ManualClock()
        self.clock = clock
        self.model = SimRedis(clock)
        self.store = RedisLeaderStore.connect(self.server.url, "m", SystemClock(), password=None)
        self.client = self.server.client()
        self.client.flushall()
        self.entries: list[tuple[str, str]] = []

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
        self.client.close()

    def do(self, awaited: Any) -> Any:
        """What the real server answers."""
        return self.loop.run_until_complete(awaited)

    def owner(self, is_holder: bool) -> str:
        """Who has the lease, taken now if need be; or somebody else."""
        if is_holder and not self.model.holder():
            self.acquire("a", 0)
        return (is_holder and self.model.holder()) or "x"

    def counted(self) -> int:
        """The epoch that is stored, if it is a number."""
        return int(self.model.data.epoch) if self.model.data.epoch.isdigit() else 0

    # --- operations ------------------------------------------------------------------------------

    @rule(owner=OWNERS, seen=SMALL)
    def acquire(self, owner: str, seen: int) -> None:
        told, real = (
            self.model.acquire(owner, TTL, seen),
            self.do(self.store.acquire(owner, TTL, seen)),
        )
        assert type(told) is type(real)
        if isinstance(told, Acquired):
            assert real == Acquired(told.epoch, real.redis_now)
        else:
            assert isinstance(real, HeldByAnother)
            assert timedelta(0) < real.remaining <= TTL
        self.compare()

    @rule(owner=OWNERS)
    def renew(self, owner: str) -> None:
        told, real = self.model.renew(owner, TTL), self.do(self.store.renew(owner, TTL))
        assert (told is None) == (real is None)
        self.compare()

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        self.model.release(owner)
        self.do(self.store.release(owner))
        self.compare()

    @rule(
        is_owner=MOSTLY,
        is_expected=MOSTLY,
        later=st.integers(-1, 1),
        put=SOME,
        kept=SOME,
        is_again=st.booleans(),
    )
    def publish(
        self,
        is_owner: bool,
        is_expected: bool,
        later: int,
        put: frozenset[str],
        kept: frozenset[str],
        is_again: bool,
    ) -> None:
        version = int(self.model.data.version)
        expected = self.model.data.snapshot if is_expected else "another"
        content = "x" if is_again else str(len(self.model.data.events))
        edition = Edition(
            version=version + (0 if is_again else 1),
            epoch=max(0, self.counted() + later),
            snapshot=f"s{version} {content}",
            proof=f"p{version}",
            put={kid: f"{kid} of {version}" for kid in put},
            kept=kept,
            events=(f"e{version}",),
        )
        owner = self.owner(is_owner)
        told = self.model.publish(owner, expected, edition)
        assert self.do(self.store.publish(owner, expected, edition)) == told
        self.compare()

    @rule(put=SOME)
    def lead(self, put: frozenset[str]) -> None:
        """What goes right as a rule: the lease is had, the next version is published."""
        self.acquire("a", 0)
        if self.model.holder() == "a":
            self.publish(True, True, 0, put, put | {"k1"}, False)

    @rule(
        is_owner=MOSTLY,
        ahead=st.sampled_from([0, 0, 0, -1, 1]),
        kids=SOME,
        is_right=MOSTLY,
        is_same=MOSTLY,
    )
    def prove(
        self, is_owner: bool, ahead: int, kids: frozenset[str], is_right: bool, is_same: bool
    ) -> None:
        there = self.model.data.sealed
        sealed = {kid: there.get(kid, "") if is_same else "another" for kid in sorted(kids)}
        version = int(self.model.data.version) + ahead
        snapshot = self.model.data.snapshot if is_right else "another"
        given = (self.owner(is_owner), version, snapshot, f"proof {ahead}", sealed)
        assert self.do(self.store.prove(*given)) == self.model.prove(*given)
        self.compare()

    @rule(name=st.sampled_from(["i1", "i2"]), version=SMALL)
    def confirm(self, name: str, version: int) -> None:
        record = f'{{"role":"sign","epoch":1,"version":{version},"keks":["k"],"roots":["r"]}}'
        self.model.confirm(name, record)
        self.do(self.store.confirm(name, record))
        self.compare()

    @rule(owner=st.sampled_from(["a", "b"]))
    def call_the_roll(self, owner: str) -> None:
        real = self.do(self.store.roll_call(owner, WINDOW))
        assert real.is_whole == self.model.roll_call(owner, WINDOW).is_whole
        self.compare()

    @rule()
    def lose_the_instances(self) -> None:
        self.model.data.instances, self.model.data.mark = {}, ""
        self.client.delete(self.store.layout.instances, self.store.layout.seen)
        self.compare()

    @rule(name=st.sampled_from(["i1", "i2"]))
    def forget(self, name: str) -> None:
        self.model.data.instances.pop(name, None)
        self.do(self.store.forget(name))
        self.compare()

    @rule(text=st.sampled_from("pq"))
    def ask(self, text: str) -> None:
        self.model.ask(text)
        self.entries.append((self.do(self.store.ask(text)), str(self.model.serial)))
        self.compare()

    @rule(which=st.integers(0, 5))
    def withdraw(self, which: int) -> None:
        if which < len(self.entries):
            real, told = self.entries[which]
            there = self.model.data.requests.pop(told, None) is not None
            assert self.do(self.store.withdraw(real)) == there
        self.compare()

    @rule(which=st.integers(0, 5), is_owner=MOSTLY, event=st.sampled_from(["", "r1", "r2"]))
    def answer(self, which: int, is_owner: bool, event: str) -> None:
        if which < len(self.entries):
            (real, told), owner = self.entries[which], self.owner(is_owner)
            given = self.do(self.store.tell(owner, event, Entry(real, "")))
            assert given == self.model.tell(owner, event, told)
        self.compare()

    @rule()
    def look_at_events(self) -> None:
        newest = tuple(reversed(self.model.data.events[-20:]))
        found = self.do(self.store.newest_events(20))
        assert tuple(entry.document for entry in found) == newest

    @rule(text=st.sampled_from(["w1", "w2"]))
    def testify(self, text: str) -> None:
        self.model.testify(text)
        self.do(self.store.testify(text, WINDOW))
        self.compare()

    @rule(is_owner=MOSTLY, text=st.sampled_from(["w1", "w2"]))
    def hear(self, is_owner: bool, text: str) -> None:
        owner = self.owner(is_owner)
        self.model.heard(owner, text)
        self.do(self.store.heard(owner, text))
        self.compare()

    # --- what befalls a server -------------------------------------------------------------------

    @rule()
    def hours_pass(self) -> None:
        """Leases run out, and who was not heard of is not live any more."""
        self.clock.time += 2 * WINDOW
        self.client.delete(self.store.layout.lease)
        seen: Any = self.client.zrange(self.store.layout.seen, 0, -1, withscores=True)
        for name, score in seen:
            earlier = score - 2 * WINDOW / timedelta(milliseconds=1)
            self.client.zadd(self.store.layout.seen, {name: earlier})
            if not name:  # the leader's mark says when it was set, too
                _, _, owner = str(self.client.hget(self.store.layout.instances, "")).partition(" ")
                self.client.hset(self.store.layout.instances, "", f"{earlier:.0f} {owner}")
        self.compare()

    @rule(stored=st.sampled_from(["", "0", "3", "inf", "-1", "9" * 17, "1000001", "2000000"]))
    def somebody_writes_the_epoch(self, stored: str) -> None:
        self.model.data.epoch = stored
        self.client.set(self.store.layout.epoch, stored)
        self.compare()

    @rule()
    def everything_is_lost(self) -> None:
        self.model.data = type(self.model.data)()
        self.entries.clear()
        self.client.flushall()
        self.compare()

    # --- what both hold --------------------------------------------------------------------------

    def stream(self, name: str) -> list[Any]:
        found: Any = self.client.xrange(name)
        return list(found)

    def compare(self) -> None:
        data, layout = self.model.data, self.store.layout
        stored = self.do(self.store.read())
        assert (stored.snapshot, stored.proof, stored.version) == (
            data.snapshot,
            data.proof,
            data.version,
        )
        assert self.client.hgetall(layout.sealed) == data.sealed
        assert (self.client.get(layout.lease) or "") == self.model.holder()
        assert (self.client.get(layout.epoch) or "") == data.epoch
        told = [fields["event"] for _, fields in self.stream(layout.events)]
        assert told == data.events
        asked = [fields["request"] for _, fields in self.stream(layout.requests)]
        assert asked == list(data.requests.values())
        assert self.do(self.store.testimony()) == data.witness
        real = {i.id: (i.role, i.epoch, i.version) for i in self.do(self.store.instances(WINDOW))}
        live = {i.id: (i.role, i.epoch, i.version) for i in self.model.live(WINDOW)}
        assert real == live


@pytest.mark.hypothesis
def test_the_model_and_a_real_server_agree(any_server: Server) -> None:
    machine = type("Machine", (Agreement,), {"server": any_server})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(50),
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
