"""FastAPI: `uvicorn --app-dir examples fastapi_app:app --workers 2`, with `make run` running."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI

from ringkeeper import InfrastructureError, Keyring
from ringkeeper.fastapi import RingBearer, unavailable

ring = Keyring.from_config("config.yaml")  # as the daemon's; or Keyring.connect, or from_env
app = FastAPI()
app.add_exception_handler(InfrastructureError, unavailable)  # while no key may sign here: 503
Claims = Annotated[dict[str, Any], Depends(RingBearer(ring))]


@app.post("/login")
async def login() -> dict[str, str]:
    """To whom knows the password; that is for the app to ask."""
    return {"access_token": ring.sign({"sub": "alice"}), "token_type": "bearer"}


@app.get("/me")
async def me(claims: Claims) -> dict[str, str]:
    """Only with a good token."""
    return {"sub": claims["sub"]}
