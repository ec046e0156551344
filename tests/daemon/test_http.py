"""What verifiers, orchestrators and Prometheus read."""

import json
import shutil
import subprocess

import pytest

from tests.plugins.daemons import Site, eventually


def test_the_jwks_is_cacheable_for_what_is_left_of_its_proof(site: Site) -> None:
    daemon = site.daemon(init=True, jwks_max_age="5m")
    status, headers, body = daemon.get("/.well-known/jwks.json")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    age = int(headers["Cache-Control"].removeprefix("public, max-age="))
    assert 290 < age <= 300
    states = {key["kid"][0] for key in json.loads(body)["keys"]}
    assert states == {"d", "s"}
    assert len(json.loads(body)["keys"]) == 3
    status, headers, body = daemon.get(
        "/.well-known/jwks.json", **{"If-None-Match": headers["ETag"]}
    )
    assert (status, body) == (304, b"")


def test_discovery_exists_only_with_an_issuer(site: Site) -> None:
    plain = site.daemon(init=True)
    assert plain.get("/.well-known/openid-configuration")[0] == 404
    named = site.daemon(issuer="https://auth.example.com/")
    found = json.loads(named.get("/.well-known/openid-configuration")[2])
    assert found["issuer"] == "https://auth.example.com/"
    assert found["jwks_uri"] == "https://auth.example.com/.well-known/jwks.json"
    assert found["id_token_signing_alg_values_supported"] == ["ES256"]


def test_an_unloaded_ring_is_unavailable_and_never_an_empty_set(site: Site) -> None:
    daemon = site.daemon(is_ready=False)
    eventually(lambda: daemon.answers("/healthz"))
    for path in ("/.well-known/jwks.json", "/readyz"):
        status, headers, body = daemon.get(path)
        assert status == 503
        assert headers["Cache-Control"] == "no-store"
        assert b'"keys"' not in body
    eventually(lambda: "ringkeeper init" in json.loads(daemon.get("/readyz")[2])["why"])


def test_promtool_accepts_the_metrics(site: Site) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: run make provision, or apt-get install prometheus")
    daemon = site.daemon(init=True)
    eventually(daemon.leads)
    result = subprocess.run(
        [promtool, "check", "metrics"],
        input=daemon.get("/metrics")[2],
        capture_output=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_the_leader_reports_its_ring(site: Site) -> None:
    daemon = site.daemon(init=True)
    eventually(lambda: daemon.metric("next_rotation_timestamp_seconds"))
    assert daemon.metric("leader") == 1
    assert daemon.metric("keyring_version") == 1
    assert daemon.metric("keys", state="active") == 2
    assert daemon.metric("keys", state="published") == 1
    assert daemon.metric("keys", state="revoked") == 0
    eventually(lambda: daemon.metric("instances") == 1)
    eventually(lambda: daemon.metric("instances_behind") == 0)
    assert daemon.metric("rotations_total", reason="scheduled") == 0
    assert daemon.metric("redis_up") == 1
    age = daemon.metric("proof_age_seconds")
    assert age is not None and age < 60
    seen = json.loads(daemon.get("/v1/keyring")[2])["access-token"]
    assert seen["version"] == 1
    assert {key["state"] for key in seen["keys"]} == {"active", "published"}
