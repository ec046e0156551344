"""Tokens whose signature was checked already, so that it is not checked again.

What is remembered is what nothing can make wrong: that a key of this very version of the ring
signed this very token. With the ring's next version it counts no more, and the signature is checked
anew. Whether the token counts (its times, its key's drain, for whom it is) is asked each time.

Only tokens with a good signature come in, so no stranger can fill it. Nor can somebody who has many
tokens issued push out those in use: a new one is on probation, in a tenth of the room, and stays
only if it is seen again before it is its turn to go. One that went and comes back soon stays, too
(S3-FIFO; Yang et al., SOSP 2023). One that has expired goes soon after, so that what is held is
about what is in use.

Reading takes no lock: one lookup, and a mark on what was found.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.meter import Meter, Tally
from ringkeeper.signed_token import TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringkeeper.signed_token import SignedToken

DEFAULT_ENTRIES: Final = 10_000
MOST_ENTRIES: Final = 1_000_000
BYTES_AN_ENTRY: Final = 4096
"""What a cache holds takes no more memory than that for each entry that it may have."""
_PROBATION: Final = 0.1
"""The share of the room for tokens that were seen once."""
_CHANCES: Final = 1000
"""So many that were of use lately are passed over, while one waits for room; then one goes."""
_EVERY: Final = 0.25
"""All are looked at for those that have expired once so many came in, of those that are held."""
_LOOKS: Final = 500
"""At so many of each kind at once, so that nobody waits for it."""
_LARGEST: Final = 1 / 16
"""The share of the room that one token may take."""


def checked_size(value: object) -> int:
    """How many tokens to remember.

    Raises:
        ValueError: no cache can be of that size.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a number; write e.g. 10000, or 0 for none")
    if not 0 <= value <= MOST_ENTRIES or value != int(value):
        raise ValueError(
            f"is no whole number up to {MOST_ENTRIES}; write e.g. 10000, or 0 for none"
        )
    return int(value)


class CacheStatistics(NamedTuple):
    """What a cache holds, and how often it was of use.

    What was remembered before the ring changed stays among the entries: seen again, it is a miss.
    """

    entries: int
    bytes: int
    hits: int
    misses: int


