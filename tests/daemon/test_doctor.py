"""`ringkeeper doctor` on real servers; what it says of each fact is tested in core/test_doctor."""

import json
from collections.abc import Callable
from typing import Any

from ringkeeper.layout import Layout
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

LAYOUT = Layout("access-token")


def findings(site: Site) -> dict[str, Any]:
    result = site.run("doctor", "--json")
    told = json.loads(result.stdout)
    assert result.returncode == (0 if told["ok"] else 1)
    return {f"{each['subject']}, {each['about']}": each for each in told["findings"]}


def test_it_looks_at_a_healthy_site_and_finds_nothing_that_fails(
    make_site: Callable[[str], Site], any_server: Server
) -> None:
    site = make_site(any_server.url)
    site.daemon(init=True)
    said = site.done("doctor")
    assert "fail" not in {line.split()[0] for line in said.splitlines()}
    assert "ring access-token, audit: signed, numbered, no gap" in said
    assert "ring access-token, keys: all 3 private keys that may sign open" in said


def test_what_bites_is_named_and_fails(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(server.url)
    daemon = site.daemon(init=True)
    with server.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.xtrim(LAYOUT.events, maxlen=1, approximate=False)
        client.xadd(LAYOUT.events, {"event": "garbage"})
    found = findings(site)
    assert found["redis, eviction"]["level"] == "fail"
    assert "noeviction" in found["redis, eviction"]["remedy"]
    assert found["ring access-token, audit"]["level"] == "fail"
    site.folder.chmod(0o777)
    assert findings(site)["host, secrets"]["level"] == "fail"
    site.folder.chmod(0o700)
    daemon.kill()

    def is_alone() -> bool:
        level: str = findings(site)["ring access-token, freshness"]["level"]
        return level == "warn"

    eventually(is_alone)
    (site.folder / "kek.jwk").write_text((site.folder / "root.pub.jwk").read_text())
    found = findings(site)
    assert found["host, secrets"]["level"] == "fail"
    assert "a KEK is a symmetric JWK" in found["host, secrets"]["what"]


def test_a_running_daemon_is_ready_and_says_what_bites(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    with server.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "volatile-lru")
    daemon = make_site(server.url).daemon(init=True)

    def warnings() -> Any:
        status, _, body = daemon.get("/readyz")
        assert status == 200
        return json.loads(body)["warnings"]

    assert eventually(warnings) == ["redis: eviction"]
    (told,) = daemon.told("redis endangers rings")
    assert "noeviction" in told["remedy"]


def test_a_ring_that_cannot_be_opened_fails(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True).stop()
    with valkey.client() as client:
        for kid in client.hkeys(LAYOUT.sealed):
            client.hset(LAYOUT.sealed, kid, "garbage")
    found = findings(site)
    assert found["ring access-token, ring"]["level"] == "fail"
    assert "is no sealed key" in found["ring access-token, ring"]["what"]


def test_no_redis_is_one_finding(make_site: Callable[[str], Site]) -> None:
    site = make_site("redis://127.0.0.1:1")
    site.configure()
    found = findings(site)
    assert found["redis, connection"]["level"] == "fail"
    assert "is Redis up and reachable" in found["redis, connection"]["remedy"]


def test_a_password_that_everybody_may_read_is_warned_of(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(f"redis://127.0.0.1:{server.port}")
    with server.client() as client:
        client.config_set("requirepass", "correct-horse")
    password = site.folder / "password"
    password.write_text("correct-horse")
    password.chmod(0o600)
    site.configure(redis={"url": site.redis_url, "password_file": str(password)})
    site.done("init")
    assert findings(site)["host, password"]["level"] == "ok"
    password.chmod(0o644)
    found = findings(site)["host, password"]
    assert found["level"] == "warn"
    assert found["remedy"] == f"chmod 600 {password}, and change the password"
    with_password = f"redis://:correct-horse@127.0.0.1:{server.port}"
    (site.folder / "config.yaml").chmod(0o644)
    site.configure(redis={"url": with_password})
    assert "config.yaml: anyone on this host may read" in findings(site)["host, password"]["what"]


def test_it_prints_users_for_the_configured_rings(make_site: Callable[[str], Site]) -> None:
    site = make_site("redis+cluster://127.0.0.1:1")
    site.configure(keyrings={"refresh-token": None})
    said = site.done("doctor", "--acl")
    assert "user ringkeeper-verifier reset on" in said
    assert "ringkeeper:{refresh-token}:keyring" in said
    assert "+ssubscribe" in said
    one = site.done("doctor", "--acl", "--ring", "refresh-token")
    assert "{access-token}" not in one
