"""What a second thread brings: tokens verified by two threads, in times of those by one.

By the clock, for CPU time would not tell. Every token is seen for the first time. What the raw
primitive gains is what the machine, and Python's lock, leave to be gained.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.peers import JOSERFC, PYJWT
from benchmarks.rounds import chunks, interleaved, spreads
from benchmarks.stand import OURS, RAW, fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.stand import Stand


def measure(on: Stand, rounds: int, calls: int = 200) -> dict[str, Any]:
    """Tokens a second by two threads over those by one."""
    slices = list(chunks(on.tokens(rounds * 3 * calls), calls))

    def gains(
        call: Callable[..., object], prepare: Callable[[bytes], tuple[Any, ...]] = fresh
    ) -> Callable[[int], float]:
        def gain(round_: int) -> float:
            alone, *pair = (
                [prepare(token) for token in each] for each in slices[3 * round_ : 3 * round_ + 3]
            )
            one, two = elapsed(call, alone), elapsed(call, *pair)
            return 2 * one / two

        return gain

    work = {
        RAW: gains(on.key.public.verify, lambda token: on.key.to_verify(*fresh(token))),
        OURS: gains(on.ring.verify),
    }
    work |= {name: gains(on.peers[name].verify) for name in (PYJWT, JOSERFC)}
    return {"gain": spreads(interleaved(work, rounds))}


def elapsed(call: Callable[..., object], *shares: Sequence[tuple[Any, ...]]) -> float:
    """Seconds until as many threads as there are shares have done theirs."""
    together = threading.Barrier(len(shares) + 1)

    def work(share: Sequence[tuple[Any, ...]]) -> None:
        together.wait()
        for arguments in share:
            call(*arguments)

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    together.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began
