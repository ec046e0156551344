"""Prometheus metrics. What concerns a whole ring comes from its leader alone, so sums are right.

Counters exist from 0 on every daemon, so `increase()` sees the first event; only the leader's
move.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.registry import Collector, CollectorRegistry

import ringkeeper
from ringkeeper.errors import RefreshReason
from ringkeeper.ring import KeyKind, KeyState, RotationReason
from ringkeeper.tls import Tls
from ringkeeperd.certificates import Certificates
from ringkeeperd.logs import LOST
from ringkeeperd.spikes import Cause
from ringkeeperd.troubles import KINDS, kinds_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.core import Metric

    from ringkeeperd.service import RingService

# Prometheus knows when a process began; a second series for each counter tells nobody anything.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAILURES = ("redis", "clock")
RESULTS = ("success", "failure")
HTTP_REASONS = ("crowded", "slow", "size", "malformed", "rate", "failed")
"""Why a request or a connection was refused, or cut off."""
RELOADED = ("configuration", "secrets", "refreshes_token")
"""What a daemon reads again while it runs."""
_OPERATIONS = ("listening", "reading", "preparing", "leading", "counting")


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("ring",)
        self.rotations = self._counter("rotations", "Keys that became active.", "ring", "reason")
        self.rotation_failures = self._counter(
            "rotation_failures",
            "Changes of a ring that failed and are tried again.",
            "ring",
            "reason",
        )
        self.rotation_duration = Histogram(
            "ringkeeper_rotation_duration_seconds",
            "From the decision to the published version.",
            labels,
            buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=self.registry,
        )
        self.propagation = Histogram(
            "ringkeeper_propagation_seconds",
            "From a published version until every live instance has confirmed it.",
            labels,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.transitions = self._counter(
            "leader_transitions", "Times this daemon began to lead.", "ring"
        )
        self.forced = self._counter(
            "activation_forced", "Keys activated although an instance never confirmed them.", "ring"
        )
        self.heals = self._counter("heals", "Rings repaired after Redis lost writes.", "ring")
        self.rewraps = self._counter("rewraps", "Rings moved to another KEK or trust root.", "ring")
        self.bootstraps = self._counter("bootstraps", "Rings made by this daemon.", "ring")
        self.session_refreshes = self._counter(
            "session_refreshes", "Sessions refreshed, as apps count them.", "ring", "reason"
        )
        self.refresh_spikes = self._counter(
            "refresh_spikes",
            "Times that too many sessions were refreshed at once.",
            "ring",
            "cause",
        )
        self.redis_errors = self._counter(
            "redis_errors", "Times that Redis began to fail us.", "ring", "operation"
        )
        self.file_writes = self._counter(
            "file_writes",
            "Times that a ring's files for apps changed, or could not.",
            "ring",
            "result",
        )
        self.on_change = self._counter(
            "on_change", "Commands, signals and requests after a change.", "ring", "result"
        )
        self.config_reloads = self._counter(
            "config_reloads", "Reloads of the configuration.", "result"
        )
        for result in RESULTS:
            self.config_reloads.labels(result)
        self.last_reload = Gauge(
            "ringkeeper_config_last_reload_successful",
            "1 if what was read last is in use; 0 while it is rejected and the former one is.",
            ["what"],
            registry=self.registry,
        )
        for what in RELOADED:
            self.last_reload.labels(what).set(1)
        self.http_refused = self._counter(
            "http_refused", "Requests and connections over HTTP refused or cut off.", "reason"
        )
        for reason in HTTP_REASONS:
            self.http_refused.labels(reason)
        self.registry.register(LOST)
        build = Gauge(
            "ringkeeper_build_info",
            "Always 1; the labels tell.",
            ["version"],
            registry=self.registry,
        )
        build.labels(ringkeeper.__version__).set(1)

    def watch(self, services: Mapping[str, RingService], tls: Tls | None = None) -> None:
        """Report on these rings, and on the certificates of `tls`, from now on."""
        for name in services:
            self.add(name)
        self.registry.register(_Rings(services))
        self.registry.register(_Certificates(Certificates(tls or Tls())))

    def add(self, name: str) -> None:
        """Let the counters of a ring begin at 0."""
        for reason in RotationReason:
            self.rotations.labels(name, reason.value)
        for failure in _FAILURES:
            self.rotation_failures.labels(name, failure)
        for refresh in RefreshReason:
            self.session_refreshes.labels(name, refresh.value)
        for cause in Cause:
            self.refresh_spikes.labels(name, cause.value)
        for operation in _OPERATIONS:
            self.redis_errors.labels(name, operation)
        for result in RESULTS:
            self.file_writes.labels(name, result)
            self.on_change.labels(name, result)
        for family in self._unlabelled:
            family.labels(name)

    def forget(self, name: str) -> None:
        """Let every series of a ring end: it is not this daemon's any more."""
        families = (
            *(self.rotations, self.rotation_failures, self.session_refreshes),
            *(self.refresh_spikes, self.redis_errors, self.file_writes, self.on_change),
            *self._unlabelled,
        )
        for family in families:
            family.remove_by_labels({"ring": name})

    @property
    def _unlabelled(self) -> tuple[Counter | Histogram, ...]:
        """What has a series for each ring, and no more than one."""
        counters = (self.transitions, self.forced, self.heals, self.rewraps, self.bootstraps)
        return (*counters, self.rotation_duration, self.propagation)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ringkeeper_{name}", text, labels, registry=self.registry)


