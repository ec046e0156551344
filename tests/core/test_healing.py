"""What is wrong with what Redis holds, and what is done about it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ringkeeper.errors import ForgedDocument, WrongRing
from ringkeeper.ring import KeyState, Ring
from ringkeeper.testimony import History, open_testimony
from ringkeeper.testimony import Testimony as Shown  # pytest takes a Test… for a test
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.healing import (
    Diagnosis,
    Evidence,
    check_identity,
    diagnose,
    evidence_of,
    found_in,
)
from tests.core.builders import HOUR, NOW, new_ring, settle

ROOT = TrustRoot.generate()
DUE = NOW + 168 * HOUR
BASE = new_ring()
RING = settle(BASE, DUE, epoch=2)[0]


def sealed(ring: Ring) -> dict[str, str]:
    return {key.kid: f"sealed {key.kid}" for key in ring.keys if key.may_verify}


def examine(
    found: Ring | None, known: Ring | None, there: dict[str, str], version: str = ""
) -> Diagnosis | None:
    return diagnose(
        History(found, DUE) if found else None,
        [Evidence(History(known, DUE), sealed(known))] if known else [],
        there,
        version or str(found.version if found else 0),
        now=DUE,
        epoch=7,
    )


def shown(ring: Ring, at: timedelta | None = None) -> Shown:
    snapshot = sign_snapshot(ring, ROOT)
    proof = sign_proof(ring, snapshot, DUE + at, ROOT) if at is not None else ""
    return Shown(snapshot, proof, sealed(ring))


def test_a_sound_ring_is_led_as_it_is() -> None:
    for known in (None, RING, BASE):
        sound = examine(RING, known, sealed(RING))
        assert sound == Diagnosis(RING, RING, {}, frozenset(), "")


def test_nobody_knows_any_ring() -> None:
    assert examine(None, None, {}) is None


def test_what_redis_lost_is_put_back_above_all_that_was_known() -> None:
    for found in (None, BASE):
        ill = examine(found, RING, sealed(BASE) if found else {})
        assert ill and not ill.lost
        ring, (told, *others) = ill.cure(DUE, 7)
        assert (ring.version, ring.epoch) == (RING.version + 1, 7)
        assert told.event == "ring healed"
        assert told.fields == {"found": ill.finding, "above": RING.version}
        assert others == []
        fresh = sealed(RING).keys() - (sealed(BASE).keys() if found else set())
        assert ill.put == {kid: blob for kid, blob in sealed(RING).items() if kid in fresh}


def test_sealed_keys_that_vanished_are_put_back_and_those_of_revoked_ones_are_not() -> None:
    ill = examine(RING, RING, {})
    assert ill and ill.put == sealed(RING)
    assert ill.finding == "redis lacked private halves"
    ring, events = ill.cure(DUE, 7)
    assert replace(ring, version=RING.version, epoch=RING.epoch) == RING
    assert (ring.version, ring.epoch) == (RING.version + 1, 7)
    assert [event.event for event in events] == ["ring healed"]


def test_the_newest_side_s_sealed_keys_count() -> None:
    """After a change of KEK the older ones may not open any more."""
    older = Evidence(History(BASE, DUE), dict.fromkeys(sealed(BASE), "of the former KEK"))
    newer = Evidence(History(RING, DUE), sealed(RING))
    ill = diagnose(None, [newer, older], {}, "0", now=DUE, epoch=7)
    assert ill and ill.put == sealed(RING)


def test_a_version_beside_the_snapshot_that_is_not_its_own_is_mended() -> None:
    ill = examine(RING, RING, sealed(RING), version="nonsense")
    assert ill and "not its own" in ill.finding
    assert ill.cure(DUE, 7)[0].version == RING.version + 1


def test_keys_whose_private_half_is_nowhere_retire_and_the_lifecycle_goes_on() -> None:
    standby = RING.standby
    assert standby
    active = RING.active()
    assert active
    left = {kid: blob for kid, blob in sealed(RING).items() if kid != active.kid}
    ill = examine(RING, None, left)
    assert ill and ill.lost == {active.kid}
    ring, events = ill.cure(DUE, 7)
    assert ring.version == RING.version + 1
    assert [event.event for event in events] == ["ring healed", "key retired"]
    kept = ring.key(active.kid)
    assert kept and kept.state is KeyState.RETIRED
    assert kept.remove_at == DUE + active.retain_for
    settled, _ = settle(ring, DUE, epoch=7)
    assert settled.active() and settled.active() == settled.key(standby.kid)
    # And if every one of them is gone.
    ill = examine(None, RING, {})
    assert ill and not ill.lost
    bare = diagnose(None, [Evidence(History(RING, DUE), {})], {}, "0", now=DUE, epoch=7)
    assert bare and bare.lost == {key.kid for key in RING.may_sign_next}
    settled, _ = settle(bare.cure(DUE, 7)[0], DUE, epoch=7)
    assert settled.active() and settled.standby
    assert {key.kid for key in RING.keys} <= {k.kid for k in settled.keys if k.may_verify}


def test_a_history_ends_with_the_newest_word_of_a_leader() -> None:
    roots, name = ROOT.public, RING.name
    published = max(key.published_at for key in RING.keys)
    assert open_testimony(shown(RING), name, roots).proved_at == published
    assert open_testimony(shown(RING, HOUR), name, roots).proved_at == DUE + HOUR
    assert open_testimony(shown(RING, -900 * HOUR), name, roots).proved_at == published
    # A proof of a later version says nothing of this one.
    later = shown(replace(RING, version=RING.version + 1), HOUR)
    mixed = replace(shown(RING), proof=later.proof)
    assert open_testimony(mixed, name, roots).proved_at == published
    assert evidence_of(shown(RING), name, roots).sealed == sealed(RING)


def test_only_what_the_root_signed_for_this_ring_counts() -> None:
    other = TrustRoot.generate().public
    with pytest.raises(ForgedDocument):
        open_testimony(shown(RING), RING.name, other)
    with pytest.raises(WrongRing):
        open_testimony(shown(RING), "another-name", ROOT.public)
    stranger = replace(RING, id="another")
    mixed = replace(shown(RING), proof=shown(stranger, HOUR).proof)
    with pytest.raises(WrongRing, match="proof of another ring"):
        open_testimony(mixed, RING.name, ROOT.public)
    sides = [Evidence(History(ring, DUE), {}) for ring in (RING, stranger)]
    with pytest.raises(WrongRing, match="remove this ring's file in state_dir"):
        check_identity(None, sides)
    with pytest.raises(WrongRing):
        check_identity(History(RING, DUE), sides[1:])
    assert check_identity(History(BASE, DUE), sides[:1]) == RING.id
    assert check_identity(None, []) is None


def test_a_bad_proof_in_redis_is_made_anew_and_a_bad_snapshot_is_not_ours_to_replace() -> None:
    roots, name = ROOT.public, RING.name
    found = found_in(replace(shown(RING), proof="nonsense"), name, roots)
    assert found and found.ring == RING
    assert found_in(Shown("", "", {}), name, roots) is None
    with pytest.raises(ForgedDocument):
        found_in(shown(RING), name, TrustRoot.generate().public)
