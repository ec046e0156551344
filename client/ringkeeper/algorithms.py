"""Signature algorithms, and the keys that sign and verify with them.

A key is made for one algorithm and is never used with another: the algorithm is taken from the
trusted ring, not from the token (RFC 8725 section 3.1).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateNumbers, RSAPublicNumbers
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.util import base64_to_int

from ringkeeper.compact import base64url, octets_in
from ringkeeper.errors import MalformedDocument, SealBroken, UnsupportedAlgorithm
from ringkeeper.signatures import checking, signing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

JoseKey = RSAKey | ECKey | OKPKey

PublicJwk = tuple[tuple[str, str], ...]
"""The members of a public JWK that make up the key itself (RFC 7638), as sorted pairs."""

RSA_BITS: Final = 2048
"""The size of RSA keys unless told otherwise."""
RSA_SIZES: Final = (2048, 3072, 4096)
"""The sizes that fresh RSA keys may have; existing ones may have any size between."""
_LEAST_RSA_BITS: Final = min(RSA_SIZES)
_MOST_RSA_BITS: Final = max(RSA_SIZES)
_KID_LENGTH: Final = 22  # of 43 thumbprint characters: 132 bits, as unguessable as a UUID
_OWN_KID: Final = re.compile(r"[ds]-[A-Za-z0-9_-]{22}")
LONGEST_KID: Final = 64
"""Characters of a kid that another issuer gave its key."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One JWS algorithm (RFC 7518 section 3, RFC 8037) and the keys that it takes."""

    name: str
    kty: str
    curve: str | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """The public members of its JWK, the ones that its thumbprint covers."""
        return {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}.get(
            self.kty, ("crv", "kty", "x")
        )


ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            Algorithm("RS256", "RSA"),
            Algorithm("RS384", "RSA"),
            Algorithm("RS512", "RSA"),
            Algorithm("PS256", "RSA"),
            Algorithm("ES256", "EC", "P-256"),
            Algorithm("ES384", "EC", "P-384"),
            Algorithm("EdDSA", "OKP", "Ed25519"),
        )
    }
)
"""What a ring may sign with. EdDSA here is Ed25519 alone, the curve that verifiers know."""


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises:
        UnsupportedAlgorithm: not one that ringkeeper offers.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise UnsupportedAlgorithm(
            f"algorithm {name!r} is not offered; use one of {', '.join(ALGORITHMS)}"
        ) from None


class PublicKey:
    """The half that verifies, loaded once and used for many tokens."""

    __slots__ = ("_check", "_key", "_signature_length", "algorithm", "jwk")

    def __init__(self, jwk: PublicJwk, algorithm: str) -> None:
        """Load `jwk` for use with `algorithm` alone.

        Raises:
            MalformedDocument: not a public key of that algorithm.
        """
        self.algorithm: Algorithm = algorithm_named(algorithm)
        self.jwk: PublicJwk = jwk
        self._key = _import(dict(jwk), self.algorithm, MalformedDocument)
        self._check = checking(algorithm, self._key.public_key)
        self._signature_length = (4 * _signature_bytes(self._key) + 2) // 3

    def verifies(self, token: str) -> bool:
        """Whether this key signed the compact JWS `token`, with its own algorithm.

        What the token's header says is for the caller to read.
        """
        message, _, signature = token.rpartition(".")
        if len(signature) != self._signature_length:  # see `fits`
            return False
        try:
            self._check(octets_in(signature), message.encode())
        except (InvalidSignature, ValueError):
            return False
        return True

    def fits(self, token: str) -> bool:
        """Whether its signature is as long as each of this key's.

        OpenSSL takes a PSS signature without its leading zeros, too (RFC 8017 section 8.1.2 does
        not): one in 256 could be shortened by whoever sees it, and would be as good.
        """
        return len(token) - token.rfind(".") - 1 == self._signature_length

    @property
    def jose(self) -> JoseKey:
        """As joserfc has it."""
        return self._key

    def __repr__(self) -> str:
        return f"<PublicKey {self.algorithm.name} {thumbprint(self)}>"


class PrivateKey:
    """The half that signs. It shows itself to nobody: no repr, pickle, copy or dict of it.

    Promise 4: the only ways out of this class are `secret_jwk`, for sealing, and for the files
    that an operator asked for, `secret_pem` too: names that are easy to search for.
    """

    __slots__ = ("_key", "_sign", "algorithm")

    def __init__(self, key: JoseKey, algorithm: Algorithm) -> None:
        self._key = key
        self._sign = signing(algorithm.name, key.private_key)
        self.algorithm: Algorithm = algorithm

    @classmethod
    def generate(cls, algorithm: str, bits: int = RSA_BITS) -> PrivateKey:
        """A fresh random key, of `bits` if it is one for RSA.

        RSA takes a tenth of a second, or seconds for the largest: call it off the event loop.
        """
        chosen = algorithm_named(algorithm)
        match chosen.kty:
            case "RSA":
                return cls(RSAKey.generate_key(bits), chosen)
            case "EC":
                return cls(ECKey.generate_key(chosen.curve), chosen)
            case _:
                return cls(OKPKey.generate_key("Ed25519"), chosen)

    @classmethod
    def from_secret_jwk(cls, jwk: Mapping[str, Any], algorithm: str) -> PrivateKey:
        """The key that an unsealed private JWK holds; the seal has vouched for its origin.

        Raises:
            SealBroken: not a private key of that algorithm. The message never quotes it.
        """
        chosen = algorithm_named(algorithm)
        loaded = _loaded(jwk, chosen)
        # Raised where the JWK is no local any more: error reporters ship those of all frames.
        del jwk
        if isinstance(loaded, SealBroken):
            raise loaded
        return cls(loaded, chosen)

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self.public_jwk, self.algorithm.name)

    @property
    def public_jwk(self) -> PublicJwk:
        """The members of its public half, sorted."""
        return _public_members(self._key, self.algorithm)

    def signed(self, message: str) -> str:
        """The compact JWS of `message`: header and payload, which names this key's algorithm."""
        return f"{message}.{base64url(self._sign(message.encode()))}"

    def secret_jwk(self) -> dict[str, Any]:
        """The whole private JWK, in the clear: for sealing, and for a file that was asked for."""
        return {
            name: value
            for name, value in self._key.as_dict(private=True).items()
            if name not in ("kid", "use", "key_ops", "alg")
        }

    def secret_pem(self) -> str:
        """The private key as PKCS #8 in PEM (RFC 5958), in the clear: for such a file only."""
        return self._key.as_pem(private=True).decode()

    def __repr__(self) -> str:
        return f"<PrivateKey {self.algorithm.name}, secret>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key is neither pickled nor copied; seal it instead")

    def __copy__(self) -> NoReturn:
        raise TypeError("a private key is neither pickled nor copied; seal it instead")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a private key is neither pickled nor copied; seal it instead")


