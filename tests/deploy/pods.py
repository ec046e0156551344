"""Pods of rendered manifests, played by podman in network namespaces of their own.

What podman 4.3 cannot do is done for it, or left out:

- A native sidecar is played as an ordinary container that is always restarted. So the order of
  start and end is not tested here; `restartPolicy` is asserted where manifests are read.
- ConfigMaps and Secrets are folders that are written as the kubelet writes them: files behind a
  link, `..data`, that is swapped; mode and group as the volume and `fsGroup` say.
- An `emptyDir` is a folder open to all, as the kubelet makes it, though on disk.
- Probes are asked by the test. Ports need not be opened: it is the pod's own address.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.hosts import Host, Network
from tests.deploy.images import podman, podman_environment
from tests.deploy.manifests import one
from tests.plugins.servers import REDIS7

_KINDS = {"configMap": "ConfigMap", "secret": "Secret"}


class Projected:
    """A volume of files as the kubelet writes it: all of them change in one moment."""

    def __init__(self, path: Path, mode: int, group: int) -> None:
        self.path = path
        self._mode = mode
        self._group = group
        path.mkdir(mode=0o755)

    def write(self, files: Mapping[str, str]) -> None:
        """Put `files` in the place of those that are there."""
        fresh = self.path / f"..{secrets.token_hex(6)}"
        fresh.mkdir(mode=0o755)
        for name, text in files.items():
            file = fresh / name
            file.write_text(text)
            file.chmod(self._mode)
            os.chown(file, 0, self._group)
        data, coming = self.path / "..data", self.path / "..data_tmp"
        former = data.resolve() if data.exists() else None
        coming.symlink_to(fresh.name)
        coming.rename(data)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for link in self.path.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if former:
            shutil.rmtree(former)


class Pod:
    """One pod that was played."""

    def __init__(
        self, name: str, host: Host, folder: Path, image: str, spec: dict[str, Any]
    ) -> None:
        self.name = name
        self.host = host
        self.folder = folder
        """Where its volumes are, each in a folder of its name."""
        self._manifest = folder / "pod.yaml"
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": _playable(spec, folder, image),
        }
        self._manifest.write_text(yaml.safe_dump(document))
        self._play()

    def _play(self, *arguments: str) -> None:
        played = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.host.space}", "podman", "play", "kube",
             "--network=host", *arguments, str(self._manifest)],
            capture_output=True, text=True, timeout=120, check=False, env=podman_environment(),
        )  # fmt: skip
        assert played.returncode == 0, played.stderr

    def run(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        """One command in that container, to its end."""
        return podman("exec", f"{self.name}-{container}", *command, check=False)

    def done(self, container: str, *command: str) -> str:
        """As `run`; it must succeed."""
        result = self.run(container, *command)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def log(self, container: str) -> str:
        told = podman("logs", f"{self.name}-{container}", check=False)
        return told.stdout + told.stderr

    def inspected(self, container: str, what: str) -> str:
        return podman(
            "inspect", f"--format={{{{{what}}}}}", f"{self.name}-{container}"
        ).stdout.strip()

    def pid(self, container: str) -> int:
        """Its first process, as this machine counts them; 0 while there is none."""
        return int(self.inspected(container, ".State.Pid"))

    def ended(self, container: str) -> int:
        """Its exit status, once it has ended."""
        return int(podman("wait", f"{self.name}-{container}", within=60).stdout)

    def get(self, path: str, port: int = 9465, token: str = "") -> tuple[int, str]:
        """Status and body; 0 if nobody answers."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(
            f"http://{self.host.address}:{port}{path}", headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def stop(self) -> None:
        """SIGTERM to all of its containers."""
        podman("pod", "stop", "--time=20", self.name)

    def close(self) -> None:
        podman("pod", "rm", "--force", "--time=0", self.name, check=False)


