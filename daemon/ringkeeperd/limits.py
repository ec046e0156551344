"""What a client of HTTP may take: connections, time, bytes, requests. Bounded, whoever asks.

A daemon turns keys; that it serves pages must never keep it from that. So the memory, the file
descriptors and the time that clients can take are bounded here, below aiohttp's pages:

- A connection has `HEAD_WITHIN` seconds to say what it wants, from its first byte on, however
  busily it sends; a request is answered within `ANSWER_WITHIN`, its body included; and who wants
  nothing for `QUIET_MOST` is let go. That is looked after every second, for all at once.
- There are so many places. Who comes when all are taken gets that of whoever has been quiet the
  longest: so a crowd that does nothing cannot keep a health check out.
- Each client has a bucket of requests that fills again (`BURST`, `RATE`); a fleet of verifiers
  behind one address is far below it. Health is never limited.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from typing import TYPE_CHECKING, Any, Final

from aiohttp.http_exceptions import LineTooLong

from ringkeeper.errors import Defect
from ringkeeperd.lean import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

MAX_LINE: Final = 4096
MAX_FIELD: Final = 8190
MAX_FIELDS: Final = 64
MAX_BODY: Final = 64 * 1024
MAX_TAKEN: Final = 128 * 1024
"""Bytes that one connection may send before it is answered: head, body, and what it sends ahead."""
MAX_DRAINED: Final = 16 * 1024 * 1024
"""The same where it is a body that is too large: it is let by, so that the refusal is read."""
HEAD_WITHIN: Final = 10.0
ANSWER_WITHIN: Final = 10.0
QUIET_MOST: Final = 75.0
"""Seconds without a request. Proxies keep theirs for 60, and must not find theirs closed."""
PLACES: Final = 512
RATE: Final = 200.0
"""Requests a second that one client may send on the average."""
BURST: Final = 2000.0
"""And so many at once: a fleet that starts, or that meets a kid which it does not know."""
CLIENTS_KNOWN: Final = 4096
_NEVER_LIMITED: Final = frozenset({"/healthz", "/readyz"})
_LOOK_EVERY: Final = 1.0
_LINGERING: Final = 1.0
"""Seconds that a body which nobody asked for is read, so that the answer is read, too."""
_OF_IPV6: Final = 64
"""Bits of an IPv6 address that say whose it is: one client has all that follow."""
_DEFECTS_TOLD: Final = 100

SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def places() -> int:
    """How many connections there may be: no more than half of what this process may open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return PLACES if most == resource.RLIM_INFINITY else max(1, min(PLACES, most // 2))


class Rates:
    """How many requests each client has left; of many clients, those that came last."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        """Client to how many it had left, and when (monotonic seconds)."""

    def take(self, client: str, now: float) -> bool:
        """Whether `client` may have one more request, at `now`."""
        left, since = self._left.pop(client, (BURST, now))
        left = min(BURST, left + (now - since) * RATE)
        may = left >= 1
        self._left[client] = (left - may, now)
        if len(self._left) > CLIENTS_KNOWN:
            del self._left[next(iter(self._left))]
        return may

    def __len__(self) -> int:
        return len(self._left)


def client_of(remote: str | None) -> str:
    """Whom an address stands for."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.IPv6Network((int(address), _OF_IPV6), strict=False))
    return str(address)


def refused(status: int, word: str, why: str, **headers: str) -> web.Response:
    """An answer that is a refusal, as JSON."""
    return web.json_response(
        {"status": word, "why": why},
        status=status,
        headers={"Cache-Control": "no-store", **headers},
    )


class Connection(web.RequestHandler):
    """One connection, and how long it has been at what it does."""

    __slots__ = ("_body", "due", "is_answering", "is_reading", "taken")

    def __init__(self, server: Server, **limits: Any) -> None:
        super().__init__(server, **limits)
        self._body: StreamReader | None = None
        """Of the newest request that began to come, where it said how long that is."""
        self.due = 0.0
        """When it is cut off, unless it comes further until then (the loop's time)."""
        self.is_reading = True
        self.is_answering = False
        self.taken = 0

    @property
    def _server(self) -> Server:
        server = self._manager
        assert isinstance(server, Server)  # noqa: S101 - there are no others
        return server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or be sent away."""
        super().connection_made(transport)
        self.due = self._loop.time() + HEAD_WITHIN
        self._server.admit(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave the place."""
        if self._manager is not None:
            self._server.leaves(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, as far as they are not too many, nor too slow in coming."""
        if data and self._manager is not None:
            self.taken += len(data)
            if self.taken > MAX_TAKEN:
                room = max(0, len(data) - (self.taken - MAX_TAKEN))
                self._parse(data[:room])
                data = data[room:]
                if self.taken > MAX_DRAINED or not self._is_body_coming():
                    self._server.cut_off(self, "size")
                    return
            if not self.is_reading:
                self.is_reading, self.due = True, self._loop.time() + HEAD_WITHIN
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            head, body = self._messages[-1]
            self._body = None if getattr(head, "chunked", True) else body

    def _is_body_coming(self) -> bool:
        """Whether what comes belongs to a body that was announced with its length."""
        return self._body is not None and not self._body.is_eof()

    def begins(self) -> None:
        """A request was read, perhaps not its body; it is being answered."""
        self.is_reading, self.is_answering = False, True
        self.due = self._loop.time() + ANSWER_WITHIN + _LINGERING

    def ends(self) -> None:
        """It was answered, but for the writing."""
        self.is_answering, self.taken = False, 0
        self.due = self._loop.time() + QUIET_MOST

    def abort(self) -> None:
        """End it at once, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it would quote what came, and name libraries
    ) -> web.StreamResponse:
        """What is answered to what is no request; and, should it ever come here, to a defect."""
        if isinstance(exc, LineTooLong):
            self._server.count("size")
            answer = refused(431, "too large", "the request's line or header is too large")
        elif status < 500:  # noqa: PLR2004 - the client's fault
            self._server.count("malformed")
            answer = refused(400, "bad request", "this is not HTTP as it is spoken here")
        else:
            answer = self._server.failed(exc)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - aiohttp's words
        """What aiohttp would tell, in our log."""
        if self._manager is not None:
            self._server.failed(kw.get("exc_info"))


class _Request(web.Request):
    """A request whose answer says nothing about us, whichever way it came about."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        await super()._prepare_hook(response)
        for name, value in SECURITY.items():
            response.headers.setdefault(name, value)  # a page may need another policy than none
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.popall("Server", None)  # it would name versions


class Runner(web.AppRunner):
    """Runs an application on a `Server`."""

    def __init__(
        self,
        application: web.Application,
        count: Callable[[str], None],
        tell: Callable[[BaseException], None],
    ) -> None:
        """As `Server`."""
        super().__init__(application, handle_signals=False, shutdown_timeout=0.5)
        self._count = count
        self._tell = tell

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self._count, self._tell)


class Server(web.Server):
    """Serves an application's pages, and keeps its clients within their limits."""

    def __init__(
        self,
        pages: web.Server,
        count: Callable[[str], None],
        tell: Callable[[BaseException], None],
    ) -> None:
        """`count` is told the reason of each refusal; `tell` of each defect, once."""
        super().__init__(
            self._answer,
            request_factory=_request,
            access_log=None,
            keepalive_timeout=2 * QUIET_MOST,  # never: that is looked after here
            lingering_time=_LINGERING,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            auto_decompress=False,
        )
        self.count = count
        self._tell = tell
        self._told: set[str] = set()
        self._pages = pages.request_handler
        self._most = places()
        self._taken: dict[Connection, None] = {}
        self._quiet: dict[Connection, None] = {}
        """Those that are not being answered; first, who has been so for the longest."""
        self._rates = Rates()
        self._look: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        """A fresh connection's protocol."""
        return Connection(self, loop=self._loop, **self._kwargs)

    # --- places ----------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> None:
        """Give `connection` a place: that of who has been quiet the longest, if all are taken."""
        if len(self._taken) >= self._most:
            quiet = next(iter(self._quiet), None)
            self.cut_off(quiet or connection, "crowded")
            if quiet is None:
                return
        self._taken[connection] = self._quiet[connection] = None
        if self._look is None:
            self._look = self._loop.call_later(_LOOK_EVERY, self._look_after)

    def leaves(self, connection: Connection) -> None:
        """Its place is free."""
        self._taken.pop(connection, None)
        self._quiet.pop(connection, None)

    def cut_off(self, connection: Connection, reason: str) -> None:
        """End it at once."""
        self.count(reason)
        self.leaves(connection)
        connection.abort()

    def _look_after(self) -> None:
        """Cut off who is slow, and let go who wants nothing."""
        now = self._loop.time()
        for connection in [each for each in self._quiet if each.due <= now]:
            if connection.is_reading:
                self.cut_off(connection, "slow")
            else:
                self.leaves(connection)
                connection.abort()
        self._look = self._loop.call_later(_LOOK_EVERY, self._look_after) if self._taken else None

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """End all connections."""
        if self._look:
            self._look.cancel()
        await super().shutdown(timeout)

    # --- requests --------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101 - there are no others
        assert isinstance(request, web.Request)  # noqa: S101 - nor these
        if request.content.is_eof():
            self._quiet.pop(connection, None)  # whose body is still to come does nothing yet
        connection.begins()
        try:
            return await self._answer_in_time(request)
        finally:
            connection.ends()
            if connection in self._taken:
                self._quiet[connection] = None

    async def _answer_in_time(self, request: web.Request) -> web.StreamResponse:
        if not self._may_ask(request):
            self.count("rate")
            why = "too many requests from this address; ask less often"
            return _last(refused(429, "too many requests", why, **{"Retry-After": "1"}))
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self._pages(request)
        except TimeoutError:
            self.count("slow")
            return _last(refused(408, "request timeout", "the request did not come in time"))
        except web.HTTPException as refusal:
            return _explained(request, refusal)
        except ConnectionError:
            raise  # the client is gone
        except Exception as error:  # noqa: BLE001 - the last barrier: nobody is shown what it was
            return _last(self.failed(error))

    def _may_ask(self, request: web.Request) -> bool:
        if request.path in _NEVER_LIMITED:
            return True
        return self._rates.take(client_of(request.remote), self._loop.time())

    def failed(self, error: object) -> web.Response:
        """What is answered where a page failed; each defect is told once."""
        self.count("failed")
        if isinstance(error, BaseException):
            what = str(Defect.of(error))
            if what not in self._told and len(self._told) < _DEFECTS_TOLD:
                self._told.add(what)
                self._tell(error)
        return refused(500, "failed", "this page failed; the log tells why")


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> _Request:
    loop = asyncio.get_running_loop()
    return _Request(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


def _last(response: web.Response) -> web.Response:
    """`response`, and the connection ends."""
    response.force_close()
    return response


def _explained(request: web.Request, refusal: web.HTTPException) -> web.Response:
    """As JSON why there is no answer."""
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        others = ", ".join(sorted(refusal.allowed_methods))
        why, headers = f"not in this way; use {others}", {"Allow": refusal.headers["Allow"]}
    elif isinstance(refusal, web.HTTPNotFound):
        is_ours = request.match_info.http_exception is None
        why, headers = str(refusal.text) if is_ours else "nothing is here; see /", {}
    else:
        why, headers = refusal.reason.lower(), {}
    return refused(refusal.status, refusal.reason.lower(), why, **headers)
