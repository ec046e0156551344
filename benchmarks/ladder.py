"""Where the time of a first sight goes: the call rebuilt from the primitive up, a step at a time.

Each rung does all that the one below does, and one thing more. They are measured in turn, on the
same tokens; what a rung adds is the difference. The rungs are calls of the client's own parts, so a
change of theirs moves them along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.rounds import Spread, chunks, interleaved
from benchmarks.stand import RAW, fresh, timed
from ringkeeper import compact, tokens
from ringkeeper.algorithms import PublicKey
from ringkeeper.token_cache import TokenCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stand import Stand

SIGNATURE: Final = "its base64url, and what names the key's algorithm"
READ: Final = "header and claims: base64url, JSON, each member once"
JUDGED: Final = "key, times, and what else is asked"
REMEMBERED: Final = "a place in the cache"
WHOLE: Final = "the keyring around it"
RUNGS: Final = (RAW, SIGNATURE, READ, JUDGED, REMEMBERED, WHOLE)


def measure(on: Stand, rounds: int, calls: int) -> dict[str, Any]:
    """What each rung adds, in times of the raw primitive."""
    slices = list(chunks(on.tokens(rounds * calls), calls))
    held, now = on.ring._held(), on.ring._clock.timestamp()  # noqa: SLF001 - its parts, for once
    public = held.verifying[on.key.kid].public
    caches = [TokenCache() for _ in range(rounds)]

    def raw(round_: int) -> float:
        given = [on.key.to_verify(*fresh(token)) for token in slices[round_]]
        return timed(on.key.public.verify, given)

    def read(token: str) -> None:
        compact.read(token)
        public.verifies(token)

    def judged(token: str, cache: TokenCache | None = None) -> None:
        how = None, None, False, None, PublicKey.verifies
        tokens.judge(held, token, now, *how, cache)

    def does(call: Callable[[str], object]) -> Callable[[int], float]:
        return lambda round_: timed(call, [fresh(token) for token in slices[round_]])

    def remembered(round_: int) -> float:
        given = [(*fresh(token), caches[round_]) for token in slices[round_]]
        return timed(judged, given)

    work: dict[str, Callable[[int], float]] = {
        RAW: raw,
        SIGNATURE: does(public.verifies),
        READ: does(read),
        JUDGED: does(judged),
        REMEMBERED: remembered,
        WHOLE: does(on.ring.verify),
    }
    times = interleaved(work, rounds)
    below = dict(zip(RUNGS[1:], RUNGS, strict=False))
    return {
        rung: Spread.of(
            (mine - less) / raw_
            for mine, less, raw_ in zip(times[rung], times[below[rung]], times[RAW], strict=True)
        )
        for rung in RUNGS[1:]
    }
