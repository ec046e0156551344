"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeperd.command_line import arguments

if TYPE_CHECKING:
    from collections.abc import Sequence


class Named(argparse.Action):
    """A name that may be left out, but is not blank: an unset variable is no choice."""

    def __call__(  # noqa: D102
        self,
        _parser: argparse.ArgumentParser,
        parsed: argparse.Namespace,
        values: str | Sequence[object] | None,
        option: str | None = None,
    ) -> None:
        if not str(values).strip():
            raise argparse.ArgumentError(self, f"is blank; name a ring, or leave out {option}")
        setattr(parsed, self.dest, values)


def add_reason(sub: argparse.ArgumentParser, example: str = "") -> None:
    """Why, for the audit; with an `example`, it has to be said."""
    if example:
        text = f"for the audit, e.g. '{example}'"
        sub.add_argument("--reason", required=True, type=arguments.reason, help=text)
    else:
        sub.add_argument("--reason", default="", help="for the audit")


def add_call_off(options: argparse._ActionsContainer) -> None:
    """What takes back what was asked for."""
    options.add_argument(
        "--call-off",
        action="store_true",
        help="take back a rotation, or a rollback, that was asked for and has not taken place: the "
        "key that signs goes on until its own time",
    )


def add_waiting(sub: argparse.ArgumentParser) -> None:
    """Whether to wait for a key to sign."""
    how = sub.add_mutually_exclusive_group()
    how.add_argument(
        "--wait",
        action="store_true",
        help="wait for it to sign, as long as that may rightly take; else only if it does within "
        "2 minutes",
    )
    how.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait for it to sign, even if it does within 2 minutes",
    )


def add_patience(sub: argparse.ArgumentParser) -> None:
    """How long to wait for a leader."""
    sub.add_argument(
        "--answer-within",
        type=arguments.positive,
        default=15.0,
        metavar="SECONDS",
        help="how long to wait for the leader's answer (default: 15)",
    )


def add_import_options(sub: argparse.ArgumentParser) -> None:
    """What says how a file of keys is to be read."""
    sub.add_argument(
        "--algorithm", default="", metavar="ALG", help="what they sign with, if FILE does not say"
    )
    sub.add_argument(
        "--kid",
        type=arguments.new_kid,
        help="of several keys the one to take, or the name of one that FILE does not name",
    )
    sub.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="what opens an encrypted file: the first line of this one, or of standard input for -",
    )
    sub.add_argument("--app", default="", help="whose rows of SuperTokens' (default: public)")
