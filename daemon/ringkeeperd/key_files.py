"""Keys that operators bring along: read from a file, judged, and handed on as values.

Whatever comes in, what comes out is a key that a ring can take, or one line that says why not.
Nothing that a file holds is quoted there: of a damaged one, anything may be part of a private key.
Promise 4.
"""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from joserfc.jwk import ECKey, OKPKey, RSAKey

from ringkeeper.algorithms import (
    ALGORITHMS,
    PrivateKey,
    PublicKey,
    algorithm_named,
    is_own_kid,
    kid_of,
    thumbprint_of,
)
from ringkeeper.errors import KeyUnusable, MalformedDocument, SecretError
from ringkeeper.ring import KeyKind
from ringkeeper.secret_files import check_mode
from ringkeeperd.key_formats import Candidate, from_der, from_jwks, from_pem
from ringkeeperd.key_strength import fit_to_sign, type_of
from ringkeeperd.kids import NEW_KID, is_new_kid
from ringkeeperd.supertokens_rows import from_rows, is_table, rows_of_json, rows_of_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from ringkeeper.algorithms import Algorithm, JoseKey, PublicJwk
    from ringkeeper.ring import Key
    from ringkeeper.secret import Secret
    from ringkeeperd.key_strength import PublicNative

_LIMIT: Final = 256 * 1024
_DER: Final = b"0"  # the tag of a SEQUENCE
_DEFAULTS: Final = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("OKP", "Ed25519"): "EdDSA",
}
_DYNAMIC: Final = KeyKind.DYNAMIC.prefix
_FOREIGN: Final = KeyKind.FOREIGN.prefix
_OTHER_NAMES: Final = {"Ed25519": "EdDSA"}  # RFC 9864
_NO_KEY: Final = (
    "holds no key that is known here: PEM, DER, PKCS #12, JWK, JWK Set, or SuperTokens' rows as "
    "CSV or JSON (docs/import.md); is this the right file?"
)


class FoundKey(NamedTuple):
    """A key that was found fit to verify tokens, and to sign them where it has a private half."""

    kid: str
    kind: KeyKind | None
    """Where the source says so."""
    algorithm: str
    public: PublicJwk
    private: PrivateKey | None
    """None: there is only the public half."""
    made_at: datetime | None
    """Where the source says so."""
    is_named: bool = True
    """Whether the source or the operator says its kid; else no token names that one yet."""


class _Asked(NamedTuple):
    """What the operator said about the file."""

    algorithm: str
    kid: str
    passphrase: Secret | None
    prefix: str
    app: str


def read_keys(
    path: Path,
    *,
    algorithm: str = "",
    kid: str = "",
    passphrase: Secret | None = None,
    prefix: str = "s",
    app: str = "",
) -> tuple[FoundKey, ...]:
    """The keys in the file `path`, in its order. It takes a second or so for many RSA keys.

    Args:
        path: PEM, DER, PKCS #12, JWK, JWK Set, or rows of SuperTokens' tables.
        algorithm: what they sign with, where the file does not say.
        kid: of several keys the one to take, or the name of one that has none in the file.
        passphrase: what opens an encrypted file; for others it does not matter.
        prefix: what the kid starts with, where the file has none; if empty, that of a dynamic key
            or, without a private half, of a foreign one.
        app: whose rows of SuperTokens' to take; the only app's, else `public`.

    Raises:
        KeyUnusable: one of them cannot be used, and so none is.
        UnsupportedAlgorithm: `algorithm` is not one that ringkeeper offers.
    """
    if algorithm:
        algorithm_named(algorithm)
    found = _read(path, _Asked(algorithm, kid, passphrase, prefix, app))
    if isinstance(found, KeyUnusable):
        # Raised where nothing read is a local: error reporters ship those of all frames.
        raise found
    return found


def write_public(key: Key, form: Literal["pem", "jwk"]) -> str:
    """The public key for those who hardcode it: SubjectPublicKeyInfo in PEM, or a JWK."""
    jwk = dict(key.public)
    if form == "pem":
        kty = ALGORITHMS[key.algorithm].kty
        return _jose(kty, jwk).as_pem(private=False).decode()
    return json.dumps({**jwk, "kid": key.kid, "alg": key.algorithm, "use": "sig"}, indent=2) + "\n"


