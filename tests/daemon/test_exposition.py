"""What a scrape gets is prometheus-client's own text, to the byte."""

from prometheus_client.exposition import generate_latest

from ringkeeperd.exposition import Exposition
from ringkeeperd.metrics import Metrics


def test_it_is_what_prometheus_client_would_write() -> None:
    metrics = Metrics()
    for name in ("access-token", 'a"b\\c\nd', "ü"):
        metrics.add(name)
    exposition = Exposition(metrics.registry)
    assert exposition.text() == generate_latest(metrics.registry)
    metrics.heals.labels("ü").inc(1e22)
    metrics.propagation.labels("access-token").observe(0.3)
    metrics.last_reload.labels("secrets").set(float("nan"))
    metrics.config_reloads.labels("success").inc()
    assert exposition.text() == generate_latest(metrics.registry)


def test_a_ring_that_went_is_not_told_of_any_more() -> None:
    metrics = Metrics()
    exposition = Exposition(metrics.registry)
    metrics.add("gone")
    assert b'"gone"' in exposition.text()
    metrics.forget("gone")
    assert b'"gone"' not in exposition.text()
    assert exposition.text() == generate_latest(metrics.registry)
