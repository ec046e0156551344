"""One read for all who ask for it, and none of them is told what was read before they asked."""

import asyncio
from datetime import UTC, datetime

from ringkeeper.clock import Clock
from ringkeeper.shared_read import SharedRead


class _Clock(Clock):
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def timestamp(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Shelf:
    """What is read: each read waits until it is let go, and says whether it was answered."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.began = self.most = self.under_way = 0
        self.gates: list[asyncio.Future[bool]] = []
        self.reading = SharedRead(self.read, self.clock)

    async def read(self) -> bool:
        self.began += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.gates.append(asyncio.get_running_loop().create_future())
        try:
            return await self.gates[-1]
        finally:
            self.under_way -= 1

    def ask(self, count: int = 1) -> list[asyncio.Task[bool]]:
        return [asyncio.create_task(self.reading.fresh()) for _ in range(count)]

    def let_go(self, answer: bool = True) -> None:
        self.gates[-1].set_result(answer)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_all_who_ask_before_it_begins_share_it() -> None:
    shelf = Shelf()
    asking = shelf.ask(8)
    await turns()
    assert shelf.began == 1
    shelf.let_go()
    assert await asyncio.gather(*asking) == [True] * 8
    assert shelf.began == 1


async def test_who_asks_while_one_is_under_way_waits_for_the_next() -> None:
    shelf = Shelf()
    first = shelf.ask()
    await turns()
    later = shelf.ask(3)
    await turns()
    assert shelf.began == 1, "one after the other"
    shelf.let_go(False)
    await turns()
    assert [task.done() for task in (*first, *later)] == [True, False, False, False]
    assert shelf.began == 2
    last = shelf.ask(2)
    await turns()
    shelf.let_go()
    assert await asyncio.gather(*first, *later) == [False, True, True, True]
    await turns()
    assert shelf.began == 3, "what the second one read is older than what these ask about"
    shelf.let_go()
    assert await asyncio.gather(*last) == [True, True]
    assert shelf.most == 1


async def test_who_asks_as_one_ends_begins_no_second_one_beside_the_next() -> None:
    shelf = Shelf()
    shelf.ask()
    await turns()
    waiting = shelf.ask()
    await turns()
    shelf.let_go()
    for _ in range(6):  # at each turn of the loop from its end to the beginning of the next
        waiting += shelf.ask()
        await turns(1)
    for _ in range(4):
        for gate in shelf.gates:
            if not gate.done():
                gate.set_result(True)
        await turns()
    assert all(task.done() for task in waiting)
    assert shelf.most == 1


async def test_who_does_not_wait_any_more_ends_it_for_nobody_else() -> None:
    shelf = Shelf()
    (impatient,), patient = shelf.ask(), shelf.ask(2)
    await turns()
    (later,) = shelf.ask()
    await turns()
    impatient.cancel()
    patient[0].cancel()
    await turns()
    shelf.let_go()
    assert await patient[1]
    await turns()
    later.cancel()
    (last,) = shelf.ask()
    await turns()
    shelf.let_go()
    await turns()
    shelf.let_go()
    assert await last


async def test_it_tells_how_long_it_lasts_and_how_long_ago_it_ended() -> None:
    shelf = Shelf()
    assert (shelf.reading.lasts, shelf.reading.ended_ago) == (0.0, float("inf"))
    asking = shelf.ask()
    await asyncio.sleep(0)  # asked for, and not begun
    assert shelf.reading.lasts == 0.0
    await turns()
    shelf.clock.seconds += 2
    assert shelf.reading.lasts == 2.0
    shelf.let_go()
    await asyncio.gather(*asking)
    shelf.clock.seconds += 3
    assert (shelf.reading.lasts, shelf.reading.ended_ago) == (0.0, 3.0)
    shelf.ask()
    await asyncio.sleep(0)  # that of before has ended, and says nothing of this one
    assert shelf.reading.lasts == 0.0
    await turns()
    shelf.let_go()
    await turns()


async def test_after_a_read_that_fails_the_next_one_reads() -> None:
    shelf = Shelf()
    (asking,) = shelf.ask()
    await turns()
    (later,) = shelf.ask()
    await turns()
    shelf.gates[-1].set_exception(OSError("gone"))
    await asyncio.wait([asking])
    assert isinstance(asking.exception(), OSError)
    await turns()
    shelf.let_go()
    assert await later
