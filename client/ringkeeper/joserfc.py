"""joserfc, with the keys of a ring.

    claims = joserfc.jwt.decode(token, keys_of(ring), algorithms=["RS256"]).claims

It verifies the signature; times, audience and issuer are asked as with any other key
(`joserfc.jwt.JWTClaimsRegistry`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from ringkeeper.errors import TokenError
from ringkeeper.loaded import Loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from joserfc.jwk import GuestProtocol

    from ringkeeper.keyring import Keyring

Key = RSAKey | ECKey | OKPKey


def keys_of(ring: Keyring) -> Callable[[GuestProtocol], Key]:
    """What to hand to joserfc as a key: it finds the one that a token names, if it counts.

    It raises joserfc's `InvalidKeyIdError` if there is none, an `InfrastructureError` if the ring
    cannot tell.
    """
    loaded = Loaded(ring, _imported)

    def key_for(token: GuestProtocol) -> Key:
        try:
            algorithm, key = loaded.key(str(token.headers().get("kid")))
        except TokenError as error:
            raise InvalidKeyIdError(str(error)) from error
        if token.headers().get("alg") != algorithm:
            raise InvalidKeyIdError(f"that key verifies {algorithm} alone")
        return key

    return key_for


def _imported(jwk: dict[str, str]) -> tuple[str, Key]:
    key = JWKRegistry.import_key(dict(jwk))
    assert isinstance(key, Key)  # noqa: S101 - rings have no others
    return jwk["alg"], key
