"""What is fuzzed: each target takes bytes, and raises only if something is wrong with the code.

Whatever comes in, only the documented errors may come out, soon; and nothing is accepted that was
not signed. All keys are fixed, so that an input that was saved does the same again.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from ringkeeper import by_joserfc, tokens
from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import from_ms, to_ms
from ringkeeper.compact import MAX_HEADER, MAX_TOKEN
from ringkeeper.configuration import load
from ringkeeper.durations import format_duration, parse_duration
from ringkeeper.errors import (
    ConfigurationError,
    DocumentError,
    InfrastructureError,
    InvalidSignature,
    MalformedToken,
    RefreshReason,
    SealBroken,
    SecretError,
    TokenError,
)
from ringkeeper.policy import Policy
from ringkeeper.redis_url import check_url, fleet_of, has_password, is_fleet, shown
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.replica import Held, Replica
from ringkeeper.ring import Ring
from ringkeeper.sealing import MAX_SEALED, Kek
from ringkeeper.secret import Secret
from ringkeeper.secret_files import read_kek, read_pinned_roots, read_root
from ringkeeper.store import Published, Sealed
from ringkeeper.testimony import Testimony, open_testimony
from ringkeeper.topology import connection_for
from ringkeeper.trust import PinnedRoots, TrustRoot
from ringkeeper.wire import (
    EVENT,
    PROOF,
    REQUEST,
    SNAPSHOT,
    Command,
    Event,
    Request,
    open_event,
    open_proof,
    open_request,
    open_snapshot,
    sign_event,
    sign_proof,
    sign_request,
    sign_snapshot,
)
from ringkeeperd import intake
from ringkeeperd.command_line.tree import parser
from ringkeeperd.leader_store import _instance
from ringkeeperd.limits import BURST, Runner
from ringkeeperd.metrics import Metrics
from ringkeeperd.refresh_series import RefreshView
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.service import LeadingState
from ringkeeperd.spikes import Bucket, Cause, Change
from ringkeeperd.transitions import FreshKey
from ringkeeperd.web import Pages

VECTORS = Path(__file__).parents[1] / "vectors"
NOW_MS = 1767225600000
NOW = from_ms(NOW_MS)
SCRATCH = "FUZZ_SCRATCH"
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
PASSWORD = "hunter2-hunter2"


class Accepted(Exception):
    """Something was taken that nobody signed, or was told that nobody may know."""


@dataclass(frozen=True, slots=True)
class Target:
    """One way in."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    share: float = 1.0
    """Of the inputs that are spread over all targets; slow ones have less."""
    longest: int = 4096
    words: tuple[str, ...] = ()
    """Of which inputs are likely to be made."""


# --- the world that they speak of ----------------------------------------------------------------


def _fixed(name: str) -> OKPKey:
    """A key pair that is the same in every process."""
    seed = hashlib.sha256(f"ringkeeper fuzz {name}".encode()).digest()
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return OKPKey.import_key(private)


