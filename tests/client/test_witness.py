"""What an app does for a ring that Redis lost, and without Redis at all (promises 6 and 9)."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring, follower
from ringkeeper.clock import SystemClock
from ringkeeper.errors import (
    MalformedDocument,
    RedisUnavailable,
    RingkeeperError,
    RingMissing,
    SealBroken,
    StaleRing,
)
from ringkeeper.follower import Follower
from ringkeeper.notices import Notice
from ringkeeper.presence import Presence
from ringkeeper.replica import Held
from ringkeeper.sealing import Kek
from ringkeeper.state_file import StateFile
from ringkeeper.store import RedisStore
from ringkeeper.testimony import MAX_TESTIMONY, History, open_testimony
from ringkeeper.testimony import Testimony as Shown  # pytest takes a Test… for a test
from ringkeeper.topology import connection_for
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeper.witness import Witness
from ringkeeperd.merge import heal, lacks
from tests.client.waiting import eventually, eventually_async, stopped
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

FIRST: dict[str, Any] = {}
"""The first version of each ring, by its root."""
FAST: dict[str, Any] = {"poll_interval": timedelta(milliseconds=50)}


def connect(led: LedRing, **options: Any) -> Keyring:
    given = {"trust_root": led.root.public, "kek": led.kek, "name": led.name, **options}
    return Keyring.connect(led.server.url, **given)


def held(ring: Keyring) -> Held:
    return following(ring).replica.loaded()


def following(ring: Keyring) -> Follower:
    assert ring._background._follower
    return ring._background._follower


@asynccontextmanager
async def following_alone(
    led: LedRing,
    *,
    instance: str,
    role: str,
    notice: Notice = lambda event, /, **fields: None,
    **options: Any,
) -> AsyncIterator[Follower]:
    """A follower without a keyring around it; `options` are the constructor's."""
    store = RedisStore(connection_for(led.server.url), led.name)
    alone = Follower(
        name=led.name,
        roots=led.root.public,
        store=store,
        clock=SystemClock(),
        random=Random(),
        presence=Presence(id=instance, role=role),
        notice=notice,
        **options,
    )
    running = asyncio.create_task(alone.run())
    try:
        yield alone
    finally:
        await stopped(running)
        await store.close()


def confirmed_by(led: LedRing) -> list[int]:
    """The versions that live instances have confirmed."""
    with led.server.client() as client:
        return [json.loads(row)["version"] for row in client.hvals(led.layout.instances)]


def trouble(ring: Keyring) -> RingkeeperError | None:
    return following(ring).trouble


def shown(led: LedRing) -> Shown | None:
    with led.server.client() as client:
        text = client.get(led.layout.witness)
    return Shown.decode(str(text)) if text else None


def shown_whole(led: LedRing) -> Shown | None:
    """The same, once the sealed keys are with it."""
    found = shown(led)
    return found if found and len(found.sealed) >= 3 else None


def write_down(led: LedRing, text: str) -> None:
    with led.server.client() as client:
        client.set(led.layout.witness, text)


def roll_back(led: LedRing) -> None:
    """Redis forgets the newest version, and tells nobody."""
    now = (led.ring, led.snapshot, led.proof, led.sealed)
    led.ring, led.snapshot, led.proof, led.sealed = FIRST[led.root.kid]
    led.put_back()
    led.ring, led.snapshot, led.proof, led.sealed = now


@pytest.fixture
def led(own_server: Callable[..., Server], make_ring: Callable[..., LedRing]) -> LedRing:
    ring = make_ring(own_server(), **FAST)
    FIRST[ring.root.kid] = (ring.ring, ring.snapshot, ring.proof, ring.sealed)
    return ring


# --- witnesses -----------------------------------------------------------------------------------


def test_an_app_that_sees_the_ring_go_back_shows_what_it_holds(led: LedRing) -> None:
    with connect(led) as ring:
        led.turn()
        eventually(lambda: ring.version == 2)
        assert shown(led) is None
        eventually(lambda: not held(ring).lacks)  # its sealed keys arrive unhurriedly
        roll_back(led)
        found = eventually(lambda: shown(led))
        side = open_testimony(found, led.name, led.root.public)
        assert side.ring == led.ring
        assert led.signer.activated_at
        assert side.proved_at >= led.signer.activated_at
        assert {k.kid for k in led.ring.may_sign_next} <= set(found.sealed)
        with led.server.client() as client:
            assert 0 < client.pttl(led.layout.witness) <= 3_600_000
        assert ring.version == 2


