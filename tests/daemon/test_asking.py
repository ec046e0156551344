"""What an operator is told: the answer to this very request, or what became of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.errors import InfrastructureError, RequestRefused, RingMissing, SealBroken
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Command, Request, open_request, sign_event
from ringkeeperd.audit import REQUEST_REFUSED, ROTATION_ASKED, event
from ringkeeperd.leader_store import Entry, RedisLeaderStore
from ringkeeperd.operator import Operator
from tests.client.waiting import stopped
from tests.plugins.rings import LedRing, answered

WAIT = timedelta(seconds=5)


@pytest.fixture
async def store(led: LedRing) -> AsyncIterator[RedisLeaderStore]:
    made = RedisLeaderStore.connect(led.server.url, led.name, SystemClock(), password=None)
    yield made
    await made.close()


@pytest.fixture
def operator(led: LedRing, store: RedisLeaderStore) -> Operator:
    return Operator(store, led.root.public, SystemClock())


def told(
    led: LedRing, request: str, name: str, root: TrustRoot | None = None, why: str = ""
) -> str:
    fields = {"request": request, "why": why}
    return sign_event(event(led.ring, SystemClock().now(), name, fields), root or led.root)


@asynccontextmanager
async def led_by(
    led: LedRing, answer: Callable[[Request, Entry], Awaitable[None]]
) -> AsyncIterator[list[Request]]:
    """A leader that does `answer` with each request; what was asked."""
    asked: list[Request] = []
    store = RedisLeaderStore.connect(led.server.url, led.name, SystemClock(), password=None)

    async def lead() -> None:
        async with store.requests() as stream:
            while True:
                for entry in await stream.next():
                    asked.append(open_request(entry.document, led.root.public))
                    await answer(asked[-1], entry)

    leading = asyncio.create_task(lead())
    try:
        yield asked
    finally:
        await stopped(leading)
        await store.close()


async def test_a_ring_that_moved_on_meanwhile_is_looked_at_and_asked_again(
    led: LedRing, store: RedisLeaderStore, operator: Operator
) -> None:
    async def answer(request: Request, entry: Entry) -> None:
        if request.version == 1:
            led.adopt(use_dynamic=False)
            await answered(store, entry, told(led, request.id, REQUEST_REFUSED, why="moved on"))
        else:
            await answered(store, entry, told(led, request.id, ROTATION_ASKED))

    async with led_by(led, answer) as asked:
        done = await operator.ask(led.root, Command.ROTATE, reason="test", wait=WAIT)
    assert done.event == ROTATION_ASKED
    assert [request.version for request in asked] == [1, 2]
    assert len({request.id for request in asked}) == 2


@pytest.mark.parametrize(
    "command", [Command.ROTATE, Command.ROTATE_NOW, Command.ROLLBACK, Command.CALL_OFF]
)
async def test_one_turn_is_asked_for_and_no_second_where_another_took_place_meanwhile(
    led: LedRing, store: RedisLeaderStore, operator: Operator, command: Command
) -> None:
    async def answer(request: Request, entry: Entry) -> None:
        led.turn()
        await answered(store, entry, told(led, request.id, REQUEST_REFUSED, why="moved on"))

    async with led_by(led, answer) as asked:
        with pytest.raises(RequestRefused, match="began to sign meanwhile, in version 2") as no:
            await operator.ask(led.root, command, reason="test", wait=WAIT)
    assert led.signer.kid in str(no.value)
    assert len(asked) == 1


def moved_by(led: LedRing, who: str) -> str:
    """Another operator's change, as the audit tells of it."""
    fields = {"request": "another", "by": who}
    made = replace(event(led.ring, SystemClock().now(), "setting changed", fields), number=7)
    return sign_event(made, led.root)


@pytest.mark.parametrize("command", [Command.ROTATE, Command.REVOKE])
async def test_who_was_second_hears_of_the_first_but_an_emergency_goes_on(
    led: LedRing, store: RedisLeaderStore, operator: Operator, command: Command
) -> None:
    async def answer(request: Request, entry: Entry) -> None:
        if request.version == 1:
            led.turn()
            with led.server.client() as client:
                client.xadd(led.layout.events, {"event": moved_by(led, "bob@host")})
            await answered(store, entry, told(led, request.id, REQUEST_REFUSED, why="moved on"))
        else:
            await answered(store, entry, told(led, request.id, ROTATION_ASKED))

    async with led_by(led, answer) as asked:
        if command is Command.REVOKE:
            await operator.ask(led.root, command, kid=led.standby.kid, reason="test", wait=WAIT)
            assert [request.version for request in asked] == [1, 2]
            return
        with pytest.raises(
            RequestRefused, match="bob@host was first: setting changed in version 2"
        ):
            await operator.ask(led.root, command, reason="test", wait=WAIT)
        assert len(asked) == 1, "it has not seen what that brought"


