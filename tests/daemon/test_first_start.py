"""The embedded default: secrets and rings are made by the first start, and by no later one."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from ringkeeper.clock import SystemClock
from ringkeeperd.embedded import EmbeddedServer
from ringkeeperd.leader_store import RedisLeaderStore
from tests.plugins.daemons import Daemon, Site, clean_environment, eventually

OWN: dict[str, Any] = {
    "trust_root": None,
    "trust_root_public": None,
    "kek": None,
    "state_dir": None,
}


@pytest.fixture
def home(make_site: Callable[[str], Site]) -> Site:
    """A site that keeps everything in its `var`, as the configuration does that ships."""
    return make_site("embedded:./var")


def _reloads(daemon: Daemon, after: int) -> list[dict[str, Any]]:
    return daemon.events("configuration reloaded")[after:]


def start(home: Site, **settings: Any) -> Daemon:
    return home.daemon(**{**OWN, **settings})


def refusal(home: Site) -> str:
    """What the start says that cannot be."""
    port = home.daemons[-1].port
    home.configure(listen=f"127.0.0.1:{port}", **OWN, keyrings={"another": {}})
    said = home.refused("run")
    return said[said.rindex("ringkeeper: ") :]


async def test_a_first_start_killed_while_it_made_the_ring_is_made_good_by_the_next(
    home: Site,
) -> None:
    var = home.folder / "var"
    server = await EmbeddedServer.start(var)
    store = RedisLeaderStore.connect(f"embedded:{var}", "access-token", SystemClock(), password="")
    try:
        await store.acquire("the killed one", timedelta(seconds=3), 0)
    finally:
        await store.close()
        await server.stop()
    daemon = start(home)
    assert daemon.metric("bootstraps_total") == 1
    assert (var / "founded-access-token").exists()


def test_check_says_before_the_first_start_that_it_will_make_what_is_missing(home: Site) -> None:
    home.configure(**OWN)
    told = json.loads(home.done("check", "--json"))
    assert told["ok"]
    assert told["remarks"] == [f"{home.folder}/var: not made yet; ringkeeper run makes it"]
    assert not (home.folder / "var").exists()
    start(home).stop()
    assert "the embedded server is not running" in home.refused("check")


def test_a_missing_secret_is_never_made_anew(home: Site) -> None:
    """Promise 7, for whoever adds a ring to an installation, or restores half of one."""
    start(home).stop()
    var = home.folder / "var"
    secret = (var / "kek.jwk").read_text()
    (var / "kek.jwk").unlink()
    assert "kek.jwk" in refusal(home)
    for marker in var.glob("founded-*"):
        marker.unlink()
    assert "kek.jwk" in refusal(home)
    assert not (var / "kek.jwk").exists()
    (var / "kek.jwk").write_text(secret)
    (var / "kek.jwk").chmod(0o600)
    again = start(home, keyrings={"another": {}})
    assert again.metric("bootstraps_total", ring="another") == 1
    assert again.metric("bootstraps_total", ring="access-token") == 0


def test_what_needs_a_restart_is_told_until_there_was_one(home: Site) -> None:
    daemon = start(home)
    settings = json.loads(daemon.config.read_text())
    for number, change in enumerate(
        ({"listen": "127.0.0.1:1"}, {"listen": "127.0.0.1:1", "access_token_validity": 21})
    ):
        daemon.config.write_text(json.dumps(settings | change))
        daemon.signal(signal.SIGHUP)
        told = eventually(partial(_reloads, daemon, number))
        assert told[0]["needs_restart"] == ["listen"]
    daemon.config.write_text('"\\U00110000"')
    daemon.signal(signal.SIGHUP)
    (rejected,) = eventually(lambda: daemon.events("configuration rejected"))
    assert "an escape" in rejected["problems"][0]
    assert daemon.is_running


def test_an_operator_who_gives_up_takes_the_request_along(home: Site) -> None:
    daemon = start(home, lease_ttl="10s")
    daemon.signal(signal.SIGSTOP)
    asking = subprocess.Popen(
        [sys.executable, "-m", "ringkeeperd", "rotate", "--config", daemon.config.name],
        cwd=home.folder,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    try:
        stream = "ringkeeper:{access-token}:requests"
        with _client(home.folder / "var") as client:
            eventually(lambda: client.xlen(stream) == 1)
            # It woke the daemon, had that been awake: who waits now is the command.
            eventually(lambda: _waiting(client))
            asking.send_signal(signal.SIGINT)
            assert asking.wait(10) == 130
            assert client.xlen(stream) == 0
    finally:
        asking.kill()
        asking.wait()
        daemon.signal(signal.SIGCONT)


def _waiting(client: Any) -> list[Any]:
    return [each for each in client.client_list() if "b" in each["flags"]]


def _client(var: Path) -> Any:
    return redis.Redis(unix_socket_path=str(var / "valkey.sock"), decode_responses=True)


def test_no_command_leaves_a_core_dump(home: Site) -> None:
    """Promise 4. Not even where the kernel hands dumps to a program, which heeds no limit."""
    limits = Path(f"/proc/{start(home).process.pid}/limits").read_text()
    (core,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    asked = subprocess.run(
        [sys.executable, "-c", _IS_DUMPABLE], capture_output=True, text=True, check=True
    )
    assert asked.stdout.splitlines()[-1] == "0"


_IS_DUMPABLE = """
import contextlib, ctypes
from ringkeeperd import cli
with contextlib.suppress(SystemExit):
    cli.main(["--version"])
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
"""
