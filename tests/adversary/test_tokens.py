"""The catalogue of attacks on JWTs, tried on `Keyring.verify` with each algorithm that we offer.

RFC 8725 (best current practices), RFC 7515 section 10 and the known incidents with JWT libraries
are where they are from.

What a verifier might take for a block of PKCS #1 is in `test_padding`. Not here, and why: small
groups and invalid curves need a key of the attacker's choice; the only way a key comes into a ring
is a snapshot that the trust root signed, and what a token brings along is never used (tested).
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count, product
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, utils

import ringkeeper.testing
from ringkeeper import by_joserfc
from ringkeeper.algorithms import ALGORITHMS, PublicKey
from ringkeeper.compact import base64url
from ringkeeper.errors import (
    ClaimMismatch,
    ExpiredToken,
    InfrastructureError,
    InvalidSignature,
    MalformedToken,
    RevokedKid,
    RingkeeperError,
    TokenError,
    UnknownKid,
    WrongAlgorithm,
)
from ringkeeper.token_cache import TokenCache
from ringkeeper.tokens import MAX_HEADER, kid_in
from tests.adversary.catalogue import ATTACKS
from tests.adversary.forging import (
    HASHES,
    ORDER,
    WIDTH,
    Victim,
    b64,
    compact,
    hs256,
    nothing,
    raw_of,
    signer_of,
    unb64,
    victim,
)

RSA = [name for name in ALGORITHMS if name[:2] in ("RS", "PS")]
ECDSA = [name for name in ALGORITHMS if name.startswith("ES")]
QUICK = 0.5
"""Seconds of CPU: a refusal takes a ten-thousandth of that, and CI machines are slow."""
Attack = Callable[[Victim], Any]


def refused(ring: ringkeeper.testing.MemoryKeyring, token: Any) -> TokenError:
    """How `token` was refused: by a TokenError, in a line that does not quote it, quickly."""
    began = time.thread_time()
    with pytest.raises(TokenError) as refusal:
        ring.verify(token)
    assert time.thread_time() - began < QUICK
    told = str(refusal.value)
    assert told
    assert len(told) < 400
    assert told.isprintable()
    for part in str(token).split(".") if isinstance(token, str) else []:
        assert len(part) < 40 or part not in told
    return refusal.value


# --- what must be so, else the rest proves nothing -----------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_put_together_by_hand_is_good_if_nothing_is_wrong_with_it(algorithm: str) -> None:
    v = victim(algorithm)
    assert v.ring.verify(v.forged()) == v.claims
    assert v.ring.verify(v.forged({**v.header, "x": "y"}, {**v.claims, "nbf": v.now})) is not None


# --- attacks on every algorithm ------------------------------------------------------------------

_OTHER_ALGORITHMS = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "ES512", "ES256K", "EdDSA", "Ed25519", "Ed448", "RSA1_5", "RSA-OAEP", "dir",
    "A256GCM", "ECDH-ES", "rs256", "es256", "eddsa", "RS256\0", "ES256 ", "EdDSA,none",
]  # fmt: skip


def _public_texts(v: Victim) -> dict[str, bytes]:
    """Everything that somebody may have taken for the secret of an HMAC."""
    encoding, form = serialization.Encoding, serialization.PublicFormat
    pem = v.key.public_bytes(encoding.PEM, form.SubjectPublicKeyInfo)
    texts = {
        "PEM": pem,
        "PEM without its last line feed": pem.strip(),
        "PEM with CRLF": pem.replace(b"\n", b"\r\n"),
        "DER": v.key.public_bytes(encoding.DER, form.SubjectPublicKeyInfo),
        "JWK": json.dumps(v.jwk).encode(),
        "JWK, compact": json.dumps(v.jwk, separators=(",", ":"), sort_keys=True).encode(),
        "JWKS": json.dumps(v.ring.jwks()).encode(),
        "the kid": v.kid.encode(),
        "nothing": b"",
    }
    for member in ("n", "x", "y"):
        if member in v.jwk:
            texts[f"the member {member}"] = unb64(v.jwk[member])
            texts[f"the member {member}, as text"] = v.jwk[member].encode()
    if v.algorithm in RSA:
        texts["PEM, PKCS #1"] = v.key.public_bytes(encoding.PEM, form.PKCS1)
    elif v.algorithm in ECDSA:
        texts["the point"] = v.key.public_bytes(encoding.X962, form.UncompressedPoint)
    return texts


@pytest.mark.parametrize(
    "verifies", [PublicKey.verifies, by_joserfc.verifies], ids=["own", "joserfc"]
)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_for_what_is_wrong_with_it(
    name: str, verifies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, attack = ATTACKS[name]
    for algorithm in ALGORITHMS:
        v = victim(algorithm)
        token = attack(v)
        # An RSA key is too long for a header that we read.
        is_long = isinstance(token, str) and token.find(".") > MAX_HEADER
        monkeypatch.setattr(v.ring, "_verifies", verifies)
        assert type(refused(v.ring, token)) is (MalformedToken if is_long else error), algorithm


@pytest.mark.parametrize("token", [None, b"", 7, 1.5, [], {}, ("a", "b"), object(), True])
def test_what_is_no_text_is_no_token(token: Any) -> None:
    assert type(refused(victim("ES256").ring, token)) is MalformedToken


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_of_another_name_is_refused_whatever_signed(algorithm: str) -> None:
    v = victim(algorithm)
    for other in _OTHER_ALGORITHMS:
        if other == algorithm:
            continue
        for sign in (v.real, v.own, nothing):
            token = v.forged({**v.header, "alg": other}, sign=sign)
            assert type(refused(v.ring, token)) is WrongAlgorithm, other


@pytest.mark.parametrize("algorithm", RSA)
def test_a_good_signature_by_another_algorithm_of_the_same_key_is_refused(algorithm: str) -> None:
    """An RSA key could do four of them: it does the one that it was made for."""
    v = victim(algorithm)
    for other in RSA:
        if other != algorithm:
            sign = signer_of(v.private, other)
            said = compact({**v.header, "alg": other}, v.claims, sign)
            unsaid = compact(v.header, v.claims, sign)
            assert type(refused(v.ring, said)) is WrongAlgorithm
            assert type(refused(v.ring, unsaid)) is InvalidSignature


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_public_is_the_secret_of_an_hmac(algorithm: str) -> None:
    """RFC 8725 section 2.1: RS256 verified as HS256, with the public key as the secret."""
    v = victim(algorithm)
    for text in _public_texts(v).values():
        for alg in ("HS256", "hs256", "HS256 "):
            token = v.forged({**v.header, "alg": alg}, sign=hs256(text))
            assert type(refused(v.ring, token)) is WrongAlgorithm
        assert type(refused(v.ring, v.forged(sign=hs256(text)))) is InvalidSignature


# --- keys by their state -------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_keys_that_are_revoked_or_removed_verify_nothing_and_retired_ones_do(
    algorithm: str,
) -> None:
    v = Victim(algorithm)

    def late() -> str:
        """A token that its key signed just now, whatever became of the key."""
        now = int(v.ring._time.now_is.timestamp())
        return v.forged(claims={"exp": now + 600})

    v.ring.rotate()
    assert v.ring.verify(late())
    v.ring.advance("26h")
    assert type(refused(v.ring, late())) is UnknownKid

    w = Victim(algorithm)
    w.ring.revoke(w.kid, reason="leaked")
    assert type(refused(w.ring, w.forged())) is RevokedKid, "by who has the key that leaked"
    assert type(refused(w.ring, w.forged(sign=w.own))) is InvalidSignature, "by anybody"


def test_a_token_of_one_ring_is_no_token_of_another() -> None:
    one, other = victim("ES256"), Victim("ES256")
    assert type(refused(other.ring, one.token)) is UnknownKid
    swapped = one.forged({**one.header, "kid": other.kid})
    assert type(refused(other.ring, swapped)) is InvalidSignature


# --- what the token names is not fetched ---------------------------------------------------------


def test_no_place_that_a_token_names_is_ever_asked() -> None:
    """SSRF by `jku` and `x5u`: a real server waits there, and nobody comes."""
    asked: list[str] = []
    v = victim("ES256")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"keys": [{**v.own_jwk, "kid": v.kid, "alg": v.algorithm}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        place = f"http://127.0.0.1:{server.server_port}/jwks.json"
        try:
            for member in ("jku", "x5u", "jwk", "iss", "kid"):
                refused(v.ring, v.forged({**v.header, member: place}, sign=v.own))
            refused(v.ring, v.forged(claims={**v.claims, "iss": place}, sign=v.own))
        finally:
            server.shutdown()
            thread.join()
    assert asked == []


# --- one algorithm's own -------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ECDSA)
def test_ecdsa_takes_no_signature_outside_of_its_group(algorithm: str) -> None:
    """CVE-2022-21449: (0, 0) verified everything."""
    v, n = victim(algorithm), ORDER[algorithm]
    good = unb64(v.token.rpartition(".")[2])
    width = WIDTH[algorithm]
    r, s = (int.from_bytes(half, "big") for half in (good[:width], good[width:]))
    top = 2 ** (8 * width)
    edges = (0, 1, n - 1, n)
    pairs = [*product(edges, edges), (0, s), (r, 0), (r, n), (n, s)]
    pairs += [(s, r), (r, (s + 1) % n), (n - r, s), (top - 1, top - 1)]
    pairs += [(a, b) for a, b in ((r + n, s), (r, s + n)) if max(a, b) < top]
    signed = v.token.rpartition(".")[0]
    for pair in pairs:
        token = f"{signed}.{b64(raw_of(*pair, algorithm))}"
        assert type(refused(v.ring, token)) is InvalidSignature, pair


@pytest.mark.parametrize("algorithm", ECDSA)
def test_ecdsa_takes_both_halves_at_full_width_and_no_der(algorithm: str) -> None:
    v, width = victim(algorithm), WIDTH[algorithm]
    signed, _, signature = v.token.rpartition(".")
    good = unb64(signature)
    r, s = (int.from_bytes(half, "big") for half in (good[:width], good[width:]))
    der = utils.encode_dss_signature(r, s)
    for raw in (
        der,
        der + bytes(2 * width - len(der)) if len(der) < 2 * width else der[: 2 * width],
        good[:width],
        b"\0" + good[:width] + b"\0" + good[width:],
        good[1:width] + good[width + 1 :],
        bytes(8) + good,
    ):
        assert type(refused(v.ring, f"{signed}.{b64(raw)}")) is InvalidSignature


@pytest.mark.parametrize("algorithm", ECDSA)
def test_an_ecdsa_signature_has_a_twin_and_so_a_token_s_text_is_no_name_for_it(
    algorithm: str,
) -> None:
    """(r, n - s) is as good as (r, s), and is taken.

    FIPS 186-5 has both, OpenSSL makes both, and to refuse one would refuse half of the honest
    tokens. It says nothing that was not signed; a list of refused tokens must go by `jti`, or by
    key (`ringkeeper revoke`), never by their text.
    """
    v, width = victim(algorithm), WIDTH[algorithm]
    signed, _, signature = v.token.rpartition(".")
    good = unb64(signature)
    r, s = (int.from_bytes(half, "big") for half in (good[:width], good[width:]))
    twin = f"{signed}.{b64(raw_of(r, ORDER[algorithm] - s, algorithm))}"
    assert twin != v.token
    assert v.ring.verify(twin) == v.ring.verify(v.token)


def test_eddsa_takes_no_other_spelling_of_a_signature() -> None:
    """RFC 8032 section 5.1.7: S is below the order of the group, else (R, S + L) would do, too."""
    v, order = victim("EdDSA"), ORDER["EdDSA"]
    signed, _, signature = v.token.rpartition(".")
    good = unb64(signature)
    scalar = int.from_bytes(good[32:], "little")
    for other in (scalar + order, scalar + 2 * order, scalar + 15 * order, order, 2**256 - 1, 0):
        if other < 2**256:
            raw = good[:32] + other.to_bytes(32, "little")
            assert type(refused(v.ring, f"{signed}.{b64(raw)}")) is InvalidSignature
    for raw in (good + good[:50], good[:63], good[:32], good[32:] + good[:32]):
        assert type(refused(v.ring, f"{signed}.{b64(raw)}")) is InvalidSignature


_SMALL = [
    bytes([1]) + bytes(31),
    bytes(32),
    bytes([0xEC]) + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]
"""Points of Curve25519 whose multiples are few: with one as its key, anything verifies."""


def test_eddsa_takes_no_point_of_a_small_group_in_a_signature_or_a_header() -> None:
    """With R and A small and S = 0 a signature would hold for every message."""
    v = victim("EdDSA")
    for point in _SMALL:
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(point)}
        for scalar in (0, 1):
            raw = point + scalar.to_bytes(32, "little")
            for header in (v.header, {**v.header, "jwk": jwk}):
                token = v.forged(header, sign=lambda _, raw=raw: raw)  # type: ignore[misc]
                assert type(refused(v.ring, token)) is InvalidSignature


@pytest.mark.parametrize("algorithm", RSA)
def test_rsa_takes_a_signature_of_exactly_its_modulus_size(algorithm: str) -> None:
    v = victim(algorithm)
    signed, _, signature = v.token.rpartition(".")
    good, n = unb64(signature), v.key.public_numbers().n
    number, size = int.from_bytes(good, "big"), len(good)
    for other in (0, 1, n - 1, n, n + 1, number + n, n - number):
        if other < 256**size:
            raw = other.to_bytes(size, "big")
            assert type(refused(v.ring, f"{signed}.{b64(raw)}")) is InvalidSignature
    for raw in (b"\0" + good, bytes(16) + good, good[1:], good.lstrip(b"\0")[:-1], good + b"\0"):
        assert type(refused(v.ring, f"{signed}.{b64(raw)}")) is InvalidSignature


@pytest.mark.parametrize("algorithm", RSA)
def test_rsa_takes_no_signature_without_its_leading_zeros(algorithm: str) -> None:
    """One in 256 begins with one; OpenSSL takes a PSS signature with or without."""
    v = victim(algorithm)
    for number in count():
        token = v.forged(claims={**v.claims, "jti": number})
        signed, _, signature = token.rpartition(".")
        raw = unb64(signature)
        if raw[0] == 0:
            break
    assert v.ring.verify(token)
    assert type(refused(v.ring, f"{signed}.{b64(raw[1:])}")) is InvalidSignature
    assert type(refused(v.ring, f"{signed}.{b64(raw.lstrip(bytes(1)))}")) is InvalidSignature


@pytest.mark.parametrize("algorithm", RSA)
def test_rsa_keys_have_the_exponent_that_no_forger_of_padding_can_use(algorithm: str) -> None:
    for key in victim(algorithm).public.values():
        assert dict(key.public)["e"] == "AQAB"


def test_ps256_takes_a_salt_as_long_as_its_hash_alone() -> None:
    """RFC 7518 section 3.5. A verifier that takes any length takes what others did not mean."""
    v, digest = victim("PS256"), HASHES["256"]()
    for length in (0, 8, 20, 31, 33, 48, 64, padding.PSS.MAX_LENGTH):
        salted = padding.PSS(padding.MGF1(digest), length)
        token = v.forged(sign=lambda b, p=salted: v.private.sign(b, p, digest))  # type: ignore[misc]
        assert type(refused(v.ring, token)) is InvalidSignature, length
    for mask in ("384", "512"):
        salted = padding.PSS(padding.MGF1(HASHES[mask]()), digest.digest_size)
        token = v.forged(sign=lambda b, p=salted: v.private.sign(b, p, digest))  # type: ignore[misc]
        assert type(refused(v.ring, token)) is InvalidSignature, mask


# --- wherever it is called from ------------------------------------------------------------------


@pytest.mark.parametrize(
    "verifies", [PublicKey.verifies, by_joserfc.verifies], ids=["own", "joserfc"]
)
def test_a_header_that_is_not_as_the_rfc_says_is_no_good_however_well_signed(
    verifies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd: dict[str, Any]
    for algorithm in ALGORITHMS:
        v = victim(algorithm)
        monkeypatch.setattr(v.ring, "_verifies", verifies)
        for odd in ({"typ": 5}, {"typ": None}, {"x5u": []}, {"jwk": "x"}):
            token = v.forged(json.dumps({**v.header, **odd}))
            assert type(refused(v.ring, token)) is InvalidSignature, (algorithm, odd)


def test_a_token_of_a_revoked_key_is_called_so_only_if_it_would_have_counted() -> None:
    """Else a stranger could make it look as if a user had to refresh."""
    with ringkeeper.testing.keyring() as ring:
        good = ring.sign({"sub": "alice"})
        kid, claims = kid_in(good), good.split(".")[1]
        sign = ring._held().signing[kid].signed
        odd = [
            sign(f"{base64url(json.dumps({'kid': kid, **more}).encode())}.{claims}")
            for more in ({"alg": "none"}, {"alg": "ES384"}, {}, {"alg": "ES256", "typ": 5})
        ]
        ring.revoke(kid)
        assert type(refused(ring, good)) is RevokedKid
        assert {type(refused(ring, token)) for token in odd} == {InvalidSignature}


def has_room(ring: Any, token: str) -> bool:
    """Whether it is verified, or refused, and not given up for lack of stack."""
    try:
        ring.verify(token)
    except RecursionError:
        return False
    except TokenError:
        return True
    return True


def test_no_stack_is_so_deep_that_a_token_makes_verify_fail_otherwise() -> None:
    """A header that was read twice, the second time some calls deeper, broke there once.

    An app that catches `TokenError` would have answered 500 at a stranger's wish: so where there
    is room to verify a plain token, none fails for lack of it, be they new here or known.
    """
    v = victim("ES256")
    nested = json.dumps(v.header)[:-1] + f',"x":{"[" * 100}{"]" * 100}}}'
    deep: object = "x"
    for level in range(60):
        deep = {"y": deep} if level % 2 else [deep]
    with ringkeeper.testing.keyring() as new, ringkeeper.testing.keyring() as known:
        new._cache = TokenCache(0)
        new._replica = v.ring._replica
        forged = v.forged(nested), v.forged(nested, sign=v.own)
        pairs: list[Any] = [(new, v.token, [(new, token) for token in forged])]
        plain, rich = known.sign({"sub": "alice"}), known.sign({"sub": "alice", "deep": deep})
        assert all(known.verify(token) == known.verify(token) for token in (plain, rich))
        pairs += [(known, plain, [(known, rich)])]
        tried = 0

        def at(depth: int) -> None:
            nonlocal tried
            if depth:
                at(depth - 1)
                return
            for ring, token, others in pairs:
                if has_room(ring, token):
                    tried += 1
                    for where, other in others:  # no generator, which would be a call deeper
                        assert has_room(where, other), where

        for depth in range(500, sys.getrecursionlimit()):
            # Known, and not read again yet: that happens down there.
            pairs[0][2][2:] = [(known, known.sign({"sub": str(depth), "deep": deep}))]
            known.verify(pairs[0][2][2][1])
            with suppress(RecursionError):
                at(depth)
        assert tried > 600


# --- what is passed on ---------------------------------------------------------------------------


def _failures() -> dict[str, RingkeeperError]:
    """One failure of every kind that `verify` has, as an app would catch it."""
    v = Victim("ES256")
    found: dict[str, RingkeeperError] = {}
    for name in (
        "alg 'none', unsigned",
        "kid: a path",
        "kid: the standby's",
        "key: jwk",
        "crit: b64",
        "two parts",
        "nbf ahead",
        "expired just now",
    ):
        found[name] = refused(v.ring, ATTACKS[name][1](v))
    with pytest.raises(ClaimMismatch) as mismatch:
        v.ring.verify(v.token, audience="another")
    found["audience"] = mismatch.value
    with pytest.raises(ClaimMismatch) as mismatch:
        v.ring.verify(v.token, issuer="another")
    found["issuer"] = mismatch.value
    v.ring.revoke(v.kid, reason="leaked by bob")
    found["revoked"] = refused(v.ring, v.token)
    v.ring.close()
    with pytest.raises(InfrastructureError) as away:
        v.ring.verify(v.token)
    found["closed"] = away.value
    return found


def test_what_a_stranger_may_be_told_tells_no_case_from_another() -> None:
    """RFC 8725 section 2.6 by way of the error: `public` is constant, `str(error)` for the log."""
    told = {name: error.public for name, error in _failures().items()}
    assert told.pop("expired just now") == "expired token"
    assert told.pop("closed") == "temporarily unavailable"
    assert set(told.values()) == {"invalid token"}
    assert len(told) == 10


def _kinds(family: type[RingkeeperError]) -> list[type[RingkeeperError]]:
    return [family, *(kind for each in family.__subclasses__() for kind in _kinds(each))]


def test_every_failure_has_a_public_text_which_is_one_of_few() -> None:
    """A kind that is added later tells no more, unless somebody decides so here."""
    for kind in _kinds(RingkeeperError):
        if issubclass(kind, TokenError):
            expected = "expired token" if kind is ExpiredToken else "invalid token"
        elif issubclass(kind, InfrastructureError):
            expected = "temporarily unavailable"
        else:
            expected = "something went wrong here"
        assert kind.public == expected, kind
        assert "public" not in kind("x").__dict__, kind
