"""Whatever is wrong, one clear line says what, why and what to do; and nothing is lost."""

import json
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from ringkeeper.sealing import Kek
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

TROUBLES = ("ring troubled", "cannot lead", "leading is troubled")
KEYRING = "ringkeeper:{access-token}:keyring"


def failure(daemon: Daemon, code: int = 1) -> str:
    """The one line of a daemon that would not start."""
    assert daemon.process.wait(20) == code, daemon.log
    lines = [line for line in daemon.log.splitlines() if line.startswith("ringkeeper:")]
    assert len(lines) == 1, daemon.log
    assert "Traceback" not in daemon.log
    return lines[0]


def trouble(daemon: Daemon) -> str:
    """What the log of a running daemon says of its ring, once /healthz says that it is in trouble.

    Over HTTP there are constant words alone, and where to look.
    """
    eventually(lambda: daemon.answers("/healthz"))

    def told() -> Any:
        return json.loads(daemon.get("/healthz")[2])["rings"]["access-token"]["trouble"]

    assert "the log and ringkeeper check tell more" in eventually(told, within=15)
    lines = [line for name in TROUBLES for line in daemon.events(name)]
    return " ".join(str(line["error"]) for line in lines)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"access_token_dynamic_signing_key_update_interval": "abc"}, "write hours"),
        ({"access_token_dynamic_signing_key_update_interval": 0}, "not a finite number above 0"),
        ({"access_token_dynamic_signing_key_update_interval": -1}, "not a finite number above 0"),
        ({"access_token_validity": 10_000_000}, "keeps"),
        ({"surprise": 1}, "no such setting"),
    ],
)
def test_an_impossible_configuration_does_not_start(
    site: Site, settings: dict[str, Any], message: str
) -> None:
    """And says so to its supervisor: no second start would mend it."""
    assert message in failure(site.daemon(is_ready=False, **settings), 2)


def test_secrets_that_are_missing_open_to_others_or_unreadable_do_not_start(site: Site) -> None:
    site.daemon(init=True).stop()
    kek = site.folder / "kek.jwk"
    kek.chmod(0o644)
    assert "chmod 600" in failure(site.daemon(is_ready=False))
    kek.chmod(0o600)
    saved = kek.read_text()
    kek.write_text("{}")
    assert "kty oct" in failure(site.daemon(is_ready=False))
    kek.unlink()
    assert "there is no KEK here" in failure(site.daemon(is_ready=False))
    assert "there is no KEK here" in site.refused("init")
    assert not kek.exists()
    kek.mkdir()
    assert "cannot be read" in failure(site.daemon(is_ready=False))
    kek.rmdir()
    kek.touch(0o600)
    kek.write_text(saved)
    site.daemon()


def test_a_wrong_kek_does_not_lead_and_overwrites_nothing(site: Site, valkey: Server) -> None:
    site.daemon(init=True).stop()
    with valkey.client() as client:
        before: Any = client.hgetall(KEYRING)
    kek = site.folder / "kek.jwk"
    kek.write_text(json.dumps(Kek.generate().secret_jwk()))
    assert "give it the right KEK file" in site.refused("check")
    daemon = site.daemon(is_ready=False)
    told = eventually(lambda: daemon.events("cannot lead"))[0]["error"]
    assert "give it the right KEK file" in told
    with valkey.client() as client:
        assert client.hgetall(KEYRING) == before
    assert "exists already" in site.refused("init")


def test_a_trust_root_that_does_not_belong_together_does_not_start(
    site: Site, make_site: Callable[[str], Site], valkey: Server
) -> None:
    other = make_site(valkey.url)
    (site.folder / "root.pub.jwk").write_bytes((other.folder / "root.pub.jwk").read_bytes())
    assert "not the private half" in failure(site.daemon(is_ready=False))


