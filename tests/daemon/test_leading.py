"""One leader on a real server, in this process: with another clock, and when the unforeseen comes."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from ringkeeper import policy
from ringkeeper.clock import SystemClock
from ringkeeper.errors import ClocksApart, RedisUnavailable, RequestRefused, RingLed
from ringkeeper.follower import Follower
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.testimony import Testimony as Shown  # pytest takes a Test… for a test
from ringkeeper.trust import TrustRoot, root_of
from ringkeeper.wire import (
    Command,
    Request,
    open_event,
    open_proof,
    open_snapshot,
    sign_request,
    sign_snapshot,
)
from ringkeeperd import leader
from ringkeeperd.founding import found
from ringkeeperd.leader_store import Edition, RedisLeaderStore, Written
from ringkeeperd.minting import mint_aside
from ringkeeperd.transitions import KeyWanted
from tests.plugins import rings
from tests.plugins.candidates import TTL, Candidate, ShiftedClock, request, told_in_audit, until
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

FIRST_HEARS = "a new leader first hears of every live instance"


@pytest.fixture
def tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could not lead comes back after a moment; nobody else is given the time."""
    monkeypatch.setattr(leader, "_RETRY_MOST", 0.1)


async def test_a_leader_whose_clock_is_off_gives_way_to_one_whose_is_not(
    led: LedRing, candidates: Any
) -> None:
    wrong = candidates("wrong", ShiftedClock(timedelta(hours=1)))
    await until(lambda: wrong.told.named("cannot_lead"))
    right = candidates("right")
    await until(lambda: right.told.named("leading"))
    assert isinstance(wrong.told.named("cannot_lead")[0], ClocksApart)
    with led.server.client() as client:
        proof = open_proof(client.hget(led.layout.keyring, "proof"), led.root.public)
    assert abs(proof.at - SystemClock().now()) < timedelta(minutes=1)
    assert right.told.named("cannot_lead") == []


@pytest.mark.usefixtures("tries_again_soon")
async def test_where_nobody_takes_its_place_it_goes_on_proving_but_turns_nothing(
    led: LedRing, candidates: Any
) -> None:
    """Redis' own clock may be the wrong one: that must not stop apps from signing."""
    clock = ShiftedClock(timedelta(minutes=-10))
    alone = candidates("alone", clock)
    await until(lambda: len(alone.told.named("leading")) >= 2)
    await until(lambda: alone.told.named("waiting"))
    assert "clock" in alone.told.named("waiting")[0].why
    assert len(alone.told.named("cannot_lead")) == 1
    # And now and then it asks again whether there is anybody with a better clock.
    clock.uptime += led.policy.max_staleness / 3
    await until(lambda: len(alone.told.named("cannot_lead")) == 2)


