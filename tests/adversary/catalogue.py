"""The catalogue of attacks on JWTs: name → what is sent, and how it is to be refused.

Most of these tokens carry a good signature of the ring's own key, which no attacker could make: so
it is the one thing wrong with them that refuses them, not the signature.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from joserfc import jwe
from joserfc.jwk import OctKey, RSAKey

import ringkeeper.testing
from ringkeeper.errors import (
    ExpiredToken,
    ImmatureToken,
    InvalidSignature,
    MalformedToken,
    TokenError,
    UnknownKid,
    WrongAlgorithm,
)
from ringkeeper.tokens import MAX_HEADER, MAX_TOKEN
from tests.adversary.forging import Victim, b64, nothing, unb64

Attack = Callable[[Victim], Any]
Listed = tuple[str, type[TokenError], Attack]
Text = bytes | str
_PLACE = "https://mallory.example/jwks.json"


# --- what attacks are made of --------------------------------------------------------------------


def header(members: dict[str, Any], *, by: str = "real") -> Attack:
    """The ring's header with `members` in it; signed by the ring, by a stranger, by nobody."""
    return lambda v: v.forged(
        {**v.header, **members}, sign={"real": v.real, "own": v.own, "nobody": nothing}[by]
    )


def claims(members: dict[str, Any]) -> Attack:
    return lambda v: v.forged(claims={**v.claims, **members})


def header_text(write: Callable[[str, Victim], Text]) -> Attack:
    """`write` is given the header as it should be."""
    return lambda v: v.forged(write(json.dumps(v.header), v))


def claims_text(write: Callable[[str, Victim], Text]) -> Attack:
    return lambda v: v.forged(claims=write(json.dumps(v.claims), v))


def part(number: int, change: Callable[[str], str]) -> Attack:
    """A good token, whose header, claims or signature was changed on its way."""

    def attack(v: Victim) -> str:
        parts = v.token.split(".")
        parts[number] = change(parts[number])
        return ".".join(parts)

    return attack


def signature(change: Callable[[bytes], bytes]) -> Attack:
    return part(2, lambda text: b64(change(unb64(text))))


def as_it_stands(head: str, body: str, v: Victim) -> str:
    """These very characters on the wire, under a good signature."""
    return f"{head}.{body}.{b64(v.real(f'{head}.{body}'.encode()))}"


# --- the catalogue -------------------------------------------------------------------------------


def _algorithms() -> Iterator[Listed]:
    """What the token says of itself counts for nothing (RFC 8725 section 3.1)."""
    look_alikes = ["n\u043fne", "\uff4e\uff4f\uff4e\uff45"]
    nones = ["none", "None", "NONE", "nOnE", "", " none", "none ", "none\0", *look_alikes]
    for alg in [*nones, None, False, 0, [], ["none"], {"alg": "none"}]:
        yield f"alg {alg!a}, unsigned", WrongAlgorithm, header({"alg": alg}, by="nobody")
        yield f"alg {alg!a}, signed", WrongAlgorithm, header({"alg": alg})
    yield "no alg", WrongAlgorithm, lambda v: v.forged({"kid": v.kid})
    yield "Alg for alg", WrongAlgorithm, lambda v: v.forged({"kid": v.kid, "Alg": v.algorithm})
    yield "typ for alg", WrongAlgorithm, lambda v: v.forged({"kid": v.kid, "typ": v.algorithm})


def _keys() -> Iterator[Listed]:
    """Keys that the token brings along (RFC 8725 section 3.10)."""

    def carrying(make: Callable[[Victim], dict[str, Any]]) -> Attack:
        return lambda v: v.forged({**v.header, **make(v)}, sign=v.own)

    yield "key: jwk", InvalidSignature, carrying(lambda v: {"jwk": v.own_jwk})
    yield (
        "key: jwk, our kid",
        InvalidSignature,
        carrying(lambda v: {"jwk": v.own_jwk | {"kid": v.kid}}),
    )
    for name, value in {
        "jku": _PLACE, "x5u": _PLACE, "x5c": ["MIIB"], "x5t": "AAAA", "x5t#S256": "AAAA",
        "jwks": {"keys": []},
    }.items():  # fmt: skip
        yield f"key: {name}", InvalidSignature, header({name: value}, by="own")
    odd = {"jwk": 7, "jku": {}, "x5u": [], "x5c": "x", "x5t": None}
    yield "key: of wrong types", InvalidSignature, header(odd, by="own")
    yield (
        "key: no kid",
        MalformedToken,
        lambda v: v.forged(
            {"alg": v.algorithm, "jwk": v.own_jwk} if "n" not in v.jwk else {"alg": v.algorithm},
            sign=v.own,
        ),
    )
    yield "key: own kid", UnknownKid, header({"kid": "d-mallory", "jku": _PLACE}, by="own")


