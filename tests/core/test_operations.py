"""What operators may change, and what is refused: the ring stays as it was then."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ringkeeper.errors import ConfigurationError, RequestRefused
from ringkeeper.policy import MAX_KEYS, Policy
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeperd.operations import (
    add,
    call_off,
    call_off_drain,
    override,
    reinstate,
    retire,
    revocation_wants,
    revoke,
    rollback,
    room_in,
    rotate,
)
from ringkeeperd.overrides import Rules, setting_named, value_of
from ringkeeperd.rotation import (
    Activate,
    Confirmations,
    Revoke,
    WaitUntil,
    key_wanted,
    next_step,
    static_followers,
)
from ringkeeperd.transitions import FreshKey
from ringkeeperd.words import Outlook, next_change
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
from tests.core.test_rotation import full_ring

INTERVAL = "access_token_dynamic_signing_key_update_interval"
LATER = NOW + HOUR


def kid_of(key: Key | None) -> str:
    assert key
    return key.kid


def turned() -> Ring:
    """A ring whose second key signs, an hour after the first one retired."""
    ring, _ = settle(rotate(new_ring(), now=NOW, epoch=1), NOW + 4 * HOUR)
    assert ring.former
    return ring


AFTER = NOW + 9 * HOUR
DYNAMIC = new_ring()


# --- rollback ------------------------------------------------------------------------------------


def test_the_former_signer_signs_again_once_every_instance_confirmed_it_anew() -> None:
    before = turned()
    former, active = kid_of(before.former), kid_of(before.active())
    asked = rollback(before, now=AFTER, epoch=1)
    returning = asked.key(former)
    assert returning and returning.is_returning
    assert asked.standby == returning, "it goes before the standby that waits"
    assert asked.active() and kid_of(asked.active()) == active, "until then nothing changed"
    behind = instances((1, before.version))
    waiting = next_step(asked, asked.policy, behind, AFTER)
    assert isinstance(waiting, WaitUntil)
    assert waiting.awaiting, "signing apps let its private half go"
    step = next_step(asked, asked.policy, instances((1, asked.version)), AFTER)
    assert isinstance(step, Activate)
    assert (step.kid, step.reason) == (former, RotationReason.ROLLBACK)
    after, _ = settle(asked, AFTER)
    assert kid_of(after.active()) == former
    assert kid_of(after.former) == active, "and one can go back once more"
    assert after.active() and after.active().due_at == AFTER + policy().cryptoperiod  # type: ignore[union-attr]
    assert after.standby == before.standby, "the one that waited waits on"


def test_a_key_that_an_emergency_let_sign_early_is_public_for_long_enough_before_it_is_back() -> (
    None
):
    ring = turned()  # its standby may sign from NOW + 8 h on
    leaked, early = kid_of(ring.active()), ring.standby
    assert early and early.ready_at == NOW + 8 * HOUR
    wanted = revocation_wants(ring, leaked, NOW + 5 * HOUR)
    made = fresh(wanted) if wanted else None
    ring = revoke(ring, leaked, reason="leaked", now=NOW + 5 * HOUR, epoch=1, fresh=made)
    assert kid_of(ring.active()) == early.kid
    # The next one signs at once, too: an emergency again, or another way round the wait.
    ready = tuple(replace(k, ready_at=NOW) if k == ring.standby else k for k in ring.keys)
    ring, _ = settle(rotate(replace(ring, keys=ready), now=NOW + 6 * HOUR, epoch=1), NOW + 6 * HOUR)
    asked = rollback(ring, now=NOW + 6 * HOUR, epoch=1)
    assert asked.standby and (asked.standby.kid, asked.standby.ready_at) == (
        early.kid,
        NOW + 8 * HOUR,
    )


def test_a_key_that_came_back_is_kept_as_long_as_its_newest_token_needs() -> None:
    after, _ = settle(rollback(turned(), now=AFTER, epoch=1), AFTER)
    again, _ = settle(rotate(after, now=AFTER + HOUR, epoch=1), AFTER + 6 * HOUR)
    gone = again.former
    assert gone and gone.retired_at and gone.remove_at == gone.retired_at + gone.retain_for
    assert gone.retired_at >= AFTER + HOUR


@pytest.mark.parametrize(
    ("ring", "why"),
    [
        (new_ring(), "^too early: d-.* is the first dynamic key that signs, so there is none"),
        (rollback(turned(), now=AFTER, epoch=1), "under way already"),
        (
            replace(
                turned(), keys=tuple(k for k in turned().keys if k.state is not KeyState.RETIRED)
            ),
            "^too late: the key that signed before is removed, so there is none",
        ),
    ],
)
def test_where_there_is_nothing_to_go_back_to_it_is_refused(ring: Ring, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        rollback(ring, now=AFTER, epoch=1)


def test_a_revoked_key_never_comes_back_nor_does_one_that_is_being_drained() -> None:
    before = turned()
    now = NOW + 4 * HOUR
    for drain in (None, 10 * MINUTE):
        gone = revoke(before, kid_of(before.former), reason="x", now=now, epoch=1, drain=drain)
        kid = kid_of(before.former)
        told = f"^too late: {kid}, which signed before, is revoked"
        if drain:
            told = f"^{kid}, which .* is being drained .ringkeeper revoke {kid} --call-off --reason"
        with pytest.raises(RequestRefused, match=told):
            rollback(gone, now=now, epoch=1)
        with pytest.raises(RequestRefused, match=r"^too late: .* is revoked"):
            rollback(gone, now=now + 10 * MINUTE, epoch=1)


def test_of_several_keys_that_do_not_come_back_the_one_that_signed_last_is_told() -> None:
    before = turned()
    gone = revoke(before, kid_of(before.former), reason="x", now=AFTER, epoch=1)
    signed, now = kid_of(gone.active()), AFTER + 10 * HOUR
    asked: Any = {"now": now, "epoch": 1, "drain": 10 * MINUTE, "confirmed": nobody()}
    wanted = revocation_wants(gone, signed, now)
    assert wanted
    drained = revoke(gone, signed, reason="y", fresh=fresh(wanted), **asked)
    with pytest.raises(RequestRefused, match=f"^{signed}, which .* is being drained"):
        rollback(drained, now=now, epoch=1)
    with pytest.raises(RequestRefused, match=f"^too late: {signed}, .* is revoked"):
        rollback(drained, now=now + 10 * MINUTE, epoch=1)


def test_who_signed_last_is_not_who_was_made_last() -> None:
    """The older one signed again, after a rollback, and the younger one was revoked meanwhile."""
    before = turned()
    older, younger = kid_of(before.former), kid_of(before.active())
    back, _ = settle(rollback(before, now=AFTER, epoch=1), AFTER)
    assert kid_of(back.active()) == older
    gone = revoke(back, younger, reason="x", now=AFTER + HOUR, epoch=1)
    now = AFTER + 30 * HOUR
    asked: Any = {"now": now, "epoch": 1, "drain": 10 * MINUTE, "confirmed": nobody()}
    wanted = revocation_wants(gone, older, now)
    drained = revoke(gone, older, reason="y", fresh=fresh(wanted) if wanted else None, **asked)
    with pytest.raises(RequestRefused, match=f"^{older}, which .* is being drained"):
        rollback(drained, now=now, epoch=1)


def test_to_drain_the_static_key_calls_no_rollback_off() -> None:
    ring = add(turned(), static(), now=NOW, epoch=1)
    first, former = kid_of(ring.active(KeyKind.STATIC)), kid_of(ring.former)
    asked = rollback(ring, now=AFTER, epoch=1)
    drained = revoke(
        asked, first, reason="x", now=AFTER, epoch=1, drain=10 * MINUTE, confirmed=nobody()
    )
    assert kid_of(drained.active(KeyKind.STATIC)) != first
    assert drained.key(former) == asked.key(former)
    assert drained.active() == asked.active()


def test_without_a_signer_there_is_nothing_to_roll_back() -> None:
    before = turned()
    tombstone: dict[str, Any] = {"state": KeyState.REVOKED, "revoked_at": NOW, "remove_at": LATER}
    active = before.active()
    bare = replace(
        before, keys=tuple(replace(k, **tombstone) if k is active else k for k in before.keys)
    )
    with pytest.raises(RequestRefused, match="no dynamic key is active"):
        rollback(bare, now=AFTER, epoch=1)


def test_once_the_key_that_was_rolled_back_from_is_revoked_another_rollback_can_be_asked_for() -> (
    None
):
    """The standby signs at once, for all can use it; who was to come back goes again."""
    before = turned()
    former, active, standby = before.former, before.active(), before.standby
    asked = rollback(before, now=AFTER, epoch=1)
    wanted = revocation_wants(asked, kid_of(active), AFTER)
    assert wanted, "no version is ever without the key that signs next"
    after = revoke(asked, kid_of(active), reason="leaked", now=AFTER, epoch=1, fresh=fresh(wanted))
    assert kid_of(after.active()) == kid_of(standby)
    assert kid_of(after.former) == kid_of(former)
    assert kid_of(after.standby) not in {kid_of(former), kid_of(standby)}
    assert after.key(kid_of(former)).remove_at == AFTER + former.retain_for  # type: ignore[union-attr]
    again, _ = settle(rollback(after, now=AFTER + HOUR, epoch=1), AFTER + HOUR)
    assert kid_of(again.active()) == kid_of(former)


def test_where_only_the_returning_key_can_follow_a_revoked_one_it_does() -> None:
    before = turned()
    assert before.standby
    late = replace(before.standby, ready_at=AFTER + HOUR)
    keys = tuple(late if k.kid == late.kid else k for k in before.keys)
    asked = rollback(replace(before, keys=keys), now=AFTER, epoch=1)
    assert revocation_wants(asked, kid_of(before.active()), AFTER) is None
    after = revoke(asked, kid_of(before.active()), reason="leaked", now=AFTER, epoch=1)
    assert kid_of(after.active()) == kid_of(before.former)
    assert after.standby == late


def test_a_rollback_does_not_pass_over_a_key_that_is_drained() -> None:
    """Who asks for it means the key that signed last; that an older one comes back says nobody."""
    ring, _ = settle(rotate(turned(), now=NOW + 4 * HOUR, epoch=1), AFTER)
    last = kid_of(ring.former)
    asked = revoke(ring, last, reason="x", now=AFTER, epoch=1, drain=10 * MINUTE)
    with pytest.raises(RequestRefused, match=f"{last}, .* being drained; end that first .*--call"):
        rollback(asked, now=AFTER + MINUTE, epoch=1)
    off = call_off_drain(asked, last, now=AFTER + MINUTE, epoch=1)
    assert kid_of(rollback(off, now=AFTER + MINUTE, epoch=1).standby) == last
    window: Any = {"drained_from": AFTER, "drained_until": AFTER + 10 * MINUTE}
    keys = tuple(replace(k, **window) if k == asked.former else k for k in ring.keys)
    older = replace(ring, keys=keys)
    assert older != ring, "that an older one is drained is in nobody's way"
    assert kid_of(rollback(older, now=AFTER + MINUTE, epoch=1).standby) == last
    over = rollback(asked, now=AFTER + 10 * MINUTE, epoch=1)
    assert kid_of(over.standby) == kid_of(asked.former)


@pytest.mark.parametrize("is_due", [False, True])
def test_a_rollback_that_is_called_off_leaves_the_schedule_as_it_was(is_due: bool) -> None:
    before = turned()
    former, active = kid_of(before.former), before.active()
    asked = rollback(before, now=AFTER, epoch=1)
    if is_due:  # somebody wanted the next one in between
        keys = (replace(k, due_reason=RotationReason.MANUAL) if k.due_at else k for k in asked.keys)
        asked = replace(asked, keys=tuple(keys))
    off = revoke(asked, former, reason="leaked, too", now=AFTER, epoch=1)
    still = off.active()
    assert still and active and still.kid == active.kid
    assert (still.due_at == active.due_at) is not is_due
    assert not any(key.is_returning for key in off.keys)


# --- calling off ---------------------------------------------------------------------------------


def test_a_rotation_that_is_called_off_leaves_the_ring_as_it_was() -> None:
    before = new_ring()
    after = call_off(rotate(before, now=LATER, epoch=1), now=LATER + MINUTE, epoch=2)
    assert after == replace(before, version=before.version + 2, epoch=2)


def test_a_rotation_that_is_hastened_is_called_off_with_the_wait_that_it_cut() -> None:
    before = turned()  # its standby has been public since NOW + 4 h
    asked = rotate(before, now=NOW + 4 * HOUR, epoch=1, hasten=True)
    assert asked.standby and before.standby
    assert asked.standby.ready_at < before.standby.ready_at
    after = call_off(asked, now=NOW + 4 * HOUR + MINUTE, epoch=1)
    assert after.keys == before.keys
    # Hastened where a turn was due anyway: the schedule's, by now.
    due = replace(
        before,
        keys=tuple(replace(k, due_at=NOW) if k == before.active() else k for k in before.keys),
    )
    asked = rotate(due, now=NOW + 4 * HOUR, epoch=1, hasten=True)
    after = call_off(asked, now=NOW + 5 * HOUR, epoch=1)
    assert after.keys == due.keys


def test_what_is_called_off_comes_back_as_it_was_whatever_was_configured_since() -> None:
    """Times that are set are never worked out again."""
    before = turned()
    asked = rotate(before, now=NOW + 4 * HOUR, epoch=1, hasten=True)
    again = rotate(
        replace(asked, policy=policy(jwks_max_age=SECOND)), now=AFTER, epoch=1, hasten=True
    )
    assert again.standby and asked.standby and again.standby.ready_at < asked.standby.ready_at
    rules = policy(cryptoperiod=24 * HOUR, publication_interval=10 * MINUTE)
    after = call_off(replace(again, policy=rules), now=AFTER, epoch=1)
    assert after.keys == before.keys
    longer = replace(before, policy=policy(publication_interval=24 * HOUR))
    with pytest.raises(RequestRefused, match="no rotation is asked for"):
        call_off(longer, now=AFTER, epoch=1)


def test_of_several_that_wait_each_comes_back_as_it_was() -> None:
    """A hastened standby may be passed by another, of another algorithm or one that came back."""
    before = turned()
    asked = rotate(before, now=NOW + 4 * HOUR, epoch=1, hasten=True)
    asked = rollback(asked, now=NOW + 4 * HOUR, epoch=1)
    assert asked.standby and asked.standby.is_returning
    after = call_off(asked, now=NOW + 4 * HOUR, epoch=1)
    assert after.active() == before.active()
    assert after.standby == before.standby


def test_a_rollback_after_a_rotation_was_asked_for_comes_back_to_the_schedule() -> None:
    before = turned()
    asked = rollback(rotate(before, now=AFTER, epoch=1), now=AFTER + MINUTE, epoch=1)
    assert call_off(asked, now=AFTER + MINUTE, epoch=1).active() == before.active()


def test_a_rollback_is_called_off_until_it_takes_place() -> None:
    before = turned()
    former, active = before.former, before.active()
    after = call_off(rollback(before, now=AFTER, epoch=1), now=AFTER, epoch=1)
    assert after.active() == active
    assert after.standby == before.standby
    gone = after.former
    assert gone and former and gone.kid == former.kid
    assert gone.remove_at == AFTER + former.retain_for
    again, _ = settle(rollback(after, now=AFTER + MINUTE, epoch=1), AFTER + MINUTE)
    assert kid_of(again.active()) == former.kid, "and asked for once more"


@pytest.mark.parametrize(
    ("ring", "why"),
    [
        (new_ring(), r"the next one is the schedule's \(ringkeeper plan\)$"),
        (turned(), "is active by now, and ringkeeper rollback turns back from it"),
        (
            settle(new_ring(), NOW, policy(algorithm="ES256"))[0],
            "makes way for a key of algorithm ES256; set that back to undo it",
        ),
        (
            settle(new_ring(), NOW, policy(rsa_key_size=3072))[0],
            r"a key of rsa_key_size 3072; .* \(ringkeeper set rsa_key_size\)",
        ),
        (
            replace(
                new_ring(), keys=tuple(k for k in DYNAMIC.keys if k.state is not KeyState.ACTIVE)
            ),
            "no dynamic key is active",
        ),
        (
            replace(turned(), keys=tuple(k for k in turned().keys if k.state is KeyState.ACTIVE)),
            r"the next one is the schedule's \(ringkeeper plan\)$",
        ),
    ],
    ids=[
        "none asked for",
        "too late",
        "another algorithm",
        "another size",
        "none signs",
        "no standby",
    ],
)
def test_what_cannot_be_called_off_is_refused(ring: Ring, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        call_off(ring, now=AFTER, epoch=1)


def test_a_wait_that_is_over_anyway_is_no_rotation_to_call_off() -> None:
    """A rollback overtook the standby that was hastened."""
    asked = rollback(
        rotate(turned(), now=NOW + 4 * HOUR, epoch=1, hasten=True), now=NOW + 4 * HOUR, epoch=1
    )
    ring, _ = settle(asked, NOW + 4 * HOUR)
    assert ring.standby and ring.standby.unhastened_at
    with pytest.raises(RequestRefused, match="no rotation is asked for"):
        call_off(ring, now=NOW + 100 * HOUR, epoch=1)
    assert call_off(ring, now=NOW + 5 * HOUR, epoch=1).standby == turned_like(ring)


def turned_like(ring: Ring) -> Key:
    """The standby of `ring`, with its whole wait."""
    assert ring.standby and ring.standby.unhastened_at
    return replace(ring.standby, ready_at=ring.standby.unhastened_at, unhastened_at=None)


def test_what_an_older_release_asked_for_goes_back_to_the_interval_in_force() -> None:
    before = new_ring()
    asked = rotate(before, now=LATER, epoch=1)
    keys = tuple(replace(key, scheduled_at=None) for key in asked.keys)
    assert call_off(replace(asked, keys=keys), now=LATER, epoch=1).keys == before.keys


def test_what_was_put_forward_in_a_former_life_of_a_key_is_forgotten() -> None:
    asked = rotate(rotate(turned(), now=AFTER, epoch=1), now=AFTER, epoch=1, hasten=True)
    ring, _ = settle(asked, AFTER)
    again, _ = settle(rotate(ring, now=AFTER, epoch=1, hasten=True), AFTER + HOUR)
    ring, _ = settle(rollback(again, now=AFTER + HOUR, epoch=1), AFTER + HOUR)
    active = ring.active()
    assert active and active.kid == kid_of(again.former)
    assert again.former and again.former.scheduled_at and again.former.unhastened_at
    assert (active.scheduled_at, active.unhastened_at) == (None, None)
    assert call_off(rotate(ring, now=AFTER + HOUR, epoch=1), now=LATER, epoch=1).active() == active


# --- draining ------------------------------------------------------------------------------------


def drained(ring: Ring, kid: str, drain: timedelta = 10 * MINUTE, **options: Any) -> Ring:
    return revoke(
        ring,
        kid,
        reason="just in case",
        now=AFTER,
        epoch=1,
        drain=drain,
        **{"confirmed": nobody(), **options},
    )


def test_a_drained_signer_signs_no_more_and_is_revoked_when_its_window_ends() -> None:
    before = turned()
    kid, follower = kid_of(before.active()), kid_of(before.standby)
    ring = drained(before, kid, fresh=fresh(key_wanted(before.policy)))
    key = ring.key(kid)
    assert key and key.state is KeyState.RETIRED
    assert (key.drained_from, key.drained_until) == (AFTER, AFTER + 10 * MINUTE)
    assert kid_of(ring.active()) == follower
    assert ring.standby, "who is cut off from now on knows the next one"
    waiting = next_step(ring, ring.policy, nobody(), AFTER)
    assert isinstance(waiting, WaitUntil)
    assert waiting.when == AFTER + 10 * MINUTE
    step = next_step(ring, ring.policy, nobody(), AFTER + 10 * MINUTE)
    assert step == Revoke(kid)
    after = do(ring, step, AFTER + 10 * MINUTE)
    gone = after.key(kid)
    assert gone and gone.state is KeyState.REVOKED
    assert gone.reason == "just in case"
    assert gone.remove_at and key.remove_at and gone.remove_at >= key.remove_at


def test_a_signer_without_any_successor_is_never_taken_away() -> None:
    """Nor is one revoked whose key pair could not be made in time, if none could follow it."""
    ring = new_ring()
    alone = replace(ring, keys=tuple(k for k in ring.keys if k != ring.standby))
    for drain in (None, MINUTE):
        with pytest.raises(RequestRefused, match="last key that can sign"):
            revoke(alone, kid_of(ring.active()), reason="x", now=NOW, epoch=1, drain=drain)


def test_a_retired_key_is_drained_where_it_is() -> None:
    before = turned()
    kid = kid_of(before.former)
    ring = revoke(before, kid, reason="x", now=NOW + 4 * HOUR, epoch=1, drain=10 * MINUTE)
    assert ring.active() == before.active()
    key = ring.key(kid)
    assert key and key.retired_at == NOW + 4 * HOUR
    at_once = revoke(ring, kid, reason="y", now=NOW + 4 * HOUR + MINUTE, epoch=1)
    assert kid_of(at_once.in_state(KeyState.REVOKED)[0]) == kid, "an emergency ends a drain"


def test_a_drain_that_is_called_off_leaves_a_key_that_one_can_go_back_to() -> None:
    before = turned()
    kid = kid_of(before.active())
    asked = drained(before, kid, fresh=fresh(key_wanted(before.policy)))
    off = call_off_drain(asked, kid, now=AFTER + MINUTE, epoch=2)
    key, was = off.key(kid), asked.key(kid)
    assert key and was
    assert key == replace(
        was, drained_from=None, drained_until=None, reason="", undrained_at=AFTER + MINUTE
    )
    assert (off.version, off.epoch) == (asked.version + 1, 2)
    still = advance(off, AFTER + MINUTE, AFTER + HOUR)
    kept = still.key(kid)
    assert kept and kept.state is KeyState.RETIRED, "its window ends, and nothing happens"
    back, _ = settle(rollback(off, now=AFTER + MINUTE, epoch=1), AFTER + MINUTE)
    assert kid_of(back.active()) == kid


def test_a_static_key_whose_drain_was_called_off_is_reinstated_at_once() -> None:
    """Every verifier knows it: an operator let it retire, and no merge."""
    before = new_ring()
    first = kid_of(before.active(KeyKind.STATIC))
    wanted = key_wanted(before.policy, KeyKind.STATIC)
    both = add(before, fresh(wanted), now=NOW, epoch=1)
    now = NOW + 5 * HOUR
    asked = revoke(both, first, reason="x", now=now, epoch=1, drain=10 * MINUTE, confirmed=nobody())
    off = call_off_drain(asked, first, now=now, epoch=1)
    back = reinstate(off, first, now=now, epoch=1)
    key = back.key(first)
    assert key and key.ready_at == now
    assert static_followers(back)[0].kid == first


def test_a_static_key_that_signs_is_drained_once_another_one_follows_it() -> None:
    """A dynamic one would stand in, which those do not know who have the public half of the other."""
    ring = new_ring()
    first = kid_of(ring.active(KeyKind.STATIC))
    asked: Any = {"reason": "x", "epoch": 1, "drain": 10 * MINUTE}
    with pytest.raises(RequestRefused, match="is the only static key"):
        revoke(ring, first, now=NOW, confirmed=nobody(), **asked)
    ring = add(ring, static(), now=NOW, epoch=1)
    (second,) = ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    with pytest.raises(RequestRefused, match=f"{second.kid} is to follow it, and has to be public"):
        revoke(ring, first, now=NOW + HOUR, confirmed=nobody(), **asked)
    with pytest.raises(RequestRefused, match="not every live instance has confirmed"):
        revoke(ring, first, now=NOW + 4 * HOUR, confirmed=instances((1, 1)), **asked)
    drained = revoke(ring, first, now=NOW + 4 * HOUR, confirmed=nobody(), **asked)
    assert kid_of(drained.active(KeyKind.STATIC)) == second.kid, "in the same version"
    assert kid_of(drained.active()) == kid_of(ring.active()), "the dynamic ones go on"
    assert [k.state for k in drained.keys if k.kid == first] == [KeyState.RETIRED]
    unneeded = revoke(ring, second.kid, reason="x", now=NOW + HOUR, epoch=1)
    assert kid_of(unneeded.active(KeyKind.STATIC)) == first


def test_a_drain_after_one_that_was_called_off_counts_though_the_clock_went_back() -> None:
    before = turned()
    kid = kid_of(before.former)
    now = NOW + 4 * HOUR
    once = revoke(before, kid, reason="x", now=now, epoch=1, drain=10 * MINUTE)
    # Another leader's clock is behind.
    off = call_off_drain(once, kid, now=now - SECOND, epoch=1)
    key = off.key(kid)
    assert key and key.undrained_at == now
    assert key.retired_at
    whole = key.retired_at + key.token_validity - now
    with pytest.raises(RequestRefused, match="must be shorter than that"):
        revoke(off, kid, reason="y", now=now - SECOND, epoch=1, drain=whole)
    again = revoke(off, kid, reason="y", now=now - SECOND, epoch=1, drain=10 * MINUTE)
    key = again.key(kid)
    assert key and key.drained_from == now + timedelta(milliseconds=1)
    assert key.drained_until == key.drained_from + 10 * MINUTE


@pytest.mark.parametrize(
    ("make", "now", "why"),
    [
        (lambda r, _: r, NOW, "is not being drained"),
        (drained, AFTER + 10 * MINUTE, "too late: .* is revoked"),
        (lambda r, k: revoke(r, k, reason="x", now=AFTER, epoch=1), AFTER, "too late: .* is revo"),
    ],
)
def test_what_is_not_being_drained_cannot_be_called_off(make: Any, now: datetime, why: str) -> None:
    ring = turned()
    kid = kid_of(ring.active())
    with pytest.raises(RequestRefused, match=why):
        call_off_drain(make(ring, kid), kid, now=now, epoch=1)
    with pytest.raises(RequestRefused, match="unknown kid"):
        call_off_drain(ring, "d-none", now=now, epoch=1)


def unready(ring: Ring) -> Ring:
    """`ring`, with a standby that is not to sign for another hour."""
    keys = (replace(k, ready_at=AFTER + HOUR) if k == ring.standby else k for k in ring.keys)
    return replace(ring, keys=tuple(keys))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda r: drained(r, kid_of(r.standby)), "has no tokens to drain"),
        (
            lambda r: drained(add(r, foreign(), now=AFTER, epoch=1), "their-key"),
            "only then can it be drained",
        ),
        (lambda r: drained(r, kid_of(r.active()), confirmed=None), "not every live instance"),
        (lambda r: drained(r, kid_of(r.active()), 2 * HOUR), "must be shorter than that"),
        (lambda r: drained(r, kid_of(r.former)), "must be shorter than that"),
        (
            lambda r: drained(r, kid_of(r.active()), r.policy.poll_interval - SECOND),
            "over before every instance has heard of it",
        ),
        (lambda r: drained(unready(r), kid_of(r.active()), 2 * HOUR), "must be shorter than that"),
        (
            lambda r: drained(unready(r), kid_of(r.active())),
            f"risk before {AFTER + HOUR:%Y-%m-%d %H:%M:%S} UTC: it has not been public for long",
        ),
        (
            lambda r: drained(
                drained(r, kid_of(r.active()), fresh=fresh(key_wanted(r.policy))),
                kid_of(r.active()),
            ),
            "drained already",
        ),
    ],
    ids=[
        "standby",
        "foreign",
        "unconfirmed",
        "longer than its tokens",
        "none alive",
        "shorter than a poll",
        "too long, and no successor ready",
        "no successor ready",
        "twice",
    ],
)
def test_a_drain_that_cannot_be_is_refused(make: Any, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        make(turned())


@pytest.mark.parametrize(
    ("confirmed", "why"),
    [
        (Confirmations((), AFTER + MINUTE), "has just begun: .* ask again after"),
        (instances((1, 1)), "not every live instance has confirmed"),
        (None, "not every live instance has confirmed"),
    ],
)
def test_a_precaution_surprises_nobody_who_is_live(
    confirmed: Confirmations | None, why: str
) -> None:
    ring = turned()
    with pytest.raises(RequestRefused, match=why):
        drained(ring, kid_of(ring.active()), confirmed=confirmed)
    at_once = revoke(ring, kid_of(ring.active()), reason="x", now=AFTER, epoch=1)
    assert at_once.active() != ring.active(), "an emergency waits for none of it"


def test_a_standby_that_only_verifies_is_in_nobody_s_way() -> None:
    """Foreign keys take part in nothing that signs."""
    ring = add(new_ring(), foreign(), now=NOW, epoch=1)
    assert kid_of(ring.standby) != "their-key"
    after, _ = settle(rotate(ring, now=NOW, epoch=1), NOW + 4 * HOUR)
    assert kid_of(after.active()) != "their-key"
    assert after.key("their-key") == ring.key("their-key")


# --- static and foreign keys ---------------------------------------------------------------------


def foreign(kid: str = "their-key") -> FreshKey:
    return FreshKey(KeyKind.FOREIGN, "ES256", public_jwk("ES256", kid), kid)


def static() -> FreshKey:
    return FreshKey(KeyKind.STATIC, "RS256", public_jwk("RS256"))


def test_a_second_static_key_waits_until_the_first_one_is_retired() -> None:
    ring = new_ring()
    first = kid_of(ring.active(KeyKind.STATIC))
    ring = add(ring, static(), now=NOW, epoch=1)
    (second,) = ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    settled, _ = settle(ring, NOW + 24 * HOUR)
    assert kid_of(settled.active(KeyKind.STATIC)) == first
    with pytest.raises(RequestRefused, match=f"{second.kid} is to follow it, and has to be public"):
        retire(ring, first, now=NOW + HOUR, epoch=1)
    with pytest.raises(RequestRefused, match="not every live instance has confirmed"):
        retire(ring, first, now=NOW + 4 * HOUR, epoch=1, confirmed=instances((1, 1)))
    gone = retire(ring, first, now=NOW + 4 * HOUR, epoch=1, confirmed=nobody())
    key = gone.key(first)
    assert key and key.state is KeyState.RETIRED
    assert kid_of(gone.active(KeyKind.STATIC)) == second.kid, "in the same version"


def test_of_several_static_keys_the_one_that_is_ready_first_is_next_and_only_that_is_told() -> None:
    ring = new_ring()
    first = kid_of(ring.active(KeyKind.STATIC))
    one, two, three = static(), static(), static()
    for number, made in enumerate((one, two, three)):
        ring = add(ring, made, now=NOW + number * MINUTE, epoch=1)
    seen = Outlook(ring, NOW, is_led=True, is_awaited=False)
    told = {
        made.kid: next_change(key, seen)
        for made in (one, two, three)
        if (key := ring.key(made.kid))
    }
    assert told == {
        one.kid: f"follows {first} next",
        two.kid: f"after {one.kid}",
        three.kid: f"after {two.kid}",
    }
    gone = retire(ring, first, now=NOW + 5 * HOUR, epoch=1, confirmed=nobody())
    assert kid_of(gone.active(KeyKind.STATIC)) == one.kid


def test_the_oldest_waiting_static_key_takes_the_place_of_a_revoked_one_at_once() -> None:
    ring = new_ring()
    first = kid_of(ring.active(KeyKind.STATIC))
    old, new = FreshKey(KeyKind.STATIC, "EdDSA", public_jwk("EdDSA")), static()
    for number, made in enumerate((old, new)):
        ring = add(ring, made, now=NOW + number * MINUTE, epoch=1)
    later = NOW + 5 * HOUR
    assert revocation_wants(ring, first, later) is None
    ring, _ = settle(revoke(ring, first, reason="x", now=later, epoch=1), later)
    assert kid_of(ring.active(KeyKind.STATIC)) == old.kid
    waiting = ring.key(new.kid)
    seen = Outlook(ring, later, is_led=True, is_awaited=False)
    assert waiting and next_change(waiting, seen) == f"follows {old.kid} next"


def test_the_only_static_key_stays() -> None:
    ring = new_ring()
    with pytest.raises(RequestRefused, match="the only static key; make the one"):
        retire(ring, kid_of(ring.active(KeyKind.STATIC)), now=NOW, epoch=1)
    gone = revoke(
        ring,
        kid_of(ring.active(KeyKind.STATIC)),
        reason="x",
        now=NOW,
        epoch=1,
        fresh=static(),
    )
    (coming,) = gone.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    with pytest.raises(RequestRefused, match="about to sign"):
        retire(gone, coming.kid, now=NOW, epoch=1)


def test_a_foreign_key_verifies_until_it_is_retired_and_then_as_long_as_its_tokens_may_live() -> (
    None
):
    ring = add(new_ring(), foreign(), now=NOW, epoch=1)
    key = ring.key("their-key")
    assert key and key.may_verify
    gone = retire(ring, "their-key", now=LATER, epoch=1)
    key = gone.key("their-key")
    assert key and key.remove_at == LATER + key.retain_for
    revoked = revoke(ring, "their-key", reason="x", now=LATER, epoch=1)
    key = revoked.key("their-key")
    assert key and not key.may_verify
    assert revoked.active() == ring.active()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: add(full_ring(), static(), now=NOW, epoch=1), "the most there may be"),
        (
            lambda: add(add(new_ring(), foreign(), now=NOW, epoch=1), foreign(), now=NOW, epoch=1),
            "already",
        ),
        (
            lambda: add(
                add(new_ring(), foreign(), now=NOW, epoch=1),
                replace(foreign(), own_kid="another-name"),
                now=NOW,
                epoch=1,
            ),
            "this very key already, as their-key",
        ),
        (lambda: retire(new_ring(), "nobody", now=NOW, epoch=1), "unknown kid"),
        (
            lambda: retire(DYNAMIC, kid_of(DYNAMIC.active()), now=NOW, epoch=1),
            "which retires by itself",
        ),
    ],
    ids=["full", "twice", "the same by another name", "unknown", "dynamic"],
)
def test_what_cannot_be_added_or_retired_is_refused(make: Any, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        make()


def test_what_goes_by_no_schedule_leaves_the_schedule_its_room() -> None:
    ring, count = new_ring(), 0
    with suppress(RequestRefused):
        while count < MAX_KEYS:
            ring = add(ring, foreign(f"key-{count}"), now=NOW, epoch=1)
            count += 1
    assert 20 < count < MAX_KEYS
    assert count == room_in(new_ring())
    assert not room_in(ring)
    with pytest.raises(RequestRefused, match="retire one first"):
        add(ring, foreign("one more"), now=NOW, epoch=1)
    after, wait = settle(ring, NOW + 3 * 168 * HOUR)
    assert after.active() != ring.active(), "keys turn on"
    assert "full" not in wait.why


def test_what_is_retired_already_is_not_retired_again() -> None:
    ring = retire(add(new_ring(), foreign(), now=NOW, epoch=1), "their-key", now=NOW, epoch=1)
    with pytest.raises(RequestRefused, match="retired already"):
        retire(ring, "their-key", now=NOW, epoch=1)


# --- the way back --------------------------------------------------------------------------------


def replaced() -> tuple[Ring, str, str]:
    """A ring whose static key was followed by another one, and the kids of both."""
    ring, made = new_ring(), static()
    former = kid_of(ring.active(KeyKind.STATIC))
    ring = add(ring, made, now=NOW, epoch=1)
    return retire(ring, former, now=NOW + 4 * HOUR, epoch=1, confirmed=nobody()), former, made.kid


def test_a_retired_static_key_is_brought_back_and_signs_before_any_other_that_waits() -> None:
    ring, former, present = replaced()
    now = NOW + 10 * HOUR
    ring = add(ring, static(), now=NOW + 5 * HOUR, epoch=1)
    ring = reinstate(ring, former, now=now, epoch=1)
    back = ring.key(former)
    assert back and back.state is KeyState.PUBLISHED
    assert (back.ready_at, back.remove_at, back.retired_at) == (now, None, None)
    assert ring.jwks()["keys"][0] != back.jwk(), "it signs nothing yet"
    assert static_followers(ring)[0].kid == former
    settled, _ = settle(ring, NOW + 9 * HOUR)
    assert kid_of(settled.active(KeyKind.STATIC)) == present
    # Apps let its private half go: who confirmed it once has to do so again.
    with pytest.raises(RequestRefused, match="not every live instance has confirmed"):
        retire(ring, present, now=now, epoch=1, confirmed=instances((1, ring.version - 1)))
    ring = retire(ring, present, now=now, epoch=1, confirmed=instances((1, ring.version)))
    assert kid_of(ring.active(KeyKind.STATIC)) == former
    again = reinstate(ring, present, now=now, epoch=1)
    assert kid_of(again.key(present)) == static_followers(again)[0].kid, "and back once more"


def test_a_key_that_never_signed_is_brought_back_like_a_fresh_one() -> None:
    """It may not have been public for long enough."""
    made, now = static(), NOW + HOUR
    ring = retire(add(new_ring(), made, now=NOW, epoch=1), made.kid, now=NOW + MINUTE, epoch=1)
    key = reinstate(ring, made.kid, now=now, epoch=1).key(made.kid)
    assert key and key.ready_at == now + ring.policy.publication_interval


def test_a_static_key_that_a_merge_retired_is_brought_back_like_a_fresh_one() -> None:
    """Verifiers of the other side may not have heard of it yet."""
    ring, former, _ = replaced()
    now = NOW + 5 * HOUR
    merged = tuple(
        replace(k, due_reason=RotationReason.SCHEDULED) if k.kid == former else k for k in ring.keys
    )
    key = reinstate(replace(ring, keys=merged), former, now=now, epoch=1).key(former)
    assert key and key.ready_at == now + ring.policy.publication_interval


def test_a_retired_foreign_key_verifies_on_once_it_is_brought_back() -> None:
    ring = retire(add(new_ring(), foreign(), now=NOW, epoch=1), "their-key", now=NOW, epoch=1)
    ring = reinstate(ring, "their-key", now=NOW + HOUR, epoch=1)
    settled, _ = settle(ring, NOW + 1000 * HOUR)
    assert settled.key("their-key")


def test_what_a_rollback_does_leaves_a_static_key_that_came_back_alone() -> None:
    ring, former, _ = replaced()
    now = NOW + 10 * HOUR
    ring = reinstate(ring, former, now=now, epoch=1)
    ring, _ = settle(rotate(ring, now=now, epoch=1), now)
    rolled = rollback(ring, now=now, epoch=1)
    due = rolled.active()
    assert due and due.due_reason is RotationReason.ROLLBACK
    after = revoke(rolled, former, reason="x", now=now, epoch=1)
    assert kid_of(after.standby) == kid_of(rolled.standby)
    assert after.active() == due, "the rollback goes on"
    after = revoke(rolled, due.kid, reason="x", now=now, epoch=1)
    back = after.key(former)
    assert back and back.state is KeyState.PUBLISHED


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: reinstate(new_ring(), "nobody", now=NOW, epoch=1), "unknown kid"),
        (
            lambda: reinstate(DYNAMIC, kid_of(DYNAMIC.active()), now=NOW, epoch=1),
            "ringkeeper rollback",
        ),
        (
            lambda: reinstate(DYNAMIC, kid_of(DYNAMIC.active(KeyKind.STATIC)), now=NOW, epoch=1),
            "is active, and not retired",
        ),
        (lambda: reinstate(gone_for_good(), "their-key", now=NOW, epoch=1), "never comes back"),
        (lambda: reinstate(draining(), "their-key", now=NOW, epoch=1), "their-key --call-off"),
        (lambda: reinstate(crowded(), "their-key", now=NOW, epoch=1), "retire one first"),
    ],
    ids=["unknown", "dynamic", "not retired", "revoked", "drained", "no room"],
)
def test_what_cannot_be_brought_back_is_refused(make: Any, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        make()


def gone_for_good() -> Ring:
    ring = add(new_ring(), foreign(), now=NOW, epoch=1)
    return revoke(ring, "their-key", reason="x", now=NOW, epoch=1)


def draining() -> Ring:
    ring = retire(add(new_ring(), foreign(), now=NOW, epoch=1), "their-key", now=NOW, epoch=1)
    return revoke(ring, "their-key", reason="x", now=NOW, epoch=1, drain=MINUTE)


def crowded() -> Ring:
    ring = retire(add(new_ring(), foreign(), now=NOW, epoch=1), "their-key", now=NOW, epoch=1)
    for number in range(room_in(ring)):
        ring = add(ring, foreign(f"key-{number}"), now=NOW, epoch=1)
    return ring


# --- settings ------------------------------------------------------------------------------------


def set_to(ring: Ring, key: str, text: str | None, rules: Rules | None = None) -> Ring:
    rules = rules or Rules.of(policy(), {})
    others = [(name, value) for name, value in ring.overrides if name != key]
    wanted = rules.under(others if text is None else [*others, (key, text)])
    return override(ring, key, text, wanted, now=NOW, epoch=1)


def test_a_setting_of_the_ring_counts_at_once_and_only_for_what_comes() -> None:
    before = new_ring()
    ring = set_to(before, INTERVAL, "24")
    assert ring.version == before.version + 1
    assert ring.policy.cryptoperiod == 24 * HOUR
    assert ring.policy.max_staleness == 24 * HOUR, "what is derived follows"
    assert ring.active() and before.active()
    assert ring.active().due_at == before.active().due_at, "times that are set stay"  # type: ignore[union-attr]
    assert ring.overrides == ((INTERVAL, "24"),)
    assert set_to(ring, INTERVAL, None).policy == before.policy


def test_a_setting_that_changes_nothing_yet_is_kept_all_the_same() -> None:
    """Files may change: then it holds against them."""
    ring = set_to(new_ring(), "clock_skew", "60s")
    assert (ring.policy, ring.version) == (new_ring().policy, 2)
    assert dict(ring.overrides) == {"clock_skew": "60s"}
    changed = Rules.of(
        policy(clock_skew=timedelta(seconds=30)), {"clock_skew": timedelta(seconds=30)}
    )
    assert changed.under(ring.overrides).clock_skew == timedelta(seconds=60)


def test_what_is_set_so_already_is_refused() -> None:
    ring = set_to(new_ring(), INTERVAL, "24")
    with pytest.raises(RequestRefused, match="is set to 24 already"):
        set_to(ring, INTERVAL, "24")
    with pytest.raises(RequestRefused, match="files say it"):
        set_to(ring, "algorithm", None)


def test_files_that_say_nothing_of_a_value_leave_it_to_be_derived_from_the_ring_s_own() -> None:
    alone = Rules.of(policy(), {})
    whole = Rules.of(policy())
    own = [(INTERVAL, "2")]
    assert alone.under(own) == Policy.derive(cryptoperiod=2 * HOUR)
    assert alone.under([]) == whole.under([]) == policy()
    with pytest.raises(ConfigurationError, match="publication_interval"):
        whole.under(own)  # a file that says 4 h of publication contradicts 2 h of signing


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("no_such", "1", "no such setting of a ring; there are access_token_dynamic"),
        ("clock-skew", "3s", r"no such setting of a ring; did you mean clock_skew\?"),
        ("lead", "true", "for the whole daemon"),
        ("token_cache", "0", "is for each app, and no rule of a ring"),
        (INTERVAL, "soon", "is not a number"),
        ("algorithm", "HS256", "is not offered"),
        ("rsa_key_size", "1024", "is not offered; use one of 2048, 3072, 4096"),
        ("poll_interval", "-3s", "is not a duration"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_words(key: str, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        value_of(setting_named(key).key, text)


def test_a_size_that_no_reader_lets_through_is_no_policy_either() -> None:
    (problem,) = Policy.derive(rsa_key_size=1024).problems()
    assert problem == "rsa_key_size: 1024 is not offered; use one of 2048, 3072, 4096"


def test_an_interval_that_would_keep_too_many_keys_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigurationError, match=r"keeps \d\d keys .* 32 is the most"):
        Rules.of(policy(), {"access_token_validity": 24 * HOUR}).under([(INTERVAL, "0.5")])


def test_confirmations_are_waited_for_as_for_any_turn() -> None:
    asked = rollback(turned(), now=AFTER, epoch=1)
    listening = Confirmations((), AFTER + MINUTE)
    assert isinstance(next_step(asked, asked.policy, listening, AFTER), WaitUntil)
