"""Compact JWSs (RFC 7515 section 7.1), taken apart and written. No key is used here. Pure.

What several verifiers would read in several ways is refused: base64url that is not canonical, JSON
that names a member twice, numbers that are none, extensions that are not understood.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache, lru_cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry
from pybase64 import b64decode, b64encode

from ringkeeper.errors import MalformedToken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Claims = dict[str, Any]

MAX_TOKEN: Final = 16 * 1024
"""Characters of a token: no HTTP server takes a longer header."""
MAX_DEPTH: Final = 512
"""Lists and objects of its claims that may lie in one another."""
MAX_HEADER: Final = 512
"""Characters of a token's first part: joserfc, which also verifies elsewhere, takes no more."""
_HEADERS_KEPT: Final = 128
"""Headers that were read lately: as a rule a key has one."""
_REGISTRY: Final = JWSRegistry(strict_check_header=False)
"""What kinds of values RFC 7515's members have; others may be there, too."""


class Header(NamedTuple):
    """What counts of a token's header."""

    kid: str
    algorithm: object
    """Whatever it names, if anything: a key knows its own."""
    is_sound: bool
    """Whether its members are of the kinds that RFC 7515 says."""


def read(token: str) -> tuple[Header, Claims, Callable[[], Claims]]:
    """The header of `token`, its claims, and what reads these once more.

    Raises:
        MalformedToken: it is none, or one that is read in more ways than one.
    """
    if not isinstance(token, str):
        raise MalformedToken("a token is a str")
    if len(token) > MAX_TOKEN:
        raise MalformedToken(f"a token of {len(token)} characters; {MAX_TOKEN} is the most")
    parts = token.split(".", 3)
    if len(parts) != 3 or not token.isascii():  # noqa: PLR2004 - header.payload.signature
        raise MalformedToken("not a compact JWS: three base64url parts with dots between")
    header = header_in(parts[0])
    return header, *_claims_in(_octets_of(parts[1]))


@lru_cache(maxsize=_HEADERS_KEPT)
def header_in(part: str) -> Header:
    """What counts of the header that `part` is.

    Raises:
        MalformedToken: it is none, or one that is read in more ways than one.
    """
    if len(part) > MAX_HEADER:
        raise MalformedToken(f"a token's header of more than {MAX_HEADER} characters")
    header = claims_in(_octets_of(part))
    if not isinstance(header.get("kid"), str):
        raise MalformedToken("a token without a kid")
    if "crit" in header or "b64" in header:
        raise MalformedToken("a token with extensions (crit, b64) that are not understood here")
    try:
        _REGISTRY.check_header({**header, "alg": ""})
        is_sound = True
    except JoseError:
        is_sound = False
    return Header(header["kid"], header.get("alg"), is_sound)


def octets_in(part: str) -> bytes:
    """What `part` is the base64url of (RFC 7515 appendix C): the only text that stands for it.

    Raises:
        ValueError: it is none. Bits that nothing is made of must be 0, as RFC 4648 section 3.5
            lets a decoder ask for: another last character makes another token.
    """
    lacking = -len(part) % 4
    if lacking and part[-1] not in _ENDS[lacking]:
        raise ValueError("bits left over")
    if "+" in part or "/" in part or "=" in part:
        raise ValueError("not of that alphabet")
    return b64decode(part + "=" * lacking, _ALPHABET, True)


def _octets_of(part: str) -> bytes:
    try:
        return octets_in(part)
    except ValueError:
        raise MalformedToken("a token whose parts are not base64url") from None


def claims_in(octets: bytes) -> Claims:
    """The JSON object that `octets` are, in UTF-8.

    Raises:
        MalformedToken: there is none, or one that is read in more ways than one.
    """
    claims, _ = _claims_in(octets)
    return claims


