"""What a process accepts in place of what it holds (promise 8), and for how long it is good."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta

import pytest

from ringkeeper.algorithms import PrivateKey
from ringkeeper.errors import (
    ClocksApart,
    ForgedDocument,
    ForkedRing,
    MalformedDocument,
    RingkeeperError,
    RingNotLoaded,
    RolledBack,
    StaleRing,
    WrongRing,
)
from ringkeeper.replica import Held, Replica
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import digest_of, sign_proof, sign_snapshot
from ringkeeperd.operations import add, revoke
from ringkeeperd.transitions import FreshKey
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, new_ring, policy, settle

ROOT = TrustRoot.generate()
OTHER_ROOT = TrustRoot.generate()
# Any 32 bytes are an Ed25519 public key, so the builders' keys load.
RULES = policy(algorithm="EdDSA")
RING = new_ring(RULES)
EMPTY = Replica(RING.name, ROOT.public)
LIMIT = RULES.max_staleness


def signed(ring: Ring, at: datetime = NOW, root: TrustRoot = ROOT) -> tuple[str, str]:
    """Snapshot and proof of `ring`."""
    snapshot = sign_snapshot(ring, root)
    return snapshot, sign_proof(ring, snapshot, at, root)


def following(ring: Ring, by: int = 1) -> Ring:
    """A later version of `ring`."""
    return replace(ring, version=ring.version + by)


def holding(ring: Ring = RING, at: datetime = NOW) -> Replica:
    return EMPTY.offer(*signed(ring, at), at)


SNAPSHOT, PROOF = signed(RING)
NEXT = following(RING)


# --- a cold start --------------------------------------------------------------------------------


def test_a_cold_start_with_a_young_proof_holds_the_ring_ready_for_use() -> None:
    held = EMPTY.offer(SNAPSHOT, PROOF, NOW + MINUTE).loaded()
    assert held.ring == RING
    assert (held.snapshot, held.digest, held.proof) == (SNAPSHOT, digest_of(SNAPSHOT), PROOF)
    assert held.proof_at == NOW
    assert set(held.verifying) == {key.kid for key in RING.keys}
    assert held.staleness(NOW + MINUTE) == MINUTE


def test_nothing_is_held_before_something_was_offered() -> None:
    with pytest.raises(RingNotLoaded, match="'access-token' is not loaded yet; is Redis reachable"):
        EMPTY.loaded()


def test_a_cold_start_without_a_proof_is_refused() -> None:
    with pytest.raises(RingNotLoaded, match="no proof of freshness; start a daemon"):
        EMPTY.offer(SNAPSHOT, "", NOW)


@pytest.mark.parametrize(
    "vouched_for",
    [
        pytest.param(NEXT, id="a later version"),
        pytest.param(replace(RING, epoch=2), id="another snapshot of this version"),
    ],
)
def test_a_cold_start_needs_a_proof_for_exactly_this_snapshot(vouched_for: Ring) -> None:
    _, proof = signed(vouched_for)
    with pytest.raises(RingNotLoaded, match="waiting for a leader to mend it"):
        EMPTY.offer(SNAPSHOT, proof, NOW)


def test_a_cold_start_takes_a_proof_of_max_staleness_but_none_older() -> None:
    assert EMPTY.offer(SNAPSHOT, PROOF, NOW + LIMIT).held
    with pytest.raises(StaleRing, match="a cold start takes one of at most 24h"):
        EMPTY.offer(SNAPSHOT, PROOF, NOW + LIMIT + timedelta(milliseconds=1))


@pytest.mark.parametrize("other", [{"id": "r2"}, {"name": "refresh-token"}])
def test_a_cold_start_takes_no_proof_of_another_ring(other: dict[str, str]) -> None:
    stranger = replace(RING, **other)  # type: ignore[arg-type]
    with pytest.raises(WrongRing, match="a proof of another ring"):
        EMPTY.offer(SNAPSHOT, sign_proof(stranger, SNAPSHOT, NOW, ROOT), NOW)


def test_a_cold_start_takes_no_forged_proof() -> None:
    with pytest.raises(ForgedDocument):
        EMPTY.offer(SNAPSHOT, sign_proof(RING, SNAPSHOT, NOW, OTHER_ROOT), NOW)


# --- what is refused, held or not ----------------------------------------------------------------


def _flipped(document: str) -> str:
    middle = len(document) // 2
    return document[:middle] + chr(ord(document[middle]) ^ 1) + document[middle + 1 :]


REFUSED: dict[str, tuple[str, type[RingkeeperError]]] = {
    "signed by another root": (sign_snapshot(NEXT, OTHER_ROOT), ForgedDocument),
    "a flipped bit": (_flipped(sign_snapshot(NEXT, ROOT)), ForgedDocument),
    "cut short": (sign_snapshot(NEXT, ROOT)[:-20], ForgedDocument),
    "cut in two": (sign_snapshot(NEXT, ROOT).partition(".")[0], MalformedDocument),
    "ten megabytes": ("x" * 10_000_000, MalformedDocument),
    "not text": ("\ufffd\ufffd\x00", MalformedDocument),
    "a proof": (PROOF, MalformedDocument),
    "of another name": (sign_snapshot(replace(NEXT, name="refresh-token"), ROOT), WrongRing),
}


@pytest.mark.parametrize(("document", "error"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("replica", [EMPTY, holding()], ids=["empty", "holding"])
def test_what_is_not_our_rings_snapshot_is_refused(
    replica: Replica, document: str, error: type[RingkeeperError]
) -> None:
    before = replica.held
    with pytest.raises(error):
        replica.offer(document, PROOF, NOW)
    assert replica.held is before


@pytest.mark.parametrize(
    ("offered", "error", "told"),
    [
        (replace(NEXT, id="r2"), WrongRing, "replaced by another of the same name .r2 instead"),
        (replace(NEXT, epoch=9), ForkedRing, "two different versions 2"),
        (RING, RolledBack, "went back from version 2 to 1"),
    ],
    ids=["another ring of this name", "a fork", "an older version"],
)
def test_only_a_later_version_of_the_same_ring_succeeds(
    offered: Ring, error: type[RingkeeperError], told: str
) -> None:
    replica = holding(NEXT)
    with pytest.raises(error, match=told) as refusal:
        replica.offer(*signed(offered, NOW + MINUTE), NOW + MINUTE)
    assert type(refusal.value) is error
    assert replica.loaded().ring is not offered


# --- succession ----------------------------------------------------------------------------------


def test_a_later_version_succeeds_even_without_a_proof_and_is_no_fresher_for_it() -> None:
    succeeded = holding().offer(sign_snapshot(following(RING, by=3), ROOT), "", NOW + HOUR)
    assert succeeded.loaded().ring.version == 4
    assert succeeded.loaded().staleness(NOW + HOUR) == HOUR


def test_a_later_version_succeeds_even_after_a_long_outage() -> None:
    later = NOW + 10 * LIMIT
    assert holding().offer(*signed(NEXT, NOW), later).loaded().ring == NEXT


def test_a_later_version_with_its_proof_is_fresh() -> None:
    succeeded = holding().offer(*signed(NEXT, NOW + HOUR), NOW + HOUR)
    assert succeeded.loaded().staleness(NOW + HOUR) == timedelta(0)


def test_a_later_version_with_a_proof_of_some_other_version_is_no_fresher() -> None:
    _, proof = signed(following(RING, by=2), NOW + HOUR)
    succeeded = holding().offer(sign_snapshot(NEXT, ROOT), proof, NOW + HOUR)
    assert succeeded.loaded().ring == NEXT
    assert succeeded.loaded().proof_at == NOW


def test_the_same_snapshot_again_changes_nothing_but_brings_a_younger_proof() -> None:
    replica = holding()
    assert replica.offer(SNAPSHOT, "", NOW) is replica
    assert replica.offer(SNAPSHOT, PROOF, NOW) is replica
    _, younger = signed(RING, NOW + MINUTE)
    renewed = replica.offer(SNAPSHOT, younger, NOW + MINUTE)
    assert (renewed.loaded().proof, renewed.loaded().proof_at) == (younger, NOW + MINUTE)


def test_what_was_held_is_not_touched_by_what_succeeds_it() -> None:
    replica = holding()
    before = replica.loaded()
    replica.offer(*signed(NEXT), NOW)
    assert replica.loaded() is before
    with pytest.raises(FrozenInstanceError):
        replica.held = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.verifying["d-x"] = before.verifying[RING.keys[0].kid]  # type: ignore[index]


def test_keys_that_are_held_already_are_not_loaded_again() -> None:
    replica = holding()
    succeeded = replica.offer(*signed(NEXT), NOW)
    assert succeeded.loaded().verifying.keys() == replica.loaded().verifying.keys()
    for kid, verifying in succeeded.loaded().verifying.items():
        assert verifying.public is replica.loaded().verifying[kid].public


def test_a_kid_that_another_key_has_now_is_loaded_anew() -> None:
    """It cannot happen to keys that are named after themselves; others have what name they like."""

    def with_foreign(version: int) -> Ring:
        private = PrivateKey.generate("ES256")
        fresh = FreshKey(KeyKind.FOREIGN, "ES256", private.public_jwk, "theirs")
        ring = add(RING, fresh, now=NOW, epoch=1)
        return replace(ring, version=version)

    first, second = with_foreign(5), with_foreign(6)
    replica = holding(first)
    held = replica.offer(*signed(second), NOW).loaded()
    assert dict(held.verifying["theirs"].public.jwk) == dict(second.key("theirs").public)  # type: ignore[union-attr]
    assert held.verifying["theirs"].public is not replica.loaded().verifying["theirs"].public


def test_a_revoked_key_verifies_no_more_and_a_new_one_does() -> None:
    turned, _ = settle(RING, NOW + RULES.cryptoperiod)
    former = RING.active()
    assert former
    ring = revoke(turned, former.kid, reason="leaked", now=NOW + 200 * HOUR, epoch=1)
    verifying = holding().offer(*signed(ring), NOW).loaded().verifying
    assert former.kid not in verifying
    assert set(verifying) == {key.kid for key in ring.keys} - {former.kid}


# --- proofs --------------------------------------------------------------------------------------


def test_a_younger_proof_of_what_is_held_makes_it_fresh() -> None:
    _, younger = signed(RING, NOW + HOUR)
    assert holding().prove(younger, NOW + HOUR).loaded().staleness(NOW + HOUR) == timedelta(0)


@pytest.mark.parametrize(
    "proof",
    [
        pytest.param(PROOF, id="the same"),
        pytest.param(signed(RING, NOW - MINUTE)[1], id="an older one"),
        pytest.param(signed(NEXT, NOW + MINUTE)[1], id="of another version"),
        pytest.param(signed(replace(RING, epoch=7), NOW + MINUTE)[1], id="of another snapshot"),
    ],
)
def test_a_proof_that_says_nothing_new_of_what_is_held_is_ignored(proof: str) -> None:
    replica = holding()
    assert replica.prove(proof, NOW + HOUR) is replica


def test_a_proof_from_the_future_vouches_for_nothing() -> None:
    """A leader whose clock is two days ahead must not make its word good for two more days."""
    ahead = signed(RING, NOW + 48 * HOUR)[1]
    replica = holding()
    assert replica.prove(ahead, NOW + MINUTE) is replica
    assert replica.prove(ahead, NOW + 48 * HOUR - RULES.clock_skew) is not replica
    with pytest.raises(ClocksApart, match="signed 2d from now; set this host's clock right"):
        EMPTY.offer(signed(RING)[0], ahead, NOW)
    newer = replica.offer(signed(NEXT)[0], signed(NEXT, NOW + 48 * HOUR)[1], NOW)
    assert newer.version == NEXT.version, "news is not held up by its proof"
    assert newer.loaded().proof_at == replica.loaded().proof_at


def test_a_proof_is_of_no_use_before_there_is_a_ring() -> None:
    assert EMPTY.prove(PROOF, NOW) is EMPTY


JUDGES: list[Callable[[Replica, str], object]] = [
    lambda replica, proof: replica.prove(proof, NOW + HOUR),
    Replica.lags,
]


@pytest.mark.parametrize("judge", JUDGES)
def test_a_proof_of_another_ring_or_root_is_refused(
    judge: Callable[[Replica, str], object],
) -> None:
    later = NOW + MINUTE
    with pytest.raises(WrongRing):
        judge(holding(), sign_proof(replace(RING, id="r2"), SNAPSHOT, later, ROOT))
    with pytest.raises(ForgedDocument):
        judge(holding(), sign_proof(RING, SNAPSHOT, later, OTHER_ROOT))
    with pytest.raises(MalformedDocument):
        judge(holding(), SNAPSHOT[:100])


def test_a_proof_of_a_version_not_seen_tells_that_the_replica_lags() -> None:
    replica = holding(NEXT)
    assert EMPTY.lags(PROOF)
    assert not replica.lags(PROOF)
    assert not replica.lags(signed(NEXT)[1])
    assert replica.lags(signed(following(NEXT))[1])


# --- how long it is good -------------------------------------------------------------------------


def held_under(**rules: timedelta) -> Held:
    return holding(new_ring(policy(algorithm="EdDSA", **rules))).loaded()


def test_staleness_is_never_negative_even_if_the_leaders_clock_is_ahead() -> None:
    assert holding().loaded().staleness(NOW - MINUTE) == timedelta(0)


def test_it_signs_until_max_staleness_without_leeway() -> None:
    held = held_under(max_staleness=HOUR, clock_skew=10 * SECOND)
    assert held.may_sign(NOW + HOUR)
    assert not held.may_sign(NOW + HOUR + timedelta(milliseconds=1))


def test_it_verifies_for_ever_unless_told_otherwise() -> None:
    assert holding().loaded().may_verify(NOW + 1000 * LIMIT)
    held = held_under(max_staleness=HOUR, max_verify_staleness=2 * HOUR, clock_skew=10 * SECOND)
    assert held.may_verify(NOW + 2 * HOUR + 10 * SECOND)
    assert not held.may_verify(NOW + 2 * HOUR + 11 * SECOND)


# --- private halves ------------------------------------------------------------------------------


def test_private_halves_are_lacked_until_opened_and_survive_a_succession() -> None:
    private = PrivateKey.generate("EdDSA")
    first, *others = (key.kid for key in RING.may_sign_next)
    replica = holding()
    assert set(replica.loaded().lacks) == {first, *others}
    opened = replica.with_keys({}, {first: private})
    assert set(opened.loaded().lacks) == set(others)
    assert not replica.loaded().signing
    succeeded = opened.offer(*signed(NEXT), NOW)
    assert succeeded.loaded().signing == {first: private}
    more = succeeded.with_keys({}, dict.fromkeys(others, private))
    assert more.loaded().lacks == ()


def test_private_halves_of_keys_that_sign_no_more_are_let_go() -> None:
    private = PrivateKey.generate("EdDSA")
    opened = holding().with_keys({}, {key.kid: private for key in RING.keys})
    turned, _ = settle(RING, NOW + RULES.cryptoperiod)
    (retired,) = turned.in_state(KeyState.RETIRED)
    signing = opened.offer(*signed(turned), NOW).loaded().signing
    assert set(signing) == {key.kid for key in RING.keys} - {retired.kid}


def test_private_halves_of_unknown_keys_are_not_kept() -> None:
    assert not holding().with_keys({}, {"d-x": PrivateKey.generate("EdDSA")}).loaded().signing
    assert EMPTY.with_keys({}, {"d-x": PrivateKey.generate("EdDSA")}) is EMPTY


# --- a root that is not trusted any more ---------------------------------------------------------


def test_what_a_dropped_root_signed_stands_in_nobodys_way() -> None:
    """A thief who has the former root can sign any version; dropping it ends that."""
    stolen = following(RING, by=2**40)
    both = replace(EMPTY, roots=OTHER_ROOT.public.joined(ROOT.public))
    fooled = both.offer(*signed(stolen), NOW)
    genuine = signed(following(RING), NOW, OTHER_ROOT)
    with pytest.raises(RolledBack):
        fooled.offer(*genuine, NOW)
    assert not fooled.is_disowned
    dropped = replace(fooled, roots=OTHER_ROOT.public)
    assert dropped.is_disowned
    assert dropped.lags(genuine[1])
    with pytest.raises(ForgedDocument):
        dropped.offer(*signed(stolen), NOW)
    taken = dropped.offer(*genuine, NOW)
    assert taken.version == RING.version + 1
    assert not taken.is_disowned


def test_who_dropped_a_root_takes_no_older_ring_for_that() -> None:
    dropped = replace(holding(following(RING)), roots=OTHER_ROOT.public)
    with pytest.raises(StaleRing):
        dropped.offer(*signed(RING, NOW, OTHER_ROOT), NOW + LIMIT + SECOND)


def test_private_halves_outlive_the_root_that_signed_their_ring() -> None:
    key = PrivateKey.generate("EdDSA")
    kid = RING.keys[0].kid
    held = holding().with_keys({kid: "sealed"}, {RING.may_sign_next[0].kid: key})
    dropped = replace(held, roots=OTHER_ROOT.public)
    taken = dropped.offer(*signed(following(RING), NOW, OTHER_ROOT), NOW).loaded()
    assert taken.signing == held.loaded().signing
    assert taken.sealed == held.loaded().sealed


def test_secrets_that_are_not_the_rings_are_told() -> None:
    kek, other = Kek.generate(), Kek.generate()
    ring = replace(RING, kek=kek.kid)
    held = holding(ring)
    assert held.misfit(kek) == held.misfit(other.joined(kek)) == held.misfit(None) == ""
    assert EMPTY.misfit(other) == ""
    assert f"sealed by the KEK {kek.kid}, and this process has {other.kid};" in held.misfit(other)
    dropped = replace(held, roots=OTHER_ROOT.public)
    assert f"signed by the root {ROOT.kid}, and pinned here is {OTHER_ROOT.kid};" in dropped.misfit(
        kek
    )
