"""The command line by itself, without a server: what is refused, and how it is said."""

import getpass
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

import ringkeeperd
from ringkeeperd import cli
from ringkeeperd.command_line.tree import parser
from ringkeeperd.operator import caller
from tests.plugins.daemons import Site, clean_environment


def said_by(capsys: Any, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of one command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_without_the_extra_it_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """From the source: there is no package on an index."""
    monkeypatch.setattr(cli, "leave_no_dumps", lambda: None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "ringkeeperd.demo", raising=False)
    monkeypatch.delattr(ringkeeperd, "demo", raising=False)
    code, said = said_by(capsys, "demo")
    assert code == 1
    assert "pip install '/path/to/ringkeeper[daemon]'" in said


def test_a_request_names_its_user_also_where_there_is_no_passwd_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container that runs under a bare number."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr("os.getuid", lambda: 65532)
    assert caller() == f"uid-65532@{socket.gethostname()}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("revoke", "d-x", "--reason", " "), "is blank; say why"),
        (("revoke", "d-x", "--reason", ""), "is blank; say why"),
        (("rotate", "--ring", ""), "is blank; name a ring, or leave out --ring"),
        (("plan", "--ring", " "), "is blank; name a ring, or leave out --ring"),
        (("plan", "--turns", "101"), "is no number from 1 to 100"),
        (("rotate", "--wait", "--no-wait"), "not allowed with argument"),
        (("static", "import", "x", "--kid", "a b"), "argument --kid: "),
        (("init", "--import", "x", "--into", ""), "is blank; name a ring, or leave out --into"),
        (("token", "verify", "x", "--audience", ""), "is empty, as no token's is; leave it out"),
        (("status", "--config", ""), "is empty; name a file, or leave it out"),
        (("token", "verify", "x", "--issuer", ""), "is empty, as no token's is; leave it out"),
        (("revoke", "d-" + "x" * 63, "--reason", "x"), "that is no kid"),
        (("revoke", "d-\x1b[2J", "--reason", "x"), "that is no kid"),
        (("revoke", "", "--reason", "x"), "that is no kid"),
        (("run", "--ring", "nope"), "unrecognized arguments: --ring"),
        (("init", "--ring", "nope"), "unrecognized arguments: --ring"),
        (("--nov", "demo"), "ringkeeper demo: error: unrecognized arguments: --nov"),
        (("rotate", "--nov"), "ringkeeper rotate: error: unrecognized arguments: --nov"),
        (("static", "create", "x"), "ringkeeper static create: error: unrecognized arguments: x"),
        (("rotate", "--answer-within", "0"), "is no number above 0; write e.g. 15 or 0.5"),
        (("revoke", "k", "--drain", "0s", "--reason", "x"), "is no duration above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    capsys: Any, arguments: tuple[str, ...], told: str
) -> None:
    code, said = said_by(capsys, *arguments)
    assert code == 2
    assert told in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("command", "default"), [("status", "all"), ("check", "all"), ("rotate", "the one at the top")]
)
def test_help_says_which_ring_is_meant_by_default(capsys: Any, command: str, default: str) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert f"which ring (default: {default}" in " ".join(capsys.readouterr().out.split())


def test_whoever_interrupts_it_while_it_is_being_loaded_sees_no_traceback() -> None:
    script = """
import os, signal, sys
class Interrupting:
    def find_spec(name, *_):
        if name == "ringkeeper":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
from ringkeeperd.__main__ import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_what_init_began_is_done_though_nobody_reads_what_it_says(site: Site) -> None:
    """`ringkeeper init | true`: the secrets, and then the ring."""
    for secret in site.folder.glob("*.jwk"):
        secret.unlink()
    site.configure()
    done = unheard(site, "init", "--config", "config.yaml")
    assert (done.returncode, done.stderr) == (1, ""), "it could not tell all that it did"
    assert site.status()["version"] == 1
    assert {path.name for path in site.folder.glob("*.jwk")} == {
        "root.jwk",
        "root.pub.jwk",
        "kek.jwk",
    }


@pytest.mark.parametrize("arguments", [("doctor",), ("status",), ("--help",), ("jwks",)])
def test_who_reads_no_further_gets_no_traceback(site: Site, arguments: tuple[str, ...]) -> None:
    """`ringkeeper doctor | head -1`."""
    site.configure()
    site.done("init")
    given = [*arguments, *(["--config", "config.yaml"] if arguments != ("--help",) else [])]
    done = unheard(site, *given)
    assert done.stderr == ""
    assert done.returncode == (0 if arguments == ("--help",) else 1)


def unheard(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = clean_environment()
    environment.pop("PYTHONUNBUFFERED", None)  # with it nothing is left to be said at exit
    try:
        return subprocess.run(
            [sys.executable, "-m", "ringkeeperd", *arguments],
            cwd=site.folder, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60,
            check=False, env=environment,
        )  # fmt: skip
    finally:
        os.close(writing)


def test_a_leader_has_a_quarter_of_a_minute_to_answer() -> None:
    reader = parser(is_demo=False)
    for words in (["rotate"], ["revoke", "d-x", "--reason", "x"], ["static", "retire", "s-x"]):
        assert reader.parse_args(words).answer_within == 15
    assert reader.parse_args(["plan", "--turns", "100"]).turns == 100


def test_a_fresh_interpreter_says_nothing_more_at_its_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What most tests fork leaves out how Python takes itself apart: what was left open is told."""
    monkeypatch.setenv("RINGKEEPER_TESTS_COLD", "1")
    daemon = site.daemon(init=True)
    for words in (
        ["status"],
        ["plan"],
        ["rotate", "--now", "--reason", "a test", "--no-wait"],
        ["watch", "--last", "5", "--no-follow"],
        ["token", "sign"],
        ["doctor"],
    ):
        done = site.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
    daemon.stop()
    assert all(line.startswith("{") for line in daemon.log.splitlines()), daemon.log
