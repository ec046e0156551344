"""`ringkeeper backup` and `restore`: what was lost comes back, and nothing is ever taken back."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ringkeeper.ring import KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import open_event, open_snapshot
from ringkeeperd.backup_file import MAX_BACKUP, open_backup
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import Server

KEY = "ringkeeper:{access-token}:"
QUICK: dict[str, Any] = {"poll_interval": "300ms"}
LASTING = ("sealed", "witness", "events", "requests")


def ring_in(site: Site, valkey: Server, name: str = "access-token") -> Ring | None:
    with valkey.client() as client:
        snapshot = client.hget(f"ringkeeper:{{{name}}}:keyring", "snapshot")
    return open_snapshot(str(snapshot), site.root.public) if snapshot else None


def known(site: Site, valkey: Server) -> Ring:
    ring = ring_in(site, valkey)
    assert ring
    return ring


def dump(valkey: Server) -> dict[str, Any]:
    """What lies in Redis for good, byte by byte; the proof alone is made anew all the time."""
    with valkey.client() as client:
        kept: dict[str, Any] = {name: client.dump(KEY + name) for name in LASTING}
        ring: Any = client.hgetall(f"{KEY}keyring")
    return {**kept, "ring": {name: value for name, value in ring.items() if name != "proof"}}


def held_in(site: Site, file: str = "b.json") -> Ring:
    (saved,) = open_backup((site.folder / file).read_text(), site.root.public).rings
    return saved.ring


def revoked(site: Site, valkey: Server) -> str:
    """The kid of the signer, which is revoked now."""
    signer = known(site, valkey).signer
    assert signer
    site.done("revoke", signer.kid, "--reason", "test")
    return signer.kid


def lost(site: Site, valkey: Server, *, state: bool = True) -> None:
    """Every daemon is dead, and Redis empty."""
    for daemon in site.daemons:
        daemon.kill()
    with valkey.client() as client:
        client.flushall()
    for folder in site.folder.glob("state*"):
        if state:
            shutil.rmtree(folder)


# --- a backup --------------------------------------------------------------------------------


def test_a_backup_holds_the_ring_and_no_secret_and_says_what_it_lacks(
    site: Site, valkey: Server
) -> None:
    site.daemon(init=True, **QUICK)
    before = dump(valkey)
    said = site.done("backup", "--out", "b.json")
    assert dump(valkey) == before
    assert "saved 1 ring to b.json" in said
    assert "does not hold the KEK (kek-" in said
    assert "worth nothing" in said
    path = site.folder / "b.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert held_in(site) == known(site, valkey)
    for secret in ("root.jwk", "kek.jwk"):
        held = json.loads((site.folder / secret).read_text())
        assert str(held.get("d", held.get("k"))) not in path.read_text()
    assert [p.name for p in site.folder.iterdir() if p.name.startswith(".b.json")] == []


def test_a_backup_overwrites_nothing_and_finds_a_name_in_a_folder(site: Site) -> None:
    site.daemon(init=True, **QUICK)
    (site.folder / "b.json").write_text("mine")
    assert "is there already" in site.refused("backup", "--out", "b.json")
    assert (site.folder / "b.json").read_text() == "mine"
    assert "cannot be written" in site.refused("backup", "--out", "no/such/folder/b.json")
    (site.folder / "kept").mkdir()
    site.done("backup", "--out", "kept")
    (path,) = (site.folder / "kept").iterdir()
    assert path.name.startswith("ringkeeper-")
    assert path.name.endswith(".backup")
    result = site.run("backup", "--out", "-")
    assert json.loads(result.stdout)["rings"]
    assert "does not hold the KEK" in result.stderr


def test_where_redis_is_away_or_lost_the_ring_what_the_daemon_kept_is_saved(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(server.url)
    daemon = site.daemon(init=True, **QUICK)
    first = known(site, server)
    file = site.folder / "state0" / "state-access-token.json"
    eventually(lambda: file.exists() and len(json.loads(file.read_text())["sealed"]) == 3)
    daemon.kill()
    with server.client() as client:
        client.flushall()
    said = site.done("backup", "--out", "lost.json")
    assert "yet: ring 'access-token': redis holds no such ring; version 1 of state_dir" in said
    server.kill()
    assert "version 1 of state_dir is saved" in site.done("backup", "--out", "away.json")
    assert held_in(site, "lost.json") == held_in(site, "away.json") == first
    shutil.rmtree(site.folder / "state0")
    told = site.refused("backup", "--out", "none.json")
    assert "nothing is saved" in told
    assert "state_dir holds nothing of it" in told
    assert not (site.folder / "none.json").exists()


def test_what_the_daemon_kept_is_saved_where_redis_went_back(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, **QUICK)
    with valkey.client() as client:
        old = client.hgetall(f"{KEY}keyring")
    revoked(site, valkey)
    ring = known(site, valkey)
    file = site.folder / "state0" / "state-access-token.json"

    def is_kept() -> bool:
        kept = json.loads(file.read_text())
        return open_snapshot(kept["snapshot"], site.root.public) == ring

    eventually(is_kept)
    daemon.kill()
    with valkey.client() as client:
        client.hset(f"{KEY}keyring", mapping=old)
    said = site.done("backup", "--out", "b.json")
    assert "redis holds only version 1; version 2 of state_dir is saved" in said
    assert held_in(site) == ring


def test_a_ring_that_nobody_signed_is_not_saved(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, state_dir="state0", **QUICK)
    daemon.kill()
    shutil.rmtree(site.folder / "state0", ignore_errors=True)
    with valkey.client() as client:
        snapshot = str(client.hget(f"{KEY}keyring", "snapshot"))
        client.hset(f"{KEY}keyring", "snapshot", f"{snapshot[:-8]}AAAAAAAA")
    assert "a signature that does not fit" in site.refused("backup", "--out", "b.json")
    assert not (site.folder / "b.json").exists()


def test_private_keys_that_do_not_open_are_told(site: Site, valkey: Server) -> None:
    """The file is written all the same: what else is in it may be wanted."""
    daemon = site.daemon(init=True, **QUICK)
    daemon.kill()
    shutil.rmtree(site.folder / "state0", ignore_errors=True)
    signer = known(site, valkey).signer
    assert signer
    with valkey.client() as client:
        blob = str(client.hget(f"{KEY}sealed", signer.kid))
        client.hset(f"{KEY}sealed", signer.kid, f"{blob[:-8]}AAAAAAAA")
    assert "does not open" in site.refused("backup", "--out", "b.json")
    assert "does not open" in site.refused("backup", "--check", "b.json")
    with valkey.client() as client:
        client.hdel(f"{KEY}sealed", signer.kid)
    assert f"private half of '{signer.kid}' is nowhere" in site.refused("backup", "--out", "c.json")
    (site.folder / "kek.jwk").rename(site.folder / "elsewhere")
    assert "yet: the KEK is not on this host" in site.run("backup", "--out", "d.json").stdout


# --- looking at one --------------------------------------------------------------------------


def test_a_backup_is_checked_without_redis(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(server.url)
    site.daemon(init=True, **QUICK).kill()
    site.done("backup", "--out", "b.json")
    server.kill()
    said = site.done("backup", "--check", "b.json")
    kek = json.loads((site.folder / "kek.jwk").read_text())["kid"]
    assert f"signed by the root {site.root.kid}" in said
    assert f"ring access-token: version 1, 3 keys, 3 private halves sealed by {kek}" in said
    site.configure("more.yaml", keyrings={"other": {}})
    told = site.refused("backup", "--check", "b.json", config="more.yaml")
    assert "ring 'other': is configured here, and not in this backup" in told
    (site.folder / "kek.jwk").rename(site.folder / "elsewhere")
    assert "the KEK is not on this host" in site.done("backup", "--check", "b.json")
    create(site.folder / "kek.jwk", Kek.generate().secret_jwk())
    assert f"sealed by the KEK {kek}, and this host has" in site.refused(
        "backup", "--check", "b.json"
    )


# --- a restore -------------------------------------------------------------------------------


def test_a_ring_that_nobody_has_is_made_anew_from_it_by_the_leader(
    site: Site, valkey: Server
) -> None:
    site.daemon(init=True, **QUICK)
    kid = revoked(site, valkey)
    ring = known(site, valkey)
    site.done("backup", "--out", "b.json")
    lost(site, valkey)
    daemon = site.daemon(is_ready=False, **QUICK)
    eventually(lambda: daemon.events("cannot lead"))
    would = site.done("restore", "b.json", "--dry-run")
    assert "would add 4 keys, 1 revocations, 3 private halves (redis held no ring)" in would
    assert ring_in(site, valkey) is None
    said = site.done("restore", "b.json")
    assert "healed, version 3" in said
    assert "1 of 1 rings healed" in said
    found = known(site, valkey)
    assert (found.id, found.version) == (ring.id, ring.version + 1)
    assert {k.kid: k.state for k in found.keys} == {k.kid: k.state for k in ring.keys}
    assert found.key(kid).state is KeyState.REVOKED  # type: ignore[union-attr]
    eventually(lambda: daemon.answers("/readyz"))
    with valkey.client() as client:
        entries: Any = client.xrange(f"{KEY}events")
        blobs: Any = client.hgetall(f"{KEY}sealed")
    told = [open_event(fields["event"], site.root.public).event for _, fields in entries]
    assert told.count("ring healed") == 1
    assert len(blobs) == 3
    # Once more it adds nothing, and asks nobody.
    before = dump(valkey)
    assert "lacks nothing that is in it" in site.done("restore", "b.json")
    assert dump(valkey) == before


def test_a_restore_never_takes_back_what_is_newer(site: Site, valkey: Server) -> None:
    """A revocation, a turn: the backup of before undoes none of it."""
    site.daemon(init=True, **QUICK)
    site.done("backup", "--out", "b.json")
    kid = revoked(site, valkey)
    before = dump(valkey)
    said = site.done("restore", "b.json")
    assert "redis holds version 2, which lacks nothing that is in it" in said
    assert dump(valkey) == before
    assert known(site, valkey).key(kid).state is KeyState.REVOKED  # type: ignore[union-attr]


@pytest.fixture
def went_on(site: Site, valkey: Server) -> Callable[..., None]:
    """Redis went back to version 1, with no daemon that knew better, and then somebody did that."""

    def go_on(*command: str, until: int = 40) -> None:
        site.daemon(init=True, **QUICK)
        with valkey.client() as client:
            old = {n: client.hgetall(KEY + n) for n in ("keyring", "sealed")}
        for seconds in range(30, until + 1, 10):
            site.done("set", "clock_skew", f"{seconds}s")
        site.done("backup", "--out", "b.json")
        lost(site, valkey)
        with valkey.client() as client:
            for name, fields in old.items():
                client.hset(KEY + name, mapping=fields)
        site.daemon(**QUICK)
        site.leader()
        if command:
            site.done(*command)

    return go_on


def test_what_operators_did_since_is_taken_back_by_who_says_so_alone(
    site: Site, valkey: Server, went_on: Callable[..., None]
) -> None:
    """Where Redis lost versions, what is younger there has the lower number."""
    went_on("set", "clock_skew", "20s")
    before = dump(valkey)
    for options in ((), ("--dry-run",)):
        said = site.run("restore", "b.json", *options)
        assert said.returncode == 1
        (line,) = said.stderr.splitlines()
        assert "operators have changed the ring since: policy adopted by " in line
        assert "redis is at version 2, so the states of the backup's version 3 would count" in line
        assert "--take-back" in line
        assert dump(valkey) == before
    assert "would add" in site.done("restore", "b.json", "--dry-run", "--take-back")
    assert "healed, version 4" in site.done("restore", "b.json", "--take-back")
    assert known(site, valkey).policy.clock_skew == timedelta(seconds=40)


def test_a_revocation_since_is_no_reason_to_refuse_for_it_stays(
    site: Site, valkey: Server, went_on: Callable[..., None]
) -> None:
    went_on()
    kid = revoked(site, valkey)
    assert "healed, version 4" in site.done("restore", "b.json")
    found = known(site, valkey)
    assert found.key(kid).state is KeyState.REVOKED  # type: ignore[union-attr]
    assert found.policy.clock_skew == timedelta(seconds=40)


def test_a_drain_since_is_no_reason_unless_it_was_called_off(
    site: Site, valkey: Server, went_on: Callable[..., None]
) -> None:
    """As long as it is under way, no merge lets the key sign again; afterwards one would."""
    went_on(until=50)
    kid = site.status()["signer"]
    drain = ("revoke", kid, "--drain", "30s", "--reason", "just in case")
    # The leader has just begun, and first hears of every live instance.
    eventually(lambda: site.run(*drain).returncode == 0)
    assert "would add" in site.done("restore", "b.json", "--dry-run")
    site.done("revoke", kid, "--call-off", "--reason", "it was the wrong one")
    said = site.refused("restore", "b.json")
    assert "key retired by " in said
    assert "drain called off" not in said


def test_a_revocation_that_redis_lost_comes_back(site: Site, valkey: Server) -> None:
    """Redis, daemons and their disks went back, and moved on: both sides count."""
    site.daemon(init=True, **QUICK)
    with valkey.client() as client:
        old = {n: client.hgetall(KEY + n) for n in ("keyring", "sealed")}
    kid = revoked(site, valkey)
    site.done("backup", "--out", "b.json")
    lost(site, valkey)
    with valkey.client() as client:
        for name, fields in old.items():
            client.hset(KEY + name, mapping=fields)
    site.daemon(**QUICK)
    site.leader()
    assert known(site, valkey).key(kid).state is KeyState.ACTIVE  # type: ignore[union-attr]
    said = site.done("restore", "b.json")
    assert "1 revocations" in said
    assert "redis went back from version 2 to 1" in said
    found = known(site, valkey)
    assert found.version == 3
    assert found.key(kid).state is KeyState.REVOKED  # type: ignore[union-attr]


def test_sealed_keys_that_redis_lost_or_that_do_not_open_come_back(
    site: Site, valkey: Server
) -> None:
    site.daemon(init=True, **QUICK)
    site.done("backup", "--out", "b.json")
    for daemon in site.daemons:
        daemon.kill()
    shutil.rmtree(site.folder / "state0")
    with valkey.client() as client:
        whole: Any = client.hgetall(f"{KEY}sealed")
        first, second, _ = whole
        client.hset(f"{KEY}sealed", first, f"{whole[first][:-8]}AAAAAAAA")
        client.hdel(f"{KEY}sealed", second)
    said = site.run("restore", "b.json", "--dry-run")
    assert "would add 2 private halves (redis lacked private halves)" in said.stdout
    site.daemon(is_ready=False, **QUICK)
    eventually(lambda: site.run("restore", "b.json").returncode == 0, within=30)
    with valkey.client() as client:
        assert client.hgetall(f"{KEY}sealed") == whole


def test_seals_of_a_kek_that_this_host_lacks_are_not_judged(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """Rewrapped since: the leader opens what lies in Redis, and would put nothing in its place."""
    site = make_site(valkey.url)
    site.daemon(init=True, **QUICK)
    site.done("backup", "--out", "b.json")
    former = (site.folder / "kek.jwk").read_text()
    site.done("init", "--new-kek")
    eventually(lambda: site.run("rewrap", "--now").returncode == 0, within=30)
    (site.folder / "kek.jwk").write_text(former)
    before = dump(valkey)
    assert "lacks nothing that is in it" in site.done("restore", "b.json")
    assert dump(valkey) == before


def test_rings_that_are_only_here_or_only_there_are_left_out_and_named(
    site: Site, valkey: Server
) -> None:
    site.daemon(init=True, keyrings={"other": {}}, **QUICK)
    site.done("backup", "--out", "b.json")
    site.configure("fewer.yaml", **QUICK)
    told = site.refused("restore", "b.json", config="fewer.yaml")
    assert "ring other: left out, it is not in the configuration" in told
    site.configure("more.yaml", keyrings={"other": {}, "third": {}}, **QUICK)
    told = site.done("restore", "b.json", config="more.yaml")
    assert "yet: ring third is not in the backup" in told
    site.configure("one.yaml", **QUICK)
    site.done("restore", "b.json", "--ring", "access-token", config="one.yaml")


def test_an_old_backup_says_what_comes_next(site: Site, valkey: Server) -> None:
    """Its key is overdue by then: the leader turns it at once."""
    hasty = {"access_token_dynamic_signing_key_update_interval": 0.001, **QUICK}
    hasty |= {"poll_interval": "200ms", "access_token_validity": 1, "clock_skew": "1s"}
    daemon = site.daemon(init=True, **hasty)
    site.done("backup", "--out", "b.json")
    active = held_in(site).active()
    assert active
    eventually(lambda: known(site, valkey).active().kid != active.kid, within=20)  # type: ignore[union-attr]
    daemon.kill()
    eventually(lambda: "yet: it is older than a crypto" in site.done("backup", "--check", "b.json"))
    lost(site, valkey)
    assert "its turn is next" in site.done("restore", "b.json", "--dry-run")
    site.daemon(is_ready=False, **hasty)
    assert "overdue: its turn is next" in site.done("restore", "b.json")
    eventually(lambda: known(site, valkey).active().kid != active.kid, within=20)  # type: ignore[union-attr]


def test_many_rings_are_restored_at_once(site: Site, valkey: Server) -> None:
    names = [f"ring-{n}" for n in range(12)]
    rings = {"keyrings": {name: {} for name in names}, **QUICK}
    site.daemon(init=True, **rings)
    assert "saved 13 rings" in site.done("backup", "--out", "b.json")
    lost(site, valkey)
    site.daemon(is_ready=False, **rings)
    said = site.done("restore", "b.json", "--ring", "ring-3")
    assert "1 of 1 rings healed" in said
    said = site.done("restore", "b.json")
    assert "[13/13]" in said
    assert "12 of 13 rings healed, 1 lacked nothing, 0 failed" in said
    assert all(ring_in(site, valkey, name) for name in names)


# --- what is refused, with nothing changed ----------------------------------------------------


def test_nobody_leads(site: Site, valkey: Server) -> None:
    site.daemon(init=True, **QUICK)
    with valkey.client() as client:
        old = {n: client.hgetall(KEY + n) for n in ("keyring", "sealed")}
    revoked(site, valkey)
    site.done("backup", "--out", "b.json")
    lost(site, valkey)
    with valkey.client() as client:
        for name, fields in old.items():
            client.hset(KEY + name, mapping=fields)
    before = dump(valkey)
    assert "nobody leads it, and nothing is changed" in site.refused("restore", "b.json")
    assert dump(valkey) == before
    with valkey.client() as client:
        client.flushall()
    told = site.refused("restore", "b.json", "--answer-within", "0.5")
    assert "no leader took it up within 0.5 s" in told
    # Who starts within the hour takes it up.
    site.daemon(**QUICK)
    assert known(site, valkey).version == 3


def reshaped(change: Callable[[Any], Any]) -> Callable[[Site, Path], None]:
    def reshape(_: Site, path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return reshape


def of_another_root(site: Site, _: Path) -> None:
    """The file is good, and of another installation: this host pins another root."""
    for name in ("root.jwk", "root.pub.jwk"):
        (site.folder / name).unlink()
    root = TrustRoot.generate()
    create(site.folder / "root.jwk", root.secret_jwk())
    create(site.folder / "root.pub.jwk", root.public_jwk(), mode=0o644)


def of_another_kek(site: Site, _: Path) -> None:
    (site.folder / "kek.jwk").unlink()
    create(site.folder / "kek.jwk", Kek.generate().secret_jwk())


def too_large(_: Site, path: Path) -> None:
    os.truncate(path, MAX_BACKUP + 1)


def no_text(_: Site, path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


BAD: dict[str, tuple[Callable[[Site, Path], None], str]] = {
    "changed": (reshaped(lambda d: d["rings"][0].update(proof="")), "it was changed since"),
    "signed by another root": (of_another_root, "pin the right root.pub.jwk"),
    "sealed by another KEK": (of_another_kek, "put that one back, behind the present one"),
    "cut short": (lambda _, p: os.truncate(p, p.stat().st_size // 2), "cut short"),
    "larger than it may be": (too_large, "larger than any backup"),
    "empty": (lambda _, p: os.truncate(p, 0), "cut short"),
    "not there": (lambda _, p: p.unlink(), "cannot be read"),
    "no text": (no_text, "not a backup"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_backup_is_refused_in_one_line_and_nothing_is_changed(
    what: str, site: Site, valkey: Server
) -> None:
    site.daemon(init=True, **QUICK)
    site.done("backup", "--out", "b.json")
    lost(site, valkey)
    daemon = site.daemon(is_ready=False, **QUICK)
    eventually(lambda: daemon.events("cannot lead"))
    before = dump(valkey)
    spoil, message = BAD[what]
    spoil(site, site.folder / "b.json")
    assert message in site.refused("restore", "b.json", "--answer-within", "2")
    assert dump(valkey) == before


def test_another_rings_backup_is_refused(site: Site, valkey: Server) -> None:
    site.daemon(init=True, keyrings={"other": {}}, **QUICK)
    site.done("backup", "--ring", "other", "--out", "b.json")
    site.configure(**QUICK)
    before = dump(valkey)
    assert "holds other, and not access-token" in site.refused("restore", "b.json")
    assert dump(valkey) == before


def test_a_ring_that_was_made_anew_since_is_not_replaced(site: Site, valkey: Server) -> None:
    site.daemon(init=True, **QUICK)
    site.done("backup", "--out", "b.json")
    lost(site, valkey)
    site.daemon(init=True, **QUICK)
    site.leader()
    ring, before = known(site, valkey), dump(valkey)["sealed"]
    told = site.refused("restore", "b.json")
    assert "redis holds another ring 'access-token' than the backup" in told
    assert known(site, valkey).id == ring.id
    assert dump(valkey)["sealed"] == before


def test_a_ring_that_cannot_be_verified_is_not_replaced(site: Site, valkey: Server) -> None:
    site.daemon(init=True, **QUICK)
    site.done("backup", "--out", "b.json")
    lost(site, valkey)
    with valkey.client() as client:
        client.hset(f"{KEY}keyring", "snapshot", "damaged")
    before = dump(valkey)
    site.daemon(is_ready=False, **QUICK)
    told = site.refused("restore", "b.json")
    assert "cannot be verified" in told
    assert "HDEL ringkeeper:{access-token}:keyring snapshot" in told
    assert dump(valkey) == before
    # And the remedy is one.
    with valkey.client() as client:
        client.hdel(f"{KEY}keyring", "snapshot")
    assert "1 of 1 rings healed" in site.done("restore", "b.json")


def test_a_backup_comes_through_a_pipe(site: Site, valkey: Server) -> None:
    """As it does from whatever decrypts it."""
    site.daemon(init=True, **QUICK)
    text = site.run("backup", "--out", "-").stdout
    done = subprocess.run(
        [sys.executable, "-m", "ringkeeperd", "restore", "-"],
        cwd=site.folder, input=text, capture_output=True, text=True, timeout=60, check=False,
        env=clean_environment(),
    )  # fmt: skip
    assert "lacks nothing that is in it" in done.stdout, done.stderr
