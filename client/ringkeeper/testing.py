"""A ring without Redis, for an app's own tests: real keys, and a clock that the test moves.

    import pytest
    import ringkeeper.testing
    from ringkeeper.errors import ExpiredToken

    with ringkeeper.testing.keyring(access_token_validity=300) as ring:
        token = ring.sign({"sub": "alice"})
        ring.rotate()
        assert ring.verify(token)
        ring.advance("6m")  # the validity, and the clock skew
        with pytest.raises(ExpiredToken):
            ring.verify(token)

It is a `ringkeeper.Keyring` to the code under test, and signs and verifies by the same code.
What a daemon does is done at once here: there is nobody to wait for. docs/testing.md has more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import ringkeeper.asyncio
import ringkeeper.keyring
from ringkeeper.algorithms import PrivateKey, PublicKey, kid_of
from ringkeeper.clock import SystemClock
from ringkeeper.durations import parse_duration
from ringkeeper.errors import ConfigurationError, RefreshReason, RequestRefused, RingClosed
from ringkeeper.layout import DEFAULT_NAME
from ringkeeper.meter import Meter
from ringkeeper.policy import Policy
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.replica import Replica
from ringkeeper.ring import Key, KeyKind, KeyState, Ring
from ringkeeper.settings import BY_KEY, SETTINGS, quoted
from ringkeeper.signed import SignedCounts
from ringkeeper.token_cache import TokenCache
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from ringkeeper.clock import Clock
    from ringkeeper.replica import Held


class _VirtualClock(SystemClock):
    def __init__(self) -> None:
        self.now_is = super().now()

    def now(self) -> datetime:
        return self.now_is

    def timestamp(self) -> float:
        return self.now_is.timestamp()


class _InMemory:
    """The leader, the Redis and the follower of one ring in one object."""

    def __init__(
        self, *, algorithm: str = "ES256", strict_key_kind: bool = False, **rules: Any
    ) -> None:
        """A ring under these rules, named and written as in `config.yaml`, or as a timedelta.

        `access_token_validity=300` is in seconds, `max_staleness="1h"` a duration; a name of
        `Policy` (`cryptoperiod`, `use_dynamic`) does as well. What is not given is as by default.

        Raises:
            ConfigurationError: no such rule, or an impossible one.
        """
        policy = _policy_of({"algorithm": algorithm, **rules})
        self._is_closed = False
        self._time = _VirtualClock()
        self._clock: Clock = self._time
        self._is_strict = strict_key_kind
        self._verifies = PublicKey.verifies
        self._use_dynamic: bool | None = None
        self._cache = TokenCache()
        self._root = TrustRoot.generate()
        self._ring = Ring("testing", DEFAULT_NAME, version=0, epoch=1, policy=policy, keys=())
        self._replica = Replica(DEFAULT_NAME, self._root.public)
        self._signed, self._verified = SignedCounts(), Meter()
        self.refreshes: Counter[str] = Counter()
        """What `record_refresh` was told, by reason."""
        self.crowd = 0
        """Seconds that `retry_after` is to answer."""
        self._publish(())

    def record_refresh(self, reason: str = RefreshReason.OTHER, count: int = 1) -> None:
        """Counted in `refreshes`, by the rules of the real one."""
        counts = RefreshCounts()
        counts.record(reason, count)
        self.refreshes.update(counts.take())

    def retry_after(self, most: timedelta | float = 30) -> int:
        """What `crowd` is set to, up to `most`; the real one draws it."""
        seconds = most.total_seconds() if isinstance(most, timedelta) else most
        return min(self.crowd, int(seconds))

    def rotate(self) -> None:
        """Let the standby sign and publish another; the key that signed goes on verifying."""
        active, now = self._ring.active(), self._time.now_is
        self._publish(replace(k, due_at=now) if k is active else k for k in self._ring.keys)

    def revoke(self, kid: str, reason: str = "") -> None:
        """Refuse the tokens of `kid` from now on; if it signed, another key does."""
        key, now = self._ring.key(kid), self._time.now_is
        if key is None or not key.may_verify:
            raise RequestRefused(f"{kid!r} is unknown or revoked already; jwks() shows the others")
        tombstone = replace(
            key,
            state=KeyState.REVOKED,
            revoked_at=now,
            remove_at=max(now + key.retain_for, key.remove_at or now),
            reason=reason,
        )
        self._publish(tombstone if k is key else k for k in self._ring.keys)

    def advance(self, duration: timedelta | str, *, led: bool = True) -> None:
        """Move the ring's clock: keys that are due turn or go, and the ring stays fresh.

        `duration`: a timedelta, or as `"6m"`. `led=False`: as if every daemon were down, nothing
        turns and `staleness` grows.
        """
        span = parse_duration(duration) if isinstance(duration, str) else duration
        until = self._time.now_is + span
        while led and (due := min(filter(None, map(_due_at, self._ring.keys)))) <= until:
            self._time.now_is = max(due, self._time.now_is)
            self._publish(self._ring.keys)
        self._time.now_is = until
        if led:
            snapshot = self._replica.loaded().snapshot
            self._replica = self._replica.prove(self._proof(snapshot), until)

    def _publish(self, keys: Iterable[Key]) -> None:
        """Hold the next version: `keys`, less what is due, and whatever then is missing."""
        now, opened = self._time.now_is, dict[str, PrivateKey]()
        ring = replace(self._ring, version=self._ring.version + 1, keys=_settled(keys, now))
        for kind in (KeyKind.DYNAMIC, KeyKind.STATIC):
            if not ring.active(kind):
                waiting = ring.in_state(KeyState.PUBLISHED, kind)
                chosen = waiting[0] if waiting else _fresh(ring, kind, now, opened)
                signer = _activated(chosen, ring, now)
                ring = replace(ring, keys=(*(k for k in ring.keys if k is not chosen), signer))
        if not ring.standby:
            ring = replace(ring, keys=(*ring.keys, _fresh(ring, KeyKind.DYNAMIC, now, opened)))
        self._ring = ring
        snapshot = sign_snapshot(ring, self._root)
        offered = self._replica.offer(snapshot, self._proof(snapshot), now)
        self._replica = offered.with_keys({}, opened)

    def _proof(self, snapshot: str) -> str:
        return sign_proof(self._ring, snapshot, self._time.now_is, self._root)

    def _held(self) -> Held:
        if self._is_closed:
            raise RingClosed("this ring was closed by the program under test")
        return self._replica.loaded()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in memory, version {self._ring.version}>"


class MemoryKeyring(_InMemory, ringkeeper.keyring.Keyring):
    """A `ringkeeper.Keyring` without Redis."""

    def close(self) -> None:
        """Be of no use any more."""
        self._is_closed = True

    def _seek(self, kid: str) -> bool:  # noqa: ARG002 - there is nowhere to look
        return False

    async def _seek_async(self, kid: str) -> bool:
        return self._seek(kid)

    def _held_at_once(self) -> Held:
        return self._held()


class AsyncMemoryKeyring(_InMemory, ringkeeper.asyncio.Keyring):
    """A `ringkeeper.asyncio.Keyring` without Redis; `rotate` and the like are not awaited."""

    async def close(self) -> None:
        """Be of no use any more."""
        self._is_closed = True

    async def _seek(self, kid: str) -> bool:  # noqa: ARG002
        return False


keyring = MemoryKeyring
keyring_async = AsyncMemoryKeyring


_BY_RULE: Final = {setting.policy: setting for setting in SETTINGS if setting.policy}


def _policy_of(rules: Mapping[str, Any]) -> Policy:
    """The policy that a test asks for.

    Raises:
        ConfigurationError: every problem found.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in rules.items():
        setting = _BY_RULE.get(name) or BY_KEY.get(name)
        if setting is None or not setting.policy:
            problems.append(f"{name}: no such rule of a ring; docs/configuration.md has them")
            continue
        try:
            is_read = value is None or isinstance(value, timedelta)
            values[setting.policy] = value if is_read else setting.kind.read(value)
        except ValueError as error:
            problems.append(f"{name}: {quoted(value)} {error}")
    if not problems:
        policy = Policy.derive(**values)
        problems = policy.problems()
    if problems:
        raise ConfigurationError(problems)
    return policy


