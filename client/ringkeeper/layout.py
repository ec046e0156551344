"""Where a ring lies in Redis, and where the embedded server's socket lies on disk.

All keys of a ring share one hash tag, so on a cluster they share one slot and one script may
write them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_NAME = "access-token"
BUCKET = 10
"""Seconds of session refreshes that are counted as one."""
KEPT_THERE = timedelta(hours=2)
"""For so long after it was last added to, Redis keeps what was counted."""
STRETCH = 60
"""Buckets, and steps in which tokens expire, that lie in one hash."""
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def is_ring_name(name: str) -> bool:
    """Whether `name` may name a ring: 1-64 of a-z, 0-9, dot, dash, underscore."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one ring's keys and of its channel."""

    name: str

    def key(self, suffix: str) -> str:
        """One of the keys, by what is in it."""
        return f"ringkeeper:{{{self.name}}}:{suffix}"

    @property
    def keyring(self) -> str:
        """Hash: version, epoch, snapshot, proof."""
        return self.key("keyring")

    @property
    def sealed(self) -> str:
        """Hash: kid to sealed private key; and channel: those that are new."""
        return self.key("sealed")

    @property
    def lease(self) -> str:
        """String with a TTL: the leader's owner token."""
        return self.key("lease")

    @property
    def epoch(self) -> str:
        """String: the newest epoch, one per leadership."""
        return self.key("epoch")

    @property
    def instances(self) -> str:
        """Hash: instance id to what it confirmed."""
        return self.key("instances")

    @property
    def seen(self) -> str:
        """Sorted set: instance id by the Redis time, in ms, it was last heard of."""
        return self.key("seen")

    @property
    def witness(self) -> str:
        """String, expiring: what somebody knows of the ring that Redis seems to have lost."""
        return self.key("witness")

    @property
    def requests(self) -> str:
        """Stream: operators' requests."""
        return self.key("requests")

    @property
    def events(self) -> str:
        """Stream: audit events."""
        return self.key("events")

    def refreshes(self, bucket: int) -> str:
        """Hash, expiring: `BUCKET:REASON` to how many sessions were refreshed; `bucket` is in it.

        A bucket goes by its number since the epoch.
        """
        return self.key(f"refreshes:{bucket // STRETCH}")

    def signed(self, step: int, expires: int) -> str:
        """Hash, expiring: `EXPIRES:KID` to how many tokens of that key expire then.

        In seconds since the epoch, rounded up to a multiple of `step`; `expires` is in it.
        """
        return self.key(f"signed:{step}:{expires // (step * STRETCH)}")

    @property
    def published(self) -> str:
        """Channel: what changed."""
        return self.key("published")


def embedded_socket(directory: Path) -> Path:
    """The unix socket of the embedded server that lives in `directory`."""
    return directory / "valkey.sock"
