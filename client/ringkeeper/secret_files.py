"""Secret files: read with care, made once, never overwritten."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ringkeeper.errors import SecretError
from ringkeeper.sealing import Kek
from ringkeeper.secret import Secret
from ringkeeper.trust import PinnedRoots, TrustRoot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import TypeVar

    from ringkeeper.kek_variable import KekVariable

    _T = TypeVar("_T")

_LIMIT: Final = 64 * 1024
_WHAT_BEARS: Final = "bearer token"
_BEARER: Final = re.compile(rb"[A-Za-z0-9\-._~+/]{32,512}=*\s*")
_RESTORE: Final = (
    "restore it from where the ring was made (only where there is no ring yet, ringkeeper init "
    "makes one, and with an embedded server ringkeeper run)"
)
# A group may read (that is how Kubernetes' fsGroup hands a Secret over), the world may nothing.
_TOO_OPEN: Final = stat.S_IRWXO | stat.S_IWGRP


def read_root(path: Path) -> TrustRoot:
    """The trust root's private half.

    Raises:
        SecretError: naming the file, what is wrong with it, and what to do; so for all three.
    """
    return _read(path, "trust root", TrustRoot.from_secret_jwk, is_secret=True)


def read_pinned_roots(path: Path) -> PinnedRoots:
    """The public roots to trust; the file may be open to all, and holds no private half."""
    return _read(path, "public trust root", _public_alone, is_secret=False)


def read_pair(private: Path, public: Path) -> tuple[TrustRoot, PinnedRoots]:
    """The trust root in the file `private`, and the roots pinned in `public`, which include it.

    Raises:
        SecretError: one of them cannot be used, or they do not belong together.
    """
    pinned, root = read_pinned_roots(public), read_root(private)
    unpinned = [kid for kid in root.kids if kid not in pinned.kids]
    if unpinned:
        raise SecretError(
            f"{private}: is not the private half of {public}, which does not have "
            f"{', '.join(unpinned)}; give both files of the pair that belongs together"
        )
    return root, pinned


def read_requesting_root(private: Path, public: Path) -> TrustRoot:
    """The trust root to sign requests by; enough if the two files have one in common.

    While a root is changed, one file may hold the next one already: that holds up no revocation.

    Raises:
        SecretError: as `read_pair`.
    """
    pinned, root = read_pinned_roots(public), read_root(private)
    return root if set(root.kids) & set(pinned.kids) else read_pair(private, public)[0]


def is_there(path: Path | KekVariable) -> bool:
    """Whether there is a file; where this user may not look, there may be one."""
    try:
        return path.exists()
    except PermissionError:
        return True


def read_kek(path: Path) -> Kek:
    """The key-encryption keys."""
    return _read(path, "KEK", Kek.from_secret_jwk, is_secret=True)


def read_token(path: Path) -> Secret:
    """A bearer token: one line of 32 or more characters, as `openssl rand -hex 32` makes it."""
    remedy = f"write one with: (umask 077; openssl rand -hex 32 > {path})"
    raw = _bytes(path, _WHAT_BEARS, is_secret=True, otherwise=remedy)
    if not _BEARER.fullmatch(raw):
        del raw
        raise SecretError(
            f"{path}: is no {_WHAT_BEARS} (RFC 6750: one line, 32 to 512 of letters, digits and "
            f"-._~+/, perhaps = behind); {remedy}"
        )
    return Secret(raw.decode().strip())


class Holdings(NamedTuple):
    """What a process that follows a ring holds."""

    roots: PinnedRoots
    kek: Kek | None


def create(path: Path, jwk: Mapping[str, Any], *, mode: int = 0o600) -> bool:
    """Write `jwk` to `path` unless something is there; whether this call wrote it.

    Complete or absent, even if the power fails or another process does the same.

    Raises:
        SecretError: the directory cannot be written to.
    """
    if os.path.lexists(path):
        return False  # also where nobody could write: what systemd hands over is read-only
    # A link, not a rename: it fails where something is, instead of replacing it.
    written = _written(path, jwk, mode, path.hardlink_to)
    # Raised where the JWK is no local any more: error reporters ship those of all frames.
    del jwk
    if isinstance(written, SecretError):
        raise written
    return written


def amend(path: Path, jwk: Mapping[str, Any]) -> None:
    """Put `jwk`, what the file holds and a key more or less, in its place; its mode stays.

    Whole or not at all, even if the power fails.

    Raises:
        SecretError: it cannot be replaced; what was there stays.
    """
    amended = _amended(path, jwk)
    del jwk
    if isinstance(amended, SecretError):
        raise amended


def _amended(path: Path, jwk: Mapping[str, Any]) -> bool | SecretError:
    path = path.resolve()  # the file itself, should it be known by a link
    try:
        status = path.stat()
    except OSError as error:
        return _not_written(path, error)

    def replace(temporary: Path) -> None:
        with suppress(PermissionError):  # who is not root keeps its own group
            os.chown(temporary, status.st_uid, status.st_gid)
        temporary.rename(path)

    return _written(path, jwk, stat.S_IMODE(status.st_mode), replace)


def _written(
    path: Path, jwk: Mapping[str, Any], mode: int, put_in_place: Callable[[Path], None]
) -> bool | SecretError:
    """Whether it was written, safe on the disk, or why it cannot be; False: something is there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        _make_directory(path.parent)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            json.dump(jwk, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(descriptor)
        put_in_place(temporary)
        sync(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        return _not_written(path, error)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return True


def _not_written(path: Path, error: OSError) -> SecretError:
    return SecretError(
        f"{path}: cannot be written ({error.strerror}); "
        "let this user write there, or choose another path"
    )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(
            error.errno, "a file stands where its directory should be"
        ) from None


def _read(path: Path, what: str, make: Callable[[Mapping[str, Any]], _T], *, is_secret: bool) -> _T:
    made = _made(path, what, make, is_secret=is_secret)
    if isinstance(made, SecretError):
        # Raised where nothing read is a local: error reporters ship those of all frames.
        raise made
    return made


def _made(
    path: Path, what: str, make: Callable[[Mapping[str, Any]], _T], *, is_secret: bool
) -> _T | SecretError:
    """What `make` makes of the file, or why nothing: what it holds does not leave this frame."""
    raw = _bytes(path, what, is_secret=is_secret)
    if len(raw) > _LIMIT:
        return SecretError(f"{path}: too large for a {what}; is this the right file?")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return SecretError(f"{path}: the {what} is not a JWK in JSON; is this the right file?")
    try:
        return make(document)
    except SecretError as error:
        return SecretError(f"{path}: {what}: {error}")


def _public_alone(document: Mapping[str, Any]) -> PinnedRoots:
    keys = document.get("keys")
    members = keys if isinstance(keys, list) else [document]
    if any("d" in member for member in members if isinstance(member, dict)):
        raise SecretError(
            "is the private half, which is for daemons that lead and operators; give root.pub.jwk"
        )
    return PinnedRoots.from_jwk(document)


def _bytes(path: Path, what: str, *, is_secret: bool, otherwise: str = _RESTORE) -> bytes:
    """The file's first bytes, once its mode is as it should be: nothing is read before.

    `otherwise`: what to do where there is none.
    """
    try:
        with path.open("rb") as file:
            check_mode(path, what, os.fstat(file.fileno()).st_mode, is_secret=is_secret)
            return file.read(_LIMIT + 1)
    except FileNotFoundError:
        raise SecretError(f"{path}: there is no {what} here; {otherwise}") from None
    except OSError as error:
        raise SecretError(
            f"{path}: the {what} cannot be read ({error.strerror}); let this user read it"
        ) from None


def check_mode(path: Path, what: str, mode: int, *, is_secret: bool) -> None:
    """Whether a file is closed to others: against changes, and a secret one against reading.

    Raises:
        SecretError: it is not.
    """
    if not is_secret and mode & stat.S_IWOTH:
        raise SecretError(
            f"{path}: anyone may change the {what} (mode {stat.S_IMODE(mode):04o}); "
            f"chmod 644 {path}, after a look at what it holds"
        )
    if is_secret:
        check_closed(path, what, mode)


def check_closed(path: str | Path, what: str, mode: int) -> None:
    """Whether a secret file is closed to others.

    Raises:
        SecretError: it is not.
    """
    if mode & _TOO_OPEN:
        raise SecretError(
            f"{path}: the {what} is open to others (mode {stat.S_IMODE(mode):04o}); "
            f"chmod 600 {path}, and replace it if anyone may have read it"
        )


def sync(directory: Path) -> None:
    """Make the new name in `directory` survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
