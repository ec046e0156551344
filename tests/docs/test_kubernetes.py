"""deploy/k8s renders to what this release runs by, and every pod of it is closed."""

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringkeeper.configuration import Configuration, parse
from ringkeeperd.command_line.tree import parser
from ringkeeperd.web import Pages
from tests.deploy.manifests import (
    K8S,
    containers_of,
    one,
    openings,
    openings_of,
    pods_of,
    rendered,
)

BASE = K8S / "base"
EXAMPLE = K8S / "overlays/example"
SIDECARS = ("sidecar", "sidecar-classic")

ANY_APP = """
apiVersion: apps/v1
kind: {kind}
metadata:
  name: {name}
  annotations: {annotations}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      initContainers: [{{name: migrate, image: "migrate:1"}}]
      containers:
        - {{name: web, image: "web:1", volumeMounts: [{{name: tmp, mountPath: /tmp}}]}}
        - {{name: cache, image: "cache:1"}}
      volumes: [{{name: tmp, emptyDir: {{}}}}]
"""


@pytest.fixture(scope="module")
def of_any_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """What a component makes of apps that know nothing of it, but for the annotation."""
    folder = tmp_path_factory.mktemp("apps")
    asking = '{ringkeeper/sidecar: "true"}'
    apps = [
        ANY_APP.format(kind="Deployment", name="asking", annotations=asking),
        ANY_APP.format(kind="StatefulSet", name="stateful", annotations=asking),
        ANY_APP.format(kind="Deployment", name="other", annotations="{}"),
    ]

    def render(component: str) -> list[dict[str, Any]]:
        own = folder / component
        if not own.exists():
            own.mkdir()
            (own / "apps.yaml").write_text("---".join(apps))
            # Relative: kustomize takes no other.
            up = "../" * len(own.resolve().parts[1:])
            components = [up + str(K8S / "components" / component).lstrip("/")]
            document = {"resources": ["apps.yaml"], "components": components}
            (own / "kustomization.yaml").write_text(yaml.safe_dump(document))
        return rendered(own)

    return render


def pod_of(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    pod: dict[str, Any] = one(documents, kind, name)["spec"]["template"]["spec"]
    return pod


def named(containers: list[dict[str, Any]], name: str = "ringkeeper") -> dict[str, Any]:
    (found,) = (container for container in containers if container["name"] == name)
    return found


def configured(documents: list[dict[str, Any]], name: str) -> Configuration:
    text = one(documents, "ConfigMap", name)["data"]["config.yaml"]
    return parse(yaml.safe_load(text), {}, base=Path("/etc/ringkeeper"))


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
def test_every_pod_is_closed(folder: Path) -> None:
    pods = dict(pods_of(rendered(folder)))
    assert {"Deployment ringkeeper", "Job ringkeeper-init"} <= pods.keys()
    assert {name: openings(pod) for name, pod in pods.items()} == {name: [] for name in pods}
    assert all(pod["enableServiceLinks"] is False for pod in pods.values())


@pytest.mark.parametrize("component", SIDECARS)
def test_a_sidecar_is_closed_in_whatever_pod_it_comes_to(
    component: str, of_any_app: Callable[[str], list[dict[str, Any]]]
) -> None:
    pod = pod_of(of_any_app(component), "Deployment", "asking")
    assert openings_of(named(containers_of(pod)), {}) == []
    ours = [volume for volume in pod["volumes"] if volume["name"].startswith("ringkeeper-")]
    assert openings({"automountServiceAccountToken": False, "volumes": ours}) == []


BREAKAGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "may be root": lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
    "it may be root": lambda pod, _: pod["securityContext"].update(runAsUser=0),
    "system calls": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "calls are not filtered": lambda _, own: own["securityContext"].update(
        seccompProfile={"type": "Unconfined"}
    ),
    "capabilities": lambda _, own: own["securityContext"].pop("capabilities"),
    "keeps capabilities": lambda _, own: own["securityContext"]["capabilities"].update(
        add=["NET_ADMIN"]
    ),
    "gain privileges": lambda _, own: own["securityContext"].pop("allowPrivilegeEscalation"),
    "privileged": lambda _, own: own["securityContext"].update(privileged=True),
    "/proc": lambda _, own: own["securityContext"].update(procMount="Unmasked"),
    "host's port": lambda _, own: own["ports"][0].update(hostPort=9465),
    "written to": lambda _, own: own["securityContext"].pop("readOnlyRootFilesystem"),
    "no bound": lambda _, own: own["resources"].pop("limits"),
    "requests nothing": lambda _, own: own["resources"]["requests"].pop("cpu"),
    "newest": lambda _, own: own.update(image="ringkeeper:latest"),
    "whatever is newest": lambda _, own: own.update(image="ringkeeper"),
    "hostNetwork": lambda pod, _: pod.update(hostNetwork=True),
    "hostPID": lambda pod, _: pod.update(hostPID=True),
    "hostIPC": lambda pod, _: pod.update(hostIPC=True),
    "sysctls": lambda pod, _: pod["securityContext"].update(sysctls=[{"name": "a", "value": "b"}]),
    "a token": lambda pod, _: pod.pop("automountServiceAccountToken"),
    "is mounted": lambda pod, _: pod["volumes"][0]["projected"]["sources"].append(
        {"serviceAccountToken": {"path": "token"}}
    ),
    "is a hostPath": lambda pod, _: pod["volumes"].append(
        {"name": "host", "hostPath": {"path": "/"}}
    ),
}


