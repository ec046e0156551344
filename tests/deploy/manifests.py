"""What kubectl makes of deploy/k8s, and whether a pod of it is as closed as Kubernetes can check.

The Pod Security Standard "restricted", and what it leaves out: a read-only root, no token of the
API server, bounded memory, images with a tag of their own.
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "deploy/k8s"

_OLDEST = 27
"""Debian's own kubectl 1.20 knows no components and no replacements."""
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


@functools.cache
def why_no_kubectl() -> str:
    """Why nothing can be rendered here; empty where it can."""
    if shutil.which("kubectl") is None:
        return f"kubectl is not installed: get 1.{_OLDEST} or newer"
    told = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=False
    )
    version = json.loads(told.stdout)["clientVersion"] if told.returncode == 0 else {}
    minor = int(version.get("minor", "0").rstrip("+"))
    if minor < _OLDEST:
        return f"kubectl is 1.{minor}: get 1.{_OLDEST} or newer"
    return ""


@functools.cache
def _rendered(folder: Path) -> str:
    if why_no_kubectl():
        pytest.skip(why_no_kubectl())
    told = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def rendered(folder: Path) -> list[dict[str, Any]]:
    """The documents of the kustomization in `folder`, which stays as it is."""
    return [document for document in yaml.safe_load_all(_rendered(folder)) if document]


def one(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The document of that kind and name."""
    (found,) = (d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def pods_of(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each pod template in `documents` belongs to, and its `spec`."""
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if document["kind"] == "Pod" or "template" in spec:
            name = f"{document['kind']} {document['metadata']['name']}"
            yield name, spec if document["kind"] == "Pod" else spec["template"]["spec"]


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All of its containers, whenever they run."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, [])]


def openings(pod: dict[str, Any]) -> list[str]:
    """Everything that leaves `pod` more open than it has to be."""
    found = [f"{key} is on" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    if pod.get("automountServiceAccountToken") is not False:
        found.append("it gets a token of the API server")
    if pod.get("securityContext", {}).get("sysctls"):
        found.append("it sets sysctls")
    for volume in pod.get("volumes", []):
        found += [
            f"volume {volume['name']} is a {kind}" for kind in {*volume} - _VOLUMES - {"name"}
        ]
        for source in volume.get("projected", {}).get("sources", []):
            found += ["a token of the API server is mounted"] * ("serviceAccountToken" in source)
    for container in containers_of(pod):
        theirs = openings_of(container, pod.get("securityContext", {}))
        found += [f"{container['name']}: {opening}" for opening in theirs]
    return found


def openings_of(container: dict[str, Any], pods: dict[str, Any]) -> list[str]:
    """The same of one container, in a pod with the security context `pods`."""
    own = container.get("securityContext", {})
    both = {**pods, **own}
    image, _, tag = container["image"].rpartition(":")
    rules = {
        "it may be root": both.get("runAsNonRoot") is True and both.get("runAsUser", 0) > 0,
        "its system calls are not filtered": both.get("seccompProfile", {}).get("type")
        in ("RuntimeDefault", "Localhost"),
        "it keeps capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "it may gain privileges": own.get("allowPrivilegeEscalation") is False,
        "it is privileged": not own.get("privileged"),
        "it sees more of /proc": own.get("procMount", "Default") == "Default",
        "it has a host's port": not any(
            port.get("hostPort") for port in container.get("ports", [])
        ),
        "its root can be written to": own.get("readOnlyRootFilesystem") is True,
        "its memory has no bound": "memory" in container.get("resources", {}).get("limits", {}),
        "it requests nothing": {"cpu", "memory"}
        <= container.get("resources", {}).get("requests", {}).keys(),
        "its image is whatever is newest": bool(image) and tag != "latest",
    }
    return [opening for opening, is_kept in rules.items() if not is_kept]
