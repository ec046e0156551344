"""What an argument may be: each reads one, or says in a line what it has to be."""

from __future__ import annotations

import argparse
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from ringkeeper.durations import parse_duration
from ringkeeperd.kids import NEW_KID, is_new_kid

_LONGEST_KID: Final = 64
_MOST_EVENTS: Final = 20_000
_MOST_TURNS: Final = 100


def file(text: str) -> Path:
    """A file's name that may be left out, but is not empty: an unset variable is no choice."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a file, or leave it out")
    return Path(text)


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("is no number above 0; write e.g. 15 or 0.5")
    return number


def lifetime(text: str) -> float:
    """Seconds, or a duration."""
    with suppress(argparse.ArgumentTypeError):
        return positive(text)
    try:
        return positive(str(parse_duration(text).total_seconds()))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError("is no number of seconds, nor 30s, 15m, 1h") from None


def brought(text: str) -> tuple[str, Path]:
    """A file, and the kid of its key, where that is said."""
    if "=" not in text or _is_file(Path(text)):
        return "", Path(text)
    parts = text.split("=")  # a kid in base64 ends with some, too
    splits = [("=".join(parts[:n]), Path("=".join(parts[n:]))) for n in range(1, len(parts))]
    kid, path = next((split for split in splits if _is_file(split[1])), splits[0])
    return new_kid(kid), path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no file has such a long name
        return False


def window(text: str) -> timedelta:
    """A duration above 0."""
    try:
        window = parse_duration(text)
    except ValueError:
        window = timedelta(0)
    if not window:
        raise argparse.ArgumentTypeError("is no duration above 0; write 90s, 30m, 2h")
    return window


def count(text: str) -> int:
    """So many events."""
    if not (text.isdecimal() and 0 < int(text) <= _MOST_EVENTS):
        raise argparse.ArgumentTypeError(f"is no number from 1 to {_MOST_EVENTS}")
    return int(text)


def turns(text: str) -> int:
    """So many turns."""
    if not (text.isdecimal() and 0 < int(text) <= _MOST_TURNS):
        raise argparse.ArgumentTypeError(f"is no number from 1 to {_MOST_TURNS}")
    return int(text)


def kid(text: str) -> str:
    """The kid of a key that there may be."""
    if not 0 < len(text) <= _LONGEST_KID or not text.isprintable():
        raise argparse.ArgumentTypeError("that is no kid; ringkeeper status shows those there are")
    return text


def new_kid(text: str) -> str:
    """A kid that a key may be given."""
    if not is_new_kid(text):
        raise argparse.ArgumentTypeError(NEW_KID)
    return text


def reason(text: str) -> str:
    """Why, in words."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is blank; say why, for whoever reads the audit")
    return text


def party(text: str) -> str:
    """An audience, or an issuer."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, as no token's is; leave it out to ask for none")
    return text
