"""Who has a slot is asked with little patience: a node that is silent is not waited for."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis import exceptions

from ringkeeper.errors import RedisUnavailable
from ringkeeper.topology import (
    ASKING_TIMEOUT,
    FINDING_TIMEOUT,
    SlotConnection,
    connection_for,
    speaking,
)


@pytest.fixture
def silent() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack) -> socket.socket:
    """A port where connections are taken, and nobody answers."""
    server = stack.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


async def seconds_to_fail(nodes: list[socket.socket]) -> float:
    hosts = ",".join(f"127.0.0.1:{node.getsockname()[1]}" for node in nodes)
    client = connection_for(f"redis+cluster://{hosts}", key="k")
    assert client.connection_pool.connection_class is SlotConnection
    began = time.monotonic()
    with pytest.raises((exceptions.ConnectionError, exceptions.TimeoutError)):
        await client.ping()
    took = time.monotonic() - began
    await client.aclose()
    return took


async def test_a_node_that_does_not_even_connect_is_given_up_as_soon(silent: ExitStack) -> None:
    """Its queue of connections is full: to whoever comes, it is as a host that is gone."""
    node = silent.enter_context(socket.socket())
    node.bind(("127.0.0.1", 0))
    node.listen(0)
    for _ in range(4):
        caller = silent.enter_context(socket.socket())
        caller.setblocking(False)
        caller.connect_ex(node.getsockname())
    await asyncio.sleep(0)
    assert await seconds_to_fail([node]) < 2 * ASKING_TIMEOUT


async def test_many_silent_nodes_together_are_waited_for_as_long_as_a_few(
    silent: ExitStack,
) -> None:
    nodes = [listening(silent) for _ in range(12)]
    assert 12 * ASKING_TIMEOUT > 1.5 * FINDING_TIMEOUT
    assert await seconds_to_fail(nodes) < 1.3 * FINDING_TIMEOUT


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        ("('no, you may not',)", "no, you may not"),
        ("""("can't run 'hset'",)""", "can't run 'hset'"),
        *[(text, text) for text in ("no tuple", "{}", "()", "5", "('", "{}#")],
    ],
)
def test_what_a_pipeline_was_refused_is_told_in_words(refused: str, told: str) -> None:
    """redis-py quotes the arguments of the error; a server may answer anything."""
    refusal = exceptions.ResponseError(f"Command # 1 (X) of pipeline caused error: {refused}")
    with pytest.raises(RedisUnavailable) as caught, speaking("redis", "asking"):
        raise refusal
    assert str(caught.value).startswith(f"redis: asking: {told}; ")


@pytest.mark.parametrize("lost", [None, exceptions.TimeoutError("Timeout reading from socket")])
async def test_a_cancellation_that_redis_py_loses_counts_all_the_same(
    lost: Exception | None,
) -> None:
    """As Python 3.11's `wait_for` forgets one that comes as it ends; or as if it were a time-out."""

    async def spoken() -> None:
        with speaking("redis", "confirming"):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                if lost:
                    raise lost from None
        raise AssertionError("it goes on")

    task = asyncio.create_task(spoken())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await spoken()


async def test_whoever_says_goodbye_is_let_speak() -> None:
    """It was cancelled before, and is not again."""
    said: list[str] = []

    async def leaving() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            with speaking("redis", "leaving"):
                await asyncio.sleep(0)
            said.append("goodbye")

    task = asyncio.create_task(leaving())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert said == ["goodbye"]


def test_a_server_of_another_user_s_is_not_told_as_one_that_does_not_run() -> None:
    denied = "Error 13 connecting to /srv/var/valkey.sock. Permission denied."
    with pytest.raises(RedisUnavailable) as caught, speaking("redis", "asking for its time"):
        raise exceptions.ConnectionError(denied)
    assert "Permission denied; let this user open it, or do this as" in str(caught.value)
    gone = "Error 2 connecting to /srv/var/valkey.sock. No such file or directory."
    with pytest.raises(RedisUnavailable) as caught, speaking("redis", "asking for its time"):
        raise exceptions.ConnectionError(gone)
    assert "the embedded server is not running: start the daemon" in str(caught.value)


def test_a_host_that_nobody_knows_is_perhaps_misspelt() -> None:
    unknown = "Error -2 connecting to rediss:6379. Name or service not known."
    with pytest.raises(RedisUnavailable) as caught, speaking("redis", "reading the keyring"):
        raise exceptions.ConnectionError(unknown)
    assert str(caught.value).endswith("; is the host in redis.url right?")
