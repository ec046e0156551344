"""Signatures checked by joserfc, whole: for those who would rather trust code that many others use.

It gives the verdicts that `PublicKey.verifies` gives (`make fuzz` compares them), and takes several
times as long around a signature of RSA.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from joserfc import jws
from joserfc.errors import JoseError

from ringkeeper.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from ringkeeper.algorithms import PublicKey


class _Registry(jws.JWSRegistry):
    """One of joserfc's algorithms, without its warning that RFC 9864 deprecates the name EdDSA.

    Tokens carry that name because it is the one that every verifier reads.
    """

    def __init__(self, name: str) -> None:
        # Headers may have more members than RFC 7515 names (SuperTokens writes `version`).
        super().__init__(algorithms=[name], strict_check_header=False)
        model = copy.copy(jws.JWSRegistry.algorithms[name])
        model.security_warning = None
        self.algorithms = {name: model}


# One for each algorithm, so that no other is ever tried.
_REGISTRIES: Final = {name: _Registry(name) for name in ALGORITHMS}


def verifies(public: PublicKey, token: str) -> bool:
    """Whether `public` signed the compact JWS `token`, with its own algorithm."""
    if not public.fits(token):
        return False
    try:
        jws.deserialize_compact(token, public.jose, registry=_REGISTRIES[public.algorithm.name])
    except (JoseError, ValueError, RecursionError):
        # It reads the header again, some calls deeper: what was read before may not fit there.
        return False
    return True
