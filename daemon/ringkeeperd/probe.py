"""`ringkeeper check --alive` and `--ready`: is the daemon on this host well? For health checks.

They come every few seconds, for as long as the daemon lives. So this module loads little, above all
not `ringkeeper` itself, and where the environment tells the address, as in our image, nothing else
is loaded and no file is read.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALIVE: Final = "/healthz"
READY: Final = "/readyz"
_ASKED_BY: Final = {"--alive": ALIVE, "--ready": READY}
_LISTEN: Final = "RINGKEEPER_LISTEN"
_WITHIN: Final = 2.0
_LONGEST: Final = 64 * 1024
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is only asked for


def answered(arguments: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """The exit status of a health check, asked without a configuration; None for all else."""
    match [*arguments]:
        case ["check", ("--alive" | "--ready") as question]:
            host, _, port = environ.get(_LISTEN, "").rpartition(":")
        case _:
            return None
    if not host or not port.isdecimal():
        return None  # `cli` finds the address, or says what is wrong with it
    problem = trouble(host.strip("[]"), int(port), _ASKED_BY[question])
    if problem:
        print(f"ringkeeper: {problem}", file=sys.stderr)  # noqa: T201 - as commands.complain
        return 1
    return 0


class Answer(NamedTuple):
    """What came of asking."""

    trouble: str
    """Why it is not well; empty if it is."""
    body: bytes = b""
    is_there: bool = True
    """Whether anything listens there: what hangs does, too."""


def trouble(host: str, port: int, place: str) -> str:
    """What is wrong with the daemon that listens on `host` and `port`; empty if nothing is."""
    return ask(host, port, place).trouble


def ask(host: str, port: int, place: str) -> Answer:
    """What whoever listens on `host` and `port` says at `place`."""
    host = _EVERYWHERE.get(host, host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{place}"
    connection = http.client.HTTPConnection(host, port, timeout=_WITHIN)
    try:
        connection.request("GET", place)
        response = connection.getresponse()
        body = response.read(_LONGEST)
    except TimeoutError:
        why = f"no answer within {_WITHIN:g} s; the daemon hangs, or its host is overloaded"
        return Answer(f"{url}: {why}")
    except (OSError, http.client.HTTPException) as error:
        why = (getattr(error, "strerror", None) or type(error).__name__).lower()
        what = f"no answer ({why}); is the daemon (ringkeeper run) running here?"
        return Answer(f"{url}: {what}", is_there=not isinstance(error, OSError))
    finally:
        connection.close()
    if response.status == http.client.OK:
        return Answer("", body)
    return Answer(f"{url}: answered {response.status}: {_why(body)}", body)


def _why(body: bytes) -> str:
    """The reason in a refusal of ours; whoever else may listen there is not quoted."""
    try:
        why = json.loads(body)["why"]
    except (ValueError, KeyError, TypeError, RecursionError):
        why = None
    if isinstance(why, str) and why.isprintable():
        return why
    return "is something else listening there?"
