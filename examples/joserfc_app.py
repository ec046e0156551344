"""joserfc: `gunicorn -w 2 --pythonpath examples joserfc_app:app`."""

import json
from wsgiref.types import StartResponse, WSGIEnvironment

from joserfc import jwt
from joserfc.errors import JoseError

from ringkeeper import InfrastructureError, Keyring
from ringkeeper.joserfc import keys_of

ALGORITHMS = ["RS256", "ES256", "Ed25519", "EdDSA"]  # those that the ring has had, or will have
LEEWAY = 60  # clock_skew of the ring, in seconds
ring = Keyring.from_config("config.yaml")
keys = keys_of(ring)
times = jwt.JWTClaimsRegistry(leeway=LEEWAY, exp={"essential": True})


def subject(token: str) -> str:
    """Who it is, by a token that is good."""
    found = jwt.decode(token, keys, algorithms=ALGORITHMS)
    times.validate(found.claims)
    return str(found.claims["sub"])


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
