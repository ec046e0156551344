#!/usr/bin/env python3
"""A web app that hands out tokens and knows them again: `python examples/app.py 8001`."""

import sys
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from ringkeeper import InfrastructureError, Keyring, RingkeeperError, TokenError

try:
    ring = Keyring.connect("embedded:./var", trust_root="var/root.pub.jwk", kek="var/kek.jwk")
except RingkeeperError as error:  # what, why, what to do
    sys.exit(f"app: {error}")


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
    if not sys.argv[1:]:
        sys.exit("app: name a port: python examples/app.py 8001")
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
