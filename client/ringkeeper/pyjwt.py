"""PyJWT, with the keys of a ring: extra `[pyjwt]`.

    client = RingJWKClient(ring)          # in place of jwt.PyJWKClient(url)
    key = client.get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["RS256"])

For an app that keeps its PyJWT; `ring.verify(token)` does it all.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ringkeeper.errors import InfrastructureError, TokenError
from ringkeeper.extras import lacking
from ringkeeper.loaded import Loaded

try:
    from jwt import PyJWK, PyJWKClient, PyJWKSet
    from jwt.exceptions import PyJWKClientConnectionError, PyJWKClientError
except ModuleNotFoundError:
    raise lacking(__name__, "pyjwt", "pyjwt") from None

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ringkeeper.keyring import Keyring


class RingJWKClient(PyJWKClient):
    """A `jwt.PyJWKClient` without HTTP: a new key is there at once, and a revoked one is gone.

    Same methods, same errors. What `Keyring.verify` knows besides (its cache of tokens, a
    revocation little by little, why a token is refused), PyJWT does not.
    """

    def __init__(self, ring: Keyring) -> None:
        """Hand out the keys of `ring`; PyJWT's own asks for a URL, and is not called.

        Raises:
            TypeError: `ring` is no keyring.
        """
        self._ring = ring
        self._loaded = Loaded(ring, PyJWK)
        self.uri = ""
        self.jwk_set_cache: None = None
        """There is none to go stale."""

    def fetch_data(self) -> dict[str, Any]:
        """The JWK Set; nothing is fetched.

        Raises:
            PyJWKClientConnectionError: the ring is not there: not loaded, or closed.
        """
        with _as_its_own():
            return self._ring.jwks()

    def get_jwk_set(self, refresh: bool = False) -> PyJWKSet:  # noqa: ARG002, FBT001, FBT002 - its own
        """The keys whose tokens count now; `refresh` makes no difference.

        Raises:
            PyJWKClientConnectionError: the ring is not there.
        """
        return PyJWKSet.from_dict(self.fetch_data())

    def get_signing_key(self, kid: str) -> PyJWK:
        """The key of that kid; an unknown one is looked for in Redis once, within a second.

        Raises:
            PyJWKClientError: there is none, or it was revoked.
            PyJWKClientConnectionError: the ring cannot tell; that is no fault of the token's.
        """
        with _as_its_own():
            return self._loaded.key(str(kid))


@contextmanager
def _as_its_own() -> Iterator[None]:
    """With PyJWT's errors, which apps catch."""
    try:
        yield
    except TokenError as error:
        raise PyJWKClientError(str(error)) from error
    except InfrastructureError as error:
        raise PyJWKClientConnectionError(str(error)) from error
