"""What all apps of the examples look like from outside: /login, and / for who has a token."""

from __future__ import annotations

import base64
import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from joserfc import jwe
from joserfc.jwk import OctKey

from ringkeeper.layout import Layout
from tests.integrations.stage import kid_in
from tests.plugins.daemons import eventually
from tests.plugins.servers import free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.integrations.stage import Stage

EXAMPLES = Path(__file__).parents[2] / "examples"
ODD: list[dict[str, Any]] = [
    {},
    {"alg": None},
    {"alg": 256},
    {"alg": "HS256"},
    {"alg": "ES256"},
    {"alg": "EdDSA"},
    {"alg": "RS256", "kid": None},
    {"alg": "RS256", "kid": 7},
    {"alg": "RS256", "kid": ""},
    {"alg": "RS256", "kid": {"$": "x"}},
    {"alg": "RS256", "crit": ["x"], "x": 1},
    {"alg": "RS256", "b64": False, "crit": ["b64"]},
]
"""Headers that a stranger may write."""


def needs(*programs: str | Path) -> None:
    """Skip the test where one of these programs, or files, is not installed."""
    for program in programs:
        if not (shutil.which(program) or Path(program).exists()):
            pytest.skip(f"{program} is not installed: run make integrations")


class App:
    """A server of a test's own, in any language, of which only a port is known."""

    def __init__(self, process: subprocess.Popen[Any], port: int, path: str = "/") -> None:
        self.process = process
        self.port = port
        self.path = path
        eventually(self._is_up, within=20)

    @classmethod
    def started(cls, stage: Stage, *command: str, **environment: str) -> App:
        """`command`, with its port as the last argument."""
        port = free_port()
        env = {**stage.environment, "JWKS_URL": stage.jwks_url, "JWKS_MAX_AGE": "1", **environment}
        return cls(stage.start(*command, str(port), env=env), port)

    def get(self, path: str = "/", token: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - http
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def login(self) -> str:
        """A token."""
        status, token = self.get("/login")
        assert status == 200, (status, token)
        return token

    def accepts(self, token: str) -> bool:
        """Whether the bearer is let in: yes or no, and nothing else."""
        status, body = self.get(self.path, token)
        assert status in {200, 401}, (status, body)
        return status == 200

    def _is_up(self) -> bool:
        assert self.process.poll() is None, "it has ended"
        try:
            return self.get(self.path)[0] == 401  # without a token
        except OSError:
            return False


class Accepting(Protocol):
    """An app, as far as it is asked here."""

    def accepts(self, token: str) -> bool: ...


def is_no_fool(stage: Stage, app: Accepting, good: str, *, overlooks: tuple[str, ...] = ()) -> None:
    """Another's signature is refused, by a known name and by many unknown ones, and a wrong time.

    And those who ask by made-up names do not spoil it for the others. `good` is signed by RS256.
    What it `overlooks` is what this verifier does not look at, in tokens that no ring signs.
    """
    claims = jwt.decode(good, options={"verify_signature": False})
    kid, now = kid_in(good), int(time.time())
    own, ring_s = ec.generate_private_key(ec.SECP256R1()), private_key(stage, kid)

    def signed(algorithm: str = "RS256", **changed: Any) -> str:
        changed_claims = {k: v for k, v in {**claims, **changed}.items() if v is not None}
        return jwt.encode(changed_claims, ring_s, algorithm, headers={"kid": kid})

    assert app.accepts(signed())
    wrong = {
        "no exp": signed(exp=None),
        "exp": signed(iat=now - 600, exp=now - 300),
        "nbf": signed(nbf=now + 300),
        "alg": signed("RS512"),
    }
    for name, token in wrong.items():
        assert app.accepts(token) == (name in overlooks), name
    head, _, signature = good.rpartition(".")
    assert not app.accepts(f"{head}.{'A' * len(signature)}")
    assert not app.accepts(jwt.encode(claims, own, "ES256", headers={"kid": kid}))
    assert not app.accepts(jwt.encode(claims, key="", algorithm="none", headers={"kid": kid}))
    for text in ("x", "..", "a.b.c"):
        assert not app.accepts(text)
    for odd in ODD:
        header = base64.urlsafe_b64encode(json.dumps({"kid": kid, **odd}).encode()).decode()
        assert not app.accepts(f"{header.rstrip('=')}.{good.split('.')[1]}.{signature}"), odd
    for raw in ({"alg": "RS256"}, {"alg": "ES256"}, [1], 5, "x", None):
        header = base64.urlsafe_b64encode(json.dumps(raw).encode()).decode().rstrip("=")
        assert not app.accepts(f"{header}.{good.split('.')[1]}.{signature}"), raw
    for number in range(50):
        assert not app.accepts(jwt.encode(claims, own, "ES256", headers={"kid": f"d-{number}"}))
    assert app.accepts(good)


def private_key(stage: Stage, kid: str) -> RSAPrivateKey:
    """The ring's, for tokens that no ring would sign."""
    with redis.Redis.from_url(stage.site.redis_url, decode_responses=True) as client:
        sealed = str(client.hget(Layout("access-token").sealed, kid))
    kek = OctKey.import_key(json.loads((stage.folder / "kek.jwk").read_text()))
    opened = jwe.decrypt_compact(sealed, kek, algorithms=["dir", "A256GCM"]).plaintext
    assert opened
    key = jwt.PyJWK({**json.loads(opened), "alg": "RS256"}).key
    assert isinstance(key, RSAPrivateKey)
    return key


def has_no_eddsa(stage: Stage, issue: Callable[[], str], app: App) -> None:
    """A verifier without EdDSA refuses its tokens, and takes no harm from its keys."""
    before = issue()
    kid = stage.change_algorithm("EdDSA")
    eventually(lambda: kid_in(issue()) == kid)
    assert not app.accepts(issue())
    assert app.accepts(before)
    stage.revoke(kid_in(before))
    eventually(lambda: not app.accepts(before))
