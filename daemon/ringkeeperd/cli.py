"""The `ringkeeper` command: exit 0 done, 1 refused or failed, 2 wrong usage.

`run` also exits 2 where its configuration cannot work, so that whoever supervises it need not try
again. Whatever fails says so in one line on standard error: what, why,
what to do.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import ringkeeperd.one_by_one  # noqa: F401  # isort: skip - before what it puts off
import ringkeeper
from ringkeeper.durations import parse_duration
from ringkeeper.errors import ConfigurationError, RingkeeperError
from ringkeeperd import commands
from ringkeeperd.kids import NEW_KID, is_new_kid
from ringkeeperd.misuse import Misused
from ringkeeperd.undumpable import leave_no_dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_LONGEST_KID = 64
_MOST_EVENTS = 20_000
_MOST_TURNS = 100
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    leave_no_dumps()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
    finally:  # --help and --version exit by themselves
        is_heard = _flushed()
    sys.exit(code if is_heard else code or 1)


def _flushed() -> bool:
    """Whether somebody took all that was answered; `head` goes when it has enough, disks are full.

    Else Python says so at exit, with a traceback and a status of its own.
    """
    is_heard = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            is_heard = is_heard and stream is sys.stderr  # a lost line of the log fails no daemon
    return is_heard


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = _parsed(arguments)
        code: int = parsed.run(parsed)
    except ConfigurationError as error:
        for problem in error.problems:
            commands.complain(problem)
        return _USAGE if arguments[:1] == ["run"] else 1
    except RingkeeperError as error:
        commands.complain(str(error))
        return _USAGE if isinstance(error, Misused) else 1
    except ModuleNotFoundError as error:
        commands.complain(
            f"{error.name} is not installed; the daemon and the command need an extra: "
            "pip install '/path/to/ringkeeper[daemon]', with the path of its source"
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return code


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What was given; what no command knows is told with the usage of the command it was given."""
    parser = _parser(is_demo=arguments[:1] == ["demo"])
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        parsed.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


# --- the commands, and what --help teaches about them --------------------------------------------


def _parser(*, is_demo: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ringkeeper",
        description="Turns the keys that sign your access tokens, and logs nobody out doing so.",
        epilog="A first look: ringkeeper run, then in another terminal: ringkeeper status",
    )
    parser.add_argument("--version", action="version", version=ringkeeper.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        as_json: bool = False,
        default_ring: str = "the one at the top level of the configuration",
    ) -> argparse.ArgumentParser:
        """A command with the options that all of them have."""
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="the configuration (default: $RINGKEEPER_CONFIG, ./config.yaml, or "
            "/etc/ringkeeper/config.yaml; environment variables override it)",
        )
        if default_ring:
            told = f"which ring (default: {default_ring})"
            sub.add_argument("--ring", default="", action=_Named, metavar="NAME", help=told)
        if as_json:
            sub.add_argument("--json", action="store_true", help="for programs")
        sub.set_defaults(run=run, parser=sub)
        return sub

    text = "Run the daemon: turn keys, serve JWKS, metrics and health."
    command("run", commands.run, text, default_ring="")
    text = "Make all rings and their secrets, once; what exists is never touched."
    making = command("init", commands.init, text, default_ring="")
    another = making.add_mutually_exclusive_group()
    another.add_argument(
        "--new-root",
        action="store_true",
        help="put a fresh trust root in front of the present one, into both files; nothing uses it "
        "before ringkeeper rewrap",
    )
    another.add_argument(
        "--new-kek",
        action="store_true",
        help="put a fresh KEK in front of the present one; nothing uses it before rewrap",
    )
    another.add_argument(
        "--secrets-only",
        action="store_true",
        help="make the secrets, no ring, and ask no Redis: to hand them to where daemons run",
    )
    another.add_argument(
        "--if-missing",
        action="store_true",
        help="be content with rings that exist, if these secrets open them: for what is run again",
    )
    making.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="with --secrets-only: where they come, without a configuration",
    )
    making.add_argument(
        "--former-lost",
        action="store_true",
        help="with --new-root: the present root's private half is gone for good (docs/secrets.md)",
    )
    _add_importing(making, another)
    _add_looking(command)
    _add_requests(command)
    _add_secrets_and_audit(command)
    _add_backups(command)

    text = "Watch keys turn under a thousand users, on this machine alone."
    demo = subparsers.add_parser("demo", help=text, description=text)
    if is_demo:  # it draws a live view: nobody else pays for loading that
        from ringkeeperd import demo as module  # noqa: PLC0415

        module.add_arguments(demo)
        demo.set_defaults(run=module.main)
    demo.set_defaults(parser=demo)

    text = "Print a script that lets a shell complete commands, options and files."
    completing = subparsers.add_parser("completion", help=text, description=text)
    completing.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")
    completing.epilog = (
        "For bash, in this shell: source <(ringkeeper completion bash). In every one: put what it "
        "prints into ~/.local/share/bash-completion/completions/ringkeeper. For zsh: into a file "
        "_ringkeeper in a folder of $fpath. For fish: into ~/.config/fish/completions/"
        "ringkeeper.fish."
    )
    completing.set_defaults(run=_completion, parser=completing)

    top = subparsers
    text = "Make, import, show, retire and reinstate static keys."
    static = top.add_parser("static", help=text, description=text)
    subparsers = static.add_subparsers(metavar="ACTION", required=True)
    _add_static(command)
    text = "Sign or verify a token by hand."
    token = top.add_parser("token", help=text, description=text)
    subparsers = token.add_subparsers(metavar="ACTION", required=True)
    _add_tokens(command)
    return parser


