"""docs/redis.md: its snippets, at a Redis with TLS and at one with users."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_docs import blocks
from tests.plugins.certificates import Authority, TlsServer
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import Server

PAGE = (ROOT / "docs/redis.md").read_text()
OTHERS = ("sidecar", "signer", "verifier", "operator")
ADDRESS = "rediss://redis.example.com:6379/0"


@pytest.mark.runs("docs/redis.md", 2)
def test_an_app_connects_by_tls_as_shown(
    make_site: Callable[[str], Site], tls_server: Callable[..., TlsServer], authority: Authority
) -> None:
    server = tls_server()
    site = make_site(server.tls_url)
    site.configure(redis={"url": server.tls_url, "tls": {"ca_file": str(authority.file)}})
    site.done("init")
    (site.folder / "redis-ca.pem").write_bytes(authority.file.read_bytes())
    (code,) = blocks(PAGE, "python")
    assert ADDRESS in code
    code = code.replace(ADDRESS, server.tls_url)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(ring.version)\nring.close()"],
        cwd=site.folder, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.runs("docs/redis.md", 3)
def test_each_role_does_its_part_with_the_user_that_is_shown(
    make_site: Callable[[str], Site], own_server: Callable[..., Server], tmp_path: Path
) -> None:
    """The lines as a server reads them; each user gets a password as the last lines say."""
    (lines,) = blocks(PAGE, "text")
    (tmp_path / "users.conf").write_text(lines)
    server = own_server("--include", str(tmp_path / "users.conf"))
    (setting,) = re.findall(r"ACL SETUSER USER '(>PASSWORD)'", lines)
    with server.client() as client:
        users = [user for user in client.acl_users() if user.startswith("ringkeeper-")]
        assert len(users) == 5
        for user in users:
            client.execute_command("ACL", "SETUSER", user, setting)

    site = make_site(f"redis://ringkeeper-daemon:PASSWORD@127.0.0.1:{server.port}")
    daemon = site.daemon(init=True)
    eventually(daemon.leads)
    address = {role: {"url": site.redis_url.replace("daemon", role)} for role in OTHERS}
    site.daemon(redis=address["sidecar"], lead=False)
    for role in OTHERS:
        site.configure(f"{role}.yaml", redis=address[role], listen=f"127.0.0.1:{daemon.port}")
    token = site.done("token", "sign", config="signer.yaml")
    site.done("token", "verify", token, config="verifier.yaml")
    assert "No permissions" in site.refused("token", "sign", config="verifier.yaml")
    assert "signs" in site.done("rotate", "--no-wait", config="operator.yaml")
