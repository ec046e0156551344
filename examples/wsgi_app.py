"""Any WSGI app: `gunicorn -w 2 --pythonpath examples wsgi_app:app`."""

import json
from wsgiref.types import StartResponse, WSGIEnvironment

from ringkeeper import Keyring
from ringkeeper.middleware import RequireTokenWsgi

ring = Keyring.from_config("config.yaml")


def inner(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """It knows that whoever comes to another path than /login has a good token."""
    if request["PATH_INFO"] == "/login":
        answer = {"access_token": ring.sign({"sub": "alice"})}
    else:
        answer = {"sub": request["ringkeeper.claims"]["sub"]}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


app = RequireTokenWsgi(inner, ring, public=["/login"])
