"""What was measured, as tables for people, in Markdown, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks import fanout, growth, ladder, opening
from benchmarks.goals import NAMES, rows
from benchmarks.peers import JOSERFC, PYJWK_CLIENT, PYJWT
from benchmarks.picture import Panel
from benchmarks.rounds import told
from benchmarks.stand import CAREFUL, OURS, RAW, SEEN
from benchmarks.waiting import POLLER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PICTURE_OF: Final = "How costs grow with instances, rings, keys and payload"
_TIMES: Final = "times the raw primitive"
_FIRST: Final = f"{OURS}, first sight"


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; all columns but the first are of figures."""
    return "\n".join(
        f"| {' | '.join(map(str, cells))} |"
        for cells in (head, ["---", *["--:"] * (len(head) - 1)], *lines)
    )


def conditions(found: Mapping[str, Any]) -> str:
    """On what it was measured, with what, and beside what else the machine did."""
    on, versions = found["machine"], found["versions"]
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured by `{found['command']}` in {found['seconds']:.0f} s on {on['cores']} cores, "
        f"{on['system']}, Python {on['python']}, Valkey {on['valkey']}; {names}. "
        f"Load average when it began: {told(on['load_before'])}, when it ended: "
        f"{told(on['load_after'])}; the benchmark itself makes for 1 or so."
    )


def goals(found: Mapping[str, Any]) -> str:
    """Every figure with a goal."""
    head = ("figure", "median", "8 of 10 rounds", "goal", "")
    waits = found.get("waits")
    more = [_waits_line(waits)] if waits else []
    return table(head, [*rows(found), *more])