def test_an_app_that_sees_another_ring_at_its_own_version_shows_the_one_that_it_holds(
    led: LedRing,
) -> None:
    """Two primaries: each had a leader, and both went on counting."""
    with connect(led) as ring, led.server.client() as client:
        led.turn()
        eventually(lambda: ring.version == 2)
        other = replace(led.ring, epoch=led.ring.epoch + 1)
        client.hset(led.layout.keyring, "snapshot", sign_snapshot(other, led.root))
        found = eventually(lambda: shown(led))
        assert open_testimony(found, led.name, led.root.public).ring == led.ring
        assert held(ring).ring == led.ring


def test_a_witness_speaks_again_until_redis_has_what_it_knows(
    own_server: Callable[..., Server],
    make_ring: Callable[..., LedRing],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is room for one: another may have been heard in its stead, or an attacker wipes it."""
    monkeypatch.setattr(follower, "_BACKOFF_MOST", 0.05)
    monkeypatch.setattr(follower, "_FIRST_POLL", 30.0)
    led = make_ring(own_server())
    FIRST[led.root.kid] = (led.ring, led.snapshot, led.proof, led.sealed)
    with connect(led, kek=None) as ring, led.server.client() as client:
        led.turn()
        eventually(lambda: ring.version == 2)
        roll_back(led)
        client.client_kill_filter(_type="pubsub")  # it joins again, and reads once
        for _ in range(3):
            eventually(lambda: shown(led))
            client.delete(led.layout.witness)
        led.put_back()
        led.turn()
        eventually(lambda: ring.version == 3)
        client.client_kill_filter(_type="pubsub")
        eventually(lambda: trouble(ring) is None)
        assert not following(ring)._is_in_doubt


async def test_a_restarted_daemon_is_a_witness_where_a_newer_version_lacks_a_key_that_it_kept(
    led: LedRing, tmp_path: Path
) -> None:
    """Two primaries: the other side went on, and knows nothing of a key that signed here."""
    first = (led.ring, led.snapshot, led.proof, led.sealed)
    led.turn()
    kept = Shown(led.snapshot, led.proof, led.sealed)
    side = open_testimony(kept, led.name, led.root.public)
    led.ring, led.snapshot, led.proof, led.sealed = first
    led.turn(silently=True)
    led.turn(silently=True)
    assert led.ring.version == 3
    keeper = StateFile(tmp_path, led.name, "state_dir")
    keeper._write(kept.encode())
    doubts: list[bool] = []
    async with following_alone(
        led,
        instance="daemon",
        role="daemon",
        on_doubt=lambda: doubts.append(True),
        keeper=keeper,
        loses=lacks,
    ) as daemon:
        found = await eventually_async(lambda: shown(led))
        assert daemon.replica.version == 3, "it serves what Redis holds meanwhile"
        assert (found.snapshot, found.proof) == (kept.snapshot, kept.proof)
        assert doubts
        # The other side goes on, and what it lacks is not forgotten for that.
        led.turn(silently=True)
        await eventually_async(lambda: daemon.replica.version == 4)
        assert daemon._is_in_doubt
        sides = [History(led.ring, now := SystemClock().now()), side]
        healed = heal(sides[0], sides[1:], now=now, epoch=led.ring.epoch)
        assert healed
        led.ring, led.snapshot = healed.ring, sign_snapshot(healed.ring, led.root)
        led.prove(silently=True)
        await eventually_async(lambda: daemon.replica.version == 5)
        assert not daemon._is_in_doubt


def test_an_empty_redis_is_shown_what_was_there(led: LedRing) -> None:
    with connect(led, kek=None) as ring:
        with led.server.client() as client:
            client.delete(led.layout.keyring, led.layout.sealed)
        found = eventually(lambda: shown(led))
        assert open_testimony(found, led.name, led.root.public).ring == led.ring
        assert found.sealed == {}
        assert ring.version == 1


def test_witnesses_add_to_one_another(led: LedRing) -> None:
    """One that only verifies was faster, or knows more; the sealed keys must come, too."""
    with connect(led) as ring:
        led.turn()
        eventually(lambda: ring.version == 2)
        eventually(lambda: not held(ring).lacks)
        snapshot, proof = led.snapshot, led.proof
        led.adopt(silently=True, **FAST, use_dynamic=False)
        newer = Shown(led.snapshot, led.proof, {"d-x": "sealed by another witness"})
        for before in (Shown(snapshot, proof, {}), newer):
            write_down(led, before.encode())
            roll_back(led)
            found = eventually(lambda: shown_whole(led))
            assert (found.snapshot, found.proof) == (before.snapshot, before.proof)
        assert found.sealed["d-x"] == "sealed by another witness"


@pytest.mark.parametrize("before", ["nonsense", "{}", json.dumps({"snapshot": "a.b.c"})])
def test_what_a_forger_wrote_is_no_witness(led: LedRing, before: str) -> None:
    write_down(led, before)
    with connect(led, kek=None) as ring:
        with led.server.client() as client:
            client.delete(led.layout.keyring)
        eventually(lambda: led.server.client().get(led.layout.witness) != before)
        found = shown(led)
        assert found and found.snapshot == led.snapshot
        assert ring.version == 1


def test_what_was_signed_for_another_ring_is_no_witness(led: LedRing) -> None:
    """One of the same name, made and given up long ago."""
    other = replace(led.ring, id="another", version=77)
    write_down(led, Shown(sign_snapshot(other, led.root), "", {}).encode())
    with connect(led, kek=None):
        with led.server.client() as client:
            client.delete(led.layout.keyring)
        eventually(lambda: (found := shown(led)) and found.snapshot == led.snapshot)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 9000,
        '{"snapshot":"s","proof":"p"}',
        '{"snapshot":"s","proof":1,"sealed":{}}',
        '{"snapshot":"s","proof":"p","sealed":{"k":1}}',
        '{"snapshot":"s","proof":"p","sealed":[]}',
        "x" * (MAX_TESTIMONY + 1),
    ],
)
def test_what_is_no_testimony_is_refused(text: str) -> None:
    with pytest.raises(MalformedDocument):
        Shown.decode(text)


# --- starting without Redis ----------------------------------------------------------------------


def test_an_app_starts_on_what_it_kept_while_redis_is_away(led: LedRing, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with connect(led, cache_dir=cache) as ring:
        token = ring.sign({"sub": "alice"})
        file = cache / f"cache-{led.name}.json"
        eventually(lambda: file.exists() and len(json.loads(file.read_text())["sealed"]) == 3)
        assert file.stat().st_mode & 0o777 == 0o600
    led.server.kill()
    with connect(led, cache_dir=cache) as ring:
        assert ring.verify(token)["sub"] == "alice"
        assert ring.verify(ring.sign({"sub": "bob"}))["sub"] == "bob"
        led.server.start()
        led.put_back()
        led.turn()
        eventually(lambda: ring.version == 2, within=15)


async def test_an_asyncio_app_does_the_same(led: LedRing, tmp_path: Path) -> None:
    options: dict[str, Any] = {"trust_root": led.root.public, "kek": led.kek, "cache_dir": tmp_path}
    async with await ringkeeper.asyncio.Keyring.connect(led.server.url, **options) as ring:
        file = tmp_path / f"cache-{led.name}.json"
        await eventually_async(
            lambda: file.exists() and len(json.loads(file.read_text())["sealed"]) == 3
        )
    led.server.kill()
    async with await ringkeeper.asyncio.Keyring.connect(led.server.url, **options) as ring:
        assert (await ring.verify(await ring.sign({"sub": "bob"})))["sub"] == "bob"


def test_what_redis_holds_comes_before_what_was_kept(led: LedRing, tmp_path: Path) -> None:
    with connect(led, cache_dir=tmp_path):
        eventually((tmp_path / f"cache-{led.name}.json").exists)
    led.turn()
    with connect(led, cache_dir=tmp_path) as ring:
        assert ring.version == 2


def test_an_app_that_starts_anew_does_not_go_back_behind_what_it_kept(
    led: LedRing, tmp_path: Path
) -> None:
    """Redis lost a write while the app was being restarted, or somebody put an old ring back."""
    older = {"snapshot": led.snapshot, "proof": led.proof, "version": "1"}
    led.turn()
    with connect(led, cache_dir=tmp_path) as ring:
        file = tmp_path / f"cache-{led.name}.json"
        eventually(lambda: file.exists() and led.snapshot in file.read_text())
        token = ring.sign({"sub": "alice"})
    with led.server.client() as client:
        client.hset(led.layout.keyring, mapping=older)
    with connect(led, cache_dir=tmp_path) as ring:
        assert ring.version == 2
        assert ring.verify(token)["sub"] == "alice"
        with led.server.client() as client:
            eventually(lambda: client.exists(led.layout.witness))


async def test_the_first_message_that_is_heard_is_laid_beside_what_was_kept(
    led: LedRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power failed: a daemon that knows less was up first, and publishes what it knows."""
    monkeypatch.setattr(follower, "_RECALL_AFTER", 60)
    older = {"snapshot": led.snapshot, "proof": led.proof, "version": "1"}
    led.turn(silently=True)
    keeper = StateFile(tmp_path, led.name, "cache_dir")
    keeper._write(Shown(led.snapshot, led.proof, led.sealed).encode())
    with led.server.client() as client:
        client.delete(led.layout.keyring)
    async with following_alone(led, instance="app", role="verify", keeper=keeper) as app:
        await eventually_async(lambda: isinstance(app.trouble, RingMissing))
        with led.server.client() as client:
            client.hset(led.layout.keyring, mapping=older)
        led.say(f"{older['snapshot']}\n{older['proof']}")
        await eventually_async(lambda: app.replica.held)
        assert app.replica.version == 2
        await eventually_async(lambda: shown(led))


def test_a_kept_ring_whose_proof_is_too_old_starts_nobody(led: LedRing, tmp_path: Path) -> None:
    """A leaver's laptop, or a restored backup: freeze and replay are bounded (promise 8)."""
    led.prove(SystemClock().now() - led.policy.max_staleness - timedelta(seconds=1), silently=True)
    kept = Shown(led.snapshot, led.proof, led.sealed)
    StateFile(tmp_path, led.name, "cache_dir")._write(kept.encode())
    led.server.kill()
    with pytest.raises((StaleRing, RedisUnavailable)):
        connect(led, cache_dir=tmp_path, timeout=2.5)


@pytest.mark.parametrize("kept", ["", "{}", "forged"])
def test_a_kept_ring_that_cannot_be_used_is_set_aside(
    led: LedRing, tmp_path: Path, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / f"cache-{led.name}.json"
    forged = Shown(sign_snapshot(led.ring, TrustRoot.generate()), led.proof, {}).encode()
    file.write_text(forged if kept == "forged" else kept)
    with connect(led, cache_dir=tmp_path) as ring:
        assert ring.version == 1
        eventually(file.exists)
    assert file.with_suffix(".unusable").exists()
    assert "kept ring set aside" in caplog.text


def test_a_kept_ring_that_was_replaced_is_set_aside_and_the_new_one_loaded(
    led: LedRing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator made the ring anew: no app has to be mended by hand for it."""
    caplog.set_level(logging.INFO)
    kept = Shown(led.snapshot, led.proof, led.sealed)
    file = tmp_path / f"cache-{led.name}.json"
    StateFile(tmp_path, led.name, "cache_dir")._write(kept.encode())
    led.ring = replace(led.ring, id="another", version=1)
    led.snapshot = sign_snapshot(led.ring, led.root)
    led.prove(silently=True)
    with connect(led, cache_dir=tmp_path) as ring:
        assert held(ring).ring.id == "another"
        assert ring.verify(ring.sign({"sub": "alice"}))["sub"] == "alice"
        eventually(lambda: file.exists() and led.snapshot in file.read_text())
    assert kept.snapshot in file.with_suffix(".unusable").read_text()
    assert "kept ring set aside" in caplog.text


def test_what_was_kept_under_a_former_kek_is_fetched_anew(led: LedRing, tmp_path: Path) -> None:
    former = Shown(led.snapshot, led.proof, dict.fromkeys(led.sealed, "sealed by another KEK"))
    StateFile(tmp_path, led.name, "cache_dir")._write(former.encode())
    with connect(led, cache_dir=tmp_path) as ring:
        assert ring.verify(ring.sign({"sub": "alice"}))["sub"] == "alice"
        eventually(lambda: "sealed by another KEK" not in held(ring).sealed.values())


def test_a_wrong_kek_is_told_although_a_ring_was_kept(led: LedRing, tmp_path: Path) -> None:
    with connect(led, cache_dir=tmp_path):
        file = tmp_path / f"cache-{led.name}.json"
        eventually(lambda: file.exists() and len(json.loads(file.read_text())["sealed"]) == 3)
    led.server.kill()
    with pytest.raises(RingkeeperError):
        connect(led, cache_dir=tmp_path, kek=Kek.generate(), timeout=2)


async def test_what_a_root_signed_that_was_dropped_since_is_no_evidence(led: LedRing) -> None:
    """Who was away while the root was changed holds such a thing: it must not end the following."""
    past = Shown(led.snapshot, led.proof, led.sealed)
    store = RedisStore(connection_for(led.server.url), led.name)
    witness = Witness(led.name, TrustRoot.generate().public, store, lambda *_: True)
    try:
        assert not witness.look_back(past, led.ring, SystemClock().now())
        await witness.speak(past)
        assert shown(led) is None
        witness.roots = led.root.public
        assert witness.look_back(past, led.ring, SystemClock().now())
        await witness.speak(past)
        assert shown(led)
    finally:
        await store.close()


@pytest.mark.parametrize("what", ["snapshot", "proof"])
def test_a_document_of_another_ring_makes_nobody_forget_what_it_kept(
    led: LedRing, tmp_path: Path, what: str
) -> None:
    """Else whoever writes in Redis could take an app back behind a revocation that it knew."""
    older = {"snapshot": led.snapshot, "proof": led.proof, "version": "1"}
    with connect(led, cache_dir=tmp_path, kek=None) as ring:
        led.revoke(led.signer.kid)
        eventually(lambda: ring.version == 2)
        file = tmp_path / f"cache-{led.name}.json"
        eventually(lambda: file.exists() and led.snapshot in file.read_text())
    sister = replace(led.ring, id="another", name="sister")
    snapshot = sign_snapshot(sister, led.root)
    documents = {
        "snapshot": snapshot,
        "proof": sign_proof(sister, snapshot, SystemClock().now(), led.root),
    }
    with led.server.client() as client:
        client.hset(led.layout.keyring, what, documents[what])
        with pytest.raises(RingkeeperError):
            connect(led, cache_dir=tmp_path, kek=None, timeout=0.5)
        assert [path.name for path in tmp_path.iterdir()] == [file.name]
        client.hset(led.layout.keyring, mapping=older)
    with connect(led, cache_dir=tmp_path, kek=None) as ring:
        assert ring.version == 2


async def test_a_sealed_key_that_does_not_open_is_not_kept_to_be_given_back(led: LedRing) -> None:
    with led.server.client() as client:
        client.hset(led.layout.sealed, led.standby.kid, led.sealed[led.signer.kid])
    daemon: dict[str, Any] = {"instance": "daemon", "role": "daemon", "kek": led.kek}
    async with following_alone(led, **daemon, loses=lacks) as following:
        await eventually_async(lambda: isinstance(following.trouble, SealBroken))
        held = following.replica.loaded()
        assert led.signer.kid in held.sealed
        assert led.standby.kid not in held.sealed


async def test_who_lacks_the_kek_that_a_ring_was_sealed_with_anew_confirms_it_not(
    led: LedRing,
) -> None:
    """It goes on signing with what it opened before; but it could not start anew."""
    app: dict[str, Any] = {"instance": "app", "role": "sign", "kek": led.kek}
    async with following_alone(led, **app) as following:
        await eventually_async(lambda: confirmed_by(led) == [1])
        led.reseal(Kek.generate())
        await eventually_async(lambda: isinstance(following.trouble, SealBroken))
        assert following.replica.version == 2
        assert led.signer.kid in following.replica.loaded().signing
        assert confirmed_by(led) == [1]


async def test_a_version_that_comes_during_a_fetch_is_not_confirmed_by_it(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its standby was not opened: the leader would let a key sign that this process lacks."""
    goes_on, began, sealed = asyncio.Event(), asyncio.Event(), RedisStore.sealed

    async def slow(self: RedisStore, kids: Any) -> dict[str, str]:
        found = await sealed(self, kids)
        began.set()
        await goes_on.wait()
        return found

    monkeypatch.setattr(RedisStore, "sealed", slow)
    app: dict[str, Any] = {"instance": "app", "role": "sign", "kek": led.kek}
    async with following_alone(led, **app) as following:
        await began.wait()
        led.turn(kek=Kek.generate())
        await eventually_async(lambda: following.replica.version == 2)
        goes_on.set()
        await eventually_async(lambda: isinstance(following.trouble, SealBroken))
        assert confirmed_by(led) == [1]


async def test_secrets_of_another_ring_are_told_at_once_and_cost_nothing_when_they_go(
    led: LedRing,
) -> None:
    told: list[str] = []
    app: dict[str, Any] = {"instance": "app", "role": "sign", "kek": led.kek}
    app["notice"] = lambda event, /, **fields: told.append(f"{event}: {fields}")
    async with following_alone(led, **app) as following:
        await eventually_async(following.ready.is_set)
        led.reseal(led.kek)
        await eventually_async(lambda: following.replica.version == 2)
        told.clear()
        await following.change_secrets(TrustRoot.generate().public, led.kek)
        assert any("and pinned here is" in line for line in told)
        await following.change_secrets(led.root.public, led.kek)
        await following.change_secrets(led.root.public, Kek.generate())
        assert any("give it the file that holds both" in line for line in told)
        await following.change_secrets(led.root.public, led.kek)
        await eventually_async(lambda: following.trouble is None)
        led.turn()
        await eventually_async(lambda: following.replica.version == 3)
