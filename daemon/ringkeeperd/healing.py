"""What a leader finds in Redis, judged beside what is known. Promises 6 and 7 live here. Pure.

`merge` says what becomes of two histories; here it is decided whether there is anything to heal:
a ring that is gone, went back or was forked, keys or revocations that it lacks, private halves that
are gone. What Redis holds and cannot be read is no loss: it is not ours to replace.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ringkeeper.errors import DocumentError, WrongRing
from ringkeeper.testimony import History, Testimony, open_testimony
from ringkeeperd.audit import RING_HEALED, Fields, event, events_between
from ringkeeperd.merge import heal
from ringkeeperd.rotation import lose

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from ringkeeper.ring import Ring
    from ringkeeper.trust import PinnedRoots
    from ringkeeper.wire import Event


class Evidence(NamedTuple):
    """One side's edition, and the sealed private keys that it has."""

    history: History
    sealed: Mapping[str, str]


class Diagnosis(NamedTuple):
    """The ring to lead from here on, and what has to be put into Redis first."""

    ring: Ring
    newest: Ring
    """The newest edition that anyone knew: `ring` itself where nothing is wrong."""
    put: Mapping[str, str]
    """Sealed private keys that Redis lacks."""
    lost: frozenset[str]
    """The kids of those that may sign and whose private half nobody has."""
    finding: str
    """What is wrong, in words; empty where nothing is."""

    def cure(self, now: datetime, epoch: int) -> tuple[Ring, tuple[Event, ...]]:
        """The ring to publish, and the audit's account of it."""
        ring = self.ring
        if ring.version == self.newest.version:
            ring = replace(ring, version=ring.version + 1, epoch=epoch)
        if self.lost:
            ring = replace(lose(ring, self.lost, now=now, epoch=epoch), version=ring.version)
        about: Fields = {"found": self.finding, "above": self.newest.version}
        told = event(ring, now, RING_HEALED, about)
        return ring, (told, *events_between(self.newest, ring, now, {}))


def evidence_of(testimony: Testimony, name: str, roots: PinnedRoots) -> Evidence:
    """`testimony`, verified; raises DocumentError."""
    return Evidence(open_testimony(testimony, name, roots), testimony.sealed)


def found_in(stored: Testimony, name: str, roots: PinnedRoots) -> History | None:
    """What Redis holds, verified; None if that is nothing. A bad proof matters not: it is renewed.

    Raises:
        DocumentError: a snapshot that cannot be read, or is another ring's.
    """
    if not stored.snapshot:
        return None
    with suppress(DocumentError):
        return open_testimony(stored, name, roots)
    return open_testimony(replace(stored, proof=""), name, roots)


def check_identity(found: History | None, known: Iterable[Evidence]) -> str | None:
    """The id of the ring that all of them are editions of; None if there are none.

    Raises:
        WrongRing: they are of different rings.
    """
    rings = [side.history.ring for side in known] + ([found.ring] if found else [])
    if len({ring.id for ring in rings}) > 1:
        raise WrongRing(
            f"redis holds another ring {rings[0].name!r} than the one known here; nothing is "
            "changed; if that was meant, remove this ring's file in state_dir and restart"
        )
    return rings[0].id if rings else None


def diagnose(
    found: History | None,
    known: Sequence[Evidence],
    there: Mapping[str, str],
    version: str,
    *,
    now: datetime,
    epoch: int,
) -> Diagnosis | None:
    """What to lead, and what is wrong with Redis; None where nobody knows any ring.

    `there` are the sealed keys in Redis, `version` what its scripts compare with.
    """
    cure = heal(found, [side.history for side in known], now=now, epoch=epoch)
    if cure:
        ring, newest, finding = cure
    elif found:
        ring, newest, finding = found.ring, found.ring, ""
    else:
        return None
    blobs = {kid: blob for side in reversed(known) for kid, blob in side.sealed.items()}
    held = {key.kid for key in ring.keys if key.may_verify}
    put = {kid: blob for kid, blob in blobs.items() if kid in held and kid not in there}
    signers = {key.kid for key in ring.may_sign_next}
    lost = frozenset(signers - blobs.keys() - there.keys())
    if put or lost:
        finding = finding or "redis lacked private halves"
    elif version != str(found.ring.version if found else 0):
        finding = finding or "the version beside the signed snapshot was not its own"
    return Diagnosis(ring, newest, put, lost, finding)
