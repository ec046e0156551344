"""What is installed is what was pinned, and looked at."""

import importlib.util
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.servers import free_port

ROOT = Path(__file__).parents[2]
PINNED = sorted((ROOT / "requirements").glob("*.txt"))
LOCKED = sorted(
    path
    for folder in ("examples", "tests")
    for path in (ROOT / folder).glob("**/package-lock.json")
    if "node_modules" not in path.parts
)
SUPPLY = ROOT / ".venv" / "supply" / "bin" / "python"
_LINE = re.compile(
    r"^[a-z0-9._-]+(?:\[[a-z,]+\])?==[^\s;]+(?: ;.*)?((?: --hash=sha256:[0-9a-f]{64})+)$"
)


@pytest.mark.parametrize("file", PINNED, ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed_and_names_no_place(file: Path) -> None:
    """Any mirror will do, and none can slip anything in."""
    text = file.read_text()
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    assert len(lines) >= 2
    assert [line for line in lines if not _LINE.fullmatch(line)] == []
    assert "://" not in text


@pytest.mark.parametrize("file", LOCKED, ids=lambda path: path.parent.name)
def test_every_package_for_node_is_hashed_and_names_no_place(file: Path) -> None:
    packages = json.loads(file.read_text())["packages"]
    assert len(packages) >= 2
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name


def test_everything_is_installed_from_those_files_alone() -> None:
    makefile = re.sub(r"\\\n\s*", "", (ROOT / "Makefile").read_text())
    installs = [line for line in makefile.splitlines() if re.search(r"pip\b.* install ", line)]
    assert len(installs) >= 5
    for line in installs:
        is_ours = "--no-build-isolation --editable ." in line
        assert "--no-deps" in line
        assert is_ours or "--require-hashes" in line, line


def test_what_a_change_must_pass_asks_for_advisories() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (check,) = re.findall(r"^check:([^#\n]*)", makefile, re.MULTILINE)
    assert "audit" in check.split()


# --- advisories ------------------------------------------------------------------------------------


class Osv(ThreadingHTTPServer):
    """Plays OSV, the database of vulnerabilities: `bad` has one, and `ecdsa` the one it has."""

    def __init__(self, status: int = 200) -> None:
        server = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(405)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                asked = json.loads(self.rfile.read(length))["package"]["name"]
                server.asked.append(asked)
                known = [each for each in _KNOWN if each["affected"][0]["package"]["name"] == asked]
                body = json.dumps({"vulns": known} if known else {}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1/query"
        threading.Thread(target=self.serve_forever, daemon=True).start()


_VULNERABILITY: dict[str, Any] = {
    "id": "PYSEC-2026-1",
    "summary": "it forges tokens",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "bad", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}
_KNOWN = [
    _VULNERABILITY,
    {
        **_VULNERABILITY,
        "id": "PYSEC-2026-2",
        "aliases": ["GHSA-wj6h-64fc-37mp"],
        "affected": [
            {
                "package": {"name": "ecdsa", "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
            }
        ],
    },
]


@pytest.fixture
def osv() -> Iterator[Osv]:
    server = Osv()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def supply() -> Path:
    if not SUPPLY.exists():
        pytest.skip("pip-audit is not installed: run make .venv/supply/made")
    return SUPPLY


def audited(supply: Path, url: str, folder: Path, *pins: str) -> subprocess.CompletedProcess[str]:
    file = folder / "pins.txt"
    file.write_text("".join(f"{pin} --hash=sha256:{'0' * 64}\n" for pin in pins))
    return subprocess.run(
        [supply, ROOT / "requirements" / "audit.py", file],
        env={**os.environ, "RINGKEEPER_OSV": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_a_known_vulnerability_fails_and_is_named(supply: Path, osv: Osv, tmp_path: Path) -> None:
    done = audited(supply, osv.url, tmp_path, "bad==1.0", "good==2.0")
    assert done.stdout.splitlines() == [
        "bad 1.0: PYSEC-2026-1, mended in 1.1",
        "audit: 1 known vulnerabilities in 2 packages",
    ]
    assert done.returncode == 1


def test_without_a_known_vulnerability_it_passes(supply: Path, osv: Osv, tmp_path: Path) -> None:
    done = audited(supply, osv.url, tmp_path, "good==2.0", "better==3.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "audit: 0 known vulnerabilities in 2 packages\n"
    assert sorted(osv.asked) == ["better", "good"]


def test_one_that_is_let_pass_is_no_finding_by_whichever_name(
    supply: Path, osv: Osv, tmp_path: Path
) -> None:
    done = audited(supply, osv.url, tmp_path, "ecdsa==0.19.2", "bad==1.0")
    assert done.stdout.splitlines() == [
        "bad 1.0: PYSEC-2026-1, mended in 1.1",
        "audit: 1 known vulnerabilities in 2 packages",
    ]


def test_where_nobody_answers_it_is_skipped_quickly_in_one_line(
    supply: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    done = audited(supply, f"http://127.0.0.1:{free_port()}/", tmp_path, "bad==1.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("audit: skipped, the advisory service cannot be reached (")
    assert done.stdout.count("\n") == 1
    assert time.monotonic() - began < 10


def test_without_a_verdict_it_is_skipped_in_one_line(supply: Path, tmp_path: Path) -> None:
    server = Osv(status=500)
    try:
        done = audited(supply, server.url, tmp_path, "bad==1.0")
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("audit: skipped, the advisory service gave no verdict (")
    assert done.stdout.count("\n") == 1


# --- the bill of materials -------------------------------------------------------------------------


def problems(document: dict[str, Any], requirements: str) -> list[str]:
    """What requirements/sbom.py finds wrong."""
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "requirements" / "sbom.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[str] = module.problems(document, requirements)
    return found


def document(*packages: str, **more: Any) -> dict[str, Any]:
    pairs = [package.split("==") for package in packages]
    components = [{"name": name, "version": version} for name, version in pairs]
    return {"metadata": {}, "components": components, **more}


@pytest.mark.parametrize(
    ("there", "problem"),
    [
        (document("PyYAML==6.0", "redis==8.1"), None),
        (document("PyYAML==6.0", "redis==8.1", "cffi==2.0"), None),
        (document("PyYAML==6.0"), "redis is pinned, and not in it"),
        (document("PyYAML==6.0", "redis==8.0"), "redis 8.0 is installed, and not what is pinned"),
        (
            document("PyYAML==6.0", "redis==8.1", "pip==1"),
            "pip 1 is installed, and not what is pinned",
        ),
        (document("PyYAML==6.0", "redis==8.1", serialNumber="1"), "it says when it was made"),
        (
            document("PyYAML==6.0", "redis==8.1", url=f"file://{ROOT}"),
            "it names a path of this machine",
        ),
    ],
)
def test_a_bill_of_materials_that_differs_from_the_pins_is_told(
    there: dict[str, Any], problem: str | None
) -> None:
    pins = (
        "pyyaml==6.0 \\\n  --hash=a\nredis==8.1 \\\n  --hash=b\ncffi==2.0 ; python_version < '3'\n"
    )
    found = problems(there, pins)
    assert len(found) == (problem is not None)
    assert not problem or found[0].startswith(problem)
