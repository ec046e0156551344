"""Finds private numbers in bytes, however they were written there.

A private number (RSA's d, p, q, dp, dq, qi; the d of EC and Ed25519 keys; a KEK) is known in every
form that something might write it in. What is looked for are `WINDOW` bytes of it in a row,
wherever they begin: a fragment is a leak, too.

How: of each form only every few characters a needle is kept, short enough that any `WINDOW` bytes
have a whole needle in them. What is searched is cut at every place, but only within runs of
characters that could be that form at all. So the cost grows with what is searched, hardly with
how many numbers are known.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WINDOW: Final = 16
"""Bytes of a number in a row that count as found."""

_NUMBERS: Final = ("d", "p", "q", "dp", "dq", "qi", "k")
_UNESCAPED: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f"}
_ESCAPE: Final = re.compile(rb"(?:\\x|\\u00|%)([0-9a-fA-F]{2})|\\([^xu])", re.DOTALL)
_LISTED: Final = re.compile(rb"(?<!\d)\d{1,3}(?:[,;] ?\d{1,3}){15,}(?!\d)")
_UTF8: Final = re.compile(rb"[\xc2\xc3][\x80-\xbf]")
_BETWEEN: Final = re.compile(rb"[:\s]+")
_TO_BASE64URL: Final = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True, slots=True)
class Number:
    """One private number: whose, which, and its bytes, which are never shown."""

    owner: str
    name: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a private number was found, and as what."""

    source: str
    owner: str
    number: str
    form: str
    offset: int

    def __str__(self) -> str:
        return f"{self.source}: {self.number} of {self.owner}, as {self.form}, at {self.offset}"


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write bytes down."""

    name: str
    runs: re.Pattern[bytes]
    """What a stretch of it looks like."""
    needle: int
    """Characters of a needle."""
    step: int
    """Characters from one needle to the next: `needle + step - 1` of them are always found."""
    written: Callable[[bytes], Iterator[bytes]]
    """All the ways in which bytes look, written so."""
    folded: Callable[[bytes], bytes] = bytes
    """What is searched, with spellings of one thing made equal; never longer or shorter."""


def _either_end_first(raw: bytes) -> Iterator[bytes]:
    yield raw
    yield raw[::-1]


def _hex(raw: bytes) -> Iterator[bytes]:
    for ordered in _either_end_first(raw):
        yield ordered.hex().encode()


def _base64(raw: bytes) -> Iterator[bytes]:
    """Wherever in a longer text the bytes begin: three alignments, without what neighbours touch."""
    for ordered in _either_end_first(raw):
        for before, shared in enumerate((0, 2, 3)):
            text = base64.urlsafe_b64encode(bytes(before) + ordered).rstrip(b"=")
            yield text[shared:-1]


def _decimal(raw: bytes) -> Iterator[bytes]:
    for order in ("big", "little"):
        yield str(int.from_bytes(raw, order)).encode()


# 16 bytes are 32 hexadecimal digits, at least 20 whole characters of base64, 38 decimal digits.
FORMS: Final = (
    Form("raw bytes", re.compile(rb".{12,}", re.DOTALL), 12, 5, _either_end_first),
    Form("hexadecimal", re.compile(rb"[0-9a-f]{24,}"), 24, 9, _hex, bytes.lower),
    Form(
        "base64",
        re.compile(rb"[A-Za-z0-9_-]{16,}"),
        16,
        5,
        _base64,
        lambda text: text.translate(_TO_BASE64URL),
    ),
    Form("decimal", re.compile(rb"[0-9]{26,}"), 26, 13, _decimal),
)


def numbers_of(owner: str, jwk: Mapping[str, Any]) -> list[Number]:
    """The private numbers of a JWK."""
    return [Number(owner, name, _decoded(jwk[name])) for name in _NUMBERS if name in jwk]


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Scanner:
    """Knows private numbers, more and more of them, and finds them in bytes."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, Number] = {}
        self._needles: dict[str, dict[bytes, Number]] = {form.name: {} for form in FORMS}
        self.scanned = 0
        """Bytes looked through."""

    def learn(self, owner: str, jwk: Mapping[str, Any]) -> None:
        """Know the private numbers of `jwk` from now on."""
        for number in numbers_of(owner, jwk):
            if number.raw in self.numbers:
                continue
            assert len(number.raw) >= WINDOW
            self.numbers[number.raw] = number
            for form in FORMS:
                needles = self._needles[form.name]
                for text in form.written(number.raw):
                    for at in _cuts(len(text), form):
                        needles[text[at : at + form.needle]] = number

    def search(self, source: str, hay: bytes) -> list[Finding]:
        """Every private number in `hay`, each form of it once."""
        self.scanned += len(hay)
        found: dict[tuple[str, str, str], Finding] = {}
        for how, layer in _layers(hay):
            for form in FORMS:
                for offset, number in self._hits(form, layer):
                    name = f"{form.name}{how}"
                    key = (number.owner, number.name, form.name)
                    found.setdefault(key, Finding(source, number.owner, number.name, name, offset))
        return list(found.values())

    def _hits(self, form: Form, hay: bytes) -> Iterator[tuple[int, Number]]:
        needles, length = self._needles[form.name], form.needle
        if not needles:
            return
        folded = form.folded(hay)
        for run in form.runs.finditer(folded):
            begin, end = run.span()
            for at in range(begin, end - length + 1):
                if folded[at : at + length] in needles:
                    yield at, needles[folded[at : at + length]]


def _cuts(length: int, form: Form) -> Iterator[int]:
    yield from range(0, length - form.needle + 1, form.step)
    yield length - form.needle


def _layers(hay: bytes) -> Iterator[tuple[str, bytes]]:
    """`hay` as it is, and what it says once escapes, lists and separators are taken away."""
    yield "", hay
    escaped = hay
    for _ in range(3):  # a repr in JSON in a repr
        if not _ESCAPE.search(escaped):
            break
        escaped = _ESCAPE.sub(_unescaped, escaped)
        yield ", escaped", escaped
    if _UTF8.search(hay):
        yield ", as UTF-8", _UTF8.sub(lambda two: two[0].decode().encode("latin-1"), hay)
    listed = b"\0".join(_numbered(found[0]) for found in _LISTED.finditer(hay))
    if listed:
        yield ", a list of numbers", listed
    # Lines of PEM, and 0a:1b:2c as openssl prints it.
    whole = _BETWEEN.sub(b"", hay)
    if len(whole) < len(hay):
        yield ", in pieces", whole


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return bytes([int(found[1], 16)])
    return _UNESCAPED.get(found[2], found[2])


def _numbered(text: bytes) -> bytes:
    values = [int(part) for part in re.findall(rb"\d+", text)]
    return bytes(value for value in values if value < 256)