class _Rings(Collector):
    """Gauges, read off the rings when somebody asks."""

    def __init__(self, services: Mapping[str, RingService]) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"ringkeeper_{name}", text, labels=["ring", *labels])
            for name, text, labels in (
                ("leader", "1 on the daemon that turns this ring's keys.", ()),
                ("redis_up", "Whether Redis answers.", ()),
                ("trouble", "1 while this daemon has that trouble with the ring.", ("kind",)),
                ("proof_age_seconds", "Age of the newest proof of freshness known here.", ()),
                ("keyring_version", "Version of the ring (leader only).", ()),
                ("keys", "Keys by kind and state (leader only).", ("kind", "state")),
                ("instances", "Live instances (leader only).", ()),
                (
                    "instances_behind",
                    "Live instances without the newest version (leader only).",
                    (),
                ),
                (
                    "token_cache_hit_ratio",
                    "Share of tokens whose signature the app had checked before (leader only).",
                    (),
                ),
                (
                    "configuration_drift",
                    "Live daemons whose files say something else than the leader's (leader only).",
                    (),
                ),
                ("last_rotation_timestamp_seconds", "When the active key began (leader only).", ()),
                ("next_rotation_timestamp_seconds", "When the next key signs (leader only).", ()),
                (
                    "session_refresh_rate",
                    "Session refreshes a second, over the last three whole buckets (leader only).",
                    (),
                ),
                (
                    "session_refresh_baseline",
                    "Session refreshes a second, as usual, once that is known (leader only).",
                    (),
                ),
                ("refresh_spike_active", "1 while too many are refreshed (leader only).", ()),
                (
                    "refresh_spike_peak_ratio",
                    "Peak of the newest spike, times what was usual; else 0 (leader only).",
                    (),
                ),
            )
        }
        for name, service in list(self._services.items()):  # on a thread, if there are many
            _fill(gauges, name, service)
        return gauges.values()


class _Certificates(Collector):
    """Until when the certificates for TLS to Redis hold, by the files as they are now."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(
            "ringkeeper_certificate_expiry_timestamp_seconds",
            "When the first certificate in a file of redis.tls expires.",
            labels=["file"],
        )
        for file, expiry in self._certificates.expiries().items():
            gauge.add_metric([file], expiry.timestamp())
        return [gauge]


def _fill(gauges: Mapping[str, GaugeMetricFamily], name: str, service: RingService) -> None:
    state = service.state
    gauges["leader"].add_metric([name], float(state.is_leading))
    gauges["redis_up"].add_metric([name], float(service.follower.is_connected))
    troubles = kinds_at(service)
    for kind in KINDS:
        gauges["trouble"].add_metric([name, kind], float(kind in troubles))
    held = service.follower.replica.held
    if held is None:
        return
    age = held.staleness(service.clock.now()).total_seconds()
    gauges["proof_age_seconds"].add_metric([name], age)
    if not state.is_leading:
        return
    ring = held.ring
    gauges["keyring_version"].add_metric([name], ring.version)
    for key_kind, key_state in product(KeyKind, KeyState):
        count = len(ring.in_state(key_state, key_kind))
        gauges["keys"].add_metric([name, key_kind.value, key_state.value], count)
    edition = (ring.epoch, ring.version)
    behind = sum((i.epoch, i.version) < edition for i in state.instances)
    gauges["instances"].add_metric([name], len(state.instances))
    gauges["instances_behind"].add_metric([name], behind)
    verifies = sum(instance.verifies for instance in state.instances)
    if verifies:
        known = sum(instance.known for instance in state.instances)
        gauges["token_cache_hit_ratio"].add_metric([name], min(1.0, known / verifies))
    gauges["configuration_drift"].add_metric([name], service.drift())
    active = ring.active()
    if active and active.activated_at:
        gauges["last_rotation_timestamp_seconds"].add_metric(
            [name], active.activated_at.timestamp()
        )
    refreshes = state.refreshes
    gauges["session_refresh_rate"].add_metric([name], refreshes.rate)
    if refreshes.baseline is not None:
        gauges["session_refresh_baseline"].add_metric([name], refreshes.baseline)
    gauges["refresh_spike_active"].add_metric([name], float(refreshes.is_spike))
    ratio = refreshes.spike.ratio if refreshes.spike else 0.0
    gauges["refresh_spike_peak_ratio"].add_metric([name], ratio)
    if state.wait and state.wait.activation_at:
        when = state.wait.activation_at.timestamp()
        gauges["next_rotation_timestamp_seconds"].add_metric([name], when)
