"""A good token is accepted, a bad one is refused for the right reason (promise 1's last step)."""

import base64
import hashlib
import hmac
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from joserfc import jwt
from joserfc.jwk import KeySet

from ringkeeper import compact, tokens
from ringkeeper.algorithms import ALGORITHMS, PrivateKey
from ringkeeper.errors import (
    ClaimMismatch,
    ExpiredToken,
    ImmatureToken,
    InfrastructureError,
    InvalidSignature,
    KindMismatch,
    LifetimeTooLong,
    MalformedToken,
    NoSigningKey,
    RefreshReason,
    RevokedKid,
    StaleRing,
    TokenError,
    UnknownKid,
    Unsignable,
    WrongAlgorithm,
)
from ringkeeper.ring import Key, KeyKind, KeyState
from ringkeeper.tokens import MAX_TOKEN, kid_in, sign, verify
from ringkeeperd.operations import revoke
from tests.client.real_keys import PRIVATE, holding, real_ring
from tests.core.builders import HOUR, MINUTE, NOW, SECOND

RING = real_ring()
HELD = holding(RING)
SKEW = RING.policy.clock_skew
ISSUED = int(NOW.timestamp())
CLAIMS = {"sub": "alice", "iat": ISSUED, "exp": ISSUED + 3600}


def _some(key: Key | None) -> Key:
    assert key
    return key


ACTIVE, STANDBY = _some(RING.active()), _some(RING.standby)
STATIC = _some(RING.active(KeyKind.STATIC))
HEADER = {"alg": "ES256", "kid": ACTIVE.kid, "typ": "JWT"}


def b64(raw: bytes | str) -> str:
    raw = raw.encode() if isinstance(raw, str) else raw
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(
    header: dict[str, Any] | str = HEADER,
    claims: dict[str, Any] | str = CLAIMS,
    sign_with: PrivateKey | Callable[[bytes], bytes] = PRIVATE[ACTIVE.kid],
) -> str:
    """A token put together by hand: header and claims may be any text at all."""
    parts = [b64(part if isinstance(part, str) else json.dumps(part)) for part in (header, claims)]
    signed = ".".join(parts)
    if callable(sign_with):
        return f"{signed}.{b64(sign_with(signed.encode()))}"
    # The real key over these very bytes, whatever they are.
    key = sign_with._key.private_key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    der = key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
    r, s = utils.decode_dss_signature(der)
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def changed(**claims: Any) -> dict[str, Any]:
    return {**CLAIMS, **claims}


# --- good tokens ---------------------------------------------------------------------------------


def test_what_is_signed_is_verified_with_times_and_kid_filled_in() -> None:
    token = sign(HELD, {"sub": "alice"}, NOW)
    assert verify(HELD, token, NOW) == CLAIMS
    assert kid_in(token) == ACTIVE.kid
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header == HEADER


def test_a_token_forged_by_hand_with_the_real_key_is_good() -> None:
    """Else the refusals below would prove nothing."""
    assert verify(HELD, forged(), NOW) == CLAIMS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("use_dynamic", [True, False])
def test_every_algorithm_signs_and_joserfc_verifies_it_with_our_jwks(
    algorithm: str, use_dynamic: bool
) -> None:
    held = holding(real_ring(algorithm=algorithm, use_dynamic=use_dynamic))
    token = sign(held, {"sub": "alice"}, NOW)
    assert verify(held, token, NOW)["sub"] == "alice"
    keys = KeySet.import_key_set(held.ring.jwks())  # type: ignore[arg-type]
    with warnings.catch_warnings():
        # joserfc warns that RFC 9864 deprecates the name EdDSA; every verifier reads it.
        warnings.simplefilter("ignore")
        decoded = jwt.decode(token, keys, algorithms=[algorithm])
    assert decoded.claims == CLAIMS
    kid = decoded.header["kid"]
    assert kid.startswith("d-" if use_dynamic else "s-")
    with pytest.raises(InvalidSignature):
        verify(held, token[:-8] + "AAAAAAAA", NOW)


