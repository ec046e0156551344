"""RSA: one block alone is good for a token (RFC 8017 sections 8.2.2 and 8.1.2).

A verifier that parses the block instead of comparing it takes others, too, and with some of them
whoever has no key forges (Bleichenbacher 2006; CVE-2014-1568, BERserk). So here the ring's own
private half signs each block that is off in one place, at each place where DER could be read in
another way. Among the changes are all those that Wycheproof's JWS vectors try ("ModifiedPadding"):
with the key that is published there, these functions make each of the 213 signatures, octet by
octet.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from ringkeeper import by_joserfc
from ringkeeper.algorithms import ALGORITHMS, PublicKey
from ringkeeper.errors import InvalidSignature
from ringkeeper.testing import MemoryKeyring
from tests.adversary.forging import Victim, b64, unb64, victim
from tests.adversary.test_tokens import refused

PKCS1 = [name for name in ALGORITHMS if name.startswith("RS")]
OIDS = {
    "256": bytes.fromhex("608648016503040201"),
    "384": bytes.fromhex("608648016503040202"),
    "512": bytes.fromhex("608648016503040203"),
    "1": bytes.fromhex("2b0e03021a"),
}
SEQUENCE, OID, NULL, OCTETS = 0x30, 0x06, 0x05, 0x04


class Node(NamedTuple):
    """Something in DER: what it is, and what is in it."""

    name: str
    tag: int
    value: "bytes | list[Node]"


def length_of(number: int) -> bytes:
    if number < 128:
        return bytes([number])
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([128 + len(octets)]) + octets


def written(node: Node, changed: dict[str, bytes]) -> bytes:
    """`node` in DER, where those that are named in `changed` are written as it says."""
    if node.name in changed:
        return changed[node.name]
    return der(node.tag, content(node, changed))


def content(node: Node, changed: dict[str, bytes]) -> bytes:
    if isinstance(node.value, bytes):
        return node.value
    return b"".join(written(each, changed) for each in node.value)


def digest_info(algorithm: str, signed: bytes) -> Node:
    """What the block ends with (RFC 8017 section 9.2)."""
    bits = algorithm[2:]
    identifier = [Node("oid", OID, OIDS[bits]), Node("parameters", NULL, b"")]
    digest = hashlib.new(f"sha{bits}", signed).digest()
    whole = [Node("identifier", SEQUENCE, identifier), Node("digest", OCTETS, digest)]
    return Node("info", SEQUENCE, whole)


def nodes(node: Node) -> Iterator[Node]:
    yield node
    if not isinstance(node.value, bytes):
        for each in node.value:
            yield from nodes(each)


def der(tag: int, inner: bytes) -> bytes:
    return bytes([tag]) + length_of(len(inner)) + inner


def spellings(node: Node) -> Iterator[tuple[str, bytes]]:
    """`node`, written otherwise than DER has it."""
    inner = content(node, {})
    right = der(node.tag, inner)
    yield "not there", b""
    yield "NULL", b"\x05\0"
    yield "twice", right + right
    if node.tag == OID:
        yield from _names(inner)
    yield from _lengths(bytes([node.tag]), inner)
    yield from _values(node.tag, inner)
    yield from _more(node.tag, inner, right)
    yield from _tags(node.tag, inner, right)


def _lengths(tag: bytes, inner: bytes) -> Iterator[tuple[str, bytes]]:
    octets = len(inner).to_bytes(1, "big")
    for width in (1, 2, 3, 4, 8, 126):
        long = bytes([128 + width]) + octets.rjust(width, b"\0")
        yield f"length in {width} octets", tag + long + inner
    overflowing = (2**32 + len(inner), 2**64 + len(inner))
    for claimed in (2**31 - 1, 2**31, 2**32 - 1, 2**40 - 1, 2**64 - 1, *overflowing):
        yield f"length {claimed}", tag + length_of(claimed) + inner
    yield "length one more", tag + length_of(len(inner) + 1) + inner
    yield "length of no kind", tag + b"\xff" + inner
    if inner:
        yield "length one less", tag + length_of(len(inner) - 1) + inner
    yield "a tag alone", tag
    yield "a tag and a length of it", tag + b"\x81"
    yield "without end", tag + b"\x80" + inner
    ends = ("0000", "00", "05000000", "0001ff", "0002beef", "0000fe02beef", "060811220000")
    for end in ends:
        yield f"of indefinite length, end {end}", tag + b"\x80" + inner + bytes.fromhex(end)


def _names(inner: bytes) -> Iterator[tuple[str, bytes]]:
    """Object identifiers that are another's, or are read as another by who cuts their numbers."""
    long = inner[:-1] + bytes.fromhex("8880808001")
    longest = inner[:-1] + bytes.fromhex("82808080808080808001")
    padded = inner[:1] + b"\x80" + inner[1:]
    last = inner[:-1] + bytes([inner[-1] ^ 0x10])
    for name in (OIDS["1"], inner + b"\x01", inner + b"\xe0", last, long, longest, padded):
        yield f"named {name.hex()}", der(OID, name)


