"""Whatever comes in, only documented errors come out, soon, and nothing is accepted unsigned.

A few hundred inputs for each way in, in every run of the tests; `make fuzz` is the long form, with
a fuzzer that watches which branches an input reaches.
"""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringkeeper import tokens
from tests.fuzz.__main__ import DOCUMENT, Outcome, conclude
from tests.fuzz.targets import TARGETS, Accepted, world
from tests.plugins.examples import examples

PATIENT = settings(
    max_examples=examples(200),
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
QUICK = settings(PATIENT, max_examples=examples(40))
SLOW = ("http", "configuration", "arguments")

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["EdDSA", "none", "revoked", "dynamic", "d-AAAA", "\ud800", "\0", "9" * 3000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good input of which something was cut, changed, doubled, or mixed with another one."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        other = draw(st.sampled_from(seeds))
        data[start:end] = draw(
            st.binary(max_size=8)
            | st.just(bytes(data[start:end] * 2))
            | st.sampled_from([other[:20], other[start:end], b"", b"\0", b"."])
        )
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_good_is_known_as_good(name: str) -> None:
    """Else the rest proves nothing: each target says so where a good input is refused."""
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_anything(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()

    @(QUICK if name in SLOW else PATIENT)
    @given(st.binary(max_size=300) | mutated(seeds) | mutated(seeds))
    def check(data: bytes) -> None:
        target.check(data)

    check()


def members_of(document: Any) -> list[tuple[Any, ...]]:
    """The way to every member and item of a JSON document."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    found: list[tuple[Any, ...]] = []
    for key, value in pairs:
        found.append((key,))
        if isinstance(value, dict | list):
            found += [(key, *rest) for rest in members_of(value)]
    return found


@st.composite
def with_other_members(draw: st.DrawFn, document: Any) -> str:
    """The document with members replaced by any JSON, taken away, or doubled."""
    changed = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        ways = members_of(changed)
        *way, last = draw(st.sampled_from(ways or [("x",)]))
        at = changed
        for step in way:
            at = at[step]
        if draw(st.booleans()) or not isinstance(at, dict):
            at[last] = draw(JSON)
        else:
            at.pop(last, None)
    text = json.dumps(changed)
    return text.replace("{", '{"schema": 1, ', 1) if draw(st.booleans()) else text


@pytest.mark.parametrize("number", range(4))
def test_a_document_that_the_root_signed_is_read_as_it_stands_or_refused(number: int) -> None:
    """Who has the root may still be of another release, or have a defect."""
    payload = json.loads(TARGETS["signed-document"].seeds()[number][1:])

    @PATIENT
    @given(with_other_members(payload))
    def check(text: str) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        TARGETS["signed-document"].check(bytes([number]) + raw)

    check()


@PATIENT
@given(st.data())
def test_a_token_that_is_well_signed_is_read_as_it_stands_or_refused(data: st.DataObject) -> None:
    head, _, body = TARGETS["signed-token"].seeds()[1].partition(b"\0")
    texts = [data.draw(with_other_members(json.loads(part))) for part in (head, body)]
    raw = b"\0".join(text.encode("utf-8", "surrogatepass") for text in texts)
    TARGETS["signed-token"].check(raw)


@PATIENT
@given(with_other_members(world().private[world().signer.kid].secret_jwk()))
def test_what_we_sealed_opens_as_the_key_that_it_is_or_not_at_all(text: str) -> None:
    TARGETS["sealed-by-us"].check(text.encode("utf-8", "surrogatepass"))


@PATIENT
@given(claims=JSON, header=JSON, lifetime=st.floats(-1e10, 1e10) | st.none())
def test_whatever_a_program_wants_signed_is_verified_afterwards_or_is_its_mistake(
    claims: Any, header: Any, lifetime: float | None
) -> None:
    own = world()
    from tests.fuzz.targets import NOW

    wanted = timedelta(seconds=lifetime) if lifetime is not None else None
    try:
        token = tokens.sign(own.held, claims, NOW, lifetime=wanted, header=header)
    except ValueError:
        return
    if "nbf" not in claims:
        assert tokens.verify(own.held, token, NOW)["exp"]


# --- the command itself --------------------------------------------------------------------------


def test_a_saved_input_can_be_tried_again(tmp_path: Path) -> None:
    saved = tmp_path / "input"
    saved.write_bytes(b"30s")
    command = [sys.executable, "-m", "tests.fuzz", "--replay", "duration", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "nothing is wrong with it\n"


def test_a_failure_is_told_with_the_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target, saved = TARGETS["duration"], tmp_path / "duration-1-crash-x"
    good = Outcome(target, 10, 1.0, 0, 5, (), "")
    assert conclude([good], [target], is_written=False) == 0
    bad = Outcome(target, 10, 1.0, 0, 5, (saved,), "Uncaught Python exception")
    assert conclude([bad], [target], is_written=False) == 1
    told = capsys.readouterr().out
    assert f"again: python -m tests.fuzz --replay duration {saved}" in told
    assert "10 inputs; 1 failures" in told


def test_a_forgery_that_was_taken_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracles, not the code: what they are for must not slip by them."""
    forged = TARGETS["token"].seeds()[0] + b"x"
    monkeypatch.setattr(tokens, "verify", lambda *_, **__: {"exp": 1})
    with pytest.raises(Accepted, match="a forged token"):
        TARGETS["token"].check(forged)


def test_the_document_has_a_place_for_what_was_measured() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert "<!-- fuzz: written by make fuzz ARGS=--write -->" in text
    assert all(f"| {name} |" in text for name in TARGETS)
