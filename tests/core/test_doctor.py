"""What the doctor says, fact by fact; and that what was not seen is not called well."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.wire import Proof
from ringkeeperd.doctor import (
    Finding,
    Level,
    RingFacts,
    ServerFacts,
    Way,
    examine_ring,
    examine_server,
)
from ringkeeperd.operator import Seen
from ringkeeperd.rotation import Instance
from tests.core.builders import NOW, new_ring, policy

RULES = policy()
SETTINGS = {
    "maxmemory": "1000",
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "save": "",
    "min-replicas-to-write": "0",
    "maxclients": "100",
}
INFO = {"connected_clients": "10", "connected_slaves": "0", "aof_last_write_status": "ok"}
SERVER = ServerFacts(
    version="7.0.15",
    settings=SETTINGS,
    info=INFO,
    user="ringkeeper",
    rights=("on", "+get", "~ringkeeper:*"),
    way=Way.TLS,
)
RING = new_ring(RULES)
INSTANCE = Instance("app-1", "sign", 1, 1, NOW, ("kek-1",), ("root-1",))
SEEN = Seen(
    RING,
    Proof(RING.id, RING.name, 1, 1, "", NOW, events=4),
    "daemon-1",
    (INSTANCE,),
    "root-1",
)
FACTS = RingFacts(RING.name, RULES, NOW, seen=SEEN, keks=("kek-1",), roots=("root-1",))


def of_server(facts: ServerFacts) -> dict[str, Finding]:
    return {finding.about: finding for finding in examine_server(facts, RULES)}


def of_ring(facts: RingFacts) -> dict[str, Finding]:
    return {finding.about: finding for finding in examine_ring(facts)}


def test_a_server_as_it_should_be_has_nothing_to_be_mended() -> None:
    assert {finding.level for finding in of_server(SERVER).values()} == {Level.OK}


def test_a_ring_as_it_should_be_has_nothing_to_be_mended() -> None:
    assert {finding.level for finding in of_ring(FACTS).values()} == {Level.OK}


@pytest.mark.parametrize(
    ("about", "level", "changes"),
    [
        ("version", Level.FAIL, {"version": "6.2.14"}),
        ("version", Level.WARN, {"version": None}),
        ("version", Level.OK, {"version": "9.1.2 (Valkey)"}),
        ("clock", Level.FAIL, {"offset": timedelta(seconds=-61)}),
        ("clock", Level.WARN, {"offset": timedelta(seconds=31)}),
        ("transport", Level.WARN, {"way": Way.CLEAR}),
        ("acl", Level.FAIL, {"rights": ("on", "nopass", "+@all")}),
        ("acl", Level.WARN, {"rights": ("on", "nopass", "+@all"), "way": Way.LOOPBACK}),
        ("acl", Level.OK, {"rights": ("on", "nopass", "+@all"), "way": Way.SOCKET}),
        ("acl", Level.WARN, {"rights": ("on", "+@all ~*")}),
        ("settings", Level.WARN, {"settings": None}),
        ("connections", Level.WARN, {"info": {**INFO, "connected_clients": "81"}}),
        ("connections", Level.WARN, {"info": None}),
    ],
)
def test_what_is_wrong_with_a_server_is_said_with_a_remedy(
    about: str, level: Level, changes: dict[str, Any]
) -> None:
    finding = of_server(replace(SERVER, **changes))[about]
    assert finding.level is level
    assert bool(finding.remedy) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("about", "level", "settings", "info"),
    [
        ("eviction", Level.FAIL, {"maxmemory-policy": "allkeys-lru"}, {}),
        ("eviction", Level.FAIL, {"maxmemory-policy": "volatile-ttl"}, {}),
        ("eviction", Level.WARN, {"maxmemory-policy": "allkeys-lru", "maxmemory": "0"}, {}),
        ("persistence", Level.WARN, {"appendonly": "no"}, {}),
        ("persistence", Level.WARN, {"appendonly": "no", "save": "3600 1"}, {}),
        ("persistence", Level.FAIL, {}, {"aof_last_write_status": "err"}),
        ("replicas", Level.WARN, {}, {"connected_slaves": "2"}),
        ("replicas", Level.FAIL, {"min-replicas-to-write": "1"}, {}),
        ("replicas", Level.OK, {"min-replicas-to-write": "1"}, {"connected_slaves": "1"}),
    ],
)
def test_settings_that_lose_keys_are_named(
    about: str, level: Level, settings: dict[str, str], info: dict[str, str]
) -> None:
    facts = replace(SERVER, settings={**SETTINGS, **settings}, info={**INFO, **info})
    finding = of_server(facts)[about]
    assert finding.level is level
    assert bool(finding.remedy) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("about", "level", "facts"),
    [
        ("ring", Level.FAIL, replace(FACTS, seen=None, trouble="it does not open; restore it")),
        ("freshness", Level.FAIL, replace(FACTS, now=NOW + timedelta(days=2))),
        ("freshness", Level.WARN, replace(FACTS, now=NOW + timedelta(minutes=10))),
        ("freshness", Level.WARN, replace(FACTS, seen=replace(SEEN, leader=""))),
        ("freshness", Level.FAIL, replace(FACTS, seen=replace(SEEN, proof=None))),
        ("secrets", Level.WARN, replace(FACTS, keks=("kek-2", "kek-1"))),
        ("secrets", Level.WARN, replace(FACTS, roots=("root-2", "root-1"))),
        ("secrets", Level.WARN, replace(FACTS, keks=("kek-1", "kek-0"))),
        (
            "instances",
            Level.WARN,
            replace(FACTS, seen=replace(SEEN, instances=(replace(INSTANCE, version=0),))),
        ),
        ("intervals", Level.WARN, replace(FACTS, policy=policy(algorithm="ES256"))),
        ("audit", Level.FAIL, replace(FACTS, flaws=("a gap",))),
        (
            "keys",
            Level.FAIL,
            replace(FACTS, seen=replace(SEEN, ring=replace(RING, keys=RING.keys[:1]))),
        ),
        ("keys", Level.OK, replace(FACTS, keks=())),
    ],
)
def test_what_is_wrong_with_a_ring_is_said_with_a_remedy(
    about: str, level: Level, facts: RingFacts
) -> None:
    finding = of_ring(facts)[about]
    assert finding.level is level
    assert bool(finding.remedy) == (level is not Level.OK)


def test_an_error_of_ours_is_told_with_its_own_remedy() -> None:
    finding = of_ring(replace(FACTS, seen=None, trouble="the seal is broken; restore it"))["ring"]
    assert (finding.what, finding.remedy) == ("the seal is broken", "restore it")
