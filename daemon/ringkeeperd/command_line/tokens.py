"""Commands for tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeeperd import commands
from ringkeeperd.command_line import arguments

if TYPE_CHECKING:
    from ringkeeperd.command_line.tree import Commands


def add_tokens(to: Commands) -> None:
    """What signs a token, and verifies one."""
    signing = to.add(
        "sign",
        commands.token_sign,
        "Print a token with these claims, signed by the ring.",
    )
    signing.add_argument(
        "--claims", default="{}", metavar="JSON", help="""e.g. '{"sub":"alice"}'"""
    )
    signing.add_argument(
        "--lifetime",
        type=arguments.lifetime,
        metavar="SECONDS",
        help="or with a unit, 15m (default: access_token_validity)",
    )
    verifying = to.add(
        "verify", commands.token_verify, "Print the claims of a good token; exit 1 if bad."
    )
    verifying.add_argument("token", metavar="TOKEN", help="the token, or - to read it from stdin")
    verifying.add_argument(
        "--audience",
        type=arguments.party,
        action="append",
        help="must be named in aud; given several times, one of them",
    )
    verifying.add_argument("--issuer", type=arguments.party, help="must be iss")
