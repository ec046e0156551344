"""What pages show and no other test runs: the runbooks' commands, settings, small snippets."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import ringkeeper
import ringkeeper.testing
from ringkeeper.configuration import parse
from ringkeeper.errors import ExpiredToken, RevokedKid, TokenError
from ringkeeper.secret_files import read_pinned_roots
from ringkeeper.tokens import kid_in
from tests.deploy.manifests import why_no_kubectl
from tests.docs.cluster import Cluster, serving
from tests.docs.pages import ROOT, fenced
from tests.docs.test_docs import BIN, PAGES, blocks, commands, names
from tests.docs.test_howto import Walk, change
from tests.plugins.daemons import eventually

RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
METRICS = (ROOT / "docs/metrics.md").read_text()
SPIKES = (ROOT / "docs/refresh-spikes.md").read_text()
SECRETS = (ROOT / "docs/secrets.md").read_text()
RECOVERY = (ROOT / "docs/disaster-recovery.md").read_text()
SOURCES = "\n".join(
    path.read_text()
    for folder in ("client/ringkeeper", "daemon/ringkeeperd")
    for path in (ROOT / folder).glob("*.py")
)
PLAYED = ("journalctl", "docker", "systemctl")
"""Each is asked the same by itself in tests/deploy, by test_systemd.py and test_container.py."""
SYSTEMCTL = """#!/bin/sh
set -eu
case "$*" in
daemon-reload)
    sed -i 's|/opt/ringkeeper/bin/ringkeeper |{ringkeeper} |' {folder}/*.service
    systemd-analyze verify --man=no {folder}/*.service {folder}/*.timer
    echo reloaded ;;
"enable --now ringkeeper-backup.timer") grep -q WantedBy= "{folder}/$3" && echo enabled ;;
*) exit 2 ;;
esac
"""
STUB = """#!/bin/sh
case "$(basename "$0") $*" in
"journalctl -u ringkeeper -o cat" | "journalctl -u ringkeeper -o cat -n 20") ;;
"systemctl status ringkeeper" | "docker logs ringkeeper") ;;
*) echo "nobody plays: $0 $*" >&2; exit 2 ;;
esac
cat "$(dirname "$0")/../0.log" "$(dirname "$0")/../events"
"""
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


@pytest.mark.runs("docs/runbooks/*.md", "console")
@pytest.mark.runs("docs/metrics.md", 1)
@pytest.mark.runs("docs/refresh-spikes.md", 2)
@pytest.mark.long
def test_every_command_of_a_runbook_runs_beside_a_daemon(walk: Walk) -> None:
    """The journal, systemd and docker are played here; kubectl is real, and asks for pods of ours."""
    if why_no_kubectl():
        pytest.skip(why_no_kubectl())
    texts = [METRICS, SPIKES, *(page.read_text() for page in RUNBOOKS)]
    shown = {line for text in texts for line in commands(text)}
    assert len(shown) >= 20
    tools = walk.folder / "bin"
    tools.mkdir()
    events = walk.folder / "events"
    events.write_text("\n".join(sorted(looked_for())))
    for name in PLAYED:
        (tools / name).write_text(STUB)
        (tools / name).chmod(0o755)
    walk.place.environment["PATH"] = f"{tools}:{walk.place.environment['PATH']}"
    making = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=redis"
    files = ("-keyout", "/dev/null", "-out", "FILE")
    subprocess.run([*making.split(), *files], cwd=walk.folder, check=True, capture_output=True)
    walk.place.environment["KUBECONFIG"] = str(walk.folder / "kubeconfig")
    walk.start()
    cluster = Cluster(logs={"POD": events, "another": events})
    with serving(cluster, walk.folder / "kubeconfig"):
        for line in sorted(shown):
            told = walk.does(f"$ {line}\n")
            assert told or line.startswith(("ss ", "ringkeeper set")), line
            # Of several pods kubectl tells in the order in which they answer.
            of_a_pod = told.startswith(("[pod/POD/ringkeeper] ", "[pod/another/ringkeeper] "))
            assert of_a_pod == ("--prefix" in line), line


def test_every_runbook_says_what_to_look_at() -> None:
    for page in RUNBOOKS:
        assert commands(page.read_text()), page.name


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.runs("docs/*.md", "yaml")
@pytest.mark.runs("deploy/systemd/README.md", "yaml")
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


@pytest.mark.runs("docs/secrets.md", 1, 2, 3)
@pytest.mark.long
def test_secrets_are_made_and_changed_as_the_page_says(walk: Walk) -> None:
    make, new_kek, new_root, _ = blocks(SECRETS, "console")
    walk.does(make.replace("$ ringkeeper init --if", "$ cp -r secrets var && ringkeeper init --if"))
    walk.start()
    before = {name: (walk.folder / "var" / name).read_text() for name in ("kek.jwk", "root.jwk")}
    for block in (new_kek, new_root):
        change(walk, re.sub(r"^\$ ….*\n", "", block, flags=re.MULTILINE))
    for name, text in before.items():
        assert (walk.folder / "var" / name).read_text() != text
    token = walk.does("$ ringkeeper token sign\n").strip()
    walk.does(f"$ ringkeeper token verify {token}\n")


@pytest.mark.long
@pytest.mark.runs("docs/secrets.md", 4)
def test_a_lost_root_is_replaced_as_the_page_says(walk: Walk) -> None:
    *_, block = blocks(SECRETS, "console")
    make, _, rest = block.partition("$ …")
    (exported,) = [line for line in make.splitlines() if line.startswith("$ export ")]
    asked = [line for line in rest.splitlines() if line.startswith("$ ringkeeper ")]
    assert len(asked) == 2
    secrets = {"root.jwk", "root.pub.jwk", "kek.jwk"}
    named = {
        f"trust_root{'_public' * ('pub' in each)}" if "root" in each else "kek": each
        for each in secrets
    }
    with (walk.folder / "config.yaml").open("a") as config:
        config.write("".join(f"\n{key}: {name}" for key, name in named.items()))
    walk.start()
    assert secrets <= {path.name for path in walk.folder.iterdir()}
    token = walk.does("$ ringkeeper token sign\n").strip()
    (walk.folder / "root.jwk").unlink()
    walk.does(make)
    shutil.copy(walk.folder / "fresh/root.pub.jwk", walk.folder)
    shutil.copy(walk.folder / "fresh/root.jwk", walk.folder)
    walk.place.processes[0].send_signal(signal.SIGHUP)

    def is_done() -> bool:
        with suppress(AssertionError):
            return bool(walk.does(f"{exported}\n", f"{asked[0]}\n"))
        return False

    eventually(is_done)
    walk.does(f"{exported}\n", f"{asked[1]}\n")
    shutil.copy(walk.folder / "fresh/root.pub.jwk", walk.folder)
    assert len(read_pinned_roots(walk.folder / "root.pub.jwk").kids) == 1
    walk.does(f"$ ringkeeper token verify {token}\n$ ringkeeper check\n")


# --- backups -------------------------------------------------------------------------------------


@pytest.mark.runs("docs/disaster-recovery.md", 2)
def test_cron_makes_a_backup_as_shown(walk: Walk) -> None:
    """Its lines are a crontab's: variables, five fields, and a command for /bin/sh."""
    table, backups = blocks(RECOVERY, "text"), walk.folder / "backups"
    variable, line = table[0].splitlines()
    assert re.fullmatch(r"[A-Z]+=\S+", variable)
    *when, command = line.split(maxsplit=5)
    for each, last in zip(when, (59, 23, 31, 12, 7), strict=True):
        assert each == "*" or 0 <= int(each) <= last
    walk.start()
    for path, ours in (
        ("/usr/local/bin/ringkeeper", "ringkeeper"),
        ("/etc/ringkeeper/config.yaml", "config.yaml"),
        ("/var/backups/ringkeeper", str(backups)),
    ):
        assert path in command
        command = command.replace(path, ours)
    backups.mkdir(mode=0o700)
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=walk.folder, env=walk.place.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (made,) = backups.iterdir()
    walk.does(f"$ ringkeeper backup --check {made}\n")


@pytest.mark.runs("docs/disaster-recovery.md", 3)
def test_the_timer_is_installed_as_shown(tmp_path: Path) -> None:
    """Played is systemctl: it lets systemd look at what was put there, under the shown name."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    (block,) = blocks(RECOVERY, "sh")
    (tmp_path / "systemctl").write_text(
        SYSTEMCTL.format(folder=tmp_path, ringkeeper=BIN / "ringkeeper")
    )
    (tmp_path / "systemctl").chmod(0o755)
    done = subprocess.run(
        ["sh", "-euc", block.replace("/etc/systemd/system", str(tmp_path))],
        cwd=ROOT, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\nenabled\n", "")


@pytest.mark.runs("docs/files.md", 3)
def test_a_unit_of_an_app_may_read_by_the_group_as_shown(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    (block,) = blocks((ROOT / "docs/files.md").read_text(), "systemd")
    unit = tmp_path / "app.service"
    unit.write_text(f"{block}ExecStart=/bin/sleep 1\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- the future ----------------------------------------------------------------------------------


@pytest.mark.runs("docs/plan.md")
def test_the_future_is_shown_as_on_the_page(walk: Walk) -> None:
    """But for the dates and the kids; of what a change makes of it, a part."""
    shown = fenced((ROOT / "docs/plan.md").read_text())
    pairs = list(zip(shown[::2], shown[1::2], strict=True))
    assert [(a.language, b.language) for a, b in pairs] == [("console", "text")] * 3
    (axis,) = [line for line in shown[1].text.splitlines() if "┬" in line]
    walk.place.environment["COLUMNS"] = str(len(axis))
    walk.start()
    for asked, answer in pairs:
        (line,) = commands(f"```console\n{asked.text}```")
        done = subprocess.run(
            shlex.split(line), cwd=walk.folder, env=walk.place.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        refused = answer.text.startswith("ringkeeper: ")
        assert done.returncode == refused, done.stderr
        told, wanted = without_dates(done.stderr or done.stdout), without_dates(answer.text)
        assert "\n".join(wanted) in "\n".join(told)


def without_dates(text: str) -> list[str]:
    """What is left if one does not know when it was, and who the keys are; bars of no length."""
    if text.startswith("ringkeeper: "):
        return [" ".join(text.split())]
    known: dict[str, str] = {}
    text = re.sub(
        r"[ds]-[\w-]{22}", lambda kid: known.setdefault(kid[0], f"key {len(known)}"), text
    )
    text = re.sub(r"\d{4}(-\d\d){2} (\d\d:){2}\d\d", "then", text)
    text = re.sub(r"([█▒·─ ])\1+", r"\1", text)
    return [line for line in text.splitlines() if not re.search("^ ?[┬─]+$|^key now ", line)]


# --- snippets ------------------------------------------------------------------------------------


@pytest.mark.runs("docs/refresh-spikes.md", 3)
def test_the_answer_after_a_revocation_spreads_the_crowd() -> None:
    _, code = blocks(SPIKES, "python")
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


@pytest.mark.runs("docs/refresh-spikes.md", 1)
async def test_the_middleware_that_is_shown_counts_and_touches_nothing() -> None:
    code, _ = blocks(SPIKES, "python")
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


@pytest.mark.runs("docs/files.md", 2)
def test_a_file_is_read_of_one_version_as_shown(tmp_path: Path) -> None:
    (code,) = blocks((ROOT / "docs/files.md").read_text(), "python")
    (tmp_path / "..v1").mkdir()
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "..v1/signing-key.jwk").write_text("{}")
    made: dict[str, Any] = {}
    exec(code.replace("/run/ringkeeper", str(tmp_path)), made)  # noqa: S102
    os.close(made["folder"])
    assert made["key"] == "{}"


@pytest.mark.runs("docs/supertokens.md", 3)
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


@pytest.mark.runs("deploy/README.md", 1)
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