def _due_at(key: Key) -> datetime | None:
    return key.due_at if key.state is KeyState.ACTIVE else key.remove_at


def _settled(keys: Iterable[Key], now: datetime) -> tuple[Key, ...]:
    kept = (key for key in keys if not key.remove_at or key.remove_at > now)
    return tuple(
        replace(k, state=KeyState.RETIRED, retired_at=now, remove_at=now + k.retain_for)
        if k.state is KeyState.ACTIVE and k.due_at and k.due_at <= now
        else k
        for k in kept
    )


def _fresh(ring: Ring, kind: KeyKind, now: datetime, into: dict[str, PrivateKey]) -> Key:
    private, rules = PrivateKey.generate(ring.policy.algorithm), ring.policy
    kid = kid_of(private.public_jwk, prefix=kind.prefix)
    into[kid] = private
    limits = (rules.access_token_validity, rules.max_staleness, rules.clock_skew)
    edition = (now, ring.epoch, ring.version, now)
    public = private.public_jwk
    return Key(kid, kind, rules.algorithm, public, KeyState.PUBLISHED, *edition, *limits)


def _activated(key: Key, ring: Ring, now: datetime) -> Key:
    due = now + ring.policy.cryptoperiod if key.kind is KeyKind.DYNAMIC else None
    return replace(
        key, state=KeyState.ACTIVE, activated_at=now, activated_version=ring.version, due_at=due
    )
