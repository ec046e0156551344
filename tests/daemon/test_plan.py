"""`ringkeeper plan`: a look at what will happen, which changes nothing, and then happens."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import redis
from rich.console import Console

from ringkeeper.errors import RequestRefused
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeperd.cli import main
from ringkeeperd.forecast import Outstanding
from ringkeeperd.foresight import _WHAT
from ringkeeperd.leader_store import _instance
from ringkeeperd.operations import rotate
from ringkeeperd.operator import Seen
from ringkeeperd.plan import ASSUMED, as_json, made, show, write_svg
from ringkeeperd.planning import Plan, Wish
from ringkeeperd.rotation import Adopt, Instance
from ringkeeperd.status import as_json as status_json
from ringkeeperd.status import render
from ringkeeperd.timeline import LOOKS, drawn
from tests.core.builders import HOUR, MINUTE, NOW, advance, do, new_ring, policy, settle
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

DUE = NOW + 168 * HOUR
SHORT: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 12 / 3600,
    "access_token_validity": 20,
    "clock_skew": "1s",
    "lease_ttl": "2s",
}
"""Keys that sign for twelve seconds."""


def app(name: str, *algorithms: str, version: int = 1) -> Instance:
    return Instance(name, "sign", 1, version, NOW, algorithms=algorithms)


def plan_of(
    ring: Ring,
    now: datetime = NOW,
    *,
    rules: Policy | None = None,
    wish: Wish | None = None,
    settings: Mapping[str, str] | None = None,
    seen: tuple[Instance, ...] = (),
    outstanding: Mapping[str, int] | None = None,
    leader: str = "host-1",
    turns: int = 3,
) -> Plan:
    return made(
        Seen(ring, None, leader, seen),
        now,
        rules or ring.policy,
        wish or Wish(),
        settings or {},
        turns=turns,
        counted=counted_of(outstanding, now) if outstanding else None,
    )


def counted_of(tokens: Mapping[str, int], now: datetime) -> Outstanding:
    """So many tokens of each key, which expire evenly over the next hour."""
    begin = int(now.timestamp())
    return Outstanding(
        {
            kid: {begin + 60 * (n + 1): count // 60 + (n < count % 60) for n in range(60)}
            for kid, count in tokens.items()
        },
        now,
    )


def lines_of(plan: Plan, columns: int = 120) -> list[str]:
    return "\n".join(line.plain for line in drawn(plan, columns)).splitlines()


def lane(plan: Plan, kid: str, columns: int = 120) -> str:
    """The row of the last picture that shows `kid`."""
    rows = [line for line in lines_of(plan, columns) if line.startswith(kid)]
    return rows[-1]


# --- a real daemon, the real command -------------------------------------------------------------


def stored(server: Server) -> dict[str, tuple[int, bytes]]:
    """Everything that Redis holds of the ring, byte for byte, and for how long."""
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        return {
            key.decode(): (client.pexpiretime(key), client.dump(key))
            for key in client.scan_iter("ringkeeper:*", count=1000)
        }


def test_the_next_activation_is_when_it_was_foreseen(site: Site) -> None:
    site.daemon(init=True, **SHORT)
    foreseen = json.loads(site.done("plan", "--json"))
    kid, at = (foreseen["before"][k] for k in ("next_activation", "next_activation_at"))
    eventually(lambda: site.status()["signer"] == kid, within=30)
    (key,) = [each for each in site.status()["keys"] if each["kid"] == kid]
    late = datetime.fromisoformat(key["activated_at"]) - datetime.fromisoformat(at)
    assert timedelta(0) <= late < timedelta(seconds=1)


OPTIONS = [
    ("--interval", "2"),
    ("--validity", "120"),
    ("--algorithm", "EdDSA"),
    ("--static",),
    ("--set", "clock_skew=9s"),
    ("--rotate",),
    ("--rotate", "--now"),
    ("--revoke", "SIGNER"),
    ("--interval", "2", "--rotate"),
]
NO_CHANGE = [(), ("--dynamic",), ("--turns", "5", "--svg", "plan.svg")]


def test_it_changes_nothing_and_needs_no_leader_and_no_secret(site: Site, valkey: Server) -> None:
    site.configure()
    site.done("init")
    for secret in ("root.jwk", "kek.jwk"):
        (site.folder / secret).unlink()
    signer = site.status()["signer"]
    before = stored(valkey)
    assert len(before) >= 3
    for options in (*OPTIONS, *NO_CHANGE):
        arguments = [signer if option == "SIGNER" else option for option in options]
        told = json.loads(site.done("plan", "--json", *arguments))
        assert stored(valkey) == before, options
        assert (told["after"] is not None) is (options in OPTIONS), options
        assert any("nobody leads now" in remark for remark in told["remarks"])
        is_idle = any("nothing would differ" in remark for remark in told["remarks"])
        assert is_idle is (options == ("--dynamic",))
        assert not (is_idle and told["commands"])
    assert (site.folder / "plan.svg").read_text().startswith("<svg ")
    assert site.done("plan", "--svg", "-").startswith("<svg ")
    assert not (site.folder / "-").exists()


def test_a_revocation_waits_for_no_leader_that_listens() -> None:
    ring = new_ring()
    active = ring.active()
    assert active
    listens = "a leader that has just begun listens for"
    for wish, waits in ((Wish(rotate=True), True), (Wish(revoke=active.kid), False)):
        plan = plan_of(ring, NOW + 5 * HOUR, wish=wish)
        assert any(line.startswith(listens) for line in plan.remarks) is waits


def test_a_rollback_is_foreseen_and_then_done(site: Site, valkey: Server) -> None:
    site.daemon(init=True, jwks_max_age="1s", publication_interval="1s")
    assert "none to go back to" in site.refused("plan", "--rollback")
    first = site.status()["signer"]
    site.done("rotate", "--wait")
    version = site.status()["version"]
    told = json.loads(site.done("plan", "--rollback", "--json"))
    assert told["after"]["next_activation"] == first
    assert told["commands"] == ["ringkeeper rollback"]
    assert "a leader that has just begun listens for 1s 500ms first" in told["remarks"]
    assert site.status()["version"] == version
    told = json.loads(site.done("plan", "--revoke", first, "--drain", "10s", "--json"))
    assert told["commands"] == [f"ringkeeper revoke {first} --drain 10s --reason WHY"]
    assert {"drained", "revoked"} <= {m["what"] for m in told["after"]["moments"]}
    site.done("rollback", "--wait")
    assert site.status()["signer"] == first


def test_a_turn_is_asked_for_foreseen_to_be_called_off_and_called_off(site: Site) -> None:
    daemon = site.daemon(init=True)
    site.done("rotate", "--wait")  # who follows has to be public for a quarter of an hour now
    before = site.status()
    assert "no rotation is asked for" in site.refused("plan", "--call-off")
    said = site.done("rotate", "--now", "--reason", "a test", "--no-wait")
    assert "at the earliest: it has to be public for long enough" in said
    assert said.endswith("until then ringkeeper rotate --call-off takes that back")
    asked = site.status()
    assert asked["next_activation_at"] < before["next_activation_at"]
    told = json.loads(site.done("plan", "--call-off", "--json"))
    assert told["commands"] == ["ringkeeper rotate --call-off"]
    assert told["after"]["next_activation_at"] == before["next_activation_at"]
    assert site.status()["version"] == asked["version"], "nothing was done yet"
    why = f"not today: {'long ' * 30}and it stands at the end"
    said = site.done("rollback", "--call-off", "--reason", why)
    assert f"called off: {before['signer']} signs on until" in said
    assert f"reason={why}" in site.done("watch", "--last", "1", "--no-follow")
    after = site.status()
    assert after["version"] == asked["version"] + 1
    assert after["keys"] == before["keys"]
    (event,) = daemon.told("rotation called off")
    assert event["kid"] == before["signer"]
    assert (event["reason"], event["version"]) == (why, after["version"])
    assert "ringkeeper rollback turns back from it" in site.refused("rotate", "--call-off")


def test_what_would_break_a_promise_is_refused_with_the_numbers(site: Site) -> None:
    site.configure()
    site.done("init")
    said = site.refused("plan", "--validity", "1000000")
    assert "1h with tokens that live 11d 13h keeps 282 keys" in said
    assert "32 is the most" in said
    result = site.run("plan", "--set", "lease_ttl=9s")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "lease_ttl is for the whole daemon" in result.stderr
    said = site.refused("plan", "--set", "max_staleness=1s", "--set", "poll_interval=1s")
    assert "max_staleness" in said


def test_wrong_use_is_told_in_a_clear_line(site: Site) -> None:
    site.configure()
    assert "--drain belongs to --revoke KID" in site.misused("plan", "--drain", "30m")
    assert "--now belongs to --rotate" in site.misused("plan", "--now")
    assert "write KEY=VALUE" in site.misused("plan", "--set", "clock_skew")
    assert "nonsense: no such setting" in site.misused("plan", "--set", "nonsense=1")
    assert "access_token_validity: 'soon'" in site.misused("plan", "--validity", "soon")
    assert "algorithm: 'MD5'" in site.misused("plan", "--algorithm", "MD5")
    interval = "access_token_dynamic_signing_key_update_interval"
    for options, both in (
        (
            ("--interval", "24", "--set", f"{interval}=48"),
            (f"--set {interval}=48", "--interval 24"),
        ),
        (
            ("--static", "--set", "use_dynamic_access_token_signing_key=true"),
            ("--static", "--set use_dynamic_access_token_signing_key=true"),
        ),
        (("--set", "clock_skew=1s", "--set", "clock_skew=2s"), ("clock_skew=1s", "clock_skew=2s")),
        (("--json", "--svg", "-"), ("--json", "--svg -")),
    ):
        said = site.misused("plan", *options)
        assert all(each in said for each in both), said
    assert "holds no ring" in site.refused("plan", "--interval", "24", "--set", f"{interval}=24.0")
    assert "holds no ring" in site.refused("plan")
    site.done("init")
    assert "unknown kid 'd-x'" in site.refused("plan", "--revoke", "d-x")
    assert "nowhere/plan.svg cannot be written" in site.refused("plan", "--svg", "nowhere/plan.svg")


@pytest.mark.parametrize(("hasten", "waits"), [(False, 4 * HOUR), (True, 5 * MINUTE)])
def test_a_hastened_turn_is_foreseen_when_obedient_caches_know_the_key(
    hasten: bool, waits: timedelta
) -> None:
    ring, _ = settle(new_ring(), NOW + 168 * HOUR)
    published = NOW + 168 * HOUR
    plan = plan_of(ring, published, wish=Wish(rotate=True, hasten=hasten))
    assert plan.after and plan.after.next_activation
    assert plan.after.next_activation.at == published + waits
    asked = "ringkeeper rotate --now --reason WHY" if hasten else "ringkeeper rotate"
    assert plan.commands == (asked,)
    assert ("obedient caches" in plan.title) is hasten
    (warning,) = plan.warnings if hasten else ("",)
    risk = f"may refuse its tokens until {published + 4 * HOUR:%Y-%m-%d %H:%M:%S} UTC"
    assert (risk in warning) is hasten
    assert as_json(plan)["warnings"] == list(plan.warnings)
    later = plan_of(ring, published + 5 * HOUR, wish=Wish(rotate=True, hasten=hasten))
    assert later.warnings == (), "it has been public for long enough"


def test_a_revocation_that_lets_a_young_key_sign_says_so() -> None:
    ring, _ = settle(new_ring(), DUE)
    active, standby = ring.active(), ring.standby
    assert active and standby
    (told,) = plan_of(ring, DUE + MINUTE, wish=Wish(revoke=active.kid)).warnings
    assert told == (
        f"warning: {standby.kid} has been public for 1m of 4h: verifiers behind HTTP may refuse "
        "its tokens until 2026-01-08 04:00:00 UTC (those that obey jwks_max_age: until 00:05:00)"
    )
    (told,) = plan_of(ring, DUE + HOUR, wish=Wish(revoke=active.kid)).warnings
    assert told.endswith("until 2026-01-08 04:00:00 UTC"), "who obeys has it by then"
    assert plan_of(ring, DUE + 4 * HOUR, wish=Wish(revoke=active.kid)).warnings == ()
    assert plan_of(ring, DUE + MINUTE, wish=Wish(revoke=standby.kid)).warnings == ()
    first = new_ring()
    assert first.signer
    assert plan_of(first, wish=Wish(revoke=first.signer.kid)).warnings == (), "no cache lacks it"
    hastened = rotate(ring, now=DUE + MINUTE, epoch=1, hasten=True)
    (told,) = plan_of(hastened, DUE + MINUTE, wish=Wish(revoke=active.kid)).warnings
    assert "1m of 4h" in told, "it has not been public for longer because somebody was in haste"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--static", "--dynamic"),
        ("--rotate", "--rollback"),
        ("--rotate", "--call-off"),
        ("--turns", "0"),
        ("--x",),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    wrong: tuple[str, ...], capsys: Any
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *wrong])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ringkeeper")


def test_an_edited_file_is_compared_with_what_the_ring_is_led_by(site: Site) -> None:
    site.configure()
    site.done("init")
    site.configure("edited.yaml", access_token_validity=90)
    told = json.loads(site.done("plan", "--json", config="edited.yaml"))
    assert told["differences"][0] == "access_token_validity 1m → 1m 30s"
    assert any("says otherwise than ring" in remark for remark in told["remarks"])
    # Whoever thinks of a revocation alone is not told of files, too.
    signer = site.status()["signer"]
    told = json.loads(site.done("plan", "--json", "--revoke", signer, config="edited.yaml"))
    assert not any("access_token_validity" in line for line in told["differences"])


def test_a_setting_of_the_ring_that_contradicts_files_is_remarked_on(site: Site) -> None:
    site.daemon(init=True)
    site.done("set", "publication_interval", "20m")
    site.configure("short.yaml", access_token_dynamic_signing_key_update_interval=0.3)
    told = json.loads(site.done("plan", "--json", config="short.yaml"))
    assert told["after"] is None
    assert "settings of the ring contradict files: publication_interval" in told["remarks"][0]
    said = site.refused("plan", "--validity", "90", config="short.yaml")
    assert "publication_interval: 20m is longer than the 18m" in said
    told = json.loads(
        site.done("plan", "--json", "--set", "publication_interval=5m", config="short.yaml")
    )
    assert any("says otherwise" in remark for remark in told["remarks"])


def test_instances_tell_their_algorithms_and_a_plan_names_who_does_not_know_one(
    site: Site, valkey: Server
) -> None:
    daemon = site.daemon(init=True)
    eventually(lambda: site.status()["instances"])
    (told,) = site.status()["instances"]
    assert {"RS256", "ES256", "EdDSA"} <= set(told["algorithms"])
    rows = "ringkeeper:{access-token}:instances", "ringkeeper:{access-token}:seen"
    record = {"role": "verify", "epoch": 1, "version": 1}
    with valkey.client() as client:
        for name, more in {"old-app": {"algorithms": ["ES256"]}, "older-app": {}}.items():
            client.hset(rows[0], name, json.dumps(record | more))
            client.zadd(rows[1], {name: client.time()[0] * 1000 + 60_000})
    said = site.done("plan", "--algorithm", "EdDSA")
    assert "warning: EdDSA is not known to old-app: who does not know it cannot confirm" in said
    assert "not known whether EdDSA is known to older-app, who do not tell" in said
    known = json.loads(site.done("plan", "--algorithm", "EdDSA", "--json"))["algorithm_known"]
    assert known == {"algorithm": "EdDSA", "lacking": ["old-app"], "untold": ["older-app"]}
    assert daemon.is_running


# --- the picture in a terminal -------------------------------------------------------------------


def test_each_key_has_a_row_and_each_state_a_character() -> None:
    ring = advance(new_ring(), NOW, DUE + HOUR)
    active, standby = ring.active(), ring.standby
    (former,) = ring.in_state(KeyState.RETIRED)
    assert active and standby
    plan = plan_of(ring, DUE + HOUR)
    assert re.search(r"  █+─+$", lane(plan, active.kid))
    assert re.search(r"  ·+█+─+$", lane(plan, standby.kid))
    assert re.search(r"  ─+$", lane(plan, former.kid))
    assert re.search(r"  ▒+$", lane(plan, "s-"))
    assert re.search(r" ·+█+─+$", lane(plan, "next-1"))
    assert len({look.character for look in LOOKS}) == len({look.plain for look in LOOKS}) == 6
    revoked = plan_of(ring, DUE + HOUR, wish=Wish(revoke=active.kid))
    assert re.search("  \N{MULTIPLICATION SIGN}+$", lane(revoked, active.kid))
    assert re.search(r"  █+─+$", lane(revoked, standby.kid))
    young, _ = settle(new_ring(), DUE)
    (former,) = young.in_state(KeyState.RETIRED)
    drained = plan_of(young, DUE, wish=Wish(former.kid, drain=30 * MINUTE))
    assert re.search("  ┄\N{MULTIPLICATION SIGN}+$", lane(drained, former.kid))


def test_where_a_key_turns_is_where_the_axis_says_it_is() -> None:
    """The share of the row before the turn is the share of the time."""
    ring = new_ring()
    active = ring.active()
    assert active
    bar = lane(plan_of(ring), active.kid, 226).split()[1]
    cells = 226 - 24 - 2 - 1
    assert abs(bar.count("█") - cells / 3 / 1.02) <= 1
    heading = next(line for line in lines_of(plan_of(ring), 226) if line.startswith("key"))
    day = re.search(r"(\d+) Jan", heading)
    assert day
    share = (int(day[1]) - 1) / 21 / 1.02
    assert abs(day.start() - 26 - cells * share) <= 1


def test_a_key_that_signs_for_less_than_a_character_is_seen_to_sign() -> None:
    ring = new_ring()
    rules = policy(cryptoperiod=HOUR)
    fast = do(ring, Adopt(rules), NOW)
    plan = plan_of(fast, DUE - 100 * HOUR, rules=rules, turns=30)
    for number in range(1, 20):
        assert "█" in lane(plan, f"next-{number} ", 80), number


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_no_row_is_wider_than_the_terminal(columns: int) -> None:
    plan = plan_of(advance(new_ring(), NOW, DUE), DUE)
    lines = lines_of(plan, columns)
    begin = next(n for n, line in enumerate(lines) if line.startswith("key"))
    end = lines.index("", begin)
    rows = lines[begin:end]
    assert len(rows) == 2 + len(plan.before.lives)
    assert max(map(len, rows)) < columns


def test_kids_are_cut_where_there_is_no_room_and_stay_apart() -> None:
    plan = plan_of(new_ring())
    kids = {life.kid for life in plan.before.lives}
    narrow = {line.split("…")[0] for line in lines_of(plan, 80) if "…" in line}
    assert len(narrow) == sum(len(kid) > 13 for kid in kids)
    assert all(any(line.startswith(f"{kid}  ") for line in lines_of(plan, 120)) for kid in kids)


def test_what_happens_stands_in_a_table_the_signer_first_and_the_rest_is_counted() -> None:
    ring = new_ring()
    active, standby = ring.active(), ring.standby
    assert active and standby
    told = next(line for line in lines_of(plan_of(ring)) if "next-1 is published" in line)
    assert told == (
        f"2026-01-08 00:00:00  7d      {standby.kid} becomes active, {active.kid} retires, "
        "next-1 is published"
    )
    assert any(line.startswith("and ") for line in lines_of(plan_of(ring, turns=40)))
    later = lines_of(plan_of(ring, wish=Wish(revoke=active.kid)))
    assert any(
        f"now     {active.kid} is revoked, {standby.kid} becomes active" in each for each in later
    )


def test_tokens_that_depend_on_a_key_have_a_column_where_they_are_counted() -> None:
    ring = new_ring()
    active = ring.active()
    assert active
    plan = plan_of(ring, wish=Wish(revoke=active.kid), outstanding={active.kid: 12_345})
    assert re.search("^[^ ]+  12,345  \N{MULTIPLICATION SIGN}+$", lane(plan, active.kid))
    assert any("its 12,345 unexpired tokens" in line for line in lines_of(plan))
    (told,) = [k for k in as_json(plan)["before"]["keys"] if k["kid"] == active.kid]
    assert told["outstanding"] == 12_345
    assert "tokens" not in next(line for line in lines_of(plan_of(ring)) if line[:3] == "key")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            {},
            r"about 3,5\d\d refreshes, 49\.\d a second at the peak, 49\.\d times the usual 1\.0",
        ),
        ({"verifies": 0.0}, "how fast is not known, for no app tells how much it verifies"),
        (
            {"drain": timedelta(minutes=30)},
            r"\d\d\d refreshes, 2\.\d a second at the peak, 2\.\d times",
        ),
        ({"static": True}, "no refreshes where both kinds verify"),
        ({"static": True}, r"SuperTokens' SDK .*: about 3,5\d\d refreshes"),
    ],
)
def test_what_is_expected_of_a_change_is_said_before_it(options: Any, wanted: str) -> None:
    ring, _ = settle(new_ring(), NOW + 4 * HOUR)
    active = ring.active()
    assert active
    rate = options.pop("verifies", 50.0)
    is_static = options.pop("static", False)
    wish = Wish() if is_static else Wish(revoke=active.kid, **options)
    plan = plan_of(
        ring,
        NOW + 4 * HOUR,
        rules=replace(ring.policy, use_dynamic=False) if is_static else None,
        wish=wish,
        seen=(Instance("app", "sign", 9, 9, NOW, verifies=rate),),
        outstanding={active.kid: 3_600},
    )
    assert any(re.search(f"expected.*{wanted}", line) for line in plan.differences), (
        plan.differences
    )
    standby = ring.standby
    assert standby  # of whose tokens there are none
    of_none = plan_of(
        ring,
        NOW + 4 * HOUR,
        rules=replace(ring.policy, use_dynamic=False),
        wish=Wish(revoke=standby.kid),
        outstanding={"s-gone": 5},
    )
    assert not any("expected" in line for line in of_none.differences)
    unseen = plan_of(ring, NOW + 4 * HOUR, wish=wish)
    assert not any("expected" in line for line in unseen.differences)


def test_a_ring_in_which_nothing_happens_says_so() -> None:
    ring = new_ring()
    plan = plan_of(ring)
    quiet = replace(plan, before=replace(plan.before, moments=()))
    assert "nothing changes in this time" in lines_of(quiet)
    assert "next    no other key signs in this time" in lines_of(quiet)
    now = settle(ring, DUE)[0]
    assert any(line.endswith(", at once") for line in lines_of(plan_of(ring, DUE)))
    assert any(line.endswith(", in 7d") for line in lines_of(plan_of(now, DUE)))


def test_what_is_assumed_and_what_is_wrong_is_said() -> None:
    ring = replace(new_ring(), version=3)
    keys = tuple(replace(k, published_version=3) if k == ring.standby else k for k in ring.keys)
    waited = replace(ring, keys=keys)
    lines = lines_of(plan_of(waited, seen=(app("app-1"),), leader=""))
    assert lines[-3:] == [
        ASSUMED,
        "nobody leads now: nothing of this happens before a daemon does",
        "not confirmed yet by app-1; waited for 10m at most",
    ]
    cut = plan_of(ring)
    assert "more to come" not in "".join(cut.remarks)


def test_what_is_piped_has_no_colour_and_ascii_where_no_more_can_be_written(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(new_ring(), rules=policy(access_token_validity=2 * HOUR))
    show(plan)
    assert "\x1b" not in capsys.readouterr().out
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", written)
    show(plan)
    written.seek(0)
    said = written.read()
    assert "access_token_validity 1h -> 2h" in said
    assert re.search(r"^\S+  #+-+$", said, re.MULTILINE)


def test_on_a_terminal_it_is_as_wide_as_that_and_in_colour(site: Site) -> None:
    site.configure()
    site.done("init")
    said = on_a_terminal(site, 100)
    assert "\x1b[1;32m█" in said
    rows = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    assert max(len(row) for row in rows if "┬" in row) in (98, 99)


def on_a_terminal(site: Site, columns: int) -> str:
    """What `ringkeeper plan` shows there."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(site.folder)
        environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
        command = (sys.executable, "-m", "ringkeeperd", "plan")
        os.execvpe(command[0], command, environment)  # noqa: S606 - what a terminal shows
    said = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        said += part
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    return said.decode()