def thumbprint(key: PublicKey) -> str:
    """Its RFC 7638 thumbprint: SHA-256, base64url, 43 characters."""
    return thumbprint_of(key.jwk)


def thumbprint_of(jwk: PublicJwk) -> str:
    """The RFC 7638 thumbprint of a public JWK's members."""
    canonical = json.dumps(dict(sorted(jwk)), separators=(",", ":"), sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def modulus_bits(jwk: PublicJwk) -> int:
    """The size of an RSA key; 0 for any other."""
    modulus = dict(jwk).get("n")
    return base64_to_int(modulus).bit_length() if modulus else 0


def is_own_kid(kid: str) -> bool:
    """Whether it looks like one that `kid_of` gave: then it is to be the key's thumbprint."""
    return _OWN_KID.fullmatch(kid) is not None


def kid_of(jwk: PublicJwk, *, prefix: str) -> str:
    """`d-` or `s-` and the first 22 characters of the thumbprint.

    The prefixes are SuperTokens' own, so its SDKs read our JWKS as it is.
    """
    return f"{prefix}-{thumbprint_of(jwk)[:_KID_LENGTH]}"


def _signature_bytes(key: JoseKey) -> int:
    """How long every signature of `key` is (RFC 8017 section 8, RFC 7518 section 3.4, RFC 8032)."""
    match key:
        case RSAKey():
            return (key.public_key.key_size + 7) // 8
        case ECKey():
            return 2 * ((key.curve_key_size + 7) // 8)
        case _:
            return 64


def _public_members(key: JoseKey, algorithm: Algorithm) -> PublicJwk:
    jwk = key.as_dict(private=False)
    return tuple((name, str(jwk[name])) for name in algorithm.members)


def _loaded(jwk: Mapping[str, Any], algorithm: Algorithm) -> JoseKey | SealBroken:
    """The private key that `jwk` holds, or why there is none; its numbers stay in this frame."""
    try:
        key = _import(dict(jwk), algorithm, SealBroken)
    except SealBroken as error:
        return SealBroken(str(error))
    if key.is_private:
        return key
    return SealBroken(f"not the private half of a {algorithm.name} key; seal it anew")


def _import(
    jwk: dict[str, Any], algorithm: Algorithm, error: type[MalformedDocument | SealBroken]
) -> JoseKey:
    """`jwk` as a loaded key; `error`, without quoting it, if it is none of `algorithm`'s."""
    refusal = error(f"not a usable {algorithm.name} key")
    if jwk.get("kty") != algorithm.kty or jwk.get("crv") != algorithm.curve:
        raise refusal
    if not all(isinstance(value, str) for value in jwk.values()):
        raise refusal
    key: JoseKey
    try:
        match algorithm.kty:
            case "RSA":
                key = RSAKey.import_key(_rsa_private(jwk) if "d" in jwk else jwk)
                bits = key.public_key.key_size
                if not _LEAST_RSA_BITS <= bits <= _MOST_RSA_BITS:
                    raise refusal
            case "EC":
                key = ECKey.import_key(jwk)
            case _:
                key = OKPKey.import_key(jwk)
        # Loading is lazy: ask for the halves now, so that a bad key fails here and not at 3 a.m.
        _ = key.public_key, key.private_key
    except (JoseError, ValueError, TypeError, KeyError):
        raise refusal from None
    return key


def _rsa_private(jwk: Mapping[str, str]) -> RSAPrivateKey:
    """`jwk` loaded without OpenSSL's search for factors of its primes, which takes 25 ms and more.

    That search is for keys of unknown origin; these come out of a seal that only holders of the
    KEK can make. That its numbers belong together is still checked here, and unsealing tries it.
    """
    n, e, d, p, q, dp, dq, qi = (
        base64_to_int(jwk[name]) for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi")
    )
    odd = n & e & p & q & 1
    if not odd or not 1 < q < n or p * q != n or not 1 < d < n or qi * q % p != 1:
        raise ValueError("numbers that do not belong together")
    if (dp, dq) != (d % (p - 1), d % (q - 1)) or {e * dp % (p - 1), e * dq % (q - 1)} != {1}:
        raise ValueError("exponents that do not belong together")
    numbers = RSAPrivateNumbers(p, q, d, dp, dq, qi, RSAPublicNumbers(e, n))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)
