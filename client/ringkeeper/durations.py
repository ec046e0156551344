"""Durations as people write them: `30s 15m 24h 7d`, also `1h30m` and `500ms`."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_LONGEST = timedelta(days=3660)


def parse_duration(text: str) -> timedelta:
    """The duration that `text` writes.

    Raises:
        ValueError: not a number with a unit, or longer than ten years.
    """
    compact = text.strip().replace(" ", "")
    if not compact.isascii() or len(compact) > 40 or not _WHOLE.fullmatch(compact):  # noqa: PLR2004
        raise ValueError("write a number and a unit: 30s, 15m, 24h, 7d")
    try:
        total = sum((float(n) * _UNITS[unit] for n, unit in _PART.findall(compact)), timedelta(0))
    except OverflowError:
        total = timedelta.max
    if total > _LONGEST:
        raise ValueError("longer than ten years")
    return timedelta(milliseconds=round(total / _UNITS["ms"]))


def format_duration(duration: timedelta, *, parts: int = 2) -> str:
    """`duration` in its `parts` largest units, `25h 2m`: exact where these suffice."""
    if duration < timedelta(0):
        return "-" + format_duration(-duration, parts=parts)
    texts: list[str] = []
    for unit, length in _UNITS.items():
        # Hours up to two days read better than "1d 1h": it is how the settings are written.
        if unit == "d" and duration < 2 * length:
            continue
        count, rest = divmod(duration, length)
        if count and len(texts) < parts:
            texts.append(f"{count}{unit}")
            duration = rest
    return " ".join(texts) or "0s"
