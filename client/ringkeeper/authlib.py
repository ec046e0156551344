"""Authlib, with the keys of a ring: `pip install 'ringkeeper[authlib]'`.

    claims = authlib.jose.JsonWebToken(["RS256"]).decode(token, keys_of(ring))
    claims.validate()  # times, audience, issuer

Its `jose` is on its way out, by its own word: `ringkeeper.joserfc` is for the one that follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authlib.jose import JsonWebKey

from ringkeeper.errors import TokenError
from ringkeeper.loaded import Loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ringkeeper.keyring import Keyring


def keys_of(ring: Keyring) -> Callable[[Mapping[str, Any], Any], Any]:
    """What to hand to Authlib as a key: it finds the one that a token names, if it counts.

    It raises a `ValueError`, as Authlib's own key sets do, if there is none.
    """
    loaded = Loaded(ring, JsonWebKey.import_key)

    def key_for(header: Mapping[str, Any], _payload: Any) -> Any:
        try:
            return loaded.key(str(header.get("kid")))
        except TokenError as error:
            raise ValueError(str(error)) from error

    return key_for
