"""Files for apps, from the systemd service: other units read them, whatever becomes of the daemon."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.deploy.machines import REPOSITORY, Machine
from tests.deploy.services import FILES_UNIT, Service
from tests.plugins.daemons import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

FOLDER = "/run/ringkeeper"
JWKS = f"{FOLDER}/jwks.json"
KEYS = (f"{FOLDER}/signing-key.jwk", f"{FOLDER}/signing-key.pem")
PYTHON = "/opt/ringkeeper/bin/python"
GROUP = "apps"
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534")
READER = f"""
import json, signal, time
ends, texts, faults, reads = [], set(), [], 0
signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
while not ends:
    try:
        with open("{JWKS}") as file:
            text = file.read()
        assert json.loads(text)["keys"], "there is no key"
        texts.add(text)
    except (OSError, ValueError, AssertionError) as error:
        faults.append(repr(error))
    reads += 1
    time.sleep(0.0005)
print(json.dumps([reads, len(texts), len(faults), faults[:3]]))
"""
RECEIVER = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8000), Answer).serve_forever()
"""


@pytest.fixture
def with_files(service: Service) -> Iterator[Service]:
    """It leads a ring of this test's own, and keeps files, with the key that signs."""
    run = service.machine.run
    run("redis-cli", "flushall")
    run("sh", "-c", "rm -rf /var/lib/private/ringkeeper/*")
    run("ringkeeper", "init")
    start(service)
    yield service
    service.close()
    run("sh", "-c", f"systemctl stop 'other-*'; groupdel {GROUP} || true", is_checked=False)


def start(service: Service, verb: str = "start", **settings: Any) -> None:
    service.configure(files={"directory": FOLDER, "signing_key": True}, **settings)
    service.do(verb)
    eventually(service.leads, within=15)
    eventually(lambda: read(service, JWKS) and read(service, KEYS[0]))


def read(service: Service, path: str) -> str:
    return service.machine.run("cat", path, is_checked=False).stdout


def rotate(service: Service) -> None:
    """Let another key sign; the files say so when this ends."""
    former = read(service, KEYS[0])
    told = service.machine.run(
        "ringkeeper", "rotate", "--now", "--reason", "a test", "--no-wait"
    ).stdout
    assert "signs at once" in told
    eventually(lambda: kid(service) not in ("", json.loads(former)["kid"]), within=15)


def kid(service: Service) -> str:
    text = read(service, KEYS[0])
    return str(json.loads(text)["kid"]) if text else ""


def looks(service: Service, *paths: str) -> list[str]:
    """Mode and group of each file, all of which are the daemon's."""
    told = service.machine.run("stat", "-L", "-c", "%a %u %g", *paths).stdout
    user = service.machine.run("ps", "-o", "uid=", "-p", str(service.pid)).stdout.strip()
    assert {line.split()[1] for line in told.splitlines()} == {user}
    return [line.replace(f" {user}", " own") for line in told.splitlines()]


def other_unit(machine: Machine, name: str, *command: str) -> None:
    """Another unit, of a user of its own."""
    machine.run("systemd-run", f"--unit=other-{name}", "-p", "DynamicUser=yes", *command)


def said_by(machine: Machine, name: str) -> str:
    return machine.run("journalctl", "-o", "cat", "-u", f"other-{name}").stdout


def test_a_reader_in_another_unit_misses_nothing_while_the_daemon_comes_and_goes(
    with_files: Service,
) -> None:
    machine = with_files.machine
    other_unit(machine, "reader", PYTHON, "-c", READER)
    with_files.do("restart")
    eventually(with_files.leads, within=15)
    pid = with_files.pid
    machine.run("kill", "-KILL", str(pid))
    eventually(lambda: with_files.pid not in (0, pid), within=15)
    eventually(with_files.leads, within=15)
    rotate(with_files)
    with_files.configure(access_token_validity="soon")
    with_files.do("restart", is_checked=False)
    assert with_files.show("ActiveState") == "failed"
    start(with_files)
    with_files.do("stop")
    machine.run("systemctl", "stop", "other-reader")
    (told,) = re.findall(r"^\[\d.*\]$", said_by(machine, "reader"), re.MULTILINE)
    reads, texts, faults, first = json.loads(told)
    print(f"\n{reads} reads of {texts} versions")
    assert (faults, first) == (0, [])
    assert reads > 1000
    assert texts >= 2, "before and after the rotation"


def test_the_files_go_when_their_own_unit_is_stopped_and_take_the_daemon_along(
    with_files: Service,
) -> None:
    run = with_files.machine.run
    taken = "/run/systemd/dynamic-uid/direct:ringkeeper"
    with_files.do("stop")
    assert read(with_files, JWKS)
    assert run("readlink", taken).stdout.strip() == run("stat", "-c", "%u", FOLDER).stdout.strip()
    with_files.do("start")
    run("systemctl", "restart", FILES_UNIT)
    eventually(lambda: read(with_files, KEYS[0]), within=15)
    run("systemctl", "stop", FILES_UNIT)
    assert with_files.show("ActiveState") == "inactive"
    assert run("ls", FOLDER, is_checked=False).returncode != 0
    assert run("ls", taken, is_checked=False).returncode != 0


def test_the_key_is_its_owner_s_alone(with_files: Service) -> None:
    assert looks(with_files, JWKS, *KEYS) == ["644 own own", "600 own own", "600 own own"]
    for path in KEYS:
        denied = with_files.machine.run(*AS_NOBODY, "--clear-groups", "cat", path, is_checked=False)
        assert "Permission denied" in denied.stderr


