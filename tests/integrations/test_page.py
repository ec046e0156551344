"""The snippets of docs/integrations.md, run as they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.integrations.table import PAGE

pytestmark = pytest.mark.integrations

FIRST = """
from typing import Annotated, Any
import jwt, joserfc.jwt
import ringkeeper.testing
ring = ringkeeper.testing.keyring(algorithm="ES256")
token = ring.sign({"sub": "alice"})
good = {"Authorization": f"Bearer {token}"}
"""
ASGI = """
from starlette.responses import PlainTextResponse
async def app(scope, receive, send):
    await PlainTextResponse(scope["state"]["claims"]["sub"])(scope, receive, send)
"""
ASKED = """
from starlette.testclient import TestClient
import warnings
warnings.simplefilter("ignore")
client = TestClient(app)
assert "alice" in client.get("/me", headers=good).text
assert client.get("/me").status_code == 401
"""
WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["ringkeeper.claims"]["sub"].encode()]
"""
WERKZEUG = """
from werkzeug.test import Client
client = Client(app)
assert "alice" in client.get("/me", headers=good).get_data(as_text=True)
assert client.get("/me").status_code == 401
"""
DJANGO = """
from django.conf import settings
settings.configure(RINGKEEPER=globals().get("RINGKEEPER", {}), REST_FRAMEWORK=globals().get("REST_FRAMEWORK", {}))
import django, ringkeeper.django
django.setup()
made = ring
ringkeeper.django.use(made)
from django.http import JsonResponse
from django.test import RequestFactory
"""
DJANGO_ASKED = """
signs = made.sign({"sub": "alice", "aud": "api"})
asked = RequestFactory().get("/", headers={"Authorization": f"Bearer {signs}"})
assert b"alice" in me(asked).content
assert me(RequestFactory().get("/", headers={"Authorization": "Bearer x"})).status_code == 401
assert ring() is made
"""
REST = """
from rest_framework.settings import api_settings
from rest_framework.request import Request
[how] = api_settings.DEFAULT_AUTHENTICATION_CLASSES
request = Request(RequestFactory().get("/", headers=good), authenticators=[how()])
assert (request.user.id, request.auth["sub"]) == ("alice", "alice")
assert api_settings.DEFAULT_PERMISSION_CLASSES[0].__name__ == "IsAuthenticated"
"""
BEFORE = {
    "FastAPI": "from fastapi import Depends, FastAPI\napp = FastAPI()",
    "Starlette and any ASGI app": ASGI,
    "Any WSGI app": WSGI,
    "Flask": "from flask import Flask, g\napp = Flask('it')",
}
BETWEEN = {"Django": DJANGO}
AFTER = {
    "FastAPI": ASKED,
    "Starlette and any ASGI app": ASKED,
    "Any WSGI app": WERKZEUG,
    "Flask": WERKZEUG,
    "Django": DJANGO_ASKED,
    "Django REST framework": f"{DJANGO}{REST}",
    "PyJWT": 'assert claims["sub"] == "alice"',
    "joserfc and Authlib": 'assert found.claims["sub"] == "alice"',
}


def passes(*program: str, cwd: Path | None = None) -> None:
    """It ends well, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def sections(page: Path = PAGE) -> dict[str, list[str]]:
    """The snippets of Python under each heading."""
    parts = re.split(r"^## (.*)\n", page.read_text(), flags=re.MULTILINE)[1:]
    return {
        heading: found
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
        if (found := blocks(text, "python"))
    }


def test_each_section_with_snippets_is_run() -> None:
    assert set(AFTER) == set(sections())


@pytest.mark.runs("docs/integrations.md", "python")
@pytest.mark.parametrize("section", AFTER)
def test_the_snippets_do_what_the_page_says(section: str) -> None:
    snippets = f"\n{BETWEEN.get(section, '')}\n".join(sections()[section])
    passes(FIRST, BEFORE.get(section, ""), snippets, AFTER[section])
