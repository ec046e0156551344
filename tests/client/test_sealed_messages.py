"""New private halves come as messages, sealed; whatever becomes of those, an app signs with them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from ringkeeper import Keyring, follower
from ringkeeper.algorithms import LONGEST_KID
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RedisUnavailable
from ringkeeper.follower import Follower
from ringkeeper.policy import CAPACITY
from ringkeeper.sealing import MAX_SEALED, Kek
from ringkeeper.store import (
    Pong,
    Published,
    RedisStore,
    Sealed,
    Subscribed,
    _RedisSubscription,
)
from ringkeeper.tokens import kid_in
from ringkeeper.topology import connection_for
from ringkeeperd.acl import Role, acl_rules, password_hash
from ringkeeperd.leader_store import Acquired, Edition, RedisLeaderStore, Written
from tests.client.waiting import eventually
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

PASSWORD = "of-a-test"


@pytest.fixture(autouse=True)
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads soon after its start, for want of a ring, what would be counted here."""
    monkeypatch.setattr(follower, "_FIRST_POLL", 600.0)


@pytest.fixture
def app(led: LedRing) -> Iterator[Keyring]:
    """An app that signs, and has confirmed the first version."""
    with connected(led) as ring:
        yield ring


@contextmanager
def connected(led: LedRing, **options: Any) -> Iterator[Keyring]:
    given = {"trust_root": led.root.public, "kek": led.kek, "name": led.name, **options}
    with Keyring.connect(given.pop("url", led.server.url), **given) as ring:
        eventually(lambda: confirmed(led) == [led.ring.version])
        yield ring


def confirmed(led: LedRing) -> list[int]:
    with led.server.client() as client:
        return [json.loads(row)["version"] for row in client.hvals(led.layout.instances)]


def reads_of(led: LedRing, change: Callable[[], object]) -> int:
    """How often sealed keys, or the hash, were read until `change` was confirmed."""
    with led.server.client() as client:
        client.config_resetstat()
        change()
        eventually(lambda: confirmed(led) == [led.ring.version])
        stats: dict[str, Any] = client.info("commandstats")
    return int(stats.get("cmdstat_hmget", {}).get("calls", 0))


def hand_out(led: LedRing, message: str) -> None:
    """Say it on the channel of sealed keys."""
    with led.server.client() as client:
        client.publish(led.layout.sealed, message)


def told(ring: Keyring) -> dict[str, str]:
    return following(ring)._told_sealed


def following(ring: Keyring) -> Follower:
    assert ring._background._follower
    return ring._background._follower


# --- how an app comes by them --------------------------------------------------------------------


def test_what_came_as_a_message_is_held_sealed_too_and_used_once(
    led: LedRing, app: Keyring
) -> None:
    """What an app keeps for its next start has it, as if it had been read."""
    assert reads_of(led, led.turn) == 0
    held = app._held()
    assert held.sealed[led.standby.kid] == led.sealed[led.standby.kid]
    assert told(app) == {}


def test_a_message_that_got_lost_costs_a_read(led: LedRing, app: Keyring) -> None:
    def turn() -> None:
        led.turn(silently=True)
        led.say(f"{led.snapshot}\n{led.proof}")

    assert reads_of(led, turn) == 1
    assert reads_of(led, led.turn) == 0
    assert kid_in(app.sign({})) == led.signer.kid


def test_what_is_not_that_key_sealed_costs_a_read_and_nothing_else(
    led: LedRing, app: Keyring
) -> None:
    """Whoever writes to Redis may say anything there."""
    signs_now = led.sealed[led.signer.kid]

    def turn() -> None:
        led.turn(silently=True)
        for message in (f"{led.standby.kid}\nnonsense", f"{led.standby.kid}\n{signs_now}"):
            hand_out(led, message)
        led.say(f"{led.snapshot}\n{led.proof}")

    assert reads_of(led, turn) == 1
    assert app._held().sealed[led.standby.kid] == led.sealed[led.standby.kid]
    assert reads_of(led, led.turn) == 0
    assert kid_in(app.sign({})) == led.signer.kid


