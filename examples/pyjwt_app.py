"""PyJWT, where its PyJWKClient was: `gunicorn -w 2 --pythonpath examples pyjwt_app:app`."""

import json
from wsgiref.types import StartResponse, WSGIEnvironment

import jwt

from ringkeeper import Keyring
from ringkeeper.pyjwt import RingJWKClient

ALGORITHMS = ["RS256", "ES256", "EdDSA"]  # those that the ring has had, or will have
ring = Keyring.from_config("config.yaml")
keys = RingJWKClient(ring)  # PyJWKClient(url) before


def subject(token: str) -> str:
    """Who it is, by a token that is good."""
    key = keys.get_signing_key_from_jwt(token)
    return str(jwt.decode(token, key, algorithms=ALGORITHMS)["sub"])


def app(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer /login with a token, and /me with whose it is."""
    status = "200 OK"
    try:
        if request["PATH_INFO"] == "/login":
            answer = {"access_token": ring.sign({"sub": "alice"})}
        else:
            answer = {"sub": subject(request.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer "))}
    except jwt.PyJWTError:
        status, answer = "401 Unauthorized", {"detail": "invalid token"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
