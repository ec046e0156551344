"""Real processes: a revocation makes an app's users refresh, and everybody who looks is told why."""

import json
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ringkeeper import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RevokedKid
from ringkeeper.layout import Layout
from ringkeeperd.refresh_watch import _SETTLING
from ringkeeperd.spike_events import bucket_at
from tests.plugins.daemons import Daemon, Site, clean_environment, eventually
from tests.plugins.servers import Server, free_port

USUALLY = 20
"""Refreshes in a bucket."""
CROWD = 400


class Prometheus:
    """A real one, that looks at a daemon every second."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        scrape = {
            "job_name": "ringkeeper",
            "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        }
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = folder / "prometheus.json"  # JSON is YAML
        config.write_text(json.dumps({"global": every, "scrape_configs": [scrape]}))
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
                env=clean_environment(),
            )

    def asked(self, query: str) -> dict[str, float]:
        """The newest values of `query`, by the labels that tell them apart."""
        url = (
            f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        )
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:  # it has just begun
            return {}
        return {
            row["metric"].get("cause", row["metric"].get("reason", "")): float(row["value"][1])
            for row in found
        }

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


@pytest.fixture
def daemon(site: Site, valkey: Server) -> Daemon:
    """A daemon that has led through an ordinary hour."""
    now = bucket_at(SystemClock().now())
    layout = Layout("access-token")
    with valkey.client() as client, client.pipeline() as adding:
        for ago in range(1, 360):
            adding.hincrby(layout.refreshes(now - ago), f"{now - ago}:expired", USUALLY + ago % 3)
        adding.execute()
    return site.daemon(init=True, access_token_validity=3600)


@pytest.fixture
def prometheus(daemon: Daemon, tmp_path: Path) -> Iterator[Prometheus]:
    made = Prometheus(tmp_path, daemon.port)
    yield made
    made.close()


@pytest.mark.long
def test_a_revocation_is_seen_attributed_and_told_within_twenty_seconds(
    site: Site, daemon: Daemon, prometheus: Prometheus
) -> None:
    assert site.leader() is daemon
    with Keyring.connect(
        site.redis_url,
        trust_root=site.folder / "root.pub.jwk",
        kek=site.folder / "kek.jwk",
    ) as ring:
        tokens = [
            ring.sign({"sub": f"user-{n}"}, lifetime=timedelta(hours=1)) for n in range(CROWD)
        ]
        eventually(lambda: prometheus.asked("ringkeeper_session_refresh_baseline"), within=30)
        # A new leader first lets apps tell what they counted while nobody led.
        (led,) = daemon.events("leading")
        settled_at = datetime.fromisoformat(led["timestamp"]) + timedelta(seconds=_SETTLING + 3)
        eventually(lambda: SystemClock().now() > settled_at, within=30)
        signer = ring.snapshot.signer
        assert signer
        site.done("revoke", signer.kid, "--reason", "leaked")
        revoked_at = SystemClock().now()
        for token in tokens:
            try:
                ring.verify(token)
            except RevokedKid as error:
                ring.record_refresh(error.reason)
        (told,) = eventually(lambda: daemon.events("refresh spike began"), within=20)
        assert told["cause"] == "revocation"
        assert told["reason"] == "revoked_kid"
        assert told["ratio"] > CROWD / USUALLY / 3
        assert SystemClock().now() - revoked_at < timedelta(seconds=20)
        seen = 'ringkeeper_refresh_spikes_total{ring="access-token"}'
        eventually(lambda: prometheus.asked(seen).get("revocation") == 1)
        assert {cause for cause, count in prometheus.asked(seen).items() if count} == {"revocation"}
        eventually(lambda: prometheus.asked("ringkeeper_refresh_spike_active") == {"": 1.0})
        assert prometheus.asked("ringkeeper_refresh_spike_peak_ratio")[""] > CROWD / USUALLY / 3
        eventually(
            lambda: prometheus.asked("ringkeeper_session_refreshes_total")["revoked_kid"] == CROWD
        )
    told_to_watch = site.done("watch", "--last", "20", "--no-follow")
    assert "refresh spike began" in told_to_watch
