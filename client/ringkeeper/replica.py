"""What one process holds of a ring, and what it accepts in its place. Promise 8 lives here. Pure.

Every app, and every daemon, judges what it reads from Redis by these rules alone:

- The trust root signed it, for a ring of this name and, once one is held, of the same id.
- Its version is higher than the one held: news never goes back. But what a root signed that is not
  trusted any more stands in nobody's way.
- At a cold start there is a proof, of this snapshot or of one before it, younger than
  `max_staleness`: otherwise an attacker could hand a starting app a ring of last month.

A `Replica` never changes; `offer` returns the next one. So a live keyring swaps one reference,
and a reader in another thread sees the former ring or this one, never a mix.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ringkeeper.algorithms import PrivateKey, PublicKey
from ringkeeper.clock import ZERO
from ringkeeper.durations import format_duration
from ringkeeper.errors import (
    ClocksApart,
    ForkedRing,
    RingNotLoaded,
    RolledBack,
    StaleRing,
    WrongRing,
)
from ringkeeper.testimony import Testimony
from ringkeeper.trust import root_of
from ringkeeper.wire import Proof, digest_of, open_proof, open_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from ringkeeper.ring import Key, Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.trust import PinnedRoots


class Verifying(NamedTuple):
    """A key of the ring, loaded."""

    key: Key
    public: PublicKey


@dataclass(frozen=True, slots=True)
class Held:
    """A verified snapshot, loaded for use."""

    ring: Ring
    snapshot: str
    """As it was signed: this is what a witness shows."""
    digest: str
    proof: str
    proof_at: datetime
    """When the newest proof that vouches for this snapshot, or for one before it, was signed."""
    verifying: Mapping[str, Verifying]
    """The keys whose tokens count, by kid."""
    revoked: Mapping[str, Verifying]
    """Those that were revoked: whoever has a token of theirs must refresh it, and is told why."""
    signers: Mapping[bool | None, Key | None]
    """The key to sign with for each choice that an app has (`Ring.signer_for`)."""
    skew: float
    """How far clocks may be apart, in seconds."""
    longest: float
    """The longest life of a token that is signed now, in seconds."""
    is_verifying_limited: bool
    """Whether the policy lets nobody verify by a ring that is too old."""
    signs_until: float = field(init=False)
    """Until when the proof is young enough to sign on, in seconds since 1970; see `may_sign`."""
    signing: Mapping[str, PrivateKey] = field(default_factory=lambda: MappingProxyType({}))
    sealed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The sealed private keys that this process has, as they are in Redis."""

    def __post_init__(self) -> None:
        """Work out what each signature asks for."""
        until = self.proof_at + self.ring.policy.max_staleness
        object.__setattr__(self, "signs_until", until.timestamp())

    def staleness(self, now: datetime) -> timedelta:
        """How long ago the leader said that this is the newest version."""
        return max(ZERO, now - self.proof_at)

    def may_sign(self, now: datetime) -> bool:
        """Whether the proof is young enough to sign on.

        No leeway for clocks here: the retire interval has room for two skews, and the leader that
        signed the proof and the one that retires the key may account for one of them.
        """
        return self.staleness(now) <= self.ring.policy.max_staleness

    def may_verify(self, now: datetime) -> bool:
        """As `may_sign`, for verifying: always, unless `max_verify_staleness` is set."""
        limit = self.ring.policy.max_verify_staleness
        return limit is None or self.staleness(now) <= limit + self.ring.policy.clock_skew

    @property
    def lacks(self) -> tuple[str, ...]:
        """The kids whose private half a signing app still has to open."""
        return tuple(k.kid for k in self.ring.may_sign_next if k.kid not in self.signing)

    @property
    def testimony(self) -> Testimony:
        """What this process can show of the ring."""
        return Testimony(self.snapshot, self.proof, self.sealed)

    def with_keys(self, sealed: Mapping[str, str], opened: Mapping[str, PrivateKey]) -> Held:
        """This, with private halves added: sealed ones, and opened ones.

        Opened ones of keys that never sign again, and sealed ones of revoked keys, are let go.
        """
        signing, blobs = {**self.signing, **opened}, {**self.sealed, **sealed}
        signers = {key.kid for key in self.ring.may_sign_next}
        kept = {key.kid for key in self.ring.keys if key.may_verify}
        return replace(
            self,
            signing=MappingProxyType({kid: signing[kid] for kid in signing if kid in signers}),
            sealed=MappingProxyType({kid: blobs[kid] for kid in blobs if kid in kept}),
        )


