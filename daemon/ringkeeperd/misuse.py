"""What is wrong about how a command was called, as opposed to what it was asked to do."""

from __future__ import annotations

from ringkeeper.errors import RequestRefused


class Misused(RequestRefused):
    """Options that contradict each other, or cannot be read: nobody could do that. Exit 2."""
