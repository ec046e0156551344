"""Every protection switched off in turn: does the simulation notice, and how soon?

What nothing here catches would be tested more directly, or not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from ringkeeper import follower
from ringkeeper.follower import Follower
from ringkeeper.replica import Held, Replica
from ringkeeper.ring import Key, KeyState
from ringkeeper.witness import Witness
from ringkeeperd import merge, operations, rotation, term, transitions
from ringkeeperd.leader import Leader
from ringkeeperd.rotation import Confirmations
from tests.simulator.redis_model import SimDisk, SimRedis

Off = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Protection:
    """Something that keeps a promise, and how to take it away."""

    name: str
    without: str
    """What is the case while it is off."""
    off: Off

    @contextmanager
    def is_off(self) -> Iterator[None]:
        """A world without it."""
        with ExitStack() as stack:
            self.off(stack)
            yield


def _replaced(target: Any, name: str, by: Any) -> Off:
    return lambda stack: stack.enter_context(patch.object(target, name, by))


def _all(*offs: Off) -> Off:
    def off(stack: ExitStack) -> None:
        for each in offs:
            each(stack)

    return off


def _signs_for_ever(self: Held) -> None:
    object.__setattr__(self, "signs_until", float("inf"))


async def _nothing(*_: Any) -> None:
    """What a coroutine does that was told to do nothing."""


async def _found_nothing(*_: Any) -> bool:
    return False


def _ready_at_once(published: Callable[..., Key]) -> Callable[..., Key]:
    def ready(*given: Any) -> Key:
        key = published(*given)
        return replace(key, ready_at=key.published_at)

    return ready


def _adopted(key: Key, last: Any) -> Key:
    """Only tombstones are taken over."""
    if key.state is KeyState.REVOKED:
        return key
    return replace(key, state=KeyState.RETIRED, retired_at=last, remove_at=last)


def _newest_alone(one: Any, other: Any, **_: Any) -> Any:
    return max((one, other), key=merge._rank).ring


_deaf_reads = Follower.refresh


async def _first_read_only(self: Follower) -> None:
    if self.replica.held is None:
        await _deaf_reads(self)


async def _forget(self: SimDisk) -> None:
    self.kept = None


PROTECTIONS = (
    Protection(
        "pre-publication",
        "a key may sign as soon as it is published",
        _all(
            *(
                _replaced(module, "published", _ready_at_once(transitions.published))
                for module in (rotation, operations)
            )
        ),
    ),
    Protection(
        "confirmation",
        "nobody is asked whether it can use the key",
        _replaced(Confirmations, "missing", lambda *_: ()),
    ),
    Protection(
        "liveness window",
        "a new leader trusts the table of instances at once",
        _replaced(term.Term, "trusts_from", lambda self: self.now()),
    ),
    Protection(
        "fencing",
        "Redis writes what it is given, whoever gives it",
        _all(
            _replaced(SimRedis, "renew", lambda self, *_: self.clock.now()),
            _replaced(SimRedis, "holder", lambda _: ""),
            _replaced(SimRedis, "is_owner", lambda *_: True),
            _replaced(SimRedis, "is_fenced", lambda *_: False),
            _replaced(SimRedis, "is_expected", lambda *_: True),
        ),
    ),
    Protection(
        "version check",
        "the script does not compare versions",
        _replaced(SimRedis, "is_expected", lambda *_: True),
    ),
    Protection(
        "proof",
        "an app signs however old its proof is",
        _all(
            _replaced(Held, "may_sign", lambda *_: True),
            _replaced(Held, "__post_init__", _signs_for_ever),
        ),
    ),
    Protection(
        "order of versions",
        "an app takes an older version for a newer one",
        _replaced(Replica, "_check_succession", lambda *_: None),
    ),
    Protection(
        "merge",
        "of two histories the newer one alone counts",
        _replaced(merge, "merge", _newest_alone),
    ),
    Protection(
        "retention of vanished keys",
        "keys that only the other history has are dropped",
        _replaced(merge, "_adopted", _adopted),
    ),
    Protection(
        "witness",
        "apps and daemons say nothing when Redis goes back",
        _replaced(Witness, "speak", _nothing),
    ),
    Protection(
        "doubt",
        "a leader looks at Redis only when it begins to lead",
        _replaced(Leader, "doubt", lambda _: None),
    ),
    Protection(
        "disk",
        "a daemon that starts anew knows nothing",
        _replaced(SimDisk, "read", _forget),
    ),
    Protection(
        "retention",
        "a retired key goes after a minute",
        _replaced(Key, "retain_for", property(lambda _: timedelta(minutes=1))),
    ),
    Protection(
        "fetch on unknown kid",
        "an app does not look for a kid that it does not know",
        _replaced(Follower, "seek", _found_nothing),
    ),
    Protection(
        "watchdog",
        "a subscription that went silent is waited for",
        _replaced(follower, "PING_EVERY", 1e9),
    ),
    Protection(
        "messages",
        "apps hear of a version by their poll alone",
        _replaced(Follower, "_receive", _nothing),
    ),
    Protection(
        "poll",
        "apps neither poll nor read again when they subscribe",
        _replaced(Follower, "refresh", _first_read_only),
    ),
    Protection(
        "comparison of clocks",
        "a leader believes its clock, whatever Redis' says",
        _replaced(term.Term, "offset", property(lambda _: timedelta(0))),
    ),
)
