"""What verifying costs: a token's first sight, and each time after, in times of the raw primitive.

The whole public call is measured. Every token of a first sight is another one, so no cache knows
it. The tokens seen before are those of the last rounds, as new strings: a web framework makes one
for each request, so a hash that Python keeps with a string is of no use to anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.claims import USUAL
from benchmarks.rounds import chunks, interleaved, ratios, spreads
from benchmarks.stand import CAREFUL, OURS, RAW, SEEN, fresh, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stand import Stand

_BACK: Final = 5
"""Rounds before, whose tokens are seen again."""


def measure(on: Stand, rounds: int, calls: int, size: int = USUAL) -> dict[str, Any]:
    """Ratios to the raw primitive, and microseconds."""
    known, *slices = chunks(on.tokens((rounds + 1) * calls, size), calls)
    for token in known:
        on.ring.verify(*fresh(token))

    def verifies(call: Callable[[str], object]) -> Callable[[int], float]:
        return lambda round_: timed(call, [fresh(token) for token in slices[round_]])

    def seen(round_: int) -> float:
        before = [known, *slices][max(0, round_ + 1 - _BACK) : round_ + 1]
        return timed(on.ring.verify, [fresh(token) for each in before for token in each])

    def raw(round_: int) -> float:
        given = [on.key.to_verify(*fresh(token)) for token in slices[round_]]
        return timed(on.key.public.verify, given)

    work = {RAW: raw, CAREFUL: verifies(on.key.careful_verify), OURS: verifies(on.ring.verify)}
    work |= {name: verifies(peer.verify) for name, peer in on.peers.items()}
    times = interleaved(work | {SEEN: seen}, rounds)
    return {"ratio": ratios(times, RAW), "us": spreads(times, 1e6)}
