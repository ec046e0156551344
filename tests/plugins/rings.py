"""Rings in real servers, led by hand: what a leader would publish, whenever a test says so."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.layout import DEFAULT_NAME, Layout
from ringkeeper.policy import Policy
from ringkeeper.ring import Key, KeyKind, KeyState, Ring, RotationReason
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.founding import found
from ringkeeperd.leader_store import (
    Acquired,
    Edition,
    Entry,
    Outcome,
    RedisLeaderStore,
    Written,
)
from ringkeeperd.minting import Minted, mint, mint_aside
from ringkeeperd.operations import call_off_drain, revocation_wants, revoke, rollback, rotate
from ringkeeperd.rewrapping import rewrapped
from ringkeeperd.rotation import Activate, Adopt, Confirmations, apply
from ringkeeperd.transitions import KeyWanted
from tests.plugins.servers import Server

_T = TypeVar("_T")
_OWNER = "the test"
_CLOCK = SystemClock()


class LedRing:
    """A ring founded in `server`, and its leader, who acts when told to and never else.

    Works from tests with and without an event loop: each deed runs on a thread of its own.
    """

    def __init__(self, server: Server, *, name: str = DEFAULT_NAME, **policy: Any) -> None:
        self.server = server
        self.name = name
        self.layout = Layout(name)
        self.root = TrustRoot.generate()
        self.kek = Kek.generate()
        # ES256: keys are made in no time.
        self.policy = Policy.derive(**{"algorithm": "ES256", **policy})
        assert self.policy.problems() == []
        self.ring = self._with_store(self._found)
        with server.client() as client:
            stored: dict[str, str] = client.hgetall(self.layout.keyring)
            self.sealed: dict[str, str] = client.hgetall(self.layout.sealed)
        self.snapshot, self.proof = stored["snapshot"], stored["proof"]

    async def _found(self, store: RedisLeaderStore) -> Ring:
        return await found(
            name=self.name,
            ring_id=f"id of {self.name}",
            policy=self.policy,
            store=store,
            root=self.root,
            kek=self.kek,
            mint=mint_aside,
            clock=_CLOCK,
            owner=_OWNER,
        )

    @property
    def signer(self) -> Key:
        assert self.ring.signer
        return self.ring.signer

    @property
    def standby(self) -> Key:
        assert self.ring.standby
        return self.ring.standby

    def turn(self, *, kek: Kek | None = None, silently: bool = False) -> Ring:
        """Let the standby sign, and publish another, sealed by `kek`."""
        fresh = mint(KeyWanted(KeyKind.DYNAMIC, self.policy.algorithm), kek or self.kek)
        step = Activate(self.standby.kid, RotationReason.MANUAL, KeyWanted(KeyKind.DYNAMIC, ""))
        return self._publish(
            lambda epoch: apply(self.ring, step, now=_CLOCK.now(), epoch=epoch, fresh=fresh.fresh),
            fresh,
            silently=silently,
        )

    def reseal(self, kek: Kek) -> Ring:
        """Seal every private half by `kek` instead."""
        keys = {key.kid: key for key in self.ring.keys}
        blobs = {k: kek.seal(self.kek.unseal(blob, keys[k])) for k, blob in self.sealed.items()}
        with self.server.client() as client:
            client.hset(self.layout.sealed, mapping=blobs)
        self.sealed, self.kek = blobs, kek
        return self._publish(
            lambda epoch: rewrapped(self.ring, kek=kek.kid, epoch=epoch), None, silently=False
        )

    def revoke(self, kid: str, *, drain: timedelta | None = None, silently: bool = False) -> Ring:
        """Make `kid` a tombstone, or let it be drained."""
        wanted = revocation_wants(self.ring, kid, _CLOCK.now())
        fresh = mint(wanted, self.kek) if wanted else None
        return self._publish(
            lambda epoch: revoke(
                self.ring,
                kid,
                reason="leaked",
                now=_CLOCK.now(),
                epoch=epoch,
                fresh=fresh.fresh if fresh else None,
                drain=drain,
                confirmed=Confirmations((), _CLOCK.now()),
            ),
            fresh,
            silently=silently,
        )

    def call_off_drain(self, kid: str) -> Ring:
        """Let `kid` be drained no more."""
        return self._publish(
            lambda epoch: call_off_drain(self.ring, kid, now=_CLOCK.now(), epoch=epoch),
            None,
            silently=False,
        )

    def rotate(self, *, silently: bool = False) -> Ring:
        """Let the turn be due at once, as an operator asks for it."""
        return self._publish(
            lambda epoch: rotate(self.ring, now=_CLOCK.now(), epoch=epoch), None, silently=silently
        )

    def rollback(self) -> Ring:
        """Let the former signer come back, as an operator asks for it."""
        return self._publish(
            lambda epoch: rollback(self.ring, now=_CLOCK.now(), epoch=epoch), None, silently=False
        )

    def adopt(self, *, silently: bool = False, **changes: Any) -> Ring:
        """Publish a version that has another policy, and the same keys."""
        self.policy = Policy.derive(**{"algorithm": "ES256", **changes})
        return self._publish(
            lambda epoch: apply(self.ring, Adopt(self.policy), now=_CLOCK.now(), epoch=epoch),
            None,
            silently=silently,
        )

    def prove(self, at: datetime | None = None, *, silently: bool = False) -> None:
        """Publish a proof for the version that is there; `silently`: its message is lost."""
        self.proof = sign_proof(self.ring, self.snapshot, at or _CLOCK.now(), self.root)
        if silently:
            self.put_back()
            return

        async def work(store: RedisLeaderStore) -> None:
            await self._acquire(store)
            outcome = await store.prove(
                _OWNER, self.ring.version, self.snapshot, self.proof, self.sealed
            )
            assert outcome == Written()
            await store.release(_OWNER)

        self._with_store(work)

    def put_back(self) -> None:
        """Write everything as it should be, and tell nobody: Redis lost it, or was lied to."""
        edition = {"version": self.ring.version, "epoch": self.ring.epoch}
        documents = {"snapshot": self.snapshot, "proof": self.proof}
        with self.server.client() as client, client.pipeline() as pipeline:
            pipeline.delete(self.layout.keyring, self.layout.sealed)
            pipeline.hset(self.layout.keyring, mapping={**edition, **documents})
            pipeline.hset(self.layout.sealed, mapping=self.sealed)
            pipeline.execute()

    def say(self, message: str | bytes) -> None:
        """Publish anything at all on the ring's channel."""
        with self.server.client() as client:
            client.publish(self.layout.published, message)

    def _publish(
        self, change: Callable[[int], Ring], minted: Minted | None, *, silently: bool
    ) -> Ring:
        """As leader.py does it; `silently`: the hash is written, and the message is lost."""
        put = {minted.fresh.kid: minted.sealed} if minted else {}

        async def work(store: RedisLeaderStore) -> Ring:
            former = self.snapshot
            epoch = self.ring.epoch if silently else await self._acquire(store)
            ring = change(epoch)
            self.snapshot = sign_snapshot(ring, self.root)
            self.proof = sign_proof(ring, self.snapshot, _CLOCK.now(), self.root)
            kept = frozenset(k.kid for k in ring.keys if k.state is not KeyState.REVOKED)
            self.sealed = {k: s for k, s in {**self.sealed, **put}.items() if k in kept}
            if not silently:
                edition = Edition(
                    ring.version, epoch, self.snapshot, self.proof, put, kept, events=()
                )
                assert await store.publish(_OWNER, former, edition) == Written()
                await store.release(_OWNER)
            return ring

        self.ring = self._with_store(work)
        if silently:
            self.put_back()
        return self.ring

    async def _acquire(self, store: RedisLeaderStore) -> int:
        taken = await store.acquire(_OWNER, timedelta(seconds=30), self.ring.epoch)
        assert isinstance(taken, Acquired)
        return taken.epoch

    def _with_store(self, work: Callable[[RedisLeaderStore], Awaitable[_T]]) -> _T:
        async def main() -> _T:
            store = RedisLeaderStore.connect(self.server.url, self.name, _CLOCK, password=None)
            try:
                return await work(store)
            finally:
                await store.close()

        with ThreadPoolExecutor(1) as aside:
            return aside.submit(lambda: asyncio.run(main())).result()


async def answered(store: RedisLeaderStore, entry: Entry, event: str = "") -> Outcome:
    """What answering a request comes to, by a leader that leads for just that long."""
    acquired = await store.acquire(_OWNER, timedelta(seconds=30), 0)
    assert isinstance(acquired, Acquired)
    try:
        return await store.tell(_OWNER, event, entry)
    finally:
        await store.release(_OWNER)


@pytest.fixture
def make_ring() -> Callable[..., LedRing]:
    """Founds a ring in a server, `make_ring(server, name=..., **policy)`, to be led by hand."""
    return LedRing


@pytest.fixture
def led(valkey: Server) -> LedRing:
    """A ring under default policy (ES256) in a shared Valkey, to be led by hand."""
    return LedRing(valkey)
