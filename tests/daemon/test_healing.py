"""Redis loses data, and gets it back: from a daemon, its file, or an app (promises 6 and 7)."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ringkeeper import Keyring
from ringkeeper.ring import KeyState, Ring
from ringkeeper.secret_files import read_kek
from ringkeeper.tokens import kid_in
from ringkeeper.wire import open_event, open_snapshot
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

KEY = "ringkeeper:{access-token}:"
QUICK: dict[str, Any] = {"poll_interval": "300ms"}


@contextmanager
def app(site: Site, *, signs: bool = True, **options: Any) -> Iterator[Keyring]:
    kek = site.folder / "kek.jwk" if signs else None
    with Keyring.connect(
        site.redis_url, trust_root=site.folder / "root.pub.jwk", kek=kek, **options
    ) as ring:
        yield ring


def ring_in(site: Site, valkey: Server) -> Ring | None:
    with valkey.client() as client:
        snapshot = client.hget(f"{KEY}keyring", "snapshot")
    return open_snapshot(str(snapshot), site.root.public) if snapshot else None


def healed(site: Site, valkey: Server) -> list[Any]:
    """What the audit says was found, each time."""
    with valkey.client() as client:
        entries: Any = client.xrange(f"{KEY}events")
    told = [open_event(fields["event"], site.root.public) for _, fields in entries]
    return [event.fields["found"] for event in told if event.event == "ring healed"]


def dump(valkey: Server) -> dict[str, Any]:
    with valkey.client() as client:
        return {
            "keyring": client.hgetall(f"{KEY}keyring"),
            "sealed": client.hgetall(f"{KEY}sealed"),
        }


def put_back(valkey: Server, dumped: dict[str, Any]) -> None:
    with valkey.client() as client, client.pipeline() as pipeline:
        for name, fields in dumped.items():
            pipeline.delete(KEY + name)
            pipeline.hset(KEY + name, mapping=fields)
        pipeline.execute()


def states(ring: Ring) -> dict[str, KeyState]:
    return {key.kid: key.state for key in ring.keys}


def turned(site: Site, daemon: Daemon, valkey: Server) -> Ring:
    """The ring after its signer was revoked: a version that Redis is then made to lose."""
    eventually(lambda: daemon.get("/v1/keyring")[0] == 200)
    signer = ring_in(site, valkey)
    assert signer and signer.signer
    site.done("revoke", signer.signer.kid, "--reason", "test")
    ring = ring_in(site, valkey)
    assert ring
    return ring


def test_an_empty_redis_is_healed_by_the_daemon_that_leads(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, **QUICK)
    ring = turned(site, daemon, valkey)
    with app(site) as ours:
        token = ours.sign({"sub": "alice"})
        with valkey.client() as client:
            client.flushall()
        eventually(lambda: ring_in(site, valkey))
        found = ring_in(site, valkey)
        assert found
        assert (found.id, found.version) == (ring.id, ring.version + 1)
        assert found.epoch > ring.epoch
        assert states(found) == states(ring)
        assert healed(site, valkey) == ["redis held no ring"]
        assert daemon.metric("heals_total") == 1
        assert daemon.told("ring healed")
        eventually(lambda: ours.version == found.version)
        assert ours.verify(token)["sub"] == "alice"
    # Everything that a newcomer needs is back, the sealed keys included.
    with app(site) as newcomer:
        assert newcomer.verify(newcomer.sign({"sub": "bob"}))["sub"] == "bob"
        assert newcomer.verify(token)["sub"] == "alice"
    assert set(dump(valkey)["sealed"]) == {k for k, s in states(found).items() if s != "revoked"}


def test_a_redis_that_went_back_is_put_right(site: Site, valkey: Server) -> None:
    """A failover to a replica that lagged: the revocation in it must not be undone."""
    daemon = site.daemon(init=True, **QUICK)
    before = dump(valkey)
    ring = turned(site, daemon, valkey)
    put_back(valkey, before)
    eventually(lambda: (found := ring_in(site, valkey)) and found.version > ring.version)
    found = ring_in(site, valkey)
    assert found and states(found) == states(ring)
    assert healed(site, valkey) == ["redis went back from version 2 to 1"]


def test_an_empty_redis_is_healed_from_the_file_of_a_daemon(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, **QUICK)
    ring = turned(site, daemon, valkey)
    file = site.folder / "state0" / "state-access-token.json"
    eventually(lambda: file.exists() and len(json.loads(file.read_text())["sealed"]) == 3)
    daemon.kill()
    assert file.stat().st_mode & 0o777 == 0o600
    kek = read_kek(site.folder / "kek.jwk")
    assert kek.secret_jwk()["k"] not in file.read_text()
    with valkey.client() as client:
        client.flushall()
    again = site.daemon(state_dir="state0", **QUICK)
    found = ring_in(site, valkey)
    assert found and found.version == ring.version + 1
    assert states(found) == states(ring)
    assert again.told("ring healed")
    with app(site) as ours:
        assert ours.verify(ours.sign({"sub": "alice"}))


def test_an_empty_redis_is_healed_from_an_app(site: Site, valkey: Server) -> None:
    """The daemon and its file are gone: a new one, on another host, knows nothing."""
    daemon = site.daemon(init=True, **QUICK)
    ring = turned(site, daemon, valkey)
    with app(site) as ours, app(site, signs=False) as verifier:
        token = ours.sign({"sub": "alice"})
        eventually(lambda: verifier.version == ring.version)
        daemon.kill()
        shutil.rmtree(site.folder / "state0")
        with valkey.client() as client:
            client.flushall()
        site.daemon(**QUICK)
        found = ring_in(site, valkey)
        assert found and found.version == ring.version + 1
        assert states(found) == states(ring)
        eventually(lambda: verifier.version == found.version)
        assert verifier.verify(token)["sub"] == "alice"
        assert verifier.verify(ours.sign({"sub": "bob"}))["sub"] == "bob"


def test_an_empty_redis_is_healed_from_the_file_of_a_daemon_that_never_led(
    site: Site, valkey: Server
) -> None:
    """A sidecar without a KEK opens nothing, and keeps every sealed key all the same."""
    leader = site.daemon(init=True, **QUICK)
    follower = site.daemon(lead=False, kek=None, trust_root=None, **QUICK)
    ring = turned(site, leader, valkey)
    file = site.folder / "state1" / "state-access-token.json"
    opening = {key.kid for key in ring.keys if key.may_verify}
    eventually(lambda: file.exists() and json.loads(file.read_text())["sealed"].keys() == opening)
    leader.stop()
    follower.stop()
    shutil.rmtree(site.folder / "state0")
    with valkey.client() as client:
        client.flushall()
    site.daemon(state_dir="state1", **QUICK)
    found = ring_in(site, valkey)
    assert found and found.version == ring.version + 1
    assert states(found) == states(ring)
    with app(site) as ours:
        assert states(ring)[kid_in(ours.sign({}))] is KeyState.ACTIVE


def test_private_halves_that_nobody_has_are_replaced_after_others_had_time_to_show_them(
    site: Site, valkey: Server
) -> None:
    """Only an app that verifies is left: every token stays valid, and there is a new signer."""
    daemon = site.daemon(init=True, **QUICK)
    with app(site, signs=False) as verifier:
        with app(site) as ours:
            token = ours.sign({"sub": "alice"})
        ring = ring_in(site, valkey)
        assert ring
        daemon.kill()
        shutil.rmtree(site.folder / "state0")
        with valkey.client() as client:
            client.flushall()
        second = site.daemon(is_ready=False, **QUICK)
        eventually(lambda: second.events("cannot lead"))
        eventually(lambda: "waiting 900ms" in second.log)
        eventually(lambda: second.answers("/readyz"), within=30)
        found = eventually(
            lambda: (f := ring_in(site, valkey)) and f.active() and f.standby and f, within=30
        )
        assert {states(found)[key.kid] for key in ring.keys} == {KeyState.RETIRED}
        eventually(lambda: verifier.version == found.version)
        assert verifier.verify(token)["sub"] == "alice"
        with app(site) as ours:
            assert kid_in(ours.sign({})) == found.signer.kid
            assert verifier.verify(ours.sign({"sub": "bob"}))["sub"] == "bob"


def test_where_nobody_knows_the_ring_the_daemon_waits_and_says_what_to_do(
    site: Site, valkey: Server
) -> None:
    """Promise 7: an empty Redis is an incident, not a first run."""
    site.configure()
    daemon = site.daemon(is_ready=False, **QUICK)
    told = eventually(lambda: daemon.events("cannot lead"))
    assert "if it is new, run ringkeeper init" in told[0]["error"]
    assert ring_in(site, valkey) is None
    site.done("init")
    eventually(lambda: daemon.answers("/readyz"))


def test_sealed_keys_that_vanish_come_back(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, **QUICK, access_token_dynamic_signing_key_update_interval=0.01)
    eventually((site.folder / "state0" / "state-access-token.json").exists)
    sealed = dump(valkey)["sealed"]
    eventually(lambda: len(kept(site)) == len(sealed))
    with valkey.client() as client:
        client.delete(f"{KEY}sealed")
    eventually(lambda: dump(valkey)["sealed"] == sealed, within=15)
    assert "redis lacked private halves" in healed(site, valkey)
    assert daemon.metric("heals_total") == 1


def kept(site: Site) -> dict[str, str]:
    file = site.folder / "state0" / "state-access-token.json"
    found: dict[str, str] = json.loads(file.read_text())["sealed"]
    return found


def test_a_version_that_was_tampered_with_is_put_right(site: Site, valkey: Server) -> None:
    """Nothing but the scripts reads it; nonsense there must not stop them."""
    daemon = site.daemon(init=True, **QUICK)
    with valkey.client() as client:
        client.hset(f"{KEY}keyring", "version", "nonsense")
    site.done("rotate", "--no-wait")
    found = ring_in(site, valkey)
    assert found and found.version >= 2
    eventually(lambda: str(dump(valkey)["keyring"]["version"]).isdigit())
    assert daemon.is_running


def test_what_cannot_be_read_is_never_overwritten(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, **QUICK)
    snapshot = str(dump(valkey)["keyring"]["snapshot"])
    head, _, tail = snapshot.partition(".")
    forged = f"{head}.{tail[:40]}{'A' if tail[40] != 'A' else 'B'}{tail[41:]}"
    with valkey.client() as client:
        client.hset(f"{KEY}keyring", "snapshot", forged)
    site.run("rotate", "--no-wait", "--answer-within", "1")
    eventually(lambda: daemon.events("ring troubled"))
    assert dump(valkey)["keyring"]["snapshot"] == forged
    assert daemon.answers("/.well-known/jwks.json")


def test_another_ring_in_its_place_is_left_alone(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, **QUICK)
    eventually((site.folder / "state0" / "state-access-token.json").exists)
    daemon.kill()
    with valkey.client() as client:
        client.flushall()
    shutil.move(site.folder / "state0", site.folder / "aside")
    site.done("init")
    shutil.move(site.folder / "aside", site.folder / "state0")
    other = dump(valkey)
    again = site.daemon(state_dir="state0", is_ready=False, **QUICK)
    told = eventually(lambda: again.events("cannot lead"))
    assert "remove this ring's file in state_dir" in told[0]["error"]
    assert dump(valkey)["keyring"]["snapshot"] == other["keyring"]["snapshot"]


def test_init_makes_no_ring_where_one_is_known(site: Site, valkey: Server) -> None:
    """An empty Redis is not a reason to log everybody out."""
    daemon = site.daemon(init=True, **QUICK)
    file = site.folder / "state0" / "state-access-token.json"
    eventually(file.exists)
    daemon.kill()
    with valkey.client() as client:
        client.flushall()
    assert "start the daemon" in site.refused("init", config="daemon0.yaml")
    assert ring_in(site, valkey) is None


def test_a_kept_ring_that_cannot_be_used_is_set_aside_and_told(site: Site, valkey: Server) -> None:
    site.done("init", config=site.configure(**QUICK).name)
    folder = site.folder / "state0"
    folder.mkdir()
    file = folder / "state-access-token.json"
    file.write_text('{"snapshot": "cut sho')
    daemon = site.daemon(**QUICK)
    (told,) = daemon.told("kept ring set aside")
    assert told["file"] == str(file.with_suffix(".unusable"))
    assert file.with_suffix(".unusable").read_text() == '{"snapshot": "cut sho'
    eventually(file.exists)


def test_two_configurations_in_one_state_dir_leave_each_others_ring_alone(
    site: Site, make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    shared = site.folder / "shared"
    file = shared / "state-access-token.json"
    site.daemon(init=True, state_dir=str(shared), **QUICK)
    eventually(file.exists)
    other = make_site(own_server().url)
    config = other.configure(state_dir=str(shared), **QUICK)
    assert "a state_dir of its own" in other.refused("init", config=config.name)
    other.done("init", config=other.configure("apart.yaml", **QUICK, state_dir="apart").name)
    daemon = other.daemon(state_dir=str(shared), **QUICK)
    told = eventually(lambda: daemon.events("ring troubled"))
    assert "a state_dir of its own" in told[0]["error"]
    assert daemon.events("kept ring set aside") == []
    kept = json.loads(file.read_bytes())["snapshot"]
    assert open_snapshot(kept, site.root.public).version == 1


def test_a_state_dir_that_cannot_be_written_is_told_once_and_stops_nothing(
    site: Site, valkey: Server
) -> None:
    (site.folder / "state0").write_text("a file where the folder should be")
    daemon = site.daemon(init=True, **QUICK)
    turned(site, daemon, valkey)
    eventually(lambda: len(told := daemon.events("ring troubled")) == 1 and told)
    (told,) = daemon.events("ring troubled")
    assert "set state_dir to where it may" in told["error"]
    assert daemon.answers("/readyz")
