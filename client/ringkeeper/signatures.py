"""What signs and what verifies: the primitives of `cryptography`, and nothing around them. Pure.

joserfc has the same, and asks more of it each time than there is to ask of a key that is used in
one way only. `docs/adr/0017-a-token-is-checked-once.md` has more; it stays the yardstick, and a
switch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

if TYPE_CHECKING:
    from collections.abc import Callable

_RSA: Final = {
    "RS256": (PKCS1v15(), SHA256()),
    "RS384": (PKCS1v15(), SHA384()),
    "RS512": (PKCS1v15(), SHA512()),
    "PS256": (PSS(MGF1(SHA256()), SHA256.digest_size), SHA256()),
}
_EC: Final = {"ES256": ECDSA(SHA256()), "ES384": ECDSA(SHA384())}


def checking(algorithm: str, public: Any) -> Callable[[bytes, bytes], None]:
    """What takes a signature and what was signed, and raises unless `public` says that they fit.

    It raises `cryptography.exceptions.InvalidSignature`.
    """
    verify: Callable[..., None] = public.verify
    # By position: OpenSSL's binding takes a hundredth of an RSA signature longer to read names.
    if algorithm in _RSA:
        padding, digest = _RSA[algorithm]
        return lambda signature, message: verify(signature, message, padding, digest)
    if algorithm in _EC:
        how = _EC[algorithm]
        return lambda signature, message: verify(der_of(signature), message, how)
    return verify


def signing(algorithm: str, private: Any) -> Callable[[bytes], bytes]:
    """What signs by `private`; on an elliptic curve: r, then s (RFC 7518 section 3.4)."""
    sign: Callable[..., bytes] = private.sign
    if algorithm in _RSA:
        padding, digest = _RSA[algorithm]
        return lambda message: sign(message, padding, digest)
    if algorithm in _EC:
        how, half = _EC[algorithm], (private.key_size + 7) // 8
        return lambda message: _pair_in(sign(message, how), half)
    return sign


# What OpenSSL has instead is a SEQUENCE of two INTEGERs (RFC 3279 section 2.2.3). cryptography
# converts it by way of two Python integers, which takes three times as long. On the curves here,
# of 384 bits at the most, each length fits into one octet.


def der_of(pair: bytes) -> bytes:
    """The DER of a signature that is r, then s, each half of it."""
    half = len(pair) // 2
    r, s = _integer(pair[:half]), _integer(pair[half:])
    return b"\x30%c\x02%c%b\x02%c%b" % (len(r) + len(s) + 4, len(r), r, len(s), s)


_LARGEST: Final = 0x7F
"""The first octet of a number that is not negative (two's complement)."""


def _integer(octets: bytes) -> bytes:
    """No zeros in front but the one that keeps it from being negative, or is all there is."""
    octets = octets.lstrip(b"\0")
    return octets if octets and octets[0] <= _LARGEST else b"\0" + octets


def _pair_in(der: bytes, half: int) -> bytes:
    """As `der_of` has it, out of what OpenSSL made."""
    middle = 4 + der[3]
    r, s = der[4:middle], der[middle + 2 :]
    return r[-half:].rjust(half, b"\0") + s[-half:].rjust(half, b"\0")
