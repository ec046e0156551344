"""What happened to a fleet, and whether that was as promised. Pure: no server, no process, no clock.

All times are seconds of one clock, that of the machine which watches; hosts may think otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ringkeeper.ring import KeyState, Ring

SLACK = 0.5
"""Seconds that an answer may be on its way on a busy machine."""
NO_VERDICT = "no verdict"
GOOD = "ok"
_JUDGED_BY_ITS_OWN_CLOCK = ("ExpiredToken", "ImmatureToken")


@dataclass(frozen=True, slots=True)
class Signed:
    """An app signed a token."""

    number: int
    by: str
    kid: str
    at: float
    expires_at: float
    """By the clock that watches: when it was signed, and how long it lives."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An app was asked about a token, and answered."""

    number: int
    by: str
    at: float
    """When the answer came."""
    said: str


@dataclass(frozen=True, slots=True)
class Seen:
    """An edition of the ring was seen in Redis, for the first time."""

    at: float
    ring: Ring


@dataclass(slots=True)
class History:
    """One round of one fault, from the first token to the last look."""

    signed: dict[int, Signed] = field(default_factory=dict)
    verified: list[Verified] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    clock_is_off: list[tuple[str, float, float]] = field(default_factory=list)
    """App, from, until: its clock was beyond the skew, and what it says of `exp` is its own."""
    revoked: dict[str, float] = field(default_factory=dict)
    """Kid, and when an operator was told that it is revoked: its tokens are refused by right."""
    seconds_until_normal: float | None = None
    """From the end of the fault until all held the newest version, fresh, under one leader."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of a round, and a line for each promise that was broken."""

    verified: int
    rejected: tuple[str, ...]
    unpublished: tuple[str, ...]
    lost: tuple[str, ...]
    accepted: tuple[str, ...]
    """Revoked tokens that were accepted."""
    seconds_until_normal: float | None
    no_verdict: int

    @property
    def broken(self) -> tuple[str, ...]:
        """A line for each promise that was broken."""
        return (*self.rejected, *self.unpublished, *self.lost, *self.accepted)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken and self.verified > 0 and self.seconds_until_normal is not None


def judge(history: History, *, now: float, lag: float) -> Verdict:
    """What to say of `history`, that ends at `now`.

    `lag`: an edition may have been in Redis for so many seconds before it was seen there.
    """
    return Verdict(
        verified=sum(v.said == GOOD for v in history.verified),
        rejected=tuple(_rejected(history)),
        unpublished=tuple(_unpublished(history, lag)),
        lost=tuple(_lost(history, now)),
        accepted=tuple(_accepted(history)),
        seconds_until_normal=history.seconds_until_normal,
        no_verdict=sum(v.said == NO_VERDICT for v in history.verified),
    )


def _rejected(history: History) -> Iterator[str]:
    """Valid tokens that were rejected: not expired when the answer came, and not revoked."""
    for answer in history.verified:
        token = history.signed[answer.number]
        if answer.said in (GOOD, NO_VERDICT) or answer.at >= token.expires_at:
            continue
        if token.kid in history.revoked:
            continue
        by_its_own_clock = answer.said.startswith(_JUDGED_BY_ITS_OWN_CLOCK)
        if by_its_own_clock and (
            _was_off(history, answer.by, answer.at) or _was_off(history, token.by, token.at)
        ):
            continue
        yield (
            f"{answer.by} said of a token that {token.by} signed {answer.at - token.at:.1f} s "
            f"before, with {token.kid}: {answer.said}"
        )


def _accepted(history: History) -> Iterator[str]:
    """Tokens of a revoked key that were accepted more than a second later."""
    for answer in history.verified:
        token = history.signed[answer.number]
        told_at = history.revoked.get(token.kid)
        if answer.said == GOOD and told_at is not None and answer.at > told_at + 1.0 + SLACK:
            yield f"{answer.by} took a token of {token.kid}, revoked {answer.at - told_at:.1f} s ago"


def _was_off(history: History, app: str, at: float) -> bool:
    return any(name == app and begin <= at <= end for name, begin, end in history.clock_is_off)


def _unpublished(history: History, lag: float) -> Iterator[str]:
    """Tokens signed by a key that was not public yet, or not for the publication interval."""
    public_since = _public_since(history.seen)
    emergencies = set(_successors_in_an_emergency(history.seen))
    told: set[str] = set()
    for token in history.signed.values():
        since = public_since.get(token.kid)
        if token.kid in told or token.kid in emergencies:
            continue
        if since is None:
            told.add(token.kid)
            yield f"{token.by} signed with {token.kid}, which was never seen in Redis"
            continue
        interval = _interval(history.seen, token.kid)
        if token.at + lag < since + interval:
            told.add(token.kid)
            yield (
                f"{token.by} signed with {token.kid}, public for {token.at - since:.2f} s; "
                f"the publication interval is {interval:.2f} s"
            )


def _public_since(seen: Iterable[Seen]) -> dict[str, float]:
    since: dict[str, float] = {}
    for edition in seen:
        for key in edition.ring.keys:
            since.setdefault(key.kid, edition.at)
    return since


def _interval(seen: list[Seen], kid: str) -> float:
    """How long `kid` had to be public: not at all if it was there from the beginning."""
    if any(key.kid == kid for key in seen[0].ring.keys):
        return 0.0
    first = next(edition for edition in seen if edition.ring.key(kid))
    return first.ring.policy.publication_interval.total_seconds()


def _successors_in_an_emergency(seen: Iterable[Seen]) -> Iterator[str]:
    """Keys that had to sign at once, because the one before them was revoked or lost."""
    before: Ring | None = None
    for edition in seen:
        former = before.active() if before else None
        left = edition.ring.key(former.kid) if former else None
        active = edition.ring.active()
        if former and active and active.kid != former.kid and (left is None or not left.may_verify):
            yield active.kid
        before = edition.ring


def _lost(history: History, now: float) -> Iterator[str]:
    """Keys that were seen in Redis, should still be there, and are not in the newest edition."""
    if not history.seen:
        yield "no edition was ever seen"
        return
    newest = max(history.seen, key=lambda edition: (edition.ring.version, edition.at)).ring
    needed: dict[str, float] = {}
    for token in history.signed.values():
        needed[token.kid] = max(needed.get(token.kid, 0.0), token.expires_at)
    for kid, until in needed.items():
        key = newest.key(kid)
        if until > now and (key is None or key.state is KeyState.REVOKED):
            if kid in history.revoked and key is not None:
                continue
            yield f"{kid} has a token for {until - now:.1f} s more, and is not in the ring"
    for kid in history.revoked:
        key = newest.key(kid)
        if key is not None and key.may_verify:
            yield f"{kid} was revoked, and verifies again"
