"""An app in Ruby, with Debian's ruby-jwt, verifies by the JWKS."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.integrations.bearer import EXAMPLES, App, has_no_eddsa, is_no_fool, needs
from tests.integrations.stage import Stage, eventually, go_through
from tests.integrations.table import COLUMNS

pytestmark = pytest.mark.integrations


def started(stage: Stage) -> App:
    needs("ruby")
    loaded = subprocess.run(["ruby", "-r", "jwt", "-r", "webrick", "-e", ""], check=False)
    if loaded.returncode != 0:
        pytest.skip("ruby-jwt or ruby-webrick is not installed: run make integrations")
    return App.started(stage, "ruby", str(EXAMPLES / "ruby/app.rb"))


def test_an_app_in_ruby_verifies_by_the_jwks(stage: Stage, shows: Callable[..., None]) -> None:
    app, ring = started(stage), stage.keyring()
    go_through(stage, lambda: ring.sign({"sub": "alice"}), app.accepts)
    is_no_fool(stage, app, ring.sign({"sub": "alice"}))
    has_no_eddsa(stage, lambda: ring.sign({"sub": "alice"}), app)
    shows("Ruby: ruby-jwt", *COLUMNS[1:])


def test_while_the_daemon_is_away_nobody_is_logged_out(stage: Stage) -> None:
    app, token = started(stage), stage.keyring().sign({"sub": "alice"})
    stage.daemon.kill()

    def missed_it() -> bool:
        assert app.accepts(token)
        return "the JWKS cannot be had" in stage.log()

    eventually(missed_it)
