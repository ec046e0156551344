"""Access tokens, signed and verified with a held ring. Promise 1 ends here. Pure.

A token is a compact JWT (RFC 7519). Nothing in it is negotiable: its `kid` picks a key of the
trusted ring, and that key says with which algorithm it verifies (RFC 8725 section 3.1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.util import urlsafe_b64decode

from ringkeeper.algorithms import PublicKey
from ringkeeper.draining import is_drained, share_drained
from ringkeeper.durations import format_duration
from ringkeeper.errors import (
    ClaimMismatch,
    ExpiredToken,
    ImmatureToken,
    InvalidSignature,
    KindMismatch,
    LifetimeTooLong,
    MalformedToken,
    NoSigningKey,
    RevokedKid,
    StaleRing,
    UnknownKid,
    Unsignable,
    WrongAlgorithm,
)
from ringkeeper.ring import KeyKind

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from ringkeeper.errors import RingkeeperError, TokenError
    from ringkeeper.replica import Held
    from ringkeeper.ring import Key

MAX_TOKEN: Final = 16 * 1024
"""Characters of a token: no HTTP server takes a longer header."""
MAX_HEADER: Final = 512
"""Characters of a token's first part: joserfc, which also verifies elsewhere, takes no more."""
_FAR_SECONDS: Final = 1e12


class Issued(NamedTuple):
    """A token that was just signed."""

    token: str
    kid: str
    lifetime: float
    """Seconds until it expires."""


def sign(
    held: Held,
    claims: Mapping[str, Any],
    now: datetime,
    *,
    lifetime: timedelta | None = None,
    header: Mapping[str, Any] | None = None,
    use_dynamic: bool | None = None,
) -> str:
    """A token with `claims`; see `issue`."""
    issued = issue(held, claims, now, lifetime=lifetime, header=header, use_dynamic=use_dynamic)
    return issued.token


def issue(
    held: Held,
    claims: Mapping[str, Any],
    now: datetime,
    *,
    lifetime: timedelta | None = None,
    header: Mapping[str, Any] | None = None,
    use_dynamic: bool | None = None,
) -> Issued:
    """A token with `claims`, signed by the key that signs now; `iat` and `exp` are filled in.

    `use_dynamic`: the kind of key, where the program does not leave that to the policy.
    Its lifetime is `lifetime`, or what an `exp` among the claims leaves, or the longest allowed.

    Raises:
        LifetimeTooLong: longer than `access_token_validity`; its key might not outlive it.
        StaleRing: no proof of freshness for longer than `max_staleness`.
        NoSigningKey: this process cannot sign with that key.
        Unsignable: nobody would accept what these claims, this header and lifetime make.
    """
    _check_kinds(claims, lifetime, header)
    policy = held.ring.policy
    if not held.may_sign(now):
        raise StaleRing(
            f"ring {held.ring.name!r}: the newest proof of freshness is "
            f"{format_duration(held.staleness(now))} old, more than max_staleness "
            f"({format_duration(policy.max_staleness)}); is Redis reachable and a daemon leading?"
        )
    key = held.ring.signer_for(use_dynamic)
    private = held.signing.get(key.kid) if key else None
    if key is None or private is None:
        raise NoSigningKey(
            f"ring {held.ring.name!r}: this process holds no private half of "
            f"{key.kid if key else 'any key'}; give it the KEK, or see its log for why the sealed "
            "key did not open"
        )
    issued = int(now.timestamp())
    longest = policy.access_token_validity
    whole = {"iat": issued, "exp": issued + int(longest.total_seconds()), **claims}
    if lifetime is not None:
        whole["exp"] = issued + int(lifetime.total_seconds())
    expires = _instant(whole, "exp", Unsignable)
    if (lifetime is not None and lifetime > longest) or expires > issued + longest.total_seconds():
        raise LifetimeTooLong(
            f"a token of ring {held.ring.name!r} lives {format_duration(longest)} at most; "
            "shorten its lifetime, or raise access_token_validity first"
        )
    if expires <= issued:
        raise Unsignable("a token lives a second at least, for its times are whole seconds")
    whole_header = {"typ": "JWT", **(header or {}), "kid": key.kid}
    _check_extensions(whole_header, Unsignable)
    try:
        body = json.dumps(whole, separators=(",", ":"), allow_nan=False).encode()
        token = private.sign_compact(whole_header, body)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        # Not the error's own words: they may quote a claim.
        raise Unsignable(
            f"claims or a header that no token can carry ({type(error).__name__}); use what JSON "
            "has, and the header's members as RFC 7515 says"
        ) from None
    if len(token) > MAX_TOKEN:
        raise Unsignable(f"a token of {len(token)} characters; {MAX_TOKEN} is the most")
    if token.index(".") > MAX_HEADER:
        raise Unsignable(f"a token's header of more than {MAX_HEADER} characters; shorten it")
    _check_readable(token, now, policy.clock_skew.total_seconds())
    return Issued(token, key.kid, expires - issued)