def _values(tag: int, inner: bytes) -> Iterator[tuple[str, bytes]]:
    yield "no value", der(tag, b"")
    for cut in {1, 2, 13, len(inner) // 2, len(inner) - 1} if inner else ():
        yield f"without the last {cut} octets", der(tag, inner[:-cut])
        yield f"without the first {cut} octets", der(tag, inner[cut:])
    for bit in (0x01, 0x02, 0x80) if inner else ():
        yield f"another first octet {bit:#x}", der(tag, bytes([inner[0] ^ bit]) + inner[1:])
        yield f"another last octet {bit:#x}", der(tag, inner[:-1] + bytes([inner[-1] ^ bit]))
    if inner:
        yield "a first octet two less", der(tag, bytes([(inner[0] - 2) % 256]) + inner[1:])


def _more(tag: int, inner: bytes, right: bytes) -> Iterator[tuple[str, bytes]]:
    """What is none of it: in it, around it, beside it."""
    also = (
        "0000",
        "0500",
        "3000",
        "deadbeef",
        "0004deadbeef",
        "020100",
        "bf7f00",
        "a0020500",
        "a000",
    )
    for more in map(bytes.fromhex, also):
        yield f"{more.hex()} at its end", der(tag, inner + more)
        yield f"{more.hex()} at its beginning", der(tag, more + inner)
        yield f"{more.hex()} behind it", right + more
        yield f"{more.hex()} before it", more + right
        yield f"{more.hex()} behind one around it", der(tag | 0x20, right) + more
    for undefined in map(bytes.fromhex, ("498177", "2500", "aa00bb00cd00", "aa02aabb")):
        yield f"{undefined.hex()} beside it, in one", der(tag | 0x20, undefined + right)


def _tags(tag: int, inner: bytes, right: bytes) -> Iterator[tuple[str, bytes]]:
    constructed = tag | 0x20
    for other in {*range(0x0D), 0x24, *range(0x2E, 0x33), tag ^ 0x20, 0xFF} - {tag}:
        yield f"tag {other:#04x}", der(other, inner)
        within = bytes([constructed, 0x80]) + der(other, inner) + b"\0\0"
        yield f"tag {other:#04x}, within indefinite length", within
    yield "within indefinite length", bytes([constructed, 0x80]) + right + b"\0\0"
    empty = bytes.fromhex("aa00bb00")
    yield "undefined, within", bytes([constructed, 0x80]) + empty + inner + b"\0\0"
    yield "within another", der(constructed, right)
    for first in (0, 1, len(inner) - 1):
        pieces = der(tag, inner[:first]) + der(tag, inner[first:])
        yield f"in pieces after {first}", der(constructed, pieces)
    yield "with a tag in two octets", bytes([tag | 0x1F, tag & 0x1F]) + right[1:]
    yield "in a tag that is not defined", b"\xaa\xbb\xcd" + length_of(len(right)) + right


def block(size: int, info: bytes, padding: bytes | None = None) -> bytes:
    """What is to be signed: `info` behind its padding, and nothing behind it."""
    wanted = size - 3 - len(info)
    return b"\0\x01" + (b"\xff" * wanted if padding is None else padding) + b"\0" + info


def other_blocks(size: int, info: bytes) -> Iterator[tuple[str, bytes]]:
    """The right thing to say, in another frame."""
    room = size - 3 - len(info)
    yield "type 0", b"\0\0" + b"\0" * room + b"\0" + info
    yield "type 2", b"\0\x02" + b"\xaa" * room + b"\0" + info
    yield "a first octet", b"\x01" + block(size, info)[1:]
    yield "padded with zeros", block(size, info, b"\0" * room)
    yield "padded with one other octet", block(size, info, b"\xff" * (room - 1) + b"\xfe")
    yield "padded with one other octet, first", block(size, info, b"\xfe" + b"\xff" * (room - 1))
    yield "nothing between", b"\0\x01" + b"\xff" * (room + 1) + info
    for much in (8, 1, 0):
        behind = room - much
        yield (
            f"{much} octets of padding",
            b"\0\x01" + b"\xff" * much + b"\0" + info + b"\xaa" * behind,
        )
        yield (
            f"{much} octets, zeros behind",
            b"\0\x01" + b"\xff" * much + b"\0" + info + bytes(behind),
        )
    yield "one octet behind", b"\0\x01" + b"\xff" * (room - 1) + b"\0" + info + b"\0"


def by_hand(v: Victim, framed: bytes) -> str:
    """A token that says what `framed` says: `framed`, to the power of the private exponent."""
    numbers = v.private.private_numbers()
    n = numbers.public_numbers.n
    assert len(framed) == v.private.key_size // 8, len(framed)
    number = int.from_bytes(framed, "big")
    assert number < n
    # Half by half (RFC 8017 section 5.1.2): four times as fast.
    one, two = pow(number, numbers.dmp1, numbers.p), pow(number, numbers.dmq1, numbers.q)
    raw = two + (one - two) * numbers.iqmp % numbers.p * numbers.q
    return f"{v.token.rpartition('.')[0]}.{b64(raw.to_bytes(len(framed), 'big'))}"


VERIFIERS = {"own": PublicKey.verifies, "joserfc": by_joserfc.verifies}


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> Callable[[Victim], Iterator[MemoryKeyring]]:
    """The victim's ring, with either way to verify: signing is what takes time here."""

    def each(v: Victim) -> Iterator[MemoryKeyring]:
        monkeypatch.setattr(v.ring, "_cache", None)
        for verifies in VERIFIERS.values():
            monkeypatch.setattr(v.ring, "_verifies", verifies)
            yield v.ring

    return each


@pytest.mark.parametrize("algorithm", PKCS1)
def test_no_other_block_than_the_right_one_is_taken(
    algorithm: str, rings: Callable[[Victim], Iterator[MemoryKeyring]]
) -> None:
    v = victim(algorithm)
    size = v.private.key_size // 8
    info = digest_info(algorithm, v.token.rpartition(".")[0].encode())
    right = block(size, written(info, {}))
    good = by_hand(v, right)
    assert good == v.token, "what is made by hand here is what it should be"
    assert all(ring.verify(good) for ring in rings(v))
    tried = set[bytes]()
    digest = next(each for each in nodes(info) if each.name == "digest").value
    assert isinstance(digest, bytes)
    blocks = [
        *other_blocks(size, written(info, {})),
        ("the digest alone", block(size, digest)),
        *(
            (f"{node.name}: {name}", block(size, written(info, {node.name: other})))
            for node in nodes(info)
            for name, other in spellings(node)
        ),
    ]
    for name, framed in blocks:
        if framed == right or framed in tried:
            continue
        tried.add(framed)
        token = by_hand(v, framed)
        for ring in rings(v):
            assert type(refused(ring, token)) is InvalidSignature, name
    assert len(tried) > 500


@pytest.mark.parametrize("algorithm", PKCS1)
def test_no_digest_of_another_name_is_taken(algorithm: str) -> None:
    """The right digest under a wrong name, and a weak one that an attacker might collide."""
    v = victim(algorithm)
    signed, size = v.token.rpartition(".")[0].encode(), v.private.key_size // 8
    right = digest_info(algorithm, signed)
    for bits, oid in OIDS.items():
        if bits == algorithm[2:]:
            continue
        renamed = written(right, {"oid": bytes([OID, len(oid)]) + oid})
        digest = hashlib.new(f"sha{bits}", signed).digest()
        other = {
            "oid": bytes([OID, len(oid)]) + oid,
            "digest": bytes([OCTETS, len(digest)]) + digest,
        }
        for info in (renamed, written(right, other)):
            token = by_hand(v, block(size, info))
            assert len(unb64(token.rpartition(".")[2])) == size
            assert type(refused(v.ring, token)) is InvalidSignature


# --- RSASSA-PSS ----------------------------------------------------------------------------------


def mask_of(seed: bytes, length: int) -> bytes:
    """MGF1 (RFC 8017 appendix B.2.1)."""
    digests = (
        hashlib.sha256(seed + n.to_bytes(4, "big")).digest() for n in range(length // 32 + 1)
    )
    return b"".join(digests)[:length]


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def pss(signed: bytes, salt: bytes, size: int, **changed: Any) -> bytes:
    """What is to be signed (RFC 8017 section 9.1.1), where nothing is changed."""
    told: dict[str, Any] = {
        "eight": bytes(8),
        "digest": hashlib.sha256(signed).digest(),
        "hashed_salt": salt,
        "zeros": bytes(size - len(salt) - 34),
        "one": b"\x01",
        "hash_bits": lambda h: h,
        "masked_bits": lambda m: m,
        "top": 0,
        "trailer": b"\xbc",
        **changed,
    }
    hashed = hashlib.sha256(told["eight"] + told["digest"] + told["hashed_salt"]).digest()
    block = told["zeros"] + told["one"] + salt
    masked = told["masked_bits"](xor(block, mask_of(hashed, len(block))))
    masked = bytes([masked[0] & 0x7F | told["top"]]) + masked[1:]
    whole: bytes = masked + told["hash_bits"](hashed) + told["trailer"]
    return whole


def bit(number: int) -> Callable[[bytes], bytes]:
    """What changes one bit of the octet of that number."""

    def change(octets: bytes) -> bytes:
        at = number % len(octets)
        return octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]

    return change


def test_no_other_block_than_the_right_one_is_taken_with_a_salt(
    rings: Callable[[Victim], Iterator[MemoryKeyring]],
) -> None:
    v = victim("PS256")
    signed, size = v.token.rpartition(".")[0].encode(), v.private.key_size // 8
    digest = hashlib.sha256(signed).digest()
    for salt in (bytes(32), b"\xff" * 32, bytes(range(32))):
        good = by_hand(v, pss(signed, salt, size))
        assert all(ring.verify(good) for ring in rings(v)), "what is made by hand is good"
    salt = bytes(range(32))
    room = size - len(salt) - 34
    wrong: dict[str, dict[str, Any]] = {
        **{f"bit of octet {n} of the digest": {"digest": bit(n)(digest)} for n in (0, 7, 16, -1)},
        **{f"bit of octet {n} of the hash": {"hash_bits": bit(n)} for n in (0, 1, 8, 16, 31, -1)},
        **{f"bit of octet {n} of the rest": {"masked_bits": bit(n)} for n in (1, 100, room, -1)},
        "another salt": {"hashed_salt": bytes(32)},
        "no salt in the hash": {"hashed_salt": b""},
        "another digest": {"digest": hashlib.sha256(signed + b".").digest()},
        "the digest of SHA-1": {"digest": hashlib.new("sha1", signed).digest()},  # noqa: S324 - to be refused
        "the message itself": {"digest": signed},
        "no zeros in front": {"eight": b""},
        "a one in front": {"eight": bytes(7) + b"\x01"},
        "another trailer": {"trailer": b"\xcc"},
        "a trailer of zero": {"trailer": b"\0"},
        "the first bit": {"top": 0x80},
        "no one": {"one": b"\0"},
        "two": {"one": b"\x02"},
        **{f"padding, octet {n}": {"zeros": bit(n)(bytes(room))} for n in (1, 2, room // 2, -1)},
        "padding of ones": {"zeros": b"\0" + b"\xff" * (room - 1)},
    }
    n = v.key.public_numbers().n
    for name, changed in wrong.items():
        framed = pss(signed, salt, size, **changed)
        if int.from_bytes(framed, "big") < n:
            token = by_hand(v, framed)
            for ring in rings(v):
                assert type(refused(ring, token)) is InvalidSignature, name
    for longer in (0, 1, 20, 31, 33, 64, size - 34):
        token = by_hand(v, pss(signed, bytes(longer), size))
        for ring in rings(v):
            assert type(refused(ring, token)) is InvalidSignature, f"a salt of {longer}"
