"""The Lua scripts in real servers: fenced, idempotent, and never an older truth (promise 3)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import redis

from ringkeeper.clock import SystemClock
from ringkeeper.errors import MalformedDocument, RedisUnavailable
from ringkeeper.sealing import MAX_SEALED
from ringkeeper.store import Published, Released, Subscribed
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import PROOF, SNAPSHOT, open_snapshot
from ringkeeperd import leader_store
from ringkeeperd.leader_store import (
    Acquired,
    Edition,
    Entry,
    Fenced,
    HeldByAnother,
    RedisLeaderStore,
    Stale,
    Written,
)
from tests.client.waiting import eventually_async
from tests.plugins.rings import answered
from tests.plugins.servers import Server

TTL = timedelta(seconds=5)


@pytest.fixture
async def store(any_server: Server) -> AsyncIterator[RedisLeaderStore]:
    made = RedisLeaderStore.connect(any_server.url, "r", SystemClock(), password=None)
    yield made
    await made.close()


def edition(version: int, **changes: Any) -> Edition:
    values: dict[str, Any] = {
        "version": version,
        "epoch": 1,
        "snapshot": f"snapshot {version}",
        "proof": f"proof {version}",
        "put": {},
        "kept": frozenset(),
        "events": (),
        **changes,
    }
    return Edition(**values)


async def test_the_lease_has_one_owner_and_every_term_a_higher_epoch(
    store: RedisLeaderStore, any_server: Server
) -> None:
    first = await store.acquire("a", TTL, 0)
    assert isinstance(first, Acquired)
    held = await store.acquire("b", TTL, 0)
    assert isinstance(held, HeldByAnother)
    assert timedelta(0) < held.remaining <= TTL
    again = await store.acquire("a", TTL, 0)
    assert isinstance(again, Acquired)
    assert again.epoch == first.epoch, "a lost reply must not cost a term"
    await store.release("b")
    assert isinstance(await store.acquire("b", TTL, 0), HeldByAnother)
    await store.release("a")
    second = await store.acquire("b", TTL, 0)
    assert isinstance(second, Acquired)
    assert second.epoch == first.epoch + 1
    with any_server.client() as client:
        client.flushall()
    after_loss = await store.acquire("c", TTL, 41)
    assert isinstance(after_loss, Acquired)
    assert after_loss.epoch == 42, "an epoch never repeats, whatever Redis forgot"


async def test_a_lease_runs_out_and_is_renewed_only_by_its_owner(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    assert await store.renew("a", TTL)
    assert await store.renew("b", TTL) is None
    with any_server.client() as client:
        assert 0 < int(client.pttl(store.layout.lease)) <= 5000
        client.delete(store.layout.lease)
    assert await store.renew("a", TTL) is None


async def test_publish_replaces_exactly_the_version_decided_on(store: RedisLeaderStore) -> None:
    await store.acquire("a", TTL, 0)
    assert await store.publish("a", "", edition(1)) == Written()
    assert await store.publish("a", "", edition(1)) == Written(), "asked again after a lost reply"
    assert await store.publish("a", "", edition(1, snapshot="other")) == Stale("1")
    assert await store.publish("a", "snapshot 5", edition(6)) == Stale("1")
    assert await store.publish("a", "snapshot 1", edition(2)) == Written()
    assert (await store.read()).snapshot == "snapshot 2"


async def test_whoever_lost_the_lease_writes_nothing(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1))
    assert isinstance(await store.publish("b", "snapshot 1", edition(2)), Fenced)
    assert isinstance(await store.prove("b", 1, "snapshot 1", "p", {}), Fenced)
    with any_server.client() as client:
        client.set(store.layout.epoch, 9)
    assert isinstance(await store.publish("a", "snapshot 1", edition(2)), Fenced)
    stored = await store.read()
    assert (stored.snapshot, stored.proof) == ("snapshot 1", "proof 1")


async def test_a_proof_is_written_only_for_what_redis_holds(store: RedisLeaderStore) -> None:
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1))
    assert await store.prove("a", 1, "snapshot 1", "younger", {}) == Written()
    assert (await store.read()).proof == "younger"
    assert await store.prove("a", 2, "snapshot 2", "p", {}) == Stale("1")
    assert await store.prove("a", 1, "another snapshot", "p", {}) == Stale("1")


async def test_sealed_keys_come_and_go_with_their_version(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    sealed = {"d-1": "one", "d-2": "two"}
    await store.publish("a", "", edition(1, put=sealed, kept=frozenset(sealed), events=("e1",)))
    assert await store.sealed(["d-1", "d-2", "d-3"]) == sealed
    await store.publish(
        "a", "snapshot 1", edition(2, put={"d-3": "three"}, kept=frozenset({"d-2", "d-3"}))
    )
    assert await store.sealed(["d-1", "d-2", "d-3"]) == {"d-2": "two", "d-3": "three"}
    assert await store.sealed([]) == {}
    with any_server.client() as client:
        assert client.xlen(store.layout.events) == 1


async def test_messages_carry_the_whole_version_after_the_hash_was_written(
    store: RedisLeaderStore,
) -> None:
    await store.acquire("a", TTL, 0)
    async with store.subscribe() as subscription:
        assert await subscription.next(5) == Subscribed()
        await store.publish("a", "", edition(1))
        assert await subscription.next(5) == Published("snapshot 1", "proof 1")
        await store.prove("a", 1, "snapshot 1", "younger", {})
        assert await subscription.next(5) == Published("", "younger")
        await store.release("a")
        assert await subscription.next(5) == Released()


async def test_who_confirms_is_heard_of_before_what_it_confirms_is_written(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """A row that was never heard of is found by nobody who forgets those long gone."""
    with any_server.client() as client, client.monitor() as watching:
        await store.confirm("here", "{}")
        seen: list[str] = []
        while "HSET" not in seen:
            seen.append(watching.next_command()["command"].split(" ")[0])
    assert seen[-3:] == ["TIME", "ZADD", "HSET"]


async def test_instances_are_live_for_one_window_and_forgotten_in_the_end(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.confirm("here", '{"role":"sign","epoch":3,"version":7}')
    await store.confirm("odd", "not json")
    with any_server.client() as client:
        client.zadd(store.layout.seen, {"gone": 1.0})
        client.hset(store.layout.instances, "gone", "{}")
    live = {i.id: (i.role, i.epoch, i.version) for i in await store.instances(TTL)}
    assert live == {"here": ("sign", 3, 7), "odd": ("unknown", 0, 0)}
    with any_server.client() as client:
        assert not client.hexists(store.layout.instances, "gone")
    await store.forget("here")
    assert {i.id for i in await store.instances(TTL)} == {"odd"}


@pytest.mark.parametrize("key", ["instances", "seen"])
async def test_a_table_of_instances_that_is_none_is_dropped(
    store: RedisLeaderStore, any_server: Server, key: str
) -> None:
    """Proofs must not end because somebody wrote there."""
    await store.confirm("here", '{"role":"sign","epoch":3,"version":7}')
    with any_server.client() as client:
        client.delete(getattr(store.layout, key))
        client.lpush(getattr(store.layout, key), "x")
    assert {i.version for i in await store.instances(TTL)} <= {0}
    await store.confirm("here", '{"role":"sign","epoch":3,"version":7}')
    assert [i.version for i in await store.instances(TTL)] == [7]


async def test_a_row_of_the_far_future_is_forgotten_and_one_of_a_clock_that_is_off_is_not(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """It would hold every activation up for ever; Redis' own clock wrote no such row."""
    await store.confirm("here", '{"role":"sign","epoch":3,"version":7}')
    with any_server.client() as client:
        now = client.zscore(store.layout.seen, "here")
        hour = 3_600_000
        client.zadd(store.layout.seen, {"never": 1e15, "in a week": now + 168 * hour})
        client.zadd(store.layout.seen, {"soon": now + hour})
        client.hset(store.layout.instances, "never", "{}")
        assert {i.id for i in await store.instances(TTL)} == {"here", "soon"}
        assert client.zcard(store.layout.seen) == 2
        assert not client.hexists(store.layout.instances, "never")


