"""The claims that all contenders sign and verify: of a given size, and good for an hour."""

from __future__ import annotations

import json
import time
from typing import Any, Final

compact: Final = json.JSONEncoder(separators=(",", ":")).encode
"""JSON without blanks."""
USUAL: Final = 385
"""Bytes of the payload, unless a figure is about its size: a user, a session, some roles."""
LIFETIME: Final = 3600
_STAMPS: Final = len(',"iat":1234567890,"exp":1234567890')
_FIRST: Final = {"sub": "", "sessionHandle": "", "roles": ["admin", "editor"], "pad": ""}


def sized(size: int = USUAL, number: int = 0) -> dict[str, Any]:
    """Claims of which each signer makes `size` bytes of JSON, once `iat` and `exp` are in it."""
    claims = {**_FIRST, "sub": f"user-{number:08}", "sessionHandle": f"{number:036x}"}
    room = size - _STAMPS - len(compact(claims))
    if room < 0:
        raise ValueError(f"{size} bytes are too few; {size - room} is the least")
    return {**claims, "pad": "y" * room}


def stamped(claims: dict[str, Any]) -> dict[str, Any]:
    """As every issuer has to: with the time it is, and the time it ends."""
    now = int(time.time())
    return {**claims, "iat": now, "exp": now + LIFETIME}
