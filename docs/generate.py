#!/usr/bin/env python3
"""Write the generated parts of docs/ and README.md anew: `make docs`.

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

import yaml
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase

from ringkeeper.configuration import as_markdown
from ringkeeper.layout import DEFAULT_NAME
from ringkeeperd.acl import acl_lines
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
    for file, parts in PARTS.items():
        path = ROOT / file
        former = text = path.read_text("utf-8")
        for name, content in parts.items():
            text = written(text, name, content())
        if text == former:
            continue
        stale += 1
        print(f"{file}: {'is out of step; run make docs' if is_check else 'written anew'}")
        if not is_check:
            path.write_text(text, "utf-8")
    return int(is_check and stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
