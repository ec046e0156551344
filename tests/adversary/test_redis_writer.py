"""Whoever may write to Redis, and knows all that ever was in it, but has neither root nor KEK.

Whatever they do there: no app accepts a forged token, takes a key for revoked, or goes back; tokens
of honest apps are good everywhere; and once they stop, the ring is as before, by itself. A watcher
looks at that all the time (`Arena`). What they can do (delay, deny, lie about who confirmed) is a
table in docs/threat-model.md; each of its rows names a test here.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from ringkeeper import testimony
from ringkeeper.errors import (
    DocumentError,
    InfrastructureError,
    RingkeeperError,
    SealBroken,
    StaleRing,
)
from ringkeeper.ring import KeyState
from ringkeeper.sealing import Kek
from ringkeeper.wire import Command, Event, Request, open_proof, sign_event, sign_request
from tests.adversary.arena import MAX_STALENESS, Arena
from tests.plugins.daemons import eventually

pytestmark = pytest.mark.attack
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def running() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    arena.close()


@pytest.fixture
def arena(running: Arena) -> Arena:
    """The deployment, in which nothing is wrong."""
    running.normal()
    return running


# --- going back ----------------------------------------------------------------------------------


def test_a_hash_of_before_is_taken_by_nobody_and_put_right(arena: Arena) -> None:
    mallory = arena.attacker
    arena.moved_on()
    before = arena.ring().version
    mallory.keep(mallory.roll_back, 2)
    arena.normal()
    assert arena.ring().version >= before


def test_old_proofs_and_messages_in_any_combination_move_nobody(arena: Arena) -> None:
    mallory = arena.attacker
    arena.moved_on()
    old, new = mallory.yesterday, mallory.hash()
    for snapshot in ("", old["snapshot"], new["snapshot"], old["proof"], "x"):
        for proof in ("", old["proof"], new["proof"], new["snapshot"], "x"):
            mallory.say(snapshot, proof)
            mallory.put({"proof": proof})
    mallory.put({"snapshot": old["snapshot"], "proof": new["proof"]})
    arena.normal()


def test_a_freeze_ends_with_max_staleness_for_those_who_sign(arena: Arena) -> None:
    """No leader, no messages, and yesterday's hash: nobody goes back, and nobody signs on it."""
    mallory = arena.attacker

    def freeze() -> None:
        mallory.steal_lease()
        mallory.deafen()
        mallory.put(mallory.yesterday)

    arena.moved_on()
    unsigned = arena.unsigned
    mallory.keep(freeze, MAX_STALENESS + 2)
    for name in ("a", "b"):
        with pytest.raises(StaleRing):
            arena.apps[name].sign({})
    assert arena.unsigned > unsigned
    arena.holds()
    arena.normal()


def test_an_app_that_starts_is_not_given_a_ring_older_than_max_staleness(arena: Arena) -> None:
    mallory = arena.attacker
    proof = open_proof(mallory.yesterday["proof"], arena.site.root.public)
    eventually(lambda: (datetime.now(UTC) - proof.at).total_seconds() > MAX_STALENESS + 1, 20)
    arena.moved_on()
    young = mallory.hash()
    for lie in (mallory.yesterday, {**mallory.yesterday, "proof": young["proof"]}):
        for signs in (True, False):
            mallory.steal_lease(5000)
            mallory.put(lie)
            with pytest.raises((DocumentError, InfrastructureError)):
                arena.app(signs=signs, timeout=1)
    arena.normal()
    arena.opens_afresh()


def test_an_app_that_starts_may_be_given_a_ring_that_is_younger_and_learns_more_afterwards(
    arena: Arena,
) -> None:
    """The bound: what happened within `max_staleness` can be withheld from who starts.

    As long as the attacker goes on; then it catches up.
    """
    mallory = arena.attacker
    young = now = mallory.hash()
    while now["version"] == young["version"]:
        young, now = now, mallory.hash()
        time.sleep(0.01)
    mallory.steal_lease(3000)
    mallory.put(young)
    with arena.app(signs=False) as late:
        arena.normal()
        eventually(lambda: late.version == arena.ring().version, within=10)


# --- documents that the trust root did not sign for this ring ------------------------------------


def test_a_ring_of_the_attackers_own_is_nobodys(arena: Arena) -> None:
    mallory = arena.attacker
    snapshot, proof = mallory.forged_documents()
    sound = mallory.hash()
    for _ in range(20):
        mallory.put({"snapshot": snapshot, "proof": proof, "version": "99999"})
        mallory.say(snapshot, proof)
        mallory.say("", proof)
    with pytest.raises(RingkeeperError):
        arena.app(timeout=1)
    mallory.put(sound)  # what cannot be read is never overwritten: promise 7
    arena.normal()


