"""Workflows, templates, hooks and the container to work in name what there is, and nothing else."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
YAML = [*sorted(GITHUB.rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PINNED = re.compile(r"^\s*-? *uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*$")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in loaded(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_file_is_yaml_with_lines_that_one_can_read(path: Path) -> None:
    assert isinstance(loaded(path), dict)
    assert max(map(len, path.read_text().splitlines())) <= 130


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_a_commit_and_says_which_version_that_is(path: Path) -> None:
    used = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "      - uses: actions/checkout@v6",
        "      - uses: actions/checkout@de0fac2e # v6.0.2",
        "      - uses: actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd",
        "        uses: docker://alpine:latest",
    ],
)
def test_what_is_not_pinned_so_is_found(line: str) -> None:
    assert not PINNED.fullmatch(line)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_keeps_no_token_ends_in_time_and_takes_no_stranger_s_text(
    path: Path,
) -> None:
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in path.read_text()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 180
        assert "permissions" not in job
    for step in steps(path):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_anybody_can_run_here(path: Path) -> None:
    run = "\n".join(step.get("run", "") for step in steps(path))
    for line in re.findall(r"\bmake ([a-z -]+)", run):
        assert set(line.split()) <= TARGETS
    for program in re.findall(r"(?<![\w/])(?:\.ci|docs|tests)/[\w/.]+", run):
        assert (ROOT / program).exists()


def test_the_matrix_is_every_python_that_we_name_with_every_server() -> None:
    matrix = loaded(GITHUB / "workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [re.fullmatch(r".*Python :: (3\.\d+)", each) for each in project["classifiers"]]
    assert matrix["python"] == [match[1] for match in named if match]
    assert matrix["server"] == ["valkey", "redis"]
    assert (
        'get("RINGKEEPER_TEST_SERVER") == "redis"'
        in (ROOT / "tests/plugins/servers.py").read_text()
    )


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_a_form_for_issues_asks_little_and_has_what_github_wants(name: str) -> None:
    form = loaded(GITHUB / f"ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "labels", "body"} == set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert 2 <= len(fields) <= 4
    assert len({field["id"] for field in fields}) == len(fields)
    for field in fields:
        assert field["type"] in ("input", "textarea")
        assert field["attributes"]["label"]
    assert sum("validations" in field for field in fields) in (1, 2)


def test_whoever_found_a_vulnerability_is_led_to_the_private_way() -> None:
    for name in ("ISSUE_TEMPLATE/bug.yml", "PULL_REQUEST_TEMPLATE.md"):
        assert "SECURITY.md" in (GITHUB / name).read_text()
    assert (ROOT / "SECURITY.md").exists()


def test_hooks_run_what_is_installed_here_and_fetch_nothing() -> None:
    hooks = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        assert "additional_dependencies" not in hook
        program, *rest = hook["entry"].split()
        assert program.startswith(".venv/bin/")
        assert (ROOT / program).exists()
        for path in (word for word in rest if "/" in word):
            assert (ROOT / path).exists()


def test_the_container_to_work_in_is_debian_with_python_and_makes_the_environment() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert re.fullmatch(r".*/python:3\.1[123]-bookworm", container["image"])
    assert "make .venv/dev" in container["onCreateCommand"]
    assert container["forwardPorts"] == [9465]
    for path in re.findall(r"tests/\w+", container["onCreateCommand"]):
        assert (ROOT / path).exists()


def test_the_first_change_that_we_lead_to_needs_nothing_that_is_not_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (block, *_) = re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ").partition("  #")[0] for line in block.splitlines()]
    assert lines[0].strip() == "make .venv/dev"
    assert lines[-1].strip() == "git commit --all"
    paths = re.findall(r"(?:client|daemon|tests)/[\w/.]+", "\n".join(lines))
    assert len(paths) >= 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