def _extensions() -> Iterator[Listed]:
    """RFC 7515 section 4.1.11, RFC 7797; and compression, which a JWS does not have."""
    crits: dict[str, dict[str, Any]] = {
        "a member that is known": {"crit": ["exp"], "exp": 1},
        "alg": {"crit": ["alg"]},
        "a member that is unknown": {"crit": ["x"], "x": 1},
        "a member that is not there": {"crit": ["x"]},
        "nothing": {"crit": []},
        "null": {"crit": None},
        "no list": {"crit": "exp"},
        "b64": {"b64": False, "crit": ["b64"]},
        "b64 without crit": {"b64": False},
        "b64 that is true": {"b64": True, "crit": ["b64"]},
    }
    for name, members in crits.items():
        yield f"crit: {name}", MalformedToken, header(members)
    unencoded = {"b64": False, "crit": ["b64"]}
    yield (
        "b64: claims as they are",
        MalformedToken,
        lambda v: as_it_stands(b64(json.dumps({**v.header, **unencoded})), json.dumps(v.claims), v),
    )

    def zipped(raw: bytes, bits: int) -> Attack:
        body = zlib.compress(raw, wbits=bits)
        return lambda v: v.forged({**v.header, "zip": "DEF"}, body)

    for name, bits in {"raw": -15, "zlib": 15, "gzip": 31}.items():
        yield f"zip: {name}", MalformedToken, zipped(b'{"exp":9999999999}', bits)
        yield f"zip: {name}, a bomb", MalformedToken, zipped(b"[" * 4_000_000, bits)


def kids(v: Victim) -> dict[str, str]:
    """Kids that are none of the ring's, and that somebody somewhere took for something."""
    other = ringkeeper.testing.keyring().snapshot.signer
    assert other
    return {
        "a path": "../../../../dev/null",
        "an absolute path": "/dev/null",
        "a file's URL": "file:///etc/passwd",
        "SQL": f"{v.kid}' OR '1'='1",
        "a shell's": f"{v.kid};id|$(id)`id`",
        "LDAP": f"{v.kid})(uid=*",
        "a pattern": "*",
        "a template": "{0.__class__} %s%n ${jndi:ldap://x}",
        "CR LF": f"{v.kid}\r\nX: y",
        "a terminal's": "\x1b[2J\x1b]0;x\x07",
        "NUL behind it": f"{v.kid}\0",
        "NUL within it": f"{v.kid[:5]}\0{v.kid[5:]}",
        "a space behind it": f"{v.kid} ",
        "a space before it": f" {v.kid}",
        "of another case": v.kid.swapcase(),
        "of full width": "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in v.kid),
        "with nothing between": f"{v.kid[:5]}\u200b{v.kid[5:]}",
        "with a soft hyphen": v.kid.replace("-", "\u00ad-", 1),
        "with a Cyrillic a": f"{v.kid[:-1]}\u0430",
        "with a lone surrogate": f"{v.kid}\ud800",
        "one character off": v.kid[:-1] + ("A" if v.kid[-1] != "A" else "B"),
        "cut short": v.kid[:-1],
        "of the other kind": f"s{v.kid[1:]}",
        "longer": f"{v.kid}AAAAAAAAAAAAAAAAAAAAA",
        "of another ring": other.kid,
        "of the trust root": v.ring._root.kid,
        "an attribute": "__class__",
        "as long as it may be": "d-" + "x" * 250,
        "empty": "",
    }


def _kids() -> Iterator[Listed]:
    def named(name: str) -> Attack:
        return lambda v: v.forged({**v.header, "kid": kids(v)[name]})

    for name in kids(Victim("ES256")):
        yield f"kid: {name}", UnknownKid, named(name)
    for kid in (None, 7, True, 1.5, [], ["d-x"], {"kid": 1}):
        yield f"kid: {kid!r}", MalformedToken, header({"kid": kid})
    yield "kid: none", MalformedToken, lambda v: v.forged({"alg": v.algorithm})
    yield (
        "kid: among the claims",
        MalformedToken,
        lambda v: v.forged({"alg": v.algorithm}, {**v.claims, "kid": v.kid}),
    )
    yield "kid: huge", MalformedToken, header({"kid": "d-" * 100_000})
    yield "kid: longer than a header", MalformedToken, header({"kid": "d" * 400})
    yield "kid: the standby's", InvalidSignature, lambda v: v.forged({**v.header, "kid": v.standby})
    yield "kid: the static one", InvalidSignature, lambda v: v.forged({**v.header, "kid": v.static})


