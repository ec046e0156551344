"""`rotate` and `rollback` that wait, with a leader and a clock of the test's own: no second passes."""

import argparse
import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from ringkeeper.errors import RequestRefused
from ringkeeper.policy import CAPACITY
from ringkeeper.ring import KeyState, Ring
from ringkeeper.wire import Command, Proof
from ringkeeperd import asking
from ringkeeperd.operations import call_off, rollback, rotate
from ringkeeperd.operator import Seen
from ringkeeperd.rotation import Instance, makes_way_at
from tests.core.builders import MINUTE, NOW, SECOND, advance, new_ring, policy, settle

RULES = policy(
    publication_interval=20 * MINUTE, jwks_max_age=2 * MINUTE, confirmation_timeout=10 * MINUTE
)
READY = 20 * MINUTE
"""After so long at the most a standby is ready that was published before the start."""
START = NOW + 90 * MINUTE
DAY = 24 * 60 * MINUTE


class Stage:
    """The ring as an operator sees it, half a minute later at each look."""

    def __init__(self, ring: Ring, *, held_up: timedelta = timedelta(0)) -> None:
        self.ring = ring
        self.at = START
        self.asked: list[Command] = []
        self.confirmed: list[int] = []
        self._held_up = held_up
        self.meanwhile: Any = lambda ring, _: ring
        self.began = START

    def now(self) -> datetime:
        return self.at

    async def look(self) -> Seen:
        before, self.at = self.at, self.at + 30 * SECOND
        if self.at >= START + self._held_up:
            self.ring = advance(self.ring, before, self.at)
        self.ring = self.meanwhile(self.ring, self.at)
        instance = Instance("app", "sign", 1, self.ring.version, self.at)
        ring = self.ring
        proof = Proof(ring.id, ring.name, ring.version, ring.epoch, "digest", self.at, 0)
        return Seen(ring, proof, "daemon", (instance,))

    # What an `Asker` has: here both are one.

    @property
    def operator(self) -> "Stage":
        return self

    async def ask(self, command: Command) -> Any:
        self.asked.append(command)
        does = rollback if command is Command.ROLLBACK else rotate
        more = {"hasten": True} if command is Command.ROTATE_NOW else {}
        self.ring = does(self.ring, now=self.at, epoch=1, **more)
        return argparse.Namespace(version=self.ring.version, fields={})

    async def tell_confirmed(self, version: int) -> Ring:
        self.confirmed.append(version)
        return self.ring


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_LOOK_AGAIN", 0)


def done(stage: Stage, command: Command, *, wait: bool = True) -> int:
    parsed = argparse.Namespace(wait=wait, no_wait=False)
    return asyncio.run(asking._turn(stage, parsed, command))  # type: ignore[arg-type]


def signer(ring: Ring) -> str:
    active = ring.active()
    assert active
    return active.kid


def turned(times: int = 1) -> Ring:
    """A ring that has turned just now, so that its standby is young."""
    ring = new_ring(RULES)
    for number in range(times):
        at = START - MINUTE - (times - 1 - number) * 30 * MINUTE
        ring = advance(rotate(ring, now=at, epoch=1), at, at + SECOND)
        ring = advance(ring, at + SECOND, at + (30 if number < times - 1 else 1) * MINUTE)
    return ring


def test_a_rotation_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(turned())
    former = signer(stage.ring)
    assert done(stage, Command.ROTATE) == 0
    assert signer(stage.ring) != former
    assert capsys.readouterr().out.endswith(f"{signer(stage.ring)} signs now\n")
    assert stage.confirmed == [stage.ring.version]