def _check_kinds(claims: object, lifetime: object, header: object) -> None:
    """What a program without type checks may have mistaken."""
    if not isinstance(claims, Mapping) or not isinstance(header, Mapping | None):
        raise Unsignable("claims and header are mappings, as {'sub': 'alice'} is one")
    if not isinstance(lifetime, timedelta | None):
        raise Unsignable("a lifetime is a timedelta: timedelta(minutes=5)")


def verify(
    held: Held,
    token: str,
    now: datetime,
    *,
    audience: str | Collection[str] | None = None,
    issuer: str | None = None,
    strict_key_kind: bool = False,
    use_dynamic: bool | None = None,
) -> dict[str, Any]:
    """The claims of `token`, if it is good at `now`.

    `audience`: the token must name it, or one of several. `issuer`: must be `iss`. Not asked for,
    neither is checked. `strict_key_kind`: only keys of the kind that signs now verify, as
    SuperTokens has it: whoever switches then makes every user refresh at once. `use_dynamic`: the
    kind that this program signs with, where it does not leave that to the policy.

    Raises:
        TokenError: one of its kinds; `reason` says why the user must refresh.
        StaleRing: only where `max_verify_staleness` is set and exceeded.
    """
    if not held.may_verify(now):
        raise StaleRing(
            f"ring {held.ring.name!r}: the newest proof of freshness is older than "
            "max_verify_staleness; is Redis reachable and a daemon leading?"
        )
    header, claims = _parse(token)
    skew = held.ring.policy.clock_skew.total_seconds()
    # The cheap refusals first. Nothing is believed before the signature was checked; an expired
    # token would be refused either way, and must not look like one with an unknown key.
    _check_times(claims, now.timestamp(), skew)
    key, public = _key_for(held, header, token)
    if header.get("alg") != key.algorithm:
        raise WrongAlgorithm(f"{key.kid} verifies {key.algorithm} alone")
    if not public.verifies(token):
        raise _forged(key)
    _check_drained(key, claims, token, now)
    _check_parties(claims, audience, issuer)
    # Last: who is told to refresh for that had a good token until the switch.
    signer = held.ring.signer_for(use_dynamic)
    if strict_key_kind and signer and key.kind not in (signer.kind, KeyKind.FOREIGN):
        raise KindMismatch(
            f"{key.kid} is a {key.kind} key, and {signer.kind} ones sign (strict_key_kind); "
            "refresh the token"
        )
    return claims


def _check_readable(token: str, now: datetime, skew: float) -> None:
    """What `verify` would say of these claims; only `nbf` may lie ahead."""
    try:
        _, claims = _parse(token)
    except MalformedToken as error:
        raise Unsignable(f"claims or a header that make {error}") from None
    if "nbf" in claims:
        _instant(claims, "nbf", Unsignable)
    if _instant(claims, "iat", Unsignable) > now.timestamp() + skew:
        raise Unsignable("a token's iat is when it was issued: not in the future")


