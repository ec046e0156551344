"""Real processes: a revocation makes an app's users refresh, and everybody who looks is told why."""

import json
import signal
import subprocess
import sys
import tempfile
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
from tests.plugins.prometheus import Prometheus
from tests.plugins.servers import Server

USUALLY = 20
"""Refreshes in a bucket."""
CROWD = 400


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
        (led,) = daemon.told("leading")
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
        assert told["ratio"] > 1  # of the first second, however few came by then
        assert SystemClock().now() - revoked_at < timedelta(seconds=20)
        seen = 'ringkeeper_refresh_spikes_total{ring="access-token"}'
        eventually(lambda: prometheus.asked(seen).get("revocation") == 1)
        assert {cause for cause, count in prometheus.asked(seen).items() if count} == {"revocation"}
        eventually(lambda: prometheus.asked("ringkeeper_refresh_spike_active") == {"": 1.0})
        peak = "ringkeeper_refresh_spike_peak_ratio"
        eventually(lambda: prometheus.asked(peak)[""] > CROWD / USUALLY / 3)
        eventually(
            lambda: prometheus.asked("ringkeeper_session_refreshes_total")["revoked_kid"] == CROWD
        )
    told_to_watch = site.done("watch", "--last", "20", "--no-follow")
    assert "refresh spike began" in told_to_watch


@pytest.mark.minutes
@pytest.mark.timeout(400)
def test_the_demos_users_make_no_spike_when_the_kind_of_key_changes_and_one_that_all_see(
    tmp_path: Path,
) -> None:
    """A thousand users, four apps, nothing made up: `ringkeeper demo --spikes`."""
    with tempfile.TemporaryDirectory(prefix="rk-") as name:
        demo = subprocess.Popen(
            [sys.executable, "-m", "ringkeeperd", "demo", "--spikes", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env={**clean_environment(), "TMPDIR": name},
        )
        try:
            # Written before the daemon starts, so whole by the time that its log is there.
            (log,) = eventually(lambda: list(Path(name).glob("*/log")))
            listen = json.loads((log.parent / "config.yaml").read_text())["listen"]
            prometheus = Prometheus(tmp_path, int(listen.partition(":")[2]))
            try:
                eventually(lambda: "refresh spike began" in log.read_text(), within=200)
                (told,) = [
                    json.loads(line)
                    for line in log.read_text().splitlines()
                    if "refresh spike began" in line
                ]
                told_by_demo, _ = demo.communicate(timeout=120)
                spikes = "max by (cause) (max_over_time(ringkeeper_refresh_spikes_total[10m]))"
                counted = prometheus.asked(spikes)
                active = prometheus.asked("max_over_time(ringkeeper_refresh_spike_active[10m])")
            finally:
                prometheus.close()
        finally:
            demo.send_signal(signal.SIGTERM)  # it takes along what it started
            demo.wait(30)
    summary = json.loads(told_by_demo)
    assert (summary["rejected"], summary["switch_spikes"]) == (0, 0)
    assert summary["switch_ratio"] < 1.5, "of some hundred refreshes, which chance moves"
    assert (summary["cause"], told["cause"]) == ("revocation", "revocation")
    assert summary["told_after"] < 20
    assert {cause for cause, count in counted.items() if count} == {"revocation"}
    assert active == {"": 1.0}
