"""TLS from end to end: a daemon, a command and apps, at a Redis that asks for certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring, Tls
from ringkeeper.errors import RingkeeperError
from tests.daemon.test_bad_input import failure
from tests.plugins.certificates import Authority, Pair, TlsServer, tls_options
from tests.plugins.daemons import Site, eventually
from tests.plugins.fleets import SERVICE, Node, until
from tests.plugins.servers import REDIS7, free_port

Make = Callable[..., TlsServer]


class SecuredSite:
    """A site where Redis takes nobody without a certificate."""

    def __init__(self, site: Site, url: str, authority: Authority, pair: Pair) -> None:
        self.site = site
        self.url = url
        self.tls = Tls(ca_file=authority.file, cert_file=pair.cert, key_file=pair.key)
        self.redis: dict[str, Any] = {
            "url": url,
            "tls": {
                "ca_file": str(authority.file),
                "cert_file": str(pair.cert),
                "key_file": str(pair.key),
            },
        }
        self.options: dict[str, Any] = {
            "trust_root": site.folder / "root.pub.jwk",
            "kek": site.folder / "kek.jwk",
            "tls": self.tls,
        }

    def lives(self) -> None:
        """A ring is made, led and followed, and a rotation is seen by an app as it happens."""
        self.site.daemon(init=True, redis=self.redis, poll_interval="10s")
        with Keyring.connect(self.url, **self.options) as ring:
            token, version = ring.sign({"sub": "alice"}), ring.version
            self.site.done("rotate", "--now", "--reason", "a test", "--no-wait")
            eventually(lambda: ring.version > version, within=2)  # by message: no poll is due
            assert ring.verify(token)["sub"] == "alice"
            assert len(self.site.status()["instances"]) == 2
        assert "all is well" in self.site.done("check")


@pytest.fixture
def secured(
    make_site: Callable[[str], Site], authority: Authority
) -> Iterator[Callable[[str], SecuredSite]]:
    """Makes a site at a URL; its daemons end before the servers do."""
    made: list[SecuredSite] = []

    def make(url: str) -> SecuredSite:
        made.append(SecuredSite(make_site(url), url, authority, authority.issue("app")))
        return made[-1]

    yield make
    for each in made:
        each.site.close()


def test_one_server(tls_server: Make, secured: Callable[[str], SecuredSite]) -> None:
    site = secured(tls_server(wants_certificate=True).tls_url)
    site.lives()
    with pytest.raises(RingkeeperError, match=r"give redis\.tls\.ca_file the CA"):
        Keyring.connect(site.url, **site.options | {"tls": None}, timeout=3)


async def test_an_asyncio_app(
    tls_server: Make, secured: Callable[[str], SecuredSite], tmp_path: Path
) -> None:
    site = secured(tls_server(wants_certificate=True).tls_url)
    site.site.configure(redis=site.redis)
    site.site.done("init")
    async with await ringkeeper.asyncio.Keyring.connect(site.url, **site.options) as ring:
        assert await ring.verify(await ring.sign({"sub": "alice"}))


def test_a_daemon_with_a_file_that_cannot_serve_does_not_start_and_names_it(
    site: Site, authority: Authority
) -> None:
    pair = authority.issue("app")
    pair.key.chmod(0o644)
    url, gone = "rediss://127.0.0.1:1", str(authority.file.with_name("gone.pem"))
    told = failure(site.daemon(is_ready=False, redis={"url": url, "tls": {"ca_file": gone}}))
    assert f"{gone}: the CA file cannot be read" in told
    files = {"cert_file": str(pair.cert), "key_file": str(pair.key)}
    told = failure(site.daemon(is_ready=False, redis={"url": url, "tls": files}))
    assert f"chmod 600 {pair.key}" in told


def test_a_primary_behind_sentinels(
    tls_server: Make,
    authority: Authority,
    secured: Callable[[str], SecuredSite],
    tmp_path: Path,
) -> None:
    pair = authority.issue()
    secure = tls_options(authority, pair, wants_certificate=True)
    primary = tls_server(pair, "--tls-replication", "yes", wants_certificate=True)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-replication", "yes", *secure)
    sentinel = Node(tmp_path, *options, is_sentinel=True, binary=REDIS7)
    try:
        sentinel.call("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", primary.tls_port, 1)
        until(lambda: sees(sentinel), "it sees the primary")
        site = secured(f"rediss+sentinel://127.0.0.1:{port}/{SERVICE}")
        site.lives()
        without = site.options | {"tls": Tls(ca_file=authority.file)}
        # In its own words, or as a reset, where the refusal was overtaken by the end of the line.
        told = (
            r"No master found for 'keys': .*give redis\.tls\.cert_file (a client certificate|one)"
        )
        with pytest.raises(RingkeeperError, match=told):
            Keyring.connect(site.url, **without, timeout=3)
        site.site.close()
    finally:
        sentinel.kill()


def sees(sentinel: Node) -> bool:
    """Whether the Sentinel finds the primary alive."""
    return str(sentinel.info("sentinel")["master0"]["status"]) == "ok"


def test_a_cluster(tls_server: Make, secured: Callable[[str], SecuredSite]) -> None:
    cluster = ["--cluster-enabled", "yes", "--tls-cluster", "yes"]
    cluster += ["--cluster-announce-ip", "127.0.0.1", "--cluster-port", str(free_port())]
    node = tls_server(None, *cluster, wants_certificate=True)
    with node.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: "cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "it is up")
    secured(f"rediss+cluster://127.0.0.1:{node.tls_port}").lives()
