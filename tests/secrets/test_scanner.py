"""The scanner finds what it is to find, and only that: else a clean scan would prove nothing."""

import base64
import json
import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import RSAKey

from ringkeeper.algorithms import PrivateKey
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from tests.secrets.scanner import WINDOW, Number, Scanner, numbers_of

JWKS = {
    "RS256": PrivateKey.generate("RS256").secret_jwk(),
    "ES256": PrivateKey.generate("ES256").secret_jwk(),
    "ES384": PrivateKey.generate("ES384").secret_jwk(),
    "EdDSA": PrivateKey.generate("EdDSA").secret_jwk(),
    "root": TrustRoot.generate().secret_jwk(),
    "kek": Kek.generate().secret_jwk(),
}
NUMBERS = [number for owner, jwk in JWKS.items() for number in numbers_of(owner, jwk)]

WRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "big-endian": bytes,
    "little-endian": lambda raw: raw[::-1],
    "hex": lambda raw: raw.hex().encode(),
    "HEX": lambda raw: raw.hex().upper().encode(),
    "hex of an int": lambda raw: hex(int.from_bytes(raw, "big")).encode(),
    "hex with colons": lambda raw: raw.hex(":").encode(),
    "hex, little-endian": lambda raw: raw[::-1].hex().encode(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "base64, one byte in": lambda raw: base64.b64encode(b"1" + raw),
    "base64, two bytes in": lambda raw: base64.urlsafe_b64encode(b"22" + raw + b"end"),
    "base64 in lines": lambda raw: base64.encodebytes(b"1" + raw),
    "decimal": lambda raw: str(int.from_bytes(raw, "big")).encode(),
    "repr": lambda raw: repr(raw).encode(),
    "repr in JSON": lambda raw: json.dumps({"error": repr(raw)}).encode(),
    "repr in JSON in JSON": lambda raw: json.dumps(json.dumps(repr(raw))).encode(),
    "latin-1 in JSON": lambda raw: json.dumps(raw.decode("latin-1")).encode(),
    "latin-1 as UTF-8": lambda raw: raw.decode("latin-1").encode(),
    "a list of numbers": lambda raw: repr(list(raw)).encode(),
    "a list in JSON": lambda raw: json.dumps([*raw], separators=(",", ":")).encode(),
    "percent": lambda raw: "".join(f"%{byte:02X}" for byte in raw).encode(),
}
SURROUNDED = {
    "noise": lambda text: random.Random(1).randbytes(997) + text + random.Random(2).randbytes(501),
    "a log line": lambda text: b'{"event": "cannot lead", "error": "' + text + b'", "level": 1}\n',
}


def knowing(*owners: str) -> Scanner:
    scanner = Scanner()
    for owner in owners or JWKS:
        scanner.learn(owner, JWKS[owner])
    return scanner


KNOWING_ALL = knowing()


@pytest.mark.parametrize("surrounding", SURROUNDED)
@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{n.owner}.{n.name}")
def test_each_private_number_is_found_in_each_form(
    number: Number, form: str, surrounding: str
) -> None:
    hay = SURROUNDED[surrounding](WRITTEN[form](number.raw))
    found = KNOWING_ALL.search("here", hay)
    assert {(f.owner, f.number) for f in found} == {(number.owner, number.name)}
    assert number.raw.hex() not in repr(found)


@pytest.mark.parametrize("form", [form for form in WRITTEN if "decimal" not in form])
def test_a_fragment_is_found_wherever_it_was_cut(form: str) -> None:
    (number,) = (n for n in NUMBERS if (n.owner, n.name) == ("RS256", "p"))
    for begin in range(len(number.raw) - WINDOW - 1):
        # A byte more: an int drops its leading zeros, and digits may stand apart, as in a list.
        piece = number.raw[begin : begin + WINDOW + 1]
        found = KNOWING_ALL.search("here", b"<" + WRITTEN[form](piece) + b">")
        assert [(f.owner, f.number) for f in found][:1] == [("RS256", "p")], begin


def test_a_fragment_of_the_decimal_digits_is_found() -> None:
    (number,) = (n for n in NUMBERS if (n.owner, n.name) == ("RS256", "d"))
    digits = WRITTEN["decimal"](number.raw)
    for begin in range(len(digits) - 38):
        assert KNOWING_ALL.search("here", b"=" + digits[begin : begin + 38] + b";"), begin


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("format", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_what_other_programs_write_is_found(encoding: Encoding, format: PrivateFormat) -> None:  # noqa: A002
    key = RSAKey.import_key(JWKS["RS256"]).private_key
    assert isinstance(key, RSAPrivateKey)
    written = key.private_bytes(encoding, format, NoEncryption())
    found = {f.number for f in KNOWING_ALL.search("a file", b"\n" + written + b"\n")}
    assert found == {"d", "p", "q", "dp", "dq", "qi"}


def test_a_private_jwk_is_found_whole() -> None:
    for owner, jwk in JWKS.items():
        found = KNOWING_ALL.search("a file", json.dumps(jwk, indent=2).encode())
        assert {f.number for f in found} == {n.name for n in NUMBERS if n.owner == owner}


def test_public_halves_signatures_and_noise_are_nobodys_secret() -> None:
    noise = random.Random(3).randbytes(300_000)
    texts = [noise.hex().encode(), base64.b64encode(noise), repr(noise[:100_000]).encode()]
    pieces = (noise[at : at + 1_500] for at in range(0, len(noise), 1_500))
    texts += ["".join(str(int.from_bytes(piece, "big")) for piece in pieces).encode()]
    public = [
        json.dumps({k: v for k, v in jwk.items() if k in ("kty", "n", "e", "x", "y", "kid")})
        for jwk in JWKS.values()
    ]
    for hay in (noise, *texts, *(text.encode() for text in public)):
        assert KNOWING_ALL.search("noise", hay) == []


def test_a_number_that_is_not_known_yet_is_found_once_it_is() -> None:
    hay, scanner = JWKS["ES256"]["d"].encode(), knowing("RS256")
    assert scanner.search("here", hay) == []
    scanner.learn("ES256", JWKS["ES256"])
    assert [str(finding) for finding in scanner.search("a log", hay)] == [
        "a log: d of ES256, as base64, at 0"
    ]
    assert scanner.scanned == 2 * len(hay)
