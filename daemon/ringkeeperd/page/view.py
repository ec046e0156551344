"""What the status page shows, as plain values. Pure.

What is not to be shown to whoever asks is not in here: who draws it knows nothing of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from ringkeeperd.refresh_series import RefreshView
    from ringkeeperd.words import Outlook


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """A live instance."""

    name: str
    """Its id; empty where that is not shown."""
    role: str
    version: int
    is_behind: bool
    heard_at: datetime
    """When it was last heard of."""


@dataclass(frozen=True, slots=True)
class InstancesView:
    """The live instances of a ring: some of them, and how many there are."""

    at: datetime
    """When the leader last looked: it does each minute, and more often while keys turn."""
    count: int
    behind: int
    shown: tuple[InstanceRow, ...]


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened."""

    at: datetime
    name: str
    kid: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RingView:
    """One ring."""

    name: str
    leader: str
    """Who leads, in words."""
    trouble: str
    """What is wrong with it, in words; empty if all is well."""
    outlook: Outlook | None
    """None while no ring is held."""
    proof_age: timedelta
    awaited: int
    """Instances that hold the next change up."""
    instances: InstancesView | None
    """None here and below: only who leads knows."""
    refreshes: RefreshView | None
    events: tuple[EventRow, ...] | None


@dataclass(frozen=True, slots=True)
class PageView:
    """All of it."""

    now: datetime
    concerns: tuple[str, ...]
    """What is not as it should be, in words."""
    rings: tuple[RingView, ...]
    others: tuple[str, ...]
    """The rings that have a page of their own, by name."""
    places: Mapping[str, str]
    """Further places, and what is there."""
