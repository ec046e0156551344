"""Commands that look, and change nothing: check, status, plan, jwks, doctor, watch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeperd import commands
from ringkeeperd.command_line import arguments

if TYPE_CHECKING:
    import argparse

    from ringkeeperd.command_line.tree import Commands


def add_looking(to: Commands) -> None:
    """What shows rings, and finds what is wrong with them."""
    checking = to.add(
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
    showing = to.add(
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
    _add_plan(to)
    to.add("jwks", commands.jwks, "Print the ring's JWK Set.")
    examining = to.add(
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


def _add_plan(to: Commands) -> None:
    planning = to.add(
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
    _add_settings_thought_of(planning)
    _add_changes_thought_of(planning)
    planning.add_argument(
        "--turns",
        type=arguments.turns,
        default=3,
        metavar="N",
        help="look until N keys have begun to sign (default: 3), and those of now have gone",
    )
    planning.add_argument(
        "--svg", type=Path, metavar="FILE", help="write a picture, too (-: only that)"
    )


def _add_settings_thought_of(planning: argparse.ArgumentParser) -> None:
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


def _add_changes_thought_of(planning: argparse.ArgumentParser) -> None:
    asked = planning.add_argument_group("what if, for the keys")
    deed = asked.add_mutually_exclusive_group()
    deed.add_argument("--revoke", type=arguments.kid, metavar="KID", help="that key is revoked")
    deed.add_argument("--rotate", action="store_true", help="the next key signs as soon as it may")
    deed.add_argument("--rollback", action="store_true", help="the former key signs again")
    deed.add_argument(
        "--call-off",
        nargs="?",
        const=True,
        type=arguments.kid,
        metavar="KID",
        help="no turn was asked for; with KID: nobody drains that key",
    )
    asked.add_argument(
        "--drain",
        type=arguments.window,
        metavar="DURATION",
        help="with --revoke: little by little, within that long (30m)",
    )
    asked.add_argument(
        "--now", action="store_true", help="with --rotate: as soon as obedient caches know it"
    )


def add_watch(to: Commands) -> None:
    """What shows the audit as it grows."""
    watching = to.add(
        "watch",
        commands.watch,
        "Print what happens to a ring as it happens, and whether its audit is whole: each event is "
        "signed and numbered, and a gap, a repetition or a forgery is pointed out.",
    )
    watching.add_argument("--json", action="store_true", help="for programs: one object a line")
    watching.add_argument(
        "--last",
        type=arguments.count,
        default=10,
        metavar="N",
        help="begin with the newest N that are there (default: 10)",
    )
    watching.add_argument(
        "--no-follow",
        action="store_true",
        help="do not wait for more; exit 1 if something was wrong",
    )