async def test_what_was_refused_for_good_is_asked_once(
    led: LedRing, store: RedisLeaderStore, operator: Operator
) -> None:
    async def answer(request: Request, entry: Entry) -> None:
        await answered(store, entry, told(led, request.id, REQUEST_REFUSED, why="the ring is full"))

    async with led_by(led, answer) as asked:
        with pytest.raises(RequestRefused, match="the ring is full"):
            await operator.ask(led.root, Command.ROTATE, reason="test", wait=WAIT)
    assert len(asked) == 1


async def test_a_refusal_moves_no_cursor(
    led: LedRing, store: RedisLeaderStore, operator: Operator
) -> None:
    """It may name instances, whose names anyone may have written."""

    async def answer(request: Request, entry: Entry) -> None:
        why = "app-\x1b[2J does not have the KEK"
        await answered(store, entry, told(led, request.id, REQUEST_REFUSED, why=why))

    async with led_by(led, answer):
        with pytest.raises(RequestRefused, match=r"app-\?\[2J does not have the KEK"):
            await operator.ask(led.root, Command.REWRAP, reason="test", wait=WAIT)


async def test_only_what_the_root_signed_about_this_request_is_its_answer(
    led: LedRing, store: RedisLeaderStore, operator: Operator
) -> None:
    """Whoever may write to Redis cannot make an operator believe that a key was revoked."""

    async def answer(request: Request, entry: Entry) -> None:
        for lie in (
            "garbage",
            told(led, request.id, ROTATION_ASKED, TrustRoot.generate()),
            told(led, "another request", ROTATION_ASKED),
        ):
            await answered(store, entry, lie)
        await answered(store, entry, told(led, request.id, REQUEST_REFUSED, why="the truth"))

    async with led_by(led, answer):
        with pytest.raises(RequestRefused, match="the truth"):
            await operator.ask(led.root, Command.ROTATE, reason="test", wait=WAIT)


async def test_without_an_answer_an_operator_is_told_what_became_of_the_request(
    led: LedRing,
    store: RedisLeaderStore,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment, ask = timedelta(milliseconds=200), store.ask
    with pytest.raises(InfrastructureError, match="was withdrawn; is a daemon"):
        await operator.ask(led.root, Command.ROTATE, reason="test", wait=moment)
    with led.server.client() as client:
        assert client.xlen(led.layout.requests) == 0, "nobody carries it out later"

    async def is_taken(request: str) -> str:
        entry = await ask(request)
        await answered(store, Entry(entry, request))  # by a leader that then dies
        return entry

    monkeypatch.setattr(store, "ask", is_taken)
    with pytest.raises(InfrastructureError, match="may have been carried out; look"):
        await operator.ask(led.root, Command.ROTATE, reason="test", wait=moment)


@pytest.mark.parametrize("command", [Command.REVOKE, Command.CALL_OFF_DRAIN, Command.RETIRE])
async def test_nobody_waits_for_a_leader_to_hear_of_a_key_that_there_is_not(
    led: LedRing, operator: Operator, command: Command
) -> None:
    with pytest.raises(RequestRefused, match="unknown kid 'd-x'; ringkeeper status lists"):
        await operator.ask(led.root, command, kid="d-x", reason="x", wait=WAIT)
    with led.server.client() as client:
        assert client.xlen(led.layout.requests) == 0


async def test_a_request_says_until_when_somebody_waits_for_it(
    led: LedRing, store: RedisLeaderStore, operator: Operator
) -> None:
    async def answer(request: Request, entry: Entry) -> None:
        await answered(store, entry, told(led, request.id, ROTATION_ASKED))

    kid = led.standby.kid
    async with led_by(led, answer) as asked:
        await operator.ask(led.root, Command.REVOKE, kid=kid, reason="leaked", wait=WAIT)
        with pytest.raises(RequestRefused, match="200 characters at the most"):
            await operator.ask(led.root, Command.ROTATE, reason="x" * 201, wait=WAIT)
    (request,) = asked
    assert (request.ring_id, request.name) == (led.ring.id, led.name)
    assert (request.command, request.kid, request.reason) == (Command.REVOKE, kid, "leaked")
    assert request.until == request.at + WAIT


async def test_an_operator_sees_whether_the_private_keys_open(
    led: LedRing, operator: Operator
) -> None:
    await operator.inspect(led.kek)
    await operator.inspect(None)
    with pytest.raises(SealBroken, match="give it the right KEK"):
        await operator.inspect(Kek.generate())
    with led.server.client() as client:
        client.hdel(led.layout.sealed, led.standby.kid)
        with pytest.raises(SealBroken, match=led.standby.kid):
            await operator.inspect(led.kek)
        client.delete(led.layout.keyring)
    with pytest.raises(RingMissing, match="is made by ringkeeper init"):
        await operator.look()
