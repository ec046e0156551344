"""The KEK seals private keys, so that Redis never sees one. Promise 4.

A sealed key is a compact JWE of its private JWK, `dir` with A256GCM (RFC 7517 section 7). The
ciphertext alone does not say whose it is: an attacker who writes to Redis may swap two blobs. What
binds a blob to its kid and its ring is the public key in the signed snapshot, which the opened
key must match.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from joserfc import jwe
from joserfc.jwk import OctKey
from joserfc.util import urlsafe_b64decode

from ringkeeper.algorithms import PrivateKey
from ringkeeper.errors import SealBroken, SecretError
from ringkeeper.jwk_set import SecretJwkSet

if TYPE_CHECKING:
    from ringkeeper.ring import Key

MAX_SEALED: Final = 16 * 1024
"""Bytes of a sealed key; one of 4096-bit RSA has 4.5 KiB."""
_ALGORITHMS: Final = ["dir", "A256GCM"]
_HEADER: Final = {"alg": "dir", "enc": "A256GCM", "cty": "jwk+json"}
_BITS: Final = 256


class Kek(SecretJwkSet[OctKey]):
    """The key-encryption keys of a process: one seals, all of them open."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> Kek:
        """A fresh random KEK of 256 bits."""
        key = OctKey.generate_key(_BITS)
        return cls({_kid(key): key})

    @classmethod
    def _import(cls, jwk: object) -> tuple[str, OctKey]:
        return _import(jwk)

    def secret_jwk(self) -> dict[str, Any]:
        """Their JWK, or JWK Set, in the clear, for `kek.jwk` alone."""
        return self._as_jwk(_secret_member)

    def seal(self, private: PrivateKey) -> str:
        """`private` as a compact JWE.

        Raises:
            SealBroken: it cannot be encrypted, for no reason that anybody thought of.
        """
        sealed = self._sealed(private)
        if isinstance(sealed, SealBroken):
            # Raised where the plaintext is no local: error reporters ship those of all frames.
            raise sealed
        return sealed

    def _sealed(self, private: PrivateKey) -> str | SealBroken:
        """`private` as a compact JWE, or why not; no plaintext leaves this frame."""
        try:
            header = {**_HEADER, "kid": self.kid}
            body = json.dumps(private.secret_jwk(), separators=(",", ":")).encode()
            return jwe.encrypt_compact(header, body, self._keys[self.kid], algorithms=_ALGORITHMS)
        except Exception as error:  # noqa: BLE001 - whatever it is, its traceback holds the plaintext
            return SealBroken(f"a fresh key cannot be sealed: {type(error).__name__}; try again")

    def unseal(self, sealed: str, key: Key) -> PrivateKey:
        """The private half of `key`, opened, matched and tried once.

        Raises:
            SealBroken: sealed by another KEK, tampered with, or some other key's.
        """
        opened = self._opened(sealed, self._opener(sealed, key.kid), key)
        if isinstance(opened, SealBroken):
            # Raised where nothing opened is a local: error reporters ship those of all frames.
            raise opened
        return opened

    def _opened(self, sealed: str, by: OctKey, key: Key) -> PrivateKey | SealBroken:
        """The private half of `key`, or why there is none; no plaintext leaves this frame."""
        try:
            plaintext = jwe.decrypt_compact(sealed, by, algorithms=_ALGORITHMS).plaintext
            private = PrivateKey.from_secret_jwk(json.loads(plaintext or b""), key.algorithm)
            if private.public_jwk != key.public:
                return SealBroken(f"the sealed key under {key.kid} is some other key's; restore it")
            if private.public.verifies(private.signed(".")):
                return private
        except SealBroken as error:
            return SealBroken(f"the sealed key under {key.kid}: {error}")
        except Exception:  # noqa: BLE001 - whatever it is, its traceback holds the plaintext
            return SealBroken(
                f"the sealed key under {key.kid} does not open: damaged or forged; restore it"
            )
        return SealBroken(f"the sealed key under {key.kid} does not sign for its public half")

    def _opener(self, sealed: str, kid: str) -> OctKey:
        """The KEK that sealed it."""
        if len(sealed) > MAX_SEALED or not sealed.isascii():
            raise SealBroken(f"what is stored under {kid} is no sealed key; restore it")
        by = kek_of(sealed)
        if by is None:
            raise SealBroken(f"what is stored under {kid} is no sealed key; restore it")
        if by not in self._keys:
            raise SealBroken(
                f"{kid} was sealed by the KEK {by[:64]!r}; this process has "
                f"{', '.join(self._keys)}; give it the right KEK file"
            )
        return self._keys[by]


def kek_of(sealed: str) -> str | None:
    """The id of the KEK that a sealed key says it was sealed by; None if that is no sealed key."""
    try:
        header = json.loads(urlsafe_b64decode(sealed.split(".", 1)[0].encode()))
        by = header.pop("kid")
        known = header == _HEADER
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    # Exactly what `seal` writes: what else may stand in a header is none of ours to judge.
    return by if known and isinstance(by, str) else None


def _secret_member(kid: str, key: OctKey) -> dict[str, Any]:
    secret = key.as_dict(private=True)["k"]
    return {"kty": "oct", "k": secret, "kid": kid, "alg": "A256GCM", "use": "enc"}


def _import(jwk: object) -> tuple[str, OctKey]:
    if not isinstance(jwk, dict) or jwk.get("kty") != "oct" or not isinstance(jwk.get("k"), str):
        raise SecretError("a KEK is a symmetric JWK (kty oct)")
    try:
        raw = urlsafe_b64decode(jwk["k"].encode())
    except ValueError:
        raise SecretError("a KEK whose k is not base64url") from None
    if len(raw) * 8 != _BITS:
        raise SecretError(f"a KEK of {len(raw) * 8} bits; it must have {_BITS}")
    key = OctKey.import_key({"kty": "oct", "k": jwk["k"]})
    kid = jwk.get("kid")
    return (kid if isinstance(kid, str) and kid else _kid(key)), key


def _kid(key: OctKey) -> str:
    """A name that tells KEKs apart and nothing about them: half of a hash of 256 random bits."""
    digest = hashlib.sha256(b"ringkeeper kek\0" + key.raw_value).digest()
    return "kek-" + base64.urlsafe_b64encode(digest[:12]).decode()
