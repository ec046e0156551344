"""All rings of a daemon share three connections, and no ring's trouble is another's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.configuration import load
from ringkeeper.errors import RedisUnavailable
from ringkeeper.layout import Layout
from ringkeeper.store import Pong, Published, Released, Subscribed
from ringkeeperd.leader_store import Acquired
from ringkeeperd.shared_redis import SharedRedis
from ringkeeperd.switchboard import _MOST_UNREAD
from tests.plugins.daemons import Site
from tests.plugins.servers import Server

NAMES = [f"tenant-{number}" for number in range(20)]


@asynccontextmanager
async def sharing(server: Server) -> AsyncIterator[SharedRedis]:
    site = Site(server.url)
    shared = SharedRedis(load(site.configure(), {}), SystemClock())
    try:
        yield shared
    finally:
        await shared.close()
        site.close()


async def heard(line: Any, within: float = 5.0) -> Any:
    """The next thing that `line` hears."""
    async with asyncio.timeout(within):
        while True:
            if found := await line.next(0.5):
                return found


async def pinged_until_it_fails(line: Any) -> None:
    async with asyncio.timeout(8):
        while True:
            await line.ping()
            await line.next(0.2)


def say(server: Server, name: str, message: str) -> None:
    with server.client() as client:
        client.publish(Layout(name).published, message)


async def test_rings_share_three_connections_and_each_has_its_own_answers(valkey: Server) -> None:
    async with sharing(valkey) as shared:
        stores = [shared.store(name) for name in NAMES]
        ttl = timedelta(seconds=10)
        taken = await asyncio.gather(*(each.acquire("me", ttl, n) for n, each in enumerate(stores)))
        assert [each.epoch for each in taken if isinstance(each, Acquired)] == list(range(1, 21))
        assert await asyncio.gather(*(each.owner() for each in stores)) == ["me"] * 20
        async with stores[0].subscribe() as one, stores[1].subscribe() as other:
            assert {await heard(one), await heard(other)} == {Subscribed()}
            say(valkey, NAMES[1], "")
            assert await heard(other) == Released()
            assert await one.next(0.05) is None
            async with stores[0].requests() as asked, stores[1].requests() as of_other:
                both = asyncio.gather(asked.next(), of_other.next())
                await asyncio.sleep(0)
                for number in (0, 1):
                    await stores[number].ask(f"request {number}")
                found = await both
                assert [[each.document for each in some] for some in found] == [
                    ["request 0"],
                    ["request 1"],
                ]
                with valkey.client() as client:
                    ours = [c for c in client.client_list() if c["name"] == "ringkeeperd"]
                assert len(ours) <= 3


async def test_what_is_wrong_with_one_ring_is_not_told_to_another(valkey: Server) -> None:
    with valkey.client() as client:
        client.set(Layout(NAMES[0]).keyring, "no hash")
        client.set(Layout(NAMES[0]).requests, "no stream")
    async with sharing(valkey) as shared:
        stores = [shared.store(name) for name in NAMES]
        reads = await asyncio.gather(*(each.read() for each in stores), return_exceptions=True)
        assert isinstance(reads[0], RedisUnavailable)
        assert not any(isinstance(each, BaseException) for each in reads[1:])
        async with stores[1].requests() as asked:
            waiting = asyncio.ensure_future(asked.next())
            with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
                async with stores[0].requests() as hopeless:
                    await hopeless.next()
            await stores[1].ask("please")
            assert [each.document for each in await asyncio.wait_for(waiting, 5)] == ["please"]


async def test_a_stream_that_turns_into_something_else_stops_no_other(valkey: Server) -> None:
    async with sharing(valkey) as shared:
        turning, other = shared.store(NAMES[0]), shared.store(NAMES[1])
        async with turning.requests() as hopeless, other.requests() as asked:
            both = [asyncio.ensure_future(each.next()) for each in (hopeless, asked)]
            while not shared.doorbell.covered >= {turning.layout.requests, other.layout.requests}:
                await asyncio.sleep(0.02)
            with valkey.client() as client:
                client.set(turning.layout.requests, "no stream")
                client.xadd(other.layout.requests, {"request": "please"})
            assert [e.document for e in await asyncio.wait_for(both[1], 5)] == ["please"]
            (told,) = await asyncio.gather(both[0], return_exceptions=True)
            assert "WRONGTYPE" in str(told)


async def test_a_refused_channel_is_one_rings_trouble(own_server: Callable[..., Server]) -> None:
    server = own_server()
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "default", "resetchannels", f"&{Layout(NAMES[1]).published}"
        )
    async with sharing(server) as shared:
        refused, other = shared.store(NAMES[0]), shared.store(NAMES[1])
        async with refused.subscribe() as hopeless, other.subscribe() as line:
            assert await heard(line) == Subscribed()
            with pytest.raises(RedisUnavailable, match="ACL"):
                await heard(hopeless)
            say(server, NAMES[1], "a\nb")
            assert await heard(line) == Published("a", "b")


async def test_all_hear_that_their_connection_is_gone(own_server: Callable[..., Server]) -> None:
    server = own_server()
    async with sharing(server) as shared:
        stores = [shared.store(name) for name in NAMES[:2]]
        async with stores[0].subscribe() as one, stores[1].subscribe() as other:
            assert {await heard(one), await heard(other)} == {Subscribed()}
            with server.client() as client:
                client.client_kill_filter(_type="pubsub")
            for line in (one, other):
                with pytest.raises(RedisUnavailable):
                    await heard(line)
        async with stores[0].subscribe() as again:
            assert await heard(again) == Subscribed()


async def test_a_server_that_hangs_is_noticed_by_one_ping(
    own_server: Callable[..., Server],
) -> None:
    server = own_server()
    async with sharing(server) as shared:
        stores = [shared.store(name) for name in NAMES[:2]]
        async with stores[0].subscribe() as one, stores[1].subscribe() as other:
            assert {await heard(one), await heard(other)} == {Subscribed()}
            await one.ping()
            assert await heard(one) == Pong()
            server.pause()
            try:
                with pytest.raises(RedisUnavailable, match="no answer to a ping"):
                    await pinged_until_it_fails(one)
                with pytest.raises(RedisUnavailable):
                    await heard(other)
            finally:
                server.resume()


async def test_a_lost_connection_is_not_made_anew_for_one_of_them(valkey: Server) -> None:
    """The others would listen there to nothing, and each ping would be answered."""
    async with sharing(valkey) as shared:
        stores = [shared.store(name) for name in NAMES[:2]]
        async with stores[0].subscribe() as one:
            assert await heard(one) == Subscribed()
            connection = shared.switchboard._connection
            assert connection
            with valkey.client() as client:
                made: Any = client.info("stats")
                await connection.disconnect(nowait=True)
                with pytest.raises(RedisUnavailable):
                    async with stores[1].subscribe():
                        pass
                with pytest.raises(RedisUnavailable):
                    await heard(one)
                now: Any = client.info("stats")
            assert now["total_connections_received"] == made["total_connections_received"]
        async with stores[0].subscribe() as one, stores[1].subscribe() as other:
            assert {await heard(one), await heard(other)} == {Subscribed()}


async def test_who_waits_again_while_nobody_else_does_is_rung(valkey: Server) -> None:
    """The connection is let go when nobody waits: who comes at that moment has a new one."""
    stream, after = Layout(NAMES[0]).requests, "0"
    async with sharing(valkey) as shared:
        with valkey.client() as client:
            for _ in range(3):
                waiting = asyncio.ensure_future(shared.doorbell.rung(stream, after, 5))
                await asyncio.sleep(0)
                after = str(client.xadd(stream, {"request": "please"}))
                assert await waiting, "nobody read for it"


async def test_who_floods_a_channel_fills_no_memory(valkey: Server) -> None:
    async with sharing(valkey) as shared:
        stores = [shared.store(name) for name in NAMES[:2]]
        async with stores[0].subscribe() as line, stores[1].subscribe() as other:
            assert {await heard(line), await heard(other)} == {Subscribed()}
            with valkey.client() as client:
                for number in range(3 * _MOST_UNREAD):
                    client.publish(Layout(NAMES[0]).published, f"{number}\n")
            say(valkey, NAMES[1], "")
            assert await heard(other) == Released()  # so that has come, too
            found = []
            while (message := await line.next(0.05)) is not None:
                found.append(message)
            assert len(found) <= _MOST_UNREAD
            assert Subscribed() in found, "it does not know that something was lost"


async def test_who_is_cancelled_takes_nobody_along(valkey: Server) -> None:
    async with sharing(valkey) as shared:
        stores = [shared.store(name) for name in NAMES]
        reads = [asyncio.ensure_future(each.read()) for each in stores]
        await asyncio.sleep(0)
        reads[0].cancel()
        found = await asyncio.gather(*reads, return_exceptions=True)
        assert [isinstance(each, BaseException) for each in found] == [True] + 19 * [False]
