"""Authlib: `gunicorn -w 2 --pythonpath examples authlib_app:app`."""

import json
from wsgiref.types import StartResponse, WSGIEnvironment

from authlib.jose import JsonWebToken
from authlib.jose.errors import JoseError

from ringkeeper import InfrastructureError, Keyring
from ringkeeper.authlib import keys_of

ALGORITHMS = ["RS256", "ES256", "EdDSA"]  # those that the ring has had, or will have
LEEWAY = 60  # clock_skew of the ring, in seconds
ring = Keyring.from_config("config.yaml")
keys = keys_of(ring)
tokens = JsonWebToken(ALGORITHMS)


def subject(token: str) -> str:
    """Who it is, by a token that is good."""
    claims = tokens.decode(token, keys, claims_options={"exp": {"essential": True}})
    claims.validate(leeway=LEEWAY)
    return str(claims["sub"])


def app(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer /login with a token, and /me with whose it is."""
    status = "200 OK"
    try:
        if request["PATH_INFO"] == "/login":
            answer = {"access_token": ring.sign({"sub": "alice"})}
        else:
            answer = {"sub": subject(request.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer "))}
    except InfrastructureError:  # not the user's fault: nobody is logged out
        status, answer = "503 Service Unavailable", {"detail": "temporarily unavailable"}
    except (JoseError, TypeError, ValueError):
        status, answer = "401 Unauthorized", {"detail": "invalid token"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
