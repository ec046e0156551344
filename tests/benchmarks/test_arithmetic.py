"""What the benchmarks make of what they measured."""

import json
from collections import Counter
from collections.abc import Callable

import pytest
from benchmarks import goals, waiting
from benchmarks.claims import compact, sized, stamped
from benchmarks.fanout import Socket, real_of
from benchmarks.goals import GOALS, Goal
from benchmarks.rounds import Spread, interleaved, plain, ratios, rotated, told
from benchmarks.traffic import USES, drawn, new_share


def test_a_spread_is_the_median_and_where_eight_of_ten_lie() -> None:
    assert Spread.of(range(11)) == (5, 1, 9)
    assert Spread.of([3]) == (3, 3, 3)
    assert Spread.of([1, 2, 1000]).median == 2
    assert Spread(1, 0.5, 2).times(4) == (4, 2, 8)


def test_every_contender_has_its_turn_each_round_and_begins_in_turn() -> None:
    order: list[tuple[str, int]] = []

    def noting(name: str) -> Callable[[int], float]:
        def note(round_: int) -> float:
            order.append((name, round_))
            return round_ / 2

        return note

    found = interleaved({name: noting(name) for name in "abc"}, 3)
    assert found == {name: [0.0, 0.5, 1.0] for name in "abc"}
    assert "".join(name for name, _ in order) == "abcbcacab"
    assert [round_ for _, round_ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rotated("abc", 4) == ["b", "c", "a"]


def test_contenders_are_compared_within_a_round() -> None:
    """In the second the machine was ten times as slow, for both."""
    found = ratios({"raw": [1, 10, 1], "ours": [2, 20, 3]}, "raw")
    assert found["ours"].median == 2
    assert found["raw"] == (1, 1, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (14.53, "14.5"), (1234.5, "1,234")],
)
def test_figures_are_told_with_three_digits(value: float, text: str) -> None:
    assert told(value) == text


def test_a_spread_is_told_with_its_ends() -> None:
    assert str(Spread(1.571, 1.06, 2.12)) == "1.57 (1.06 to 2.12)"
    assert str(Spread(1, 1, 1)) == "1"


def test_json_has_names() -> None:
    found = plain({1_000: {"ratio": Spread(1 / 3, 0.25, 0.5)}, "x": (1, None)})
    assert json.loads(json.dumps(found)) == {
        "1000": {"ratio": {"median": 0.333333, "low": 0.25, "high": 0.5}},
        "x": [1, None],
    }


@pytest.mark.parametrize("size", [200, 385, 8_000])
def test_a_payload_has_the_size_that_was_asked_for(size: int) -> None:
    assert len(compact(stamped(sized(size, 123)))) == size
    assert sized(size, 1) != sized(size, 2)


def test_a_payload_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="is the least"):
        sized(20)


# --- traffic ---------------------------------------------------------------------------------------


def test_a_token_is_used_twenty_times_and_then_never_again() -> None:
    traffic = drawn(100, 20_000)
    uses = Counter(traffic.requests)
    assert max(uses.values()) == USES
    fresh = [uses[token] for token in uses if token >= 100]
    assert fresh.count(USES) > 0.85 * len(fresh)
    assert set(traffic.requests) | set(traffic.known) <= set(range(traffic.tokens))


def test_one_request_in_twenty_brings_a_token_that_nobody_saw() -> None:
    traffic = drawn(1_000, 40_000)
    assert new_share(traffic.known, traffic.requests) == pytest.approx(1 / USES, rel=0.05)


def test_some_sessions_are_far_busier_than_others() -> None:
    """Of 1,000 the busiest has one request in 7.5, which is the sum of 1/n."""
    traffic = drawn(1_000, 40_000, uses=10**9)
    uses = Counter(traffic.requests)
    assert uses[0] / 40_000 == pytest.approx(1 / 7.485, rel=0.05)
    assert uses[9] / 40_000 == pytest.approx(1 / 74.85, rel=0.15)


def test_traffic_is_the_same_for_the_same_seed() -> None:
    assert drawn(50, 500, seed=3) == drawn(50, 500, seed=3)
    assert drawn(50, 500, seed=3) != drawn(50, 500, seed=4)


# --- who subscribes, and who polls -----------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
def test_a_socket_tells_of_each_whole_message_however_it_is_cut(step: int) -> None:
    heard: list[str] = []
    socket = Socket(["raw", "ring"], heard.append)
    greeting = (
        b"*3\r\n$9\r\nsubscribe\r\n$3\r\nraw\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$4\r\nring\r\n:2\r\n"
    )
    text = b"a\r\n*3" * 50
    said = [
        b"*3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(name), name, len(text), text)
        for name in (b"raw", b"ring", b"raw")
    ]
    for number, whole in enumerate((greeting, *said)):
        for start in range(0, len(whole), step):
            assert len(heard) == number
            socket.data_received(whole[start : start + step])
    assert heard == ["", "raw", "ring", "raw"]


def test_one_instance_in_a_hundred_is_real_ten_at_most() -> None:
    assert [real_of(size) for size in (1, 10, 100, 500, 1_000, 10_000)] == [1, 1, 1, 5, 10, 10]


def test_who_polls_is_spread_over_the_interval() -> None:
    found = waiting.ages(20, 300)
    assert sum(found) / len(found) == pytest.approx(150)
    assert (found[0], found[-1]) == (7.5, 292.5)


# --- goals -----------------------------------------------------------------------------------------


def test_a_goal_is_met_by_its_median_in_the_right_direction() -> None:
    most, least = Goal("", ("x",), 2), Goal("", ("x",), 2, at_least=True)
    for median, is_most, is_least in ((1.9, True, False), (2, True, True), (2.1, False, True)):
        measured = Spread(median, 0.1, 99)
        assert most.is_met(measured) == is_most
        assert least.is_met(measured) == is_least


def test_no_goal_is_left_out_even_where_nothing_was_measured() -> None:
    lines = goals.rows({})
    assert len(lines) == len(GOALS)
    assert {line[4] for line in lines} == {"not measured"}


def test_a_missed_goal_is_told_as_missed() -> None:
    found = {"rest": {"daemon": {"rss_mb": Spread(45.1, 45, 46), "private_mb": Spread(28, 27, 29)}}}
    lines = [line for line in goals.rows(found) if line[4] != "not measured"]
    assert lines == [
        ("daemon at rest, resident", "45.1 MB", "45 to 46", "≤ 45 MB", "MISSED"),
        ("daemon at rest, private", "28 MB", "27 to 29", "≤ 28 MB", "met"),
    ]
