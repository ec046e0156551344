"""What an operator is shown of a ring: the truth, in words, whatever stands in Redis."""

import io
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeperd.operations import rollback, rotate
from ringkeeperd.operator import Seen, delay, outlook
from ringkeeperd.rotation import Instance
from ringkeeperd.spike_events import begin_of, bucket_at
from ringkeeperd.spikes import Cause, Spike
from ringkeeperd.status import as_json, render, show
from ringkeeperd.words import harmless
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, new_ring, policy, settle
from tests.core.views import revoke_key

LEADER = "host-1"


def at(version: int, name: str, epoch: int = 1) -> Instance:
    return Instance(name, "sign", epoch, version, NOW)


def seen(ring: Ring, *instances: Instance, leader: str = LEADER) -> Seen:
    return Seen(ring, None, leader, instances)


def lines_of(shown: Seen, after: timedelta = timedelta(0)) -> list[str]:
    console = Console(file=io.StringIO(), width=500)
    console.print(render(shown, NOW + after))
    file: Any = console.file
    return [line.rstrip() for line in file.getvalue().splitlines()]


def line(shown: Seen, word: str, after: timedelta = timedelta(0)) -> str:
    (found,) = [each for each in lines_of(shown, after) if word in each]
    return found


def test_who_is_behind_and_who_is_waited_for_is_said_in_words() -> None:
    ring = replace(new_ring(), version=3)
    shown = seen(ring, at(3, "app-1"), at(2, "app-2"), at(0, "app-3"))
    assert "behind" not in line(shown, "app-1")
    assert line(shown, "app-2").endswith("behind")
    assert line(shown, "awaits") == "awaits  app-3, to confirm the standby"
    assert as_json(shown, NOW)["awaiting"] == ["app-3"]


@pytest.mark.parametrize(
    ("use_dynamic", "told"), [(True, "signs only for apps that choose so"), (False, "signs in 4h")]
)
def test_a_static_key_that_is_new_signs_only_where_static_ones_do(
    use_dynamic: bool, told: str
) -> None:
    ring = new_ring(policy(use_dynamic=use_dynamic))
    (static,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)
    ring = revoke_key(ring, static.kid, NOW)
    (fresh,) = ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    assert line(seen(ring), fresh.kid).endswith(told)


def test_where_a_dynamic_key_stands_in_for_a_static_one_it_signs_and_so_will_the_next() -> None:
    ring = new_ring(policy(use_dynamic=False))
    (static,) = ring.in_state(KeyState.ACTIVE, KeyKind.STATIC)
    ring = revoke_key(ring, static.kid, NOW)
    active, standby = ring.active(), ring.standby
    assert active and standby and ring.signer == active
    assert (
        line(seen(ring), "signs   ") == f"signs   {active.kid}  (stands in, until a static key can)"
    )
    rows = [each for each in lines_of(seen(ring)) if each.startswith(("d-", "next  "))]
    assert len(rows) == 3
    assert not any("only for apps" in row for row in rows)
    assert any(re.search("signs in ", row) for row in rows if row.startswith(standby.kid))


def test_in_static_mode_the_standby_is_shown_with_its_turn_and_when_it_is_ready() -> None:
    ring = new_ring(policy(use_dynamic=False))
    signer = ring.signer
    assert ring.standby and signer
    ring = replace(
        ring,
        keys=tuple(
            replace(key, ready_at=NOW + HOUR) if key == ring.standby else key for key in ring.keys
        ),
    )
    assert ring.standby
    told = line(seen(ring), ring.standby.kid)
    assert re.search(r"active in .*, ready in 1h; signs only for apps that choose so$", told), told
    assert line(seen(ring), "signs   ") == f"signs   {signer.kid}  (static mode)"


