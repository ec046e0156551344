"""What a stolen host can do, by the role of what ran there, and what it cannot (least privilege).

The thief has every file of that host, its configuration and its access to Redis. A leading daemon's
host is everything: that is why the trust root and the KEK can be changed. A following daemon has
the public root alone; an app that signs, the KEK, too; one that verifies, no secret at all.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ringkeeper import Keyring
from ringkeeper.algorithms import PrivateKey, kid_of
from ringkeeper.configuration import load
from ringkeeper.errors import (
    DocumentError,
    NoSigningKey,
    RevokedKid,
    SealBroken,
    SecretError,
    UnknownKid,
)
from ringkeeper.replica import Replica
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create, read_kek, read_pinned_roots, read_root
from ringkeeper.tokens import verify
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import (
    Command,
    Request,
    open_request,
    sign_proof,
    sign_request,
    sign_snapshot,
)
from ringkeeperd.own_secrets import read_secrets
from tests.adversary.forging import compact, signer_of
from tests.client.waiting import eventually
from tests.plugins.daemons import Site
from tests.plugins.rings import LedRing
from tests.plugins.servers import Server

ROLES = {
    "leading daemon": ("root.pub.jwk", "root.jwk", "kek.jwk"),
    "following daemon": ("root.pub.jwk",),
    "signing app": ("root.pub.jwk", "kek.jwk"),
    "verifying app": ("root.pub.jwk",),
}


class Thief:
    """Somebody with the files of one role, and Redis."""

    def __init__(self, role: str, led: LedRing, folder: Path) -> None:
        self.led = led
        self.folder = folder
        secrets = {
            "root.pub.jwk": led.root.public_jwk(),
            "root.jwk": led.root.secret_jwk(),
            "kek.jwk": led.kek.secret_jwk(),
        }
        for name in ROLES[role]:
            create(folder / name, secrets[name], mode=0o644 if "pub" in name else 0o600)

    def root(self) -> TrustRoot:
        """What they sign documents with: the private root, else one of their own."""
        if (self.folder / "root.jwk").exists():
            return read_root(self.folder / "root.jwk")
        with pytest.raises(SecretError, match="only the public half"):
            TrustRoot.from_secret_jwk(json.loads((self.folder / "root.pub.jwk").read_text()))
        return TrustRoot.generate()

    def kek(self) -> Kek:
        """What they open sealed keys with: the KEK, else one of their own."""
        path = self.folder / "kek.jwk"
        return read_kek(path) if path.exists() else Kek.generate()

    def private(self) -> dict[str, PrivateKey]:
        """The private halves that they get out of Redis."""
        found = {}
        with self.led.server.client() as client:
            sealed: Any = client.hgetall(self.led.layout.sealed)
        for kid, blob in sealed.items():
            key = self.led.ring.key(kid)
            assert key
            try:
                found[kid] = self.kek().unseal(blob, key)
            except SealBroken:
                continue
        return found

    def publish(self) -> bool:
        """Whether an app that holds the ring takes one of theirs, in which their own key signs."""
        own, ring = PrivateKey.generate("ES256"), self.led.ring
        key = replace(
            self.led.signer, kid=kid_of(own.public_jwk, prefix="d"), public=own.public_jwk
        )
        later = replace(ring, version=ring.version + 1, keys=(key,))
        root = self.root()
        snapshot = sign_snapshot(later, root)
        proof = sign_proof(later, snapshot, datetime.now(UTC), root)
        return self._is_taken(snapshot, proof)

    def prove(self) -> bool:
        """Whether an app takes their word that the ring is fresh."""
        proof = sign_proof(self.led.ring, self.led.snapshot, datetime.now(UTC), self.root())
        return self._is_taken("", proof)

    def ask(self, command: Command) -> bool:
        """Whether a leader takes their request for an operator's."""
        ring, now = self.led.ring, datetime.now(UTC).replace(microsecond=0)
        request = Request(
            "id", ring.id, ring.name, ring.version, command, self.led.signer.kid, "x", "thief",
            now, now + timedelta(seconds=9),
        )  # fmt: skip
        try:
            open_request(sign_request(request, self.root()), self.led.root.public)
        except DocumentError:
            return False
        return True

    def _is_taken(self, snapshot: str, proof: str) -> bool:
        app = Replica(self.led.name, read_pinned_roots(self.folder / "root.pub.jwk"))
        app = app.offer(self.led.snapshot, self.led.proof, datetime.now(UTC))
        later = datetime.now(UTC) + timedelta(seconds=1)
        try:
            taken = app.offer(snapshot, proof, later) if snapshot else app.prove(proof, later)
        except DocumentError:
            return False
        return taken is not app


