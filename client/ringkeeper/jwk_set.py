"""Keys of one kind as a JWK, or a JWK Set (RFC 7517 section 5): one is in use.

As a rule there is one. While it is being changed there are two, the newer one first; which of them
is in use, a ring says (`ringkeeper rewrap`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

from ringkeeper.errors import SecretError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

K = TypeVar("K")


class JwkSet(Generic[K]):
    """Some keys by their ids; the first one is in use."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, K]) -> None:
        self._keys = dict(keys)

    @property
    def kid(self) -> str:
        """The id of the one in use."""
        return next(iter(self._keys))

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of all of them, the one in use first."""
        return tuple(self._keys)

    def using(self, kid: str) -> Self:
        """The same keys, with `kid` in use where that is one of them."""
        return type(self)({kid: self._keys[kid]} | self._keys) if kid in self._keys else self

    def only(self, kid: str) -> Self:
        """The one of that id alone."""
        return type(self)({kid: self._keys[kid]})

    def joined(self, other: Self) -> Self:
        """These keys, and those of `other` behind them."""
        return type(self)(
            self._keys | {k: v for k, v in other._keys.items() if k not in self._keys}
        )

    def _as_jwk(self, member: Callable[[str, K], dict[str, Any]]) -> dict[str, Any]:
        """The JWK of the only one, or the JWK Set of all."""
        members = [member(kid, key) for kid, key in self._keys.items()]
        return members[0] if len(members) == 1 else {"keys": members}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._keys)}>"


class SecretJwkSet(JwkSet[K], ABC):
    """The same of secrets: no way of showing it shows one."""

    __slots__ = ()

    @classmethod
    def from_secret_jwk(cls, jwk: Mapping[str, Any]) -> Self:
        """The keys in a JWK, or a JWK Set.

        Raises:
            SecretError: not keys of that kind.
        """
        made = cls._made_of(jwk)
        # Raised where the JWK is no local any more: error reporters ship those of all frames.
        del jwk
        if isinstance(made, SecretError):
            raise made
        return made

    @classmethod
    def _made_of(cls, jwk: Mapping[str, Any]) -> Self | SecretError:
        """The keys in `jwk`, or why there are none; no frame with a secret in it is left."""
        try:
            keys = [cls._import(member) for member in members_of(jwk)]
        except SecretError as error:
            return SecretError(str(error))
        if len(dict(keys)) < len(keys):
            return SecretError("a JWK Set with two keys of one kid; tell them apart")
        return cls(dict(keys))

    @classmethod
    @abstractmethod
    def _import(cls, jwk: object) -> tuple[str, K]:
        """The key that one JWK holds, and its id; raises SecretError."""

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, secret>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is neither pickled nor copied")


def members_of(jwk: Mapping[str, Any]) -> list[Any]:
    """The JWKs of a JWK Set, or the one that `jwk` is.

    Raises:
        SecretError: there are none.
    """
    members = jwk.get("keys", [jwk])
    if not isinstance(members, list) or not members:
        raise SecretError("a JWK Set without a key in it; make one with ringkeeper init")
    return members
