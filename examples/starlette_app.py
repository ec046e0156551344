"""Starlette, or any ASGI app: `uvicorn --app-dir examples starlette_app:app`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ringkeeper.asyncio import Keyring
from ringkeeper.middleware import RequireToken

held: list[Keyring] = []


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """The keyring of the event loop, for as long as that runs."""
    async with await Keyring.from_config("config.yaml") as ring:
        held.append(ring)
        yield


async def login(_request: Request) -> JSONResponse:
    """To whom knows the password; that is for the app to ask."""
    return JSONResponse({"access_token": await held[0].sign({"sub": "alice"})})


async def me(request: Request) -> JSONResponse:
    """Only with a good token."""
    return JSONResponse({"sub": request.state.claims["sub"]})


app = Starlette(
    routes=[Route("/login", login, methods=["POST"]), Route("/me", me)],
    middleware=[Middleware(RequireToken, ring=lambda: held[0], public=["/login"])],
    lifespan=lifespan,
)
