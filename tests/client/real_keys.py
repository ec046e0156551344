"""Rings whose keys are real, with their private halves at hand. Each key pair is made once."""

from datetime import datetime
from functools import cache
from typing import Any

from ringkeeper.algorithms import ALGORITHMS, PrivateKey
from ringkeeper.replica import Held, Replica
from ringkeeper.ring import Ring
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.transitions import FreshKey, KeyWanted
from tests.core.builders import NOW, policy

ROOT = TrustRoot.generate()
PRIVATE: dict[str, PrivateKey] = {}
"""Every private half that was made here, by kid."""


@cache
def _made(kty: str, curve: str | None, serial: int) -> dict[str, Any]:
    named = next(a for a in ALGORITHMS.values() if (a.kty, a.curve) == (kty, curve))
    return PrivateKey.generate(named.name).secret_jwk()


def fresh(wanted: KeyWanted, serial: int) -> FreshKey:
    """The `serial`th key of its type."""
    chosen = ALGORITHMS[wanted.algorithm]
    jwk = _made(chosen.kty, chosen.curve, serial)
    private = PrivateKey.from_secret_jwk(jwk, wanted.algorithm)
    made = FreshKey(wanted.kind, wanted.algorithm, private.public_jwk)
    PRIVATE[made.kid] = private
    return made


def real_ring(now: datetime = NOW, **rules: Any) -> Ring:
    """A first ring: an active, a standby and a static key."""
    chosen = policy(**{"algorithm": "ES256", **rules})
    keys = tuple(fresh(wanted, n) for n, wanted in enumerate(first_keys_wanted(chosen)))
    return first_ring(
        ring_id="r1", name="access-token", policy=chosen, fresh=keys, kek="", now=now, epoch=1
    )


def holding(ring: Ring, now: datetime = NOW) -> Held:
    """`ring` as a signing app holds it, proved at `now`."""
    snapshot = sign_snapshot(ring, ROOT)
    proof = sign_proof(ring, snapshot, now, ROOT)
    replica = Replica(ring.name, ROOT.public).offer(snapshot, proof, now)
    return replica.with_keys({}, PRIVATE).loaded()
