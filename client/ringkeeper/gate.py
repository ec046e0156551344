"""Who may come in: a request's bearer token (RFC 6750), verified with a ring.

What the helpers for frameworks have in common, and what to use where there is none for yours:

    gate = Gate(ring, audience="api")
    try:
        claims = gate.admit(request.headers.get("Authorization"))
    except Refused as refused:
        return Response(refused.detail, status=refused.status, headers=refused.headers)

A token that is not acceptable is counted (`record_refresh`) and answered with 401; while ringkeeper
itself cannot tell, the answer is 503, and nobody is logged out for it. Why, the log says
(`logging.getLogger("ringkeeper")`): at the level INFO for tokens, WARNING for what is wrong here.
"""

from __future__ import annotations

import inspect
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ringkeeper.errors import RingkeeperError, TokenError
from ringkeeper.tokens import check_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import ringkeeper.asyncio
    from ringkeeper.keyring import Keyring

    AnyKeyring = Keyring | ringkeeper.asyncio.Keyring
    Ring = AnyKeyring | Callable[[], AnyKeyring]
    """A keyring, or what finds it, where it is made only once the app runs."""

_log = logging.getLogger("ringkeeper")


class Refused(Exception):
    """A request that may not come in. `__cause__` is what `verify` said."""

    def __init__(self, status: HTTPStatus, detail: str, headers: dict[str, str]) -> None:
        """Answer with `status` (401 or 503), these `headers`, and `detail`, which tells nothing."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Gate:
    """Lets those in whose token is good."""

    def __init__(
        self,
        ring: Ring,
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
    ) -> None:
        """Verify with `ring`; `audience` and `issuer` are checked if given.

        Raises:
            TypeError: `ring` is no keyring; or `audience` or `issuer` no name.
            ValueError: one of these is empty.
        """
        if not (callable(ring) or hasattr(ring, "verify")):
            raise TypeError(
                f"a ring is what Keyring.connect returns, or a function that finds it, and no "
                f"{type(ring).__name__}"
            )
        check_asked(audience, issuer)
        self._ring = ring
        self._wanted: dict[str, Any] = {"audience": audience, "issuer": issuer}

    def admit(self, authorization: str | None) -> dict[str, Any]:
        """The claims of the token in an `Authorization` header.

        Raises:
            Refused: the answer to give instead.
        """
        token, ring = token_in(authorization), None
        try:
            ring = self._keyring()
            claims = ring.verify(token, **self._wanted)
        except RingkeeperError as error:
            raise _refused(error, ring) from error
        if inspect.iscoroutine(claims):
            claims.close()
            raise TypeError("a ring that is awaited lets nobody in here: use ringkeeper.Keyring")
        return claims  # type: ignore[return-value]

    async def admit_async(self, authorization: str | None) -> dict[str, Any]:
        """As `admit`, with a keyring of either kind; no event loop waits for it.

        Raises:
            Refused: the answer to give instead.
        """
        token, ring = token_in(authorization), None
        try:
            ring = self._keyring()
            # That of threads has one for event loops, too.
            verify: Any = getattr(ring, "verify_async", ring.verify)
            claims: dict[str, Any] = await verify(token, **self._wanted)
        except RingkeeperError as error:
            raise _refused(error, ring) from error
        return claims

    def _keyring(self) -> AnyKeyring:
        return self._ring() if callable(self._ring) else self._ring


def token_in(authorization: str | None) -> str:
    """The bearer token in an `Authorization` header (RFC 6750 section 2.1).

    Raises:
        Refused: there is none.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        # Section 3.1: who brought no token is not told that something is wrong with it.
        raise Refused(HTTPStatus.UNAUTHORIZED, "no token", {"WWW-Authenticate": "Bearer"})
    return token.strip()


def _refused(error: RingkeeperError, ring: AnyKeyring | None) -> Refused:
    if ring is None or not isinstance(error, TokenError):
        _log.warning("a request is answered with 503: %s", error)
        return Refused(HTTPStatus.SERVICE_UNAVAILABLE, error.public, {})
    _log.info("a token is refused: %s", error)
    ring.record_refresh(error.reason)
    told = f'Bearer error="invalid_token", error_description="{error.public}"'
    headers = {"WWW-Authenticate": told}
    if wait := ring.retry_after():
        headers["Retry-After"] = str(wait)
    return Refused(HTTPStatus.UNAUTHORIZED, error.public, headers)