# --- as JSON, as a picture -----------------------------------------------------------------------


def test_the_json_has_every_moment_and_every_phase() -> None:
    ring = new_ring()
    told = as_json(plan_of(ring, rules=policy(algorithm="ES256"), settings={"algorithm": "ES256"}))
    json.dumps(told)
    after = told["after"]
    assert [key["kid"] for key in after["keys"]][-1] == "next-3"
    assert after["moments"][0] == {"at": NOW.isoformat(), "kid": "next-1", "what": "published"}
    (first,) = [key for key in after["keys"] if key["kid"] == "next-1"]
    assert first["algorithm"] == "ES256"
    assert first["foreseen"] is True
    assert first["phases"][0] == {
        "state": "published",
        "signs": False,
        "draining": False,
        "from": NOW.isoformat(),
        "to": (NOW + 192 * HOUR).isoformat(),
    }
    assert told["before"]["keys_kept"] == 4
    assert told["commands"] == ["ringkeeper set algorithm ES256"]


def test_the_page_names_every_member_of_the_json_and_every_option() -> None:
    ring = new_ring()
    page = (Path(__file__).parents[2] / "docs/plan.md").read_text()

    def members(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(members, value))
        if isinstance(value, dict):
            return set(value) | set().union(*map(members, value.values()))
        return set()

    told = as_json(plan_of(ring, rules=policy(algorithm="ES256"), seen=(app("app-1", "RS256"),)))
    assert {"lacking", "phases", "draining"} <= members(told)
    assert {name for name in members(told) if f"`{name}`" not in page} == set()
    assert {what for what in _WHAT.values() if what not in page} == set()