def test_what_a_former_kek_sealed_shows_nobody_to_have_the_new_one(led: LedRing) -> None:
    """What it sealed may be said again; who lacks the new one is waited for, and named."""
    with connected(led) as ring:
        version, former = led.ring.version, dict(led.sealed)
        for kid, sealed in former.items():
            hand_out(led, f"{kid}\n{sealed}")
        eventually(lambda: former.items() <= told(ring).items())
        led.reseal(Kek.generate())
        eventually(lambda: "this process has" in " ".join(map(str, following(ring).troubles)))
        eventually(lambda: ring.version == version + 1)
        assert confirmed(led) == [version]
        assert ring.sign({})


def test_what_was_not_opened_takes_no_place_of_what_is_held(led: LedRing, tmp_path: Path) -> None:
    """A key that one goes back to is opened by what is held; a forged message must not follow."""
    with connected(led, cache_dir=tmp_path) as ring:
        former = led.signer.kid
        led.turn()
        eventually(lambda: confirmed(led) == [led.ring.version])
        header = led.sealed[former].split(".")[0]
        hand_out(led, f"{former}\n{header}..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA")
        eventually(lambda: former in told(ring))
        assert reads_of(led, led.rollback) == 0
        assert led.standby.kid == former
        assert ring._held().sealed[former] == led.sealed[former]


