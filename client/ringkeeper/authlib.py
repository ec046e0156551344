"""Authlib, with the keys of a ring: extra `[authlib]`.

    claims = authlib.jose.JsonWebToken(["RS256"]).decode(token, keys_of(ring))
    claims.validate()  # times, audience, issuer

Its `jose` is on its way out, by its own word: `ringkeeper.joserfc` is for the one that follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringkeeper.errors import TokenError
from ringkeeper.extras import lacking
from ringkeeper.loaded import Loaded

try:
    from authlib.jose import JsonWebKey
except ModuleNotFoundError:
    raise lacking(__name__, "authlib", "authlib") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ringkeeper.keyring import Keyring


def keys_of(ring: Keyring) -> Callable[[Mapping[str, Any], Any], Any]:
    """What to hand to Authlib as a key: it finds the one that a token names, if it counts.

    It raises a `ValueError`, as Authlib's own key sets do, if there is none, and an
    `InfrastructureError` if the ring cannot tell.
    """
    loaded = Loaded(ring, lambda jwk: (jwk["alg"], JsonWebKey.import_key(jwk)))

    def key_for(header: Mapping[str, Any], _payload: Any) -> Any:
        try:
            algorithm, key = loaded.key(str(header.get("kid")))
        except TokenError as error:
            raise ValueError(str(error)) from error
        if header.get("alg") != algorithm:
            raise ValueError(f"that key verifies {algorithm} alone")
        return key

    return key_for
