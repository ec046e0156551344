"""FastAPI: a dependency that lets in whose token is good; extra `[fastapi]`.

    claims_of = RingBearer(ring)

    @app.get("/me")
    async def me(claims: Annotated[dict[str, Any], Depends(claims_of)]) -> str:
        return claims["sub"]

    app.add_exception_handler(InfrastructureError, unavailable)  # for routes that sign

The OpenAPI document, and its page for trying it out, know that a bearer token is wanted.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ringkeeper.errors import InfrastructureError, RingkeeperError
from ringkeeper.extras import lacking
from ringkeeper.gate import Gate, Refused

try:
    from fastapi import HTTPException
    from fastapi.openapi.models import HTTPBearer
    from fastapi.requests import HTTPConnection  # noqa: TC002 - FastAPI reads the annotation
    from fastapi.responses import JSONResponse
    from fastapi.security.base import SecurityBase
except ModuleNotFoundError:
    raise lacking(__name__, "fastapi", "fastapi") from None

if TYPE_CHECKING:
    from collections.abc import Collection

    from fastapi.openapi.models import SecurityBase as SecurityBaseModel

    from ringkeeper.gate import Ring


def unavailable(_request: HTTPConnection, error: Exception) -> JSONResponse:
    """The answer to whom cannot be served now, for no fault of theirs."""
    detail = error.public if isinstance(error, RingkeeperError) else InfrastructureError.public
    return JSONResponse({"detail": detail}, HTTPStatus.SERVICE_UNAVAILABLE)


class RingBearer(SecurityBase):
    """The claims of a request's bearer token.

    401 and 503 are answered as `ringkeeper.gate` says. `ring` may be of either kind; no event loop
    waits for Redis.
    """

    def __init__(
        self,
        ring: Ring,
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
        scheme_name: str = "ringkeeper",
    ) -> None:
        """Verify with `ring`, or with what it returns, where it is made once the app runs."""
        self._gate = Gate(ring, audience=audience, issuer=issuer)
        self.model: SecurityBaseModel = HTTPBearer(bearerFormat="JWT")
        self.scheme_name = scheme_name

    async def __call__(self, request: HTTPConnection) -> dict[str, Any]:
        """The claims."""
        try:
            # Several headers of that name are refused as no token: whose would it be?
            given = ", ".join(request.headers.getlist("Authorization"))
            return await self._gate.admit_async(given)
        except Refused as refused:
            raise HTTPException(refused.status, refused.detail, refused.headers) from refused
