"""Keys as others make and keep them: what an operator may bring along."""

from __future__ import annotations

import base64
import csv
import io
import json
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from joserfc.jwk import ECKey, OKPKey, RSAKey

PASSPHRASE = "correct horse"
_PLAIN = serialization.NoEncryption()
_LOCKED = serialization.BestAvailableEncryption(PASSPHRASE.encode())
_KEPT: dict[str, Any] = {"kid": "k1", "use": "sig"}


@cache
def made(algorithm: str, number: int = 0) -> Any:
    """OpenSSL's private key for `algorithm`; the same one for the same `number`.

    RSA of more than 2048 bits, which takes a second to make, is called for by its size.
    """
    del number  # it is only what tells one from another
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            return ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "RSA-3072" | "RSA-4096":
            return rsa.generate_private_key(65537, int(algorithm[-4:]))
        case _:
            return rsa.generate_private_key(65537, 2048)


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, lock: Any = _PLAIN) -> bytes:
    """A private key in PEM."""
    octets: bytes = key.private_bytes(Encoding.PEM, form, lock)
    return octets


def public_pem(key: Any) -> bytes:
    """The public half as SubjectPublicKeyInfo in PEM."""
    octets: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return octets


def certificate(key: Any) -> x509.Certificate:
    """A certificate of its own."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 7, start, start + timedelta(days=9999)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_edwards = isinstance(key, ed25519.Ed25519PrivateKey)
        return builder.sign(key, None if is_edwards else hashes.SHA256())


def jwk(key: Any, *, private: bool = True, **members: Any) -> dict[str, Any]:
    """A JWK, with these members besides."""
    kinds: dict[type, Any] = {
        rsa.RSAPrivateKey: RSAKey,
        ec.EllipticCurvePrivateKey: ECKey,
        ed25519.Ed25519PrivateKey: OKPKey,
    }
    kind = next(kind for native, kind in kinds.items() if isinstance(key, native))
    whole: dict[str, Any] = kind.import_key(key).as_dict(private=private)
    whole.pop("kid", None)
    return {**whole, **members}


def in_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def pkcs12(key: Any, lock: Any = _PLAIN) -> bytes:
    return serialize_key_and_certificates(b"issuer", key, certificate(key), None, lock)


PRIVATE_FORMS: dict[str, Callable[[Any], bytes]] = {
    "PKCS #8": pem,
    "PKCS #8, encrypted": lambda key: pem(key, lock=_LOCKED),
    "DER": lambda key: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, _PLAIN),
    "DER, encrypted": lambda key: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, _LOCKED),
    "PKCS #12": pkcs12,
    "PKCS #12, encrypted": lambda key: pkcs12(key, _LOCKED),
    "PEM with its public half": lambda key: pem(key) + public_pem(key),
    "PEM with its certificate": lambda key: certificate(key).public_bytes(Encoding.PEM) + pem(key),
    "PEM amid words": lambda key: b"Bag Attributes\n  friendlyName: x\n" + pem(key) + b"so long\n",
    "JWK": lambda key: in_json(jwk(key, **_KEPT)),
    "JWK Set": lambda key: in_json({"keys": [jwk(key, **_KEPT)]}),
    "array of JWKs": lambda key: in_json([jwk(key, **_KEPT)]),
    "JWK, indented, with a byte order mark": lambda key: (
        b"\xef\xbb\xbf" + json.dumps(jwk(key, **_KEPT), indent=2).encode()
    ),
}
"""Private keys of any algorithm."""

OLDER_FORMS: dict[str, Callable[[Any], bytes]] = {
    "traditional": lambda key: pem(key, PrivateFormat.TraditionalOpenSSL),
    "traditional, encrypted": lambda key: pem(key, PrivateFormat.TraditionalOpenSSL, _LOCKED),
    "traditional DER": lambda key: key.private_bytes(
        Encoding.DER, PrivateFormat.TraditionalOpenSSL, _PLAIN
    ),
}
"""PKCS #1 and SEC 1: of RSA and curves of NIST alone."""