def _completion(parsed: argparse.Namespace) -> int:
    from ringkeeperd import completion, grammar  # noqa: PLC0415 - nobody else needs them

    sys.stdout.write(completion.script(parsed.shell, grammar.read(_parser(is_demo=True))))
    return 0


def _add_importing(
    making: argparse.ArgumentParser, another: argparse._MutuallyExclusiveGroup
) -> None:
    another.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        type=_import,
        metavar="[KID=]FILE",
        help="make the ring with the keys that an issuer signs with now, so that its tokens stay "
        "good (docs/import.md): SuperTokens' rows, PEM, DER, PKCS #12, JWK or JWK Set; may be "
        "given several times. The newest dynamic key signs, others verify for as long as their "
        "tokens may live; public keys verify only",
    )
    making.add_argument(
        "--signing",
        type=_kid,
        action="append",
        default=[],
        metavar="KID",
        help="the key that signs, where files do not say which is the newest",
    )
    making.add_argument(
        "--into",
        default="",
        action=_Named,
        metavar="RING",
        help="which ring takes them (default: the top one)",
    )
    add_import_options(making)


def _add_looking(command: Callable[..., argparse.ArgumentParser]) -> None:
    checking = command(
        "check",
        commands.check,
        "Check configuration, secrets, Redis and rings without changing anything. Exit 1 if "
        "something is wrong; that nobody leads, or nothing is made yet, is only remarked on.",
        as_json=True,
        default_ring="all",
    )
    asking = checking.add_mutually_exclusive_group()
    asking.add_argument(
        "--alive",
        action="store_true",
        help="only ask the daemon that runs here whether it lives (/healthz), within 2 seconds; "
        "exit 1 if not: for health checks",
    )
    asking.add_argument(
        "--ready",
        action="store_true",
        help="only ask it whether every ring is loaded and fresh enough to rely on (/readyz)",
    )
    showing = command(
        "status",
        commands.status,
        "Show a ring: keys, leader, instances, who is behind and who is waited for. More than "
        "five are shown in a table, those first that somebody should look at.",
        as_json=True,
        default_ring="all; with --json the one at the top level, which names the others",
    )
    showing.add_argument(
        "--all", action="store_true", help="every ring whole; with --json, as one object"
    )
    _add_plan(command)
    command("jwks", commands.jwks, "Print the ring's JWK Set.")
    examining = command(
        "doctor",
        commands.doctor,
        "Look at everything that bites one day: this host's files, Redis, each ring. A line each: "
        "ok, warn or fail, and the remedy. Exit 1 on a fail. It changes nothing.",
        as_json=True,
        default_ring="all",
    )
    examining.add_argument(
        "--acl",
        action="store_true",
        help="print Redis users for daemons, sidecars, apps and operators, who may do what each of "
        "them has to and nothing else (docs/redis.md), and look at nothing",
    )


