"""What sessions feel of a change of the ring: the first half of `benchmarks.refresh_spike`.

A fleet on a virtual clock: `rotation.next_step` and `rotation.apply` turn the keys, a real replica
takes up what the root signed a second later, and confirms it. Sessions hold tokens that
`ringkeeper.tokens` signed, and each request of theirs is judged by `ringkeeper.tokens.verify`:
what it refuses is refreshed, and counted by the reason that it gave.

**The figure.** The fullest ten seconds in the ten minutes after a change, over the fullest ten
seconds of the *control*: the same sessions, the same tokens and the same requests to the moment,
with a ring that nobody changed. The fullest of sixty buckets is some 1.15 times the mean by chance
alone, and that chance is in both. Peak over baseline (the mean of the ten minutes before) is
printed beside it, for both.

**SuperTokens' rule** judges the same requests: a token whose kid has the other kind's prefix is
refused, and so is one whose key is not there; a key is there until it was created, signed for its
interval, and twice the validity has passed. Whoever wants it to sign no more before that, be it
for a rotation by hand, another algorithm or a leak, has to delete its row. It is the rule that is
compared, not the code: their tokens are a kid and a time here, taken to be well signed, and every
app learns of a change at once. Their clocks get the same leeway as ours.
"""

from __future__ import annotations