class World:
    """A ring of EdDSA keys with its root and KEK, and the vectors' rings."""

    def __init__(self) -> None:
        root: Any = _fixed("root").as_dict(private=True)
        self.root = TrustRoot.from_secret_jwk(root)
        self.kek_jwk = {"kty": "oct", "k": "A" * 43, "kid": "kek-fuzz"}
        self.kek = Kek.from_secret_jwk(self.kek_jwk)
        policy = Policy.derive(algorithm="EdDSA")
        self.private: dict[str, PrivateKey] = {}
        fresh = []
        for number, wanted in enumerate(first_keys_wanted(policy)):
            jwk: Any = _fixed(f"key {number}").as_dict(private=True)
            members = {name: jwk[name] for name in ("kty", "crv", "x", "d")}
            private = PrivateKey.from_secret_jwk(members, "EdDSA")
            fresh.append(FreshKey(wanted.kind, wanted.algorithm, private.public_jwk))
            self.private[fresh[-1].kid] = private
        self.ring: Ring = first_ring(
            ring_id="fuzz",
            name="access-token",
            policy=policy,
            fresh=tuple(fresh),
            kek="kek-fuzz",
            now=NOW,
            epoch=1,
        )
        self.snapshot = sign_snapshot(self.ring, self.root)
        self.proof = sign_proof(self.ring, self.snapshot, NOW, self.root)
        empty = Replica("access-token", self.root.public)
        self.replica = empty.offer(self.snapshot, self.proof, NOW).with_keys({}, self.private)
        self.held: Held = self.replica.loaded()
        self.sealed = {
            kid: self._sealed(private.secret_jwk()) for kid, private in self.private.items()
        }
        signer = self.ring.signer
        assert signer
        self.signer = signer
        self.token = tokens.sign(self.held, {"sub": "alice"}, NOW)
        request = Request(
            "id", "fuzz", "access-token", 1, Command.REVOKE, signer.kid, "why", "me", NOW,
            NOW + timedelta(seconds=9),
        )  # fmt: skip
        self.request = sign_request(request, self.root)
        event = Event("fuzz", "access-token", 1, 1, NOW, "ring made", {"kid": signer.kid})
        self.event = sign_event(event, self.root)
        self.later = _later(self)
        self.vectors: list[dict[str, Any]] = [
            json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))
        ]

    def _sealed(self, jwk: object) -> str:
        return self.seal(json.dumps(jwk).encode())

    def seal(self, plaintext: bytes) -> str:
        """Whatever bytes, sealed as `Kek.seal` would, but for the nonce, which is always the same.

        So the sealed keys are the same in every process, and a saved input tells the same again.
        """
        members = {"alg": "dir", "enc": "A256GCM", "cty": "jwk+json", "kid": "kek-fuzz"}
        header, nonce = _b64(json.dumps(members).encode()), bytes(12)
        sealed = AESGCM(bytes(32)).encrypt(nonce, plaintext, header.encode())
        return f"{header}..{_b64(nonce)}.{_b64(sealed[:-16])}.{_b64(sealed[-16:])}"

    def sign(self, typ: str, payload: bytes) -> str:
        """Whatever bytes, signed by the root as a document of that type."""
        header = {"alg": "Ed25519", "kid": self.root.kid, "typ": typ}
        registry = jws.JWSRegistry(algorithms=["Ed25519"])
        return jws.serialize_compact(
            header, payload, self.root._keys[self.root.kid], registry=registry
        )

    @property
    def roots(self) -> PinnedRoots:
        return self.root.public


def _later(world: World) -> tuple[str, str]:
    """The next version of the ring, which has not been seen yet."""
    ring = replace(world.ring, version=2)
    snapshot = sign_snapshot(ring, world.root)
    return snapshot, sign_proof(ring, snapshot, NOW + timedelta(seconds=1), world.root)


@cache
def world() -> World:
    return World()


@cache
def _scratch() -> Path:
    """A folder in memory where there is one: files are written a million times.

    Whoever fuzzes hands one over, and removes it: libFuzzer ends its process without a goodbye.
    """
    handed = os.environ.get(SCRATCH)
    if handed:
        return Path(handed)
    place = tempfile.mkdtemp(prefix="rk-fuzz-", dir=IN_MEMORY)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def _text(data: bytes) -> str:
    """As Redis' client hands it over: what is no UTF-8 is replaced."""
    return data.decode("utf-8", "replace")


def _payload(document: str) -> bytes:
    body = document.split(".")[1]
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


# --- tokens --------------------------------------------------------------------------------------


@cache
def _rings() -> list[tuple[Held, frozenset[str]]]:
    """Rings with the tokens that are good there."""
    own = world()
    found = [(own.held, frozenset({own.token}))]
    for vector in own.vectors:
        roots = PinnedRoots.from_jwk(vector["root_public_jwk"])
        replica = Replica("access-token", roots).offer(vector["snapshot"], vector["proof"], NOW)
        found.append((replica.loaded(), frozenset({vector["token"]})))
    return found


def _token(data: bytes) -> None:
    text = _text(data)
    for held, good in _rings():
        try:
            tokens.verify(held, text, NOW)
        except TokenError as error:
            if (theirs := _by_joserfc(held, text)) is not type(error):
                raise Accepted(f"{type(error).__name__}, and joserfc says {theirs}") from None
            if text in good:
                raise Accepted(f"a good token was refused: {error}") from None
            continue
        if text not in good:
            raise Accepted(f"a forged token of {held.ring.id}")


