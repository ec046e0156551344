"""Private keys: sealed, bound to their public half, and shown to nobody (promise 4)."""

import copy
import json
import pickle
import traceback
from dataclasses import replace
from typing import Any

import pytest
from joserfc import jwe
from joserfc.errors import SecurityWarning
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode

from ringkeeper.algorithms import ALGORITHMS, PrivateKey, PublicKey, algorithm_named, thumbprint
from ringkeeper.errors import MalformedDocument, SealBroken, SecretError, UnsupportedAlgorithm
from ringkeeper.ring import Key
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from tests.core.builders import new_ring, policy

KEK = Kek.generate()


def key_of(private: PrivateKey) -> Key:
    active = new_ring(policy(algorithm=private.algorithm.name)).active()
    assert active
    return replace(active, public=private.public_jwk)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sealed_key_opens_and_signs_for_its_public_half(algorithm: str) -> None:
    private = PrivateKey.generate(algorithm)
    key = key_of(private)
    opened = KEK.unseal(KEK.seal(private), key)
    assert PublicKey(key.public, algorithm).verifies(opened.signed("a.b"))
    assert len(thumbprint(opened.public)) == 43


def test_a_blob_of_another_key_is_refused() -> None:
    """An attacker who writes to Redis swaps two sealed keys."""
    mine, other = PrivateKey.generate("ES256"), PrivateKey.generate("ES256")
    with pytest.raises(SealBroken, match="some other key's"):
        KEK.unseal(KEK.seal(other), key_of(mine))


def test_a_wrong_kek_says_which_one_is_needed() -> None:
    private = PrivateKey.generate("ES256")
    with pytest.raises(SealBroken, match="give it the right KEK") as caught:
        Kek.generate().unseal(KEK.seal(private), key_of(private))
    assert KEK.kid in str(caught.value)


def test_several_keks_open_and_the_first_one_seals() -> None:
    first = Kek.generate()
    both = Kek.from_secret_jwk({"keys": [first.secret_jwk(), KEK.secret_jwk()]})
    private = PrivateKey.generate("ES256")
    assert both.unseal(KEK.seal(private), key_of(private)).public_jwk == private.public_jwk
    assert both.kid == first.kid


ODD_HEADERS: list[dict[str, Any]] = [
    {"crit": None},
    {"crit": 1},
    {"crit": True},
    {"crit": [1]},
    {"crit": [[]]},
    {"crit": [{}]},
    {"crit": ["exp"]},
    {"zip": "DEF"},
    {"p2c": 2**31},
    {"cty": "JWT"},
    {"alg": "A256KW"},
    {"kid": 7},
    {"kid": ["x"]},
]


def with_header(sealed: str, odd: dict[str, Any]) -> str:
    """`sealed` under a header that anyone who writes to Redis could have put there."""
    first, rest = sealed.split(".", 1)
    header = json.loads(urlsafe_b64decode(first.encode())) | odd
    return urlsafe_b64encode(json.dumps(header).encode()).decode() + "." + rest


@pytest.mark.parametrize(
    "damage",
    [
        lambda sealed: "",
        lambda sealed: "x" * 20_000,
        lambda sealed: "é" + sealed,
        lambda sealed: sealed[:-4] + ("AAAA" if not sealed.endswith("AAAA") else "BBBB"),
        lambda sealed: sealed[:100],
        lambda sealed: "e30" + sealed[sealed.index(".") :],
        lambda sealed: "!!!" + sealed,
        *(lambda sealed, odd=odd: with_header(sealed, odd) for odd in ODD_HEADERS),
    ],
)
def test_a_damaged_blob_is_refused(damage: Any) -> None:
    private = PrivateKey.generate("ES256")
    with pytest.raises(SealBroken):
        KEK.unseal(damage(KEK.seal(private)), key_of(private))


def test_a_sealed_value_that_only_a_kek_holder_could_make_odd_is_refused() -> None:
    key = key_of(PrivateKey.generate("ES256"))
    for text in ("[" * 5000 + "]" * 5000, "7", '{"kty":[]}', '{"kty":"EC","crv":7,"x":1}'):
        with pytest.raises(SealBroken):
            KEK.unseal(sealed_by_hand(text), key)


def sealed_by_hand(text: str) -> str:
    header = {"alg": "dir", "enc": "A256GCM", "cty": "jwk+json", "kid": KEK.kid}
    by = KEK._keys[KEK.kid]
    return jwe.encrypt_compact(header, text.encode(), by, algorithms=["dir", "A256GCM"])


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_public_half_beside_another_private_number_is_refused(algorithm: str) -> None:
    """The public halves match, so only a trial shows what it would sign."""
    private, other = PrivateKey.generate(algorithm), PrivateKey.generate(algorithm)
    mixed = {**private.secret_jwk(), "d": other.secret_jwk()["d"]}
    with pytest.raises(SealBroken):
        KEK.unseal(sealed_by_hand(json.dumps(mixed)), key_of(private))


