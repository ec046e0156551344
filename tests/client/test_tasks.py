"""Several things at once, that begin and end together."""

import asyncio
import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from ringkeeper import tasks
from ringkeeper.tasks import apart, aside, first_of


async def test_who_is_stopped_has_the_time_to_say_goodbye() -> None:
    """To a Redis that is far away, too: else a lease is kept, and an instance waited for."""
    said: list[str] = []

    async def lead() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)  # as a round trip or two
            said.append("goodbye")

    await first_of(lead(), asyncio.sleep(0))
    assert said == ["goodbye"]


async def test_a_cancellation_that_is_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_CANCEL_AGAIN", 0.02)

    async def takes_it_for_a_time_out() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await first_of(takes_it_for_a_time_out(), asyncio.sleep(0))


async def test_of_several_that_fail_one_is_raised_and_none_complains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(when: asyncio.Event) -> None:
        try:
            await when.wait()
        finally:
            raise ValueError("no")

    now = asyncio.Event()
    now.set()
    with pytest.raises(ValueError, match="no"):
        await first_of(fails(now), fails(now), fails(asyncio.Event()))
    gc.collect()
    assert caplog.records == []


async def test_all_end_as_the_first_one_did() -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await first_of(fails(), asyncio.sleep(60))


async def test_who_is_cancelled_again_while_it_stops_the_others_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at the end of `asyncio.run`, which cancels every task there is, within one another."""
    monkeypatch.setattr(tasks, "_CANCEL_AGAIN", 0.02)
    ended: list[str] = []

    async def takes_it_for_a_time_out() -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("the listener")

    async def follow() -> None:
        try:
            await first_of(takes_it_for_a_time_out(), asyncio.sleep(60))
        finally:
            ended.append("goodbye")

    whole = asyncio.create_task(first_of(follow(), asyncio.sleep(60)))
    for _ in range(10):  # rounds of the loop, until the innermost waits
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([whole], timeout=5)
    assert whole.cancelled()
    assert ended == ["the listener", "goodbye"]


async def test_what_is_done_aside_is_done_once_and_on_another_thread() -> None:
    assert await aside(threading.get_ident) != threading.get_ident()
    done: list[int] = []

    def fail() -> None:
        done.append(threading.get_ident())
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        await aside(fail)
    assert len(done) == 1


async def test_an_app_without_threads_is_not_held_up_instead() -> None:
    """It shut them down itself, or there are as many as there may be: that is to be told."""
    await asyncio.get_running_loop().shutdown_default_executor()
    done: list[int] = []
    with pytest.raises(RuntimeError):
        await aside(lambda: done.append(1))
    assert done == []


async def test_what_is_done_apart_waits_for_no_other_thread() -> None:
    loop, release = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    taken = loop.run_in_executor(None, release.wait)
    try:
        async with asyncio.timeout(10):
            where = {await apart(threading.get_ident) for _ in range(3)}
    finally:
        release.set()
        await taken
    assert threading.get_ident() not in where


async def test_where_there_is_no_thread_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    await apart(lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()]


async def test_what_fails_apart_fails_here() -> None:
    with pytest.raises(ZeroDivisionError):
        await apart(lambda: 1 / 0)


@pytest.mark.parametrize("how", ["aside", "apart"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_program_that_is_about_to_end_still_does_it(how: str, is_first: bool) -> None:
    """Python gives no threads any more, and a keyring's own keeps the ring until its goodbye."""
    before = "" if is_first else f"asyncio.run({how}(list))"
    program = f"""
import asyncio, atexit
from ringkeeper.tasks import {how}
atexit.register(lambda: print(asyncio.run({how}(lambda: "done"))))
{before}
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == ("done\n", "")
