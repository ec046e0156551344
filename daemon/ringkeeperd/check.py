"""`ringkeeper check`: what is wrong with an installation, and what is only to be remarked on."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.errors import RingkeeperError
from ringkeeper.kek_variable import WHY_NOT, KekVariable, kek_from
from ringkeeper.secret_files import is_there, read_token
from ringkeeper.settings import BY_KEY
from ringkeeperd.founding import any_ring
from ringkeeperd.handing_on import check_files
from ringkeeperd.many import at_rings
from ringkeeperd.own_secrets import read_secrets
from ringkeeperd.probe import ALIVE, Answer, ask, trouble
from ringkeeperd.troubles import SEE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.errors import ConfigurationError

_LISTEN: Final = re.compile(
    r"""(?:^|[{,]\s*)["']?listen["']?[ \t]*:[ \t]*["']?([^\s"',}#]+)""", re.MULTILINE
)
"""That one key, also where the rest is no YAML."""


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
    well: list[str] = []
    inspected = at_rings(configuration, rings, lambda operator, _: operator.inspect(kek))
    for name, seen in inspected.items():
        if isinstance(seen, RingkeeperError):
            found.problems.append(str(seen))
        else:
            well.append(name)
            if not seen.leader:
                why = "nobody leads; start a daemon, ringkeeper run"
                found.remarks.append(f"ring {name!r}: {why}")
    _listen_to_daemon(configuration, [ring.name for ring in rings], well, found)
    return found


def ask_daemon(configuration: Configuration, place: str) -> Findings:
    """What the daemon of this configuration, on this host, says at `place`."""
    host, port = configuration.listen
    if not port:
        return Findings(problems=["listen: with port 0 nobody knows where to ask; set one"])
    problem = trouble(host, port, place)
    return Findings(problems=[problem] if problem else [])


def ask_despite(rejected: ConfigurationError, path: Path | None, place: str) -> Findings:
    """The same where the configuration was edited amiss: a daemon goes on with the former one.

    Where it cannot be told where that listens, it is not called dead.
    """
    if path is None or not path.is_file():
        return Findings(problems=list(rejected.problems))
    listen, is_sure = _listen_despite(path.read_text(errors="replace"), os.environ)
    problem = trouble(*listen, place)
    where = "{}:{}".format(*listen)
    remark = f"{path}: cannot be used, ringkeeper check tells why; asked what listens at {where}"
    if problem and not is_sure:
        remark += ", the default, which does not answer: nobody knows where the daemon is"
    return Findings(problems=[problem] if problem and is_sure else [], remarks=[remark])


def _listen_despite(text: str, environ: Mapping[str, str]) -> tuple[tuple[str, int], bool]:
    """`listen`, of all that is in a file that may be no YAML; and whether that is for sure."""
    setting = BY_KEY["listen"]
    found = _LISTEN.search(text)
    given = environ.get(setting.variable) or (found[1] if found else "")
    with suppress(ValueError):
        listen: tuple[str, int] = setting.kind.read(given)
        if listen[1]:
            return listen, True
    default: tuple[str, int] = setting.kind.read(setting.default)
    return default, not given and "listen" not in text


# --- what the daemon here says of itself ---------------------------------------------------------


def _listen_to_daemon(
    configuration: Configuration, names: Sequence[str], well: Sequence[str], found: Findings
) -> None:
    """Add what only the daemon here can know: files, `on_change`, what it read last.

    There need be none. Of a ring that is not `well` something was told already.
    """
    host, port = configuration.listen
    answer = ask(host, port, ALIVE) if port else Answer("", is_there=False)
    if not answer.is_there:
        return
    if answer.trouble:
        found.remarks.append(answer.trouble)
        return
    health = _decoded(answer.body)
    if rejected := _words(health, "configuration"):
        found.remarks.append(f"the daemon here: configuration: {rejected}")
    rings = health.get("rings")
    for name in names:
        ring = rings.get(name) if isinstance(rings, dict) else None
        told = [_words(ring, "trouble") if name in well else "", _words(ring, "on_change")]
        for what in filter(None, told):
            why = what.removesuffix(f"; {SEE}")
            found.problems.append(f"the daemon here, ring {name!r}: {why}; its log tells more")


def _decoded(body: bytes) -> dict[str, Any]:
    """An object; an empty one where something else listens there."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _words(document: object, name: str) -> str:
    words = document.get(name) if isinstance(document, dict) else None
    return words if isinstance(words, str) and words.isprintable() else ""


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
