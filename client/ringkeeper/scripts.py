"""The Lua scripts that ship with ringkeeper, and which command stands where in one.

Redis 7.0 does not say which command of a script its ACL refused, only in which line.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from functools import cache
from typing import Final

_REFUSED: Final = re.compile(r" script: ([0-9a-f]{40}), on @user_script:(\d+)")
_CALL: Final = re.compile(r"redis\.p?call\((?:'(\w+)'|ARGV)")
_known: dict[str, tuple[str, ...]] = {}
"""Lines, by what Redis calls the script."""


@cache
def script(package: str, name: str) -> str:
    """The text of a Lua script that ships with `package`."""
    text = importlib.resources.files(package).joinpath("lua", name).read_text("utf-8")
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    _known[sha] = tuple(text.splitlines())
    return text


def explained(told: str) -> str:
    """What Redis says, with the command for the place in one of our scripts."""
    place = _REFUSED.search(told)
    if not place or place[1] not in _known:
        return told
    call = _CALL.search(_known[place[1]][int(place[2]) - 1])
    command = (call[1] or "publish").lower() if call else "a command"
    return f"{told[: place.start()]}: {command}"