def test_a_group_of_the_unit_s_keeps_the_key_that_it_was_once_given(with_files: Service) -> None:
    run = with_files.machine.run
    run("groupadd", GROUP)
    with_files.unit(f"SupplementaryGroups={GROUP}")
    with_files.do("restart")
    run("chgrp", GROUP, *KEYS)
    run("chmod", "640", *KEYS)
    rotate(with_files)
    assert looks(with_files, *KEYS) == [f"640 own {group_id(with_files)}"] * 2
    as_member = (*AS_NOBODY, f"--groups={group_id(with_files)}")
    assert json.loads(run(*as_member, "cat", KEYS[0]).stdout)["kid"] == kid(with_files)
    assert with_files.show("NRestarts") == "0"


def test_a_group_that_is_configured_may_read_the_key(with_files: Service) -> None:
    run = with_files.machine.run
    run("groupadd", GROUP)
    with_files.unit(f"SupplementaryGroups={GROUP}\nEnvironment=RINGKEEPER_FILES__GROUP={GROUP}")
    with_files.do("restart")
    eventually(
        lambda: looks(with_files, *KEYS) == [f"640 own {group_id(with_files)}"] * 2, within=15
    )
    rotate(with_files)
    assert looks(with_files, *KEYS) == [f"640 own {group_id(with_files)}"] * 2
    assert looks(with_files, JWKS) == ["644 own own"]


def test_without_that_group_one_line_says_so_and_the_daemon_goes_on(with_files: Service) -> None:
    with_files.machine.run("groupadd", GROUP)
    with_files.machine.run("chgrp", GROUP, *KEYS)
    with_files.machine.run("ringkeeper", "rotate", "--now", "--reason", "a test", "--no-wait")
    wanted = f":{group_id(with_files)}, and this user may not give it to them"
    eventually(lambda: wanted in with_files.log(), within=15)
    assert with_files.leads()
    assert with_files.show("NRestarts") == "0"
    assert looks(with_files, KEYS[0]) == [f"600 own {group_id(with_files)}"]


def group_id(service: Service) -> str:
    return service.machine.run("getent", "group", GROUP).stdout.split(":")[2]


# --- on_change -----------------------------------------------------------------------------------


def signal_to_another_user(machine: Machine) -> dict[str, Any]:
    other_unit(machine, "app", "sleep", "infinity")
    pid = machine.run("systemctl", "show", "--value", "-p", "MainPID", "other-app").stdout
    machine.write("/run/other-app.pid", pid)
    return {"pid_file": "/run/other-app.pid"}


@pytest.mark.parametrize(
    ("on_change", "why"),
    [
        (signal_to_another_user, r"/run/other-app\.pid: process \d+: operation not permitted"),
        (
            lambda _: {"command": ["systemctl", "reload", "redis-server"]},
            r"systemctl: exited with \d: ",
        ),
    ],
)
def test_what_needs_a_privilege_is_refused_and_the_log_says_so(
    with_files: Service, on_change: Callable[[Machine], dict[str, Any]], why: str
) -> None:
    start(with_files, "restart", on_change=on_change(with_files.machine))
    rotate(with_files)
    eventually(lambda: re.search(rf'"error": "{why}.*on_change failed', with_files.log()))
    assert with_files.leads()


def test_a_request_reaches_another_unit(with_files: Service) -> None:
    machine = with_files.machine
    other_unit(machine, "app", PYTHON, "-c", RECEIVER)
    start(with_files, "restart", on_change={"url": "http://127.0.0.1:8000/"})
    rotate(with_files)
    eventually(lambda: kid(with_files) in said_by(machine, "app"))


@pytest.mark.runs("docs/files.md", 4, 5)
def test_a_path_unit_as_documented_reloads_once_for_each_change(with_files: Service) -> None:
    machine = with_files.machine
    document = (REPOSITORY / "docs/files.md").read_text()
    (block,) = re.findall(r"```ini\n(.*?)```", document, re.DOTALL)
    (command,) = re.findall(r"command: \[(touch, .*)\]", document)
    units = re.findall(r"^# (/\S+)\n(.*?)(?=^# /|\Z)", block, re.MULTILINE | re.DOTALL)
    assert [path.rpartition(".")[2] for path, _ in units] == ["path", "service"]
    for path, text in units:
        machine.write(path, text)
    reload = f"ExecReload=/bin/sh -c 'cat {JWKS} >/run/had; echo reloaded'"
    machine.write(
        "/run/systemd/system/haproxy.service",
        f"[Service]\nExecStart=/bin/sleep infinity\n{reload}\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "haproxy")
    machine.run("systemctl", "enable", "--now", "haproxy-keys.path")
    try:
        start(with_files, "restart", on_change={"command": command.split(", ")})
        before = reloads(machine)
        rotate(with_files)
        eventually(lambda: read(with_files, "/run/had") == read(with_files, JWKS))
        # As the next proof of freshness does.
        machine.run("touch", "--no-create", *KEYS)
        eventually(lambda: machine.run("sh", "-c", f"ls -d {FOLDER}/..?*/ | wc -l").stdout == "2\n")
        written = with_files.log().count('"event": "on_change done"')
        assert reloads(machine) > before
        assert reloads(machine) <= written, "no proof of freshness does it, nor anything removed"
    finally:
        machine.run(
            "systemctl", "disable", "--now", "haproxy-keys.path", "haproxy", is_checked=False
        )


def reloads(machine: Machine) -> int:
    return (
        machine.run("journalctl", "-o", "cat", "-u", "haproxy")
        .stdout.splitlines()
        .count("reloaded")
    )
