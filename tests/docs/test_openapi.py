"""docs/openapi.yaml, held against daemons: each path, status and type in it is asked for."""

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml
from aiohttp.test_utils import make_mocked_request
from docs.reference import referred

import ringkeeper
from ringkeeperd.metrics import Metrics
from ringkeeperd.page.serving import StatusPage
from ringkeeperd.web import Pages
from tests.daemon.test_page import service_of
from tests.docs.pages import ROOT
from tests.plugins.daemons import Daemon, Site, eventually

DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
JSON = "application/json"
TOKEN = "a" * 40


class Case(NamedTuple):
    """What to ask, of which daemon, and which status and type are the answer."""

    daemon: str
    operation: str
    status: int
    kind: str = JSON
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | None = None
    query: str = ""
    ring: str = "access-token"


def counts(daemon: str, status: int, body: bytes = b"{}", **headers: str) -> Case:
    sent = {
        "Content-Type": JSON,
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return Case(daemon, "POST /v1/refreshes", status, JSON, sent, body)


JWKS, OF_RING = "GET /.well-known/jwks.json", "GET /rings/{ring}/.well-known/jwks.json"
DISCOVERY = "GET /.well-known/openid-configuration"
GOOD = b'{"ring": "access-token", "refreshes": {"expired": 2, "other": 0}}'
CASES = [
    *(Case("leader", each, 200) for each in (JWKS, OF_RING)),
    *(
        Case("leader", each, 304, "", {"If-None-Match": "*"})
        for each in (JWKS, OF_RING, "GET /status.css", "GET /status.js")
    ),
    *(Case("cut_off", each, 503) for each in (JWKS, DISCOVERY, "GET /readyz")),
    Case("cut_off", OF_RING, 503),
    Case("leader", OF_RING, 404, ring="none"),
    Case("sidecar", DISCOVERY, 200),
    Case("leader", DISCOVERY, 404),
    *(Case(each, "GET /healthz", 200) for each in ("leader", "sidecar", "cut_off")),
    *(Case(each, "GET /readyz", 200) for each in ("leader", "sidecar")),
    Case("leader", "GET /metrics", 200, "text/plain"),
    *(Case(each, "GET /v1/keyring", 200) for each in ("leader", "sidecar", "cut_off")),
    *(Case(each, "GET /v1/refreshes/series", 200) for each in ("leader", "sidecar")),
    counts("leader", 202, GOOD),
    counts("sidecar", 202, GOOD, Authorization=f"Bearer {TOKEN}"),
    counts("leader", 400),
    counts("sidecar", 401),
    counts("leader", 403, X_Forwarded_For="192.0.2.1"),
    counts("leader", 404, b'{"ring": "none", "refreshes": {}}'),
    counts("leader", 413, b" " * 9000),
    counts("leader", 415, GOOD, Content_Type="text/plain"),
    counts("cut_off", 503, GOOD),
    Case("leader", "GET /", 200, "text/html"),
    Case("leader", "GET /", 200, JSON, {"Accept": JSON}),
    Case("leader", "GET /", 404, query="?ring=none"),
    Case("leader", "GET /status.css", 200, "text/css"),
    Case("leader", "GET /status.js", 200, "text/javascript"),
]
BUSY = ("GET /", 503, JSON)
"""Asked of the page itself: a daemon draws its few pages faster than anybody can ask."""


def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def answer_of(operation: str, status: int) -> dict[str, Any]:
    return referred(DOCUMENT, operations()[operation]["responses"][str(status)])


def check(schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.fixture
def daemons(site: Site) -> dict[str, Daemon]:
    leader = site.daemon(init=True)
    (site.folder / "token").write_text(TOKEN)
    (site.folder / "token").chmod(0o600)
    issuer = "https://auth.example.com"
    sidecar = site.daemon(lead=False, trust_root=None, issuer=issuer, refreshes_token_file="token")
    cut_off = site.daemon(
        is_ready=False,
        redis={"url": f"unix://{site.folder}/none.sock"},
        issuer=issuer,
        refreshes_token_file="missing",
    )
    eventually(lambda: cut_off.answers("/healthz"))
    site.leader()
    return {"leader": leader, "sidecar": sidecar, "cut_off": cut_off}


def asked(daemon: Daemon, case: Case) -> tuple[int, dict[str, str], bytes]:
    method, path = case.operation.split()
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    try:
        connection.request(
            method, path.format(ring=case.ring) + case.query, case.body, dict(case.headers)
        )
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_every_answer_of_a_daemon_is_as_the_document_says(daemons: dict[str, Daemon]) -> None:
    for case in CASES:
        status, headers, body = asked(daemons[case.daemon], case)
        assert status == case.status, (case, body)
        told = answer_of(case.operation, case.status)
        content = told.get("content", {})
        if case.kind:
            assert headers["Content-Type"].partition(";")[0] == case.kind, case
            read = json.loads(body) if case.kind == JSON else body.decode()
            check(content[case.kind]["schema"], read)
        else:
            assert (content, body) == ({}, b""), case
        for name, given in told.get("headers", {}).items():
            check(referred(DOCUMENT, given)["schema"], headers[name])
        if case.status >= 400:
            assert headers["Cache-Control"] == "no-store", case


async def test_a_page_that_is_asked_for_too_often_is_refused_as_the_document_says() -> None:
    page = StatusPage({"access-token": service_of()}, tuple, {})
    page._budget.spend(1000)
    answer = await page.page(make_mocked_request("GET", "/"))
    told = answer_of(*BUSY[:2])
    assert (answer.status, answer.content_type) == BUSY[1:]
    check(told["content"][JSON]["schema"], json.loads(answer.text or ""))
    check(told["headers"]["Retry-After"]["schema"], answer.headers["Retry-After"])


def test_nothing_in_the_document_is_left_unasked() -> None:
    written = {
        (operation, int(status), kind)
        for operation, told in operations().items()
        for status in told["responses"]
        for kind in answer_of(operation, int(status)).get("content", {"": None})
    }
    assert {(case.operation, case.status, case.kind) for case in CASES} | {BUSY} == written


def test_every_route_of_a_daemon_is_in_the_document() -> None:
    application = Pages({}, Metrics(), "https://auth.example.com", str).application()
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in application.router.routes()
        if route.resource and route.method != "HEAD"
    }
    assert routes == set(operations())


def test_what_any_path_may_answer_is_answered(site: Site) -> None:
    """They stand in docs/http.md once, for all paths; tests/daemon/test_http_limits.py has the rest."""
    daemon = site.daemon(init=True)
    refused = DOCUMENT["components"]["schemas"]["Refused"]

    def answers(method: str, path: str, status: int, **headers: str) -> dict[str, str]:
        case = Case("leader", f"{method} {path}", status, headers=headers)
        got, heard, body = asked(daemon, case)
        assert got == status
        check(refused, json.loads(body))
        return heard

    assert answers("DELETE", "/healthz", 405)["Allow"] == "GET,HEAD"
    answers("GET", "/", 431, Cookie="x" * 9000)
    answers("G@T", "/", 400)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from objects(inner)


def test_the_document_is_openapi_as_far_as_can_be_told() -> None:
    assert re.fullmatch(r"3\.1\.\d", DOCUMENT["openapi"])
    assert DOCUMENT["info"]["version"] == ringkeeper.__version__
    names = [operation["operationId"] for operation in operations().values()]
    assert len(names) == len(set(names))

    for value in objects(DOCUMENT):
        if isinstance(value.get("$ref"), str):
            assert referred(DOCUMENT, value)
        if isinstance(value.get("schema"), dict):
            jsonschema.Draft202012Validator.check_schema(value["schema"])
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            given = [referred(DOCUMENT, each) for each in operation.get("parameters", [])]
            in_path = {each["name"] for each in given if each["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))


def test_what_no_daemon_answers_does_not_fit() -> None:
    """Else the schemas let everything by."""
    for schema, value in (
        ("JwkSet", {"keys": []}),
        ("JwkSet", {"keys": [{"kty": "RSA", "kid": "a", "alg": "RS256", "use": "sig", "d": "x"}]}),
        ("RingState", {"leading": True, "trouble": "", "hosts": []}),
        ("Refreshes", {"refreshes": {"bored": 1}}),
        ("Refreshes", {"refreshes": {"expired": -1}}),
        ("RefreshSeries", {"leading": False}),
        ("Refused", {"status": "no"}),
    ):
        with pytest.raises(jsonschema.ValidationError):
            check(DOCUMENT["components"]["schemas"][schema], value)
