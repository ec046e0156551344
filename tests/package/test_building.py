"""What is built: the same bytes wherever it is built, and all that belongs into it, and no more."""

import email
import io
import json
import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import ringkeeper
from tests.package.distributions import BUILDER, ROOT, Built, build, built_wheel, copy_of_sources

pytestmark = pytest.mark.package
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(opened.read(name))


def members(built: Built) -> tuple[set[str], set[str]]:
    """The files of the wheel, and of the sdist without the folder that all of them are in."""
    with zipfile.ZipFile(built.wheel) as wheel, tarfile.open(built.sdist) as sdist:
        inner = {name.partition("/")[2] for name in sdist.getnames()}
        return set(wheel.namelist()), inner


def test_wheel_and_sdist_are_the_same_bytes_from_another_place_time_and_umask(
    built: Built, tmp_path: Path
) -> None:
    source = copy_of_sources(tmp_path / "elsewhere" / "source")
    for path in source.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(path.stat().st_mode & 0o700)
    again = build(source, tmp_path / "built")
    for first, second in zip(built, again, strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()


def test_a_wheel_by_pip_holds_the_same_files_as_the_one_by_way_of_the_sdist(
    built: Built, tmp_path: Path
) -> None:
    other = built_wheel(copy_of_sources(tmp_path / "source"), tmp_path)
    with zipfile.ZipFile(built.wheel) as first, zipfile.ZipFile(other) as second:
        assert first.namelist() == second.namelist()
        for name in first.namelist():
            assert first.read(name) == second.read(name), name


def test_make_dist_builds_what_is_committed_and_nothing_that_lies_about(tmp_path: Path) -> None:
    """From a clone with a file that is not in it."""
    clone = tmp_path / "clone"
    command = ["git", "clone", "--quiet", str(ROOT), str(clone)]
    subprocess.run(command, check=True, timeout=60)
    (clone / "client/ringkeeper/lies_about.py").touch()
    (clone / ".venv").symlink_to(ROOT / ".venv")
    done = subprocess.run(
        ["make", "-o", ".venv/package/made", "dist", f"DIST={tmp_path / 'dist'}"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PASSED") == 2
    assert not (tmp_path / "dist/source").exists()
    (wheel,), (sdist,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    for names in members(Built(wheel, sdist)):
        assert not [name for name in names if "lies_about" in name]
    committed = subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True)
    with tarfile.open(sdist) as opened:
        assert {member.mtime for member in opened.getmembers()} == {int(committed)}


def test_the_index_would_take_it(built: Built) -> None:
    done = subprocess.run(
        [BUILDER, "-m", "twine", "check", "--strict", *built],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_holds_both_packages_whole_and_nothing_else(built: Built) -> None:
    names, _ = members(built)
    expected = {
        str(path.relative_to(folder))
        for folder in (ROOT / "client", ROOT / "daemon")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"ringkeeper-{ringkeeper.__version__}.dist-info"
    assert {name for name in names if not name.startswith(info)} == expected
    assert {"ringkeeper/py.typed", "ringkeeperd/py.typed"} <= expected
    own = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert {name.removeprefix(f"{info}/") for name in names if name.startswith(info)} == own


def test_the_sdist_is_enough_to_work_on_and_holds_no_leftovers(built: Built) -> None:
    _, names = members(built)
    assert {
        ".ci/run",
        ".github/workflows/ci.yml",
        "Makefile",
        "pyproject.toml",
        "LICENSE",
        "requirements/run.txt",
        "tests/conftest.py",
    } <= names
    assert "deploy/man/ringkeeper.1" in names
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {".git", ".venv", "var", "dist", "node_modules", "__pycache__"}


def test_neither_names_a_place_of_the_machine_that_built_it(built: Built) -> None:
    texts: list[tuple[str, bytes]] = []
    with zipfile.ZipFile(built.wheel) as wheel:
        texts += [(name, wheel.read(name)) for name in wheel.namelist()]
    with tarfile.open(built.sdist) as sdist:
        for member in sdist.getmembers():
            texts.append((member.name, (sdist.extractfile(member) or io.BytesIO()).read()))
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
    places = [str(ROOT).encode(), str(Path.home()).encode() + b"/."]
    found = [(name, place) for name, text in texts for place in places if place in text]
    assert found == []


def test_the_metadata_say_what_it_is(built: Built) -> None:
    told = metadata(built.wheel)
    assert told["Name"] == "ringkeeper"
    assert told["Version"] == ringkeeper.__version__
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    assert "logging anybody out" in told["Summary"]
    classifiers = told.get_all("Classifier") or []
    for version in ("3 :: Only", "3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers
    light = [name for name in told.get_all("Requires-Dist") or [] if "extra ==" not in name]
    assert {re.split(r"[\[<>=]", name)[0] for name in light} == {
        "cryptography", "joserfc", "msgspec", "pybase64", "redis",
    }  # fmt: skip
    extras = set(told.get_all("Provides-Extra") or [])
    assert extras == {name.replace("_", "-") for name in PROJECT["optional-dependencies"]}


def test_every_classifier_is_one_that_exists() -> None:
    code = "import json, trove_classifiers as t; print(json.dumps(sorted(t.classifiers)))"
    known = json.loads(subprocess.check_output([BUILDER, "-c", code], text=True))
    assert set(PROJECT["classifiers"]) <= set(known)
    assert PROJECT["classifiers"] == sorted(PROJECT["classifiers"])


def test_the_version_is_the_same_wherever_it_stands() -> None:
    assert PROJECT["version"] == ringkeeper.__version__
    assert f"ARG VERSION={ringkeeper.__version__}\n" in (ROOT / "Dockerfile").read_text()
    assert f"{ringkeeper.__version__}, young" in (ROOT / "README.md").read_text()