async def test_a_large_fleet_is_seen_whole(store: RedisLeaderStore, any_server: Server) -> None:
    """Promise 2 is for every live instance, not for the first few hundred."""
    await store.confirm("here", "{}")
    with any_server.client() as client, client.pipeline() as pipeline:
        now = client.zscore(store.layout.seen, "here")
        record = '{"role":"verify","epoch":1,"version":2}'
        for number in range(2_000):
            pipeline.zadd(store.layout.seen, {f"app-{number}": now})
            pipeline.hset(store.layout.instances, f"app-{number}", record)
        pipeline.execute()
    live = await store.instances(TTL)
    assert len(live) == 2_001
    assert sum(i.version == 2 for i in live) == 2_000


async def test_requests_are_read_from_the_oldest_and_dismissed(
    store: RedisLeaderStore, any_server: Server
) -> None:
    with any_server.client() as client:
        client.xadd(store.layout.requests, {"request": "r1"})
        async with store.requests() as stream:
            (asked,) = await stream.next()
            assert asked.document == "r1"
            client.xadd(store.layout.requests, {"request": "r2"})
            (later,) = await stream.next()
        assert later.document == "r2"
        await answered(store, asked, "answer")
        assert client.xlen(store.layout.requests) == 1
        assert client.xlen(store.layout.events) == 1


