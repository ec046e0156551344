"""What pages show and no other test runs: the runbooks' commands, settings, small snippets."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import ringkeeper
import ringkeeper.testing
from ringkeeper.configuration import parse
from ringkeeper.errors import ExpiredToken, RevokedKid, TokenError
from ringkeeper.tokens import kid_in
from tests.docs.test_docs import PAGES, ROOT, blocks, commands, names
from tests.docs.test_howto import Walk, change

RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
METRICS = (ROOT / "docs/metrics.md").read_text()
SPIKES = (ROOT / "docs/refresh-spikes.md").read_text()
SECRETS = (ROOT / "docs/secrets.md").read_text()
SOURCES = "\n".join(
    path.read_text()
    for folder in ("client/ringkeeper", "daemon/ringkeeperd")
    for path in (ROOT / folder).glob("*.py")
)
LOGS = ("journalctl", "docker", "kubectl")
STUB = '#!/bin/sh\ncat "$(dirname "$0")/../0.log" "$(dirname "$0")/../events"\n'
SNIPPETS = [
    (name, number)
    for name in names(PAGES)
    for number, _ in enumerate(blocks((ROOT / name).read_text(), "yaml"))
]


@pytest.fixture
def walk() -> Iterator[Walk]:
    made_here = Walk()
    try:
        yield made_here
    finally:
        made_here.place.close()


# --- runbooks ------------------------------------------------------------------------------------


def looked_for() -> set[str]:
    """What the pages look for in a daemon's log."""
    texts = [METRICS, *(page.read_text() for page in RUNBOOKS)]
    found = re.findall(r"\| grep (?:-E )?'([^']+)'", "\n".join(texts))
    return {word for each in found for word in each.split("|")}


def test_what_runbooks_look_for_in_the_log_is_what_daemons_write() -> None:
    assert len(looked_for()) >= 8
    assert {word for word in looked_for() if f'"{word}' not in SOURCES} == set()


@pytest.mark.long
def test_every_command_of_a_runbook_runs_beside_a_daemon(walk: Walk) -> None:
    """What is not ours (the journal, systemd) is played; all else is the real thing."""
    texts = [METRICS, SPIKES, *(page.read_text() for page in RUNBOOKS)]
    shown = {
        line for text in texts for line in commands(re.sub(r"^ {2}", "", text, flags=re.MULTILINE))
    }
    assert len(shown) >= 20
    tools = walk.folder / "bin"
    tools.mkdir()
    (walk.folder / "events").write_text("\n".join(sorted(looked_for())))
    for name in (*LOGS, "systemctl"):
        (tools / name).write_text(STUB)
        (tools / name).chmod(0o755)
    walk.place.environment["PATH"] = f"{tools}:{walk.place.environment['PATH']}"
    making = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=redis"
    files = ("-keyout", "/dev/null", "-out", "FILE")
    subprocess.run([*making.split(), *files], cwd=walk.folder, check=True, capture_output=True)
    walk.start()
    for line in sorted(shown):
        told = walk.does(f"$ {line}\n")
        assert told or line.startswith(("ss ", "ringkeeper set")), line


def test_every_runbook_says_what_to_look_at() -> None:
    for page in RUNBOOKS:
        assert commands(page.read_text()), page.name


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), SNIPPETS)
def test_settings_that_are_shown_are_a_configuration(
    name: str, number: int, tmp_path: Path
) -> None:
    document = yaml.safe_load(blocks((ROOT / name).read_text(), "yaml")[number])
    if name == "deploy/k8s/README.md":  # manifests, which test_kubernetes_readme.py renders
        assert isinstance(document, dict | list)
        return
    whole = {"redis": {"url": "redis://localhost"}, **document}
    assert parse(whole, {}, base=tmp_path).rings


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.long
def test_secrets_are_made_and_changed_as_the_page_says(walk: Walk) -> None:
    make, new_kek, new_root, _ = blocks(SECRETS, "console")  # the last one: test_changing_secrets
    walk.does(make.replace("$ ringkeeper init --if", "$ cp -r secrets var && ringkeeper init --if"))
    walk.start()
    before = {name: (walk.folder / "var" / name).read_text() for name in ("kek.jwk", "root.jwk")}
    for block in (new_kek, new_root):
        change(walk, re.sub(r"^\$ ….*\n", "", block, flags=re.MULTILINE))
    for name, text in before.items():
        assert (walk.folder / "var" / name).read_text() != text
    token = walk.does("$ ringkeeper token sign\n").strip()
    walk.does(f"$ ringkeeper token verify {token}\n")


