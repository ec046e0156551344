"""`make free-threaded PYTHON=python3.14t`: many threads at the cache of verified tokens, at once.

On a Python without a global lock what one thread does halfway is seen by the others. What is tried
here needs nothing installed, so that any such Python will do: of the package only the cache is
loaded, and what it keeps and counts.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import types
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

if __name__ == "__main__":  # the package itself loads what would have to be installed
    _client = types.ModuleType("ringkeeper")
    _client.__path__ = [str(Path(__file__).parent.parent / "client" / "ringkeeper")]
    sys.modules["ringkeeper"] = _client

from ringkeeper.signed_token import SignedToken
from ringkeeper.token_cache import TokenCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringkeeper.token_cache import CacheStatistics

_THREADS: Final = 8
_TOKENS: Final = 3000
_KEYS: Final = 3
_FAR: Final = 1e12


class Crowd(NamedTuple):
    """What came of it."""

    wrong: list[str]
    statistics: CacheStatistics
    seconds: float


def check(cache: TokenCache) -> None:
    """What must hold of a cache that nobody is at."""
    queues = [*cache._on_probation, *cache._staying]
    assert len(queues) == len(cache._known) <= cache._most
    assert {each.token[-64:]: id(each) for each in queues} == {
        tail: id(each) for tail, each in cache._known.items()
    }
    assert cache._bytes == sum(each.weight for each in queues) <= cache._most_bytes
    assert cache._probation_bytes == sum(each.weight for each in cache._on_probation)
    assert len(cache._gone) + len(cache._long_gone) <= cache._most + 1
    assert not cache._gone & cache._long_gone
    assert all(each.is_staying for each in cache._staying)
    assert not any(each.is_staying for each in cache._on_probation)


class _Crowd:
    """Threads that verify as programs do, and one that brings version after version of the ring."""

    def __init__(self, room: int) -> None:
        self.cache = TokenCache(room)
        self.wrong: list[str] = []
        self._tokens = [_token(number) for number in range(_TOKENS)]
        self._is_working = True
        self._held = _version()

    def run(self, calls: int) -> Crowd:
        """Each thread makes so many."""
        workers = [
            threading.Thread(target=self._told, args=(self._work, which, calls))
            for which in range(_THREADS)
        ]
        turner = threading.Thread(target=self._told, args=(self._turn,))
        began = time.perf_counter()
        for thread in (*workers, turner):
            thread.start()
        for thread in workers:
            thread.join()
        seconds = time.perf_counter() - began
        self._is_working = False
        turner.join()
        return Crowd(self.wrong, self.cache.statistics, seconds)

    def _told(self, function: Callable[..., None], *arguments: int) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            self.wrong.append(repr(error))
            raise

    def _work(self, which: int, calls: int) -> None:
        random = Random(which)
        for call in range(calls):
            number = min(int(random.expovariate(1 / 400)), _TOKENS - 1)
            token = (self._tokens[number][0] + " ")[:-1]  # as it comes in: another object each time
            held = self._held
            signed = self.cache.recall(token)
            if signed and signed.verifying is _key(held, number):
                self.cache.hit()
            else:
                self.cache.miss()
                expires = _FAR if call % 3 else call
                signed = _signed(token, self._tokens[number][1], _key(held, number), expires)
                self.cache.remember(signed, float(call))
            claims = signed.claims()
            if claims != {"sub": str(number), "in": {"n": [number]}, "roles": ["a"]}:
                self.wrong.append(f"{number}: {claims}")
            if signed.token != token:
                self.wrong.append(f"{number}: another's")
            claims["in"]["n"].append(1)  # as a program may
            claims["roles"].clear()

    def _turn(self) -> None:
        while self._is_working:
            time.sleep(0.05)  # so that something is known meanwhile
            self._held = _version()


def crowd(room: int, calls: int) -> Crowd:
    """Eight threads, each with so many calls, and afterwards all that must hold."""
    threads = _Crowd(room)
    came = threads.run(calls)
    cache, wrong = threads.cache, threads.wrong
    if came.statistics.hits + came.statistics.misses != _THREADS * calls:
        wrong.append(f"counted {came.statistics}, and there were {_THREADS * calls} calls")
    check(cache)
    return came


def _token(number: int) -> tuple[str, str]:
    """A token of its own end, and what it says."""
    text = json.dumps({"sub": str(number), "in": {"n": [number]}, "roles": ["a"]})
    return f"e30.{number:x}.{number * 0x9E3779B97F4A7C15 % 2**64:_>86x}", text


def _signed(token: str, text: str, key: object, expires: float) -> SignedToken:
    return SignedToken(token, "d-x", key, partial(json.loads, text), 0.0, expires)


def _version() -> list[object]:
    """The keys of a ring's next version."""
    return [object() for _ in range(_KEYS)]


def _key(held: list[object], number: int) -> object:
    """Whose token that is."""
    return held[number % len(held)]


def main() -> int:
    """Three sizes; 1 if anything went wrong, or this Python has a global lock after all."""
    is_free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'no' if is_free else 'with a'} global lock")
    if not is_free:
        print("that is no free-threaded Python; name one: make free-threaded PYTHON=python3.14t")
        return 1
    failed = False
    for room in (16, 500, 10_000):
        came = crowd(room, 60_000)
        failed |= bool(came.wrong)
        hits, misses = came.statistics.hits, came.statistics.misses
        print(
            f"room for {room}: {_THREADS} threads, {hits + misses} calls in {came.seconds:.1f} s, "
            f"{hits} known, {len(came.wrong)} wrong {' '.join(came.wrong[:3])}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