@pytest.mark.parametrize("opening", BREAKAGES)
def test_a_pod_that_is_opened_is_found(opening: str) -> None:
    pod = deepcopy(pod_of(rendered(BASE), "Deployment", "ringkeeper"))
    BREAKAGES[opening](pod, pod["containers"][0])
    (found,) = openings(pod)
    assert opening in found


# --- this release --------------------------------------------------------------------------------


def test_configurations_and_commands_are_this_release_s() -> None:
    documents = rendered(EXAMPLE)
    leading, following = (configured(documents, n) for n in ("ringkeeper", "ringkeeper-sidecar"))
    assert (leading.lead, following.lead) == (True, False)
    assert leading.redis_shown == following.redis_shown
    for pod in dict(pods_of(documents)).values():
        for container in containers_of(pod):
            program, *arguments = container["command"]
            if program == "ringkeeper":
                parsed = parser(is_demo=False).parse_args(arguments)
                assert str(parsed.config) == "/etc/ringkeeper/config.yaml"
                assert parsed.run.__name__ == ("init" if container["name"] == "init" else "run")


def test_secrets_and_state_are_mounted_where_the_configuration_looks() -> None:
    documents = rendered(EXAMPLE)
    for name, kind, owner in (
        ("ringkeeper", "Deployment", "ringkeeper"),
        ("ringkeeper", "Job", "ringkeeper-init"),
        ("ringkeeper-sidecar", "Deployment", "app"),
    ):
        configuration = configured(documents, name)
        pod = pod_of(documents, kind, owner)
        container = named(containers_of(pod), "init" if kind == "Job" else "ringkeeper")
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (volume,) = (v for v in pod["volumes"] if v["name"] == mounts["/etc/ringkeeper"])
        sources = [next(iter(source.items())) for source in volume["projected"]["sources"]]
        expected: list[tuple[str, dict[str, Any]]] = [
            ("configMap", {"name": name}),
            ("configMap", {"name": "ringkeeper-root"}),
        ]
        assert str(configuration.trust_root_public) == "/etc/ringkeeper/root.pub.jwk"
        if configuration.lead:
            expected.append(("secret", {"name": "ringkeeper-secrets"}))
            assert str(configuration.trust_root) == "/etc/ringkeeper/root.jwk"
            assert str(configuration.kek) == "/etc/ringkeeper/kek.jwk"
            assert volume["projected"]["defaultMode"] == 0o440
            assert pod["securityContext"]["fsGroup"] == 65532
        redis = "ringkeeper-redis" if configuration.lead else "ringkeeper-sidecar-redis"
        expected.append(("secret", {"name": redis, "optional": True}))
        assert sources == expected, "the sidecar has no key"
        assert kind == "Job" or str(configuration.state_dir) in mounts
        assert not any("subPath" in mount for mount in container["volumeMounts"]), "never renewed"


