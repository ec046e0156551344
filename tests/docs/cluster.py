"""A cluster for the real kubectl: an API server that keeps what it is given, and pods that are here.

It answers what kubectl asks for `apply`, `create`, `replace`, `rollout status`, `logs`, `exec` and
`port-forward`, by the API's own documents, and 404 or 405 to all else. There is one pod of each
Deployment, ready once every Secret and ConfigMap that it waits for is there. What is executed in a
pod runs on this host; what is forwarded to a port of it goes to one of this host's.
"""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Final

from aiohttp import WSMessage, WSMsgType, web

Object = dict[str, Any]

_KINDS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "v1": {
        "namespaces": ("Namespace", False), "pods": ("Pod", True), "secrets": ("Secret", True),
        "configmaps": ("ConfigMap", True), "services": ("Service", True),
        "serviceaccounts": ("ServiceAccount", True),
    },
    "apps/v1": {"deployments": ("Deployment", True), "statefulsets": ("StatefulSet", True)},
    "batch/v1": {"jobs": ("Job", True)},
    "networking.k8s.io/v1": {"networkpolicies": ("NetworkPolicy", True)},
    "policy/v1": {"poddisruptionbudgets": ("PodDisruptionBudget", True)},
}  # fmt: skip
"""What is served: of each group, the resources with their kinds, and whether they lie in namespaces."""
_PROTOBUF: Final = b"k8s\0"
_DATA: Final = 2
"""The field of a Secret or ConfigMap that its files are in."""
_SIZED: Final = 2
_OUTPUT, _COMPLAINTS, _STATUS = b"\x01", b"\x02", b"\x03"
"""Channels of v5.channel.k8s.io."""


@dataclass
class Cluster:
    """What there is, and what pods are made of here."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the commands that are executed in pods."""
    folder: Path = Path("/")
    """In which they are."""
    ports: Mapping[int, int] = field(default_factory=dict)
    """Of a container's ports, those of this host that they lead to."""
    logs: dict[str, Path] = field(default_factory=dict)
    """Of pods by their names, each with its log."""
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    """By resource, namespace (empty: none) and name."""

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        """That object, as it is now."""
        if resource == "pods":
            found = [pod for pod in self.pods(namespace) if pod["metadata"]["name"] == name]
            return found[0] if found else None
        found_there = self.objects.get((resource, namespace, name))
        if found_there and resource == "deployments":
            return {**found_there, "status": self._status(found_there)}
        return found_there

    def all(self, resource: str, namespace: str) -> list[Object]:
        """All of them in that namespace."""
        if resource == "pods":
            return self.pods(namespace)
        names = [n for r, ns, n in self.objects if (r, ns) == (resource, namespace)]
        return [found for name in names if (found := self.get(resource, namespace, name))]

    def pods(self, namespace: str) -> list[Object]:
        """One of each Deployment, and those with logs."""
        made = [
            _pod(each["metadata"]["name"] + "-0", namespace, each["spec"]["template"])
            for each in self.all("deployments", namespace)
        ]
        return made or [_pod(name, namespace, _LOGGED) for name in self.logs]

    def _status(self, deployment: Object) -> Object:
        pod, replicas = (
            deployment["spec"]["template"]["spec"],
            deployment["spec"].get("replicas", 1),
        )
        namespace = deployment["metadata"]["namespace"]
        is_ready = all(self._has(namespace, source) for source in _awaited(pod))
        return {
            "observedGeneration": 1,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas * is_ready,
            "availableReplicas": replicas * is_ready,
        }

    def _has(self, namespace: str, source: tuple[str, Object]) -> bool:
        resource, wanted = source
        name = wanted.get("secretName") or wanted["name"]
        found = self.objects.get((resource, namespace, name))
        keys = {item["key"] for item in wanted.get("items", ())}
        return found is not None and keys <= found.get("data", {}).keys()


_LOGGED: Object = {
    "metadata": {"labels": {"app.kubernetes.io/name": "ringkeeper"}},
    "spec": {"containers": [{"name": "ringkeeper"}]},
}


