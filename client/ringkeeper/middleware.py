"""Around a whole app, ASGI or WSGI: let in whose token is good, count the refresh route's requests.

    app = ringkeeper.middleware.RequireToken(app, ring, public=["/login", "/static/*"])     # ASGI
    app = ringkeeper.middleware.RequireTokenWsgi(app, ring, public=["/login"])              # WSGI

Then the claims are in `scope["state"]["claims"]`, Starlette's `request.state.claims`, or in
`environ["ringkeeper.claims"]`. Whoever is not let in is answered as `ringkeeper.gate` says.

    app = ringkeeper.middleware.CountRefreshes(app, ring)                         # ASGI: FastAPI
    app.wsgi_app = ringkeeper.middleware.CountRefreshesWsgi(app.wsgi_app, ring)   # WSGI: Flask

These touch nothing. The route is SuperTokens', `POST /auth/session/refresh`, unless told otherwise.
Why a session was refreshed is not known here: it counts as `other`. An app that knows, since
`verify` told it, calls `ring.record_refresh(error.reason)` where it answers 401 (as all that is in
`ringkeeper.gate` does), and leaves this away.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from ringkeeper.errors import RefreshReason
from ringkeeper.gate import Gate, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping

    from ringkeeper.gate import Ring

    _Message = MutableMapping[str, Any]
    _Receive = Callable[[], Awaitable[_Message]]
    _Send = Callable[[_Message], Awaitable[None]]
    AsgiApp = Callable[[_Message, _Receive, _Send], Awaitable[None]]
    WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

ROUTE: Final = "/auth/session/refresh"
METHOD: Final = "POST"
App = TypeVar("App")


class Counts(Protocol):
    """A keyring, as far as it is needed here."""

    def record_refresh(self, reason: str = ..., count: int = ...) -> None:
        """Count it."""
        ...


class _Counting(Generic[App]):
    """What both kinds have in common."""

    def __init__(self, app: App, ring: Counts, *, path: str = ROUTE, method: str = METHOD) -> None:
        """Count requests for `path` that come with `method`.

        `path` is as `app` sees it, or with what it is mounted at, or a proxy took away, in front.

        Raises:
            ValueError: a path that none can be, or no method.
        """
        if not path.startswith("/") or not path.strip("/") or not method.isalpha():
            raise ValueError(f"no route: {method!r} {path!r}; write method='POST', path='{ROUTE}'")
        self._app = app
        self._ring = ring
        self._method, self._path = method.upper(), path.rstrip("/")

    def _count(self, method: str, *paths: str) -> None:
        if method == self._method and self._path in (path.rstrip("/") for path in paths):
            self._ring.record_refresh(RefreshReason.OTHER)


class CountRefreshes(_Counting["AsgiApp"]):
    """An ASGI app that counts the refresh route's requests and leaves them to another."""

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Count, if it is one, and pass it on as it came."""
        if scope["type"] == "http":
            path = scope["path"]
            self._count(scope["method"], path, path.removeprefix(scope.get("root_path", "")))
        await self._app(scope, receive, send)


class CountRefreshesWsgi(_Counting["WsgiApp"]):
    """The same for WSGI."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Count, if it is one, and pass it on as it came."""
        path = environ.get("PATH_INFO", "")
        whole = environ.get("SCRIPT_NAME", "") + path
        self._count(environ.get("REQUEST_METHOD", ""), whole, path)
        return self._app(environ, start_response)


class _Requiring(Generic[App]):
    """What both kinds have in common."""

    def __init__(
        self,
        app: App,
        ring: Ring,
        *,
        public: Collection[str] = (),
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
    ) -> None:
        """Let those into `app` whose token `ring` verifies, and everybody to the `public` paths.

        A path as `app` sees it, `/login`, or `/static/*` for all that begin so.

        Raises:
            ValueError: a path that none can be.
        """
        if isinstance(public, str) or not all(path.startswith("/") for path in public):
            raise ValueError(
                f"public is {public!r}; write paths in a list: ['/login', '/static/*']"
            )
        self._app = app
        self._gate = Gate(ring, audience=audience, issuer=issuer)
        self._paths = {path for path in public if not path.endswith("*")}
        self._beginnings = tuple(path[:-1] for path in public if path.endswith("*"))

    def _is_public(self, path: str) -> bool:
        if ".." in path.split("/"):  # who takes it for another path, further in, would be fooled
            return False
        return path in self._paths or path.startswith(self._beginnings)


class RequireToken(_Requiring["AsgiApp"]):
    """An ASGI app for those whose bearer token is good; the ring may be of either kind.

    A WebSocket is refused before it is accepted. Put what answers CORS preflights around this.
    Of scopes that there are not yet, none is let in unasked.
    """

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass it on with the claims, or answer it."""
        if scope["type"] == "lifespan" or self._is_public(
            scope["path"].removeprefix(scope.get("root_path", ""))
        ):
            await self._app(scope, receive, send)
            return
        # Several headers of that name are refused as one that is no token: whose would it be?
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            claims = await self._gate.admit_async(b", ".join(given).decode("latin-1"))
        except Refused as refused:
            await _answer(refused, scope, send)
            return
        # The scope itself stays: whoever is around this sees what is written into it further in.
        scope["state"] = {**scope.get("state", {}), "claims": claims}
        await self._app(scope, receive, send)


async def _answer(refused: Refused, scope: _Message, send: _Send) -> None:
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            # Whatever the code, the server makes a 403 of it.
            is_ours = refused.status == HTTPStatus.SERVICE_UNAVAILABLE
            await send({"type": "websocket.close", "code": 1013 if is_ours else 1008})
            return
    headers = _headers(refused).items()
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": f"{kind}.start", "status": int(refused.status), "headers": pairs})
    await send({"type": f"{kind}.body", "body": refused.detail.encode()})


def _headers(refused: Refused) -> dict[str, str]:
    length = str(len(refused.detail.encode()))
    return {"Content-Type": "text/plain", "Content-Length": length, **refused.headers}


class RequireTokenWsgi(_Requiring["WsgiApp"]):
    """The same for WSGI."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Pass it on with the claims, or answer it."""
        # As the path came: bytes, each as a character (PEP 3333).
        path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
        if self._is_public(path):
            return self._app(environ, start_response)
        try:
            claims = self._gate.admit(environ.get("HTTP_AUTHORIZATION"))
        except Refused as refused:
            status = f"{refused.status.value} {refused.status.phrase}"
            start_response(status, list(_headers(refused).items()))
            is_head = environ.get("REQUEST_METHOD") == "HEAD"  # a body would be the next answer's
            return [] if is_head else [refused.detail.encode()]
        return self._app({**environ, "ringkeeper.claims": claims}, start_response)
