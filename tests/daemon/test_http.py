"""What verifiers, orchestrators and Prometheus read."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from ringkeeper.clock import SystemClock
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.replica import Replica
from ringkeeper.ring import Ring, RotationReason
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.metrics import Metrics
from ringkeeperd.web import Pages
from tests.core.builders import HOUR, NOW, new_ring, policy
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server


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


def test_after_a_revocation_the_jwks_is_another_and_no_cache_is_told_that_it_is_not(
    site: Site,
) -> None:
    daemon = site.daemon(init=True)
    _, headers, body = daemon.get("/.well-known/jwks.json")
    former, tag = {key["kid"] for key in json.loads(body)["keys"]}, headers["ETag"]
    signer = json.loads(daemon.get("/v1/keyring")[2])["access-token"]["signer"]
    site.done("revoke", signer, "--reason", "leaked")
    status, headers, body = daemon.get("/.well-known/jwks.json", **{"If-None-Match": tag})
    assert status == 200
    assert headers["ETag"] != tag
    kids = {key["kid"] for key in json.loads(body)["keys"]}
    assert former - kids == {signer}
    assert len(kids - former) == 1, "the next standby"
    status, again, body = daemon.get("/.well-known/jwks.json", **{"If-None-Match": headers["ETag"]})
    assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])


def test_discovery_exists_only_with_an_issuer(site: Site) -> None:
    plain = site.daemon(init=True)
    assert plain.get("/.well-known/openid-configuration")[0] == 404
    named = site.daemon(issuer="https://auth.example.com/")
    for accept in ("text/html", "application/json"):  # and nobody is sent there else
        told = [b"openid-config" in each.get("/", Accept=accept)[2] for each in (plain, named)]
        assert told == [False, True]
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


def pages_of(now: datetime, *rings: Ring) -> Pages:
    """The pages of a daemon that read `rings` at `NOW`, and nothing since."""
    root = TrustRoot.generate()

    def service(ring: Ring) -> Any:
        snapshot = sign_snapshot(ring, root)
        replica = Replica(ring.name, root.public).offer(
            snapshot, sign_proof(ring, snapshot, NOW, root), NOW
        )
        return SimpleNamespace(
            name=ring.name,
            follower=SimpleNamespace(replica=replica, trouble=None),
            state=SimpleNamespace(trouble=""),
            handing_on=SimpleNamespace(is_failing=False),
            clock=SimpleNamespace(now=lambda: now),
            counts=RefreshCounts(),
        )

    return Pages({ring.name: service(ring) for ring in rings}, Metrics(), "", str)


async def test_the_jwks_is_made_once_for_each_version(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = new_ring(policy(algorithm="EdDSA"))
    pages, asking = pages_of(NOW, ring), make_mocked_request("GET", "/")
    first = await pages.jwks(asking)
    monkeypatch.setattr(Ring, "jwks", None)
    again = await pages.jwks(asking)
    assert again.body is first.body
    assert again.headers["ETag"] == first.headers["ETag"]
    assert json.loads(first.text or "")["keys"]


@pytest.mark.parametrize("hours", [23, 25])
async def test_a_ring_too_old_to_sign_on_is_served_and_told_of(hours: int) -> None:
    """Whoever verifies is better off with it than without: promise 9.

    Were it not ready, an outage of Redis would take all daemons out of their Service at once.
    """
    pages = pages_of(NOW + hours * HOUR, new_ring(policy(algorithm="EdDSA")))
    asking = make_mocked_request("GET", "/")
    ready, jwks = await pages.readyz(asking), await pages.jwks(asking)
    assert ready.status == 200
    assert ("its newest proof of freshness is too old" in str(ready.text)) == (hours > 24)
    assert jwks.status == 200
    assert jwks.headers["Cache-Control"] == "public, max-age=0"


@pytest.mark.parametrize("hours", [23, 25])
async def test_a_ring_too_old_to_verify_by_is_served_to_nobody(hours: int) -> None:
    """Only where `max_verify_staleness` says so: an app refuses by then, too."""
    ring = new_ring(policy(algorithm="EdDSA", max_verify_staleness=24 * HOUR))
    pages, asking = pages_of(NOW + hours * HOUR, ring), make_mocked_request("GET", "/")
    ready, jwks = await pages.readyz(asking), await pages.jwks(asking)
    assert jwks.status == ready.status == (200 if hours < 24 else 503)
    assert ("too old to verify by" in str(ready.text)) == (hours > 24)


async def test_a_ring_too_old_to_verify_by_takes_no_other_one_away() -> None:
    strict = new_ring(policy(algorithm="EdDSA", max_verify_staleness=24 * HOUR))
    other = replace(new_ring(policy(algorithm="EdDSA")), name="other")
    pages = pages_of(NOW + 25 * HOUR, strict, other)
    ready = await pages.readyz(make_mocked_request("GET", "/"))
    assert ready.status == 200
    assert f"ring {strict.name}: it is too old to verify by" in str(ready.text)


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
    assert daemon.metric("keys", kind="dynamic", state="active") == 1
    assert daemon.metric("keys", kind="static", state="active") == 1
    assert daemon.metric("keys", kind="dynamic", state="published") == 1
    assert daemon.metric("keys", kind="dynamic", state="revoked") == 0
    eventually(lambda: daemon.metric("instances") == 1)
    eventually(lambda: daemon.metric("instances_behind") == 0)
    for reason in RotationReason:  # or increase() would not see the first of them
        assert daemon.metric("rotations_total", reason=reason) == 0
    assert daemon.metric("redis_up") == 1
    last, then = (
        daemon.metric(f"{which}_rotation_timestamp_seconds") for which in ("last", "next")
    )
    assert last and then
    assert last == pytest.approx(SystemClock().now().timestamp(), abs=60)
    assert then - last == pytest.approx(3600)
    age = daemon.metric("proof_age_seconds")
    assert age is not None and age < 60
    seen = json.loads(daemon.get("/v1/keyring")[2])["access-token"]
    assert seen["version"] == 1
    assert {key["state"] for key in seen["keys"]} == {"active", "published"}


def test_any_of_the_tags_that_a_cache_has_will_do(site: Site) -> None:
    daemon = site.daemon(init=True)
    path = "/.well-known/jwks.json"
    tag = daemon.get(path)[1]["ETag"]
    for known in (f'"older", {tag}', f'W/"older",W/{tag}', "*"):
        assert daemon.get(path, **{"If-None-Match": known})[0] == 304
    for unknown in ('"older"', tag.strip('"'), f'{tag[:-2]}"', ""):
        assert daemon.get(path, **{"If-None-Match": unknown})[0] == 200


def test_every_answer_is_secured_and_names_no_versions(site: Site) -> None:
    daemon = site.daemon(init=True)
    for path, expected in (
        ("/", 200),
        ("/status.css", 200),
        ("/metrics", 200),
        ("/nowhere", 404),
        ("/rings/none/.well-known/jwks.json", 404),
        ("/.well-known/openid-configuration", 404),
    ):
        status, headers, body = daemon.get(path)
        assert status == expected
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Server" not in headers
        if status != 200:
            assert json.loads(body)["status"] == "not found"
            assert headers["Cache-Control"] == "no-store"
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.port}/healthz", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)  # noqa: S310 - our own
    with refused.value as answer:
        assert answer.code == 405
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "GET" in answer.headers["Allow"]
        assert "use GET, HEAD" in json.loads(answer.read())["why"]


def test_head_works_wherever_get_does(site: Site) -> None:
    daemon = site.daemon(init=True, issuer="https://auth.example.com")
    for path in (*places_of(daemon), "/status.css", "/status.js", "/nowhere"):
        place = path.replace("{ring}", "access-token")
        status, got, body = daemon.get(place)
        request = urllib.request.Request(f"http://127.0.0.1:{daemon.port}{place}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own
                assert answer.read() == b""
                headers, code = dict(answer.headers), answer.status
        except urllib.error.HTTPError as error:
            with error:
                headers, code = dict(error.headers), error.code
        assert code == status, place
        assert headers.keys() == got.keys()
        if place not in ("/", "/metrics", "/v1/keyring", "/healthz"):  # these change meanwhile
            assert headers["Content-Length"] == str(len(body)), place


def test_nothing_over_http_names_a_host_a_file_an_address_or_a_library(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    """While all is well, while Redis is gone, and while what lies there is damaged."""
    server = own_server()
    site = make_site(server.tcp_url)
    daemon = site.daemon(init=True, issuer="https://auth.example.com")
    eventually(daemon.leads)
    eventually(lambda: daemon.metric("instances") == 1)
    names = [socket.gethostname(), str(server.port), "aiohttp", "redis-py", "Python", "Traceback"]
    names += [str(site.folder), site.folder.name, "kek.jwk", "root.jwk", "state0", str(os.getpid())]
    names += [str(daemon.process.pid), "Error"]

    def shown() -> str:
        places = [
            *places_of(daemon),
            "/status.css",
            "/status.js",
            "/nowhere",
            "/rings/a/.well-known/jwks.json",
        ]
        # As a stranger: who asks from this host is shown names of instances on the page.
        asked = {"X-Forwarded-For": "192.0.2.7", "Accept": "text/html"}
        got = [daemon.get(place.replace("{ring}", "access-token"), **asked) for place in places]
        return "\n".join(f"{status} {headers} {body.decode()}" for status, headers, body in got)

    def assert_names_nothing() -> None:
        text = shown()
        # Times and counts have digits of their own.
        found = [
            name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text)
        ]
        assert found == [], text

    instances = json.loads(daemon.get("/v1/keyring")[2])["access-token"]["instances"]
    assert [sorted(instance) for instance in instances] == [["epoch", "role", "version"]]
    assert_names_nothing()
    with server.client() as client:
        client.hset("ringkeeper:{access-token}:keyring", "snapshot", "file:///etc/passwd aiohttp")
    eventually(lambda: "not this ring as the trust root signed it" in shown(), within=30)
    assert_names_nothing()
    server.kill()
    eventually(lambda: "Redis does not answer as it should" in shown(), within=30)
    assert_names_nothing()
    assert str(server.port) in daemon.log, "there it is told"


def places_of(daemon: Daemon) -> dict[str, str]:
    """What there is to be read, for programs."""
    places: dict[str, str] = json.loads(daemon.get("/", Accept="application/json")[2])["places"]
    return places


def test_the_first_page_lists_the_others(site: Site) -> None:
    daemon = site.daemon(init=True)
    places = places_of(daemon)
    assert {"/metrics", "/healthz", "/readyz", "/v1/keyring"} < places.keys()
    assert all(places.values())
    page = daemon.get("/", Accept="text/html,*/*")[2].decode()
    assert [place for place in places if place not in page] == []
    assert json.loads(daemon.get("/nowhere")[2])["why"] == "nothing is here; see /"


def test_discovery_is_cacheable_as_the_keys_are(site: Site) -> None:
    daemon = site.daemon(init=True, issuer="https://auth.example.com", jwks_max_age="5m")
    headers = daemon.get("/.well-known/openid-configuration")[1]
    assert 290 < int(headers["Cache-Control"].removeprefix("public, max-age=")) <= 300


def test_a_configuration_that_was_rejected_is_seen_from_outside(site: Site) -> None:
    daemon = site.daemon(init=True)

    def configuration() -> str:
        return str(json.loads(daemon.get("/healthz")[2])["configuration"])

    assert configuration() == ""
    good = daemon.config.read_text()
    daemon.config.write_text('{"algorithm": "HS256", "surprise": "a secret"}')
    daemon.signal(signal.SIGHUP)
    said = eventually(configuration)
    assert "rejected at the last reload" in said
    assert "secret" not in daemon.get("/healthz")[2].decode()
    daemon.config.write_text(good)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: configuration() == "")