def test_names_stay_so_that_changes_arrive_without_a_restart() -> None:
    """A hash in a ConfigMap's name would roll all pods for each edit."""
    documents = rendered(EXAMPLE)
    made = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    assert {"ringkeeper", "ringkeeper-sidecar"} <= made


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda folder: folder.name)
def test_no_secret_is_made_by_applying(folder: Path) -> None:
    """Applied again from elsewhere, it would put another KEK in the place of the only copy."""
    assert not any(document["kind"] == "Secret" for document in rendered(folder))


PROBED = [
    (BASE, "ringkeeper", {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}),
    (EXAMPLE, "app", {"startup": "/readyz", "liveness": "/healthz"}),
]


@pytest.mark.parametrize(("folder", "owner", "paths"), PROBED, ids=["leading", "sidecar"])
def test_probes_ask_what_the_daemon_serves(folder: Path, owner: str, paths: dict[str, str]) -> None:
    """Liveness never asks what depends on Redis; the app's readiness never asks a sidecar."""
    documents = rendered(folder)
    container = named(containers_of(pod_of(documents, "Deployment", owner)))
    name = "ringkeeper" if folder is BASE else "ringkeeper-sidecar"
    configuration = configured(documents, name)
    assert container["ports"] == [{"name": "ringkeeper", "containerPort": configuration.port}]
    assert configuration.host == "0.0.0.0"  # noqa: S104 - the kubelet is outside of the pod
    probes = {key: value["httpGet"] for key, value in container.items() if key.endswith("Probe")}
    assert probes == {
        f"{probe}Probe": {"path": path, "port": "ringkeeper"} for probe, path in paths.items()
    }
    served = {method.__name__ for method in vars(Pages).values() if callable(method)}
    assert {path.strip("/") for path in paths.values()} <= served


def test_two_are_left_while_pods_are_replaced_and_nodes_drained() -> None:
    documents = rendered(BASE)
    deployment = one(documents, "Deployment", "ringkeeper")["spec"]
    budget = one(documents, "PodDisruptionBudget", "ringkeeper")["spec"]
    assert deployment["replicas"] == 3
    assert deployment["replicas"] - deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 2
    assert budget["minAvailable"] == 2
    labels = deployment["template"]["metadata"]["labels"]
    service = one(documents, "Service", "ringkeeper")["spec"]
    init = one(documents, "Job", "ringkeeper-init")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        deployment["selector"]["matchLabels"], budget["selector"]["matchLabels"],
        service["selector"],
    ):  # fmt: skip
        assert selector.items() <= labels.items()
        assert not selector.items() <= init.items(), "the Job's pod serves nobody"
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {
        "kubernetes.io/hostname", "topology.kubernetes.io/zone",
    }  # fmt: skip
    seconds = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert slept_in(deployment["template"]["spec"]["containers"][0]) + 10 <= seconds


def slept_in(container: dict[str, Any]) -> int:
    """How long its preStop takes, in seconds."""
    *python, script = container["lifecycle"]["preStop"]["exec"]["command"]
    assert python == ["python", "-c"], "there is no shell, and no sleep, in the image"
    (seconds,) = re.fullmatch(r"import time; time\.sleep\((\d+)\)", script).groups()  # type: ignore[union-attr]
    return int(seconds)


