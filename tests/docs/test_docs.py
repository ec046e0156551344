"""What the documentation says is so: generated parts, commands, snippets, links, tables."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from ringkeeper.layout import Layout
from ringkeeper.policy import Policy
from ringkeeper.settings import BY_KEY
from ringkeeper.wire import EVENT, PROOF, REQUEST, SNAPSHOT
from ringkeeperd.backup_file import BACKUP
from ringkeeperd.command_line.tree import parser
from tests.docs.pages import ROOT, fenced
from tests.plugins.daemons import clean_environment, eventually
from tests.plugins.servers import free_port

README = (ROOT / "README.md").read_text()
WIRE = (ROOT / "docs/wire-format.md").read_text()
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md") for page in ROOT.glob(pattern)
)
BIN = Path(sys.executable).parent


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def blocks(text: str, language: str) -> list[str]:
    return [block.text for block in fenced(text) if block.language == language]


def commands(text: str) -> list[str]:
    """What stands behind a prompt, without the comment behind it."""
    whole = [re.sub(r"\\\n\s*", "", block) for block in blocks(text, "console")]
    lines = [line for block in whole for line in block.splitlines()]
    return [line[2:].partition("  #")[0].strip() for line in lines if line.startswith("$ ")]


# --- in step with the code -----------------------------------------------------------------------


@pytest.mark.runs("docs/wire-format.md", 6, 7, 8, 9, 10)
@pytest.mark.runs("README.md", 3)
def test_the_generated_parts_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "run make docs"


def test_a_generated_part_out_of_step_is_told(tmp_path: Path) -> None:
    for folder in ("docs", "deploy", "examples", "tests/vectors"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "README.md").write_text(README.replace("def app(", "def app2("))
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "README.md: is out of step; run make docs\n"


def test_the_short_table_of_settings_agrees_with_the_code() -> None:
    section = README.partition("## Configuration")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \|", section, re.MULTILINE)
    assert len(rows) >= 8
    for key, default in rows:
        setting = BY_KEY[key]
        assert default == (f"`{setting.default}`" if setting.default else setting.otherwise), key


def test_the_times_told_are_those_of_the_defaults() -> None:
    policy = Policy.derive()
    hours, seconds = divmod(int(policy.retire_interval.total_seconds()), 3600)
    told = f"{policy.cryptoperiod.days} days and verifies for another {hours} hours"
    assert f"{told} and {seconds // 60} minutes" in " ".join(README.split())
    assert f"listens for {policy.liveness_window.seconds} s" in " ".join(README.split())
    assert f"public for {policy.jwks_max_age.seconds // 60} minutes, `--now`" in " ".join(
        README.split()
    )


# --- the wire format -----------------------------------------------------------------------------


def vector() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "tests/vectors/es256.json").read_text())
    return loaded


def snippet() -> dict[str, Any]:
    """The page's own reader, which knows nothing of ringkeeper."""
    (code,) = blocks(WIRE, "python")
    assert "ringkeeper import" not in code
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is ours
    return names


def members(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner)


@pytest.mark.parametrize("name", ["snapshot", "proof", "request", "event"])
def test_the_wire_format_names_every_member(name: str) -> None:
    payload = snippet()["decoded"](vector()[name].split(".")[1])
    tables = WIRE.partition("## Examples")[0]
    own_of_jwk = {"kty", "crv", "x", "y", "alg", "use", "kid"}
    missing = {m for m in members(json.loads(payload)) if f"`{m}`" not in tables}
    assert missing <= own_of_jwk


def test_the_wire_format_names_every_kind_of_document_and_its_limit() -> None:
    for kind in (SNAPSHOT, PROOF, REQUEST, EVENT, BACKUP):
        assert re.search(rf"\| `{re.escape(kind.typ)}` \| {kind.limit // 1024} KiB \|", WIRE)


