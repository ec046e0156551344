"""Rules and dashboard, in a real Prometheus that looks at real daemons; make deploy-test."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import redis

from ringkeeper import Keyring, Tls
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RefreshReason
from ringkeeper.layout import Layout
from ringkeeperd.spike_events import bucket_at
from tests.plugins.certificates import Authority, TlsServer
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.prometheus import Prometheus

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
RULES = [ROOT / "deploy/prometheus/recording.yaml", ROOT / "deploy/prometheus/alerts.yaml"]
DASHBOARD = ROOT / "deploy/grafana/ringkeeper.json"
RING = "access-token"


class Watched:
    """Two daemons at a Redis with TLS, and a Prometheus that has the rules."""

    def __init__(self, site: Site, server: TlsServer, tls: Tls, folder: Path) -> None:
        self.site, self.server, self.tls, self.folder = site, server, tls, folder
        settings = {
            "url": server.tls_url,
            "tls": {name: str(getattr(tls, name)) for name in ("ca_file", "cert_file", "key_file")},
        }
        self.daemons = [site.daemon(init=n == 0, redis=settings) for n in range(2)]
        self.prometheus: Prometheus

    def look(self, *, patience: str = "") -> None:
        """Let a Prometheus look, with alerts that wait for `patience` where they are to wait."""
        rules = RULES
        if patience:
            hasty = self.folder / "alerts.yaml"
            text = RULES[1].read_text().replace("[2m]", "[2s]")  # what bridges is as much shorter
            text = re.sub(r"^( +for: ).*$", rf"\g<1>{patience}", text, flags=re.MULTILINE)
            hasty.write_text(text)
            rules = [RULES[0], hasty]
        ports = [daemon.port for daemon in self.daemons]
        self.prometheus = Prometheus(self.folder, *ports, rules=rules)
        eventually(self.prometheus.is_ready, within=30)
        eventually(lambda: len(self.values('up{job="ringkeeper"} == 1')) == 2, within=30)

    def values(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus makes of `expression` now; raises OSError if it makes nothing of it."""
        found: list[dict[str, Any]] = self.prometheus.answer("query", query=expression)["result"]
        return found

    def firing(self) -> dict[str, dict[str, Any]]:
        alerts = self.prometheus.answer("alerts")["alerts"]
        return {a["labels"]["alertname"]: a for a in alerts if a["state"] == "firing"}

    def is_told(self, *names: str) -> None:
        """These alerts fire, and read well."""
        eventually(lambda: set(names) <= set(self.firing()), within=40)
        for name in names:
            for text in self.firing()[name]["annotations"].values():
                assert "{{" not in text, text
                assert "no value" not in text, text
                assert "error calling" not in text, text

    def is_over(self, *names: str) -> None:
        eventually(lambda: not set(names) & set(self.firing()), within=60)

    def is_quiet(self) -> None:
        """None fires but that the test's own certificate is good for a day only.

        Prometheus finds its targets seconds after its start: until then they are absent.
        """
        eventually(lambda: self.firing().keys() == {"RingkeeperCertificateExpires"}, within=60)


@pytest.fixture
def watched(
    make_site: Callable[[str], Site],
    tls_server: Callable[..., TlsServer],
    authority: Authority,
    tmp_path: Path,
) -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        pytest.skip(
            "Prometheus is not installed: run make provision, or apt-get install prometheus"
        )
    pair = authority.issue(file="client")
    tls = Tls(ca_file=authority.file, cert_file=pair.cert, key_file=pair.key)
    server = tls_server(wants_certificate=True)
    made = Watched(make_site(server.tls_url), server, tls, tmp_path)
    yield made
    if hasattr(made, "prometheus"):
        made.prometheus.close()


def an_ordinary_hour(client: redis.Redis) -> None:
    """Session refreshes, so that it is known what is usual."""
    layout, now = Layout(RING), bucket_at(SystemClock().now())
    with client.pipeline() as adding:
        for ago in range(1, 360):
            adding.hincrby(layout.refreshes(now - ago), f"{now - ago}:expired", 20 + ago % 3)
        adding.execute()


# --- expressions ---------------------------------------------------------------------------------


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def shown() -> dict[str, str]:
    """Every expression of the dashboard as Grafana would ask it, by where it stands."""
    board = dashboard()
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    found |= {f"annotation {mark['name']}": mark["expr"] for mark in board["annotations"]["list"]}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
            assert asked
            found[f"variable {variable['name']}"] = f"count by ({asked[2]}) ({asked[1]})"
    return {
        place: expression.replace("$ring", RING).replace("$__rate_interval", "1m")
        for place, expression in found.items()
    }