async def test_a_stream_of_requests_that_began_anew_makes_no_leader_deaf(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """Somebody chose a high id, and deleted the stream: from then on ids are lower."""
    stream = store.layout.requests
    with any_server.client() as client:
        async with store.requests() as requests:
            client.xadd(stream, {"request": "x"}, id="99999999999999-0")
            (high,) = await requests.next()
            assert high.document == "x"
            await answered(store, high)
            client.delete(stream)
            await store.ask("r1")
            (asked,) = await requests.next()
            assert asked.document == "r1"


async def test_a_request_is_handed_out_once_however_long_its_answer_takes(
    store: RedisLeaderStore, any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_store, "_UNANSWERED_WAIT", 0.01)
    for number in range(50):
        await store.ask(f"r{number}")
    async with store.requests() as requests:
        asked = [entry for _ in range(3) for entry in await requests.next()]
        assert [entry.document for entry in asked] == [f"r{number}" for number in range(50)]
        assert await requests.next() == ()
        for entry in asked[:49]:
            await answered(store, entry)
        assert await requests.next() == ()
        await store.ask("later")
        assert [entry.document for entry in await requests.next()] == ["later"]


async def test_a_flood_of_requests_is_handed_out_only_as_fast_as_it_is_answered(
    store: RedisLeaderStore, any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_store, "_UNANSWERED_WAIT", 0.01)
    monkeypatch.setattr(leader_store, "_UNANSWERED_MOST", 40)
    for number in range(100):
        await store.ask(f"r{number}")
    asked: list[Entry] = []
    async with store.requests() as requests:
        for _ in range(5):
            asked += await requests.next()
        assert len(asked) == 40
        for entry in asked:
            await answered(store, entry)
        while len(asked) < 100:
            more = await requests.next()
            asked += more
            for entry in more:
                await answered(store, entry)
    assert [entry.document for entry in asked] == [f"r{number}" for number in range(100)]


async def test_a_stream_of_requests_that_takes_no_more_is_renewed_once_it_is_answered(
    store: RedisLeaderStore, any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_store, "_UNANSWERED_WAIT", 0.01)
    last = f"{2**64 - 1}-{2**64 - 1}"
    with any_server.client() as client:
        client.xadd(store.layout.requests, {"request": "x"}, id=last)
        with pytest.raises(RedisUnavailable, match="exhausted"):
            await store.ask("r1")
        async with store.requests() as requests:
            (asked,) = await requests.next()
            assert await requests.next() == ()
            await answered(store, asked)
            assert await requests.next() == ()
            reading = asyncio.create_task(requests.next())
            await eventually_async(lambda: not client.exists(store.layout.requests))
            await store.ask("r1")
            assert [entry.document for entry in await reading] == ["r1"]
        # And one that a leader finds so when it begins.
        client.xadd(store.layout.requests, {"request": "x"}, id=last)
        client.xdel(store.layout.requests, last)
        client.xtrim(store.layout.requests, 0, approximate=False)
        async with store.requests() as requests:
            reading = asyncio.create_task(requests.next())
            await eventually_async(lambda: not client.exists(store.layout.requests))
            await store.ask("r2")
            assert [entry.document for entry in await reading] == ["r2"]


async def test_waiting_for_requests_costs_one_command_each_time(
    store: RedisLeaderStore, any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader_store, "STREAM_WAIT", 0.01)
    async with store.requests() as requests:
        assert await requests.next() == ()
        with any_server.client() as client:
            client.config_resetstat()
            for _ in range(5):
                assert await requests.next() == ()
            stats: Any = client.info("commandstats")
    calls = {name: told["calls"] for name, told in stats.items()}
    assert calls.pop("cmdstat_xread") == 5
    assert not {"cmdstat_xinfo|stream", "cmdstat_del"} & calls.keys()


@pytest.mark.parametrize("is_exhausted", [True, False])
async def test_a_request_is_dismissed_although_the_audit_takes_no_answer(
    store: RedisLeaderStore, any_server: Server, is_exhausted: bool
) -> None:
    """Or the leader would answer it again and again, and prove nothing any more."""
    with any_server.client() as client:
        if is_exhausted:
            client.xadd(store.layout.events, {"event": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
        else:
            client.set(store.layout.events, "somebody else's")
        await store.ask("r1")
        async with store.requests() as requests:
            (asked,) = await requests.next()
            outcome = await answered(store, asked, "refused")
            assert isinstance(outcome, Written)
            assert outcome.untold
        assert client.xlen(store.layout.requests) == 0


@pytest.mark.parametrize("misuse", [("set", "x"), ("xadd", f"{2**64 - 1}-{2**64 - 1}", "a", "b")])
async def test_an_audit_that_cannot_be_written_stops_no_publication_and_is_told(
    store: RedisLeaderStore, any_server: Server, misuse: tuple[str, ...]
) -> None:
    """A revocation reaches everybody, whatever became of the stream."""
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1))
    command, *arguments = misuse
    with any_server.client() as client, client.pubsub() as listening:
        client.execute_command(command, store.layout.events, *arguments)
        listening.subscribe(store.layout.published)
        listening.get_message(timeout=1)
        outcome = await store.publish("a", "snapshot 1", edition(2, events=("e",)))
        assert isinstance(outcome, Written)
        assert outcome.untold
        assert (await store.read()).snapshot == "snapshot 2"
        assert listening.get_message(timeout=1)["type"] == "message"


@pytest.mark.parametrize("version", ["", "nonsense", b"\xff", "7"])
async def test_what_is_written_beside_the_snapshot_stops_no_publication(
    store: RedisLeaderStore, any_server: Server, version: str | bytes
) -> None:
    """The version in the hash is not signed: anyone may write there."""
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1))
    with any_server.client() as client:
        client.hset(store.layout.keyring, "version", version)
    assert isinstance(await store.prove("a", 1, "snapshot 1", "p", {}), Stale)
    assert await store.publish("a", "snapshot 1", edition(2)) == Written()
    assert await store.prove("a", 2, "snapshot 2", "p", {}) == Written()