def test_another_ring_of_the_same_root_does_not_pass_for_this_one(arena: Arena) -> None:
    mallory = arena.attacker
    sound = mallory.hash()
    theirs = mallory.hash(arena.other)

    def lie() -> None:
        mallory.put(theirs)
        mallory.say(theirs["snapshot"], theirs["proof"])
        mallory.say("", theirs["proof"])

    mallory.keep(lie, 1)
    with pytest.raises(RingkeeperError):
        arena.app(timeout=1)
    mallory.put(sound)
    arena.normal()


def test_garbage_on_the_channel_is_as_if_it_was_not_said(arena: Arena) -> None:
    mallory = arena.attacker
    sound = mallory.hash()
    texts: list[Any] = [
        "", "\n", "\n\n", "witness", "x", "x\ny", b"\xff\xfe", "\0", ".\n.", "..\n..",
        sound["snapshot"], f"\n{sound['snapshot']}", f"{sound['proof']}\n{sound['snapshot']}",
        f"{sound['snapshot'][:-9]}\n{sound['proof']}", f"{sound['snapshot']}\n{sound['proof'][:-9]}",
        *mallory.forged_documents(), "{}", "[" * 10_000,
    ]  # fmt: skip
    for _ in range(20):
        for text in texts:
            mallory.client.publish(mallory.layout.published, text)
    arena.normal()


# --- sealed keys ---------------------------------------------------------------------------------


def _swapped(arena: Arena) -> dict[str, str]:
    sealed = arena.attacker.sealed()
    kids = sorted(sealed)
    return dict(zip(kids, [sealed[kid] for kid in [*kids[1:], kids[0]]], strict=True))


def _of_the_other_ring(arena: Arena) -> dict[str, str]:
    theirs = list(arena.attacker.sealed(arena.other).values())
    return dict.fromkeys(arena.attacker.sealed(), theirs[0])


def _damaged(arena: Arena) -> dict[str, str]:
    return {kid: blob[:-4] + "AAAA" for kid, blob in arena.attacker.sealed().items()}


def _sealed_by_the_attacker(arena: Arena) -> dict[str, str]:
    blob = Kek.generate().seal(arena.attacker.key)
    return dict.fromkeys(arena.attacker.sealed(), blob)


@pytest.mark.parametrize("lie", [_swapped, _of_the_other_ring, _damaged, _sealed_by_the_attacker])
def test_sealed_keys_in_one_anothers_place_sign_nothing_and_are_put_back(
    arena: Arena, lie: Callable[[Arena], dict[str, str]]
) -> None:
    mallory = arena.attacker
    mallory.steal_lease(3000)  # else they are put back before anybody sees them
    mallory.put(lie(arena), mallory.layout.sealed)
    with pytest.raises(SealBroken):
        arena.app(timeout=0.5)
    eventually(lambda: not _is_refused(arena), within=15)
    arena.normal()
    arena.opens_afresh()


def _is_refused(arena: Arena) -> bool:
    try:
        arena.app(timeout=0.5).close()
    except RingkeeperError:
        return True
    return False


# --- what is deleted, or of another type ---------------------------------------------------------

_KEYS = (
    "keyring",
    "sealed",
    "lease",
    "epoch",
    "instances",
    "seen",
    "requests",
    "events",
    "witness",
)


@pytest.mark.parametrize("key", _KEYS)
def test_a_key_that_was_deleted_comes_back(arena: Arena, key: str) -> None:
    mallory = arena.attacker
    name = getattr(mallory.layout, key)
    mallory.keep(lambda: mallory.client.delete(name), 1)
    arena.normal()
    arena.opens_afresh()


@pytest.mark.parametrize("field", ["snapshot", "proof", "version", "epoch"])
def test_a_field_that_was_deleted_comes_back(arena: Arena, field: str) -> None:
    mallory = arena.attacker
    mallory.keep(lambda: mallory.client.hdel(mallory.layout.keyring, field), 1)
    arena.normal()
    arena.opens_afresh()


def test_a_sealed_key_that_was_deleted_comes_back(arena: Arena) -> None:
    mallory = arena.attacker
    for kid in mallory.sealed():
        mallory.client.hdel(mallory.layout.sealed, kid)
        arena.normal()
    arena.opens_afresh()


