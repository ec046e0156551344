"""`kubectl` and `docker` for a test of deploy/k8s/README.md: there is neither cluster nor engine.

What the real kubectl does without a cluster, it does here: it renders what is applied, makes Secrets
and ConfigMaps of files, keeps its context. What is known of the cluster is a list of objects, in
`cluster.json` of $PLAYED. What runs in a pod or a container runs on this host, if the manifests have
such a thing, with /run/ringkeeper, :8080 and volumes in $PLAYED. Any other word is refused, exit 2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

KUBECTL = os.environ["KUBECTL"]
PLAYED = Path(os.environ["PLAYED"])
CLUSTER = PLAYED / "cluster.json"
IMAGES = PLAYED / "images"


def refuse(why: str) -> NoReturn:
    sys.exit(f"played: {why}: {' '.join(sys.argv[1:])}")


def real(*words: str) -> str:
    """What the real kubectl says; what it refuses, is refused."""
    done = subprocess.run([KUBECTL, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


# --- the cluster ---------------------------------------------------------------------------------


def objects() -> list[dict[str, Any]]:
    return list(json.loads(CLUSTER.read_text())) if CLUSTER.exists() else []


def namespace_of(thing: dict[str, Any]) -> str:
    told: str = thing["metadata"].get("namespace") or real(
        "config", "view", "--minify", "--output", "jsonpath={..namespace}"
    )
    return told or "default"


def put(things: list[dict[str, Any]]) -> None:
    """Keep them; each in a namespace that there is."""
    there = objects() + things
    namespaces = {t["metadata"]["name"] for t in there if t["kind"] == "Namespace"}
    for thing in things:
        if thing["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
            thing["metadata"]["namespace"] = namespace_of(thing)
            if thing["metadata"]["namespace"] not in namespaces:
                refuse(f"there is no namespace {thing['metadata']['namespace']}")
    CLUSTER.write_text(json.dumps(there))


def found(kind: str, name: str) -> dict[str, Any]:
    """That object of the namespace at hand."""
    here = namespace_of({"metadata": {}})
    for each in objects():
        meta = each["metadata"]
        if (each["kind"], meta["name"], meta.get("namespace")) == (kind, name, here):
            return each
    refuse(f"there is no {kind} {name} in {here}")


def sources_of(pod: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The Secrets and ConfigMaps that a pod waits for, each with its kind."""
    kinds = {"secret": "Secret", "configMap": "ConfigMap"}
    told = [s for v in pod["volumes"] for s in v.get("projected", {}).get("sources", [v])]
    return [
        (
            kinds[each],
            source[each] | {"name": source[each].get("secretName") or source[each]["name"]},
        )
        for source in told
        for each in kinds.keys() & source.keys()
        if not source[each].get("optional")
    ]


def roll_out(name: str) -> None:
    """All that its pods wait for has to be there."""
    for kind, source in sources_of(found("Deployment", name)["spec"]["template"]["spec"]):
        data = found(kind, source["name"])["data"]
        lacking = {item["key"] for item in source.get("items", [])} - data.keys()
        if lacking:
            refuse(f"{source['name']} lacks {lacking}")
    print(f'deployment "{name}" successfully rolled out')


def forward(name: str, port: int) -> None:
    """To the container that the Service leads to, whose program then runs here."""
    service = found("Service", name)["spec"]
    (target,) = [each["targetPort"] for each in service["ports"] if each["port"] == port]
    for each in objects():
        template = each["spec"]["template"] if each["kind"] == "Deployment" else {"metadata": {}}
        if service["selector"].items() <= template["metadata"].get("labels", {}).items():
            break
    else:
        refuse("no pod has such labels")
    (container,) = [
        container
        for container in template["spec"]["containers"]
        if {"name": target, "containerPort": port}.items()
        <= container.get("ports", [{}])[0].items()
    ]
    if container["command"] != ["python", "/app/app.py"]:
        refuse("the app is another one")
    os.execvp("python", ["python", str(PLAYED / "app.py")])  # noqa: S606


def kubectl(words: list[str]) -> None:
    match words:
        case ["apply", "-k", folder]:
            put([each for each in yaml.safe_load_all(real("kustomize", folder)) if each])
        case ["config", "set-context", "--current", "--namespace", _]:
            print(real(*words), end="")
        case ["create", "secret" | "configmap", *_]:
            made = json.loads(real(*words, "--dry-run=client", "--output=json"))
            put([made])
        case ["rollout", "status", what] if what.startswith("deployment/"):
            roll_out(what.partition("/")[2])
        case ["exec", what, "--", *command] if what.startswith("deploy/"):
            found("Deployment", what.partition("/")[2])
            os.execvp(command[0], command)  # noqa: S606
        case ["port-forward", what, port] if what.startswith("service/"):
            forward(what.partition("/")[2], int(port))
        case _:
            refuse("nobody plays this")


# --- images --------------------------------------------------------------------------------------


def docker(words: list[str]) -> None:
    built = IMAGES.read_text().splitlines() if IMAGES.exists() else []
    match words:
        case ["build", "-t", image, "."] if Path("Dockerfile").exists():
            IMAGES.write_text("\n".join([*built, image]))
        case ["push", image] if image in built:
            pass
        case ["run", "--rm", "--user", user, "-v", volume, image, *command] if image in built:
            here, _, there = volume.partition(":")
            if user != f"{os.getuid()}:{os.getgid()}":
                refuse("it would run as another user")
            if not Path(here).is_absolute() or not Path(here).is_dir():
                refuse("it would mount something else")
            (entry,) = [
                json.loads(line.partition(" ")[2])
                for line in Path("Dockerfile").read_text().splitlines()
                if line.startswith("ENTRYPOINT ")
            ]
            command = [here if word == there else word for word in [*entry, *command]]
            os.execvp(command[0], command)  # noqa: S606
        case _:
            refuse("nobody plays this")


if __name__ == "__main__":
    {"kubectl": kubectl, "docker": docker}[Path(sys.argv[0]).name](sys.argv[1:])
