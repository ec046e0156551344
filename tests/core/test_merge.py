"""Two histories become one: nothing that keeps a token valid or refused is lost."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from ringkeeper.policy import CAPACITY
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.testimony import History
from ringkeeperd.merge import heal as find_cure
from ringkeeperd.merge import lacks
from ringkeeperd.merge import merge as merge_histories
from ringkeeperd.operations import (
    call_off_drain,
    revocation_wants,
    revoke,
    rollback,
    rotate,
)
from ringkeeperd.rotation import WaitUntil, next_step
from tests.core.builders import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    do,
    fresh,
    new_ring,
    nobody,
    policy,
    settle,
)

DUE = NOW + 168 * HOUR
LATER = DUE + HOUR


def merge(
    one: Ring, other: Ring, *, now: datetime, epoch: int, proved: tuple[datetime, ...] = ()
) -> Ring:
    """Both sides alive until now, unless `proved` says when a leader last vouched for each."""
    at, other_at = proved or (now, now)
    return merge_histories(History(one, at), History(other, other_at), now=now, epoch=epoch)


def heal(found: History | None, known: list[History], *, now: datetime, epoch: int) -> Ring | None:
    cure = find_cure(found, known, now=now, epoch=epoch)
    return cure.ring if cure else None


def states(ring: Ring) -> dict[str, KeyState]:
    return {key.kid: key.state for key in ring.keys}


def turned(ring: Ring, epoch: int) -> Ring:
    return settle(ring, DUE, epoch=epoch)[0]


def revoked(ring: Ring, kid: str, epoch: int) -> Ring:
    wanted = revocation_wants(ring, kid, LATER)
    key = fresh(wanted) if wanted else None
    return revoke(ring, kid, reason="leaked", now=LATER, epoch=epoch, fresh=key)


def test_the_version_is_above_both_and_the_order_does_not_matter() -> None:
    base = new_ring()
    one, other = turned(base, 2), turned(turned(base, 3), 3)
    ahead = merge(one, other, now=LATER, epoch=4)
    back = merge(other, one, now=LATER, epoch=4)
    assert ahead.version == max(one.version, other.version) + 1
    assert states(ahead) == states(back)
    assert ahead.epoch == 4


def test_merging_a_ring_with_its_own_past_changes_no_state() -> None:
    base = new_ring()
    ring = turned(base, 2)
    assert states(merge(ring, base, now=LATER, epoch=3)) == states(ring)
    assert states(merge(ring, ring, now=LATER, epoch=3)) == states(ring)


def test_a_standby_that_one_side_alone_has_shown_starts_its_publication_anew() -> None:
    base = new_ring()
    ring = turned(base, 2)
    merged = merge(ring, base, now=LATER, epoch=3)
    standby = merged.standby
    assert standby and standby.ready_at == LATER + 4 * HOUR
    assert (standby.published_epoch, standby.published_version) == (3, merged.version)
    again = merge(ring, ring, now=LATER, epoch=3).standby
    assert again and ring.standby and again.ready_at == ring.standby.ready_at


def test_a_wait_that_was_cut_is_whole_again_where_a_standby_is_shown_anew() -> None:
    base = new_ring()
    hastened = rotate(turned(base, 2), now=DUE, epoch=2, hasten=True)
    assert hastened.standby and hastened.standby.unhastened_at
    merged = merge(hastened, base, now=LATER, epoch=4)
    assert merged.standby and merged.standby.kid == hastened.standby.kid
    assert merged.standby.ready_at == LATER + 4 * HOUR
    assert merged.standby.unhastened_at is None


def test_keys_that_only_the_lower_side_made_are_kept_as_retired() -> None:
    """Two primaries each published a standby: tokens of either may come."""
    base = new_ring()
    winner, loser = turned(base, 3), turned(base, 2)
    merged = merge(winner, loser, now=LATER, epoch=4)
    lost = loser.standby
    assert lost
    kept = merged.key(lost.kid)
    assert kept and kept.state is KeyState.RETIRED
    assert kept.remove_at == LATER + kept.retain_for
    assert kept.may_verify


def test_a_tombstone_survives_whichever_side_has_it() -> None:
    base = new_ring()
    active = base.active()
    assert active
    ahead = turned(turned(base, 2), 2)
    ahead = replace(ahead, version=ahead.version + 5)
    merged = merge(ahead, revoked(base, active.kid, 3), now=LATER, epoch=4)
    tombstone = merged.key(active.kid)
    assert tombstone and tombstone.state is KeyState.REVOKED
    assert tombstone.reason == "leaked"
    merged = merge(revoked(base, active.kid, 3), ahead, now=LATER, epoch=4)
    tombstone = merged.key(active.kid)
    assert tombstone and tombstone.state is KeyState.REVOKED


def test_a_tombstone_of_the_signer_leaves_the_standby_to_sign() -> None:
    base = new_ring()
    active = base.active()
    assert active
    ahead = replace(base, version=9)
    merged = merge(ahead, revoked(base, active.kid, 3), now=LATER, epoch=4)
    assert merged.active() is None
    merged, _ = settle(merged, LATER, epoch=4)
    assert merged.active()


def test_a_tombstone_that_only_the_lower_side_knows_is_kept_as_it_is() -> None:
    base = new_ring()
    lower = turned(base, 2)
    standby = lower.standby
    assert standby
    lower = revoked(lower, standby.kid, 2)
    merged = merge(replace(base, version=50), lower, now=LATER, epoch=4)
    tombstone = merged.key(standby.kid)
    assert tombstone and tombstone.state is KeyState.REVOKED


def test_a_key_retired_on_one_side_lives_as_long_as_it_signed_on_the_other() -> None:
    base = new_ring()
    former = base.active()
    assert former
    winner = turned(base, 3)
    merged = merge(winner, base, now=LATER, epoch=4)
    kept = merged.key(former.kid)
    assert kept and kept.remove_at == LATER + kept.retain_for
    later_turn, _ = settle(base, DUE + HOUR, epoch=2)
    merged = merge(winner, later_turn, now=LATER + HOUR, epoch=4)
    kept = merged.key(former.kid)
    assert kept and kept.remove_at == DUE + HOUR + kept.retain_for


@pytest.mark.parametrize(
    ("name", "greatest", "promised"),
    [
        ("access_token_validity", 9 * HOUR, "token_validity"),
        ("max_staleness", 30 * HOUR, "max_staleness"),
        ("clock_skew", 4 * MINUTE, "clock_skew"),
    ],
)
def test_the_greatest_promise_made_on_either_side_is_kept(
    name: str, greatest: timedelta, promised: str
) -> None:
    base = new_ring()
    longer, _ = settle(base, NOW + HOUR, rules=policy(**{name: greatest}), epoch=2)
    for version in (1, 8):  # of the other side: it loses, it wins
        merged = merge(replace(base, version=version), longer, now=LATER, epoch=3)
        assert getattr(merged.active(), promised) == greatest


def test_what_the_higher_side_removed_in_its_time_does_not_come_back() -> None:
    base = new_ring()
    former = base.active()
    assert former
    lower = turned(base, 2)
    gone = DUE + 26 * HOUR
    higher, _ = settle(lower, gone, epoch=2)
    assert higher.key(former.kid) is None
    assert merge(higher, lower, now=gone, epoch=3).key(former.kid) is None


SOON = DUE + MINUTE
HALF = HOUR / 2


def drained(ring: Ring, kid: str, now: datetime, *, by: timedelta = HALF) -> Ring:
    return revoke(ring, kid, reason="odd", now=now, epoch=ring.epoch, drain=by, confirmed=nobody())


def has_drain(ring: Ring, kid: str, until: datetime) -> bool:
    key = ring.key(kid)
    assert key and key.state is KeyState.RETIRED and key.retired_at and key.remove_at
    return (key.drained_until, key.reason) == (until, "odd")


@pytest.mark.parametrize("is_higher", [True, False])
def test_a_drain_survives_whichever_side_has_it(is_higher: bool) -> None:
    """The other side retired the key, too, and knows nothing of a drain."""
    base = new_ring()
    former = base.active()
    assert former
    plain = turned(base, 2)
    other = drained(plain, former.kid, SOON)
    plain = replace(plain, version=other.version + (-1 if is_higher else 5))
    merged = merge(plain, other, now=LATER, epoch=4)
    assert has_drain(merged, former.kid, SOON + HALF)
    cure = heal(History(plain, LATER), [History(other, LATER)], now=LATER, epoch=4)
    assert cure and has_drain(cure, former.kid, SOON + HALF)
    sides = [History(side, LATER) for side in (plain, other)]
    assert heal(History(cure, LATER), sides, now=LATER, epoch=5) is None


def test_a_key_that_is_drained_on_one_side_signs_on_neither_any_more() -> None:
    """Its last token may be as young as the last moment at which the higher side had it sign."""
    base, now = new_ring(), NOW + 5 * HOUR
    signer = base.active()
    assert signer
    other = drained(base, signer.kid, now)
    ahead = replace(base, version=50)
    assert lacks(ahead, History(other, now), LATER)
    merged = merge(ahead, other, now=LATER, epoch=4, proved=(LATER, now))
    assert has_drain(merged, signer.kid, now + HALF)
    kept = merged.key(signer.kid)
    assert kept and (kept.retired_at, kept.remove_at) == (LATER, LATER + kept.retain_for)
    assert merged.active() is None
    merged, _ = settle(merged, LATER, epoch=4)
    assert merged.active()
    gone = merged.key(signer.kid)
    assert gone and gone.state is KeyState.REVOKED


def test_a_key_that_is_drained_on_one_side_does_not_come_back_to_sign_on_the_other() -> None:
    base = turned(new_ring(), 2)
    former = base.former
    assert former
    back = rollback(base, now=LATER, epoch=2)
    other = drained(base, former.kid, SOON)
    merged = merge(replace(back, version=50), other, now=LATER, epoch=4)
    assert has_drain(merged, former.kid, SOON + HALF)


def test_of_two_drains_the_one_that_ends_first_counts() -> None:
    base = turned(new_ring(), 2)
    former = base.former
    assert former
    long = replace(drained(base, former.kid, SOON), version=50)
    short = drained(base, former.kid, SOON + MINUTE, by=HALF / 2)
    now = LATER + 2 * MINUTE
    assert lacks(long, History(short, now), now)
    assert not lacks(replace(short, version=50), History(replace(long, version=9), now), now)
    for one, other in ((long, short), (short, long)):
        merged = merge(one, other, now=now, epoch=4)
        assert has_drain(merged, former.kid, SOON + MINUTE + HALF / 2)


@pytest.mark.parametrize("is_higher", [True, False])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("off_at", [SOON, SOON + SECOND], ids=["at once", "later"])
def test_a_drain_that_was_called_off_comes_back_by_no_merge(
    is_higher: bool, again: bool, off_at: datetime
) -> None:
    """Whichever side counts; and one that began after that does."""
    base = turned(new_ring(), 2)
    former = base.former
    assert former
    held = drained(base, former.kid, SOON)
    told = call_off_drain(held, former.kid, now=off_at, epoch=2)
    if again:
        told = drained(told, former.kid, SOON + MINUTE)
    held = replace(held, version=told.version + (-1 if is_higher else 5))
    now = LATER + 2 * MINUTE
    expected = (SOON + MINUTE + HALF, "odd") if again else (None, "")
    for one, other in ((held, told), (told, held)):
        merged = heal(History(one, now), [History(other, now)], now=now, epoch=4) or one
        for ring in (merge(one, other, now=now, epoch=4), merged):
            key = ring.key(former.kid)
            assert key and key.state is KeyState.RETIRED
            assert (key.drained_until, key.reason) == expected
            assert key.undrained_at == off_at
        sides = [History(side, now) for side in (held, told)]
        assert heal(History(merged, now), sides, now=now, epoch=5) is None
    assert lacks(replace(held, version=99), History(told, now), now)
    assert not lacks(replace(told, version=99), History(held, now), now)


def test_of_two_times_at_which_drains_were_called_off_the_later_one_counts() -> None:
    base = turned(new_ring(), 2)
    former = base.former
    assert former
    first = call_off_drain(drained(base, former.kid, SOON), former.kid, now=SOON, epoch=2)
    held = drained(first, former.kid, SOON + MINUTE)
    second = call_off_drain(held, former.kid, now=SOON + 2 * MINUTE, epoch=2)
    for one, other in ((first, second), (second, replace(first, version=99))):
        key = merge(one, other, now=LATER, epoch=4).key(former.kid)
        assert key and key.undrained_at == SOON + 2 * MINUTE
    # Also where nobody drains it now: who still does may be heard of later.
    assert lacks(replace(base, version=99), History(first, LATER), LATER)
    assert lacks(replace(first, version=99), History(second, LATER), LATER)


def test_a_drain_that_was_called_off_retires_nobody_whoever_is_heard_first() -> None:
    base, now = new_ring(), NOW + 5 * HOUR
    signer = base.active()
    assert signer
    held = drained(base, signer.kid, now)
    off = call_off_drain(held, signer.kid, now=now, epoch=1)
    ahead = History(replace(base, version=50), now)
    cure = heal(
        ahead, [History(replace(held, version=40), now), History(off, now)], now=now, epoch=4
    )
    assert cure
    still = cure.active()
    assert still and still.kid == signer.kid


def test_a_drain_that_was_called_off_where_the_key_signs_again_does_not_stop_it() -> None:
    start = new_ring()
    base = turned(start, 2)
    former = base.former
    assert former
    held = drained(base, former.kid, SOON)
    off = call_off_drain(held, former.kid, now=SOON + SECOND, epoch=2)
    back, _ = settle(rollback(off, now=SOON + SECOND, epoch=2), SOON + SECOND, epoch=2)
    signer = back.active()
    assert signer and signer.kid == former.kid
    # It never retired, as another leadership has it, which never heard of a drain.
    for one, other in ((replace(back, version=50), held), (replace(start, version=50), off)):
        merged = merge(one, other, now=LATER, epoch=4)
        kept = merged.key(former.kid)
        assert kept and kept.undrained_at == SOON + SECOND
        assert not lacks(merged, History(held, LATER), LATER)


@pytest.mark.parametrize("is_higher", [True, False])
def test_what_is_revoked_stays_revoked_where_another_side_drains_it(is_higher: bool) -> None:
    base = turned(new_ring(), 2)
    former = base.former
    assert former
    tombstone = replace(revoked(base, former.kid, 2), version=50 if is_higher else 5)
    other = replace(drained(base, former.kid, SOON), version=9)
    merged = merge(tombstone, other, now=LATER, epoch=4)
    kept = merged.key(former.kid)
    assert kept and (kept.state, kept.reason) == (KeyState.REVOKED, "leaked")
    assert lacks(tombstone, History(other, LATER), LATER) is not is_higher
    assert lacks(other, History(replace(tombstone, version=8), LATER), LATER)


def test_a_drain_that_had_its_time_counts_for_a_fork_that_went_on_signing() -> None:
    """As a tombstone does: what the highest side removed long ago, a third one brings back."""
    base = turned(new_ring(), 2)
    former = base.former
    assert former and former.remove_at
    other, gone = drained(base, former.kid, SOON), former.remove_at + HOUR
    others = tuple(key for key in other.keys if key is not other.key(former.kid))
    signed_on = replace(former, retired_at=gone, remove_at=gone + former.retain_for)
    fork = tuple(signed_on if key is former else key for key in base.keys)
    found = History(replace(other, version=99, keys=others), gone)
    sides = [History(other, SOON), History(replace(base, keys=fork), gone)]
    healed = heal(found, sides, now=gone, epoch=4)
    assert healed and has_drain(healed, former.kid, SOON + HALF)
    assert heal(History(healed, gone), sides, now=gone, epoch=5) is None


def test_too_many_keys_keep_what_signs_and_what_lives_longest() -> None:
    ring = new_ring()
    (static,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)
    sides = [
        replace(
            ring,
            version=version,
            keys=ring.keys
            + tuple(
                replace(
                    static,
                    kid=f"s-{version}-{n}",
                    state=KeyState.RETIRED,
                    retired_at=NOW,
                    remove_at=LATER + (n + 1) * HOUR,
                )
                for n in range(CAPACITY - 3)
            ),
        )
        for version in (5, 6)
    ]
    merged = merge(*sides, now=LATER, epoch=3)
    assert len(merged.keys) == CAPACITY
    assert merged.active() and merged.standby and merged.active(KeyKind.STATIC)
    assert "s-5-0" not in states(merged)


def test_rings_of_different_identity_are_never_merged() -> None:
    ring = new_ring()
    with pytest.raises(AssertionError, match="never merged"):
        merge(ring, replace(ring, id="r2"), now=NOW, epoch=2)


def test_an_old_edition_put_back_revives_no_key() -> None:
    """An attacker replays what the root signed before a revocation, for ever."""
    old = new_ring()
    leaked = old.active()
    assert leaked
    ring = revoke(old, leaked.kid, reason="leaked", now=NOW + HOUR, epoch=1)
    later = NOW + 48 * HOUR
    ring, _ = settle(ring, later)
    assert ring.key(leaked.kid) is None
    replayed = merge(ring, old, now=later, epoch=2, proved=(later, NOW + HOUR))
    assert replayed.key(leaked.kid) is None


def test_a_replayed_edition_keeps_no_retired_key_longer_and_holds_no_rotation_up() -> None:
    old = new_ring()
    former = old.active()
    assert former
    ring, _ = settle(old, DUE)
    once = merge(ring, old, now=LATER, epoch=2, proved=(LATER, DUE))
    again = merge(once, old, now=LATER + 20 * HOUR, epoch=3, proved=(LATER + 20 * HOUR, DUE))
    kept = again.key(former.kid)
    assert kept and kept.remove_at == DUE + former.retain_for
    before_the_turn = DUE - HOUR
    once = merge(ring, old, now=LATER, epoch=2, proved=(LATER, before_the_turn))
    assert once.standby and ring.standby and once.standby.ready_at == ring.standby.ready_at


def test_a_tombstone_outlives_the_tokens_that_the_other_side_went_on_signing() -> None:
    base = new_ring()
    active = base.active()
    assert active
    buried = revoke(base, active.kid, reason="leaked", now=NOW + HOUR, epoch=2)
    merged = merge(replace(base, version=9), buried, now=LATER, epoch=4, proved=(LATER, NOW + HOUR))
    tombstone = merged.key(active.kid)
    assert tombstone and tombstone.remove_at == LATER + active.retain_for


@pytest.mark.parametrize("is_ahead", [True, False])
def test_a_proof_from_the_future_keeps_no_key_beyond_what_now_can_need(is_ahead: bool) -> None:
    """A leader whose clock was days ahead vouched for that side."""
    base, ahead_of_time = new_ring(), LATER + 90 * 24 * HOUR
    signer, other = base.active(), turned(base, 3)
    assert signer and other.standby
    sides = (replace(base, version=9 if is_ahead else 1), revoked(other, signer.kid, 3))
    for proved in ((ahead_of_time, LATER), (LATER, ahead_of_time)):
        merged = merge(*sides, now=LATER, epoch=4, proved=proved)
        tombstone = merged.key(signer.kid)
        assert tombstone and tombstone.remove_at == LATER + signer.retain_for
        theirs = merged.key(other.standby.kid)
        assert theirs
        assert theirs.remove_at == (LATER + theirs.retain_for if is_ahead else None)
        both = [History(*side) for side in zip(sides, proved, strict=True)]
        assert heal(History(merged, LATER), both, now=LATER, epoch=5) is None


def test_caches_that_either_side_knows_of_are_waited_for() -> None:
    base = new_ring()
    for until, other in ((DUE, None), (None, DUE), (DUE, LATER), (LATER, DUE)):
        winner = replace(base, version=9, caches_until=until)
        loser = replace(base, caches_until=other)
        known = max(each for each in (until, other) if each)
        assert merge(winner, loser, now=LATER, epoch=4).caches_until == known
    assert merge(base, base, now=LATER, epoch=4).caches_until is None


def test_a_tie_is_broken_alike_whoever_merges() -> None:
    base = new_ring()
    turned_by_hand = replace(rotate(base, now=NOW, epoch=1), version=1)
    assert merge(base, turned_by_hand, now=LATER, epoch=2) == merge(
        turned_by_hand, base, now=LATER, epoch=2
    )


def test_a_side_with_more_keys_than_there_is_room_for_is_healed_once_and_no_more() -> None:
    """What was dropped for want of room is no loss to be mended again with every proof."""
    ring = new_ring()
    (static,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)

    def crowded(version: int) -> History:
        fill = (
            replace(
                static,
                kid=f"s-{version}-{n}",
                state=KeyState.RETIRED,
                retired_at=NOW,
                remove_at=LATER + (n + 1) * HOUR,
            )
            for n in range(CAPACITY - 3)
        )
        return History(replace(ring, version=version, keys=ring.keys + tuple(fill)), LATER)

    sides = [crowded(5), crowded(6), crowded(6)._replace(proved_at=LATER - HOUR)]
    healed = heal(sides[1], sides, now=LATER, epoch=3)
    assert healed and healed.version == 7
    assert len(healed.keys) == CAPACITY
    at = LATER
    for _ in range(20):
        at += HOUR / 4
        assert heal(History(healed, at), sides, now=at, epoch=4) is None


# --- healing: what Redis holds, beside all else that is known ------------------------------------


def test_a_ring_lacks_nothing_of_its_own_past() -> None:
    """Or else every restart of a daemon, and every replayed edition, would make a new version."""
    ring, now = new_ring(policy(cryptoperiod=5 * HOUR)), NOW
    past: list[History] = []
    while len(past) < 40:
        step = next_step(ring, ring.policy, nobody(), now)
        past.append(History(ring, now))
        if isinstance(step, WaitUntil):
            now = step.when
        else:
            ring = do(ring, step, now)
        if len(past) == 20 and ring.standby:
            ring = revoke(ring, ring.standby.kid, reason="leaked", now=now, epoch=1)
        for side in past:
            assert not lacks(ring, side, now)
        assert heal(History(ring, now), past, now=now, epoch=2) is None
    assert {key.state for side in past for key in side.ring.keys} == set(KeyState)
    assert len(ring.keys) < len(set().union(*(states(side.ring) for side in past)))


def test_an_empty_redis_is_given_the_newest_that_is_known() -> None:
    base = new_ring()
    ring = turned(base, 2)
    healed = heal(None, [History(base, DUE), History(ring, LATER)], now=LATER, epoch=5)
    assert healed
    assert (healed.version, healed.epoch) == (ring.version + 1, 5)
    assert states(healed) == states(ring)
    assert heal(None, [], now=LATER, epoch=5) is None


def test_a_redis_that_went_back_is_put_right() -> None:
    base = new_ring()
    ring = turned(base, 2)
    healed = heal(History(base, LATER), [History(ring, LATER)], now=LATER, epoch=5)
    assert healed
    assert healed.version == ring.version + 1
    assert states(healed) == states(ring)


def test_a_fork_at_one_version_is_joined_above_it() -> None:
    base = new_ring()
    one, other = turned(base, 2), turned(base, 3)
    assert one.version == other.version
    healed = heal(History(other, LATER), [History(one, LATER)], now=LATER, epoch=5)
    assert healed
    assert healed.version == one.version + 1
    assert states(one).keys() | states(other).keys() == states(healed).keys()


def test_a_key_or_a_tombstone_that_a_higher_version_lacks_is_put_back() -> None:
    """Two primaries: the other side went on from before, and is ahead by now."""
    base = new_ring()
    active, standby = base.active(), base.standby
    assert active and standby
    ahead = replace(turned(turned(base, 3), 3), version=9)
    mine = turned(base, 2)
    assert mine.standby
    healed = heal(History(ahead, LATER), [History(mine, LATER)], now=LATER, epoch=5)
    assert healed and healed.version == 10
    assert states(healed)[mine.standby.kid] is KeyState.RETIRED
    for buried in (revoked(base, active.kid, 2), revoked(turned(base, 2), active.kid, 2)):
        healed = heal(History(ahead, LATER), [History(buried, LATER)], now=LATER, epoch=5)
        assert healed and states(healed)[active.kid] is KeyState.REVOKED
    # It signed on here for another day than the other side thought.
    on_and_on = History(base, LATER + 24 * HOUR)
    healed = heal(History(ahead, LATER), [on_and_on], now=LATER + 24 * HOUR, epoch=5)
    former = healed and healed.key(active.kid)
    assert former and former.remove_at == LATER + 24 * HOUR + former.retain_for


def test_many_sides_are_joined_into_one_version() -> None:
    base = new_ring()
    sides = [History(turned(base, epoch), LATER) for epoch in (2, 3, 4)]
    healed = heal(History(base, LATER), sides, now=LATER, epoch=5)
    assert healed and healed.version == sides[0].ring.version + 1
    assert healed.standby and healed.standby.published_version == healed.version
    known = set().union(*(states(side.ring).keys() for side in sides))
    assert states(healed).keys() == known


def test_a_cure_says_what_was_found_and_what_it_is_made_of() -> None:
    base = new_ring()
    ring = turned(base, 2)
    fork, buried = turned(base, 3), revoked(base, base.keys[0].kid, 2)
    for found, side, finding in (
        (None, ring, "redis held no ring"),
        (base, ring, "redis went back from version 2 to 1"),
        (fork, ring, "there were two different versions 2"),
        (replace(ring, version=9), buried, "redis lacked keys or revocations that are known"),
    ):
        at = History(found, LATER) if found else None
        cure = find_cure(at, [History(side, LATER)], now=LATER, epoch=5)
        assert cure and cure.finding == finding
        assert cure.newest.version == cure.ring.version - 1


def test_a_key_that_was_ever_revoked_never_verifies_again_however_long_a_fork_signed_with_it() -> (
    None
):
    """The tombstone had its time on one side; on the other the key went on signing past it."""
    base = turned(new_ring(), 2)
    signer = base.active()
    assert signer
    buried = revoked(base, signer.kid, 2)
    tombstone = buried.key(signer.kid)
    assert tombstone and tombstone.remove_at
    gone = tombstone.remove_at + HOUR
    forgot, _ = settle(buried, gone, epoch=2)
    assert forgot.key(signer.kid) is None
    sides = [History(buried, LATER), History(replace(base, epoch=3), gone)]
    healed = heal(History(forgot, gone), sides, now=gone, epoch=4)
    assert healed
    found = healed.key(signer.kid)
    assert found and found.state is KeyState.REVOKED
    assert found.reason == "leaked"
    assert heal(History(healed, gone), sides, now=gone, epoch=5) is None
