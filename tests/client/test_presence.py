"""What an instance tells of itself, as a leader reads it."""

import json
from typing import Any

from ringkeeper.algorithms import ALGORITHMS
from ringkeeper.meter import Meter
from ringkeeper.presence import Presence
from ringkeeper.sealing import Kek
from ringkeeper.wire import policy_digest
from ringkeeperd.leader_store import _instance
from tests.core.builders import policy


def metered(count: int, seconds: float) -> Meter:
    meter = Meter()
    meter.rate(0.0)
    for _ in range(count):
        meter.tick()
    meter.rate(seconds)
    return meter


def test_an_app_tells_what_it_can_use_and_how_busy_it_is() -> None:
    kek = Kek.generate()
    presence = Presence(id="a", role="sign", verified=metered(600, 60), known=metered(300, 60))
    row = presence.row((3, 17), kek, ["new", "old"], 60.0)
    told = _instance("a", "1000", row)
    assert (told.role, told.epoch, told.version) == ("sign", 3, 17)
    assert told.keks == kek.kids
    assert told.roots == ("new", "old")
    assert told.algorithms == tuple(ALGORITHMS)
    assert told.verifies > 1.5 * told.known > 0
    assert (told.may_lead, told.policy) == (False, "")


def test_who_cannot_sign_tells_of_no_kek_and_who_would_lead_by_which_policy() -> None:
    rules = policy()
    fields: dict[str, Any] = json.loads(Presence(id="v", role="verify").row((0, 0), None, [], 0.0))
    assert fields.keys() == {"role", "epoch", "version", "roots", "algorithms"}
    leading = Presence(id="d", role="daemon", leads_by=lambda: rules)
    told = _instance("d", "1000", leading.row((1, 1), None, [str(n) for n in range(9)], 0.0))
    assert (told.may_lead, told.policy) == (True, policy_digest(rules))
    assert told.roots == ("0", "1", "2", "3"), "a row stays short"
