"""What is signed comes back whole; what anyone touched is refused (promise 8)."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OKPKey

from ringkeeper.errors import DocumentError, ForgedDocument, MalformedDocument, SecretError
from ringkeeper.ring import Ring
from ringkeeper.sealing import Kek
from ringkeeper.trust import DocumentType, PinnedRoots, TrustRoot
from ringkeeper.wire import (
    PROOF,
    SNAPSHOT,
    Command,
    Event,
    Request,
    digest_of,
    open_event,
    open_proof,
    open_request,
    open_snapshot,
    sign_event,
    sign_proof,
    sign_request,
    sign_snapshot,
)
from ringkeeperd.operations import revoke
from tests.core.builders import HOUR, NOW, new_ring, policy, settle
from tests.plugins.examples import examples

ROOT = TrustRoot.generate()
VECTORS = sorted((Path(__file__).parent.parent / "vectors").glob("*.json"))


def grown_ring(algorithm: str = "RS256") -> Ring:
    """A ring with a key in every state."""
    ring, _ = settle(new_ring(policy(algorithm=algorithm)), NOW + 168 * HOUR)
    standby = ring.standby
    assert standby
    ring = revoke(ring, standby.kid, reason="leaked", now=NOW + 169 * HOUR, epoch=1)
    return settle(ring, NOW + 169 * HOUR)[0]


def payload_of(document: str) -> dict[str, Any]:
    part = document.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_a_ring_comes_back_from_its_snapshot_exactly(algorithm: str) -> None:
    ring = grown_ring(algorithm)
    assert open_snapshot(sign_snapshot(ring, ROOT), ROOT.public) == ring


def test_the_same_ring_gives_the_same_bytes() -> None:
    ring = grown_ring()
    assert sign_snapshot(ring, ROOT) == sign_snapshot(replace(ring), ROOT)


def test_proof_request_and_event_come_back_exactly() -> None:
    ring = new_ring()
    snapshot = sign_snapshot(ring, ROOT)
    proof = open_proof(sign_proof(ring, snapshot, NOW, ROOT), ROOT.public)
    assert (proof.ring_id, proof.version, proof.digest, proof.at) == (
        ring.id,
        1,
        digest_of(snapshot),
        NOW,
    )
    until = NOW + timedelta(seconds=10)
    request = Request(
        "q", ring.id, ring.name, 1, Command.REVOKE, "d-1", "leaked", "alice", NOW, until
    )
    assert open_request(sign_request(request, ROOT), ROOT.public) == request
    event = Event(ring.id, ring.name, 1, 1, NOW, "key activated", {"kid": "d-1", "forced": 2})
    assert open_event(sign_event(event, ROOT), ROOT.public) == event


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_vectors_that_others_rely_on_are_still_read(path: Path) -> None:
    vector = json.loads(path.read_text())
    roots = PinnedRoots.from_jwk(vector["root_public_jwk"])
    kek = Kek.from_secret_jwk(vector["kek_jwk"])
    ring = open_snapshot(vector["snapshot"], roots)
    assert ring.jwks() == vector["jwks"]
    assert digest_of(vector["snapshot"]) == vector["snapshot_digest"]
    assert open_proof(vector["proof"], roots).digest == vector["snapshot_digest"]
    assert open_request(vector["request"], roots).command == Command.REVOKE
    assert open_event(vector["event"], roots).event == "ring made"
    for kid, sealed in vector["sealed"].items():
        key = ring.key(kid)
        assert key
        assert kek.unseal(sealed, key).public_jwk == key.public


def test_vectors_exist() -> None:
    assert [path.stem for path in VECTORS] == ["eddsa", "es256", "rs256"]


def test_a_document_signed_by_another_root_is_forged() -> None:
    other = sign_snapshot(new_ring(), TrustRoot.generate())
    with pytest.raises(ForgedDocument, match="pin the right"):
        open_snapshot(other, ROOT.public)


def test_another_root_under_our_kid_is_forged() -> None:
    header = {"alg": "Ed25519", "kid": ROOT.kid, "typ": SNAPSHOT.typ}
    attacker = OKPKey.generate_key("Ed25519")
    body = json.dumps(payload_of(sign_snapshot(new_ring(), ROOT))).encode()
    forged = jws.serialize_compact(header, body, attacker, algorithms=["Ed25519"])
    with pytest.raises(ForgedDocument, match="signature"):
        open_snapshot(forged, ROOT.public)


def test_no_document_passes_for_another_kind() -> None:
    ring = new_ring(policy(algorithm="EdDSA"))
    snapshot = sign_snapshot(ring, ROOT)
    assert len(snapshot) < PROOF.limit
    with pytest.raises(MalformedDocument, match="typ"):
        open_proof(snapshot, ROOT.public)
    with pytest.raises(MalformedDocument, match="typ"):
        open_snapshot(sign_proof(ring, snapshot, NOW, ROOT), ROOT.public)


def test_what_was_signed_as_another_kind_does_not_pass_though_it_says_all_that_is_wanted() -> None:
    payload = payload_of(sign_snapshot(new_ring(), ROOT))
    for typ in (PROOF.typ, SNAPSHOT.typ.upper(), "JWT", ""):
        signed = ROOT.sign(DocumentType(typ, SNAPSHOT.limit), payload)
        with pytest.raises(MalformedDocument, match=r"where .* should be"):
            open_snapshot(signed, ROOT.public)


@pytest.mark.parametrize("where", [10, 200, -20])
def test_one_flipped_bit_is_noticed(where: int) -> None:
    document = sign_snapshot(new_ring(), ROOT)
    where %= len(document)
    flipped = document[:where] + chr(ord(document[where]) ^ 1) + document[where + 1 :]
    with pytest.raises(DocumentError):
        open_snapshot(flipped, ROOT.public)


@pytest.mark.parametrize("kept", [0, 1, 50, 500])
def test_a_document_cut_short_is_refused(kept: int) -> None:
    with pytest.raises(DocumentError):
        open_snapshot(sign_snapshot(new_ring(), ROOT)[:kept], ROOT.public)


def test_ten_megabytes_are_refused_unread() -> None:
    with pytest.raises(MalformedDocument, match="at most"):
        open_snapshot("x" * 10_000_000, ROOT.public)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.text(max_size=300) | st.from_regex(r"[\w-]{1,40}\.[\w-]{1,40}\.[\w-]{1,40}", fullmatch=True)
)
def test_whatever_stands_in_redis_only_document_errors_come_of_it(text: str) -> None:
    with pytest.raises(DocumentError):
        open_snapshot(text, ROOT.public)


def edited(change: Callable[[dict[str, Any]], None]) -> str:
    """A snapshot that the real root signed, with something impossible in it."""
    payload = payload_of(sign_snapshot(grown_ring(), ROOT))
    change(payload)
    return ROOT.sign(SNAPSHOT, payload)


def set_member(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(payload: Any) -> None:
        for step in path[:-1]:
            payload = payload[step]
        payload[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_member("schema", value=2), "upgrade ringkeeper"),
        (lambda payload: payload.pop("schema"), "schema is missing"),
        (set_member("version", value=-1), "version is out of range"),
        (set_member("version", value=True), "version is missing or of the wrong type"),
        (set_member("name", value=7), "name is missing"),
        (set_member("ring_id", value="x" * 3000), "too long"),
        (set_member("policy", "algorithm", value="HS256"), "impossible policy"),
        (set_member("policy", "jwks_max_age_ms", value=10**12), "impossible policy"),
        (set_member("keys", value=[1]), "not a list"),
        (set_member("keys", value=[{}] * 41), "not a list"),
        (set_member("keys", 0, "state", value="removed"), "not known here"),
        (set_member("keys", 0, "jwk", "alg", value="none"), "not known here"),
        (set_member("keys", 0, "jwk", "kid", value=f"d-{22 * 'A'}"), "thumbprint"),
        (set_member("keys", 0, "remove_at_ms", value=None), "without the times"),
    ],
)
def test_a_signed_snapshot_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(MalformedDocument, match=message):
        open_snapshot(edited(change), ROOT.public)


def test_two_signers_in_a_signed_snapshot_are_refused() -> None:
    def change(payload: dict[str, Any]) -> None:
        states = ["active", "active", "active", "published", "published"]
        for key, state in zip(payload["keys"], states, strict=False):
            key.update(state=state, activated_at_ms=1, due_at_ms=2)

    with pytest.raises(MalformedDocument, match="two active"):
        open_snapshot(edited(change), ROOT.public)


def test_members_of_later_releases_are_passed_over() -> None:
    opened = open_snapshot(edited(set_member("hereafter", value=1)), ROOT.public)
    assert opened == grown_ring() or opened.version == grown_ring().version


def test_a_document_too_large_to_read_is_never_signed() -> None:
    event = Event("r", "n", 1, 1, NOW, "x" * 9000)
    with pytest.raises(MalformedDocument, match="at most"):
        sign_event(event, ROOT)


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "RSA"},
        {"kty": "OKP", "crv": "Ed448", "x": "AA"},
        {"kty": "OKP", "crv": "Ed25519"},
        {"kty": "OKP", "crv": "Ed25519", "x": "!!"},
        {"keys": []},
        {"keys": ["x"]},
    ],
)
def test_what_is_no_root_is_refused(jwk: dict[str, Any]) -> None:
    with pytest.raises(SecretError):
        PinnedRoots.from_jwk(jwk)
    with pytest.raises(SecretError):
        TrustRoot.from_secret_jwk(jwk)


def test_a_public_root_does_not_do_for_a_leader() -> None:
    with pytest.raises(SecretError, match="only the public half"):
        TrustRoot.from_secret_jwk(ROOT.public_jwk())


def test_a_root_whose_halves_do_not_fit_is_refused() -> None:
    mixed = {**ROOT.secret_jwk(), "d": TrustRoot.generate().secret_jwk()["d"]}
    with pytest.raises(SecretError, match="two halves do not fit"):
        TrustRoot.from_secret_jwk(mixed)


def test_who_pins_a_private_root_by_mistake_does_not_hold_it() -> None:
    pinned = PinnedRoots.from_jwk(ROOT.secret_jwk())
    assert not any(key.is_private for key in pinned._keys.values())


@pytest.mark.parametrize("change", [{"epoch": 2**53}, {"epoch": -1}, {"version": 2**60}])
def test_a_ring_that_nobody_could_read_is_never_signed(change: dict[str, Any]) -> None:
    """Written over the good one, it would be the end of the ring."""
    with pytest.raises(MalformedDocument):
        sign_snapshot(replace(new_ring(), **change), ROOT)


def test_a_request_says_no_more_than_it_may() -> None:
    request = Request(
        "q", "r", "n", 1, Command.ROTATE, "", "x" * 201, "alice", NOW, NOW + timedelta(seconds=9)
    )
    with pytest.raises(MalformedDocument, match="reason is too long"):
        open_request(sign_request(request, ROOT), ROOT.public)


def test_several_roots_may_be_pinned_at_once() -> None:
    other = TrustRoot.generate()
    roots = PinnedRoots.from_jwk({"keys": [ROOT.public_jwk(), other.public_jwk()]})
    ring = new_ring()
    assert open_snapshot(sign_snapshot(ring, other), roots) == ring
    same = TrustRoot.from_secret_jwk(ROOT.secret_jwk())
    assert open_snapshot(sign_snapshot(ring, same), roots) == ring


def test_far_times_do_not_overflow() -> None:
    opened = open_snapshot(
        edited(set_member("keys", 0, "ready_at_ms", value=2**53 - 1)), ROOT.public
    )
    assert any(key.ready_at.year == 9999 for key in opened.keys)
    assert timedelta(0) < opened.policy.retire_interval
