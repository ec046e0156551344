"""ringkeeper: signing keys that turn without logging anybody out. This is what apps import.

    from ringkeeper import Keyring

    with Keyring.connect("redis://...", trust_root="root.pub.jwk", kek="kek.jwk") as ring:
        token = ring.sign({"sub": "alice"})
        claims = ring.verify(token)

`ringkeeper.asyncio.Keyring` is the same, awaited; `ringkeeper.errors` is what may be raised;
`ringkeeper.testing` has a ring without Redis for an app's own tests.
"""

from __future__ import annotations

from ringkeeper.errors import InfrastructureError, RingkeeperError, TokenError
from ringkeeper.keyring import Keyring
from ringkeeper.tls import Tls

__all__ = ["InfrastructureError", "Keyring", "RingkeeperError", "Tls", "TokenError", "__version__"]

__version__ = "0.1.0"
