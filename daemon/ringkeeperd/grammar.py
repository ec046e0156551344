"""The command line as plain values, read off its parser: completions and man page are made of them.

Nothing loads this but `ringkeeper completion` and docs/generate.py.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE: Final = re.compile(r"\bFILE$")
_FOLDER: Final = re.compile(r"\bDIR$")
_CLAUSE: Final = re.compile(r"[.;:] | \(|[.;:]?$")


@dataclass(frozen=True)
class Option:
    """What begins with a dash."""

    flags: tuple[str, ...]
    text: str
    metavar: str = ""
    """How its value is called; empty if it takes none."""
    choices: tuple[str, ...] = ()
    is_required: bool = False


@dataclass(frozen=True)
class Argument:
    """What has its meaning from where it stands."""

    metavar: str
    text: str
    choices: tuple[str, ...] = ()
    is_required: bool = True


@dataclass(frozen=True)
class Command:
    """`ringkeeper` itself, a command, or a group of commands."""

    words: tuple[str, ...]
    """How it is asked for, after `ringkeeper`."""
    text: str
    epilog: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    def all(self) -> Iterator[Command]:
        """This one and all below it, as they are listed."""
        yield self
        for command in self.commands:
            yield from command.all()


def read(parser: argparse.ArgumentParser, *words: str) -> Command:
    """What `parser` understands after `words`."""
    options: list[Option] = []
    arguments: list[Argument] = []
    commands: list[Command] = []
    for action in parser._actions:  # noqa: SLF001 - there is no public way to ask
        choices = tuple(map(str, action.choices or ()))
        text = (action.help or "").replace("%%", "%")
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            commands += [read(below, *words, name) for name, below in action.choices.items()]
        elif action.option_strings:
            named = "" if action.nargs == 0 else metavar
            flags = tuple(action.option_strings)
            options.append(Option(flags, text, named, choices, action.required))
        else:
            arguments.append(Argument(metavar, text, choices, action.nargs != "?"))
    return Command(
        words,
        parser.description or "",
        parser.epilog or "",
        tuple(options),
        tuple(arguments),
        tuple(commands),
    )


def names_file(metavar: str) -> bool:
    """Whether a value that is called so is the path of a file."""
    return bool(_FILE.search(metavar))


def names_folder(metavar: str) -> bool:
    """Whether a value that is called so is the path of a folder."""
    return bool(_FOLDER.search(metavar))


def in_short(text: str) -> str:
    """The first clause of `text` that is more than a word, for a list where each has one line."""
    return next(
        (text[: end.start()] for end in _CLAUSE.finditer(text) if " " in text[: end.start()]), text
    )
