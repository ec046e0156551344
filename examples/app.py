#!/usr/bin/env python3
"""A web app that hands out tokens and knows them again: `python examples/app.py 8001`."""

import sys
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from ringkeeper import InfrastructureError, Keyring, TokenError

ring = Keyring.connect("embedded:./var", trust_root="var/root.pub.jwk", kek="var/kek.jwk")


def app(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer /login with a token, and everything else with whose token came along."""
    bearer = request.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    try:
        is_login = request["PATH_INFO"] == "/login"
        body = ring.sign({"sub": "alice"}) if is_login else f"hello {ring.verify(bearer)['sub']}"
        status = "200 OK"
    except TokenError as error:  # not with this token: refresh it, or log in
        status, body = "401 Unauthorized", str(error)
    except InfrastructureError as error:  # not the user's fault: nobody is logged out for it
        status, body = "503 Service Unavailable", str(error)
    start_response(status, [("Content-Type", "text/plain")])
    return [body.encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
