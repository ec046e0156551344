"""The simulator: fleets survive it, the same seed gives the same run, and faults are caught."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.follower import Follower
from ringkeeper.ring import Key
from ringkeeperd import rotation
from tests.simulator.judge import Violation
from tests.simulator.redis_model import SimRedis
from tests.simulator.world import World


def test_fleets_of_several_seeds_break_no_promise() -> None:
    for seed in range(2):
        report = World(seed, minutes=45).run()
        assert report.activations >= 3
        assert report.removed >= 1
        assert report.verified > 1000


def test_the_same_seed_gives_the_same_run() -> None:
    assert World(7, minutes=20).run() == World(7, minutes=20).run()
    assert World(7, minutes=20).run().digest != World(8, minutes=20).run().digest


def ready_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No publication interval: a key signs as soon as somebody wants it to."""
    published = rotation._published

    def unready(*args: Any) -> Key:
        key = published(*args)
        return replace(key, ready_at=key.published_at)

    monkeypatch.setattr(rotation, "_published", unready)


def kept_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retired key goes after a minute."""
    monkeypatch.setattr(Key, "retain_for", property(lambda _: timedelta(minutes=1)))


def no_compare_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts write whatever they are given, whoever gives it."""
    monkeypatch.setattr(SimRedis, "renew", lambda self, *_: self.clock.now())
    monkeypatch.setattr(SimRedis, "holder", lambda self: "")
    monkeypatch.setattr(SimRedis, "is_owner", lambda *_: True)
    monkeypatch.setattr(SimRedis, "is_fenced", lambda *_: False)
    monkeypatch.setattr(SimRedis, "is_expected", lambda *_: True)


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps neither listen to messages, nor poll, nor look for an unknown kid."""

    async def nothing(self: Follower, *_: Any) -> None:
        if self.replica.held is None:
            await original(self)

    original = Follower.refresh
    monkeypatch.setattr(Follower, "refresh", nothing)
    monkeypatch.setattr(Follower, "_receive", nothing)


@pytest.mark.parametrize("fault", [ready_at_once, kept_too_short, no_compare_and_set, deaf])
def test_a_protection_that_is_switched_off_is_missed(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)

    def run() -> None:
        for seed in range(6):
            World(seed, minutes=40).run()

    with pytest.raises(Violation):
        run()