def _add_plan(command: Callable[..., argparse.ArgumentParser]) -> None:
    planning = command(
        "plan",
        commands.plan,
        "Show the ring's future, keys by time: who signs when, and when each key goes. With a "
        "change: what would differ, before it is made; what would break a promise is refused, with "
        "the numbers that show why. It asks no leader, and changes nothing.",
        as_json=True,
    )
    planning.epilog = (
        "What would happen if keys turned daily: ringkeeper plan --interval 24. Whom a revocation "
        "would hit: ringkeeper plan --revoke KID. What an edited file would bring: ringkeeper plan "
        "--config edited.yaml. Keys that will be made are named next-1, next-2. Options that set "
        "one thing to two values are refused, and so is --json with --svg -."
    )
    thought = planning.add_argument_group("what if, for the settings (ringkeeper set does it)")
    thought.add_argument("--interval", metavar="HOURS", help="how long a key signs")
    thought.add_argument("--validity", metavar="SECONDS", help="how long a token may live")
    thought.add_argument("--algorithm", metavar="ALG", help="what fresh keys are made for")
    mode = thought.add_mutually_exclusive_group()
    mode.add_argument(
        "--static",
        dest="use_dynamic",
        action="store_const",
        const="false",
        help="the static key signs",
    )
    mode.add_argument(
        "--dynamic",
        dest="use_dynamic",
        action="store_const",
        const="true",
        help="the dynamic key signs",
    )
    thought.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of a ring, as in config.yaml; may be repeated",
    )
    asked = planning.add_argument_group("what if, for the keys")
    deed = asked.add_mutually_exclusive_group()
    deed.add_argument("--revoke", type=_kid, metavar="KID", help="that key is revoked")
    deed.add_argument("--rotate", action="store_true", help="the next key signs as soon as it may")
    deed.add_argument("--rollback", action="store_true", help="the former key signs again")
    deed.add_argument(
        "--call-off",
        nargs="?",
        const=True,
        type=_kid,
        metavar="KID",
        help="no turn was asked for; with KID: nobody drains that key",
    )
    asked.add_argument(
        "--drain",
        type=_window,
        metavar="DURATION",
        help="with --revoke: little by little, within that long (30m)",
    )
    asked.add_argument(
        "--now", action="store_true", help="with --rotate: as soon as obedient caches know it"
    )
    planning.add_argument(
        "--turns",
        type=_turns,
        default=3,
        metavar="N",
        help="look until N keys have begun to sign (default: 3), and those of now have gone",
    )
    planning.add_argument(
        "--svg", type=Path, metavar="FILE", help="write a picture, too (-: only that)"
    )


def _add_requests(command: Callable[..., argparse.ArgumentParser]) -> None:
    rotating = command(
        "rotate",
        commands.asking("rotate"),
        "Let the next key sign, at the earliest safe moment, and say when that is. Until it does, "
        "--call-off takes that back; afterwards ringkeeper rollback turns back.",
    )
    otherwise = rotating.add_mutually_exclusive_group()
    otherwise.add_argument(
        "--now",
        action="store_true",
        help="shorten the standby's publication interval to jwks_max_age: verifiers that cache "
        "the JWKS longer than it allows may refuse tokens for a while; takes a --reason",
    )
    _add_call_off(otherwise)
    _add_reason(rotating)
    _add_waiting(rotating)
    _add_patience(rotating)

    returning = command(
        "rollback",
        commands.asking("rollback"),
        "Let the key sign again that signed before, once every instance confirmed it; as long as "
        "that one is retired, and neither revoked nor removed. Until it does, --call-off takes "
        "that back.",
    )
    _add_call_off(returning)
    _add_reason(returning)
    _add_waiting(returning)
    _add_patience(returning)

    revoking = command(
        "revoke",
        commands.asking("revoke"),
        "Refuse every token of a key from now on; its users must log in or refresh. That is never "
        "taken back; a --drain is, by --call-off, until it is over.",
    )
    revoking.add_argument(
        "kid", type=_kid, metavar="KID", help="the key, as ringkeeper status shows it"
    )
    _add_reason(revoking, example="leaked in a backup")
    how = revoking.add_mutually_exclusive_group()
    how.add_argument(
        "--drain",
        type=_window,
        metavar="DURATION",
        help="a precaution, of which nobody knows that it leaked: refuse its tokens little by "
        "little, all of them that long from now (30m; a poll_interval at least), so that not all "
        "users come at once",
    )
    how.add_argument(
        "--call-off",
        action="store_true",
        help="take back a drain that is not over: all of its tokens count again",
    )
    _add_patience(revoking)

    setting = command(
        "set",
        commands.asking("change_setting"),
        "Set a value of the ring's policy, whatever files say, from the next version on; or show "
        "what is set so. Times that are set already stay as they are.",
    )
    setting.add_argument("setting", nargs="?", metavar="KEY", help="as in config.yaml")
    setting.add_argument("value", nargs="?", metavar="VALUE", help="as in config.yaml")
    setting.add_argument("--unset", action="store_true", help="leave it to the files again")
    _add_reason(setting)
    _add_patience(setting)


