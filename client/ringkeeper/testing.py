"""A ring without Redis, for an app's own tests: real keys, and a clock that the test moves.

    with ringkeeper.testing.keyring(access_token_validity=timedelta(minutes=5)) as ring:
        token = ring.sign({"sub": "alice"})
        ring.rotate()
        assert ring.verify(token)
        ring.advance(timedelta(minutes=6))  # the validity, and the clock skew
        with pytest.raises(ExpiredToken):
            ring.verify(token)

It is a `ringkeeper.Keyring` for the code under test, and signs and verifies by the same code.
What a daemon does is done at once here, as nobody else has to be waited for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ringkeeper.asyncio
import ringkeeper.keyring
from ringkeeper.algorithms import PrivateKey, kid_of
from ringkeeper.clock import SystemClock
from ringkeeper.errors import ConfigurationError, RequestRefused, RingClosed
from ringkeeper.layout import DEFAULT_NAME
from ringkeeper.policy import Policy
from ringkeeper.replica import Replica
from ringkeeper.ring import Key, KeyKind, KeyState, Ring
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from ringkeeper.replica import Held

_ACTIVE, _PUBLISHED, _RETIRED = KeyState.ACTIVE, KeyState.PUBLISHED, KeyState.RETIRED


class _VirtualClock(SystemClock):
    def __init__(self) -> None:
        self.time = super().now()

    def now(self) -> datetime:
        return self.time


class _InMemory:
    """The leader, the Redis and the follower of one ring in one object."""

    def __init__(self, *, algorithm: str = "ES256", **policy: Any) -> None:
        """A ring under the policy that `Policy.derive` makes of the arguments.

        Raises:
            ConfigurationError: an impossible policy.
        """
        rules = Policy.derive(algorithm=algorithm, **policy)
        problems = rules.problems()
        if problems:
            raise ConfigurationError(problems)
        self._clock = _VirtualClock()
        self._root = TrustRoot.generate()
        self._replica = Replica(DEFAULT_NAME, self._root.public)
        self._is_closed = False
        self._publish(Ring("testing", DEFAULT_NAME, 0, 1, rules, ()), ())

    def rotate(self) -> None:
        """Let the standby sign and publish another; the key that signed goes on verifying."""
        ring = self._held().ring
        if ring.is_full:
            raise RequestRefused("the ring holds as many keys as it may; advance its clock first")
        self._publish(ring, self._with_retired(ring.active(), ring.keys))

    def revoke(self, kid: str, reason: str = "") -> None:
        """Refuse the tokens of `kid` from now on; if it signed, another key does."""
        ring, now = self._held().ring, self._clock.time
        key = ring.key(kid)
        if key is None or not key.may_verify:
            raise RequestRefused(f"{kid!r} is unknown or revoked already; jwks() has the others")
        until = max(now + key.retain_for, key.remove_at or now)
        tombstone = replace(
            key, state=KeyState.REVOKED, revoked_at=now, remove_at=until, reason=reason
        )
        self._publish(ring, tuple(tombstone if k is key else k for k in ring.keys))

    def advance(self, duration: timedelta, *, led: bool = True) -> None:
        """Move the ring's clock: keys that are due turn or go, and the ring stays fresh.

        `led=False`: as if every daemon were down, nothing turns and `staleness` grows.
        """
        until = self._clock.time + duration
        while led and (due := min(self._turns())) <= until:
            self._clock.time = max(due, self._clock.time)
            ring, active = self._replica.loaded().ring, self._replica.loaded().ring.active()
            kept = tuple(k for k in ring.keys if not k.remove_at or k.remove_at > due)
            is_due = active and active.due_at and active.due_at <= due
            self._publish(ring, self._with_retired(active if is_due else None, kept))
        self._clock.time = until
        if led:
            held = self._replica.loaded()
            proof = sign_proof(held.ring, held.snapshot, until, self._root)
            self._replica = self._replica.prove(proof)

    def _turns(self) -> list[datetime]:
        ring = self._held().ring
        times = [k.due_at if k.state is _ACTIVE else k.remove_at for k in ring.keys]
        return [time for time in times if time]

    def _with_retired(self, former: Key | None, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        now = self._clock.time
        changed = {"state": _RETIRED, "retired_at": now}
        return tuple(
            replace(k, **changed, remove_at=now + k.retain_for) if k is former else k for k in keys
        )

    def _publish(self, former: Ring, keys: tuple[Key, ...]) -> None:
        """Hold the version after `former`: `keys`, and what is missing to make them whole."""
        now, fresh = self._clock.time, dict[str, PrivateKey]()
        ring = replace(former, version=former.version + 1, keys=keys)
        for kind in KeyKind:
            if ring.active(kind) is None:
                next_one, *_ = *ring.in_state(_PUBLISHED, kind), self._fresh(ring, kind, fresh)
                due = now + ring.policy.cryptoperiod if kind is KeyKind.DYNAMIC else None
                times = {"activated_at": now, "activated_version": ring.version, "due_at": due}
                others = tuple(key for key in ring.keys if key is not next_one)
                ring = replace(ring, keys=(*others, replace(next_one, state=_ACTIVE, **times)))
        if ring.standby is None:
            ring = replace(ring, keys=(*ring.keys, self._fresh(ring, KeyKind.DYNAMIC, fresh)))
        snapshot = sign_snapshot(ring, self._root)
        offered = self._replica.offer(snapshot, sign_proof(ring, snapshot, now, self._root), now)
        self._replica = offered.with_signing(fresh)

    def _fresh(self, ring: Ring, kind: KeyKind, into: dict[str, PrivateKey]) -> Key:
        private, policy, now = PrivateKey.generate(ring.policy.algorithm), ring.policy, self._clock
        kid = kid_of(private.public_jwk, prefix=kind.prefix)
        into[kid] = private
        limits = (policy.access_token_validity, policy.max_staleness, policy.clock_skew)
        edition = (now.time, ring.epoch, ring.version, now.time)
        return Key(kid, kind, policy.algorithm, private.public_jwk, _PUBLISHED, *edition, *limits)

    def _held(self) -> Held:
        if self._is_closed:
            raise RingClosed("this ring was closed by the test")
        return self._replica.loaded()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} version {self._replica.loaded().ring.version}>"


class keyring(_InMemory, ringkeeper.keyring.Keyring):  # noqa: N801 - read as a verb
    pass