@pytest.mark.usefixtures("tries_again_soon")
@pytest.mark.parametrize("by", [timedelta(seconds=-70), timedelta(seconds=70)])
async def test_a_key_made_in_an_emergency_by_a_wrong_clock_waits_no_shorter(
    valkey: Server,
    make_ring: Any,
    candidates_of: Any,
    by: timedelta,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By either clock: once the wrong one is set right, the key is not ready too soon."""
    monkeypatch.setattr(rings, "_CLOCK", ShiftedClock(timedelta(seconds=-40)))
    led = make_ring(valkey)
    alone = candidates_of(led)("alone", ShiftedClock(by))
    await until(lambda: len(alone.told.named("leading")) >= 2)
    await alone.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))

    def published() -> Ring:
        with led.server.client() as client:
            return open_snapshot(client.hget(led.layout.keyring, "snapshot"), led.root.public)

    await until(lambda: published().version > led.ring.version)
    ring, now = published(), SystemClock().now()
    assert ring.standby
    waits = ring.standby.ready_at - now
    assert waits >= led.policy.publication_interval - timedelta(seconds=10)
    assert waits <= led.policy.publication_interval + abs(by)


@pytest.mark.usefixtures("tries_again_soon")
async def test_a_clock_that_is_stepped_back_takes_no_proof_back(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apps that start then would find a ring that is too old."""
    monkeypatch.setattr(policy, "_LONGEST_PROOF_INTERVAL", timedelta(milliseconds=50))
    clock = ShiftedClock()
    candidate = candidates("a", clock)
    await until(lambda: candidate.told.named("waiting"))
    former = candidate.follower.replica.held.proof_at
    clock.by = timedelta(hours=-2)
    await until(lambda: len(candidate.told.named("leading")) >= 2)  # it gave way, to nobody
    waits = len(candidate.told.named("waiting"))
    await until(lambda: len(candidate.told.named("waiting")) > waits + 2)
    with led.server.client() as client:
        proof = open_proof(client.hget(led.layout.keyring, "proof"), led.root.public)
    assert proof.at >= former


@pytest.mark.usefixtures("tries_again_soon")
async def test_a_clock_that_is_ahead_signs_no_proof_for_the_future(
    led: LedRing, candidates: Any
) -> None:
    ahead = candidates("ahead", ShiftedClock(timedelta(days=300)))
    await until(lambda: len(ahead.told.named("leading")) >= 2)
    await until(lambda: ahead.told.named("waiting"))
    with led.server.client() as client:
        proof = open_proof(client.hget(led.layout.keyring, "proof"), led.root.public)
    assert abs(proof.at - SystemClock().now()) < timedelta(minutes=1)


async def test_a_clock_that_is_stepped_between_two_looks_at_redis_removes_and_adopts_nothing(
    led: LedRing, candidates: Any
) -> None:
    former = led.signer.kid
    led.turn()
    clock = ShiftedClock()
    candidate = candidates("a", clock)
    await until(lambda: candidate.told.named("waiting"))
    version = led.ring.version
    clock.by = timedelta(days=3)
    candidate.leader.change_policy(replace(led.policy, access_token_validity=timedelta(hours=2)))
    await until(lambda: candidate.told.named("waiting")[-1].why)
    assert candidate.follower.replica.held.ring.version == version
    assert candidate.follower.replica.held.ring.key(former)
    revoke = Request(
        id="now",
        ring_id=led.ring.id,
        name=led.name,
        version=version,
        command=Command.REVOKE,
        kid=led.signer.kid,
        reason="",
        by="alice",
        at=SystemClock().now(),
        until=SystemClock().now() + timedelta(seconds=10),
    )
    await candidate.store.ask(sign_request(revoke, led.root))
    await until(lambda: candidate.follower.replica.held.ring.version == version + 1)
    ring = candidate.follower.replica.held.ring
    assert ring.signer.kid == led.standby.kid, "an emergency does not wait for the clocks"
    assert ring.standby.published_at < SystemClock().now() + timedelta(minutes=1)


@pytest.mark.usefixtures("tries_again_soon")
async def test_what_nobody_thought_of_ends_a_term_and_not_the_daemon(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    roll_call = RedisLeaderStore.roll_call

    async def once(self: RedisLeaderStore, owner: str, window: timedelta) -> Any:
        monkeypatch.setattr(RedisLeaderStore, "roll_call", roll_call)
        raise ZeroDivisionError

    monkeypatch.setattr(RedisLeaderStore, "roll_call", once)
    candidate = candidates("a")
    await until(lambda: len(candidate.told.named("leading")) >= 2)
    assert [type(error) for error in candidate.told.named("broken")] == [ZeroDivisionError]


@pytest.mark.parametrize(
    ("score", "record"),
    [
        ("+inf", "{}"),
        ("1e300", '{"epoch":1,"version":1,"role":"app"}'),
        ("1e15", '{"epoch":1e999,"version":1,"role":"app"}'),
        ("1e15", "[" * 900),
        ("1e15", "x" * 100_000),
    ],
)
async def test_a_row_of_nonsense_in_the_table_of_instances_harms_nobody(
    led: LedRing, candidates: Any, score: str, record: str
) -> None:
    with led.server.client() as client:
        client.execute_command("ZADD", led.layout.seen, score, "x" * 500)
        client.hset(led.layout.instances, "x" * 500, record)
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    assert candidate.told.named("broken") == []


@pytest.mark.parametrize("stored", ["9" * 17, "inf", "nan", "-5", "1e9", "epoch", "7000000"])
async def test_an_epoch_that_anyone_may_have_written_is_not_counted_on_from(
    led: LedRing, candidates: Any, stored: str
) -> None:
    with led.server.client() as client:
        client.set(led.layout.epoch, stored)
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    assert all(0 < epoch < 10 for epoch in candidate.told.named("leading"))
    led.ring = candidate.follower.replica.held.ring


async def test_a_lost_count_of_epochs_does_not_bring_old_ones_back(
    led: LedRing, candidates: Any
) -> None:
    for _ in range(3):
        led.turn()
    before = led.ring.epoch
    with led.server.client() as client:
        client.delete(led.layout.epoch)
    candidate = candidates("a")
    await until(lambda: candidate.told.named("leading"))
    assert candidate.told.named("leading")[0] > before


async def test_a_request_that_was_withheld_is_not_carried_out_later(
    led: LedRing, candidates: Any
) -> None:
    """The version is still the one it was made for; only its time is over."""
    now = SystemClock().now()
    made = now - led.policy.clock_skew - timedelta(seconds=20)
    late = Request(
        id="late",
        ring_id=led.ring.id,
        name=led.name,
        version=led.ring.version,
        command=Command.REVOKE,
        kid=led.signer.kid,
        reason="",
        by="alice",
        at=made,
        until=made + timedelta(seconds=10),
    )
    candidate = candidates("a")
    await candidate.store.ask(sign_request(late, led.root))
    await until(lambda: candidate.told.named("refused"))
    refused = candidate.told.named("refused")[0]
    assert "came too late" in refused.fields["why"]
    assert candidate.follower.replica.held.ring.key(led.signer.kid).may_verify
    with led.server.client() as client:
        (_, fields), *_ = client.xrevrange(led.layout.events, count=1)
    assert open_event(fields["event"], led.root.public).fields["request"] == "late"


def held(candidate: Candidate) -> Ring:
    ring: Ring = candidate.follower.replica.loaded().ring
    return ring


async def test_a_leader_proves_its_version_again_and_again_and_changes_nothing_else(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "_LONGEST_PROOF_INTERVAL", timedelta(milliseconds=100))
    proofs = [open_proof(led.proof, led.root.public)]
    candidate = candidates("a")

    def has_another() -> bool:
        with led.server.client() as client:
            proof = open_proof(client.hget(led.layout.keyring, "proof"), led.root.public)
        if proof != proofs[-1]:
            proofs.append(proof)
        return len(proofs) > 3

    await until(has_another)
    assert {(p.version, p.epoch) for p in proofs} == {(led.ring.version, led.ring.epoch)}
    ages = [later.at - earlier.at for earlier, later in pairwise(proofs[1:])]
    assert min(ages) > timedelta(milliseconds=50), "and no more often than it has to"
    assert len(candidate.told.named("leading")) == 1
    assert candidate.told.named("changed") == []


async def test_a_leader_has_its_own_word_even_if_no_message_comes_back_to_it(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages would call a ring stale that it has just proved, and its next term decide on it."""

    async def is_deaf(self: Follower) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(policy, "_LONGEST_PROOF_INTERVAL", timedelta(milliseconds=50))
    monkeypatch.setattr(Follower, "_listen", is_deaf)
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    former = candidate.follower.replica.held.proof_at
    await until(lambda: candidate.follower.replica.held.proof_at > former)


async def test_a_new_leader_activates_nothing_before_every_live_instance_had_time_to_be_heard(
    led: LedRing, candidates: Any
) -> None:
    """The table may have been lost with the former leader: an empty one confirms nothing."""
    led.rotate()
    began = SystemClock().now()
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    wait = candidate.told.named("waiting")[0]
    assert wait.why == FIRST_HEARS
    assert wait.when >= began + led.policy.liveness_window
    assert candidate.told.named("changed") == []


def sees_an_instance(candidate: Candidate) -> bool:
    """Whether it was among those that were heard of, when it was made to look."""
    candidate.leader.wake.set()
    return bool(candidate.told.instances)


async def test_a_leader_whose_table_of_instances_is_lost_hears_of_every_live_instance_again(
    valkey: Server, make_ring: Any, candidates_of: Any
) -> None:
    """In mid-term, too: whoever is missing from the table may be live, and lack the next key."""
    led = make_ring(valkey, poll_interval=timedelta(seconds=10))
    clock = ShiftedClock()
    candidate = candidates_of(led)("a", clock)
    await until(lambda: sees_an_instance(candidate))
    clock.by = led.policy.liveness_window + timedelta(seconds=1)
    with led.server.client() as client:
        client.delete(led.layout.instances, led.layout.seen)
    lost_at = clock.now()
    await candidate.store.ask(request(led, Command.ROTATE))
    await until(lambda: held(candidate).version > led.ring.version)
    await until(lambda: candidate.told.calls[-1][0] == "waiting")
    wait = candidate.told.named("waiting")[-1]
    assert wait.why == FIRST_HEARS
    assert wait.when >= lost_at + led.policy.liveness_window
    signer = held(candidate).signer
    assert signer
    assert signer.kid == led.signer.kid


async def test_a_request_that_was_answered_and_is_put_back_moves_nothing(
    valkey: Server, make_ring: Any, candidates_of: Any
) -> None:
    """Whoever may write to Redis cannot turn the keys with what an operator once asked for."""
    led = make_ring(valkey, poll_interval=timedelta(milliseconds=20))
    candidate = candidates_of(led)("a")
    await until(lambda: candidate.told.named("waiting"))
    entry = request(led, Command.ROTATE)
    await candidate.store.ask(entry)
    await until(lambda: held(candidate).version == led.ring.version + 2)
    turned = held(candidate)
    assert turned.signer == turned.key(led.standby.kid)
    await candidate.store.ask(entry)
    await until(lambda: candidate.told.named("refused"))
    (refused,) = candidate.told.named("refused")
    assert refused.fields["why"] == "decided on version 1, the ring is at 3; look again"
    with led.server.client() as client:
        await until(lambda: client.xlen(led.layout.requests) == 0)
    assert held(candidate) == turned


@pytest.mark.parametrize("other", [{"ring_id": "another"}, {"name": "refresh"}])
async def test_a_request_for_another_ring_is_refused(
    led: LedRing, candidates: Any, other: dict[str, str]
) -> None:
    """One trust root may sign for many rings, and for one that was given up long ago."""
    candidate = candidates("a")
    await candidate.store.ask(request(led, Command.REVOKE, kid=led.signer.kid, **other))
    await until(lambda: candidate.told.named("refused"))
    assert candidate.told.named("refused")[0].fields["why"] == "the request is for another ring"
    assert held(candidate) == led.ring


async def test_a_leader_that_cannot_renew_its_lease_stops_before_another_may_begin(
    own_server: Any, make_ring: Any, candidates_of: Any
) -> None:
    server = own_server()
    candidate = candidates_of(make_ring(server))("a")
    await until(lambda: candidate.told.named("waiting"))
    server.kill()
    await until(lambda: candidate.told.named("not_leading"), within=TTL.total_seconds())
    assert "could not be renewed in time" in candidate.told.named("not_leading")[0]


def loses_replies(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, then: Callable[[], Any] = lambda: None
) -> None:
    """The next publication is made, and then its reply is lost."""
    publish = RedisLeaderStore.publish

    async def once(self: RedisLeaderStore, owner: str, expected: str, edition: Edition) -> Any:
        monkeypatch.setattr(RedisLeaderStore, "publish", publish)
        assert isinstance(await publish(self, owner, expected, edition), Written)
        then()
        raise RedisUnavailable("the reply was lost")

    monkeypatch.setattr(RedisLeaderStore, "publish", once)


@pytest.mark.parametrize("is_fenced", [False, True], ids=["in one term", "by the next term"])
async def test_a_publication_whose_reply_was_lost_is_told_once_and_its_operator_not_refused(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch, is_fenced: bool
) -> None:
    """Promise 12, and an operator who is told no by mistake revokes another key."""
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    with led.server.client() as client:
        if is_fenced:
            loses_replies(monkeypatch, candidate, lambda: client.delete(led.layout.lease))
        else:
            loses_replies(monkeypatch, candidate)
        await candidate.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
        await until(lambda: client.xlen(led.layout.requests) == 0)
    await until(lambda: len(candidate.told.named("leading")) == 1 + is_fenced)
    # And what comes next is told, too: nothing of the former is left over.
    await candidate.store.ask(
        request(led, Command.REVOKE, id="next", version=2, kid=led.standby.kid)
    )
    await until(lambda: held(candidate).version >= 3)
    await until(lambda: len(candidate.told.named("changed")) == held(candidate).version - 1)
    changed = [ring.version for ring in candidate.told.named("changed")]
    assert changed == list(range(2, 2 + len(changed)))
    assert candidate.told.named("refused") == []
    revoked = [e.fields["request"] for e in told_in_audit(led) if e.event == "key revoked"]
    assert revoked == ["asked", "next"]


async def test_a_publication_that_was_lost_with_its_reply_is_made_again_and_told_once(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told of what did not happen, and the operator's request still counts."""
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    publish = RedisLeaderStore.publish

    async def never_arrives(self: RedisLeaderStore, *given: Any) -> Any:
        monkeypatch.setattr(RedisLeaderStore, "publish", publish)
        raise RedisUnavailable("not even sent")

    monkeypatch.setattr(RedisLeaderStore, "publish", never_arrives)
    await candidate.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    with led.server.client() as client:
        await until(lambda: client.xlen(led.layout.requests) == 0)
    ring = held(candidate)
    assert candidate.told.named("changed") == [ring]
    assert [key.kid for key in ring.in_state(KeyState.REVOKED)] == [led.signer.kid]
    assert len(candidate.told.named("failed")) == 1
    assert candidate.told.named("refused") == []


async def test_a_flood_of_garbage_requests_holds_up_no_proof_and_is_told_once(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone who may write to Redis may write into the stream."""
    monkeypatch.setattr(policy, "_LONGEST_PROOF_INTERVAL", timedelta(milliseconds=50))
    monkeypatch.setattr(RedisLeaderStore, "tell", _slowly(RedisLeaderStore.tell))
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    with led.server.client() as client, client.pipeline() as pipeline:
        for number in range(300):
            pipeline.xadd(led.layout.requests, {"request": f"garbage {number}"})
        pipeline.execute()
        await until(lambda: candidate.told.named("refused"))
        proofs = {client.hget(led.layout.keyring, "proof")}

        def goes_on() -> bool:
            proofs.add(client.hget(led.layout.keyring, "proof"))
            return len(proofs) > 3

        await until(goes_on)
        assert client.xlen(led.layout.requests) > 100, "they are far from being answered"
        # An operator is heard among them, and they all go in the end.
        await candidate.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
        await until(lambda: client.xlen(led.layout.requests) == 0)
    assert held(candidate).version >= 2
    assert len(candidate.told.named("refused")) == 1
    assert [e.event for e in told_in_audit(led)].count("request refused") == 1


async def test_more_requests_than_are_answered_in_a_turn_are_all_answered_without_another_event(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RedisLeaderStore, "tell", _slowly(RedisLeaderStore.tell))
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    with led.server.client() as client, client.pipeline() as pipeline:
        for number in range(100):
            pipeline.xadd(led.layout.requests, {"request": f"garbage {number}"})
        pipeline.execute()
        await until(lambda: client.xlen(led.layout.requests) == 0, within=5)


def _slowly(tell: Any) -> Any:
    async def slowly(self: RedisLeaderStore, *given: Any) -> Any:
        await asyncio.sleep(0.002)  # a slow server
        return await tell(self, *given)

    return slowly


# --- what a witness knows ------------------------------------------------------------------------


def shown(led: LedRing, **sealed: str) -> Shown:
    """What a witness of the ring as `led` knows it has to show, with some sealed keys replaced."""
    return Shown(led.snapshot, led.proof, {**led.sealed, **sealed})


def lose_all(led: LedRing, testimony: Shown) -> None:
    """Redis is empty, and a witness has spoken."""
    with led.server.client() as client:
        client.flushall()
        client.set(led.layout.witness, testimony.encode())


@pytest.mark.parametrize("lost", ["instances", "seen"])
async def test_a_lost_table_that_others_are_in_again_is_noticed_all_the_same(
    valkey: Server, make_ring: Any, candidates_of: Any, lost: str
) -> None:
    """One who confirmed nothing was waited for: it is no reason to pass over it that it is gone."""
    led = make_ring(valkey, poll_interval=timedelta(seconds=10))
    clock = ShiftedClock()
    candidate = candidates_of(led)("a", clock)
    await until(lambda: sees_an_instance(candidate))
    clock.by = led.policy.liveness_window + timedelta(seconds=1)
    await candidate.store.confirm("stuck", '{"role":"sign","epoch":0,"version":0}')
    await candidate.store.ask(request(led, Command.ROTATE))

    def awaits_the_stuck_one() -> bool:
        candidate.leader.wake.set()
        return bool(candidate.told.named("waiting")[-1].awaiting == ("stuck",))

    await until(awaits_the_stuck_one)
    with led.server.client() as client:
        client.delete(getattr(led.layout, lost))
    ring = held(candidate)
    other = f'{{"role":"sign","epoch":{ring.epoch},"version":{ring.version}}}'
    await candidate.store.confirm("other", other)
    candidate.leader.wake.set()
    await until(lambda: candidate.told.named("waiting")[-1].awaiting != ("stuck",))
    assert candidate.told.named("waiting")[-1].why == FIRST_HEARS
    signer = held(candidate).signer
    assert signer
    assert ring.signer
    assert signer.kid == ring.signer.kid


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_ring_is_not_rewrapped_by_a_table_that_was_lost(
    valkey: Server, make_ring: Any, candidates_of: Any, is_lost: bool
) -> None:
    """Who could not follow is not in it any more, and lives."""
    led = make_ring(valkey, poll_interval=timedelta(seconds=10))
    clock = ShiftedClock()
    candidate = candidates_of(led)("a", clock)
    await until(lambda: sees_an_instance(candidate))
    clock.by = led.policy.liveness_window + timedelta(seconds=1)
    kek = Kek.generate().joined(led.kek)
    await candidate.follower.change_secrets(led.root.public, kek)
    candidate.leader.change_secrets(led.root, kek)
    candidate.follower._confirmed = None  # as its next poll does
    candidate.follower._wanted.set()

    def is_told() -> bool:
        candidate.leader.wake.set()
        return any(kek.kid in instance.keks for instance in candidate.told.instances)

    await until(is_told)
    await until(lambda: not candidate.leader.wake.is_set())
    await asyncio.sleep(0.2)  # it rests now, and looks again when it is asked
    if is_lost:
        with led.server.client() as client:
            client.delete(led.layout.instances, led.layout.seen)
    await candidate.store.ask(request(led, Command.REWRAP))
    if is_lost:
        await until(lambda: candidate.told.named("refused"))
        assert "lost the table of instances" in candidate.told.named("refused")[-1].fields["why"]
        assert held(candidate).kek == led.kek.kid
    else:
        await until(lambda: held(candidate).kek == kek.kid)


async def test_no_crowd_in_the_table_hides_that_it_is_whole(valkey: Server) -> None:
    """Else whoever writes there once keeps every key from turning, for most of a day."""
    store = RedisLeaderStore.connect(valkey.url, "r", SystemClock(), password=None)
    window = timedelta(milliseconds=10)
    assert not (await store.roll_call("me", window)).is_whole
    with valkey.client() as client:
        (now, _), crowd = client.time(), [f"x{number}" for number in range(20_001)]
        client.hset(store.layout.instances, mapping=dict.fromkeys(crowd, "{}"))
        for ahead in (0, 86_300_000):
            client.zadd(store.layout.seen, dict.fromkeys(crowd, now * 1000 + ahead))
            assert (await store.roll_call("me", window)).is_whole
        # Of the mark's own score, too.
        score = client.zscore(store.layout.seen, "")
        client.zadd(store.layout.seen, dict.fromkeys(crowd, score))
        assert (await store.roll_call("me", window)).is_whole
        assert not (await store.roll_call("you", window)).is_whole
        for key in (store.layout.instances, store.layout.seen):
            assert (await store.roll_call("you", window)).is_whole
            client.delete(key)
            assert not (await store.roll_call("you", window)).is_whole
        await asyncio.sleep(11 * window.total_seconds())
        assert (await store.roll_call("you", window)).is_whole, "long after it was looked at"
    await store.close()


@pytest.mark.usefixtures("tries_again_soon")
async def test_a_ring_whose_root_is_lost_is_taken_over_once_nobody_can_be_left_behind(
    valkey: Server, make_ring: Any, candidates_of: Any
) -> None:
    """Not before everybody had time to be heard, nor while nobody is: they pin its root alone."""
    led = make_ring(valkey, poll_interval=timedelta(seconds=10))
    clock, root = ShiftedClock(), TrustRoot.generate()
    candidate = candidates_of(led)("a", clock, root)

    async def is_still_refused() -> None:
        before = len(candidate.told.named("cannot_lead"))
        await until(lambda: len(candidate.told.named("cannot_lead")) > before + 2)
        assert "whose private half this daemon does not have" in str(
            candidate.told.named("cannot_lead")[-1]
        )

    with led.server.client() as client:
        await until(lambda: client.exists(led.layout.instances))
        await is_still_refused()
        window = led.policy.liveness_window + timedelta(seconds=1)
        client.delete(led.layout.instances, led.layout.seen)
        clock.uptime = window
        await is_still_refused()
        # Nor when the table is lost as the wait is nearly over: it is waited for anew.
        candidate.follower._confirmed = None
        candidate.follower._wanted.set()
        await until(lambda: client.hlen(led.layout.instances) > 1)
        clock.uptime = 2 * window
        client.delete(led.layout.instances, led.layout.seen)
        app = {"role": "verify", "epoch": 1, "version": 1, "roots": [root.kid]}
        await candidate.store.confirm("app", json.dumps(app))
        await is_still_refused()
        assert root_of(client.hget(led.layout.keyring, "snapshot")) == led.root.kid
        candidate.follower._confirmed = None  # as its next poll does
        candidate.follower._wanted.set()
        clock.uptime = 4 * window
        await until(lambda: candidate.told.named("leading"))
        assert root_of(client.hget(led.layout.keyring, "snapshot")) == root.kid


async def test_what_a_dropped_root_signed_is_not_known_any_more(
    led: LedRing, candidates: Any
) -> None:
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    assert candidate.leader.known()
    replica = candidate.follower.replica
    candidate.follower.replica = replace(replica, roots=TrustRoot.generate().public)
    assert candidate.leader.known() == []


async def test_a_leader_that_knows_nothing_heals_from_a_witness_and_counts_on_from_its_epoch(
    led: LedRing, candidates: Any
) -> None:
    """An epoch that was used before would not fence its former leader off."""
    for _ in range(3):
        led.turn()
    lose_all(led, shown(led))
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    assert "counts epochs from further back" in candidate.told.named("not_leading")[0]
    assert min(candidate.told.named("leading")) > led.ring.epoch
    ring = held(candidate)
    assert (ring.version, ring.keys) == (led.ring.version + 1, led.ring.keys)
    assert ring.epoch > led.ring.epoch
    with led.server.client() as client:
        assert client.hgetall(led.layout.sealed) == led.sealed
        assert not client.exists(led.layout.witness), "it was heard, and makes room for the next"


async def test_a_running_leader_hears_a_witness_with_its_next_proof(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message that called it may be lost."""
    monkeypatch.setattr(policy, "_LONGEST_PROOF_INTERVAL", timedelta(milliseconds=50))
    first = (led.ring, led.snapshot, led.proof, led.sealed)
    led.turn(silently=True)
    testimony, known = shown(led), led.ring
    led.ring, led.snapshot, led.proof, led.sealed = first
    led.put_back()
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    assert held(candidate).version == 1
    with led.server.client() as client:
        client.set(led.layout.witness, testimony.encode())
        await until(lambda: candidate.told.named("changed"))
        await until(lambda: not client.exists(led.layout.witness))
    assert held(candidate).version == known.version + 1
    assert held(candidate).signer == known.signer


async def test_a_witness_of_a_ring_that_was_given_up_changes_nothing_and_is_let_go(
    led: LedRing, candidates: Any
) -> None:
    other = sign_snapshot(replace(led.ring, id="another", version=77), led.root)
    with led.server.client() as client:
        client.set(led.layout.witness, Shown(other, "", led.sealed).encode())
        candidate = candidates("a")
        await until(lambda: candidate.told.named("waiting"))
        assert not client.exists(led.layout.witness)
    assert held(candidate) == led.ring
    assert candidate.told.named("broken") == candidate.told.named("cannot_lead") == []


@pytest.mark.usefixtures("tries_again_soon")
async def test_a_sealed_key_that_does_not_open_counts_as_lost_whoever_shows_it(
    valkey: Server, make_ring: Any, candidates_of: Any
) -> None:
    """Anyone may write a witness' sealed keys: they must neither go into Redis nor lock us out."""
    led = make_ring(valkey, poll_interval=timedelta(milliseconds=50))
    swapped = {led.signer.kid: led.sealed[led.standby.kid]}
    lose_all(led, shown(led, **swapped))
    candidate = candidates_of(led)("a")
    await until(lambda: candidate.told.named("waiting"))
    first = candidate.told.named("cannot_lead")[0]
    assert "waiting 150ms for a daemon or a signing app that has them" in str(first)
    ring = held(candidate)
    assert [key.kid for key in ring.in_state(KeyState.RETIRED)] == [led.signer.kid]
    assert ring.signer == ring.key(led.standby.kid)
    with led.server.client() as client:
        assert not client.hexists(led.layout.sealed, led.signer.kid)


async def test_a_ring_is_not_healed_by_a_clock_that_is_off(led: LedRing, candidates: Any) -> None:
    """What is adopted retires now, and by that clock now may be any time."""
    lose_all(led, shown(led))
    wrong = candidates("wrong", ShiftedClock(timedelta(minutes=5)))
    await until(lambda: wrong.told.named("cannot_lead"))
    assert "the ring is to be healed, but this clock differs" in str(
        wrong.told.named("cannot_lead")[0]
    )
    with led.server.client() as client:
        assert not client.exists(led.layout.keyring)
    right = candidates("right")
    await until(lambda: right.told.named("waiting"))
    assert held(right).version == 2


async def test_an_audit_that_could_not_be_written_is_told_and_the_change_is_made(
    led: LedRing, candidates: Any
) -> None:
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    with led.server.client() as client:
        client.delete(led.layout.events)
        client.set(led.layout.events, "of another program")
    await candidate.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    await until(lambda: candidate.told.named("failed"))
    told = str(candidate.told.named("failed")[0])
    assert "telling the audit by xadd: WRONGTYPE" in told
    assert len(candidate.told.named("changed")) == 1
    assert held(candidate).version == 2


async def test_a_version_is_told_as_propagated_once_and_not_before_the_last_one_confirmed_it(
    led: LedRing, candidates: Any
) -> None:
    candidate = candidates("a")
    await until(lambda: candidate.told.named("waiting"))
    await candidate.store.confirm("app-9", '{"role":"sign","epoch":1,"version":1}')
    await candidate.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    await until(lambda: held(candidate).version == 2)
    epoch = held(candidate).epoch

    def confirmed_by() -> list[str]:
        return [i.id for i in candidate.told.instances if (i.epoch, i.version) >= (epoch, 2)]

    await until(lambda: confirmed_by() == ["a"])
    assert candidate.told.named("propagated") == []
    await candidate.store.confirm("app-9", f'{{"role":"sign","epoch":{epoch},"version":2}}')
    await until(lambda: candidate.told.named("propagated"))
    looks = len(candidate.told.named("waiting"))
    candidate.leader.wake.set()
    await until(lambda: len(candidate.told.named("waiting")) > looks)
    assert len(candidate.told.named("propagated")) == 1


# --- making a ring -------------------------------------------------------------------------------


async def _make(led: LedRing, store: RedisLeaderStore, clock: SystemClock, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "name": "new",
        "ring_id": "new",
        "policy": led.policy,
        "store": store,
        "root": led.root,
        "kek": led.kek,
        "mint": mint_aside,
        "clock": clock,
        "owner": "b",
        **changes,
    }
    return await found(**given)


async def test_of_two_that_make_a_ring_at_once_one_is_told_that_it_was_slower(
    led: LedRing,
) -> None:
    """It was away for longer than making a ring keeps others out."""
    clock = SystemClock()
    store = RedisLeaderStore.connect(led.server.url, "new", clock, password=None)
    faster: list[Ring] = []

    async def mint_slowly(wanted: Any, kek: Any) -> Any:
        if not faster:
            with led.server.client() as client:
                client.delete(store.layout.lease)
            faster.append(await _make(led, store, clock, owner="c", ring_id="the faster one's"))
        return await mint_aside(wanted, kek)

    try:
        with pytest.raises(RequestRefused, match="was made by somebody else this very moment"):
            await _make(led, store, clock, mint=mint_slowly)
        stored = await store.read()
        assert open_snapshot(stored.snapshot, led.root.public) == faster[0]
        assert await store.owner() == "", "who made it, or did not, leads it no longer"
    finally:
        await store.close()


async def test_a_ring_is_not_made_by_a_clock_that_is_off_or_beside_another_maker(
    led: LedRing,
) -> None:
    clock = ShiftedClock(timedelta(minutes=5))
    store = RedisLeaderStore.connect(led.server.url, "new", clock, password=None)
    try:
        with pytest.raises(ClocksApart, match="differs from Redis' by 5m"):
            await _make(led, store, clock)
        await store.acquire("a", TTL, 0)
        with pytest.raises(RingLed, match="try again"):
            await _make(led, store, SystemClock())
        await store.release("a")
        assert (await _make(led, store, SystemClock())).version == 1
        with pytest.raises(RequestRefused, match="exists already"):
            await _make(led, store, SystemClock())
    finally:
        await store.close()


@pytest.mark.usefixtures("tries_again_soon")
async def test_a_leader_that_starts_with_a_clock_that_is_behind_takes_no_proof_back(
    led: LedRing, candidates: Callable[..., Candidate]
) -> None:
    """Its follower does not believe the newest proof; an app that starts then needs it."""
    alone = candidates("alone", ShiftedClock(timedelta(hours=-25)))
    await until(lambda: len(alone.told.named("leading")) >= 2)
    await until(lambda: alone.told.named("waiting"))
    with led.server.client() as client:
        proof = open_proof(str(client.hget(led.layout.keyring, "proof")), led.root.public)
    assert proof.at >= open_proof(led.proof, led.root.public).at


async def test_a_leader_in_a_frozen_server_says_that_it_leads_no_more_before_its_lease_ends(
    own_server: Callable[..., Server],
    make_ring: Callable[..., LedRing],
    candidates_of: Callable[..., Callable[..., Candidate]],
) -> None:
    server = own_server()
    candidate = candidates_of(make_ring(server))("a")
    await until(lambda: candidate.told.named("waiting"))
    server.pause()
    began = time.monotonic()
    await until(lambda: candidate.told.named("not_leading"))
    took = time.monotonic() - began
    server.resume()
    assert took < TTL.total_seconds()


async def test_a_key_is_made_while_a_disk_hangs(led: LedRing) -> None:
    """Files are read and written on threads, of which there are few: all of them may hang."""
    hangs = threading.Event()
    loop = asyncio.get_running_loop()
    hung = [loop.run_in_executor(None, hangs.wait) for _ in range(64)]
    try:
        async with asyncio.timeout(5):
            made = await mint_aside(KeyWanted(KeyKind.DYNAMIC, "EdDSA"), led.kek)
        assert made.sealed
    finally:
        hangs.set()
        await asyncio.gather(*hung)
