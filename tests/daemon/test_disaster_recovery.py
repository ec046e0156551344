"""The drill of docs/disaster-recovery.md: its own commands, in its order, on real daemons."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ringkeeper import Keyring
from ringkeeper.errors import TokenError, UnknownKid
from tests.plugins.daemons import Daemon, Site, clean_environment, eventually
from tests.plugins.servers import Server, free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/disaster-recovery.md").read_text()
BIN = Path(sys.executable).parent
QUICK: dict[str, Any] = {"poll_interval": "300ms", "state_dir": "lib", "access_token_validity": 600}
_CLIENT = (
    "import sys, redis; redis.Redis(unix_socket_path=sys.argv[1]).execute_command(*sys.argv[2:])"
)
SHELL = f"""
ringkeeper() {{ {BIN}/ringkeeper "$@"; }}
systemctl() {{ [ "${{*:2}}" = ringkeeper ] || return; echo "$1" >&$ASK; read -r answer <&$ANSWER; }}
redis-cli() {{ {sys.executable} -c '{_CLIENT}' "$SOCKET" "$@"; }}
"""


def sections() -> dict[str, str]:
    """Each heading's block of commands."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        assert len(blocks) <= 1, heading
        if blocks:
            found[heading] = re.sub(r"^\$ ", "", blocks[0], flags=re.MULTILINE)
    return found


