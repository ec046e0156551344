"""`ringkeeper watch` and the numbers of the audit, on real servers. Promise 12."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.configuration import load
from ringkeeper.layout import Layout
from ringkeeper.secret_files import read_pinned_roots
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Event, sign_event
from ringkeeperd import leader_store
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.operator import Operator
from ringkeeperd.watch import Watch
from tests.client.waiting import stopped
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
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    site.daemon(init=True)
    site.daemon()
    site.done("rotate", "--now", "--reason", "one")
    (static,) = (key["kid"] for key in site.status()["keys"] if key["kind"] == "static")
    assert "the only static key" in site.refused("static", "retire", static)
    site.leader().kill()
    site.leader()
    assert "the only static key" in site.refused("static", "retire", static)
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


@contextmanager
def watched(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Iterator[Callable[[], str]]:
    """What a `watch` that follows has printed so far; it looks at the stream's end often."""
    monkeypatch.setattr(leader_store, "STREAM_WAIT", 0.3)
    monkeypatch.chdir(site.folder)
    configuration = load(site.folder / "config.yaml", {})
    watch, loop, said = (
        Watch(last=100, is_followed=True, as_json=False),
        asyncio.new_event_loop(),
        [],
    )

    stop = asyncio.Event()

    async def follow() -> None:
        clock = SystemClock()
        store = RedisLeaderStore.configured(configuration, "access-token", clock)
        operator = Operator(store, read_pinned_roots(configuration.trust_root_public), clock)
        watching = asyncio.create_task(watch.run(operator))
        await stop.wait()
        await stopped(watching)
        await store.close()

    def printed() -> str:
        said.append(capsys.readouterr().out)
        return "".join(said)

    thread = threading.Thread(target=lambda: loop.run_until_complete(follow()))
    thread.start()
    try:
        eventually(printed)
        yield printed
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_a_stream_that_was_begun_anew_is_told_and_read(
    make_site: Callable[[str], Site],
    valkey: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """Its ids may be lower than those that were seen: nobody would hear of a revocation."""
    site = make_site(valkey.url)
    site.daemon(init=True)
    with valkey.client() as client, watched(site, monkeypatch, capsys) as printed:
        client.execute_command("XSETID", LAYOUT.events, "9999999999999-0")
        site.done("rotate", "--now", "--reason", "before")
        eventually(lambda: "reason=before" in printed())
        client.delete(LAYOUT.events)
        site.done("rotate", "--now", "--reason", "afterwards")
        eventually(lambda: "reason=afterwards" in printed())
        assert printed().count("!! what was newest in the stream was taken away") == 1
        assert "comes again" not in printed()


def test_whoever_watches_is_told_once_that_nothing_can_be_seen_and_goes_on(
    make_site: Callable[[str], Site],
    own_server: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    server = own_server()
    site = make_site(server.url)
    site.daemon(init=True)
    with watched(site, monkeypatch, capsys) as printed:
        with server.client() as client:
            good = client.hget(LAYOUT.keyring, "snapshot")
            client.hset(LAYOUT.keyring, "snapshot", "x")
            eventually(lambda: "!! the ring cannot be read" in printed())
            client.hset(LAYOUT.keyring, "snapshot", good)
        site.done("rotate", "--now", "--reason", "readable again")
        eventually(lambda: "reason=readable again" in printed())
        tries: list[float] = []
        events = Operator.events

        def counted(self: Operator, after: str) -> Any:
            tries.append(time.monotonic())
            return events(self, after)

        monkeypatch.setattr(Operator, "events", counted)
        with server.client() as client:
            client.save()
        server.kill()
        eventually(lambda: "; trying again" in printed())
        eventually(lambda: len(tries) > 2)
        assert tries[2] - tries[0] > 1.5, "it keeps no core busy"
        server.start()
        site.leader()
        site.done("rotate", "--now", "--reason", "back again")
        eventually(lambda: "reason=back again" in printed())
        assert printed().count("the ring cannot be read") == 1
        assert printed().count("; trying again") == 1


def test_a_proof_that_vouches_for_something_else_is_none(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    """It would hide that the newest events are gone, and how old the ring is."""
    site = make_site(valkey.url)
    site.daemon(init=True)
    with valkey.client() as client:
        former = client.hget(LAYOUT.keyring, "proof")
        site.done("rotate", "--now", "--reason", "one")
        site.leader().stop()
        assert flaws(site) == []
        for proof in (former, "nonsense"):
            client.hset(LAYOUT.keyring, "proof", proof)
            (flaw,) = flaws(site)
            assert flaw.startswith("no proof of freshness vouches for the ring")
            doctor = json.loads(site.run("doctor", "--json").stdout)
            assert '"no proof"' in json.dumps(doctor)