def _pod(name: str, namespace: str, template: Object) -> Object:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {**template["metadata"], "name": name, "namespace": namespace},
        "spec": template["spec"],
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": each["name"], "ready": True, "state": {"running": {}}}
                for each in template["spec"]["containers"]
            ],
        },
    }


def _awaited(pod: Object) -> Iterator[tuple[str, Object]]:
    """The Secrets and ConfigMaps that a pod waits for, each with its resource."""
    resources = {"secret": "secrets", "configMap": "configmaps"}
    for volume in pod.get("volumes", ()):
        for source in volume.get("projected", {}).get("sources", [volume]):
            for kind in resources.keys() & source.keys():
                if not source[kind].get("optional"):
                    yield resources[kind], source[kind]


# --- the API -------------------------------------------------------------------------------------


class _Server:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.app = web.Application()
        self.app.add_routes(
            [
                web.get("/version", _said({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})),
                web.get("/api", _said({"kind": "APIVersions", "versions": ["v1"]})),
                web.get("/apis", _said({"kind": "APIGroupList", "groups": _groups()})),
                web.get("/openapi/v2", _nothing_to_validate),
            ]
        )
        for group, resources in _KINDS.items():
            base = f"/api/{group}" if group == "v1" else f"/apis/{group}"
            self.app.router.add_get(base, _said(_resources(group, resources)))
            for resource, (kind, is_namespaced) in resources.items():
                here = f"{base}/namespaces/{{namespace}}" if is_namespaced else base
                serve = _Resource(cluster, group, resource, kind)
                self.app.router.add_get(f"{here}/{resource}", serve.list)
                self.app.router.add_post(f"{here}/{resource}", serve.create)
                self.app.router.add_get(f"{here}/{resource}/{{name}}", serve.get)
                self.app.router.add_put(f"{here}/{resource}/{{name}}", serve.replace)
        pod = "/api/v1/namespaces/{namespace}/pods/{name}"
        self.app.router.add_get(f"{pod}/log", self._log)
        self.app.router.add_get(f"{pod}/exec", self._exec)
        self.app.router.add_get(f"{pod}/portforward", self._forward)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        log = self._cluster.logs.get(request.match_info["name"])
        if log is None or request.query["container"] != "ringkeeper":
            return _failed(404, "NotFound", request.path)
        return web.Response(body=log.read_bytes())

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """A command, over the protocol that carries each stream as a channel of one WebSocket."""
        if not self._cluster.get(
            "pods", request.match_info["namespace"], request.match_info["name"]
        ):
            return _failed(404, "NotFound", request.path)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        process = await asyncio.create_subprocess_exec(
            *request.query.getall("command"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(self._cluster.environment),
            cwd=self._cluster.folder,
        )
        output, complaints = await process.communicate()
        for channel, told in ((_OUTPUT, output), (_COMPLAINTS, complaints)):
            if told:
                await socket.send_bytes(channel + told)
        await socket.send_bytes(_STATUS + json.dumps(_ended(process.returncode or 0)).encode())
        await socket.close()
        return socket

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        """Connections to a port, over the SPDY that kubectl speaks within a WebSocket."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        pod = self._cluster.get("pods", namespace, name)
        if pod is None:
            return _failed(404, "NotFound", request.path)
        open_ports = [
            port["containerPort"]
            for container in pod["spec"]["containers"]
            for port in container.get("ports", ())
        ]
        (port,) = [self._cluster.ports[each] for each in open_ports if each in self._cluster.ports]
        socket = web.WebSocketResponse(protocols=("SPDY/3.1+portforward.k8s.io",))
        await socket.prepare(request)
        await _Tunnel(socket, port).run()
        return socket


class _Resource:
    """One kind of object."""

    def __init__(self, cluster: Cluster, group: str, resource: str, kind: str) -> None:
        self._cluster = cluster
        self._group = group
        self._resource = resource
        self._kind = kind

    async def list(self, request: web.Request) -> web.StreamResponse:
        found = [
            each
            for each in self._cluster.all(self._resource, request.match_info.get("namespace", ""))
            if _is_selected(each, request.query)
        ]
        if request.query.get("watch"):
            lines = [json.dumps({"type": "MODIFIED", "object": each}) for each in found]
            return web.Response(text="\n".join([*lines, ""]), content_type="application/json")
        head = {"kind": f"{self._kind}List", "apiVersion": self._group}
        return web.json_response({**head, "metadata": {"resourceVersion": "1"}, "items": found})

    async def get(self, request: web.Request) -> web.StreamResponse:
        where = request.match_info.get("namespace", ""), request.match_info["name"]
        found = self._cluster.get(self._resource, *where)
        if found is None:
            return _failed(404, "NotFound", f'{self._resource} "{where[1]}" not found')
        return web.json_response(found)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info.get("namespace", ""), request.match_info["name"]
        if self._cluster.objects.pop((self._resource, namespace, name), None) is None:
            return _failed(404, "NotFound", f'{self._resource} "{name}" not found')
        return await self.create(request)

    async def create(self, request: web.Request) -> web.StreamResponse:
        made, namespace = _object_in(await request.read()), request.match_info.get("namespace", "")
        where = (self._resource, namespace, made["metadata"]["name"])
        if namespace and ("namespaces", "", namespace) not in self._cluster.objects:
            return _failed(404, "NotFound", f'namespaces "{namespace}" not found')
        if (made["apiVersion"], made["kind"]) != (self._group, self._kind):
            return _failed(400, "BadRequest", f"that is no {self._kind}")
        if where in self._cluster.objects:
            return _failed(409, "AlreadyExists", f'{self._resource} "{where[2]}" already exists')
        made["metadata"] |= {"generation": 1, "resourceVersion": "1"}
        if namespace:
            made["metadata"]["namespace"] = namespace
        self._cluster.objects[where] = made
        return web.json_response(made, status=201)


def _object_in(body: bytes) -> Object:
    """What is sent: as JSON, or, of a Secret or ConfigMap that is created, as Kubernetes' protobuf."""
    if not body.startswith(_PROTOBUF):
        made: Object = json.loads(body)
        return made
    envelope = dict(_fields(body.removeprefix(_PROTOBUF)))
    version, kind = (each.decode() for _, each in _fields(envelope[1]))
    fields = list(_fields(envelope[2]))
    meta = dict(_fields(fields[0][1]))
    files = [dict(_fields(entry)) for number, entry in fields if number == _DATA]
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": meta[1].decode()},
        "data": {
            each[1].decode(): b64encode(each[2]).decode() if kind == "Secret" else each[2].decode()
            for each in files
        },
    }


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Of a protobuf message: the fields that are texts or messages; numbers are passed over."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        size, at = _number(message, at)
        if key & 7 == _SIZED:
            yield key >> 3, message[at : at + size]
            at += size


