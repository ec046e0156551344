"""RSASSA-PKCS1-v1_5: one block alone is good for a token (RFC 8017 section 8.2.2).

A verifier that parses the block instead of comparing it takes others, too, and with some of them
whoever has no key forges (Bleichenbacher 2006; CVE-2014-1568, BERserk). So here the ring's own
private half signs each block that is off in one place, at each place where DER could be read in
another way: the kinds of change are those that Wycheproof's JWS vectors try ("ModifiedPadding").
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ringkeeper import by_joserfc
from ringkeeper.algorithms import ALGORITHMS, PublicKey
from ringkeeper.errors import InvalidSignature
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
    inner = content(node, changed)
    return bytes([node.tag]) + length_of(len(inner)) + inner


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


def spellings(node: Node) -> Iterator[tuple[str, bytes]]:
    """`node`, written otherwise than DER has it."""
    tag, inner = bytes([node.tag]), content(node, {})
    short, garbage = length_of(len(inner)), bytes.fromhex("deadbeef")
    right = tag + short + inner
    octets = len(inner).to_bytes(1, "big")
    for width in (1, 2, 3, 4, 8, 126):
        yield (
            f"length in {width} octets",
            tag + bytes([128 + width]) + octets.rjust(width, b"\0") + inner,
        )
    for claimed in (2**31 - 1, 2**32 - 1, 2**40 - 1, 2**64 - 1):
        yield f"length {claimed}", tag + length_of(claimed) + inner
    yield "length one more", tag + length_of(len(inner) + 1) + inner
    if inner:
        yield "length one less", tag + length_of(len(inner) - 1) + inner
        yield "a value that is cut", tag + length_of(len(inner) - 1) + inner[:-1]
        yield "a value that is cut in front", tag + length_of(len(inner) - 1) + inner[1:]
        yield "no value", tag + b"\0"
        first, last = bytes([inner[0] ^ 1]), bytes([inner[-1] ^ 1])
        yield "another first octet", tag + short + first + inner[1:]
        yield "another last octet", tag + short + inner[:-1] + last
    yield "length wrapped", tag + length_of(2**32 + len(inner)) + inner
    yield "without end", tag + b"\x80" + inner
    yield "of indefinite length", tag + b"\x80" + inner + b"\0\0"
    yield "of indefinite length, half an end", tag + b"\x80" + inner + b"\0"
    yield "of indefinite length, and more", tag + b"\x80" + inner + b"\x05\0\0\0"
    yield "of indefinite length, an end with a value", tag + b"\x80" + inner + b"\0\x01\xff"
    yield "not there", b""
    yield "a tag alone", tag
    yield "a tag and a length of it", tag + b"\x81"
    for name, more in {"zeros": b"\0\0", "NULL": b"\x05\0", "garbage": garbage}.items():
        longer = length_of(len(inner) + len(more))
        yield f"{name} at its end", tag + longer + inner + more
        yield f"{name} at its beginning", tag + longer + more + inner
        yield f"{name} behind it", right + more
        yield f"{name} before it", more + right
    for other in (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x30, 0x31, 0x24, 0xFF):
        if other != node.tag:
            yield f"tag {other:#04x}", bytes([other]) + short + inner
    yield "constructed or not, the other way", bytes([node.tag ^ 0x20]) + short + inner
    yield "in pieces", bytes([node.tag | 0x20]) + length_of(len(right)) + right
    yield "with a tag in two octets", bytes([node.tag | 0x1F, node.tag & 0x1F]) + short + inner
    yield "in a tag that is not defined", b"\xaa\xbb\xcd" + length_of(len(right)) + right
    yield "NULL", b"\x05\0"
    yield "twice", right + right


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


@pytest.fixture(params=[PublicKey.verifies, by_joserfc.verifies], ids=["own", "joserfc"])
def verifies(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("algorithm", PKCS1)
def test_no_other_block_than_the_right_one_is_taken(
    algorithm: str, verifies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    v = victim(algorithm)
    monkeypatch.setattr(v.ring, "_verifies", verifies)
    monkeypatch.setattr(v.ring, "_cache", None)
    size = v.private.key_size // 8
    info = digest_info(algorithm, v.token.rpartition(".")[0].encode())
    right = block(size, written(info, {}))
    good = by_hand(v, right)
    assert good == v.token, "what is made by hand here is what it should be"
    assert v.ring.verify(good)
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
        assert type(refused(v.ring, by_hand(v, framed))) is InvalidSignature, name
    assert len(tried) > 200


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
