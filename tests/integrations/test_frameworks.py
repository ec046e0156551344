"""What the helpers for frameworks do beyond the examples, without a server around them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import ringkeeper.testing
from ringkeeper import Keyring
from ringkeeper.errors import InfrastructureError, RingNotLoaded
from ringkeeper.testing import MemoryKeyring

pytestmark = pytest.mark.integrations
GOOD = {"sub": "alice", "aud": "api", "iss": "us"}
WRONG = ({**GOOD, "aud": "web"}, {**GOOD, "iss": "them"}, {"sub": "alice"})


@pytest.fixture(scope="module", autouse=True)
def django_is_set_up() -> None:
    """Here, not above: where frameworks are not installed this file is read all the same."""
    import django
    from django.conf import settings

    settings.configure(
        REST_FRAMEWORK={
            "DEFAULT_AUTHENTICATION_CLASSES": ["ringkeeper.rest_framework.RingAuthentication"],
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
            "UNAUTHENTICATED_USER": None,
        },
        RINGKEEPER={"audience": "api", "issuer": "us"},
    )
    django.setup()


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    with ringkeeper.testing.keyring() as made:
        yield made


def bearer(ring: MemoryKeyring, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {ring.sign(claims)}"}


@pytest.mark.filterwarnings("ignore:Using `httpx`")
def test_fastapi_asks_for_audience_and_issuer_and_one_header(ring: MemoryKeyring) -> None:
    from fastapi import Depends, FastAPI
    from fastapi.testclient import TestClient

    from ringkeeper.fastapi import RingBearer, unavailable

    app = FastAPI()
    app.add_exception_handler(InfrastructureError, unavailable)
    claims_of = RingBearer(ring, audience="api", issuer="us")

    @app.get("/me")
    async def me(claims: dict[str, Any] = Depends(claims_of)) -> str:  # noqa: B008, FAST002 - of this function
        return str(claims["sub"])

    @app.get("/login")
    async def login() -> str:
        return ring.sign(GOOD)

    client = TestClient(app)
    good = bearer(ring, **GOOD)
    assert client.get("/me", headers=good).json() == "alice"
    for claims in WRONG:
        assert client.get("/me", headers=bearer(ring, **claims)).status_code == 401
    twice = [("Authorization", good["Authorization"])] * 2
    assert client.get("/me", headers=twice).status_code == 401
    assert "bearer" in str(app.openapi()["components"]["securitySchemes"]["ringkeeper"])
    ring.close()
    assert client.get("/me", headers=good).status_code == 503
    away = client.get("/login")
    assert (away.status_code, away.json()) == (503, {"detail": "temporarily unavailable"})


def test_flask_asks_for_audience_and_issuer(ring: MemoryKeyring) -> None:
    from flask import Flask, g

    from ringkeeper.flask import TokenRequired, unavailable

    app = Flask("it")
    app.register_error_handler(InfrastructureError, unavailable)
    token_required = TokenRequired(ring, audience="api", issuer="us")

    @app.get("/me")
    @token_required
    def me() -> str:
        return str(g.claims["sub"])

    @app.get("/login")
    def login() -> str:
        return ring.sign(GOOD)

    client = app.test_client()
    assert client.get("/me", headers=bearer(ring, **GOOD)).text == "alice"
    for claims in WRONG:
        assert client.get("/me", headers=bearer(ring, **claims)).status_code == 401
    ring.close()
    assert client.get("/login").status_code == 503


# --- Django --------------------------------------------------------------------------------------


@pytest.fixture
def django_ring(ring: MemoryKeyring) -> Iterator[MemoryKeyring]:
    from ringkeeper.django import _made, use

    use(ring)
    yield ring
    _made.ring, _made.trouble = None, ""


def views() -> dict[str, Any]:
    """The same view in every form."""
    from django.http import HttpResponse
    from django.utils.decorators import method_decorator
    from django.views import View

    from ringkeeper.django import token_required

    def plain(request: Any) -> Any:
        return HttpResponse(request.claims["sub"])

    async def awaited(request: Any) -> Any:
        return HttpResponse(request.claims["sub"])

    class Class(View):  # type: ignore[misc]
        def get(self, request: Any) -> Any:
            return plain(request)

    class Awaited(View):  # type: ignore[misc]
        async def get(self, request: Any) -> Any:
            return await awaited(request)

    dispatch = method_decorator(token_required, name="dispatch")
    return {
        "plain": token_required(plain),
        "awaited": token_required(awaited),
        "class": token_required(Class.as_view()),
        "awaited class": token_required(Awaited.as_view()),
        "class by its dispatch": dispatch(Class).as_view(),
        "awaited class by its dispatch": dispatch(Awaited).as_view(),
    }


FORMS = (
    "plain",
    "awaited",
    "class",
    "awaited class",
    "class by its dispatch",
    "awaited class by its dispatch",
)


@pytest.mark.parametrize("form", FORMS)
def test_a_view_of_django_s_in_any_form_is_guarded(form: str, django_ring: MemoryKeyring) -> None:
    from asgiref.sync import iscoroutinefunction
    from django.test import RequestFactory

    assert tuple(views()) == FORMS
    view = views()[form]
    assert iscoroutinefunction(view) == form.startswith("awaited")

    def asked(headers: dict[str, str] | None = None) -> Any:
        return view(RequestFactory().get("/", headers=headers))

    async def asked_async(headers: dict[str, str] | None = None) -> Any:
        return await asked(headers)

    ask = (lambda h=None: asyncio.run(asked_async(h))) if form.startswith("awaited") else asked
    assert ask(bearer(django_ring, **GOOD)).content == b"alice"
    assert ask().status_code == 401
    for claims in WRONG:
        assert ask(bearer(django_ring, **claims)).status_code == 401
    good = bearer(django_ring, **GOOD)
    django_ring.close()
    assert ask(good).status_code == 503


def test_a_ring_that_cannot_be_had_keeps_no_request_of_django_s_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from django.test import RequestFactory

    import ringkeeper.django as ours

    tried: list[float] = []

    def connect(*_: Any, **__: Any) -> Any:
        tried.append(time.monotonic())
        time.sleep(0.3)  # as a time-out
        raise RingNotLoaded("Redis is away")

    monkeypatch.setattr(Keyring, "from_env", connect)
    monkeypatch.setattr(ours, "_made", ours._Made())
    request = RequestFactory().get("/", headers={"Authorization": "Bearer x.y.z"})
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(views()["plain"](request).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert statuses == [503] * 6
    assert len(tried) == 1

    async def beside() -> list[float]:
        """How late a timer of the loop's is while a view waits for its first ring."""
        late: list[float] = []

        async def tick() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.01)
                late.append(time.monotonic() - began)

        ticking = asyncio.create_task(tick())
        answer = await views()["awaited"](request)
        assert answer.status_code == 503
        ticking.cancel()
        return late

    monkeypatch.setattr(ours, "_made", ours._Made())
    assert max(asyncio.run(beside())) < 0.25


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"confg": "config.yaml"}, "settings.RINGKEEPER: .*confg"),
        ({"config": "nowhere.yaml"}, r"settings\.RINGKEEPER: .*nowhere\.yaml"),
        ("config.yaml", "RINGKEEPER is a dict"),
        ({"config": "config.yaml", "audience": ""}, "settings.RINGKEEPER: the audience is empty"),
        ({"config": "config.yaml", "issuer": ["a"]}, "settings.RINGKEEPER: an issuer is a string"),
    ],
)
def test_what_django_is_told_amiss_is_said_so(
    given: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    import ringkeeper.django as ours

    monkeypatch.setattr(ours, "_made", ours._Made())
    monkeypatch.setattr(settings, "RINGKEEPER", given)
    with pytest.raises(ImproperlyConfigured, match=told):
        ours.ring()


def test_rest_framework_answers_as_all_do(django_ring: MemoryKeyring) -> None:
    from django.test import RequestFactory
    from rest_framework.decorators import api_view, permission_classes
    from rest_framework.permissions import IsAdminUser
    from rest_framework.response import Response

    @api_view()
    def me(request: Any) -> Any:
        return Response({"sub": request.user.id, "aud": request.auth["aud"]})

    @api_view()
    @permission_classes([IsAdminUser])
    def admin(request: Any) -> Any:
        return Response({})

    def asked(view: Any, headers: dict[str, str] | None = None) -> Any:
        return view(RequestFactory().get("/", headers=headers))

    good = bearer(django_ring, **GOOD)
    assert asked(me, good).data == {"sub": "alice", "aud": "api"}
    assert asked(admin, good).status_code == 403
    none = asked(me)
    assert (none.status_code, none["WWW-Authenticate"]) == (401, "Bearer")
    for claims in WRONG:
        assert asked(me, bearer(django_ring, **claims)).status_code == 401
    late = bearer(django_ring, **GOOD)
    django_ring.advance("3h")
    django_ring.crowd = 9
    over = asked(me, late)
    assert (over.status_code, over["Retry-After"]) == (401, "9")
    assert 'error_description="expired token"' in over["WWW-Authenticate"]
    django_ring.close()
    assert asked(me, good).status_code == 503


# --- what is not installed -----------------------------------------------------------------------

LACKING = {
    "fastapi": "fastapi", "flask": "flask", "django": "django", "pyjwt": "jwt", "authlib": "authlib",
    "rest_framework": "rest_framework",
}  # fmt: skip


@pytest.mark.parametrize("module", LACKING)
def test_what_is_not_installed_is_said_in_a_line(module: str) -> None:
    script = (
        "import sys\n"
        f"sys.modules[{LACKING[module]!r}] = None\n"
        f"try: import ringkeeper.{module}\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert f"ringkeeper.{module} needs " in done.stdout
    assert f"[{module}]" in done.stdout
