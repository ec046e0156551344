"""What a change will do to sessions, in words, from what apps counted: for `ringkeeper plan`. Pure.

`forecast` works it out, and says how; where nobody counts, nothing is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeeper.draining import last_expiry
from ringkeeper.ring import KeyKind
from ringkeeperd.forecast import forecast_drain, forecast_revocation, forecast_switch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ringkeeper.policy import Policy
    from ringkeeper.ring import Ring
    from ringkeeperd.forecast import Forecast, Outstanding
    from ringkeeperd.planning import Wish


def prospects(
    ring: Ring, policy: Policy, wish: Wish, counted: Outstanding, *, verifies: float
) -> tuple[str, ...]:
    """What follows from `wish`, and from another `policy`, a line each.

    `verifies`: how many tokens all live instances verify a second.
    """
    lines = list(_of_revocation(ring, wish, counted, verifies))
    if policy.use_dynamic is not ring.policy.use_dynamic:
        lines += _of_switch(ring, policy, counted, verifies)
    return tuple(lines)


def _of_revocation(ring: Ring, wish: Wish, counted: Outstanding, verifies: float) -> Iterator[str]:
    key, now = ring.key(wish.revoke), counted.at
    if key is None or not counted.tokens(key.kid, now):
        return
    validity = ring.policy.access_token_validity
    if wish.drain:
        drained = forecast_drain(
            counted, key.kid, now, wish.drain, last=last_expiry(key, now),
            baseline_per_second=None, validity=validity,
        )  # fmt: skip
        yield f"expected: {_told(drained)}"
        return
    forecast = forecast_revocation(
        counted, key.kid, now, verifies_per_second=verifies or None, baseline_per_second=None,
        validity=validity,
    )  # fmt: skip
    yield f"expected: {_told(forecast)}"


def _of_switch(ring: Ring, policy: Policy, counted: Outstanding, verifies: float) -> Iterator[str]:
    kind = KeyKind.DYNAMIC if policy.use_dynamic else KeyKind.STATIC
    kids = [k.kid for k in ring.keys if k.kind not in (kind, KeyKind.FOREIGN) and k.may_verify]
    forecast = forecast_switch(
        counted, kids, counted.at, verifies_per_second=verifies or None, baseline_per_second=None,
        validity=ring.policy.access_token_validity,
    )  # fmt: skip
    if forecast.strict.tokens:
        yield "expected: no refreshes where both kinds verify, as they do with our client"
        yield (
            "expected where SuperTokens' SDK verifies, or strict_key_kind is set: "
            f"{_told(forecast.strict)}"
        )


def _told(forecast: Forecast) -> str:
    count = forecast.refreshes
    refreshes = "about one refresh" if count == 1 else f"about {count:,} refreshes"
    usual, peak = forecast.baseline_per_second, forecast.peak_per_second
    if peak is None or usual is None:
        return f"{refreshes}; how fast is not known, for no app tells how much it verifies"
    return (
        f"{refreshes}, {peak:,.1f} a second at the peak, {forecast.ratio or 0:,.1f} times the "
        f"usual {usual:,.1f}"
    )
