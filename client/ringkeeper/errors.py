"""Everything that ringkeeper raises on purpose.

Two families matter to an app. A `TokenError` says that *this token* is not acceptable: answer
401 and let the user refresh. An `InfrastructureError` says that ringkeeper cannot tell or cannot
do its work: answer 503, never log the user out for it. What a program asks for that can never be
(`LifetimeTooLong`, `Unsignable`) is in neither: it is a `ValueError`, to be found and mended.

Every message names the thing and the remedy, for the log. None of them ever holds a secret or a
whole token, but kids, versions and ages: whoever sent the token is told `error.public` instead, a
constant text in which all that would help a forger to tell one case from another reads the same.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class RingkeeperError(Exception):
    """The root of every error that ringkeeper raises on purpose.

    `public` is what may be passed on to a stranger; `str(error)` is for the log.
    """

    public: ClassVar[str] = "something went wrong here"


# --- tokens: what `verify` says about the token it was given -------------------------------------


class RefreshReason(StrEnum):
    """Why a session has to be refreshed; the label of `ringkeeper_session_refreshes_total`."""

    EXPIRED = "expired"
    UNKNOWN_KID = "unknown_kid"
    REVOKED_KID = "revoked_kid"
    KIND_MISMATCH = "kind_mismatch"
    MANUAL = "manual"
    OTHER = "other"


class TokenError(RingkeeperError):
    """The token is not acceptable. `reason` is what to hand to `record_refresh`.

    Malformed, forged, of an unknown or revoked key, not valid yet, for somebody else: `public` is
    the same for all (RFC 8725 section 2.6 and RFC 6750 section 3.1 have no use for more).
    """

    public = "invalid token"
    reason: RefreshReason = RefreshReason.OTHER


class MalformedToken(TokenError):
    """Not a compact JWS of ours: cut short, too long, not base64url, not JSON, too deep, no kid."""


class UnknownKid(TokenError):
    """No key of this ring has that kid: removed long ago, or never ours."""

    reason = RefreshReason.UNKNOWN_KID


class RevokedKid(TokenError):
    """The key that signed the token was revoked."""

    reason = RefreshReason.REVOKED_KID


class KindMismatch(TokenError):
    """Signed by a dynamic key where static ones sign, or the other way round, and strictly so."""

    reason = RefreshReason.KIND_MISMATCH


class WrongAlgorithm(TokenError):
    """The token's `alg` is not the one its key was made for (alg none, HS256 with a public key)."""


class InvalidSignature(TokenError):
    """The signature is not one of the key that the token names."""


class ExpiredToken(TokenError):
    """`exp` has passed, clock skew included.

    Told apart in public, too: a client has to know that it must refresh, and whoever holds a token
    can read its `exp`.
    """

    public = "expired token"
    reason = RefreshReason.EXPIRED


class ImmatureToken(TokenError):
    """`iat` or `nbf` lies in the future, further than clock skew explains."""


class ClaimMismatch(TokenError):
    """Issuer or audience is not what the caller asked for."""


# --- infrastructure: ringkeeper cannot do its work now -------------------------------------------


class InfrastructureError(RingkeeperError):
    """ringkeeper cannot do its work at the moment; the token or the user is not at fault."""

    public = "temporarily unavailable"


class RingNotLoaded(InfrastructureError):
    """No trustworthy snapshot of the ring has been seen yet."""


class StaleRing(InfrastructureError):
    """The newest proof of freshness is older than `max_staleness`: verify only, sign no more."""


class NoSigningKey(InfrastructureError):
    """This process holds no private key that may sign now."""


class RedisUnavailable(InfrastructureError):
    """Redis did not answer, refused us, or is not what it should be."""

    def __init__(self, told: str, *, is_answer: bool = False) -> None:
        """`is_answer`: whether Redis was there, and said so itself."""
        super().__init__(told)
        self.is_answer = is_answer


class StateUnusable(InfrastructureError):
    """The file that keeps a ring for the next start cannot be read or written."""


class FilesUnusable(InfrastructureError):
    """The files that a daemon keeps for apps cannot be read, written or removed."""


class ClocksApart(InfrastructureError):
    """Our clock and Redis' differ by more than `clock_skew`: which one is right?"""


class Defect(InfrastructureError):
    """Something that nobody thought of went wrong in ringkeeper itself; it is tried again."""

    @classmethod
    def of(cls, error: BaseException) -> Defect:
        """`error`, by its kind and its place alone: its text might hold anything."""
        where, trace = "", error.__traceback__
        while trace:
            code = trace.tb_frame.f_code
            where = f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
            trace = trace.tb_next
        return cls(f"{type(error).__name__} at {where}, a defect of ringkeeper: please report it")


class RingClosed(InfrastructureError):
    """The keyring was closed by its owner."""


# --- documents: what Redis holds is not what the trust root signed -------------------------------


class DocumentError(RingkeeperError):
    """A snapshot, proof, request, event or sealed key that must not be used."""


class MalformedDocument(DocumentError):
    """Cut short, too large, of another schema, or not what its type says."""


class ForgedDocument(DocumentError):
    """Not signed by a pinned trust root."""


class WrongRing(DocumentError):
    """Signed by the trust root, but for another ring."""


class RolledBack(DocumentError):
    """Signed by the trust root, but older than what is already known."""


class ForkedRing(RolledBack):
    """Signed by the trust root, of the version that is held, and yet different."""


class RingMissing(DocumentError):
    """Redis holds no ring under this name: an incident, or `ringkeeper init` was never run."""


# --- secrets -------------------------------------------------------------------------------------


class SecretError(RingkeeperError):
    """A trust root or KEK that is missing, unreadable, open to others, malformed, or wrong."""


class SealBroken(SecretError):
    """A sealed private key that does not open, or does not fit its public key."""


class KeyUnusable(SecretError):
    """A key that an operator handed in: weak, broken, not what it says, or no key at all."""


# --- operators and programmers -------------------------------------------------------------------


class ConfigurationError(RingkeeperError):
    """The configuration cannot be used. `problems` lists every one found, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("; ".join(self.problems))


class RequestRefused(RingkeeperError):
    """The ring cannot do what the operator asked for, now or ever; the message says which."""


class RingLed(RequestRefused):
    """Somebody leads a ring of that name, or is about to make it, at this very moment."""


class RingLost(RequestRefused):
    """Redis holds no such ring, and it is known elsewhere: a daemon puts it back."""


class LifetimeTooLong(RingkeeperError, ValueError):
    """A token was to live longer than `access_token_validity`: its key might not outlive it."""


class Unsignable(RingkeeperError, ValueError):
    """A program wants signed what makes no token: the program's mistake, not its user's."""


class UnsupportedAlgorithm(RingkeeperError, ValueError):
    """An algorithm that ringkeeper does not offer."""
