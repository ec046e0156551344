"""What an instance tells of itself in the ring's table.

Nobody signs that: whoever writes to Redis can delay an activation by it, for a bounded time, or
confirm what others have not; then the publication interval still protects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ringkeeper.algorithms import ALGORITHMS
from ringkeeper.wire import policy_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ringkeeper.meter import Meter
    from ringkeeper.policy import Policy
    from ringkeeper.sealing import Kek

_TOLD_MOST: Final = 4
"""KEKs, and roots, that an instance tells of: while they are changed there are two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Who an instance is to the others."""

    id: str
    role: str
    """`sign`, `verify` or `daemon`."""
    verified: Meter | None = None
    """Counts the tokens that it verifies, to tell how many they are."""
    known: Meter | None = None
    """Counts those of them whose signature it had checked before."""
    leads_by: Callable[[], Policy] | None = None
    """Of a process that would lead the ring, were its lease free: by which policy."""

    def row(
        self, edition: tuple[int, int], kek: Kek | None, able: Collection[str], now: float
    ) -> str:
        """What stands in the table, in JSON.

        `edition`: epoch and version of what it can use; 0 and 0 for nothing. `able`: the roots
        that it could follow. `now`: monotonic seconds, of the meters.
        """
        epoch, version = edition
        record: dict[str, object] = {"role": self.role, "epoch": epoch, "version": version}
        record["roots"] = list(able)[:_TOLD_MOST]
        record["algorithms"] = list(ALGORITHMS)
        if kek:
            record["keks"] = kek.kids[:_TOLD_MOST]
        for name, meter in (("verifies", self.verified), ("known", self.known)):
            if meter:
                record[name] = round(meter.rate(now), 1)
        if self.leads_by:
            record |= {"lead": True, "policy": policy_digest(self.leads_by())}
        return json.dumps(record, separators=(",", ":"))
