"""Whether a key of unknown origin is fit to sign tokens, as far as its public half tells.

Keys that were made here are not asked: this is for those that an operator brings along. What is
wrong with a private half, OpenSSL finds when it is loaded.
"""

from __future__ import annotations

from math import gcd, isqrt, prod
from typing import Final

from cryptography.hazmat.primitives.asymmetric.dsa import DSAPublicKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x448 import X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ringkeeper.errors import KeyUnusable

PublicNative = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

LEAST_BITS: Final = 2048
MOST_BITS: Final = 4096
_EXPONENTS: Final = range(2**16 + 1, 2**256, 2)
"""FIPS 186-5 appendix A.1.1: odd, above 2^16, below 2^256."""
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384"}
_OTHERS: Final[tuple[tuple[type[object], str], ...]] = (
    (DSAPublicKey, "DSA"),
    (Ed448PublicKey, "Ed448"),
    (X448PublicKey, "X448"),
    (X25519PublicKey, "X25519"),
)
_USE: Final = "use RSA, P-256, P-384 or Ed25519"
_SMALL: Final = [n for n in range(2, 752) if all(n % d for d in range(2, isqrt(n) + 1))]
"""Primes that divide no modulus (SP 800-89 section 5.3.3)."""
_PRODUCT: Final = prod(_SMALL)
_STEPS: Final = 100
_FIELD: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _FIELD) % _FIELD  # RFC 8032 section 5.1


def fit_to_sign(public: object) -> PublicNative:
    """`public`, if it is of a type that rings know, and strong enough.

    Raises:
        KeyUnusable: it is not.
    """
    match public:
        case RSAPublicKey():
            numbers = public.public_numbers()
            check_rsa(numbers.n, numbers.e)
            return public
        case EllipticCurvePublicKey():
            # That the point is on its curve, OpenSSL has seen to.
            if public.curve.name in _CURVES:
                return public
            raise KeyUnusable(f"is a key on the curve {public.curve.name}; {_USE}")
        case Ed25519PublicKey():
            _check_ed25519(public.public_bytes_raw())
            return public
        case _:
            raise KeyUnusable(f"is {_named(public)}, which signs no tokens here; {_USE}")


def type_of(public: PublicNative) -> tuple[str, str | None]:
    """The `kty` and `crv` of its JWK."""
    match public:
        case RSAPublicKey():
            return "RSA", None
        case EllipticCurvePublicKey():
            return "EC", _CURVES[public.curve.name]
        case _:
            return "OKP", "Ed25519"


def check_rsa(n: int, e: int) -> None:
    """Whether an RSA key of modulus `n` and exponent `e` may sign.

    Raises:
        KeyUnusable: it may not.
    """
    bits = n.bit_length()
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise KeyUnusable(f"is RSA of {bits} bits; use one of {LEAST_BITS} to {MOST_BITS}")
    if e not in _EXPONENTS:
        raise KeyUnusable(
            "is RSA with an exponent that FIPS 186-5 does not allow (odd, above 65536, below "
            "2^256); make one with 65537"
        )
    if _is_factored(n):
        raise KeyUnusable("is RSA with a modulus that anyone can factor; replace this key")
    if _is_roca(n):
        raise KeyUnusable(
            "is RSA made by a chip with a defect (CVE-2017-15361), so it can be factored; "
            "replace this key"
        )


def _is_factored(n: int) -> bool:
    """Whether its factors are at hand: one small, none at all, both alike, or close together."""
    if gcd(n, _PRODUCT) > 1 or pow(2, n - 1, n) == 1:
        return True
    # Fermat's way, as in CVE-2022-26320: primes that were looked for near each other.
    first = isqrt(n - 1) + 1
    return any(isqrt(a * a - n) ** 2 == a * a - n for a in range(first, first + _STEPS))


def _powers(prime: int) -> frozenset[int]:
    return frozenset(pow(65537, exponent, prime) for exponent in range(prime - 1))


_ROCA: Final = {prime: _powers(prime) for prime in _SMALL if 2 < prime <= 167}  # noqa: PLR2004


def _is_roca(n: int) -> bool:
    """The fingerprint of CVE-2017-15361: `n` is a power of 65537 modulo each of these primes.

    Of sound keys, one in more than 100 million has it, too.
    """
    return all(n % prime in powers for prime, powers in _ROCA.items())


def _check_ed25519(raw: bytes) -> None:
    """Whether it is a point, and not one of those few under which anybody can sign anything."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if 1 < y < _FIELD and _is_on_curve(y) and not _is_of_small_order(y):
        return
    raise KeyUnusable("is Ed25519 with a public key that is no proper point; replace this key")


def _is_on_curve(y: int) -> bool:
    """Whether there is an x (RFC 8032 section 5.1.3): it is the root of this fraction."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _FIELD)
    return pow(square, (_FIELD - 1) // 2, _FIELD) == 1


def _is_of_small_order(y: int) -> bool:
    """OpenSSL tells, for the same point on X25519's form of the curve (RFC 7748 section 4.1)."""
    u = (1 + y) * pow(1 - y, -1, _FIELD) % _FIELD
    point = X25519PublicKey.from_public_bytes(u.to_bytes(32, "little"))
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(point)
    except ValueError:
        return True
    return False


def _named(public: object) -> str:
    return next(
        (f"a key for {name}" for kind, name in _OTHERS if isinstance(public, kind)),
        "a key of a rare type",
    )
