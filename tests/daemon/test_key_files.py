"""Keys that operators bring along: what is read, and what is refused without a word of theirs."""

import base64
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    rsa,
    x448,
    x25519,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from ringkeeper import compact
from ringkeeper.algorithms import ALGORITHMS, PublicKey, kid_of
from ringkeeper.errors import KeyUnusable, UnsupportedAlgorithm
from ringkeeper.ring import KeyKind
from ringkeeper.secret import Secret
from ringkeeperd.key_files import FoundKey, read_keys
from tests.plugins.brought_keys import (
    OLDER_FORMS,
    PASSPHRASE,
    PRIVATE_FORMS,
    PUBLIC_FORMS,
    TABLE_FORMS,
    DynamicRow,
    StaticRow,
    as_csv,
    as_json,
    certificate,
    halves,
    in_json,
    jwk,
    made,
    pem,
    pkcs12,
    public_pem,
    put,
)

TIME = 1_790_000_000_123
WHEN = datetime(2026, 9, 21, 14, 13, 20, 123000, tzinfo=UTC)
KINDS = ("RS256", "ES256", "ES384", "EdDSA")
OLD_KINDS = ("RS256", "ES256", "ES384")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def read(file: Path, data: bytes, *, mode: int = 0o600, **asked: Any) -> tuple[FoundKey, ...]:
    return read_keys(put(file, data, mode), **asked)


def only(found: tuple[FoundKey, ...]) -> FoundKey:
    (key,) = found
    return key


def check_is(found: FoundKey, native: Any, algorithm: str) -> None:
    """It is the key pair `native`: what either half does here, others read and write."""
    assert found.algorithm == algorithm
    public = native.public_key()
    ours, theirs = (
        PublicKey(found.public, algorithm),
        jwt.PyJWK({**dict(found.public), "alg": algorithm}),
    )
    signed = jwt.encode({"sub": "a"}, native, algorithm=algorithm, headers={"kid": found.kid})
    assert ours.verifies(signed)
    assert jwt.decode(signed, theirs, algorithms=[algorithm]) == {"sub": "a"}
    if found.private is None:
        return
    token = found.private.signed(compact.written(found.kid, algorithm, None, {"sub": "b"})[0])
    assert jwt.decode(token, public, algorithms=[algorithm]) == {"sub": "b"}
    assert jwt.get_unverified_header(token) == {
        "typ": "JWT",
        "kid": found.kid,
        "alg": algorithm,
    }
    kind: Any = {"RSA": RSAKey, "EC": ECKey}.get(ALGORITHMS[algorithm].kty, OKPKey)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RFC 9864 deprecates the name EdDSA, which all read
        read_back = jws.deserialize_compact(token, kind.import_key(public), algorithms=[algorithm])
    assert read_back.payload == b'{"sub":"b"}'


# --- forms ---------------------------------------------------------------------------------------


def forms() -> Iterator[Any]:
    for algorithm in KINDS:
        for form in PRIVATE_FORMS:
            yield pytest.param(algorithm, PRIVATE_FORMS[form], id=f"{algorithm} {form}")
    for algorithm in OLD_KINDS:
        for form in OLDER_FORMS:
            yield pytest.param(algorithm, OLDER_FORMS[form], id=f"{algorithm} {form}")


@pytest.mark.parametrize(("algorithm", "form"), [*forms()])
def test_a_private_key_of_every_form_signs_and_verifies(
    file: Path, algorithm: str, form: Any
) -> None:
    native = made(algorithm)
    found = only(read(file, form(native), passphrase=Secret(PASSPHRASE)))
    assert found.private
    assert (found.kind, found.made_at) == (None, None)
    has_kid = b'"kid"' in form(native)
    assert found.kid == ("k1" if has_kid else kid_of(found.public, prefix="s"))
    check_is(found, native, algorithm)


@pytest.mark.parametrize("form", PUBLIC_FORMS)
@pytest.mark.parametrize("algorithm", KINDS)
def test_a_public_key_of_every_form_verifies(file: Path, algorithm: str, form: str) -> None:
    """And may be read by everybody."""
    native = made(algorithm)
    found = only(read(file, PUBLIC_FORMS[form](native), mode=0o644))
    assert found.private is None
    check_is(found, native, algorithm)


