"""SuperTokens' three settings mean here what they mean there (docs/supertokens.md)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest

from ringkeeper.configuration import load
from ringkeeper.errors import LifetimeTooLong
from ringkeeper.policy import Policy
from tests.integrations.stage import Stage, kid_in
from tests.integrations.supertokens import HELLO, PYTHON, REFRESH, App, issue, needs
from tests.plugins.daemons import Site

pytestmark = pytest.mark.integrations

INTERVAL = "access_token_dynamic_signing_key_update_interval"
VALIDITY = "access_token_validity"
IS_DYNAMIC = "use_dynamic_access_token_signing_key"

MEANINGS: dict[str, tuple[str, str, timedelta | bool]] = {
    # what: (setting, as it is written, what that is)
    "by default 168 hours": (INTERVAL, "", timedelta(days=7)),
    "hours": (INTERVAL, "168", timedelta(days=7)),
    "the least of theirs": (INTERVAL, "1", timedelta(hours=1)),
    "a fraction of an hour": (INTERVAL, "24.5", timedelta(hours=24, minutes=30)),
    "by default 3600 seconds": (VALIDITY, "", timedelta(hours=1)),
    "seconds": (VALIDITY, "90", timedelta(seconds=90)),
    "a day of seconds": (VALIDITY, "86400", timedelta(days=1)),
    "by default dynamic": (IS_DYNAMIC, "", True),
    "dynamic": (IS_DYNAMIC, "true", True),
    "static": (IS_DYNAMIC, "false", False),
}


@pytest.mark.parametrize("is_in_file", [True, False], ids=["in the file", "in the environment"])
@pytest.mark.parametrize("what", MEANINGS)
def test_each_is_read_as_theirs(tmp_path: Any, what: str, is_in_file: bool) -> None:
    """By their names: in their `config.yaml`, and, in capitals, as they name variables."""
    name, text, meaning = MEANINGS[what]
    lines, environment = ["redis: {url: redis://h}"], {}
    if text and is_in_file:
        lines.append(f"{name}: {text}")
    elif text:
        environment[name.upper()] = text
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    policy = load(tmp_path / "config.yaml", environment).rings[0].policy
    of = {
        INTERVAL: policy.cryptoperiod,
        VALIDITY: policy.access_token_validity,
        IS_DYNAMIC: policy.use_dynamic,
    }
    assert of[name] == meaning


RUNNING: dict[str, tuple[float | None, int | None, bool | None]] = {
    "none is set": (None, None, None),
    "all are set": (2.5, 90, False),
}


@pytest.mark.parametrize("what", RUNNING)
def test_each_does_what_theirs_does(site: Site, what: str) -> None:
    """How long a key signs, how long a token lives, which key signs it, and who takes that."""
    needs(PYTHON)
    hours, seconds, is_dynamic = RUNNING[what]
    stage = Stage(site, **{INTERVAL: hours, VALIDITY: seconds, IS_DYNAMIC: is_dynamic})
    try:
        status = site.status()
        active = next(key for key in status["keys"] if key["activated_at"])
        signs_for = datetime.fromisoformat(status["next_activation_at"]) - datetime.fromisoformat(
            active["activated_at"]
        )
        assert signs_for == timedelta(hours=hours or 168)

        ring, lives = stage.keyring(), timedelta(seconds=seconds or 3600)
        token = issue(ring)
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == lives.total_seconds()
        with pytest.raises(LifetimeTooLong):
            ring.sign({"sub": "alice"}, lifetime=lives + timedelta(seconds=1))

        assert kid_in(token).startswith("s-" if is_dynamic is False else "d-")
        same = App(stage, PYTHON, is_dynamic=is_dynamic is not False)
        other = App(stage, PYTHON, is_dynamic=is_dynamic is False)
        assert same.wait_until_up().says(token) == HELLO
        assert other.wait_until_up().says(token) == REFRESH
    finally:
        stage.close()


def test_a_key_is_public_for_as_long_as_their_sdk_keeps_a_jwks() -> None:
    """So no app meets a key that it does not know, unless its cache is made to last longer."""
    needs(PYTHON)
    from supertokens_python.recipe.session.utils import validate_and_normalise_user_input
    from supertokens_python.supertokens import AppInfo

    info = AppInfo(
        app_name="app",
        api_domain="http://localhost",
        website_domain="http://localhost",
        framework="fastapi",
        api_gateway_path="",
        api_base_path="/auth",
        website_base_path="/auth",
        mode="asgi",
        origin=None,
    )
    theirs = validate_and_normalise_user_input(info)
    assert theirs.use_dynamic_access_token_signing_key is Policy.derive().use_dynamic
    kept = timedelta(seconds=theirs.jwks_refresh_interval_sec)
    assert kept == timedelta(hours=4) == Policy.derive().publication_interval
