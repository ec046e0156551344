"""The keys of a ring as another library's objects, each made once a version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringkeeper.keyring import Keyring
    from ringkeeper.ring import Ring

Key = TypeVar("Key")


class Loaded(Generic[Key]):
    """Keys by kid. Any thread may use it."""

    def __init__(self, ring: Keyring, load: Callable[[dict[str, Any]], Key]) -> None:
        """`load` makes a key of its JWK.

        Raises:
            TypeError: `ring` is no keyring.
        """
        if not hasattr(ring, "jwks"):
            raise TypeError(f"a ring is what Keyring.connect returns, and no {type(ring).__name__}")
        self._ring = ring
        self._load = load
        self._held: tuple[Ring, dict[str, Key]] | None = None

    def key(self, kid: str) -> Key:
        """The key of that kid; an unknown one is looked for in Redis once, within a second.

        Raises:
            UnknownKid, RevokedKid: there is none.
            InfrastructureError: the ring is not there, or too old to verify by.
        """
        jwk = self._ring.jwk(kid)
        found = self.keys().get(kid)
        return self._load(jwk) if found is None else found

    def keys(self) -> dict[str, Key]:
        """All whose tokens count now."""
        held, version = self._held, self._ring.snapshot
        if held is None or held[0] is not version:
            held = version, {jwk["kid"]: self._load(jwk) for jwk in version.jwks()["keys"]}
            self._held = held
        return held[1]