def test_a_key_that_stands_by_is_not_shown_as_if_it_signed() -> None:
    for use_dynamic in (True, False):
        ring = new_ring(policy(use_dynamic=use_dynamic))
        assert ring.signer
        (idle,) = {k.kid for k in ring.in_state(KeyState.ACTIVE)} - {ring.signer.kid}
        assert line(seen(ring), idle).endswith("; signs only for apps that choose so")
        assert ring.standby
        for shown in (line(seen(ring), ring.standby.kid), line(seen(ring), "next  ")):
            assert ("sign only for apps" in shown.replace("signs", "sign")) is not use_dynamic
        told = {key["kid"]: key["signs"] for key in as_json(seen(ring), NOW)["keys"]}
        assert [kid for kid, signs in told.items() if signs] == [ring.signer.kid]


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (59 * timedelta(seconds=1), " 59s "),
        (5 * MINUTE + timedelta(seconds=7), " 5m 7s "),
        (25 * HOUR + timedelta(seconds=58), " 25h "),
        (25 * HOUR + 2 * MINUTE + timedelta(seconds=58), " 25h 2m "),
        (3 * timedelta(days=1) + 5 * MINUTE, " 3d "),
        (3 * timedelta(days=1) + 2 * HOUR + MINUTE, " 3d 2h "),
    ],
)
def test_a_duration_is_told_no_finer_than_one_reads_it(age: timedelta, told: str) -> None:
    ring = new_ring()
    assert ring.standby
    assert re.search(f"{told}+signs", line(seen(ring), ring.standby.kid, age))


def test_what_is_piped_is_neither_wrapped_nor_cut(capsys: Any) -> None:
    names = [f"{n}-{'x' * 70}" for n in range(8)]
    show(seen(new_ring(), *(at(0, name) for name in names)), NOW)
    told = capsys.readouterr().out.splitlines()
    assert sum(all(name in each for name in names[:5]) for each in told) == 1
    assert all(any(each.startswith(name) for each in told) for name in names)


def test_what_anyone_may_have_written_does_nothing_to_a_terminal() -> None:
    assert harmless("\x1b]0;owned\x07\x1b[2J\u202e") == "?]0;owned??[2J?"
    assert harmless("abc", most=3) == "abc"
    assert harmless("abcd", most=3) == "abc…", "what is cut is seen to be"
    shown = seen(new_ring(), at(1, "[red]app[/]"))
    assert "[red]app[/]" in "\n".join(lines_of(shown))


# --- when the next key signs, and why not yet ----------------------------------------------------


def test_a_rotation_says_the_earliest_time_while_there_is_one_and_what_it_waits_for() -> None:
    ring = rotate(new_ring(policy(jwks_max_age=5 * MINUTE)), now=NOW, epoch=1)
    young = replace(
        ring, keys=tuple(replace(k, ready_at=NOW + 2 * HOUR) for k in ring.keys), version=2
    )
    (told,) = outlook(seen(young, at(2, "app-1")), NOW)
    assert told.endswith(
        "signs at 2026-01-01 02:00:00 UTC at the earliest: it has to be public for long enough"
    )
    (told,) = outlook(seen(young, at(2, "app-1")), NOW + 3 * HOUR)
    assert told.endswith(
        "signs next: at once, unless the leader has just begun and listens for 1m 30s"
    )
    told, _ = outlook(seen(young, at(0, "app-1")), NOW + 3 * HOUR)
    assert told.endswith("signs once every live instance has confirmed it")
    _, told = outlook(seen(young, *(at(0, f"app-{n}") for n in range(7))), NOW)
    assert told == (
        "not confirmed yet by app-0, app-1, app-2, app-3, app-4 and 2 more; waited for 10m at most"
    )
    static = replace(young, policy=policy(use_dynamic=False))
    told, last = outlook(seen(static), NOW)
    assert "becomes active at 2026-01-01 02:00:00 UTC at the earliest" in told
    assert "the static key goes on signing" in last


def test_a_standby_that_is_young_is_shown_with_when_it_is_ready() -> None:
    due = NOW + 168 * HOUR
    ring, _ = settle(new_ring(), due)
    assert ring.standby
    kid, since = ring.standby.kid, 168 * HOUR
    assert line(seen(ring), kid, since + 2 * MINUTE).endswith("signs in 6d 23h, ready in 3h 58m")
    assert line(seen(ring), kid, since + 4 * HOUR).endswith("signs in 6d 20h")


def test_a_turn_that_is_due_and_not_taken_is_explained() -> None:
    ring = new_ring()
    assert "waiting for app-1" in delay(seen(ring, at(0, "app-1")))
    assert "nobody leads" in delay(seen(ring, leader=""))
    assert "listens for 1m 30s" in delay(seen(ring))


def test_a_turn_that_is_due_is_not_told_as_a_time_of_the_past() -> None:
    late, ring = 200 * HOUR, new_ring()
    assert line(seen(ring), "next  ", late) == "next    within 1m 30s"
    assert line(seen(ring, at(0, "app-1")), "next  ", late) == "next    when confirmed"
    assert line(seen(ring, leader=""), "next  ", late) == "next    when somebody leads"


