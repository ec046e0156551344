"""Counts the requests of an app's refresh route, for ASGI and WSGI; nothing else is touched.

    app = ringkeeper.middleware.CountRefreshes(app, ring)                         # ASGI: FastAPI
    app.wsgi_app = ringkeeper.middleware.CountRefreshesWsgi(app.wsgi_app, ring)   # WSGI: Flask

The route is SuperTokens', `POST /auth/session/refresh`, unless told otherwise. Why a session was
refreshed is not known here: it counts as `other`. An app that knows, since `verify` told it, calls
`ring.record_refresh(error.reason)` where it answers 401, and leaves this away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from ringkeeper.errors import RefreshReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

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
