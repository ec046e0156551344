"""HAProxy verifies by PEMs, made of the daemon's file whenever keys change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT
from tests.docs.test_docs import blocks, commands
from tests.integrations.bearer import EXAMPLES, App, has_no_eddsa, is_no_fool, needs
from tests.integrations.stage import Stage, eventually, free_port, go_through
from tests.integrations.table import COLUMNS
from tests.plugins.daemons import Site

pytestmark = pytest.mark.integrations
HAPROXY = "/usr/sbin/haproxy"
PAGE = (ROOT / "docs/integrations.md").read_text()
SECTION = PAGE.partition("## HAProxy\n")[2].partition("\n## ")[0]


@pytest.mark.runs("docs/integrations.md", 10, 11)
def test_haproxy_verifies_by_the_file(
    site: Site,
    memory: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    shows: Callable[..., None],
) -> None:
    needs(HAPROXY)
    here = {
        "/opt/ringkeeper/bin/python": sys.executable,
        "/etc/haproxy": str(EXAMPLES / "haproxy"),
        "/run/ringkeeper": str(memory),
        "/run/haproxy.pid": str(tmp_path / "haproxy.pid"),
    }
    (settings,), (begin,) = blocks(SECTION, "yaml"), commands(SECTION)
    for path, ours in here.items():
        settings, begin = settings.replace(path, ours), begin.replace(path, ours)
    stage = Stage(site, **{**yaml.safe_load(settings), "lead": True})
    request.addfinalizer(stage.close)
    folder = memory / "haproxy"
    eventually((folder / "keys.cfg").exists)
    program, *options = begin.split()
    assert program == "haproxy"
    port = free_port()
    process = stage.start(HAPROXY, *options, env={**stage.environment, "PORT": str(port)})
    app, ring = App(process, port), stage.keyring()
    go_through(stage, lambda: ring.sign({"sub": "alice"}), app.accepts)
    is_no_fool(stage, app, ring.sign({"sub": "alice"}))
    has_no_eddsa(stage, lambda: ring.sign({"sub": "alice"}), app)
    in_use = [k for k in stage.site.status()["keys"] if k["algorithm"] != "EdDSA"]
    kids = {k["kid"] for k in in_use if k["state"] != "revoked"}
    eventually(lambda: {pem.stem for pem in folder.glob("*.pem")} == kids)
    shows("HAProxy", *COLUMNS[1:])