def test_a_public_key_of_pkcs_1_verifies(file: Path) -> None:
    native = made("RS256")
    for encoding in (Encoding.PEM, Encoding.DER):
        found = only(read(file, native.public_key().public_bytes(encoding, PublicFormat.PKCS1)))
        check_is(found, native, "RS256")


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_what_a_file_does_not_say_the_operator_says(file: Path, algorithm: str) -> None:
    native = made("RS256")
    check_is(only(read(file, pem(native), algorithm=algorithm)), native, algorithm)
    told = in_json(jwk(native, alg=algorithm))
    check_is(only(read(file, told)), native, algorithm)


def test_the_name_ed25519_is_read_and_eddsa_written(file: Path) -> None:
    """RFC 9864 has the one, verifiers the other."""
    native = made("EdDSA")
    check_is(only(read(file, in_json(jwk(native, alg="Ed25519")))), native, "EdDSA")


def test_a_jwk_without_its_primes_is_completed(file: Path) -> None:
    native = made("RS256")
    lean = {k: v for k, v in jwk(native).items() if k in ("kty", "n", "e", "d")}
    check_is(only(read(file, in_json(lean))), native, "RS256")


def test_openssl_s_parameters_before_the_key_are_passed_over(file: Path) -> None:
    before = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    check_is(only(read(file, before + pem(made("ES256")))), made("ES256"), "ES256")


def test_an_authority_s_certificate_is_no_key_to_verify_with(file: Path) -> None:
    """The chain above a certificate signs certificates."""
    found = read(file, certificate(made("RS256")).public_bytes(Encoding.PEM) + b"\n")
    check_is(only(found), made("RS256"), "RS256")


def test_several_keys_come_in_the_order_of_the_file(file: Path) -> None:
    natives = [made(algorithm) for algorithm in KINDS]
    whole = [jwk(native, kid=f"k{n}") for n, native in enumerate(natives)]
    found = read(file, in_json({"keys": whole}))
    assert [key.kid for key in found] == ["k0", "k1", "k2", "k3"]
    for key, native, algorithm in zip(found, natives, KINDS, strict=True):
        check_is(key, native, algorithm)
    found = read(file, b"".join(pem(native) for native in natives))
    assert [key.algorithm for key in found] == list(KINDS)


def test_a_kid_chooses_one_key_of_several_or_names_one_that_has_none(file: Path) -> None:
    keys = {"keys": [jwk(made("ES256"), kid="a"), jwk(made("ES384"), kid="b")]}
    assert only(read(file, in_json(keys), kid="b")).algorithm == "ES384"
    assert only(read(file, pem(made("ES256")), kid="mine")).kid == "mine"


@pytest.mark.parametrize(
    "kid",
    [
        "s-3f1c0d9a-7b1e-4f0e-9c3a-0a1b2c3d4e5f",
        "d-1790000000123",
        "2011-04-29",
        "3f1c0d9a-7b1e-4f0e-9c3a-0a1b2c3d4e5f",
        "1234+abc/DEF_x==",
        "https://issuer.example/keys/1?v=2#sig",
        "urn:keys:a.b~c",
        "sig@issuer.example",
        "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd",
    ],
)
def test_kids_that_issuers_use_are_kept(file: Path, kid: str) -> None:
    assert only(read(file, in_json(jwk(made("ES256"), kid=kid)))).kid == kid
    assert only(read(file, pem(made("ES256")), kid=kid)).kid == kid


@pytest.mark.parametrize(
    ("prefix", "has_private", "expected"),
    [("s", True, "s"), ("f", False, "f"), ("", True, "d"), ("", False, "f")],
)
def test_a_key_without_a_kid_is_named_by_its_thumbprint(
    file: Path, prefix: str, has_private: bool, expected: str
) -> None:
    native = made("ES256")
    found = only(read(file, pem(native) if has_private else public_pem(native), prefix=prefix))
    assert found.kid == kid_of(found.public, prefix=expected)