def test_who_waits_takes_the_rotation_that_is_due_already(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring = rotate(turned(), now=START, epoch=1)
    with pytest.raises(RequestRefused, match="a rotation is due already"):
        done(Stage(ring, held_up=MINUTE), Command.ROTATE, wait=False)
    stage = Stage(ring, held_up=MINUTE)
    assert done(stage, Command.ROTATE) == 0
    assert stage.asked == [Command.ROTATE], "the audit has who else wanted it, and why"
    assert capsys.readouterr().out.startswith("a rotation is due already\n")


def test_it_may_take_place_just_after_the_leader_said_that_it_is_due() -> None:
    ready = rotate(advance(turned(), START, START + READY), now=START + READY, epoch=1)
    stage = Stage(ready, held_up=READY + MINUTE)
    stage.at += READY
    former = signer(ready)
    assert done(stage, Command.ROTATE) == 0
    assert stage.asked == [Command.ROTATE]
    assert signer(stage.ring) != former


def test_who_wants_the_former_key_back_takes_no_rotation_for_it() -> None:
    ring = new_ring(RULES)
    due = rotate(ring, now=START, epoch=1)
    with pytest.raises(RequestRefused, match="none to go back to"):
        done(Stage(due, held_up=10 * MINUTE), Command.ROLLBACK)


def test_a_rotation_may_be_held_up_for_as_long_as_an_instance_may(
    capsys: pytest.CaptureFixture[str],
) -> None:
    most = READY + RULES.confirmation_timeout + RULES.liveness_window
    assert done(Stage(turned(), held_up=most), Command.ROTATE) == 0
    stuck = Stage(turned(), held_up=100 * MINUTE)
    assert done(stuck, Command.ROTATE) == 1
    assert most < stuck.at - START < most + 10 * MINUTE
    assert "it does not sign yet" in capsys.readouterr().err
    ready = advance(turned(), START, START + READY)
    hasty = Stage(ready, held_up=100 * MINUTE)
    hasty.at += READY
    assert done(hasty, Command.ROTATE, wait=False) == 1
    assert hasty.at - START - READY < 7 * MINUTE


def test_a_rollback_under_way_is_no_rotation_to_wait_for() -> None:
    """A script that turns from a key that it does not trust must not hear that one signs again."""
    ring = rollback(turned(2), now=START, epoch=1)
    stage = Stage(ring, held_up=10 * MINUTE)
    with pytest.raises(RequestRefused):
        done(stage, Command.ROTATE)


def test_a_rollback_meanwhile_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(turned(2), held_up=MINUTE)
    former = stage.ring.former
    assert former
    stage.meanwhile = lambda ring, at: (
        rollback(ring, now=at, epoch=1) if stage.asked and at == START + 2 * MINUTE else ring
    )
    assert done(stage, Command.ROTATE) == 1
    told = capsys.readouterr()
    assert f"{former.kid} signed before: somebody rolled back meanwhile" in told.err


def test_a_rollback_says_that_it_calls_no_rotation_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring = turned(2)
    assert done(Stage(ring), Command.ROLLBACK) == 0
    assert "call it off" not in capsys.readouterr().out
    assert done(Stage(rotate(ring, now=START, epoch=1)), Command.ROLLBACK) == 0
    former = ring.former
    assert former
    assert (
        f"does not call it off (ringkeeper rotate --call-off), but turns to {former.kid}"
        in capsys.readouterr().out
    )
    with pytest.raises(RequestRefused, match="a rollback is under way already"):
        done(Stage(rollback(ring, now=START, epoch=1), held_up=MINUTE), Command.ROLLBACK)
    assert "call it off" not in capsys.readouterr().out


@pytest.mark.parametrize("command", [Command.ROTATE, Command.ROLLBACK])
def test_who_waits_for_what_is_called_off_meanwhile_waits_no_longer(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(turned(2), held_up=100 * MINUTE)
    former = signer(stage.ring)
    stage.meanwhile = lambda ring, at: (
        call_off(ring, now=at, epoch=1) if stage.asked and at == START + 2 * MINUTE else ring
    )
    assert done(stage, command) == 1
    told = capsys.readouterr()
    assert f"meanwhile: {former} signs on, and nothing is waited for" in told.err
    assert ("revoked" in told.err) is (command is Command.ROLLBACK)
    assert stage.at <= START + 3 * MINUTE, "and not until its own time"


def test_a_rollback_that_is_called_off_is_no_success_whoever_signs_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not even where the schedule's turn is overdue, and takes place at once."""
    ring = turned(2)
    due = tuple(replace(k, due_at=START) if k == ring.active() else k for k in ring.keys)
    ring = replace(ring, keys=due)
    stage = Stage(ring, held_up=10 * MINUTE)
    former = ring.former
    assert former
    stage.meanwhile = lambda ring, at: (
        settle(call_off(ring, now=at, epoch=1), START + DAY)[0]
        if stage.asked and at == START + 2 * MINUTE
        else ring
    )
    assert done(stage, Command.ROLLBACK) == 1
    assert (
        f"{former.kid} does not: that was called off, or it was revoked, meanwhile"
        in capsys.readouterr().err
    )


def test_whether_a_turn_is_due_is_told_by_the_leader_s_clock() -> None:
    """That of whoever waits may be behind."""
    ring = turned(2)
    due = tuple(replace(k, due_at=START) if k == ring.active() else k for k in ring.keys)
    stage = Stage(replace(ring, keys=due), held_up=DAY)
    seen = asyncio.run(stage.look())
    assert seen.proof
    for before, is_so in ((-MINUTE, False), (MINUTE, False), (10 * MINUTE, True)):
        proof = replace(seen.proof, at=START - before)
        assert asking._is_called_off(replace(seen, proof=proof)) is is_so
    assert not asking._is_called_off(replace(seen, proof=None))


def test_who_calls_a_turn_off_is_told_how_long_the_key_signs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ring = turned(2)
    active, key = signer(ring), ring.active()
    assert key and key.due_at
    other, _ = settle(ring, START, replace(RULES, algorithm="ES256"))
    for asked, at in (
        (rotate(ring, now=START, epoch=1), START),
        (rollback(ring, now=START, epoch=1), START),
        (rotate(ring, now=START, epoch=1), key.due_at + MINUTE),
        (rotate(other, now=START, epoch=1), START),
    ):
        stage: Any = Stage(asked)
        stage.ask, stage.at = partial(called_off, stage), at
        assert asyncio.run(asking._call_off(stage)) == 0
        assert stage.confirmed == [stage.ring.version]
    said = capsys.readouterr().out.splitlines()
    due, way = (f"{at:%Y-%m-%d %H:%M:%S} UTC" for at in (key.due_at, makes_way_at(other)))
    signs = f"called off: {active} signs on"
    assert said == [
        *2 * [f"{signs} until {due}, by the schedule"],
        f"{signs} only until the next key can: its own time is over",
        f"{signs} until {due}, by the schedule",
        f"the standby makes way for a key of algorithm ES256, at {way} at the earliest",
    ]


async def called_off(stage: Stage, command: Command) -> Any:
    assert command is Command.CALL_OFF
    stage.ring = call_off(stage.ring, now=stage.at, epoch=1)
    return argparse.Namespace(version=stage.ring.version, fields={})


def test_who_waits_no_longer_is_told_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted() -> None:
        parsed = argparse.Namespace(wait=True, no_wait=False)
        stage: Any = Stage(turned(), held_up=100 * MINUTE)
        waiting = asyncio.create_task(asking._turn(stage, parsed, Command.ROTATE))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(interrupted())
    assert "it takes place all the same" in capsys.readouterr().err


@pytest.mark.parametrize("command", [Command.ROLLBACK, Command.ROTATE_NOW])
def test_no_other_command_takes_it_for_its_own(command: Command) -> None:
    """Each has something of its own to do, or says why it cannot."""
    ring = rotate(turned(2), now=START, epoch=1)
    stage = Stage(ring, held_up=MINUTE)
    assert done(stage, command) == 0
    assert stage.asked == [command]
    if command is Command.ROLLBACK:
        assert signer(stage.ring) == ring.former.kid  # type: ignore[union-attr]


def test_a_ring_that_is_full_says_so() -> None:
    ring = rotate(turned(), now=START, epoch=1)
    (retired,) = ring.in_state(KeyState.RETIRED)
    more = (replace(retired, kid=f"d-{n}") for n in range(CAPACITY - len(ring.keys)))
    full = replace(ring, keys=(*ring.keys, *more))
    with pytest.raises(RequestRefused, match="the most there may be"):
        done(Stage(full, held_up=100 * MINUTE), Command.ROTATE)


@pytest.mark.parametrize("command", [Command.ROTATE, Command.ROTATE_NOW])
def test_of_two_at_once_the_second_takes_the_first_s_turn_for_its_own(
    capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    """It began before that key did, and looked only after."""
    stage = Stage(turned())
    stage.began = START - 2 * MINUTE
    kid = signer(stage.ring)
    with pytest.raises(RequestRefused, match=f"{kid} began to sign meanwhile"):
        done(stage, command, wait=False)
    assert done(stage, command) == 0
    assert stage.asked == []
    assert signer(stage.ring) == kid
    assert capsys.readouterr().out == f"{kid} began to sign while this command began\n"
    assert stage.confirmed == [stage.ring.version]
    assert done(stage, Command.ROLLBACK) == 0, "whose turn it was is to sign again: that is told"
    stage.began = stage.at
    assert done(stage, Command.ROTATE) == 0, "one after the other there are two"


def test_a_command_knows_when_it_began() -> None:
    before = asking._began(NOW)
    assert NOW - timedelta(days=1) < before < NOW
    assert abs(asking._began(NOW) - before) < timedelta(minutes=1)