class Codec(NamedTuple):
    """What reads JSON, and writes it."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    errors: tuple[type[Exception], ...]


@cache
def codec() -> Codec:
    """That of msgspec. It takes milliseconds to load, and memory: who reads no token does not."""
    from msgspec import MsgspecError  # noqa: PLC0415
    from msgspec.json import Decoder, Encoder  # noqa: PLC0415

    return Codec(Decoder().decode, Encoder().encode, (MsgspecError, ValueError, RecursionError))


def _claims_in(octets: bytes) -> tuple[Claims, Callable[[], Claims]]:
    """As `claims_in`; and what reads them once more.

    What is written again just as it was has one reading: a member that stands twice would be gone,
    a number that is none would be another, a blank would be missing. What other issuers write in
    other ways is read strictly, once, and kept as it would be written here.
    """
    _check_depth(octets)
    msgspec = codec()
    try:
        claims = msgspec.decode(octets)
        if type(claims) is dict and msgspec.encode(claims) == octets:
            return claims, partial(msgspec.decode, octets)
    except msgspec.errors:
        pass
    claims = _strictly(octets)
    try:
        again = partial(msgspec.decode, msgspec.encode(claims))
        return claims, again if again() == claims else partial(_strictly, octets)
    except msgspec.errors:  # half a character
        return claims, partial(_strictly, octets)


def _check_depth(octets: bytes) -> None:
    """Refuse claims within claims that whoever reads them might have no room for on the stack.

    Each of them takes some; how much there is, no one can ask. And who verifies has read them
    before it knows whether anybody signed them.
    """
    if len(octets) <= MAX_DEPTH or octets.count(b"[") + octets.count(b"{") <= MAX_DEPTH:
        return
    brackets = _TEXTS.sub(b"", octets).translate(None, _NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise MalformedToken(f"a token whose claims are nested more than {MAX_DEPTH} deep")


def _strictly(octets: bytes) -> Claims:
    """A member at a time, by the standard library."""
    try:
        # Decoded here: json takes bytes in UTF-16 and UTF-32, too, and other verifiers do not.
        value = _decoder.decode(octets.decode())
    except (ValueError, RecursionError):
        raise MalformedToken(
            "a token whose parts are not JSON in UTF-8, or name a member twice"
        ) from None
    if not isinstance(value, dict):
        raise MalformedToken("a token whose parts are not JSON objects")
    return value


def written(
    kid: str, algorithm: str, extra: Mapping[str, Any] | None, claims: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """What is to be signed, header and payload, and `claims` as whoever reads it will have them.

    `claims` is the caller's own, and lists and objects in it are replaced by copies.
    `extra`: members for the header beside `kid` and `alg`, which are as they are given here.

    Raises:
        MalformedToken: nobody would take what comes of it.
        ValueError, TypeError, RecursionError, UnicodeError: nothing that JSON has.
    """
    if extra:
        header = _encoded({"typ": "JWT", **extra, "kid": kid, "alg": algorithm})
        if not header_in(header).is_sound:
            raise MalformedToken("a token whose header is not as RFC 7515 says")
    else:
        header = _plain_header(kid, algorithm)
    octets = _written_plainly(claims)
    if octets is None:
        octets = _encoder.encode(claims).encode()
        claims = claims_in(octets)
    return f"{header}.{base64url(octets)}", claims


def _written_plainly(claims: Claims) -> bytes | None:
    """`claims` as JSON, if who reads it will have them just so."""
    if not _is_plain(claims):
        return None
    msgspec = codec()
    try:
        octets = msgspec.encode(claims)
    except msgspec.errors:  # half a character
        return None
    _check_depth(octets)
    return octets


def _is_plain(own: Any) -> bool:
    """Whether JSON reads it as it is: no names but text, no types but its own.

    `own` is the caller's; what lies in it may be a program's, which may change it meanwhile. So it
    is copied before it is looked at.
    """
    if type(own) is dict:
        for name in own:
            if type(name) is not str:
                return False
    for place, member in own.items() if type(own) is dict else enumerate(own):
        kind = type(member)
        if kind is str or kind in _SCALARS or (kind is float and math.isfinite(member)):
            continue
        if kind not in _CONTAINERS:
            return False
        own[place] = copy = member.copy()
        if not _is_plain(copy):
            return False
    return True


@lru_cache(maxsize=_HEADERS_KEPT)
def _plain_header(kid: str, algorithm: str) -> str:
    return _encoded({"typ": "JWT", "kid": kid, "alg": algorithm})


def _encoded(header: Mapping[str, Any]) -> str:
    return base64url(_encoder.encode(header).encode())


def base64url(octets: bytes) -> str:
    """`octets` as base64url (RFC 7515 appendix C)."""
    return b64encode(octets, _ALPHABET).rstrip(b"=").decode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that names each member once (RFC 8725 section 2.4 warns of the others)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def _finite(text: str) -> float:
    """A number, and not NaN, Infinity or 1e400, which verifiers read in ways of their own."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no number that JSON can be relied on for (RFC 8259 section 6)")
    return number


_ALPHABET: Final = b"-_"
_TEXTS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""What stands in quotes, where a bracket is none."""
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS: Final = bytes(set(range(256)) - _STEPS.keys())
_ENDS: Final = {1: "AEIMQUYcgkosw048", 2: "AQgw", 3: ""}
"""What the last character may be where so many are lacking: with one, two bits of it are for
nothing, with two, four; three cannot be."""
_SCALARS: Final = frozenset((int, bool, type(None)))
_CONTAINERS: Final = frozenset((dict, list))
_encoder: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
)
