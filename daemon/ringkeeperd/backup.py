"""`ringkeeper backup`: rings put into a file, and such a file looked at. Promise 7 begins here.

What Redis holds is saved, once it was verified. Where Redis is away, or knows less than the daemon
of this host kept in `state_dir`, that is saved: a backup is wanted most when something is amiss.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import ringkeeper
from ringkeeper.clock import SystemClock
from ringkeeper.errors import (
    DocumentError,
    MalformedDocument,
    RequestRefused,
    SealBroken,
    SecretError,
)
from ringkeeper.kek_variable import kek_from
from ringkeeper.secret_files import is_there, read_pinned_roots, read_requesting_root, sync
from ringkeeper.trust import root_of
from ringkeeperd.backup_file import MAX_BACKUP, Saved, open_backup, sealed_backup
from ringkeeperd.backup_sources import Findings, gather
from ringkeeperd.operator import caller
from ringkeeperd.words import age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import PinnedRoots, TrustRoot
    from ringkeeperd.backup_file import Backup

STDOUT: Final = "-"


# --- making one ----------------------------------------------------------------------------------


def save(
    configuration: Configuration, rings: Sequence[RingConfiguration], out: str
) -> tuple[str, Backup, Findings]:
    """Write a backup of `rings` to `out`; where it is, what it holds, and what to say of it.

    A ring that cannot be saved is a problem that is told; the others are saved all the same.

    Raises:
        RequestRefused: no ring could be saved, or something is there already.
        SecretError: the root that is to sign it cannot be used.
    """
    roots = read_pinned_roots(configuration.trust_root_public)
    root = read_requesting_root(configuration.trust_root, configuration.trust_root_public)
    clock, found = SystemClock(), Findings()
    path = _free_path(out, clock.now())
    saved = asyncio.run(gather(configuration, rings, roots, clock, found))
    if not saved:
        raise RequestRefused(f"nothing is saved: {'; '.join(found.problems)}")
    _try_seals(saved, kek_here(configuration, found), found)
    text = sealed_backup(
        saved,
        _signing(root, roots, saved),
        at=clock.now(),
        by=caller(),
        release=ringkeeper.__version__,
    )
    if len(text) > MAX_BACKUP:
        raise RequestRefused(
            f"a backup of {len(text)} bytes, and {MAX_BACKUP} is the most; save fewer rings with "
            "--ring"
        )
    if path is None:
        sys.stdout.write(text)
    else:
        write_once(path, text)
    return str(path or STDOUT), open_backup(text, roots), found


def kek_here(configuration: Configuration, found: Findings) -> Kek | None:
    """The KEK of this host; None where there is none, which is remarked on."""
    if not is_there(configuration.kek):
        found.remarks.append("the KEK is not on this host: nobody tried to open the private keys")
        return None
    try:
        return kek_from(configuration.kek)
    except SecretError as error:
        found.remarks.append(f"nobody tried to open the private keys: {error}")
        return None


def _signing(root: TrustRoot, roots: PinnedRoots, saved: Sequence[Saved]) -> TrustRoot:
    """The root that the rings are under; while it is changed, at least one that is pinned."""
    signed_by = root_of(saved[0].testimony.snapshot)
    pinned = next(kid for kid in root.kids if kid in roots.kids)
    return root.using(signed_by if signed_by in root.kids else pinned)


def _try_seals(saved: Iterable[Saved], kek: Kek | None, found: Findings) -> None:
    """Tell of private keys that may sign and that are missing, or that `kek` does not open."""
    for each in saved:
        told = f"ring {each.ring.name!r}"
        missing = [k.kid for k in each.ring.may_sign_next if k.kid not in each.testimony.sealed]
        if missing:
            found.problems.append(f"{told}: the private half of {_some(missing)} is nowhere")
        if problem := broken_seal(each, kek):
            found.problems.append(f"{told}: {problem}")


def broken_seal(saved: Saved, kek: Kek | None) -> str:
    """Why `kek` does not open the ring's private keys that may sign; empty if it does."""
    if kek is None:
        return ""
    if saved.ring.kek and saved.ring.kek not in kek.kids:
        return (
            f"it is sealed by the KEK {saved.ring.kek}, and this host has {', '.join(kek.kids)}; "
            "put that one back, behind the present one"
        )
    try:
        for key in saved.ring.may_sign_next:
            if blob := saved.testimony.sealed.get(key.kid):
                kek.unseal(blob, key)
    except SealBroken as error:
        return str(error)
    return ""


