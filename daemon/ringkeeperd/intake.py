"""`POST /v1/refreshes`: apps in any language tell how many sessions they had to refresh, and why.

    {"refreshes": {"expired": 12, "revoked_kid": 3}}

Who could tell anything would fake a spike, or hide one. So only this host may, or who has the
bearer token, where one is configured. Web pages that a browser on this host shows may not: they
send JSON with leave alone, and the browser's headers give them away. When it happened is not asked:
no clock of a sender counts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.errors import RefreshReason
from ringkeeper.secret import Secret
from ringkeeperd.lean import web
from ringkeeperd.limits import refused
from ringkeeperd.this_host import is_from_here, speaks_for_others

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from ringkeeper.refreshes import RefreshCounts

MAX_BODY: Final = 8 * 1024
"""Bytes: all there is to tell fits in a few hundred."""
MOST_TOLD: Final = 1_000_000
"""Refreshes for one reason in one request; a request is sent every few seconds."""
_OF_BROWSERS: Final = ("Origin", "Sec-Fetch-Site")
"""Headers that no app sends which speaks for itself."""
_REASONS: Final = tuple(reason.value for reason in RefreshReason)
_WANTED: Final = (
    'send JSON: {"refreshes": {"expired": 12}}, and "ring": NAME if it is not the first'
)


class _Unfit(Exception):
    """What is wrong with what was sent, without quoting it."""


class TokenMissing:
    """There is to be a token, and it cannot be used: nobody may count."""


class Intake:
    """Takes in what apps tell."""

    def __init__(
        self,
        counts: Callable[[], Mapping[str, RefreshCounts]],
        token: Callable[[], Secret | TokenMissing | None],
    ) -> None:
        """`counts` by ring, the first one where none is named; `token` gives the bearer token."""
        self._counts = counts
        self._token = token

    async def post(self, request: web.Request) -> web.Response:
        """Count session refreshes: {"refreshes": {REASON: HOW MANY}}."""
        token = self._token()
        if isinstance(token, TokenMissing):
            return refused(503, "unavailable", "the token cannot be used; the log tells why")
        refusal = _without_token(request) if token is None else _wrong_token(request, token)
        if refusal is not None:
            return refusal
        if request.content_type != "application/json":
            return refused(415, "unsupported media type", f"it is no application/json; {_WANTED}")
        if (request.content_length or 0) > MAX_BODY:
            return _too_large()
        try:
            body = await request.content.read(MAX_BODY + 1)
            while len(body) <= MAX_BODY and (more := await request.content.readany()):
                body += more
            if len(body) > MAX_BODY:
                return _too_large()
            ring, refreshes = _told(_decoded(body))
        except _Unfit as error:
            return refused(400, "bad request", f"{error}; {_WANTED}")
        known = self._counts()
        counts = known.get(ring) if ring else next(iter(known.values()))
        if counts is None:
            return refused(404, "not found", "there is no such ring here")
        for reason, count in refreshes.items():
            counts.record(reason, count)
        return web.json_response({"status": "counted"}, status=202)


# --- who may -------------------------------------------------------------------------------------


def _without_token(request: web.Request) -> web.Response | None:
    """The refusal of whoever is not on this host, or speaks for somebody else."""
    if not is_from_here(request):
        why = "only this host may count, at localhost"
    elif told := speaks_for_others(request) or _speaks_for_a_page(request):
        why = f"only this host may count, and no proxy nor browser for others ({told})"
    else:
        return None
    return refused(403, "forbidden", f"{why}; set refreshes_token_file for others")


def _speaks_for_a_page(request: web.Request) -> str:
    return next((name for name in _OF_BROWSERS if name in request.headers), "")


def _wrong_token(request: web.Request, token: Secret) -> web.Response | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and Secret(given.strip()) == token:
        return None
    why = "give the token of refreshes_token_file: Authorization: Bearer TOKEN"
    return refused(401, "unauthorized", why, **{"WWW-Authenticate": "Bearer"})


# --- what it says --------------------------------------------------------------------------------


def _too_large() -> web.Response:
    answer = refused(413, "too large", f"the body is longer than {MAX_BODY} bytes; {_WANTED}")
    answer.force_close()
    return answer


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number, object_pairs_hook=_without_repetition)
    except _Unfit:
        raise
    except (ValueError, RecursionError):
        raise _Unfit("the body is not JSON in UTF-8, or a number in it is far too long") from None


def _no_number(_: str) -> NoReturn:
    raise _Unfit("NaN and Infinity are no numbers of refreshes")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _Unfit("the JSON says something twice")
    return members


def _told(document: Any) -> tuple[str, dict[str, int]]:
    """The ring, empty if none is named, and how many for each reason."""
    if not isinstance(document, dict):
        raise _Unfit("the body is no JSON object")
    if document.keys() - {"ring", "refreshes"}:
        raise _Unfit("there are members besides ring and refreshes")
    ring, refreshes = document.get("ring", ""), document.get("refreshes")
    if not isinstance(ring, str):
        raise _Unfit("ring is no name")
    if not isinstance(refreshes, dict):
        raise _Unfit("refreshes is missing, or no object")
    if refreshes.keys() - set(_REASONS):
        raise _Unfit(f"a reason is unknown; reasons are {', '.join(_REASONS)}")
    return ring, {reason: _number(reason, count) for reason, count in refreshes.items()}


def _number(reason: str, count: object) -> int:
    # Some write 2.0 for 2.
    whole = int(count) if isinstance(count, float) and count.is_integer() else count
    if isinstance(whole, bool) or not isinstance(whole, int):
        raise _Unfit(f"{reason} is no whole number")
    if not 0 <= whole <= MOST_TOLD:
        raise _Unfit(f"{reason} is not between 0 and {MOST_TOLD}")
    return whole