@pytest.mark.parametrize("key", ["lease", "epoch"])
async def test_a_key_of_the_wrong_type_keeps_nobody_from_the_lease(
    store: RedisLeaderStore, any_server: Server, key: str
) -> None:
    with any_server.client() as client:
        client.lpush(getattr(store.layout, key), "x")
    assert isinstance(await store.acquire("a", TTL, 3), Acquired)
    assert await store.renew("a", TTL)


async def test_a_server_that_is_out_of_memory_renews_no_lease(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """Who cannot write must not go on leading: its decisions would grow old."""
    await store.acquire("a", TTL, 0)
    with any_server.client() as client:
        try:
            client.config_set("maxmemory", 1)
            with pytest.raises(RedisUnavailable, match="more memory"):
                await store.renew("a", TTL)
        finally:
            client.config_set("maxmemory", 0)
    assert await store.renew("a", TTL)


async def test_a_witness_is_let_go_once_it_was_heard_and_not_before(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1))
    await store.testify("what I know", timedelta(minutes=1))
    assert await store.prove("a", 1, "snapshot 1", "p", {}) == Written(has_witness=True)
    await store.heard("b", "what I know")
    await store.heard("a", "what somebody else knows")
    assert await store.testimony() == "what I know"
    await store.heard("a", "what I know")
    assert await store.testimony() == ""
    assert await store.prove("a", 1, "snapshot 1", "p", {}) == Written()
    with any_server.client() as client:
        client.lpush(store.layout.witness, "no testimony")
    assert await store.testimony() == ""
    await store.heard("a", "")


@pytest.mark.parametrize("left", [None, 660_000, 10**12])
async def test_a_lease_that_nobody_can_have_taken_keeps_nobody_out(
    store: RedisLeaderStore, any_server: Server, left: int | None
) -> None:
    """Redis' clock was ahead for a while, or somebody wrote the key by hand."""
    with any_server.client() as client:
        client.set(store.layout.lease, "nobody", px=left)
    assert isinstance(await store.acquire("a", TTL, 0), Acquired)
    assert isinstance(await store.acquire("b", TTL, 0), HeldByAnother)


# --- what is too long, or not what it was --------------------------------------------------------


def _sent(client: redis.Redis) -> int:
    """Bytes that the server sent so far."""
    stats: Any = client.info("stats")
    return int(stats["total_net_output_bytes"])