def test_the_network_is_closed_but_for_dns_redis_and_who_asks() -> None:
    for folder in (BASE, EXAMPLE):
        policy = one(rendered(folder), "NetworkPolicy", "ringkeeper")["spec"]
        assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "ringkeeper"}
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        (asking,) = policy["ingress"]
        assert [port["port"] for port in asking["ports"]] == [9465]
        dns, redis = policy["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        assert redis["ports"] == [{"port": 6379}]
        assert ("to" in redis) == (folder is EXAMPLE), "where Redis is, the overlay says"


def test_the_account_has_no_rights() -> None:
    documents = rendered(BASE)
    account = one(documents, "ServiceAccount", "ringkeeper")
    assert account["automountServiceAccountToken"] is False
    assert not {d["kind"] for d in documents} & {"Role", "ClusterRole", "RoleBinding"}


def test_the_job_may_be_applied_again() -> None:
    job = one(rendered(BASE), "Job", "ringkeeper-init")["spec"]
    assert "--if-missing" in job["template"]["spec"]["containers"][0]["command"]
    assert job["ttlSecondsAfterFinished"] > 0, "a Job that stays cannot be changed"
    assert job["template"]["spec"]["restartPolicy"] == "OnFailure"


# --- the sidecar ---------------------------------------------------------------------------------


@pytest.mark.parametrize("component", SIDECARS)
def test_a_sidecar_comes_to_whoever_asks_and_to_nobody_else(
    component: str, of_any_app: Callable[[str], list[dict[str, Any]]]
) -> None:
    documents = of_any_app(component)
    for kind, name in (("Deployment", "asking"), ("StatefulSet", "stateful")):
        pod = pod_of(documents, kind, name)
        assert named(containers_of(pod))["image"].startswith("ringkeeper:")
        mounted = {
            container["name"]: [
                (mount["mountPath"], mount.get("readOnly", False))
                for mount in container.get("volumeMounts", [])
                if mount["name"] == "ringkeeper-files"
            ]
            for container in pod["containers"]
            if container["name"] != "ringkeeper"
        }
        assert mounted == {name: [("/run/ringkeeper", True)] for name in ("web", "cache")}
        own = {mount["mountPath"]: mount for mount in named(containers_of(pod))["volumeMounts"]}
        assert "readOnly" not in own["/run/ringkeeper"]
        (files,) = (v for v in pod["volumes"] if v["name"] == "ringkeeper-files")
        assert files["emptyDir"]["medium"] == "Memory"
    other = pod_of(documents, "Deployment", "other")
    assert [container["name"] for container in containers_of(other)] == ["migrate", "web", "cache"]
    assert [volume["name"] for volume in other["volumes"]] == ["tmp"]


@pytest.mark.parametrize("component", SIDECARS)
def test_the_sidecar_writes_where_the_app_reads(
    component: str, of_any_app: Callable[[str], list[dict[str, Any]]]
) -> None:
    document = one(of_any_app(component), "ConfigMap", "ringkeeper-sidecar")["data"]["config.yaml"]
    assert yaml.safe_load(document)["files"] == {"directory": "/run/ringkeeper"}


def test_the_sidecar_is_native_and_first(
    of_any_app: Callable[[str], list[dict[str, Any]]],
) -> None:
    """It outlives the app: the kubelet ends native sidecars last."""
    pod = pod_of(of_any_app("sidecar"), "Deployment", "asking")
    first, *others = pod["initContainers"]
    assert (first["name"], first["restartPolicy"]) == ("ringkeeper", "Always")
    assert [other["name"] for other in others] == ["migrate"]
    assert "lifecycle" not in first


def test_a_classic_sidecar_waits_before_it_ends(
    of_any_app: Callable[[str], list[dict[str, Any]]],
) -> None:
    pod = pod_of(of_any_app("sidecar-classic"), "Deployment", "asking")
    sidecar = named(pod["containers"])
    assert "restartPolicy" not in sidecar
    assert slept_in(sidecar) + 10 <= 30, "what a pod has unless it says otherwise"


def test_both_sidecars_are_one(of_any_app: Callable[[str], list[dict[str, Any]]]) -> None:
    native, classic = (of_any_app(component) for component in SIDECARS)
    ours: list[dict[str, Any]] = []
    for documents in (native, classic):
        own = dict(named(containers_of(pod_of(documents, "Deployment", "asking"))))
        ours.append({k: v for k, v in own.items() if k not in ("restartPolicy", "lifecycle")})
    assert ours[0] == ours[1]
    assert one(native, "ConfigMap", "ringkeeper-sidecar") == one(
        classic, "ConfigMap", "ringkeeper-sidecar"
    )


def test_the_pod_monitor_finds_daemons_and_sidecars(
    of_any_app: Callable[[str], list[dict[str, Any]]],
) -> None:
    """Its schema is the operator's, and not here: what it selects by is looked at."""
    monitor = one(of_any_app("podmonitor"), "PodMonitor", "ringkeeper")
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    documents = rendered(EXAMPLE)
    for owner in ("ringkeeper", "app"):
        template = one(documents, "Deployment", owner)["spec"]["template"]
        assert template["metadata"]["labels"][expression["key"]] in expression["values"]
        ports = named(containers_of(template["spec"]))["ports"]
        assert endpoint["port"] in {port["name"] for port in ports}
    assert endpoint["path"] == "/metrics"
    init = one(documents, "Job", "ringkeeper-init")["spec"]["template"]
    assert init["metadata"]["labels"][expression["key"]] not in expression["values"]
