"""Commands for static keys, and for foreign ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeperd import commands
from ringkeeperd.command_line import arguments, options

if TYPE_CHECKING:
    from ringkeeperd.command_line.tree import Commands


def add_static(to: Commands) -> None:
    """What becomes of keys that nobody turns."""
    creating = to.add(
        "create",
        commands.static("create_key"),
        "Make a static key. Where there is one already, the new one only verifies until that one "
        "is retired.",
    )
    creating.add_argument("--algorithm", default="", metavar="ALG", help="default: the policy's")
    options.add_reason(creating)
    options.add_patience(creating)

    importing = to.add(
        "import",
        commands.static("import_keys"),
        "Import static keys that were made elsewhere: PEM, DER, JWK, JWK Set, PKCS #12, or rows "
        "of SuperTokens' tables.",
    )
    importing.add_argument("file", type=Path, metavar="FILE", help="where the keys are")
    options.add_import_options(importing)
    importing.add_argument(
        "--verify-only",
        action="store_true",
        help="take the public half alone: it verifies another issuer's tokens, and signs nothing",
    )
    options.add_reason(importing)
    options.add_patience(importing)

    to.add(
        "list",
        commands.static("list_keys"),
        "Show the static keys, and those that only verify.",
        as_json=True,
    )
    showing = to.add(
        "public", commands.static("print_public"), "Print a public key, to hardcode it."
    )
    showing.add_argument(
        "kid", type=arguments.kid, nargs="?", metavar="KID", help="default: the one that signs"
    )
    showing.add_argument(
        "--form", choices=("pem", "jwk"), default="pem", help="PEM (default), or a JWK"
    )
    retiring = to.add(
        "retire",
        commands.static("retire_key"),
        "Let a static key go: the next one signs, and it verifies what it signed until the last "
        "such token has expired.",
    )
    retiring.add_argument("kid", type=arguments.kid, metavar="KID", help="the key")
    options.add_reason(retiring)
    options.add_patience(retiring)
    undoing = to.add(
        "reinstate",
        commands.static("reinstate_key"),
        "Take a retirement back, as long as the key is there and neither revoked nor drained: it "
        "is published again, and the next static key to sign, if it signed before: retire the "
        "present one then.",
    )
    undoing.add_argument("kid", type=arguments.kid, metavar="KID", help="the key")
    options.add_reason(undoing)
    options.add_patience(undoing)
