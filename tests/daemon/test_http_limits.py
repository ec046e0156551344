"""What a client of HTTP may take, and that a crowd of them keeps nobody from turning keys."""

import asyncio
import json
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ringkeeperd import limits
from ringkeeperd.limits import BURST, CLIENTS_KNOWN, RATE, Rates, Runner, Server, client_of
from tests.plugins.daemons import Daemon, Site, eventually

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SECURITY = ("x-content-type-options", "content-security-policy", "referrer-policy")


class Served:
    """A real server on loopback with a few pages, and what it counted and told."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.told: list[BaseException] = []
        self.began = asyncio.Event()
        application = web.Application()
        for path in ("/", "/healthz", "/readyz"):
            application.router.add_get(path, self._page)
        application.router.add_get("/fails", self._fails)
        application.router.add_get("/never", self._never)
        application.router.add_get("/large", self._large)
        application.router.add_post("/body", self._body)
        self.runner = Runner(application, lambda reason: self.counted.update([reason]), self._tell)

    def _tell(self, error: BaseException) -> None:
        self.told.append(error)

    async def _page(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "fine"})

    async def _fails(self, _: web.Request) -> web.Response:
        raise LookupError("redis://:hunter2@10.0.0.1:6379 and /etc/ringkeeper/kek.jwk")

    async def _never(self, _: web.Request) -> web.Response:
        self.began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def _large(self, _: web.Request) -> web.Response:
        return web.Response(body=bytes(20_000_000))

    async def _body(self, request: web.Request) -> web.Response:
        return web.json_response({"length": len(await request.read())})

    async def start(self) -> None:
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        (self.address,) = self.runner.addresses

    @property
    def server(self) -> Server:
        assert isinstance(self.runner.server, Server)
        return self.runner.server

    @asynccontextmanager
    async def line(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection of a client's."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def says(self, *sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """What is answered to that, on a connection of its own."""
        async with self.line() as (reader, writer):
            writer.writelines(sent)
            return await answer(reader)


async def answer(
    reader: asyncio.StreamReader, *, is_head: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, header, body."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-1])}
        length = 0 if is_head else int(headers.get("content-length", 0))
        return int(head[0].split()[1]), headers, await reader.readexactly(length)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side ends the connection, soon."""
    try:
        async with asyncio.timeout(10):
            return await reader.read(1) == b""
    except ConnectionError:
        return True


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.start()
    yield made
    await made.runner.cleanup()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits of time are short."""
    for name in ("HEAD_WITHIN", "ANSWER_WITHIN", "_LINGERING"):
        monkeypatch.setattr(limits, name, 0.4)
    monkeypatch.setattr(limits, "_LOOK_EVERY", 0.05)


# --- time ------------------------------------------------------------------------------------------


async def test_who_sends_a_byte_now_and_then_is_cut_off(hurried: None, served: Served) -> None:
    async with served.line() as (reader, writer):
        began = time.monotonic()
        ending = asyncio.ensure_future(ended(reader))
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"a" * 2000:
            if ending.done():
                break
            with suppress(ConnectionError):
                writer.write(bytes([byte]))
                await writer.drain()
            await asyncio.wait([ending], timeout=0.02)
        assert await ending
        assert 0.3 < time.monotonic() - began < 5
    assert served.counted == {"slow": 1}


async def test_who_says_nothing_is_cut_off(hurried: None, served: Served) -> None:
    async with served.line() as (reader, _):
        assert await ended(reader)
    assert served.counted == {"slow": 1}


async def test_a_second_request_that_comes_slowly_is_cut_off_too(
    hurried: None, served: Served
) -> None:
    async with served.line() as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        writer.write(GET[:20])
        assert await ended(reader)
    assert served.counted == {"slow": 1}


async def test_a_body_that_comes_slowly_is_not_waited_for(hurried: None, served: Served) -> None:
    async with served.line() as (reader, writer):
        writer.write(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["status"]) == (408, "request timeout")
        assert headers["connection"] == "close"
        assert await ended(reader)
    assert served.counted == {"slow": 1}


async def test_a_body_that_nobody_asked_for_is_not_waited_for(
    hurried: None, served: Served
) -> None:
    async with served.line() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        assert (await answer(reader))[0] == 200
        assert await ended(reader)


async def test_a_page_that_takes_too_long_is_given_up(hurried: None, served: Served) -> None:
    status, _, body = await served.says(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status == 408, body


async def test_who_does_not_read_the_answer_is_let_go(
    monkeypatch: pytest.MonkeyPatch, hurried: None, served: Served
) -> None:
    monkeypatch.setattr(limits, "QUIET_MOST", 0.4)
    async with served.line() as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(served.server.connections))
        await until(lambda: not served.server.connections)


async def test_a_connection_is_kept_between_requests_and_let_go_when_it_is_not_used(
    monkeypatch: pytest.MonkeyPatch, hurried: None, served: Served
) -> None:
    monkeypatch.setattr(limits, "QUIET_MOST", 1.0)
    async with served.line() as (reader, writer):
        for _ in range(3):
            writer.write(GET)
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.6)  # longer than a head may take, shorter than one may be quiet
        assert await ended(reader)
    assert served.counted == {}, "that is nothing to be counted"


# --- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "size"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9_000 + b"\r\n\r\n", 431, "size"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 100 + b"\r\n", 400, "malformed"),
        (b"nonsense\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: a\r\n\r\n", 400, "malformed"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "malformed",
        ),
    ],
)
async def test_what_is_no_request_or_too_large_is_refused_in_constant_words(
    served: Served, request_: bytes, status: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with served.line() as (reader, writer):
        writer.write(request_)
        got, headers, body = await answer(reader)
        assert await ended(reader)
    assert got == status, body
    assert set(json.loads(body)) == {"status", "why"}
    assert b"aaaa" not in body
    assert b"nonsense" not in body
    assert_secured(headers)
    assert served.counted == {reason: 1}
    assert served.told == []
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    size = limits.MAX_BODY + 1
    head = f"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    status, headers, body = await served.says(head, bytes(size))
    assert status == 413
    assert "too large" in json.loads(body)["status"]
    assert_secured(headers)
    fits = head.replace(str(size).encode(), str(size - 1).encode())
    assert (await served.says(fits, bytes(size - 1)))[0] == 200


async def test_a_crowd_whose_bodies_do_not_come_keeps_no_health_check_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.server, "_most", 5)
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    async with AsyncExitStack() as crowd:
        for _ in range(5):
            _, writer = await crowd.enter_async_context(served.line())
            writer.write(head)
            await writer.drain()
        async with asyncio.timeout(5):
            status, _, _ = await served.says(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status == 200
    assert served.counted["crowded"] == 1


async def test_who_sends_without_end_is_cut_off(served: Served) -> None:
    async with served.line() as (reader, writer):
        writer.write(b"GET /never HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        ending, sent = asyncio.ensure_future(ended(reader)), 0
        with suppress(ConnectionError):
            while not ending.done() and sent < 50_000_000:
                writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
                sent += 4096
                await writer.drain()
                await asyncio.sleep(0)
        assert await ending
        assert sent < 50_000_000
    assert served.counted == {"size": 1}


async def test_many_requests_at_once_on_one_connection_are_all_answered(served: Served) -> None:
    async with served.line() as (reader, writer):
        writer.write(GET * 100)
        assert {(await answer(reader))[0] for _ in range(100)} == {200}


async def test_a_connection_that_is_kept_may_send_more_than_that_over_time(served: Served) -> None:
    request = GET[:-2] + b"X: " + b"a" * 4_000 + b"\r\n\r\n"
    async with served.line() as (reader, writer):
        for _ in range(2 * limits.MAX_TAKEN // len(request)):
            writer.write(request)
            assert (await answer(reader))[0] == 200


# --- places ----------------------------------------------------------------------------------------


async def test_when_all_places_are_taken_the_newcomer_gets_that_of_the_quietest(
    served: Served,
) -> None:
    served.server._most = 3
    async with served.line() as quietest, served.line() as second, served.line() as third:
        for reader, writer in (quietest, second, third):
            writer.write(GET)
            await answer(reader)
        quietest[1].write(GET)  # and now it is the second one
        await answer(quietest[0])
        assert (await served.says(GET.replace(b"/ ", b"/healthz ")))[0] == 200
        assert await ended(second[0])
        for reader, writer in (quietest, third):
            writer.write(GET)
            assert (await answer(reader))[0] == 200
    assert served.counted == {"crowded": 1}


async def test_who_is_being_answered_keeps_its_place(served: Served) -> None:
    served.server._most = 1
    async with served.line() as (reader, writer):
        writer.write(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        await served.began.wait()
        async with served.line() as (second, _):
            assert await ended(second)
        assert not reader.at_eof()
        assert len(served.server.connections) == 1


async def test_no_more_than_half_of_what_may_be_opened_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for soft, most in ((64, 32), (1024, 512), (100_000, 512), (resource.RLIM_INFINITY, 512)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert limits.places() == most


async def test_places_are_free_again_when_clients_leave(served: Served) -> None:
    for _ in range(5):
        assert (await served.says(GET))[0] == 200
    await until(lambda: not served.server._taken)
    assert served.server._quiet == {}


# --- rates -----------------------------------------------------------------------------------------


def test_a_client_has_so_many_requests_at_once_and_then_so_many_a_second() -> None:
    rates = Rates()
    assert all(rates.take("a", 0.0) for _ in range(int(BURST)))
    assert not rates.take("a", 0.0)
    assert rates.take("b", 0.0), "another client is not to blame"
    assert sum(rates.take("a", 1.0) for _ in range(1000)) == RATE
    assert sum(rates.take("a", 1e6) for _ in range(5000)) == BURST, "and never more than at first"


def test_a_fleet_behind_one_address_is_not_hurt() -> None:
    """10,000 verifiers that fetch every five minutes, 1,000 of them at once when they start."""
    rates, now = Rates(), 0.0
    for _ in range(1_000):
        assert rates.take("nat", now)
    for _ in range(30_000):
        now += 300 / 10_000
        assert rates.take("nat", now)


def test_of_clients_without_number_the_last_ones_are_known() -> None:
    rates = Rates()
    for number in range(3 * CLIENTS_KNOWN):
        rates.take(str(number), 0.0)
    assert len(rates) == CLIENTS_KNOWN


@pytest.mark.parametrize(
    ("remote", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::1", "2001:db8:0:1::/64"),
        (None, ""),
        ("", ""),
    ],
)
def test_one_client_is_one_address_or_one_network_of_ipv6(remote: str | None, client: str) -> None:
    assert client_of(remote) == client


async def test_who_asks_too_often_is_told_when_to_ask_again_and_health_is_never_limited(
    monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    monkeypatch.setattr(limits, "BURST", 2.0)
    monkeypatch.setattr(limits, "RATE", 0.001)
    assert [(await served.says(GET))[0] for _ in range(3)] == [200, 200, 429]
    status, headers, body = await served.says(GET)
    assert (status, headers["retry-after"], headers["connection"]) == (429, "1", "close")
    assert "ask less often" in json.loads(body)["why"]
    assert_secured(headers)
    for path in (b"/healthz ", b"/readyz "):
        for _ in range(5):
            assert (await served.says(GET.replace(b"/ ", path)))[0] == 200
    assert served.counted == {"rate": 2}


# --- what is shown ---------------------------------------------------------------------------------


async def test_a_page_that_fails_shows_nothing_and_is_told_once(served: Served) -> None:
    for _ in range(3):
        status, headers, body = await served.says(b"GET /fails HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status == 500
        assert json.loads(body) == {
            "status": "failed",
            "why": "this page failed; the log tells why",
        }
        assert_secured(headers)
    assert served.counted == {"failed": 3}
    assert [type(error) for error in served.told] == [LookupError]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 200),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_every_answer_is_json_and_secured(
    served: Served, request_: bytes, status: int
) -> None:
    got, headers, body = await served.says(request_)
    assert got == status
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert isinstance(json.loads(body)["status"], str)
    assert_secured(headers)


def assert_secured(headers: dict[str, str]) -> None:
    assert all(name in headers for name in SECURITY), headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.02)


# --- a daemon among a crowd ------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[Callable[[Daemon, int], list[socket.socket]]]:
    """Opens connections that do nothing."""
    with ExitStack() as lines:

        def gather(daemon: Daemon, count: int) -> list[socket.socket]:
            made = []
            for _ in range(count):
                made.append(lines.enter_context(socket.socket()))
                made[-1].settimeout(5)
                made[-1].connect(("127.0.0.1", daemon.port))
            return made

        yield gather


def test_a_thousand_connections_that_do_nothing_keep_no_daemon_from_leading(
    site: Site, crowd: Callable[[Daemon, int], list[socket.socket]]
) -> None:
    """The ring stays fresh, keys turn, health is answered at once, and file descriptors are left."""
    settings: dict[str, Any] = {
        "access_token_dynamic_signing_key_update_interval": 6 / 3600,
        "access_token_validity": 5,
        "publication_interval": "1s",
        "jwks_max_age": "1s",
        "max_staleness": "3s",
        "clock_skew": "1s",
    }
    daemon = site.daemon(init=True, **settings)
    eventually(daemon.leads)
    turned = daemon.metric("rotations_total", reason="scheduled") or 0
    crowd(daemon, 1000)
    # At once a few more: the kernel's queue is taken in before the first of them is let go.
    eventually(lambda: open_files(daemon) < limits.PLACES + 100)
    ages, answered = [], []

    def has_turned_twice() -> bool:
        began = time.monotonic()
        assert daemon.answers("/healthz")
        answered.append(time.monotonic() - began)
        ages.append(daemon.metric("proof_age_seconds") or 0)
        return (daemon.metric("rotations_total", reason="scheduled") or 0) >= turned + 2

    eventually(has_turned_twice, within=40)
    assert max(ages) < 3, "max_staleness"
    assert max(answered) < 2
    assert daemon.leads()
    assert (daemon.metric("http_refused_total", reason="crowded") or 0) >= 1000 - limits.PLACES
    assert daemon.metric("leader_transitions_total") == 1


def open_files(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
