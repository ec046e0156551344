"""A token whose signature was found to be good: a fact that stays true. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from ringkeeper.errors import MalformedToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringkeeper.algorithms import PublicKey

TAIL: Final = 64
"""Characters of a token that it is found by."""
_MOST_CONTAINERS: Final = 64
"""Claims within claims, in all: to copy more for each who asks would be as dear as to check."""
_ITSELF: Final = 1100
"""Bytes for the object, what finds it, and the claims' own dictionary."""
_NESTED: Final = frozenset((dict, list))
"""As JSON is read."""


class SignedToken:
    """A token that a key signed, and what it says."""

    __slots__ = (
        "_claims", "_deep", "_flat", "expires", "is_copyable", "is_seen", "is_staying", "kid",
        "public", "since", "tail", "token", "weight",
    )  # fmt: skip

    def __init__(
        self,
        token: str,
        kid: str,
        public: PublicKey,
        claims: dict[str, Any],
        text: str,
        since: float,
        expires: float,
    ) -> None:
        """`public` signed `token`: `claims`, written as `text`, good from `since` until `expires`.

        Both in seconds since 1970.
        """
        self.token: str = token
        self.tail: str = token[-TAIL:]
        """What it is found by: of its signature, so hardly two have the same."""
        self.kid: str = kid
        self.public: PublicKey = public
        self.since: float = since
        self.expires: float = expires
        self.is_seen: bool = False
        """Whether it was of use since that was last asked."""
        self.is_staying: bool = False
        """Whether it is past its probation."""
        self._claims = claims
        containers = text.count("{") + text.count("[")  # at the most: some may stand in a string
        self.is_copyable: bool = containers <= _MOST_CONTAINERS
        """Whether its claims can well be copied for each who asks."""
        # Each comma is a member or an element more, and a character takes four bytes at the most:
        # what both take once they are read, at the most, of CPython 3.11, and estimated.
        widest, member = (1, 150) if text.isascii() and "\\" not in text else (4, 170)
        self.weight: int = (
            _ITSELF
            + len(token)
            + widest * len(text)
            + member * text.count(",")
            + 260 * (containers - 1)
        )
        """Bytes that it takes, at the most."""
        self._flat: tuple[str, ...] = ()
        """The names of lists and objects with nothing of that kind in them."""
        self._deep: tuple[str, ...] = ()
        """And of those others."""
        if containers > 1 and self.is_copyable:
            nested = [name for name, value in claims.items() if type(value) in _NESTED]
            if len(nested) == containers - 1:  # all there are, so there is none in another
                self._flat = tuple(nested)
            else:
                self._deep = tuple(name for name in nested if _is_deep(claims[name]))
                self._flat = tuple(name for name in nested if name not in self._deep)

    def claims(self) -> dict[str, Any]:
        """What it says; the caller's own, to change as they like."""
        claims = self._claims.copy()
        for name in self._flat:
            claims[name] = claims[name].copy()
        try:
            for name in self._deep:
                claims[name] = _copied(claims[name])
        except RecursionError:  # as reading it would tell of a stack as deep as this one
            raise MalformedToken("a token whose claims are nested too deeply for here") from None
        return claims


def _is_deep(value: Any) -> bool:
    return any(type(each) in _NESTED for each in (value.values() if type(value) is dict else value))


def _copied(value: Any) -> Any:
    copy = value.copy()
    for place, member in copy.items() if type(copy) is dict else enumerate(copy):
        if type(member) in _NESTED:
            copy[place] = _copied(member)
    return copy


class Memory(Protocol):
    """What remembers such tokens, as far as verifying needs it."""

    @property
    def miss(self) -> Callable[[], int]:
        """Count one that was not there."""
        ...

    def recall(self, token: str) -> SignedToken | None:
        """Look for it."""
        ...

    def remember(self, signed: SignedToken, now: float) -> None:
        """Keep it, if there is room; `now`: seconds since 1970."""
        ...
