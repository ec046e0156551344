"""Commands that ask the leader for a change: rotate, rollback, revoke, set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeeperd import commands
from ringkeeperd.command_line import arguments, options

if TYPE_CHECKING:
    from ringkeeperd.command_line.tree import Commands


def add_requests(to: Commands) -> None:
    """What turns keys, turns back, revokes, and sets."""
    rotating = to.add(
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
    options.add_call_off(otherwise)
    options.add_reason(rotating)
    options.add_waiting(rotating)
    options.add_patience(rotating)

    returning = to.add(
        "rollback",
        commands.asking("rollback"),
        "Let the key sign again that signed before, once every instance confirmed it; as long as "
        "that one is retired, and neither revoked nor removed. Until it does, --call-off takes "
        "that back.",
    )
    options.add_call_off(returning)
    options.add_reason(returning)
    options.add_waiting(returning)
    options.add_patience(returning)

    revoking = to.add(
        "revoke",
        commands.asking("revoke"),
        "Refuse every token of a key from now on; its users must log in or refresh. That is never "
        "taken back; a --drain is, by --call-off, until it is over.",
    )
    revoking.add_argument(
        "kid", type=arguments.kid, metavar="KID", help="the key, as ringkeeper status shows it"
    )
    options.add_reason(revoking, example="leaked in a backup")
    how = revoking.add_mutually_exclusive_group()
    how.add_argument(
        "--drain",
        type=arguments.window,
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
    options.add_patience(revoking)

    setting = to.add(
        "set",
        commands.asking("change_setting"),
        "Set a value of the ring's policy, whatever files say, from the next version on; or show "
        "what is set so. Times that are set already stay as they are.",
    )
    setting.add_argument("setting", nargs="?", metavar="KEY", help="as in config.yaml")
    setting.add_argument("value", nargs="?", metavar="VALUE", help="as in config.yaml")
    setting.add_argument("--unset", action="store_true", help="leave it to the files again")
    options.add_reason(setting)
    options.add_patience(setting)
