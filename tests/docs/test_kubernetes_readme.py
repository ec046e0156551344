"""deploy/k8s/README.md, read closely: what it prints renders, and makes what the pods wait for."""

import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ringkeeper.configuration import parse
from tests.deploy.manifests import K8S, containers_of, pods_of, rendered, why_no_kubectl
from tests.docs.cluster import Cluster, serving
from tests.docs.pages import ROOT
from tests.docs.test_docs import Place, blocks, commands
from tests.docs.test_kubernetes import ANY_APP, EXAMPLE, SIDECARS, configured, named, pod_of
from tests.plugins.daemons import eventually
from tests.plugins.servers import free_port

README = (K8S / "README.md").read_text()
NAMESPACE = "ringkeeper-example"


def made_by_readme() -> dict[str, set[str]]:
    """The files in each Secret and ConfigMap that it creates."""
    return {
        name: {Path(told.partition("=")[0]).name for told in re.findall(r"-file=(\S+)", line)}
        for line in commands(README)
        for name in re.findall(r"kubectl create (?:secret generic|configmap) (\S+)", line)
    }


@pytest.mark.runs("deploy/k8s/README.md", 6)
def test_a_password_and_a_ca_for_redis_are_taken_from_a_secret_where_there_is_one() -> None:
    """As the README names them, for the daemons, the Job and the sidecar, each from its own."""
    documents = rendered(EXAMPLE)
    (settings,) = (text for text in blocks(README, "yaml") if "password_file" in text)
    parsed = parse(yaml.safe_load(settings), {}, base=Path("/etc/ringkeeper"))
    assert parsed.redis_password_file is not None
    assert parsed.redis_tls is not None
    named_by_settings = {str(parsed.redis_password_file), str(parsed.redis_tls.ca_file)}
    for kind, owner, secret in (
        ("Deployment", "ringkeeper", "ringkeeper-redis"),
        ("Job", "ringkeeper-init", "ringkeeper-redis"),
        ("Deployment", "app", "ringkeeper-sidecar-redis"),
    ):
        pod = pod_of(documents, kind, owner)
        (volume,) = (v for v in pod["volumes"] if v["name"] == "ringkeeper-config")
        assert {"secret": {"name": secret, "optional": True}} in volume["projected"]["sources"]
        assert {f"/etc/ringkeeper/{file}" for file in made_by_readme()[secret]} == named_by_settings


def test_the_readme_makes_what_the_pods_wait_for() -> None:
    made = made_by_readme()
    assert made["ringkeeper-secrets"] == {"root.jwk", "kek.jwk"}
    assert made["ringkeeper-root"] == {"root.pub.jwk"}
    lines = commands(README)
    (applied,) = (line.split()[-1] for line in lines if " apply " in line)
    documents = rendered(K8S.parents[1] / applied)
    (namespace,) = (line.split()[-1] for line in lines if " set-context " in line)
    assert {d["metadata"].get("namespace", namespace) for d in documents} == {namespace}
    wanted = {
        next(iter(source.values()))["name"]
        for pod in dict(pods_of(documents)).values()
        for volume in pod.get("volumes", [])
        for source in volume.get("projected", {}).get("sources", [])
    }
    assert made.keys() <= wanted, "or nobody mounts it"
    (making,) = (line for line in lines if "--secrets-only" in line)
    (folder,) = re.findall(r"\$PWD/(\w+):", making)
    assert f"/{folder}/" in (K8S.parents[1] / ".gitignore").read_text().splitlines()
    assert all(f"={folder}/" in line for line in lines if re.search("secrets |root ", line))


