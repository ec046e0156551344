"""The examples of docs/api.md, which are those of the docstrings, run as they are written."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT
from tests.integrations.stage import Stage
from tests.integrations.test_page import (
    ASGI,
    ASKED,
    BEFORE,
    DJANGO,
    DJANGO_ASKED,
    FIRST,
    REST,
    WERKZEUG,
    WSGI,
    passes,
    sections,
)

pytestmark = pytest.mark.integrations
API = ROOT / "docs/api.md"
ERRORS = "from ringkeeper import InfrastructureError"
QUIET = "import warnings\nwarnings.simplefilter('ignore')\n"
VIEW = """
from collections import namedtuple
from ringkeeper.gate import Gate, Refused
Request = namedtuple("Request", "headers")
Response = namedtuple("Response", "detail status headers")
for_us = {"Authorization": f"Bearer {ring.sign({'sub': 'alice', 'aud': 'api'})}"}
def view(request):
"""
VIEW_ASKED = """
    return claims
assert view(Request(for_us))["sub"] == "alice"
assert view(Request(good)).status == view(Request({})).status == 401
"""
COUNTED = """
before = ring.refreshes.get("other", 0)
client.post("/auth/session/refresh")
assert ring.refreshes["other"] == before + 1
"""
AROUND = {
    "gate": (VIEW, VIEW_ASKED),
    "fastapi": (
        f"{BEFORE['FastAPI']}\n{ERRORS}\nfrom ringkeeper.fastapi import RingBearer, unavailable",
        f"{ASKED}\nassert InfrastructureError in app.exception_handlers",
    ),
    "flask": (
        f"{BEFORE['Flask']}\n{ERRORS}\nfrom ringkeeper.flask import TokenRequired, unavailable",
        f"{WERKZEUG}\nassert InfrastructureError in app.error_handler_spec[None][None]",
    ),
    "django": (
        "from ringkeeper.django import token_required\nfrom django.http import HttpResponse",
        f"{DJANGO}\nfrom ringkeeper.django import ring\n{DJANGO_ASKED}",
    ),
    "rest_framework": ("", f"{DJANGO}{REST}"),
    "pyjwt": ("from ringkeeper.pyjwt import RingJWKClient", 'assert claims["sub"] == "alice"'),
    "joserfc": ("from ringkeeper.joserfc import keys_of", 'assert claims["sub"] == "alice"'),
    "authlib": (
        QUIET + "import authlib.jose\nfrom ringkeeper.authlib import keys_of",
        'assert claims["sub"] == "alice"',
    ),
    "testing": ("", ""),
}
RSA = """
ring = ringkeeper.testing.keyring(algorithm="RS256")
token = ring.sign({"sub": "alice"})
"""


def examples() -> dict[str, list[str]]:
    return {name.rpartition("ringkeeper.")[2]: code for name, code in sections(API).items()}


def test_each_module_with_examples_has_its_test() -> None:
    assert examples().keys() == {*AROUND, "middleware", "ringkeeper"}


@pytest.mark.runs("docs/api.md", "python")
@pytest.mark.parametrize("module", AROUND)
def test_an_example_does_what_the_page_says(module: str) -> None:
    (code,) = examples()[module]
    before, after = AROUND[module]
    if module == "gate":
        code = "\n".join(f"    {line}" for line in code.splitlines())
    if "RS256" in code:
        before = f"{RSA}{before}"
    passes(FIRST, before, code, after)


@pytest.mark.runs("docs/api.md", "python")
def test_the_middlewares_do_what_the_page_says() -> None:
    (asgi, wsgi), (counted, counted_wsgi) = (code.splitlines() for code in examples()["middleware"])
    loads = "import ringkeeper.middleware"
    passes(FIRST, loads, ASGI, asgi, ASKED, WSGI, wsgi, WERKZEUG)
    apps = BEFORE["FastAPI"], BEFORE["Flask"]
    client = "from starlette.testclient import TestClient\nclient = TestClient(app)"
    passes(FIRST, loads, apps[0], counted, client, COUNTED)
    passes(FIRST, loads, apps[1], counted_wsgi, "client = app.test_client()", COUNTED)


@pytest.mark.runs("docs/api.md", "python")
def test_the_first_example_signs_and_verifies_with_a_live_ring(stage: Stage) -> None:
    (code,) = examples()["ringkeeper"]
    assert "redis://..." in code
    asked = 'assert claims["sub"] == "alice"'
    passes(code.replace("redis://...", stage.site.redis_url), asked, cwd=stage.folder)
