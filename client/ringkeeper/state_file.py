"""A ring kept in a file, so that a process that starts anew knows what its former self knew.

A daemon keeps one in `state_dir`, to heal a Redis that lost its data (promise 6); an app may keep
one in `cache_dir`, to start while Redis is away. The file holds what Redis holds: signed documents
and sealed keys, no secret in the clear. It is replaced whole, or not at all.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from ringkeeper.errors import MalformedDocument, StateUnusable
from ringkeeper.secret_files import sync
from ringkeeper.testimony import MAX_TESTIMONY, Testimony

if TYPE_CHECKING:
    from pathlib import Path


class StateFile:
    """The file of one ring in a directory; several processes may share it, the last one wins."""

    def __init__(self, directory: Path, ring: str, setting: str) -> None:
        """Keep `ring` in `directory`, which the configuration calls `setting`.

        The file's name begins as the setting's does: an app and a daemon never share one.
        """
        self.path = directory / f"{setting.removesuffix('_dir')}-{ring}.json"
        self._setting = setting

    async def read(self) -> Testimony | None:
        """What was kept, unverified; None where nothing was.

        Raises:
            MalformedDocument: the file is there, and holds something else.
            StateUnusable: it cannot be read.
        """
        return await asyncio.to_thread(self._read)

    async def write(self, testimony: Testimony) -> None:
        """Keep `testimony` in place of what was kept: safe on the disk when this returns.

        Raises:
            StateUnusable: it cannot be written; what was there stays.
        """
        await asyncio.to_thread(self._write, testimony.encode())

    async def set_aside(self) -> str:
        """Move what cannot be used out of the way, and keep it: where it is now."""
        aside = self.path.with_suffix(".unusable")
        with suppress(OSError):
            await asyncio.to_thread(self.path.replace, aside)
        return str(aside)

    def _read(self) -> Testimony | None:
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_TESTIMONY + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable("read", error) from None
        try:
            return Testimony.decode(raw.decode("ascii"))
        except (MalformedDocument, ValueError):
            raise MalformedDocument(f"{self.path}: does not hold a ring") from None

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
