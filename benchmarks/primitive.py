"""What `cryptography` alone does with a key, which is what all others are compared with.

And `careful`: the least code that a careful program could write around it by hand, to see what of
a library's cost is its own choice.
"""

from __future__ import annotations

import json
import time
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks.claims import compact, stamped

if TYPE_CHECKING:
    from ringkeeper.algorithms import PrivateKey

_HOW: Final[dict[str, tuple[Any, ...]]] = {
    "RS256": (padding.PKCS1v15(), hashes.SHA256()),
    "PS256": (
        padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size),
        hashes.SHA256(),
    ),
    "ES256": (ec.ECDSA(hashes.SHA256()),),
    "EdDSA": (),
}
ALGORITHMS: Final = tuple(_HOW)
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_HALF: Final = 32
"""Bytes of each of the two numbers of an ES256 signature."""


class Primitive:
    """A key pair as `cryptography` holds it, and how its algorithm is called there."""

    def __init__(self, algorithm: str, kid: str, private: PrivateKey) -> None:
        self.algorithm = algorithm
        self.kid = kid
        self.pem = private.secret_pem()
        self.private: Any = load_pem_private_key(self.pem.encode(), None)
        self.public: Any = self.private.public_key()
        self.how = _HOW[algorithm]
        header = {"typ": "JWT", "alg": algorithm, "kid": kid}
        self._head = _encoded(compact(header).encode()) + b"."
        self._heads: set[bytes] = set()
        """Headers that were read before, and found to be right."""

    def to_verify(self, token: str) -> tuple[Any, ...]:
        """What `public.verify` takes for `token`."""
        message, _, signature = token.encode().rpartition(b".")
        return self._signature(_decoded(signature)), message, *self.how

    def to_sign(self, token: str) -> tuple[Any, ...]:
        """What `private.sign` takes, to sign again what `token` says."""
        return token.encode().rpartition(b".")[0], *self.how

    def careful_verify(self, token: str) -> dict[str, Any]:
        """The claims of `token`: its key, algorithm, signature and times are checked, no more."""
        message, _, signature = token.encode().rpartition(b".")
        head, _, body = message.partition(b".")
        if head not in self._heads:
            header = json.loads(_decoded(head))
            if header["kid"] != self.kid or header["alg"] != self.algorithm:
                raise ValueError("another key, or another algorithm")
            self._heads.add(head)
        self.public.verify(self._signature(_decoded(signature)), message, *self.how)
        claims: dict[str, Any] = json.loads(_decoded(body))
        now = time.time()
        if claims["exp"] <= now - 60 or claims["iat"] > now + 60:
            raise ValueError("not now")
        return claims

    def careful_sign(self, claims: dict[str, Any]) -> str:
        """A token with `claims`."""
        message = self._head + _encoded(compact(stamped(claims)).encode())
        signature: bytes = self.private.sign(message, *self.how)
        if self.algorithm == "ES256":
            numbers = decode_dss_signature(signature)
            signature = b"".join(number.to_bytes(_HALF, "big") for number in numbers)
        return (message + b"." + _encoded(signature)).decode()

    def _signature(self, raw: bytes) -> bytes:
        if self.algorithm != "ES256":
            return raw
        r, s = int.from_bytes(raw[:_HALF], "big"), int.from_bytes(raw[_HALF:], "big")
        return encode_dss_signature(r, s)


def _encoded(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False).translate(_TO_URL, b"=")


def _decoded(text: bytes) -> bytes:
    return a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4))
