"""The commands at many rings: quick, and readable."""

import json
from typing import Any

from ringkeeper.layout import Layout
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

RINGS = 60
NAMES = ["access-token", *(f"tenant-{number:02}" for number in range(1, RINGS))]
MANY: dict[str, Any] = {"keyrings": dict.fromkeys(NAMES[1:])}


def test_many_rings_are_made_counted_and_shown_a_line_each(site: Site, valkey: Server) -> None:
    site.configure(**MANY)
    assert site.done("init").splitlines()[0] == f"made {RINGS} rings"
    assert f"({RINGS} rings were not made)" in site.refused("init")
    told = site.done("init", "--if-missing").splitlines()
    assert told[0] == f"exist, and these secrets open them: {RINGS} rings"
    site.configure(keyrings={**MANY["keyrings"], "late": None})
    assert "made 1 ring" in site.done("init", "--if-missing").splitlines()
    site.configure(**MANY)
    daemon = site.daemon(**MANY)
    # The table of instances of each ring is written once it is followed.
    is_quiet = f"{RINGS} rings, 0 to look at"
    lines = eventually(
        lambda: said if is_quiet in (said := site.done("status")) else "", within=60
    ).splitlines()
    assert [line.split()[0] for line in lines[1 : RINGS + 1]] == NAMES
    assert max(map(len, lines)) < 160
    with valkey.client() as client:
        client.delete(Layout("tenant-07").keyring)
        client.set(Layout("tenant-07").keyring, "no hash")
        client.set(Layout("tenant-09").lease, "[red]who/x", px=60_000)
    # On a busy host others are not heard of for a moment, too.
    result = eventually(
        lambda: said if "rings, 1 to look at" in (said := site.run("status")).stdout else None,
        within=60,
    )
    assert result.returncode == 1
    troubled = result.stdout.splitlines()[1]
    assert troubled.startswith("tenant-07")
    assert "WRONGTYPE" in troubled
    assert "[red]who" in result.stdout, "what somebody wrote in Redis is shown as it is"
    assert f"{RINGS} rings, 1 to look at" in result.stdout
    assert "tenant-08" in site.done("status", "--ring", "tenant-08")
    assert "leader  " in site.done("status", "--ring", "tenant-08")
    result = site.run("status", "--json", "--all")
    assert [ring["ring"] for ring in json.loads(result.stdout)["rings"]] == [
        name for name in NAMES if name != "tenant-07"
    ]
    assert json.loads(site.done("status", "--json"))["ring"] == "access-token"
    checked = site.run("check", "--json")
    problems = json.loads(checked.stdout)["problems"]
    assert any("tenant-07" in problem for problem in problems)
    assert not any("tenant-08" in problem for problem in problems)
    examined = json.loads(site.run("doctor", "--json").stdout)["findings"]
    subjects = list(dict.fromkeys(each["subject"] for each in examined))
    assert subjects[2:] == [f"ring {name}" for name in NAMES]
    daemon.stop()


def test_many_rings_are_rewrapped(site: Site) -> None:
    daemon = site.daemon(init=True, **MANY)
    eventually(lambda: f"{RINGS} rings, 0 to look at" in site.done("status"), within=30)
    site.done("init", "--new-kek")
    eventually(lambda: daemon.events("secrets taken up"), within=20)

    def is_rewrapped() -> bool:
        return site.run("rewrap", "--now", "--answer-within", "30").returncode == 0

    eventually(is_rewrapped, within=60)
    assert "nothing needs another" in site.done("rewrap", "--check").splitlines()[-2]
    daemon.stop()