def _by_joserfc(held: Held, token: str) -> type[TokenError] | None:
    """What it is refused for where joserfc checks the signature."""
    try:
        checks = by_joserfc.verifies
        tokens.judge(held, token, NOW_MS / 1000, None, None, False, None, checks, None)
    except TokenError as error:
        return type(error)
    return None


def _token_seeds() -> list[bytes]:
    return [next(iter(good)).encode() for _, good in _rings()]


def _signed_token(data: bytes) -> None:
    """Header and claims are any bytes, and well signed: all that is left is what they say."""
    head, _, body = data.partition(b"\0")
    signed = f"{_b64(head)}.{_b64(body)}"
    own = world()
    key: Any = own.private[own.signer.kid]._key.private_key
    token = f"{signed}.{_b64(key.sign(signed.encode()))}"
    theirs = _by_others(token, key.public_key())
    try:
        claims = tokens.verify(own.held, token, NOW)
    except TokenError as error:
        if theirs is not None and not _is_explained(error, token):
            raise Accepted(f"others take it, and here it is: {error}") from None
        return
    if theirs != claims:
        raise Accepted(f"others read {theirs!r}")
    header = json.loads(head)
    if (header["alg"], header["kid"]) != ("EdDSA", own.signer.kid) or "crit" in header:
        raise Accepted("a header of another kind")
    if claims != json.loads(body.decode("utf-8")) or not claims["exp"] > NOW_MS / 1000 - 60:
        raise Accepted("claims that are not these")
    json.dumps(claims, allow_nan=False)


_UNCHECKED: Final[Any] = {
    f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "sub", "jti")
}


def _by_others(token: str, public: Any) -> dict[str, Any] | None:
    """The claims that both PyJWT and joserfc read, asked for the signature alone."""
    try:
        by_jwt = jwt.decode(token, public, algorithms=["EdDSA"], options=_UNCHECKED)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name EdDSA
        try:
            key = OKPKey.import_key(public)
            registry = jws.JWSRegistry(algorithms=["EdDSA"], strict_check_header=False)
            payload = jws.deserialize_compact(token, key, registry=registry).payload
            by_joserfc_too = json.loads(payload)
        except (JoseError, ValueError, RecursionError):
            return None
    return by_jwt if repr(by_jwt) == repr(by_joserfc_too) else None


def _is_explained(error: TokenError, token: str) -> bool:
    """Whether we are to refuse what others take, for a reason that can be seen here."""
    if not isinstance(error, MalformedToken):
        return not isinstance(error, InvalidSignature)  # it is well signed
    if len(token) > MAX_TOKEN or token.index(".") > MAX_HEADER:
        return True
    texts = [base64.urlsafe_b64decode(part + "==") for part in token.split(".")[:2]]
    try:
        header, claims = (json.loads(text.decode(), object_pairs_hook=_twice) for text in texts)
        json.dumps([header, claims], allow_nan=False)
    except ValueError:
        return True  # UTF-16, a member twice, no finite number
    if not {"crit", "b64"}.isdisjoint(header) or not isinstance(header.get("kid"), str):
        return True
    times = [claims.get("exp"), *(claims[name] for name in ("iat", "nbf") if name in claims)]
    return not all(type(time) in (int, float) and abs(time) <= 1e12 for time in times)


def _twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a member twice")
    return dict(pairs)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _signed_token_seeds() -> list[bytes]:
    kid, exp = world().signer.kid, NOW_MS // 1000 + 60
    head = json.dumps({"alg": "EdDSA", "kid": kid}).encode()
    more = json.dumps({"alg": "EdDSA", "kid": kid, "typ": "JWT", "jwk": {"kty": "OKP"}}).encode()
    body = json.dumps({"exp": exp}).encode()
    rich = json.dumps(
        {"exp": exp, "iat": exp - 60, "nbf": exp - 60.5, "aud": ["a"], "x": {"y": [1, None]}}
    ).encode()
    return [head + b"\0" + body, more + b"\0" + rich]


# --- documents -----------------------------------------------------------------------------------

_OPENERS: tuple[tuple[str, Callable[[str, PinnedRoots], Any]], ...] = (
    (SNAPSHOT.typ, open_snapshot),
    (PROOF.typ, open_proof),
    (REQUEST.typ, open_request),
    (EVENT.typ, open_event),
)


