"""`ringkeeper plan`: what becomes of a ring, and what a change would make of it.

It only looks, as `ringkeeper status` does: it asks no leader, needs no private root, and writes
nothing to Redis.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from ringkeeper.durations import format_duration
from ringkeeper.errors import ConfigurationError, RequestRefused
from ringkeeperd.misuse import Misused
from ringkeeperd.operator import at_ring, some
from ringkeeperd.overrides import Rules, value_of
from ringkeeperd.planning import Plan, Wish, differences, foreseen, knowledge_of
from ringkeeperd.prospects import prospects
from ringkeeperd.rotation import Confirmations, public_at
from ringkeeperd.timeline import drawn, plain, rows_of
from ringkeeperd.timeline_svg import document
from ringkeeperd.words import hastened, unready

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeperd.forecast import Outstanding
    from ringkeeperd.foresight import Foresight, Life
    from ringkeeperd.operator import Operator, Seen
    from ringkeeperd.planning import Knowledge

_UNBOUNDED: Final = 1000
ASSUMED: Final = (
    "assumed: somebody leads all the time, every live instance confirms at once, and nobody asks "
    "for anything else"
)


def planned(parsed: argparse.Namespace, configuration: Configuration) -> Plan:
    """The future of the ring that was asked for, and what the options would make of it.

    Raises:
        ConfigurationError: they would break a promise, and by how much.
        RequestRefused: a leader would refuse them, and why.
    """
    chosen = configuration.ring(parsed.ring)
    settings, wish = _settings(parsed), _wish(parsed)

    async def look(operator: Operator) -> tuple[Seen, datetime, Outstanding]:
        seen = await operator.look()
        return seen, operator.now(), await operator.outstanding(seen.ring)

    seen, now, counted = at_ring(configuration, chosen.name, look)
    policy, remarks = _policy(seen.ring, chosen, settings, has_wish=wish != Wish())
    if problem := policy.lease_problem(configuration.lease_ttl, chosen.name):
        raise ConfigurationError([problem])
    return made(
        seen, now, policy, wish, settings, remarks=remarks, turns=parsed.turns, counted=counted
    )


def made(  # noqa: PLR0913 - all but what is looked at by name
    seen: Seen,
    now: datetime,
    policy: Policy,
    wish: Wish,
    settings: Mapping[str, str],
    *,
    remarks: tuple[str, ...] = (),
    turns: int,
    counted: Outstanding | None = None,
) -> Plan:
    """The plan for a ring as it was `seen`; `counted` are the tokens that apps signed."""
    ring, confirmed = seen.ring, Confirmations(seen.instances, now)
    before, after = foreseen(ring, policy, wish, now, turns=turns, confirmed=confirmed)
    outstanding: dict[str, int] | None = None
    told: tuple[str, ...] = ()
    if counted and counted.total(counted.at):
        outstanding = {key.kid: counted.tokens(key.kid, counted.at) for key in ring.keys}
        verifies = sum(instance.verifies for instance in seen.instances)
        told = prospects(ring, policy, wish, counted, verifies=verifies)
    active = seen.ring.active()
    is_other = active is None or active.algorithm != policy.algorithm
    knowledge = knowledge_of(seen.instances, policy.algorithm) if is_other else None
    return Plan(
        ring=seen.ring,
        before=before,
        after=after,
        title=_title(settings, wish),
        differences=(*differences(before, after, outstanding), *told) if after else (),
        commands=_commands(settings, wish) if after else (),
        warnings=(*_warnings(knowledge, policy), *_risks(ring, after)),
        remarks=(*remarks, *_idle(settings, after), *_remarks(seen, after or before, wish)),
        knowledge=knowledge,
        outstanding=outstanding,
    )


# --- what is asked -------------------------------------------------------------------------------


def _settings(parsed: argparse.Namespace) -> dict[str, str]:
    """The settings that are thought of, as one would write them, by key.

    Raises:
        Misused: they cannot be read, or contradict each other.
    """
    settings: dict[str, str] = {}
    given: dict[str, str] = {}
    try:
        for option, key, text in _options(parsed):
            if key in given and value_of(key, text) != value_of(key, settings[key]):
                raise Misused(f"{given[key]} and {option} contradict each other; leave one out")
            value_of(key, text)
            settings[key], given[key] = text, option
    except ConfigurationError as error:
        raise Misused("; ".join(error.problems)) from None
    return settings


def _options(parsed: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Each option that sets something, as it was given: itself, the setting, the value."""
    for option in parsed.set:
        key, equals, text = option.partition("=")
        if not equals:
            raise Misused(f"--set {option}: write KEY=VALUE, as in config.yaml")
        yield f"--set {option}", key, text
    mode = "--dynamic" if parsed.use_dynamic == "true" else "--static"
    for option, key, text in (
        (
            f"--interval {parsed.interval}",
            "access_token_dynamic_signing_key_update_interval",
            parsed.interval,
        ),
        (f"--validity {parsed.validity}", "access_token_validity", parsed.validity),
        (f"--algorithm {parsed.algorithm}", "algorithm", parsed.algorithm),
        (mode, "use_dynamic_access_token_signing_key", parsed.use_dynamic),
    ):
        if text is not None:
            yield option, key, text