@dataclass(frozen=True, slots=True)
class Replica:
    """One process' view of the ring `name`, trusting `roots`."""

    name: str
    roots: PinnedRoots
    held: Held | None = None

    @property
    def version(self) -> int:
        """The version held, 0 before there is one."""
        return self.held.ring.version if self.held else 0

    @property
    def is_disowned(self) -> bool:
        """Whether a root signed what is held that is not trusted any more.

        It may be forged, by whoever has that root, and then at any version: so it counts for
        nothing beside what a trusted root signed. Until that is heard, it is better than nothing.
        """
        return self.held is not None and root_of(self.held.snapshot) not in self.roots.kids

    def misfit(self, kek: Kek | None) -> str:
        """Why these roots, or that `kek`, are not what the ring uses; empty where they are."""
        held = self.held
        if held and self.is_disowned:
            return (
                f"the ring is signed by the root {root_of(held.snapshot)}, and pinned here is "
                f"{', '.join(self.roots.kids)}; pin both until ringkeeper rewrap is done"
            )
        if held and kek and held.ring.kek not in ("", *kek.kids):
            return (
                f"the ring is sealed by the KEK {held.ring.kek}, and this process has "
                f"{', '.join(kek.kids)}; give it the file that holds both"
            )
        return ""

    def offer(self, snapshot: str, proof: str, now: datetime) -> Replica:
        """This replica after it was shown a snapshot and, perhaps empty, a proof.

        Raises:
            DocumentError: refused, and why. What is held stays as it is.
            RingNotLoaded, StaleRing, ClocksApart: a cold start needs a young proof.
        """
        if self.held and self.is_disowned:
            offered = replace(self, held=None).offer(snapshot, proof, now)
            return offered.with_keys(self.held.sealed, self.held.signing)
        if self.held and snapshot == self.held.snapshot:
            return self.prove(proof, now) if proof else self
        ring = open_snapshot(snapshot, self.roots)
        if ring.name != self.name:
            raise WrongRing(f"a snapshot of ring {ring.name!r} where {self.name!r} should be")
        if self.held is None:
            return self._first(ring, snapshot, proof, now)
        self._check_succession(ring, self.held.ring)
        held = self._load(ring, snapshot, self.held.proof, self.held.proof_at)
        succeeded = replace(self, held=held.with_keys(self.held.sealed, self.held.signing))
        return succeeded.prove(proof, now) if proof else succeeded

    def prove(self, proof: str, now: datetime) -> Replica:
        """This replica after it was shown a proof; an older or some other version's is ignored.

        So is one from the future: it would vouch for longer than `max_staleness`.

        Raises:
            DocumentError: not a proof that the trust root signed for this ring.
        """
        if self.held is None or proof == self.held.proof:
            return self
        opened = self._opened_proof(proof, self.held.ring)
        vouches = (opened.version, opened.digest) == (self.held.ring.version, self.held.digest)
        is_early = opened.at > now + self.held.ring.policy.clock_skew
        if not vouches or is_early or opened.at <= self.held.proof_at:
            return self
        return replace(self, held=replace(self.held, proof=proof, proof_at=opened.at))

    def lags(self, proof: str) -> bool:
        """Whether `proof` speaks of a version that this replica has not seen: read the hash.

        Raises:
            DocumentError: as `prove`.
        """
        if self.held is None or self.is_disowned:
            return True
        opened = self._opened_proof(proof, self.held.ring)
        return opened.version > self.held.ring.version

    def with_keys(self, sealed: Mapping[str, str], opened: Mapping[str, PrivateKey]) -> Replica:
        """This replica, with private halves added: sealed ones, and opened ones."""
        if self.held is None:
            return self
        return replace(self, held=self.held.with_keys(sealed, opened))

    def loaded(self) -> Held:
        """What is held.

        Raises:
            RingNotLoaded: nothing yet.
        """
        if self.held is None:
            raise RingNotLoaded(
                f"ring {self.name!r} is not loaded yet; is Redis reachable and a daemon leading?"
            )
        return self.held

    def _first(self, ring: Ring, snapshot: str, proof: str, now: datetime) -> Replica:
        if not proof:
            raise RingNotLoaded(
                f"ring {self.name!r} has no proof of freshness; start a daemon that may lead it"
            )
        opened = self._opened_proof(proof, ring)
        # A proof of an earlier version was signed before this one was made: this one is as young.
        is_earlier = opened.version < ring.version
        if not is_earlier and (opened.version, opened.digest) != (
            ring.version,
            digest_of(snapshot),
        ):
            raise RingNotLoaded(
                f"ring {self.name!r}: the proof of freshness vouches for version {opened.version}, "
                f"Redis holds {ring.version}; waiting for a leader to mend it"
            )
        if opened.at > now + ring.policy.clock_skew:
            raise ClocksApart(
                f"ring {self.name!r}: the newest proof of freshness was signed "
                f"{format_duration(opened.at - now)} from now; set this host's clock right"
            )
        held = self._load(ring, snapshot, proof, opened.at)
        if not held.may_sign(now):
            raise StaleRing(
                f"ring {self.name!r}: the newest proof of freshness is "
                f"{format_duration(held.staleness(now))} old, and a cold start takes one of at "
                f"most {format_duration(ring.policy.max_staleness)}; start a daemon that may lead"
            )
        return replace(self, held=held)

    def _check_succession(self, ring: Ring, held: Ring) -> None:
        if ring.id != held.id:
            raise WrongRing(
                f"ring {self.name!r} was replaced by another of the same name ({ring.id} instead "
                f"of {held.id}); restart this process if that was meant"
            )
        if ring.version == held.version:
            raise ForkedRing(f"ring {self.name!r}: two different versions {ring.version}")
        if ring.version < held.version:
            raise RolledBack(
                f"ring {self.name!r} went back from version {held.version} to {ring.version}"
            )

    def _opened_proof(self, proof: str, ring: Ring) -> Proof:
        opened = open_proof(proof, self.roots)
        if (opened.ring_id, opened.name) != (ring.id, self.name):
            raise WrongRing(f"a proof of another ring than {self.name!r}")
        return opened

    def _load(self, ring: Ring, snapshot: str, proof: str, proof_at: datetime) -> Held:
        """`ring` with every public key ready for use; those held already are not loaded again."""
        known = {**self.held.revoked, **self.held.verifying} if self.held else {}
        loaded = [Verifying(key, _loaded(key, known.get(key.kid))) for key in ring.keys]
        verifying = {each.key.kid: each for each in loaded if each.key.may_verify}
        revoked = {each.key.kid: each for each in loaded if not each.key.may_verify}
        policy = ring.policy
        return Held(
            ring=ring,
            snapshot=snapshot,
            digest=digest_of(snapshot),
            proof=proof,
            proof_at=proof_at,
            verifying=MappingProxyType(verifying),
            revoked=MappingProxyType(revoked),
            signers=MappingProxyType({u: ring.signer_for(u) for u in (None, True, False)}),
            skew=policy.clock_skew.total_seconds(),
            longest=policy.access_token_validity.total_seconds(),
            is_verifying_limited=policy.max_verify_staleness is not None,
        )


def _loaded(key: Key, known: Verifying | None) -> PublicKey:
    """The public half of `key`, loaded once for all versions that have it."""
    is_known = known and (known.key.public, known.key.algorithm) == (key.public, key.algorithm)
    return known.public if known and is_known else PublicKey(key.public, key.algorithm)