def test_a_turn_that_is_not_the_schedule_s_is_said_to_be_none() -> None:
    back = "ringkeeper rotate --call-off takes that back"
    young, _ = settle(new_ring(), NOW + 168 * HOUR)
    asked = rotate(young, now=NOW + 169 * HOUR, epoch=1)
    told = line(seen(asked), "next  ", 169 * HOUR)
    assert told == f"next    in 3h (2026-01-08 04:00:00 UTC)  asked for; {back}"
    rolled = rollback(young, now=NOW + 169 * HOUR, epoch=1)
    assert rolled.standby
    told = line(seen(rolled), "next  ", 169 * HOUR)
    assert told == f"next    within 1m 30s  rolled back to {rolled.standby.kid}; {back}"
    other, _ = settle(young, NOW + 169 * HOUR, policy(algorithm="ES256"))
    told = line(seen(other), "next  ", 169 * HOUR)
    due, way = "2026-01-15 00:00:00 UTC", "2026-01-09 00:00:00 UTC"
    makes_way = f"the standby makes way for a key of algorithm ES256, at {way} at the earliest"
    assert told == f"next    in 6d 23h ({due})  {makes_way}"
    behind = seen(other, at(other.version - 1, "app-1"))
    told = line(behind, "awaits", 169 * HOUR)
    assert told == "awaits  app-1, to confirm the key that it makes way for"
    assert as_json(behind, NOW)["awaiting"] == ["app-1"]
    assert behind.awaited == (), "whoever has the standby holds up no turn that is due"
    by_hand = seen(rotate(other, now=NOW + 175 * HOUR, epoch=1), at(other.version - 1, "app-1"))
    assert by_hand.awaited == by_hand.awaited_behind == ()
    assert "signs next: at once" in outlook(by_hand, NOW + 175 * HOUR)[0]
    assert line(by_hand, "next  ", 175 * HOUR) == f"next    within 1m 30s  asked for; {back}"
    assert line(seen(young), "next  ", 169 * HOUR).endswith("UTC)")


def test_keys_stand_in_the_order_in_which_they_sign_and_who_never_will_is_said_to() -> None:
    ring, _ = settle(new_ring(), NOW, policy(algorithm="ES256"))
    ring, _ = settle(ring, NOW + 24 * HOUR)  # the former standby made way
    for algorithm in ("EdDSA", "RS256"):
        ring, _ = settle(ring, NOW + 25 * HOUR, policy(algorithm=algorithm))
    assert ring.standby and ring.standby.algorithm == "ES256"
    told = [each for each in lines_of(seen(ring), 26 * HOUR) if " published " in each]
    assert [each.split()[2] for each in told] == ["ES256", "RS256", "EdDSA"]
    first, then, never = told
    assert first.endswith("signs in 6d 22h")
    assert then.endswith("signs a turn later, ready in 3h")
    assert never.endswith("retires unused: other keys are wanted")


def test_the_newest_spike_is_shown_for_a_day_and_says_whether_it_goes_on() -> None:
    first = bucket_at(NOW)
    spike = Spike(first, first + 2, Cause.MODE_SWITCH, "kind_mismatch", 20.0, 5.0, 160, 300.0)
    shown = replace(seen(new_ring()), spike=spike)
    told = line(shown, "spike", after=40 * SECOND)
    assert told.startswith("spike   refreshes 8.0 times usual for 4")
    assert told.endswith("cause: mode switch, still going on")
    assert as_json(shown, NOW)["spike"]["active"] is True
    over = replace(shown, spike=replace(spike, is_over=True))
    told = line(over, "spike", after=2 * HOUR)
    assert told == "spike   refreshes 8.0 times usual for 30s, cause: mode switch, 2h ago"
    assert as_json(over, NOW)["spike"] == {
        "active": False,
        "began_at": begin_of(first).isoformat(),
        "baseline_rate": 2.0,
        "cause": "mode_switch",
        "deviation_rate": 0.5,
        "duration_seconds": 30,
        "extra_refreshes": 300,
        "peak_rate": 16.0,
        "ratio": 8.0,
        "reason": "kind_mismatch",
    }
    assert not [each for each in lines_of(over, after=25 * HOUR) if "spike" in each]
    assert not [each for each in lines_of(seen(new_ring())) if "spike" in each]
    assert as_json(seen(new_ring()), NOW)["spike"] is None