def _add_static(command: Callable[..., argparse.ArgumentParser]) -> None:
    creating = command(
        "create",
        commands.static("create_key"),
        "Make a static key. Where there is one already, the new one only verifies until that one "
        "is retired.",
    )
    creating.add_argument("--algorithm", default="", metavar="ALG", help="default: the policy's")
    _add_reason(creating)
    _add_patience(creating)

    importing = command(
        "import",
        commands.static("import_keys"),
        "Import static keys that were made elsewhere: PEM, DER, JWK, JWK Set, PKCS #12, or rows "
        "of SuperTokens' tables.",
    )
    importing.add_argument("file", type=Path, metavar="FILE", help="where the keys are")
    add_import_options(importing)
    importing.add_argument(
        "--verify-only",
        action="store_true",
        help="take the public half alone: it verifies another issuer's tokens, and signs nothing",
    )
    _add_reason(importing)
    _add_patience(importing)

    command(
        "list",
        commands.static("list_keys"),
        "Show the static keys, and those that only verify.",
        as_json=True,
    )
    showing = command(
        "public", commands.static("print_public"), "Print a public key, to hardcode it."
    )
    showing.add_argument(
        "kid", type=_kid, nargs="?", metavar="KID", help="default: the one that signs"
    )
    showing.add_argument(
        "--form", choices=("pem", "jwk"), default="pem", help="PEM (default), or a JWK"
    )
    retiring = command(
        "retire",
        commands.static("retire_key"),
        "Let a static key go: the next one signs, and it verifies what it signed until the last "
        "such token has expired.",
    )
    retiring.add_argument("kid", type=_kid, metavar="KID", help="the key")
    _add_reason(retiring)
    _add_patience(retiring)
    undoing = command(
        "reinstate",
        commands.static("reinstate_key"),
        "Take a retirement back, as long as the key is there and neither revoked nor drained: it "
        "is published again, and the next static key to sign, if it signed before: retire the "
        "present one then.",
    )
    undoing.add_argument("kid", type=_kid, metavar="KID", help="the key")
    _add_reason(undoing)
    _add_patience(undoing)


def add_import_options(sub: argparse.ArgumentParser) -> None:
    """What says how a file of keys is to be read."""
    sub.add_argument(
        "--algorithm", default="", metavar="ALG", help="what they sign with, if FILE does not say"
    )
    sub.add_argument(
        "--kid",
        type=_new_kid,
        help="of several keys the one to take, or the name of one that FILE does not name",
    )
    sub.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="what opens an encrypted file: the first line of this one, or of standard input for -",
    )
    sub.add_argument("--app", default="", help="whose rows of SuperTokens' (default: public)")


def _add_reason(sub: argparse.ArgumentParser, example: str = "") -> None:
    if example:
        text = f"for the audit, e.g. '{example}'"
        sub.add_argument("--reason", required=True, type=_reason, help=text)
    else:
        sub.add_argument("--reason", default="", help="for the audit")


def _add_call_off(options: argparse._ActionsContainer) -> None:
    options.add_argument(
        "--call-off",
        action="store_true",
        help="take back a rotation, or a rollback, that was asked for and has not taken place: the "
        "key that signs goes on until its own time",
    )


def _add_waiting(sub: argparse.ArgumentParser) -> None:
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


def _add_secrets_and_audit(command: Callable[..., argparse.ArgumentParser]) -> None:
    rewrapping = command(
        "rewrap",
        commands.rewrap,
        "Let the leader seal all private keys by the first KEK of its file, and sign by the first "
        "root. It refuses while a live instance does not have them.",
        as_json=True,
        default_ring="all",
    )
    how = rewrapping.add_mutually_exclusive_group()
    how.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit 1 if anything still needs a former KEK or root",
    )
    how.add_argument(
        "--drop-former",
        action="store_true",
        help="take the former KEK and root out of the files of this host, once --check is content; "
        "backups of before need them",
    )
    how.add_argument(
        "--now",
        action="store_true",
        help="even though a live instance lacks the new secrets: without the KEK it stops signing "
        "after a turn or two, without the root it hears of nothing new, until it has them",
    )
    _add_reason(rewrapping)
    _add_patience(rewrapping)

    watching = command(
        "watch",
        commands.watch,
        "Print what happens to a ring as it happens, and whether its audit is whole: each event is "
        "signed and numbered, and a gap, a repetition or a forgery is pointed out.",
    )
    watching.add_argument("--json", action="store_true", help="for programs: one object a line")
    watching.add_argument(
        "--last",
        type=_count,
        default=10,
        metavar="N",
        help="begin with the newest N that are there (default: 10)",
    )
    watching.add_argument(
        "--no-follow",
        action="store_true",
        help="do not wait for more; exit 1 if something was wrong",
    )


