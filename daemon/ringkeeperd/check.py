"""`ringkeeper check`: what is wrong with an installation, and what is only to be remarked on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ringkeeper.errors import RingkeeperError
from ringkeeper.kek_variable import WHY_NOT, KekVariable, kek_from
from ringkeeper.secret_files import is_there, read_token
from ringkeeperd.founding import any_ring
from ringkeeperd.handing_on import check_files
from ringkeeperd.operator import at_ring
from ringkeeperd.own_secrets import read_secrets
from ringkeeperd.probe import trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringkeeper.configuration import Configuration, RingConfiguration


@dataclass
class Findings:
    """What a look at everything brought to light."""

    problems: list[str] = field(default_factory=list)
    """What has to be mended."""
    remarks: list[str] = field(default_factory=list)
    """What is as it should be and yet worth knowing, as before the first start."""
    is_made: bool = True
    """Whether there are rings to look at."""


def look_over(configuration: Configuration, rings: Sequence[RingConfiguration]) -> Findings:
    """What is to be said of the secrets, of Redis and of `rings`; nothing is changed.

    Raises:
        SecretError: a file that a daemon needs and cannot use.
        ConfigurationError: a signing key would be in a file on a disk.
        RedisUnavailable: nobody knows whether there is a ring.
    """
    remark = _first_step(configuration)
    if remark:
        return Findings(remarks=[remark], is_made=False)
    found = Findings()
    check_files(configuration)
    kek = read_secrets(configuration).kek
    if configuration.refreshes_token_file:
        read_token(configuration.refreshes_token_file)
    if kek is None and is_there(configuration.kek):
        kek = kek_from(configuration.kek)
    if isinstance(configuration.kek, KekVariable):
        found.remarks.append(f"kek: {configuration.kek}: {WHY_NOT}")
    for ring in rings:
        try:
            seen = at_ring(configuration, ring.name, lambda operator: operator.inspect(kek))
        except RingkeeperError as error:
            found.problems.append(str(error))
        else:
            if not seen.leader:
                why = "nobody leads; start a daemon, ringkeeper run"
                found.remarks.append(f"ring {ring.name!r}: {why}")
    return found


def ask_daemon(configuration: Configuration, place: str) -> Findings:
    """What the daemon of this configuration, on this host, says at `place`."""
    host, port = configuration.listen
    if not port:
        return Findings(problems=["listen: with port 0 nobody knows where to ask; set one"])
    problem = trouble(host, port, place)
    return Findings(problems=[problem] if problem else [])


def _first_step(configuration: Configuration) -> str:
    """Where nothing was made yet, neither secrets nor rings: what makes them."""
    roots = (configuration.trust_root, configuration.trust_root_public)
    is_file = not isinstance(configuration.kek, KekVariable)
    secrets = (*roots, configuration.kek) if is_file else roots
    if not configuration.lead or any(is_there(secret) for secret in secrets):
        return ""
    if configuration.embedded is not None:
        is_made = any(configuration.embedded.glob("founded-*"))
        return "" if is_made else f"{configuration.embedded}: not made yet; ringkeeper run makes it"
    is_made = asyncio.run(any_ring(configuration))
    return "" if is_made else "no secrets and no ring are made yet; ringkeeper init makes them"