def test_the_wire_format_names_every_key_in_redis() -> None:
    layout = Layout("NAME")
    places = [n for n, v in vars(Layout).items() if isinstance(v, property)]
    assert len(places) >= 9
    for place in places:
        assert f"| `{getattr(layout, place)}` |" in WIRE


@pytest.mark.runs("docs/wire-format.md", 5)
@pytest.mark.parametrize("which", ["rs256", "es256", "eddsa"])
def test_the_wire_format_s_reader_reads_the_vectors(which: str) -> None:
    values = json.loads((ROOT / f"tests/vectors/{which}.json").read_text())
    read, root = snippet(), values["root_public_jwk"]
    ring = read["first_ring"](values["snapshot"], values["proof"], root, values["now_ms"])
    for key in ring["keys"]:
        private = read["unsealed"](values["sealed"][key["jwk"]["kid"]], key, values["kek_jwk"])
        assert private["d"]


def test_the_wire_format_s_reader_refuses_what_it_should() -> None:
    values, read = vector(), snippet()
    root, snapshot, proof = values["root_public_jwk"], values["snapshot"], values["proof"]
    late = values["now_ms"] + 25 * 3_600_000
    header, payload, signature = proof.split(".")
    forged = f"{header}.{payload}.{'A' * len(signature)}"
    with pytest.raises(InvalidSignature):
        read["first_ring"](snapshot, forged, root, values["now_ms"])
    with pytest.raises(ValueError, match="too old"):
        read["first_ring"](snapshot, proof, root, late)
    with pytest.raises(ValueError, match="not such a document"):
        read["first_ring"](proof, proof, root, values["now_ms"])
    ring = read["first_ring"](snapshot, proof, root, values["now_ms"])
    first, second = ring["keys"][:2]
    with pytest.raises(ValueError, match="some other key"):
        read["unsealed"](values["sealed"][second["jwk"]["kid"]], first, values["kek_jwk"])


