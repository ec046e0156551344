"""Rings come and go while a daemon runs: by an edit of `keyrings`, and nothing is restarted."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ringkeeper.layout import Layout
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server


@pytest.fixture
def memory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rk-", dir="/dev/shm") as folder:
        yield Path(folder)


def own(daemon: Daemon) -> dict[str, Any]:
    """What is this daemon's alone."""
    return {"listen": f"127.0.0.1:{daemon.port}", "state_dir": "state0"}


def edit(daemon: Daemon, **settings: Any) -> None:
    """Change the file, and ask for a reload."""
    reloads = len(daemon.events("configuration reloaded"))
    config = daemon.site.configure(daemon.config.name, **settings)
    assert config == daemon.config
    daemon.signal(signal.SIGHUP)
    eventually(lambda: len(daemon.events("configuration reloaded")) > reloads)


def leads(daemon: Daemon, ring: str) -> bool:
    return daemon.metric("leader", ring=ring) == 1


def test_a_ring_comes_and_goes_and_the_others_notice_nothing(
    site: Site, valkey: Server, memory: Path
) -> None:
    files = {"directory": str(memory), "signing_key": True}
    daemon = site.daemon(init=True, files=files)
    given = own(daemon) | {"files": files}
    site.configure(files=files, keyrings={"late": None})
    assert "late" in site.done("init", "--if-missing")
    edit(daemon, **given, keyrings={"late": None})
    eventually(lambda: leads(daemon, "late"))
    assert daemon.events("configuration reloaded")[-1]["needs_restart"] == []
    assert daemon.answers("/rings/late/.well-known/jwks.json")
    eventually((memory / "rings" / "late" / "signing-key.pem").exists)
    assert daemon.metric("rotations_total", ring="late") == 0
    with valkey.client() as client:
        before = client.hget(Layout("late").keyring, "version")
        edit(daemon, **given)
        assert client.exists(Layout("late").lease) == 0, "nobody could lead it for a while"
        assert client.hget(Layout("late").keyring, "version") == before
    assert b'ring="late"' not in daemon.get("/metrics")[2]
    assert daemon.answers("/rings/late/.well-known/jwks.json", 404)
    assert b'"late"' not in daemon.get("/v1/keyring")[2]
    assert not (memory / "rings" / "late" / "signing-key.pem").exists()
    assert daemon.answers("/readyz")
    assert len(daemon.events("leading")) == 2, "the first ring was led throughout"
    edit(daemon, **given, keyrings={"late": None})
    eventually(lambda: leads(daemon, "late"))
    daemon.stop()


def test_a_ring_that_is_not_made_yet_keeps_no_other_from_its_work(site: Site) -> None:
    daemon = site.daemon(init=True)
    edit(daemon, **own(daemon), keyrings={"late": None})
    eventually(lambda: daemon.answers("/readyz", 503))
    eventually(lambda: leads(daemon, "access-token"))
    site.configure(keyrings={"late": None})
    site.done("init", "--if-missing")
    eventually(lambda: leads(daemon, "late"), within=20)
    assert daemon.answers("/readyz")


def test_a_bad_edit_moves_no_ring(site: Site) -> None:
    daemon = site.daemon(init=True, keyrings={"other": None})
    eventually(lambda: leads(daemon, "other"))
    site.configure(daemon.config.name, **own(daemon), keyrings={"NO NAME": None})
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.events("configuration rejected"))
    assert leads(daemon, "other")
    assert daemon.metric("leader", ring="NO NAME") is None


def test_the_embedded_server_s_daemon_makes_the_ring_itself(
    make_site: Callable[[str], Site],
) -> None:
    site = make_site("embedded:./var")
    daemon = site.daemon()
    edit(daemon, **own(daemon), keyrings={"late": None})
    eventually(lambda: leads(daemon, "late"))
    assert [told["ring"] for told in daemon.told("ring made", 2)] == ["access-token", "late"]
    assert daemon.metric("bootstraps_total", ring="late") == 1
    daemon.stop()