async def test_what_is_longer_than_it_may_be_is_not_read(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """And whoever opens what stands in its place says that it is too long."""
    with any_server.client() as client:
        client.hset(store.layout.keyring, "snapshot", "x" * (SNAPSHOT.limit + 1))
        client.hset(store.layout.keyring, "proof", "x" * PROOF.limit)
        client.hset(store.layout.keyring, "version", "1" * 1000)
        client.hset(store.layout.sealed, "k1", "x" * 10_000_000)
        client.hset(store.layout.sealed, "k2", "x" * MAX_SEALED)
        before = _sent(client)
        stored, sealed = await store.read(), await store.sealed(["k1", "k2", "k3"])
        assert _sent(client) - before < 100_000
    assert stored.snapshot == "?" * (SNAPSHOT.limit + 1)
    assert stored.proof == "x" * PROOF.limit
    assert len(stored.version) < 30
    assert sealed == {"k1": "?" * (MAX_SEALED + 1), "k2": "x" * MAX_SEALED}
    with pytest.raises(MalformedDocument, match="at most"):
        open_snapshot(stored.snapshot, TrustRoot.generate().public)


async def test_no_proof_is_given_beside_a_sealed_key_that_is_not_what_it_was(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1, put={"k1": "blob"}, kept=frozenset({"k1"})))
    assert await store.prove("a", 1, "snapshot 1", "p", {"k1": "blob"}) == Written()
    for other in ("", "blub", "blob of another", "x" * 1_000_000):
        with any_server.client() as client:
            client.hset(store.layout.sealed, "k1", other)
        assert await store.prove("a", 1, "snapshot 1", "q", {"k1": "blob"}) == Stale("1")


async def test_a_version_too_long_to_be_one_is_not_handed_to_a_leader(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    await store.publish("a", "", edition(1))
    with any_server.client() as client:
        client.hset(store.layout.keyring, "version", "7" * 1_000_000)
    assert await store.prove("a", 1, "snapshot 1", "p", {}) == Stale("0")
    assert await store.publish("a", "snapshot 0", edition(2)) == Stale("0")


async def test_what_an_instance_may_not_have_written_is_not_read(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """Redis would copy it for the script, and stand still meanwhile."""
    await store.confirm("huge", '{"role":"sign","epoch":3,"version":7}' + " " * 1000)
    with any_server.client() as client:
        client.config_resetstat()
        assert [(i.id, i.version) for i in await store.instances(TTL)] == [("huge", 0)]
        assert "cmdstat_hget" not in client.info("commandstats")


@pytest.mark.parametrize(
    ("told", "verifies"),
    [
        ("", 0.0), ("12.5", 12.5), ("7", 7.0), ("1e6", 1e6), ("1e7", 0.0), ("-1", 0.0),
        ("NaN", 0.0), ("Infinity", 0.0), ("true", 0.0), ('"9"', 0.0), ("[]", 0.0), ("9" * 400, 0.0),
    ],
)  # fmt: skip
async def test_how_much_an_instance_verifies_is_what_one_can(
    store: RedisLeaderStore, told: str, verifies: float
) -> None:
    more = f',"verifies":{told},"known":{told}' if told else ""
    await store.confirm("app", f'{{"role":"sign","epoch":3,"version":7{more}}}')
    (instance,) = await store.instances(TTL)
    assert (instance.version, instance.verifies, instance.known) == (7, verifies, verifies)


async def test_newest_events_are_read_without_what_is_too_long_to_be_one(
    store: RedisLeaderStore, any_server: Server
) -> None:
    """Whoever may write to Redis cannot fill a leader's memory, nor take its time."""
    stream = store.layout.events
    with any_server.client() as client:
        assert await store.newest_events(10) == ()
        for n in range(3):
            client.xadd(stream, {"event": f"event {n}"})
        client.xadd(stream, {"event": "x" * 20_000})
        client.xadd(stream, {"event": "event 3", "other": "y"})
        client.xadd(stream, {"event": "event 4"})
        assert [e.document for e in await store.newest_events(10)] == [
            "event 4", "event 2", "event 1", "event 0",
        ]  # fmt: skip
        assert [e.document for e in await store.newest_events(4)] == ["event 4", "event 2"]
        for _ in range(6):
            client.xadd(stream, {"event": "x" * 20_000})
        assert await store.newest_events(10) == (), "after a few it looks no further"
        client.delete(stream)
        client.set(stream, "no stream")
        assert await store.newest_events(10) == ()


async def test_what_was_told_is_not_told_again_although_more_was_told_since(
    store: RedisLeaderStore, any_server: Server
) -> None:
    await store.acquire("a", TTL, 0)
    for document in ("one", "two", "three", "one", "three", "four"):
        assert await store.tell("a", document) == Written()
    with any_server.client() as client:
        told = [fields["event"] for _, fields in client.xrange(store.layout.events)]
    assert told == ["one", "two", "three", "four"]
    assert isinstance(await store.tell("b", "five"), Fenced)
