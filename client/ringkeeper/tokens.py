"""Access tokens, signed and verified with a held ring. Promise 1 ends here. Pure.

A token is a compact JWT (RFC 7519). Nothing in it is negotiable: its `kid` picks a key of the
trusted ring, and that key says with which algorithm it verifies (RFC 8725 section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from joserfc.errors import JoseError

from ringkeeper import compact
from ringkeeper.algorithms import PublicKey
from ringkeeper.clock import from_seconds
from ringkeeper.compact import MAX_HEADER, MAX_TOKEN
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
from ringkeeper.signed_token import SignedToken

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ringkeeper.compact import Header
    from ringkeeper.errors import RingkeeperError, TokenError
    from ringkeeper.replica import Held, Verifying
    from ringkeeper.ring import Key
    from ringkeeper.signed_token import Memory

    Verifies = Callable[[PublicKey, str], bool]

__all__ = [
    "MAX_HEADER",
    "MAX_TOKEN",
    "Issued",
    "issue",
    "judge",
    "jwk_of",
    "kid_in",
    "sign",
    "verify",
]

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
    seconds = now.timestamp()
    issued = issue(held, claims, seconds, lifetime=lifetime, header=header, use_dynamic=use_dynamic)
    return issued.token


def issue(
    held: Held,
    claims: Mapping[str, Any],
    now: float,
    *,
    lifetime: timedelta | None = None,
    header: Mapping[str, Any] | None = None,
    use_dynamic: bool | None = None,
) -> Issued:
    """A token with `claims`, signed by the key that signs now; `iat` and `exp` are filled in.

    `now`: seconds since 1970.
    `use_dynamic`: the kind of key, where the program does not leave that to the policy.
    Its lifetime is `lifetime`, or what an `exp` among the claims leaves, or the longest allowed.

    Raises:
        LifetimeTooLong: longer than `access_token_validity`; its key might not outlive it.
        StaleRing: no proof of freshness for longer than `max_staleness`.
        NoSigningKey: this process cannot sign with that key.
        Unsignable: nobody would accept what these claims, this header and lifetime make.
    """
    _check_kinds(claims, lifetime, header)
    if now > held.signs_until:
        raise StaleRing(
            f"ring {held.ring.name!r}: the newest proof of freshness is "
            f"{format_duration(held.staleness(from_seconds(now)))} old, more than max_staleness "
            f"({format_duration(held.ring.policy.max_staleness)}); is Redis reachable and a "
            "daemon leading?"
        )
    key = held.signers[use_dynamic]
    private = held.signing.get(key.kid) if key else None
    if key is None or private is None:
        raise NoSigningKey(
            f"ring {held.ring.name!r}: this process holds no private half of "
            f"{key.kid if key else 'any key'}; give it the KEK, or see its log for why the sealed "
            "key did not open"
        )
    issued, lives = int(now), float(int(held.longest))
    expires = issued + int(lives)
    given = {"iat": issued, "exp": expires, **claims}
    # As a rule the times are those: then there is nothing to ask about them.
    is_usual = given["iat"] is issued and given["exp"] is expires and "nbf" not in given
    is_usual = is_usual and lifetime is None and lives > 0
    if not is_usual:
        if lifetime is not None:
            given["exp"] = issued + int(lifetime.total_seconds())
        lives = _lifetime(held, given, issued, lifetime)
    try:
        message, whole = compact.written(key.kid, key.algorithm, header, given)
        token = private.signed(message)
    except MalformedToken as error:
        raise Unsignable(f"claims or a header that make {error}") from None
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        # Not the error's own words: they may quote a claim.
        what = _unwritable(given) or type(error).__name__
        raise Unsignable(
            f"claims or a header that no token can carry ({what}); use what JSON has, and the "
            "header's members as RFC 7515 says"
        ) from None
    if len(token) > MAX_TOKEN:
        raise Unsignable(f"a token of {len(token)} characters; {MAX_TOKEN} is the most")
    if not (is_usual and whole is given):
        _check_written(whole, issued + held.skew)
    return Issued(token, key.kid, lives)


def _unwritable(claims: Mapping[Any, Any]) -> str:
    """What among `claims` JSON does not have, and in which of them; nothing that they say."""
    for name, value in claims.items():
        with suppress(RecursionError):
            if (found := _not_in_json(value)) and isinstance(name, str):
                return f"the claim {name[:64]!r} has {found}"
    return ""


def _not_in_json(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is none"
    if isinstance(value, Mapping | list | tuple):
        members = value.values() if isinstance(value, Mapping) else value
        return next(filter(None, map(_not_in_json, members)), "")
    is_known = value is None or isinstance(value, str | int | float)
    return "" if is_known else f"a {type(value).__name__}"


def _check_written(whole: Mapping[str, Any], latest: float) -> None:
    """What `verify` would say of its times; only `nbf` may lie ahead."""
    if "nbf" in whole:
        _instant(whole, "nbf", Unsignable)
    if _instant(whole, "iat", Unsignable) > latest:
        raise Unsignable("a token's iat is when it was issued: not in the future")


def _lifetime(held: Held, whole: Mapping[str, Any], issued: int, wanted: timedelta | None) -> float:
    """The seconds that a token will live whose claims these are."""
    policy, lives = held.ring.policy, _instant(whole, "exp", Unsignable) - issued
    if lives > held.longest or (wanted is not None and wanted > policy.access_token_validity):
        longest = format_duration(policy.access_token_validity)
        raise LifetimeTooLong(
            f"a token of ring {held.ring.name!r} lives {longest} at most; "
            "shorten its lifetime, or raise access_token_validity first"
        )
    if lives <= 0:
        past = "exp lies in the past: " if wanted is None else ""
        raise Unsignable(f"{past}a token lives a second at least, for its times are whole seconds")
    return lives


def _check_kinds(claims: object, lifetime: object, header: object) -> None:
    """What a program without type checks may have mistaken."""
    is_mapping = type(claims) is dict or isinstance(claims, Mapping)  # the first is soon asked
    if not is_mapping or not (header is None or isinstance(header, Mapping)):
        raise Unsignable("claims and header are mappings, as {'sub': 'alice'} is one")
    if not (lifetime is None or isinstance(lifetime, timedelta)):
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
    """The claims of `token`, if it is good at `now`; see `judge`."""
    how = (audience, issuer, strict_key_kind, use_dynamic)
    return judge(held, token, now.timestamp(), *how, PublicKey.verifies, None)


def judge(  # noqa: PLR0913, PLR0917 - called for each request: by position, which is faster
    held: Held,
    token: str,
    now: float,
    audience: str | Collection[str] | None,
    issuer: str | None,
    strict_key_kind: bool,  # noqa: FBT001
    use_dynamic: bool | None,  # noqa: FBT001
    verifies: Verifies,
    memory: Memory | None,
) -> dict[str, Any]:
    """The claims of `token`, if it is good at `now`, in seconds since 1970.

    `audience`: the token must name it, or one of several. `issuer`: must be `iss`. Not asked for,
    neither is checked. `strict_key_kind`: only keys of the kind that signs now verify, as
    SuperTokens has it: whoever switches then makes every user refresh. `use_dynamic`: the kind
    that this program signs with, where it does not leave that to the policy. `verifies`: who
    checks a signature, `PublicKey.verifies` or `ringkeeper.by_joserfc`. `memory`: of tokens whose
    signatures were checked before; everything else is asked anew.

    Raises:
        TokenError: one of its kinds; `reason` says why the user must refresh.
        StaleRing: only where `max_verify_staleness` is set and exceeded.
        TypeError, ValueError: `check_asked` says of what.
    """
    if held.is_verifying_limited:
        _check_verifying(held, now)
    signed = memory.recall(token) if memory else None
    verifying = held.verifying.get(signed.kid) if signed else None
    if memory and signed and verifying and verifying is signed.verifying:
        memory.hit()
        if not signed.since - held.skew <= now < signed.expires + held.skew:
            raise _untimely(signed.expires, now, held.skew)
        try:
            claims = signed.claims()
        except RecursionError:  # as reading it would tell of a stack as deep as this one
            raise MalformedToken("a token whose claims are nested too deeply for here") from None
    else:
        verifying, claims = _first_seen(held, token, now, verifies, memory)
    if verifying.key.drained_from:
        _check_drained(verifying.key, claims, token, from_seconds(now))
    if audience is not None or issuer is not None:
        _check_parties(claims, audience, issuer)
    if strict_key_kind:
        # Last: who is told to refresh for that had a good token until the switch.
        _check_kind(held, verifying.key, use_dynamic)
    return claims


def _check_verifying(held: Held, now: float) -> None:
    if not held.may_verify(from_seconds(now)):
        raise StaleRing(
            f"ring {held.ring.name!r}: the newest proof of freshness is older than "
            "max_verify_staleness; is Redis reachable and a daemon leading?"
        )


def _first_seen(
    held: Held, token: str, now: float, verifies: Verifies, memory: Memory | None
) -> tuple[Verifying, dict[str, Any]]:
    """Whose `token` is, and its claims: read, its signature checked, its time not over."""
    header, claims, again = compact.read(token)
    # The cheap refusals first. Nothing is believed before the signature was checked; an expired
    # token would be refused either way, and must not look like one with an unknown key.
    expires, since = _instant(claims, "exp", MalformedToken), -math.inf
    if now >= expires + held.skew:
        raise _untimely(expires, now, held.skew)
    if "iat" in claims:
        since = _instant(claims, "iat", MalformedToken)
    if "nbf" in claims:
        since = max(since, _instant(claims, "nbf", MalformedToken))
    if since > now + held.skew:
        raise _untimely(expires, now, held.skew)
    verifying = held.verifying.get(header.kid)
    if verifying is None:
        raise _refusal(held, header, token, verifies)
    key = verifying.key
    if header.algorithm != key.algorithm:
        raise WrongAlgorithm(f"{key.kid} verifies {key.algorithm} alone")
    if not (header.is_sound and verifies(verifying.public, token)):
        raise _forged(key)
    if memory:
        memory.miss()
        if type(token) is str:
            memory.remember(SignedToken(token, key.kid, verifying, again, since, expires), now)
    return verifying, claims


def kid_in(token: str) -> str:
    """The kid that `token` names, unverified.

    Raises:
        MalformedToken: it names none.
    """
    header, _, _ = compact.read(token)
    return header.kid


def jwk_of(held: Held, kid: str, now: float) -> dict[str, Any]:
    """The JWK of one key whose tokens count at `now`, in seconds since 1970.

    Raises:
        UnknownKid, RevokedKid: there is none.
        StaleRing: only where `max_verify_staleness` is set and exceeded.
    """
    if held.is_verifying_limited:
        _check_verifying(held, now)
    if verifying := held.verifying.get(kid):
        return verifying.key.jwk()
    if revoked := held.revoked.get(kid):
        raise _revoked(revoked.key)
    raise _unknown(held, kid)


def _refusal(held: Held, header: Header, token: str, verifies: Verifies) -> TokenError:
    """Why no token of that kid counts.

    Of a revoked key none does, whoever made it; but no stranger makes it look as if a user had to
    refresh.
    """
    revoked = held.revoked.get(header.kid)
    if revoked is None:
        return _unknown(held, header.kid)
    key = revoked.key
    is_theirs = header.is_sound and header.algorithm == key.algorithm
    if is_theirs and verifies(revoked.public, token):
        return _revoked(key)
    return _forged(key)


def _unknown(held: Held, kid: str) -> UnknownKid:
    return UnknownKid(
        f"unknown kid {kid[:64]!r}; ring {held.ring.name!r} is at version {held.ring.version}; "
        "refresh the token, unless it belongs to another ring"
    )


def _revoked(key: Key) -> RevokedKid:
    return RevokedKid(f"{key.kid} was revoked; refresh the token, or log in")


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


def _untimely(expires: float, now: float, skew: float) -> TokenError:
    """Why a token does not count at `now`, which lies behind its time, or before it."""
    if now >= expires + skew:
        return ExpiredToken("the token has expired; refresh it, or log in")
    return ImmatureToken("the token's iat or nbf lies in the future; are the clocks right?")


def _instant(claims: Mapping[str, Any], name: str, error: type[RingkeeperError]) -> float:
    """A NumericDate among the claims (RFC 7519 section 2), in seconds."""
    value: Any = claims.get(name)
    # So written, the range is false for NaN, and takes an integer of a thousand digits in stride.
    if type(value) not in (int, float) or not abs(value) <= _FAR_SECONDS:
        raise error(f"the token's {name} is missing or not a number of seconds")
    return float(value)


def check_asked(audience: object, issuer: object) -> None:
    """Refuse to ask for what no token can be for: that is a mistake of the program's.

    Raises:
        TypeError: an issuer that is no string, an audience that is neither one nor several.
        ValueError: an empty name, or no audience among several.
    """
    if not (issuer is None or isinstance(issuer, str)):
        raise TypeError("an issuer is a string, as iss is: 'https://auth.example.com'")
    if issuer is not None and not issuer:
        raise ValueError("the issuer is empty; where tokens need not name one, leave it out")
    if audience is None:
        return
    several = [audience] if isinstance(audience, str) else audience
    if not (isinstance(several, Collection) and all(isinstance(each, str) for each in several)):
        raise TypeError("an audience is a string, or several: 'api', or ['api', 'web']")
    if not any(several):
        raise ValueError("the audience is empty; where tokens need not name one, leave it out")


def _check_parties(
    claims: Mapping[str, Any], audience: str | Collection[str] | None, issuer: str | None
) -> None:
    for asked in (audience, issuer):
        if not (asked is None or (isinstance(asked, str) and asked)):  # several, or a mistake
            check_asked(audience, issuer)
    if issuer is not None and claims.get("iss") != issuer:
        none = "" if "iss" in claims else " (it names none)"
        raise ClaimMismatch(f"the token's issuer is not {issuer!r}{none}")
    if audience is None:
        return
    wanted = {audience} if isinstance(audience, str) else set(audience)
    given = claims.get("aud", [])
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not any(isinstance(a, str) and a in wanted for a in given):
        names = " or ".join(map(repr, sorted(wanted)))
        none = "" if "aud" in claims else " (it names no audience)"
        raise ClaimMismatch(f"the token is not for {names}{none}")


def _check_kind(held: Held, key: Key, use_dynamic: bool | None) -> None:  # noqa: FBT001
    signer = held.signers[use_dynamic]
    if signer and key.kind not in (signer.kind, KeyKind.FOREIGN):
        raise KindMismatch(
            f"{key.kid} is a {key.kind} key, and {signer.kind} ones sign (strict_key_kind); "
            "refresh the token"
        )