def elements(document: bytes) -> list[ET.Element]:
    return list(ET.fromstring(document).iter())  # noqa: S314 - ours


def test_the_picture_is_one_of_its_own_without_scripts_and_describes_itself(
    tmp_path: Path,
) -> None:
    ring = new_ring()
    active = ring.active()
    assert active
    hostile = "<script>&\"'"
    keys = tuple(replace(k, kid=hostile) if k.kind is KeyKind.STATIC else k for k in ring.keys)
    path = tmp_path / "plan.svg"
    plan = plan_of(
        replace(ring, keys=keys),
        wish=Wish(revoke=active.kid),
        outstanding={active.kid: 7, hostile: 12_345},
    )
    write_svg(plan, path)
    document = path.read_bytes()
    assert b"<script" not in document
    found = elements(document)
    names = {each.tag.rpartition("}")[2] for each in found}
    assert names == {"svg", "title", "desc", "style", "rect", "text", "line", "path"}
    root = found[0]
    assert root.get("role") == "img"
    ids = {each.get("id"): each for each in found if each.get("id")}
    title = ids[root.get("aria-labelledby") or ""]
    desc = ids[root.get("aria-describedby") or ""]
    assert title.text == "The future of ring access-token"
    assert f"2026-01-01 00:00:00 UTC {active.kid} revoked" in (desc.text or "")
    assert not [a for each in found for a in each.attrib if a.startswith("on") or "href" in a]
    style = next(each.text or "" for each in found if each.tag.endswith("style"))
    assert "prefers-color-scheme: dark" in style
    assert "url(" not in style
    texts = [each.text for each in found]
    assert hostile in texts
    assert "12,345" in texts
    assert "if " + active.kid + " is revoked" in texts


