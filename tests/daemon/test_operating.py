"""In an operator's hands: real daemons, the real command line."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import ringkeeper
from ringkeeper.errors import RevokedKid
from ringkeeper.layout import DEFAULT_NAME, Layout
from tests.plugins.daemons import Daemon, Here, Site, eventually
from tests.plugins.servers import Server, free_port


def keyring(site: Site) -> ringkeeper.Keyring:
    return ringkeeper.Keyring.connect(
        site.redis_url,
        trust_root=site.folder / "root.pub.jwk",
        kek=site.folder / "kek.jwk",
    )


def test_two_terminals(make_site: Callable[[str], Site], valkey: Server) -> None:
    """A token outlives the rotation; after a revocation it is refused and the standby signs."""
    site = make_site(valkey.url)
    site.daemon(init=True)
    first = site.status()["signer"]
    token = site.done("token", "sign", "--claims", '{"sub":"alice"}')
    said = site.done("rotate", "--now", "--reason", "test")
    second = site.status()["signer"]
    assert second != first
    assert f"{second} signs now" in said
    assert json.loads(site.done("token", "verify", token))["sub"] == "alice"

    with keyring(site) as app:
        leaked = app.sign({"sub": "bob"})
        assert app.verify(leaked)
        said = site.done("revoke", second, "--reason", "leaked")
        told = time.monotonic()

        def is_refused() -> bool:
            try:
                app.verify(leaked)
            except RevokedKid:
                return True
            return False

        eventually(is_refused, within=1)
        assert time.monotonic() - told < 1
        third = site.status()["signer"]
        assert f"{third} signs" in said
        assert app.verify(app.sign({"sub": "carol"}))["sub"] == "carol"
        assert app.verify(token)["sub"] == "alice"
    assert "was revoked" in site.refused("token", "verify", leaked)


def test_a_token_is_verified_for_any_of_several_audiences(site: Site) -> None:
    site.daemon(init=True)
    token = site.done("token", "sign", "--claims", '{"aud":["web"],"iss":"https://a"}')
    several = ("--audience", "api", "--audience", "web")
    assert json.loads(site.done("token", "verify", token, *several))["aud"] == ["web"]
    told = site.refused("token", "verify", token, *several[:3], "cli", "--issuer", "https://a")
    assert "the token is not for 'api' or 'cli'" in told
    told = site.refused("token", "verify", token, *several, "--issuer", "https://b")
    assert "the token's issuer is not 'https://b'" in told


def test_what_cannot_be_done_is_refused_and_changes_nothing(site: Site) -> None:
    daemon = site.daemon(init=True)
    signer = site.status()["signer"]
    site.done("revoke", signer, "--reason", "test")
    before = daemon.get("/.well-known/jwks.json")[2]
    version = site.status()["version"]
    assert "already" in site.refused("revoke", signer, "--reason", "again")
    assert "unknown kid" in site.refused("revoke", "d-nobody", "--reason", "x")
    assert "exists already" in site.refused("init") or "being led" in site.refused("init")
    assert "not a JSON object" in site.misused("token", "sign", "--claims", "[]")
    assert "at most" in site.refused("token", "sign", "--lifetime", "61")
    assert "at most" in site.refused("token", "sign", "--lifetime", "2m")
    assert "nor 30s, 15m" in site.run("token", "sign", "--lifetime", "tomorrow").stderr
    assert "200 characters" in site.misused("rotate", "--reason", "x" * 5000)
    assert site.status()["version"] == version
    assert daemon.get("/.well-known/jwks.json")[2] == before
    assert site.run("rotate", "--nonsense").returncode == 2
    assert "exp lies in the past" in site.refused("token", "sign", "--claims", '{"exp":1}')
    assert "did you mean clock_skew?" in site.misused("set", "clock-skew", "3s")
    (site.folder / "kek.jwk").rename(site.folder / "elsewhere.jwk")
    assert "kek.jwk: there is no KEK here" in site.refused("token", "sign")


def test_a_static_key_signs_where_the_mode_says_so_and_tokens_of_both_stay_valid(
    site: Site,
) -> None:
    daemon = site.daemon(init=True)
    dynamic = site.done("token", "sign")
    document = json.loads(daemon.config.read_text())
    document["use_dynamic_access_token_signing_key"] = False
    daemon.config.write_text(json.dumps(document))  # noticed without a signal
    eventually(lambda: site.status()["signer"].startswith("s-"))
    assert daemon.metric("config_reloads_total", result="success") == 1
    static = site.done("token", "sign")
    for token in (dynamic, static):
        site.done("token", "verify", token)


def test_daemons_that_disagree_are_shown(site: Site) -> None:
    first = site.daemon(init=True)
    second = site.daemon(access_token_validity=30, lead=True)
    other = json.loads(site.done("status", "--json"))["leader"]
    (drifting,) = eventually(lambda: site.status()["configuration_drift"])
    assert drifting != other
    assert f"drift   {drifting}" in site.done("status")
    eventually(lambda: first.metric("configuration_drift") == 1)
    second.config.write_text(
        second.config.read_text().replace(
            '"access_token_validity": 30', '"access_token_validity": 60'
        )
    )
    eventually(lambda: site.status()["configuration_drift"] == [])
    site.done("static", "create")  # the leader looks at its instances, as it does each minute
    eventually(lambda: first.metric("configuration_drift") == 0)


def test_a_bad_reload_keeps_the_running_configuration_and_says_so(site: Site) -> None:
    daemon = site.daemon(init=True)
    version = site.status()["version"]
    daemon.config.write_text(json.dumps({"access_token_validity": "soon", "nonsense": 1}))
    daemon.signal(signal.SIGHUP)
    (told,) = eventually(lambda: daemon.events("configuration rejected"))
    assert any("access_token_validity: 'soon'" in problem for problem in told["problems"])
    assert any("nonsense: no such setting" in problem for problem in told["problems"])
    assert daemon.metric("config_reloads_total", result="failure") == 1
    assert site.status()["version"] == version


def test_every_change_of_state_is_told_once_in_log_and_audit(site: Site, valkey: Server) -> None:
    """Promise 12."""
    from ringkeeper.wire import open_event

    daemon = site.daemon(init=True)
    site.done("revoke", site.status()["signer"], "--reason", "leaked")
    with valkey.client() as client:
        entries: Any = client.xrange("ringkeeper:{access-token}:events")
    events = [open_event(fields["event"], site.root.public) for _, fields in entries]
    names = [event.event for event in events if event.version == 2]
    assert names == ["key revoked", "key activated", "key published"]
    assert all(event.fields["reason"] == "leaked" for event in events if event.version == 2)
    for name in names:
        assert daemon.told(name)
    assert daemon.metric("rotations_total", reason="revocation") == 1


def test_nobody_leads_and_the_command_says_so(site: Site) -> None:
    site.configure()
    site.done("init")
    result = site.run("rotate", "--answer-within", "1")
    assert result.returncode == 1
    told, became = result.stderr.splitlines()
    assert "nobody leads ring access-token now; waiting for a daemon that does, for 1 s" in told
    assert "no leader answered within 1 s: the request was withdrawn" in became
    with pytest.raises(AssertionError):
        site.done("rotate", "--answer-within", "1")


def test_sigterm_stops_within_two_seconds_and_hands_over_at_once(site: Site) -> None:
    first = site.daemon(init=True)
    second = site.daemon()
    assert site.leader() is first
    assert first.stop() < 2
    eventually(second.leads, within=1.5)
    assert "Traceback" not in first.log


def test_a_following_daemon_serves_and_never_leads(site: Site) -> None:
    site.configure()
    site.done("init")
    (site.folder / "root.jwk").rename(site.folder / "elsewhere.jwk")
    follower = site.daemon(is_ready=False, lead=False)
    eventually(lambda: follower.answers("/readyz"))
    assert follower.metric("leader") == 0
    # What concerns the whole ring comes from its leader alone, so that sums are right.
    for name in ("keyring_version", "keys", "instances", "instances_behind"):
        assert follower.metric(name) is None
    for name in ("last_rotation_timestamp_seconds", "next_rotation_timestamp_seconds"):
        assert follower.metric(name) is None
    assert follower.metric("rotations_total", reason="scheduled") == 0
    assert follower.metric("redis_up") == 1
    age = follower.metric("proof_age_seconds")
    assert age is not None and age < 60
    assert json.loads(follower.get("/.well-known/jwks.json")[2])["keys"]


def test_an_instance_that_never_confirms_is_named_in_the_log_and_counted(
    site: Site, valkey: Server
) -> None:
    """Promise 2: it holds an activation up for so long, and not for ever."""
    daemon = site.daemon(init=True, confirmation_timeout="200ms", poll_interval="100ms")
    assert daemon.metric("activation_forced_total") == 0
    layout = Layout(DEFAULT_NAME)
    with valkey.client() as client:
        # It goes on being heard of, and never has what it should.
        client.hset(layout.instances, "app-9", '{"role":"sign","epoch":0,"version":0}')
        seconds, _ = client.time()
        client.zadd(layout.seen, {"app-9": 1000 * seconds + 3_600_000})
    site.done("rotate", "--no-wait")
    (told,) = eventually(lambda: daemon.events("activated without confirmation"))
    assert told["instances"] == ["app-9"]
    assert told["kid"] == site.status()["signer"]
    assert daemon.metric("activation_forced_total") == 1
    eventually(lambda: daemon.metric("instances_behind") == 1)  # until its own part confirms, 2


def test_several_rings_have_keys_and_policies_of_their_own(site: Site) -> None:
    daemon = site.daemon(
        init=True, keyrings={"refresh": {"access_token_validity": 600, "algorithm": "EdDSA"}}
    )
    token = site.done("token", "sign", "--ring", "refresh", "--lifetime", "600")
    assert "unknown kid" in site.refused("token", "verify", token)
    site.done("token", "verify", token, "--ring", "refresh")
    keys = json.loads(daemon.get("/rings/refresh/.well-known/jwks.json")[2])["keys"]
    assert {key["alg"] for key in keys} == {"EdDSA"}
    assert daemon.get("/rings/nothing/.well-known/jwks.json")[0] == 404
    shown = site.done("status")
    assert "access-token  version" in shown
    assert "refresh  version" in shown
    assert "refresh  version" not in site.done("status", "--ring", "access-token")
    assert site.status()["other_rings"] == ["refresh"]


def test_of_several_rings_one_that_cannot_be_seen_hides_no_other(site: Site) -> None:
    site.daemon(init=True)
    site.configure(keyrings={"refresh": None})
    result = site.run("status")
    assert result.returncode == 1
    assert "access-token  version" in result.stdout
    assert "redis holds no ring 'refresh'" in result.stderr
    assert "'refresh'" in site.refused("check")


def test_check_remarks_that_nobody_leads_and_finds_nothing_wrong(site: Site) -> None:
    """It is asked before the first daemon is started, too; and everything is as it should be."""
    site.configure()
    site.done("init")
    assert "all is well" in site.done("check")
    remark = "ring 'access-token': nobody leads; start a daemon, ringkeeper run"
    assert site.done("check").splitlines()[1] == f"yet: {remark}"
    told = json.loads(site.done("check", "--json"))
    assert told == {"ok": True, "problems": [], "remarks": [remark]}
    site.daemon()
    site.leader()
    assert json.loads(site.done("check", "--json"))["remarks"] == []


def test_a_rotation_says_what_it_waits_for_and_until_when(site: Site) -> None:
    """And not that a leader listens which has led for long."""
    site.daemon(init=True, publication_interval="5s")
    site.done("rotate", "--now", "--reason", "a test")
    said = site.done("rotate", "--now", "--reason", "a test").splitlines()
    assert "signs at" in said[0]
    assert "it has to be public for long enough" in said[0]
    assert "signs now" in said[-2]
    assert "confirmed by the only live instance" in said[-1]
    assert not any("listens" in line for line in said)


def test_who_waits_for_a_rotation_takes_the_one_that_is_due_already(site: Site) -> None:
    """A script that says rotate --wait wants another key to sign, whoever asked for it first."""
    site.daemon(init=True, publication_interval="4s")
    site.done("rotate", "--wait")
    former = site.status()["signer"]
    site.done("rotate", "--no-wait")
    assert "a rotation is due already" in site.refused("rotate")
    said = site.done("rotate", "--wait").splitlines()
    assert said[0] == "a rotation is due already"
    assert "it has to be public for long enough" in said[1]
    signer = site.status()["signer"]
    assert signer != former
    assert f"{signer} signs now" in said


def is_standby_ready(site: Site) -> bool:
    (standby,) = (key for key in site.status()["keys"] if key["state"] == "published")
    return datetime.fromisoformat(standby["ready_at"]) < datetime.now(UTC)


@pytest.mark.parametrize("options", [("--wait",), ()])
def test_two_operators_at_once_turn_one_key(site: Site, options: tuple[str, ...]) -> None:
    daemon = site.daemon(init=True, publication_interval="1s", jwks_max_age="1s")
    for turns in (1, 2):
        eventually(lambda: is_standby_ready(site), within=10)
        with ThreadPoolExecutor(3) as pool:
            came = list(pool.map(lambda _: site.run("rotate", *options), range(3)))
        signer = site.status()["signer"]
        assert daemon.told("key activated", turns)
        assert any(signer in each.stdout for each in came), came
        second = ("nothing was done for you", "a rotation is due already")
        for each in came:
            assert each.returncode == 0 or any(said in each.stderr for said in second), each.stderr
        if options:
            assert [each.returncode for each in came] == [0, 0, 0]
            assert all(signer in each.stdout for each in came), came


def test_a_rotation_may_be_hastened_to_what_caches_obey(site: Site) -> None:
    """It says what that risks, and why it was asked for is in the audit with it."""
    daemon = site.daemon(init=True, publication_interval="1h", jwks_max_age="1s")
    site.done("rotate", "--wait")
    former = site.status()["signer"]
    assert "signs at" in site.done("rotate")
    assert site.status()["signer"] == former
    (standby,) = [key for key in site.status()["keys"] if key["state"] == "published"]
    assert "say why" in site.misused("rotate", "--now")
    assert "say why" in site.misused("rotate", "--now", "--reason", " ")
    said = site.done("rotate", "--now", "--reason", "an emergency", "--wait")
    assert site.status()["signer"] == standby["kid"] != former
    until = datetime.fromisoformat(standby["ready_at"])
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert f"may refuse its tokens until {until:%Y-%m-%d %H:%M:%S} UTC" in warning
    told = [each.get("shortened_from") for each in daemon.told("rotation asked for", 3)]
    assert told == [None, None, standby["ready_at"]]


def test_a_revocation_says_what_the_next_key_risks(site: Site) -> None:
    """It signs at once; that it has been public for long enough is the rule, and is not told."""
    site.daemon(init=True, publication_interval="1h", jwks_max_age="5m")
    first = site.status()["signer"]
    assert "warning" not in site.done("revoke", first, "--reason", "a test")
    second = site.status()["signer"]
    (standby,) = [key for key in site.status()["keys"] if key["state"] == "published"]
    assert f"{standby['kid']} has been public for" in site.done("plan", "--revoke", second)
    assert "ready in 59m" in site.done("status")
    said = site.done("revoke", second, "--reason", "another test").splitlines()[-1]
    until = datetime.fromisoformat(standby["ready_at"])
    assert said.startswith(f"warning: {standby['kid']} has been public for")
    assert f"may refuse its tokens until {until:%Y-%m-%d %H:%M:%S} UTC (those that obey" in said


def test_one_request_is_told_once(site: Site) -> None:
    daemon = site.daemon(init=True)
    site.done("revoke", site.status()["signer"], "--reason", "so that the standby is young")
    site.done("rotate", "--now", "--reason", "a test", "--no-wait")
    (told,) = daemon.told("rotation asked for")
    standby = next(key["kid"] for key in site.status()["keys"] if key["state"] == "published")
    assert told["kid"] == standby


def test_a_log_that_cannot_be_written_stops_no_daemon(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is full, or who read it is gone: lines are lost, and counted. It ends as it should."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is buffered is tried again at exit
    for number, is_full in enumerate((True, False)):
        port = free_port()
        config = site.configure(
            f"mute{number}.yaml", listen=f"127.0.0.1:{port}", state_dir=f"mute{number}"
        )
        if number == 0:
            site.done("init", config=config.name)
        daemon = Daemon(site, config, port, Mute(is_full=is_full))
        site.daemons.append(daemon)
        daemon.wait_until_ready()
        eventually(daemon.leads)
        assert (daemon.metric("log_lines_lost_total") or 0) >= 2  # serving, leading
        daemon.stop()


class Mute(Here):
    """Where nobody can read what a process says."""

    def __init__(self, *, is_full: bool) -> None:
        self.is_full = is_full

    def start(self, *command: str, **streams: Any) -> subprocess.Popen[Any]:
        with Path("/dev/full").open("wb") as full:
            stream: Any = full if self.is_full else subprocess.PIPE
            process = super().start(*command, **{**streams, "stderr": stream})
        if process.stderr:
            process.stderr.close()
        return process


def test_names_that_anyone_put_into_redis_do_nothing_to_a_terminal(
    site: Site, valkey: Server
) -> None:
    """Instances and the lease's owner are not authenticated."""
    site.configure()
    site.done("init")
    evil = "\x1b]0;owned\x07\x1b[2J"
    place = "ringkeeper:{access-token}"
    row = json.dumps({"role": evil[:9], "epoch": 1, "version": 1})
    with valkey.client() as client:
        client.set(f"{place}:lease", f"{evil}/x")
        client.hset(f"{place}:instances", evil, row)
        # Ahead: it is live however long the command takes to start.
        client.zadd(f"{place}:seen", {evil: int(time.time() * 1000) + 60_000})
    shown = site.done("status")
    assert "\x1b" not in shown
    assert shown.count("?]0;owned??[2J") == 2
    assert site.status()["leader"] == "?]0;owned??[2J"
