"""What deploy/ hands out works with this release, and is as closed as it says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ringkeeper.configuration import parse
from ringkeeperd.cli import _USAGE
from ringkeeperd.command_line.tree import parser

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/systemd"
README = (FOLDER / "README.md").read_text()
SCRIPT = (FOLDER / "install.sh").read_text()
UNIT = (FOLDER / "ringkeeper.service").read_text()
FILES_UNIT = (FOLDER / "ringkeeper-files.service").read_text()


# --- systemd -------------------------------------------------------------------------------------


def values(key: str, unit: str = UNIT) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)


def test_the_unit_starts_what_exists_and_reloads_by_sighup() -> None:
    (command,) = values("ExecStart")
    program, *arguments = shlex.split(command)
    assert Path(program).name == "ringkeeper"
    assert str(parser(is_demo=False).parse_args(arguments).config) == "/etc/ringkeeper/config.yaml"
    assert values("ExecReload") == ["/bin/kill -HUP $MAINPID"]


def test_the_units_name_documentation_that_the_script_installs() -> None:
    documentation = values("Documentation") + values("Documentation", FILES_UNIT)
    (default,) = re.findall(r"^prefix=(.*)$", SCRIPT, re.MULTILINE)
    names = [each.removeprefix(f"file://{default}/") for each in documentation]
    (copied,) = re.findall(r'^cp -r (.*) "\$prefix/"$', SCRIPT, re.MULTILINE)
    sources = [each.strip('"').removeprefix("$source/") for each in copied.split()]
    assert {name.partition("/")[0] for name in names} <= set(sources)
    assert all((ROOT / each).exists() for each in (*sources, *names))


def test_a_start_that_cannot_work_is_not_tried_again() -> None:
    """But one without Redis, or while something else has the port, is."""
    (statuses,) = values("RestartPreventExitStatus")
    assert statuses.split() == [str(_USAGE)]


def test_what_is_used_was_installed_before() -> None:
    steps = ["deploy/systemd/install.sh --redis", "systemctl enable --now", "systemctl status"]
    assert sorted(steps, key=README.index) == steps
    done = ['"$pip" install', 'install -m 644 "', "systemctl daemon-reload", '/ringkeeper" init']
    assert sorted(done, key=SCRIPT.rindex) == done


def test_the_readme_knows_the_script_s_options_and_the_unit_s_lines() -> None:
    told = subprocess.run(
        ["sh", str(FOLDER / "install.sh"), "--help"], capture_output=True, check=True
    )
    named = set(re.findall(r"(?<![\w-])--[a-z-]+", README))
    assert named - {"--now"} <= set(re.findall(r"--[a-z-]+", told.stdout.decode()))
    for key, value in re.findall(r"exit status (2)|every (\d) s", README):
        assert (
            values("RestartPreventExitStatus") == [key]
            if key
            else values("RestartSec") == [f"{value}s"]
        )
    assert {"/run/ringkeeper", "/etc/ringkeeper", "/opt/ringkeeper"} <= set(
        re.findall(r"/(?:run|etc|opt)/ringkeeper", README)
    )


def test_the_folder_of_files_is_a_unit_s_that_stays_and_the_daemon_s_to_write_to() -> None:
    assert values("RuntimeDirectory") == [], "it would go with each stop of the daemon"
    assert values("RuntimeDirectory", FILES_UNIT) == ["ringkeeper"]
    assert values("RuntimeDirectoryMode", FILES_UNIT) == ["0755"]
    assert values("ReadWritePaths") == ["-/run/ringkeeper"]
    assert values("User") == values("User", FILES_UNIT) == ["ringkeeper"]
    assert values("DynamicUser") == values("DynamicUser", FILES_UNIT) == ["yes"]
    assert values("Requires") == ["ringkeeper-files.service"]
    assert "ringkeeper-files.service" in values("After")
    for key in ("PartOf", "StopWhenUnneeded"):
        assert values(key, FILES_UNIT) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="it installs as root alone")
@pytest.mark.parametrize("options", [[], ["--uninstall"]])
def test_a_folder_that_is_not_ringkeeper_s_is_neither_installed_into_nor_removed(
    options: list[str],
) -> None:
    """Such as /usr/local, where the command is a link of that very name."""
    with tempfile.TemporaryDirectory(prefix="rk-prefix-", dir="/var/lib") as name:
        prefix = Path(name)
        (prefix / "bin").mkdir()
        (prefix / "bin/ringkeeper").symlink_to("/opt/ringkeeper/bin/ringkeeper")
        told = subprocess.run(
            ["sh", str(FOLDER / "install.sh"), "--prefix", name, *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (told.returncode, told.stdout) == (1, "")
        assert "is not empty, and not ringkeeper's" in told.stderr
        assert [path.name for path in prefix.iterdir()] == ["bin"]


def test_a_script_that_may_not_install_changes_nothing_and_says_why() -> None:
    script = str(FOLDER / "install.sh")
    for options, why in (
        (["--wrong"], "--wrong: no such option; see --help"),
        (["--prefix"], "--prefix: is missing its value; see --help"),
    ):
        told = subprocess.run(["sh", script, *options], capture_output=True, text=True, check=False)
        assert (told.returncode, told.stderr) == (1, f"install.sh: {why}\n")
    if shutil.which("setpriv") and os.geteuid() == 0:
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        with Path(script).open() as text:  # by its name nobody might not be let in
            told = subprocess.run(
                [*as_nobody, "sh"], stdin=text, capture_output=True, text=True, check=False
            )
        assert told.returncode == 1
        assert "must be root: " in told.stderr
    for options, why in (
        (["--redis", "redis://:secret-word@host"], "holds a password"),
        (["--prefix", "/usr"], "must be a folder of its own"),
        (["--prefix", "/opt/no-such/"], "must be a path of plain letters"),
        (["--prefix", "/opt/no-such/.."], "must be a path of plain letters"),
        (["--prefix", "//"], "must be a path of plain letters"),
        (["--prefix", "/home/me/ringkeeper"], "the service cannot see it there"),
        (["--prefix", "here"], "must begin with /"),
    ):
        if os.geteuid() == 0:
            told = subprocess.run(
                ["sh", script, *options], capture_output=True, text=True, check=False
            )
            assert told.returncode == 1
            assert why in told.stderr
            assert "secret-word" not in told.stderr


def test_the_script_runs_and_its_example_names_settings_that_there_are() -> None:
    assert os.access(FOLDER / "install.sh", os.X_OK)
    example = (FOLDER / "ringkeeper.env").read_text()
    settings = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert len(settings) == 4
    parse({"redis": {"url": "redis://localhost"}}, settings, base=Path("/etc/ringkeeper"))


def test_the_unit_wants_to_be_told_by_the_daemon_alone_and_within_30_s() -> None:
    assert values("WatchdogSec") == ["30s"]
    assert values("Type") == ["notify"]
    assert values("NotifyAccess") == ["main"]


def test_the_unit_s_credentials_are_where_the_daemon_looks(tmp_path: Path) -> None:
    handed = {value.partition(":")[0] for value in values("LoadCredential")}
    configuration = parse(
        {"redis": {"url": "redis://localhost"}},
        {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        base=Path("/etc/ringkeeper"),
        is_there=lambda path: path.parent == tmp_path and path.name in handed,
    )
    secrets = (configuration.trust_root, configuration.trust_root_public, configuration.kek)
    assert set(secrets) == {tmp_path / name for name in handed}
    assert len(handed) == 3
    assert set(values("SetCredential")) == {rf"{name}:\n" for name in handed}


@pytest.mark.parametrize(
    "line",
    [
        "DynamicUser=yes",
        "Restart=on-failure",
        "StateDirectory=ringkeeper",
        "LimitCORE=0",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "MemoryDenyWriteExecute=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallFilter=@system-service",
    ],
)
def test_the_unit_is_closed(line: str) -> None:
    assert line in UNIT.splitlines()


def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    names = ("ringkeeper.service", "ringkeeper-files.service", "ringkeeper-backup.service")
    units = [tmp_path / name for name in names]
    installed = Path(sys.executable).parent / "ringkeeper"
    for unit in units:
        text = (FOLDER / unit.name).read_text()
        unit.write_text(text.replace("/opt/ringkeeper/bin/ringkeeper ", f"{installed} "))
    timer = tmp_path / "ringkeeper-backup.timer"
    timer.write_text((FOLDER / timer.name).read_text())
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, [*units, timer])],
        capture_output=True,
        text=True,
        check=False,
    )
    # It exits 0 even for a key that it does not know.
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    for unit, most in zip(units, ("15", "5", "25"), strict=True):
        open_to = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert open_to.returncode == 0, open_to.stdout
