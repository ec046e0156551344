"""The status page as a daemon serves it: who is shown what, how often it is made, what it may do."""

import re
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from ringkeeper.clock import SystemClock
from ringkeeper.errors import RedisUnavailable
from ringkeeper.replica import Replica
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Event, sign_proof, sign_snapshot
from ringkeeperd.last_events import KEPT, LastEvents
from ringkeeperd.page.gather import INSTANCES_SHOWN, RINGS_WHOLE, gathered
from ringkeeperd.page.serving import StatusPage
from ringkeeperd.rotation import Instance, WaitUntil
from ringkeeperd.service import LeadingState
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, new_ring, policy
from tests.core.views import refreshes
from tests.plugins.daemons import Site, eventually

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LOOKING = {**HTML, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
"""What a browser sends."""


class Stopped(SystemClock):
    """A clock that the test moves."""

    at, seconds = NOW, 0.0

    def now(self) -> Any:
        return self.at

    def timestamp(self) -> float:
        return float(self.now().timestamp())

    def monotonic(self) -> float:
        return self.seconds


def service_of(name: str = "access-token", **state: Any) -> Any:
    """A ring that a daemon has just read, and leads."""
    ring, root = replace(new_ring(policy(algorithm="EdDSA")), name=name), TrustRoot.generate()
    snapshot = sign_snapshot(ring, root)
    proof = sign_proof(ring, snapshot, NOW, root)
    return SimpleNamespace(
        name=name,
        follower=SimpleNamespace(
            replica=Replica(name, root.public).offer(snapshot, proof, NOW), trouble=None
        ),
        handing_on=SimpleNamespace(is_failing=False),
        state=LeadingState(**{"is_leading": True, **state}),
        clock=Stopped(),
    )


def seen(*services: Any, is_from_here: bool = False, chosen: str = "") -> Any:
    named = {each.name: each for each in services}
    return gathered(named, chosen, (), {}, is_from_here=is_from_here)


def told(number: int, name: str = "key activated", **fields: Any) -> Event:
    return Event("r1", "access-token", 1, 1, NOW + number * SECOND, name, fields, number)


# --- who is shown what ---------------------------------------------------------------------------


def test_only_this_host_is_shown_names_of_instances(site: Site) -> None:
    daemon = site.daemon(init=True)
    # Not the bare name of the host: a short one may stand in a kid by chance.
    name = re.compile(rf"{re.escape(socket.gethostname())}-\d+-")

    def page(**headers: str) -> str:
        return daemon.get("/", **{**LOOKING, **headers})[2].decode()

    eventually(lambda: "1 live instance, none behind" in page())
    assert name.search(page())
    for others in (
        {"X-Forwarded-For": "192.0.2.1"},
        {"Forwarded": "for=192.0.2.1"},
        {"Via": "1.1 proxy"},
        {"Host": "ringkeeper.example"},
        {"Host": f"evil.example:{daemon.port}"},
    ):
        assert "1 live instance, none behind" in page(**others)
        assert not name.search(page(**others)), others


def test_what_operators_typed_is_for_this_host() -> None:
    events = LastEvents()
    events.note(told(1, rotation="manual", reason="mallory left", by="ops@host-9", kid="d-x"))
    service = service_of(events=events)
    (stranger,), (colleague,) = (
        seen(service, is_from_here=here).rings[0].events for here in (False, True)
    )
    assert stranger.fields == (("rotation", "manual"),)
    assert stranger.kid == "d-x"
    assert set(colleague.fields) == {
        ("rotation", "manual"),
        ("reason", "mallory left"),
        ("by", "ops@host-9"),
    }


def test_instances_that_are_behind_come_first_and_their_number_is_bounded() -> None:
    """Anyone may write to their table: names of one beginning, control characters, crowds."""
    crowd = [Instance("x" * 80, "sign", 1, 1, NOW) for _ in range(3000)]
    crowd += [Instance("late\x1b[2J\u202e", "ro\x00le", 1, 0, NOW - MINUTE)]
    found = seen(service_of(instances=tuple(crowd)), is_from_here=True).rings[0].instances
    assert (found.count, found.behind, len(found.shown)) == (3001, 1, INSTANCES_SHOWN)
    first = found.shown[0]
    assert (first.name, first.role, first.is_behind) == ("late?[2J?", "ro?le", True)
    assert first.heard_at == NOW - MINUTE


def test_who_leads_is_told_as_far_as_it_is_known_here() -> None:
    leading, following, alone = service_of(), service_of(), service_of()
    following.state.is_leading = alone.state.is_leading = False
    alone.clock.at = NOW + HOUR
    assert [seen(each).rings[0].leader for each in (leading, following, alone)] == [
        "this daemon",
        "another daemon",
        "nobody, it seems",
    ]
    assert seen(following).concerns == ()
    assert seen(alone).concerns == ("ring access-token: nobody seems to lead it",)
    assert seen(following).rings[0].events is None


def test_nobody_is_said_to_lead_where_nobody_can_be_heard_of() -> None:
    """A daemon alone, whose Redis went away: its own last proof is still young."""
    kept, deaf = service_of(is_leading=False, trouble="redis: gone"), service_of(is_leading=False)
    deaf.follower.trouble = RedisUnavailable("redis: gone")
    assert [seen(each).rings[0].leader for each in (kept, deaf)] == ["nobody is known"] * 2


def test_what_needs_a_look_is_told_whichever_ring_is_shown() -> None:
    waiting = service_of("b", wait=WaitUntil(NOW, NOW, ("app-1", "app-2")))
    spiking = service_of("c", refreshes=replace_spike())
    lost = service_of("d")
    lost.follower.replica = Replica("d", lost.follower.replica.roots)
    view = seen(service_of("a"), waiting, spiking, lost, chosen="a")
    assert view.concerns == (
        "ring b: the next key is due, and waits for 2 to confirm it",
        "ring c: too many sessions are refreshed",
        "ring d: the ring is not loaded yet",
    )
    assert [ring.name for ring in view.rings] == ["a"]
    assert view.others == ("b", "c", "d")


def test_whom_the_next_key_awaits_long_before_it_is_due_is_nobodys_concern() -> None:
    service = service_of(wait=WaitUntil(NOW + HOUR, NOW + HOUR, ("app-1", "app-2")))
    assert seen(service).concerns == ()
    assert seen(service).rings[0].awaited == 2
    service.clock.at += HOUR
    assert len(seen(service).concerns) == 1


def test_who_is_behind_is_told_once_they_had_the_time() -> None:
    service = service_of(instances=(Instance("app", "sign", 1, 0, NOW),))
    window = service.follower.replica.held.ring.policy.liveness_window
    assert seen(service).concerns == ()
    service.clock.at += window + SECOND
    assert seen(service).concerns == ("ring access-token: 1 instance behind",)


def replace_spike() -> Any:
    view = refreshes(NOW)
    assert view.spike
    return replace(view, spike=replace(view.spike, is_over=False))


def test_one_page_shows_so_many_rings_and_links_to_the_others() -> None:
    view = seen(*(service_of(f"r{n}") for n in range(50)))
    assert len(view.rings) == RINGS_WHOLE
    assert len(view.others) == 50 - RINGS_WHOLE
    assert [
        ring.name for ring in seen(*(service_of(f"r{n}") for n in range(9)), chosen="r8").rings
    ] == ["r8"]


# --- events --------------------------------------------------------------------------------------


def test_events_are_kept_once_in_their_order_and_only_so_many() -> None:
    events = LastEvents()
    events.recall([told(3), told(2), told(1)])
    events.note(told(3), told(4))
    events.recall([told(5), told(4)])
    assert [each.number for each in events] == [1, 2, 3, 4, 5]
    events.note(told(0, "activated without confirmation"))
    events.note(told(0, "activated without confirmation"))
    assert len(events) == 7, "what the audit does not number is told each time"
    events.note(*(told(n) for n in range(6, 60)))
    assert [each.number for each in events] == list(range(60 - KEPT, 60))
    events.forget()
    assert len(events) == 0


def test_a_leader_shows_what_it_did_and_what_the_audit_told_before(site: Site) -> None:
    daemon = site.daemon(init=True)
    signer = site.status()["keys"][0]["kid"]
    site.done("revoke", signer, "--reason", "leaked by mallory")

    def shown() -> str:
        return daemon.get("/", **LOOKING, **{"X-Real-IP": "192.0.2.1"})[2].decode()

    happened = ("ring made", "key published", "key revoked", "key activated")
    eventually(lambda: all(name in shown() for name in happened))
    assert "mallory" not in shown()
    daemon.stop()
    successor = site.daemon()
    eventually(successor.leads)
    page = successor.get("/", **LOOKING)[2].decode()
    assert "key revoked" in page
    assert "leaked by mallory" in page


# --- how it is served ----------------------------------------------------------------------------


async def test_a_crowd_that_looks_costs_no_more_than_one_that_looks() -> None:
    service = service_of()
    page = StatusPage({service.name: service}, tuple, {})
    asking = make_mocked_request("GET", "/", headers={"Host": "ringkeeper.example"})
    first, second = await page.page(asking), await page.page(asking)
    assert first.body is second.body
    service.clock.seconds += 1.1
    service.clock.at += SECOND
    third = await page.page(asking)
    assert third.body != first.body


async def test_all_pages_together_take_a_share_of_the_time_and_no_more() -> None:
    """With many rings there are many pages: who asks for all of them holds up nothing else."""

    class Slow(Stopped):
        """Each look takes it further: a page takes 50 ms to draw, at least."""

        def monotonic(self) -> float:
            self.seconds += 0.05
            return self.seconds

    clock = Slow()
    services = {f"r{number}": service_of(f"r{number}") for number in range(40)}
    for service in services.values():
        service.clock = clock
    page = StatusPage(services, tuple, {})

    async def asked(ring: str) -> Any:
        return await page.page(make_mocked_request("GET", f"/?ring={ring}"))

    answers = [await asked(name) for name in services]
    drawn = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 503]
    assert 3 < len(drawn) < 20
    assert len(drawn) + len(refused) == 40
    assert refused[-1].headers["Retry-After"] == "1"
    clock.seconds += 1
    assert (await asked("r39")).status == 200