def test_the_image_that_the_readme_pushes_is_in_every_pod_of_ours(tmp_path: Path) -> None:
    lines = commands(README)
    (image,) = (line.split()[-1] for line in lines if line.startswith("docker push "))
    (edit,) = (line for line in lines if line.startswith("sed "))
    assert f"docker build -t {image} ." in lines
    copied = Path(shutil.copytree(K8S.parent, tmp_path / "deploy"))
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, check=True)
    assert edit.split()[-1].endswith(
        str(EXAMPLE.relative_to(K8S.parents[1]) / "kustomization.yaml")
    )
    pods = dict(pods_of(rendered(copied / "k8s/overlays/example")))
    images = {container["image"] for pod in pods.values() for container in containers_of(pod)}
    assert {each for each in images if "ringkeeper" in each} == {image}


@pytest.mark.runs("deploy/k8s/README.md", 3, 4)
@pytest.mark.parametrize("component", SIDECARS)
def test_the_kustomization_for_your_app_is_whole(component: str, tmp_path: Path) -> None:
    """As the README prints it: a sidecar of the image that was pushed, and with its settings."""
    annotated, kustomization, *_ = blocks(README, "yaml")
    asking = yaml.safe_dump(yaml.safe_load(annotated)["metadata"]["annotations"]).strip()
    app = ANY_APP.format(kind="Deployment", name="mine", annotations=f"{{{asking}}}")
    assert "components/sidecar\n" in kustomization
    text = kustomization.replace("components/sidecar\n", f"components/{component}\n")
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "app.yaml").write_text(app)
    shutil.copytree(K8S, tmp_path / "ringkeeper")
    documents = rendered(tmp_path)
    pod = pod_of(documents, "Deployment", "mine")
    (image,) = (line.split()[-1] for line in commands(README) if line.startswith("docker push "))
    assert named(containers_of(pod))["image"] == image
    assert {d["metadata"]["namespace"] for d in documents} == {"shop"}
    configuration = configured(documents, "ringkeeper-sidecar")
    shipped = configured(rendered(EXAMPLE), "ringkeeper-sidecar")
    assert configuration.redis_shown != shipped.redis_shown
    assert replace(configuration, redis_url=shipped.redis_url) == shipped, "all else is as shipped"


# --- its commands, by the real kubectl; its pods are here (cluster.py), docker is played ------------


