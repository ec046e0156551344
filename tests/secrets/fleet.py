"""A fleet whose keys turn fast, everything it writes anywhere, and every private key it ever had.

Everything is kept in files and searched in the end, when all numbers are known: a key that was
told before it was sealed, and so before anybody here could know it, is found, too.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import redis
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from ringkeeper.algorithms import ALGORITHMS, thumbprint_of
from ringkeeper.layout import DEFAULT_NAME, Layout
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create
from ringkeeper.trust import PinnedRoots
from ringkeeper.wire import open_snapshot
from tests.plugins.daemons import MODULE, Here, Site, eventually
from tests.plugins.servers import Server
from tests.secrets.scanner import Finding, Scanner

RINGS: Final = {DEFAULT_NAME: "RS256", "of-es256": "ES256", "of-eddsa": "EdDSA"}
SERVER: Final = ("--appendonly", "yes", "--appendfsync", "no", "--rdbcompression", "no")
"""What is compressed could not be searched."""
RULES: Final[dict[str, Any]] = {
    "access_token_validity": 5,
    "publication_interval": "1s",
    "jwks_max_age": "1s",
    "confirmation_timeout": "2s",
    "max_staleness": "8s",
    "clock_skew": "1s",
    "poll_interval": "500ms",
    "lease_ttl": "2s",
    "log": {"format": "json", "level": "debug"},
    "cache_dir": "cache",
}
SECRET_FILES: Final = ("kek.jwk", "root.jwk")
PATHS: Final = (
    "/", "/.well-known/jwks.json", "/.well-known/openid-configuration", "/metrics", "/healthz",
    "/readyz", "/v1/keyring", "/rings/of-es256/.well-known/jwks.json",
    "/rings/of-eddsa/.well-known/jwks.json", "/rings/none/.well-known/jwks.json",
    "/nowhere?q=%27%22%3Cscript%3E", "/v1/keyring/../../etc/passwd",
)  # fmt: skip
_BLOCK: Final = 4 * 2**20
_OVERLAP: Final = 16 * 1024
_SEALED: Final = re.compile(rb"eyJ[\w-]+\.\.[\w-]{16}\.[\w-]+\.[\w-]{22}")


class Vault:
    """Holds the KEK, and opens every sealed key that it meets."""

    def __init__(self, site: Site, scanner: Scanner) -> None:
        kek = json.loads((site.folder / "kek.jwk").read_text())
        self.scanner = scanner
        self.kids: set[str] = set()
        """Those whose private halves are known."""
        self._key = OctKey.import_key({"kty": "oct", "k": kek["k"]})
        self._met: set[bytes] = set()
        scanner.learn("the KEK", kek)
        scanner.learn("the trust root", json.loads((site.folder / "root.jwk").read_text()))

    def meet(self, text: bytes) -> None:
        """Open what is sealed in `text` and was not met before."""
        for sealed in {*_SEALED.findall(text)} - self._met:
            self._met.add(sealed)
            try:
                opened = jwe.decrypt_compact(sealed, self._key, algorithms=["dir", "A256GCM"])
            except (JoseError, ValueError):  # shown cut short; `unopened` tells what is missing
                continue
            jwk = json.loads(opened.plaintext or b"")
            kid = _thumbprint(jwk)
            self.kids.add(kid)
            self.scanner.learn(f"key {kid}", jwk)


def _thumbprint(jwk: dict[str, Any]) -> str:
    like = next(a for a in ALGORITHMS.values() if a.kty == jwk["kty"])
    return thumbprint_of(tuple((name, jwk[name]) for name in like.members))[:22]


class Fleet:
    """A server, a daemon that leads some rings, an app that signs for each; and who looks on."""

    def __init__(
        self,
        server: Server,
        *,
        period: float,
        rings: dict[str, str] = RINGS,
        patience: float = 20.0,
        **rules: Any,
    ) -> None:
        """`patience`: seconds that anything may take; `rules`: what is not as in `RULES`."""
        self.server = server
        self.rings = rings
        self.site = Site(server.url)
        self.folder = self.site.folder
        self.scanner = Scanner()
        self.vault = Vault(self.site, self.scanner)
        self.apps: list[subprocess.Popen[str]] = []
        self._period = period
        self._patience = patience
        self._rules = rules
        self._over = threading.Event()
        self._saved = 0
        (self.folder / "seen").mkdir()
        line = self._monitored()
        self._watching = threading.Thread(target=self._monitor, args=(line,), daemon=True)
        self._watching.start()

    def settings(self) -> dict[str, Any]:
        """What the daemon and the apps are told."""
        further = {
            name: {"algorithm": algorithm}
            for name, algorithm in self.rings.items()
            if name != DEFAULT_NAME
        }
        return {
            **RULES,
            **self._rules,
            "access_token_dynamic_signing_key_update_interval": self._period / 3600,
            "algorithm": self.rings[DEFAULT_NAME],
            "issuer": "https://auth.example.com",
            "keyrings": further,
        }

    def start(self) -> None:
        """Let it run: a daemon, and an app for each ring."""
        self.daemon = self.site.daemon(init=True, is_ready=False, **self.settings())
        self._wait_until_ready()
        for name in self.rings:
            self.start_app(name)

    def start_app(self, name: str, config: str = "config.yaml") -> subprocess.Popen[str]:
        """An app that signs for the ring `name`; it has said that it is ready."""
        with (self.folder / f"app-{name}.log").open("ab") as log:
            app = Here().start(
                sys.executable, "-m", "tests.secrets.app", str(self.folder / config), name,
                cwd=Path(__file__).parents[2], text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.apps.append(app)
        assert app.stdout
        assert app.stdout.readline() == "ready\n", (self.folder / f"app-{name}.log").read_text()
        return app

    def work(self) -> None:
        """Let every app sign and verify once, and read every page once."""
        for app in self.apps:
            assert app.stdin
            with suppress(OSError):
                app.stdin.write("\n")
                app.stdin.flush()
        for path in PATHS:
            try:
                status, headers, body = self.daemon.get(path)
            except OSError:  # a busy machine: the next round will do
                continue
            self.keep("http", f"{path} {status} {headers}\n".encode() + body)

    def keep(self, name: str, what: bytes) -> None:
        """Add to what was seen, to be searched in the end."""
        with (self.folder / "seen" / name).open("ab") as file:
            file.write(what + b"\n")

    def save(self) -> None:
        """Keep what Redis would write as its dump, and as DUMP of each key, just now."""
        with self.server.client() as client:
            client.save()
        self._saved += 1
        dump = (self.server.directory / "dump.rdb").read_bytes()
        self.keep(f"rdb-{self._saved}", dump)
        for name, kind, value in self._keys():
            self.keep("keys", name + b" " + kind + b" " + value)

    def _keys(self) -> list[tuple[Any, Any, Any]]:
        client = redis.Redis(unix_socket_path=str(self.server.socket), protocol=2)
        with client:
            found = [(name, client.type(name), client.dump(name)) for name in client.keys("*")]
        return [each for each in found if each[2] is not None]

    @property
    def versions(self) -> dict[str, int]:
        """Of each ring, the version in Redis."""
        with self.server.client() as client:
            got = {name: client.hget(Layout(name).keyring, "version") for name in self.rings}
        return {name: int(str(version or 0)) for name, version in got.items()}

    def signer(self, name: str = DEFAULT_NAME) -> str:
        """The kid that signs."""
        roots = PinnedRoots.from_jwk(self.site.root.public_jwk())
        with self.server.client() as client:
            snapshot = client.hget(Layout(name).keyring, "snapshot")
        signer = open_snapshot(str(snapshot), roots).signer
        assert signer
        return signer.kid

    @property
    def rotations(self) -> int:
        """Keys that became active so far, as the daemon counts them."""
        lines = self.daemon.get("/metrics")[2].decode().splitlines()
        counted = [line for line in lines if line.startswith("ringkeeper_rotations_total{")]
        return int(sum(float(line.rpartition(" ")[2]) for line in counted))

    def stop(self) -> None:
        """End everything, politely; then nothing is written any more."""
        for app in self.apps:
            with suppress(OSError):
                app.communicate(timeout=20)
        self.daemon.stop()
        self.save()
        self._over.set()
        self._watching.join(10)

    def findings(self) -> list[Finding]:
        """Every private number that is anywhere it should not be."""
        files = [
            path
            for folder in (self.folder, self.server.directory)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in SECRET_FILES
        ]
        for path in files:  # the AOF holds what the monitor may have missed
            for block in _blocks(path):
                self.vault.meet(block)
        return [
            finding
            for path in files
            for block in _blocks(path)
            for finding in self.scanner.search(path.name, block)
        ]

    def restart(self) -> None:
        """Kill the daemon, and start it again."""
        self.daemon.kill()
        self.daemon = self.daemon.again()
        self.site.daemons.append(self.daemon)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        self.daemon.patience = self._patience
        eventually(lambda: self.daemon.answers("/readyz"), within=self._patience)

    def revoke(self, name: str = DEFAULT_NAME) -> None:
        """Have the key revoked that signs."""
        command = ("revoke", self.signer(name), "--reason", "leaked", "--ring", name)
        self.command(*command, expect=0)

    def err(self) -> None:
        """Commands and an app that fail: a wrong KEK, a damaged one, none; a broken configuration."""
        create(self.folder / "other-kek.jwk", Kek.generate().secret_jwk())
        right = (self.folder / "kek.jwk").read_text()
        (self.folder / "cut-kek.jwk").touch(0o600)
        (self.folder / "cut-kek.jwk").write_text(right[: right.index('"kid"')])
        with ThreadPoolExecutor(3) as pool:

            def at_once(
                *words: str, config: str = "config.yaml", expect: int | None = None
            ) -> Future[None]:
                return pool.submit(self.command, *words, config=config, expect=expect)

            asked = [
                at_once("token", "verify", "eyJ.e30.x", expect=1),
                at_once("revoke", "d-none", "--reason", "x", expect=1),
            ]
            for kek in ("other-kek.jwk", "cut-kek.jwk", "none.jwk"):
                config = f"with-{kek}.yaml"
                settings = {**self.settings(), "kek": kek, "cache_dir": None, "state_dir": kek[:-4]}
                self.site.configure(config, listen="127.0.0.1:0", **settings)
                for command in (("token", "sign"), ("check",), ("run",)):
                    asked.append(at_once(*command, config=config))
        for each in asked:
            each.result()
        good = self.daemon.config.read_text()
        self.daemon.config.write_text(good[:-1] + ', "kek": 5}')
        self.daemon.signal(signal.SIGHUP)
        eventually(lambda: b"rejected" in self.daemon.get("/healthz")[2], within=self._patience)
        self.daemon.config.write_text(good)
        self.daemon.signal(signal.SIGHUP)
        (self.folder / "cut-kek.jwk").unlink()  # it may well hold the KEK: it is a secret file

    def command(self, *words: str, config: str = "config.yaml", expect: int | None) -> None:
        """One command, and whatever it says kept; one that would not end by itself is ended."""
        given = (*MODULE, *words, "--config", config)
        with tempfile.TemporaryFile() as output:
            with Here().start(*given, cwd=self.folder, stdout=output, stderr=output) as process:
                try:
                    code = process.wait(5 if "run" in words else 3 * self._patience)
                except subprocess.TimeoutExpired:
                    process.terminate()
                    code = process.wait()
            output.seek(0)
            said = output.read()
        self.keep("commands", " ".join(words).encode() + b"\n" + said)
        assert expect is None or code == expect, said

    def bad_requests(self) -> None:
        """What no browser would send, and what is answered."""
        for request in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"BREW /kek.jwk COFFEE\r\n\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b'POST /v1/keyring HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"a":',
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ):
            with socket.create_connection(("127.0.0.1", self.daemon.port), 5) as line:
                line.sendall(request)
                line.shutdown(socket.SHUT_WR)
                with suppress(OSError):
                    while got := line.recv(65536):
                        self.keep("http", got)

    def unopened(self) -> set[str]:
        """Kids that were public at some time, and whose private halves are not known here."""
        events = (self.folder / "seen" / "http").read_bytes()
        public = set(re.findall(rb'"kid": ?"[ds]-([\w-]{22})"', events))
        return {kid.decode() for kid in public} - self.vault.kids

    def close(self) -> None:
        """Leave nothing running, and no file."""
        self._over.set()
        self._watching.join()
        for app in self.apps:
            app.kill()
            app.wait()
            for stream in (app.stdin, app.stdout):
                with suppress(OSError):
                    if stream:
                        stream.close()
        self.site.close()

    def _monitored(self) -> socket.socket:
        """A connection to which Redis tells every command from now on."""
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(self.server.socket))
        line.settimeout(self._patience)
        line.sendall(b"MONITOR\r\n")
        greeting = line.recv(5)
        assert greeting == b"+OK\r\n", greeting
        self.keep("monitor", greeting)
        line.settimeout(0.2)
        return line

    def _monitor(self, line: socket.socket) -> None:
        """Keep what every client says to Redis, as MONITOR shows it; what is repeated, once."""
        known: set[int] = set()
        with line:
            rest = b""
            while not self._over.is_set():
                try:
                    got = line.recv(2**20)
                except TimeoutError:
                    continue
                if not got:
                    return
                whole, _, rest = (rest + got).rpartition(b"\n")
                self.vault.meet(whole)
                said = {told.partition(b"] ")[2] for told in whole.splitlines()}
                fresh = [told for told in said if hash(told) not in known]
                known.update(map(hash, fresh))
                self.keep("monitor", b"\n".join(fresh))


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in pieces that overlap by more than any number is long."""
    with path.open("rb") as file:
        last = b""
        while block := file.read(_BLOCK):
            yield last + block
            last = block[-_OVERLAP:]


def run_for(fleet: Fleet, seconds: float, *, pages_every: float, save_every: float) -> None:
    """Let `fleet` work for so long."""
    ends = time.monotonic() + seconds
    saved = time.monotonic()
    while time.monotonic() < ends:
        fleet.work()
        if time.monotonic() - saved > save_every:
            saved = time.monotonic()
            fleet.save()
        time.sleep(pages_every)
