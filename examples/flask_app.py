"""Flask: `gunicorn --preload -w 2 --pythonpath examples flask_app:app`."""

from flask import Flask, g

from ringkeeper import InfrastructureError, Keyring
from ringkeeper.flask import TokenRequired, unavailable

ring = Keyring.from_config("config.yaml")  # a fork of gunicorn's follows it by itself
token_required = TokenRequired(ring)
app = Flask(__name__)
app.register_error_handler(InfrastructureError, unavailable)  # while no key may sign here: 503


@app.post("/login")
def login() -> dict[str, str]:
    """To whom knows the password; that is for the app to ask."""
    return {"access_token": ring.sign({"sub": "alice"})}


@app.get("/me")
@token_required
def me() -> dict[str, str]:
    """Only with a good token."""
    return {"sub": g.claims["sub"]}
