"""Write the dashboard anew: `make docs`. It answers: is rotation healthy, did anyone notice?

With `--check` nothing is written; exit 1 if the file is out of step.

What a ring is like whoever leads it is asked of the recording rules (../prometheus), so that a
panel has no gap where leaders change. What each daemon says is asked of its own metrics.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.grafana.panels import BAD, GOOD, ODD, PLAIN, SOURCE, WIDTH, Ask, course, number, states
from grafana_foundation_sdk.builders import dashboard as make
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from grafana_foundation_sdk.builders import stat, statetimeline, timeseries

FILE: Final = Path(__file__).with_name("ringkeeper.json")
_OF: Final = '{ring="$ring"}'
"""Picks the ring that is looked at."""


# --- what is shown -------------------------------------------------------------------------------

_WELL: Final = {"0": ("no", BAD), "1": ("yes", GOOD)}
_WRONG: Final = {"0": ("well", GOOD), "1": ("wrong", BAD)}


def glance() -> Iterable[stat.Panel | statetimeline.Panel]:
    """Is rotation healthy, in one line."""
    yield number(
        "Leader",
        "One daemon turns the keys. Two believe so while one was cut off; Redis refuses it.",
        f"ring:ringkeeper_leader:sum{_OF}",
        words={"0": ("nobody", BAD), "1": ("leads", GOOD), "2": ("two think so", ODD)},
    )
    yield number("Version", "Grows with every change.", f"ring:ringkeeper_keyring_version:max{_OF}")
    yield number(
        "Next rotation in",
        "Red: overdue by more than a quarter of an hour.",
        f"ring:ringkeeper_next_rotation_timestamp_seconds:max{_OF} - time()",
        unit="s",
        steps=((None, BAD), (-900, ODD), (0, GOOD)),
    )
    yield number(
        "Key signs since",
        "How long the dynamic key has been active.",
        f"time() - ring:ringkeeper_last_rotation_timestamp_seconds:max{_OF}",
        unit="s",
    )
    yield number(
        "Standby",
        "Published keys that may sign next. Two while the algorithm changes.",
        'ring:ringkeeper_keys:max{ring="$ring", kind="dynamic", state="published"}',
        steps=((None, BAD), (1, GOOD)),
        words={"0": ("none", BAD)},
    )
    yield number("Instances", "Live apps and daemons.", f"ring:ringkeeper_instances:max{_OF}")
    yield number(
        "Behind",
        "Live instances without the newest version. Some, for seconds, after each change.",
        f"ring:ringkeeper_instances_behind:max{_OF}",
        steps=((None, GOOD), (1, ODD)),
    )
    yield number(
        "Newest proof",
        "Its age. One is due every minute; apps stop signing at max_staleness.",
        f"ring:ringkeeper_proof_age_seconds:min{_OF}",
        unit="s",
        steps=((None, GOOD), (300, ODD), (900, BAD)),
    )
    yield states(
        "Alerts that fire",
        "Each has a page in docs/runbooks.",
        Ask(
            "max by (alertname, instance) (ALERTS"
            '{alertname=~"Ringkeeper.*", alertstate="firing", ring=~"$ring|"})',
            "{{alertname}} {{instance}}",
        ),
        words={"1": ("fires", BAD)},
        width=WIDTH,
        empty="none",
    )


def rotations() -> Iterable[timeseries.Panel]:
    """What the leader did."""
    yield course(
        "Keys",
        "By kind and state. Retired ones verify until no token of theirs can live.",
        Ask(f"ring:ringkeeper_keys:max{_OF}", "{{kind}} {{state}}"),
        stacked=True,
    )
    yield course(
        "Rotations",
        "Keys that became active, by reason.",
        Ask(
            f"sum by (reason) (increase(ringkeeper_rotations_total{_OF}[$__rate_interval]))",
            "{{reason}}",
        ),
        bars=True,
        stacked=True,
    )
    yield course(
        "From decision to version",
        "Mean seconds that a change took to be made and published, within the hour.",
        Ask(
            f"sum(increase(ringkeeper_rotation_duration_seconds_sum{_OF}[1h]))"
            f" / (sum(increase(ringkeeper_rotation_duration_seconds_count{_OF}[1h])) > 0)",
            "seconds",
        ),
        unit="s",
    )
    yield course(
        "Out of the ordinary",
        "Within the hour: heals (Redis had lost writes), activations that nobody confirmed.",
        Ask(f"ring:ringkeeper_heals:increase1h{_OF}", "heals"),
        Ask(f"ring:ringkeeper_activation_forced:increase1h{_OF}", "forced activations"),
        Ask(f"sum(increase(ringkeeper_rewraps_total{_OF}[1h]))", "rewraps"),
        Ask(f"sum(increase(ringkeeper_bootstraps_total{_OF}[1h]))", "rings made"),
        width=12,
        bars=True,
    )
    yield course(
        "Changes that failed",
        "Within five minutes, by reason. They are tried again.",
        Ask(f"ring_reason:ringkeeper_rotation_failures:increase5m{_OF}", "{{reason}}"),
        width=12,
        bars=True,
    )


def noticed() -> Iterable[timeseries.Panel | statetimeline.Panel]:
    """Did anyone notice?"""
    yield course(
        "Session refreshes a second",
        "Beside what is usual. A rotation should leave no trace here.",
        Ask(f"ring:ringkeeper_session_refresh_rate:max{_OF}", "now"),
        Ask(f"ring:ringkeeper_session_refresh_baseline:max{_OF}", "usual"),
        unit="reqps",
        width=12,
    )
    yield course(
        "By reason",
        "What apps say why a session was refreshed; the mean of ten minutes.",
        Ask(f"ring_reason:ringkeeper_session_refreshes:rate10m{_OF}", "{{reason}}"),
        unit="reqps",
        width=12,
        stacked=True,
    )
    yield course(
        "Spikes",
        "Times within the hour that too many were refreshed at once, by cause.",
        Ask(
            f"sum by (cause) (increase(ringkeeper_refresh_spikes_total{_OF}[1h])) > 0",
            "{{cause}}",
        ),
        bars=True,
        stacked=True,
    )
    yield course(
        "Peak of the newest spike",
        "Times what was usual.",
        Ask(f"ring:ringkeeper_refresh_spike_peak_ratio:max{_OF}", "peak"),
    )
    yield course(
        "Unknown kids",
        "The share of refreshes for a kid that the app does not know.",
        Ask(
            'sum(ring_reason:ringkeeper_session_refreshes:rate10m{ring="$ring", '
            'reason="unknown_kid"})'
            f" / (sum(ring_reason:ringkeeper_session_refreshes:rate10m{_OF}) > 0)",
            "share",
        ),
        unit="percentunit",
        limit=0.1,
    )


def propagation() -> Iterable[timeseries.Panel]:
    """How a version reaches everybody."""
    bucket = f"sum by (le) (increase(ringkeeper_propagation_seconds_bucket{_OF}[1h]))"
    yield course(
        "Until all have confirmed",
        "Seconds from a published version, of those within the hour.",
        Ask(f"histogram_quantile(0.5, {bucket})", "median"),
        Ask(f"histogram_quantile(0.99, {bucket})", "99 of 100"),
        unit="s",
    )
    yield course(
        "Live, and behind",
        "Instances, and those of them without the newest version.",
        Ask(f"ring:ringkeeper_instances:max{_OF}", "live"),
        Ask(f"ring:ringkeeper_instances_behind:max{_OF}", "behind"),
    )
    yield course(
        "Newest proof known to each daemon",
        "Its age. One line that climbs: that daemon hears nothing.",
        Ask(f"ringkeeper_proof_age_seconds{_OF}", "{{instance}}"),
        unit="s",
        limit=900,
    )


def redis() -> Iterable[timeseries.Panel | statetimeline.Panel]:
    """What it all rests on."""
    yield states(
        "Does Redis answer?",
        "As each daemon sees it.",
        Ask(f"ringkeeper_redis_up{_OF}", "{{instance}}"),
        words=_WELL,
    )
    yield course(
        "Times that Redis began to fail",
        "Within five minutes, by what it was needed for.",
        Ask(
            f"sum by (operation) (increase(ringkeeper_redis_errors_total{_OF}[5m]))",
            "{{operation}}",
        ),
        width=6,
        bars=True,
        stacked=True,
    )
    yield course(
        "Certificates expire in",
        "Of the files in redis.tls; empty where there are none. The alert begins at a week.",
        Ask(
            "min by (instance, file) (ringkeeper_certificate_expiry_timestamp_seconds) - time()",
            "{{instance}} {{file}}",
        ),
        unit="s",
        width=6,
    )


def daemons() -> Iterable[timeseries.Panel | statetimeline.Panel]:
    """Each daemon by itself."""
    yield states(
        "Who leads",
        "Each daemon's own word.",
        Ask(f"ringkeeper_leader{_OF}", "{{instance}}"),
        words={"0": ("stands by", PLAIN), "1": ("leads", GOOD)},
    )
    yield states(
        "Trouble",
        "What is wrong with the ring, where something is.",
        Ask(
            f"max by (instance, kind) (ringkeeper_trouble{_OF}) > 0",
            "{{instance}} {{kind}}",
        ),
        words=_WRONG,
        empty="none",
    )
    yield states(
        "Do they answer?",
        "As Prometheus sees it.",
        Ask('up{job="ringkeeper"}', "{{instance}}"),
        words=_WELL,
    )
    yield states(
        "Is what was read last in use?",
        "No: an edited file was rejected, and the former one is in force.",
        Ask("ringkeeper_config_last_reload_successful", "{{instance}} {{what}}"),
        words=_WELL,
    )
    yield course(
        "Terms",
        "Leaderships that began within half an hour.",
        Ask(f"ring:ringkeeper_leader_transitions:increase30m{_OF}", "terms"),
        width=6,
        limit=7,
    )
    yield course(
        "Reloads",
        "Within five minutes.",
        Ask("sum by (result) (increase(ringkeeper_config_reloads_total[5m]))", "{{result}}"),
        width=6,
        bars=True,
    )
    yield course(
        "Files and hooks",
        "What was written for apps, and whether they were told; within five minutes.",
        Ask(
            f"sum by (result) (increase(ringkeeper_file_writes_total{_OF}[5m]))",
            "files: {{result}}",
        ),
        Ask(
            f"sum by (result) (increase(ringkeeper_on_change_total{_OF}[5m]))",
            "on_change: {{result}}",
        ),
        width=6,
        bars=True,
    )
    yield course(
        "Refused, and lost",
        "Requests over HTTP by reason, and log lines; within five minutes.",
        Ask("sum by (reason) (increase(ringkeeper_http_refused_total[5m])) > 0", "{{reason}}"),
        Ask("sum(increase(ringkeeper_log_lines_lost_total[5m])) > 0", "log lines lost"),
        width=6,
        bars=True,
    )


# --- variables, annotations, the whole -----------------------------------------------------------


def variables() -> list[make.DatasourceVariable | make.QueryVariable]:
    """Which Prometheus, and which ring."""
    ring = make.QueryVariable("ring").label("Ring").datasource(SOURCE)
    ring.query("label_values(ringkeeper_leader, ring)").sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )
    return [
        make.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        ring.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED),
    ]


def marks() -> Iterable[make.AnnotationQuery]:
    """What happened to the ring, across all panels."""
    happened = {
        "Rotation": ("ringkeeper_rotations_total", 'reason="scheduled"', PLAIN),
        "Rotation by hand": ("ringkeeper_rotations_total", 'reason="manual"', "purple"),
        "Rollback": ("ringkeeper_rotations_total", 'reason="rollback"', ODD),
        "Change of algorithm": ("ringkeeper_rotations_total", 'reason="algorithm"', "purple"),
        "Revocation": ("ringkeeper_rotations_total", 'reason="revocation"', BAD),
        "Heal": ("ringkeeper_heals_total", "", ODD),
        "Refresh spike": ("ringkeeper_refresh_spikes_total", "", "yellow"),
    }
    for name, (metric, which, colour) in happened.items():
        labels = ", ".join(filter(None, ('ring="$ring"', which)))
        expression = f"sum(increase({metric}{{{labels}}}[$__rate_interval])) > 0"
        query_of = make.AnnotationQuery().name(name).expr(expression).icon_color(colour)
        yield query_of.datasource(SOURCE).enable(True)


ROWS: Final = {
    "Health at a glance": glance,
    "Rotations": rotations,
    "Did anyone notice?": noticed,
    "Propagation": propagation,
    "Redis": redis,
    "Daemons": daemons,
}


def built() -> dashboard.Dashboard:
    """The dashboard, whole."""
    board = make.Dashboard("ringkeeper").uid("ringkeeper").tags(["ringkeeper", "security"])
    board.description("Is rotation healthy, did anyone notice? Written by generate.py.")
    board.time("now-6h", "now").refresh("30s").timezone("browser").editable()
    board.tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    for variable in variables():
        board.with_variable(variable)
    for annotation in marks():
        board.annotation(annotation)
    ids = count(1)
    for title, panels in ROWS.items():
        board.with_row(make.Row(title).id(next(ids)))
        for panel in panels():
            board.with_panel(panel.id(next(ids)))
    return board.build()


def written() -> str:
    """The dashboard as Grafana imports it."""
    return json.dumps(built(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write it if it is out of step, or with `--check` only say so."""
    is_check = arguments == ["--check"]
    text = written()
    if FILE.exists() and FILE.read_text("utf-8") == text:
        return 0
    what = "is out of step; run make docs" if is_check else "written anew"
    print(f"deploy/grafana/{FILE.name}: {what}")
    if not is_check:
        FILE.write_text(text, "utf-8")
    return int(is_check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
