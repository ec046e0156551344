"""Pods for a real kubectl: what an API server says of them and of their logs, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONTAINER = "ringkeeper"
LABEL = "app.kubernetes.io/name=ringkeeper"
_NAMESPACE = "/api/v1/namespaces/default/pods"
_DISCOVERY: Mapping[str, dict[str, Any]] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
        ],
    },
}  # fmt: skip


@contextmanager
def serving(logs: Mapping[str, Path], kubeconfig: Path) -> Iterator[None]:
    """Pods by those names, each with a container whose log is that file; `kubeconfig` leads there."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            told = {name: values[-1] for name, values in parse_qs(asked.query).items()}
            name, _, what = asked.path.removeprefix(_NAMESPACE).strip("/").partition("/")
            if asked.path in _DISCOVERY:
                self._say(_DISCOVERY[asked.path])
            elif asked.path == _NAMESPACE and told.get("labelSelector") == LABEL:
                self._say({"kind": "PodList", "apiVersion": "v1", "items": [_pod(n) for n in logs]})
            elif asked.path.startswith(_NAMESPACE) and name in logs and not what:
                self._say(_pod(name))
            elif name in logs and what == "log" and told["container"] == CONTAINER:
                self._send("text/plain", logs[name].read_bytes())
            else:
                self._say({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                           "reason": "NotFound", "message": asked.path, "code": 404}, 404)  # fmt: skip

        def _say(self, document: dict[str, Any], status: int = 200) -> None:
            self._send("application/json", json.dumps(document).encode(), status)

        def _send(self, kind: str, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        kubeconfig.write_text(json.dumps(_way_to(server.server_port)))
        yield
    finally:
        server.shutdown()
        server.server_close()


def _pod(name: str) -> dict[str, Any]:
    label, _, value = LABEL.partition("=")
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "labels": {label: value}},
        "spec": {"containers": [{"name": CONTAINER}]},
    }


def _way_to(port: int) -> dict[str, Any]:
    return {
        "kind": "Config",
        "apiVersion": "v1",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here"}}],
        "current-context": "here",
    }
