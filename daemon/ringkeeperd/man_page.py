"""The manual page `ringkeeper(1)`, in the language of man: docs/generate.py writes it."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ringkeeperd.grammar import Argument, Command, Option

_WIDTH: Final = 96
_SHARED_BY: Final = 10
"""An option that so many commands have is told once."""
_TABLES: Final = """\
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
Refused or failed; one line on standard error says what, why, and what to do.
.TP
.B 2
Wrong usage.
.B ringkeeper run
also exits so if its configuration cannot work, so that nobody need start it again.
.SH FILES
.TP
.I ./config.yaml
.TQ
.I /etc/ringkeeper/config.yaml
The configuration, unless
.B \\-\\-config
or
.B RINGKEEPER_CONFIG
names another: the first that there is.
.SH ENVIRONMENT
.TP
.B RINGKEEPER_CONFIG
The configuration's path.
.TP
.BI RINGKEEPER_ KEY
Overrides a key of the configuration: its name in capitals, with
.B __
for the dot, as in
.BR RINGKEEPER_REDIS__URL .
.SH EXAMPLES
A first look:
.PP
.nf
.RS
ringkeeper run
ringkeeper status
.RE
.fi
.PP
Let bash complete commands and options, from the next shell on:
.PP
.nf
.RS
mkdir \\-p \\(ti/.local/share/bash\\-completion/completions
cd \\(ti/.local/share/bash\\-completion/completions
ringkeeper completion bash >ringkeeper
.RE
.fi
"""


def page(grammar: Command, version: str) -> str:
    """The page for this command line, in this version."""
    everything = [command for command in grammar.all() if command.words and not command.commands]
    counted = Counter(option for command in everything for option in command.options)
    shared = [option for option, count in counted.items() if count >= _SHARED_BY]
    lines = [
        '.\\" Written by docs/generate.py from the command line itself: make docs',
        f'.TH RINGKEEPER 1 "" "ringkeeper {version}" "ringkeeper"',
        ".SH NAME",
        "ringkeeper \\- turns the keys that sign access tokens, and logs nobody out doing so",
        ".SH SYNOPSIS",
        ".B ringkeeper",
        ".I COMMAND",
        ".RI [ OPTION ]...",
        ".SH DESCRIPTION",
        *_filled(
            "A daemon makes, publishes, activates, retires and removes signing keys; Redis carries "
            "them, signed and sealed, to every instance of an app. The daemon is ringkeeper run; "
            "the other commands look at rings, or ask the leading daemon to change one."
        ),
        ".SH OPTIONS",
        *_options(grammar.options),
        ".PP",
        "Most commands have these, too:",
        *_options(option for option in shared if "--help" not in option.flags),
        ".SH COMMANDS",
    ]
    for command in everything:
        lines += [f".SS ringkeeper {_escaped(' '.join(command.words))}"]
        lines += _usage(command)
        lines += [".PP", *_filled(command.text)]
        lines += _arguments(command.arguments)
        lines += _options(option for option in command.options if option not in shared)
        if command.epilog:
            lines += [".PP", *_filled(command.epilog)]
    return "\n".join(lines) + "\n" + _TABLES


def _usage(command: Command) -> Iterator[str]:
    yield f".B ringkeeper {_escaped(' '.join(command.words))}"
    for option in command.options:
        if "--help" not in option.flags:
            yield _in_usage(option, option.flags[-1])
    for argument in command.arguments:
        value = _value(argument)
        yield f".I {value}" if argument.is_required else f".RI [ {value} ]"


def _in_usage(option: Option, flag: str) -> str:
    value = f' "{_value(option)}"' if option.metavar else ""
    if option.is_required:
        return f'.BI "{_escaped(flag)} "{value}' if value else f".B {_escaped(flag)}"
    if not value:
        return f".RB [ {_escaped(flag)} ]"
    return f"[\\fB{_escaped(flag)}\\fR \\fI{_value(option)}\\fR]"


def _options(options: Iterator[Option] | tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        flags = ", ".join(f"\\fB{_escaped(flag)}\\fR" for flag in option.flags)
        value = f" \\fI{_value(option)}\\fR" if option.metavar else ""
        yield from (".TP", flags + value, *_filled(option.text))


def _arguments(arguments: tuple[Argument, ...]) -> Iterator[str]:
    for argument in arguments:
        yield from (".TP", f"\\fI{_value(argument)}\\fR", *_filled(argument.text))


def _value(named: Option | Argument) -> str:
    return _escaped("|".join(named.choices) or named.metavar)


def _filled(text: str) -> list[str]:
    """Text in lines; none of them begins like a request of roff's."""
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [re.sub(r"^([.'])", r"\\&\1", _escaped(line)) for line in lines]


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return text.replace("'", "\\(aq").replace("~", "\\(ti").replace("^", "\\(ha")