PUBLIC_FORMS: dict[str, Callable[[Any], bytes]] = {
    "public PEM": public_pem,
    "public DER": lambda key: key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ),
    "certificate": lambda key: certificate(key).public_bytes(Encoding.PEM),
    "certificate, DER": lambda key: certificate(key).public_bytes(Encoding.DER),
    "public JWK": lambda key: in_json(jwk(key, private=False, **_KEPT)),
    "public JWK Set": lambda key: in_json({"keys": [jwk(key, private=False, **_KEPT)]}),
}


# --- SuperTokens ---------------------------------------------------------------------------------


class DynamicRow(NamedTuple):
    """A row of `session_access_token_signing_keys`."""

    app_id: str
    created_at_time: int
    value: str


class StaticRow(NamedTuple):
    """A row of `jwt_signing_keys`."""

    app_id: str
    key_id: str
    key_string: str
    algorithm: str
    created_at: int


def halves(key: Any, separator: str = "|") -> str:
    """A key pair as SuperTokens writes it: both halves in base64."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, _PLAIN)
    return separator.join(base64.b64encode(half).decode() for half in (public, private))


def as_csv(rows: Iterable[Any]) -> bytes:
    """As `psql --csv` prints a table."""
    return _table(rows, ",")


def as_tsv(rows: Iterable[Any]) -> bytes:
    """As `mysql --batch` prints a table."""
    return _table(rows, "\t")


def _table(rows: Iterable[Any], delimiter: str) -> bytes:
    shown = list(rows)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(shown[0]._fields)
    writer.writerows(shown)
    return text.getvalue().encode()


def as_json(rows: Iterable[Any]) -> bytes:
    """As `json_agg` of PostgreSQL and `JSON_ARRAYAGG` of MySQL make it."""
    return in_json([row._asdict() for row in rows])


def as_lines(rows: Iterable[Any]) -> bytes:
    """As `row_to_json` of PostgreSQL makes it, a row a line."""
    return b"".join(in_json(row._asdict()) + b"\n" for row in rows)


TABLE_FORMS: dict[str, Callable[[Iterable[Any]], bytes]] = {
    "CSV": as_csv,
    "TSV": as_tsv,
    "JSON": as_json,
    "lines of JSON": as_lines,
    "CSV, all in quotes": lambda rows: as_csv(rows).replace(b"public", b'"public"'),
    "CSV, as Windows has it": lambda rows: as_csv(rows).replace(b"\n", b"\r\n"),
}


class Issuer:
    """One that signs access tokens as SuperTokens does, with keys in its table."""

    def __init__(self, *ages: timedelta, now: datetime) -> None:
        """With a dynamic key of each of these ages."""
        self.now = now
        self.keys: dict[str, Any] = {}
        self.rows: list[DynamicRow] = []
        for age in ages:
            self.turn(now - age)

    def turn(self, at: datetime) -> str:
        """A fresh key that signs from now on; its kid."""
        made_at = int(at.timestamp() * 1000)
        key = rsa.generate_private_key(65537, 2048)
        self.rows.append(DynamicRow("public", made_at, halves(key)))
        self.keys[f"d-{made_at}"] = key
        return f"d-{made_at}"

    def sign(self, kid: str = "", *, lifetime: timedelta = timedelta(hours=1)) -> str:
        """A token as its SDKs read it, by that key or the newest."""
        kid = kid or list(self.keys)[-1]
        now = int(self.now.timestamp())
        claims = {
            "sub": "alice",
            "iat": now,
            "exp": now + int(lifetime.total_seconds()),
            "sessionHandle": "b1f0",
            "refreshTokenHash1": "5f2c",
            "parentRefreshTokenHash1": None,
            "antiCsrfToken": None,
            "tId": "public",
            "rsub": "alice",
        }
        headers = {"kid": kid, "typ": "JWT", "version": "5"}
        return jwt.encode(claims, self.keys[kid], algorithm="RS256", headers=headers)


def put(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """`data` in a file that is as closed as one of private keys has to be."""
    path.write_bytes(data)
    path.chmod(mode)
    return path
