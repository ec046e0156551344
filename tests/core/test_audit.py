"""Every change of state is told once: an event for each arrow of the diagram (promise 12)."""

from dataclasses import replace
from datetime import datetime

import pytest

from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeper.settings import SETTINGS
from ringkeeper.testimony import History
from ringkeeper.wire import Event
from ringkeeperd.audit import _settings, events_between
from ringkeeperd.healing import Evidence, diagnose
from ringkeeperd.operations import call_off, call_off_drain, revoke, rollback, rotate
from ringkeeperd.rotation import Activate, Adopt, next_step
from ringkeeperd.transitions import TRANSITIONS, KeyWanted, Transition
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, do, new_ring, nobody, policy, settle

TOLD = {
    KeyState.PUBLISHED: "key published",
    KeyState.ACTIVE: "key activated",
    KeyState.RETIRED: "key retired",
    KeyState.REVOKED: "key revoked",
    None: "key removed",
}
CONTEXT = {"request": "q", "by": "alice", "reason": "test"}


def events(before: Ring | None, after: Ring) -> tuple[Event, ...]:
    return events_between(before, after, NOW, CONTEXT)


def ring_with(state: KeyState | None, version: int) -> Ring:
    """A ring whose static key is in `state`, or not there; its dynamic keys never change."""
    dynamic = tuple(key for key in RING.keys if key.kind is KeyKind.DYNAMIC)
    times = dict.fromkeys(("retired_at", "revoked_at", "remove_at"), NOW)
    times["activated_at"] = None if state is KeyState.PUBLISHED else NOW  # type: ignore[assignment]
    static = (replace(STATIC, state=state, **times),) if state else ()  # type: ignore[arg-type]
    return replace(RING, version=version, keys=dynamic + static)


def static_key(ring: Ring) -> Key:
    (found,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)
    return found


RING = new_ring()
STATIC = static_key(RING)


@pytest.mark.parametrize("arrow", TRANSITIONS, ids=lambda arrow: f"{arrow.before}-{arrow.after}")
def test_every_arrow_of_the_diagram_is_told_once(arrow: Transition) -> None:
    before, after = ring_with(arrow.before, 4), ring_with(arrow.after, 5)
    (told,) = events(before, after)
    assert told.event == TOLD[arrow.after]
    assert (told.ring_id, told.name, told.version, told.at) == (RING.id, RING.name, 5, NOW)
    assert told.fields["kid"] == STATIC.kid
    assert told.fields["kind"] == "static"
    assert CONTEXT.items() <= told.fields.items(), "who asked, and why, goes with it"


def test_a_key_that_comes_back_is_told_as_such() -> None:
    before = ring_with(KeyState.RETIRED, 4)
    key = replace(STATIC, state=KeyState.PUBLISHED, activated_at=NOW)
    after = replace(ring_with(None, 5), keys=(*ring_with(None, 5).keys, key))
    (told,) = events(before, after)
    assert (told.event, told.fields["kid"]) == ("key returned", STATIC.kid)


@pytest.mark.parametrize("state", [None, *KeyState])
def test_what_stays_as_it_is_is_not_told(state: KeyState | None) -> None:
    assert events(ring_with(state, 4), ring_with(state, 5)) == ()


def test_a_new_ring_is_told_with_each_of_its_keys() -> None:
    made, *keys = events(None, RING)
    assert made.event == "ring made"
    assert made.fields == {"keys": 3, "algorithm": "RS256", **CONTEXT}
    assert [told.fields["kid"] for told in keys] == [key.kid for key in RING.keys]
    assert {told.fields.get("rotation") for told in keys} == {"first", None}


def test_an_adopted_policy_is_told_once_with_what_changed_in_it() -> None:
    adopted = do(RING, Adopt(policy(use_dynamic=False, access_token_validity=2 * HOUR)), NOW)
    (told,) = events(RING, adopted)
    assert told.event == "policy adopted"
    changed = "access_token_validity, use_dynamic_access_token_signing_key"
    assert told.fields == {"changed": changed, **CONTEXT}


