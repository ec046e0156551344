"""What is foreseen is what the leader then does; and a change that is thought of changes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ringkeeper.errors import RequestRefused
from ringkeeper.policy import MAX_KEYS, Policy
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeperd import foresight
from ringkeeperd.foresight import Foresight, Moment, foresee, placeholder
from ringkeeperd.operations import call_off, revocation_wants, revoke, rollback, rotate
from ringkeeperd.planning import Plan, Wish, differences, foreseen, knowledge_of, signers_to_come
from ringkeeperd.rotation import Adopt, Confirmations, Instance, WaitUntil, next_step
from ringkeeperd.transitions import KeyWanted
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
    settle,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

DUE = NOW + 168 * HOUR
STEP = 5 * MINUTE


def told(future: Foresight, what: str) -> list[tuple[str, datetime]]:
    return [(moment.kid, moment.at) for moment in future.moments if moment.what == what]


# --- the leader does what was foreseen -----------------------------------------------------------


def led(ring: Ring, rules: Policy, now: datetime, until: datetime) -> list[tuple[datetime, Ring]]:
    """Every version that a leader makes who looks at the ring every five minutes."""
    made = []
    while now <= until:
        step = next_step(ring, rules, nobody(NOW), now)
        if isinstance(step, WaitUntil):
            now += STEP
        else:
            ring = do(ring, step, now)
            made.append((now, ring))
    return made


def changes(ring: Ring, made: Sequence[tuple[datetime, Ring]]) -> set[tuple[datetime, str, str]]:
    """What happened to which key, told by nothing of ours; a new key is called by its turn."""
    names = {key.kid: key.kid for key in ring.keys}
    counts = {KeyKind.DYNAMIC: 0, KeyKind.STATIC: 0}
    found = set()
    for at, after in made:
        was = {key.kid: key.state for key in ring.keys}
        for key in after.keys:
            if key.kid not in names:
                counts[key.kind] += 1
                static = "-static" if key.kind is KeyKind.STATIC else ""
                names[key.kid] = f"next{static}-{counts[key.kind]}"
            if was.pop(key.kid, None) is not key.state:
                what = {KeyState.ACTIVE: "activated"}.get(key.state, key.state.value)
                found.add((at, names[key.kid], what))
        found |= {(at, names[kid], "removed") for kid in was}
        ring = after
    return found


@st.composite
def rings(draw: st.DrawFn) -> tuple[Ring, Policy, datetime]:
    """A ring that has seen something, what it is led by, and when; all in whole steps."""
    algorithms = st.sampled_from(("ES256", "EdDSA"))

    def rules() -> Policy:
        return policy(
            cryptoperiod=20 * MINUTE * draw(st.integers(3, 20)),
            access_token_validity=STEP * draw(st.integers(1, 18)),
            clock_skew=STEP / 2,
            use_dynamic=draw(st.booleans()),
            algorithm=draw(algorithms),
        )

    first = rules()
    now = NOW + STEP * draw(st.integers(0, 400))
    ring = advance(new_ring(first), NOW, now)
    for kid in draw(st.lists(st.integers(0, 9), max_size=3)):
        key = ring.keys[kid % len(ring.keys)]
        try:
            wanted = revocation_wants(ring, key.kid, now)
            new = fresh(wanted) if wanted else None
            drain = draw(st.sampled_from((None, STEP, 3 * STEP)))
            ring = revoke(ring, key.kid, reason="x", now=now, epoch=1, fresh=new, drain=drain)
        except RequestRefused:
            continue
    for deed in draw(st.lists(st.sampled_from((rotate, rollback, call_off)), max_size=3)):
        try:
            ring = deed(ring, now=now, epoch=1)
        except RequestRefused:
            continue
    return ring, rules() if draw(st.booleans()) else first, now


@settings(deadline=None, max_examples=150)
@given(rings())
def test_a_leader_does_what_was_foreseen_when_it_was_foreseen(
    drawn: tuple[Ring, Policy, datetime],
) -> None:
    ring, rules, now = drawn
    future = foresee(ring, rules, now)
    made = led(ring, rules, now, future.until)
    expected = changes(ring, made)
    found = {(m.at, m.kid, m.what) for m in future.moments if m.what != "drained"}
    assert found == expected
    assert not future.is_cut
    standing = made[-1][1] if made else ring
    going_on = [life for life in future.lives if life.phases and life.phases[-1].end is None]
    assert len(going_on) == len(standing.keys)


def test_it_looks_until_three_keys_have_turned_and_those_of_now_have_gone() -> None:
    future = foresee(new_ring(), policy(), NOW)
    assert len(told(future, "activated")) == 3
    assert len(told(future, "removed")) == 2
    assert future.until == max(moment.at for moment in future.moments) == NOW + 3 * 168 * HOUR
    longer = policy(access_token_validity=500 * HOUR)
    late = foresee(new_ring(longer), longer, NOW)
    assert len(told(late, "removed")) == 2
    assert len(told(late, "activated")) > 3
    assert len(told(foresee(new_ring(), policy(), NOW, turns=5), "activated")) == 5


def test_until_a_moment_it_tells_what_happens_by_then_and_no_more() -> None:
    ring = new_ring()
    assert foresee(ring, policy(), NOW, until=DUE - SECOND).moments == ()
    future = foresee(ring, policy(), NOW, until=DUE)
    active, standby = ring.active(), ring.standby
    assert active and standby
    assert future.moments == (
        Moment(DUE, active.kid, "retired"),
        Moment(DUE, standby.kid, "activated"),
        Moment(DUE, "next-1", "published"),
    )
    assert future.until == DUE
    assert future.next_activation == Moment(DUE, standby.kid, "activated")
    assert future.gone_at(active.kid) is None


def test_each_key_has_its_phases_without_a_gap_and_says_which_signs() -> None:
    ring = new_ring()
    future = foresee(ring, policy(), NOW)
    (life,) = [each for each in future.lives if each.kid == "next-1"]
    assert life.is_foreseen
    assert [(p.state.value, p.begin, p.end, p.signs) for p in life.phases] == [
        ("published", DUE, DUE + 168 * HOUR, False),
        ("active", DUE + 168 * HOUR, DUE + 336 * HOUR, True),
        ("retired", DUE + 336 * HOUR, None, False),
    ]
    (static,) = [each for each in future.lives if each.kind is KeyKind.STATIC]
    assert [(p.signs, p.end) for p in static.phases] == [(False, None)]
    assert not static.is_foreseen


def test_a_revoked_static_key_has_the_dynamic_one_stand_in_until_there_is_another() -> None:
    ring = new_ring(policy(use_dynamic=False))
    static, dynamic = ring.active(KeyKind.STATIC), ring.active()
    assert static and dynamic
    changed = Wish(revoke=static.kid).applied(ring, NOW)
    future = foresee(changed, ring.policy, NOW, former=ring)
    (life,) = [each for each in future.lives if each.kid == dynamic.kid]
    assert [(p.begin, p.end) for p in life.phases if p.signs] == [(NOW, NOW + 4 * HOUR)]
    (made,) = [each for each in future.lives if each.kid == "next-static-1"]
    assert [p.begin for p in made.phases if p.signs] == [NOW + 4 * HOUR]
    assert future.next_activation
    assert future.next_activation.kid != "next-static-1"


def test_a_change_made_now_is_told_too_and_a_phase_of_no_length_is_none() -> None:
    ring = new_ring()
    active, standby = ring.active(), ring.standby
    assert active and standby
    future = foresee(
        Wish(revoke=active.kid).applied(ring, NOW + HOUR), ring.policy, NOW + HOUR, former=ring
    )
    assert [m.what for m in future.moments[:3]] == ["revoked", "activated", "published"]
    assert {m.at for m in future.moments[:3]} == {NOW + HOUR}
    assert next(each.kid for each in future.lives if each.is_foreseen) == "next-1"
    (life,) = [each for each in future.lives if each.kid == standby.kid]
    assert [(p.state.value, p.begin) for p in life.phases][:2] == [
        ("published", NOW),
        ("active", NOW + HOUR),
    ]
    turned, _ = settle(ring, DUE)
    back = rollback(turned, now=DUE, epoch=1)
    foreseen_back = foresee(back, ring.policy, DUE, former=turned)
    (life,) = [each for each in foreseen_back.lives if each.kid == active.kid]
    assert all(p.end is None or p.end > p.begin for p in life.phases)
    assert "returned" in {m.what for m in foreseen_back.moments}


def test_a_drain_is_a_phase_of_its_own_and_ends_in_a_revocation() -> None:
    ring, _ = settle(new_ring(), DUE)
    (former,) = ring.in_state(KeyState.RETIRED)
    wish = Wish(revoke=former.kid, drain=30 * MINUTE)
    future = foresee(wish.applied(ring, DUE), ring.policy, DUE, former=ring)
    assert told(future, "drained") == [(former.kid, DUE)]
    assert told(future, "revoked") == [(former.kid, DUE + 30 * MINUTE)]
    (life,) = [each for each in future.lives if each.kid == former.kid]
    drains = [(p.begin, p.end) for p in life.phases if p.is_draining]
    assert drains == [(DUE, DUE + 30 * MINUTE)]


def test_who_never_confirms_delays_what_is_foreseen_and_is_not_assumed() -> None:
    ring, _ = settle(new_ring(), DUE)
    ring = advance(ring, DUE, DUE + 30 * HOUR)
    now, due = DUE + 30 * HOUR, DUE + 168 * HOUR
    assert foresee(ring, ring.policy, now, until=due + HOUR).delays == ()
    late = foresee(ring, ring.policy, now, until=due + HOUR, confirmed=instances((1, 0)))
    assert late.next_activation
    assert late.next_activation.at == due + 10 * MINUTE
    (delay,) = late.delays
    assert "not every live instance" in delay.why


def test_a_ring_that_is_full_says_from_when_its_turns_wait_for_room() -> None:
    rules = policy(cryptoperiod=HOUR, max_staleness=26 * HOUR)
    ring = advance(new_ring(rules), NOW, NOW + 40 * HOUR)
    retired = ring.in_state(KeyState.RETIRED)
    kept = tuple(replace(key, remove_at=NOW + 90 * HOUR) for key in retired)
    more = tuple(replace(kept[0], kid=f"d-more{n}") for n in range(MAX_KEYS - len(ring.keys)))
    assert more
    others = tuple(key for key in ring.keys if key not in retired)
    full = replace(ring, keys=(*others, *kept, *more))
    future = foresee(full, rules, NOW + 40 * HOUR + MINUTE)
    assert [delay.why for delay in future.delays] == ["the ring is full until a key goes"]


def test_a_future_without_an_end_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "_MOST_STEPS", 5)
    assert foresee(new_ring(), policy(), NOW).is_cut


def test_a_key_to_come_never_has_a_name_that_was_there() -> None:
    wanted = KeyWanted(KeyKind.DYNAMIC, "RS256", 3072)
    assert placeholder(wanted, {"next-1"}).kid == "next-2"
    assert placeholder(KeyWanted(KeyKind.STATIC, "EdDSA"), ()).kid == "next-static-1"
    ring = new_ring()
    keys = tuple(replace(k, kid="next-1") if k is ring.standby else k for k in ring.keys)
    future = foresee(replace(ring, keys=keys), policy(), NOW)
    assert [each.kid for each in future.lives if each.is_foreseen][:2] == ["next-2", "next-3"]


# --- a change that is thought of -----------------------------------------------------------------


def planned(ring: Ring, rules: Policy, wish: Wish | None = None, now: datetime = NOW + HOUR) -> str:
    before, after = foreseen(ring, rules, wish or Wish(), now)
    assert after
    assert before.until == after.until
    return "\n".join(differences(before, after))


def test_without_a_change_there_is_one_future_alone() -> None:
    ring = new_ring()
    before, after = foreseen(ring, ring.policy, Wish(), NOW)
    assert after is None
    assert before == foresee(ring, ring.policy, NOW)


def test_a_shorter_interval_keeps_more_keys_and_leaves_the_time_of_who_signs() -> None:
    said = planned(new_ring(), policy(cryptoperiod=5 * HOUR))
    assert "access_token_dynamic_signing_key_update_interval 7d → 5h" in said
    assert "publication_interval 4h → 1h 15m" in said
    assert "keys kept, at the most: 4 → 5" in said
    assert "retired keys verify for 25h 2m → 6h 2m" in said
    assert "next activation stays 2026-01-08 00:00:00" in said
    assert "unless it is rotated" in said


def test_settings_are_told_as_one_writes_them() -> None:
    said = planned(new_ring(), policy(max_verify_staleness=48 * HOUR, rsa_key_size=3072))
    assert "max_verify_staleness off → 2d" in said
    assert "rsa_key_size 2048 → 3072" in said


def test_a_switch_of_the_kind_says_who_signs_and_that_both_verify() -> None:
    ring = new_ring()
    active, static = ring.active(), ring.active(KeyKind.STATIC)
    assert active and static
    said = planned(ring, policy(use_dynamic=False))
    assert "use_dynamic_access_token_signing_key true → false" in said
    assert f"signs at once: {active.kid} → {static.kid}" in said
    assert f"tokens of {active.kid} go on being good" in said


def test_another_algorithm_says_when_its_first_key_signs() -> None:
    said = planned(new_ring(), policy(algorithm="ES256"))
    assert "algorithm RS256 → ES256" in said
    assert "the first ES256 key signs at 2026-01-09 00:00:00 (next-1)" in said
    ring = new_ring()
    before = foresee(ring, ring.policy, NOW, until=NOW + HOUR)
    after = foresee(ring, policy(algorithm="ES256"), NOW, until=NOW + HOUR)
    assert "no ES256 key signs until 2026-01-01 01:00:00" in differences(before, after)


def test_who_signs_until_the_first_key_of_another_algorithm_is_said() -> None:
    ring = new_ring()
    active, standby = ring.active(), ring.standby
    assert active and standby
    assert signers_to_come(ring, NOW) == ""
    other = do(ring, Adopt(policy(algorithm="ES256")), NOW)
    known, new = (f"{kid} ({alg}) from 2026-01-{day}:00:00" for kid, alg, day in (
        (standby.kid, "RS256, 2048 bits", "02 00"), ("next-1", "ES256", "09 00")
    ))  # fmt: skip
    assert signers_to_come(other, NOW) == f"next to sign: {known}, then {new}"
    made, _ = settle(other, NOW)
    back = do(made, Adopt(policy()), NOW + HOUR)
    assert signers_to_come(back, NOW + HOUR) == "", "nothing has turned yet"
    turned, _ = settle(made, NOW + 24 * HOUR)
    assert turned.standby
    back = do(turned, Adopt(policy()), NOW + 25 * HOUR)
    unwanted = f"{turned.standby.kid} (ES256) from 2026-01-09 00:00:00"
    wanted = "next-1 (RS256, 2048 bits) from 2026-01-16 00:00:00"
    told = f"next to sign: {unwanted}, then {wanted}; ringkeeper rollback goes round the first"
    assert signers_to_come(back, NOW + 25 * HOUR) == told
    longer = do(ring, Adopt(policy(rsa_key_size=3072)), NOW)
    assert signers_to_come(longer, NOW).endswith(
        "then next-1 (RS256, 3072 bits) from 2026-01-09 00:00:00"
    )
    made, _ = settle(settle(longer, NOW)[0], NOW + 24 * HOUR)
    back = do(made, Adopt(policy()), NOW + 25 * HOUR)
    assert signers_to_come(back, NOW + 25 * HOUR).endswith("rollback goes round the first")
    static = do(ring, Adopt(policy(algorithm="ES256", use_dynamic=False)), NOW)
    assert signers_to_come(static, NOW).endswith("; the static key goes on signing")
    (one,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)
    fill = (
        replace(one, kid=f"f-{n}", kind=KeyKind.FOREIGN, state=KeyState.PUBLISHED)
        for n in range(MAX_KEYS - 3)
    )
    full = replace(other, keys=(*other.keys, *fill))
    assert signers_to_come(full, NOW) == "next to sign: nobody, as long as the ring is full"
    bare = replace(other, keys=tuple(k for k in other.keys if k.state is not KeyState.ACTIVE))
    assert signers_to_come(bare, NOW) == "", "the leader sees to it at once"


def test_a_revocation_says_whose_tokens_are_refused_and_how_many() -> None:
    ring = new_ring()
    active, standby = ring.active(), ring.standby
    assert active and standby
    said = planned(ring, ring.policy, Wish(revoke=active.kid))
    assert f"{active.kid}: its tokens are refused at once" in said
    assert f"signs at once: {active.kid} → {standby.kid}" in said
    assert f"next activation 2026-01-08 00:00:00 ({standby.kid}) → at once ({standby.kid})" in said
    assert f"{active.kid} goes 2026-01-09 01:02:00 → 2026-01-02 02:02:00" in said
    before, after = foreseen(ring, ring.policy, Wish(revoke=active.kid), NOW)
    assert after
    counted = differences(before, after, {active.kid: 12_345})
    assert any("its 12,345 unexpired tokens are refused" in line for line in counted)
    counted = differences(before, after, {active.kid: 0})
    assert f"{active.kid}: none of its tokens is unexpired, as far as apps count them" in counted


def test_a_drain_says_how_long_it_takes_and_is_told_once() -> None:
    ring, _ = settle(new_ring(), DUE)
    (former,) = ring.in_state(KeyState.RETIRED)
    drained = Wish(revoke=former.kid, drain=30 * MINUTE).applied(ring, DUE)
    said = planned(ring, ring.policy, Wish(revoke=former.kid, drain=30 * MINUTE), DUE)
    assert "refused little by little, all of them in 30m" in said
    said = planned(drained, ring.policy, Wish(revoke=former.kid), DUE)
    assert f"{former.kid}: its tokens are refused at once" in said
    early = advance(drained, DUE, DUE + 30 * MINUTE)
    assert "little by little" not in planned(early, ring.policy, Wish(rotate=True), DUE + HOUR)


def test_a_drain_that_is_called_off_is_a_phase_that_ends_and_its_tokens_count_again() -> None:
    ring, _ = settle(new_ring(), DUE)
    (former,) = ring.in_state(KeyState.RETIRED)
    drained = Wish(revoke=former.kid, drain=30 * MINUTE).applied(ring, DUE)
    wish = Wish(call_off_drain=former.kid)
    said = planned(drained, ring.policy, wish, DUE + MINUTE)
    assert f"{former.kid}: all of its unexpired tokens count again" in said
    assert "refused" not in said
    off = wish.applied(drained, DUE + MINUTE)
    future = foresee(off, ring.policy, DUE + MINUTE, former=drained)
    assert told(future, "spared") == [(former.kid, DUE + MINUTE)]
    assert told(future, "revoked") == []
    (life,) = [each for each in future.lives if each.kid == former.kid]
    assert life.phases[-1].is_draining is False


def test_a_rotation_and_a_rollback_say_which_key_signs_when() -> None:
    ring = advance(new_ring(), NOW, DUE + HOUR)
    said = planned(ring, ring.policy, Wish(rotate=True), DUE + HOUR)
    assert "→ 2026-01-08 04:00:00" in said
    former = ring.former
    assert former
    said = planned(ring, ring.policy, Wish(rollback=True), DUE + HOUR)
    assert f"→ at once ({former.kid})" in said
    asked = rotate(ring, now=DUE + HOUR, epoch=1)
    said = planned(asked, ring.policy, Wish(call_off=True), DUE + HOUR)
    assert "next activation 2026-01-08 04:00:00" in said
    assert "→ 2026-01-15 00:00:00" in said


def test_a_change_that_a_leader_would_refuse_is_refused() -> None:
    ring = new_ring()
    for wish in (Wish(revoke="d-nobody"), Wish(rollback=True), Wish(call_off=True)):
        with pytest.raises(RequestRefused):
            foreseen(ring, ring.policy, wish, NOW)


def test_what_cannot_be_seen_yet_is_said_so_and_many_keys_are_counted() -> None:
    ring = new_ring()
    hidden = foresee(ring, policy(), NOW, until=NOW + HOUR)
    assert differences(hidden, hidden) == ("nothing that can be seen until then",)
    rules = policy(cryptoperiod=HOUR, max_staleness=26 * HOUR)
    many = advance(new_ring(rules), NOW, NOW + 40 * HOUR)
    now = NOW + 40 * HOUR + MINUTE
    before = foresee(many, rules, now)
    assert differences(before, replace(before, moments=()))[-1].startswith("and ")


def test_a_future_of_too_many_keys_is_shown_for_a_shorter_time() -> None:
    """Else nobody could read either of them."""
    ring = new_ring(policy(algorithm="ES256"))
    fast = policy(cryptoperiod=HOUR, algorithm="ES256")
    before, after = foreseen(ring, fast, Wish(), NOW)
    assert after
    assert before.until == after.until == foresee(ring, fast, NOW).until
    assert before.until < foresee(ring, ring.policy, NOW).until


def test_nobody_who_signs_is_told_as_nothing() -> None:
    ring = new_ring()
    silent = replace(
        ring,
        keys=tuple(k for k in ring.keys if k.state is KeyState.PUBLISHED),
    )
    before, after = (foresee(each, ring.policy, NOW) for each in (ring, silent))
    active = ring.active()
    assert active
    assert f"signs at once: {active.kid} → nothing" in differences(before, after)
    assert f"signs at once: nothing → {active.kid}" in differences(after, before)
    none = foresee(ring, ring.policy, NOW, until=NOW + HOUR)
    assert any("next activation later →" in line for line in differences(none, before))


def test_who_does_not_know_an_algorithm_is_told_from_who_does_not_tell() -> None:
    def app(name: str, *algorithms: str) -> Instance:
        return Instance(name, "sign", 1, 1, NOW, algorithms=algorithms)

    known = knowledge_of(
        (app("c"), app("b", "RS256"), app("a", "RS256"), app("d", "RS256", "ES256")), "ES256"
    )
    assert (known.lacking, known.untold) == (("a", "b"), ("c",))


def test_a_plan_shows_what_is_and_beside_it_what_would_be() -> None:
    ring = new_ring()
    before, after = (foresee(ring, ring.policy, NOW, until=NOW + n * HOUR) for n in (1, 2))
    assert Plan(ring, before, None).futures == (("", before),)
    thought = Plan(ring, before, after, title="--interval 24")
    assert thought.futures == (("as it is", before), ("--interval 24", after))


def test_confirmations_that_nobody_gave_are_those_of_nobody() -> None:
    ring = new_ring()
    given_ = Confirmations((), trusted_from=NOW)
    assert foresee(ring, policy(), NOW) == foresee(ring, policy(), NOW, confirmed=given_)
    assert timedelta(0) == foresee(ring, policy(), DUE).moments[0].at - DUE
