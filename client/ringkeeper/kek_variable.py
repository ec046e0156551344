"""A KEK in an environment variable: `kek: env:NAME`. Possible, and worse than a file.

The environment of a process is handed on to all that it starts, stands in crash reports and in
/proc/PID/environ, and cannot be replaced while the process runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import SecretError
from ringkeeper.sealing import Kek
from ringkeeper.secret import Secret
from ringkeeper.secret_files import read_kek

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV: Final = "env:"
WHY_NOT: Final = (
    "an environment leaks into child processes, crash reports and /proc; hand the KEK over as a "
    "file"
)
_SET: Final = "set it to what kek.jwk holds, or name that file"


@dataclass(frozen=True, slots=True)
class KekVariable:
    """Where a KEK is, as a path is for others: an environment variable, and what it held."""

    name: str
    text: Secret

    def exists(self) -> bool:
        """Always: a variable that is not set is refused with the configuration."""
        return True

    def read(self) -> Kek:
        """The key-encryption keys in it, a JWK or a JWK Set.

        Raises:
            SecretError: it holds none; what it holds is not shown.
        """
        made = _made(self.text)
        if isinstance(made, str):
            # Raised where nothing read is a local: error reporters ship those of all frames.
            raise SecretError(f"{self}: {made}")
        return made

    def __str__(self) -> str:
        return f"{ENV}{self.name}"


def kek_source(told: str, environ: Mapping[str, str]) -> Path | KekVariable:
    """Where `told` says that the KEK is: a path, or `env:NAME`.

    Raises:
        SecretError: there is no such variable.
    """
    if not told.startswith(ENV):
        return Path(told)
    name = told.removeprefix(ENV)
    if not environ.get(name):
        raise SecretError(f"{told}: that variable is not set; {_SET}")
    return KekVariable(name, Secret(environ[name]))


def kek_from(source: Path | KekVariable) -> Kek:
    """The key-encryption keys, wherever they are.

    Raises:
        SecretError: naming the place, what is wrong there, and what to do.
    """
    return source.read() if isinstance(source, KekVariable) else read_kek(source)


def _made(text: Secret) -> Kek | str:
    """The KEK, or why there is none: what the variable holds does not leave this frame."""
    try:
        document = json.loads(text.reveal())
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return "the KEK is not a JWK in JSON; put what kek.jwk holds there, or give its file"
    try:
        return Kek.from_secret_jwk(document)
    except SecretError as error:
        return f"KEK: {error}"
