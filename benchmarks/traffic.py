"""Requests as they come: many sessions, some far busier than others, each token used some times.

Which session a request belongs to follows Zipf's law (the n-th busiest has 1/n of the requests of
the busiest). A session uses a token 20 times; then it has run out, and the session has another; at
the beginning each is somewhere between. So one request in 20 brings a token that nobody has seen,
and a cache also meets those that come back only after thousands of others. What runs out when is
told by the clock of the instance that is measured: each slice of requests takes it a minute.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from benchmarks.rounds import Spread, chunks, interleaved, spreads
from benchmarks.stand import CAREFUL, OURS, RAW, fresh, timed
from ringkeeper.clock import SystemClock
from ringkeeper.token_cache import TokenCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.stand import Stand

SESSIONS: Final = 10_000
USES: Final = 20
_SEED: Final = 1
_SLICE: Final = 3_000
"""Requests of a round."""
_EACH: Final = 15
"""Peers remember nothing, so each such request of a slice tells what all of them cost."""
_TAKES: Final = 60
"""Seconds that a slice takes, by the clock of who is measured."""
_BEFORE: Final = 20_000
"""Requests before the first that is measured: a site has been running for long."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests, as the numbers of the tokens that they bring."""

    known: Sequence[int]
    """Tokens that were used before the first request."""
    requests: Sequence[int]
    replaced: Sequence[float]
    """By which request a token had its last use, by its number; inf: it is in use at the end."""

    @property
    def tokens(self) -> int:
        """How many there are in all."""
        return len(self.replaced)


def drawn(sessions: int, requests: int, uses: int = USES, seed: int = _SEED) -> Traffic:
    """Traffic of `sessions`; the same for the same seed."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, sessions + 1)))
    used = [chance.randrange(uses) for _ in range(sessions)]
    known = [session for session in range(sessions) if used[session]]
    chance.shuffle(known)
    token, replaced = list(range(sessions)), [math.inf] * sessions
    brought: list[int] = []
    for session in chance.choices(range(sessions), cum_weights=weights, k=requests):
        if used[session] == uses:
            token[session], used[session] = len(replaced), 0
            replaced.append(math.inf)
        used[session] += 1
        if used[session] == uses:
            replaced[token[session]] = len(brought)
        brought.append(token[session])
    return Traffic(known, brought, replaced)


def new_share(known: Iterable[int], requests: Sequence[int]) -> float:
    """Which part of the requests brings a token for the first time."""
    return len(set(requests).difference(known)) / len(requests)


class Ahead(SystemClock):
    """The machine's clock, set forward."""

    by = 0.0
    """Seconds."""

    def timestamp(self) -> float:
        """What time it is, by this clock."""
        return time.time() + self.by


def _ends(traffic: Traffic, now: float) -> list[int]:
    """When each token runs out: a slice after the one that has its last use; seconds since 1970."""
    latest = len(traffic.requests)
    return [int(now) + (int(min(last, latest)) // _SLICE + 2) * _TAKES for last in traffic.replaced]


def measure(on: Stand, rounds: int, sessions: int = SESSIONS) -> dict[str, Any]:
    """How many times faster than each peer, and microseconds a request."""
    before = min(_BEFORE, sessions * 2)
    traffic = drawn(sessions, before + rounds * _SLICE)
    on.ring._cache = TokenCache()  # noqa: SLF001 - as it is by default, and empty
    clock = Ahead()
    on.ring._clock = clock  # noqa: SLF001 - an instance's own, and no setting
    tokens = on.tokens(traffic.tokens, expires=_ends(traffic, clock.timestamp()))
    for number in traffic.known:
        on.ring.verify(*fresh(tokens[number]))
    for place, number in enumerate(traffic.requests[:before]):
        clock.by = place // _SLICE * _TAKES
        on.ring.verify(*fresh(tokens[number]))
    slices = list(chunks(traffic.requests[before:], _SLICE))
    known = (*traffic.known, *traffic.requests[:before])
    asked, missed = 0, on.ring.token_cache.misses

    def ours(round_: int) -> float:
        nonlocal asked
        clock.by = (before + round_ * _SLICE) // _SLICE * _TAKES
        asked += len(slices[round_])
        return timed(on.ring.verify, [fresh(tokens[number]) for number in slices[round_]])

    def theirs(call: Callable[[str], object]) -> Callable[[int], float]:
        return lambda round_: timed(
            call, [fresh(tokens[number]) for number in slices[round_][::_EACH]]
        )

    def raw(round_: int) -> float:
        few = [tokens[number].decode() for number in slices[round_][::_EACH]]
        return timed(on.key.public.verify, [on.key.to_verify(token) for token in few])

    work = {OURS: ours, RAW: raw, CAREFUL: theirs(on.key.careful_verify)}
    work |= {name: theirs(peer.verify) for name, peer in on.peers.items()}
    times = interleaved(work, rounds)
    us = spreads(times, 1e6)
    times_faster = {
        name: Spread.of(a / b for a, b in zip(each, times[OURS], strict=True))
        for name, each in times.items()
        if name != OURS
    }
    return {
        "sessions": sessions,
        "new_share": new_share(known, traffic.requests[before:]),
        "miss_share": (on.ring.token_cache.misses - missed) / asked,
        "cache_mb": on.ring.token_cache.bytes / 1e6,
        "us": us,
        "times_faster_than": times_faster,
        # Who is hardest to beat, as it is told: round by round.
        "fastest_peer": min(on.peers, key=lambda name: times_faster[name].median),
    }
