"""What signing costs, in times of the raw primitive: the whole call, from claims to token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.claims import USUAL, sized
from benchmarks.rounds import interleaved, ratios, spreads
from benchmarks.stand import CAREFUL, OURS, RAW, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stand import Stand


def measure(on: Stand, rounds: int, calls: int, size: int = USUAL) -> dict[str, Any]:
    """Ratios to the raw primitive, and microseconds."""
    claims = [(sized(size, number),) for number in range(calls)]
    messages = [on.key.to_sign(on.issuer.sign(each)) for (each,) in claims]

    def signs(call: Callable[..., object]) -> Callable[[int], float]:
        return lambda _: timed(call, claims)

    def raw(_: int) -> float:
        return timed(on.key.private.sign, messages)

    work = {RAW: raw, CAREFUL: signs(on.key.careful_sign), OURS: signs(on.issuer.sign)}
    work |= {name: signs(peer.sign) for name, peer in on.peers.items() if peer.sign}
    times = interleaved(work, rounds)
    return {"ratio": ratios(times, RAW), "us": spreads(times, 1e6)}
