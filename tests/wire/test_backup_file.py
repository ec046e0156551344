"""A backup comes back whole, or not at all: what anyone touched is refused."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from ringkeeper.errors import DocumentError, ForgedDocument, MalformedDocument, WrongRing
from ringkeeper.ring import Ring
from ringkeeper.sealing import kek_of
from ringkeeper.testimony import History, open_testimony
from ringkeeper.testimony import Testimony as Shown  # pytest takes a Test… for a test
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.backup_file import BACKUP, MAX_BACKUP, Saved, open_backup, sealed_backup
from ringkeeperd.backup_sources import _joined
from tests.core.builders import NOW, SECOND, new_ring

ROOT = TrustRoot.generate()
SEALED = f"{'s' * 2500}"


def saved(name: str = "access-token", ring: Ring | None = None) -> Saved:
    ring = ring or replace(new_ring(), id=f"id of {name}", name=name)
    snapshot = sign_snapshot(ring, ROOT)
    proof = sign_proof(ring, snapshot, NOW + SECOND, ROOT)
    blobs = MappingProxyType({key.kid: SEALED for key in ring.keys})
    testimony = Shown(snapshot, proof, blobs)
    return Saved(open_testimony(testimony, name, ROOT.public), testimony)


def file_of(*rings: Saved, root: TrustRoot = ROOT) -> str:
    return sealed_backup(rings, root, at=NOW, by="alice@host", release="1.2")


def changed(text: str, change: Callable[[Any], Any]) -> str:
    document = json.loads(text)
    change(document)
    return json.dumps(document)


def test_what_was_saved_comes_back() -> None:
    rings = saved(), saved("other")
    backup = open_backup(file_of(*rings), ROOT.public)
    assert (backup.at, backup.by, backup.release) == (NOW, "alice@host", "1.2")
    assert (backup.root, backup.roots, backup.keks) == (ROOT.kid, (ROOT.kid,), ("kek-1",))
    assert [each.ring for each in backup.rings] == [each.ring for each in rings]
    assert backup.ring("other") == backup.rings[1]
    assert backup.ring("more") is None
    # The newest moment at which a leader stood by it goes with it: that is what a merge goes by.
    assert [each.history for each in backup.rings] == [
        History(each.ring, NOW + SECOND) for each in rings
    ]


def test_a_thousand_rings_fit() -> None:
    rings = [saved(f"ring-{n}") for n in range(1000)]
    text = file_of(*rings)
    assert len(open_backup(text, ROOT.public).rings) == 1000
    assert len(text) < MAX_BACKUP / 10
    assert len(json.loads(text)["backup"]) < BACKUP.limit / 10


def sealed_by(kid: str) -> str:
    """What says that the KEK of that name sealed it."""
    header = {"alg": "dir", "enc": "A256GCM", "cty": "jwk+json", "kid": kid}
    return urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=") + "...."


def with_halves(each: Saved, **sealed: str) -> Saved:
    blobs = MappingProxyType(sealed)
    return replace(each, testimony=replace(each.testimony, sealed=blobs))


def test_names_that_somebody_put_into_redis_spoil_no_backup_and_move_no_cursor() -> None:
    assert kek_of(sealed_by("kek-2")) == "kek-2"
    names = ["kek-2", "kek\x1b[2J", "k" * 3000, *(f"kek-{n}" for n in range(100, 200))]
    rings = [
        with_halves(saved(f"ring-{n}"), **{f"d-{i}": sealed_by(k) for i, k in enumerate(names)})
        for n in range(200)
    ]
    backup = open_backup(file_of(*rings), ROOT.public)
    assert "kek-1" in backup.keks, "the ring says so itself"
    assert len(backup.keks) <= 5
    assert all(kek.isprintable() and len(kek) <= 64 for kek in backup.keks)


def test_the_half_that_the_ring_s_kek_sealed_is_taken_wherever_it_is() -> None:
    there, kept = saved(), saved()
    good, bad = sealed_by("kek-1"), sealed_by("kek-9")
    first, second, third = (key.kid for key in there.ring.keys)
    there = with_halves(there, **{first: bad, second: good})
    kept = with_halves(replace(kept, history=there.history), **{first: good, third: bad, "x": good})
    whole = dict(_joined(there, kept).testimony.sealed)
    assert whole == {first: good, second: good, third: bad}


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a ring is taken out": lambda d: d["rings"].pop(),
    "all rings are taken out": lambda d: d["rings"].clear(),
    "a ring stands twice": lambda d: d["rings"].append(d["rings"][0]),
    "rings change places": lambda d: d["rings"].reverse(),
    "a sealed key is taken out": lambda d: d["rings"][0]["sealed"].popitem(),
    "a sealed key is another": lambda d: d["rings"][0]["sealed"].update(
        dict.fromkeys(d["rings"][0]["sealed"], "x")
    ),
    "a proof is another's": lambda d: d["rings"][0].update(proof=d["rings"][1]["proof"]),
    "a proof is taken out": lambda d: d["rings"][0].update(proof=""),
    "a snapshot is another's": lambda d: d["rings"][0].update(snapshot=d["rings"][1]["snapshot"]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_refused(what: str) -> None:
    text = changed(file_of(saved(), saved("other")), CHANGES[what])
    with pytest.raises(ForgedDocument, match="it was changed since"):
        open_backup(text, ROOT.public)


def test_another_roots_backup_is_refused() -> None:
    """Also where its rings are ours: whoever read Redis has them."""
    other = TrustRoot.generate()
    with pytest.raises(ForgedDocument, match="pin the right root"):
        open_backup(file_of(saved(), root=other), ROOT.public)


def test_a_ring_that_another_root_signed_is_refused_in_a_backup_of_ours() -> None:
    """The signature of the whole says who made the file, not what is true of a ring."""
    ring, other = saved(), TrustRoot.generate()
    snapshot = sign_snapshot(ring.ring, other)
    forged = replace(ring, testimony=replace(ring.testimony, snapshot=snapshot, proof=""))
    with pytest.raises(ForgedDocument, match="pin the right root"):
        open_backup(file_of(forged), ROOT.public)


def test_a_proof_of_another_ring_is_refused() -> None:
    ring, other = saved(), saved("other")
    mixed = replace(ring, testimony=replace(ring.testimony, proof=other.testimony.proof))
    with pytest.raises(WrongRing):
        open_backup(file_of(mixed), ROOT.public)


def test_two_rings_of_one_name_are_refused() -> None:
    with pytest.raises(MalformedDocument, match="two rings of one name"):
        open_backup(file_of(saved(), saved()), ROOT.public)


def test_a_file_that_was_cut_short_anywhere_is_refused() -> None:
    text = file_of(saved()).rstrip()
    for length in range(0, len(text), 97):
        with pytest.raises(MalformedDocument, match="cut short"):
            open_backup(text[:length], ROOT.public)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "null",
        "\ufffd",
        "[" * 100_000,
        '{"backup":1,"rings":[]}',
        '{"backup":"","rings":{}}',
        '{"backup":"x.y.z","rings":[]}',
        '{"backup":"x.y.z","rings":[{"snapshot":"","proof":"","sealed":{},"more":1}]}',
        '{"backup":"x.y.z","rings":[{"snapshot":"","proof":"","sealed":[]}]}',
        '{"backup":"x.y.z","rings":[{"snapshot":"","proof":"","sealed":{"k":1}}]}',
        '{"backup":"x.y.z","rings":[7]}',
    ],
)
def test_what_is_no_backup_is_refused(text: str) -> None:
    with pytest.raises(MalformedDocument):
        open_backup(text, ROOT.public)


def test_a_state_file_is_no_backup() -> None:
    with pytest.raises(MalformedDocument, match="not a backup"):
        open_backup(saved().testimony.encode(), ROOT.public)


@pytest.mark.parametrize(
    "members",
    [
        {"schema": 2},
        {"schema": None},
        {"at_ms": -1},
        {"at_ms": True},
        {"by": "x" * 201},
        {"release": 1},
        {"rings": 2},
        {"digest": ""},
    ],
)
def test_a_signed_part_that_says_something_else_is_refused(members: dict[str, Any]) -> None:
    """Not even the trust root makes it right."""
    text = file_of(saved())
    told = {**ROOT.public.open(BACKUP, json.loads(text)["backup"]), **members}
    with pytest.raises(DocumentError):
        open_backup(changed(text, lambda d: d.update(backup=ROOT.sign(BACKUP, told))), ROOT.public)
    told |= {"schema": 1, "at_ms": 2**52, "by": "", "release": ""}
    if not {"rings", "digest"} & members.keys():
        again = changed(text, lambda d: d.update(backup=ROOT.sign(BACKUP, told)))
        assert open_backup(again, ROOT.public).at.year == 9999
