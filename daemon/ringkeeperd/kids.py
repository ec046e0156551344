"""What a key may be called that comes in from elsewhere. Pure.

The kid goes into the JWKS and into headers, and from there into logs, shells and others' parsers.
"""

from __future__ import annotations

import re
from typing import Final

NEW_KID: Final = "a kid has 1 to 64 characters of A-Z a-z 0-9 and -._~:/?#[]@!$&()*+,;=%"
"""The rule, for errors. A URL may be one (RFC 3986), and so may any base64."""
_NEW_KID: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&()*+,;=%-]{1,64}")


def is_new_kid(text: str) -> bool:
    """Whether a key that comes in may be called so; rings may hold others since before."""
    return _NEW_KID.fullmatch(text) is not None
