"""The forms in which operators keep keys: PEM, DER, PKCS #12, JWK and JWK Set.

What is read here is not judged yet, only loaded, private halves with OpenSSL's full check: none of
this is authenticated. No error quotes a file, not even its kids: of a file that is damaged or of
another form, anything may be part of a private key. Promise 4.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    pkcs12,
)
from joserfc.util import urlsafe_b64decode

from ringkeeper.errors import KeyUnusable
from ringkeeperd.key_strength import check_rsa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from ringkeeper.ring import KeyKind
    from ringkeeper.secret import Secret

_MOST_PRIVATE: Final = 6 * 1024
"""Bytes of a private key; 4096-bit RSA has 3.4 KiB. OpenSSL checks a longer one for minutes."""
_DAMAGED: Final = (
    "is a key that cannot be loaded: damaged, of a rare type, or of numbers that do not belong "
    "together; take it anew from where it was made"
)
_ENCRYPTED: Final = "is encrypted; give its passphrase with --passphrase-file"
_NOT_OPENED: Final = (
    "is not opened by this passphrase, or is damaged; give its own with --passphrase-file"
)
_CUT_SHORT: Final = "is PEM without its end; copy the file anew"
_LABEL: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_PRIVATE: Final = (
    b"PRIVATE KEY",
    b"ENCRYPTED PRIVATE KEY",
    b"RSA PRIVATE KEY",
    b"EC PRIVATE KEY",
)
_PUBLIC: Final = (b"PUBLIC KEY", b"RSA PUBLIC KEY")
_CERTIFICATE: Final = (b"CERTIFICATE", b"X509 CERTIFICATE")
_PASSED_OVER: Final = (b"EC PARAMETERS",)  # openssl ecparam writes them before the key
_PKCS12: Final = re.compile(
    rb"\x30(?:[\x00-\x7f]|\x81.|\x82..|\x83...|\x80)\x02\x01\x03", re.DOTALL
)
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_SIGNING: Final = {"sign", "verify"}
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
_RSA_PRIVATE: Final = ("p", "q", "dp", "dq", "qi")


class Candidate(NamedTuple):
    """A key as its source has it, loaded and not judged. Nothing of it is shown by a repr."""

    where: str
    """What to call it in an error: `line 3: `, or nothing where it is the only one."""
    private: Any
    """OpenSSL's, or None."""
    public: Any
    """OpenSSL's, as the source has it: whether it belongs to the private half is not known."""
    kid: str | None = None
    algorithm: str = ""
    kind: KeyKind | None = None
    made_at: datetime | None = None


class _Parts(NamedTuple):
    """What one file in PEM or PKCS #12 holds."""

    privates: list[tuple[str, Any]]
    publics: list[tuple[str, Any]]
    certificates: list[tuple[str, x509.Certificate]]


# --- DER and PKCS #12 ----------------------------------------------------------------------------


def from_der(data: bytes, passphrase: Secret | None) -> list[Candidate]:
    """The keys in DER: a key of any form, a certificate, or a PKCS #12 file.

    Raises:
        KeyUnusable: there is none that can be loaded.
    """
    if _PKCS12.match(data):
        return _from_pkcs12(data, passphrase)
    public = public_from_der(data)
    if public is not None:
        return [Candidate("", None, public)]
    private = private_from_der(data, passphrase)
    return [Candidate("", private, private.public_key())]


def _made_by(load: Callable[..., Any], *given: Any) -> Any:
    """What `load` makes of what is `given`; where it panics, a ValueError.

    cryptography panics over some files that are damaged just so (an initialization vector of a
    wrong length, say). What it raises then is no Exception, and of a class that nobody can import.
    """
    try:
        return load(*given)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("a file that the library gave up on") from None


def public_from_der(data: bytes) -> Any:
    """The public key of a SubjectPublicKeyInfo, PKCS #1 or certificate; None if it is neither."""
    try:
        return _made_by(load_der_public_key, data)
    except (ValueError, UnsupportedAlgorithm):
        pass
    try:
        return _made_by(x509.load_der_x509_certificate, data).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def private_from_der(data: bytes, passphrase: Secret | None = None) -> Any:
    """The private key of a PKCS #8 (encrypted or not), PKCS #1 or SEC 1.

    Raises:
        KeyUnusable: it cannot be loaded.
    """
    return _private(load_der_private_key, data, passphrase)


