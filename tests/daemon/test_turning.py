"""Keys that turn: one signer a version, whoever leads, whoever dies (promise 3)."""

import time
from typing import Any

import pytest

from ringkeeper.ring import Ring
from ringkeeper.wire import open_event, open_snapshot
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

LAYOUT = "ringkeeper:{access-token}"


def history(site: Site, valkey: Server) -> dict[int, list[Any]]:
    """The audit, a list of events for each version."""
    with valkey.client() as client:
        entries: Any = client.xrange(f"{LAYOUT}:events")
    versions: dict[int, list[Any]] = {}
    for _, fields in entries:
        event = open_event(fields["event"], site.root.public)
        versions.setdefault(event.version, []).append(event)
    return versions


def current(site: Site, valkey: Server) -> Ring:
    with valkey.client() as client:
        return open_snapshot(str(client.hget(f"{LAYOUT}:keyring", "snapshot")), site.root.public)


def leaders(daemons: list[Daemon]) -> float:
    return sum(daemon.metric("leader") or 0 for daemon in daemons if daemon.is_running)


@pytest.mark.long
def test_three_daemons_for_a_minute(site: Site, valkey: Server) -> None:
    """Every five seconds a key: none skipped or written twice; kill -9 of the leader turns no one away."""
    settings: dict[str, Any] = {
        "access_token_dynamic_signing_key_update_interval": 5 / 3600,
        "access_token_validity": 60,
        "clock_skew": "5s",
        "lease_ttl": "2s",
        "poll_interval": None,
    }
    daemons = [site.daemon(init=number == 0, **settings) for number in range(3)]
    began = time.monotonic()
    eventually(lambda: leaders(daemons) == 1)
    others = [daemon for daemon in daemons if daemon is not site.leader()]
    eventually(lambda: [len(d.events("standing by")) for d in others] == [1, 1])
    eventually(lambda: current(site, valkey).version >= 4, within=30)
    victim = site.leader()
    at_death = current(site, valkey).version
    victim.kill()
    eventually(lambda: current(site, valkey).version > at_death, within=20)
    assert site.leader() is not victim
    eventually(lambda: time.monotonic() - began > 60, within=60)
    assert leaders(daemons) == 1

    versions = history(site, valkey)
    assert sorted(versions) == list(range(1, max(versions) + 1))
    signers = []
    for version, events in versions.items():
        assert len({event.epoch for event in events}) == 1, f"version {version} by two leaders"
        turned = [e.fields["kid"] for e in events if e.event == "key activated"]
        turned = [kid for kid in turned if str(kid).startswith("d-")]
        assert len(turned) <= 1
        signers += turned
    assert len(signers) == len(set(signers))
    assert len(signers) >= 6


def test_a_paused_leader_cannot_write_when_it_wakes(site: Site, valkey: Server) -> None:
    """Its lease ran out while it slept: another leads, and its own writes are refused."""
    import signal

    first = site.daemon(init=True)
    second = site.daemon()
    assert site.leader() is first
    first.signal(signal.SIGSTOP)
    eventually(second.leads)
    epoch = current(site, valkey).epoch
    site.done("revoke", site.status()["signer"], "--reason", "test")
    first.signal(signal.SIGCONT)
    eventually(lambda: not first.leads())
    assert second.leads()
    assert current(site, valkey).version == 2
    assert current(site, valkey).epoch > epoch


def test_no_private_number_reaches_redis_or_the_log(site: Site, valkey: Server) -> None:
    """Promise 4."""
    from ringkeeper.sealing import Kek
    from ringkeeper.secret_files import read_kek

    daemon = site.daemon(init=True)
    site.done("rotate", "--now", "--reason", "a test")
    kek: Kek = read_kek(site.folder / "kek.jwk")
    ring = current(site, valkey)
    with valkey.client() as client:
        sealed: Any = client.hgetall(f"{LAYOUT}:sealed")
        dumped = ""
        read = {"hash": client.hgetall, "stream": client.xrange, "string": client.get}
        names: Any = client.keys("*")
        for name in names:
            dumped += repr(read.get(str(client.type(name)), repr)(name))
    shown = dumped + daemon.log + daemon.get("/metrics")[2].decode()
    shown += daemon.get("/v1/keyring")[2].decode()
    secrets = [kek.secret_jwk()["k"], site.root.secret_jwk()["d"]]
    for kid, blob in sealed.items():
        key = ring.key(kid)
        assert key
        secrets.append(kek.unseal(blob, key).secret_jwk()["d"])
    assert len(secrets) >= 5
    for secret in secrets:
        assert secret not in shown