def test_who_wants_it_strict_refuses_the_kind_that_does_not_sign() -> None:
    """As SuperTokens does: the spike at a switch is then the price (docs/refresh-spikes.md)."""
    static_signs = replace(RING, policy=replace(RING.policy, use_dynamic=False))
    by_static = sign(holding(static_signs), {"sub": "alice"}, NOW)
    assert verify(HELD, by_static, NOW)
    with pytest.raises(KindMismatch, match="is a static key, and dynamic ones sign") as caught:
        verify(HELD, by_static, NOW, strict_key_kind=True)
    assert caught.value.reason is RefreshReason.KIND_MISMATCH
    assert caught.value.public == "invalid token"
    by_dynamic = sign(HELD, {"sub": "alice"}, NOW)
    assert verify(HELD, by_dynamic, NOW, strict_key_kind=True)
    # What is forged is told as such, whichever kind it claims to be of.
    forged = f"{by_static[:-8]}AAAAAAAA"
    with pytest.raises(InvalidSignature):
        verify(HELD, forged, NOW, strict_key_kind=True)
    # Where static keys sign and there is none, the dynamic one stands in.
    assert verify(holding(static_signs), by_static, NOW, strict_key_kind=True)
    with pytest.raises(KindMismatch):
        verify(holding(static_signs), by_dynamic, NOW, strict_key_kind=True)
    keys = tuple(key for key in RING.keys if key is not STATIC)
    without = replace(static_signs, keys=keys)
    assert verify(holding(without), by_dynamic, NOW, strict_key_kind=True)


@pytest.mark.parametrize("use_dynamic", [True, False])
def test_a_program_may_choose_its_own_kind_whatever_the_ring_s_policy_says(
    use_dynamic: bool,
) -> None:
    held = holding(replace(RING, policy=replace(RING.policy, use_dynamic=not use_dynamic)))
    token = sign(held, {"sub": "alice"}, NOW, use_dynamic=use_dynamic)
    kid = kid_in(token)
    assert kid.startswith("d-" if use_dynamic else "s-")
    assert verify(held, token, NOW)["sub"] == "alice"
    strict: Any = {"strict_key_kind": True, "use_dynamic": use_dynamic}
    assert verify(held, token, NOW, **strict), "strict is about what this program signs with"
    with pytest.raises(KindMismatch):
        verify(held, sign(held, {}, NOW), NOW, **strict)


def test_a_foreign_key_s_tokens_are_good_and_it_signs_nothing() -> None:
    private = PrivateKey.generate("ES256")
    foreign = replace(
        STATIC,
        kid="their-key-1",
        kind=KeyKind.FOREIGN,
        algorithm="ES256",
        public=private.public_jwk,
        state=KeyState.PUBLISHED,
    )
    ring = replace(RING, keys=(*RING.keys, foreign))
    held = holding(ring)
    claims = {"sub": "alice", "exp": NOW.timestamp() + 60}
    token = private.signed(compact.written("their-key-1", "ES256", None, claims)[0])
    assert verify(held, token, NOW)["sub"] == "alice"
    assert verify(held, token, NOW, strict_key_kind=True), "it is of no kind that ever signs here"
    assert foreign not in ring.may_sign_next
    assert "their-key-1" in {key["kid"] for key in ring.jwks()["keys"]}
    with pytest.raises(UnknownKid):
        verify(HELD, token, NOW)


def test_both_kinds_verify_whichever_signs() -> None:
    static = holding(real_ring(use_dynamic=False))
    assert kid_in(sign(static, {}, NOW)) == STATIC.kid
    assert verify(HELD, sign(static, {}, NOW), NOW)
    assert verify(static, sign(HELD, {}, NOW), NOW)


def test_the_dynamic_key_stands_in_for_a_revoked_static_one() -> None:
    ring = real_ring(use_dynamic=False)
    held = holding(revoke(ring, STATIC.kid, reason="leaked", now=NOW, epoch=1))
    assert kid_in(sign(held, {}, NOW)) == ACTIVE.kid


def test_a_header_of_ones_own_is_kept_but_chooses_neither_key_nor_algorithm() -> None:
    own = {"version": "5", "typ": "at+jwt", "kid": STANDBY.kid, "alg": "none"}
    token = sign(HELD, {}, NOW, header=own)
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header == {"version": "5", "typ": "at+jwt", "kid": ACTIVE.kid, "alg": "ES256"}
    assert verify(HELD, token, NOW)


