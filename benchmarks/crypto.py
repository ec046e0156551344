"""Signing and verifying, beside the raw primitive and joserfc, in turn, in one process."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from joserfc import jwk, jwt

from ringkeeper import testing

if TYPE_CHECKING:
    from collections.abc import Callable

CLAIMS = {"sub": "alice", "sessionHandle": "x" * 36, "roles": ["a", "b"], "pad": "y" * 250}


def measure(algorithm: str, rounds: int) -> dict[str, Any]:
    """Ratios to the raw primitive of `algorithm`, RS256 or ES256."""
    with testing.keyring(algorithm=algorithm) as ring:
        token = ring.sign(CLAIMS)
        message = token.rpartition(".")[0].encode()
        kty = "RSA" if algorithm == "RS256" else "EC"
        key: Any = (
            jwk.RSAKey.generate_key(2048) if kty == "RSA" else jwk.ECKey.generate_key("P-256")
        )
        private = key.private_key
        how: tuple[Any, ...] = (padding.PKCS1v15(), hashes.SHA256())
        if kty == "EC":
            how = (ec.ECDSA(hashes.SHA256()),)
        signature = private.sign(message, *how)
        public = private.public_key()
        theirs = jwt.encode({"alg": algorithm}, CLAIMS, key)
        signing = {
            "raw": lambda: private.sign(message, *how),
            "joserfc": lambda: jwt.encode({"alg": algorithm}, CLAIMS, key),
            "ringkeeper": lambda: ring.sign(CLAIMS),
        }
        verifying = {
            "raw": lambda: public.verify(signature, message, *how),
            "joserfc": lambda: jwt.decode(theirs, key, algorithms=[algorithm]),
            "ringkeeper": lambda: ring.verify(token),
        }
        return {"sign": _ratios(signing, rounds), "verify": _ratios(verifying, rounds)}


def _ratios(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            began = time.perf_counter()
            for _ in range(50):
                do()
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {name: round(taken / medians["raw"], 2) for name, taken in medians.items()}
