"""The command line by itself, without a server: what is refused, and how it is said."""

import getpass
import socket
import sys
from typing import Any

import pytest

from ringkeeperd import cli
from ringkeeperd.operator import caller


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
