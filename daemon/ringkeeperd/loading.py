"""How a term comes to hold the ring. Promises 6 and 7 live here, `healing` decides.

What Redis holds is laid beside what is known of the ring by this process, by its former self (a
file), by a witness. What Redis lost is put back; what cannot be read is not overwritten, and who
cannot open or sign what the ring needs does not lead it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ringkeeper.durations import format_duration
from ringkeeper.errors import ClocksApart, DocumentError, RingMissing, SealBroken, SecretError
from ringkeeper.sealing import kek_of
from ringkeeper.testimony import Testimony
from ringkeeper.trust import root_of
from ringkeeper.wire import open_event, open_proof, open_snapshot
from ringkeeperd.audit import ring_rewrapped
from ringkeeperd.healing import check_identity, diagnose, evidence_of, found_in
from ringkeeperd.leader_store import LeaseLost
from ringkeeperd.rewrapping import lacking, rewrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from ringkeeper.ring import Key, Ring
    from ringkeeper.testimony import History
    from ringkeeperd.audit import Fields
    from ringkeeperd.healing import Diagnosis, Evidence
    from ringkeeperd.term import Term

_AGAIN_AFTER: Final = 0.2
_RECENT: Final = 20
"""Audit events that are looked at to know how far they were counted."""


class Loading:
    """Reads, judges and, where it lacks something, heals the ring of one term."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._leader = term.leader
        self._store = term.store

    async def load(self) -> None:
        """Take up the ring that Redis holds; heal it first where it lacks what is known.

        Raises:
            DocumentError, SealBroken, SecretError, ClocksApart: it must not be led from here;
                nothing changed.
        """
        while not await self._is_taken_up():
            await asyncio.sleep(_AGAIN_AFTER)
            self._term.check_lease()

    async def _is_taken_up(self) -> bool:
        """Whether the ring is ours to lead now; False if Redis changed meanwhile: look again."""
        term, leader, began = self._term, self._leader, self._term.clock.monotonic()
        name, roots = leader.follower.replica.name, leader.follower.replica.roots
        leader.is_doubtful = False
        stored = await self._store.read()
        found = found_in(Testimony(stored.snapshot, stored.proof, {}), name, roots)
        term.vouched_at = found.proved_at if found else None
        told = await self._store.testimony()
        shown = [*leader.follower.testimonies(), *_decoded(told)]
        known = self._known(found, told)
        editions = [side.history.ring for side in known] + ([found.ring] if found else [])
        keys = {key.kid: key for ring in editions for key in ring.keys if key.may_verify}
        there = await self._store.sealed(sorted(keys))
        sealed_by = max(editions, key=_edition).kek if editions else ""
        mended = self._mended(there, known, keys, sealed_by)
        term.sealed = {**there, **mended}
        now = term.now()
        diagnosis = diagnose(found, known, there, stored.version, now=now, epoch=term.epoch)
        if diagnosis and mended:
            finding = diagnosis.finding or "redis held private halves that do not open"
            put = {**diagnosis.put, **mended}
            diagnosis = diagnosis._replace(put=put, finding=finding)
        if diagnosis is None:
            raise RingMissing(
                f"redis holds no ring {name!r}, and nobody here knows it; if it is new, run "
                "ringkeeper init; else start a daemon or an app that knew it, or restore Redis"
            )
        leader.seen_epoch = max(leader.seen_epoch, *(ring.epoch for ring in editions))
        if leader.seen_epoch > term.epoch:
            raise LeaseLost("redis counts epochs from further back; leading anew, above the ring's")
        self._wait_for_lost(diagnosis)
        self._check_seals(diagnosis, term.sealed)
        snapshots = [stored.snapshot, *(each.snapshot for each in shown)]
        signed_by = self._root_of_newest(snapshots, diagnosis.ring.id)
        takes_over = await self._takes_over(signed_by, diagnosis.ring)
        proofs = [stored.proof, *(testimony.proof for testimony in shown)]
        await self._count_events(diagnosis.ring.id, proofs)
        term.tell_of_pending(stored.snapshot)
        if not diagnosis.finding and not takes_over:
            term.ring, term.snapshot = diagnosis.ring, stored.snapshot
        else:
            self._check_clocks(diagnosis.ring.policy.clock_skew)
            if diagnosis.finding:
                ring, events = diagnosis.cure(now, term.epoch)
            else:
                ring = rewrapped(diagnosis.ring, kek=diagnosis.ring.kek, epoch=term.epoch)
                lost = f"the private half of {signed_by} is gone"
                about: Fields = {"root": term.root.kid, "resealed": 0, "reason": lost}
                events = (ring_rewrapped(ring, now, about),)
            if not await term.publish(ring, stored.snapshot, diagnosis.put, events, began):
                return False
        if told:
            await self._store.heard(term.owner, told)
        return True

    def _known(self, found: History | None, told: str) -> list[Evidence]:
        """What else is known of this ring: by this process first, then by who `told` it."""
        replica = self._leader.follower.replica
        known = self._leader.known()
        ring_id = check_identity(found, known)
        with suppress(DocumentError):
            testimony = Testimony.decode(told)
            witness = evidence_of(testimony, replica.name, replica.roots)
            # What was signed for a ring of before is nobody's loss.
            if ring_id in (None, witness.history.ring.id):
                known.append(self._tried(witness))
        return known

    def _tried(self, witness: Evidence) -> Evidence:
        """`witness` without sealed keys that do not open: anyone may have written them there."""
        opening: dict[str, str] = {}
        for kid, blob in witness.sealed.items():
            key = witness.history.ring.key(kid)
            with suppress(SealBroken):
                if key:
                    self._leader.kek.unseal(blob, key)
                    opening[kid] = blob
        return witness._replace(sealed=opening)

    def _root_of_newest(self, snapshots: Iterable[str], ring_id: str) -> str:
        """The root that signed the newest of `snapshots` that are this ring's; one at least is.

        An older one that somebody put back would take the ring back to a former root.
        """
        signed: list[tuple[tuple[int, int], str]] = []
        for snapshot in filter(None, snapshots):
            with suppress(DocumentError):
                ring = open_snapshot(snapshot, self._leader.follower.replica.roots)
                if ring.id == ring_id:
                    signed.append((_edition(ring), root_of(snapshot)))
        return max(signed)[1]

    def _mended(
        self,
        there: Mapping[str, str],
        known: list[Evidence],
        keys: Mapping[str, Key],
        sealed_by: str,
    ) -> dict[str, str]:
        """Sealed keys that open, for those in Redis that do not: anyone may have written these.

        One that another KEK sealed than the ring's does not count as opening: it was put back.
        Where nobody knows one that opens, what is there stays (promise 7).
        """
        mended: dict[str, str] = {}
        for kid, blob in there.items():
            others = {side.sealed[kid] for side in known if kid in side.sealed} - {blob}
            if others and not self._opens(blob, keys[kid], sealed_by):
                good = (each for each in sorted(others) if self._opens(each, keys[kid], sealed_by))
                mended |= zip([kid], good, strict=False)
        return mended

    def _opens(self, blob: str, key: Key, sealed_by: str) -> bool:
        if sealed_by not in ("", kek_of(blob)):
            return False
        with suppress(SealBroken):
            self._leader.kek.unseal(blob, key)
            return True
        return False

    # --- what may keep us from leading -----------------------------------------------------------

    def _wait_for_lost(self, diagnosis: Diagnosis) -> None:
        """Give others the time to show private halves that seem to be gone for good.

        Raises:
            SealBroken: they still have it.
        """
        leader, now = self._leader, self._term.clock.monotonic()
        if not diagnosis.lost:
            leader.bereft_since = None
            return
        if leader.bereft_since is None:
            leader.bereft_since = now
        window = diagnosis.ring.policy.liveness_window
        if now - leader.bereft_since < window.total_seconds():
            raise SealBroken(
                f"the private halves of {', '.join(sorted(diagnosis.lost))} are not in Redis; "
                f"waiting {format_duration(window)} for a daemon or a signing app that has them"
            )

    def _check_seals(self, diagnosis: Diagnosis, there: Mapping[str, str]) -> None:
        """Promise 7: who cannot open the private keys must not lead."""
        kek = diagnosis.ring.kek
        if kek and kek not in self._leader.kek.kids:
            raise SealBroken(
                f"the ring is sealed by the KEK {kek}, which this daemon does not have; give it "
                "the right KEK file, where another is added in front and not put in its place"
            )
        held = self._leader.follower.replica.held
        opened = held.signing if held else {}
        blobs = {**diagnosis.put, **there}
        for key in diagnosis.ring.may_sign_next:
            if key.kid not in opened and key.kid not in diagnosis.lost:
                self._leader.kek.unseal(blobs[key.kid], key)

    async def _takes_over(self, signed_by: str, ring: Ring) -> bool:
        """Sign by the root that signed the ring; whether another has to, for that one is gone.

        Raises:
            SecretError: its private half is not here, and not everybody would follow another one.
        """
        leader, now = self._leader, self._term.clock.monotonic()
        self._term.root = leader.root.using(signed_by)
        if signed_by in leader.root.kids:
            leader.rootless_since = None
            return False
        pinned, own = leader.follower.replica.roots.kids, self._term.root.kid
        if pinned.index(own) > pinned.index(signed_by):
            # The newer one stands in front: it is not lost, its private half has not come here yet.
            raise SecretError(
                f"the ring is signed by the root {signed_by}, which trust_root_public has in front "
                "and trust_root does not have at all; copy that file here, too (if its private "
                "half is lost for good: docs/secrets.md)"
            )
        window = ring.policy.liveness_window
        # Marked alike by all who wait for this: whoever leads, or loses the table, ends the wait.
        instances, is_whole = await self._store.roll_call(f"without {signed_by}", window)
        if leader.rootless_since is None or not is_whole:
            leader.rootless_since = now
        behind = lacking(instances, kek="", root=own)
        if behind or not instances or now - leader.rootless_since < window.total_seconds():
            named = f"; {behind[0][0].id} does not pin {own}" if behind else ""
            raise SecretError(
                f"the ring is signed by the root {signed_by}, whose private half this daemon does "
                f"not have{named}; put that back into trust_root, behind the present one, and "
                "let ringkeeper rewrap do the change (if it is lost for good: docs/secrets.md)"
            )
        return True

    def _check_clocks(self, skew: timedelta) -> None:
        if abs(self._term.offset) > skew:
            raise ClocksApart(
                "the ring is to be healed, but this clock differs from Redis' by "
                f"{format_duration(abs(self._term.offset))}; set both right, and it goes on by "
                "itself"
            )

    async def _count_events(self, ring_id: str, proofs: Iterable[str]) -> None:
        """Count audit events on from the highest number that anything signed shows."""
        roots = self._leader.follower.replica.roots
        for proof in proofs:
            with suppress(DocumentError):
                opened = open_proof(proof, roots)
                if opened.ring_id == ring_id:
                    self._leader.told = max(self._leader.told, opened.events)
        events = []
        for entry in await self._store.newest_events(_RECENT):
            with suppress(DocumentError):
                event = open_event(entry.document, roots)
                if event.ring_id == ring_id:
                    self._leader.told = max(self._leader.told, event.number)
                    events.append(event)
        self._term.observer.recalled(events)


def _edition(ring: Ring) -> tuple[int, int]:
    return ring.version, ring.epoch


def _decoded(text: str) -> list[Testimony]:
    with suppress(DocumentError):
        return [Testimony.decode(text)]
    return []