# --- SuperTokens' tables -------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["|", ";"])
@pytest.mark.parametrize("form", TABLE_FORMS)
def test_dynamic_keys_have_the_kid_of_their_time(file: Path, form: str, separator: str) -> None:
    natives = [made("RS256", 0), made("RS256", 1)]
    rows = [DynamicRow("public", TIME + n, halves(k, separator)) for n, k in enumerate(natives)]
    found = read(file, TABLE_FORMS[form](rows))
    assert [key.kid for key in found] == [f"d-{TIME}", f"d-{TIME + 1}"]
    assert {key.kind for key in found} == {KeyKind.DYNAMIC}
    assert found[0].made_at == WHEN
    for key, native in zip(found, natives, strict=True):
        assert key.private
        check_is(key, native, "RS256")


@pytest.mark.parametrize("form", TABLE_FORMS)
@pytest.mark.parametrize("kid", ["s-3f1c0d9a-7b1e-4f0e-9c3a-0a1b2c3d4e5f", "3f1c-old"])
def test_static_keys_keep_their_kid(file: Path, form: str, kid: str) -> None:
    native = made("RS256")
    found = only(
        read(file, TABLE_FORMS[form]([StaticRow("public", kid, halves(native), "RS256", TIME)]))
    )
    assert (found.kid, found.kind, found.made_at) == (kid, KeyKind.STATIC, WHEN)
    check_is(found, native, "RS256")


def test_both_tables_may_follow_each_other_in_one_file(file: Path) -> None:
    dynamic = as_csv([DynamicRow("public", TIME, halves(made("RS256", 0)))])
    static = as_csv([StaticRow("public", "s-1", halves(made("RS256", 1)), "RS256", TIME)])
    found = read(file, dynamic + b"\n" + static)
    assert [(key.kid, key.kind) for key in found] == [
        (f"d-{TIME}", KeyKind.DYNAMIC), ("s-1", KeyKind.STATIC),
    ]  # fmt: skip


def test_the_rows_of_one_app_are_taken(file: Path) -> None:
    rows = [
        DynamicRow("public", TIME, halves(made("RS256", 0))),
        DynamicRow("shop", TIME + 1, halves(made("RS256", 1))),
    ]
    assert only(read(file, as_csv(rows))).kid == f"d-{TIME}"
    assert only(read(file, as_csv(rows), app="shop")).kid == f"d-{TIME + 1}"
    assert only(read(file, as_csv(rows[1:]))).kid == f"d-{TIME + 1}"


# --- refusals ------------------------------------------------------------------------------------


ORDER_8 = 0x26E8958FC2B227B045C3F489F2EF98F0D5DFAC05D3C63339B13802886D53FC05
"""A point of Ed25519 under which anybody can sign."""


@dataclass
class Bad:
    """A file that is refused, and a part of why."""

    make: Callable[[], bytes]
    why: str
    asked: Any = None

    @cached_property
    def data(self) -> bytes:
        return self.make()