def test_the_picture_draws_each_phase_in_its_place_and_shape(tmp_path: Path) -> None:
    young, _ = settle(new_ring(), DUE)
    (former,) = young.in_state(KeyState.RETIRED)
    plan = plan_of(young, DUE, wish=Wish(former.kid, drain=30 * MINUTE))
    write_svg(plan, tmp_path / "a.svg")
    bars = [e for e in elements((tmp_path / "a.svg").read_bytes()) if len(e) and e.get("class")]
    kinds = {e.get("class") for e in bars}
    assert kinds == {"signs", "idle", "published", "retired", "draining", "revoked"}
    signs = [e for e in bars if e.get("class") == "signs"]
    begins = [float(e.get("x") or 0) for e in signs]
    assert begins[0] == begins[len(begins) // 2] == 256.0  # now, in both pictures
    assert all(0 < float(e.get("width") or 0) < 800 for e in signs)
    write_svg(plan_of(young, DUE), tmp_path / "b.svg")
    assert b"What differs" not in (tmp_path / "b.svg").read_bytes()


# --- status names who does not know an algorithm, too --------------------------------------------


def test_the_status_names_who_does_not_know_an_algorithm_of_the_ring() -> None:
    ring = do(new_ring(), Adopt(policy(algorithm="ES256")), NOW)
    ring, _ = settle(ring, NOW)
    assert "ES256" in {key.algorithm for key in ring.keys}
    version = ring.version
    apps = (
        app("app-1", "RS256", version=1),
        app("app-2", version=1),
        app("app-3", version=version),
        app("app-4", "RS256", "ES256", version=1),
    )
    seen = Seen(ring, None, "host-1", apps)
    console = Console(file=io.StringIO(), width=500)
    console.print(render(seen, NOW))
    file: Any = console.file
    (told,) = [line for line in file.getvalue().splitlines() if line.startswith("lacks")]
    assert told == (
        "lacks   ES256 is not known to app-1; app-2 may not know ES256 and do not tell, so cannot "
        "confirm such a key"
    )
    (lacking,) = status_json(seen, NOW)["algorithms_lacking"]
    assert lacking == {"algorithm": "ES256", "lacking": ("app-1",), "untold": ("app-2",)}
    assert [i["algorithms"] for i in status_json(seen, NOW)["instances"]][:2] == [["RS256"], None]
    usual = Seen(new_ring(), None, "host-1", (app("app-2", version=0),))
    assert status_json(usual, NOW)["algorithms_lacking"] == []


def test_what_leaders_refuse_is_refused_by_the_plan_too() -> None:
    with pytest.raises(RequestRefused, match="unknown kid"):
        plan_of(new_ring(), wish=Wish(revoke="d-nobody"))


@pytest.mark.parametrize(
    ("told", "read"),
    [
        (["RS256", "ES256"], ("RS256", "ES256")),
        (["x" * 1000, 7, None, "RS256"], ("x" * 20, "RS256")),
        ([f"A{n}" for n in range(1000)], tuple(f"A{n}" for n in range(32))),
        ("RS256", ()),
        ({"RS256": 1}, ()),
        (None, ()),
    ],
)
def test_what_anyone_wrote_as_algorithms_is_bounded_and_costs_no_confirmation(
    told: object, read: tuple[str, ...]
) -> None:
    record = {"role": "sign", "epoch": 2, "version": 3, "algorithms": told}
    instance = _instance("app-1", "0", json.dumps(record))
    assert instance.algorithms == read
    assert (instance.epoch, instance.version) == (2, 3)
    assert instance.knows("RS256") is ("RS256" in read if read else None)
