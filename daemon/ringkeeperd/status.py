"""`ringkeeper status`: a ring at a glance, for people; the same as JSON for programs."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ringkeeper.ring import KeyKind, KeyState
from ringkeeperd.operator import some
from ringkeeperd.planning import knowledge_of
from ringkeeperd.rotation import activation_at
from ringkeeperd.spike_events import begin_of, shown_spike
from ringkeeperd.words import (
    Outlook,
    age,
    harmless,
    next_change,
    ordered,
    since,
    spike_told,
    turn,
    turn_told,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import RenderableType

    from ringkeeperd.operator import Seen
    from ringkeeperd.planning import Knowledge

_SHOWN: Final = 20
_NEWS: Final = timedelta(days=1)
"""A spike that began longer ago is not shown any more."""
_UNBOUNDED: Final = 1000
_COLOURS = {
    KeyState.ACTIVE: "bold green",
    KeyState.PUBLISHED: "cyan",
    KeyState.RETIRED: "dim",
    KeyState.REVOKED: "red",
}


def as_json(seen: Seen, now: datetime, others: Sequence[str] = ()) -> dict[str, Any]:
    """What `--json` prints; `others`: the further rings of the configuration, by name."""
    ring = seen.ring
    edition = (ring.epoch, ring.version)
    at = activation_at(ring)
    return {
        "ring": ring.name,
        "id": ring.id,
        "version": ring.version,
        "epoch": ring.epoch,
        "leader": seen.leader or None,
        "proof_age_seconds": (now - seen.proof.at).total_seconds() if seen.proof else None,
        "signer": ring.signer.kid if ring.signer else None,
        "next_activation_at": at.isoformat() if at else None,
        "awaiting": sorted({*seen.awaited, *seen.awaited_behind}),
        "settings": dict(ring.overrides),
        "configuration_drift": list(seen.drifting),
        "algorithms_lacking": [asdict(known) for known in lacked(seen)],
        "spike": shown_spike(seen.spike) if seen.spike else None,
        "other_rings": list(others),
        "keys": [
            {
                "kid": key.kid,
                "kind": key.kind.value,
                "algorithm": key.algorithm,
                "state": key.state.value,
                "signs": key == ring.signer,
                "published_at": _iso(key.published_at),
                "ready_at": _iso(key.ready_at),
                "activated_at": _iso(key.activated_at),
                "due_at": _iso(key.due_at),
                "retired_at": _iso(key.retired_at),
                "revoked_at": _iso(key.revoked_at),
                "remove_at": _iso(key.remove_at),
            }
            for key in ordered(seen.ring)
        ],
        "instances": [
            {
                "id": instance.id,
                "role": instance.role,
                "algorithms": list(instance.algorithms) or None,
                "version": instance.version,
                "behind": (instance.epoch, instance.version) < edition,
            }
            for instance in seen.instances
        ],
    }


def render(seen: Seen, now: datetime) -> RenderableType:
    """What a terminal shows."""
    return Group(_heading(seen, now), Text(), _keys(seen, now), Text(), _instances(seen))


def show(seen: Seen, now: datetime) -> None:
    """Print `seen` on standard output; where no terminal sets a width, whole lines."""
    width = None if sys.stdout.isatty() else _UNBOUNDED
    Console(highlight=False, width=width).print(render(seen, now))


def _heading(seen: Seen, now: datetime) -> Text:
    ring = seen.ring
    text = Text.assemble(
        (ring.name, "bold"), f"  version {ring.version}, epoch {ring.epoch}\n", "leader  "
    )
    text.append(seen.leader or "nobody", "green" if seen.leader else "bold red")
    text.append("\nproof   ")
    if seen.proof:
        old = now - seen.proof.at
        is_old = old > ring.policy.max_staleness
        text.append(f"{age(old)} old", "bold red" if is_old else "green")
    else:
        text.append("none", "bold red")
    text.append("\nsigns   ")
    text.append(
        ring.signer.kid if ring.signer else "nothing", "bold green" if ring.signer else "red"
    )
    if not ring.policy.use_dynamic:
        is_in = ring.signer is not None and ring.signer.kind is not KeyKind.STATIC
        text.append("  (stands in, until a static key can)" if is_in else "  (static mode)", "dim")
    text.append("\nnext    ")
    at = activation_at(ring)
    text.append(turn(_outlook(seen, now)))
    if at and at > now:
        text.append(f" ({at:%Y-%m-%d %H:%M:%S} UTC)", "dim")
    if at and ring.signer and ring.signer.kind is KeyKind.STATIC:
        text.append("  of the dynamic keys, which sign only for apps that choose so", "dim")
    if why := turn_told(ring):
        text.append(f"  {why}", "dim")
    text.append(_awaits(seen))
    if ring.overrides:
        own = ", ".join(f"{key} {harmless(value)}" for key, value in ring.overrides)
        text.append(f"\nset     {own}", "dim")
    if seen.drifting:
        text.append(f"\ndrift   {some(seen.drifting)}: other files than the leader's", "yellow")
    for known in lacked(seen):
        text.append(f"\nlacks   {_lacks(known)}, so cannot confirm such a key", "yellow")
    if seen.spike and now - begin_of(seen.spike.first) < _NEWS:
        colour = "dim" if seen.spike.is_over else "yellow"
        text.append(f"\nspike   {spike_told(seen.spike, now)}", colour)
    return text


def _awaits(seen: Seen) -> Text:
    text = Text()
    if seen.awaited:
        text.append(f"\nawaits  {some(seen.awaited)}, to confirm the standby", "yellow")
    if seen.awaited_behind:
        behind = f"{some(seen.awaited_behind)}, to confirm the key that it makes way for"
        text.append(f"\nawaits  {behind}", "yellow")
    return text


def lacked(seen: Seen) -> tuple[Knowledge, ...]:
    """The algorithms of the ring's keys that live instances do not know, or may not know."""
    active, found = seen.ring.active(), []
    for name in sorted({key.algorithm for key in seen.ring.keys if key.may_verify}):
        known = knowledge_of(seen.instances, name)
        # Who has confirmed this version knows all of them, whether it tells or not.
        is_usual = active is not None and active.algorithm == name
        untold = () if is_usual else tuple(i for i in known.untold if i in seen.behind)
        if known.lacking or untold:
            found.append(replace(known, untold=untold))
    return tuple(found)


