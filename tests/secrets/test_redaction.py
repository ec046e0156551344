"""No way of showing what holds a secret shows it, and no traceback does. Promise 4."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from joserfc import jwe, jws

from ringkeeper import Keyring, algorithms, tokens
from ringkeeper.algorithms import ALGORITHMS, PrivateKey
from ringkeeper.connection import Connection, holdings_of
from ringkeeper.meter import Meter
from ringkeeper.replica import Replica
from ringkeeper.ring import Key, KeyKind
from ringkeeper.sealing import Kek
from ringkeeper.secret import Secret
from ringkeeper.secret_files import create, read_kek, read_root
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import PROOF, sign_proof, sign_snapshot
from ringkeeperd.minting import mint
from ringkeeperd.own_secrets import Secrets
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.transitions import FreshKey, KeyWanted
from tests.core.builders import NOW, policy
from tests.plugins.servers import Server
from tests.secrets.scanner import Scanner
from tests.secrets.showing import WAYS, shown


class Everything:
    """One of each object that holds a secret, and a scanner that knows all of them.

    Its attributes are what tests hand about: it has no repr, so frames that hold it show nothing.
    """

    def __init__(self, algorithm: str) -> None:
        self.scanner = Scanner()
        self.kek, self.root = Kek.generate(), TrustRoot.generate()
        self.private = PrivateKey.generate(algorithm)
        self.sealed = self.kek.seal(self.private)
        self.replica, self.key = self._replica(algorithm)
        self.secrets = Secrets(self.root.public, self.root, self.kek)
        for name, holder in (("KEK", self.kek), ("root", self.root), ("key", self.private)):
            self.scanner.learn(name, holder.secret_jwk())

    def _replica(self, algorithm: str) -> tuple[Replica, Key]:
        """A replica with the private half of its first key."""
        rules = policy(algorithm=algorithm)
        halves = [self.private, PrivateKey.generate(algorithm), PrivateKey.generate(algorithm)]
        fresh = [
            FreshKey(wanted.kind, algorithm, half.public_jwk)
            for wanted, half in zip(first_keys_wanted(rules), halves, strict=True)
        ]
        ring = first_ring(
            ring_id="r1",
            name="access-token",
            policy=rules,
            fresh=tuple(fresh),
            kek="",
            now=NOW,
            epoch=1,
        )
        snapshot = sign_snapshot(ring, self.root)
        replica = Replica(ring.name, self.root.public).offer(
            snapshot, sign_proof(ring, snapshot, NOW, self.root), NOW
        )
        key, self.other = ring.keys[:2]
        return replica.with_keys({key.kid: self.sealed}, {key.kid: self.private}), key

    @property
    def holders(self) -> dict[str, Any]:
        assert self.replica.held and self.replica.held.signing
        return {
            "Kek": self.kek,
            "TrustRoot": self.root,
            "PrivateKey": self.private,
            "PublicKey": self.private.public,
            "Secrets": self.secrets,
            "Held": self.replica.held,
            "Replica": self.replica,
            "Held.signing": self.replica.held.signing,
            "PinnedRoots": self.root.public,
            "method": self.private.signed,
        }

    def leaks(self, source: str, hay: bytes) -> list[str]:
        return [str(finding) for finding in self.scanner.search(source, hay)]


@pytest.fixture(scope="module", params=[*ALGORITHMS])
def everything(request: pytest.FixtureRequest) -> Everything:
    return Everything(request.param)


def test_no_way_of_showing_a_secret_shows_it(everything: Everything) -> None:
    leaks = [
        leak
        for name, holder in everything.holders.items()
        for way, hay in shown(holder).items()
        for leak in everything.leaks(f"{name}, {way}", hay)
    ]
    assert leaks == []


def test_the_ways_of_showing_do_show_what_is_not_protected(everything: Everything) -> None:
    """Else the test above proves nothing: a plain object gives its secret away in most of them."""
    open_to_all = SimpleNamespace(**everything.private.secret_jwk())
    leaking = {way for way, hay in shown(open_to_all).items() if everything.leaks(way, hay)}
    assert leaking >= {"repr", "str", "format", "pprint", "pickle", "copy", "deepcopy", "vars"}
    assert set(WAYS) - leaking == {"asdict", "astuple", "slots", "iteration"}


def test_secrets_are_neither_copied_nor_pickled(everything: Everything) -> None:
    for holder in (everything.private, everything.kek, everything.root):
        for way in ("pickle", "pickle, protocol 0", "copy", "deepcopy"):
            assert b"TypeError" in shown(holder)[way], (holder, way)
    assert b"TypeError" in shown(everything.secrets)["asdict"]


def test_a_live_keyring_shows_nothing(everything: Everything, valkey: Server) -> None:
    own = holdings_of(everything.root.public, everything.kek)
    connection = Connection(Secret("redis://127.0.0.1:1"), "a", own)
    ring = Keyring(connection)
    follower, _ = connection.follower(everything.replica, verified=Meter(), known=Meter())
    for name, holder in {
        "Keyring": ring,
        "Follower": follower,
        "Connection": connection,
        "Watched": own,
    }.items():
        for way, hay in shown(holder).items():
            assert everything.leaks(f"{name}, {way}", hay) == []


# --- tracebacks, with what every local variable held -------------------------------------------


def told(attempt: Callable[[], object]) -> bytes:
    """The traceback of the failure that `attempt` meets, as an error reporter ships it."""
    try:
        attempt()
    except BaseException as error:
        shipped = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(shipped.format())
        assert "self = " in text or " = " in text, "no locals were captured"
        return text.encode()
    raise AssertionError("it did not fail")


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Iterator[None]:
    """While it lasts, a library's function fails in the midst of its work."""

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patching:
        patching.setattr(module, name, fail)
        yield


