"""What one process can show of a ring, and so give back to a Redis that lost it. Promise 6.

A `Testimony` is what was read from Redis, verbatim: the signed snapshot, the newest proof, and
the sealed private keys. It holds no secret in the clear, and whoever reads it believes none of it
before `open_testimony` has checked the signatures. The same three go into a daemon's state file,
into an app's cache file and, from a witness, into Redis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.clock import from_ms
from ringkeeper.errors import MalformedDocument, WrongRing
from ringkeeper.policy import CAPACITY
from ringkeeper.sealing import MAX_SEALED
from ringkeeper.wire import PROOF, SNAPSHOT, open_proof, open_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from ringkeeper.ring import Ring
    from ringkeeper.trust import PinnedRoots

MAX_TESTIMONY: Final = SNAPSHOT.limit + PROOF.limit + CAPACITY * (MAX_SEALED + 64)
"""Characters: a full ring, every key of it sealed."""


class History(NamedTuple):
    """One side of what happened: an edition of the ring, and when a leader last vouched for it."""

    ring: Ring
    proved_at: datetime


@dataclass(frozen=True, slots=True)
class Testimony:
    """A ring as one process knows it, unverified."""

    snapshot: str
    proof: str
    sealed: Mapping[str, str]
    """kid to sealed private key, as far as this process has them."""

    def encode(self) -> str:
        """One line of JSON."""
        members = {"snapshot": self.snapshot, "proof": self.proof, "sealed": dict(self.sealed)}
        return json.dumps(members, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> Testimony:
        """The testimony that `encode` made.

        Raises:
            MalformedDocument: something else, or too long.
        """
        if len(text) > MAX_TESTIMONY:
            raise MalformedDocument(f"a testimony of {len(text)} characters, more than a ring has")
        try:
            members = json.loads(text)
            snapshot, proof, sealed = (members[name] for name in ("snapshot", "proof", "sealed"))
            are_texts = all(isinstance(t, str) for t in (snapshot, proof, *sealed.values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            are_texts = False
        if not are_texts:
            raise MalformedDocument("not a testimony: snapshot, proof and sealed keys, as JSON")
        return cls(snapshot, proof, MappingProxyType(dict(sealed)))


def open_testimony(testimony: Testimony, name: str, roots: PinnedRoots) -> History:
    """The verified edition of the ring `name` that `testimony` shows.

    Its proof may be one of an earlier version: what counts is the newest moment at which a leader
    is known to have stood by this edition, and publishing it was such a moment.

    Raises:
        DocumentError: not signed by a pinned root, or of another ring.
    """
    ring = open_snapshot(testimony.snapshot, roots)
    if ring.name != name:
        raise WrongRing(f"a snapshot of ring {ring.name!r} where {name!r} should be")
    moments = list(_moments(ring))
    if testimony.proof:
        proof = open_proof(testimony.proof, roots)
        if proof.ring_id != ring.id:
            raise WrongRing(f"a proof of another ring than {name!r}")
        if proof.version <= ring.version:
            moments.append(proof.at)
    return History(ring, max(moments, default=from_ms(0)))


def _moments(ring: Ring) -> list[datetime]:
    """When something happened to a key of this edition."""
    times = [
        moment
        for key in ring.keys
        for moment in (key.published_at, key.activated_at, key.retired_at, key.revoked_at)
    ]
    return [moment for moment in times if moment]
