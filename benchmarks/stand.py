"""Where signing and verifying are measured: a ring in a real server, two instances, and the peers.

One instance signs and another verifies, as in a fleet: what the one remembers of a token that it
signed is of no help. Everybody has the same key. Times are CPU time of this process, all threads
included, so that what else runs on the machine counts for little.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.plugins.servers import VALKEY, Server

from benchmarks.claims import USUAL, sized
from benchmarks.leading import NAME, Leading
from benchmarks.peers import Peer, peers, serving
from benchmarks.primitive import Primitive
from ringkeeper import Keyring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RAW: Final = "raw primitive"
CAREFUL: Final = "careful code by hand"
OURS: Final = "ringkeeper"
SEEN: Final = "ringkeeper, token seen before"


@dataclass(frozen=True, slots=True)
class Stand:
    """Everything that takes part."""

    algorithm: str
    issuer: Keyring
    ring: Keyring
    """The instance that verifies; it signed nothing."""
    key: Primitive
    peers: dict[str, Peer]
    leading: Leading
    runner: asyncio.Runner
    """To publish with."""
    url: str
    """Of its JWK Set."""

    def tokens(
        self, count: int, size: int = USUAL, expires: Sequence[int] | None = None
    ) -> list[bytes]:
        """So many tokens, all different; bytes, so that each use makes a new string of them.

        `expires`: when each runs out, in seconds since 1970; else as long as they may live.
        """
        ends = [{}] * count if expires is None else [{"exp": end} for end in expires]
        return [
            self.issuer.sign({**sized(size, number), **end}).encode()
            for number, end in enumerate(ends)
        ]


@contextmanager
def stand(algorithm: str) -> Iterator[Stand]:
    """One for `algorithm`."""
    with ExitStack() as after:
        server = Server(VALKEY)
        after.callback(server.stop)
        runner = after.enter_context(asyncio.Runner())
        leading = runner.run(Leading.found(server.url, algorithm))
        after.callback(lambda: runner.run(leading.close()))
        issuer, ring = (after.enter_context(connected(leading)) for _ in range(2))
        url = after.enter_context(serving(ring.jwks))
        kid = leading.signer.kid
        key = Primitive(algorithm, kid, leading.privates[kid])
        (jwk,) = (each for each in ring.jwks()["keys"] if each["kid"] == kid)
        found = peers(key, jwk, url)
        gc.collect()
        gc.freeze()  # what was made so far is nobody's to be looked through while it is measured
        yield Stand(algorithm, issuer, ring, key, found, leading, runner, url)


def connected(leading: Leading) -> Keyring:
    """An instance, as apps make it."""
    return Keyring.connect(leading.url, name=NAME, trust_root=leading.root.public, kek=leading.kek)


def fresh(token: bytes) -> tuple[str]:
    """The token as a request brings it: a string of its own, of which no hash is known yet."""
    return (token.decode(),)


def timed(call: Callable[..., object], given: Sequence[tuple[Any, ...]]) -> float:
    """Seconds of CPU that a call takes, over all of `given`."""
    began = time.process_time()
    for arguments in given:
        call(*arguments)
    return (time.process_time() - began) / len(given)
