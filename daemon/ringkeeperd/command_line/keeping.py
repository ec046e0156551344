"""Commands that make rings and their secrets, and keep them: init, rewrap, backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeperd import commands
from ringkeeperd.command_line import arguments, options

if TYPE_CHECKING:
    import argparse

    from ringkeeperd.command_line.tree import Commands


def add_init(to: Commands) -> None:
    """What makes rings and their secrets."""
    text = "Make all rings and their secrets, once; what exists is never touched."
    making = to.add("init", commands.init, text, default_ring="")
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


def _add_importing(
    making: argparse.ArgumentParser, another: argparse._MutuallyExclusiveGroup
) -> None:
    another.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        type=arguments.brought,
        metavar="[KID=]FILE",
        help="make the ring with the keys that an issuer signs with now, so that its tokens stay "
        "good (docs/import.md): SuperTokens' rows, PEM, DER, PKCS #12, JWK or JWK Set; may be "
        "given several times. The newest dynamic key signs, others verify for as long as their "
        "tokens may live; public keys verify only",
    )
    making.add_argument(
        "--signing",
        type=arguments.kid,
        action="append",
        default=[],
        metavar="KID",
        help="the key that signs, where files do not say which is the newest",
    )
    making.add_argument(
        "--into",
        default="",
        action=options.Named,
        metavar="RING",
        help="which ring takes them (default: the top one)",
    )
    options.add_import_options(making)


def add_rewrap(to: Commands) -> None:
    """What lets a ring go by other secrets."""
    rewrapping = to.add(
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
    options.add_reason(rewrapping)
    options.add_patience(rewrapping)


def add_backups(to: Commands) -> None:
    """What keeps a ring in a file, and brings it back."""
    saving = to.add(
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
    restoring = to.add(
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
    options.add_patience(restoring)
