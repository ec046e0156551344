#!/usr/bin/env python3
"""An app that knows who asks, by the JWKS that the sidecar keeps in a file."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

JWKS = Path("/run/ringkeeper/jwks.json")
REGISTRY = jwt.JWTClaimsRegistry(exp={"essential": True}, sub={"essential": True}, leeway=60)


class App(BaseHTTPRequestHandler):
    """Greets whoever has a good token."""

    def do_GET(self) -> None:
        """Answer anything but a health check with whose token came along."""
        if self.path == "/healthz":
            self._answer(200, "alive")
            return
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer").strip()
        try:
            # Read each time: it is replaced as a whole, so there is always one, and it is complete.
            keys = KeySet.import_key_set(json.loads(JWKS.read_text()))
            claims = jwt.decode(bearer, keys, algorithms=["RS256"]).claims
            REGISTRY.validate(claims)
        except (JoseError, ValueError) as error:
            self._answer(401, f"no good token: {error}")
        except OSError:  # a classic sidecar may have only begun; that is not the user's fault
            self._answer(503, "no keys yet")
        else:
            self._answer(200, f"hello {claims['sub']}")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container
    ThreadingHTTPServer(("", 8080), App).serve_forever()