async def test_what_this_host_was_shown_is_not_handed_to_others() -> None:
    service = service_of(instances=(Instance("app-on-host-9", "sign", 1, 1, NOW),))
    page = StatusPage({service.name: service}, tuple, {})
    local: Any = SimpleNamespace(get_extra_info=lambda name, default=None: ("127.0.0.1", 5))
    bodies = [
        (await page.page(make_mocked_request("GET", "/", headers=headers, transport=local))).body
        for headers in ({"Host": "localhost"}, {"Host": "localhost", "Via": "1.1 x"})
    ]
    assert [b"app-on-host-9" in body for body in bodies] == [True, False]  # type: ignore[operator]


def test_the_page_may_load_what_is_its_own_and_nothing_else(site: Site) -> None:
    daemon = site.daemon(init=True)
    status, headers, _ = daemon.get("/", **HTML)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = dict(
        each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";")
    )
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(name) for name in ("style-src", "script-src", "connect-src")} == {"'self'"}
    assert policy == dict.fromkeys(
        ("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"
    )


@pytest.mark.parametrize(
    ("path", "kind"), [("/status.css", "text/css"), ("/status.js", "text/javascript")]
)
def test_its_files_are_sent_once(site: Site, path: str, kind: str) -> None:
    daemon = site.daemon(init=True)
    status, headers, body = daemon.get(path)
    assert status == 200
    assert body
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    again = daemon.get(path, **{"If-None-Match": headers["ETag"]})
    assert (again[0], again[2], again[1]["ETag"]) == (304, b"", headers["ETag"])
    assert daemon.get(path, **{"If-None-Match": '"another"'})[0] == 200


def test_a_ring_that_is_not_here_has_no_page(site: Site) -> None:
    daemon = site.daemon(init=True)
    assert daemon.get("/?ring=access-token", **HTML)[0] == 200
    assert daemon.get("/?ring=%3Cscript%3E", **HTML)[0] == 404
