"""The examples for Python's frameworks and libraries, under the servers that they run under."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.bearer import is_no_fool
from tests.integrations.stage import Stage, eventually, free_port, go_through
from tests.integrations.table import COLUMNS

pytestmark = pytest.mark.integrations
EXAMPLES = Path(__file__).parents[2] / "examples"
GUNICORN = ("gunicorn", "-w", "2", "--pythonpath", str(EXAMPLES), "--bind", "127.0.0.1:{port}")
UVICORN = ("uvicorn", "--app-dir", str(EXAMPLES), "--workers", "2", "--port", "{port}")
THREADS = ("--threads", "4")
APPS = {
    "FastAPI": (*UVICORN, "fastapi_app:app"),
    "Starlette, ASGI": (*UVICORN, "starlette_app:app"),
    "Flask": (*GUNICORN, "--preload", "flask_app:app"),
    "WSGI": (*GUNICORN, *THREADS, "wsgi_app:app"),
    "Django": (*GUNICORN, *THREADS, "django_app:application"),
    "Django REST framework": (*GUNICORN, "rest_framework_app:application"),
    "PyJWT": (*GUNICORN, "--preload", "pyjwt_app:app"),
    "joserfc": (*GUNICORN, "joserfc_app:app"),
    "Authlib": (*GUNICORN, "authlib_app:app"),
}


class App:
    """An app over HTTP."""

    def __init__(self, stage: Stage, *command: str) -> None:
        self.address = f"http://127.0.0.1:{(port := free_port())}"
        server, *arguments = (part.format(port=port) for part in command)
        self.process = stage.start(sys.executable, "-m", server, *arguments, cwd=stage.folder)
        self.stage = stage
        eventually(self._answers, within=30)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.stage.log()
        try:
            return self.asked("/me")[0] == 401
        except OSError:
            return False

    def asked(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        address = self.address + path
        request = urllib.request.Request(address, method=method, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.status, dict(answer.headers), json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                told = {name.lower(): value for name, value in error.headers.items()}
                return error.code, told, error.read().decode()

    def issue(self) -> str:
        status, _, told = self.asked("/login", "POST")
        assert status == 200, told
        return str(told["access_token"])

    def accepts(self, token: str) -> bool:
        status, headers, told = self.asked("/me", Authorization=f"Bearer {token}")
        assert status in (200, 401), told
        if status == 401:
            assert "alice" not in told
            self.challenge = headers.get("www-authenticate")
        return status == 200 and bool(told["sub"] == "alice")


@pytest.mark.parametrize("stack", APPS)
def test_an_app_goes_through_all_of_it(
    stack: str, stage: Stage, shows: Callable[..., None]
) -> None:
    app = App(stage, *APPS[stack])
    go_through(stage, app.issue, app.accepts, algorithms=("EdDSA", "RS256"), within=5)
    is_no_fool(stage, app, app.issue())
    if stack not in ("PyJWT", "joserfc", "Authlib"):  # who answers there is the example
        assert app.challenge == 'Bearer error="invalid_token", error_description="invalid token"'
        assert app.asked("/me")[1]["www-authenticate"] == "Bearer"
    shows(stack, *COLUMNS)
