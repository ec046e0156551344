"""An app in Go, with Debian's go-jose and golang-jwt, verifies by the JWKS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.bearer import EXAMPLES, App, is_no_fool, needs
from tests.integrations.stage import Stage, eventually, go_through
from tests.integrations.table import COLUMNS

pytestmark = pytest.mark.integrations
SOURCES = Path("/usr/share/gocode")
LIBRARIES = ["go-jose", "golang-jwt"]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The app, compiled."""
    needs("go", SOURCES / "src/gopkg.in/square/go-jose.v2", SOURCES / "src/github.com/golang-jwt")
    binary = str(tmp_path_factory.mktemp("go") / "app")
    where = {"GO111MODULE": "off", "GOPATH": str(SOURCES), "GOFLAGS": "", "GOTOOLCHAIN": "local"}
    built = subprocess.run(
        ["go", "build", "-o", binary, "."],
        cwd=EXAMPLES / "go",
        env={**os.environ, **where},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return binary


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_app_in_go_verifies_by_the_jwks(
    stage: Stage, program: str, library: str, shows: Callable[..., None]
) -> None:
    app, ring = App.started(stage, program, library), stage.keyring()
    go_through(
        stage, lambda: ring.sign({"sub": "alice"}), app.accepts, algorithms=("EdDSA", "RS256")
    )
    is_no_fool(stage, app, ring.sign({"sub": "alice"}))
    shows(f"Go: {library}", *COLUMNS[1:])


def test_while_the_daemon_is_away_nobody_is_logged_out(stage: Stage, program: str) -> None:
    app, token = App.started(stage, program, "go-jose"), stage.keyring().sign({"sub": "alice"})
    stage.daemon.kill()

    def missed_it() -> bool:
        assert app.accepts(token)
        return "the JWKS cannot be had" in stage.log()

    eventually(missed_it)
