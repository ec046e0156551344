"""How long who verifies waits for a change of the keys: instances, pollers of a JWKS, PyJWKClient.

In one event the key that signed is revoked and a fresh one is published; waited for are the first
token of the fresh key that is taken, and the first of the revoked one that is refused. There are
twenty of each kind. Pollers ask every 300 s, as PyJWKClient keeps what it got for 300 s, and where
in its interval each of them is when the event comes is spread evenly: they begin with what is left
of it. (PyJWKClient also asks when it sees a kid that it does not know, but not within 30 s after
it last did. Of that, too, it begins with what is left.) The waits themselves pass in real time, in
a process of their own, while other figures are measured.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import jwt as pyjwt
from tests.plugins.servers import VALKEY, Server

from benchmarks.claims import sized
from benchmarks.leading import NAME, Leading
from benchmarks.peers import PYJWK_CLIENT, serving
from benchmarks.primitive import Primitive
from benchmarks.rounds import Spread
from benchmarks.stand import OURS
from ringkeeper.asyncio import Keyring
from ringkeeper.errors import TokenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection as Pipe

    from ringkeeperd.leader_store import Edition

EACH: Final = 20
INTERVAL: Final = 300.0
POLLER: Final = "JWKS poller"
ALGORITHM: Final = "ES256"
_COOLDOWN: Final = 30.0
"""Seconds in which PyJWKClient does not ask again because of an unknown kid, unless told."""
_LOOK: Final = 0.5
"""Seconds between two tokens that PyJWKClient is shown."""
_LOOK_OF_OURS: Final = 0.005


class Waiting:
    """The measurement, which goes on beside others."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        spawn = multiprocessing.get_context("spawn")
        self._pipe, there = spawn.Pipe()
        self._process = spawn.Process(target=_process, args=(there, interval), daemon=True)
        self._process.start()
        there.close()

    def result(self) -> dict[str, Any]:
        """What it found; it may take an interval."""
        assert self._pipe.poll(self._interval + 60), "somebody waited in vain"
        found: dict[str, Any] = self._pipe.recv()
        self._process.join()
        return found

    def stop(self) -> None:
        """End it, whatever it found."""
        self._process.terminate()
        self._process.join()


def ages(count: int, interval: float) -> list[float]:
    """How long ago each of `count` last asked, spread evenly over the interval."""
    return [interval * (number + 0.5) / count for number in range(count)]


def _process(pipe: Pipe, interval: float) -> None:
    server = Server(VALKEY)
    try:
        pipe.send(asyncio.run(_measure(server, interval)))
    finally:
        server.stop()


async def _measure(server: Server, interval: float) -> dict[str, Any]:
    leading = await Leading.found(server.url, ALGORITHM)
    rings = [
        await Keyring.connect(
            server.url, name=NAME, trust_root=leading.root.public, kek=leading.kek
        )
        for _ in range(EACH)
    ]

    def served() -> object:
        return leading.ring.jwks()

    with ExitStack() as after:
        url = after.enter_context(serving(served))
        # As they were when they last asked: before the event.
        pollers = [Poller(url, interval - age) for age in ages(EACH, interval)]
        clients = {
            what: [_client(url, interval, age) for age in ages(EACH, interval)]
            for what in ("fresh", "revoked")
        }
        edition = await leading.prepare(8, revoke=True)
        tokens = _tokens(leading, edition)
        began = time.monotonic()
        await leading.publish(edition)
        ours = await asyncio.gather(*(_instance(ring, tokens, began) for ring in rings))
        for ring in rings:
            await ring.close()
        theirs = await asyncio.to_thread(_others, pollers, clients, tokens, began)
    await leading.close()
    return {
        "interval_s": interval,
        "each": EACH,
        "fresh": {OURS: _told(a for a, _ in ours), **theirs["fresh"]},
        "revoked": {OURS: _told(b for _, b in ours), **theirs["revoked"]},
    }


def _tokens(leading: Leading, edition: Edition) -> dict[str, str]:
    """A token of the key that the edition brings, and one of the key that it revokes."""
    (fresh,) = edition.put
    (revoked,) = (key.kid for key in leading.ring.keys if key.revoked_at)
    return {
        what: Primitive(ALGORITHM, kid, leading.privates[kid]).careful_sign(sized())
        for what, kid in (("fresh", fresh), ("revoked", revoked))
    }


async def _instance(ring: Keyring, tokens: dict[str, str], began: float) -> tuple[float, float]:
    """Seconds until it takes the one, and until it refuses the other."""
    waited: dict[str, float] = {}
    while len(waited) < len(tokens):
        for what, token in tokens.items():
            try:
                await ring.verify(token)
                is_good = True
            except TokenError:
                is_good = False
            if is_good == (what == "fresh"):
                waited.setdefault(what, time.monotonic() - began)
        await asyncio.sleep(_LOOK_OF_OURS)
    return waited["fresh"], waited["revoked"]


class Poller:
    """Asks for the JWK Set every so often, and knows the kids that were in it."""

    def __init__(self, url: str, left: float) -> None:
        self._url = url
        self.due = left
        """Seconds after the event when it asks next."""
        self.kids = self._asked()

    def ask(self) -> None:
        """Ask now."""
        self.kids = self._asked()

    def _asked(self) -> set[str]:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            return {key["kid"] for key in json.load(answer)["keys"]}


def _client(url: str, interval: float, age: float) -> Callable[[str], bool]:
    """Whether a PyJWKClient that last asked so long ago takes a token."""
    client = pyjwt.PyJWKClient(
        url, lifespan=interval - age, cooldown_duration=max(0.0, _COOLDOWN - age)
    )
    client.get_jwk_set()

    def takes(token: str) -> bool:
        try:
            key = client.get_signing_key_from_jwt(token)
            pyjwt.decode(token, key, algorithms=[ALGORITHM])
        except pyjwt.PyJWTError:
            return False
        return True

    return takes


def _others(
    pollers: list[Poller],
    clients: dict[str, list[Callable[[str], bool]]],
    tokens: dict[str, str],
    began: float,
) -> dict[str, dict[str, dict[str, float]]]:
    """Let time pass until all of them know."""
    kids = {what: pyjwt.get_unverified_header(token)["kid"] for what, token in tokens.items()}
    waited: dict[str, dict[str, list[float]]] = {
        what: {POLLER: [], PYJWK_CLIENT: []} for what in tokens
    }
    asking = list(pollers)
    while asking or any(clients.values()):
        for poller in [each for each in asking if time.monotonic() - began >= each.due]:
            poller.ask()
            passed = time.monotonic() - began
            assert kids["fresh"] in poller.kids
            assert kids["revoked"] not in poller.kids
            for what in tokens:
                waited[what][POLLER].append(passed)
            asking.remove(poller)
        for what, token in tokens.items():
            for takes in list(clients[what]):
                if takes(token) == (what == "fresh"):
                    waited[what][PYJWK_CLIENT].append(time.monotonic() - began)
                    clients[what].remove(takes)
        time.sleep(_LOOK)
    return {
        what: {name: _told(times) for name, times in each.items()} for what, each in waited.items()
    }


def _told(waits: Any) -> dict[str, Any]:
    found = list(waits)
    return {"mean_s": sum(found) / len(found), "s": Spread.of(found)}
