"""Engines for docker's client that have nothing in common with this machine's: for a page's own names.

Images, containers and volumes are in a folder of such an engine's own, and may be called as the page
calls them; what it publishes and pulls goes through a network namespace that has no way out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.deploy.containers import Network
from tests.deploy.images import (
    build_arguments,
    podman,
    podman_environment,
    podman_settings,
    wheels,
)
from tests.package.distributions import copy_of_sources
from tests.plugins.daemons import eventually

REGISTRY = "registry.example.com"
"""The one that the pages push to: in such a network it is the loopback."""
_WITHIN = """
mount --bind "$1" /etc/hosts
for folder in /run/containers /run/netns /var/lib/cni /var/lib/containers/cache; do
    mkdir -p $folder
    mount -t tmpfs tmpfs $folder
done
shift
exec "$@"
"""
"""Where podman writes whatever it is told; in a mount namespace of its own nobody else sees that."""


class Docker:
    """Docker's own client, and podman in the place of its engine, which has a network to itself.

    Builds find wheels at /wheels, as images.build() has them (so does every container). With `images`
    the engine knows this machine's, too, which it can read and no more.
    """

    def __init__(self, network: Network, *, images: bool = True) -> None:
        if shutil.which("docker") is None:
            pytest.skip("docker's client is not installed: run tests/provision deploy")
        self.folder = Path(tempfile.mkdtemp(prefix="rk-docker-", dir="/tmp"))
        self.folder.chmod(0o755)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {REGISTRY}\n")
        socket = self.folder / "engine.sock"
        self._settings = self._told(images=images)
        self._engine = subprocess.Popen(
            ["nsenter", f"--net={network.path}", "unshare", "--mount",
             "sh", "-ec", _WITHIN, "sh", str(self.folder / "hosts"),
             "podman", "system", "service", "--time=0", f"unix://{socket}"],
            env=self._settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_CONFIG": str(self.folder),
            "DOCKER_BUILDKIT": "0",  # buildx is another program
        }
        try:
            eventually(lambda: self.shell("docker version").returncode == 0)
        except BaseException:
            self.close()
            raise
        socket.chmod(0o666)  # for users who are not root

    def _told(self, *, images: bool) -> dict[str, str]:
        """Podman's settings, each table of them in a file."""
        folder = self.folder
        shown = podman("info", "--format={{.Store.GraphDriverName}} {{.Store.GraphRoot}}").stdout
        driver, store = shown.split()
        engine = (
            f'lock_type = "file"\ntmp_dir = "{folder}/libpod"\nvolume_path = "{folder}/volumes"\n'
            f'[network]\nnetwork_config_dir = "{folder}/networks"\n'
        )
        texts = {
            "containers": podman_settings(f'volumes = ["{wheels()}:/wheels:ro"]\n', engine),
            "storage": f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/images"\n'
            f'runroot = "{folder}/run"\n[storage.options]\n'
            f"additionalimagestores = {json.dumps([store] if images else [])}\n",
            "registries": f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n',
        }
        for name, text in texts.items():
            (folder / f"{name}.conf").write_text(text)
        return podman_environment() | {
            "CONTAINERS_CONF": f"{folder}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{folder}/registries.conf",
        }

    def shell(
        self, line: str, folder: Path | None = None, user: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`line`, to its end, typed by `user` or by whoever runs this."""
        return subprocess.run(
            ["sh", "-ec", line], cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            user=user, group=user, extra_groups=None if user is None else (),
            capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip

    def does(self, line: str, folder: Path | None = None, user: int | None = None) -> str:
        """What it prints; it must succeed."""
        done = self.shell(line, folder, user)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout.strip()

    def check_health(self, which: str) -> None:
        """Check it once for the containers of a filter; podman leaves that to timers of systemd."""
        there = ("nsenter", f"--target={self._engine.pid}", "--net", "--mount")
        for name in self.does(f"docker ps --quiet --filter {which}").split():
            subprocess.run(
                [*there, "podman", "healthcheck", "run", name],
                env=self._settings, capture_output=True, check=False, timeout=60,
            )  # fmt: skip

    def close(self) -> None:
        """End all that this engine has, and remove it with its folder."""
        self.shell("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes")
        self._engine.terminate()
        self._engine.wait(10)
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            # What watched a command that was executed stays for five minutes, to be asked of it.
            with suppress(OSError):
                if f"{self.folder}/" in command.read_bytes().decode(errors="replace"):
                    os.kill(int(command.parent.name), signal.SIGKILL)
        shutil.rmtree(self.folder)


class Registry:
    """A real registry at port 80 of a network."""

    def __init__(self, network: Network, folder: Path) -> None:
        if shutil.which("docker-registry") is None:
            pytest.skip("docker-registry is not installed: run tests/provision deploy")
        self._network = network
        settings = folder / "registry.yaml"
        settings.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
            'http: {addr: "127.0.0.1:80"}\n'
        )
        self._process = subprocess.Popen(
            ["nsenter", f"--net={network.path}", "docker-registry", "serve", str(settings)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(lambda: network.get("http://127.0.0.1/v2/")[0] == 200)

    def tags(self, name: str) -> list[str]:
        status, body = self._network.get(f"http://127.0.0.1/v2/{name}/tags/list")
        return list(json.loads(body)["tags"]) if status == 200 else []

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def checkout(folder: Path, base: str) -> Path:
    """A copy of this tree, where `docker build .` needs no registry.

    Its Dockerfile differs in the defaults of three arguments: those are what images.build() gives.
    """
    copied = copy_of_sources(folder)
    text = (copied / "Dockerfile").read_text()
    for name, value in build_arguments(base).items():
        text, changed = re.subn(rf"^(ARG {name}=).*$", rf"\g<1>{value}", text, flags=re.MULTILINE)
        assert changed == 1, name
    (copied / "Dockerfile").write_text(text)
    return copied


@pytest.fixture
def make_docker(network: Network) -> Iterator[Callable[..., Docker]]:
    """Makes engines in one network."""
    with ExitStack() as stack:

        def make(*, images: bool = True) -> Docker:
            made = Docker(network, images=images)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def docker(make_docker: Callable[..., Docker]) -> Docker:
    return make_docker()


@pytest.fixture
def registry(network: Network, tmp_path: Path) -> Iterator[Registry]:
    made = Registry(network, tmp_path)
    yield made
    made.close()
