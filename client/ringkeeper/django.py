"""Django: a decorator that lets in whose token is good; `pip install 'ringkeeper[django]'`.

    # settings.py; or {"config": "config.yaml"}, or nothing: then the environment tells
    RINGKEEPER = {"url": "redis://...", "trust_root": "root.pub.jwk", "audience": "api"}

    @token_required
    def me(request):
        return HttpResponse(request.claims["sub"])

`ring()` is the keyring, for views that sign. `ringkeeper.rest_framework` is for Django REST
framework.
"""

from __future__ import annotations

import threading
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse

from ringkeeper.gate import Gate, Refused
from ringkeeper.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Callable

_lock = threading.Lock()
_made: list[Keyring] = []


def ring() -> Keyring:
    """The keyring that `settings.RINGKEEPER` tells of; made at the first use in a process.

    Raises:
        ImproperlyConfigured: what stands there tells of none.
        RingkeeperError: as `Keyring.connect`.
    """
    with _lock:
        if not _made:
            _made.append(_connected())
        return _made[0]


def use(keyring: Keyring) -> None:
    """Use this one from now on: in tests, that of `ringkeeper.testing`."""
    with _lock:
        _made[:] = [keyring]


def gate() -> Gate:
    """What lets requests in, with the audience and the issuer of the settings."""
    told = _told()
    return Gate(ring, audience=told.get("audience"), issuer=told.get("issuer"))


def token_required(view: Callable[..., Any]) -> Callable[..., Any]:
    """`view`, with `request.claims`, for those alone whose token is good; it may be async.

    401 and 503 are answered as `ringkeeper.gate` says.
    """
    if iscoroutinefunction(view):

        @wraps(view)
        async def guarded_async(request: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                request.claims = await gate().admit_async(request.headers.get("Authorization"))
            except Refused as refused:
                return answer_to(refused)
            return await view(request, *args, **kwargs)

        return guarded_async

    @wraps(view)
    def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            request.claims = gate().admit(request.headers.get("Authorization"))
        except Refused as refused:
            return answer_to(refused)
        return view(request, *args, **kwargs)

    return guarded


def answer_to(refused: Refused) -> HttpResponse:
    """What whoever is not let in is told."""
    return HttpResponse(
        refused.detail, status=refused.status, headers=refused.headers, content_type="text/plain"
    )


def _told() -> dict[str, Any]:
    told = getattr(settings, "RINGKEEPER", {})
    if not isinstance(told, dict):
        raise ImproperlyConfigured("RINGKEEPER is a dict, as {'config': 'config.yaml'} is one")
    return told


def _connected() -> Keyring:
    how = {name: value for name, value in _told().items() if name not in ("audience", "issuer")}
    try:
        if "config" in how:
            return Keyring.from_config(how.pop("config"), **how)
        return Keyring.connect(how.pop("url"), **how) if "url" in how else Keyring.from_env(**how)
    except TypeError as error:  # no such argument; it names it, and no value
        raise ImproperlyConfigured(
            f"RINGKEEPER: {error}; write what Keyring.connect or Keyring.from_config takes"
        ) from None