# --- links, commands -----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", names(PAGES))
def test_relative_links_resolve(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https:", "http:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", names(PAGES))
def test_every_command_shown_is_one_that_exists(name: str) -> None:
    """`ringkeeper …` parses, `make …` is a target, `python FILE` is a file."""
    text = (ROOT / name).read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = commands(text) + re.findall(r"`((?:ringkeeper|make) [^`]+)`", text)
    for command in shown:
        for part in re.split(r" &&? | \|\|? |\$\(", command):
            words = shlex.split(part.rstrip(") &"), comments=True)
            match words:
                case ["ringkeeper", "COMMAND", *_]:
                    pass
                case ["ringkeeper", *arguments]:
                    if arguments in (["revoke", "KID"], ["revoke"]):  # named in passing
                        arguments = ["revoke", "KID", "--reason", "WHY"]
                    parser(is_demo=arguments[0] == "demo").parse_args(arguments)
                case ["make", *arguments]:
                    named = [a for a in arguments if "=" not in a and a.isidentifier()]
                    assert set(named) <= set(targets), command
                case ["python", file, *_]:
                    assert (ROOT / file).exists(), command
                case _:
                    pass


# --- README, tried -------------------------------------------------------------------------------


class Place:
    """A folder with the configuration as it ships and the daemon running, as after `make run`."""

    def __init__(self) -> None:
        # Short: a socket's path is limited.
        self.folder = Path(tempfile.mkdtemp(prefix="rk-", dir="/tmp"))
        shutil.copy(ROOT / "config.yaml", self.folder)
        shutil.copytree(ROOT / "examples", self.folder / "examples")
        self.port = free_port()
        self.environment = {
            **clean_environment(),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RINGKEEPER_LISTEN": f"127.0.0.1:{self.port}",
            "RINGKEEPER_POLL_INTERVAL": "500ms",  # the patience of a new leader is three of them
            "RINGKEEPER_ISSUER": "https://auth.example.com",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> None:
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def told(self) -> str:
        return "\n".join(log.read_text() for log in self.folder.glob("*.log"))

    def answers(self, port: int, path: str = "/", token: str = "") -> tuple[int, str]:
        """Status and body; 0 while nobody listens."""
        assert all(process.poll() is None for process in self.processes), self.told()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def close(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        made.start("ringkeeper", "run", "--config", "config.yaml")
        eventually(lambda: made.answers(made.port, "/readyz")[0] == 200, within=30)
        yield made
    finally:
        made.close()


@pytest.mark.runs("README.md", 2, 3)
def test_the_readme_works_as_it_is_written(place: Place) -> None:
    """Its second block runs; its app, twice: each takes the other's tokens across a rotation."""
    ports = [free_port(), free_port()]
    for port in ports:
        place.start(sys.executable, "examples/app.py", str(port))
    eventually(lambda: [place.answers(port)[0] for port in ports] == [401, 401], within=30)
    status, before = place.answers(ports[0], "/login")
    assert status == 200
    assert place.answers(ports[1], token=before) == (200, "hello alice")

    block = blocks(README, "console")[1]
    activate, *lines = commands(f"```console\n{block}```")
    assert activate == ". .venv/bin/activate"  # here PATH is set instead
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "signs now" in done.stdout
    assert '"sub": "alice"' in done.stdout.splitlines()[-1]

    _, after = place.answers(ports[1], "/login")
    assert kid_of(after) != kid_of(before)
    for token in (before, after):
        for port in ports:
            assert place.answers(port, token=token) == (200, "hello alice")

    section = README.partition("Over HTTP the daemon serves")[2].partition("\n## ")[0]
    paths = re.findall(r"`(/[^`]+)`", section)
    assert len(paths) >= 7
    assert {path: place.answers(place.port, path)[0] for path in paths} == dict.fromkeys(paths, 200)


@pytest.mark.runs("README.md", 4)
def test_two_of_the_example_take_one_another_s_tokens_as_shown(place: Place) -> None:
    """Two seconds may be too few here: `sleep` ends once both answer."""
    block = blocks(README, "console")[2]
    first = """
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
sleep() { [ "$*" = 2 ] && curl -s --retry 30 --retry-delay 1 --retry-connrefused localhost:{8001,8002} >nowhere; }
"""
    ports = {"8001": str(free_port()), "8002": str(free_port())}
    script = "\n".join([first, *commands(f"```console\n{block}```"), "wait"])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", re.sub("800[12]", lambda each: ports[each[0]], script)],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (said,) = [line for line in block.splitlines() if not line.startswith("$ ")]
    assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert [place.answers(int(port))[0] for port in ports.values()] == [0, 0], "none is left"


def kid_of(token: str) -> str:
    return str(json.loads(snippet()["decoded"](token.partition(".")[0]))["kid"])


def test_the_example_answers_503_when_it_cannot_tell(place: Place) -> None:
    """And so logs nobody out: without the KEK it cannot sign, which is not the user's fault."""
    path = place.folder / "examples/app.py"
    path.write_text(path.read_text().replace(', kek="var/kek.jwk"', ""))
    port = free_port()
    place.start(sys.executable, "examples/app.py", str(port))
    eventually(lambda: place.answers(port)[0] == 401, within=30)
    assert place.answers(port, "/login")[0] == 503


def test_the_default_address_is_the_one_shown() -> None:
    host, _, port = BY_KEY["listen"].default.partition(":")
    assert socket.inet_aton(host)
    assert f"http://{host}:{port}" in README


def test_the_example_says_in_a_line_what_it_lacks(place: Place) -> None:
    def said(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/app.py"), *arguments],
            cwd=folder,
            env=place.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        return line

    assert said(place.folder) == "app: name a port: python examples/app.py 8001"
    assert "there is no public trust root here" in said(place.folder / "examples", "8001")
    port = free_port()
    place.start(sys.executable, "examples/app.py", str(port))
    eventually(lambda: place.answers(port)[0], within=30)
    assert place.answers(port) == (401, "no token came along; get one at /login")
