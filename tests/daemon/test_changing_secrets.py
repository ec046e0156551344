"""KEK and trust root are changed while daemons and apps run, and nobody notices. Promises 1, 4, 8."""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ringkeeper
from ringkeeper.algorithms import PrivateKey
from ringkeeper.configuration import load
from ringkeeper.errors import TokenError
from ringkeeper.layout import Layout
from ringkeeper.sealing import Kek, kek_of
from ringkeeper.secret_files import create, read_kek, read_pinned_roots, read_root
from ringkeeper.trust import TrustRoot, root_of
from ringkeeperd import secret_changes
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

LAYOUT = Layout("access-token")


def connected(site: Site, kek: Any = "kek.jwk", root: Any = "root.pub.jwk") -> ringkeeper.Keyring:
    return ringkeeper.Keyring.connect(
        site.redis_url,
        trust_root=site.folder / root if isinstance(root, str) else root,
        kek=site.folder / kek if isinstance(kek, str) else kek,
    )


class Traffic:
    """Two apps sign for one another, a third one only verifies, from here until it is stopped."""

    def __init__(self, site: Site) -> None:
        self.apps = [connected(site), connected(site), connected(site, kek=None)]
        self.verified = 0
        self.rejected: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        tokens: list[str] = []
        while not self._is_over.wait(0.01):
            tokens = [*tokens[-200:], *(app.sign({"sub": "alice"}) for app in self.apps[:2])]
            for app in self.apps:
                for token in (tokens[0], tokens[-1], tokens[-2]):
                    try:
                        app.verify(token)
                        self.verified += 1
                    except TokenError as error:
                        self.rejected.append(str(error))

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()
        for app in self.apps:
            app.close()


@contextmanager
def traffic(site: Site) -> Iterator[Traffic]:
    made = Traffic(site)
    try:
        yield made
        verified = made.verified
        eventually(lambda: made.verified > verified + 20)
    finally:
        made.stop()
    assert made.rejected == []


def rewrapped(site: Site, *options: str) -> None:
    """`ringkeeper rewrap`, again until everybody has taken up the new files."""
    result_of_rewrap: list[str] = []

    def is_done() -> bool:
        result = site.run("rewrap", "--reason", "test", *options)
        result_of_rewrap.append(result.stdout)
        early = ("live instance", "within seconds", "ringkeeper rewrap changes it")
        is_early = any(words in result.stderr for words in early)
        assert result.returncode == 0 or is_early, result.stderr
        return result.returncode == 0

    eventually(is_done, within=20)
    # Whoever runs has confirmed it by then: what is told is not told a moment too early.
    assert "did not confirm" not in result_of_rewrap[-1]
    eventually(lambda: site.run("rewrap", "--check").returncode == 0, within=20)


def blobs(server: Server) -> dict[str, str]:
    with server.client() as client:
        found: dict[str, str] = client.hgetall(LAYOUT.sealed)
    return found


def keks_on_disk(site: Site) -> set[str | None]:
    kept = [json.loads(path.read_text()) for path in site.folder.glob("state*/state-*.json")]
    return {kek_of(blob) for state in kept for blob in state["sealed"].values()}


def test_a_kek_is_changed_under_traffic(make_site: Callable[[str], Site], valkey: Server) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    site.daemon()
    former = read_kek(site.folder / "kek.jwk").kid
    with traffic(site) as going:
        said = site.done("init", "--new-kek")
        assert "in front of what was there" in said
        fresh, still = read_kek(site.folder / "kek.jwk").kids
        assert still == former
        assert "holds 2 already" in site.refused("init", "--new-kek")
        assert "is sealed by the KEK" in site.refused("rewrap", "--check")
        site.done("rotate", "--now", "--reason", "between two steps all goes on")
        assert {kek_of(blob) for blob in blobs(valkey).values()} == {former}
        rewrapped(site)
        assert {kek_of(blob) for blob in blobs(valkey).values()} == {fresh}
        eventually(lambda: keks_on_disk(site) == {fresh})
        said = site.done("rewrap", "--drop-former")
        assert "dropped the former one from" in said
        assert "backups of before need the former ones" in said
        assert read_kek(site.folder / "kek.jwk").kids == (fresh,)
        site.leader().kill()
        site.leader()
        site.done("rotate", "--now", "--reason", "by the other daemon")
        assert {kek_of(blob) for blob in blobs(valkey).values()} == {fresh}
        eventually(lambda: all(app.version == going.apps[0].version for app in going.apps))
        with connected(site) as late:
            assert late.verify(late.sign({"sub": "bob"}))["sub"] == "bob"
    told = json.loads(site.done("watch", "--no-follow", "--json", "--last", "100").splitlines()[-1])
    assert told["flaw"] is None