def _waits_line(waits: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    others = "; ".join(
        f"{name} {told(waits['fresh'][name]['mean_s'])} s" for name in (POLLER, PYJWK_CLIENT)
    )
    ours = waits["fresh"][OURS]
    low, high = ours["s"].low, ours["s"].high
    return (
        "mean wait for a fresh key",
        f"{told(1000 * ours['mean_s'])} ms",
        f"{told(1000 * low)} to {told(1000 * high)} ms",
        f"shown beside: {others}",
        "shown",
    )


def peers(found: Mapping[str, Any]) -> str:
    """Every figure beside what others do, in the same run."""
    parts = []
    for title, what in (("Verify", "verify"), ("Sign", "sign")):
        by_algorithm = found[what]
        head = [f"{title}, times the raw primitive", *(NAMES.get(a, a) for a in by_algorithm)]
        names = list(next(iter(by_algorithm.values()))["ratio"])
        parts.append(
            table(
                head,
                [
                    [name, *(each["ratio"].get(name, "-") for each in by_algorithm.values())]
                    for name in names
                    if name != RAW
                ]
                + [["the primitive itself, µs", *(e["us"][RAW] for e in by_algorithm.values())]],
            )
        )
    rungs = found["ladder"]
    parts.append(
        table(
            ["A first sight: what comes to the primitive, in times of it", *rungs],
            [[rung, *(each[rung] for each in rungs.values())] for rung in ladder.RUNGS[1:]],
        )
    )
    wide = found["wide_traffic"]
    traffic = {**found["traffic"], f"ES256, {wide['sessions']:,} sessions": wide}
    names = list(next(iter(traffic.values()))["times_faster_than"])
    parts.append(
        table(
            ["Realistic traffic: ringkeeper is so many times faster than", *traffic],
            [
                [n, *(each["times_faster_than"].get(n, "-") for each in traffic.values())]
                for n in names
            ]
            + [
                [
                    "requests with a token never seen",
                    *(f"{e['new_share']:.1%}" for e in traffic.values()),
                ],
                [
                    "requests with a token that is not remembered",
                    *(f"{e['miss_share']:.1%}" for e in traffic.values()),
                ],
                ["what is remembered then, MB", *(told(e["cache_mb"]) for e in traffic.values())],
            ],
        )
    )
    gains = found["threads"]["gain"]
    parts.append(table(["Two threads over one, ES256", "times"], gains.items()))
    parts.append(_fanout(found["fanout"]))
    parts.append(_waits(found["waits"]))
    still = found["opening"]["ms"]
    parts.append(
        table(
            ["A busy loop stands still while a private half is taken up, ms", *still],
            [
                [name, *(each[name] for each in still.values())]
                for name in (opening.NOTHING, OURS, opening.HERE, JOSERFC)
            ],
        )
    )
    imports = found["import"]
    parts.append(
        table(
            ["Import, on top of `redis` and `cryptography`", "times their import", "ms", "MB"],
            [
                [name, ratio, imports["ms"][name], imports["added_mb"][name]]
                for name, ratio in imports["ratio"].items()
            ],
        )
    )
    parts.append(table(["A process until", "ms"], found["start"]["ms"].items()))
    server = found["rest"]["server"]
    parts.append(
        table(
            ["The embedded server beside a daemon at rest", "resident, MB", "CPU a minute, ms"],
            [["valkey-server", server["rss_mb"], server["cpu_ms_a_minute"]]],
        )
    )
    if found["crowd"]:
        parts.append(_crowd(found["crowd"]))
    return "\n\n".join(parts)


def _crowd(sizes: Mapping[int, Any]) -> str:
    return table(
        ["A Redis with idle instances", "CPU, % of a core", "commands a second, of each"],
        [
            [f"{count:,}", each["redis_cpu_percent"], each["commands_a_second_an_instance"]]
            for count, each in sizes.items()
        ],
    )


def _fanout(sizes: Mapping[int, Any]) -> str:
    names = (fanout.REDIS_PY, fanout.OURS)
    return table(
        [
            "Publish until the last of",
            "raw sockets, ms",
            *(f"{n}, times" for n in names),
            "real ones",
        ],
        [
            [f"{size:,}", each["ms"][fanout.RAW], *(each["ratio"][n] for n in names), each["real"]]
            for size, each in sizes.items()
            if each
        ],
    )


def _waits(waits: Mapping[str, Any]) -> str:
    names = (OURS, POLLER, PYJWK_CLIENT)
    return table(
        [f"Mean wait, s (polled and kept: {told(waits['interval_s'])} s)", *names],
        [
            [title, *(told(waits[what][name]["mean_s"]) for name in names)]
            for title, what in (
                ("until a fresh key's token is taken", "fresh"),
                ("until a revoked key's is refused", "revoked"),
            )
        ],
    )


def panels(found: Mapping[str, Any]) -> list[Panel]:
    """How costs grow."""
    sizes = {size: each for size, each in found["fanout"].items() if each}
    rings, keys, payload = found["rings"], found["keys"], found["payload"]
    of_payload = {
        _FIRST: ("verify", OURS),
        SEEN: ("verify", SEEN),
        PYJWT: ("verify", PYJWT),
        JOSERFC: ("verify", JOSERFC),
    }
    of_signing = {name: ("sign", name) for name in (OURS, CAREFUL, PYJWT, JOSERFC)}

    def of(curves: Mapping[str, tuple[str, str]]) -> dict[str, list[tuple[float, float]]]:
        return {
            title: [(size, each[what]["ratio"][name].median) for size, each in payload.items()]
            for title, (what, name) in curves.items()
        }

    return [
        Panel(
            "Publish to the last", "instances", "ms",
            {
                name: [(size, each["ms"][name].median) for size, each in sizes.items()]
                for name in (fanout.OURS, fanout.REDIS_PY, fanout.RAW)
            },
        ),
        Panel(
            "A daemon's memory", "rings", "MB",
            {
                "resident": [(n, each["rss_mb"]) for n, each in rings.items()],
                "private": [(n, each["private_mb"]) for n, each in rings.items()],
            },
        ),
        Panel(
            "A daemon at rest, for each ring", "rings", "a second",
            {
                "CPU, ms": [(n, _part(10 * each["cpu_percent"], n)) for n, each in rings.items()],
                "Redis commands": [
                    (n, _part(each["commands_a_second"], n)) for n, each in rings.items()
                ],
            },
        ),
        Panel(
            "Verify ES256, first sight", "keys", _TIMES,
            {
                name: [(count, each["ratio"][name].median) for count, each in keys.items()]
                for name in (OURS, PYJWK_CLIENT, growth.KEY_SET)
            },
        ),
        Panel("Verify ES256", "bytes of payload", _TIMES, of(of_payload)),
        Panel("Sign ES256", "bytes of payload", _TIMES, of(of_signing)),
    ]  # fmt: skip


def _part(whole: float, count: int) -> float:
    """What one of `count` has of it; never 0, which a logarithmic axis does not have."""
    return max(whole / count, 1e-4)


def growth_in_words(found: Mapping[str, Any]) -> str:
    """The picture, and what it shows."""
    lines = [f"- {panel.words}" for panel in panels(found)]
    sizes = ", ".join(f"{each['message_bytes']:,} with {n}" for n, each in found["keys"].items())
    return "\n".join(
        [
            f"![{PICTURE_OF}; in words below](performance.svg)",
            "",
            *lines,
            f"- Bytes that are published, by keys: {sizes}.",
        ]
    )
