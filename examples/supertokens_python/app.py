"""Routes that SuperTokens' own SDK protects, with tokens that ringkeeper's keys sign.

    python examples/supertokens_python/app.py 8001 http://127.0.0.1:9465

The SDK is told that its core is where ringkeeper's daemon is, and reads nothing there but the
JWKS. Where the ring is, `Keyring.from_env()` is told by the environment.
"""

import os
import sys
import uuid
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from supertokens_python import InputAppInfo, SupertokensConfig, init
from supertokens_python.exceptions import SuperTokensError
from supertokens_python.recipe import session
from supertokens_python.recipe.session import SessionContainer
from supertokens_python.recipe.session.framework.fastapi import (
    session_exception_handler,
    verify_session,
)

from ringkeeper import Keyring

IS_DYNAMIC = os.environ.get("USE_DYNAMIC_ACCESS_TOKEN_SIGNING_KEY", "true") == "true"
"""One setting for both, what signs and what verifies, as with SuperTokens."""


def session_claims(user: str, refresh_token: str) -> dict[str, Any]:
    """What SuperTokens writes into an access token, but for the times."""
    return {
        "sub": user,
        "rsub": user,
        "tId": "public",
        "sessionHandle": str(uuid.uuid4()),
        "refreshTokenHash1": sha256(refresh_token.encode()).hexdigest(),
    }


async def login() -> PlainTextResponse:
    """An access token for alice; sessions and refresh tokens are the app's own business."""
    claims = session_claims("alice", token_urlsafe())
    return PlainTextResponse(ring.sign(claims, header={"version": "5"}))


async def hello(
    verified: Annotated[SessionContainer, Depends(verify_session())],
) -> PlainTextResponse:
    """A route as it was before."""
    return PlainTextResponse(f"hello {verified.get_user_id()}")


app = FastAPI()
app.add_api_route("/login", login)
app.add_api_route("/", hello)
try_refresh_token: Any = session_exception_handler
app.add_exception_handler(SuperTokensError, try_refresh_token)

if __name__ == "__main__":
    port, keys = sys.argv[1:3]
    cached = os.environ.get("JWKS_REFRESH_INTERVAL_SEC")
    init(
        app_info=InputAppInfo(
            app_name="app",
            api_domain=f"http://127.0.0.1:{port}",
            website_domain=f"http://127.0.0.1:{port}",
        ),
        supertokens_config=SupertokensConfig(connection_uri=keys),
        framework="fastapi",
        recipe_list=[
            session.init(
                use_dynamic_access_token_signing_key=IS_DYNAMIC,
                jwks_refresh_interval_sec=int(cached) if cached else None,  # by default 4 hours
            )
        ],
        mode="asgi",
        telemetry=False,
    )
    with Keyring.from_env(use_dynamic_access_token_signing_key=IS_DYNAMIC) as ring:
        uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