def _twice() -> Iterator[Listed]:
    """Which one counts? (RFC 8725 section 2.4, RFC 7515 section 4)."""
    for name, extra in {
        "kid": '"kid":"d-x"', "alg": '"alg":"none"', "typ": '"typ":"x"',
        "kid, escaped": '"\\u006bid":"d-x"', "inside": '"jwk":{"a":1,"a":2}',
    }.items():  # fmt: skip
        yield f"twice: {name}", MalformedToken, header_text(_with(extra))
        yield f"twice: {name}, first", MalformedToken, header_text(_with(extra, is_first=True))
    for name, extra in {
        "exp": '"exp":1', "sub": '"sub":"admin"', "sub, escaped": '"s\\u0075b":"admin"',
        "deep inside": '"x":[{"a":[{"b":1,"b":2}]}]', "the empty name": '"":1,"":2',
    }.items():  # fmt: skip
        yield f"twice: {name}", MalformedToken, claims_text(_with(extra))


def _with(extra: str, *, is_first: bool = False) -> Callable[[str, Victim], str]:
    def write(text: str, _: Victim) -> str:
        return f"{{{extra},{text[1:]}" if is_first else f"{text[:-1]},{extra}}}"

    return write


def _forms() -> Iterator[Listed]:
    """RFC 8725 sections 2.8 and 3.11: what is none of our tokens, though it is somebody's."""

    def flattened(v: Victim) -> dict[str, Any]:
        return dict(zip(("protected", "payload", "signature"), v.token.split("."), strict=True))

    nested = {"cty": "JWT"}
    yield "nested", MalformedToken, lambda v: v.forged({**v.header, **nested}, v.token)
    yield (
        "nested text",
        MalformedToken,
        lambda v: v.forged({**v.header, **nested}, json.dumps(v.token)),
    )
    yield "a JWE", MalformedToken, _encrypted
    yield "a JWE's header", WrongAlgorithm, header({"alg": "dir", "enc": "A256GCM"})
    yield "JSON, flattened", MalformedToken, lambda v: json.dumps(flattened(v))
    yield (
        "JSON, general",
        MalformedToken,
        lambda v: json.dumps({"payload": v.token.split(".")[1], "signatures": [flattened(v)]}),
    )
    yield "JSON, as a dict", MalformedToken, flattened
    yield "detached", MalformedToken, part(1, lambda _: "")
    yield "a snapshot", MalformedToken, lambda v: v.ring._held().snapshot
    yield "a proof", MalformedToken, lambda v: v.ring._held().proof


def _encrypted(v: Victim) -> str:
    """A JWE to the public key, or with it, where a JWS should be."""
    is_rsa = "n" in v.jwk
    algorithms = ["RSA-OAEP" if is_rsa else "dir", "A256GCM"]
    key: Any = RSAKey.import_key({**v.jwk}) if is_rsa else OctKey.import_key(unb64(v.jwk["x"])[:32])
    head = {"alg": algorithms[0], "enc": "A256GCM", "kid": v.kid}
    return jwe.encrypt_compact(head, v.token.encode(), key, algorithms=algorithms)


