"""All commands, and what `--help` teaches about them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import ringkeeper
from ringkeeperd import commands
from ringkeeperd.command_line import arguments, keeping, looking, static, tokens, turning
from ringkeeperd.command_line.options import Named

if TYPE_CHECKING:
    from collections.abc import Callable


class Commands:
    """Where commands are added, each with the options that all of them have."""

    def __init__(self, parser: argparse.ArgumentParser, metavar: str) -> None:
        """Those of `parser`, of which one has to be given; usage has it as `metavar`."""
        self._parsers = parser.add_subparsers(metavar=metavar, required=True)

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        as_json: bool = False,
        default_ring: str = "the one at the top level of the configuration",
    ) -> argparse.ArgumentParser:
        """A command that does `run`; without a `default_ring` it is of no ring."""
        made = self.add_bare(name, text)
        made.add_argument(
            "--config",
            type=arguments.file,
            metavar="FILE",
            help="the configuration (default: $RINGKEEPER_CONFIG, ./config.yaml, or "
            "/etc/ringkeeper/config.yaml; environment variables override it)",
        )
        if default_ring:
            told = f"which ring (default: {default_ring})"
            made.add_argument("--ring", default="", action=Named, metavar="NAME", help=told)
        if as_json:
            made.add_argument("--json", action="store_true", help="for programs")
        made.set_defaults(run=run)
        return made

    def add_bare(self, name: str, text: str) -> argparse.ArgumentParser:
        """A command without any option."""
        made = self._parsers.add_parser(name, help=text, description=text)
        made.set_defaults(parser=made)
        return made

    def group(self, name: str, text: str) -> Commands:
        """Commands of two words, of which `name` is the first."""
        return Commands(self._parsers.add_parser(name, help=text, description=text), "ACTION")


def parser(*, is_demo: bool) -> argparse.ArgumentParser:
    """What reads the command line; `is_demo`: with the options of `demo`, too."""
    whole = argparse.ArgumentParser(
        prog="ringkeeper",
        description="Turns the keys that sign your access tokens, and logs nobody out doing so.",
        epilog="A first look: ringkeeper run, then in another terminal: ringkeeper status",
    )
    whole.add_argument("--version", action="version", version=ringkeeper.__version__)
    top = Commands(whole, "COMMAND")
    text = "Run the daemon: turn keys, serve JWKS, metrics and health."
    top.add("run", commands.run, text, default_ring="")
    keeping.add_init(top)
    looking.add_looking(top)
    turning.add_requests(top)
    keeping.add_rewrap(top)
    looking.add_watch(top)
    keeping.add_backups(top)
    _add_demo(top, is_whole=is_demo)
    _add_completion(top)
    static.add_static(top.group("static", "Make, import, show, retire and reinstate static keys."))
    tokens.add_tokens(top.group("token", "Sign or verify a token by hand."))
    return whole


def _add_demo(to: Commands, *, is_whole: bool) -> None:
    demo = to.add_bare("demo", "Watch keys turn under a thousand users, on this machine alone.")
    if is_whole:  # it draws a live view: nobody else pays for loading that
        from ringkeeperd import demo as module  # noqa: PLC0415

        module.add_arguments(demo)
        demo.set_defaults(run=module.main)


def _add_completion(to: Commands) -> None:
    text = "Print a script that lets a shell complete commands, options and files."
    completing = to.add_bare("completion", text)
    completing.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")
    completing.epilog = (
        "For bash, in this shell: source <(ringkeeper completion bash). In every one: put what it "
        "prints into ~/.local/share/bash-completion/completions/ringkeeper. For zsh: into a file "
        "_ringkeeper in a folder of $fpath. For fish: into ~/.config/fish/completions/"
        "ringkeeper.fish."
    )
    completing.set_defaults(run=_complete)


def _complete(parsed: argparse.Namespace) -> int:
    from ringkeeperd import completion, grammar  # noqa: PLC0415 - nobody else needs them

    sys.stdout.write(completion.script(parsed.shell, grammar.read(parser(is_demo=True))))
    return 0