def test_a_token_up_to_the_limit_is_signed_and_verified() -> None:
    token = sign(HELD, {"sub": "x" * 12_000}, NOW)
    assert 16_000 < len(token) <= MAX_TOKEN
    assert verify(HELD, token, NOW)


# --- lifetimes -----------------------------------------------------------------------------------


def test_the_lifetime_is_the_longest_unless_given() -> None:
    def expires(claims: dict[str, Any], lifetime: timedelta | None) -> int:
        token = sign(HELD, claims, NOW, lifetime=lifetime)
        return int(verify(HELD, token, NOW)["exp"]) - ISSUED

    assert expires({}, None) == 3600
    assert expires({}, MINUTE) == 60
    assert expires({}, HOUR) == 3600
    assert expires({"exp": ISSUED + 7}, None) == 7
    assert expires({"exp": ISSUED + 7}, MINUTE) == 60


@pytest.mark.parametrize(
    ("claims", "lifetime"),
    [
        ({}, HOUR + timedelta(milliseconds=1)),
        ({}, timedelta(days=1000)),
        ({"exp": ISSUED + 3601}, None),
        ({"exp": ISSUED + 3600.5}, None),
        ({"exp": ISSUED + 3700, "iat": ISSUED + 100}, None),
    ],
)
def test_no_token_outlives_access_token_validity(
    claims: dict[str, Any], lifetime: timedelta | None
) -> None:
    with pytest.raises(LifetimeTooLong, match="lives 1h at most; shorten its lifetime"):
        sign(HELD, claims, NOW, lifetime=lifetime)


@pytest.mark.parametrize("expiry", ["soon", None, True, float("nan"), float("inf"), 10**400, [1]])
def test_an_expiry_that_is_no_time_is_not_signed(expiry: object) -> None:
    with pytest.raises(Unsignable, match="exp is missing or not a number"):
        sign(HELD, {"exp": expiry}, NOW)


@pytest.mark.parametrize(
    ("claims", "lifetime"),
    [
        ({}, timedelta(0)),
        ({}, -HOUR),
        ({}, timedelta(milliseconds=999)),
        ({"exp": ISSUED - 1}, None),
    ],
)
def test_no_token_is_born_expired(claims: dict[str, Any], lifetime: timedelta | None) -> None:
    with pytest.raises(Unsignable, match="lives a second at least") as refused:
        sign(HELD, claims, NOW, lifetime=lifetime)
    assert str(refused.value).startswith("exp lies in the past: ") is (lifetime is None)


class Mode(Enum):
    ON = "on"


class Number(IntEnum):
    ONE = 1


class Name(str):
    """A text that no dictionary takes for any other."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Short(dict[str, Any]):
    """Claims that say that there are none."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": ISSUED + 10**9}, LifetimeTooLong),
        ({"exp": "x", "iat": None}, Unsignable),
        ({"iat": ISSUED + 3000}, Unsignable),
    ],
)
def test_times_are_looked_at_in_the_claims_that_are_signed(
    claims: dict[str, Any], error: type[Exception]
) -> None:
    """Whatever else the program's own object may say."""
    with pytest.raises(error):
        sign(HELD, Short(claims), NOW)


def test_what_a_program_does_to_its_claims_meanwhile_is_not_signed() -> None:
    """Another thread may: what was looked at is a copy, and that is what is written."""
    inner: list[Any] = [{"y": 1}]
    own = {"in": inner, "sub": "alice"}
    _, written_ = compact.written("d-x", "ES256", None, own)
    assert written_ == {"in": [{"y": 1}], "sub": "alice"}
    assert written_["in"] is not inner
    assert written_["in"][0] is not inner[0]


def test_what_is_like_a_text_is_signed_as_one() -> None:
    claims = verify(HELD, sign(HELD, {"sub": Name("alice"), "n": Number.ONE}, NOW), NOW)
    assert (type(claims["sub"]), claims["sub"], claims["n"]) == (str, "alice", 1)


def _cyclic() -> dict[str, Any]:
    claims: dict[str, Any] = {}
    claims["x"] = claims
    return claims