def forged(private: PrivateKey, kid: str, lifetime: timedelta) -> str:
    """A token that a stolen key signs, without asking `sign` for leave."""
    now = int(datetime.now(UTC).timestamp())
    claims = {"sub": "mallory", "iat": now, "exp": now + int(lifetime.total_seconds())}
    sign = signer_of(private._key.private_key, "ES256")
    return compact({"alg": "ES256", "kid": kid}, claims, sign)


@pytest.fixture
def steal(led: LedRing, tmp_path: Path) -> Callable[[str], Thief]:
    """Steals a host of that role."""
    return lambda role: Thief(role, led, tmp_path)


def test_a_leading_daemons_host_is_everything(steal: Callable[[str], Thief]) -> None:
    """Else the rest proves nothing: these same deeds succeed with its files."""
    thief = steal("leading daemon")
    assert thief.publish()
    assert thief.prove()
    assert all(thief.ask(command) for command in Command)
    assert thief.led.signer.kid in thief.private()


@pytest.mark.parametrize("role", ["following daemon", "verifying app"])
def test_hosts_without_a_secret_give_none_away(steal: Callable[[str], Thief], role: str) -> None:
    thief = steal(role)
    assert not thief.publish()
    assert not thief.prove()
    assert not any(thief.ask(command) for command in Command)
    assert thief.private() == {}
    with pytest.raises(SecretError):
        read_kek(thief.folder / "kek.jwk")


def test_a_signing_apps_host_signs_tokens_and_changes_nothing(
    steal: Callable[[str], Thief], led: LedRing
) -> None:
    thief = steal("signing app")
    private = thief.private()
    token = forged(private[led.signer.kid], led.signer.kid, timedelta(minutes=5))
    root = thief.folder / "root.pub.jwk"
    with Keyring.connect(led.server.url, name=led.name, trust_root=root) as app:
        assert app.verify(token)["sub"] == "mallory"
    assert not thief.publish()
    assert not thief.prove()
    assert not any(thief.ask(command) for command in Command)


def test_what_a_signing_apps_thief_signs_ends_with_the_key(
    steal: Callable[[str], Thief], led: LedRing
) -> None:
    """No `exp` is beyond the thief, but the key's removal is; and an operator may revoke it."""
    thief = steal("signing app")
    kid = led.signer.kid
    token = forged(thief.private()[kid], kid, timedelta(days=3650))
    root = thief.folder / "root.pub.jwk"
    with Keyring.connect(led.server.url, name=led.name, trust_root=root) as app:
        assert app.verify(token)
        led.turn()
        retired = led.ring.key(kid)
        eventually(lambda: app.version == led.ring.version)
        assert app.verify(token), "retired: it verifies until no honest token can exist"
        assert retired and retired.remove_at
        gone = replace(led.ring, keys=tuple(k for k in led.ring.keys if k.kid != kid))
        held = app._held()
        others = {name: each for name, each in held.verifying.items() if name != kid}
        with pytest.raises(UnknownKid):
            verify(replace(held, ring=gone, verifying=others), token, retired.remove_at)
        led.revoke(kid)
        eventually(lambda: app.version == led.ring.version)
        with pytest.raises(RevokedKid):
            app.verify(token)


def test_a_key_of_the_thiefs_own_under_the_stolen_kek_is_nobodys(
    steal: Callable[[str], Thief], led: LedRing
) -> None:
    thief = steal("signing app")
    blob = thief.kek().seal(PrivateKey.generate("ES256"))
    with led.server.client() as client:
        client.hset(led.layout.sealed, led.signer.kid, blob)
    with pytest.raises(SealBroken, match="some other key's"):
        Keyring.connect(
            led.server.url, name=led.name, trust_root=led.root.public, kek=led.kek, timeout=0.5
        )


