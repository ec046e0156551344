"""The reference: what code writes of commands, errors and Python names, and what is said around it."""

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from docs import reference

import ringkeeper
import ringkeeper.testing
from ringkeeper.errors import RingkeeperError, TokenError
from ringkeeperd.command_line.tree import parser
from tests.docs.pages import ROOT
from tests.docs.test_docs import PAGES, blocks
from tests.plugins.daemons import command

CLI = (ROOT / "docs/cli.md").read_text()
ERRORS = (ROOT / "docs/errors.md").read_text()
API = (ROOT / "docs/api.md").read_text()
COMMANDS = dict(reference.subcommands(parser(is_demo=True)))
README = (ROOT / "README.md").read_text()
_VALUES = {"kid": "KID", "token": "a.b.c", "file": "none.pem", "--reason": "why"}


# --- commands ------------------------------------------------------------------------------------


def test_every_command_and_option_has_its_place() -> None:
    sections = dict(
        re.findall(r"^## ringkeeper (.+?)$(.*?)(?=^## |\Z)", CLI, re.MULTILINE | re.DOTALL)
    )
    assert set(sections) == set(COMMANDS)
    assert {"run", "revoke", "static import", "token verify"} < set(sections)
    for name, each in COMMANDS.items():
        for action in each._actions:
            for option in action.option_strings:
                where = CLI if option in ("-h", "--help") else sections[name]
                assert option in where or option == "-h", (name, option)


def test_every_command_is_told_of_in_the_readme() -> None:
    told = re.findall(r"^\| (`ringkeeper .+?`) \|", README, re.MULTILINE)
    named = {
        " ".join(re.findall(r"^ringkeeper ((?:static |token )?[a-z]+)", part)[:1])
        for row in told
        for part in re.findall(r"`([^`]+)`", row)
    }
    several = ("create", "import", "list", "public", "retire", "reinstate")
    named |= {f"static {each}" for each in several}
    assert {name for name in COMMANDS if name not in named} == set()


def needed(parser: Any) -> list[str]:
    """The least that a command has to be given."""
    given = []
    for action in parser._actions:
        if action.option_strings and action.required:
            given += [action.option_strings[-1], _VALUES[action.option_strings[-1]]]
        elif not action.option_strings and action.nargs != "?":
            given.append(_VALUES[action.dest])
    return given


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"demo", "completion"}))
def test_what_fails_says_so_in_its_exit_status(name: str, tmp_path: Path) -> None:
    """Without a configuration nothing can be done; 2 is for wrong usage, and for `run`."""
    words = [*name.split(), *needed(COMMANDS[name])]
    done = command(*words, "--config", "none.yaml", cwd=tmp_path)
    assert done.returncode == (2 if name == "run" else 1), done.stderr
    assert done.stdout == ""
    assert "none.yaml" in done.stderr
    done = command(*words, "--no-such-option", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_help_is_no_failure(tmp_path: Path) -> None:
    for arguments in (["--help"], ["--version"], ["token", "verify", "--help"]):
        assert command(*arguments, cwd=tmp_path).returncode == 0


# --- errors --------------------------------------------------------------------------------------


def raised(error: type[RingkeeperError]) -> set[type[RingkeeperError]]:
    return {error}.union(*(raised(each) for each in error.__subclasses__()))


def test_every_error_stands_in_the_table() -> None:
    for each in pkgutil.walk_packages(ringkeeper.__path__, "ringkeeper."):
        if not each.name.endswith(("authlib", "django", "fastapi", "flask", "rest_framework")):
            importlib.import_module(each.name)
    ours = {e for e in raised(RingkeeperError) if e.__module__.startswith("ringkeeper.")}
    assert {error for error, _ in reference.hierarchy()} == ours
    told = re.findall(r"^\| (?:&emsp;)*`(\w+)` \|", ERRORS, re.MULTILINE)
    assert sorted(told) == sorted(error.__name__ for error in ours)


@pytest.mark.runs("docs/errors.md", 1)
def test_the_page_s_answer_is_the_one_to_give() -> None:
    (code,) = blocks(ERRORS, "python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is ours
    with ringkeeper.testing.keyring() as ring:
        assert names["answer"](ring, ring.sign({"sub": "alice"})) == (200, "alice")
        assert names["answer"](ring, "no token") == (401, TokenError.public)
        assert ring.refreshes == {"other": 1}
    assert names["answer"](ring, "no token") == (503, "temporarily unavailable")


# --- Python --------------------------------------------------------------------------------------


def imported(code: str) -> set[str]:
    """What a snippet or an example imports of ours, as `module.name`."""
    lines = re.findall(r"^\s*from (ringkeeper[\w.]*) import ([\w, ]+)", code, re.MULTILINE)
    return {f"{module}.{name.strip()}" for module, names in lines for name in names.split(",")}


def test_what_examples_and_pages_import_is_documented() -> None:
    codes = [path.read_text() for path in (ROOT / "examples").glob("**/*.py")]
    codes += [code for page in PAGES for code in blocks(page.read_text(), "python")]
    used = set[str]().union(*map(imported, codes))
    assert len(used) >= 10
    documented = set(re.findall(r"^### ringkeeper\.(.+)$", API, re.MULTILINE))
    known = {f"ringkeeper.{name}" for name in documented}
    known |= {f"ringkeeper.errors.{error.__name__}" for error, _ in reference.hierarchy()}
    known |= {f"ringkeeper.{error.__name__}" for error, _ in reference.hierarchy()}
    assert used - known == set()


def test_what_a_helper_has_is_documented() -> None:
    helpers = {module for module in reference.NAMES if module.count(".") == 1} - {
        "ringkeeper.keyring", "ringkeeper.asyncio", "ringkeeper.testing", "ringkeeper.tls",
        "ringkeeper.tokens", "ringkeeper.token_cache",
    }  # fmt: skip
    assert len(helpers) >= 9
    for module in helpers:
        text = (ROOT / "client" / f"{module.replace('.', '/')}.py").read_text()
        public = set(re.findall(r"^(?:class|def|async def) ([A-Za-z]\w*)", text, re.MULTILINE))
        assert public - {*reference.NAMES[module], "Counts"} == set(), module


def test_what_the_package_exports_is_documented() -> None:
    for name in set(ringkeeper.__all__) - {"__version__"}:
        assert f"### ringkeeper.{name}\n" in API or f"`{name}`" in ERRORS, name


def test_a_signature_is_the_one_that_is_called() -> None:
    shown = blocks(API, "py")
    (connect,) = [each for each in shown if each.startswith("Keyring.connect(")]
    for name in ("trust_root", "kek", "cache_dir", "timeout"):
        assert f"    {name}: " in connect
    assert "name: str = 'access-token'," in connect
    assert "await Keyring.verify(" in API
    assert "Keyring.version: int" in API
