"""A token whose signature was found to be good: a fact that stays true. Pure."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ringkeeper.compact import claims_in
from ringkeeper.errors import MalformedToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringkeeper.algorithms import PublicKey

_MOST_CONTAINERS: Final = 64
"""Claims within claims, in all: of more the text is read anew each time, which is no slower."""
_ITSELF: Final = 600
"""Bytes for the object, and for what finds it."""


class Settled(NamedTuple):
    """Claims that were read, to be copied for each who asks."""

    claims: dict[str, Any]
    flat: tuple[str, ...]
    """The names of lists and objects with nothing of that kind in them."""
    deep: tuple[str, ...]
    """And of those others."""
    bytes: int
    """What all of it takes."""


class SignedToken:
    """A token that a key signed, and what it says.

    Many are seen once and never again: so what it says is text until `settle` reads it.
    """

    __slots__ = (
        "_settled", "expires", "is_seen", "is_staying", "kid", "public", "since", "text", "token",
        "weight",
    )  # fmt: skip

    def __init__(
        self, token: str, kid: str, public: PublicKey, text: str, since: float, expires: float
    ) -> None:
        """`public` signed `token`, which says `text`: from `since` until `expires`, since 1970."""
        self.token = token
        self.kid = kid
        self.public = public
        self.text = text
        self.since = since
        self.expires = expires
        self.weight = _ITSELF + len(token) + (len(text) if text.isascii() else 4 * len(text))
        """Bytes that it takes."""
        self.is_seen = False
        """Whether it was of use since that was last asked."""
        self.is_staying = False
        """Whether it is past its probation."""
        self._settled: Settled | None = None

    @property
    def is_settled(self) -> bool:
        """Whether its claims are ready to be copied."""
        return self._settled is not None

    def settled(self) -> Settled | None:
        """Its claims, to be copied from then on; None where they are better read each time."""
        if self.text.count("{") + self.text.count("[") > _MOST_CONTAINERS:
            return None
        try:
            claims = claims_in(self.text)
            nested = {name: value for name, value in claims.items() if _is_nested(value)}
            deep = tuple(name for name, value in nested.items() if _is_deep(value))
            flat = tuple(name for name in nested if name not in deep)
            return Settled(claims, flat, deep, _size(claims))
        except (MalformedToken, RecursionError):  # on this stack: perhaps not the next time
            return None

    def settle(self, settled: Settled) -> None:
        """Have them ready."""
        self.weight += settled.bytes
        self._settled = settled

    def claims(self) -> dict[str, Any]:
        """What it says; the caller's own, to change as they like."""
        settled = self._settled
        if settled is None:
            return claims_in(self.text)
        claims = settled.claims.copy()
        for name in settled.flat:
            claims[name] = claims[name].copy()
        try:
            for name in settled.deep:
                claims[name] = _copied(claims[name])
        except RecursionError:  # as reading it would tell of a stack as deep as this one
            raise MalformedToken("a token whose claims are nested too deeply for here") from None
        return claims


def _is_nested(value: object) -> bool:
    return type(value) is dict or type(value) is list  # as JSON is read


def _is_deep(value: Any) -> bool:
    return any(map(_is_nested, value.values() if type(value) is dict else value))


def _copied(value: Any) -> Any:
    copy = value.copy()
    for place, member in copy.items() if type(copy) is dict else enumerate(copy):
        if _is_nested(member):
            copy[place] = _copied(member)
    return copy


def _size(value: Any) -> int:
    """The bytes of what JSON was read as."""
    inside: Any = ()
    if type(value) is dict:
        inside = (*value, *value.values())
    elif type(value) is list:
        inside = value
    return sys.getsizeof(value) + sum(map(_size, inside))


class Memory(Protocol):
    """What remembers such tokens, as far as verifying needs it."""

    @property
    def miss(self) -> Callable[[], int]:
        """Count one that was not."""
        ...

    def recall(self, token: str) -> SignedToken | None:
        """Look for it."""
        ...

    def remember(self, signed: SignedToken) -> None:
        """Keep it, if there is room."""
        ...
