"""Flask: a decorator that lets in whose token is good; extra `[flask]`.

    token_required = TokenRequired(ring)

    @app.get("/me")
    @token_required
    def me() -> str:
        return g.claims["sub"]

    app.register_error_handler(InfrastructureError, unavailable)  # for routes that sign

`@token_required` stands below the route, next to the function.
`blueprint.before_request(token_required.check)` is the same for every route of a blueprint, or of
an app.
"""

from __future__ import annotations

from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ringkeeper.extras import lacking
from ringkeeper.gate import Gate, Refused

try:
    from flask import Response, current_app, g, request
except ModuleNotFoundError:
    raise lacking(__name__, "flask", "flask") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ringkeeper.errors import InfrastructureError
    from ringkeeper.gate import Ring

P = ParamSpec("P")
T = TypeVar("T")


def unavailable(error: InfrastructureError) -> Response:
    """The answer to whom cannot be served now, for no fault of theirs."""
    return Response(error.public, HTTPStatus.SERVICE_UNAVAILABLE, content_type="text/plain")


class TokenRequired:
    """Answers 401 or 503 as `ringkeeper.gate` says, or puts the claims into `flask.g.claims`."""

    def __init__(
        self,
        ring: Ring,
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
    ) -> None:
        """Verify with `ring`, or with what it returns, where it is made once the app runs."""
        self._gate = Gate(ring, audience=audience, issuer=issuer)

    def __call__(self, view: Callable[P, T]) -> Callable[P, T | Response]:
        """`view`, for those alone whose token is good."""

        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T | Response:
            refusal = self.check()
            if refusal is not None:
                return refusal
            answer: T = current_app.ensure_sync(view)(*args, **kwargs)
            return answer

        return guarded

    def check(self) -> Response | None:
        """The answer to whom is not let in; None for whoever is."""
        try:
            g.claims = self._gate.admit(request.headers.get("Authorization"))
        except Refused as refused:
            return Response(
                refused.detail, refused.status, refused.headers, content_type="text/plain"
            )
        return None
