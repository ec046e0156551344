"""A key taken out of use over a while, so that its users do not all come back at once. Pure.

A precautionary revocation has time: nobody is known to hold the key. So its tokens are refused one
after the other, each user's when their turn comes, in an order that every instance knows without
asking: a hash over the key's name and the user's.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from ringkeeper.clock import ZERO

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from ringkeeper.ring import Key

_ALL: Final = 2**64


def share_drained(key: Key, now: datetime) -> float:
    """The share of `key`'s tokens that is refused at `now`: 0 for a key that is not drained."""
    if key.drained_from is None or key.drained_until is None:
        return 0.0
    if now >= key.drained_until:
        return 1.0
    began = key.drained_from
    return drained_fraction(now - began, key.drained_until - began, last_expiry(key, began) - began)


def last_expiry(key: Key, now: datetime) -> datetime:
    """When the last token of `key` expires, if it signs no more from `now` on at the latest."""
    return (key.retired_at or now) + key.token_validity


def drained_fraction(elapsed: timedelta, window: timedelta, horizon: timedelta) -> float:
    """The share of a key's tokens that is refused, `elapsed` after it began to drain.

    `window` is W, the time until all are to be refused; `horizon` is H, the time from the beginning
    until the key's last token expires. For W >= H it is 0: expiry does it all.

    Let N tokens expire evenly until H. After t, N (H - t) / H of them are left, and of these a
    share 1 - f(t) is not refused yet. They go at an even pace, N / W, if that is N (1 - t / W):

        (H - t) / H (1 - f) = 1 - t / W,  so  f(t) = (H - W) t / (W (H - t))

    Those that expire and those that are refused are then together H / W times what expired before.
    """
    if window >= horizon or elapsed < ZERO:
        return 0.0
    if elapsed >= window:
        return 1.0
    return (horizon - window) / window * (elapsed / (horizon - elapsed))


def is_drained(kid: str, subject: str, fraction: float) -> bool:
    """Whether a token of `kid` for that subject is among the `fraction` that is refused.

    Who is among a smaller one is among every larger one. `subject` names the user, or is the
    token's payload as it was signed, base64url, where it names nobody. Its place is SHA-256 over
    the kid, a zero byte and it.
    """
    # What JSON can carry and UTF-8 cannot is hashed all the same.
    hashed = kid.encode() + b"\0" + subject.encode("utf-8", "surrogatepass")
    place = int.from_bytes(hashlib.sha256(hashed).digest()[:8], "big")
    return place < fraction * _ALL