def _private(
    load: Callable[[bytes, bytes | None], Any], data: bytes, passphrase: Secret | None
) -> Any:
    if len(data) > _MOST_PRIVATE:
        raise KeyUnusable("is longer than a key of 4096 bits, which is the most for RSA here")
    try:
        return _made_by(load, data, None)
    except TypeError:
        pass  # it is encrypted
    except (ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(_DAMAGED) from None
    if passphrase is None:
        raise KeyUnusable(_ENCRYPTED)
    try:
        return _made_by(load, data, _octets(passphrase))
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(_NOT_OPENED) from None


def _from_pkcs12(data: bytes, passphrase: Secret | None) -> list[Candidate]:
    # None and an empty one are two ways of having no passphrase (RFC 7292 appendix B.1).
    tries = [None, b""] if passphrase is None else [_octets(passphrase), None, b""]
    for each in tries:
        try:
            opened = _made_by(pkcs12.load_pkcs12, data, each)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            continue
        held = [*([opened.cert] if opened.cert else []), *opened.additional_certs]
        return _sorted_out(
            _Parts(
                [("", opened.key)] if opened.key else [],
                [],
                [("a certificate in it ", each.certificate) for each in held],
            )
        )
    raise KeyUnusable(_ENCRYPTED if passphrase is None else _NOT_OPENED)


def _octets(passphrase: Secret) -> bytes:
    return passphrase.reveal().encode("utf-8", "surrogateescape")


# --- PEM -----------------------------------------------------------------------------------------


def from_pem(data: bytes, passphrase: Secret | None) -> list[Candidate]:
    """The keys in PEM (RFC 7468, and the older forms): each block one, whatever is around them.

    Raises:
        KeyUnusable: one of them cannot be loaded, or is no key.
    """
    blocks = [(label, block) for label, block in _blocks(data) if label not in _PASSED_OVER]
    parts = _Parts([], [], [])
    for number, (label, block) in enumerate(blocks, 1):
        where = f"block {number}: " if len(blocks) > 1 else ""
        try:
            _load_block(parts, where, label, block, passphrase)
        except KeyUnusable as error:
            raise KeyUnusable(f"{where}{error}") from None
    return _sorted_out(parts)


def _blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Each block with its label, in the order of the file."""
    blocks, at = [], 0
    while begin := _LABEL.search(data, at):
        mark = b"-----END " + begin[1] + b"-----"
        end = data.find(mark, begin.end())
        if end < 0:
            raise KeyUnusable(_CUT_SHORT)
        at = end + len(mark)
        blocks.append((begin[1], data[begin.start() : at] + b"\n"))
    return blocks


def _load_block(
    parts: _Parts, where: str, label: bytes, block: bytes, passphrase: Secret | None
) -> None:
    try:
        if label in _PRIVATE:
            parts.privates.append((where, _private(load_pem_private_key, block, passphrase)))
        elif label in _PUBLIC:
            parts.publics.append((where, _made_by(load_pem_public_key, block)))
        elif label in _CERTIFICATE:
            loaded = _made_by(x509.load_pem_x509_certificate, block)
            parts.certificates.append((where, loaded))
        elif label == b"OPENSSH PRIVATE KEY":
            raise KeyUnusable("is a key of OpenSSH; convert a copy: ssh-keygen -p -m PKCS8 -f COPY")
        else:
            raise KeyUnusable("is PEM of what is no key of a kind known here; leave it out")
    except (ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(_DAMAGED) from None


def _sorted_out(parts: _Parts) -> list[Candidate]:
    """A key each, where halves, certificates and the chain above them lie in one file."""
    found = [Candidate(where, key, key.public_key()) for where, key in parts.privates]
    owned = [candidate.public for candidate in found]
    for where, certificate in _leaves(parts.certificates):
        public = certificate.public_key()
        if parts.privates and public not in owned:
            raise KeyUnusable(
                f"{where}is a certificate of a key that is not here, an authority's perhaps; leave "
                "it out, or put it in a file of its own"
            )
        if not parts.privates:
            found.append(Candidate(where, None, public))
    found += [Candidate(where, None, key) for where, key in parts.publics if key not in owned]
    return found


def _leaves(certificates: Sequence[tuple[str, x509.Certificate]]) -> list[tuple[str, Any]]:
    """The certificates that issued no other one here: an authority's key signs no tokens."""
    try:
        return [
            (where, each)
            for where, each in certificates
            if not any(each.subject == o.issuer and each != o for _, o in certificates)
            and each.public_key() is not None
        ]
    except (ValueError, UnsupportedAlgorithm):  # names and keys are parsed only when asked for
        raise KeyUnusable(_DAMAGED) from None


# --- JWK -----------------------------------------------------------------------------------------


def from_jwks(members: Sequence[object]) -> list[Candidate]:
    """The keys of a JWK Set (RFC 7517), private or public.

    Raises:
        KeyUnusable: one of them cannot be loaded, or is none to sign with.
    """
    found = []
    for number, member in enumerate(members, 1):
        where = f"key {number}: " if len(members) > 1 else ""
        try:
            found.append(_from_jwk(member)._replace(where=where))
        except KeyUnusable as error:
            raise KeyUnusable(f"{where}{error}") from None
    return found


def _from_jwk(jwk: object) -> Candidate:
    if not isinstance(jwk, dict):
        raise KeyUnusable("is no JWK: not an object of JSON; take it out")
    kid, algorithm = jwk.get("kid"), jwk.get("alg", "")
    if not isinstance(kid, str | None) or not isinstance(algorithm, str):
        raise KeyUnusable("is a JWK whose kid or alg is no text (RFC 7517 section 4); mend it")
    _check_purpose(jwk)
    try:
        private, public = _halves(jwk)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyUnusable(_DAMAGED) from None
    return Candidate("", private, public, kid, algorithm)


def _check_purpose(jwk: Mapping[str, Any]) -> None:
    if jwk.get("use", "sig") != "sig":
        raise KeyUnusable('is a JWK whose use is not "sig": not for signing; leave it out')
    operations = jwk.get("key_ops")
    if operations is None:
        return
    # Whatever is in that list may be unhashable, and more than these two is a mistake of its maker.
    if not isinstance(operations, list) or not any(
        each in _SIGNING for each in map(str, operations)
    ):
        raise KeyUnusable("is a JWK whose key_ops neither sign nor verify; leave it out")


def _halves(jwk: Mapping[str, Any]) -> tuple[Any, Any]:
    """The private half, if there is one, and the public half that the JWK says is its own."""
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            return _rsa(jwk)
        case "EC", ("P-256" | "P-384") as curve:
            return _ec(jwk, _CURVES[curve])
        case "OKP", "Ed25519":
            private = Ed25519PrivateKey.from_private_bytes(_bytes(jwk, "d")) if "d" in jwk else None
            return private, Ed25519PublicKey.from_public_bytes(_bytes(jwk, "x"))
        case "oct", _:
            raise KeyUnusable(
                "is a symmetric key: who can verify with it can sign, too; use RSA, P-256, P-384 "
                "or Ed25519"
            )
        case _:
            raise KeyUnusable(
                "is a JWK of a type or curve not known here; use RSA, P-256, P-384 or Ed25519"
            )


def _rsa(jwk: Mapping[str, Any]) -> tuple[Any, Any]:
    n, e = _number(jwk, "n"), _number(jwk, "e")
    check_rsa(n, e)  # before OpenSSL looks for factors, which it does for hours if n is long
    public = rsa.RSAPublicNumbers(e, n)
    if "d" not in jwk:
        return None, public.public_key()
    if "oth" in jwk:
        raise KeyUnusable("is RSA of more than two primes, which few can read; use another key")
    d = _number(jwk, "d")
    if not 1 < d < n:
        raise ValueError("no exponent of this modulus")
    if any(name in jwk for name in _RSA_PRIVATE):
        p, q, dp, dq, qi = (_number(jwk, name) for name in _RSA_PRIVATE)
    else:  # RFC 7518 section 6.3.2 allows to leave all of them out
        p, q = rsa.rsa_recover_prime_factors(n, e, d)
        dp, dq, qi = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key(), public.public_key()


def _ec(jwk: Mapping[str, Any], curve: ec.EllipticCurve) -> tuple[Any, Any]:
    public = ec.EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), curve)
    if "d" not in jwk:
        return None, public.public_key()
    private = ec.EllipticCurvePrivateNumbers(_number(jwk, "d"), public)
    return private.private_key(), public.public_key()


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        raise ValueError("not base64url")
    return urlsafe_b64decode(value.rstrip("=").encode())


def _number(jwk: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_bytes(jwk, name))
