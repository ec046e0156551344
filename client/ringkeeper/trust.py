"""The trust root: what it did not sign is never accepted. Promise 8 begins here.

Everything that daemons say to apps (snapshot, proof, event), and operators to daemons (request),
is a compact JWS by one Ed25519 key. Each kind of document has its own `typ`, so none can be
passed off as another (RFC 8725 section 3.11).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.util import urlsafe_b64decode

from ringkeeper.algorithms import thumbprint_of
from ringkeeper.errors import ForgedDocument, MalformedDocument, SecretError
from ringkeeper.jwk_set import JwkSet, SecretJwkSet, members_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALG: Final = "Ed25519"  # fully specified, RFC 9864
_REGISTRY: Final = jws.JWSRegistry(algorithms=[_ALG])
_REGISTRY.max_payload_length = 256 * 1024


@dataclass(frozen=True, slots=True)
class DocumentType:
    """A kind of signed document: its `typ` (RFC 7515 section 4.1.9) and how large it may be."""

    typ: str
    limit: int
    """Bytes of the whole compact JWS."""


_TRIAL: Final = DocumentType("ringkeeper-trial+json", 1024)


class TrustRoot(SecretJwkSet[OKPKey]):
    """The private half: only on daemons that may lead, and with operators. One signs."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> TrustRoot:
        """A fresh random root."""
        key = OKPKey.generate_key("Ed25519")
        return cls({_kid(key): key})

    @classmethod
    def _import(cls, jwk: object) -> tuple[str, OKPKey]:
        key = _import(jwk)
        if not key.is_private:
            raise SecretError("holds only the public half of a trust root; the private is needed")
        root = cls({_kid(key): key})
        try:
            root.public.open(_TRIAL, root.sign(_TRIAL, {}))
        except ForgedDocument:
            raise SecretError("a trust root whose two halves do not fit; restore it") from None
        return root.kid, key

    @property
    def public(self) -> PinnedRoots:
        """What apps pin to trust this root."""
        return PinnedRoots.from_jwk(self.public_jwk())

    def public_jwk(self) -> dict[str, Any]:
        """Its public JWK, or JWK Set, for `root.pub.jwk`."""
        return self._as_jwk(_public_member)

    def secret_jwk(self) -> dict[str, Any]:
        """Its private JWK, or JWK Set, in the clear, for `root.jwk` alone."""
        return self._as_jwk(lambda kid, key: {**key.as_dict(private=True), **_about(kid)})

    def sign(self, kind: DocumentType, payload: Mapping[str, Any]) -> str:
        """`payload` as a compact JWS of that kind; the same payload gives the same bytes."""
        body = json.dumps(payload, separators=(",", ":"), sort_keys=True, allow_nan=False)
        header = {"alg": _ALG, "kid": self.kid, "typ": kind.typ}
        key = self._keys[self.kid]
        document = jws.serialize_compact(header, body.encode(), key, registry=_REGISTRY)
        if len(document) > kind.limit:
            raise MalformedDocument(f"{kind.typ} of {len(document)} bytes; {kind.limit} at most")
        return document


class PinnedRoots(JwkSet[OKPKey]):
    """The public halves that a process trusts: one, or several while the root is being changed."""

    __slots__ = ()

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> PinnedRoots:
        """The roots in a public JWK or JWK Set (a private JWK's public half counts, too).

        Raises:
            SecretError: no Ed25519 key in it.
        """
        keys = (_import({**_members(_import(member))}) for member in members_of(jwk))
        return cls({_kid(key): key for key in keys})

    def as_jwk(self) -> dict[str, Any]:
        """Their public JWK, or JWK Set, for `root.pub.jwk`."""
        return self._as_jwk(_public_member)

    def open(self, kind: DocumentType, document: str) -> dict[str, Any]:
        """The payload of `document`, which is of that kind and signed by a pinned root.

        Raises:
            MalformedDocument: not such a document at all.
            ForgedDocument: signed by nobody that is pinned, or tampered with.
        """
        if len(document) > kind.limit:
            raise MalformedDocument(f"{kind.typ} of {len(document)} bytes; {kind.limit} at most")
        header = _header(document, kind)
        key = self._keys.get(header["kid"])
        if key is None:
            raise ForgedDocument(
                f"{kind.typ} signed by the root {header['kid'][:64]!r}; "
                f"pinned are {', '.join(self.kids)}; pin the right root.pub.jwk"
            )
        try:
            opened = jws.deserialize_compact(document, key, registry=_REGISTRY)
        except (JoseError, ValueError):
            raise ForgedDocument(f"{kind.typ} with a signature that does not fit") from None
        return _json_object(opened.payload, kind)


def root_of(document: str) -> str:
    """The thumbprint of the root that a document says it is signed by; empty if it is none."""
    try:
        kid = json.loads(urlsafe_b64decode(document.split(".", 1)[0].encode()))["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return kid if isinstance(kid, str) else ""


def _header(document: str, kind: DocumentType) -> dict[str, str]:
    """The protected header: exactly alg, kid and typ, or it is none of ours."""
    parts = document.split(".")
    if len(parts) != 3 or not document.isascii():  # noqa: PLR2004 - header.payload.signature
        raise MalformedDocument(f"not a compact JWS where a {kind.typ} should be; cut short?")
    try:
        header = _json_object(urlsafe_b64decode(parts[0].encode()), kind)
    except ValueError:
        raise MalformedDocument(f"{kind.typ} with an unreadable header") from None
    if header.get("typ") != kind.typ:
        raise MalformedDocument(f"typ {str(header.get('typ'))[:64]!r} where {kind.typ!r} should be")
    if set(header) != {"alg", "kid", "typ"} or header["alg"] != _ALG:
        raise ForgedDocument(f"{kind.typ} not signed with {_ALG}")
    if not isinstance(header["kid"], str):
        raise MalformedDocument(f"{kind.typ} with an unreadable header")
    return header


def _json_object(raw: bytes, kind: DocumentType) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedDocument(f"{kind.typ} that is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedDocument(f"{kind.typ} that is not a JSON object")
    return value


def _import(jwk: object) -> OKPKey:
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise SecretError("a trust root is an Ed25519 JWK (kty OKP, crv Ed25519)")
    try:
        members = {name: jwk[name] for name in ("kty", "crv", "x", "d") if name in jwk}
        key = OKPKey.import_key(members)
        _ = key.public_key, key.private_key
    except (JoseError, ValueError, TypeError, KeyError):
        raise SecretError("not a usable Ed25519 JWK; is the file complete?") from None
    return key


def _public_member(kid: str, key: OKPKey) -> dict[str, Any]:
    return {**_members(key), **_about(kid)}


def _about(kid: str) -> dict[str, str]:
    return {"kid": kid, "use": "sig", "alg": _ALG}


def _members(key: OKPKey) -> dict[str, str]:
    jwk = key.as_dict(private=False)
    return {name: str(jwk[name]) for name in ("crv", "kty", "x")}


def _kid(key: OKPKey) -> str:
    return thumbprint_of(tuple(_members(key).items()))
