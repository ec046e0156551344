"""No daemon leads much more than its share of many rings, and none goes to and fro."""

from dataclasses import replace

import pytest

from ringkeeperd.spreading import KEPT, Part, has_its_share, share, to_hand_over

WINDOW = 90.0
LONG = 1000.0


def parts(count: int, led: int, others: int = 1, led_for: float = LONG) -> list[Part]:
    """`count` rings, `led` of them here, all of which `others` may lead, too."""
    return [
        Part(f"r{number:03}", led_for if number < led else None, others, WINDOW)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "led", "others", "its"),
    [(1, 1, 1, 1), (30, 30, 1, 15), (31, 31, 1, 16), (30, 30, 2, 10), (5, 5, 0, 5), (5, 0, 3, 5)],
)
def test_a_share_is_rounded_up(count: int, led: int, others: int, its: int) -> None:
    assert share(parts(count, led, others)) == its


@pytest.mark.parametrize(("led", "goes"), [(15, 0), (16, 1), (30, 1)])
def test_what_is_too_much_goes_one_by_one(led: int, goes: int) -> None:
    assert len(to_hand_over(parts(30, led))) == goes


def test_of_very_many_some_go_at_once() -> None:
    assert len(to_hand_over(parts(1000, 1000))) == 500 // 30


def test_one_ring_and_two_daemons_is_as_it_should_be() -> None:
    assert to_hand_over(parts(1, 1)) == ()
    assert not has_its_share(parts(1, 1)), "nobody hesitates to take what nobody else has"


def test_an_odd_ring_goes_to_nobody() -> None:
    assert to_hand_over(parts(31, 16)) == ()
    assert to_hand_over(parts(31, 15)) == ()


def test_what_the_dead_left_is_led_for_a_window_before_anything_goes() -> None:
    """Until then the dead count as live, and would be left rings that nobody takes."""
    led = parts(30, 30)
    assert to_hand_over([replace(led[7], led_for=WINDOW), *led[:7], *led[8:]]) == ()
    assert to_hand_over([replace(led[7], led_for=WINDOW + 3), *led[:7], *led[8:]])


def test_a_ring_goes_once_in_a_while_at_the_most() -> None:
    gone = [replace(part, handed_over=KEPT - 1) for part in parts(4, 4)]
    assert to_hand_over(gone) == ()
    gone[2] = replace(gone[2], handed_over=KEPT)
    assert to_hand_over(gone) == ("r002",)


def test_a_ring_that_nobody_else_may_lead_stays() -> None:
    alone = [replace(part, others=int(part.name == "r003")) for part in parts(4, 4)]
    assert to_hand_over(alone) == ("r003",)


def test_what_was_led_longest_goes_first() -> None:
    led = parts(4, 4)
    led[1] = replace(led[1], led_for=LONG + 1)
    assert to_hand_over(led) == ("r001",)


@pytest.mark.parametrize(
    ("led", "others", "has_it"), [(0, 1, False), (14, 1, False), (15, 1, True), (30, 0, False)]
)
def test_who_has_its_share_lets_others_go_first(led: int, others: int, has_it: bool) -> None:
    assert has_its_share(parts(30, led, others)) == has_it


def test_nothing_goes_for_a_while_after_a_ring_that_nobody_took() -> None:
    """Whoever is said to be there may be unable to lead: then each ring would lack a leader."""
    led = parts(30, 30)
    led[3] = replace(led[3], handed_over=10.0, is_unwanted=True)
    assert to_hand_over(led) == ()
    led[3] = replace(led[3], handed_over=KEPT)
    assert to_hand_over(led)
