"""Installed into an empty environment, on each Python that we support."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringkeeper
from tests.package.distributions import ROOT, Built, Environment, interpreter, pinned

pytestmark = pytest.mark.package
RUN = ROOT / "requirements/run.txt"
LIGHT = ["redis[hiredis]", "cryptography", "joserfc", "msgspec", "pybase64"]
MOST_OF_AN_APP = {
    "cffi", "cryptography", "hiredis", "joserfc", "msgspec", "pybase64", "pycparser", "redis",
    "ringkeeper",
}  # fmt: skip
"""What `pip install ringkeeper` may bring; each has its reason in docs/adr/0001-dependencies.md."""
APP = """
import json, sys
import ringkeeper, ringkeeper.asyncio
from ringkeeper.testing import keyring

ring = keyring()
assert ring.verify(ring.sign({"sub": "alice"}))["sub"] == "alice"
print(json.dumps({"version": ringkeeper.__version__, "place": ringkeeper.__file__,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
COMMANDS = [
    ["run", "--config", "config.yaml"],
    ["check", "--config", "config.yaml"],
    ["status", "--config", "config.yaml"],
    ["token", "sign", "--config", "config.yaml"],
    ["demo"],
    ["completion", "bash"],
]


@pytest.fixture(params=["3.11", "3.12", "3.13"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(version: str) -> Iterator[Environment]:
    python = interpreter(version)
    if not python:
        pytest.skip(f"there is no Python {version} here: put python{version} on the PATH")
    with tempfile.TemporaryDirectory(prefix="rk-empty-") as folder:
        yield Environment(python, Path(folder) / "venv")


@pytest.mark.timeout(300)
def test_alone_it_is_the_light_client_and_with_its_extras_the_daemon(
    empty: Environment, built: Built, tmp_path: Path
) -> None:
    """Light, it signs and verifies, and the command says in a line what to install.

    With the extras, keys turn under apps and nobody is logged out: all from the wheel.
    """
    empty.install(built.wheel, pinned(RUN, LIGHT, empty.python))
    assert empty.packages() <= MOST_OF_AN_APP
    done = empty.said("python", "-c", APP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'"version": "{ringkeeper.__version__}", "place": "{empty.folder}' in done.stdout
    for heavy in ("yaml", "aiohttp", "rich", "structlog", "prometheus_client", "ringkeeperd"):
        assert f'"{heavy}"' not in done.stdout

    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    said = empty.said("ringkeeper", "--version", cwd=tmp_path)
    assert said.stdout == f"{ringkeeper.__version__}\n"
    for command in COMMANDS:
        done = empty.said("ringkeeper", *command, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, ""), command
        (line,) = done.stderr.splitlines()
        assert line.startswith("ringkeeper: "), command
        assert "is not installed; the daemon and the command need an extra" in line, command
        assert "pip install '/path/to/ringkeeper[daemon]'" in line, command

    empty.install(built.wheel, RUN.read_text())
    demo = ("demo", "--seconds", "6", "--interval", "3", "--json")
    done = empty.said("ringkeeper", *demo, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rejected"] == 0
    done = empty.said("ringkeeper", "completion", "zsh", cwd=tmp_path)
    assert done.stdout.startswith("#compdef ringkeeper\n")


def test_an_interpreter_that_is_not_there_is_none() -> None:
    assert interpreter("2.99") is None