class TokenCache:
    """Signed tokens, as many as there is room for. Any thread may use it."""

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        """Room for so many tokens, and for `BYTES_AN_ENTRY` of memory for each; 0: for none."""
        self._most = entries
        self._most_bytes = entries * BYTES_AN_ENTRY
        self._most_on_probation = entries * _PROBATION
        self._most_probation_bytes = self._most_bytes * _PROBATION
        self._largest = max(self._most_bytes * _LARGEST, BYTES_AN_ENTRY) if entries else 0
        self._lock = threading.Lock()
        self._known: dict[str, SignedToken] = {}
        """By their tails."""
        self._on_probation: deque[SignedToken] = deque()
        self._staying: deque[SignedToken] = deque()
        self._gone: set[int] = set()
        """The hashes of tails of tokens that were not seen again on probation."""
        self._long_gone: set[int] = set()
        """The same of those before: once there are too many, these are forgotten."""
        self._bytes = self._probation_bytes = 0
        self._arrivals = 0
        """Since all were looked at for those that have expired."""
        self._to_look_at = [0, 0]
        """How many of those that stay, and on probation, there still are this time."""
        self._is_whole = True
        """Whether the last change was made to its end."""
        self.hits: Meter = Meter()
        self._misses = Tally()
        self._find = self._known.get
        self.hit: Callable[[], int] = self.hits.tick
        """Count one that was there, and counted."""
        self.miss: Callable[[], int] = self._misses.tick
        """Count one that was not there."""

    def recall(self, token: str) -> SignedToken | None:
        """The token, if it is remembered."""
        if type(token) is not str:  # nothing else is kept, nor compared
            return None
        signed = self._find(token[-TAIL:])
        if signed is None or signed.token != token:
            return None
        signed.is_seen = True
        return signed

    def remember(self, signed: SignedToken, now: float) -> None:
        """Keep `signed` if there is room for it, and nobody else is at it.

        `now`: seconds since 1970. Whoever finds the lock taken goes on: perhaps this very thread
        took it, and was interrupted.
        """
        if signed.weight > self._largest or not self._lock.acquire(blocking=False):
            return
        try:
            self._keep(signed, now)
        finally:
            self._lock.release()

    def _keep(self, signed: SignedToken, now: float) -> None:
        if known := self._find(signed.tail):
            if known.token == signed.token:  # of a former version of the ring
                known.verifying = signed.verifying
            return
        self._begin_change()
        self._drop_expired(now)
        self._bytes += signed.weight
        name = hash(signed.tail)
        if name in self._gone or name in self._long_gone:
            self._gone.discard(name)
            self._long_gone.discard(name)
            self._stay(signed)
        else:
            self._on_probation.append(signed)
            self._probation_bytes += signed.weight
        self._known[signed.tail] = signed
        if len(self._known) > self._most or self._bytes > self._most_bytes:
            self._make_room()
        self._is_whole = True

    def _stay(self, signed: SignedToken) -> None:
        signed.is_staying = True
        self._staying.append(signed)

    def _make_room(self) -> None:
        """Let go who was not of use lately, until all fit in."""
        probation, staying, chances = self._on_probation, self._staying, _CHANCES
        while len(self._known) > self._most or self._bytes > self._most_bytes:
            is_crowded = (
                len(probation) > self._most_on_probation
                or self._probation_bytes > self._most_probation_bytes
            )
            if probation and (is_crowded or not staying):
                self._end_probation(probation.popleft())
            else:
                signed, chances = staying.popleft(), chances - 1
                if signed.is_seen and chances > 0:
                    signed.is_seen = False
                    staying.append(signed)
                else:
                    self._forget(signed)

    def _drop_expired(self, now: float) -> None:
        """Let go who has expired: all are looked at, a few at once.

        They queue up again, so that once around each is where it was.
        """
        if not any(self._to_look_at):
            self._arrivals += 1
            if self._arrivals < len(self._known) * _EVERY:
                return
            self._arrivals = 0
            self._to_look_at = [len(self._staying), len(self._on_probation)]
        for which, queue in enumerate((self._staying, self._on_probation)):
            few = min(_LOOKS, self._to_look_at[which], len(queue))
            self._to_look_at[which] = min(self._to_look_at[which], len(queue)) - few
            for _ in range(few):
                signed = queue.popleft()
                if signed.expires > now:
                    queue.append(signed)
                    continue
                self._forget(signed)
                if not signed.is_staying:
                    self._probation_bytes -= signed.weight

    def _end_probation(self, signed: SignedToken) -> None:
        self._probation_bytes -= signed.weight
        if signed.is_seen:
            signed.is_seen = False
            self._stay(signed)
            return
        self._forget(signed)
        self._gone.add(hash(signed.tail))
        if len(self._gone) > self._most / 2:
            self._gone, self._long_gone = set(), self._gone

    def _forget(self, signed: SignedToken) -> None:
        del self._known[signed.tail]
        self._bytes -= signed.weight

    def _begin_change(self) -> None:
        if not self._is_whole:
            self._begin_anew()
        self._is_whole = False

    def _begin_anew(self) -> None:
        """An exception came in the middle of a change, as Ctrl-C does: nothing adds up any more."""
        held = self._known, self._on_probation, self._staying, self._gone, self._long_gone
        for each in held:
            each.clear()
        self._bytes = self._probation_bytes = 0

    @property
    def statistics(self) -> CacheStatistics:
        """What it holds, and how often it was of use."""
        found = self._bytes, self.hits.count, self._misses.count
        return CacheStatistics(len(self._known), *found)
