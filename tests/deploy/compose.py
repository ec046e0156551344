"""Runs a compose file's services as `docker compose up` would, as far as ours use it, by podman.

There is no compose program to be had without a registry. All services share one network namespace,
where each name is the loopback, so their ports must differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.containers import READ_ONLY, Container, Host
from tests.deploy.images import podman
from tests.plugins.daemons import eventually

# What is understood here of a service: a key that is not would be left out without a word.
UNDERSTOOD = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck",
    "image", "ports", "profiles", "read_only", "restart", "security_opt", "volumes",
}  # fmt: skip


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """The text of a compose file with its `${NAME:-default}` filled in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], text)


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """A compose file, its variables filled in and its anchors followed."""
    document: dict[str, Any] = yaml.safe_load(interpolated(path.read_text(), variables))
    return document


class Project:
    """The services of one compose file on one host."""

    def __init__(self, path: Path, host: Host, variables: Mapping[str, str]) -> None:
        self.folder = path.parent
        self.host = host
        self.services: dict[str, dict[str, Any]] = read(path, variables)["services"]
        self.containers: dict[str, Container] = {}

    def start_alone(self, name: str) -> None:
        """Start that one without waiting for what it depends on, as podman-compose 1.0 does."""
        self.containers[name] = self._start(self.services[name])

    def up(self, *names: str) -> None:
        """Start these, each once those that it depends on are as far as it wants them."""
        for name in names:
            for other, when in self.services[name].get("depends_on", {}).items():
                if other not in self.containers:
                    self.up(other)
                self._wait(other, when["condition"])
            if name not in self.containers:
                self.containers[name] = self._start(self.services[name])

    def _wait(self, name: str, condition: str) -> None:
        container = self.containers[name]
        if condition == "service_completed_successfully":
            eventually(lambda: not container.is_running, within=60)
            assert container.state["ExitCode"] == 0, container.log
        elif condition == "service_healthy":
            check = ("healthcheck", "run", container.id)
            eventually(lambda: podman(*check, check=False).returncode == 0, within=60)
        else:
            assert condition == "service_started"

    def _start(self, service: dict[str, Any]) -> Container:
        assert set(service) <= UNDERSTOOD, service
        options = [f"--add-host={name}:127.0.0.1" for name in self.services]
        options += [f"--volume={self._volume(volume)}" for volume in service.get("volumes", ())]
        options += [f"--cap-drop={capability}" for capability in service.get("cap_drop", ())]
        options += [f"--security-opt={told}" for told in service.get("security_opt", ())]
        options += READ_ONLY if service.get("read_only") else []
        if test := service.get("healthcheck", {}).get("test"):
            assert test[0] == "CMD"
            options.append(f"--health-cmd={' '.join(test[1:])}")
        command = service.get("command", [])
        if "entrypoint" in service:
            options.append(f"--entrypoint={service['entrypoint'][0]}")
            command = [*service["entrypoint"][1:], *command]
        environment = {name: str(value) for name, value in service.get("environment", {}).items()}
        # What is to be started anew for ever would outlive the test.
        if service.get("restart", "").startswith("on-failure:"):
            options.append(f"--restart={service['restart']}")
        return self.host.start(service["image"], *command, options=options, **environment)

    def _volume(self, told: str) -> str:
        source, _, rest = told.partition(":")
        if source.startswith("."):
            return f"{(self.folder / source).resolve()}:{rest}"
        return f"{self.host.volume(source)}:{rest}"