def _read(path: Path, asked: _Asked) -> tuple[FoundKey, ...] | KeyUnusable:
    """The keys, or why there are none: what the file holds does not leave this frame."""
    try:
        data, mode = _bytes(path)
        with warnings.catch_warnings():
            # OpenSSL's binding warns of odd certificates; we judge the key alone.
            warnings.simplefilter("ignore")
            candidates = _candidates(data, asked)
            is_secret = any(each.private is not None for each in candidates)
            check_mode(path, "private key" if is_secret else "key", mode, is_secret=is_secret)
            found = tuple(_judged(each, asked) for each in _chosen(candidates, asked.kid))
        _check_differ(found)
    except KeyUnusable as error:
        return KeyUnusable(f"{path}: {error}")
    except SecretError as error:
        return KeyUnusable(str(error))  # it names the file
    except Exception as error:  # noqa: BLE001 - whatever it is, its traceback holds private keys
        return KeyUnusable(
            f"{path}: cannot be read as keys ({type(error).__name__}); is this the right file?"
        )
    return found


def _bytes(path: Path) -> tuple[bytes, int]:
    """What the file holds, and its mode."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LIMIT + 1)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise KeyUnusable(
            f"cannot be read ({why}); name the right file, and let this user read it"
        ) from None
    if len(data) > _LIMIT:
        raise KeyUnusable(f"is larger than {_LIMIT // 1024} KiB; is this the right file?")
    if not data.strip():
        raise KeyUnusable("is empty; is this the right file?")
    return data, mode


# --- which form it is ----------------------------------------------------------------------------


def _candidates(data: bytes, asked: _Asked) -> list[Candidate]:
    """The keys of a file, whose form is told by what it holds."""
    found = _of_its_form(data, asked)
    if not found:
        raise KeyUnusable(_NO_KEY)
    return found


def _of_its_form(data: bytes, asked: _Asked) -> list[Candidate]:
    if b"-----BEGIN " in data and not data.lstrip().startswith((b"{", b"[")):
        return from_pem(data, asked.passphrase)
    if data.startswith(_DER):
        return from_der(data, asked.passphrase)
    try:
        text = data.decode("utf-8-sig")
    except ValueError:
        return []
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, asked.app)
    return from_rows(rows_of_table(text), asked.app) if is_table(text) else []


def _from_json(text: str, app: str) -> list[Candidate]:
    """Of a JWK, a JWK Set, or rows: an array, or an object a line."""
    documents = _documents(text)
    members = [document for _, document in documents]
    match members:
        case [{"keys": list(keys)}]:
            return from_jwks(keys)
        case [{"keys": _}]:
            return []
        case _:
            pass
    if any(isinstance(member, dict) and "kty" in member for member in members):
        return from_jwks(members)
    return from_rows(rows_of_json(documents), app) if documents else []


def _documents(text: str) -> list[tuple[str, Any]]:
    """Each document, and where it stands: of the whole text, of an array, or one a line."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return [
            (f"line {number}: ", _line(number, line))
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    if isinstance(whole, list):
        return [(f"row {number}: ", each) for number, each in enumerate(whole, 1)]
    return [("", whole)]


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise KeyUnusable(
            f"line {number}: is no JSON, and neither is the whole; copy the file anew"
        ) from None


# --- judging -------------------------------------------------------------------------------------


def _chosen(candidates: list[Candidate], kid: str) -> Sequence[Candidate]:
    """Those of that kid, or the only one, which has none; all of them where no kid is asked for."""
    if not kid:
        return candidates
    named = [each for each in candidates if each.kid == kid]
    if named:
        return named
    if len(candidates) > 1:
        there = ", ".join(repr(each.kid) for each in candidates[:5] if each.kid)
        raise KeyUnusable(
            f"has no key of the kid {kid!r} among {len(candidates)}; there are "
            f"{there or 'none with a kid'}"
        )
    only = candidates[0]
    if only.kid is not None:
        raise KeyUnusable("holds a key of another kid, by which tokens name it; leave --kid out")
    return [only._replace(kid=kid)]