def _texts() -> Iterator[Listed]:
    """One form only, and that is UTF-8 JSON in base64url."""

    def encoded(encoding: str) -> Callable[[str, Victim], bytes]:
        return lambda text, _: text.replace(" ", "").encode(encoding)

    def replaced(what: bytes, by: bytes) -> Callable[[str, Victim], bytes]:
        return lambda text, _: text.encode().replace(what, by)

    def instead(text: str) -> Callable[[str, Victim], str]:
        return lambda _, __: text

    writes: list[tuple[str, Callable[[str, Victim], Text]]] = [
        ("a BOM", encoded("utf-8-sig")),
        *((e, encoded(e)) for e in ("utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "cp037")),
        ("NUL behind it", replaced(b"}", b"}\0")),
        ("a comment behind it", replaced(b"}", b"}//")),
        ("single quotes", replaced(b'"', b"'")),
        ("a comma too many", replaced(b"}", b",}")),
        *((repr(t), instead(t)) for t in ("[]", "[1]", "null", "true", "1", '"x"', "", "{", "\\")),
    ]
    for name, write in writes:
        yield f"header: {name}", MalformedToken, header_text(write)
        yield f"claims: {name}", MalformedToken, claims_text(write)
    for name, by in {
        "overlong": b"\xc0\x80", "a surrogate": b"\xed\xa0\x80", "NUL": b"\0", "LF": b"\n",
        "Latin-1": b"\xe9", "beyond Unicode": b"\xf4\x90\x80\x80",
    }.items():  # fmt: skip
        yield f"claims: {name} in a text", MalformedToken, claims_text(replaced(b"mallory", by))
        yield f"header: {name} in a text", MalformedToken, header_text(replaced(b"JWT", by))
    yield "header: NaN", MalformedToken, header_text(_with('"x":NaN'))
    yield "claims: Infinity", MalformedToken, claims_text(_with('"x":-Infinity'))
    yield "header: 1e400", MalformedToken, header_text(_with('"x":1e400'))
    yield "claims: -1e400", MalformedToken, claims_text(_with('"x":[-1e400]'))


def _wire() -> Iterator[Listed]:
    """Whitespace, padding, alphabets: a token has one spelling (RFC 7515 appendix C)."""
    for name, text in {
        "NUL": "\0", "space": " ", "tab": "\t", "LF": "\n", "CR LF": "\r\n", "NBSP": "\xa0",
        "ZWSP": "\u200b", "BOM": "\ufeff", "=": "=", "'": "'", "%00": "%00", ",": ",",
    }.items():  # fmt: skip
        behind = InvalidSignature if text.isascii() else MalformedToken
        yield f"{name} before it", MalformedToken, _around(text, "")
        yield f"{name} in it", MalformedToken, part(1, lambda p, t=text: p[:8] + t + p[8:])  # type: ignore[misc]
        yield f"{name} behind it", behind, _around("", text)
    yield "a scheme before it", MalformedToken, _around("Bearer ", "")
    yield "two tokens", MalformedToken, lambda v: f"{v.token},{v.token}"
    yield "escaped dots", MalformedToken, lambda v: v.token.replace(".", "%2E")
    yield "dots that only look so", MalformedToken, lambda v: v.token.replace(".", "\u2024")
    for number, error in enumerate((MalformedToken, MalformedToken, InvalidSignature)):
        yield f"part {number}: padded", error, part(number, lambda p: p + "=" * (-len(p) % 4 or 4))
        yield f"part {number}: bits over", error, _with_bits_over(number)
        yield (
            f"part {number}: 4n + 1",
            error,
            part(number, lambda p: p + "A" * ((1 - len(p)) % 4 or 4)),
        )
        yield f"part {number}: + and /", error, part(number, lambda p: p[:4] + "+/" + p[6:])
        yield f"part {number}: no base64", error, part(number, lambda _: "!!!!")
        yield f"part {number}: empty", error, part(number, lambda _: "")


def _around(before: str, behind: str) -> Attack:
    return lambda v: f"{before}{v.token}{behind}"


def _with_bits_over(number: int) -> Attack:
    """The same bytes in another spelling, which is what was signed: its last bits, nobody reads."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def uneven(members: dict[str, Any]) -> str:
        while len(json.dumps(members)) % 3 == 0:
            members["x"] = members.get("x", "") + "x"
        return b64(json.dumps(members))

    def changed(text: str) -> str:
        # The 96 bytes of ES384 leave none over: there, one character more.
        return (
            text + "A" if len(text) % 4 == 0 else text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
        )

    def attack(v: Victim) -> str:
        parts = [uneven(v.header), uneven(v.claims)]
        parts = [changed(p) if n == number else p for n, p in enumerate(parts)]
        signed = as_it_stands(parts[0], parts[1], v)
        head, _, tail = signed.rpartition(".")
        return f"{head}.{changed(tail)}" if number == len(parts) else signed

    return attack


def _sizes() -> Iterator[Listed]:
    yield (
        "a header too long by one",
        MalformedToken,
        lambda v: as_it_stands(
            b64(json.dumps({**v.header, "x": "x" * 400}))[: MAX_HEADER + 1],
            b64(json.dumps(v.claims)),
            v,
        ),
    )
    yield "a megabyte of header", MalformedToken, header({"x": "x" * 1_000_000})
    yield "a megabyte of claims", MalformedToken, claims({"x": "x" * 1_000_000})
    yield "too long by one", MalformedToken, lambda v: v.token.ljust(MAX_TOKEN + 1, "A")
    for count in (0, 1, 2, 3, 4, 5, 10_000, 1_000_000):
        yield f"{count} dots", MalformedToken, lambda _, n=count: "." * n  # type: ignore[misc]
    yield "a fourth part", MalformedToken, _around("", ".AAAA")
    yield "two parts", MalformedToken, lambda v: v.token.rpartition(".")[0]
    for name, text in {
        "lists": "[" * 5000, "closed lists": "[" * 4000 + "]" * 4000,
        "objects": '{"a":' * 2000, "closed objects": '{"a":' * 1500 + "1" + "}" * 1500,
    }.items():  # fmt: skip
        yield f"claims of {name}", MalformedToken, claims_text(_with(f'"x":{text}'))
        yield f"claims that are {name}", MalformedToken, claims_text(lambda _, __, t=text: t)  # type: ignore[misc]
    yield "a header of lists", MalformedToken, header_text(lambda _, __: "[" * 380)
    yield "a header of objects", MalformedToken, header_text(lambda _, __: '{"a":' * 70)


def _times() -> Iterator[Listed]:
    """RFC 7519 section 2: a NumericDate is a number; and none of them is believed blindly."""
    huge = [
        "1e400",
        "-1e400",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e308",
        f"1{'0' * 30}",
        f"-1{'0' * 30}",
    ]
    texts = ['"now"', '""', '"9999999999"', "true", "false", "null", "[]", "[1]", "{}", '{"$gt":0}']
    for text in (*huge, *texts, "1" + "0" * 5000):
        for name in ("exp", "iat", "nbf"):
            shown = text if len(text) < 40 else "of 5,000 digits"
            yield f"{name} {shown}", MalformedToken, claims_text(_instead_of(name, text))
    yield "no exp", MalformedToken, lambda v: v.forged(claims={"sub": "mallory"})
    for past in (-1, -1e11, 0, -0.0, 1e-300, 1):
        yield f"exp {past!r}", ExpiredToken, claims({"exp": past})
    yield "expired just now", ExpiredToken, lambda v: v.forged(claims={"exp": v.now - 60})
    for name in ("nbf", "iat"):
        yield (
            f"{name} ahead",
            ImmatureToken,
            lambda v, n=name: v.forged(  # type: ignore[misc]
                claims={**v.claims, n: v.now + 61.5}
            ),
        )


def _instead_of(name: str, text: str) -> Callable[[str, Victim], str]:
    def write(_: str, v: Victim) -> str:
        members = {key: json.dumps(value) for key, value in v.claims.items()} | {name: text}
        return "{" + ",".join(f'"{key}":{value}' for key, value in members.items()) + "}"

    return write


def _signatures() -> Iterator[Listed]:
    def flipped(at: float) -> Callable[[bytes], bytes]:
        def flip(raw: bytes) -> bytes:
            changed = bytearray(raw)
            changed[int(at * (len(raw) - 1))] ^= 1
            return bytes(changed)

        return flip

    yield "signature: none", InvalidSignature, header({}, by="nobody")
    yield "signature: a stranger's", InvalidSignature, header({}, by="own")
    yield (
        "signature: of other claims",
        InvalidSignature,
        part(1, lambda _: b64('{"exp":9999999999}')),
    )
    for name, change in (
        ("zeros", lambda raw: bytes(len(raw))),
        ("ones", lambda raw: b"\xff" * len(raw)),
        ("one byte short", lambda raw: raw[:-1]),
        ("its first byte missing", lambda raw: raw[1:]),
        ("one byte more", lambda raw: raw + b"\0"),
        ("a zero before it", lambda raw: b"\0" + raw),
        ("doubled", lambda raw: raw + raw),
        ("2,000 bytes", lambda _: bytes(2000)),
        *((f"a bit flipped at {at:.0%}", flipped(at)) for at in (0, 0.2, 0.5, 0.8, 1)),
    ):
        yield f"signature: {name}", InvalidSignature, signature(change)


_SECTIONS = (
    _algorithms, _keys, _extensions, _kids, _twice, _forms, _texts, _wire, _sizes, _times,
    _signatures,
)  # fmt: skip
ATTACKS: dict[str, tuple[type[TokenError], Attack]] = {}
for _section in _SECTIONS:
    for _name, _error, _attack in _section():
        assert _name not in ATTACKS, _name
        ATTACKS[_name] = _error, _attack