class Cluster:
    """A Redis, and the pods of one rendering."""

    def __init__(self, documents: list[dict[str, Any]], image: str, folder: Path) -> None:
        self.documents = documents
        self.network = Network()
        self.redis = self.network.host("redis")
        self.server = self.redis.start(
            str(REDIS7), "--bind", self.redis.address, "--protected-mode", "no", "--save", "",
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._image = image
        self.folder = folder
        """Where pods have their volumes."""
        self._name = f"rk{secrets.token_hex(3)}"
        self._files: dict[tuple[str, str], dict[str, str]] = {
            ("ConfigMap", d["metadata"]["name"]): dict(d["data"])
            for d in documents
            if d["kind"] == "ConfigMap"
        }
        self._mounted: list[tuple[Projected, list[tuple[str, str]]]] = []
        self.pods: list[Pod] = []

    def put(self, kind: str, name: str, **files: str) -> None:
        """Put `files` into that ConfigMap or Secret; pods that have it see them at once."""
        # A name of a file has dots, that of an argument has none.
        named = {file.replace("_", "."): text for file, text in files.items()}
        self._files.setdefault((kind, name), {}).update(named)
        for volume, sources in self._mounted:
            if (kind, name) in sources:
                self._write(volume, sources)

    @contextmanager
    def meanwhile(self, kind: str, name: str, **files: str) -> Iterator[None]:
        """As `put`; in the end all is as before."""
        before = dict(self._files[kind, name])
        self.put(kind, name, **files)
        try:
            yield
        finally:
            self.put(kind, name, **before)

    def file(self, kind: str, name: str, file: str) -> str:
        return self._files[kind, name][file]

    def play(self, kind: str, name: str) -> Pod:
        """One pod of that Deployment or Job."""
        host = self.network.host(f"{name}{len(self.pods)}")
        spec = deepcopy(one(self.documents, kind, name)["spec"]["template"]["spec"])
        folder = self.folder / f"{name}{len(self.pods)}"
        folder.mkdir()
        for volume in spec["volumes"]:
            self._make(folder / volume["name"], volume, spec["securityContext"].get("fsGroup", 0))
        pod = Pod(f"{self._name}-{name}{len(self.pods)}", host, folder, self._image, spec)
        self.pods.append(pod)
        return pod

    def _make(self, path: Path, volume: dict[str, Any], group: int) -> None:
        if "emptyDir" in volume:
            path.mkdir()
            path.chmod(0o777)
            return
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        given = volume.get("projected", volume.get("configMap", {}))
        projected = Projected(path, given.get("defaultMode", 0o644), group)
        named = [
            (_KINDS[key], source[key]["name"])
            for source in sources
            for key in source.keys() & _KINDS.keys()
        ]
        for source in sources:
            for key in source.keys() & _KINDS.keys():
                if source[key].get("optional"):
                    self._files.setdefault((_KINDS[key], source[key]["name"]), {})
        self._mounted.append((projected, named))
        self._write(projected, named)

    def _write(self, volume: Projected, sources: list[tuple[str, str]]) -> None:
        volume.write({k: v for source in sources for k, v in self._files[source].items()})

    def close(self) -> None:
        """End everything."""
        for pod in self.pods:
            pod.close()
        self.server.kill()
        self.server.wait()
        self.network.close()
        shutil.rmtree(self.network.folder, ignore_errors=True)


def _playable(spec: dict[str, Any], folder: Path, image: str) -> dict[str, Any]:
    """`spec` in words that podman knows; the volumes are folders in `folder`."""
    sidecars = [c for c in spec.pop("initContainers", []) if c.get("restartPolicy") == "Always"]
    spec["containers"] += sidecars
    for container in spec["containers"]:
        for key in [*container]:
            if key.endswith("Probe") or key in ("ports", "lifecycle", "restartPolicy"):
                del container[key]
        assert container["image"].startswith("ringkeeper:")
        container |= {"image": image, "imagePullPolicy": "Never"}
    spec["volumes"] = [
        {"name": name, "hostPath": {"path": str(folder / name), "type": "Directory"}}
        for name in (volume["name"] for volume in spec["volumes"])
    ]
    if spec.get("restartPolicy") == "OnFailure":
        spec["restartPolicy"] = "Never"  # podman would try it again for ever, and at once
    return spec