def _wish(parsed: argparse.Namespace) -> Wish:
    if parsed.json and str(parsed.svg) == "-":
        raise Misused("--json and --svg - both write to standard output; name a file for --svg")
    if parsed.drain and not parsed.revoke:
        raise Misused("--drain belongs to --revoke KID: it says how fast")
    if parsed.now and not parsed.rotate:
        raise Misused("--now belongs to --rotate: it says how soon")
    return Wish(
        parsed.revoke or "",
        parsed.drain,
        rotate=parsed.rotate,
        hasten=parsed.now,
        rollback=parsed.rollback,
        call_off=parsed.call_off is True,
        call_off_drain=parsed.call_off if isinstance(parsed.call_off, str) else "",
    )


def _policy(
    ring: Ring, chosen: RingConfiguration, settings: Mapping[str, str], *, has_wish: bool
) -> tuple[Policy, tuple[str, ...]]:
    """What the ring would be led by, and what there is to remark on.

    Raises:
        ConfigurationError: it cannot be, and the numbers that say why.
    """
    if has_wish and not settings:
        return ring.policy, ()
    rules = Rules.of(chosen.policy, chosen.given)
    stands: Policy | None = None
    try:
        stands = rules.under(ring.overrides)
    except ConfigurationError as error:
        if not settings:
            return ring.policy, (f"settings of the ring contradict files: {error.problems[0]}",)
    policy = rules.under({**dict(ring.overrides), **settings}.items())
    if stands == ring.policy:
        return policy, ()
    remark = (
        f"the configuration here says otherwise than ring {ring.name} is led by now: that is among "
        "what differs, and comes with the next daemon that leads by it"
    )
    return policy, (remark,)


def _title(settings: Mapping[str, str], wish: Wish) -> str:
    parts = [f"{key} is {text}" for key, text in settings.items()]
    soon = "as soon as obedient caches know it" if wish.hasten else "as soon as it may"
    parts += [f"the next key signs {soon}"] if wish.rotate else []
    parts += ["the former key signs again"] if wish.rollback else []
    parts += ["no turn was asked for"] if wish.call_off else []
    parts += [f"{wish.call_off_drain} is drained no more"] if wish.call_off_drain else []
    if wish.revoke:
        how = f"drained within {format_duration(wish.drain)}" if wish.drain else "revoked"
        parts.append(f"{wish.revoke} is {how}")
    return f"if {' and '.join(parts)}" if parts else "as the configuration here says"


def _commands(settings: Mapping[str, str], wish: Wish) -> tuple[str, ...]:
    lines = [f"ringkeeper set {key} {text}" for key, text in settings.items()]
    if wish.revoke:
        how = f" --drain {format_duration(wish.drain).replace(' ', '')}" if wish.drain else ""
        lines.append(f"ringkeeper revoke {wish.revoke}{how} --reason WHY")
    lines += (
        [f"ringkeeper rotate{' --now --reason WHY' if wish.hasten else ''}"] if wish.rotate else []
    )
    lines += ["ringkeeper rollback"] if wish.rollback else []
    lines += ["ringkeeper rotate --call-off"] if wish.call_off else []
    if wish.call_off_drain:
        lines.append(f"ringkeeper revoke {wish.call_off_drain} --call-off --reason WHY")
    return tuple(lines)


# --- what to bear in mind ------------------------------------------------------------------------


def _warnings(knowledge: Knowledge | None, policy: Policy) -> tuple[str, ...]:
    """Who could not confirm a key of another algorithm, before such a key is there."""
    if knowledge is None:
        return ()
    lines, name = [], knowledge.algorithm
    if knowledge.lacking:
        lines.append(
            f"warning: {name} is not known to {some(knowledge.lacking)}: who does not know it "
            "cannot confirm such a key, holds its turn up for "
            f"{format_duration(policy.confirmation_timeout)}, and refuses its tokens then; update "
            "first"
        )
    if knowledge.untold:
        lines.append(
            f"warning: not known whether {name} is known to {some(knowledge.untold)}, who do not "
            "tell (an older ringkeeper); make sure of it first"
        )
    return tuple(lines)


