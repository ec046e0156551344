"""Every row of the table: what is tested, and why what is not cannot be."""

from tests.integrations.table import Stack

VERIFIES = {"sign": "verifies only"}
UVICORN = "uvicorn, two workers, HTTP"
PREFORK = "gunicorn, two workers, HTTP"
PRELOAD = "gunicorn, loaded before two forks, HTTP"
STACKS = [
    Stack("ringkeeper.Keyring", "../README.md#add-it-to-an-app", "two of them in threads"),
    Stack("FastAPI", "#fastapi", UVICORN),
    Stack("Starlette, ASGI", "#starlette-and-any-asgi-app", UVICORN),
    Stack("Flask", "#flask", PRELOAD),
    Stack("WSGI", "#any-wsgi-app", PREFORK),
    Stack("Django", "#django", PREFORK),
    Stack("Django REST framework", "#django-rest-framework", PREFORK),
    Stack("PyJWT", "#pyjwt", PRELOAD),
    Stack("joserfc", "#joserfc-and-authlib", PREFORK),
    Stack("Authlib", "#joserfc-and-authlib", PREFORK),
    Stack("Celery", "#celery", "a worker with two processes, a real broker"),
    Stack(
        "supertokens-python",
        "supertokens.md",
        "FastAPI, uvicorn; revoked: when its cache of the JWKS ends, 4 h unless set",
        because=VERIFIES,
    ),
    Stack(
        "supertokens-node",
        "supertokens.md",
        "Express; revoked: when its cache of the JWKS ends, 4 h unless set",
        because=VERIFIES,
    ),
    Stack("Node: jose", "#node", "an app on the file of the key, and the JWKS"),
    Stack("Node: jsonwebtoken", "#node", "an app with jwks-rsa", VERIFIES),
    Stack("Node: jose with Redis", "#node", "an app with a Redis client and jose, and no daemon"),
    Stack("Go: go-jose", "#go", "an app that fetches the JWKS", VERIFIES),
    Stack("Go: golang-jwt", "#go", "an app that fetches the JWKS", VERIFIES),
    Stack("Ruby: ruby-jwt", "#ruby", "an app that fetches the JWKS", VERIFIES),
    Stack("HAProxy", "#haproxy", "reloaded by the daemon beside it, before an app", VERIFIES),
    Stack("Apache: mod_auth_openidc", "#apache", "restarted gracefully by the daemon", VERIFIES),
]
