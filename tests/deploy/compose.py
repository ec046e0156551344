"""`docker compose`, by the Compose that Debian 12 has: 1.29, which is called docker-compose.

The pages are for Compose 2. What that does and the former one does not, is made up for here:
- It is no plugin of docker's client: PLUGIN makes it one.
- `exec` wants a terminal, unless it is told that there is none; `cp` it does not know, but docker does.
- It knows no `name` in a compose file: that line is taken out, and the name is told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.engines import Docker, checkout
from tests.plugins.daemons import eventually

PLUGIN = """#!/bin/sh -e
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "Debian", "Version": "1.29.2"}'
    exit
fi
shift # the word "compose"
case "$1" in
    exec)
        shift
        [ -t 0 ] || set -- -T "$@"
        exec docker-compose exec "$@"
        ;;
    cp) exec docker cp "$(docker-compose ps --quiet "${2%%:*}"):${2#*:}" "$3" ;;
    *) exec docker-compose "$@" ;;
esac
"""
STAND_INS = {
    # As the real one: it lets in whoever reaches it.
    "REDIS_IMAGE": """FROM {redis}
ENTRYPOINT ["sh", "-c", "exec \\"$@\\" --protected-mode no", "sh"]
""",
    "PROMETHEUS_IMAGE": """FROM {prometheus}
RUN mkdir /prometheus && chown nobody /prometheus
USER nobody
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
""",
    # It is there, and that is all: Debian has none.
    "GRAFANA_IMAGE": """FROM {base}
ENTRYPOINT ["sleep", "infinity"]
""",
}
"""The images of others, by their variable: Debian's programs, called as the real images' are."""
_NAMED = re.compile(r"^name: (\w+)\n", re.MULTILINE)


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """The text of a compose file with its `${NAME:-default}` filled in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], text)


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """A compose file, its variables filled in and its anchors followed."""
    document: dict[str, Any] = yaml.safe_load(interpolated(path.read_text(), variables))
    return document


class Project:
    """A checkout with the compose file of deploy/compose, and who types there."""

    def __init__(self, docker: Docker, base: str, variables: Mapping[str, str]) -> None:
        for needed in ("/usr/bin/docker-compose", "/usr/lib/cni/dnsname"):
            if not Path(needed).exists():
                pytest.skip(f"{needed} is not there: run tests/provision deploy")
        self.docker = docker
        self.root = checkout(docker.folder / "checkout", base)
        self.folder = self.root / "deploy/compose"
        plugin = docker.folder / "cli-plugins/docker-compose"
        plugin.parent.mkdir()
        plugin.write_text(PLUGIN)
        plugin.chmod(0o755)
        file = self.folder / "compose.yaml"
        (name,) = _NAMED.findall(file.read_text())
        file.write_text(_NAMED.sub("", file.read_text()))
        told = {"PYTHON_IMAGE": base, "COMPOSE_PROJECT_NAME": name, "HOME": str(docker.folder)}
        docker.environment |= {**told, **variables}
        (docker.folder / ".curlrc").write_text("retry = 30\nretry-delay = 1\nretry-connrefused\n")

    def does(self, script: str, folder: Path | None = None) -> str:
        """What it prints, typed beside the compose file, while the health of Redis is looked after."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.docker.does, script, folder or self.folder)

            def is_done() -> bool:
                self.docker.check_health("label=com.docker.compose.service=redis")
                return done.done()

            eventually(is_done, within=400)
            return done.result()

    def id_of(self, service: str) -> str:
        return self.docker.does(f"docker compose ps --quiet {service}", self.folder)

    def inspected(self, service: str, what: str) -> str:
        """Something of its container, as docker's client calls it."""
        return self.docker.does(f"docker inspect --format '{{{{{what}}}}}' {self.id_of(service)}")

    def log(self, service: str) -> str:
        return self.docker.does(f"docker logs {self.id_of(service)} 2>&1")


@pytest.fixture
def stand_ins(
    docker: Docker, base_image: str, redis_image: str, prometheus_image: str
) -> dict[str, str]:
    """The variables with the images of others, built in that engine."""
    known = {"base": base_image, "redis": redis_image, "prometheus": prometheus_image}
    made = {name: f"localhost/{name.lower()}:test" for name in STAND_INS}
    for name, text in STAND_INS.items():
        folder = docker.folder / name
        folder.mkdir()
        (folder / "Dockerfile").write_text(text.format_map(known))
        docker.does(f"docker build --tag {made[name]} .", folder)
    return made
