"""Compact JWSs are read as joserfc and the standard library read them, and no other way."""

import base64
import binascii
import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc.util import urlsafe_b64decode

from ringkeeper import compact
from ringkeeper.errors import MalformedToken

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NEARLY = st.text(st.sampled_from(ALPHABET + "+/=. \n*é\0"), max_size=12)


def read_or_none(read: Any, text: Any) -> Any:
    try:
        return read(text)
    except (ValueError, binascii.Error, MalformedToken):
        return None


@given(NEARLY | st.text(st.sampled_from(ALPHABET), max_size=40))
@example("")
@example("A")
@example("AB")  # bits left over
@example("AA==")
@example("A+AA")
@example("A/AA")
@example("AAA=")
def test_base64url_is_what_joserfc_takes_for_it(text: str) -> None:
    theirs = read_or_none(lambda given: urlsafe_b64decode(given.encode()), text)
    assert read_or_none(compact.octets_in, text) == theirs


@pytest.mark.parametrize(
    "text", ["AAAA!!!!", "AA!!!!AA", "AAAA    ", "AAAA\n\n\n\n", "e30!", "e30=", "é30"]
)
def test_what_is_no_base64url_is_not_passed_over(text: str) -> None:
    assert read_or_none(compact.octets_in, text) is None


@given(st.binary(max_size=70))
def test_what_is_written_is_the_one_text_that_is_read(octets: bytes) -> None:
    text = compact.base64url(octets)
    assert text == base64.urlsafe_b64encode(octets).decode().rstrip("=")
    assert compact.octets_in(text) == octets
    for end in ALPHABET:
        other = text[:-1] + end
        if octets and other != text:
            assert read_or_none(compact.octets_in, other) != octets


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=6), st.sampled_from([None, 1]))
def test_claims_are_read_as_the_standard_library_reads_them(
    claims: dict[str, Any], indent: int | None
) -> None:
    plain = json.dumps(claims, separators=(",", ":"), ensure_ascii=False)
    for text in (json.dumps(claims, indent=indent), plain, f" {plain}\n"):
        assert repr(compact.claims_in(text.encode())) == repr(json.loads(text))


@given(st.text(st.sampled_from('{}[]",:01eE.-+ \n\\untrueNaI\x01'), max_size=14))
@example("{}{}")
@example("{}}")
@example("{")
@example("}")
@example('{"a":1,"a":2}')
@example('{"a":{"b":1,"b":1}}')
@example('{"a":NaN}')
@example('{"a":1e400}')
@example('{"a":-Infinity}')
@example("[]")
def test_nothing_else_is_read(text: str) -> None:
    def strictly(given: str) -> Any:
        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            assert len(dict(pairs)) == len(pairs)
            return dict(pairs)

        try:
            value = json.loads(given, object_pairs_hook=once)
            json.dumps(value, allow_nan=False)
        except (ValueError, AssertionError):
            return None
        return value if isinstance(value, dict) else None

    assert read_or_none(compact.claims_in, text.encode()) == strictly(text)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=6))
def test_what_is_written_is_read_back(claims: dict[str, Any]) -> None:
    message, back = compact.written("d-x", "ES256", None, claims)
    assert back == claims
    header, found, again = compact.read(f"{message}.AAAA")
    assert (header.kid, header.algorithm, header.is_sound) == ("d-x", "ES256", True)
    assert found == claims
    assert again() == claims
    assert again() is not again()


@pytest.mark.parametrize(
    "claims",
    [{1: "a"}, {"a": {1: "b"}}, {"a": ({"b": True},)}, {"a": [{None: 1}]}],
)
def test_what_json_writes_in_another_way_comes_back_so(claims: dict[Any, Any]) -> None:
    _, back = compact.written("d-x", "ES256", None, claims)
    assert back == json.loads(json.dumps(claims)) != claims


@pytest.mark.parametrize("claims", [{1: "a", "1": "b"}, {"\ud83d\ude00": 1, "\U0001f600": 2}])
def test_two_names_that_are_one_in_json_are_refused(claims: dict[Any, Any]) -> None:
    with pytest.raises(MalformedToken):
        compact.written("d-x", "ES256", None, claims)