_NAMED = re.compile(r"(?:\w+:)?\bringkeeper_\w+(?::\w+)?")


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    groups = prometheus.answer("rules")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_metric_named_exists_and_every_expression_has_what_it_should(
    watched: Watched,
) -> None:
    with watched.server.client() as client:
        an_ordinary_hour(client)
    watched.look()
    site = watched.site
    options: dict[str, Any] = {
        "trust_root": site.folder / "root.pub.jwk",
        "kek": site.folder / "kek.jwk",
    }
    with Keyring.connect(watched.server.tls_url, tls=watched.tls, **options) as ring:
        site.done("rotate", "--now", "--reason", "a test", "--no-wait")
        ring.record_refresh(RefreshReason.UNKNOWN_KID)
        eventually(
            lambda: watched.values("ring:ringkeeper_session_refresh_baseline:max"), within=60
        )
        eventually(
            lambda: watched.values("increase(ringkeeper_rotations_total[1m]) > 0"), within=60
        )
        loaded = rules(watched.prometheus)
        asked = {rule["name"]: rule["query"] for rule in loaded} | shown()
        assert len(asked) > 80
        names = {place: set(_NAMED.findall(asked[place])) for place in asked}

        def unknown() -> dict[str, set[str]]:
            known = set(watched.prometheus.answer("label/__name__/values"))
            return {place: named - known for place, named in names.items() if named - known}

        # What is recorded of an increase takes two scrapes and a round of the rules.
        eventually(lambda: not unknown(), within=60)
        for place, expression in asked.items():
            if place.startswith("Ringkeeper") or is_empty_when_well(expression):
                watched.values(expression)  # it evaluates, or this raises
            else:
                eventually(lambda e=expression: watched.values(e), within=30)  # type: ignore[misc]
    eventually(lambda: all(rule["health"] == "ok" for rule in rules(watched.prometheus)))
    assert {rule["type"] for rule in loaded} == {"recording", "alerting"}
    assert watched.firing() == {}, "patience as shipped"


def is_empty_when_well(expression: str) -> bool:
    return expression.endswith("> 0") or "ALERTS" in expression


# --- what is provoked is told --------------------------------------------------------------------


def test_what_is_provoked_is_told_and_is_over_when_it_is_mended(watched: Watched) -> None:
    watched.look(patience="2s")
    daemon, site, server = watched.daemons[0], watched.site, watched.server
    eventually(lambda: watched.values("ring:ringkeeper_keys:max"), within=30)
    watched.is_quiet()
    watched.is_told("RingkeeperCertificateExpires")

    good = daemon.config.read_text()
    daemon.config.write_text(json.dumps({"nonsense": 1}))
    watched.is_told("RingkeeperConfigurationRejected")
    daemon.config.write_text(good)
    watched.is_over("RingkeeperConfigurationRejected")

    (site.folder / "kek.jwk").chmod(0o644)
    watched.is_told("RingkeeperKekUnreadable")
    (site.folder / "kek.jwk").chmod(0o600)
    watched.is_over("RingkeeperKekUnreadable")

    with server.client() as client:
        client.flushall()
    watched.is_told("RingkeeperHealed")

    server.kill()
    watched.is_told("RingkeeperRedisDown")
    assert "RingkeeperNoLeader" not in watched.firing(), "that nobody can lead is Redis' trouble"
    server.start()
    watched.is_over("RingkeeperRedisDown")

    for each in watched.daemons:
        each.stop()
    watched.is_told("RingkeeperTargetAbsent", "RingkeeperTargetDown", "RingkeeperNoLeader")


def test_a_planned_fail_over_fires_nothing_but_that_a_daemon_is_down(watched: Watched) -> None:
    """Though the alerts wait for seconds instead of minutes."""
    watched.look(patience="10s")
    eventually(lambda: watched.values("ring:ringkeeper_keys:max"), within=30)
    watched.is_quiet()
    began = time.monotonic()
    leader = watched.site.leader()
    (other,) = [daemon for daemon in watched.daemons if daemon is not leader]
    leader.stop()
    eventually(other.leads)
    watched.is_told("RingkeeperTargetDown")
    back = restarted(watched, leader)
    watched.is_over("RingkeeperTargetDown")
    other.stop()
    eventually(back.leads)
    watched.is_told("RingkeeperTargetDown")
    since = f"{int(time.monotonic() - began)}s"
    every = f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{since}]))'
    told = {row["metric"]["alertname"] for row in watched.values(every)}
    assert told == {"RingkeeperTargetDown", "RingkeeperCertificateExpires"}
    assert watched.values("ring:ringkeeper_leader_transitions:increase30m > 7") == []


def restarted(watched: Watched, daemon: Daemon) -> Daemon:
    again = daemon.again()
    watched.site.daemons.append(again)  # it is ended with the others
    again.wait_until_ready()
    return again


# --- the dashboard -------------------------------------------------------------------------------


def test_the_dashboard_is_what_the_code_makes() -> None:
    from deploy.grafana import generate

    assert generate.main(["--check"]) == 0, "run make docs"


def test_the_dashboard_is_one_that_the_types_know() -> None:
    """Read and written again by the SDK it is the same, with each panel and query of its own type."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models import dashboard as model
    from grafana_foundation_sdk.models import prometheus as query

    register_default_plugins()
    board = dashboard()
    read = model.Dashboard.from_json(json.loads(DASHBOARD.read_text()))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == board
    panels = [panel for panel in read.panels or [] if isinstance(panel, model.Panel)]
    assert len(panels) > 25
    for panel in panels:
        assert isinstance(panel.field_config, model.FieldConfigSource)
        assert type(panel.options).__module__.startswith("grafana_foundation_sdk.models.")
        assert panel.targets
        assert all(isinstance(target, query.Dataquery) for target in panel.targets)


def test_no_panel_lies_on_another_and_each_says_what_it_shows() -> None:
    panels = dashboard()["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
    titles = [panel["title"] for panel in panels if panel["type"] != "row"]
    assert sorted(set(titles)) == sorted(titles)
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )
