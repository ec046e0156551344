"""Gathers what `doctor` judges: from this host's files, from Redis, from each ring."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ringkeeper.clock import SystemClock
from ringkeeper.errors import RingkeeperError
from ringkeeper.kek_variable import WHY_NOT, KekVariable
from ringkeeper.redis_url import has_password
from ringkeeperd.doctor import (
    Finding,
    Level,
    RingFacts,
    examine_ring,
    examine_server,
    told,
)
from ringkeeperd.many import at_rings
from ringkeeperd.own_secrets import read_secrets
from ringkeeperd.redis_facts import server_facts
from ringkeeperd.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.sealing import Kek
    from ringkeeperd.operator import Operator
    from ringkeeperd.own_secrets import Secrets

_EVENTS_READ: Final = 1_000
_OTHERS_MAY: Final = stat.S_IRWXO


def examine(
    configuration: Configuration, rings: Sequence[RingConfiguration]
) -> Iterator[tuple[str, Finding]]:
    """Every finding, and what it is about: this host, Redis, or a ring by its name."""
    own: Secrets | None = None
    try:
        own = read_secrets(configuration)
    except RingkeeperError as error:
        yield "host", told("secrets", str(error))
    else:
        yield "host", _files(configuration)
    with_password = _password_file(configuration)
    if with_password:
        yield "host", _password(with_password)
    yield "host", _state_dir(configuration)
    try:
        facts = asyncio.run(server_facts(configuration))
    except RingkeeperError as error:
        yield "redis", told("connection", str(error))
        return
    for finding in examine_server(facts, rings[0].policy):
        yield "redis", finding
    if own is None:
        return
    for facts_of in _of_rings(configuration, rings, own):
        for finding in examine_ring(facts_of):
            yield f"ring {facts_of.name}", finding


# --- this host -----------------------------------------------------------------------------------


def _files(configuration: Configuration) -> Finding:
    """The secret files were read, so their own modes are right; what of the way to them?"""
    for path in (configuration.trust_root, configuration.kek, configuration.trust_root_public):
        if isinstance(path, KekVariable):
            return Finding("secrets", Level.WARN, f"the KEK is in {path}", WHY_NOT)
        with suppress(OSError):
            folder = path.parent.stat()
            if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
                what = f"anyone may replace {path}: its folder is open to all"
                return Finding("secrets", Level.FAIL, what, f"chmod o-w {path.parent}")
    if configuration.lead:
        return Finding("secrets", Level.OK, "root and KEK are closed to other users")
    return Finding("secrets", Level.OK, "the public root alone: this daemon only follows")


def _password_file(configuration: Configuration) -> Path | None:
    """Where Redis' password stands: a file of its own, or the configuration with the URL."""
    is_in_url = has_password(configuration.redis_url) and "RINGKEEPER_REDIS__URL" not in os.environ
    return configuration.redis_password_file or (configuration.path if is_in_url else None)


def _password(path: Path) -> Finding:
    with suppress(OSError):
        if path.stat().st_mode & _OTHERS_MAY:
            what = f"{path}: anyone on this host may read Redis' password"
            remedy = f"chmod 600 {path}, and change the password"
            return Finding("password", Level.WARN, what, remedy)
    return Finding("password", Level.OK, f"{path}: closed to others")


def _state_dir(configuration: Configuration) -> Finding:
    where = configuration.state_dir
    try:
        mode = where.stat().st_mode
    except FileNotFoundError:
        what = f"{where}: not made yet; the daemon makes it"
        return Finding("state_dir", Level.OK, what)
    except OSError as error:
        what = f"{where}: {error.strerror}".lower()
        return Finding("state_dir", Level.FAIL, what, "let the daemon's user read and write there")
    if not os.access(where, os.R_OK | os.W_OK | os.X_OK):
        what = f"{where}: cannot be written by this user, so nothing outlives a loss of Redis"
        return Finding("state_dir", Level.FAIL, what, "run this as the daemon's user, or chown it")
    if mode & _OTHERS_MAY:
        what = f"{where}: others may look in (mode {stat.S_IMODE(mode):04o}); it holds sealed keys"
        return Finding("state_dir", Level.WARN, what, f"chmod 700 {where}")
    return Finding("state_dir", Level.OK, f"{where}: this user's own")


# --- a ring --------------------------------------------------------------------------------------


def _of_rings(
    configuration: Configuration, rings: Sequence[RingConfiguration], own: Secrets
) -> list[RingFacts]:
    keks = own.kek.kids if own.kek else ()
    roots = own.root.kids if own.root else ()

    def known(ring: RingConfiguration) -> RingFacts:
        now = SystemClock().now()
        return RingFacts(ring.name, ring.policy, now, ring.given, keks=keks, roots=roots)

    found = at_rings(
        configuration, rings, lambda operator, ring: _seen(operator, known(ring), own.kek)
    )
    facts = zip(rings, found.values(), strict=True)
    return [
        replace(known(ring), trouble=str(seen)) if isinstance(seen, RingkeeperError) else seen
        for ring, seen in facts
    ]


async def _seen(operator: Operator, facts: RingFacts, kek: Kek | None) -> RingFacts:
    seen = await operator.inspect(kek)
    trail = Trail(seen.ring.name, seen.ring.id, operator.roots)
    lines = [trail.read(e.document) for e in (await operator.recent_events(_EVENTS_READ))[::-1]]
    flaws = [line.flaw for line in lines if line.flaw]
    end = trail.end(seen.proof)
    return replace(facts, seen=seen, flaws=tuple([*flaws, end] if end else flaws))