def test_kid_and_algorithm_are_as_given_whatever_else_a_header_says() -> None:
    extra = {"kid": "x", "alg": "none", "typ": "at+jwt", "version": "5"}
    message, _ = compact.written("d-x", "ES256", extra, {})
    assert json.loads(compact.octets_in(message.partition(".")[0])) == {
        "typ": "at+jwt",
        "kid": "d-x",
        "alg": "ES256",
        "version": "5",
    }


def deep(levels: int, around: str, inside: str = "1") -> str:
    """Claims of so many levels."""
    opening, closing = around.split("*")
    return f'{{"a":{opening * (levels - 1)}{inside}{closing * (levels - 1)}}}'


@pytest.mark.parametrize("around", ["[*]", '{"b":*}', '[{"b":[*]}]', '["]",*,"[["]'])
def test_claims_may_be_nested_so_deep_and_no_deeper(around: str) -> None:
    each = around.count("[") - around.count('"[') * 2 + around.count("{")
    levels = (compact.MAX_DEPTH - 1) // each + 1
    assert compact.claims_in(deep(levels, around).encode())
    for text in (deep(levels + each, around), deep(levels + each, around).rstrip("]}")):
        with pytest.raises(MalformedToken, match="nested more than 512 deep"):
            compact.claims_in(text.encode())


@pytest.mark.parametrize("inside", ['"' + "[" * 9000 + '"', '"\\"' + "{" * 9000 + '"', "[]"])
def test_what_stands_in_a_text_or_beside_it_is_not_nested(inside: str) -> None:
    text = f'{{"a":[{",".join([inside] * (3000 if inside == "[]" else 1))}]}}'
    assert compact.claims_in(text.encode()) == json.loads(text)


def test_what_is_written_is_no_deeper_either() -> None:
    claims = json.loads(deep(compact.MAX_DEPTH, "[*]"))
    assert compact.written("d-x", "ES256", None, claims)
    with pytest.raises(MalformedToken, match="nested more than 512 deep"):
        compact.written("d-x", "ES256", None, {"a": claims})
    with pytest.raises(MalformedToken, match="nested more than 512 deep"):
        compact.written("d-x", "ES256", None, {"a": claims, "b": ()})


SMALL_STACK = """
import threading
from ringkeeper import compact
from ringkeeper.errors import MalformedToken
refused = []
head = compact.base64url(b'{"kid":"x"}')
def read():
    for text in (b"[" * 12_000, b"[" * 6_000 + b"]" * 6_000, b'{"a":' * 2_400, b'[{"a":' * 2_000):
        claims = compact.base64url(b'{"a":' + text)
        try:
            compact.read(f"{head}.{claims}.AAAA")
        except MalformedToken as error:
            refused.append(str(error))
compact.codec()
threading.stack_size(256 * 1024)
thread = threading.Thread(target=read)
thread.start()
thread.join()
assert ["nested" in why for why in refused] == [True] * 4, refused
"""


def test_no_stranger_s_token_ends_a_process_whose_threads_have_small_stacks() -> None:
    """Claims are read before anybody knows whether they were signed."""
    done = subprocess.run([sys.executable, "-c", SMALL_STACK], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "inside", ["[]," * 4000 + "[]", '"x",' * 3000 + "[" * 600, '"' + '\\"[' * 4000 + '"']
)
def test_to_look_how_deep_claims_are_takes_no_longer_than_a_few_readings(inside: str) -> None:
    """A stranger may send such tokens, too."""
    octets = f'{{"a":[{inside}]}}'.encode()

    def seconds(call: Any) -> float:
        began = time.perf_counter()
        read_or_none(call, octets)
        return time.perf_counter() - began

    mine = min(seconds(compact._check_depth) for _ in range(9))
    theirs = min(seconds(lambda given: list(given.decode())) for _ in range(9))
    assert mine < 24 * theirs + 0.0005
