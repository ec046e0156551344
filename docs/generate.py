#!/usr/bin/env python3
"""Write the generated parts of docs/ and README.md anew, and the manual page: `make docs`.

With `--check` nothing is written; exit 1 and a line for each file that is out of step.

A generated part stands between `<!-- NAME: where it comes from -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

import yaml
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase

import ringkeeper
from ringkeeper.configuration import as_markdown
from ringkeeper.layout import DEFAULT_NAME
from ringkeeperd import grammar, man_page
from ringkeeperd.acl import acl_lines
from ringkeeperd.command_line.tree import parser
from ringkeeperd.metrics import Metrics
from ringkeeperd.transitions import TRANSITIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from ringkeeper.ring import KeyState

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs import reference  # noqa: E402 - it lies beside this file, and is installed nowhere

# --- docs/lifecycle.md ---------------------------------------------------------------------------


def diagram() -> str:
    """The states of a key as a mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [
        f"    {_node(before)} --> {_node(after)}: {re.sub('[:;]', ',', when)}"
        for before, after, when in TRANSITIONS
    ]
    return "\n".join([*lines, "```"])


def transitions() -> str:
    """The same as a table."""
    rows = [
        f"| {before or '(none)'} | {after or '(removed)'} | {when} |"
        for before, after, when in TRANSITIONS
    ]
    return "\n".join(["| from | to | when |", "|---|---|---|", *rows])


Point = tuple[int, int]
_PLACES: Final = {"published": (230, 190), "active": (430, 190), "retired": (630, 190)} | {
    "revoked": (430, 340)
}
_WAYS: Final[dict[tuple[str, str], tuple[Point, Point, Point, Point]]] = {
    ("", "published"): ((52, 190), (90, 190), (130, 190), (175, 190)),
    ("", "active"): ((50, 182), (110, 90), (320, 90), (410, 166)),
    ("", "retired"): ((46, 180), (100, -30), (560, -30), (632, 166)),
    ("published", "active"): ((284, 190), (310, 190), (340, 190), (373, 190)),
    ("active", "retired"): ((484, 190), (510, 190), (540, 190), (573, 190)),
    ("published", "retired"): ((250, 214), (290, 315), (400, 315), (600, 216)),
    ("retired", "published"): ((612, 166), (520, 50), (330, 50), (250, 166)),
    ("retired", ""): ((684, 190), (700, 190), (730, 190), (752, 190)),
    ("published", "revoked"): ((220, 214), (220, 310), (300, 340), (373, 340)),
    ("active", "revoked"): ((430, 214), (430, 250), (430, 280), (430, 314)),
    ("retired", "revoked"): ((640, 214), (640, 310), (560, 340), (487, 340)),
    ("revoked", ""): ((470, 364), (600, 430), (765, 340), (765, 203)),
}
"""Where the line from a state to another runs: a Bézier curve's four points."""


def picture() -> str:
    """The same drawn, for the site, where nobody draws mermaid; numbers as in the table's rows."""
    height = 410 + 20 * len(TRANSITIONS)
    shown = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 810 {height}" '
            'font-family="system-ui, sans-serif" font-size="15">'
        ),
        "<title>The states of a key, and how it moves from one to another</title>",
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#37474f"/></marker>'
            "</defs>"
        ),
        f'<rect width="810" height="{height}" rx="8" fill="#fff"/>',
        '<circle cx="42" cy="190" r="9" fill="#37474f"/>',
        '<circle cx="765" cy="190" r="11" fill="none" stroke="#37474f" stroke-width="2"/>',
        '<circle cx="765" cy="190" r="6" fill="#37474f"/>',
    ]
    for name, (x, y) in _PLACES.items():
        shown += [
            (
                f'<rect x="{x - 54}" y="{y - 24}" width="108" height="48" rx="10" fill="#eceff1" '
                'stroke="#37474f" stroke-width="1.5"/>'
            ),
            f'<text x="{x}" y="{y + 5}" text-anchor="middle">{name}</text>',
        ]
    for number, (before, after, when) in enumerate(TRANSITIONS, 1):
        way = (before.value if before else "", after.value if after else "")
        if way not in _WAYS:
            raise SystemExit(f"docs/generate.py: draw the way from {way[0]!r} to {way[1]!r}, too")
        (a, b), *rest = _WAYS[way]
        curve = " ".join(f"{x},{y}" for x, y in rest)
        x, y = (
            sum(map(int.__mul__, (1, 3, 3, 1), each)) // 8 for each in zip(*_WAYS[way], strict=True)
        )
        told = f"{way[0] or 'new'} → {way[1] or 'removed'}: {when}"
        shown += [
            (
                f'<path d="M{a},{b} C{curve}" fill="none" stroke="#37474f" stroke-width="1.5" '
                'marker-end="url(#tip)"/>'
            ),
            f'<circle cx="{x}" cy="{y}" r="11" fill="#fff" stroke="#00796b"/>',
            f'<text x="{x}" y="{y + 4}" text-anchor="middle" font-size="12">{number}</text>',
            f'<text x="40" y="{400 + 20 * number}" font-size="14">{number}. {escape(told)}</text>',
        ]
    return "\n".join([*shown, "</svg>", ""])