class Shell:
    """A checkout at a cluster."""

    def __init__(self, place: Place) -> None:
        if why_no_kubectl():
            pytest.skip(why_no_kubectl())
        self.place = place
        self.folder = place.folder / "checkout"
        shutil.copytree(K8S.parent, self.folder / "deploy")
        shutil.copy(ROOT / "Dockerfile", self.folder)
        tools = place.folder / "tools"
        tools.mkdir()
        played = Path(__file__).with_name("docker_played.py").read_text()
        (tools / "docker").write_text(f"#!{sys.executable}\n{played}")
        (tools / "docker").chmod(0o755)
        self.kubeconfig = place.folder / "kubeconfig"
        place.environment |= {
            "KUBECONFIG": str(self.kubeconfig),
            "PLAYED": str(place.folder),
            "RINGKEEPER_FILES__DIRECTORY": str(place.folder / "files"),
            "RINGKEEPER_CONFIG": str(place.folder / "config.yaml"),
            "HOME": str(place.folder),
        }
        place.environment["PATH"] = f"{tools}:{place.environment['PATH']}"
        self.forwarded, self.app_port = free_port(), free_port()
        self.cluster = Cluster(place.environment, place.folder, {8080: self.app_port})

    def run_the_app(self) -> None:
        """What runs in the app's pods, with its own port and folder on this host."""
        app = (EXAMPLE / "app.py").read_text()
        app = app.replace("/run/ringkeeper", f"{self.place.folder}/files")
        path = self.place.folder / "app.py"
        path.write_text(app.replace('("", 8080)', f'("127.0.0.1", {self.app_port})'))
        self.place.start(sys.executable, str(path))

    def does(self, block: str) -> str:
        """What its commands print; what they leave running ends.

        What is forwarded comes to a port of this test's own.
        """
        lines = commands(f"```console\n{block}```")
        script = "\n".join(["trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *lines])
        script = script.replace("127.0.0.1:8080", f"127.0.0.1:{self.forwarded}")
        script = script.replace("service/app 8080", f"service/app {self.forwarded}:8080")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder, env=self.place.environment,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def data(self, resource: str, name: str, namespace: str) -> dict[str, str]:
        """The files in a Secret or ConfigMap of the cluster."""
        found = self.cluster.get(resource, namespace, name)
        assert found, name
        return {
            name: b64decode(text).decode() if resource == "secrets" else text
            for name, text in found["data"].items()
        }


@pytest.fixture
def shell() -> Iterator[Shell]:
    place = Place()
    try:
        made = Shell(place)
        with serving(made.cluster, made.kubeconfig):
            yield made
    finally:
        place.close()


@pytest.mark.long
@pytest.mark.runs("deploy/k8s/README.md", 1, 2, 5)
def test_the_readme_s_commands_make_what_they_name(shell: Shell) -> None:
    install, look, secrets = blocks(README, "console")
    assert "successfully rolled out" in shell.does(install)
    made = {each.name: each.read_text() for each in (shell.folder / "secrets").iterdir()}
    public = {"root.pub.jwk": made.pop("root.pub.jwk")}
    assert made.keys() == {"root.jwk", "kek.jwk"}
    assert shell.data("configmaps", "ringkeeper-root", NAMESPACE) == public
    assert shell.data("secrets", "ringkeeper-secrets", NAMESPACE) == made

    (replacing,) = re.findall(
        r"`kubectl create`, and behind it `([^`]+)`", README.replace("\n", " ")
    )
    (shell.folder / "secrets/kek.jwk").write_text("another")
    (creating,) = (
        line for line in commands(README) if "create secret generic ringkeeper-secrets " in line
    )
    assert "replaced" in shell.does(f"$ {creating} {replacing}\n")
    fresh = {**made, "kek.jwk": "another"}
    assert shell.data("secrets", "ringkeeper-secrets", NAMESPACE) == fresh

    place = shell.place
    place.start("ringkeeper", "run", "--config", "config.yaml")
    eventually(lambda: place.answers(place.port, "/readyz")[0] == 200)
    eventually((place.folder / "files/jwks.json").exists)
    shell.run_the_app()
    (place.folder / ".curlrc").write_text("silent\nretry = 30\nretry-delay = 1\nretry-all-errors\n")
    said = shell.does(look)
    assert said.startswith("Forwarding from ")
    assert "hello alice" in said
    assert "leader" in said

    for name in ("redis.password", "sidecar.password", "redis-ca.pem"):
        (shell.folder / name).write_text(f"{name}'s")
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    shell.cluster.objects["namespaces", "", "shop"] = shop
    shell.does(secrets)
    for name, namespace, password in (
        ("ringkeeper-redis", NAMESPACE, "redis.password's"),
        ("ringkeeper-sidecar-redis", "shop", "sidecar.password's"),
    ):
        assert shell.data("secrets", name, namespace) == {
            "redis.password": password,
            "redis-ca.pem": "redis-ca.pem's",
        }


@pytest.mark.long
def test_what_a_cluster_lacks_is_told_by_kubectl(shell: Shell) -> None:
    """Else the test above could not fail."""
    install, *_ = blocks(README, "console")
    lines = commands(f"```console\n{install}```")
    for part, said in (
        ("create configmap", "exceeded its progress deadline|timed out waiting"),
        ("apply -k", 'namespaces "ringkeeper-example" not found'),
    ):
        shell.cluster.objects.clear()
        script = "\n".join(line for line in lines if part not in line)
        script = script.replace("rollout status", "rollout status --timeout=1s")
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{script}"], cwd=shell.folder, env=shell.place.environment,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode, part
        assert re.search(said, done.stderr), done.stderr
        shutil.rmtree(shell.folder / "secrets")
