"""The file that `ringkeeper backup` writes: rings as Redis holds them, signed as a whole. Pure.

It holds no secret in the clear: of each ring the signed snapshot, the newest proof and the sealed
private keys, as a witness shows them. Each of these is believed by nobody before it was checked,
wherever it comes from. The signature over all of them says what a ring alone cannot say: that none
was taken out, cut short or put in from another day, and when and by whom the file was made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.clock import LATEST_MS, from_ms, to_ms
from ringkeeper.errors import ForgedDocument, MalformedDocument
from ringkeeper.sealing import kek_of
from ringkeeper.testimony import Testimony, open_testimony
from ringkeeper.trust import DocumentType, root_of
from ringkeeper.wire import MAX_TEXT, SCHEMA, open_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from ringkeeper.ring import Ring
    from ringkeeper.testimony import History
    from ringkeeper.trust import PinnedRoots, TrustRoot

BACKUP: Final = DocumentType("ringkeeper-backup+json", 16 * 1024)
MAX_BACKUP: Final = 256 * 1024 * 1024
"""Bytes of a file; a thousand rings of six keys, RSA-2048, have 20 MiB."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_KEKS: Final = 4


@dataclass(frozen=True, slots=True)
class Saved:
    """One ring of a backup, verified."""

    history: History
    testimony: Testimony

    @property
    def ring(self) -> Ring:
        """The edition that was saved."""
        return self.history.ring

    @property
    def keks(self) -> tuple[str, ...]:
        """The ids of the KEKs that open its private keys."""
        sealing = (kek_of(blob) for blob in self.testimony.sealed.values())
        # Who writes to Redis may have put anything there: names, and not too many of them.
        named = sorted({kek for kek in sealing if kek and _NAME.fullmatch(kek)})
        return tuple(sorted({*named[:_MOST_KEKS], *filter(None, [self.ring.kek])}))


@dataclass(frozen=True, slots=True)
class Backup:
    """What a file holds, verified."""

    at: datetime
    by: str
    """Who made it: user and host."""
    release: str
    """Of ringkeeper."""
    root: str
    """The thumbprint of the root that signed it."""
    rings: tuple[Saved, ...]

    @property
    def keks(self) -> tuple[str, ...]:
        """The ids of the KEKs without which nobody can use its private keys."""
        used = {saved.ring.kek for saved in self.rings if saved.ring.kek}
        others = {kek for saved in self.rings for kek in saved.keks} - used
        return tuple(sorted({*used, *sorted(others)[:_MOST_KEKS]}))

    @property
    def roots(self) -> tuple[str, ...]:
        """The thumbprints of the roots that have to be pinned to believe it, and to go on."""
        signing = {root_of(saved.testimony.snapshot) for saved in self.rings}
        return tuple(sorted({self.root, *signing}))

    def ring(self, name: str) -> Saved | None:
        """The ring of that name."""
        return next((saved for saved in self.rings if saved.ring.name == name), None)


def sealed_backup(
    rings: Sequence[Saved], root: TrustRoot, *, at: datetime, by: str, release: str
) -> str:
    """`rings` as the text of a file, signed by `root`."""
    backup = Backup(at, by, release, root.kid, tuple(rings))
    members = [_members(saved.testimony) for saved in rings]
    signed = root.sign(
        BACKUP,
        {
            "schema": SCHEMA,
            "at_ms": to_ms(at),
            "by": by,
            "release": release,
            "keks": list(backup.keks),
            "roots": list(backup.roots),
            "rings": len(members),
            "digest": _digest(members),
        },
    )
    # A ring a line, so that the usual tools can be put to it.
    lines = ",\n".join(map(_compact, members))
    return f'{{"backup":"{signed}","rings":[\n{lines}\n]}}\n'


def open_backup(text: str, roots: PinnedRoots) -> Backup:
    """What the file with this text holds, every signature checked.

    Raises:
        MalformedDocument: not a backup, or one that was cut short.
        ForgedDocument: a pinned root did not sign it, or it was changed since.
    """
    signed, members = _parts(text)
    told = roots.open(BACKUP, signed)
    if told.get("schema") != SCHEMA:
        raise MalformedDocument(
            f"{BACKUP.typ} of schema {told.get('schema')!r:.20}; this release reads {SCHEMA}: "
            "upgrade ringkeeper here"
        )
    if told.get("digest") != _digest(members) or told.get("rings") != len(members):
        raise ForgedDocument(
            "what it holds is not what was signed: it was changed since; take another copy"
        )
    rings = tuple(_saved(testimony, roots) for testimony in map(_testimony, members))
    if len({saved.ring.name for saved in rings}) < len(rings):
        raise MalformedDocument(f"{BACKUP.typ}: two rings of one name")
    by, release = (_text(told, name) for name in ("by", "release"))
    return Backup(_instant(told), by, release, root_of(signed), rings)


# --- its parts -----------------------------------------------------------------------------------


def _parts(text: str) -> tuple[str, list[dict[str, Any]]]:
    try:
        document = json.loads(text)
        signed, members = document["backup"], document["rings"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MalformedDocument(
            "not a backup of ringkeeper, or cut short; name another file"
        ) from None
    is_one = isinstance(signed, str) and isinstance(members, list)
    if not is_one or not all(map(_is_testimony, members)):
        raise MalformedDocument("not a backup of ringkeeper: a signed part, and rings")
    return signed, members


def _is_testimony(members: object) -> bool:
    """Whether it has the members of one and no other, so that the digest is over just these."""
    if not isinstance(members, dict) or set(members) != {"snapshot", "proof", "sealed"}:
        return False
    sealed = members["sealed"]
    texts = [members["snapshot"], members["proof"]]
    texts += sealed.values() if isinstance(sealed, dict) else [None]
    return all(isinstance(text, str) for text in texts)


def _members(testimony: Testimony) -> dict[str, Any]:
    sealed = dict(testimony.sealed)
    return {"snapshot": testimony.snapshot, "proof": testimony.proof, "sealed": sealed}


def _testimony(members: object) -> Testimony:
    return Testimony.decode(_compact(members))


def _saved(testimony: Testimony, roots: PinnedRoots) -> Saved:
    name = open_snapshot(testimony.snapshot, roots).name
    return Saved(open_testimony(testimony, name, roots), testimony)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _digest(members: Iterable[object]) -> str:
    """SHA-256 over the rings as JSON without spaces, members in order, base64url."""
    digest = hashlib.sha256(_compact(list(members)).encode()).digest()
    return base64.urlsafe_b64encode(digest)[:-1].decode()


def _text(told: dict[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise MalformedDocument(f"{BACKUP.typ}: {name} is missing or of the wrong type")
    return value


def _instant(told: dict[str, Any]) -> datetime:
    value = told.get("at_ms")
    if type(value) is not int or value < 0:
        raise MalformedDocument(f"{BACKUP.typ}: at_ms is missing or of the wrong type")
    return from_ms(min(value, LATEST_MS))