def _meanwhile(arena: Arena) -> None:
    """Let every app read what is there now, sign and verify."""
    calls, signed = _calls(arena), arena.signed
    eventually(lambda: _calls(arena) > calls + 10 and arena.signed > signed + 3)
    arena.holds()


_MENDED = ("lease", "epoch", "instances", "seen", "witness")


@pytest.mark.parametrize("key", _KEYS)
def test_a_key_of_another_type_harms_nobody_and_is_dropped_or_left_for_an_operator(
    arena: Arena, key: str
) -> None:
    """A ring, sealed keys and streams that cannot be read are never overwritten (promise 7)."""
    mallory = arena.attacker
    name = getattr(mallory.layout, key)
    for make in (
        ("RPUSH", name, "x"),
        ("SADD", name, "x"),
        ("SET", name, "x"),
    ):
        with mallory.client.pipeline() as at_once:  # else an instance may write in between
            at_once.delete(name)
            at_once.execute_command(*make)  # type: ignore[no-untyped-call]
            at_once.execute()
        _meanwhile(arena)
    if key not in _MENDED:
        mallory.client.delete(name)  # the operator's part
    arena.normal()
    arena.opens_afresh()


def test_flushall_again_and_again_ends_with_the_last(arena: Arena) -> None:
    mallory = arena.attacker
    mallory.keep(mallory.client.flushall, 3)
    arena.normal()
    arena.opens_afresh()


# --- who is there, and who leads -----------------------------------------------------------------


