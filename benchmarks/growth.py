"""How costs grow: with the keys of a ring, and with the size of a payload."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from benchmarks import signing, verifying
from benchmarks.leading import message
from benchmarks.peers import JOSERFC, PYJWK_CLIENT, joserfc_key_set, peers
from benchmarks.primitive import Primitive
from benchmarks.rounds import chunks, interleaved, ratios, spreads
from benchmarks.stand import OURS, RAW, fresh, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stand import Stand
    from ringkeeperd.leader_store import Edition

KEYS: Final = (2, 4, 8, 16, 32)
PAYLOADS: Final = (200, 500, 1_000, 2_000, 4_000, 8_000)
"""Bytes."""
KEY_SET: Final = f"{JOSERFC}, key set"


def with_payload(on: Stand, rounds: int, calls: int) -> dict[int, Any]:
    """Verifying and signing, for each size of the payload."""
    return {
        size: {
            "verify": verifying.measure(on, rounds, calls, size),
            "sign": signing.measure(on, rounds, calls, size),
        }
        for size in PAYLOADS
    }


def with_keys(on: Stand, rounds: int, calls: int) -> dict[int, Any]:
    """Verifying a first sight with a ring of so many keys, beside those who have them all, too."""
    return {keys: _verifying(on, _of(on, keys), rounds, calls) for keys in KEYS}


def _of(on: Stand, keys: int) -> Edition:
    """Turn keys until there are so many, or leave some out; all instances have it then."""
    fewer = keys < len(on.leading.ring.keys)
    edition = on.runner.run(on.leading.only(keys) if fewer else on.leading.grown(keys))
    on.runner.run(_told(on, edition))
    return edition


async def _told(on: Stand, edition: Edition) -> None:
    await on.leading.publish(edition)
    await on.leading.confirmed(len((on.ring, on.issuer)))


def _verifying(on: Stand, edition: Edition, rounds: int, calls: int) -> dict[str, Any]:
    kid, jwks = on.leading.signer.kid, on.ring.jwks()
    key = Primitive(on.algorithm, kid, on.leading.privates[kid])
    (jwk,) = (each for each in jwks["keys"] if each["kid"] == kid)
    client = peers(key, jwk, on.url)[PYJWK_CLIENT]
    slices = list(chunks(on.tokens(rounds * calls), calls))

    def verifies(call: Callable[[str], object]) -> Callable[[int], float]:
        return lambda round_: timed(call, [fresh(token) for token in slices[round_]])

    def raw(round_: int) -> float:
        return timed(key.public.verify, [key.to_verify(token.decode()) for token in slices[round_]])

    work = {
        RAW: raw,
        OURS: verifies(on.ring.verify),
        PYJWK_CLIENT: verifies(client.verify),
        KEY_SET: verifies(joserfc_key_set(jwks, on.algorithm)),
    }
    times = interleaved(work, rounds)
    return {
        "message_bytes": len(message(edition)),
        "jwks_bytes": len(json.dumps(jwks)),
        "ratio": ratios(times, RAW),
        "us": spreads(times, 1e6),
    }