def test_a_port_in_use_is_named(site: Site) -> None:
    site.done("init", config=site.configure().name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = site.configure("taken.yaml", listen=f"127.0.0.1:{port}")
        line = failure(Daemon(site, config, port))
    assert "address already in use" in line
    assert str(port) in line


def test_where_the_port_is_in_use_nothing_is_made(make_site: Callable[[str], Site]) -> None:
    site = make_site("embedded:./var")
    own = dict.fromkeys(("trust_root", "trust_root_public", "kek"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = site.configure("taken.yaml", listen=f"127.0.0.1:{port}", **own)
        assert "address already in use" in failure(Daemon(site, config, port))
    assert not (site.folder / "var").exists()


def test_redis_down_at_the_start_is_waited_for(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    site = make_site(server.url)
    site.configure()
    site.done("init")
    server.kill()
    daemon = site.daemon(is_ready=False)
    assert "is Redis up and reachable?" in trouble(daemon)
    assert daemon.get("/readyz")[0] == 503
    assert daemon.metric("redis_up") == 0
    server.start()
    daemon.wait_until_ready()
    eventually(daemon.leads)
    assert len(daemon.events("ring troubled")) <= 3, "no storm of lines"


def test_a_wrong_password_is_named_and_never_shown(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server("--requirepass", "correct-horse")
    site = make_site(f"unix://:battery-staple@{server.socket}")
    daemon = site.daemon(is_ready=False)
    assert "check the user and password" in trouble(daemon)
    assert "battery-staple" not in daemon.log
    assert "battery-staple" not in daemon.get("/healthz")[2].decode()


def test_a_read_only_replica_is_named(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    primary = own_server()
    site = make_site(primary.url)
    site.configure()
    replica = own_server("--replicaof", "127.0.0.1", str(primary.port))
    at_replica = site.configure("replica.yaml", redis={"url": replica.url})
    assert "read-only replica" in site.refused("init", config=at_replica.name)


def test_a_key_of_the_wrong_type_under_our_name_is_named_and_left_alone(
    site: Site, valkey: Server
) -> None:
    with valkey.client() as client:
        client.set(KEYRING, "somebody else's")
    daemon = site.daemon(is_ready=False)
    assert "something else uses a key" in trouble(daemon)
    site.configure()
    assert "something else uses a key" in site.refused("init")
    with valkey.client() as client:
        assert client.get(KEYRING) == "somebody else's"


def test_a_daemon_that_does_not_come_to_lead_says_so_once_and_leads_when_it_can(
    site: Site, valkey: Server
) -> None:
    site.daemon(init=True).stop()
    name = KEYRING.replace("keyring", "sealed")
    with valkey.client() as client:
        client.rename(name, "aside")
        client.set(name, "x")
        daemon = site.daemon(is_ready=False)
        assert "something else uses a key" in trouble(daemon)
        told = eventually(lambda: daemon.events("leading is troubled"))
        assert "something else uses a key" in told[0]["error"]
        assert daemon.metric("redis_errors_total", operation="leading") == 1
        tried = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        eventually(lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] > tried + 3)
        client.delete(name)
        client.rename("aside", name)
    eventually(daemon.leads)
    assert len(daemon.events("leading is troubled")) == 1
    state = json.loads(daemon.get("/v1/keyring")[2])["access-token"]
    eventually(
        lambda: not json.loads(daemon.get("/healthz")[2])["rings"]["access-token"]["trouble"]
    )
    assert state["leading"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:200],
        lambda text: text[:300] + ("A" if text[300] != "A" else "B") + text[301:],
        lambda text: "x" * 10_000_000,
    ],
    ids=["cut short", "flipped", "10 MB"],
)
def test_a_damaged_snapshot_is_not_overwritten_and_not_served(
    site: Site, valkey: Server, damage: Callable[[str], str]
) -> None:
    daemon = site.daemon(init=True)
    jwks = daemon.get("/.well-known/jwks.json")[2]
    daemon.kill()
    with valkey.client() as client:
        damaged = damage(str(client.hget(KEYRING, "snapshot")))
        client.hset(KEYRING, "snapshot", damaged)
        client.delete("ringkeeper:{access-token}:lease")
    fresh = site.daemon(is_ready=False)
    assert eventually(lambda: fresh.events("cannot lead"))
    assert fresh.get("/.well-known/jwks.json")[0] == 503
    with valkey.client() as client:
        assert client.hget(KEYRING, "snapshot") == damaged
    assert jwks


def test_a_ring_of_another_root_is_not_led(
    site: Site, make_site: Callable[[str], Site], valkey: Server
) -> None:
    other = make_site(valkey.url)
    other.configure()
    other.done("init")
    daemon = site.daemon(is_ready=False)
    assert (
        "pin the right root.pub.jwk" in eventually(lambda: daemon.events("cannot lead"))[0]["error"]
    )
    assert "pin the right root.pub.jwk" in site.refused("status")


def test_check_names_every_problem_as_json(site: Site) -> None:
    site.configure()
    assert "ringkeeper init" in site.refused("check")
    site.done("init")
    assert "all is well" in site.done("check")
    site.configure(access_token_validity="x", nonsense=1)
    result = json.loads(site.run("check", "--json").stdout)
    assert result["ok"] is False
    assert len(result["problems"]) == 2


def test_a_lost_trust_root_is_not_replaced_by_a_fresh_one(site: Site) -> None:
    """Promise 7: a fresh root would lock everybody out of the ring that is there."""
    site.configure()
    site.done("init")
    for name in ("root.jwk", "root.pub.jwk"):
        (site.folder / name).unlink()
    assert "restore it from where that was" in site.refused("init")
    assert not (site.folder / "root.jwk").exists()
    assert not (site.folder / "root.pub.jwk").exists()


def test_a_configuration_that_is_not_there_is_named(site: Site) -> None:
    assert "there is no such file" in site.refused("status", config="elsewhere.yaml")


def test_check_tells_what_is_not_made_yet_from_what_is_lost(site: Site) -> None:
    site.configure()
    secrets = [site.folder / name for name in ("root.jwk", "root.pub.jwk", "kek.jwk")]
    for secret in secrets:
        secret.unlink()
    told = json.loads(site.done("check", "--json"))
    remark = "no secrets and no ring are made yet; ringkeeper init makes them"
    assert (told["problems"], told["remarks"]) == ([], [remark])
    site.done("init")
    for secret in secrets:
        secret.unlink()
    assert "there is no public trust root here; restore it" in site.refused("check")


def test_a_password_that_redis_does_not_ask_for_is_to_be_left_out(site: Site) -> None:
    (site.folder / "password").write_text("t0ps3cret")
    site.configure(redis={"url": site.redis_url, "password_file": "password"})
    (site.folder / "password").chmod(0o600)
    said = site.refused("check")
    assert "leave out redis.password_file" in said
    assert "t0ps3cret" not in said


def test_an_embedded_server_that_hangs_is_running(make_site: Callable[[str], Site]) -> None:
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        site = make_site(f"unix://{folder}/valkey.sock")
        with socket.socket(socket.AF_UNIX) as hanging:
            hanging.bind(f"{folder}/valkey.sock")
            hanging.listen()
            site.configure()
            said = site.refused("check")
            assert "the embedded server does not answer" in said
            assert "is not running" not in said
