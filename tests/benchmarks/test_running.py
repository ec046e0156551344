"""The benchmarks run, clean up, and say plainly which goal was missed; the figures are not judged."""

from pathlib import Path

import pytest
from benchmarks import __main__ as bench
from benchmarks import crypto, fanout, rest, rings

from tests.plugins.servers import VALKEY


def valkeys() -> set[str]:
    """The servers of ours that run now, of all tests."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/exe"):
        try:
            if path.readlink() == Path(VALKEY).resolve():
                found.add(path.parent.name)
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def children() -> set[str]:
    """The processes that this one started and that still run."""
    pids: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        pids |= set((task / "children").read_text().split())
    return pids


def test_the_fan_out_is_measured_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "INSTANCES", fanout.REAL + 5)
    before = children()
    found = fanout.measure(2)
    assert found["raw_ms"] > 0
    assert found["instances_ms"] > 0
    low, high = found["ratio_spread"]
    assert 0 < low <= found["ratio"] <= high
    # What multiprocessing itself keeps, for the life of the process, is no server of ours.
    assert not (children() - before) & valkeys()


def test_commands_of_idle_apps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "APPS", 2)
    before = children()
    assert rest.apps(0.5)["commands_a_second_an_instance"] >= 0
    assert children() == before


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_signing_is_compared_with_the_raw_primitive(algorithm: str) -> None:
    found = crypto.measure(algorithm, 1)
    for what in ("sign", "verify"):
        assert found[what]["raw"] == 1
        assert found[what]["ringkeeper"] > 0
        assert found[what]["joserfc"] > 0


def test_rings_are_measured_by_the_daemon_that_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "_SETTLES", 0.0)
    before = children()
    found = rings.measure(3, 0.5, turns=False)
    assert found["led"] == 3
    assert found["rss_mib"] > 0
    assert "| 3, at rest | 3 |" in rings.as_markdown({"3": {"rest": found}})
    assert children() == before


def test_a_missed_goal_is_printed_as_missed(capsys: pytest.CaptureFixture[str]) -> None:
    ratios = {"raw": 1, "ringkeeper": 1.1, "joserfc": 1.2}
    bench._tell(
        {
            "fanout": {
                "ratio": 2.6,
                "ratio_spread": [1.1, 3.0],
                "raw_ms": 10.0,
                "instances_ms": 26.0,
            },
            "daemon": {"rss_mib": 60.0, "cpu_ms_a_minute": 29.9},
            "apps": {"commands_a_second_an_instance": 0.51},
            "import": {"import_ratio": 1.5},
            "RS256": {"sign": ratios, "verify": ratios},
            "ES256": {"sign": ratios, "verify": ratios},
            "rings": {},
        }
    )
    lines = capsys.readouterr().out.splitlines()
    verdicts = [line.split()[-1] for line in lines[1 : 1 + len(bench.GOALS)]]
    assert verdicts == ["MISSED", "met", "met", "MISSED"]
