"""The completions in the shells themselves, at a terminal; and the manual page by man."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.package.distributions import ROOT
from tests.plugins.daemons import eventually

pytestmark = pytest.mark.package
MANUAL = ROOT / "deploy/man/ringkeeper.1"
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """set +o history; bind 'set enable-bracketed-paste off'; source @SCRIPT@
        show() { printf %s "$READLINE_LINE" >@LINE@; }; bind -x '"\\C-g": show'""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        """autoload -Uz compinit; compinit -u -D; source @SCRIPT@
        show() { print -rn -- $BUFFER >@LINE@ }; zle -N show; bindkey '^G' show""",
    ),
}
"""How a shell is started without anybody's settings, and how Ctrl-G writes its line into a file."""


def script_for(shell: str, folder: Path) -> Path:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed: run tests/provision package")
    path = folder / f"completion.{shell}"
    command = [sys.executable, "-m", "ringkeeperd", "completion", shell]
    path.write_bytes(subprocess.check_output(command))
    return path


class Terminal:
    """A shell in a folder, at a terminal of its own."""

    def __init__(self, shell: str, folder: Path) -> None:
        self.line = folder / "line"
        command, setup = SHELLS[shell]
        script = str(script_for(shell, folder))
        (folder / "setup").write_text(
            setup.replace("@SCRIPT@", script).replace("@LINE@", str(self.line))
        )
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            environment = {**os.environ, "TERM": "dumb", "PS1": "> "}
            os.execvpe(command[0], command, environment)  # noqa: S606
        self.typed("source ./setup; echo it is $((6 * 7)) now\r")
        eventually(lambda: "it is 42 now" in self.shown())
        self._shown = ""

    def typed(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    _shown = ""

    def shown(self) -> str:
        while select.select([self._terminal], [], [], 0.05)[0]:
            self._shown += os.read(self._terminal, 4096).decode(errors="replace")
        return self._shown

    def completed(self, text: str) -> str:
        """What the shell makes of `text` with a Tab at its end."""
        self.line.unlink(missing_ok=True)
        self.typed(f"{text}\t")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self.shown()
            self.typed("\x07")
            self.shown()
            if self.line.exists() and (found := self.line.read_text()) != text:
                self.typed("\x15")  # an empty line for the next one
                return found
        return text

    def close(self) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes_commands_options_values_and_files(shell: str, tmp_path: Path) -> None:
    (tmp_path / "a ring.backup").touch()
    terminal = Terminal(shell, tmp_path)
    try:
        for text, whole in (
            ("ringkeeper rot", "ringkeeper rotate "),
            ("ringkeeper static pub", "ringkeeper static public "),
            ("ringkeeper rotate --rea", "ringkeeper rotate --reason"),
            ("ringkeeper static public --form p", "ringkeeper static public --form pem "),
            ("ringkeeper restore a", "ringkeeper restore a\\ ring.backup "),
            ("ringkeeper completion z", "ringkeeper completion zsh "),
        ):
            found = terminal.completed(text)
            assert found.rstrip(" =") == whole.rstrip()
    finally:
        terminal.close()


def test_fish_offers_what_may_come_next_and_says_what_it_is(tmp_path: Path) -> None:
    script = script_for("fish", tmp_path)
    (tmp_path / "a ring.backup").touch()

    def offered(line: str) -> dict[str, str]:
        command = ["fish", "--no-config", "-c", f'source {script}; complete -C "{line}"']
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return dict(row.partition("\t")[::2] for row in done.stdout.splitlines())

    assert offered("ringkeeper sta") == {
        "static": "Make, import, show, retire and reinstate static keys",
        "status": "Show a ring",
    }
    assert "--drain" in offered("ringkeeper revoke d-x --dr")
    assert set(offered("ringkeeper static public --form ")) == {"pem", "jwk"}
    assert "a ring.backup" in offered("ringkeeper restore a")
    assert set(offered("ringkeeper completion ")) == {"bash", "zsh", "fish"}
    assert offered("ringkeeper revoke --reason ") == {}
    assert "rotate" not in offered("ringkeeper revoke rot")


def test_man_and_groff_have_nothing_to_say_about_the_page() -> None:
    if not shutil.which("groff") or not shutil.which("man"):
        pytest.skip("man or groff is not installed: run tests/provision package")
    checked = subprocess.run(
        ["groff", "-ww", "-man", "-z", "-Tutf8", MANUAL], capture_output=True, text=True, check=True
    )
    assert checked.stderr == ""
    shown = subprocess.run(
        ["man", "--warnings", "--local-file", MANUAL],
        env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    for line in (
        "NAME",
        "ringkeeper revoke",
        "--reason REASON",
        "EXIT STATUS",
        "RINGKEEPER_CONFIG",
    ):
        assert line in shown.stdout, line