@cache
def _documents() -> list[tuple[PinnedRoots, frozenset[str]]]:
    own = world()
    signed = {own.snapshot, own.proof, own.request, own.event, *own.later}
    found = [(own.roots, frozenset(signed))]
    for vector in own.vectors:
        kinds = frozenset(vector[kind] for kind in ("snapshot", "proof", "request", "event"))
        found.append((PinnedRoots.from_jwk(vector["root_public_jwk"]), kinds))
    return found


def _document(data: bytes) -> None:
    text = _text(data)
    for roots, good in _documents():
        opened = 0
        for _, opener in _OPENERS:
            with suppress(DocumentError):
                opener(text, roots)
                opened += 1
        if opened != (text in good):
            raise Accepted(f"opened {opened} times")


def _document_seeds() -> list[bytes]:
    return [document.encode() for _, good in _documents() for document in sorted(good)]


def _signed_document(data: bytes) -> None:
    """Any bytes that the root signed, as each kind: read, or refused, and never read otherwise."""
    if not data:
        return
    own = world()
    typ, opener = _OPENERS[data[0] % len(_OPENERS)]
    try:
        opened = opener(own.sign(typ, data[1:]), own.roots)
    except DocumentError:
        return
    if isinstance(opened, Ring):
        again = open_snapshot(sign_snapshot(opened, own.root), own.roots)
        if again != opened:
            raise Accepted("a snapshot that is read otherwise when it is written again")


def _signed_document_seeds() -> list[bytes]:
    own = world()
    kinds = (own.snapshot, own.proof, own.request, own.event)
    return [bytes([number]) + _payload(document) for number, document in enumerate(kinds)]


def _testimony(data: bytes) -> None:
    own = world()
    try:
        testimony = Testimony.decode(_text(data))
        history = open_testimony(testimony, "access-token", own.roots)
    except DocumentError:
        return
    if testimony.snapshot not in (own.snapshot, own.later[0]):
        raise Accepted("a testimony of a snapshot that nobody signed")
    if history.ring.id != "fuzz":
        raise Accepted("another ring's")
    for kid, blob in testimony.sealed.items():
        _try_sealed(kid, blob)


def _testimony_seeds() -> list[bytes]:
    own = world()
    full = Testimony(own.snapshot, own.proof, own.sealed).encode()
    return [full.encode(), Testimony(own.later[0], "", {}).encode().encode()]


def _message(data: bytes) -> None:
    """What comes over the channel, at an app that holds the ring and at one that starts."""
    own = world()
    handed = Sealed.decode(_text(data))
    assert handed is None or (handed.kid and 0 < len(handed.sealed) <= MAX_SEALED)
    heard = Published.decode(_text(data))
    if not isinstance(heard, Published):
        return
    for replica in (own.replica, Replica("access-token", own.roots)):
        for take in (_offered, _proved, _lagged):
            with suppress(DocumentError, InfrastructureError):
                _judge(replica, take(replica, heard))


def _offered(replica: Replica, heard: Published) -> Replica:
    return replica.offer(heard.snapshot, heard.proof, NOW)


def _proved(replica: Replica, heard: Published) -> Replica:
    return replica.prove(heard.proof, NOW)


def _lagged(replica: Replica, heard: Published) -> Replica:
    replica.lags(heard.proof)
    return replica


def _judge(before: Replica, after: Replica) -> None:
    own = world()
    if after.version < before.version:
        raise Accepted("went back")
    if after.held and after.held.snapshot not in (own.snapshot, own.later[0]):
        raise Accepted("a snapshot that nobody signed")
    if after.held and after.held.proof not in (own.proof, own.later[1]):
        raise Accepted("a proof that nobody signed")


def _message_seeds() -> list[bytes]:
    own = world()
    pairs = [(own.snapshot, own.proof), own.later, ("", own.proof), ("", own.later[1])]
    return [Published(*pair).encode().encode() for pair in pairs] + [b"witness", b"\n"]


def _instances(data: bytes) -> None:
    """A row of the table that anyone may write to."""
    name, _, rest = data.partition(b"\0")
    seen, _, record = rest.partition(b"\0")
    try:
        float(_text(seen))
    except ValueError:
        return  # a sorted set's score is a number, and Redis sees to it
    row = _instance(_text(name), _text(seen), _text(record))
    if len(row.id) > 80 or len(row.role) > 20 or not 0 <= row.verifies <= 1e6:
        raise Accepted("a row of any length")


