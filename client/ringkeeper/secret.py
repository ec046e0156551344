"""A text that is shown only to who asks for it by name. Promise 4.

Logs, error reporters and debuggers print whatever they come by: reprs, fields, the locals of a
traceback. What stands in a `Secret` is printed by none of these; only `reveal()` gives it away, so
each place that does can be found.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_SHOWN: Final = "<secret>"
_ANY: Final = ("utf-8", "surrogatepass")  # what no UTF-8 is comes so from the environment


class Secret:
    """A password, or a URL that may hold one."""

    __slots__ = ("_told",)

    def __init__(self, text: str) -> None:
        # In a closure: what walks through attributes finds a function, and no text.
        self._told: Callable[[], str] = lambda: text

    @classmethod
    def of(cls, given: str | Secret) -> Secret:
        """`given`, hidden from now on; what is no text is left to whoever judges it."""
        return cls(given) if isinstance(given, str) else given

    def reveal(self) -> str:
        """The text itself: for the one place that needs it, and no variable besides."""
        return self._told()

    def __repr__(self) -> str:
        return _SHOWN

    def __format__(self, spec: str) -> str:
        return format(_SHOWN, spec)

    def __bool__(self) -> bool:
        return bool(self.reveal())

    def __eq__(self, other: object) -> bool:
        """Whether both hide the same; in a time that does not tell where they differ."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(*_ANY), other.reveal().encode(*_ANY))

    def __hash__(self) -> int:
        return hash((Secret, self.reveal()))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # `dataclasses.asdict` copies what it finds

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled")
