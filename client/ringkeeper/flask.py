"""Flask: a decorator that lets in whose token is good; `pip install 'ringkeeper[flask]'`.

    token_required = TokenRequired(ring)

    @app.get("/me")
    @token_required
    def me() -> str:
        return g.claims["sub"]

`blueprint.before_request(token_required.check)` is the same for every route of a blueprint, or of
an app.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flask import Response, current_app, g, request

from ringkeeper.gate import Gate, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ringkeeper.gate import Ring

P = ParamSpec("P")
T = TypeVar("T")


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
