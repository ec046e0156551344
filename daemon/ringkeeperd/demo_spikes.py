"""What `ringkeeper demo --spikes` adds: a change that makes nobody refresh, and one that must.

While users come and go, the keys that sign change from dynamic to static, by an edited
configuration: nobody notices. Then the key that signed most users' tokens is revoked: all of them
come back at once, and the daemon is to see it, to know why, and to say so.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.layout import BUCKET
from ringkeeper.ring import KeyKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ringkeeper.asyncio import Keyring

INTERVAL: Final = 300.0
"""Seconds that a key signs, longer than the demo lasts: so most tokens are of the same key."""
SECONDS: Final = 165.0
_USUAL_FOR: Final = 80.0
"""Seconds in which the daemon learns what is usual."""
_LOOKED_AT: Final = 40.0
"""Seconds after the change of kind in which a spike would show."""
TOLD_WITHIN: Final = 20.0


@dataclass
class Spikes:
    """What was seen."""

    is_switched: bool = False
    switch_ratio: float = 0.0
    """Refreshes in the time after the change of kind, in times of what was usual."""
    switch_spikes: int = 0
    """Spikes told of by then."""
    revoked: str = ""
    told_after: float | None = None
    """Seconds from the revocation until its spike was told of."""
    cause: str = ""
    ratio: float = 0.0
    """The spike's peak, in times of what was usual."""

    @property
    def shown(self) -> str:
        """How far it is."""
        if self.told_after is not None:
            return f"{self.cause}, told after {self.told_after:.0f} s, {self.ratio:g} times usual"
        if self.revoked:
            return f"{self.revoked} was revoked"
        return "none after the change of kind, so far" if self.is_switched else "learning"

    @property
    def verdict(self) -> str:
        """What is wrong; empty if nothing is."""
        if not self.revoked:
            return "it proves nothing: it ended before a key was revoked"
        if self.switch_spikes:
            return f"it failed: {self.switch_spikes} spikes before anything was revoked"
        if self.told_after is None:
            return f"it failed: the revocation's spike was not told within {TOLD_WITHIN:g} s"
        if self.cause != "revocation":
            return f"it failed: the spike is said to come from {self.cause}"
        return ""

    def summary(self) -> dict[str, Any]:
        """For the end of the demo."""
        told = {k: v for k, v in asdict(self).items() if k not in ("is_switched", "revoked")}
        return told | {"told_after": None if self.told_after is None else round(self.told_after, 1)}


async def cause_spikes(
    spikes: Spikes,
    ring: Keyring,
    config: Path,
    command: Callable[..., Awaitable[bool]],
) -> None:
    """Change the kind of key, revoke one, and note in `spikes` what the daemon says."""
    loop = asyncio.get_running_loop()
    settings = json.loads(config.read_text())
    url = f"http://{settings['listen']}/v1/refreshes/series"
    await asyncio.sleep(_USUAL_FOR)
    before = await _series(url)
    config.write_text(json.dumps(settings | {"use_dynamic_access_token_signing_key": False}))
    while ring.snapshot.policy.use_dynamic:
        await asyncio.sleep(0.1)
    spikes.is_switched = True
    await asyncio.sleep(_LOOKED_AT)
    after = await _series(url)
    spikes.switch_ratio = _ratio(before, after)
    spikes.switch_spikes = int(after["spike"] is not None)
    active = ring.snapshot.active(KeyKind.DYNAMIC)
    if active is None or not await command("revoke", active.kid, "--reason", "demo"):
        return
    spikes.revoked, began = active.kid, loop.time()
    while spikes.told_after is None and loop.time() < began + TOLD_WITHIN:
        await asyncio.sleep(0.2)
        spike = (await _series(url))["spike"]
        if spike and spike["active"]:
            spikes.told_after, spikes.cause = loop.time() - began, spike["cause"]
    while True:
        with suppress(TypeError):
            spikes.ratio = (await _series(url))["spike"]["ratio"]
        await asyncio.sleep(1)


async def _series(url: str) -> Any:
    """The refreshes of the ring, as the daemon shows them."""

    def read() -> Any:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own daemon's
            return next(iter(json.load(answer).values()))

    return await asyncio.to_thread(read)


def _ratio(before: Any, after: Any) -> float:
    """How many more refreshes a second there were since `before`, but for the newest bucket."""
    totals = [sum(counts) for counts in zip(*after["refreshes"].values(), strict=True)][:-1]
    count = round(_LOOKED_AT / BUCKET)
    usual = before["baseline_rate"] or before["rate"]
    rate = sum(totals[-count:]) / (count * BUCKET)
    return round(rate / usual, 2) if usual else 0.0