def test_what_changed_is_called_as_operators_call_it() -> None:
    told = {setting.policy: setting.key for setting in SETTINGS if setting.policy}
    assert {name: _settings([name]) for name in told} == told


def test_a_setting_that_holds_from_the_next_key_on_is_told_as_such() -> None:
    adopted = do(RING, Adopt(policy(cryptoperiod=200 * HOUR, clock_skew=4 * SECOND)), NOW)
    assert adopted.active() == RING.active(), "which has its time already"
    (told,) = events(RING, adopted)
    setting = "access_token_dynamic_signing_key_update_interval"
    assert told.fields == {
        "changed": f"{setting}, clock_skew",
        "from_next_key": setting,
        **CONTEXT,
    }


@pytest.mark.parametrize("hasten", [True, False])
def test_a_rotation_that_was_asked_for_is_told_once_with_who_signs_next(hasten: bool) -> None:
    standby = RING.standby
    assert standby
    young = replace(standby, ready_at=NOW + HOUR)
    ring = replace(RING, keys=tuple(young if key is standby else key for key in RING.keys))
    (told,) = events(ring, asked := rotate(ring, now=NOW, epoch=1, hasten=hasten))
    assert told.event == "rotation asked for"
    assert asked.standby
    ready = asked.standby.ready_at.isoformat()
    shortened = {"shortened_from": young.ready_at.isoformat()} if hasten else {}
    assert told.fields == {"kid": standby.kid, "ready_at": ready, **shortened, **CONTEXT}


def test_no_wait_was_shortened_that_was_over() -> None:
    ring, _ = settle(RING, NOW + 168 * HOUR)
    for hours, is_shortened in ((1, True), (5, False)):
        at = NOW + (168 + hours) * HOUR
        asked = rotate(ring, now=at, epoch=1, hasten=True)
        (told,) = events_between(ring, asked, at, {})
        assert ("shortened_from" in told.fields) is is_shortened


def test_a_healed_ring_is_told_once_before_what_became_of_its_keys() -> None:
    known = [Evidence(History(RING, NOW), {key.kid: "sealed" for key in RING.keys[1:]})]
    ill = diagnose(None, known, {}, "0", now=NOW, epoch=2)
    assert ill
    _, told = ill.cure(NOW, 2)
    assert [each.event for each in told] == ["ring healed", "key retired"]
    assert told[0].fields == {"found": "redis held no ring", "above": RING.version}


@pytest.mark.parametrize("word", ["scheduled", "manual"])
def test_why_a_key_signs_is_told_with_it(word: str) -> None:
    """The metric counts by this word."""
    ring = rotate(RING, now=NOW, epoch=1) if word == "manual" else RING
    assert ring.standby
    step = Activate(ring.standby.kid, RotationReason(word), KeyWanted(KeyKind.DYNAMIC, "RS256"))
    told = {each.event: each for each in events(ring, do(ring, step, NOW))}
    assert list(told) == ["key retired", "key activated", "key published"]
    assert told["key activated"].fields["rotation"] == word


def test_a_turn_that_makes_way_for_another_algorithm_is_told_as_such() -> None:
    ring, _ = settle(RING, NOW, policy(algorithm="ES256"))
    for after, reason in ((24, "algorithm"), (168, "scheduled")):
        at = NOW + after * HOUR
        step = next_step(ring, ring.policy, nobody(), at)
        assert isinstance(step, Activate)
        told = {e.event: e for e in events_between(ring, do(ring, step, at), at, {})}
        assert told["key activated"].fields["rotation"] == reason == step.reason.value


def test_a_standby_that_is_shown_anew_is_no_rotation_called_off() -> None:
    """Two histories that meet do that; no operator asked for anything."""
    standby = RING.standby
    assert standby
    anew = replace(standby, published_version=RING.version + 1, ready_at=NOW + HOUR)
    keys = tuple(anew if key is standby else key for key in RING.keys)
    assert events(RING, replace(RING, version=RING.version + 1, keys=keys)) == ()