def _risks(ring: Ring, after: Foresight | None) -> tuple[str, ...]:
    """Which key would sign before it has been public for the publication interval."""
    if after is None:
        return ()
    signer, standby = after.ring.signer, ring.standby
    line = ""
    if signer and signer.activated_at == after.now:
        line = unready(signer, after.policy, after.now)
    planned = after.ring.key(standby.kid) if standby else None
    if standby and planned and after.now < standby.ready_at > planned.ready_at:
        line = hastened(standby.kid, public_at(standby))
    return (line,) if line else ()


def _idle(settings: Mapping[str, str], after: Foresight | None) -> tuple[str, ...]:
    """That what was thought of is so already."""
    if after or not settings:
        return ()
    return (f"{_title(settings, Wish())}: nothing would differ, the ring is led so already",)


def _remarks(seen: Seen, future: Foresight, wish: Wish) -> tuple[str, ...]:
    lines = [ASSUMED]
    if not seen.leader:
        lines.append("nobody leads now: nothing of this happens before a daemon does")
    if seen.awaited:
        patience = format_duration(seen.ring.policy.confirmation_timeout)
        lines.append(f"not confirmed yet by {some(seen.awaited)}; waited for {patience} at most")
    if seen.awaited_behind:
        lines.append(
            f"not confirmed yet by {some(seen.awaited_behind)}: until then no key makes way early"
        )
    first = future.next_activation
    waits = not wish.revoke  # a revocation does not
    if seen.leader and first and first.at == future.now and waits:
        heard = format_duration(seen.ring.policy.liveness_window)
        lines.append(f"a leader that has just begun listens for {heard} first")
    lines += [f"from {delay.at:%Y-%m-%d %H:%M:%S} on: {delay.why}" for delay in future.delays]
    if future.is_cut:
        lines.append("there is more to come than was looked at")
    return tuple(lines)


# --- telling it ----------------------------------------------------------------------------------


def show(plan: Plan) -> None:
    """Print `plan` on standard output, as wide as the terminal; without colour where it is none."""
    columns = shutil.get_terminal_size().columns
    console = Console(highlight=False, width=columns if sys.stdout.isatty() else _UNBOUNDED)
    is_able = _can_draw(sys.stdout.encoding)
    for line in drawn(plan, columns):
        console.print(line if is_able else plain(line))


def _can_draw(encoding: str | None) -> bool:
    try:
        "█→┄".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def write_svg(plan: Plan, path: Path) -> None:
    """Write `plan` as a picture to `path`, or to standard output for `-`.

    Raises:
        RequestRefused: it cannot be written.
    """
    if str(path) == "-":
        sys.stdout.write(document(plan).decode())
        return
    try:
        path.write_bytes(document(plan))
    except OSError as error:
        why = (error.strerror or "not writable").lower()
        raise RequestRefused(
            f"--svg: {path} cannot be written ({why}); name another file"
        ) from None


def as_json(plan: Plan) -> dict[str, Any]:
    """What `--json` prints (docs/plan.md)."""
    ring = plan.ring
    return {
        "ring": ring.name,
        "id": ring.id,
        "version": ring.version,
        "epoch": ring.epoch,
        "now": plan.before.now.isoformat(),
        "until": plan.before.until.isoformat(),
        "before": _future(plan.before, plan),
        "after": _future(plan.after, plan) if plan.after else None,
        "differences": list(plan.differences),
        "commands": list(plan.commands),
        "warnings": list(plan.warnings),
        "remarks": list(plan.remarks),
        "algorithm_known": asdict(plan.knowledge) if plan.knowledge else None,
    }


def _future(future: Foresight, plan: Plan) -> dict[str, Any]:
    turn = future.next_activation
    return {
        "next_activation_at": turn.at.isoformat() if turn else None,
        "next_activation": turn.kid if turn else None,
        "keys_kept": future.policy.keys_kept,
        "retire_interval_seconds": future.policy.retire_interval.total_seconds(),
        "moments": [
            {"at": moment.at.isoformat(), "kid": moment.kid, "what": moment.what}
            for moment in future.moments
        ],
        "keys": [_key(life, plan) for life in rows_of(future, plan.ring)],
        "delays": [{"at": delay.at.isoformat(), "why": delay.why} for delay in future.delays],
        "is_cut": future.is_cut,
    }


def _key(life: Life, plan: Plan) -> dict[str, Any]:
    return {
        "kid": life.kid,
        "kind": life.kind.value,
        "algorithm": life.algorithm,
        "foreseen": life.is_foreseen,
        "outstanding": plan.outstanding.get(life.kid) if plan.outstanding is not None else None,
        "phases": [
            {
                "state": phase.state.value,
                "signs": phase.signs,
                "draining": phase.is_draining,
                "from": phase.begin.isoformat(),
                "to": phase.end.isoformat() if phase.end else None,
            }
            for phase in life.phases
        ],
    }