def _ghost(arena: Arena, number: int, row: str) -> None:
    mallory = arena.attacker
    seconds, micros = mallory.client.time()
    name = f"ghost-{number}"
    mallory.client.hset(mallory.layout.instances, name, row)
    mallory.client.zadd(mallory.layout.seen, {name: seconds * 1000 + micros // 1000})


def test_instances_that_never_confirm_delay_a_turn_by_the_timeout_and_no_longer(
    arena: Arena,
) -> None:
    active = arena.ring().active()
    assert active and active.due_at
    timeout = arena.ring().policy.confirmation_timeout.total_seconds()

    def haunt() -> None:
        for number in range(5):
            _ghost(arena, number, '{"role":"sign","epoch":0,"version":0}')

    late = active.due_at + timedelta(seconds=timeout + 5)
    while arena.ring().active() == active:
        haunt()
        assert datetime.now(UTC) < late, "held up for longer than confirmation_timeout"
        time.sleep(0.2)
    arena.normal()


@pytest.mark.parametrize(
    "row",
    [
        '{"role":"sign","epoch":99999999,"version":99999999}',
        '{"role":"sign","epoch":1e400,"version":NaN}',
        '{"role":{"x":1},"epoch":-1,"version":"7"}',
        "[" * 900, "", "x" * 5000, "\x1b[2J", "null",
    ],
)  # fmt: skip
def test_false_confirmations_break_no_token(arena: Arena, row: str) -> None:
    """The table says that all have confirmed: then the publication interval protects."""
    mallory = arena.attacker

    def lie() -> None:
        names: Any = mallory.client.hkeys(mallory.layout.instances)
        for number, name in enumerate(names):
            mallory.client.hset(mallory.layout.instances, name, row)
            _ghost(arena, number, row)

    mallory.keep(lie, 1)
    arena.normal()


def test_a_stolen_lease_stops_the_turning_for_as_long_as_it_is_stolen(arena: Arena) -> None:
    mallory = arena.attacker
    mallory.keep(mallory.steal_lease, 3)
    assert not arena.daemon.leads()
    arena.normal()
    mallory.client.set(mallory.layout.lease, "mallory")  # without an end
    arena.normal()
    mallory.client.set(mallory.layout.lease, "mallory", px=10**12)
    arena.normal()


@pytest.mark.parametrize(
    "epoch", ["9007199254740991", "9" * 400, "-1", "abc", "", "1e400", "NaN", "0", "0x7f", " 7"]
)
def test_an_epoch_that_no_leader_counted_is_counted_past(arena: Arena, epoch: str) -> None:
    mallory = arena.attacker
    mallory.client.set(mallory.layout.epoch, epoch)
    mallory.client.hset(mallory.layout.keyring, "epoch", epoch)
    mallory.client.hset(mallory.layout.keyring, "version", epoch)
    mallory.client.delete(mallory.layout.lease)
    arena.normal()
    assert arena.ring().epoch < 10**8


def test_connections_and_scripts_that_are_killed_come_back(arena: Arena) -> None:
    mallory = arena.attacker

    def cut() -> None:
        mallory.deafen()
        mallory.client.client_kill_filter(_type="normal", skipme=True)
        mallory.client.script_flush()

    mallory.keep(cut, 2)
    arena.normal()


# --- requests, witnesses, events -----------------------------------------------------------------


def _request(arena: Arena, **changes: Any) -> Request:
    ring = arena.ring()
    assert ring.signer
    now = datetime.now(UTC).replace(microsecond=0)
    members: dict[str, Any] = {
        "id": "request-of-mallory", "ring_id": ring.id, "name": ring.name,
        "version": ring.version, "command": Command.REVOKE, "kid": ring.signer.kid,
        "reason": "x", "by": "mallory", "at": now, "until": now + timedelta(seconds=60),
        **changes,
    }  # fmt: skip
    return Request(**members)


def _ask(arena: Arena, document: str) -> None:
    arena.attacker.client.xadd(arena.layout.requests, {"request": document})


def _is_answered(arena: Arena) -> bool:
    return bool(arena.attacker.client.xlen(arena.layout.requests) == 0)


def test_requests_that_no_operator_signed_are_dropped(arena: Arena) -> None:
    mallory = arena.attacker
    own = sign_request(_request(arena), mallory.root)
    snapshot = mallory.hash()["snapshot"]
    for text in (own, mallory.as_if_ours(own), snapshot, "", "x", "{}", "[" * 10_000):
        _ask(arena, text)
    eventually(lambda: _is_answered(arena))
    arena.normal()


def test_an_operators_request_has_its_effect_once_and_in_its_ring_alone(arena: Arena) -> None:
    """Signed by the root, and replayed: in the other ring, and after the ring moved on."""
    root = arena.site.root
    meant = _request(arena)
    theirs = arena.ring(arena.other)
    assert theirs.signer
    crossed = sign_request(
        _request(arena, ring_id=theirs.id, name="other", version=theirs.version), root
    )
    _ask(arena, crossed)
    eventually(lambda: _is_answered(arena))
    eventually(lambda: arena.ring().version > meant.version, within=30)  # withheld until then
    for _ in range(3):
        _ask(arena, sign_request(meant, root))
    lapsed = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
    _ask(arena, sign_request(_request(arena, at=lapsed, until=lapsed), root))
    eventually(lambda: _is_answered(arena))
    arena.normal()


def test_a_revocation_that_was_carried_out_is_not_carried_out_again(arena: Arena) -> None:
    standby = arena.ring().standby
    assert standby
    arena.revoked.add(standby.kid)
    document = sign_request(_request(arena, kid=standby.kid), arena.site.root)
    _ask(arena, document)
    eventually(lambda: arena.ring().key(standby.kid) in arena.ring().in_state(KeyState.REVOKED))
    arena.normal()
    for _ in range(5):
        _ask(arena, document)
    eventually(lambda: _is_answered(arena))
    arena.normal()


@pytest.mark.parametrize("lie", ["garbage", "forged", "old", "old with other keys", "other ring"])
def test_a_witness_is_believed_no_more_than_the_root_signed(arena: Arena, lie: str) -> None:
    mallory = arena.attacker
    arena.moved_on()
    sealed = _sealed_by_the_attacker(arena)
    old = mallory.yesterday
    theirs = mallory.hash(arena.other)
    text = {
        "garbage": "[" * 10_000,
        "forged": testimony.Testimony(*mallory.forged_documents(), sealed).encode(),
        "old": testimony.Testimony(
            old["snapshot"], old["proof"], mallory.yesterdays_sealed
        ).encode(),
        "old with other keys": testimony.Testimony(old["snapshot"], "", sealed).encode(),
        "other ring": testimony.Testimony(theirs["snapshot"], theirs["proof"], sealed).encode(),
    }[lie]

    def testify() -> None:
        mallory.client.set(mallory.layout.witness, text, px=10_000)
        mallory.client.publish(mallory.layout.published, "witness")

    mallory.keep(testify, 2)
    arena.normal()
    arena.opens_afresh()


def test_forged_events_change_nothing(arena: Arena) -> None:
    mallory, ring = arena.attacker, arena.ring()
    event = Event(ring.id, ring.name, ring.version, ring.epoch, datetime.now(UTC), "key revoked")
    for text in (sign_event(event, mallory.root), "x", ""):
        for _ in range(1000):
            mallory.client.xadd(mallory.layout.events, {"event": text})
    mallory.client.xadd(mallory.layout.events, {"other": "x"}, id="18446744073709551615-1")
    arena.site.done("status", config=arena.daemon.config.name)
    arena.normal()
    mallory.client.delete(mallory.layout.events)


def test_thousands_of_requests_hold_up_no_proof_and_no_turn(arena: Arena) -> None:
    mallory = arena.attacker
    with mallory.client.pipeline(transaction=False) as pipeline:
        for number in range(2000):
            pipeline.xadd(mallory.layout.requests, {"request": f"{number}"})
        pipeline.execute()
    arena.normal()
    eventually(lambda: _is_answered(arena), within=60)
    arena.normal()


# --- what is huge --------------------------------------------------------------------------------

_APP = """
import sys, ringkeeper
with ringkeeper.Keyring.connect(sys.argv[1], trust_root="root.pub.jwk", kek="kek.jwk") as ring:
    for line in sys.stdin:
        print(ring.version, bool(ring.sign({})), flush=True)
"""


class Measured:
    """An app in a process of its own, whose memory is looked at."""

    def __init__(self, arena: Arena) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _APP, arena.server.url],
            cwd=arena.site.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answers()

    def answers(self) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.strip().endswith("True"), answer
        return answer

    def peak(self) -> float:
        return _peak(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def _peak(pid: int) -> float:
    """MiB that the process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _hset(key: str, field: str) -> Callable[[Arena], None]:
    write = "redis.call('HSET', KEYS[1], ARGV[1], string.rep('x', tonumber(ARGV[2])))"
    return lambda arena: _eval(arena, write, getattr(arena.layout, key), field)


def _set(key: str) -> Callable[[Arena], None]:
    write = "redis.call('SET', KEYS[1], string.rep('x', tonumber(ARGV[2])), 'PX', 5000)"
    return lambda arena: _eval(arena, write, getattr(arena.layout, key), "")


def _eval(arena: Arena, script: str, key: str, field: str) -> None:
    patient = redis.Redis(unix_socket_path=str(arena.server.socket), socket_timeout=60)
    with patient:
        patient.eval(script, 1, key, field, str(32 * MIB))


_ALL_HUGE = (
    "local huge = string.rep('x', tonumber(ARGV[2])) "
    "for _, kid in ipairs(redis.call('HKEYS', KEYS[1])) do "
    "redis.call('HSET', KEYS[1], kid, huge) end"
)
_HUGE: dict[str, Callable[[Arena], None]] = {
    "snapshot": _hset("keyring", "snapshot"),
    "proof": _hset("keyring", "proof"),
    "version": _hset("keyring", "version"),
    "a confirmation": _hset("instances", "ghost"),
    "lease": _set("lease"),
    "epoch": _set("epoch"),
    "witness": _set("witness"),
}


@pytest.mark.parametrize("what", [*_HUGE, "sealed"])
def test_32_megabytes_are_read_by_nobody(arena: Arena, what: str) -> None:
    mallory = arena.attacker
    sound = mallory.hash()
    with Measured(arena) as app:
        before = app.peak(), _peak(arena.daemon.process.pid)
        if what == "sealed":
            # At one moment: what grows between asking for its length and reading it is read.
            _eval(arena, _ALL_HUGE, arena.layout.sealed, "")
        else:
            _HUGE[what](arena)
        _meanwhile(arena)
        if what == "snapshot":
            with pytest.raises(RingkeeperError):
                arena.app(timeout=1)
        after = app.peak(), _peak(arena.daemon.process.pid)
        if what == "snapshot":
            mallory.put(sound)
        arena.normal()
        eventually(lambda: not _is_refused(arena), within=15)
        app.answers()
    assert after[0] - before[0] < 15
    assert after[1] - before[1] < 15


def _calls(arena: Arena) -> int:
    stats: Any = arena.attacker.client.info("commandstats")
    return int(stats["cmdstat_hstrlen"]["calls"])


def test_a_message_is_as_long_as_redis_lets_it_be_and_is_let_go(arena: Arena) -> None:
    """There is no limit of our own: Redis closes a listener's connection above 32 MB by default."""
    mallory = arena.attacker
    with Measured(arena) as app:
        before = app.peak()
        for megabytes in (8, 40):
            script = "return redis.call('PUBLISH', KEYS[1], string.rep('x', tonumber(ARGV[1])))"
            mallory.client.eval(script, 1, mallory.layout.published, str(megabytes * MIB))
            arena.normal()
            app.answers()
        assert app.peak() - before < 150
