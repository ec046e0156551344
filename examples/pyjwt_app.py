"""PyJWT, where its PyJWKClient was: `gunicorn -w 2 --pythonpath examples pyjwt_app:app`."""

import json
from wsgiref.types import StartResponse, WSGIEnvironment

import jwt

from ringkeeper import InfrastructureError, Keyring
from ringkeeper.pyjwt import RingJWKClient

ALGORITHMS = ["RS256", "ES256", "EdDSA"]  # those that the ring has had, or will have
LEEWAY = 60  # clock_skew of the ring, in seconds
ring = Keyring.from_config("config.yaml")
keys = RingJWKClient(ring)  # PyJWKClient(url) before


def subject(token: str) -> str:
    """Who it is, by a token that is good."""
    key = keys.get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, ALGORITHMS, leeway=LEEWAY, options={"require": ["exp", "sub"]})
    return str(claims["sub"])


def app(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer /login with a token, and /me with whose it is."""
    status = "200 OK"
    try:
        if request["PATH_INFO"] == "/login":
            answer = {"access_token": ring.sign({"sub": "alice"})}
        else:
            answer = {"sub": subject(request.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer "))}
    except (
        InfrastructureError,
        jwt.PyJWKClientConnectionError,
    ):  # not the user's fault: nobody is logged out
        status, answer = "503 Service Unavailable", {"detail": "temporarily unavailable"}
    except jwt.PyJWTError:
        status, answer = "401 Unauthorized", {"detail": "invalid token"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
