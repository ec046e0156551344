"""The secrets of a daemon's host: where they are, read, and made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeper.kek_variable import KekVariable, kek_from
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import (
    create,
    is_there,
    read_pair,
    read_pinned_roots,
    read_root,
)
from ringkeeper.trust import TrustRoot

if TYPE_CHECKING:
    from ringkeeper.configuration import Configuration
    from ringkeeper.trust import PinnedRoots


@dataclass(frozen=True, slots=True)
class Secrets:
    """What this daemon holds: `root` only to lead, `kek` also to hand keys on as files."""

    roots: PinnedRoots
    root: TrustRoot | None
    kek: Kek | None

    @property
    def able(self) -> tuple[str, ...]:
        """The roots under which it could go on: a daemon that may lead has to sign, too."""
        return tuple(k for k in self.roots.kids if self.root is None or k in self.root.kids)


def secret_paths(configuration: Configuration) -> list[Path]:
    """The secret files of a daemon."""
    paths = [configuration.trust_root_public]
    if configuration.lead:
        paths.append(configuration.trust_root)
    if _has_kek(configuration) and isinstance(configuration.kek, Path):
        paths.append(configuration.kek)
    return paths


def read_secrets(configuration: Configuration) -> Secrets:
    """What a daemon of this configuration holds.

    Raises:
        SecretError: a file that it needs and cannot use.
    """
    if not configuration.lead:
        root, pinned = None, read_pinned_roots(configuration.trust_root_public)
    else:
        root, pinned = read_pair(configuration.trust_root, configuration.trust_root_public)
    return Secrets(pinned, root, kek_from(configuration.kek) if _has_kek(configuration) else None)


def _has_kek(configuration: Configuration) -> bool:
    return configuration.lead or configuration.files_signing_key


def make_secrets(configuration: Configuration) -> tuple[Path, ...]:
    """Make the trust root and the KEK where there are none; the files that were written."""
    return make_secrets_at(
        configuration.trust_root, configuration.trust_root_public, configuration.kek
    )


def make_secrets_at(private: Path, public: Path, kek: Path | KekVariable) -> tuple[Path, ...]:
    """As `make_secrets`. What is there is only read: it may lie where nothing can be written."""
    made: list[Path] = []
    if not is_there(public) or is_there(private):
        if not is_there(private) and create(private, TrustRoot.generate().secret_jwk()):
            made.append(private)
        root = read_root(private)
        if not is_there(public) and create(public, root.public_jwk(), mode=0o644):
            made.append(public)
    if isinstance(kek, KekVariable) or is_there(kek):
        return tuple(made)
    if create(kek, Kek.generate().secret_jwk()):
        made.append(kek)
    return tuple(made)