@pytest.mark.parametrize(
    "claims",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": {1}},
        {"x": object()},
        {"x": b""},
        {"x": NOW},
        {"x": [NOW.date()]},
        {"x": UUID(int=1)},
        {"x": Decimal(1)},
        {"x": {"y": Path("x")}},
        {"x": RING.policy},
        {"x": Mode.ON},
        {"x": [float("nan")]},
        {1: "a", "1": "b"},
        {Name("nbf"): True},
        {"iat": "abc"},
        {"iat": True},
        {"iat": ISSUED + 3000},
        {"nbf": True},
        {"nbf": None},
        _cyclic(),
    ],
)
def test_claims_that_no_verifier_would_take_are_not_signed(claims: dict[Any, Any]) -> None:
    with pytest.raises(Unsignable):
        sign(HELD, claims, NOW)


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({"sub": "a", "x": NOW}, "the claim 'x' has a datetime"),
        ({"x": [1, {"y": (b"secret",)}]}, "the claim 'x' has a bytes"),
        ({"x": {"y": float("-inf")}}, "the claim 'x' has a number that is none"),
        ({"x": {"secret": {1}}}, "the claim 'x' has a set"),
        (_cyclic(), "RecursionError"),
        ({(1,): NOW, "x": 1}, "TypeError"),
        ({"x": 10**5000}, "ValueError"),
    ],
)
def test_it_is_told_which_claim_no_token_can_carry_and_nothing_of_what_it_says(
    claims: dict[Any, Any], what: str
) -> None:
    with pytest.raises(Unsignable) as refused:
        sign(HELD, claims, NOW)
    assert f"no token can carry ({what}); use what JSON has" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("header", [{"typ": None}, {"jwk": 1}, {"jku": 1}, {"x": {1}}])
def test_a_header_that_no_verifier_would_take_is_not_signed(header: dict[str, Any]) -> None:
    with pytest.raises(Unsignable, match="as RFC 7515 says"):
        sign(HELD, {}, NOW, header=header)


def test_a_token_for_later_is_signed_and_good_then() -> None:
    token = sign(HELD, {"nbf": ISSUED + 600}, NOW)
    with pytest.raises(ImmatureToken):
        verify(HELD, token, NOW)
    assert verify(HELD, token, NOW + 10 * MINUTE)


def test_a_token_that_nobody_would_take_is_not_signed() -> None:
    with pytest.raises(Unsignable, match="16384 is the most"):
        sign(HELD, {"sub": "x" * MAX_TOKEN}, NOW)


def test_a_header_may_be_as_long_as_verifiers_take_it() -> None:
    room = 512 * 3 // 4 - len(json.dumps({**HEADER, "x": ""}, separators=(",", ":")))
    token = sign(HELD, {}, NOW, header={"x": "x" * room})
    assert token.index(".") == 512
    assert verify(HELD, token, NOW)
    with pytest.raises(Unsignable, match="header of more than 512 characters"):
        sign(HELD, {}, NOW, header={"x": "x" * (room + 1)})


