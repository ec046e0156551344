"""The demo proves what it claims, in a short run with fast keys."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ringkeeperd import cli
from ringkeeperd.demo import Demo, Totals
from tests.plugins.daemons import clean_environment, eventually


@pytest.mark.long
def test_no_valid_token_is_rejected_while_keys_turn_things_die_and_secrets_change() -> None:
    """All at once; without any of it: make demo, in CI."""
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        result = subprocess.run(
            [
                sys.executable, "-m", "ringkeeperd", "demo", "--json",
                "--interval", "3", "--seconds", "30", "--faults", "--secrets",
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env={**clean_environment(), "TMPDIR": folder},
        )  # fmt: skip
        left = list(Path(folder).iterdir())
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads(result.stdout)
    assert summary["rejected"] == 0
    assert summary["rotations"] >= 5
    assert summary["removed"] >= 1
    assert summary["verified"] > 1000
    assert summary["killed"] >= 3
    assert summary["secrets_changed"] >= 2
    assert left == []


def summary_of(capsys: Any, totals: Totals, *, rotations: int = 6) -> tuple[int, list[str]]:
    demo = Demo(60, 10, has_faults=False, has_new_secrets=False, is_quiet=False)
    demo.folder.rmdir()
    demo._signers = [f"d-{n}" for n in range(rotations + 1)]
    demo._removed = {"d-0"}
    demo._gone = totals
    return demo.tell(), capsys.readouterr().out.strip().splitlines()


def test_the_summary_says_in_words_what_came_of_it_and_what_its_numbers_mean(capsys: Any) -> None:
    code, told = summary_of(capsys, Totals(signed=900, verified=12_345, unanswered=3))
    assert code == 0
    assert told[0] == "it worked: of 12,345 valid tokens none was refused"
    (unanswered,) = [line for line in told if line.startswith("unanswered")]
    assert unanswered.split(maxsplit=2) == [
        "unanswered", "3", "asked of an app that was gone: nobody said no",
    ]  # fmt: skip
    assert all(len(line) <= 80 for line in told)
    code, told = summary_of(capsys, Totals(verified=5, rejected=["UnknownKid: x"]))
    assert (code, told[0]) == (1, "it failed: valid tokens were refused, 1 of them")
    code, told = summary_of(capsys, Totals(verified=5), rotations=2)
    assert code == 1
    assert told[0].startswith("it proves nothing: too few keys turned")


@pytest.mark.parametrize("interval", ["0.001", "2.9", "0", "x"])
def test_an_interval_in_which_nothing_has_room_is_refused_at_once(
    capsys: Any, interval: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--interval", interval])
    assert ended.value.code == 2
    assert "argument --interval: " in capsys.readouterr().err


@contextmanager
def running_demo() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A demo whose four apps serve, and the folder that all of its processes name."""
    with tempfile.TemporaryDirectory(prefix="rk-") as name:
        folder = Path(name)
        demo = subprocess.Popen(
            [sys.executable, "-m", "ringkeeperd", "demo", "--json", "--interval", "3",
             "--seconds", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**clean_environment(), "TMPDIR": name},
        )  # fmt: skip
        try:
            eventually(lambda: len(list(folder.glob("*/app?.sock"))) == 4, within=30)
            yield demo, folder
        finally:
            for pid in [demo.pid, *processes_in(folder)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            demo.communicate()


def processes_in(folder: Path, naming: str = "") -> list[int]:
    """The processes whose command line names `folder` and `naming`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(folder) in line and naming in line:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_early_it_leaves_no_process_and_no_folder(how: signal.Signals) -> None:
    with running_demo() as (demo, folder):
        demo.send_signal(how)
        assert demo.wait(20) == 130
        assert processes_in(folder) == []
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("naming", "who"), [("ringkeeperd run", "the daemon"), ("demo_app", "app ")]
)
def test_a_process_that_dies_by_itself_fails_the_demo(naming: str, who: str) -> None:
    """Otherwise zero rejected could mean that nobody was asked. Its Valkey must not outlive it."""
    with running_demo() as (demo, folder):
        os.kill(processes_in(folder, naming)[0], signal.SIGKILL)
        _, said = demo.communicate(timeout=20)
        assert demo.returncode == 1
        assert said.startswith(f"ringkeeper: {who}")
        assert "ended by itself" in said
        assert processes_in(folder) == []
        assert list(folder.iterdir()) == []
