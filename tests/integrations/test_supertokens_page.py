"""The snippets of docs/supertokens.md, with SuperTokens' own SDKs, at a daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_docs import blocks
from tests.integrations.stage import Stage
from tests.integrations.supertokens import (
    HELLO,
    NODE,
    NODEJS,
    PYTHON,
    UNAUTHORISED,
    App,
    issue,
    needs,
)

pytestmark = pytest.mark.integrations
PAGE = (ROOT / "docs/supertokens.md").read_text()
INIT, SIGN, SETTING = blocks(PAGE, "python")
DAEMON = "http://127.0.0.1:9465"
REST = """
    app_info=InputAppInfo(
        app_name="app", api_domain="http://127.0.0.1", website_domain="http://127.0.0.1"
    ),
    framework="fastapi",
    mode="asgi",
    telemetry=False,
"""
FIRST = """
import uuid, warnings
from hashlib import sha256
from fastapi import Depends, FastAPI
from supertokens_python import InputAppInfo, SupertokensConfig, init
from supertokens_python.exceptions import SuperTokensError
from supertokens_python.recipe import session
from supertokens_python.recipe.session.framework import fastapi
from ringkeeper import Keyring
warnings.simplefilter("ignore")
IS_DYNAMIC, user, refresh_token = {is_dynamic}, "alice", "a token"
"""
ASKED = """
app = FastAPI()
@app.get("/")
async def hello(verified=Depends(fastapi.verify_session())):
    return f"hello {verified.get_user_id()}"
app.add_exception_handler(SuperTokensError, fastapi.session_exception_handler)
from starlette.testclient import TestClient
with TestClient(app) as client, ring:
    for given in ({"Authorization": f"Bearer {token}"}, {}):
        print(client.get("/", headers=given).json())
"""


@pytest.mark.runs("docs/supertokens.md", "python")
@pytest.mark.parametrize("is_dynamic", [True, False])
def test_an_app_with_their_python_sdk_takes_what_is_signed_as_shown(
    stage: Stage, is_dynamic: bool
) -> None:
    needs(PYTHON)
    setting, ring = SETTING.splitlines()
    init = INIT.replace("    …\n", REST).replace(DAEMON, f"http://127.0.0.1:{stage.daemon.port}")
    inits = [init, init.replace("session.init()", setting)]
    assert inits[0] != inits[1]
    program = [
        FIRST.format(is_dynamic=is_dynamic), inits[not is_dynamic], ring, f"token = {SIGN}", ASKED,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)],
        env=stage.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [HELLO, str({"message": UNAUTHORISED})], done.stderr


@pytest.mark.runs("docs/supertokens.md", "js")
def test_an_app_with_their_node_sdk_begins_as_shown(stage: Stage, tmp_path: Path) -> None:
    """The app that other tests have, with the page's beginning."""
    needs(NODEJS)
    (begin,) = blocks(PAGE, "js")
    app = (NODE / "app.js").read_text()
    (former,) = re.findall(r"^supertokens\.init\(.*?^\}\);\n", app, re.MULTILINE | re.DOTALL)
    (rest,) = re.findall(r"^  appInfo: .*?^  \},\n", former, re.MULTILINE | re.DOTALL)
    rest += '  framework: "express",\n  telemetry: false,\n'
    begin = begin.replace("  …\n", rest).replace(DAEMON, f"http://127.0.0.1:{stage.daemon.port}")
    program = tmp_path / "app.mjs"
    program.write_text(app.replace(former, begin))
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    running = App(stage, NODEJS, program=str(program)).wait_until_up()
    assert running.says(issue(stage.keyring())) == HELLO
    assert running.says("") == UNAUTHORISED
