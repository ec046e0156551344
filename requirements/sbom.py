"""Write what is installed at run time as an SBOM: `python requirements/sbom.py PYTHON FILE`.

CycloneDX JSON, made by cyclonedx-bom from what is installed beside PYTHON, validated by it, and
the same for the same installation: no time and no serial number is in it. It is held against
requirements/run.txt, so that it cannot leave out or add a package unnoticed. Exit 1 and a line for
each problem.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)( ;)?", re.MULTILINE)


def made(python: str, file: Path) -> bytes:
    """The SBOM of what is installed beside `python`, written to `file`."""
    subprocess.run(  # noqa: S603 - all of it is ours
        [
            str(Path(sys.executable).with_name("cyclonedx-py")),
            *("environment", "--pyproject", str(ROOT / "pyproject.toml")),
            *("--mc-type", "application", "--output-reproducible", "--validate"),
            *("--spec-version", "1.6", "--output-format", "JSON"),
            *("--output-file", str(file), python),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return file.read_bytes()


def problems(document: dict[str, Any], requirements: str) -> list[str]:
    """In what `document` differs from the pins in `requirements`, or says too much."""
    pinned = _PIN.findall(requirements)
    pins = {_plain(name): (version, bool(marker)) for name, version, marker in pinned}
    there = {_plain(each["name"]): each["version"] for each in document["components"]}
    found = [
        f"{name} {version} is installed, and not what is pinned"
        for name, version in there.items()
        if pins.get(name, ("", False))[0] != version
    ]
    found += [
        f"{name} is pinned, and not in it"
        for name, (_, is_conditional) in pins.items()
        if name not in there and not is_conditional
    ]
    if "timestamp" in document["metadata"] or "serialNumber" in document:
        found.append("it says when it was made: no two would be the same")
    if "file:" in json.dumps(document) or str(ROOT) in json.dumps(document):
        found.append("it names a path of this machine")
    return found


def _plain(name: str) -> str:
    """A package's name, normalised (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(python: str, file: Path) -> int:
    """Make it twice, look it over, and keep it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    first = made(python, file)
    with tempfile.TemporaryDirectory() as folder:
        second = made(python, Path(folder) / "again.json")
    document = json.loads(first)
    wrong = problems(document, (ROOT / "requirements" / "run.txt").read_text("utf-8"))
    if first != second:
        wrong.append("made twice it was not the same")
    for problem in wrong:
        print(f"sbom: {problem}")
    if not wrong:
        print(f"sbom: {file}: {len(document['components'])} packages")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