@pytest.mark.parametrize("header", [{"crit": ["x"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}])
def test_a_header_with_extensions_is_not_signed(header: dict[str, Any]) -> None:
    with pytest.raises(Unsignable, match="extensions"):
        sign(HELD, {}, NOW, header=header)


# --- who may not sign ----------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", [60, 60.0, "60s", True])
def test_a_lifetime_that_is_no_duration_is_not_signed(lifetime: Any) -> None:
    with pytest.raises(Unsignable, match=r"a lifetime is a timedelta: timedelta\(minutes=5\)"):
        sign(HELD, {}, NOW, lifetime=lifetime)


@pytest.mark.parametrize(("claims", "header"), [([1], None), (None, None), ({}, "x")])
def test_claims_and_headers_that_are_no_mappings_are_not_signed(claims: Any, header: Any) -> None:
    with pytest.raises(Unsignable, match="claims and header are mappings"):
        sign(HELD, claims, NOW, header=header)


def test_what_cannot_be_signed_is_the_program_s_mistake_not_its_user_s() -> None:
    """So no app answers 401 for it, nor 503 for ever."""
    for error in (Unsignable, LifetimeTooLong):
        assert issubclass(error, ValueError)
        assert not issubclass(error, TokenError | InfrastructureError)


def test_a_stale_ring_signs_no_more_and_verifies_on() -> None:
    token = sign(HELD, {}, NOW)
    last = NOW + RING.policy.max_staleness
    assert sign(HELD, {}, last)
    with pytest.raises(StaleRing, match="24h 1s old, more than max_staleness"):
        sign(HELD, {}, last + SECOND)
    assert verify(HELD, forged(claims=changed(exp=ISSUED + 10**9)), last + SECOND)
    assert verify(HELD, token, NOW)


def test_a_stale_ring_verifies_no_more_where_that_is_wanted() -> None:
    held = holding(real_ring(max_verify_staleness=24 * HOUR))
    token = forged(claims=changed(exp=ISSUED + 10**9))
    assert verify(held, token, NOW + 24 * HOUR + SKEW)
    with pytest.raises(StaleRing, match="max_verify_staleness"):
        verify(held, token, NOW + 24 * HOUR + SKEW + SECOND)


def test_without_the_private_half_nothing_is_signed() -> None:
    verifier = replace(HELD, signing=MappingProxyType({}))
    with pytest.raises(NoSigningKey, match=f"no private half of {ACTIVE.kid}; give it the KEK"):
        sign(verifier, {}, NOW)
    assert verify(verifier, sign(HELD, {}, NOW), NOW)


def test_without_any_key_that_signs_nothing_is_signed() -> None:
    waiting = tuple(key for key in RING.keys if key.state is KeyState.PUBLISHED)
    with pytest.raises(NoSigningKey, match="no private half of any key"):
        sign(holding(replace(RING, keys=waiting)), {}, NOW)


# --- times, with leeway --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "at", "error"),
    [
        (CLAIMS, NOW + HOUR + SKEW - timedelta(milliseconds=1), None),
        (CLAIMS, NOW + HOUR + SKEW, ExpiredToken),
        (CLAIMS, NOW - SKEW, None),
        (CLAIMS, NOW - SKEW - timedelta(milliseconds=1), ImmatureToken),
        (changed(nbf=ISSUED + 60), NOW, None),
        (changed(nbf=ISSUED + 61), NOW, ImmatureToken),
        (changed(iat=ISSUED + 61), NOW, ImmatureToken),
        (changed(exp=ISSUED - 59.5), NOW, None),
        (changed(exp=ISSUED - 60), NOW, ExpiredToken),
        (changed(exp=ISSUED - 60, nbf="x"), NOW, ExpiredToken),
        (changed(iat=ISSUED + 61, nbf=ISSUED - 60), NOW, ImmatureToken),
        ({"exp": ISSUED + 1}, NOW, None),
    ],
)
def test_times_count_with_the_clock_skew_as_leeway(
    claims: dict[str, Any], at: datetime, error: type[TokenError] | None
) -> None:
    token = forged(claims=claims)
    if error is None:
        assert verify(HELD, token, at) == claims
    else:
        with pytest.raises(error):
            verify(HELD, token, at)


# --- audience and issuer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aud", "asked", "is_good"),
    [
        ("api", None, True),
        ("api", "api", True),
        (["web", "api"], "api", True),
        ("api", ["web", "api"], True),
        (["api"], ("api",), True),
        ("api", {"api": 1}.keys(), True),
        ("api", ["api", ""], True),
        (None, "api", False),
        ("ap", "api", False),
        ("api", "ap", False),
        (["web"], {"api"}, False),
        ([], "api", False),
        (7, "api", False),
        ([["api"], 7], "api", False),
        ({"api": 1}, "api", False),
    ],
)
def test_a_token_is_for_the_audience_that_is_asked_for(aud: Any, asked: Any, is_good: bool) -> None:
    token = sign(HELD, {} if aud is None else {"aud": aud}, NOW)
    if is_good:
        assert verify(HELD, token, NOW, audience=asked)
    else:
        with pytest.raises(ClaimMismatch, match="not for"):
            verify(HELD, token, NOW, audience=asked)