def _judged(candidate: Candidate, asked: _Asked) -> FoundKey:
    """The key that a candidate is.

    Raises:
        KeyUnusable: it is weak, broken, or not what it says.
    """
    try:
        public = fit_to_sign(candidate.public)
        algorithm = _algorithm(candidate, public, asked.algorithm)
        private = _private(candidate, public, algorithm)
        jwk = _jwk(public, algorithm)
        kid = _kid(candidate.kid, jwk, asked.prefix or (_FOREIGN if private is None else _DYNAMIC))
        _check_pair(private, jwk, algorithm.name)
    except KeyUnusable as error:
        raise KeyUnusable(f"{candidate.where}{error}") from None
    named = candidate.kid is not None
    return FoundKey(kid, candidate.kind, algorithm.name, jwk, private, candidate.made_at, named)


def _algorithm(candidate: Candidate, public: PublicNative, asked: str) -> Algorithm:
    """What the source says, else what was asked for, else what every verifier reads."""
    told = _OTHER_NAMES.get(candidate.algorithm, candidate.algorithm)
    fitting = [a.name for a in ALGORITHMS.values() if (a.kty, a.curve) == type_of(public)]
    if told and told not in fitting:
        raise KeyUnusable(
            f"names an algorithm that does not fit, or is not offered; such a key signs with "
            f"{' or '.join(fitting)}"
        )
    if asked and asked not in fitting:
        raise KeyUnusable(
            f"does not sign with {asked}; such a key signs with {' or '.join(fitting)}"
        )
    if told and asked and told != asked:
        raise KeyUnusable(f"signs with {told}, as it says itself; ask for no other algorithm")
    return ALGORITHMS[told or asked or _DEFAULTS[type_of(public)]]


def _private(candidate: Candidate, public: PublicNative, algorithm: Algorithm) -> PrivateKey | None:
    if candidate.private is None:
        return None
    if candidate.private.public_key() != public:
        raise KeyUnusable("has a private half that is not its public one's; find the right one")
    return PrivateKey(_jose(algorithm.kty, candidate.private), algorithm)


def _jose(kty: str, key: Any) -> JoseKey:
    """OpenSSL's key, or a JWK, as joserfc has it."""
    match kty:
        case "RSA":
            return RSAKey.import_key(key)
        case "EC":
            return ECKey.import_key(key)
        case _:
            return OKPKey.import_key(key)


def _jwk(public: PublicNative, algorithm: Algorithm) -> PublicJwk:
    members: Any = _jose(algorithm.kty, public).as_dict(private=False)
    return tuple((name, str(members[name])) for name in algorithm.members)


def _check_pair(private: PrivateKey | None, jwk: PublicJwk, algorithm: str) -> None:
    """Whether the private half signs what the public half verifies, as apps will do it."""
    try:
        public = PublicKey(jwk, algorithm)
        if private is None or public.verifies(private.signed(".")):
            return
    except (MalformedDocument, ValueError):
        pass
    raise KeyUnusable("does not sign what it verifies; replace this key")


def _kid(kid: str | None, jwk: PublicJwk, prefix: str) -> str:
    """The kid by which tokens name the key, or one of our form where none does."""
    if kid is None:
        return kid_of(jwk, prefix=prefix)
    if not is_new_kid(kid):
        raise KeyUnusable(f"has a kid that cannot be used here: {NEW_KID}; give the key another")
    if is_own_kid(kid) and kid != kid_of(jwk, prefix=kid[0]):
        raise KeyUnusable(
            "has a kid of ringkeeper's form that is not its own thumbprint (RFC 7638): it is "
            "another key's; find the right one"
        )
    return kid


def _check_differ(found: Sequence[FoundKey]) -> None:
    if len({key.kid for key in found}) < len(found):
        raise KeyUnusable("has two keys of one kid; leave one of them out")
    if len({thumbprint_of(key.public) for key in found}) < len(found):
        raise KeyUnusable("has one key twice; leave one of them out")