def test_a_trust_root_is_changed_under_traffic(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    site.daemon()
    follower = site.daemon(lead=False, trust_root=None, kek=None)
    former = read_root(site.folder / "root.jwk").kid
    with traffic(site) as going:
        site.done("init", "--new-root")
        fresh, still = read_root(site.folder / "root.jwk").kids
        assert still == former
        assert read_pinned_roots(site.folder / "root.pub.jwk").kids == (fresh, former)
        rewrapped(site)
        with valkey.client() as client:
            assert root_of(client.hget(LAYOUT.keyring, "snapshot")) == fresh
        site.done("rewrap", "--drop-former")
        assert read_pinned_roots(site.folder / "root.pub.jwk").kids == (fresh,)
        eventually(lambda: len(site.leader().events("secrets taken up")) == 2)
        site.leader().kill()
        site.leader()
        site.done("rotate", "--now", "--reason", "by the other daemon")
        version = site.status()["version"]
        eventually(lambda: all(app.version == version for app in going.apps))
        eventually(lambda: follower.answers("/readyz"))
        # What the former root signed is no alarm; it only cannot be verified any more.
        said = site.done("watch", "--no-follow", "--last", "1000")
        assert said.count(f"-- signed by the root {former}, which is not pinned here") == 1
        said = site.done("watch", "--no-follow", "--last", "1000", "--json")
        assert said.count(f"signed by the root {former}, which is not pinned here") > 1
        assert "audit: signed, numbered, no gap" in site.done("doctor")
        with connected(site) as late:
            assert late.verify(late.sign({"sub": "bob"}))["sub"] == "bob"
    assert not site.leader().events("cannot lead")


def test_what_was_there_before_a_change_does_not_undo_it_when_it_is_put_back(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """Else one write in Redis would take the ring back to a root and a KEK that are to go."""
    site = make_site(valkey.url)
    quick: dict[str, Any] = {
        "access_token_dynamic_signing_key_update_interval": 0.01,
        "access_token_validity": 10,
        "publication_interval": "9s",
        "jwks_max_age": "1s",
        "confirmation_timeout": "2s",
        "max_staleness": "20s",
        "clock_skew": "1s",
    }
    daemon = site.daemon(init=True, **quick)
    eventually(daemon.leads)
    with valkey.client() as client:
        former = client.hgetall(LAYOUT.keyring), client.hgetall(LAYOUT.sealed)
        site.done("init", "--new-root")
        site.done("init", "--new-kek")
        root, kek = read_root(site.folder / "root.jwk").kid, read_kek(site.folder / "kek.jwk").kid
        daemon.signal(signal.SIGHUP)
        rewrapped(site)
        client.hset(LAYOUT.sealed, mapping=former[1])
        eventually(lambda: {kek_of(blob) for blob in blobs(valkey).values()} == {kek})
        healed = daemon.metric("heals_total")
        client.hset(LAYOUT.keyring, mapping=former[0])
        eventually(lambda: daemon.metric("heals_total") != healed)
        assert root_of(client.hget(LAYOUT.keyring, "snapshot")) == root
        assert {kek_of(blob) for blob in blobs(valkey).values()} == {kek}
        site.done("rewrap", "--check")


def test_the_ring_does_not_move_while_a_live_instance_could_not_follow(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    behind = connected(site, kek=read_kek(site.folder / "kek.jwk"))
    without = connected(site, kek=None, root=read_pinned_roots(site.folder / "root.pub.jwk"))
    with behind, without:
        site.done("init", "--new-kek")
        version = site.status()["version"]
        site.leader().signal(signal.SIGHUP)
        eventually(lambda: site.leader().events("secrets taken up"))

        def refusal() -> str:
            return site.refused("rewrap")

        eventually(lambda: "1 of 3 live instances" in refusal())
        assert "does not have the KEK" in refusal()
        assert site.status()["version"] == version
        site.done("init", "--new-root")
        site.leader().signal(signal.SIGHUP)
        eventually(lambda: "2 of 3 live instances" in refusal())
        assert "does not have the root" in refusal()

        site.done("rewrap", "--now", "--reason", "they are lost anyway")
        token = behind.sign({"sub": "alice"})
        with connected(site) as fresh:
            assert fresh.verify(token)["sub"] == "alice", "what they hold is still good"
        assert "did not confirm" in site.refused("rewrap", "--check")
        assert "nothing is dropped" in site.refused("rewrap", "--drop-former")


def test_a_redis_that_went_back_behind_a_change_of_root_is_healed_once_told_so(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """As docs/secrets.md says: what a dropped root signed is overwritten by nobody."""
    site = make_site(valkey.url)
    daemon = site.daemon(init=True)
    eventually(daemon.leads)
    with valkey.client() as client:
        former = client.hgetall(LAYOUT.keyring)
        site.done("init", "--new-root")
        root = read_root(site.folder / "root.jwk").kid
        daemon.signal(signal.SIGHUP)
        rewrapped(site)
        site.done("rewrap", "--drop-former")
        daemon.signal(signal.SIGHUP)
        eventually(lambda: len(daemon.events("secrets taken up")) == 2)
        version = site.status()["version"]
        client.hset(LAYOUT.keyring, mapping=former)
        daemon.kill()
        site.daemons.append(daemon := daemon.again())
        eventually(lambda: daemon.events("cannot lead"), within=20)
        assert client.hgetall(LAYOUT.keyring) == former
        client.hdel(LAYOUT.keyring, "snapshot")
        eventually(daemon.leads, within=20)
        assert root_of(client.hget(LAYOUT.keyring, "snapshot")) == root
        assert site.status()["version"] == version + 1


def test_a_root_that_is_to_come_is_not_dropped(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """A host that was given the public half alone: there, the present root is the private one."""
    site, elsewhere = make_site(valkey.url), make_site(valkey.url)
    site.daemon(init=True)
    for file in ("root.jwk", "root.pub.jwk", "kek.jwk"):
        shutil.copy(site.folder / file, elsewhere.folder)
    elsewhere.configure()
    elsewhere.done("init", "--new-root")
    fresh, former = read_root(elsewhere.folder / "root.jwk").kids
    shutil.copy(elsewhere.folder / "root.pub.jwk", site.folder)
    told = site.refused("rewrap", "--drop-former")
    assert f"has the root {fresh} in front" in told
    assert "a change of root is under way" in told
    assert read_pinned_roots(site.folder / "root.pub.jwk").kids == (fresh, former)


def test_a_leader_that_has_just_begun_does_not_move_the_ring(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """Whoever is live and was not heard of yet might not be able to follow."""
    site = make_site(valkey.url)
    daemon = site.daemon(init=True, poll_interval="1m")
    site.done("init", "--new-kek")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.events("secrets taken up"))
    told = site.refused("rewrap", "--reason", "test")
    assert "the leader has just begun" in told
    site.done("rewrap", "--now", "--reason", "test")


def test_a_leader_without_the_private_half_of_the_rings_root_changes_nothing(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """Half rotated: the former root was taken out too early, while an app pins nothing else."""
    site = make_site(valkey.url)
    site.daemon(init=True).stop()
    with valkey.client() as client:
        before = client.hget(LAYOUT.keyring, "snapshot")
    pinned = read_pinned_roots(site.folder / "root.pub.jwk")
    site.done("init", "--new-root")
    root = read_root(site.folder / "root.jwk")
    (site.folder / "root.jwk").write_text(json.dumps(root.only(root.kid).secret_jwk()))
    with connected(site, root=pinned) as app:
        daemon = site.daemon()
        (told, *_) = eventually(lambda: daemon.events("cannot lead"))
        assert f"signed by the root {root.kids[1]}" in told["error"]
        assert "put that back into trust_root" in told["error"]
        with valkey.client() as client:
            assert client.hget(LAYOUT.keyring, "snapshot") == before
        app.close()
    # Once nobody is left who could not follow, the ring is taken over: that root may be lost.
    eventually(daemon.leads, within=20)
    with valkey.client() as client:
        assert root_of(client.hget(LAYOUT.keyring, "snapshot")) == root.kid


def test_a_daemon_that_lacks_the_new_root_does_not_take_the_ring_back(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """It came back, after the change, with half of the files: it pins the new root, and that is it."""
    site = make_site(valkey.url)
    first = site.daemon(init=True)
    shutil.copy(site.folder / "root.jwk", site.folder / "former.jwk")
    second = site.daemon(trust_root="former.jwk")
    eventually(first.leads)
    second.stop()
    site.done("init", "--new-root")
    fresh, former = read_root(site.folder / "root.jwk").kids
    first.signal(signal.SIGHUP)
    rewrapped(site)
    site.daemons.append(second := second.again())
    told = eventually(lambda: site.run("rewrap", "--check").stderr)
    assert f"does not have the root {fresh}" in told
    assert "copy the files that hold the new one there" in told
    assert "nothing is dropped" in site.refused("rewrap", "--drop-former")
    first.stop()
    (told, *_) = eventually(lambda: second.events("cannot lead"))
    assert f"signed by the root {fresh}, which trust_root_public has in front" in told["error"]
    shutil.copy(site.folder / "root.jwk", site.folder / "former.jwk")
    second.signal(signal.SIGHUP)
    eventually(second.leads, within=20)
    with valkey.client() as client:
        assert root_of(client.hget(LAYOUT.keyring, "snapshot")) == fresh
    assert not second.events("ring rewrapped")
    assert former in read_pinned_roots(site.folder / "root.pub.jwk").kids


def test_a_request_is_signed_while_the_files_of_a_change_are_being_copied(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """In any order: an emergency does not wait for the other half."""
    site = make_site(valkey.url)
    site.daemon(init=True)
    public = site.folder / "root.pub.jwk"
    former = public.read_text()
    site.done("init", "--new-root")
    public.write_text(former)
    kid = site.status()["signer"]
    site.done("revoke", kid, "--reason", "leaked")
    # A root that has nothing to do with the other file is another matter.
    fresh = TrustRoot.generate()
    (site.folder / "root.jwk").write_text(json.dumps(fresh.secret_jwk()))
    told = site.refused("rotate")
    assert f"is not the private half of {public}, which does not have {fresh.kid}" in told
    assert "is not the private half" in site.refused("rewrap")
    assert "is not the private half" in site.refused("init", "--new-root")


def test_a_lost_root_is_replaced_while_apps_go_on(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """As docs/secrets.md says: made apart, the apps first, the daemons last."""
    site = make_site(valkey.url)
    daemon = site.daemon(init=True)
    root, public = site.folder / "root.jwk", site.folder / "root.pub.jwk"
    new = site.folder / "new"
    new.mkdir()
    assert "is there" in site.refused("init", "--new-root", "--former-lost")
    assert "belongs to --new-root" in site.misused("init", "--former-lost")
    former = read_root(root).kid
    with traffic(site):
        eventually(daemon.leads)
        root.unlink()
        assert "there is no trust root here" in site.refused("init", "--new-root")
        shutil.copy(public, new)
        apart = {"trust_root": "new/root.jwk", "trust_root_public": "new/root.pub.jwk"}
        site.configure("new.yaml", **apart)
        site.done("init", "--new-root", "--former-lost", config="new.yaml")
        fresh = read_root(new / "root.jwk").kid
        assert read_pinned_roots(new / "root.pub.jwk").kids == (fresh, former)
        shutil.copy(new / "root.pub.jwk", public)  # to the apps; daemons lead on
        assert daemon.leads()
        shutil.copy(new / "root.jwk", root)
        daemon.signal(signal.SIGHUP)

        def signed_by() -> str:
            with valkey.client() as client:
                return root_of(client.hget(LAYOUT.keyring, "snapshot"))

        eventually(lambda: signed_by() == fresh, within=20)
        eventually(lambda: site.run("rewrap", "--check").returncode == 0, within=20)
        site.done("rewrap", "--drop-former")
        assert read_pinned_roots(public).kids == (fresh,)
    (told,) = daemon.told("ring rewrapped")
    assert told["reason"] == f"the private half of {former} is gone"


def test_a_fresh_secret_is_put_beside_the_one_in_use_and_no_other(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(server.url)
    site.daemon(init=True)
    kek = site.folder / "kek.jwk"
    former = kek.read_text()
    kek.write_text(json.dumps(Kek.generate().secret_jwk()))
    told = site.refused("init", "--new-kek")
    assert "kek.jwk: ring 'access-token' uses kek-" in told
    assert "put that back first" in told
    assert len(read_kek(kek).kids) == 1
    kek.write_text(former)
    # Where nobody can be asked, the files are changed all the same.
    server.stop()
    site.done("init", "--new-kek")


def test_a_ring_that_names_no_kek_is_no_reason_to_refuse_one(
    make_site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch, valkey: Server
) -> None:
    """As those of before a ring said which KEK it is sealed by."""
    site = make_site(valkey.url)
    site.configure()
    site.done("init")
    seen = SimpleNamespace(ring=SimpleNamespace(kek=""))
    monkeypatch.setattr(secret_changes, "at_rings", lambda *_: {"access-token": seen})
    monkeypatch.chdir(site.folder)
    (written,) = secret_changes.add_kek(load(Path("config.yaml"), {}))
    assert len(read_kek(written).kids) == 2


def test_a_host_that_lacks_what_others_have_in_front_gives_no_all_clear(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    daemon = site.daemon(init=True)
    former = (site.folder / "kek.jwk").read_text()
    site.done("init", "--new-kek")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.events("secrets taken up"))
    other = site.folder / "other.jwk"  # of a host that has no part in the change yet
    other.touch(mode=0o600)
    other.write_text(former)
    site.configure("other.yaml", kek="other.jwk")
    told = eventually(lambda: site.run("rewrap", "--check", config="other.yaml").stderr)
    assert "would use secrets that this host does not have: a change is under way" in told
    found = json.loads(site.run("rewrap", "--check", "--json", config="other.yaml").stdout)
    assert not found["ok"]
    assert "last heard of" in found["rings"][0]["problems"][0]


def test_a_kek_that_was_swapped_instead_of_added_stops_the_leader_and_nothing_else(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    daemon = site.daemon(init=True)
    kek = site.folder / "kek.jwk"
    former = read_kek(kek)
    with connected(site, kek=former) as app, valkey.client() as client:
        eventually(daemon.leads)
        before = client.hgetall(LAYOUT.sealed)
        kek.write_text(json.dumps(type(former).generate().secret_jwk()))
        daemon.signal(signal.SIGHUP)
        (told, *_) = eventually(lambda: daemon.events("cannot lead"))
        assert f"sealed by the KEK {former.kid}, which this daemon does not have" in told["error"]
        assert client.hgetall(LAYOUT.sealed) == before
        assert app.verify(app.sign({"sub": "alice"}))
        # Another one that does not help either is told of anew: somebody waits for an answer.
        kek.write_text(json.dumps(type(former).generate().secret_jwk()))
        daemon.signal(signal.SIGHUP)
        eventually(lambda: len(daemon.events("cannot lead")) == 2, within=20)
        both = type(former).generate().joined(former)
        kek.write_text(json.dumps(both.secret_jwk()))
        daemon.signal(signal.SIGHUP)
        eventually(daemon.leads, within=20)
        assert client.hgetall(LAYOUT.sealed) == before


def test_secrets_that_cannot_be_used_are_told_and_the_former_stay_in_use(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    daemon = site.daemon(init=True)
    kek = site.folder / "kek.jwk"
    shutil.copy(kek, site.folder / "kept.jwk")
    with connected(site) as app:
        kek.write_text('{"kty":"oct","k":"c2hvcnQ"}')
        daemon.signal(signal.SIGHUP)  # or within seconds, by itself
        (told,) = eventually(lambda: daemon.events("secrets rejected"))
        assert told["error"] == f"{kek}: KEK: a KEK of 40 bits; it must have 256"
        status, _, body = daemon.get("/readyz")
        assert status == 200
        assert "secrets: the files of now cannot be used" in body.decode()
        site.done("rotate", "--now", "--reason", "it goes on")
        eventually(lambda: app.version == site.status()["version"])
        assert app.sign({"sub": "alice"})
        shutil.copy(site.folder / "kept.jwk", kek)
        kek.chmod(0o644)
        daemon.signal(signal.SIGHUP)
        eventually(lambda: len(daemon.events("secrets rejected")) == 2)
        assert "is open to others" in daemon.events("secrets rejected")[1]["error"]
        kek.chmod(0o600)
        daemon.signal(signal.SIGHUP)
        eventually(lambda: daemon.events("secrets taken up"))
        assert b"secrets" not in daemon.get("/readyz")[2]
        kek.rename(site.folder / "away.jwk")
        daemon.signal(signal.SIGHUP)
        eventually(lambda: b"secrets" in daemon.get("/readyz")[2])
        (site.folder / "away.jwk").rename(kek)  # the very same file: nothing is new, all is well
        daemon.signal(signal.SIGHUP)
        eventually(lambda: b"secrets" not in daemon.get("/readyz")[2])


def test_kubernetes_swaps_a_secret_by_a_link(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """A mounted Secret: `..data` is a link to a folder, and is replaced whole."""
    site = make_site(valkey.url)
    mounted = site.folder / "mounted"
    for number, name in enumerate(("..one", "..two")):
        (mounted / name).mkdir(parents=True)
        shutil.copy(site.folder / "kek.jwk", mounted / name / "kek.jwk")
        if number:
            kek = read_kek(site.folder / "kek.jwk")
            other = type(kek).generate().joined(kek)
            (mounted / name / "kek.jwk").write_text(json.dumps(other.secret_jwk()))
    (mounted / "..data").symlink_to("..one")
    (mounted / "kek.jwk").symlink_to(Path("..data") / "kek.jwk")
    daemon = site.daemon(init=True, kek="mounted/kek.jwk")
    with connected(site, kek="mounted/kek.jwk") as app:
        (mounted / "..new").symlink_to("..two")
        (mounted / "..new").rename(mounted / "..data")
        eventually(lambda: daemon.events("secrets taken up"))
        rewrapped(site)
        assert {kek_of(blob) for blob in blobs(valkey).values()} == {other.kid}
        eventually(lambda: app.version == 2)


@pytest.mark.parametrize("name", ["kek.jwk", "root.jwk", "root.pub.jwk"])
def test_adding_a_secret_leaves_mode_and_the_present_one(
    make_site: Callable[[str], Site], valkey: Server, name: str
) -> None:
    site = make_site(valkey.url)
    site.configure()
    path = site.folder / name
    path.chmod(0o640)
    before = json.loads(path.read_text())
    site.done("init", "--new-kek" if name == "kek.jwk" else "--new-root")
    assert path.stat().st_mode & 0o777 == 0o640
    assert before in json.loads(path.read_text())["keys"]
    assert not list(site.folder.glob(".*jwk.*"))


def test_between_a_new_kek_and_its_use_keys_are_imported_under_the_one_in_use(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """The file has the new one in front; the ring goes by the other until it is rewrapped."""
    site = make_site(valkey.url)
    site.daemon(init=True)
    former = read_kek(site.folder / "kek.jwk").kid
    site.done("init", "--new-kek")
    assert read_kek(site.folder / "kek.jwk").kids[1:] == (former,)
    private = PrivateKey.generate("ES256")
    create(site.folder / "brought.jwk", {**private.secret_jwk(), "kid": "s-brought"})
    said = site.done("static", "import", "brought.jwk")
    assert "s-brought (ES256) verifies now" in said
    assert kek_of(blobs(valkey)["s-brought"]) == former
    rewrapped(site)
    assert kek_of(blobs(valkey)["s-brought"]) == read_kek(site.folder / "kek.jwk").kid
