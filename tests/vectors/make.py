"""Write tests/vectors/*.json anew: documents that another implementation can check itself by.

Everything in them is made for the purpose: the private keys are public knowledge, never use them.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ringkeeper import tokens
from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import to_ms
from ringkeeper.policy import Policy
from ringkeeper.replica import Replica
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import (
    Command,
    Event,
    Request,
    digest_of,
    sign_event,
    sign_proof,
    sign_request,
    sign_snapshot,
)
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.transitions import FreshKey

HERE = Path(__file__).parent
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def vector(algorithm: str) -> dict[str, Any]:
    """Every kind of document, for a ring of `algorithm`, with what is needed to check it."""
    root, kek = TrustRoot.generate(), Kek.generate()
    policy = Policy.derive(algorithm=algorithm)
    wanted = first_keys_wanted(policy)
    private = [PrivateKey.generate(w.algorithm) for w in wanted]
    fresh = tuple(
        FreshKey(w.kind, w.algorithm, key.public_jwk)
        for w, key in zip(wanted, private, strict=True)
    )
    ring = first_ring(
        ring_id="vector-ring",
        name="access-token",
        policy=policy,
        fresh=fresh,
        kek=kek.kid,
        now=NOW,
        epoch=1,
    )
    snapshot = sign_snapshot(ring, root)
    proof = sign_proof(ring, snapshot, NOW + timedelta(seconds=1), root, events=4)
    opened = {key.kid: half for key, half in zip(fresh, private, strict=True)}
    held = Replica("access-token", root.public).offer(snapshot, proof, NOW).with_keys({}, opened)
    request = Request(
        id="request-1",
        ring_id=ring.id,
        name=ring.name,
        version=1,
        command=Command.REVOKE,
        kid=fresh[0].kid,
        reason="leaked",
        by="alice",
        at=NOW,
        until=NOW + timedelta(seconds=10),
    )
    event = Event(
        ring_id=ring.id,
        name=ring.name,
        version=1,
        epoch=1,
        at=NOW,
        event="ring made",
        fields={"kid": fresh[0].kid},
        number=1,
    )
    return {
        "note": "made for tests; the private keys are public knowledge",
        "now_ms": to_ms(NOW),
        "root_public_jwk": root.public_jwk(),
        "kek_jwk": kek.secret_jwk(),
        "snapshot": snapshot,
        "snapshot_digest": digest_of(snapshot),
        "proof": proof,
        "request": sign_request(request, root),
        "event": sign_event(event, root),
        "sealed": {key.kid: kek.seal(half) for key, half in zip(fresh, private, strict=True)},
        "jwks": ring.jwks(),
        "token": tokens.sign(held.loaded(), {"sub": "alice"}, NOW),
        "token_claims": {"iat": 1767225600, "exp": 1767229200, "sub": "alice"},
        "signer": fresh[0].kid,
    }


if __name__ == "__main__":
    for name in ("RS256", "ES256", "EdDSA"):
        path = HERE / f"{name.lower()}.json"
        path.write_text(json.dumps(vector(name), indent=1) + "\n")
        print(path.name)
