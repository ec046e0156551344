"""When a key signs, when it stops, when it goes: the table of the lifecycle."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ringkeeper.errors import RequestRefused
from ringkeeper.policy import CAPACITY, MAX_KEYS
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeperd import transitions
from ringkeeperd.audit import events_between
from ringkeeperd.operations import revocation_wants, revoke, rollback, rotate
from ringkeeperd.rotation import (
    Activate,
    Adopt,
    Publish,
    Remove,
    Supersede,
    WaitUntil,
    activation_at,
    apply,
    first_keys_wanted,
    first_ring,
    makes_way_at,
    next_step,
    put_off,
)
from ringkeeperd.transitions import TRANSITIONS, KeyWanted
from tests.core.builders import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    advance,
    do,
    fresh,
    instances,
    new_ring,
    nobody,
    policy,
    public_jwk,
    settle,
)

DUE = NOW + 168 * HOUR
DAY = 24 * HOUR


def second_ring(epoch: int = 1) -> Ring:
    """A ring after one turn, the first retired key gone: its standby was published at DUE."""
    ring, wait = settle(new_ring(), DUE, epoch=epoch)
    ring, wait = settle(ring, wait.when, epoch=epoch)
    ring, _ = settle(ring, wait.when, epoch=epoch)
    return ring


def kid_of(key: Key | None) -> str:
    assert key
    return key.kid


def revoked(ring: Ring, kid: str, now: datetime = NOW) -> Ring:
    wanted = revocation_wants(ring, kid, now)
    return revoke(
        ring, kid, reason="leaked", now=now, epoch=1, fresh=fresh(wanted) if wanted else None
    )


def test_the_first_ring_signs_at_once_and_has_a_standby_and_a_static_key() -> None:
    ring = new_ring()
    assert ring.version == 1
    assert ring.active() and ring.standby and ring.active(KeyKind.STATIC)
    assert ring.standby.ready_at == NOW
    assert len(ring.jwks()["keys"]) == 3


def test_a_ring_of_keys_that_signed_elsewhere_lets_what_is_fresh_wait() -> None:
    """Their verifiers know what came along, and have yet to hear of the rest (promise 2)."""
    rules = policy()
    wanted = first_keys_wanted(rules)
    active = replace(fresh(wanted[0]), own_kid="theirs")
    kinds = (KeyKind.DYNAMIC, KeyKind.STATIC, KeyKind.FOREIGN)
    former = [replace(fresh(wanted[0]), kind=kind, own_kid=f"their {kind}") for kind in kinds]
    keys = (active, fresh(wanted[1]), fresh(wanted[2]))
    ring = first_ring(
        ring_id="r1", name="access-token", policy=rules, fresh=keys, kek="kek-1", now=NOW, epoch=1,
        former=former,
    )  # fmt: skip
    assert kid_of(ring.active()) == "theirs"
    assert ring.standby and ring.standby.ready_at == NOW + rules.publication_interval
    assert ring.active(KeyKind.STATIC) is None
    states = [key.state for key in map(ring.key, (each.kid for each in former)) if key]
    assert states == [KeyState.RETIRED, KeyState.PUBLISHED, KeyState.PUBLISHED]
    assert [key.remove_at for key in ring.in_state(KeyState.RETIRED)] == [
        NOW + rules.retire_interval
    ]
    # Nobody signed with a static key before: it is the first one, and no revocation's.
    later, _ = settle(ring, NOW + rules.publication_interval)
    (told,) = [e for e in events_between(ring, later, NOW, {}) if e.event == "key activated"]
    assert told.fields["rotation"] == "first"


def test_before_its_cryptoperiod_is_over_a_key_goes_on_signing() -> None:
    step = next_step(new_ring(), policy(), nobody(), DUE - SECOND)
    assert isinstance(step, WaitUntil)
    assert step.when == step.activation_at == DUE


def test_when_due_the_standby_signs_the_former_retires_and_a_standby_follows() -> None:
    ring = new_ring()
    former, standby = kid_of(ring.active()), kid_of(ring.standby)
    step = next_step(ring, ring.policy, nobody(), DUE)
    assert step == Activate(
        standby, RotationReason.SCHEDULED, KeyWanted(KeyKind.DYNAMIC, "RS256", 2048)
    )
    turned = do(ring, step, DUE)
    assert kid_of(turned.active()) == standby
    retired = turned.key(former)
    assert retired and retired.state is KeyState.RETIRED
    assert retired.remove_at == DUE + 25 * HOUR + 2 * MINUTE
    assert turned.standby and turned.standby.ready_at == DUE + 4 * HOUR
    assert turned.version == 2


def test_the_next_cryptoperiod_counts_from_the_actual_activation() -> None:
    late = DUE + 3 * HOUR
    ring, _ = settle(new_ring(), late)
    active = ring.active()
    assert active and active.due_at == late + 168 * HOUR


def test_overdue_after_an_outage_but_the_publication_interval_still_holds() -> None:
    ring, _ = settle(new_ring(), DUE)
    ring = replace(ring, keys=tuple(k for k in ring.keys if k is not ring.standby))
    long_after = DUE + 1000 * HOUR
    ring, wait = settle(ring, long_after, confirmed=nobody())
    assert ring.standby and wait.activation_at == long_after + 4 * HOUR
    assert kid_of(ring.active()) != kid_of(ring.standby)


def test_a_standby_signs_only_when_every_live_instance_has_confirmed_it() -> None:
    ring = second_ring()
    assert ring.standby
    due = DUE + 168 * HOUR
    behind = instances((1, ring.version), (1, 1))
    step = next_step(ring, ring.policy, behind, due)
    assert isinstance(step, WaitUntil)
    assert step.awaiting == ("i1",)
    assert step.when == due + 10 * MINUTE
    confirmed = instances((1, ring.version), (1, ring.version))
    assert isinstance(next_step(ring, ring.policy, confirmed, due), Activate)


def test_an_instance_that_never_confirms_is_passed_over_by_name_after_the_timeout() -> None:
    ring = second_ring()
    due = DUE + 168 * HOUR
    behind = instances((1, ring.version), (1, 0))
    step = next_step(ring, ring.policy, behind, due + 10 * MINUTE - SECOND)
    assert isinstance(step, WaitUntil)
    step = next_step(ring, ring.policy, behind, due + 10 * MINUTE)
    assert isinstance(step, Activate)
    assert step.forced == ("i1",)


def test_the_timeout_runs_from_when_the_table_may_be_trusted_not_from_when_the_key_was_due() -> (
    None
):
    """After a long outage of all daemons: nobody was asked before, so nobody is late."""
    ring = second_ring()
    trusted_from = DUE + 200 * HOUR
    behind = instances((1, 0), trusted_from=trusted_from)
    step = next_step(ring, ring.policy, behind, trusted_from + 10 * MINUTE - SECOND)
    assert isinstance(step, WaitUntil)
    assert step.awaiting == ("i0",)
    step = next_step(ring, ring.policy, behind, trusted_from + 10 * MINUTE)
    assert isinstance(step, Activate)


def test_what_a_lost_leadership_had_confirmed_does_not_count() -> None:
    ring = second_ring(epoch=8)
    due = DUE + 168 * HOUR
    step = next_step(ring, ring.policy, instances((7, 99)), due)
    assert isinstance(step, WaitUntil)
    assert step.awaiting == ("i0",)


def test_a_new_leader_waits_one_liveness_window_before_it_trusts_the_table() -> None:
    ring = new_ring()
    trusted_from = DUE + ring.policy.liveness_window
    step = next_step(ring, ring.policy, nobody(trusted_from), DUE)
    assert isinstance(step, WaitUntil)
    assert step.when == trusted_from
    assert isinstance(next_step(ring, ring.policy, nobody(trusted_from), trusted_from), Activate)


@pytest.mark.parametrize("offset", [61 * SECOND, -61 * SECOND])
def test_a_clock_that_differs_from_redis_turns_and_removes_nothing(offset: timedelta) -> None:
    ring = new_ring()
    step = next_step(ring, ring.policy, nobody(), DUE, clock_offset=offset)
    assert isinstance(step, WaitUntil)
    assert "clock" in step.why
    assert isinstance(
        next_step(ring, ring.policy, nobody(), DUE, clock_offset=offset / 2), Activate
    )


def test_a_retired_key_goes_exactly_when_its_last_token_is_dead() -> None:
    ring = new_ring()
    former = kid_of(ring.active())
    ring, _ = settle(ring, DUE)
    gone = DUE + 25 * HOUR + 2 * MINUTE
    assert advance(ring, DUE, gone - SECOND).key(former)
    assert isinstance(next_step(ring, ring.policy, nobody(), gone - SECOND), WaitUntil)
    assert next_step(ring, ring.policy, nobody(), gone) == Remove((former,))
    assert advance(ring, DUE, gone).key(former) is None


def test_editing_the_configuration_never_shortens_what_was_promised() -> None:
    """Promise 11: times stay as stored; tokens issued under a longer validity stay verifiable."""
    ring = new_ring(policy(access_token_validity=10 * HOUR))
    former = kid_of(ring.active())
    shorter = policy(access_token_validity=MINUTE, max_staleness=HOUR, cryptoperiod=24 * HOUR)
    step = next_step(ring, shorter, nobody(), NOW + HOUR)
    assert step == Adopt(shorter)
    ring = do(ring, step, NOW + HOUR)
    active = ring.active()
    assert active and active.due_at == DUE
    ring, _ = settle(ring, DUE)
    retired = ring.key(former)
    assert retired and retired.remove_at == DUE + 34 * HOUR + 2 * MINUTE


def test_a_longer_validity_keeps_the_signing_key_for_longer() -> None:
    ring = new_ring()
    former = kid_of(ring.active())
    ring, _ = settle(ring, NOW + HOUR, rules=policy(access_token_validity=5 * HOUR))
    ring, _ = settle(ring, DUE)
    retired = ring.key(former)
    assert retired and retired.remove_at == DUE + 29 * HOUR + 2 * MINUTE


@pytest.mark.parametrize(
    ("longer", "kept"),
    [
        ({"access_token_validity": 2 * HOUR}, 26 * HOUR + 2 * MINUTE),
        ({"max_staleness": 30 * HOUR}, 31 * HOUR + 2 * MINUTE),
        ({"clock_skew": 4 * MINUTE}, 25 * HOUR + 8 * MINUTE),
    ],
)
def test_each_value_that_was_in_force_for_an_hour_is_kept_with_the_key_that_signed_then(
    longer: dict[str, timedelta], kept: timedelta
) -> None:
    ring = new_ring()
    former = kid_of(ring.active())
    ring, _ = settle(ring, NOW + HOUR, rules=policy(**longer))
    ring, _ = settle(ring, NOW + 2 * HOUR, rules=policy())
    ring, _ = settle(ring, DUE)
    retired = ring.key(former)
    assert retired and retired.remove_at == DUE + kept


def test_a_longer_validity_adopted_after_a_key_signed_or_before_it_does_is_none_of_its_own() -> (
    None
):
    ring, _ = settle(new_ring(), DUE)
    adopted = do(ring, Adopt(policy(access_token_validity=5 * HOUR)), DUE + HOUR)
    for state in (KeyState.RETIRED, KeyState.PUBLISHED):
        assert adopted.in_state(state) == ring.in_state(state) != ()


def test_a_longer_validity_adopted_before_a_key_signs_is_kept_with_it() -> None:
    ring = new_ring()
    standby = kid_of(ring.standby)
    ring, _ = settle(ring, NOW + HOUR, rules=policy(access_token_validity=5 * HOUR))
    ring, _ = settle(ring, DUE)
    turned = ring.key(standby)
    assert turned and turned.retain_for == 29 * HOUR + 2 * MINUTE


def test_another_algorithm_gets_a_standby_of_its_own_and_waits_as_usual() -> None:
    ring, other = new_ring(), policy(algorithm="ES256")
    former_standby, before = kid_of(ring.standby), kid_of(ring.active())
    ring, _ = settle(ring, NOW + HOUR, rules=other)
    assert {k.algorithm for k in ring.in_state(KeyState.PUBLISHED)} == {"RS256", "ES256"}
    # Whoever was cut off before the change knows the former standby alone: it has its turn.
    assert kid_of(ring.standby) == former_standby
    assert makes_way_at(ring) == NOW + DAY, "the new one could sign by then"
    assert activation_at(ring) == DUE, "at the latest"
    ring, _ = settle(ring, NOW + DAY - SECOND)
    assert kid_of(ring.active()) == before
    step = next_step(ring, other, nobody(), NOW + DAY)
    assert step == Activate(former_standby, RotationReason.ALGORITHM, None)
    ring, _ = settle(ring, NOW + DAY)
    assert kid_of(ring.active()) == former_standby
    (standby,) = ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC)
    assert standby.algorithm == "ES256", "it replaced the former one"
    ring = advance(ring, NOW + DAY, NOW + DAY + 168 * HOUR - SECOND)
    assert kid_of(ring.active()) == former_standby, "for a cryptoperiod, as any other"
    ring, _ = settle(ring, NOW + DAY + 168 * HOUR)
    assert kid_of(ring.active()) == standby.kid
    assert ring.key(former_standby).may_verify  # type: ignore[union-attr]
    (standby,) = ring.in_state(KeyState.PUBLISHED)
    assert standby.algorithm == "ES256"


def changed(now: datetime = NOW + 100 * HOUR, **rules: Any) -> Ring:
    """A ring in which another algorithm is wanted since `now`."""
    ring, _ = settle(new_ring(), now, rules=policy(**(rules or {"algorithm": "ES256"})))
    return ring


def test_the_standby_makes_way_as_soon_as_the_new_key_was_public_for_long_enough() -> None:
    assert makes_way_at(changed()) == NOW + 104 * HOUR


def test_two_turns_are_so_far_apart_that_a_day_without_redis_misses_one_at_the_most() -> None:
    ring = advance(new_ring(), NOW, DUE)
    ring, _ = settle(ring, DUE + HOUR, rules=policy(algorithm="ES256"))
    active = ring.active()
    assert active and active.activated_at == DUE
    assert makes_way_at(ring) == DUE + active.max_staleness == DUE + DAY
    # By what was in force while it signed, whatever is configured since.
    ring, _ = settle(ring, DUE + 2 * HOUR, rules=policy(algorithm="ES256", max_staleness=HOUR))
    assert makes_way_at(ring) == DUE + DAY


def test_nothing_turns_early_for_an_algorithm_that_an_instance_has_not_confirmed() -> None:
    ring, ready = changed(), NOW + 104 * HOUR
    behind = instances((1, 1), (1, ring.version))
    step = next_step(ring, ring.policy, behind, ready)
    assert isinstance(step, WaitUntil)
    assert step.awaiting == ("i0",), "who cannot use such keys is named before anything turns"
    assert step.activation_at == DUE, "nothing is overdue"
    late = ready + 2 * ring.policy.confirmation_timeout
    step = next_step(ring, ring.policy, behind, late)
    assert isinstance(step, WaitUntil)
    assert step.when <= DUE, "nobody is passed over for what has time"
    step = next_step(ring, ring.policy, behind, DUE)
    assert step == Activate(kid_of(ring.standby), RotationReason.SCHEDULED, None)
    known = instances((1, ring.version), (1, ring.version))
    assert isinstance(next_step(ring, ring.policy, known, ready), Activate)
    unheard = instances((1, ring.version), trusted_from=ready + MINUTE)
    step = next_step(ring, ring.policy, unheard, ready)
    assert isinstance(step, WaitUntil), "a new leader first hears of every instance"
    assert step.when == ready + MINUTE


def test_the_turn_that_is_due_waits_for_all_as_ever_whoever_held_the_early_one_up() -> None:
    ring = changed()
    starting = instances((1, 1), (1, 0))
    for kept in (ring, new_ring()):
        step = next_step(kept, kept.policy, starting, DUE)
        assert isinstance(step, WaitUntil)
        assert step.awaiting == ("i1",)
        assert step.when == DUE + kept.policy.confirmation_timeout
        late = next_step(kept, kept.policy, starting, step.when)
        assert isinstance(late, Activate)
        assert late.forced == ("i1",)


def test_the_leader_wakes_where_the_early_turn_may_be_taken() -> None:
    ring, _ = settle(new_ring(), NOW, rules=policy(algorithm="ES256"))
    _, wait = settle(ring, NOW + 5 * HOUR)
    assert wait.when == NOW + DAY


def test_an_asked_for_turn_is_taken_without_a_look_at_what_waits_behind() -> None:
    ring = rotate(changed(), now=NOW + 101 * HOUR, epoch=1)
    assert makes_way_at(ring) is None
    step = next_step(ring, ring.policy, instances((1, 1)), NOW + 101 * HOUR)
    assert isinstance(step, Activate)
    assert step.reason is RotationReason.MANUAL


def test_when_its_time_has_come_the_standby_signs_whoever_knows_the_next_algorithm() -> None:
    ring = changed(DUE - HOUR)
    step = next_step(ring, ring.policy, instances((1, 1)), DUE)
    assert step == Activate(kid_of(ring.standby), RotationReason.SCHEDULED, None)


def test_a_standby_that_is_young_itself_is_public_for_long_enough_before_its_early_turn() -> None:
    ring, _ = settle(new_ring(), DUE)
    young = kid_of(ring.standby)
    rules = policy(algorithm="ES256", publication_interval=HOUR)
    keys = tuple(replace(k, max_staleness=MINUTE) for k in ring.keys)
    ring, _ = settle(replace(ring, keys=keys), DUE, rules=replace(rules, max_staleness=MINUTE))
    assert makes_way_at(ring) == DUE + 4 * HOUR
    assert kid_of(ring.standby) == young


@pytest.mark.parametrize("rules", [{"algorithm": "ES256"}, {"rsa_key_size": 3072}])
def test_a_key_that_nobody_wants_any_more_signs_no_sooner_than_it_is_due(rules: Any) -> None:
    began = NOW + 104 * HOUR
    ring, _ = settle(changed(**rules), began)
    former, unwanted = kid_of(ring.former), kid_of(ring.standby)
    ring, _ = settle(ring, began + HOUR, rules=policy())
    assert kid_of(ring.standby) == unwanted, "whoever is cut off now knows this one alone"
    assert activation_at(ring) == began + 168 * HOUR
    assert makes_way_at(ring) is None
    # A rollback goes round it: all know the former key, and the wanted one is known by then.
    ring, _ = settle(rollback(ring, now=began + 2 * HOUR, epoch=1), began + 2 * HOUR)
    assert kid_of(ring.active()) == former
    ring, _ = settle(ring, began + 5 * HOUR)
    assert ring.standby and ring.policy.suits(ring.standby)
    gone = ring.key(unwanted)
    assert gone and gone.state is KeyState.RETIRED and gone.activated_at is None


def test_a_size_that_is_changed_back_and_forth_turns_no_key_early_but_once() -> None:
    """Two daemons whose files differ would do that, as the lead goes to and fro."""
    ring, now, turns = new_ring(), NOW + 2 * DAY, 0
    for number in range(24):
        rules = policy(rsa_key_size=(3072, 2048)[number % 2])
        before = kid_of(ring.active())
        ring, _ = settle(ring, now, rules=rules)
        ring, _ = settle(ring, now + 4 * HOUR)
        turns += kid_of(ring.active()) != before
        now += 4 * HOUR + 2 * MINUTE
    assert turns == 1


def test_a_change_of_algorithm_taken_back_leaves_no_unwanted_signer() -> None:
    ring, _ = settle(new_ring(), NOW + HOUR, rules=policy(algorithm="ES256"))
    unwanted = next(k.kid for k in ring.keys if k.algorithm == "ES256")
    ring = do(ring, Adopt(policy()), NOW + 2 * HOUR)
    unconfirmed = next_step(ring, policy(), nobody(NOW + 3 * HOUR), NOW + 2 * HOUR)
    assert isinstance(unconfirmed, WaitUntil)
    assert next_step(ring, policy(), nobody(), NOW + 2 * HOUR) == Supersede(unwanted)
    ring, _ = settle(ring, NOW + 2 * HOUR)
    superseded = ring.key(unwanted)
    assert superseded and superseded.state is KeyState.RETIRED
    assert ring.standby and ring.standby.algorithm == "RS256"


def test_a_change_of_mode_changes_the_signer_and_nothing_else() -> None:
    ring = new_ring()
    static = ring.active(KeyKind.STATIC)
    assert ring.signer == ring.active()
    switched, _ = settle(ring, NOW + HOUR, rules=policy(use_dynamic=False))
    assert switched.signer and switched.signer.kid == kid_of(static)
    assert {k.kid for k in switched.keys if k.may_verify} == {k.kid for k in ring.keys}


def test_revoking_the_active_key_lets_the_standby_sign_at_once() -> None:
    ring = new_ring()
    leaked, standby = kid_of(ring.active()), kid_of(ring.standby)
    after = revoked(ring, leaked, NOW + HOUR)
    assert kid_of(after.active()) == standby
    assert after.standby and after.standby.ready_at == NOW + 5 * HOUR
    tombstone = after.key(leaked)
    assert tombstone and tombstone.state is KeyState.REVOKED and tombstone.reason == "leaked"
    assert leaked not in {k["kid"] for k in after.jwks()["keys"]}
    assert tombstone.remove_at == NOW + HOUR + 25 * HOUR + 2 * MINUTE


def test_a_second_emergency_activates_whatever_standby_there_is() -> None:
    ring = new_ring()
    ring = revoked(ring, kid_of(ring.active()))
    unready = kid_of(ring.standby)
    ring = revoked(ring, kid_of(ring.active()))
    assert kid_of(ring.active()) == unready


def test_an_emergency_prefers_a_standby_that_has_been_public_long_enough() -> None:
    ring = new_ring()
    ready = kid_of(ring.standby)
    ring, _ = settle(ring, NOW + HOUR, rules=policy(algorithm="ES256"))
    after = revoked(ring, kid_of(ring.active()), NOW + 2 * HOUR)
    assert kid_of(after.active()) == ready


@pytest.mark.parametrize("kind", [KeyKind.DYNAMIC, KeyKind.STATIC])
def test_a_key_that_would_sign_next_is_replaced_by_the_very_version_that_revokes_it(
    kind: KeyKind,
) -> None:
    """Who is cut off from then on knows the one that is activated next."""
    ring = new_ring()
    gone = kid_of(ring.standby if kind is KeyKind.DYNAMIC else ring.active(kind))
    after = revoked(ring, gone)
    (coming,) = after.in_state(KeyState.PUBLISHED, kind)
    assert coming.kid != gone
    assert coming.published_version == after.version == ring.version + 1
    assert coming.ready_at == NOW + 4 * HOUR
    assert isinstance(next_step(after, after.policy, nobody(), NOW), WaitUntil)
    assert revocation_wants(after, gone, NOW) is None
    assert revocation_wants(after, "d-unknown", NOW) is None


def test_a_standby_beside_another_is_revoked_without_a_third() -> None:
    ring, _ = settle(new_ring(), NOW, policy(algorithm="ES256"))
    former = next(
        k for k in ring.in_state(KeyState.PUBLISHED, KeyKind.DYNAMIC) if k.algorithm == "RS256"
    )
    assert revocation_wants(ring, former.kid, NOW) is None


def bared(ring: Ring) -> Ring:
    """Without a dynamic key that signs, or would: no operator can bring that about."""
    gone = (ring.standby, ring.active())
    keys = (transitions.revoked(k, "leaked", NOW) if k in gone else k for k in ring.keys)
    return replace(ring, keys=tuple(keys))


def test_without_any_standby_a_revoked_signer_is_replaced_at_the_next_step() -> None:
    bare = bared(new_ring())
    assert bare.active() is None
    after, _ = settle(bare, NOW)
    assert after.active() and after.standby


def test_revoking_the_static_key_lets_the_dynamic_one_stand_in_until_a_careful_new_one() -> None:
    rules = policy(use_dynamic=False)
    ring = new_ring(rules)
    after, wait = settle(revoked(ring, kid_of(ring.active(KeyKind.STATIC))), NOW)
    assert after.signer == after.active(KeyKind.DYNAMIC)
    (coming,) = after.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    assert coming.ready_at == wait.when == NOW + 4 * HOUR
    unconfirmed = instances((1, 1))
    assert isinstance(next_step(after, rules, unconfirmed, wait.when), WaitUntil)
    after, _ = settle(after, wait.when)
    assert after.signer and after.signer.kid == coming.kid
    assert after.signer.due_at is None


def test_a_revoked_key_stays_revoked_and_says_so() -> None:
    ring = new_ring()
    kid = kid_of(ring.active())
    ring = revoked(ring, kid)
    with pytest.raises(RequestRefused, match="already"):
        revoked(ring, kid)
    with pytest.raises(RequestRefused, match="unknown kid"):
        revoked(ring, "d-nobody")


def test_rotating_by_hand_takes_place_at_the_earliest_safe_moment() -> None:
    ring, _ = settle(new_ring(), DUE)
    asked = rotate(ring, now=DUE + HOUR, epoch=1)
    assert activation_at(asked) == DUE + 4 * HOUR
    step = next_step(asked, asked.policy, nobody(), DUE + 4 * HOUR)
    assert isinstance(step, Activate)
    assert step.reason is RotationReason.MANUAL
    with pytest.raises(RequestRefused, match=r"due already .* at 2026-01-08 04:00:00 UTC at the"):
        rotate(asked, now=DUE + HOUR, epoch=1)
    with pytest.raises(RequestRefused, match=r"due already .* once every live instance"):
        rotate(asked, now=DUE + 5 * HOUR, epoch=1)
    alone = replace(asked, keys=tuple(key for key in asked.keys if key != asked.standby))
    with pytest.raises(RequestRefused, match=r"due already .* at the earliest safe moment"):
        rotate(alone, now=DUE + HOUR, epoch=1)


def test_rotate_now_shortens_the_publication_interval_but_still_waits_for_confirmations() -> None:
    ring, _ = settle(new_ring(), DUE)
    asked = rotate(ring, now=DUE + MINUTE, epoch=1, hasten=True)
    assert activation_at(asked) == DUE + 5 * MINUTE
    behind = instances((1, 1))
    assert isinstance(next_step(asked, asked.policy, behind, DUE + 5 * MINUTE), WaitUntil)
    hastened = rotate(rotate(ring, now=DUE, epoch=1), now=DUE, epoch=1, hasten=True)
    assert activation_at(hastened) == DUE + 5 * MINUTE


def test_nothing_turns_by_hand_where_nothing_is_active() -> None:
    with pytest.raises(RequestRefused, match="no dynamic key is active"):
        rotate(bared(new_ring()), now=NOW, epoch=1)


def full_ring() -> Ring:
    ring = new_ring()
    (static,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)
    fill = tuple(
        replace(
            static,
            kid=f"s-{n}",
            state=KeyState.RETIRED,
            retired_at=NOW,
            remove_at=NOW + (n + 1) * HOUR,
        )
        for n in range(MAX_KEYS - 3)
    )
    return replace(ring, keys=ring.keys + fill)


def test_a_full_ring_refuses_a_rotation_by_hand_but_no_emergency() -> None:
    ring = full_ring()
    with pytest.raises(RequestRefused, match="the most there may be"):
        rotate(ring, now=NOW, epoch=1)
    assert isinstance(
        next_step(
            do(ring, Adopt(policy(algorithm="ES256")), NOW),
            policy(algorithm="ES256"),
            nobody(),
            NOW,
        ),
        WaitUntil,
    )
    for _ in range(CAPACITY - MAX_KEYS):
        ring = revoked(ring, kid_of(ring.active()))
        assert ring.standby
    ring = revoked(ring, kid_of(ring.active()))
    assert len(ring.keys) == CAPACITY
    assert ring.active()
    assert ring.standby is None
    assert revocation_wants(ring, kid_of(ring.active()), NOW) is None
    _, wait = settle(ring, NOW)
    assert wait.when == NOW + HOUR


def test_a_full_ring_turns_once_a_key_has_gone() -> None:
    """The room above `MAX_KEYS` is for emergencies: no schedule takes it."""
    ring = full_ring()
    gone = DUE + HOUR
    ring = replace(
        ring, keys=tuple(replace(k, remove_at=gone) if k.remove_at else k for k in ring.keys)
    )
    wait = next_step(ring, ring.policy, nobody(), DUE)
    assert isinstance(wait, WaitUntil)
    assert (wait.when, wait.why) == (gone, "the ring is full until a key goes")
    removal = next_step(ring, ring.policy, nobody(), gone)
    assert isinstance(removal, Remove)
    ring = apply(ring, removal, now=gone, epoch=1)
    step = next_step(ring, ring.policy, nobody(), gone)
    assert isinstance(step, Activate)
    assert step.wants


def test_a_static_key_that_is_waited_for_is_told_with_its_time() -> None:
    rules = policy(use_dynamic=False)
    ring = new_ring(rules)
    ring, wait = settle(revoked(ring, kid_of(ring.active(KeyKind.STATIC))), NOW)
    ready = wait.when
    step = next_step(ring, rules, instances((1, 1)), ready)
    assert isinstance(step, WaitUntil)
    assert step.when == ready + 10 * MINUTE
    assert step.awaiting == ("i0",)
    forced = next_step(ring, rules, instances((1, 1)), ready + 10 * MINUTE)
    assert isinstance(forced, Activate)
    assert forced.forced == ("i0",)


def test_a_key_is_not_ready_before_caches_of_the_former_policy_have_run_out() -> None:
    ring = new_ring(policy(jwks_max_age=4 * HOUR))
    hasty = policy(cryptoperiod=24 * HOUR, publication_interval=10 * MINUTE)
    ring = do(ring, Adopt(hasty), NOW + HOUR)
    gone = kid_of(ring.standby)
    ring, _ = settle(revoked(ring, gone, NOW + 2 * HOUR), NOW + 2 * HOUR)
    assert ring.standby and ring.standby.ready_at == NOW + 5 * HOUR
    hastened = rotate(ring, now=NOW + 2 * HOUR, epoch=1, hasten=True)
    assert activation_at(hastened) == NOW + 5 * HOUR
    ring = do(ring, Adopt(policy()), NOW + 3 * HOUR)
    assert ring.caches_until == NOW + 5 * HOUR


@pytest.mark.parametrize("longer", [0 * MINUTE, MINUTE])
def test_a_policy_that_shortens_nothing_in_caches_makes_nobody_wait_for_them(
    longer: timedelta,
) -> None:
    ring = new_ring()
    another = policy(jwks_max_age=ring.policy.jwks_max_age + longer, confirmation_timeout=HOUR)
    after = do(ring, Adopt(another), NOW + HOUR)
    assert after.policy == another
    assert after.caches_until is None
    hastened = rotate(after, now=NOW + HOUR, epoch=1, hasten=True)
    assert activation_at(hastened) == NOW + HOUR


def test_revoking_the_signer_during_a_change_of_algorithm_makes_no_third_standby() -> None:
    ring, _ = settle(new_ring(), NOW + HOUR, rules=policy(algorithm="ES256"))
    assert revocation_wants(ring, kid_of(ring.active()), NOW + HOUR) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": KeyState.RETIRED}, "without the times"),
        ({"kid": "s-1"}, "may not start s-"),
        ({"due_at": None}, "until a set time"),
        ({"drained_from": NOW}, "a drain has a begin and an end"),
    ],
)
def test_a_key_that_contradicts_itself_cannot_be_made(changes: dict, message: str) -> None:
    active = new_ring().active()
    assert active
    with pytest.raises(ValueError, match=message):
        replace(active, **changes)


def test_a_ring_with_two_signers_of_a_kind_cannot_be_made() -> None:
    """Promise 3, in the type itself."""
    ring = new_ring()
    active = ring.active()
    assert active
    with pytest.raises(ValueError, match="two active"):
        replace(ring, keys=(*ring.keys, replace(active, kid="d-other")))
    with pytest.raises(ValueError, match="two keys of one kid"):
        replace(ring, keys=(active, active))
    with pytest.raises(ValueError, match="more than 40"):
        replace(ring, keys=tuple(replace(ring.keys[1], kid=f"d-{n}") for n in range(41)))


def test_a_step_is_applied_with_exactly_the_key_it_wants() -> None:
    ring = new_ring()
    wanted = KeyWanted(KeyKind.DYNAMIC, "RS256")
    with pytest.raises(AssertionError):
        apply(ring, Publish(wanted, ""), now=NOW, epoch=1)
    with pytest.raises(AssertionError):
        apply(ring, Remove(()), now=NOW, epoch=1, fresh=fresh(wanted))


def test_only_the_arrows_of_the_diagram_exist() -> None:
    ring = new_ring()
    ring, _ = settle(ring, DUE)
    (retired,) = ring.in_state(KeyState.RETIRED)
    with pytest.raises(AssertionError, match="never become"):
        apply(ring, Activate(retired.kid, RotationReason.MANUAL, None), now=DUE, epoch=1)
    with pytest.raises(AssertionError, match="not in the ring"):
        apply(ring, Activate("d-gone", RotationReason.MANUAL, None), now=DUE, epoch=1)
    assert {t.before for t in TRANSITIONS} == {None, *KeyState}


def test_jwks_members_are_those_of_rfc_7517() -> None:
    ring = new_ring(policy(algorithm="ES256"))
    for jwk in ring.jwks()["keys"]:
        assert set(jwk) == {"kid", "alg", "use", "kty", "crv", "x", "y"}
        assert jwk["use"] == "sig"
        assert dict(public_jwk("ES256", 1)).keys() < jwk.keys()


def test_a_signing_app_holds_ready_what_signs_now_and_what_may_sign_next() -> None:
    ring = new_ring()
    assert {key.kid for key in ring.may_sign_next} == {key.kid for key in ring.keys}
    turned, _ = settle(ring, DUE)
    assert kid_of(ring.active()) not in {key.kid for key in turned.may_sign_next}


def test_without_a_signer_the_standby_is_next_as_soon_as_it_is_ready() -> None:
    ring = new_ring()
    bare = replace(ring, keys=tuple(k for k in ring.keys if k != ring.active()))
    assert activation_at(bare) == NOW
    full = full_ring()
    retired = full.in_state(KeyState.RETIRED)[0]
    keys = tuple(replace(retired, kid=f"s-{n}", remove_at=NOW + HOUR) for n in range(CAPACITY))
    step = next_step(replace(full, keys=keys), full.policy, nobody(), NOW)
    assert isinstance(step, WaitUntil)
    assert step.when == NOW + HOUR


def test_only_keys_of_the_newest_version_are_put_off() -> None:
    ring = new_ring()
    assert ring.standby
    wanted = KeyWanted(KeyKind.DYNAMIC, "EdDSA")
    step = Activate(ring.standby.kid, RotationReason.MANUAL, wanted)
    turned = do(ring, step, now=NOW + HOUR)
    later = put_off(turned, MINUTE)
    fresh = [key for key in turned.keys if key.published_version == turned.version]
    assert len(fresh) == 1
    for key in turned.keys:
        waits = MINUTE if key in fresh else 0 * MINUTE
        assert later.key(key.kid) == replace(key, ready_at=key.ready_at + waits)
    assert (later.version, later.policy) == (turned.version, turned.policy)
