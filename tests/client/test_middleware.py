"""The refresh route is counted, and no request notices."""

import asyncio
from typing import Any

import pytest

import ringkeeper.testing
from ringkeeper.middleware import CountRefreshes, CountRefreshesWsgi

ROUTE = "/auth/session/refresh"
REQUESTS = [
    ("POST", ROUTE, 1),
    ("POST", f"{ROUTE}/", 1),
    ("GET", ROUTE, 0),
    ("OPTIONS", ROUTE, 0),
    ("POST", f"{ROUTE}/more", 0),
    ("POST", "/", 0),
    ("POST", "/Auth/session/refresh", 0),
]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    body = await receive()
    await send({"type": "http.response.start", "status": 200, "path": scope["path"]})
    await send({"type": "http.response.body", "body": body["body"]})


def asked(app: Any, method: str, path: str, kind: str = "http") -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"untouched"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": kind, "method": method, "path": path}, receive, send))
    return sent


@pytest.mark.parametrize(("method", "path", "counted"), REQUESTS)
def test_asgi_counts_the_route_and_passes_everything_on(
    method: str, path: str, counted: int
) -> None:
    with ringkeeper.testing.keyring() as ring:
        sent = asked(CountRefreshes(answer, ring), method, path)
        assert sent == asked(answer, method, path)
        assert ring.refreshes["other"] == counted


def test_what_is_no_request_is_passed_on_uncounted() -> None:
    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    async def nothing() -> Any:
        return {}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with ringkeeper.testing.keyring() as ring:
        asyncio.run(CountRefreshes(lifespan, ring)({"type": "lifespan"}, nothing, send))
        assert sent == [{"type": "lifespan.startup.complete"}]
        assert not ring.refreshes


@pytest.mark.parametrize(("method", "path", "counted"), REQUESTS)
@pytest.mark.parametrize("mounted", ["", "/auth"])
def test_wsgi_counts_the_route_wherever_it_is_mounted(
    method: str, path: str, counted: int, mounted: str
) -> None:
    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [])
        return [environ["wsgi.input"]]

    is_below = path.startswith(f"{mounted}/") and bool(mounted)
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": mounted if is_below else "",
        "PATH_INFO": path.removeprefix(mounted) if is_below else path,
        "wsgi.input": b"untouched",
    }
    started: list[Any] = []
    with ringkeeper.testing.keyring() as ring:
        counting = CountRefreshesWsgi(app, ring)
        assert counting(environ, lambda *how: started.append(how)) == [b"untouched"]
        assert started == [("200 OK", [])]
        assert ring.refreshes["other"] == counted


def test_another_route_may_be_counted() -> None:
    with ringkeeper.testing.keyring() as ring:
        app = CountRefreshes(answer, ring, path="/token/", method="put")
        asked(app, "PUT", "/token")
        asked(app, "POST", ROUTE)
        assert ring.refreshes["other"] == 1


@pytest.mark.parametrize(
    ("root", "path"), [("/api", f"/api{ROUTE}"), ("/api", ROUTE), ("", ROUTE), ("/auth", ROUTE)]
)
def test_asgi_counts_the_route_wherever_it_is_mounted(root: str, path: str) -> None:
    async def nothing() -> Any:
        return {"body": b""}

    async def send(_: Any) -> None:
        """Nobody listens."""

    scope = {"type": "http", "method": "POST", "path": path, "root_path": root}
    with ringkeeper.testing.keyring() as ring:
        asyncio.run(CountRefreshes(answer, ring)(scope, nothing, send))
        assert ring.refreshes["other"] == 1


@pytest.mark.parametrize(
    ("path", "method"), [("", "POST"), ("/", "POST"), ("auth", "POST"), (ROUTE, ""), (ROUTE, "P T")]
)
def test_a_route_that_can_be_none_is_refused_at_once(path: str, method: str) -> None:
    with ringkeeper.testing.keyring() as ring, pytest.raises(ValueError, match="no route: "):
        CountRefreshes(answer, ring, path=path, method=method)
