"""Serves the status page. What draws it is loaded at the first request: most daemons have none."""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeperd.lean import web
from ringkeeperd.limits import refused
from ringkeeperd.this_host import is_from_here, speaks_for_others

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ringkeeperd.service import RingService

_MADE_FOR: Final = 1.0
"""Seconds that a page is good for: a crowd that looks costs no more than one that looks."""
_SHARE: Final = 0.2
"""Of the time, and seconds at once, spent on drawing at most: with many rings there are many pages,
and what a daemon is for comes first."""
_ASSETS: Final = {"/status.css": "text/css", "/status.js": "text/javascript"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


class _Asset(NamedTuple):
    body: bytes
    tag: str


class _Budget:
    """Time that may be spent: it grows again while nothing is drawn."""

    def __init__(self) -> None:
        self._left = _SHARE
        self._at = 0.0

    def is_left(self, now: float) -> bool:
        self._left = min(_SHARE, self._left + _SHARE * (now - self._at))
        self._at = now
        return self._left > 0

    def spend(self, seconds: float) -> None:
        self._left -= seconds


class StatusPage:
    """The page, and the two files that it brings along."""

    def __init__(
        self,
        services: Mapping[str, RingService],
        concerns: Callable[[], Sequence[str]],
        places: Mapping[str, str],
    ) -> None:
        """Show these rings; `concerns`: what else is not as it should be, in constant words.

        `places` are the other paths here, and what they are.
        """
        self._services = services
        self._concerns = concerns
        self._places = places
        self._made: dict[tuple[str, bool], tuple[float, bytes]] = {}
        self._assets: dict[str, _Asset] = {}
        self._budget = _Budget()

    def routes(self) -> list[web.RouteDef]:
        """Where the two files are."""
        return [web.get(path, self._asset) for path in _ASSETS]

    async def page(self, request: web.Request) -> web.Response:
        """The rings at a glance, for a browser."""
        chosen = request.query.get("ring", "")
        if chosen and chosen not in self._services:
            raise web.HTTPNotFound(text="there is no such ring here")
        is_here = is_from_here(request) and not speaks_for_others(request)
        body = self._body(chosen, is_here=is_here)
        if body is None:
            why = "many pages are asked for at once; try again"
            return refused(503, "busy", why, **{"Retry-After": "1"})
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=_HEADERS)

    def _body(self, chosen: str, *, is_here: bool) -> bytes | None:
        """The page, made at most once in a while for all who may see the same; None if not now."""
        from ringkeeperd.page.document import rendered  # noqa: PLC0415 - see above
        from ringkeeperd.page.gather import gathered  # noqa: PLC0415

        clock = next(iter(self._services.values())).clock
        now, which = clock.monotonic(), (chosen, is_here)
        self._made = {each: made for each, made in self._made.items() if now < made[0]}
        if which not in self._made:
            if not self._budget.is_left(now):
                return None
            view = gathered(
                self._services, chosen, self._concerns(), self._places, is_from_here=is_here
            )
            self._made[which] = now + _MADE_FOR, rendered(view)
            self._budget.spend(clock.monotonic() - now)
        return self._made[which][1]

    async def _asset(self, request: web.Request) -> web.Response:
        """A file that is part of the page; asked for again each time, and sent once."""
        asset = self._asset_at(request.path)
        headers = {"ETag": f'"{asset.tag}"', "Cache-Control": "no-cache"}
        if any(known.value in (asset.tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        kind = _ASSETS[request.path]
        return web.Response(body=asset.body, content_type=kind, charset="utf-8", headers=headers)

    def _asset_at(self, path: str) -> _Asset:
        if path not in self._assets:
            folder = importlib.resources.files("ringkeeperd.page")
            body = folder.joinpath(path.removeprefix("/")).read_bytes()
            self._assets[path] = _Asset(body, hashlib.sha256(body).hexdigest()[:32])
        return self._assets[path]
