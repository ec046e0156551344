"""What signs and what verifies: the primitives of `cryptography`, and nothing around them. Pure.

joserfc has the same, and asks more of it each time than there is to ask of a key that is used in
one way only. `docs/adr/0017-a-token-is-checked-once.md` has more; it stays the yardstick, and a
switch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

if TYPE_CHECKING:
    from collections.abc import Callable

_RSA: Final = {
    "RS256": {"padding": PKCS1v15(), "algorithm": SHA256()},
    "RS384": {"padding": PKCS1v15(), "algorithm": SHA384()},
    "RS512": {"padding": PKCS1v15(), "algorithm": SHA512()},
    "PS256": {"padding": PSS(MGF1(SHA256()), SHA256.digest_size), "algorithm": SHA256()},
}
_EC: Final = {"ES256": ECDSA(SHA256()), "ES384": ECDSA(SHA384())}


def checking(algorithm: str, public: Any) -> Callable[[bytes, bytes], None]:
    """What takes a signature and what was signed, and raises unless `public` says that they fit.

    It raises `cryptography.exceptions.InvalidSignature`.
    """
    if algorithm in _RSA:
        return partial(public.verify, **_RSA[algorithm])
    if algorithm not in _EC:
        verify: Callable[[bytes, bytes], None] = public.verify
        return verify
    how = _EC[algorithm]

    def check(signature: bytes, message: bytes) -> None:
        half = len(signature) // 2
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        public.verify(encode_dss_signature(r, s), message, how)

    return check


def signing(algorithm: str, private: Any) -> Callable[[bytes], bytes]:
    """What signs by `private`; on an elliptic curve: r, then s (RFC 7518 section 3.4)."""
    if algorithm in _RSA:
        return partial(private.sign, **_RSA[algorithm])
    if algorithm not in _EC:
        plain: Callable[[bytes], bytes] = private.sign
        return plain
    how, half = _EC[algorithm], (private.key_size + 7) // 8

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(message, how))
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")

    return sign
