"""A ring in a real server, led by the benchmark itself, which turns its keys when it likes to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from ringkeeper.algorithms import RSA_BITS, PrivateKey
from ringkeeper.clock import SystemClock
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, KeyState, Ring, RotationReason
from ringkeeper.sealing import Kek
from ringkeeper.store import Published
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.founding import found
from ringkeeperd.leader_store import Acquired, Edition, RedisLeaderStore, Written
from ringkeeperd.minting import Minted
from ringkeeperd.rotation import Activate, apply, standby_wanted
from ringkeeperd.transitions import FreshKey, next_version, revoked

if TYPE_CHECKING:
    from ringkeeper.clock import Clock
    from ringkeeper.progress import Progress
    from ringkeeper.ring import Key
    from ringkeeperd.transitions import KeyWanted

NAME: Final = "bench"
_OWNER: Final = "bench"
_LEASE: Final = timedelta(hours=1)


class Leading:
    """A ring `bench` in the server at `url`, with its secrets, private halves included."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root, self.kek = TrustRoot.generate(), Kek.generate()
        self.privates: dict[str, PrivateKey] = {}
        self.ring: Ring
        self._clock: Clock = SystemClock()
        self._store = RedisLeaderStore.connect(url, NAME, self._clock, password=None)
        self._epoch = 0
        self._snapshot = ""

    @classmethod
    async def found(cls, url: str, algorithm: str) -> Self:
        """Make the ring, under the default policy but for its algorithm, and lead it."""
        self = cls(url)
        self.ring = await found(
            name=NAME, ring_id=NAME, policy=Policy.derive(algorithm=algorithm), store=self._store,
            root=self.root, kek=self.kek, mint=self._mint, clock=self._clock, owner=_OWNER,
        )  # fmt: skip
        acquired = await self._store.acquire(_OWNER, _LEASE, 0)
        assert isinstance(acquired, Acquired)
        self._epoch = acquired.epoch
        self._snapshot = (await self._store.read()).snapshot
        return self

    @property
    def signer(self) -> Key:
        """The key that signs."""
        active = self.ring.active()
        assert active
        return active

    async def prepare(self, keys: int, *, revoke: bool = False) -> Edition:
        """The next version, of at most so many keys: the standby signs, and another is published.

        `revoke`: the key that signed verifies nothing any more.
        """
        standby, former, now = self.ring.standby, self.signer, self._clock.now()
        assert standby
        wanted = standby_wanted(self.ring, standby)
        assert wanted
        minted = await self._mint(wanted, self.kek)
        step = Activate(standby.kid, RotationReason.MANUAL, wanted)
        ring = apply(self.ring, step, now=now, epoch=self._epoch, fresh=minted.fresh)
        gone = [key for key in ring.keys if key.state is KeyState.RETIRED]
        gone = gone[: max(0, len(ring.keys) - keys)]
        kept = tuple(
            revoked(key, "bench", now) if revoke and key.kid == former.kid else key
            for key in ring.keys
            if key not in gone
        )
        return self._edition(replace(ring, keys=kept), {minted.fresh.kid: minted.sealed})

    async def grown(self, keys: int) -> Edition:
        """The next version to be published, with so many keys: as after that many turns."""
        put: dict[str, str] = {}
        while True:
            edition = await self.prepare(keys)
            put |= edition.put
            if len(self.ring.keys) == keys:
                return replace(edition, put=put)

    async def only(self, keys: int) -> Edition:
        """The next version, with so many of its keys alone: the static one goes first."""
        kept = sorted(self.ring.keys, key=lambda key: key.kind is KeyKind.STATIC)[:keys]
        return self._edition(next_version(self.ring, self._epoch, tuple(kept)), {})

    def _edition(self, ring: Ring, put: dict[str, str]) -> Edition:
        snapshot = sign_snapshot(ring, self.root)
        proof = sign_proof(ring, snapshot, self._clock.now(), self.root)
        self.ring = ring
        kept = frozenset(key.kid for key in ring.keys)
        return Edition(ring.version, ring.epoch, snapshot, proof, put, kept, ())

    async def publish(self, edition: Edition) -> None:
        """Let every instance have it."""
        written = await self._store.publish(_OWNER, self._snapshot, edition)
        assert isinstance(written, Written), written
        self._snapshot = edition.snapshot

    async def confirmed(self, count: int) -> None:
        """Wait as a leader does: until `count` instances can use everything in this version."""
        async with asyncio.timeout(30):
            while True:
                rows = await self._store.instances(timedelta(minutes=10))
                if sum(row.version == self.ring.version for row in rows) >= count:
                    return
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Let the lease and the connections go."""
        await self._store.release(_OWNER)
        await self._store.close()

    @property
    def channel(self) -> str:
        """Where versions are told."""
        return self._store.layout.published

    async def _mint(
        self,
        wanted: KeyWanted,
        kek: Kek,
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Minted:
        bits = wanted.bits or RSA_BITS
        private = await asyncio.to_thread(PrivateKey.generate, wanted.algorithm, bits)
        fresh = FreshKey(wanted.kind, wanted.algorithm, private.public_jwk)
        self.privates[fresh.kid] = private
        return Minted(fresh, kek.seal(private))


def message(edition: Edition) -> str:
    """What subscribers receive of it."""
    return Published(edition.snapshot, edition.proof).encode()
