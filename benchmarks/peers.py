"""What others offer in Python, each used in the way that its own documentation calls best.

Keys are prepared once. Each verifies the signature with the one algorithm, and `exp`; each signs
with `kid`, `iat` and `exp`, as an issuer has to. Who does not offer an algorithm is left out.
"""

from __future__ import annotations

import json
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import jwt as pyjwt
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt

from benchmarks.claims import stamped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.primitive import Primitive

PYJWT: Final = "PyJWT, key object"
PYJWK_CLIENT: Final = "PyJWT, PyJWKClient"
JOSERFC: Final = "joserfc"
AUTHLIB: Final = "Authlib"
PYTHON_JOSE: Final = "python-jose"
PACKAGES: Final = (
    "ringkeeper", "cryptography", "pyjwt", "joserfc", "authlib", "python-jose", "redis", "hiredis",
)  # fmt: skip
_JOSE_LACKS: Final = ("PS256", "EdDSA")


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to do it: what verifies a token, and what signs claims, if it does."""

    verify: Callable[[str], object]
    sign: Callable[[dict[str, Any]], object] | None


def versions() -> dict[str, str]:
    """Of what is compared; one that is not installed is not in it."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peers(key: Primitive, jwk: Mapping[str, str], url: str) -> dict[str, Peer]:
    """All that are installed, for the private `key` and its public `jwk`, served at `url`."""
    found = {
        PYJWT: _pyjwt(key),
        PYJWK_CLIENT: _pyjwk_client(key, url),
        JOSERFC: _joserfc(key, jwk),
    }
    if find_spec("authlib"):
        found[AUTHLIB] = _authlib(key, jwk)
    if find_spec("jose") and key.algorithm not in _JOSE_LACKS:
        found[PYTHON_JOSE] = _python_jose(key, jwk)
    return found


def _pyjwt(key: Primitive) -> Peer:
    algorithms, headers = [key.algorithm], {"kid": key.kid}

    def verify(token: str) -> object:
        return pyjwt.decode(token, key.public, algorithms=algorithms)

    def sign(claims: dict[str, Any]) -> object:
        return pyjwt.encode(stamped(claims), key.private, key.algorithm, headers)

    return Peer(verify, sign)


def _pyjwk_client(key: Primitive, url: str) -> Peer:
    """It looks the key up by the token's kid, in a JWK Set that it keeps for five minutes."""
    algorithms, client = [key.algorithm], pyjwt.PyJWKClient(url)

    def verify(token: str) -> object:
        return pyjwt.decode(token, client.get_signing_key_from_jwt(token), algorithms=algorithms)

    return Peer(verify, None)


def _joserfc(key: Primitive, jwk: Mapping[str, str]) -> Peer:
    # It warns, once, that RFC 9864 has another name for EdDSA; verifiers know this one.
    warnings.filterwarnings("ignore", module="joserfc")
    public, private = joserfc_jwk.import_key(dict(jwk)), _joserfc_private(key)
    algorithms, header = [key.algorithm], {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    registry = joserfc_jwt.JWTClaimsRegistry(exp={"essential": True})

    def verify(token: str) -> object:
        decoded = joserfc_jwt.decode(token, public, algorithms=algorithms)
        registry.validate(decoded.claims)
        return decoded.claims

    def sign(claims: dict[str, Any]) -> object:
        return joserfc_jwt.encode(header, stamped(claims), private, algorithms=algorithms)

    return Peer(verify, sign)


def _joserfc_private(key: Primitive) -> Any:
    kind = {"ES256": "EC", "EdDSA": "OKP"}.get(key.algorithm, "RSA")
    return joserfc_jwk.import_key(key.pem, kind)  # type: ignore[call-overload]


def joserfc_key_set(jwks: dict[str, Any], algorithm: str) -> Callable[[str], object]:
    """As joserfc picks one of many keys, by the token's kid."""
    keys = joserfc_jwk.KeySet.import_key_set(jwks)  # type: ignore[arg-type]
    registry = joserfc_jwt.JWTClaimsRegistry(exp={"essential": True})

    def verify(token: str) -> object:
        decoded = joserfc_jwt.decode(token, keys, algorithms=[algorithm])
        registry.validate(decoded.claims)
        return decoded.claims

    return verify


def _authlib(key: Primitive, jwk: Mapping[str, str]) -> Peer:
    with warnings.catch_warnings(record=True):  # its author goes on in joserfc, it says
        from authlib.jose import JsonWebKey, JsonWebToken
    web_token = JsonWebToken([key.algorithm])
    public = JsonWebKey.import_key(dict(jwk))
    kind = {"ES256": "EC", "EdDSA": "OKP"}.get(key.algorithm, "RSA")
    private = JsonWebKey.import_key(key.pem, {"kty": kind})
    header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    options = {"exp": {"essential": True}}

    def verify(token: str) -> object:
        claims = web_token.decode(token, public, claims_options=options)
        claims.validate()
        return claims

    def sign(claims: dict[str, Any]) -> object:
        return web_token.encode(header, stamped(claims), private)

    return Peer(verify, sign)


def _python_jose(key: Primitive, jwk: Mapping[str, str]) -> Peer:
    from jose import jwk as jose_jwk
    from jose import jwt as jose_jwt

    public = jose_jwk.construct(dict(jwk), key.algorithm)
    private = jose_jwk.construct(key.pem, key.algorithm)
    algorithms, headers = [key.algorithm], {"kid": key.kid}

    def verify(token: str) -> object:
        return jose_jwt.decode(token, public, algorithms=algorithms)

    def sign(claims: dict[str, Any]) -> object:
        return jose_jwt.encode(stamped(claims), private, key.algorithm, headers)

    return Peer(verify, sign)


@contextmanager
def serving(document: Callable[[], object]) -> Iterator[str]:
    """The URL of an HTTP server that answers with `document()` as JSON, as any issuer's JWKS."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(document()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/jwk-set+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        finally:
            server.shutdown()
            thread.join()