def _instances_seeds() -> list[bytes]:
    return [
        b'i1\x001767225600000\x00{"role":"sign","epoch":1,"version":1}',
        b'i2\x001e308\x00{"role":{},"epoch":1e400,"version":"7"}',
        b"i3\x00-inf\x00[]",
        b"i4\x00nan\x00{}",
    ]


# --- sealed keys, and files that hold secrets ----------------------------------------------------


def _try_sealed(kid: str, blob: str) -> None:
    own = world()
    key = own.ring.key(kid) or own.signer
    with suppress(SealBroken):
        own.kek.unseal(blob, key)
        if blob != own.sealed[key.kid]:
            raise Accepted("a sealed key that nobody sealed")


def _sealed(data: bytes) -> None:
    for kid in world().sealed:
        _try_sealed(kid, _text(data))


def _sealed_seeds() -> list[bytes]:
    return [blob.encode() for blob in world().sealed.values()]


def _sealed_by_us(data: bytes) -> None:
    """Any bytes under our own KEK: only the private half of this very key opens."""
    own = world()
    with suppress(SealBroken):
        private = own.kek.unseal(own.seal(data), own.signer)
        if private.public_jwk != own.signer.public:
            raise Accepted("some other key's private half")


def _sealed_by_us_seeds() -> list[bytes]:
    own = world()
    return [json.dumps(private.secret_jwk()).encode() for private in own.private.values()]


def _secret_file(data: bytes) -> None:
    path = _scratch() / "secret.jwk"
    path.write_bytes(data)
    path.chmod(0o600)
    readers: tuple[Callable[[Path], object], ...] = (read_kek, read_root, read_pinned_roots)
    for read in readers:
        with suppress(SecretError):
            read(path)


def _secret_file_seeds() -> list[bytes]:
    own = world()
    jwks = [own.kek_jwk, own.root.secret_jwk(), own.root.public_jwk()]
    return [json.dumps(jwk).encode() for jwk in [*jwks, {"keys": jwks[:1]}, {"keys": jwks[2:]}]]


# --- what operators write ------------------------------------------------------------------------


def _configuration(data: bytes) -> None:
    """A file, and behind a NUL an environment, a line each."""
    document, _, rest = data.partition(b"\0")
    pairs = (line.partition("=") for line in rest.decode("utf-8", "replace").split("\n"))
    environ = {name: value for name, _, value in pairs if name}
    path = _scratch() / "config.yaml"
    path.write_bytes(document)
    with suppress(ConfigurationError):
        configuration = load(path, environ)
        if PASSWORD in repr(configuration) and data.count(PASSWORD.encode()) == 1:
            _check_untold(configuration.redis_url, repr(configuration))
        for ring in configuration.rings:
            if ring.policy.problems():
                raise Accepted("an impossible policy")


def _configuration_seeds() -> list[bytes]:
    whole = (Path(__file__).parents[2] / "config.yaml").read_bytes()
    url = f"redis://user:{PASSWORD}@localhost:6379/0"
    return [
        whole,
        b"access_token_validity: 60\nredis:\n  url: embedded:./var\n\0RINGKEEPER_LEASE_TTL=5s",
        f"redis: {{url: '{url}'}}\nkeyrings:\n  a: {{algorithm: ES256}}\n  b:\n".encode(),
        f"{{}}\0RINGKEEPER_REDIS__URL={url}\nACCESS_TOKEN_VALIDITY=60\nRINGKEEPER_LEAD=no".encode(),
        b"clock_skew: 1h30m\npublication_interval: 4h\nlisten: '[::1]:9465'\nlog: {level: debug}",
    ]


def _check_untold(url: Secret, told: str) -> None:
    with suppress(ValueError):
        check_url(url.reveal())
        if has_password(url) and PASSWORD in told.replace(shown(url), ""):
            raise Accepted("a password is told")