# --- and nobody takes more than the role needs ---------------------------------------------------


def _is_open(fifo: Path) -> bool:
    """Whether somebody opened `fifo` to read: they wait there, for ever."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    return True


def _trapped(site: Site) -> list[Path]:
    """Pipes in place of the secrets: readable, and whoever opens one waits there."""
    traps = [site.folder / "root.jwk", site.folder / "kek.jwk"]
    for trap in traps:
        trap.unlink()
        os.mkfifo(trap, 0o600)
    return traps


def test_a_following_daemon_never_opens_what_it_does_not_need(site: Site, valkey: Server) -> None:
    """Though the files are there, and named in its configuration."""
    site.configure()
    site.done("init")
    kept = {name: (site.folder / name).read_bytes() for name in ("root.jwk", "kek.jwk")}
    traps = _trapped(site)
    follower = site.daemon(lead=False, is_ready=False)
    eventually(lambda: follower.answers("/.well-known/jwks.json"), within=60)
    follower.signal(signal.SIGHUP)
    eventually(lambda: follower.events("configuration reloaded"), within=60)
    assert not any(_is_open(trap) for trap in traps)
    leader = site.daemon(is_ready=False)
    eventually(lambda: _is_open(traps[0]), within=60)  # the trap works
    leader.kill()
    for trap in traps:
        trap.unlink()
        trap.write_bytes(kept[trap.name])


def test_a_following_daemon_is_configured_to_hold_no_secret(site: Site) -> None:
    for lead in (True, False):
        held = read_secrets(load(site.configure(lead=lead), {}))
        assert (held.root is not None, held.kek is not None) == (lead, lead)


_APP = """
import gc, json, sys, time
from ringkeeper import Keyring
from ringkeeper.algorithms import PrivateKey
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
url, name, kek = sys.argv[1:]
with Keyring.connect(url, name=name, trust_root="root.pub.jwk", kek=kek or None) as ring:
    print("ready", flush=True)
    version = int(sys.stdin.readline())  # until then the ring has turned
    while ring.version < version or (kek and ring._held().lacks):
        time.sleep(0.01)
    kinds = (PrivateKey, Kek, TrustRoot)
    held = [sum(type(each) is kind for each in gc.get_objects()) for kind in kinds]
    print(json.dumps({"held": held, "keys": sorted(ring._held().signing)}))
"""


@pytest.mark.parametrize("signs", [True, False])
def test_an_app_holds_the_keys_that_may_sign_and_nothing_else(
    led: LedRing, tmp_path: Path, signs: bool
) -> None:
    """In its memory: no root ever, and without a KEK no private half; retired ones are let go."""
    Thief("signing app", led, tmp_path)
    retired = led.signer.kid
    app = subprocess.Popen(
        [sys.executable, "-c", _APP, led.server.url, led.name, "kek.jwk" if signs else ""],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert app.stdout and app.stdout.readline() == "ready\n"
        led.turn()
        told = json.loads(app.communicate(f"{led.ring.version}\n", timeout=60)[0])
    finally:
        app.kill()
        app.wait()
    signers = sorted(key.kid for key in led.ring.may_sign_next)
    assert retired not in told["keys"]
    assert told["keys"] == (signers if signs else [])
    assert told["held"] == ([len(signers), 1, 0] if signs else [0, 0, 0])


def test_an_app_that_verifies_does_without_the_kek_and_signs_nothing(
    led: LedRing, tmp_path: Path
) -> None:
    Thief("verifying app", led, tmp_path)
    os.mkfifo(tmp_path / "kek.jwk", 0o600)
    root = tmp_path / "root.pub.jwk"
    with Keyring.connect(led.server.url, name=led.name, trust_root=root) as app:
        with pytest.raises(NoSigningKey):
            app.sign({})
        assert not _is_open(tmp_path / "kek.jwk")
