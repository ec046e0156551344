"""The former release and this one meet at one Redis, as they do while a fleet is upgraded.

What may meet, and what is promised: docs/versioning.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jwt
import pytest

from ringkeeper.wire import SCHEMA
from tests.package.distributions import BUILDER, PIP, ROOT, built_wheel, run
from tests.package.former import former_commit
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import free_port

pytestmark = pytest.mark.package
RULES: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 1,
    "access_token_validity": 600,
    "publication_interval": "1s",
    "jwks_max_age": "1s",
    "poll_interval": "500ms",
    "confirmation_timeout": "10s",
    "algorithm": "ES256",
}
APP = """
import sys
import ringkeeper
from ringkeeper import Keyring, TokenError

url, root, kek = sys.argv[1:]
with Keyring.connect(url, trust_root=root, kek=kek) as ring:
    print(ringkeeper.__file__, flush=True)
    for line in sys.stdin:
        token = line.strip()
        try:
            print(ring.verify(token)["sub"] if token else ring.sign({"sub": "alice"}), flush=True)
        except TokenError as error:
            print(type(error).__name__, error, flush=True)
"""

READER = """
import json, sys
from ringkeeper.sealing import Kek
from ringkeeper.trust import PinnedRoots
from ringkeeper.wire import SCHEMA, open_proof, open_snapshot

vector = json.load(open(sys.argv[1]))
roots = PinnedRoots.from_jwk(vector["root_public_jwk"])
ring = open_snapshot(vector["snapshot"], roots)
assert ring.jwks() == vector["jwks"]
assert open_proof(vector["proof"], roots).digest == vector["snapshot_digest"]
kek = Kek.from_secret_jwk(vector["kek_jwk"])
for kid, sealed in vector["sealed"].items():
    assert kek.unseal(sealed, ring.key(kid)).public_jwk == ring.key(kid).public
print(SCHEMA)
"""


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


class Release:
    """One of the two: its modules, the apps, daemons and commands that run on them."""

    def __init__(self, name: str, place: Path | None) -> None:
        self.name = name
        self.place = place
        self.environment = clean_environment()
        if place:
            self.environment["PYTHONPATH"] = str(place)

    def start(self, *arguments: str, cwd: Path, **streams: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, env=self.environment, text=True, **streams
        )

    def command(self, site: Site, *arguments: str, config: Path) -> str:
        """One command of this release, which must succeed."""
        module = ("-m", "ringkeeperd", *arguments, "--config", str(config))
        return run(sys.executable, *module, cwd=site.folder, env=self.environment)


class App:
    """A process that signs, and verifies what it is given."""

    def __init__(self, release: Release, site: Site) -> None:
        secrets = ("root.pub.jwk", "kek.jwk")
        self._process = release.start(
            "-c", APP, site.redis_url, *secrets, cwd=site.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout
        place = self._out.readline().strip()
        assert place.startswith(str(release.place or ROOT)), place

    def _asked(self, line: str) -> str:
        print(line, file=self._in, flush=True)
        return self._out.readline().strip()

    def sign(self) -> str:
        return self._asked("")

    def verify(self, token: str) -> str:
        return self._asked(token)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Daemon:
    """A daemon of a release."""

    def __init__(self, release: Release, site: Site) -> None:
        self.release = release
        self.site = site
        self.port = free_port()
        self.config = site.configure(
            f"{release.name}.yaml", listen=f"127.0.0.1:{self.port}", state_dir=release.name, **RULES
        )
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with (self.site.folder / f"{self.release.name}.log").open("w") as log:
            run_it = ("-m", "ringkeeperd", "run", "--config", str(self.config))
            self._process = self.release.start(
                *run_it, cwd=self.site.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self) -> str:
        return (self.site.folder / f"{self.release.name}.log").read_text()

    def leads(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
                return bool(
                    re.search(
                        r"^ringkeeper_leader\b.* 1(\.0)?$", page.read().decode(), re.MULTILINE
                    )
                )
        except OSError:
            return False

    def rotate(self) -> None:
        """By a command of its own release; the next key signs soon."""
        self.release.command(self.site, "rotate", "--now", "--reason", "a test", config=self.config)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            assert self._process.wait(15) == 0, self.log()
            self._process = None


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The former release, built from its commit, on the requirements of this one."""
    if not BUILDER.exists():
        pytest.skip("build is not installed: run make .venv/package/made")
    commit = former_commit()
    folder = tmp_path_factory.mktemp("former")
    archive, source, place = folder / "former.tar", folder / "source", folder / "place"
    run("git", "archive", "--output", archive, commit, cwd=ROOT)
    with tarfile.open(archive) as opened:
        opened.extractall(source, filter="data")
    wheel = built_wheel(source, folder)
    run(PIP, "install", "--quiet", "--no-deps", "--no-index", "--target", place, wheel)
    return Release("former", place)


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    """What is closed or stopped in the end."""
    opened: list[Any] = []
    yield opened
    for each in reversed(opened):
        each.close() if isinstance(each, App) else each.stop()


@pytest.mark.parametrize("is_upgrade", [True, False], ids=["upgrade", "way back"])
def test_apps_of_both_releases_follow_daemons_of_both_and_nobody_is_logged_out(
    former: Release, site: Site, closing: list[Any], *, is_upgrade: bool
) -> None:
    """One daemon leads, then the other's takes over; a key turns under each."""
    releases = [former, Release("present", None)]
    daemons = [Daemon(release, site) for release in releases[:: 1 if is_upgrade else -1]]
    leading, next_one = daemons
    leading.release.command(site, "init", config=leading.config)
    leading.start()
    closing.append(leading)
    eventually(leading.leads)
    apps = [App(release, site) for release in releases]
    closing += apps
    tokens: list[str] = []

    def each_takes_the_other_s() -> None:
        tokens.extend(app.sign() for app in apps)
        for app in apps:
            assert [app.verify(token) for token in tokens] == ["alice"] * len(tokens)

    def turned_by(daemon: Daemon) -> None:
        kid = kid_of(tokens[-1])
        daemon.rotate()
        eventually(lambda: all(kid_of(app.sign()) != kid for app in apps))

    each_takes_the_other_s()
    turned_by(leading)
    each_takes_the_other_s()
    next_one.start()
    closing.append(next_one)
    leading.stop()
    eventually(next_one.leads)
    each_takes_the_other_s()
    turned_by(next_one)
    each_takes_the_other_s()
    assert len(set(map(kid_of, tokens))) == 3


@pytest.mark.parametrize("which", ["eddsa", "es256", "rs256"])
def test_each_release_reads_the_documents_that_the_other_s_wire_format_shows(
    former: Release, which: str
) -> None:
    """With the schema's number they have in common; or one later, and then docs/versioning.md."""
    assert former.place
    theirs = former.place.parent / "source/tests/vectors" / f"{which}.json"
    ours = ROOT / "tests/vectors" / f"{which}.json"
    for release, vectors in ((former, ours), (Release("present", None), theirs)):
        schema = run(sys.executable, "-c", READER, vectors, env=release.environment)
        assert int(schema) in (SCHEMA - 1, SCHEMA)