def _redis_url(data: bytes) -> None:
    text = _text(data)
    try:
        url = check_url(text)
    except ValueError as error:
        if PASSWORD in str(error):
            raise Accepted("a password is told") from None
        return
    if is_fleet(url):
        fleet_of(url)
    if has_password(url) and text.count(PASSWORD) == 1 and f":{PASSWORD}@" in text:
        told = shown(url)
        if PASSWORD in told:
            raise Accepted("a password is shown")
    try:
        connection_for(url, key="k")
    except ConfigurationError as error:
        if f":{PASSWORD}@" in text and PASSWORD in str(error):
            raise Accepted("a password is told") from None


def _redis_url_seeds() -> list[bytes]:
    return [
        f"redis://user:{PASSWORD}@localhost:6379/0".encode(),
        f"rediss://:{PASSWORD}@host/1?ssl_ca_certs=/ca.pem&ssl_check_hostname=true".encode(),
        f"unix:///run/redis.sock?db=1&password={PASSWORD}".encode(),
        f"redis+sentinel://u:{PASSWORD}@a,b:1,[::1]:2/primary/0?sentinel_password=x".encode(),
        f"redis+cluster://u:{PASSWORD}@a:1,b:2".encode(),
        b"embedded:./var",
    ]


def _duration(data: bytes) -> None:
    try:
        duration = parse_duration(_text(data))
    except ValueError:
        return
    if not timedelta(0) <= duration <= timedelta(days=3661):
        raise Accepted("a duration of any length")
    if parse_duration(format_duration(duration, parts=9)) != duration:
        raise Accepted("a duration that is read otherwise when it is written again")


def _duration_seeds() -> list[bytes]:
    return [b"30s", b"1h30m", b"500ms", b"7d", b"0.5 h", b"3660d", b"1.0000001ms"]


@cache
def _arguments_parser() -> Any:
    return parser(is_demo=False)


def _arguments(data: bytes) -> None:
    arguments = [part.decode("utf-8", "surrogateescape") for part in data.split(b"\0")]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            _arguments_parser().parse_args(arguments)
        except SystemExit as end:
            if end.code not in (0, 2):
                raise Accepted(f"exit {end.code}") from None


def _arguments_seeds() -> list[bytes]:
    return [
        part.replace(" ", "\0").encode()
        for part in (
            "run --config x.yaml", "rotate --now --reason why --answer-within 5 --no-wait",
            "revoke d-AAAA --reason leaked --ring other", "status --json", "token verify x --issuer y",
            "token sign --claims {} --lifetime 60", "check --json", "--version", "jwks --help",
        )
    ]  # fmt: skip


# --- HTTP ----------------------------------------------------------------------------------------


SEEN = RefreshView((Bucket(1, {"expired": 3}), Bucket(2, {})), (Change(1, Cause.ROTATION),))


class Served:
    """The daemon's pages behind aiohttp's own parser, and a socket to throw bytes into."""

    def __init__(self) -> None:
        own = world()
        self.loop = asyncio.new_event_loop()
        service: Any = SimpleNamespace(
            name="access-token",
            follower=SimpleNamespace(replica=own.replica, trouble=None),
            handing_on=SimpleNamespace(is_failing=False),
            clock=SimpleNamespace(now=lambda: NOW, monotonic=lambda: 0.0),
            state=LeadingState(is_leading=True, epoch=1, refreshes=SEEN),
            counts=RefreshCounts(),
        )
        pages = Pages({"access-token": service}, Metrics(), "https://a.example", str)
        self.defects: list[BaseException] = []
        self.counted = 0
        self.runner = Runner(pages.application(), lambda _: None, self.defects.append)
        self.loop.run_until_complete(self.runner.setup())

    def answer(self, data: bytes) -> bytes:
        """All that comes back before the server, which hears the end, closes."""
        self.counted += data.count(b"\n") + 1
        return self.loop.run_until_complete(self._exchange(data))

    def close(self) -> None:
        self.loop.run_until_complete(self.runner.cleanup())
        self.loop.close()

    async def _exchange(self, data: bytes) -> bytes:
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        assert self.runner.server
        await self.loop.connect_accepted_socket(self.runner.server, there)
        reader, writer = await asyncio.open_connection(sock=here)
        writer.write(data)
        with suppress(OSError):
            writer.write_eof()
        try:
            async with asyncio.timeout(20):
                return await reader.read(-1)
        except OSError:
            return b""
        finally:
            writer.close()


