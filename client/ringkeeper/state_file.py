"""A ring kept in a file, so that a process that starts anew knows what its former self knew.

A daemon keeps one in `state_dir`, to heal a Redis that lost its data (promise 6); an app may keep
one in `cache_dir`, to start while Redis is away. The file holds what Redis holds: signed documents
and sealed keys, no secret in the clear. It is replaced whole, or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from joserfc.util import urlsafe_b64decode

from ringkeeper.errors import DocumentError, MalformedDocument, StateUnusable
from ringkeeper.secret_files import sync
from ringkeeper.tasks import aside
from ringkeeper.testimony import MAX_TESTIMONY, Testimony, open_testimony
from ringkeeper.trust import root_of

if TYPE_CHECKING:
    from pathlib import Path

    from ringkeeper.trust import PinnedRoots


class StateFile:
    """The file of one ring in a directory; several processes may share it, the last one wins."""

    def __init__(
        self, directory: Path, ring: str, setting: str, roots: PinnedRoots | None = None
    ) -> None:
        """Keep `ring` in `directory`, which the configuration calls `setting`.

        The file's name begins as the setting's does: an app and a daemon never share one. With
        `roots`, what they did not sign, or another ring of that name, is neither read nor replaced:
        it is somebody's only memory of a ring.
        """
        self.path: Path = directory / f"{setting.removesuffix('_dir')}-{ring}.json"
        self._ring = ring
        self._setting = setting
        self.roots = roots

    async def read(self) -> Testimony | None:
        """What was kept, unverified; None where nothing was.

        Raises:
            MalformedDocument: the file is there, and holds something else.
            StateUnusable: it cannot be read, or is another's.
        """
        return await aside(self._read)

    async def write(self, testimony: Testimony) -> None:
        """Keep `testimony` in place of what was kept: safe on the disk when this returns.

        Raises:
            StateUnusable: it cannot be written, or is another's; what was there stays.
        """
        await aside(partial(self._keep, testimony))

    async def set_aside(self) -> str:
        """Move what cannot be used out of the way, and keep it: where it is now."""
        return str(await aside(self._set_aside))

    def _set_aside(self) -> Path:
        names = (".unusable" if n == 1 else f".unusable-{n}" for n in count(1))
        there = next(path for path in map(self.path.with_suffix, names) if not path.exists())
        with suppress(OSError):
            self.path.rename(there)
        return there

    def _read(self) -> Testimony | None:
        testimony = self._decoded()
        if testimony:
            self._check_root(testimony)
        return testimony

    def _decoded(self) -> Testimony | None:
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_TESTIMONY + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unusable("read", error) from None
        try:
            testimony = Testimony.decode(raw.decode("ascii"))
        except (MalformedDocument, ValueError):
            raise MalformedDocument(f"{self.path}: does not hold a ring") from None
        return testimony

    def _check_root(self, testimony: Testimony) -> None:
        root = root_of(testimony.snapshot)
        if self.roots and root and root not in self.roots.kids:
            raise StateUnusable(
                f"{self.path}: holds a ring of the trust root {root[:64]!r}, which is not pinned "
                f"here; it is left alone, and nothing is kept; {self._remedy}"
            )

    def _check_ring(self, ours: Testimony) -> None:
        """Not another ring's place? Redis may hold one that was made anew, or be the wrong one."""
        if self.roots is None:
            return
        try:
            kept, ring = self._decoded(), open_testimony(ours, self._ring, self.roots).ring
        except DocumentError:
            return  # nobody's, whatever it is
        if kept is None or _claimed_id(kept.snapshot) == ring.id:
            return  # ours, perhaps signed by a root that was changed since: this ring goes on
        self._check_root(kept)
        with suppress(DocumentError):
            open_testimony(kept, self._ring, self.roots)
            raise StateUnusable(
                f"{self.path}: holds another ring {self._ring!r} than Redis does; it is left "
                f"alone, and nothing is kept; {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return (
            f"give each configuration a {self._setting} of its own, or remove that file if its "
            "ring is no more"
        )

    def _keep(self, testimony: Testimony) -> None:
        self._check_ring(testimony)
        self._write(testimony.encode())

    def _write(self, text: str) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise self._unusable("written", error) from None

    def _unusable(self, doing: str, error: OSError) -> StateUnusable:
        return StateUnusable(
            f"{self.path}: cannot be {doing} ({error.strerror}); let this user write there, or set "
            f"{self._setting} to where it may"
        )


def _claimed_id(snapshot: str) -> str:
    """Of which ring it says it is, unverified; empty if it does not say."""
    try:
        return str(json.loads(urlsafe_b64decode(snapshot.split(".")[1].encode()))["ring_id"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""