def _lacks(known: Knowledge) -> str:
    parts = [f"{known.algorithm} is not known to {some(known.lacking)}"] if known.lacking else []
    if known.untold:
        parts.append(f"{some(known.untold)} may not know {known.algorithm} and do not tell")
    return "; ".join(parts)


def _keys(seen: Seen, now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("key", "kind", "alg", "state", "for", "next change"):
        table.add_column(column, no_wrap=True, min_width=24 if column == "key" else None)
    outlook = _outlook(seen, now)
    for key in ordered(seen.ring):
        stands_by = key.state is KeyState.ACTIVE and key != seen.ring.signer
        colour = "dim" if stands_by else _COLOURS[key.state]
        table.add_row(
            Text(key.kid, colour),
            key.kind.value,
            key.algorithm,
            Text(key.state.value, colour),
            age(now - since(key)),
            next_change(key, outlook),
        )
    return table


def _instances(seen: Seen) -> RenderableType:
    edition = (seen.ring.epoch, seen.ring.version)
    behind = [i for i in seen.instances if (i.epoch, i.version) < edition]
    if not seen.instances:
        return Text("no live instance has been heard of yet", "yellow")
    count = len(seen.instances)
    heading = Text.assemble(f"{count} live instance{'' if count == 1 else 's'}, ")
    heading.append(f"{len(behind)} behind", "yellow" if behind else "green")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("instance", "role", "version", ""):
        table.add_column(column, no_wrap=True)
    for instance in seen.instances[:_SHOWN]:
        style = "yellow" if instance in behind else ""
        cells = (instance.id, instance.role, str(instance.version), "behind" if style else "")
        table.add_row(*(Text(cell, style) for cell in cells))
    if count > _SHOWN:
        table.add_row(f"and {count - _SHOWN} more")
    return Group(heading, table)


def _outlook(seen: Seen, now: datetime) -> Outlook:
    return Outlook(seen.ring, now, bool(seen.leader), bool(seen.awaited))


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
