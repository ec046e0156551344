"""What may be wrong with a ring here, in constant words: for pages, and as a metric's label.

An error's own text may name hosts, files or what somebody wrote to Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.errors import (
    ClocksApart,
    Defect,
    DocumentError,
    FilesUnusable,
    RedisUnavailable,
    RingkeeperError,
    RingMissing,
    RingNotLoaded,
    RolledBack,
    SecretError,
    StaleRing,
    StateUnusable,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from ringkeeperd.service import RingService


SEE: Final = "the log and ringkeeper check tell more"
NOT_LOADED: Final = "the ring is not loaded yet"
_NOT_HANDED_ON: Final = "on_change: what is to be done after a change fails"


class Trouble(NamedTuple):
    """One kind of trouble: the errors that mean it, its word, and what to say of it."""

    error: type[RingkeeperError]
    kind: str
    words: str


# The first that fits counts.
_KNOWN: Final = (
    Trouble(
        RingMissing,
        "missing",
        "Redis holds no such ring: it was lost, or ringkeeper init was never run",
    ),
    Trouble(
        RolledBack,
        "rolled_back",
        "Redis holds an older ring than is known here, or another of its version",
    ),
    Trouble(
        DocumentError, "document", "what Redis holds is not this ring as the trust root signed it"
    ),
    Trouble(RedisUnavailable, "redis", "Redis does not answer as it should"),
    Trouble(StaleRing, "stale", "the newest proof of freshness is too old: perhaps nobody leads"),
    Trouble(ClocksApart, "clock", "this host's clock and another one's differ by too much"),
    Trouble(
        StateUnusable, "state", "the file that keeps the ring for the next start cannot be used"
    ),
    Trouble(FilesUnusable, "files", "the files for apps cannot be kept"),
    Trouble(SecretError, "secret", "a secret cannot be used, or does not open what it should"),
    Trouble(RingNotLoaded, "not_loaded", NOT_LOADED),
)
_UNKNOWN: Final = Trouble(Defect, "defect", "something went wrong that nobody thought of")
_LEADING: Final = "leading"
KINDS: Final = (*(known.kind for known in _KNOWN), _UNKNOWN.kind, _LEADING)
"""The label of `ringkeeper_trouble`; `leading` where this daemon is kept from leading."""


def classified(error: RingkeeperError) -> Trouble:
    """What kind of trouble `error` is."""
    return next((known for known in _KNOWN if isinstance(error, known.error)), _UNKNOWN)


def kinds_at(service: RingService) -> Collection[str]:
    """All that is wrong with that ring at this moment."""
    kinds = {classified(error).kind for error in service.follower.troubles}
    held, state = service.follower.replica.held, service.state
    if held is None:
        kinds.add(classified(RingNotLoaded()).kind)
    elif not held.may_sign(service.clock.now()):
        kinds.add(classified(StaleRing()).kind)
    if state.trouble:
        kinds |= {_LEADING, state.trouble_kind or _LEADING}
    return kinds


# --- in words ------------------------------------------------------------------------------------


def wrong_with(service: RingService) -> str:
    """What is wrong with the ring here; empty if all is well."""
    what = in_words(service.follower.trouble)
    if service.state.trouble:
        return f"{what}; it is kept from leading" if what else "it is kept from leading"
    return what


def trouble_of(service: RingService) -> str:
    """The same, and where to look."""
    what = wrong_with(service)
    return f"{what}; {SEE}" if what else ""


def not_loaded(service: RingService) -> str:
    """Why there is nothing to serve yet; empty once there is."""
    if service.follower.replica.held:
        return ""
    return f"ring {service.name}: {in_words(service.follower.trouble) or NOT_LOADED}"


def not_usable(service: RingService) -> str:
    """Why nobody may verify by what is held; empty where one may, or there is nothing."""
    held = service.follower.replica.held
    if held is None or held.may_verify(service.clock.now()):
        return ""
    return f"ring {service.name}: it is too old to verify by"


def not_fresh(service: RingService) -> str:
    """Why apps with this proof would sign no more; the JWKS is served all the same."""
    held = service.follower.replica.held
    if held is None or held.may_sign(service.clock.now()):
        return ""
    return f"ring {service.name}: its newest proof of freshness is too old to sign by"


def reservation(service: RingService) -> str:
    """Why this daemon is not all that it could be to the ring; empty where it is."""
    trouble = trouble_of(service)
    return f"ring {service.name}: {trouble}" if trouble else ""


def not_handed_on(service: RingService) -> str:
    """What `on_change` came to; empty while that works, or there is none."""
    return _NOT_HANDED_ON if service.handing_on.is_failing else ""


def unheard(service: RingService) -> str:
    """The same, of which ring, and where to look."""
    what = not_handed_on(service)
    return f"ring {service.name}: {what}; the log tells which and why" if what else ""


def in_words(trouble: RingkeeperError | None) -> str:
    """An error by its kind; empty for none."""
    return classified(trouble).words if trouble else ""