def test_a_token_is_of_the_issuer_that_is_asked_for() -> None:
    token = sign(HELD, {"iss": "https://a"}, NOW)
    assert verify(HELD, token, NOW, issuer="https://a")
    for other in (token, sign(HELD, {}, NOW)):
        with pytest.raises(ClaimMismatch, match="issuer is not 'https://b'") as caught:
            verify(HELD, other, NOW, issuer="https://b")
        assert str(caught.value).endswith("(it names none)") is (other != token)


def test_what_a_token_was_to_be_for_is_named() -> None:
    for claims, told in (
        ({"aud": "web"}, "the token is not for 'api' or 'cli'"),
        ({}, "the token is not for 'api' or 'cli' (it names no audience)"),
    ):
        with pytest.raises(ClaimMismatch) as caught:
            verify(HELD, sign(HELD, claims, NOW), NOW, audience=["cli", "api"])
        assert str(caught.value) == told


@pytest.mark.parametrize(
    ("asked", "error", "why"),
    [
        ({"audience": 5}, TypeError, r"or several: 'api', or \['api', 'web'\]"),
        ({"audience": b"api"}, TypeError, "an audience is a string"),
        ({"audience": ["api", None]}, TypeError, "an audience is a string"),
        ({"audience": iter(["api"])}, TypeError, "an audience is a string"),
        ({"audience": []}, ValueError, "the audience is empty; where tokens need not name one"),
        ({"audience": ""}, ValueError, "the audience is empty"),
        ({"audience": {""}}, ValueError, "the audience is empty"),
        ({"issuer": ["https://a"]}, TypeError, "an issuer is a string"),
        ({"issuer": b"https://a"}, TypeError, "an issuer is a string"),
        ({"issuer": "", "audience": "api"}, ValueError, "the issuer is empty; where"),
    ],
)
def test_what_no_token_could_have_is_a_mistake_of_the_program_s(
    asked: dict[str, Any], error: type[Exception], why: str
) -> None:
    """As a refused token it would send every user to log in again, for ever."""
    for claims in ({}, {"aud": ["api"], "iss": "https://a"}, {"aud": "", "iss": ["https://a"]}):
        token = sign(HELD, claims, NOW)
        with pytest.raises(error, match=why):
            verify(HELD, token, NOW, **asked)


# --- bad tokens ----------------------------------------------------------------------------------


def _hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()


def _no_signature(_: bytes) -> bytes:
    return b""


_PUBLIC = PRIVATE[ACTIVE.kid]._key
_HS = {**HEADER, "alg": "HS256"}
_GOOD = sign(HELD, {"sub": "alice"}, NOW)
_NO_KID = {"alg": "ES256"}
_STRANGER = "d-" + "x" * 22
_OTHERS = PrivateKey.generate("ES256")