_served: list[Served] = []


def _serving() -> Served:
    """A server that has not been asked too often yet by anybody."""
    if _served and _served[-1].counted > BURST / 4:
        _served.pop().close()
    if not _served:
        _served.append(Served())
    return _served[-1]


def _http(data: bytes) -> None:
    served = _serving()
    answer = served.answer(data)
    if served.defects:
        raise Accepted("a page that fails") from served.defects[0]
    for status in (b" 500 ", b"Traceback"):
        if status in answer[:200]:
            raise Accepted("an answer that nobody thought of")
    if b"\r\nServer:" in answer:
        raise Accepted("an answer that names versions")


def _http_seeds() -> list[bytes]:
    paths = (
        "/", "/.well-known/jwks.json", "/rings/access-token/.well-known/jwks.json", "/metrics",
        "/healthz", "/readyz", "/v1/keyring", "/v1/refreshes/series", "/.well-known/openid-configuration", "/%00/../x?y=z",
        "/?ring=access-token", "/status.css", "/status.js",
    )  # fmt: skip
    gets = [f'GET {path} HTTP/1.1\r\nHost: x\r\nIf-None-Match: "a", W/*\r\n\r\n' for path in paths]
    others = [
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HEAD /metrics HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ]
    return [text.encode() for text in [*gets, *others]]


def _refreshes(data: bytes) -> None:
    try:
        ring, counts = intake._told(intake._decoded(data))
    except intake._Unfit:
        return
    if any(
        type(each) is not wanted
        for each, wanted in [(ring, str), *((n, int) for n in counts.values())]
    ):
        raise Accepted("what is no number of refreshes")
    if not counts.keys() <= set(RefreshReason) or not all(
        0 <= n <= intake.MOST_TOLD for n in counts.values()
    ):
        raise Accepted("a reason or a number that is none")


def _refreshes_seeds() -> list[bytes]:
    return [
        b'{"refreshes": {"expired": 12, "revoked_kid": 1000000000}}',
        b'{"ring": "access-token", "refreshes": {"other": 0, "other": true}}',
    ]


# --- all of them ---------------------------------------------------------------------------------

_JSON = ('{"', '":', "[", "]", "null", "true", "1e400", "NaN", '"\\u0000"', "9007199254740993")
_JWS = ('"alg"', '"kid"', '"typ"', '"crit"', '"b64"', "Ed25519", "EdDSA", "none", ".", "..")

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("token", _token, _token_seeds, 2, 2048, _JWS),
        Target("signed-token", _signed_token, _signed_token_seeds, 1, 1024, _JSON + _JWS),
        Target("document", _document, _document_seeds, 2, 4096, _JWS),
        Target("signed-document", _signed_document, _signed_document_seeds, 1, 4096, _JSON),
        Target("testimony", _testimony, _testimony_seeds, 1, 8192, _JSON),
        Target("message", _message, _message_seeds, 1, 8192, ("\n", "witness")),
        Target("instances", _instances, _instances_seeds, 1, 512, _JSON),
        Target("sealed", _sealed, _sealed_seeds, 1, 1024, _JWS),
        Target("sealed-by-us", _sealed_by_us, _sealed_by_us_seeds, 0.5, 512, _JSON),
        Target("secret-file", _secret_file, _secret_file_seeds, 0.5, 1024, _JSON),
        Target(
            "configuration", _configuration, _configuration_seeds, 0.3, 2048,
            ("redis.url", "keyrings:", "&a", "*a", "<<:", "!!python", "- ", ": ", "0x", "24:00"),
        ),
        Target("redis-url", _redis_url, _redis_url_seeds, 1, 256, ("://", "@", "?", "%2F", "[::1]")),
        Target("duration", _duration, _duration_seeds, 1, 64, ("d", "h", "m", "s", "ms", "e9")),
        Target("arguments", _arguments, _arguments_seeds, 0.1, 256, ("--", "\0", "-", "=")),
        Target("refreshes", _refreshes, _refreshes_seeds, 1, 512, _JSON),
        Target("http", _http, _http_seeds, 0.05, 1024, ("\r\n", "HTTP/1.1", "chunked", "%00")),
    )
}  # fmt: skip

assert to_ms(NOW) == NOW_MS
assert os.sep == "/"
