"""Serves the status page. What draws it is loaded at the first request: most daemons have none."""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeperd.lean import web
from ringkeeperd.this_host import is_from_here, speaks_for_others

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ringkeeperd.service import RingService

_MADE_FOR: Final = 1.0
"""Seconds that a page is good for: a crowd that looks costs no more than one that looks."""
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
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=_HEADERS)

    def _body(self, chosen: str, *, is_here: bool) -> bytes:
        """The page, made at most once in a while for all who may see the same."""
        from ringkeeperd.page.document import rendered  # noqa: PLC0415 - see above
        from ringkeeperd.page.gather import gathered  # noqa: PLC0415

        now = next(iter(self._services.values())).clock.monotonic()
        self._made = {which: made for which, made in self._made.items() if now < made[0]}
        if (chosen, is_here) not in self._made:
            view = gathered(
                self._services, chosen, self._concerns(), self._places, is_from_here=is_here
            )
            self._made[chosen, is_here] = now + _MADE_FOR, rendered(view)
        return self._made[chosen, is_here][1]

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
