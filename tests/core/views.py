"""Status pages as values: what a test shows without a daemon."""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from ringkeeper.ring import Ring
from ringkeeperd.operations import revocation_wants, revoke
from ringkeeperd.page.view import EventRow, InstanceRow, InstancesView, PageView, RingView
from ringkeeperd.refresh_series import RefreshView
from ringkeeperd.spike_events import bucket_at
from ringkeeperd.spikes import Bucket, Cause, Change, Spike
from ringkeeperd.words import Outlook
from tests.core.builders import HOUR, NOW, SECOND, advance, fresh, new_ring

DAY = 24 * HOUR
LATER = NOW + 17 * DAY + 5 * HOUR


def lived(now: datetime = LATER) -> Ring:
    """A ring that has turned twice, and whose key was revoked some hours ago."""
    at = now - 5 * HOUR
    ring = advance(new_ring(), NOW, at)
    signer = ring.active()
    assert signer
    return advance(revoke_key(ring, signer.kid, at), at, now)


def revoke_key(ring: Ring, kid: str, at: datetime) -> Ring:
    wants = revocation_wants(ring, kid, at)
    made = fresh(wants) if wants else None
    return revoke(ring, kid, reason="leaked", now=at, epoch=1, fresh=made)


def refreshes(now: datetime) -> RefreshView:
    """An hour with a revocation in it, and its spike."""
    newest, revoked = bucket_at(now), bucket_at(now) - 90
    totals = [
        (n, round(30 + 6 * math.sin(n / 7) + (n * 7919) % 9))
        for n in range(newest - 355, newest + 1)
    ]
    buckets = tuple(
        Bucket(n, {"expired": total, "revoked_kid": 400 // (n - revoked) if n > revoked else 0})
        for n, total in totals
    )
    spike = Spike(
        revoked + 1,
        revoked + 12,
        Cause.REVOCATION,
        "revoked_kid",
        34.0,
        5.0,
        434,
        1200.0,
        is_over=True,
    )
    changes = (Change(revoked, Cause.REVOCATION), Change(newest - 250, Cause.ROTATION))
    return RefreshView(buckets, changes, spike)


def ring_view(ring: Ring, now: datetime, name: str = "access-token", **changes: Any) -> RingView:
    made = RingView(
        name=name,
        leader="this daemon",
        trouble="",
        outlook=Outlook(ring, now, is_led=True, is_awaited=False),
        proof_age=12 * SECOND,
        awaited=0,
        instances=instances(("app-1/4711", "app-2/4711", "daemon-1/99")),
        refreshes=refreshes(now),
        events=(event(now - HOUR), event(now - 2 * HOUR)),
    )
    return replace(made, **changes)


def instances(names: Iterable[str], behind: int = 1) -> InstancesView:
    rows = tuple(
        InstanceRow(name, "sign", 6, n < behind, LATER - n * SECOND) for n, name in enumerate(names)
    )
    return InstancesView(LATER, len(rows), behind, rows)


def event(at: datetime, name: str = "key activated", **fields: str) -> EventRow:
    kid = fields.pop("kid", "d-abcdefghijklmnopqrstuv")
    return EventRow(at, name, kid, tuple({"rotation": "scheduled", **fields}.items()))


def page_view(*rings: RingView, now: datetime = LATER, **changes: Any) -> PageView:
    places = {"/metrics": "Prometheus' text format.", "/healthz": "Whether this process lives."}
    return replace(PageView(now, (), rings, (), places), **changes)
