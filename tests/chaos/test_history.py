"""The judge of chaos can say no: each broken promise is found in a history made for it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.ring import KeyKind, KeyState, Ring, RotationReason
from ringkeeperd.rotation import Activate
from ringkeeperd.transitions import KeyWanted
from tests.chaos.history import History, Seen, Signed, Verdict, Verified, judge
from tests.core.builders import NOW, do, new_ring, policy

RULES = policy(publication_interval=timedelta(seconds=3), jwks_max_age=timedelta(seconds=1))
FIRST = new_ring(RULES)
SIGNER = next(key for key in FIRST.keys if key.state is KeyState.ACTIVE)


def turned(ring: Ring) -> Ring:
    assert ring.standby
    wanted = KeyWanted(KeyKind.DYNAMIC, ring.policy.algorithm)
    return do(ring, Activate(ring.standby.kid, RotationReason.SCHEDULED, wanted), NOW)


def judged(**changes: Any) -> Verdict:
    """A round in which all is well, but for `changes`."""
    values: dict[str, Any] = {
        "signed": {1: Signed(1, "app0", SIGNER.kid, 10.0, 20.0)},
        "verified": [Verified(1, "app1", 11.0, "ok")],
        "seen": [Seen(0.0, FIRST)],
        "seconds_until_normal": 1.0,
        **changes,
    }
    return judge(History(**values), now=15.0, lag=0.1)


def test_a_round_in_which_all_is_well_is_good() -> None:
    assert judged().is_good
    assert judged().verified == 1


def test_a_round_in_which_nothing_was_verified_or_that_never_ended_well_is_not() -> None:
    assert not judged(verified=[]).is_good
    assert not judged(seconds_until_normal=None).is_good


@pytest.mark.parametrize("said", ["UnknownKid: x", "ExpiredToken: x", "InvalidSignature: x"])
def test_a_valid_token_that_is_rejected_is_found(said: str) -> None:
    assert judged(verified=[Verified(1, "app1", 11.0, said)]).rejected


def test_what_is_no_rejection_is_not_counted() -> None:
    assert not judged(verified=[Verified(1, "app1", 20.5, "ExpiredToken: x")]).rejected
    assert not judged(verified=[Verified(1, "app1", 11.0, "no verdict")]).rejected
    refused = [Verified(1, "app1", 11.0, "RevokedKid: x")]
    assert not judged(verified=refused, revoked={SIGNER.kid: 9.0}).rejected
    assert judged(verified=refused).rejected


def test_a_clock_that_is_off_excuses_only_what_it_judges_by_itself() -> None:
    off = [("app1", 10.5, 12.0)]
    early = [Verified(1, "app1", 11.0, "ImmatureToken: x")]
    assert not judged(verified=early, clock_is_off=off).rejected
    assert judged(verified=[replace(early[0], at=13.0)], clock_is_off=off).rejected
    unknown = [Verified(1, "app1", 11.0, "UnknownKid: x")]
    assert judged(verified=unknown, clock_is_off=off).rejected


def test_a_key_that_signs_before_it_was_public_is_found() -> None:
    between = turned(FIRST)
    later = turned(between)
    active = later.active()
    assert active
    token = {1: Signed(1, "app0", active.kid, 10.0, 20.0)}
    assert "never seen" in judged(signed=token).unpublished[0]
    seen = [Seen(0.0, FIRST), Seen(8.0, between), Seen(10.0, later)]
    assert "public for 2.00 s" in judged(signed=token, seen=seen).unpublished[0]
    seen[1] = Seen(7.0, between)
    assert not judged(signed=token, seen=seen).unpublished


def test_a_lost_key_and_a_lost_revocation_are_found() -> None:
    without = replace(FIRST, version=2, keys=tuple(k for k in FIRST.keys if k.kid != SIGNER.kid))
    seen = [Seen(0.0, FIRST), Seen(5.0, without)]
    assert judged(seen=seen).lost
    expired = {1: Signed(1, "app0", SIGNER.kid, 1.0, 14.0)}
    assert not judged(seen=seen, signed=expired).lost
    assert judged(revoked={SIGNER.kid: 9.0}).lost
    tombstone = replace(SIGNER, state=KeyState.REVOKED, revoked_at=NOW, remove_at=NOW)
    others = tuple(tombstone if k.kid == SIGNER.kid else k for k in FIRST.keys)
    refused = replace(FIRST, version=2, keys=others)
    assert not judged(seen=[Seen(0.0, refused)], revoked={SIGNER.kid: 9.0}).lost


def test_a_revoked_token_that_is_accepted_is_found() -> None:
    late = [Verified(1, "app1", 13.0, "ok")]
    assert judged(verified=late, revoked={SIGNER.kid: 11.0}).accepted
    assert not judged(verified=late, revoked={SIGNER.kid: 12.5}).accepted
