"""Policy: how long a ring's keys sign, verify and wait. Pure.

A policy travels inside the signed snapshot and apps take it from there alone, so an attacker
who edits an app's configuration, or an operator who forgets one, changes nothing (promise 8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ringkeeper.algorithms import ALGORITHMS, RSA_BITS, RSA_SIZES
from ringkeeper.durations import format_duration

if TYPE_CHECKING:
    from ringkeeper.ring import Key

MAX_KEYS = 32
"""The most keys that schedule and operators fill a ring with: every verifier loads all of them."""
CAPACITY = 40
"""The most keys that a ring holds: the room above is for emergencies, so that none of them ever
finds the ring full and leaves nobody to sign."""

_LONGEST_PROOF_INTERVAL = timedelta(seconds=60)
_LIVENESS_POLLS = 3
_LEAST_SKEW = timedelta(seconds=1)
_MOST_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Policy:
    """One ring's rules. `Policy.derive` fills in the defaults; `problems` judges the whole."""

    cryptoperiod: timedelta
    """How long a key signs: `access_token_dynamic_signing_key_update_interval`."""
    access_token_validity: timedelta
    """The longest that a token may live."""
    use_dynamic: bool
    """Whether the dynamic key signs, or the static one (both verify in either case)."""
    algorithm: str
    """What fresh keys are made for; existing keys keep their own."""
    publication_interval: timedelta
    """How long a key must have been public before it may sign."""
    max_staleness: timedelta
    """How old the newest proof may be for a signing app to go on signing."""
    clock_skew: timedelta
    """The greatest difference between two hosts' clocks."""
    confirmation_timeout: timedelta
    """How long an instance that never confirms may hold an activation up."""
    jwks_max_age: timedelta
    """How long a verifier behind HTTP may cache the JWKS."""
    poll_interval: timedelta
    """How often an instance reads the hash even when no message came."""
    rsa_key_size: int = RSA_BITS
    """Bits of fresh RSA keys, where `algorithm` takes such."""
    max_verify_staleness: timedelta | None = None
    """After this long without a proof an app refuses to verify; off by default (promise 9)."""

    @classmethod
    def derive(  # noqa: PLR0913 - one parameter a setting
        cls,
        *,
        cryptoperiod: timedelta = timedelta(hours=168),
        access_token_validity: timedelta = timedelta(hours=1),
        use_dynamic: bool = True,
        algorithm: str = "RS256",
        rsa_key_size: int = RSA_BITS,
        publication_interval: timedelta | None = None,
        max_staleness: timedelta | None = None,
        clock_skew: timedelta = timedelta(seconds=60),
        confirmation_timeout: timedelta | None = None,
        jwks_max_age: timedelta | None = None,
        poll_interval: timedelta | None = None,
        max_verify_staleness: timedelta | None = None,
    ) -> Policy:
        """A policy with what was not given derived from the cryptoperiod.

        Publication: 4 h (how long SuperTokens' SDK caches a JWKS) or a quarter of the
        cryptoperiod. Staleness: a day, or one cryptoperiod. The three waits that make no sense
        beyond the publication interval are capped by it.
        """
        quarter = _ms(min(timedelta(hours=4), cryptoperiod / 4))
        publication = quarter if publication_interval is None else publication_interval

        def given(value: timedelta | None, default: timedelta) -> timedelta:
            return default if value is None else value

        return cls(
            cryptoperiod=cryptoperiod,
            access_token_validity=access_token_validity,
            use_dynamic=use_dynamic,
            algorithm=algorithm,
            rsa_key_size=rsa_key_size,
            publication_interval=publication,
            max_staleness=given(max_staleness, min(timedelta(hours=24), cryptoperiod)),
            clock_skew=clock_skew,
            confirmation_timeout=given(
                confirmation_timeout, min(timedelta(minutes=10), publication)
            ),
            jwks_max_age=given(jwks_max_age, min(timedelta(minutes=5), publication)),
            poll_interval=given(poll_interval, min(timedelta(seconds=30), publication)),
            max_verify_staleness=max_verify_staleness,
        )

    @property
    def retire_interval(self) -> timedelta:
        """How long a retired key still verifies under this policy; derived, never configured."""
        return self.access_token_validity + self.max_staleness + 2 * self.clock_skew

    @property
    def proof_interval(self) -> timedelta:
        """How often the leader signs that this is still the newest version."""
        return _ms(min(_LONGEST_PROOF_INTERVAL, self.cryptoperiod / 10))

    @property
    def liveness_window(self) -> timedelta:
        """An instance that was heard of within this long is live: three polls."""
        return _LIVENESS_POLLS * self.poll_interval

    @property
    def key_bits(self) -> int:
        """The size of fresh RSA keys; 0 where they are none."""
        return self.rsa_key_size if ALGORITHMS[self.algorithm].kty == "RSA" else 0

    def suits(self, key: Key) -> bool:
        """Whether `key` is such as fresh keys are made."""
        return (key.algorithm, key.bits) == (self.algorithm, self.key_bits)

    @property
    def keys_kept(self) -> int:
        """The most keys a ring holds under this policy when keys turn on schedule."""
        return 3 + math.ceil(self.retire_interval / self.cryptoperiod)

    def lease_problem(self, ttl: timedelta, name: str) -> str:
        """Why the ring `name` cannot be led with leases of `ttl` under this policy; or nothing."""
        most = self.max_staleness - self.proof_interval
        if ttl <= most:
            return ""
        return (
            f"lease_ttl: {format_duration(ttl)} is longer than the {format_duration(most)} that "
            f"ring {name} bears without a leader (max_staleness less one proof of freshness), so "
            "one crash would stop apps from signing; shorten it, or lengthen max_staleness"
        )

    def problems(self) -> list[str]:
        """What is impossible about this policy, a line each: what, why, what to do."""
        problems = [
            f"{name}: must be longer than 0; write e.g. 30s"
            for name, value in self._positive()
            if value <= timedelta(0)
        ]
        if self.clock_skew < _LEAST_SKEW:
            problems.append(
                f"clock_skew: must be at least {format_duration(_LEAST_SKEW)}, for no two hosts' "
                "clocks agree better all the time; write e.g. 60s"
            )
        if timedelta(0) < self.access_token_validity < timedelta(seconds=1):
            problems.append(
                "access_token_validity: must be at least 1 second, in which tokens count; write "
                "e.g. 3600"
            )
        if self.algorithm not in ALGORITHMS:
            problems.append(
                f"algorithm: {self.algorithm!r} is not offered; use one of {', '.join(ALGORITHMS)}"
            )
        if self.rsa_key_size not in RSA_SIZES:
            sizes = ", ".join(map(str, RSA_SIZES))
            problems.append(f"rsa_key_size: {self.rsa_key_size} is not offered; use one of {sizes}")
        return problems or self._contradictions()

    def _positive(self) -> tuple[tuple[str, timedelta], ...]:
        return (
            ("access_token_dynamic_signing_key_update_interval", self.cryptoperiod),
            ("access_token_validity", self.access_token_validity),
            ("publication_interval", self.publication_interval),
            ("max_staleness", self.max_staleness),
            ("confirmation_timeout", self.confirmation_timeout),
            ("jwks_max_age", self.jwks_max_age),
            ("poll_interval", self.poll_interval),
            (
                "max_verify_staleness",
                timedelta(1) if self.max_verify_staleness is None else self.max_verify_staleness,
            ),
        )

    def _contradictions(self) -> list[str]:
        """What single values do not show: each message says what, why, and what to do."""
        show = format_duration
        problems = []
        if self.keys_kept > MAX_KEYS:
            problems.append(
                f"access_token_dynamic_signing_key_update_interval: {show(self.cryptoperiod)} with "
                f"tokens that live {show(self.access_token_validity)} keeps {self.keys_kept} keys "
                f"(a retired key verifies for {show(self.retire_interval)}), and {MAX_KEYS} is the "
                "most; lengthen the interval, or shorten access_token_validity or max_staleness"
            )
        if self.publication_interval > self.cryptoperiod:
            problems.append(
                f"publication_interval: {show(self.publication_interval)} is longer than the "
                f"{show(self.cryptoperiod)} that a key signs, so no key would be ready in time; "
                "shorten it, or lengthen access_token_dynamic_signing_key_update_interval"
            )
        if self.jwks_max_age > self.publication_interval:
            problems.append(
                f"jwks_max_age: {show(self.jwks_max_age)} is longer than the publication interval "
                f"of {show(self.publication_interval)}, so a cache could miss the key that signs; "
                "shorten it, or lengthen publication_interval"
            )
        if self.confirmation_timeout > self.cryptoperiod:
            problems.append(
                f"confirmation_timeout: {show(self.confirmation_timeout)} is longer than the "
                f"{show(self.cryptoperiod)} that a key signs, so one silent instance would hold up "
                "every rotation; shorten it"
            )
        if self.poll_interval > self.max_staleness:
            problems.append(
                f"poll_interval: {show(self.poll_interval)} is longer than max_staleness "
                f"({show(self.max_staleness)}), so an app that hears no messages would stop "
                "signing between two polls; shorten it"
            )
        if self.clock_skew > _MOST_SKEW:
            problems.append(
                f"clock_skew: {show(self.clock_skew)} is no leeway but a broken clock, and every "
                f"expired token would be good for that long; set it to at most {show(_MOST_SKEW)}, "
                "and the clocks right"
            )
        if self.max_staleness < 2 * self.proof_interval:
            problems.append(
                f"max_staleness: {show(self.max_staleness)} is shorter than two proofs of "
                f"freshness ({show(self.proof_interval)} apart), so one lost message would stop "
                "every app from signing; lengthen it"
            )
        if self.max_verify_staleness is not None and self.max_verify_staleness < self.max_staleness:
            problems.append(
                f"max_verify_staleness: {show(self.max_verify_staleness)} is shorter than "
                f"max_staleness ({show(self.max_staleness)}), so an app would sign what it refuses "
                "to verify; lengthen it, or leave it out"
            )
        return problems


def _ms(duration: timedelta) -> timedelta:
    """`duration` in whole milliseconds, so that the wire holds exactly what memory holds."""
    return timedelta(milliseconds=max(1, duration // timedelta(milliseconds=1)))