def test_what_came_is_not_lost_where_the_rest_cannot_be_read(
    led: LedRing, app: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    read = RedisStore.sealed

    async def fails_once(store: RedisStore, kids: Sequence[str]) -> dict[str, str]:
        asked.append(list(kids))
        if len(asked) == 1:
            raise RedisUnavailable("redis: a test")
        return await read(store, kids)

    monkeypatch.setattr(RedisStore, "sealed", fails_once)
    monkeypatch.setattr(follower, "_BACKOFF_MOST", 0.1)
    led.turn(silently=True)
    missed = led.standby.kid
    led.turn()
    eventually(lambda: confirmed(led) == [led.ring.version])
    assert asked == [[missed], [missed]]


def test_who_only_verifies_is_handed_none(led: LedRing) -> None:
    with connected(led, kek=None) as verifier, led.server.client() as client:
        led.turn()
        eventually(lambda: confirmed(led) == [led.ring.version])
        assert client.pubsub_numsub(led.layout.sealed)[0][1] == 0
        assert client.pubsub_numsub(led.layout.published)[0][1] == 1
        assert told(verifier) == {}


async def heard_of(led: LedRing, put: dict[str, str]) -> list[object]:
    """What a signing app hears of a publication with these sealed keys, in order."""
    store = RedisLeaderStore.connect(led.server.url, led.name, SystemClock(), password=None)
    listening = RedisStore(connection_for(led.server.url), led.name, hears_sealed=True)
    async with listening.subscribe() as subscription:
        assert await subscription.next(5) == Subscribed()
        assert await subscription.next(5) == Pong()
        taken = await store.acquire("me", timedelta(seconds=30), 0)
        assert isinstance(taken, Acquired)
        version = led.ring.version + 1
        edition = Edition(version, taken.epoch, "s", "p", put, frozenset(put), ())
        assert await store.publish("me", led.snapshot, edition) == Written()
        heard: list[object] = []
        while Published("s", "p") not in heard:
            heard.append(await subscription.next(5))
        heard.append(await subscription.next(0.2))
    await store.close()
    await listening.close()
    return heard


async def test_they_come_before_the_version_that_has_them(led: LedRing) -> None:
    """Else who is to sign by it at once would read them."""
    put = {f"kid-{number}": f"sealed {number}" for number in range(4)}
    *first, version, nothing = await heard_of(led, put)
    assert {each.kid: each.sealed for each in first if isinstance(each, Sealed)} == put
    assert (version, nothing) == (Published("s", "p"), None)


async def test_a_change_of_kek_is_read_by_each_in_its_own_time(led: LedRing) -> None:
    """Thousands of apps times all keys would hold Redis up."""
    put = {f"kid-{number}": "sealed" for number in range(5)}
    assert await heard_of(led, put) == [Published("s", "p"), None]


async def test_what_is_no_such_message_shows_all_the_same_that_redis_is_there(led: LedRing) -> None:
    """Who floods the channel with it does not make apps connect anew."""
    store = RedisStore(connection_for(led.server.url), led.name, hears_sealed=True)
    async with store.subscribe() as subscription:
        assert await subscription.next(5) == Subscribed()
        assert await subscription.next(5) == Pong()
        hand_out(led, "\n")
        assert await subscription.next(5) == Pong()
    await store.close()


def test_no_repr_shows_one() -> None:
    assert "secret" not in repr(Sealed("kid", "secret"))


def test_a_crowd_of_strange_keys_takes_a_bounded_room(led: LedRing, app: Keyring) -> None:
    for number in range(CAPACITY + 20):
        hand_out(led, f"kid-{number}\nsealed")
    eventually(lambda: f"kid-{CAPACITY + 19}" in told(app))
    assert len(told(app)) == CAPACITY
    assert reads_of(led, led.turn) == 0, "the newest are kept"


@pytest.mark.parametrize(
    "message",
    ["", "\n", "kid", "kid\n", "\nsealed", "k" * (LONGEST_KID + 1) + "\ns", "k\n" + "s" * (MAX_SEALED + 1)],
    ids=["empty", "an end", "no key", "an empty one", "no kid", "too long a kid", "too long a key"],
)  # fmt: skip
def test_what_is_no_such_message_is_not_taken_in(led: LedRing, app: Keyring, message: str) -> None:
    assert Sealed.decode(message) is None
    hand_out(led, message)
    hand_out(led, "kid\nsealed")
    eventually(lambda: told(app) == {"kid": "sealed"})


def test_the_longest_are_taken_in() -> None:
    kid, sealed = "k" * LONGEST_KID, "s" * MAX_SEALED
    assert Sealed.decode(f"{kid}\n{sealed}") == Sealed(kid, sealed)


# --- who may not hear of them, for its ACL is older ----------------------------------------------


@pytest.fixture
def guarded(own_server: Callable[..., Server], make_ring: Callable[..., LedRing]) -> LedRing:
    """A ring whose server this test may lock up."""
    return make_ring(own_server())


def allow(led: LedRing, role: Role, *, without: str = "") -> str:
    """The URL of a user who may do all that is the role's, but for one channel."""
    rules = acl_rules(role, [led.name], password_hash=password_hash(PASSWORD))
    allowed = [rule for rule in rules if rule != f"&{without}"]
    assert len(allowed) == len(rules) - bool(without)
    with led.server.client() as client:
        client.execute_command("ACL", "SETUSER", role.user, *allowed)
    return f"redis://{role.user}:{PASSWORD}@127.0.0.1:{led.server.port}"


def test_an_app_that_may_not_hear_of_them_reads_them(guarded: LedRing) -> None:
    url = allow(guarded, Role.SIGNER, without=guarded.layout.sealed)
    with connected(guarded, url=url) as ring:
        for _ in range(2):
            assert reads_of(guarded, guarded.turn) == 1
            assert kid_in(ring.sign({})) == guarded.signer.kid
        assert following(ring).trouble is None


def test_an_app_that_may_hear_of_them_no_more_is_not_deaf(guarded: LedRing) -> None:
    """Redis ends the connection then, and whoever restored it would be refused both channels."""
    with connected(guarded, url=allow(guarded, Role.SIGNER)) as ring:
        assert reads_of(guarded, guarded.turn) == 0
        allow(guarded, Role.SIGNER, without=guarded.layout.sealed)
        with guarded.server.client() as client:
            heard = guarded.layout.published
            eventually(lambda: client.pubsub_numsub(heard)[0][1] == 1)
        eventually(lambda: following(ring).trouble is None)
        assert reads_of(guarded, guarded.turn) >= 1
        assert kid_in(ring.sign({})) == guarded.signer.kid


async def test_a_connection_that_is_restored_asks_for_no_channel_that_was_refused(
    guarded: LedRing,
) -> None:
    """It would be refused both."""
    url = allow(guarded, Role.SIGNER, without=guarded.layout.sealed)
    store = RedisStore(connection_for(url), guarded.name, hears_sealed=True)
    async with store.subscribe() as subscription:
        assert await subscription.next(5) == Subscribed()
        assert await subscription.next(5) == Pong(), "a refusal is an answer"
        with guarded.server.client() as client:
            client.client_kill_filter(_type="pubsub")
        with pytest.raises(RedisUnavailable, match="closed by server"):
            await subscription.next(5)
        assert await subscription.next(5) == Subscribed()
    await store.close()


async def test_a_restored_connection_that_is_refused_both_is_not_taken_for_a_silent_one(
    guarded: LedRing,
) -> None:
    store = RedisStore(connection_for(allow(guarded, Role.SIGNER)), guarded.name, hears_sealed=True)
    async with store.subscribe() as subscription:
        assert await subscription.next(5) == Subscribed()
        assert await subscription.next(5) == Pong(), "the other one was joined, too"
        allow(guarded, Role.SIGNER, without=guarded.layout.sealed)
        with pytest.raises(RedisUnavailable, match="closed by server"):
            await subscription.next(5)
        with pytest.raises(RedisUnavailable, match="access a channel; widen this user's ACL"):
            await subscription.next(5)
    await store.close()


async def test_what_is_refused_after_an_error_may_be_both(guarded: LedRing) -> None:
    """Where the connection was lost between the two answers, and both were asked for anew."""
    answers: list[Any] = [
        {"type": "subscribe", "channel": guarded.layout.published},
        redis.ConnectionError("lost"),
        redis.exceptions.NoPermissionError("no permissions to access a channel"),
    ]

    class Scripted:
        async def get_message(self, **_: Any) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    listening: Any = Scripted()
    subscription = _RedisSubscription(listening, SystemClock(), "redis", guarded.layout.sealed)
    assert await subscription.next(1) == Subscribed()
    for _ in range(2):
        with pytest.raises(RedisUnavailable):
            await subscription.next(1)


async def test_a_refusal_is_told_where_the_ring_s_own_channel_is_refused(guarded: LedRing) -> None:
    url = allow(guarded, Role.SIGNER, without=guarded.layout.published)
    store = RedisStore(connection_for(url), guarded.name, hears_sealed=True)
    async with store.subscribe() as subscription:
        with pytest.raises(RedisUnavailable, match="access a channel; widen this user's ACL"):
            await subscription.next(5)
    await store.close()


async def test_a_daemon_that_may_not_hand_them_out_publishes_all_the_same(
    guarded: LedRing,
) -> None:
    url = allow(guarded, Role.DAEMON, without=guarded.layout.sealed)
    store = RedisLeaderStore.connect(url, guarded.name, SystemClock(), password=None)
    with connected(guarded) as ring:
        version = guarded.ring.version
        taken = await store.acquire("me", timedelta(seconds=30), 0)
        assert isinstance(taken, Acquired)
        edition = Edition(
            version + 1, taken.epoch, "s", "p", {"kid": "sealed"}, frozenset({"kid"}), ()
        )
        assert await store.publish("me", guarded.snapshot, edition) == Written()
        assert await store.sealed(["kid"]) == {"kid": "sealed"}
        await store.close()
        assert told(ring) == {}