def kid_in(token: str) -> str:
    """The kid that `token` names, unverified.

    Raises:
        MalformedToken: it names none.
    """
    return str(_parse(token)[0]["kid"])


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a compact JWS, nothing verified yet."""
    if not isinstance(token, str):
        raise MalformedToken("a token is a str")
    if len(token) > MAX_TOKEN:
        raise MalformedToken(f"a token of {len(token)} characters; {MAX_TOKEN} is the most")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():  # noqa: PLR2004 - header.payload.signature
        raise MalformedToken("not a compact JWS: three base64url parts with dots between")
    if len(parts[0]) > MAX_HEADER:
        raise MalformedToken(f"a token's header of more than {MAX_HEADER} characters")
    header, claims = (_json_object(part) for part in parts[:2])
    if not isinstance(header.get("kid"), str):
        raise MalformedToken("a token without a kid")
    _check_extensions(header, MalformedToken)
    return header, claims


def _check_extensions(header: Mapping[str, Any], error: type[RingkeeperError]) -> None:
    if "crit" in header or "b64" in header:
        raise error("a token with extensions (crit, b64) that are not understood here")


def _json_object(part: str) -> dict[str, Any]:
    try:
        # Decoded here: json takes bytes in UTF-16 and UTF-32, too, and other verifiers do not.
        text = urlsafe_b64decode(part.encode()).decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError):
        raise MalformedToken("a token whose parts are not base64url JSON") from None
    if not isinstance(value, dict):
        raise MalformedToken("a token whose parts are not JSON objects")
    return value


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


def _key_for(held: Held, header: Mapping[str, Any], token: str) -> tuple[Key, PublicKey]:
    kid = header["kid"]
    key = held.ring.key(kid)
    if key is None:
        raise UnknownKid(
            f"unknown kid {kid[:64]!r}; ring {held.ring.name!r} is at version {held.ring.version}; "
            "refresh the token, unless it belongs to another ring"
        )
    if not key.may_verify:
        raise _refusal_of_revoked(key, token)
    return key, held.verifying[kid]


def _refusal_of_revoked(key: Key, token: str) -> TokenError:
    """Refused it is, whoever made it; but no stranger makes it look as if a user had to refresh."""
    if PublicKey(key.public, key.algorithm).verifies(token):
        return RevokedKid(f"{key.kid} was revoked; refresh the token, or log in")
    return _forged(key)


def _check_drained(key: Key, claims: Mapping[str, Any], token: str, now: datetime) -> None:
    """Refuse as one of a revoked key a token whose turn has come (`ringkeeper.draining`)."""
    share = share_drained(key, now)
    if not share:
        return
    named = claims.get("sub")
    subject = named if named and isinstance(named, str) else token.split(".")[1]
    if is_drained(key.kid, subject, share):
        raise RevokedKid(
            f"{key.kid} is being revoked little by little, and this token's turn has come; "
            "refresh the token, or log in"
        )


def _forged(key: Key) -> InvalidSignature:
    return InvalidSignature(
        f"the signature is not one of {key.kid}: the token was changed on its way, or forged; "
        "refuse it, and let the user log in"
    )


def _check_times(claims: Mapping[str, Any], now: float, skew: float) -> None:
    if now >= _instant(claims, "exp", MalformedToken) + skew:
        raise ExpiredToken("the token has expired; refresh it, or log in")
    for name in ("iat", "nbf"):
        if name in claims and _instant(claims, name, MalformedToken) > now + skew:
            raise ImmatureToken(f"the token's {name} lies in the future; are the clocks right?")


def _instant(claims: Mapping[str, Any], name: str, error: type[RingkeeperError]) -> float:
    """A NumericDate among the claims (RFC 7519 section 2), in seconds."""
    value: Any = claims.get(name)
    # So written, the range is false for NaN, and takes an integer of a thousand digits in stride.
    if type(value) not in (int, float) or not abs(value) <= _FAR_SECONDS:
        raise error(f"the token's {name} is missing or not a number of seconds")
    return float(value)


def _check_parties(
    claims: Mapping[str, Any], audience: str | Collection[str] | None, issuer: str | None
) -> None:
    if issuer is not None and claims.get("iss") != issuer:
        raise ClaimMismatch(f"the token's issuer is not {issuer!r}")
    if audience is None:
        return
    wanted = {audience} if isinstance(audience, str) else set(audience)
    named = claims.get("aud", [])
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not any(isinstance(a, str) and a in wanted for a in named):
        raise ClaimMismatch(f"the token is not for {', '.join(sorted(wanted))}")