def _number(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, seven bits an octet, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        if message[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7


def _is_selected(each: Object, query: Mapping[str, str]) -> bool:
    labels = each["metadata"].get("labels", {})
    wanted = [told.split("=") for told in query.get("labelSelector", "").split(",") if told]
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    return all(labels.get(k) == v for k, v in wanted) and name in ("", each["metadata"]["name"])


def _groups() -> list[Object]:
    versions = [
        (group.partition("/")[0], {"groupVersion": group, "version": group.partition("/")[2]})
        for group in _KINDS
        if "/" in group
    ]
    return [{"name": n, "versions": [v], "preferredVersion": v} for n, v in versions]


def _resources(group: str, resources: Mapping[str, tuple[str, bool]]) -> Object:
    served = [
        {"name": name, "singularName": kind.lower(), "namespaced": is_namespaced, "kind": kind,
         "verbs": ["create", "get", "list", "watch"], "shortNames": [name[:6]] if name == "deployments" else []}
        for name, (kind, is_namespaced) in resources.items()
    ]  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": group, "resources": served}


def _said(document: Object) -> Any:
    async def say(_: web.Request) -> web.Response:
        return web.json_response(document)

    return say


async def _nothing_to_validate(_: web.Request) -> web.Response:
    """A description of no API at all: manifests are validated by tests/deploy."""
    return web.Response(content_type="application/com.github.proto-openapi.spec.v2.v1.0+protobuf")


def _failed(code: int, reason: str, message: str) -> web.Response:
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason}
    return web.json_response({**told, "message": message, "code": code}, status=code)


def _ended(status: int) -> Object:
    if not status:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(status)}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with exit code {status}",
        "details": {"causes": [cause]},
    }