def _node(state: KeyState | None) -> str:
    return state.value if state else "[*]"


# --- docs/metrics.md -----------------------------------------------------------------------------


def metrics() -> str:
    """Every metric with its type and labels."""
    rows = sorted(
        f"| `{family.name}{'_total' if family.type == 'counter' else ''}` | {family.type} "
        f"| {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"
        for family, labels in _families()
    )
    return "\n".join(["| metric | type | labels | what it says |", "|---|---|---|---|", *rows])


def _families() -> Iterator[tuple[Metric, Iterable[str]]]:
    """Every family that a daemon serves, with its label names; these are public in no way."""
    told = Metrics()
    told.watch({})
    for collector in told.registry._collector_to_names:  # noqa: SLF001
        for family in collector.collect():
            if isinstance(collector, MetricWrapperBase):
                yield family, collector._labelnames  # noqa: SLF001
            elif isinstance(family, GaugeMetricFamily):
                yield family, family._labelnames  # noqa: SLF001


def alerts() -> str:
    """Every alert with its page."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8"))["groups"]
    rows = ["| alert | severity | for | means |", "|---|---|---|---|"]
    for rule in (rule for group in groups for rule in group["rules"]):
        page = ROOT / rule["annotations"]["runbook_url"]
        title = page.read_text("utf-8").partition("\n")[0].removeprefix("# ")
        named = f"[{rule['alert']}]({page.relative_to(ROOT / 'docs')})"
        rows.append(f"| {named} | {rule['labels']['severity']} | {rule.get('for', '')} | {title} |")
    return "\n".join(rows)


# --- docs/wire-format.md -------------------------------------------------------------------------


def documents() -> str:
    """One document of each kind, taken apart, from the test vectors."""
    vector = json.loads((ROOT / "tests/vectors/es256.json").read_text("utf-8"))
    shown = []
    for name in ("snapshot", "proof", "request", "event"):
        header, payload = (_decoded(part) for part in vector[name].split(".")[:2])
        keys = payload.get("keys", [])
        left_out = f", and {len(keys) - 1} keys more" if keys else ""
        if keys:
            payload["keys"] = keys[:1]
        shown += [f"A {name}'s header and payload{left_out}:", "", _fenced(header, payload), ""]
    sealed = vector["sealed"][vector["signer"]]
    shown += ["A sealed key's header:", "", _fenced(_decoded(sealed.split(".")[0]))]
    return "\n".join(shown).replace("A event", "An event")


def _decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _fenced(*values: Any) -> str:
    texts = [json.dumps(values[0]), *(json.dumps(value, indent=2) for value in values[1:])]
    return "\n".join(["```json", *texts, "```"])


# --- README.md -----------------------------------------------------------------------------------


def example() -> str:
    """The small app, without its shebang."""
    _, _, code = (ROOT / "examples/app.py").read_text("utf-8").partition("\n")
    return f"```python\n{code.rstrip()}\n```"


# --- docs/redis.md -------------------------------------------------------------------------------


def acl() -> str:
    """The ACL users of one ring."""
    return "\n".join(["```text", *acl_lines([DEFAULT_NAME]), "```"])


# --- deploy/man/ringkeeper.1 ---------------------------------------------------------------------


def manual() -> str:
    """The manual page of the command."""
    return man_page.page(grammar.read(parser(is_demo=True)), ringkeeper.__version__)


# --- putting them in their places ----------------------------------------------------------------

PARTS: Final = {
    "README.md": {"example": example},
    "docs/api.md": {"names": reference.names},
    "docs/cli.md": {"commands": reference.commands},
    "docs/configuration.md": {"settings": as_markdown},
    "docs/errors.md": {"errors": reference.error_table},
    "docs/http.md": {"http": reference.over_http},
    "docs/lifecycle.md": {"diagram": diagram, "transitions": transitions},
    "docs/metrics.md": {"metrics": metrics, "alerts": alerts},
    "docs/redis.md": {"acl": acl},
    "docs/wire-format.md": {"documents": documents},
}

WHOLE: Final = {"deploy/man/ringkeeper.1": manual, "docs/lifecycle.svg": picture}
"""Files of which all is generated."""


def written(text: str, name: str, content: str) -> str:
    """`text` with `content` as its generated part `name`."""
    part = re.compile(rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(part.findall(text)) != 1:
        raise SystemExit(f"docs/generate.py: there is no one place for {name}")
    return part.sub(lambda found: f"{found[1]}{content.rstrip()}\n{found[2]}", text)


def main(arguments: list[str]) -> int:
    """Write what is out of step, or with `--check` only say so."""
    is_check = arguments == ["--check"]
    stale = 0
    texts = {file: whole() for file, whole in WHOLE.items()}
    for file, parts in PARTS.items():
        texts[file] = (ROOT / file).read_text("utf-8")
        for name, content in parts.items():
            texts[file] = written(texts[file], name, content())
    for file, text in texts.items():
        path = ROOT / file
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale += 1
        print(f"{file}: {'is out of step; run make docs' if is_check else 'written anew'}")
        if not is_check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    return int(is_check and stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