# --- the file ------------------------------------------------------------------------------------


def _free_path(out: str, now: datetime) -> Path | None:
    """Where to write: `out`, or under a name of its own in that folder; None for stdout.

    Raises:
        RequestRefused: something is there.
    """
    if out == STDOUT:
        return None
    path = Path(out) if out else Path()
    if path.is_dir():
        path /= f"ringkeeper-{now:%Y%m%dT%H%M%SZ}.backup"
    if os.path.lexists(path):
        raise _is_taken(path)
    return path


def _is_taken(path: Path) -> RequestRefused:
    return RequestRefused(f"{path}: is there already, and is left as it is; name another file")


def write_once(path: Path, text: str) -> None:
    """Write `text` to `path`, mode 0600: whole or not at all, and never over anything.

    Raises:
        RequestRefused: something is there, or it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        # A link, not a rename: it fails where something is, instead of replacing it.
        path.hardlink_to(temporary)
        sync(path.parent)
    except FileExistsError:
        raise _is_taken(path) from None
    except OSError as error:
        raise RequestRefused(
            f"{path}: cannot be written ({error.strerror}); let this user write there, or name "
            "another place with --out"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def read(file: str, roots: PinnedRoots) -> Backup:
    """The backup in `file`, or on stdin for `-`, every signature checked.

    Raises:
        DocumentError: it is none, was changed, or is of other roots.
        RequestRefused: it cannot be read.
    """
    text = _text_of(file)
    try:
        return open_backup(text, roots)
    except DocumentError as error:
        raise type(error)(f"{file}: {error}") from None


def _text_of(file: str) -> str:
    try:
        if file == STDOUT:
            raw = sys.stdin.buffer.read(MAX_BACKUP + 1)
        else:
            with Path(file).open("rb") as stream:
                raw = stream.read(MAX_BACKUP + 1)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise RequestRefused(
            f"{file}: cannot be read ({why}); name the right file, and let this user read it"
        ) from None
    if len(raw) > MAX_BACKUP:
        raise MalformedDocument(f"{file}: larger than any backup, of {MAX_BACKUP} bytes at most")
    return raw.decode("ascii", "replace")


# --- looking at one ------------------------------------------------------------------------------


def look_into(
    configuration: Configuration, rings: Sequence[RingConfiguration], file: str
) -> tuple[Backup, Findings]:
    """What is in `file`, and whether this host could use it; asks no Redis. Raises as `read`."""
    backup = read(file, read_pinned_roots(configuration.trust_root_public))
    found = Findings()
    kek = kek_here(configuration, found)
    _try_seals(backup.rings, kek, found)
    found.problems += [
        f"ring {ring.name!r}: is configured here, and not in this backup"
        for ring in rings
        if backup.ring(ring.name) is None
    ]
    found.remarks += aged(backup, SystemClock().now())
    return backup, found


def aged(backup: Backup, now: datetime) -> list[str]:
    """What to know of a backup that is older than a cryptoperiod."""
    old = [s.ring.name for s in backup.rings if now - backup.at > s.ring.policy.cryptoperiod]
    if not old:
        return []
    return [f"it is older than a cryptoperiod of {_some(old)}: keys may sign that it does not know"]


def _some(names: Sequence[str]) -> str:
    more = len(names) - 1
    return repr(names[0]) + (f" and {more} more" if more else "")


def in_words(backup: Backup, now: datetime, say: Callable[[str], None]) -> None:
    """Say what a backup holds, a line a ring."""
    say(f"made {made(backup, now)}; whole, and signed by the root {backup.root}")
    for saved in backup.rings:
        ring, keks = saved.ring, " and ".join(saved.keks) or "nothing"
        say(
            f"ring {ring.name}: version {ring.version}, {len(ring.keys)} keys, "
            f"{len(saved.testimony.sealed)} private halves sealed by {keks}"
        )


def made(backup: Backup, now: datetime) -> str:
    """When and by whom."""
    return (
        f"{backup.at:%Y-%m-%d %H:%M} UTC, {age(now - backup.at)} ago, by {backup.by} with "
        f"ringkeeper {backup.release}"
    )


def what_it_lacks(backup: Backup) -> str:
    """What has to be kept elsewhere."""
    keks = " and ".join(backup.keks) or "that sealed it"
    return (
        f"it does not hold the KEK ({keks}), without which it is worth nothing, nor the trust "
        f"root ({' and '.join(backup.roots)}); keep both elsewhere"
    )