BAD: dict[str, tuple[Any, type[TokenError]]] = {
    "no kid": (forged(_NO_KID), MalformedToken),
    "a kid that is no text": (forged({**HEADER, "kid": 7}), MalformedToken),
    "a kid that is null": (forged({**HEADER, "kid": None}), MalformedToken),
    "unknown kid": (forged({**HEADER, "kid": _STRANGER}), UnknownKid),
    "unknown and huge kid": (forged({**HEADER, "kid": "d-" * 5000}), MalformedToken),
    "alg none": (forged({**HEADER, "alg": "none"}, sign_with=_no_signature), WrongAlgorithm),
    "alg None": (forged({**HEADER, "alg": None}), WrongAlgorithm),
    "no alg": (forged({"kid": ACTIVE.kid}), WrongAlgorithm),
    "alg of another case": (forged({**HEADER, "alg": "es256"}), WrongAlgorithm),
    "another algorithm": (forged({**HEADER, "alg": "RS256"}), WrongAlgorithm),
    "no signature": (forged(sign_with=_no_signature), InvalidSignature),
    "HS256 made with the public key, PEM": (
        forged(_HS, sign_with=_hs256(_PUBLIC.as_pem(private=False))),
        WrongAlgorithm,
    ),
    "HS256 made with the public key, DER": (
        forged(_HS, sign_with=_hs256(_PUBLIC.as_der(private=False))),
        WrongAlgorithm,
    ),
    "HS256 made with the public key, JWK": (
        forged(_HS, sign_with=_hs256(json.dumps(dict(ACTIVE.public)).encode())),
        WrongAlgorithm,
    ),
    "HS256 that says ES256": (
        forged(sign_with=_hs256(_PUBLIC.as_pem(private=False))),
        InvalidSignature,
    ),
    "wrong kid for its key": (forged({**HEADER, "kid": STANDBY.kid}), InvalidSignature),
    "the static kid for a dynamic key": (
        forged({**HEADER, "kid": STATIC.kid}),
        InvalidSignature,
    ),
    "signed by somebody else": (forged(sign_with=_OTHERS), InvalidSignature),
    "a key of its own": (
        forged({**HEADER, "jwk": dict(_OTHERS.public_jwk)}, sign_with=_OTHERS),
        InvalidSignature,
    ),
    "expired": (forged(claims=changed(exp=ISSUED - 3600)), ExpiredToken),
    "expired, of an unknown key": (
        forged({**HEADER, "kid": _STRANGER}, changed(exp=ISSUED - 3600)),
        ExpiredToken,
    ),
    "from the future": (forged(claims=changed(iat=ISSUED + 3600)), ImmatureToken),
    "not yet valid": (forged(claims=changed(nbf=ISSUED + 3600)), ImmatureToken),
    "not base64": (f"{_GOOD.split('.')[0]}.§$%&/.{_GOOD.split('.')[2]}", MalformedToken),
    "not base64url": (f"{b64(json.dumps(HEADER))}.++//.AAAA", MalformedToken),
    "padded base64": (_GOOD.replace(".", "=."), MalformedToken),
    "base64 of nothing": ("..", MalformedToken),
    "a signature that is not base64": (_GOOD.rpartition(".")[0] + ".!!!", InvalidSignature),
    "a header of 600 characters": (forged({**HEADER, "x": "x" * 400}), MalformedToken),
    "a kid of 600 characters": (forged({**HEADER, "kid": "x" * 400}), MalformedToken),
    "1 MB": ("x" * 1_000_000, MalformedToken),
    "1 MB with dots": (f"{_GOOD.split('.')[0]}.{'e' * 1_000_000}.AAAA", MalformedToken),
    "1 MB of dots": ("." * 1_000_000, MalformedToken),
    "empty": ("", MalformedToken),
    "one part": (_GOOD.split(".")[0], MalformedToken),
    "four parts": (_GOOD + ".AAAA", MalformedToken),
    "a JWE": (_GOOD + ".AAAA.AAAA", MalformedToken),
    "cut short": (_GOOD[:-5], InvalidSignature),
    "claims of another token": (
        ".".join([*forged(claims=changed(sub="mallory")).split(".")[:2], _GOOD.split(".")[2]]),
        InvalidSignature,
    ),
    "kid twice": (
        forged(f'{{"alg":"ES256","kid":"{STANDBY.kid}","kid":"{ACTIVE.kid}"}}'),
        MalformedToken,
    ),
    "exp twice": (forged(claims=f'{{"exp":1,"exp":{ISSUED + 60}}}'), MalformedToken),
    "a member twice, deep inside": (
        forged(claims=f'{{"exp":{ISSUED + 60},"x":[{{"a":1,"a":2}}]}}'),
        MalformedToken,
    ),
    "crit": (forged({**HEADER, "crit": ["exp"], "exp": 1}), MalformedToken),
    "an empty crit": (forged({**HEADER, "crit": []}), MalformedToken),
    "b64": (forged({**HEADER, "b64": False, "crit": ["b64"]}), MalformedToken),
    "b64 without crit": (forged({**HEADER, "b64": False}), MalformedToken),
    "not ASCII": (_GOOD + "é", MalformedToken),
    "a look-alike": (_GOOD.replace(".", "․"), MalformedToken),  # noqa: RUF001 - that is it
    "control characters": (_GOOD + "\n", InvalidSignature),
    "exp of a thousand digits": (
        forged(claims=f'{{"exp":1{"0" * 1000}}}'),
        MalformedToken,
    ),
    "exp of ten thousand digits": (
        forged(claims=f'{{"exp":1{"0" * 10_000}}}'),
        MalformedToken,
    ),
    "exp of 1e400": (forged(claims='{"exp":1e400}'), MalformedToken),
    "exp NaN": (forged(claims='{"exp":NaN}'), MalformedToken),
    "exp Infinity": (forged(claims='{"exp":Infinity}'), MalformedToken),
    "iat NaN": (forged(claims=f'{{"exp":{ISSUED + 60},"iat":NaN}}'), MalformedToken),
    "iat that is text": (forged(claims=changed(iat="now")), MalformedToken),
    "nbf that is null": (forged(claims=changed(nbf=None)), MalformedToken),
    "exp that is true": (forged(claims=changed(exp=True)), MalformedToken),
    "exp that is text": (forged(claims=changed(exp=str(ISSUED + 60))), MalformedToken),
    "no exp": (forged(claims={"sub": "alice"}), MalformedToken),
    "claims that are a list": (forged(claims="[1]"), MalformedToken),
    "claims that are no JSON": (forged(claims="{"), MalformedToken),
    "claims that are empty": (forged(claims=""), MalformedToken),
    "claims that are not UTF-8": (
        f"{b64(json.dumps(HEADER))}.{b64(bytes([0xFF, 0xFE, 0xFD]))}.AAAA",
        MalformedToken,
    ),
    "claims nested a thousand deep": (forged(claims="[" * 5000), MalformedToken),
    "a header that is a list": (forged("[]"), MalformedToken),
    "bytes": (_GOOD.encode(), MalformedToken),
    "None": (None, MalformedToken),
}


