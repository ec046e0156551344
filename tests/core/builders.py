"""Values for tests of the pure core: no real key is made, so thousands of rings cost nothing."""

import hashlib
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from ringkeeper.algorithms import ALGORITHMS, PublicJwk
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, Ring
from ringkeeperd.rotation import (
    Change,
    Confirmations,
    Instance,
    WaitUntil,
    apply,
    first_keys_wanted,
    first_ring,
    next_step,
)
from ringkeeperd.transitions import FreshKey, KeyWanted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
_serial = count()


def public_jwk(algorithm: str, seed: object = None, bits: int = 2048) -> PublicJwk:
    """A public JWK that looks like one of `algorithm`'s; it verifies nothing."""
    seed = next(_serial) if seed is None else seed
    digest = hashlib.sha256(str(seed).encode()).digest()
    modulus = b"\xff" + (digest * (bits // 256))[1:]
    chosen = ALGORITHMS[algorithm]
    known = {"kty": chosen.kty, "crv": chosen.curve or "", "e": "AQAB", "n": _encoded(modulus)}
    return tuple((name, known.get(name, _encoded(digest))) for name in chosen.members)


def _encoded(octets: bytes) -> str:
    return urlsafe_b64encode(octets).decode().rstrip("=")


def fresh(wanted: KeyWanted) -> FreshKey:
    return FreshKey(
        wanted.kind, wanted.algorithm, public_jwk(wanted.algorithm, bits=wanted.bits or 2048)
    )


def policy(**changes: Any) -> Policy:
    made = Policy.derive(**changes)
    assert made.problems() == []
    return made


def new_ring(rules: Policy | None = None, now: datetime = NOW) -> Ring:
    rules = rules or policy()
    keys = tuple(fresh(wanted) for wanted in first_keys_wanted(rules))
    return first_ring(
        ring_id="r1", name="access-token", policy=rules, fresh=keys, kek="kek-1", now=now, epoch=1
    )


def nobody(trusted_from: datetime = NOW) -> Confirmations:
    return Confirmations((), trusted_from)


def instances(*editions: tuple[int, int], trusted_from: datetime = NOW) -> Confirmations:
    """Instances i0, i1, ... that confirmed these (epoch, version)."""
    return Confirmations(
        tuple(
            Instance(f"i{n}", "sign", epoch, version, NOW)
            for n, (epoch, version) in enumerate(editions)
        ),
        trusted_from,
    )


def do(ring: Ring, step: Change, now: datetime, epoch: int = 1) -> Ring:
    return apply(ring, step, now=now, epoch=epoch, fresh=fresh(step.wants) if step.wants else None)


def settle(
    ring: Ring,
    now: datetime,
    rules: Policy | None = None,
    confirmed: Confirmations | None = None,
    epoch: int = 1,
) -> tuple[Ring, WaitUntil]:
    """`ring` after every step that may be taken at `now`, and the wait that follows."""
    for _ in range(50):
        step = next_step(ring, rules or ring.policy, confirmed or nobody(), now)
        if isinstance(step, WaitUntil):
            assert step.when > now
            return ring, step
        ring = do(ring, step, now, epoch)
    raise AssertionError("the leader never comes to rest")


def advance(ring: Ring, now: datetime, until: datetime) -> Ring:
    """`ring` as an ever-present leader, with nobody to wait for, leaves it at `until`."""
    while True:
        ring, wait = settle(ring, now)
        if wait.when > until:
            return ring
        now = wait.when


def only(kind: KeyKind, keys: Any) -> Any:
    return [key for key in keys if key.kind is kind]
