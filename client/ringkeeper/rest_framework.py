"""Django REST framework: extra `[rest_framework]`.

    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": ["ringkeeper.rest_framework.RingAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    }

Stand first where there are several: it is the first that says what a 401 asks for. `request.auth`
has the claims; `settings.RINGKEEPER` is as `ringkeeper.django` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringkeeper.django import gate
from ringkeeper.extras import lacking
from ringkeeper.gate import Refused

try:
    from rest_framework.authentication import BaseAuthentication
    from rest_framework.exceptions import APIException, AuthenticationFailed
except ModuleNotFoundError:
    raise lacking(__name__, "rest_framework", "djangorestframework") from None

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class TokenUser:
    """Whoever a token speaks of, where no database of users is asked; with no rights there."""

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    def __init__(self, claims: Mapping[str, Any]) -> None:
        """The user whose token says this."""
        self.claims = claims
        self.id: Any = claims.get("sub")
        self.pk: Any = self.id

    def get_username(self) -> str:
        """The `sub` of the token."""
        return str(self.pk)

    def has_perm(self, perm: str, obj: object = None) -> bool:  # noqa: ARG002 - Django's own
        """No: rights are for a database, or for `claims`."""
        return False

    def has_perms(self, perm_list: Iterable[str], obj: object = None) -> bool:  # noqa: ARG002
        """Only none at all."""
        return not list(perm_list)

    def __str__(self) -> str:
        return self.get_username()


class _Unavailable(APIException):  # type: ignore[misc]  # it has no types
    status_code = 503
    default_code = "unavailable"


class RingAuthentication(BaseAuthentication):  # type: ignore[misc]  # it has no types
    """Who a request's bearer token says it is; who brings none is nobody, and no error."""

    def user(self, claims: Mapping[str, Any]) -> Any:
        """Who that is; override it to look in a database."""
        return TokenUser(claims)

    def authenticate(self, request: Any) -> tuple[Any, dict[str, Any]] | None:
        """The user and the claims; None where another way of authentication may know.

        Raises:
            AuthenticationFailed: 401, as `ringkeeper.gate` says.
            APIException: 503, likewise.
        """
        authorization = request.headers.get("Authorization", "")
        if authorization.strip().partition(" ")[0].lower() != "bearer":
            return None
        try:
            claims = gate().admit(authorization)
        except Refused as refused:
            if refused.status == _Unavailable.status_code:
                raise _Unavailable(refused.detail) from refused
            failed = AuthenticationFailed(refused.detail)
            request.ringkeeper_challenge = refused.headers["WWW-Authenticate"]
            if wait := refused.headers.get("Retry-After"):
                failed.wait = int(wait)  # the framework makes the header of it
            raise failed from refused
        return self.user(claims), claims

    def authenticate_header(self, request: Any) -> str:
        """The challenge: RFC 6750 section 3."""
        return str(getattr(request, "ringkeeper_challenge", "Bearer"))
