#!/usr/bin/env python3
"""`app.py` for containers: told all by its environment, it signs where it has the KEK."""

import signal
import sys
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from ringkeeper import InfrastructureError, Keyring, RingkeeperError, TokenError

# The first process of a container is not ended by a signal that it does not handle.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())

try:
    ring = Keyring.from_env()
except RingkeeperError as error:  # what, why, what to do
    sys.exit(f"service: {error}")


def app(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer /login with a token, and everything else with whose token came along."""
    bearer = request.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer").strip()
    status, body = "200 OK", ""
    try:
        if request["PATH_INFO"] == "/login":
            body = ring.sign({"sub": "alice"})
        elif bearer:
            body = f"hello {ring.verify(bearer)['sub']}"
        else:
            status, body = "401 Unauthorized", "no token came along; get one at /login"
    except TokenError as error:  # not with this token: refresh it, or log in
        ring.record_refresh(error.reason)
        status, body = "401 Unauthorized", error.public
    except InfrastructureError as error:  # not the user's fault: nobody is logged out for it
        status, body = "503 Service Unavailable", error.public
    start_response(status, [("Content-Type", "text/plain")])
    return [body.encode()]


if __name__ == "__main__":
    with ring:
        make_server("0.0.0.0", int(sys.argv[1]), app).serve_forever()  # noqa: S104 - a container's