import math
import multiprocessing
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from ringkeeper import tokens
from ringkeeper.errors import RefreshReason, TokenError
from ringkeeper.layout import BUCKET
from ringkeeper.policy import Policy
from ringkeeper.replica import Held, Replica
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.minting import Minted, mint
from ringkeeperd.operations import revocation_wants, revoke, rotate
from ringkeeperd.rotation import (
    Confirmations,
    Instance,
    WaitUntil,
    apply,
    first_keys_wanted,
    first_ring,
    next_step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ringkeeper.ring import Ring
    from ringkeeperd.transitions import KeyWanted

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

NAME: Final = "bench"
CHANGE_AT: Final = datetime(2026, 6, 1, 10, tzinfo=UTC)
"""Seconds in this module count from here: before it they are negative."""
BEFORE: Final = 600
AFTER: Final = 600
"""Seconds that are counted, before and after the change."""
PAUSE: Final = 180.0
"""Mean seconds between two requests of a session, when the day is fullest."""
TAKE_UP: Final = 1.0
"""Seconds until an app holds, and has confirmed, what was published."""
HOUR: Final = 3600.0
DYNAMIC: Final = Policy.derive(algorithm="RS256")
STATIC: Final = replace(DYNAMIC, use_dynamic=False)
OTHER_ALGORITHM: Final = "ES256"
WEEK: Final = DYNAMIC.cryptoperiod.total_seconds()
VALIDITY: Final = DYNAMIC.access_token_validity.total_seconds()
LEEWAY: Final = DYNAMIC.clock_skew.total_seconds()


def load(seconds: float) -> float:
    """The part of its fullest load that a day has, so many seconds from midnight: 0.2 to 1."""
    return 0.6 - 0.4 * math.cos(2 * math.pi * (seconds / HOUR - 2) / 24)


def at(seconds: float) -> datetime:
    """The moment, so many seconds after the change."""
    return CHANGE_AT + timedelta(seconds=seconds)


def _load_then(seconds: float) -> float:
    midnight = CHANGE_AT.replace(hour=0)
    return load((at(seconds) - midnight).total_seconds())


# --- what the sessions do ------------------------------------------------------------------------


class Asked(NamedTuple):
    """A request of a session."""

    at: float
    session: int


def requests(sessions: int, begin: float, end: float, seed: int) -> list[Asked]:
    """All requests from `begin` to `end`, in order.

    Each session asks at random, after `PAUSE` seconds on average, thinned by the load of the day:
    so all of them together do, `sessions` times as often, and any of them may be next.
    """
    chance = random.Random(seed)
    asked: list[Asked] = []
    now = begin + chance.expovariate(sessions / PAUSE)
    while now < end:
        session = chance.randrange(sessions)
        if chance.random() < _load_then(now):
            asked.append(Asked(now, session))
        now += chance.expovariate(sessions / PAUSE)
    return asked


def issued(sessions: int, begin: float, seed: int) -> list[float]:
    """When the token that each session holds at `begin` was issued.

    As it is after days of such traffic: ages spread evenly over a token's life, and a few whose
    token has run out and who have not come back yet. Otherwise the first minutes would be calm.
    """
    chance = random.Random(seed)
    life, pause = VALIDITY + LEEWAY, PAUSE / _load_then(begin)
    ages = (
        chance.uniform(0, life)
        if chance.random() < life / (life + pause)
        else life + chance.expovariate(1 / pause)
        for _ in range(sessions)
    )
    return [begin - age for age in ages]


class Judge(Protocol[T]):
    """What issues tokens of the type `T`, and refuses them."""

    def advance(self, until: float) -> None:
        """Let happen what happens by then."""

    def fresh(self, session: int, now: float) -> T:
        """A token."""

    def refusal(self, token: T, now: float) -> str | None:
        """Why `token` must be refreshed, if it must."""


def counted(
    judge: Judge[T], held: list[T], asked: Sequence[Asked], begin: float, end: float
) -> list[Counter[str]]:
    """Refreshes by reason, a bucket each; `held` are the sessions' tokens, and change."""
    buckets = [Counter[str]() for _ in range(int(end - begin) // BUCKET)]
    second = begin
    for now, session in asked:
        while second <= now:
            judge.advance(second)
            second += 1.0
        reason = judge.refusal(held[session], now)
        if reason is None:
            continue
        buckets[int(now - begin) // BUCKET][reason] += 1
        held[session] = judge.fresh(session, now)
        if again := judge.refusal(held[session], now):
            raise AssertionError(f"a token just issued was refused: {again}")
    return buckets


# --- ours ----------------------------------------------------------------------------------------


class Keys:
    """Key pairs, made once: the how-manieth one of a kind is the same for every fleet.

    So fleets that differ in what happens to them sign the same tokens until it does.
    """

    def __init__(self) -> None:
        self.kek = Kek.generate()
        self.root = TrustRoot.generate()
        self._made: dict[tuple[KeyWanted, int], Minted] = {}

    def pair(self, wanted: KeyWanted, number: int) -> Minted:
        """The `number`th pair of that kind and algorithm."""
        if (wanted, number) not in self._made:
            self._made[wanted, number] = mint(wanted, self.kek)
        return self._made[wanted, number]


class Order(NamedTuple):
    """What an operator does, and when."""

    at: float
    do: Callable[[Fleet], None]


class Fleet:
    """A leader and an app, on a virtual clock."""

    def __init__(
        self,
        keys: Keys,
        policy: Policy,
        *,
        founded: float,
        orders: Sequence[Order] = (),
        is_strict: bool = False,
        has_turned: bool = False,
    ) -> None:
        """`has_turned`: what signs first elsewhere is the standby here, and has its turn."""
        self.policy, self.now = policy, founded
        self._keys, self._orders, self._is_strict = keys, list(orders), is_strict
        self._minted: Counter[KeyWanted] = Counter()
        self._sealed: dict[str, str] = {}
        self._replica = Replica(NAME, keys.root.public)
        self._confirmed = (0, 0)
        self._snapshot, self._take_up_at = "", math.inf
        self._prove_at = -float(BEFORE)
        active, standby, static = (self._mint(each).fresh for each in first_keys_wanted(policy))
        if has_turned:
            active, standby = standby, active
        first = first_ring(
            ring_id=NAME,
            name=NAME,
            policy=policy,
            fresh=(active, standby, static),
            kek=keys.kek.kid,
            now=at(founded),
            epoch=1,
        )
        self._publish(first)

    @property
    def held(self) -> Held:
        """What the app holds."""
        return self._replica.loaded()

    @property
    def ring(self) -> Ring:
        """What the leader published last."""
        return self._ring

    def fresh(self, session: int, now: float) -> str:
        """A token, signed by the app."""
        return tokens.sign(self.held, {"sub": f"user{session}"}, at(now))

    def refusal(self, token: str, now: float) -> str | None:
        """What the app has against `token`."""
        try:
            tokens.verify(self.held, token, at(now), strict_key_kind=self._is_strict)
        except TokenError as error:
            return error.reason
        return None

    def advance(self, until: float) -> None:
        """Let the leader, the operators and the app do what they do by then."""
        while True:
            waiting = self._lead()
            due = (waiting.when - CHANGE_AT).total_seconds()
            ordered = self._orders[0].at if self._orders else math.inf
            soonest = min(due, ordered, self._take_up_at, self._prove_at)
            self.now = min(soonest, until)
            if soonest > until:
                return
            if self._take_up_at <= self.now:
                self._take_up()
            if self._prove_at <= self.now:
                self._prove()
            if ordered <= self.now:
                self._orders.pop(0).do(self)

    def rotate(self) -> None:
        """An operator wants a turn."""
        self._publish(rotate(self._ring, now=at(self.now), epoch=1))

    def revoke(self) -> None:
        """An operator takes the key that signs out of use."""
        kid = self.held.ring.signer.kid if self.held.ring.signer else ""
        wanted = revocation_wants(self._ring, kid, at(self.now))
        fresh = self._mint(wanted).fresh if wanted else None
        self._publish(
            revoke(self._ring, kid, reason="leaked", now=at(self.now), epoch=1, fresh=fresh)
        )

    def configure(self, **changes: Any) -> None:
        """An operator configures another policy."""
        self.policy = replace(self.policy, **changes)

    def _lead(self) -> WaitUntil:
        while True:
            now, seen = at(self.now), at(self.now)
            app = Instance("app", "sign", *self._confirmed, seen)
            confirmed = Confirmations((app,), trusted_from=now)
            step = next_step(self._ring, self.policy, confirmed, now)
            if isinstance(step, WaitUntil):
                return step
            fresh = self._mint(step.wants).fresh if step.wants else None
            self._publish(apply(self._ring, step, now=now, epoch=1, fresh=fresh))

    def _mint(self, wanted: KeyWanted) -> Minted:
        minted = self._keys.pair(wanted, self._minted[wanted])
        self._minted[wanted] += 1
        self._sealed |= minted.put
        return minted

    def _publish(self, ring: Ring) -> None:
        self._ring, self._snapshot = ring, sign_snapshot(ring, self._keys.root)
        self._take_up_at = self.now + TAKE_UP

    def _take_up(self) -> None:
        proof = self._proof(self.now - TAKE_UP)
        replica = self._replica.offer(self._snapshot, proof, at(self.now))
        kek, lacks = self._keys.kek, replica.loaded().lacks
        by_kid = {key.kid: key for key in replica.loaded().ring.keys}
        opened = {kid: kek.unseal(self._sealed[kid], by_kid[kid]) for kid in lacks}
        self._replica = replica.with_keys({kid: self._sealed[kid] for kid in lacks}, opened)
        self._confirmed = (self._ring.epoch, self._ring.version)
        self._take_up_at = math.inf

    def _prove(self) -> None:
        self._replica = self._replica.prove(self._proof(self.now), at(self.now))
        self._prove_at = self.now + self.policy.proof_interval.total_seconds()

    def _proof(self, now: float) -> str:
        return sign_proof(self._ring, self._snapshot, at(now), self._keys.root)


# --- theirs --------------------------------------------------------------------------------------


class Theirs(NamedTuple):
    """A token as their rule sees it."""

    kid: str
    expires: float


@dataclass
class SuperTokens:
    """Their rule, as the module says it."""

    is_dynamic: bool = True
    created: float = -WEEK / 2
    """When the dynamic key was made that signs at first."""
    change: Callable[[SuperTokens], None] = field(default=lambda _: None)
    _last: dict[str, float] = field(init=False)
    """Until when each key is there."""
    _made: int = field(default=1, init=False)
    _is_changed: bool = field(default=False, init=False)

    EARLY = 60.0
    """Seconds before a key's interval is over at which they make the next."""

    def __post_init__(self) -> None:
        """Make the first keys."""
        self._last = {"s-1": math.inf, "d-1": self._gone_at}

    @property
    def _gone_at(self) -> float:
        return self.created + WEEK + 2 * VALIDITY

    @property
    def _signer(self) -> str:
        return f"d-{self._made}" if self.is_dynamic else "s-1"

    def advance(self, until: float) -> None:
        """Make the next key when it is time, and do what the operator wants."""
        if until + self.EARLY > self.created + WEEK:
            self.turn(until)
        if until >= 0 and not self._is_changed:
            self._is_changed = True
            self.change(self)

    def turn(self, now: float) -> None:
        """Make a key, which signs from now on."""
        self.created = now
        self._made += 1
        self._last[self._signer] = self._gone_at

    def delete(self) -> None:
        """Delete the row of the key that signs; the next one is made at once."""
        del self._last[self._signer]
        self.turn(0.0)

    def switch(self) -> None:
        """Let keys of the other kind sign."""
        self.is_dynamic = not self.is_dynamic

    def fresh(self, session: int, now: float) -> Theirs:  # noqa: ARG002 - any session's is alike
        """A token."""
        return Theirs(self._signer, int(now) + VALIDITY)

    def refusal(self, token: Theirs, now: float) -> str | None:
        """Why it is refused."""
        if now >= token.expires + LEEWAY:
            return RefreshReason.EXPIRED
        if token.kid[0] != self._signer[0]:
            return RefreshReason.KIND_MISMATCH
        return None if self._last.get(token.kid, -math.inf) > now else RefreshReason.UNKNOWN_KID


# --- the changes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A change, at 0 seconds: to our fleet, and to theirs."""

    name: str
    ours: Callable[[Keys], Fleet]
    theirs: Callable[[], SuperTokens]
    goal: float | None = None
    """How much it may cost us, as a factor."""
    starts_dynamic: bool = True


ROTATION: Final = "scheduled rotation"
STRICT: Final = "mode switch with `strict_key_kind`"
GOAL: Final = 1.05


def _algorithm(keys: Keys) -> Fleet:
    """Its key is public for long enough, the former's standby makes way, and then it signs."""
    waits = DYNAMIC.publication_interval.total_seconds() + WEEK
    change = Order(-waits, lambda fleet: fleet.configure(algorithm=OTHER_ALGORITHM))
    return Fleet(keys, DYNAMIC, founded=-1.5 * WEEK, orders=[change], has_turned=True)


def _fleet(
    keys: Keys,
    do: Callable[[Fleet], None] | None = None,
    *,
    policy: Policy = DYNAMIC,
    is_strict: bool = False,
) -> Fleet:
    """Founded half a cryptoperiod ago; its sessions see `do` at 0."""
    orders = [Order(0.0, do)] if do else []
    return Fleet(keys, policy, founded=-WEEK / 2, orders=orders, is_strict=is_strict)


def _static(fleet: Fleet) -> None:
    fleet.configure(use_dynamic=False)


def _dynamic(fleet: Fleet) -> None:
    fleet.configure(use_dynamic=True)


def _deleted() -> SuperTokens:
    return SuperTokens(change=SuperTokens.delete)


SCENARIOS: Final = (
    Scenario(
        ROTATION,
        lambda keys: Fleet(keys, DYNAMIC, founded=-WEEK),
        lambda: SuperTokens(created=SuperTokens.EARLY - WEEK),
        GOAL,
    ),
    Scenario("manual rotation", lambda keys: _fleet(keys, Fleet.rotate), _deleted, GOAL),
    Scenario("algorithm change, RS256 to ES256", _algorithm, _deleted, GOAL),
    Scenario(
        "mode switch, dynamic to static",
        lambda keys: _fleet(keys, _static),
        lambda: SuperTokens(change=SuperTokens.switch),
        GOAL,
    ),
    Scenario(
        "mode switch, static to dynamic",
        lambda keys: _fleet(keys, _dynamic, policy=STATIC),
        lambda: SuperTokens(is_dynamic=False, change=SuperTokens.switch),
        GOAL,
        starts_dynamic=False,
    ),
    Scenario(
        STRICT,
        lambda keys: _fleet(keys, _static, is_strict=True),
        lambda: SuperTokens(change=SuperTokens.switch),
    ),
    Scenario("revocation of the key that signs", lambda keys: _fleet(keys, Fleet.revoke), _deleted),
)


class Measured(NamedTuple):
    """Refreshes in buckets, from ten minutes before to ten minutes after."""

    before: list[int]
    after: list[int]
    reasons: dict[str, int]
    """Those after."""

    @property
    def baseline(self) -> float:
        """The mean of a bucket before."""
        return sum(self.before) / len(self.before)

    @property
    def peak(self) -> int:
        """The fullest one after."""
        return max(self.after)


class Row(NamedTuple):
    """One change, ours and theirs, each with its control."""

    scenario: Scenario
    ours: Measured
    our_control: Measured
    theirs: Measured
    their_control: Measured

    @property
    def factor(self) -> float:
        """Our peak over that of the control."""
        return self.ours.peak / self.our_control.peak

    @property
    def their_factor(self) -> float:
        """Their peak over that of theirs."""
        return self.theirs.peak / self.their_control.peak


class _Start(NamedTuple):
    """Sessions when the change comes, after ten minutes that are the same in every scenario."""

    tokens: list[str]
    before: list[int]
    signer: str


@dataclass(frozen=True)
class _Work:
    """All that a scenario needs; forked processes share it."""

    keys: Keys
    issued: list[float]
    early: list[Asked]
    late: list[Asked]
    starts: dict[bool, _Start]

    def start(self, policy: Policy) -> _Start:
        """Let the sessions have the ten minutes before."""
        fleet = _fleet(self.keys, policy=policy)
        fleet.advance(-float(BEFORE))
        held = [fleet.fresh(n, when) for n, when in enumerate(self.issued)]
        buckets = counted(fleet, held, self.early, -float(BEFORE), 0.0)
        return _Start(held, [bucket.total() for bucket in buckets], _signer(fleet))

    def ours(self, fleet: Fleet, *, is_dynamic: bool, changes: bool) -> Measured:
        """The ten minutes after, as our sessions have them; the key that signs must change."""
        start = self.starts[is_dynamic]
        fleet.advance(-1.0)
        if _signer(fleet) != start.signer:
            raise AssertionError("the ten minutes before were not the same")
        buckets = counted(fleet, list(start.tokens), self.late, 0.0, float(AFTER))
        if changes is (_signer(fleet) == start.signer):
            raise AssertionError("a change that was none, or a control that changed")
        return _measured(start.before, buckets)

    def theirs(self, judge: SuperTokens) -> Measured:
        """As theirs have them."""
        held = [judge.fresh(0, when) for when in self.issued]
        before = counted(judge, held, self.early, -float(BEFORE), 0.0)
        after = counted(judge, held, self.late, 0.0, float(AFTER))
        return _measured([bucket.total() for bucket in before], after)

    def one(self, job: _Job) -> Measured:
        """Ours, of that scenario; of the control without one."""
        number, is_dynamic = job
        if number is None:
            control = _fleet(self.keys, policy=DYNAMIC if is_dynamic else STATIC)
            return self.ours(control, is_dynamic=is_dynamic, changes=False)
        fleet = SCENARIOS[number].ours(self.keys)
        return self.ours(fleet, is_dynamic=is_dynamic, changes=True)


def _signer(fleet: Fleet) -> str:
    signer = fleet.held.ring.signer
    return signer.kid if signer else ""


def _measured(before: list[int], after: list[Counter[str]]) -> Measured:
    reasons: Counter[str] = Counter()
    for bucket in after:
        reasons.update(bucket)
    return Measured(before, [bucket.total() for bucket in after], dict(reasons))


_Job = tuple[int | None, bool]
"""The number of a scenario, or None for the control; and whether it starts dynamic."""
_shared: list[_Work] = []
"""What forked workers inherit: signing keys do not pickle, nor should they."""


def _start(is_dynamic: bool) -> _Start:  # noqa: FBT001 - it is mapped over both
    return _shared[-1].start(DYNAMIC if is_dynamic else STATIC)


def _one(job: _Job) -> Measured:
    return _shared[-1].one(job)


def measure(
    sessions: int,
    seed: int,
    workers: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Every scenario, on the same sessions."""
    work = _Work(
        Keys(),
        issued(sessions, -float(BEFORE), seed),
        requests(sessions, -float(BEFORE), 0.0, seed + 1),
        requests(sessions, 0.0, float(AFTER), seed + 2),
        {},
    )
    _fleet(work.keys)  # the first pairs are made before anything is forked, so all have the same
    tell(f"{sessions:,} sessions have their ten minutes before a change …")
    kinds = (True, False)
    work.starts.update(zip(kinds, _all(_start, work, kinds, workers), strict=True))
    jobs: list[_Job] = [(None, kind) for kind in kinds]
    jobs += [(number, each.starts_dynamic) for number, each in enumerate(SCENARIOS)]
    done = {}
    for job, found in zip(jobs, _all(_one, work, jobs, workers), strict=True):
        done[job] = found
        tell("control" if job[0] is None else SCENARIOS[job[0]].name)
    controls = {kind: work.theirs(SuperTokens(is_dynamic=kind)) for kind in kinds}
    return [
        Row(
            scenario,
            done[number, scenario.starts_dynamic],
            done[None, scenario.starts_dynamic],
            work.theirs(scenario.theirs()),
            controls[scenario.starts_dynamic],
        )
        for number, scenario in enumerate(SCENARIOS)
    ]


def _all(do: Callable[[A], R], work: _Work, given: Sequence[A], workers: int) -> Iterator[R]:
    """What `do` makes of each, in order, in so many processes."""
    _shared.append(work)
    try:
        if workers == 1:
            yield from map(do, given)
            return
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            yield from pool.imap(do, given)
    finally:
        _shared.pop()
