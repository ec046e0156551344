"""Completion and manual page say what the command understands; here bash itself is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

from ringkeeperd import completion, grammar, man_page
from ringkeeperd.command_line.tree import parser

GRAMMAR = grammar.read(parser(is_demo=True))
BASH = completion.script("bash", GRAMMAR)
ASK = """
source /dev/stdin
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
compopt() { :; }
_ringkeeper
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(*words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last of `words`."""
    done = subprocess.run(
        ["bash", "--norc", "-euc", ASK, "bash", *words],
        input=BASH,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sta"], ["status", "static"]),
        (["static", "re"], ["retire", "reinstate"]),
        (["static", "public", "--form", ""], ["pem", "jwk"]),
        (["static", "public", "--form", "=", "j"], ["jwk"]),
        (["completion", ""], ["bash", "zsh", "fish", "-h", "--help"]),
        (["rotate", "--no"], ["--now", "--no-wait"]),
        (["revoke", "d-x", "--reason", "status", "--dr"], ["--drain"]),
        (["demo", "--sp"], ["--spikes"]),
        (["restore", "--dr"], ["--dry-run"]),
        (["revoke", "--reason", ""], []),
        (["nothing"], []),
    ],
)
def test_bash_offers_what_may_come_next(words: list[str], expected: list[str]) -> None:
    assert offered("ringkeeper", *words) == expected


@pytest.mark.parametrize(
    "words",
    [["status", "--config", "con"], ["status", "--config", "=", "con"], ["restore", "con"]],
)
def test_bash_offers_files_where_a_file_is_named(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "config of ours.yaml").touch()
    (tmp_path / "config.d").mkdir()
    assert sorted(offered("ringkeeper", *words, cwd=tmp_path)) == [
        "config of ours.yaml",
        "config.d",
    ]


def test_bash_offers_folders_where_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "config.d").mkdir()
    assert offered("ringkeeper", "init", "--directory", "con", cwd=tmp_path) == ["config.d"]


def test_every_command_and_option_is_in_each_script_and_in_the_manual_page() -> None:
    page = man_page.page(GRAMMAR, "1.2.3").replace("\\-", "-").replace("\\(aq", "'")
    told = " ".join(page.replace("\n.", "\n").replace("\\&", "").split())
    scripts = {shell: completion.script(shell, GRAMMAR) for shell in completion.SHELLS}
    commands = list(GRAMMAR.all())
    assert len(commands) >= 25
    for command in commands:
        name = " ".join(command.words)
        assert f".SS ringkeeper {name}\n" in page or command.commands
        for script in scripts.values():
            assert command.words[-1:] == () or command.words[-1] in script
        for option in command.options:
            assert option.text in told, (name, option)
            for flag in option.flags:
                assert flag in page, (name, flag)
                assert flag in scripts["bash"], (name, flag)
                assert flag in scripts["zsh"], (name, flag)
                assert f"{'-l' if flag[1] == '-' else '-s'} {flag.lstrip('-')}" in scripts["fish"]


def test_the_shells_that_the_command_takes_are_those_there_are_scripts_for() -> None:
    (command,) = (each for each in GRAMMAR.commands if each.words == ("completion",))
    assert command.arguments[0].choices == completion.SHELLS


def test_the_command_prints_the_script_and_nothing_else_loads_what_makes_it() -> None:
    code = (
        "import sys; from ringkeeperd import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print('ringkeeperd.grammar' in sys.modules, file=sys.stderr)"
    )

    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )

    assert said("completion", "bash").stdout == BASH
    assert said("--version").stderr == "False\n"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Show a ring: keys, leader.", "Show a ring"),
        ("default: the policy's", "default: the policy's"),
        ("may be e.g. 3", "may be e.g"),
        ("for programs", "for programs"),
        ("", ""),
    ],
)
def test_a_list_shows_the_first_clause_of_a_text(text: str, short: str) -> None:
    assert grammar.in_short(text) == short