class Host:
    """A host as the page has it: one daemon, commands, and the page's paths, in a folder."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self.site = site
        self.port = free_port()
        site.configure(listen=f"127.0.0.1:{self.port}", **QUICK, **settings)
        self.daemon: Daemon | None = None

    def do(self, heading: str) -> str:
        """Run the block below `heading`; every command of it has to succeed. What they said."""
        script = sections()[heading]
        for path, ours in (
            ("/etc/ringkeeper", self.site.folder),
            ("/var/lib/ringkeeper", self.site.folder / "lib"),
            ("/var/backups/ringkeeper", self.site.folder / "backups"),
        ):
            script = script.replace(path, str(ours))
        asks, answers = os.pipe(), os.pipe()
        serving = threading.Thread(target=self._serve, args=(asks[0], answers[1]))
        serving.start()
        try:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", SHELL + script],
                cwd=self.site.folder,
                env={
                    **clean_environment(),
                    "ASK": str(asks[1]),
                    "ANSWER": str(answers[0]),
                    "SOCKET": self.site.redis_url.removeprefix("unix://"),
                },
                pass_fds=(asks[1], answers[0]),
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
        finally:
            os.close(asks[1])
            serving.join()
            for descriptor in (asks[0], *answers):
                os.close(descriptor)
        assert done.returncode == 0, f"{heading}: {done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, asked: int, answer: int) -> None:
        """What systemd does: it returns from a start once the ring is loaded, or after a while."""
        with os.fdopen(os.dup(asked)) as lines:
            for line in lines:
                {"start": self.start, "stop": self.stop}[line.strip()]()
                os.write(answer, b"done\n")

    def start(self) -> None:
        if self.daemon and self.daemon.is_running:
            return
        self.daemon = Daemon(self.site, self.site.folder / "config.yaml", self.port)
        self.site.daemons.append(self.daemon)
        with suppress(AssertionError):
            eventually(lambda: self.daemon and self.daemon.answers("/readyz"), within=3)
        assert self.daemon.is_running, self.daemon.log

    def stop(self) -> None:
        if self.daemon and self.daemon.is_running:
            self.daemon.stop()

    def crash(self, *, loses_state: bool) -> None:
        if self.daemon:
            self.daemon.kill()
        if loses_state:
            shutil.rmtree(self.site.folder / "lib", ignore_errors=True)

    def app(self, *, signs: bool = True) -> Keyring:
        return Keyring.connect(
            self.site.redis_url,
            trust_root=self.site.folder / "root.pub.jwk",
            kek=self.site.folder / "kek.jwk" if signs else None,
        )

    def check_token(self, token: str) -> None:
        """An app that starts now takes `token`, and signs."""
        with self.app() as app:
            assert app.verify(token)["sub"] == "alice"
            assert app.verify(app.sign({"sub": "bob"}))["sub"] == "bob"


@contextmanager
def traffic(host: Host) -> Iterator[list[str]]:
    """Apps sign and verify without a pause, and refuse no token that was ever signed meanwhile."""
    tokens: list[str] = []
    rejected: list[str] = []
    is_over = threading.Event()
    with host.app() as signer, host.app(signs=False) as verifier:
        tokens.append(signer.sign({"sub": "alice"}))

        def run() -> None:
            while not is_over.wait(0.01):
                tokens.append(signer.sign({"sub": "alice"}))
                for token in (tokens[0], tokens[-1]):
                    for app in (signer, verifier):
                        try:
                            app.verify(token)
                        except TokenError as error:
                            rejected.append(str(error))

        going = threading.Thread(target=run)
        going.start()
        try:
            yield tokens
        finally:
            is_over.set()
            going.join()
    assert rejected == []
    assert len(tokens) > 100


def emptied(server: Server) -> None:
    with server.client() as client:
        client.flushall()


@pytest.mark.runs("docs/disaster-recovery.md", 1, 4, 5, 6, 7, 9)
def test_the_drill(make_site: Callable[[str], Site], own_server: Callable[..., Server]) -> None:
    server = own_server()
    host = Host(make_site(server.url))
    host.site.done("init")
    host.start()
    with traffic(host) as tokens:
        assert "saved 1 ring" in host.do("Make a backup")
        assert "0 of 1 rings lack something" in host.do("Try a backup")
        emptied(server)
        host.crash(loses_state=False)
        assert "ring healed" in host.do("Redis' data")
        emptied(server)
        host.crash(loses_state=True)
        # An app may have been quicker than the restore, which then adds nothing.
        assert "0 failed" in host.do("Redis and all daemons")
    # Nobody is left who knows it: what comes back, comes from the backup.
    host.crash(loses_state=True)
    emptied(server)
    said = host.do("Redis and all daemons")
    assert "would add 3 keys, 3 private halves (redis held no ring)" in said
    assert "1 of 1 rings healed" in said
    for token in (tokens[0], tokens[-1]):
        host.check_token(token)

    fresh = own_server()
    other = Host(make_site(fresh.url))
    host.crash(loses_state=True)
    server.kill()
    for name in ("root.jwk", "root.pub.jwk", "kek.jwk"):
        (other.site.folder / name).unlink()
        shutil.copy(host.site.folder / name, other.site.folder)
    shutil.copytree(host.site.folder / "backups", other.site.folder / "backups")
    shutil.rmtree(host.site.folder)
    assert "1 of 1 rings healed" in other.do("Everything but the backup")
    for token in (tokens[0], tokens[-1]):
        other.check_token(token)

    (other.site.folder / "kek.jwk").unlink()
    assert "all is well" in other.do("The KEK")
    with other.app() as app, pytest.raises(UnknownKid):
        app.verify(tokens[0])
    with other.app() as app:
        assert app.verify(app.sign({"sub": "bob"}))["sub"] == "bob"


@pytest.mark.runs("docs/disaster-recovery.md", 8)
def test_the_drill_on_an_embedded_server(make_site: Callable[[str], Site]) -> None:
    host = Host(make_site("embedded:./lib/redis"))
    for name in ("root.jwk", "root.pub.jwk", "kek.jwk"):
        (host.site.folder / name).unlink()
    host.start()
    eventually(lambda: host.daemon and host.daemon.answers("/readyz"), within=30)
    host.site.redis_url = f"embedded:{host.site.folder}/lib/redis"
    with host.app() as app:
        token = app.sign({"sub": "alice"})
    host.do("Make a backup")
    assert host.daemon
    host.daemon.signal(signal.SIGKILL)
    host.daemon.process.wait()
    os.kill(int((host.site.folder / "lib/redis/valkey.pid").read_text()), signal.SIGKILL)
    host.crash(loses_state=True)
    assert "1 of 1 rings healed" in host.do("The embedded server")
    host.check_token(token)


def test_every_block_of_the_page_is_a_part_of_the_drill() -> None:
    drill = Path(__file__).read_text()
    assert [heading for heading in sections() if f'do("{heading}")' not in drill] == []
    assert len(sections()) == 7
