"""Some files in a directory that change together, or not at all.

What readers open are links: `jwks.json` leads to `..data/jwks.json`, and `..data` to a folder with
one version of all of them. A new version is written beside, made safe on the disk, and `..data`
renamed over: the way in which Kubernetes changes mounted ConfigMaps. So a file is never torn, and
whoever opens `..data` once reads all files of one version.

What a file holds is carried as a `Secret`, whether it is one or not: no traceback shows it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import FilesUnusable
from ringkeeper.secret import Secret
from ringkeeper.secret_files import sync

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_CURRENT: Final = "..data"
_MARK: Final = ".."
"""What the names of folders begin with; Kubernetes' do, too."""
_GRACE: Final = 2.0
"""Seconds that a former version stays: a reader may be on its way into it."""
_OPEN: Final = 0o644
_CLOSED: Final = 0o600
_FOR_GROUP: Final = 0o640
_MEMORY: Final = ("tmpfs", "ramfs")
_MOUNTS: Final = Path("/proc/self/mountinfo")


class FileSet:
    """The files in `directory`, of which `closed` ones are for their owner alone.

    Mode and owner of a file outlive its versions: chmod and chown it once, as it is needed. A
    closed one is never opened to everybody.
    """

    def __init__(
        self, directory: Path, closed: Collection[str] = (), group: int | None = None
    ) -> None:
        """Touch nothing yet; closed files belong to `group`, whose members may read them."""
        self.directory = directory
        self._closed = closed
        self._group = group
        self._looks: dict[str, tuple[int, int, int]] = {}
        """Mode and owner of each file as last seen: they outlive its withdrawal, too."""
        self._lock = Lock()

    def read(self) -> dict[str, Secret]:
        """What the files hold now, by name.

        Raises:
            FilesUnusable: it cannot be read.
        """
        current = self.directory / _CURRENT
        try:
            texts = {path.name: _text(path) for path in sorted(current.iterdir())}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._unusable("read", error) from None
        return {name: text for name, text in texts.items() if text is not None}

    def replace(self, files: Mapping[str, Secret]) -> None:
        """Let the files be these, and no others, from one moment to the next.

        Raises:
            FilesUnusable: they cannot be written; what was there stays, whole.
        """
        try:
            with self._lock:
                self._replace(files)
        except OSError as error:
            raise self._unusable("written", error) from None

    def withdraw(self, names: Collection[str]) -> None:
        """Remove these files, in every version; nothing has to be written for it.

        Raises:
            FilesUnusable: one of them is still there.
        """
        try:
            with self._lock:
                for name in names:
                    self._look_at(name)
                versions = [path for path in self._versions() if not path.is_symlink()]
                for path in [version / name for version in versions for name in names]:
                    path.unlink(missing_ok=True)
                for name in names:
                    self._unlink(name)
                if self.directory.exists():
                    sync(self.directory)
        except OSError as error:
            raise self._unusable("removed", error) from None

    def date(self, names: Collection[str], at: datetime) -> None:
        """Give these files the time `at`: whoever reads them can tell how old they are."""
        time_ns = int(at.timestamp() * 1_000_000) * 1000
        for path in (self.directory / _CURRENT / name for name in names):
            with suppress(OSError):
                if path.stat().st_mtime_ns != time_ns:  # whoever watches is not woken for nothing
                    os.utime(path, ns=(time_ns, time_ns))

    def dated(self, name: str) -> datetime | None:
        """The time given to a file; None if there is none, or what nobody can mean.

        Its owner may be somebody else, who gives it any time at all.
        """
        with suppress(OSError, OverflowError, ValueError):
            return datetime.fromtimestamp((self.directory / _CURRENT / name).stat().st_mtime, UTC)
        return None

    def is_in_place(self, name: str) -> bool:
        """Whether that file is where readers look for it, and its group's."""
        with suppress(OSError):
            leads_there = (self.directory / name).readlink() == Path(_CURRENT, name)
            group = (self.directory / _CURRENT / name).stat().st_gid
            return leads_there and (name not in self._closed or self._group in (None, group))
        return False

    def clean(self) -> bool:
        """Remove former versions that nobody can be reading; whether none is left."""
        with self._lock, suppress(OSError):
            former = [path for path in self._versions() if not self._is_current(path)]
            old = [path for path in former if not 0 <= _age(path) <= _GRACE]
            for path in old:
                _remove(path)
            return len(old) == len(former)
        return False

    # --- one version -----------------------------------------------------------------------------

    def _replace(self, files: Mapping[str, Secret]) -> None:
        _make(self.directory)
        for name in files:
            self._check_free(name)
        version = self.directory / f"{_MARK}{secrets.token_hex(8)}"
        version.mkdir()
        try:
            version.chmod(0o755 | version.stat().st_mode & stat.S_ISGID)
            former = self.read()
            for name, content in files.items():
                self._write(version / name, content)
                if former.get(name) == content:
                    self._keep_time(version / name)
            sync(version)
            self._link(version.name, _CURRENT)
        except BaseException:
            shutil.rmtree(version, ignore_errors=True)
            raise
        for name in files:
            self._link(f"{_CURRENT}/{name}", name)
        for name in former.keys() - files.keys():
            self._unlink(name)
        sync(self.directory)

    def _write(self, path: Path, content: Secret) -> None:
        self._look_at(path.name)
        is_closed = path.name in self._closed
        mode, *owner = self._look_of(path.name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            self._give_to(descriptor, path.name, *owner)
            os.fchmod(descriptor, mode & (0o770 if is_closed else 0o777))
            file.write(content.reveal().encode())
            file.flush()
            os.fsync(descriptor)

    def _keep_time(self, path: Path) -> None:
        """It is the same file, and no younger for being written again."""
        status = (self.directory / _CURRENT / path.name).stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _look_of(self, name: str) -> tuple[int, int, int]:
        """Mode and owner of the next version: as they are, unless it is to be another group's."""
        known = self._looks.get(name)
        if name not in self._closed:
            return known or (_OPEN, -1, -1)
        if self._group is not None and (known is None or known[2] != self._group):
            return _FOR_GROUP, -1, self._group
        return known or (_CLOSED, -1, -1)

    def _look_at(self, name: str) -> None:
        """Remember mode and owner of the file that is there."""
        with suppress(OSError):
            status = (self.directory / _CURRENT / name).stat()
            self._looks[name] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def _give_to(self, descriptor: int, name: str, user: int, group: int) -> None:
        made = os.fstat(descriptor)
        if user in (-1, made.st_uid) and group in (-1, made.st_gid):
            return
        try:
            os.fchown(descriptor, user, group)
        except PermissionError:
            raise FilesUnusable(
                f"{self.directory / name}: is to belong to {_shown(user)}:{_shown(group)}, and "
                "this user may not give it to them; let it be a group that this user is in "
                "(SupplementaryGroups= in a unit), or run both as one user"
            ) from None

    def _check_free(self, name: str) -> None:
        path = self.directory / name
        if path.exists() and not path.is_symlink():
            raise FilesUnusable(
                f"{path}: a file of somebody else's stands there; remove it, or set "
                "files.directory to a folder for ringkeeper alone"
            )

    def _link(self, target: str, name: str) -> None:
        path = self.directory / name
        with suppress(OSError):
            if path.readlink() == Path(target):
                return
        temporary = self.directory / f"{_MARK}{secrets.token_hex(8)}"
        temporary.symlink_to(target)
        try:
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _unlink(self, name: str) -> None:
        path = self.directory / name
        if path.is_symlink():
            path.unlink(missing_ok=True)

    def _versions(self) -> Iterator[Path]:
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in sorted(self.directory.iterdir()):
                if path.name.startswith(_MARK) and path.name != _CURRENT:
                    yield path

    def _is_current(self, version: Path) -> bool:
        with suppress(OSError):
            return (self.directory / _CURRENT).readlink() == Path(version.name)
        return False

    def _unusable(self, doing: str, error: OSError) -> FilesUnusable:
        where = error.filename if isinstance(error.filename, str) else self.directory
        return FilesUnusable(
            f"{self.directory}: the files for apps cannot be {doing} ({error.strerror}); let this "
            f"user write there, or set files.directory to where it may"
            + (f" (it was {where})" if Path(where).parent != self.directory else "")
        )


def is_in_memory(directory: Path) -> bool:
    """Whether what is written to `directory`, or to where it will be made, reaches no disk.

    Asked of the kernel (Linux); elsewhere nobody knows, and so no.

    Raises:
        FilesUnusable: it cannot be looked at.
    """
    try:
        there = next(path for path in [directory, *directory.parents] if path.exists())
        device = there.stat().st_dev
    except OSError as error:
        raise FilesUnusable(
            f"{directory}: cannot be looked at ({error.strerror}); let this user enter it, or set "
            "files.directory to where it may"
        ) from None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            place, _, kind = line.partition(" - ")
            if place.split()[2] == wanted:
                return kind.split()[0] in _MEMORY
    return False


def _make(directory: Path) -> None:
    """`directory` and what is above it: whatever the umask, others may enter what is made here."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)


def _shown(number: int) -> str:
    return "its own" if number < 0 else str(number)


def _text(path: Path) -> Secret | None:
    """What it holds; None where only others may read it: then its next version is not ours, too."""
    with suppress(PermissionError):
        return Secret(path.read_bytes().decode("utf-8", "replace"))
    return None


def _remove(path: Path) -> None:
    """A version, or a link that never came to its place."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    """Seconds since it was made, as the file system counts them."""
    with suppress(OSError):
        return time.time() - path.lstat().st_ctime  # noqa: TID251 - no clock of ours makes files
    return 0.0