@pytest.mark.parametrize(("token", "error"), BAD.values(), ids=BAD)
def test_a_bad_token_is_refused_for_what_is_wrong_with_it(
    token: Any, error: type[TokenError]
) -> None:
    with pytest.raises(TokenError) as refusal:
        verify(HELD, token, NOW)
    assert type(refusal.value) is error
    told = str(refusal.value)
    assert told
    assert len(told) < 300
    assert "\n" not in told


def test_a_wrong_signature_says_what_to_do() -> None:
    with pytest.raises(InvalidSignature, match=r"is not one of d-\S+: .* let the user log in"):
        verify(HELD, _GOOD[:-5], NOW)


@pytest.mark.parametrize("name", ["1 MB", "1 MB with dots", "1 MB of dots"])
def test_a_megabyte_is_refused_unread(name: str) -> None:
    with pytest.raises(MalformedToken, match="characters; 16384 is the most"):
        verify(HELD, BAD[name][0], NOW)


def test_tokens_of_a_revoked_key_are_refused_whoever_made_them() -> None:
    held = holding(revoke(RING, ACTIVE.kid, reason="leaked", now=NOW, epoch=1))
    with pytest.raises(RevokedKid, match=f"{ACTIVE.kid} was revoked"):
        verify(held, _GOOD, NOW)
    assert kid_in(sign(held, {}, NOW)) == STANDBY.kid


def test_an_unknown_kid_is_named_with_the_version_it_is_unknown_in() -> None:
    with pytest.raises(UnknownKid, match=rf"unknown kid '{_STRANGER}'.*at version 1"):
        verify(HELD, BAD["unknown kid"][0], NOW)


def test_a_refusal_says_why_the_session_must_be_refreshed() -> None:
    reasons = {}
    for name in ("expired", "unknown kid", "no kid"):
        with pytest.raises(TokenError) as refusal:
            verify(HELD, BAD[name][0], NOW)
        reasons[name] = refusal.value.reason
    assert reasons == {
        "expired": RefreshReason.EXPIRED,
        "unknown kid": RefreshReason.UNKNOWN_KID,
        "no kid": RefreshReason.OTHER,
    }
    assert RevokedKid.reason is RefreshReason.REVOKED_KID


def test_no_refusal_quotes_the_token() -> None:
    for token, _ in BAD.values():
        with pytest.raises(TokenError) as refusal:
            verify(HELD, token, NOW)
        for part in str(token).split("."):
            assert len(part) < 30 or part not in str(refusal.value)


def test_the_kid_is_read_from_a_token_that_has_one() -> None:
    assert tokens.kid_in(BAD["unknown kid"][0]) == _STRANGER
    with pytest.raises(MalformedToken, match="without a kid"):
        kid_in(BAD["no kid"][0])