class Failures:
    """Representative failures; each attribute of `all` is one, by name."""

    def __init__(self, of: Everything, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._of, self._folder, self._patch = of, folder, monkeypatch

    @property
    def all(self) -> dict[str, Callable[[], object]]:
        of = self._of
        return {
            "sealed by another KEK": lambda: Kek.generate().unseal(of.sealed, of.key),
            "another key's seal": lambda: of.kek.unseal(of.sealed, of.other),
            "another KEK of the same kid": self._forged_kek,
            "a damaged seal": lambda: of.kek.unseal(of.sealed[:-4] + "AAAA", of.key),
            "a seal of half a JWK": self._half_a_jwk,
            "a private JWK of another algorithm": self._other_algorithm,
            "a private JWK with a number that is none": self._bad_number,
            "a public JWK where a private one should be": self._public_only,
            "a header that is not JSON": self._odd_header,
            "a payload that is not JSON": lambda: of.root.sign(PROOF, {"x": {1}}),
            "a payload too large": lambda: of.root.sign(PROOF, {"x": "y" * 10_000}),
            "signing fails": self._signing_fails,
            "signing a document fails": self._root_fails,
            "sealing fails": self._sealing_fails,
            "minting fails": self._minting_fails,
            "a KEK file cut short": lambda: read_kek(self._file("kek.jwk", of.kek, cut=3)),
            "a KEK file with bits missing": lambda: read_kek(self._short_kek()),
            "a KEK file that is a root's": lambda: read_kek(self._file("k", of.root)),
            "a root file cut short": lambda: read_root(self._file("root.jwk", of.root, cut=3)),
            "a root file that is a KEK's": lambda: read_root(self._file("r", of.kek)),
            "a root file of two halves": lambda: read_root(self._two_halves()),
            "a KEK in a JWK, with bits missing": lambda: Kek.from_secret_jwk({**self._less_kek()}),
            "a KEK in a JWK, no base64": lambda: Kek.from_secret_jwk({**self._strange_kek()}),
            "a root in a JWK, of two halves": lambda: TrustRoot.from_secret_jwk({**self._mixed()}),
            "a root in a JWK, of another curve": lambda: TrustRoot.from_secret_jwk(
                {**self._x25519()}
            ),
            "a root in a JWK, cut short": lambda: TrustRoot.from_secret_jwk({**self._cut_root()}),
            "a kid that is not held": lambda: of.replica.loaded().signing["none"],
            "a file that exists": self._no_folder,
        }

    def _forged_kek(self) -> object:
        """Its name is that of the right one; it opens nothing."""
        return Kek.from_secret_jwk(
            Secretive({**Kek.generate().secret_jwk(), "kid": self._of.kek.kid})
        ).unseal(self._of.sealed, self._of.key)

    def _sealed(self, body: bytes) -> str:
        header = {"alg": "dir", "enc": "A256GCM", "cty": "jwk+json", "kid": self._of.kek.kid}
        key = self._of.kek._keys[self._of.kek.kid]
        return jwe.encrypt_compact(header, body, key, algorithms=["dir", "A256GCM"])

    def _half_a_jwk(self) -> object:
        sealed = self._sealed(json.dumps(self._of.private.secret_jwk()).encode()[:-3])
        return self._of.kek.unseal(sealed, self._of.key)

    def _other_algorithm(self) -> object:
        other = "ES256" if self._of.private.algorithm.kty == "RSA" else "RS256"
        return PrivateKey.from_secret_jwk(self._of.private.secret_jwk(), other)

    def _bad_number(self) -> object:
        jwk = Secretive(self._of.private.secret_jwk())
        jwk |= {"d": jwk["d"][:-9] + "*", "p": 7}
        return PrivateKey.from_secret_jwk({**jwk}, self._of.private.algorithm.name)

    def _public_only(self) -> object:
        return PrivateKey.from_secret_jwk(
            dict(self._of.private.public_jwk), self._of.private.algorithm.name
        )

    def _odd_header(self) -> object:
        held = self._of.replica.loaded()
        return tokens.sign(held, {}, held.proof_at, header={"x": {1}})

    def _signing_fails(self) -> object:
        with broken(self._patch, algorithms, "base64url"):
            return self._of.private.signed("a.b")

    def _root_fails(self) -> object:
        with broken(self._patch, jws, "serialize_compact"):
            return self._of.root.sign(PROOF, {})

    def _sealing_fails(self) -> object:
        with broken(self._patch, jwe, "encrypt_compact"):
            return self._of.kek.seal(self._of.private)

    def _minting_fails(self) -> object:
        wanted = KeyWanted(KeyKind.DYNAMIC, self._of.private.algorithm.name)
        self._patch.setattr(PrivateKey, "generate", lambda _: self._of.private)
        with broken(self._patch, jwe, "encrypt_compact"):
            return mint(wanted, self._of.kek)

    def _file(self, name: str, holder: Kek | TrustRoot, cut: int = 0) -> Path:
        path = self._folder / name
        create(path, holder.secret_jwk())
        if cut:
            path.write_text(path.read_text()[:-cut])
        return path

    def _written(self, name: str, jwk: Any) -> Path:
        path = self._folder / name
        create(path, dict(jwk))
        return path

    def _short_kek(self) -> Path:
        return self._written("short.jwk", self._less_kek())

    def _two_halves(self) -> Path:
        return self._written("mixed.jwk", self._mixed())

    def _less_kek(self) -> Secretive:
        jwk = self._of.kek.secret_jwk()
        return Secretive({**jwk, "k": jwk["k"][:-4]})

    def _strange_kek(self) -> Secretive:
        jwk = self._of.kek.secret_jwk()
        return Secretive({**jwk, "k": jwk["k"][:-4] + "\u00e9"})

    def _mixed(self) -> Secretive:
        other = TrustRoot.generate().public_jwk()
        return Secretive({**self._of.root.secret_jwk(), "x": other["x"]})

    def _x25519(self) -> Secretive:
        return Secretive({**self._of.root.secret_jwk(), "crv": "X25519"})

    def _cut_root(self) -> Secretive:
        jwk = self._of.root.secret_jwk()
        return Secretive({**jwk, "d": jwk["d"][:-4]})

    def _no_folder(self) -> object:
        (self._folder / "file").touch()
        return create(self._folder / "file" / "kek.jwk", self._of.kek.secret_jwk())


class Secretive(dict[str, Any]):
    """A JWK that the test's own frames do not show; copies of it do, and so do its members."""

    def __repr__(self) -> str:
        return "<a JWK of the test's>"


FAILURES = [*Failures(cast("Any", None), Path(), cast("Any", None)).all]


@pytest.mark.parametrize("failure", FAILURES)
def test_no_traceback_shows_a_secret_even_with_local_variables(
    everything: Everything, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Failures(everything, tmp_path, monkeypatch).all[failure]
    assert everything.leaks(failure, told(attempt)) == []


def test_a_traceback_would_show_what_a_local_variable_holds(everything: Everything) -> None:
    def careless() -> None:
        jwk = everything.private.secret_jwk()
        raise ValueError(len(jwk))

    assert everything.leaks("a traceback", told(careless))