def test_two_keks_of_one_kid_are_refused() -> None:
    twice = [{**Kek.generate().secret_jwk(), "kid": "same"} for _ in range(2)]
    with pytest.raises(SecretError, match="two keys of one kid"):
        Kek.from_secret_jwk({"keys": twice})


@pytest.mark.parametrize(
    "jwk",
    [{}, {"kty": "oct", "k": "c2hvcnQ"}, {"kty": "oct", "k": "!"}, {"kty": "RSA"}, {"keys": []}],
)
def test_what_is_no_kek_is_refused(jwk: dict[str, Any]) -> None:
    with pytest.raises(SecretError):
        Kek.from_secret_jwk(jwk)


@pytest.mark.parametrize("secret", [KEK, TrustRoot.generate(), PrivateKey.generate("EdDSA")])
def test_a_secret_shows_itself_to_nobody(secret: Any) -> None:
    inner = secret.secret_jwk()
    private = inner.get("d") or inner["k"]
    shown = f"{secret!r} {secret} {[secret]} {secret!s}"
    assert private not in shown
    assert "secret" in shown
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        copy.deepcopy(secret)


def test_a_key_that_does_not_load_is_not_quoted_in_the_traceback() -> None:
    jwk = PrivateKey.generate("ES256").secret_jwk()
    secret = jwk["d"]
    for broken in ({**jwk, "x": "AA"}, {**jwk, "crv": "P-384"}, {**jwk, "y": 7}):
        with pytest.raises(SealBroken) as caught:
            PrivateKey.from_secret_jwk(broken, "ES256")
        assert secret not in "".join(traceback.format_exception(caught.value))


def told_by(error: BaseException) -> str:
    """All that an error reporter ships: messages, and the locals of our frames and of all causes."""
    told = [str(error), repr(error)]
    trace = error.__traceback__
    while trace:
        if not trace.tb_frame.f_globals["__name__"].startswith("tests."):
            told += map(repr, trace.tb_frame.f_locals.values())
        trace = trace.tb_next
    return " ".join(told + [told_by(e) for e in (error.__cause__, error.__context__) if e])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_does_not_fit_is_no_local_of_the_traceback(algorithm: str) -> None:
    """An attacker who writes to Redis must not make error reporters ship private keys."""
    key, other = key_of(PrivateKey.generate(algorithm)), PrivateKey.generate(algorithm)
    secret = other.secret_jwk()["d"]
    for private, expected in ((other, key), (other, replace(key, algorithm="EdDSA"))):
        with pytest.raises(SealBroken) as caught:
            KEK.unseal(KEK.seal(private), expected)
        assert secret not in told_by(caught.value)


def test_a_seal_around_what_is_no_jwk_is_no_local_of_the_traceback() -> None:
    header = {"alg": "dir", "enc": "A256GCM", "cty": "jwk+json", "kid": KEK.kid}
    for text in ("hush", '["hush"]', '{"kty": "EC", "d": "hush"}', '{"kty": {"hush": 1}}'):
        sealed = jwe.encrypt_compact(
            header, text.encode(), KEK._keys[KEK.kid], algorithms=["dir", "A256GCM"]
        )
        with pytest.raises(SealBroken) as caught:
            KEK.unseal(sealed, key_of(PrivateKey.generate("ES256")))
        assert "hush" not in told_by(caught.value)


def test_an_rsa_key_whose_numbers_do_not_belong_together_is_refused() -> None:
    jwk, other = (PrivateKey.generate("RS256").secret_jwk() for _ in range(2))
    assert PrivateKey.from_secret_jwk(jwk, "RS256").secret_jwk() == jwk
    for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi"):
        wrong = "Aw" if name == "e" else other[name]
        for broken in ({**jwk, name: wrong}, {**jwk, name: ""}, {**jwk, name: "AA"}):
            with pytest.raises(SealBroken) as caught:
                PrivateKey.from_secret_jwk(broken, "RS256")
            assert jwk["d"] not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(SealBroken):
        PrivateKey.from_secret_jwk({k: v for k, v in jwk.items() if k != "qi"}, "RS256")


def test_only_the_private_half_signs_and_only_known_algorithms_are_offered() -> None:
    private = PrivateKey.generate("ES256")
    with pytest.raises(SealBroken, match="not the private half"):
        PrivateKey.from_secret_jwk(dict(private.public_jwk), "ES256")
    with pytest.raises(UnsupportedAlgorithm, match="use one of"):
        algorithm_named("HS256")
    with pytest.raises(MalformedDocument):
        PublicKey((("crv", "P-256"), ("kty", "EC"), ("x", "AA"), ("y", "AA")), "ES256")
    with pytest.raises(TypeError, match="copied"):
        copy.copy(private)
    assert "PublicKey ES256" in repr(private.public)


def test_a_short_rsa_key_is_refused() -> None:
    with pytest.warns(SecurityWarning, match="2048"):
        short = RSAKey.generate_key(1024)
    with pytest.warns(SecurityWarning, match="2048"), pytest.raises(SealBroken):
        PrivateKey.from_secret_jwk(short.as_dict(private=True), "RS256")
