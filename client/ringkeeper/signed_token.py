"""A token whose signature was found to be good, while the ring was what it was then. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

TAIL: Final = 64
"""Characters of a token that it is found by."""
_ITSELF: Final = 680
"""Bytes for the object, what finds it, and what else is of one size."""


class SignedToken:
    """A token that a key signed, and what reads its claims."""

    __slots__ = (
        "claims", "expires", "is_seen", "is_staying", "kid", "since", "tail", "token", "verifying",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        token: str,
        kid: str,
        verifying: object,
        claims: Callable[[], dict[str, Any]],
        since: float,
        expires: float,
    ) -> None:
        """`verifying` signed `token`, which is good from `since` until `expires`.

        Both in seconds since 1970.
        """
        self.token: str = token
        self.tail: str = token[-TAIL:]
        """What it is found by: of its signature, so hardly two have the same."""
        self.kid: str = kid
        self.verifying: object = verifying
        """The key as one version of the ring has it: in the next one, it is another object."""
        self.claims: Callable[[], dict[str, Any]] = claims
        """What it says, read anew for each who asks: the caller's own, to change as they like."""
        self.since: float = since
        self.expires: float = expires
        self.is_seen: bool = False
        """Whether it was of use since that was last asked."""
        self.is_staying: bool = False
        """Whether it is past its probation."""
        self.weight: int = _ITSELF + 2 * len(token)
        """Bytes that it takes, at the most: claims are three quarters of their base64url."""


class Memory(Protocol):
    """What remembers such tokens, as far as verifying needs it."""

    @property
    def miss(self) -> Callable[[], int]:
        """Count one that was not there."""
        ...

    @property
    def hit(self) -> Callable[[], int]:
        """Count one that was there, and counted."""
        ...

    def recall(self, token: str) -> SignedToken | None:
        """Look for it."""
        ...

    def remember(self, signed: SignedToken, now: float) -> None:
        """Keep it, if there is room; `now`: seconds since 1970."""
        ...
