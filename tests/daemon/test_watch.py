"""`ringkeeper watch` and the numbers of the audit, on real servers. Promise 12."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ringkeeper.clock import SystemClock
from ringkeeper.layout import Layout
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Event, sign_event
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import Server

LAYOUT = Layout("access-token")


def read(site: Site, *options: str) -> tuple[int, list[Any]]:
    result = site.run("watch", "--no-follow", "--json", "--last", "1000", *options)
    return result.returncode, [json.loads(line) for line in result.stdout.splitlines()]


def flaws(site: Site) -> list[str]:
    code, lines = read(site)
    found = [line["flaw"] for line in lines if line["flaw"]]
    assert code == (1 if found else 0)
    return found


def test_events_are_numbered_without_a_gap_whoever_leads_and_whatever_is_refused(
    make_site: Callable[[str], Site], any_server: Server
) -> None:
    site = make_site(any_server.url)
    site.daemon(init=True)
    site.daemon()
    site.done("rotate", "--now", "--reason", "one")
    assert "unknown kid" in site.refused("revoke", "d-nothing", "--reason", "refused")
    site.leader().kill()
    site.leader()
    assert "unknown kid" in site.refused("revoke", "d-nothing", "--reason", "refused")
    site.done("revoke", site.status()["signer"], "--reason", "leaked")
    code, lines = read(site)
    assert code == 0
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    told = [line["event"] for line in lines]
    assert told.count("request refused") == 2
    assert {"ring made", "key activated", "key retired", "key revoked"} <= set(told)
    revoked = next(line for line in lines if line["event"] == "key revoked")
    assert revoked["fields"]["reason"] == "leaked"
    assert "@" in revoked["fields"]["by"]


def test_what_is_done_to_the_stream_is_pointed_out(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    site.done("rotate", "--now", "--reason", "one")
    assert flaws(site) == []
    with valkey.client() as client:
        entries = client.xrange(LAYOUT.events)
        (second, _), (newest, fields) = entries[1], entries[-1]
        client.xdel(LAYOUT.events, second)
        assert flaws(site) == ["1 missing before it: numbers 2 to 2"]
        client.xdel(LAYOUT.events, newest)
        count = len(entries)
        assert flaws(site)[1:] == [
            f"the stream ends at number {count - 1}, and {count} events were told"
        ]
        client.xadd(LAYOUT.events, fields)
        client.xadd(LAYOUT.events, fields)
        assert flaws(site)[1:] == [f"number {count} comes again, after number {count}"]
        forged = Event(
            "id", "access-token", 9, 9, SystemClock().now(), "key revoked", number=count + 1
        )
        client.xadd(LAYOUT.events, {"event": sign_event(forged, TrustRoot.generate())})
        assert "forged" in flaws(site)[-1]


def test_what_happens_is_printed_as_it_happens(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    output = site.folder / "watched"
    with output.open("wb") as file:
        watching = subprocess.Popen(
            [sys.executable, "-m", "ringkeeperd", "watch", "--last", "1"],
            cwd=site.folder, stdout=file, stderr=file, env=clean_environment(),
        )  # fmt: skip
    try:
        eventually(lambda: "key activated" in output.read_text())
        site.done("rotate", "--now", "--reason", "look \x1b[2Jhere")
        eventually(lambda: "key retired" in output.read_text())
        told = output.read_text()
        assert "\x1b" not in told, "nobody moves the cursor"
        assert "reason=look ?[2Jhere" in told
        assert "!!" not in told
    finally:
        watching.kill()
        watching.wait()


def test_numbers_go_on_after_redis_lost_everything(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    before = read(site)[1][-1]["number"]
    with valkey.client() as client:
        client.flushall()

    def newest() -> Any:
        code, lines = read(site)
        return lines[-1] if code == 0 and lines else None

    healed = eventually(newest)
    assert healed["event"] == "ring healed"
    assert healed["number"] == before + 1
