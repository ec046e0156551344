"""Apache with mod_auth_openidc, a resource server of OAuth 2.0, verifies by the JWKS over https."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT
from tests.docs.test_docs import blocks
from tests.integrations.bearer import EXAMPLES, App, has_no_eddsa, is_no_fool, needs
from tests.integrations.stage import Stage, eventually, free_port, go_through
from tests.integrations.table import COLUMNS
from tests.plugins.certificates import Authority
from tests.plugins.daemons import Site

pytestmark = pytest.mark.integrations
APACHE = "/usr/sbin/apache2"
PAGE = (ROOT / "docs/integrations.md").read_text()
(SETTINGS,) = blocks(PAGE.partition("## Apache\n")[2].partition("\n## ")[0], "yaml")
MODULES = Path("/usr/lib/apache2/modules")
LOADED = "mpm_event authn_core authz_core authz_user alias dir mime socache_shmcb ssl"
BEGUN = "resuming normal operations"
AROUND = """\
{modules}
ServerRoot {folder}
ServerName 127.0.0.1
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
Mutex file:{folder}
ErrorLog /dev/stderr
LogLevel notice auth_openidc:info
DirectoryIndex index.html
TypesConfig /dev/null
Include {site}
"""


@pytest.mark.runs("docs/integrations.md", 12)
def test_apache_verifies_by_the_jwks(
    site: Site,
    authority: Authority,
    memory: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    shows: Callable[..., None],
) -> None:
    needs(APACHE, MODULES / "mod_auth_openidc.so")
    pid_file = tmp_path / "apache.pid"
    settings = SETTINGS.replace("/run/apache2/apache2.pid", str(pid_file))
    stage = Stage(site, **yaml.safe_load(settings.replace("/run/ringkeeper", str(memory))))
    request.addfinalizer(stage.close)
    modules = [
        f"LoadModule {n}_module {MODULES}/mod_{n}.so" for n in [*LOADED.split(), "auth_openidc"]
    ]
    config = tmp_path / "apache.conf"
    config.write_text(
        AROUND.format(
            modules="\n".join(modules), folder=tmp_path, site=EXAMPLES / "apache/site.conf"
        )
    )
    (tmp_path / "app").mkdir()
    (tmp_path / "app/index.html").write_text("hello")
    pair, port = authority.issue(), free_port()
    variables = {
        "JWKS_ADDRESS": f"127.0.0.1:{free_port()}",
        "APP_ADDRESS": f"127.0.0.1:{port}",
        "RINGKEEPER_FILES": str(memory),
        "TLS_CERT": str(pair.cert),
        "TLS_KEY": str(pair.key),
        "TLS_CA": str(authority.file),
        "APP": str(tmp_path / "app"),
    }
    process = stage.start(
        APACHE, "-D", "FOREGROUND", "-f", str(config), env={**stage.environment, **variables}
    )
    app, ring = App(process, port), stage.keyring()
    first = ring.sign({"sub": "alice"})
    go_through(stage, lambda: ring.sign({"sub": "alice"}), app.accepts)
    is_no_fool(stage, app, ring.sign({"sub": "alice"}), overlooks=("no exp", "nbf", "alg"))
    has_no_eddsa(stage, lambda: ring.sign({"sub": "alice"}), app)

    # Without a daemon, and without what Apache had remembered.
    stage.daemon.kill()
    begun = stage.log().count(BEGUN)
    process.send_signal(signal.SIGUSR1)
    eventually(lambda: stage.log().count(BEGUN) > begun)
    assert app.accepts(first)
    shows("Apache: mod_auth_openidc", *COLUMNS[1:])
