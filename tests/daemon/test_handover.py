"""How long a ring is without a leader: after a clean stop, and after a crash."""

import signal
import statistics
import time
from typing import Any

from ringkeeper.layout import DEFAULT_NAME, Layout
from tests.plugins.daemons import Daemon, Site
from tests.plugins.servers import Server

LEASE = Layout(DEFAULT_NAME).lease
TTL = 2.0


def seconds_until_another_leads(client: Any, number: signal.Signals, leader: Daemon) -> float:
    """From the signal to the leader until the lease, as Redis has it, is somebody else's."""
    former = client.get(LEASE)
    assert former
    began = time.monotonic()
    leader.signal(number)
    while client.get(LEASE) in (None, former):
        assert time.monotonic() - began < 20
        time.sleep(0.002)
    return time.monotonic() - began


def test_a_clean_stop_hands_over_within_200_ms_and_a_crash_within_the_ttl_and_a_second(
    site: Site, valkey: Server
) -> None:
    leader, standby = site.daemon(init=True, lease_ttl="2s"), site.daemon(lease_ttl="2s")
    took: list[float] = []
    with valkey.client() as client:
        for _ in range(3):
            assert site.leader() is leader
            took.append(seconds_until_another_leads(client, signal.SIGTERM, leader))
            assert leader.process.wait(5) == 0
            leader, standby = standby, leader.again()
            site.daemons.append(standby)
            standby.wait_until_ready()
        assert statistics.median(took) < 0.2, took
        assert site.leader() is leader
        crashed = seconds_until_another_leads(client, signal.SIGKILL, leader)
        assert crashed < TTL + 1