# --- forwarding ----------------------------------------------------------------------------------

_CONTROL = 0x8000
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING = 1, 2, 3, 6
_LAST = 1
"""The flag of a stream's last frame."""


class _Tunnel:
    """Connections of one kubectl, each two streams of SPDY 3.1: what went wrong, and what is said."""

    def __init__(self, socket: web.WebSocketResponse, port: int) -> None:
        self._socket = socket
        self._port = port
        self._to: dict[int, asyncio.StreamWriter] = {}
        self._streams = 0
        self._readers: set[asyncio.Task[None]] = set()
        self._headers = zlib.compressobj()

    async def run(self) -> None:
        received = b""
        try:
            async for message in self._socket:
                received += _bytes_of(message)
                while len(received) >= 8 and len(received) >= 8 + _length(received):
                    end = 8 + _length(received)
                    frame, received = received[:end], received[end:]
                    await self._take(frame)
        finally:
            for reader in self._readers:
                reader.cancel()
            for writer in self._to.values():
                writer.close()

    async def _take(self, frame: bytes) -> None:
        first, kind = struct.unpack(">HH", frame[:4])
        stream = int.from_bytes(frame[8:12]) if first & _CONTROL else int.from_bytes(frame[:4])
        if not first & _CONTROL:
            if writer := self._to.get(stream):
                writer.write(frame[8:])
                if frame[4] & _LAST:
                    with suppress(OSError):
                        writer.write_eof()
        elif kind == _SYN_STREAM:
            await self._begin(stream)
        elif kind == _PING:
            await self._socket.send_bytes(frame)

    async def _begin(self, stream: int) -> None:
        none = self._headers.compress(bytes(4)) + self._headers.flush(zlib.Z_SYNC_FLUSH)
        await self._control(_SYN_REPLY, struct.pack(">I", stream) + none)
        self._streams += 1
        if self._streams % 2:  # of each two the first is for what went wrong: nothing does
            await self._socket.send_bytes(struct.pack(">II", stream, _LAST << 24))
            return
        reader, self._to[stream] = await asyncio.open_connection("127.0.0.1", self._port)
        task = asyncio.create_task(self._pass_on(stream, reader))
        self._readers.add(task)

    async def _pass_on(self, stream: int, reader: asyncio.StreamReader) -> None:
        while told := await reader.read(4096):
            await self._socket.send_bytes(struct.pack(">II", stream, len(told)) + told)
        await self._socket.send_bytes(struct.pack(">II", stream, _LAST << 24))

    async def _control(self, kind: int, body: bytes) -> None:
        await self._socket.send_bytes(struct.pack(">HHI", _CONTROL | 3, kind, len(body)) + body)


def _length(frame: bytes) -> int:
    return int.from_bytes(frame[5:8])


def _bytes_of(message: WSMessage) -> bytes:
    return bytes(message.data) if message.type is WSMsgType.BINARY else b""


# --- where it is served --------------------------------------------------------------------------


@contextmanager
def serving(cluster: Cluster, kubeconfig: Path) -> Iterator[None]:
    """`cluster`, on a port of this host; `kubeconfig` leads there."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def within(doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, loop).result(20)

    runner = web.AppRunner(_Server(cluster).app, shutdown_timeout=1)
    within(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    within(site.start())
    port = runner.addresses[0][1]
    try:
        kubeconfig.write_text(json.dumps(_way_to(port)))
        yield
    finally:
        within(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _way_to(port: int) -> Object:
    return {
        "kind": "Config",
        "apiVersion": "v1",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here"}}],
        "current-context": "here",
    }