def test_a_rotation_that_is_called_off_is_told_with_until_when_the_key_signs() -> None:
    active = RING.active()
    assert active and active.due_at
    asked = rotate(RING, now=NOW, epoch=1)
    (told,) = events(asked, call_off(asked, now=NOW, epoch=1))
    assert told.event == "rotation called off"
    assert told.fields == {"kid": active.kid, "due_at": active.due_at.isoformat(), **CONTEXT}


def test_a_drain_that_is_called_off_is_told_once_and_one_that_is_over_is_not() -> None:
    ring, now = settle(RING, NOW + 169 * HOUR)[0], NOW + 169 * HOUR
    assert ring.former
    kid = ring.former.kid
    asked = revoke(ring, kid, reason="x", now=now, epoch=1, drain=10 * MINUTE)
    off = call_off_drain(asked, kid, now=now, epoch=1)
    (told,) = events(asked, off)
    assert (told.event, told.fields) == ("drain called off", {"kid": kid, **CONTEXT})
    assert [e.event for e in events(asked, settle(asked, now + HOUR)[0])] == ["key revoked"]


OVERDUE = NOW + 169 * HOUR


@pytest.mark.parametrize("at", [NOW + HOUR, OVERDUE], ids=["before its time", "overdue"])
def test_a_rollback_is_asked_for_also_where_a_rotation_is_and_called_off_whatever_is_due(
    at: datetime,
) -> None:
    ring, _ = settle(rotate(RING, now=NOW, epoch=1), NOW)
    ring = replace(ring, keys=tuple(map(overdue, ring.keys))) if at == OVERDUE else ring
    asked = rotate(ring, now=at, epoch=1) if at != OVERDUE else ring
    rolled = rollback(asked, now=at, epoch=1)
    told = [each.event for each in events_between(asked, rolled, at, {})]
    assert sorted(told) == ["key returned", "rotation asked for"]
    off = call_off(rolled, now=at, epoch=1)
    told = [each.event for each in events_between(rolled, off, at, {})]
    assert sorted(told) == ["key retired", "rotation called off"]


def overdue(key: Key) -> Key:
    return replace(key, due_at=NOW + HOUR) if key.state is KeyState.ACTIVE and key.due_at else key


def test_what_is_hastened_where_a_turn_is_due_is_told_and_so_is_its_end() -> None:
    """Else who asked would have no answer."""
    ring, _ = settle(RING, NOW + 168 * HOUR)
    ring = replace(ring, keys=tuple(map(overdue, ring.keys)))
    at = NOW + 169 * HOUR
    asked = rotate(ring, now=at, epoch=1, hasten=True)
    assert asked.active() == ring.active(), "it is due anyway"
    (told,) = events_between(ring, asked, at, {})
    assert told.event == "rotation asked for"
    (told,) = events_between(asked, call_off(asked, now=at, epoch=1), at, {})
    assert told.event == "rotation called off"


def test_a_rotation_asked_for_by_a_clock_that_was_ahead_is_asked_for_anew() -> None:
    """The next leader's clock is behind: to that one it was not due yet."""
    asked = rotate(RING, now=NOW + SECOND, epoch=1)
    (told,) = events(asked, rotate(asked, now=NOW, epoch=2))
    assert told.event == "rotation asked for"


def test_what_changes_its_state_is_asked_for_by_nobody() -> None:
    merged = replace(STATIC, state=KeyState.RETIRED, due_reason=RotationReason.MANUAL,
                     retired_at=NOW, remove_at=NOW)  # fmt: skip
    keys = tuple(merged if key is STATIC else key for key in RING.keys)
    (told,) = events(RING, replace(RING, version=2, keys=keys))
    assert told.event == "key retired"
