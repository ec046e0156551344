"""Stories of series, for promtool to play: what daemons tell, minute by minute."""

from dataclasses import dataclass
from typing import Any

STEPS = 4
"""Scrapes and evaluations a minute."""
Span = tuple[float, str | float | None]


def line(*spans: Span) -> str:
    """Minutes with a value each, as promtool reads them.

    A value is a number; `"7+2"`, which begins at 7 and grows by 2 with every scrape; or None: the
    series is gone, because its target is.
    """
    parts = []
    for minutes, value in spans:
        count = round(minutes * STEPS)
        if value is None:
            parts += ["stale", *(["_" + f"x{count - 1}"] if count > 1 else [])]
        else:
            begin, _, step = str(value).partition("+")
            parts.append(f"{begin}+{step or 0}x{count - 1}")
    return " ".join(parts)


def metric(name: str, instance: str = "a", ring: str = "r", **labels: str) -> str:
    told = {"job": "ringkeeper", "instance": instance, "ring": ring, **labels}
    inner = ",".join(f'{key}="{value}"' for key, value in told.items() if value)
    return f"{name if name == 'up' else f'ringkeeper_{name}'}{{{inner}}}"


@dataclass(frozen=True)
class Case:
    """Series, and whether an alert fires `at` a minute; else it never did, from `since` on."""

    alert: str
    story: str
    series: dict[str, str]
    at: float
    fires: tuple[dict[str, str], ...] = ()
    since: float = 0.0

    def __str__(self) -> str:
        return f"{self.alert}: {self.story}"

    def as_test(self) -> dict[str, Any]:
        """As promtool wants it."""
        which = f'ALERTS{{alertname=~"{self.alert}",alertstate="firing"}}'
        if self.fires:
            expression = f"count by (ring, instance, kind, state, what, file, reason) ({which})"
        else:
            minutes = round(self.at - self.since)
            expression = f"count by (alertname) (count_over_time({which}[{minutes}m]))"
        told = [
            {"labels": f"{{{', '.join(f'{k}={v!r}' for k, v in labels.items())}}}", "value": 1}
            for labels in self.fires
        ]
        asked = {"expr": expression, "eval_time": f"{round(self.at * 60)}s", "exp_samples": told}
        return {
            "name": str(self),
            "interval": f"{60 // STEPS}s",
            "input_series": [{"series": s, "values": v} for s, v in self.series.items()],
            "promql_expr_test": [asked],
        }


def gauges(name: str, *spans: Span, **labels: str) -> dict[str, str]:
    return {metric(name, **labels): line(*spans)}


KEYS = {"kind": "dynamic", "state": "active"}


# --- stories in which no alert at all may fire ---------------------------------------------------


def daemon(instance: str, *, leads_from: float, until: float, born: float = 0) -> dict[str, str]:
    """All that alerts look at, of a daemon that lives and leads at these minutes; up to 60."""
    before: tuple[Span, ...] = ((born, None),) if born else ()
    after: tuple[Span, ...] = ((60 - until, None),) if until < 60 else ()
    stands_by = leads_from - born

    def told(name: str, *spans: Span, **labels: str) -> dict[str, str]:
        real = [span for span in spans if span[0] > 0]
        return gauges(name, *before, *real, *after, instance=instance, **labels)

    def leading(name: str, value: str | float, **labels: str) -> dict[str, str]:
        waits: Span = (stands_by, None)
        return told(name, waits, (until - leads_from, value), **labels)

    started: tuple[Span, ...] = ((0.5, 1), (until - born - 0.5, 0))
    up: tuple[Span, ...] = (
        *(((born, 0),) if born else ()),
        (until - born, 1),
        *(((60 - until, 0),) if until < 60 else ()),
    )
    counters = ("heals_total", "activation_forced_total")
    return (
        gauges("up", *up, ring="", instance=instance)
        | told("leader", (stands_by, 0), (until - leads_from, 1))
        | told("leader_transitions_total", (stands_by, 0), (until - leads_from, 1))
        | told("redis_up", (until - born, 1))
        | told("proof_age_seconds", (until - born, 59))
        | told("trouble", *started, kind="not_loaded")
        | told("trouble", *started, kind="leading")
        | told("trouble", (until - born, 0), kind="secret")
        | told("config_last_reload_successful", (until - born, 1), ring="", what="secrets")
        | told("config_last_reload_successful", (until - born, 1), ring="", what="configuration")
        | {k: v for name in counters for k, v in told(name, (until - born, 0)).items()}
        | told("file_writes_total", (until - born, 0), result="failure")
        | told("on_change_total", (until - born, 0), result="failure")
        | told("rotation_failures_total", (until - born, 0), reason="redis")
        | told("session_refreshes_total", (until - born, 0), reason="unknown_kid")
        | leading("keys", 1, kind="dynamic", state="active")
        | leading("keys", 1, kind="dynamic", state="published")
        | leading("instances_behind", 0)
        | leading("next_rotation_timestamp_seconds", 600_000)
        | leading("refresh_spike_active", 0)
        | leading("refresh_spike_peak_ratio", 0)
    )


QUIET = (
    Case(
        "Ringkeeper.*",
        "the first hour of a deployment",
        daemon("a", leads_from=0.75, until=60) | daemon("b", leads_from=60, until=60),
        59,
    ),
    Case(
        "Ringkeeper.*",
        "a planned fail-over: the leader hands over and is back two minutes later",
        daemon("a", leads_from=0.75, until=20)
        | daemon("b", leads_from=20.25, until=60)
        | gauges("up", (20, 1), (2, 0), (38, 1), ring="")
        | gauges("leader", (0.75, 0), (19.25, 1), (2, None), (38, 0))
        | gauges("leader_transitions_total", (0.75, 0), (19.25, 1), (2, None), (38, 0))
        | gauges("trouble", (20, 0), (2, None), (0.5, 1), (37.5, 0), kind="not_loaded")
        | gauges("redis_up", (20, 1), (2, None), (38, 1)),
        59,
    ),
    Case(
        "Ringkeeper.*",
        "a host is lost, and its daemon back within the nine minutes that this takes",
        daemon("a", leads_from=0.75, until=60) | daemon("b", leads_from=60, until=60, born=9),
        59,
    ),
)  # fmt: skip