def _add_backups(command: Callable[..., argparse.ArgumentParser]) -> None:
    saving = command(
        "backup",
        commands.backup,
        "Put rings into a signed file, private keys sealed as in Redis; it holds neither the KEK "
        "nor the trust root. Exit 1 if anything of it is not as it should be.",
        default_ring="all",
    )
    how = saving.add_mutually_exclusive_group()
    how.add_argument(
        "--out",
        default="",
        metavar="FILE",
        help="where; in a folder it gets a name of its own, - is stdout (default: this folder). "
        "Nothing is ever overwritten",
    )
    how.add_argument(
        "--check",
        metavar="FILE",
        help="write nothing and ask no Redis: is this file whole, and could this host use it?",
    )
    restoring = command(
        "restore",
        commands.restore,
        "Show the leader what a backup holds. It adds what Redis lacks, and takes nothing back: "
        "what is newer stays, and so does every revocation that anybody knows.",
        default_ring="all that are in the file",
    )
    restoring.add_argument("file", metavar="FILE", help="the backup, or - to read it from stdin")
    restoring.add_argument(
        "--dry-run", action="store_true", help="only say what it would add to what Redis holds"
    )
    restoring.add_argument(
        "--take-back",
        action="store_true",
        help="let the backup count even where Redis lost versions and operators have changed the "
        "ring since: that is refused otherwise, and named",
    )
    _add_patience(restoring)


def _add_tokens(command: Callable[..., argparse.ArgumentParser]) -> None:
    signing = command(
        "sign",
        commands.token_sign,
        "Print a token with these claims, signed by the ring.",
    )
    signing.add_argument(
        "--claims", default="{}", metavar="JSON", help="""e.g. '{"sub":"alice"}'"""
    )
    signing.add_argument(
        "--lifetime",
        type=_lifetime,
        metavar="SECONDS",
        help="or with a unit, 15m (default: access_token_validity)",
    )
    verifying = command(
        "verify", commands.token_verify, "Print the claims of a good token; exit 1 if bad."
    )
    verifying.add_argument("token", metavar="TOKEN", help="the token, or - to read it from stdin")
    verifying.add_argument("--audience", help="must be named in aud")
    verifying.add_argument("--issuer", help="must be iss")


class _Named(argparse.Action):
    """A name that may be left out, but is not blank: an unset variable is no choice."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        parsed: argparse.Namespace,
        values: str | Sequence[object] | None,
        option: str | None = None,
    ) -> None:
        if not str(values).strip():
            raise argparse.ArgumentError(self, f"is blank; name a ring, or leave out {option}")
        setattr(parsed, self.dest, values)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("is no number above 0; write e.g. 15 or 0.5")
    return number


def _lifetime(text: str) -> float:
    with suppress(argparse.ArgumentTypeError):
        return positive(text)
    try:
        return positive(str(parse_duration(text).total_seconds()))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError("is no number of seconds, nor 30s, 15m, 1h") from None


def _import(text: str) -> tuple[str, Path]:
    """A file, and the kid of its key, where that is said."""
    if "=" not in text or _is_file(Path(text)):
        return "", Path(text)
    parts = text.split("=")  # a kid in base64 ends with some, too
    splits = [("=".join(parts[:n]), Path("=".join(parts[n:]))) for n in range(1, len(parts))]
    kid, path = next((split for split in splits if _is_file(split[1])), splits[0])
    return _new_kid(kid), path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no file has such a long name
        return False


def _window(text: str) -> timedelta:
    try:
        window = parse_duration(text)
    except ValueError:
        window = timedelta(0)
    if not window:
        raise argparse.ArgumentTypeError("is no duration above 0; write 90s, 30m, 2h")
    return window


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= _MOST_EVENTS):
        raise argparse.ArgumentTypeError(f"is no number from 1 to {_MOST_EVENTS}")
    return int(text)


def _turns(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= _MOST_TURNS):
        raise argparse.ArgumentTypeError(f"is no number from 1 to {_MOST_TURNS}")
    return int(text)


def _kid(text: str) -> str:
    if not 0 < len(text) <= _LONGEST_KID or not text.isprintable():
        raise argparse.ArgumentTypeError("that is no kid; ringkeeper status shows those there are")
    return text


def _new_kid(text: str) -> str:
    if not is_new_kid(text):
        raise argparse.ArgumentTypeError(NEW_KID)
    return text


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is blank; say why, for whoever reads the audit")
    return text


def _add_patience(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--answer-within",
        type=positive,
        default=15.0,
        metavar="SECONDS",
        help="how long to wait for the leader's answer (default: 15)",
    )


if __name__ == "__main__":
    main()
