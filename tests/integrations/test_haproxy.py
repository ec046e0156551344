"""HAProxy verifies by PEMs, made of the daemon's file whenever keys change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations.bearer import EXAMPLES, App, has_no_eddsa, is_no_fool, needs
from tests.integrations.stage import Stage, eventually, free_port, go_through
from tests.integrations.table import COLUMNS
from tests.plugins.daemons import Site

pytestmark = pytest.mark.integrations
HAPROXY = "/usr/sbin/haproxy"


def test_haproxy_verifies_by_the_file(
    site: Site,
    memory: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    shows: Callable[..., None],
) -> None:
    needs(HAPROXY)
    folder, pid_file = memory / "haproxy", tmp_path / "haproxy.pid"
    stage = Stage(
        site,
        files={"directory": str(memory)},
        on_change={
            "command": [sys.executable, str(EXAMPLES / "haproxy/keys.py"), str(folder)],
            "pid_file": str(pid_file),
            "signal": "USR2",
        },
    )
    request.addfinalizer(stage.close)
    keys = folder / "keys.cfg"
    eventually(keys.exists)
    port, config = free_port(), EXAMPLES / "haproxy/haproxy.cfg"
    process = stage.start(
        *(HAPROXY, "-W", "-p", str(pid_file), "-f", str(keys), "-f", str(config)),
        env={**stage.environment, "PORT": str(port)},
    )
    app, ring = App(process, port), stage.keyring()
    go_through(stage, lambda: ring.sign({"sub": "alice"}), app.accepts)
    is_no_fool(stage, app, ring.sign({"sub": "alice"}))
    has_no_eddsa(stage, lambda: ring.sign({"sub": "alice"}), app)
    in_use = [k for k in stage.site.status()["keys"] if k["algorithm"] != "EdDSA"]
    kids = {k["kid"] for k in in_use if k["state"] != "revoked"}
    eventually(lambda: {pem.stem for pem in folder.glob("*.pem")} == kids)
    shows("HAProxy", *COLUMNS[1:])
