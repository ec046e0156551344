"""`POST /v1/refreshes`: who may, what is taken, what is refused, and where it is seen."""

import asyncio
import http.client
import json
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from ringkeeper.errors import RefreshReason
from ringkeeper.layout import Layout
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.secret import Secret
from ringkeeperd.intake import MAX_BODY, MOST_TOLD, Intake
from ringkeeperd.limits import Runner
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

TOKEN = "a" * 40
JSON = {"Content-Type": "application/json"}


class Told:
    """A server that takes in what is told, of two rings."""

    def __init__(self) -> None:
        self.counts = {"first": RefreshCounts(), "second": RefreshCounts()}
        self.token: Secret | None = None
        application = web.Application()
        application.router.add_post(
            "/v1/refreshes", Intake(lambda: self.counts, lambda: self.token).post
        )
        self.runner = Runner(application, lambda _: None, self._fails)

    def _fails(self, error: BaseException) -> None:
        raise AssertionError from error

    async def start(self) -> None:
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        ((_, self.port),) = self.runner.addresses

    async def post(
        self, body: object, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """What is answered; `body` as it is, or as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await asyncio.to_thread(partial(posted, self.port, raw, {**JSON, **(headers or {})}))


def posted(port: int, raw: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/v1/refreshes", raw, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    made = Told()
    await made.start()
    yield made
    await made.runner.cleanup()


async def test_what_is_told_counts_for_the_ring_that_is_named_or_the_first(told: Told) -> None:
    assert (await told.post({"refreshes": {"expired": 3, "revoked_kid": 2}}))[0] == 202
    assert (await told.post({"refreshes": {"expired": 4.0, "other": 0}}))[0] == 202
    assert (await told.post({"ring": "second", "refreshes": {"manual": MOST_TOLD}}))[0] == 202
    assert told.counts["first"].take() == {"expired": 7, "revoked_kid": 2}
    assert told.counts["second"].take() == {"manual": MOST_TOLD}
    every = {reason.value: 1 for reason in RefreshReason}
    assert (await told.post({"refreshes": every}))[0] == 202
    assert told.counts["first"].take() == every


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 5000, 400, "not JSON"),
        (b'{"refreshes": {"expired": ' + b"9" * 5000 + b"}}", 400, "far too long"),
        ([], 400, "no JSON object"),
        ({}, 400, "refreshes is missing"),
        ({"refreshes": []}, 400, "refreshes is missing, or no object"),
        ({"refreshes": {"expired": -1}}, 400, f"expired is not between 0 and {MOST_TOLD}"),
        (
            {"refreshes": {"expired": MOST_TOLD + 1}},
            400,
            f"expired is not between 0 and {MOST_TOLD}",
        ),
        ({"refreshes": {"expired": 1.5}}, 400, "expired is no whole number"),
        ({"refreshes": {"expired": True}}, 400, "expired is no whole number"),
        ({"refreshes": {"expired": "7"}}, 400, "expired is no whole number"),
        ({"refreshes": {"expired": None}}, 400, "expired is no whole number"),
        (b'{"refreshes": {"expired": NaN}}', 400, "no number"),
        (b'{"refreshes": {"expired": Infinity}}', 400, "no number"),
        (b'{"refreshes": {"expired": 1, "expired": 2}}', 400, "twice"),
        ({"refreshes": {"tired": 1}}, 400, "a reason is unknown; reasons are expired, "),
        ({"refreshes": {"expired": 1}, "at": 7}, 400, "members besides ring and refreshes"),
        ({"ring": 7, "refreshes": {"expired": 1}}, 400, "ring is no name"),
        ({"ring": "third", "refreshes": {"expired": 1}}, 404, "no such ring"),
    ],
)
async def test_bad_input_is_refused_in_one_clear_line_and_nothing_is_counted(
    told: Told, body: object, status: int, says: str
) -> None:
    found, _, answer = await told.post(body)
    assert (found, says in answer["why"]) == (status, True), answer
    assert told.counts["first"].take() == told.counts["second"].take() == {}


@pytest.mark.parametrize("megabytes", [0.01, 10])
async def test_a_body_that_is_too_large_is_told_so_and_not_read(
    told: Told, megabytes: float
) -> None:
    status, _, answer = await told.post(b" " * int(megabytes * 1_000_000))
    assert status == 413
    assert f"longer than {MAX_BODY} bytes" in answer["why"]


async def test_a_body_without_a_length_is_measured_as_it_comes(told: Told) -> None:
    def chunks(count: int) -> bytes:
        chunk = b'3E8\r\n{"refreshes":' + b" " * 987 + b"\r\n"
        return chunk * count + b"0\r\n\r\n"

    async def says(body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", told.port)
        writer.write(
            b"POST /v1/refreshes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + body
        )
        answer = await reader.read()
        writer.close()
        return answer

    assert b" 413 " in (await says(chunks(20))).splitlines()[0]
    assert b" 400 " in (await says(chunks(1))).splitlines()[0]
    whole = json.dumps({"refreshes": {"expired": 5}}).encode()
    split = b"".join(b"1\r\n%c\r\n" % byte for byte in whole) + b"0\r\n\r\n"
    assert b" 202 " in (await says(split)).splitlines()[0]
    assert told.counts["first"].take() == {"expired": 5}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Forwarded-For": "203.0.113.7"}, 403),
        ({"Forwarded": "for=203.0.113.7"}, 403),
        ({"X-Real-IP": "203.0.113.7"}, 403),
        ({"Via": "1.1 proxy"}, 403),
        ({"X-Forwarded-Host": "keys.example"}, 403),
        ({"CF-Connecting-IP": "203.0.113.7"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "localhost.example:9465"}, 403),
        ({"Host": "localhost:9465"}, 202),
        ({"Host": "[::1]:9465"}, 202),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 202),
    ],
)
async def test_only_this_host_speaks_for_itself(
    told: Told, headers: dict[str, str], status: int
) -> None:
    """Not a proxy on it for others, nor a web page that a browser on it shows."""
    found, _, _ = await told.post({"refreshes": {"expired": 1}}, headers)
    assert found == status
    assert told.counts["first"].take() == ({"expired": 1} if status == 202 else {})


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN])
async def test_where_there_is_a_token_nobody_counts_without_it(told: Told, given: str) -> None:
    told.token = Secret(TOKEN)
    status, headers, answer = await told.post(
        {"refreshes": {"expired": 1}}, {"Authorization": given}
    )
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert TOKEN not in str(answer)
    assert told.counts["first"].take() == {}
    through_a_proxy = {"Authorization": f"bearer {TOKEN}", "Via": "1.1 proxy", "Host": "keys"}
    assert (await told.post({"refreshes": {"expired": 1}}, through_a_proxy))[0] == 202


# --- a real daemon -------------------------------------------------------------------------------


def told_to(daemon: Daemon, headers: dict[str, str] | None = None, **refreshes: int) -> int:
    body = json.dumps({"refreshes": refreshes}).encode()
    return posted(daemon.port, body, {**JSON, **(headers or {})})[0]


def series_of(daemon: Daemon) -> Any:
    return json.loads(daemon.get("/v1/refreshes/series")[2])["access-token"]


def test_what_a_follower_is_told_is_seen_at_the_leader(site: Site, valkey: Server) -> None:
    leader = site.daemon(init=True)
    site.leader()
    sidecar = site.daemon(lead=False)
    assert told_to(sidecar, expired=40, revoked_kid=2) == 202

    def is_seen() -> bool:
        refreshes = series_of(leader)["refreshes"]
        return {reason: sum(counts) for reason, counts in refreshes.items()} == {
            "expired": 40,
            "revoked_kid": 2,
        }

    eventually(is_seen, within=30)
    eventually(lambda: leader.metric("session_refreshes_total", reason="expired") == 40)
    assert leader.metric("session_refreshes_total", reason="revoked_kid") == 2
    assert leader.metric("session_refreshes_total", reason="manual") == 0
    assert leader.metric("refresh_spike_active") == 0
    assert leader.metric("refresh_spikes_total", cause="rotation") == 0
    assert series_of(sidecar)["leading"] is False
    shown = series_of(leader)
    assert shown["bucket_seconds"] == 10
    assert {len(counts) for counts in shown["refreshes"].values()} == {
        len(shown["refreshes"]["expired"])
    }
    with valkey.client() as client:
        keys = client.keys(Layout("access-token").key("refreshes:*"))
        assert keys
        assert all(0 < client.ttl(key) <= 7200 for key in keys)


def test_the_token_is_read_with_care_and_taken_up_when_it_is_changed(site: Site) -> None:
    """And whatever is wrong with it, keys go on turning."""
    path = site.folder / "refreshes.token"

    def write(text: str, mode: int = 0o600) -> None:
        path.write_text(text)
        path.chmod(mode)

    daemon = site.daemon(init=True, refreshes_token_file="refreshes.token")
    site.leader()
    refusals: dict[str, Callable[[], None]] = {
        "there is no bearer token here; write one with: (umask 077; openssl rand": lambda: None,
        "is no bearer token": lambda: write("short"),
        "is open to others": lambda: write(TOKEN, 0o644),
    }
    for says, prepare in refusals.items():
        prepare()
        line = site.refused("check")
        assert says in line
        assert TOKEN not in line
        daemon.signal(signal.SIGHUP)
        eventually(partial(_is_in_log, daemon, says))
        assert told_to(daemon, {"Authorization": f"Bearer {TOKEN}"}, expired=1) == 503
    write(f"{TOKEN}\n")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: told_to(daemon, {"Authorization": f"Bearer {TOKEN}"}, other=0) == 202)
    assert told_to(daemon, expired=1) == 401
    write("b" * 40)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: told_to(daemon, {"Authorization": f"Bearer {'b' * 40}"}, other=0) == 202)
    assert told_to(daemon, {"Authorization": f"Bearer {TOKEN}"}, expired=1) == 401
    assert TOKEN not in daemon.log


def _is_in_log(daemon: Daemon, text: str) -> bool:
    return text in daemon.log


# --- from elsewhere ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "status"),
    [
        ("127.0.0.1", 415), ("127.8.9.10", 415), ("::1", 415), ("::ffff:127.0.0.1", 415),
        ("192.0.2.7", 403), ("::ffff:192.0.2.7", 403), ("2001:db8::7", 403), ("", 403),
    ],
)  # fmt: skip
async def test_another_host_may_not_count_whatever_it_calls_itself(
    remote: str, status: int
) -> None:
    transport = mock.Mock()
    transport.get_extra_info = {"peername": (remote, 1)}.get
    headers = {"Host": "localhost:9465"}  # and no content type: who may is told of that
    request = make_mocked_request("POST", "/v1/refreshes", headers, transport=transport)
    answer = await Intake(lambda: {"first": RefreshCounts()}, lambda: None).post(request)
    assert answer.status == status
