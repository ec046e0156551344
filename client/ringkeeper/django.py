"""Django: a decorator that lets in whose token is good; extra `[django]`.

    # settings.py; or {"config": "config.yaml"}, or nothing: then the environment tells
    RINGKEEPER = {"url": "redis://...", "trust_root": "root.pub.jwk", "kek": "kek.jwk"}

    @token_required
    def me(request):
        return HttpResponse(request.claims["sub"])

`"audience"` and `"issuer"` may stand there, too: then every token must name them. `ring()` is the
keyring, for views that sign. `ringkeeper.rest_framework` is for Django REST framework.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.clock import SystemClock
from ringkeeper.errors import InfrastructureError, RingkeeperError, RingNotLoaded
from ringkeeper.extras import lacking
from ringkeeper.gate import Gate, Refused
from ringkeeper.keyring import Keyring

try:
    from asgiref.sync import iscoroutinefunction
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.http import HttpResponse
except ModuleNotFoundError:
    raise lacking(__name__, "django", "django") from None

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("ringkeeper")
_clock = SystemClock()
_AGAIN_AFTER: Final = 1.0
"""Seconds for which a ring that could not be had is not asked for again: requests do not queue."""
_CHECKS: Final = ("audience", "issuer")


class _Made:
    """The keyring of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ring: Keyring | None = None
        self.trouble = ""
        self.failed_at = 0.0

    def get(self) -> Keyring:
        if self.ring:
            return self.ring
        with self.lock:
            if self.ring is None:
                self._make()
            assert self.ring  # noqa: S101 - made, or it was raised why not
            return self.ring

    def _make(self) -> None:
        if self.trouble and _clock.monotonic() - self.failed_at < _AGAIN_AFTER:
            raise RingNotLoaded(self.trouble)
        try:
            self.ring = _connected()
        except InfrastructureError as error:
            self.trouble, self.failed_at = str(error), _clock.monotonic()
            raise


_made = _Made()


def ring() -> Keyring:
    """The keyring that `settings.RINGKEEPER` tells of; made at the first use in a process.

    Call it where the app begins (`AppConfig.ready`) to hear of mistakes there, not from a request.

    Raises:
        ImproperlyConfigured: what stands there tells of none.
        InfrastructureError: it cannot be had now; asked for again at the next use.
    """
    return _made.get()


def use(keyring: Keyring) -> None:
    """Use this one from now on: in tests, that of `ringkeeper.testing`."""
    _made.ring = keyring


def gate() -> Gate:
    """What lets requests in, with the audience and the issuer of the settings.

    Raises:
        ImproperlyConfigured: no token can be for them.
    """
    told = _told()
    try:
        return Gate(ring, audience=told.get("audience"), issuer=told.get("issuer"))
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"settings.RINGKEEPER: {error}") from None


def token_required(view: Callable[..., Any]) -> Callable[..., Any]:
    """`view`, with `request.claims`, for those alone whose token is good; it may be async.

    401 and 503 are answered as `ringkeeper.gate` says. For a view that is a class:
    `token_required(View.as_view())`, or `method_decorator(token_required, name="dispatch")`.
    """

    async def guarded_async(request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if _made.ring is None:  # no event loop waits for it
                await asyncio.to_thread(_attempt)
            request.claims = await gate().admit_async(request.headers.get("Authorization"))
        except Refused as refused:
            return answer_to(refused)
        answer = view(request, *args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    def guarded(request: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_in_a_loop():  # a method of an async view: its answer is awaited
            return guarded_async(request, *args, **kwargs)
        try:
            request.claims = gate().admit(request.headers.get("Authorization"))
        except Refused as refused:
            return answer_to(refused)
        return view(request, *args, **kwargs)

    return wraps(view)(guarded_async if iscoroutinefunction(view) else guarded)


def answer_to(refused: Refused) -> HttpResponse:
    """What whoever is not let in is told."""
    return HttpResponse(
        refused.detail, status=refused.status, headers=refused.headers, content_type="text/plain"
    )


def _attempt() -> None:
    try:
        ring()
    except RingkeeperError:
        return  # it is told where it is asked for next


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _told() -> dict[str, Any]:
    told = getattr(settings, "RINGKEEPER", {})
    if not isinstance(told, dict):
        raise ImproperlyConfigured("RINGKEEPER is a dict, as {'config': 'config.yaml'} is one")
    return told


def _connected() -> Keyring:
    gate()  # its mistakes are told here, too, and not from the first request
    how = {name: value for name, value in _told().items() if name not in _CHECKS}
    try:
        if "config" in how:
            return Keyring.from_config(how.pop("config"), **how)
        return Keyring.connect(how.pop("url"), **how) if "url" in how else Keyring.from_env(**how)
    except TypeError as error:  # no such argument; it names it, and no value
        raise ImproperlyConfigured(
            f"settings.RINGKEEPER: {error}; write what Keyring.connect takes, or 'config'"
        ) from None
    except InfrastructureError:
        raise
    except RingkeeperError as error:
        where = "settings.RINGKEEPER" if _told() else "settings.RINGKEEPER is not set, and so"
        _log.error("%s: %s", where, error)
        raise ImproperlyConfigured(f"{where}: {error}") from error
