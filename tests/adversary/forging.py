"""Tokens put together by hand, by somebody who knows every public thing about a ring.

Nothing here goes through the code under test: what an attacker sends is whatever bytes they like.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

import ringkeeper.testing
from ringkeeper.algorithms import PrivateKey

Signer = Callable[[bytes], bytes]

HASHES: dict[str, Any] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
WIDTH = {"ES256": 32, "ES384": 48}
"""Bytes of each half of a signature."""
ORDER = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "EdDSA": 2**252 + 27742317777372353535851937790883648493,
}
"""Of the group that each curve signs in."""


def b64(raw: bytes | str) -> str:
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def compact(header: Any, claims: Any, sign: Signer) -> str:
    """A compact JWS; header and claims are written as JSON, or as they are if bytes or text."""
    parts = [
        b64(part if isinstance(part, bytes | str) else json.dumps(part))
        for part in (header, claims)
    ]
    signed = ".".join(parts)
    return f"{signed}.{b64(sign(signed.encode()))}"


def nothing(_: bytes) -> bytes:
    return b""


def hs256(secret: bytes) -> Signer:
    return lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()


def signer_of(private: Any, algorithm: str) -> Signer:
    """What signs as RFC 7518 says, with cryptography alone."""
    digest: Any = HASHES.get(algorithm[2:])

    def sign(signed: bytes) -> bytes:
        match private:
            case ed25519.Ed25519PrivateKey():
                return private.sign(signed)
            case ec.EllipticCurvePrivateKey():
                der = private.sign(signed, ec.ECDSA(digest()))
                return raw_of(*utils.decode_dss_signature(der), algorithm)
            case rsa.RSAPrivateKey() if algorithm.startswith("PS"):
                salted = padding.PSS(padding.MGF1(digest()), digest.digest_size)
                return private.sign(signed, salted, digest())
            case _:
                raw: bytes = private.sign(signed, padding.PKCS1v15(), digest())
                return raw

    return sign


def raw_of(r: int, s: int, algorithm: str) -> bytes:
    """Both halves of an ECDSA signature, side by side (RFC 7518 section 3.4)."""
    width = WIDTH[algorithm]
    return r.to_bytes(width, "big") + s.to_bytes(width, "big")


class Victim:
    """A ring of one algorithm, and all that is public about it; `real` is not."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.ring = ringkeeper.testing.keyring(algorithm=algorithm)
        keys = {key.kid: key for key in self.ring.snapshot.keys}
        self.public = keys
        self.kid = self.ring.snapshot.signer.kid  # type: ignore[union-attr]
        self.standby = self.ring.snapshot.standby.kid  # type: ignore[union-attr]
        self.static = next(kid for kid in keys if kid.startswith("s-"))
        self.now = int(self.ring._time.now_is.timestamp())
        self.token = self.ring.sign({"sub": "alice"})
        self._private = self.ring._held().signing[self.kid]._key

    @property
    def header(self) -> dict[str, Any]:
        return {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}

    @property
    def claims(self) -> dict[str, Any]:
        return {"sub": "mallory", "iat": self.now, "exp": self.now + 600}

    @property
    def jwk(self) -> dict[str, str]:
        return dict(self.public[self.kid].public)

    @property
    def key(self) -> Any:
        """The public half, as cryptography has it."""
        return self._private.public_key

    @property
    def real(self) -> Signer:
        """Signs with the ring's own private half: what no attacker has."""
        return signer_of(self._private.private_key, self.algorithm)

    @property
    def private(self) -> Any:
        return self._private.private_key

    @property
    def own(self) -> Signer:
        """Signs with a key of the attacker's own."""
        return signer_of(stranger(self.algorithm)._key.private_key, self.algorithm)

    @property
    def own_jwk(self) -> dict[str, str]:
        return dict(stranger(self.algorithm).public_jwk)

    def forged(self, header: Any = None, claims: Any = None, sign: Signer | None = None) -> str:
        """A token that the ring's own private half signed, unless `sign` says otherwise."""
        return compact(
            self.header if header is None else header,
            self.claims if claims is None else claims,
            sign or self.real,
        )


@cache
def victim(algorithm: str) -> Victim:
    return Victim(algorithm)


@cache
def stranger(algorithm: str) -> PrivateKey:
    """A key pair of the attacker's."""
    return PrivateKey.generate(algorithm)