def encoded(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def rows(**changes: Any) -> list[Any]:
    return [DynamicRow("public", TIME, halves(made("RS256")))._replace(**changes)]


def der(key: Any) -> bytes:
    octets: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return octets


def native() -> Any:
    return made("RS256")


def other() -> Any:
    return made("RS256", 1)


def curve() -> Any:
    return made("ES256")


def whole() -> dict[str, Any]:
    return jwk(native(), kid="k1")


def point() -> dict[str, Any]:
    return jwk(curve(), kid="k2")


def named(kid: str) -> bytes:
    return in_json({**point(), "kid": kid})


def value() -> str:
    return halves(native())


def misnamed() -> bytes:
    whole = certificate(native()).public_bytes(Encoding.DER)
    damaged = base64.encodebytes(whole.replace(b"\x0c\x06issuer", b"\x4c\x06issuer"))
    return b"-----BEGIN CERTIFICATE-----\n" + damaged + b"-----END CERTIFICATE-----\n"


def in_form(form: str) -> bytes:
    return {**PRIVATE_FORMS, **OLDER_FORMS}[form](native())


def unlike() -> str:
    """The public half of one key, and the private half of another."""
    return "|".join((halves(other()).split("|")[0], value().split("|")[1]))


def modulus() -> int:
    n: int = native().public_key().public_numbers().n
    return n


@cache
def weak() -> Any:
    return rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be refused


def close() -> dict[str, str]:
    """A modulus whose factors lie next to each other."""
    p = native().private_numbers().p
    q = p + 2
    while pow(2, q - 1, q) != 1:
        q += 2
    return {"kty": "RSA", "n": encoded(p * q), "e": "AQAB"}


BAD: dict[str, Bad] = {
    # strength and type
    "RSA of 1024 bits": Bad(lambda: pem(weak()), "is RSA of 1024 bits"),
    "RSA of 1024 bits, JWK": Bad(
        lambda: in_json({**jwk(native()), "n": encoded(weak().public_key().public_numbers().n)}),
        "is RSA of 1024 bits",
    ),
    "RSA of 1024 bits, row": Bad(lambda: as_csv(rows(value=halves(weak()))), "is RSA of 1024 bits"),
    "RSA with exponent 3": Bad(lambda: pem(rsa.generate_private_key(3, 2048)), "FIPS 186-5"),
    "RSA of close primes": Bad(lambda: in_json(close()), "anyone can factor"),
    "RSA, small factor": Bad(
        lambda: in_json({"kty": "RSA", "n": encoded(modulus() // 3 * 3), "e": "AQAB"}),
        "anyone can factor",
    ),
    "RSA of 16384 bits": Bad(
        lambda: in_json({"kty": "RSA", "n": encoded((1 << 16383) | 1), "e": "AQAB"}),
        "is RSA of 16384 bits",
    ),
    "P-521": Bad(lambda: pem(ec.generate_private_key(ec.SECP521R1())), "secp521r1; use RSA"),
    "P-521, JWK": Bad(
        lambda: in_json(jwk(ec.generate_private_key(ec.SECP521R1()))), "curve not known here"
    ),
    "secp256k1": Bad(lambda: pem(ec.generate_private_key(ec.SECP256K1())), "secp256k1; use RSA"),
    "Ed448": Bad(lambda: pem(ed448.Ed448PrivateKey.generate()), "is a key for Ed448"),
    "X448": Bad(lambda: pem(x448.X448PrivateKey.generate()), "is a key for X448"),
    "X25519": Bad(lambda: pem(x25519.X25519PrivateKey.generate()), "is a key for X25519"),
    "DSA": Bad(lambda: pem(dsa.generate_private_key(2048)), "is a key for DSA"),
    "symmetric": Bad(
        lambda: in_json({"kty": "oct", "k": encoded(modulus())}), "is a symmetric key"
    ),
    "Ed25519, zero": Bad(
        lambda: in_json({"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}), "no proper point"
    ),
    "Ed25519 of order 8": Bad(
        lambda: in_json({"kty": "OKP", "crv": "Ed25519", "x": encoded(ORDER_8)}), "no proper point"
    ),
    "Ed25519, no point": Bad(
        lambda: in_json({"kty": "OKP", "crv": "Ed25519", "x": encoded(2 << 248)}), "no proper point"
    ),
    # halves
    "another's public half, row": Bad(
        lambda: as_csv(rows(value=unlike())), "is not its public one's"
    ),
    "another's public half, JWK": Bad(
        lambda: in_json({**jwk(made("EdDSA")), "x": jwk(made("EdDSA", 1))["x"]}),
        "is not its public one's",
    ),
    "another's modulus": Bad(
        lambda: in_json({**whole(), "n": jwk(other())["n"]}), "cannot be loaded"
    ),
    "another's exponent": Bad(
        lambda: in_json({**whole(), "d": jwk(other())["d"]}), "cannot be loaded"
    ),
    "off the curve": Bad(lambda: in_json({**point(), "y": point()["x"]}), "cannot be loaded"),
    "primes left out in part": Bad(
        lambda: in_json({k: v for k, v in whole().items() if k != "qi"}), "cannot be loaded"
    ),
    "more than two primes": Bad(lambda: in_json({**whole(), "oth": []}), "more than two primes"),
    "a certificate of another key": Bad(
        lambda: pem(native()) + certificate(other()).public_bytes(Encoding.PEM),
        "a key that is not here",
    ),
    # names
    "one key twice": Bad(
        lambda: in_json({"keys": [{**whole(), "kid": "a"}, {**whole(), "kid": "b"}]}),
        "one key twice",
    ),
    "one kid twice": Bad(
        lambda: in_json({"keys": [whole(), {**point(), "kid": "k1"}]}), "two keys of one kid"
    ),
    **{
        f"a kid {how}": Bad(
            partial(named, kid), "a kid has 1 to 64 characters of A-Z a-z 0-9 and -._~:/?"
        )
        for how, kid in {
            "that is empty": "",
            "that is long": "k" * 65,
            "that moves the cursor": "a\x1b[2J",
            "with a space": "bad kid",
            "with a quotation mark": 'bad"kid',
            "with an apostrophe": "bad'kid",
            "with a backslash": "bad\\kid",
            "with a line feed at its end": "kid\n",
            "that looks like another": "\u0455-2024",
        }.items()
    },
    "a kid that is no text": Bad(lambda: in_json({**point(), "kid": 7}), "no text"),
    "another's thumbprint": Bad(lambda: in_json({**point(), "kid": "d-" + "A" * 22}), "RFC 7638"),
    "kid of several, none of it": Bad(
        lambda: in_json({"keys": [whole(), point()]}), "no key of the kid 'k9'", {"kid": "k9"}
    ),
    "kid of a key of another": Bad(lambda: in_json(whole()), "of another kid", {"kid": "k9"}),
    # purposes and algorithms
    "for encryption": Bad(lambda: in_json({**whole(), "use": "enc"}), 'use is not "sig"'),
    "operations of encryption": Bad(
        lambda: in_json({**whole(), "key_ops": ["wrapKey", {}]}), "neither sign nor verify"
    ),
    "an algorithm of another type": Bad(
        lambda: in_json({**whole(), "alg": "ES256"}), "does not fit"
    ),
    "an algorithm not offered": Bad(lambda: in_json({**whole(), "alg": "HS256"}), "does not fit"),
    "asked for what it cannot": Bad(
        lambda: pem(curve()), "does not sign with RS256", {"algorithm": "RS256"}
    ),
    "asked for another": Bad(
        lambda: in_json({**whole(), "alg": "RS256"}), "as it says itself", {"algorithm": "PS256"}
    ),
    "static row of HMAC": Bad(
        lambda: as_csv([StaticRow("public", "s-1", value(), "HS256", TIME)]), "does not fit"
    ),
    # passphrases
    **{
        f"{form} {how}": Bad(partial(in_form, form), why, asked)
        for form in (
            "PKCS #8, encrypted",
            "DER, encrypted",
            "PKCS #12, encrypted",
            "traditional, encrypted",
        )
        for how, why, asked in (
            ("without passphrase", "is encrypted; give its passphrase", None),
            ("wrong passphrase", "not opened by this passphrase", {"passphrase": Secret("x")}),
        )
    },
    # files
    "empty": Bad(lambda: b"", "is empty"),
    "blank": Bad(lambda: b" \n\t\n", "is empty"),
    "too large": Bad(lambda: b"x" * (256 * 1024 + 1), "larger than 256 KiB"),
    "text": Bad(lambda: b"dear diary", "holds no key that is known here"),
    "bytes": Bad(lambda: bytes(range(128, 256)), "holds no key that is known here"),
    "no JSON": Bad(lambda: b'{"kty": "RSA", "d": "c2VjcmV0IHNlY3JldCBzZWNyZXQ', "is no JSON"),
    "an empty set": Bad(lambda: b'{"keys": []}', "holds no key"),
    "a set of texts": Bad(lambda: b'{"keys": ["a"]}', "not an object of JSON"),
    "a set that is none": Bad(lambda: b'{"keys": {}}', "holds no key"),
    "an empty array": Bad(lambda: b"[]", "holds no key"),
    "nested": Bad(lambda: b"[" * 100_000, "is no JSON"),
    "an object of another kind": Bad(lambda: b'{"a": 1}', "lacks columns"),
    "a number": Bad(lambda: b"[7]", "no object of JSON"),
    "half a PEM": Bad(lambda: pem(native())[:-40], "PEM without its end"),
    "damaged PEM": Bad(
        lambda: pem(native()).replace(b"\nA", b"\nB").replace(b"M", b"N"), "be loaded"
    ),
    "a certificate whose names are damaged": Bad(misnamed, "cannot be loaded"),
    "a request to an authority": Bad(
        lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "no key of a kind known here",
    ),
    "OpenSSH's": Bad(
        lambda: made("EdDSA").private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "convert a copy",
    ),
    "cut DER": Bad(lambda: der(native())[:-9], "cannot be loaded"),
    "long DER": Bad(lambda: b"0\x82\x20\x00" + bytes(8192), "longer than a key of 4096 bits"),
    "damaged PKCS #12": Bad(lambda: pkcs12(native())[:-30], "passphrase"),
    # tables
    "no time": Bad(lambda: as_csv(rows(created_at_time="soon")), "no time in created_at_time"),
    "time of nothing": Bad(lambda: as_csv(rows(created_at_time=0)), "no time in created_at_time"),
    "beyond all times": Bad(lambda: as_csv(rows(created_at_time=10**15)), "no time in created_at"),
    "one half": Bad(lambda: as_csv(rows(value=value().split("|")[1])), "no pair"),
    "three parts": Bad(lambda: as_csv(rows(value=value() + "|")), "no pair"),
    "cut base64": Bad(lambda: as_csv(rows(value=value()[:-5])), "no base64"),
    "no public key": Bad(
        lambda: as_csv(rows(value="AAAA|" + value().split("|")[1])), "public key that"
    ),
    "no private key": Bad(lambda: as_csv(rows(value=value().split("|")[0] + "|AAAA")), "be loaded"),
    "halves the other way round": Bad(
        lambda: as_csv(rows(value="|".join(reversed(value().split("|"))))), "public key that"
    ),
    "a row too long": Bad(
        lambda: as_csv(rows()) + f"public,1,{value},x\n".encode(), "has 4 columns"
    ),
    "broken quotes": Bad(lambda: as_csv(rows()) + b'public,1,"ab"c\n', "is no CSV"),
    "rows of no such app": Bad(lambda: as_csv(rows()), "no row of the app 'shop'", {"app": "shop"}),
    "several apps, none public": Bad(
        lambda: as_json(rows(app_id="a") + rows(app_id="b")), "no row of the app 'public'"
    ),
    "static time": Bad(
        lambda: as_csv([StaticRow("public", "s-1", value(), "RS256", -1)]), "no time in created_at"
    ),
}


def leaked(text: str, data: bytes) -> list[str]:
    """The parts of long words of `data` that stand in `text`, encoded as there or decoded."""
    words = re.findall(rb"[A-Za-z0-9+/_=-]{16,}", data)
    parts = {word[at : at + 10].decode() for word in words for at in range(len(word) - 9)}
    return [part for part in parts if part in text]


def refusal(file: Path, data: bytes, asked: Any) -> KeyUnusable:
    with pytest.raises(KeyUnusable) as caught:
        read(file, data, **(asked or {}))
    return caught.value


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_one_line_without_a_part_of_it(
    file: Path, name: str
) -> None:
    case = BAD[name]
    error = refusal(file, case.data, case.asked)
    said = str(error)
    assert case.why in said
    assert said.startswith(f"{file}: ")
    assert said.isprintable()
    assert not leaked(said.removeprefix(str(file)), case.data)
    # What nobody thought of is refused, too, but not by accident here.
    assert "cannot be read as keys" not in said


@pytest.mark.parametrize("name", BAD)
def test_no_frame_of_a_refusal_holds_what_was_read(file: Path, name: str) -> None:
    """Error reporters ship the locals of all frames, and of the errors behind an error."""
    case = BAD[name]
    error = refusal(file, case.data, case.asked)
    assert error.__cause__ is None
    assert error.__context__ is None
    trace = error.__traceback__
    while trace:
        frame = trace.tb_frame
        if "ringkeeper" in frame.f_globals["__name__"]:
            shown = {k: v for k, v in frame.f_locals.items() if isinstance(v, bytes | str | list)}
            assert not leaked(repr(shown), case.data)
            assert case.data not in frame.f_locals.values()
        trace = trace.tb_next


def test_a_key_that_others_may_read_is_refused(file: Path) -> None:
    for data in (pem(made("ES256")), as_csv(rows()), in_json(jwk(made("ES256")))):
        with pytest.raises(KeyUnusable, match=r"open to others \(mode 0644.*chmod 600"):
            read(file, data, mode=0o644)
    with pytest.raises(KeyUnusable, match="anyone may change the key"):
        read(file, public_pem(made("ES256")), mode=0o646)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match=r"cannot be read \(no such file"):
        read_keys(tmp_path / "nowhere")
    with pytest.raises(KeyUnusable, match=r"cannot be read \(is a directory"):
        read_keys(tmp_path)


def test_an_algorithm_that_is_not_offered_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedAlgorithm, match="use one of RS256"):
        read_keys(tmp_path / "nowhere", algorithm="HS256")


def test_a_found_key_shows_nothing_of_itself(file: Path) -> None:
    native = made("ES256")
    found = only(read(file, pem(native)))
    assert jwk(native)["d"] not in repr(found)


# --- damaged files -------------------------------------------------------------------------------


@cache
def whole_files() -> tuple[bytes, ...]:
    """One of every form, as it should be: of elliptic curves, which are checked in no time."""
    native = made("ES256")
    tables = [TABLE_FORMS[form](rows()) for form in TABLE_FORMS]
    every = {**PRIVATE_FORMS, **OLDER_FORMS, **PUBLIC_FORMS}
    return (*(form(native) for form in every.values()), *tables, in_json(jwk(made("RS256"))))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file with something changed, cut out, put in, or taken from another one."""
    data = bytearray(draw(st.sampled_from(whole_files())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "cut", "insert", "splice", "json"])):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 400))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=12) | st.sampled_from(SNIPPETS))
            case "splice":
                data[at:] = draw(st.sampled_from(whole_files()))[at:]
            case _:
                data = bytearray(reshaped(draw, bytes(data)))
    return bytes(data)


SNIPPETS = (
    b"\n",
    b",",
    b"\t",
    b'"',
    b"|",
    b"null",
    b"[",
    b"{",
    b"-----BEGIN PRIVATE KEY-----",
    b"\0",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "A",
    "A" * 44,
    "AQAB",
    "é",
    [],
    {},
    ["sign"],
    2**70,
)


def reshaped(draw: st.DrawFn, data: bytes) -> bytes:
    """Of JSON, with one member of some other value."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    inner = document
    while isinstance(inner, list | dict) and inner:
        if isinstance(inner, list) and isinstance(inner[0], dict | list):
            inner = inner[0]
        elif isinstance(inner, dict) and isinstance(inner.get("keys"), list):
            inner = inner["keys"]
        else:
            break
    if isinstance(inner, dict) and inner:
        inner[draw(st.sampled_from(sorted(inner)))] = draw(st.sampled_from(VALUES))
    return in_json(document)


def test_a_file_that_the_library_panics_over_is_refused(tmp_path: Path) -> None:
    """A fuzzer's find: the initialization vector is a byte short."""
    file = tmp_path / "key.pem"
    lines = ["Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-256-CBC,ED8ADB3C6D72766184C83B741472A5", ""]
    body = base64.b64encode(bytes(128)).decode()
    marks = "-----BEGIN EC PRIVATE KEY-----", "-----END EC PRIVATE KEY-----"
    file.write_text("\n".join([marks[0], *lines, body, marks[1], ""]))
    with pytest.raises(KeyUnusable, match="passphrase"):
        read_keys(file, passphrase=Secret("some words"))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged(), st.sampled_from([None, PASSPHRASE, "x"]))
def test_whatever_is_wrong_with_a_file_it_is_read_or_refused(
    data: bytes, passphrase: str | None
) -> None:
    """And never by the clause for what nobody thought of."""
    with tempfile.NamedTemporaryFile() as kept:
        file = put(Path(kept.name), data)
        secret = Secret(passphrase) if passphrase else None
        try:
            found = read_keys(file, passphrase=secret)
        except KeyUnusable as error:
            said = str(error)
            assert said.isprintable()
            assert "cannot be read as keys" not in said
            assert not leaked(said.removeprefix(str(file)), data)
            return
    for key in found:
        public = PublicKey(key.public, key.algorithm)
        assert key.private is None or public.verifies(key.private.signed("."))