# --- snippets ------------------------------------------------------------------------------------


def test_the_answer_after_a_revocation_spreads_the_crowd() -> None:
    _, code = blocks(re.sub(r"^ {2}", "", SPIKES, flags=re.MULTILINE), "python")
    body = "\n".join(f"    {line}" for line in code.splitlines())
    made: dict[str, Any] = {"TokenError": TokenError}
    exec(f"def answer(ring, token):\n    try:\n        ring.verify(token)\n{body}\n", made)  # noqa: S102
    with ringkeeper.testing.keyring() as ring:
        token = ring.sign({"sub": "alice"})
        ring.revoke(kid_in(token))
        with pytest.raises(RevokedKid):
            ring.verify(token)
        assert made["answer"](ring, token) == (401, {})
        ring.crowd = 7
        assert made["answer"](ring, token) == (401, {"Retry-After": "7"})
        assert ring.refreshes == {"revoked_kid": 2}


async def test_the_middleware_that_is_shown_counts_and_touches_nothing() -> None:
    code, _ = blocks(re.sub(r"^ {2}", "", SPIKES, flags=re.MULTILINE), "python")
    ring, seen = ringkeeper.testing.keyring(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    code, replaced = re.subn(r"^ring = .*$", "", code, flags=re.MULTILINE)
    assert replaced == 1
    made: dict[str, Any] = {"FastAPI": lambda: app, "ring": ring}
    exec(code, made)  # noqa: S102
    for method in ("POST", "GET"):
        scope = {"type": "http", "method": method, "path": "/auth/session/refresh"}
        await made["app"](scope, None, None)
    assert seen == ["/auth/session/refresh"] * 2
    assert ring.refreshes == {"other": 1}


def test_a_file_is_read_of_one_version_as_shown(tmp_path: Path) -> None:
    (code,) = blocks((ROOT / "docs/files.md").read_text(), "python")
    (tmp_path / "..v1").mkdir()
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "..v1/signing-key.jwk").write_text("{}")
    made: dict[str, Any] = {}
    exec(code.replace("/run/ringkeeper", str(tmp_path)), made)  # noqa: S102
    os.close(made["folder"])
    assert made["key"] == "{}"


def test_the_session_that_is_shown_is_one_that_can_be_signed() -> None:
    page = (ROOT / "docs/supertokens.md").read_text()
    (code,) = [each for each in blocks(page, "python") if each.startswith("ring.sign(")]
    with ringkeeper.testing.keyring(access_token_validity=300) as ring:
        given = {"ring": ring, "user": "alice", "refresh_token": "r"}
        before = "import uuid\nfrom hashlib import sha256\nmade = "
        exec(before + code, given)  # noqa: S102
        assert ring.verify(str(given["made"]))["sub"] == "alice"
        ring.advance("7m")
        with pytest.raises(ExpiredToken):
            ring.verify(str(given["made"]))


def test_the_rules_for_prometheus_are_installed_as_shown(tmp_path: Path) -> None:
    lines = commands((ROOT / "deploy/README.md").read_text())
    script = "\n".join(lines).replace("/etc/prometheus", str(tmp_path))
    assert "promtool check rules" in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode == 127:
        pytest.skip("promtool is not installed: run make provision")
    assert done.returncode == 0, done.stderr
