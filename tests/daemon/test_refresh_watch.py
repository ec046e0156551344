"""A leader that watches over session refreshes, on a real server; what it tells, and what not."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.errors import RedisUnavailable
from ringkeeper.layout import BUCKET
from ringkeeper.refreshes import MOST
from ringkeeper.wire import Command, sign_event
from ringkeeperd import refresh_watch
from ringkeeperd.audit import numbered
from ringkeeperd.leader_store import RedisLeaderStore, Written
from ringkeeperd.refresh_series import SERIES, RefreshSeries, RefreshView
from ringkeeperd.spike_events import begin_of, bucket_at, spike_event
from ringkeeperd.spikes import LEARNING, Bucket, Cause, Spike
from tests.plugins.candidates import Candidate, ShiftedClock, request, told_in_audit, until
from tests.plugins.rings import LedRing

USUALLY = 100
"""Refreshes in a bucket."""


@pytest.fixture(autouse=True)
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, and is settled at once."""
    monkeypatch.setattr(refresh_watch, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(refresh_watch, "_IDLE_EVERY", 0.02)
    monkeypatch.setattr(refresh_watch, "_SETTLING", 0.1)
    monkeypatch.setattr(refresh_watch, "_WHOLE_EVERY", 0.2)


def newest_bucket() -> int:
    return bucket_at(SystemClock().now())


async def count(candidate: Candidate, counted: Mapping[int, Mapping[str, int]]) -> None:
    await candidate.store.count_refreshes(counted)


def an_hour(but: Mapping[int, int] | None = None) -> dict[int, dict[str, int]]:
    """An ordinary hour until now, `but` for some buckets, by how long ago they were."""
    now = newest_bucket()
    return {
        now - ago: {"expired": (but or {}).get(ago, USUALLY + ago % 7)} for ago in range(1, SERIES)
    }


def spikes_told(led: LedRing) -> list[tuple[str, str]]:
    return [
        (each.event, str(each.fields["cause"]))
        for each in told_in_audit(led)
        if "spike" in each.event
    ]


def views(candidate: Candidate) -> list[RefreshView]:
    return [given[1] for given in candidate.told.all_named("refreshed")]


def told_so_far(candidate: Candidate) -> Counter[str]:
    """The refreshes that this one's metric counts, by reason."""
    told: Counter[str] = Counter()
    for news in candidate.told.named("refreshed"):
        told.update(news)
    return told


async def test_a_revocation_that_makes_many_refresh_is_told_with_its_numbers(
    led: LedRing, candidates: Any
) -> None:
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting") and len(one.told.named("refreshed")) > 10)
    assert one.told.named("spiked") == [], "an ordinary hour is none"
    await one.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    await until(lambda: one.told.named("changed"))
    await count(one, {newest_bucket(): {"revoked_kid": 900}})
    await until(lambda: one.told.named("spiked"))
    (began,) = one.told.named("spiked")
    assert (began.event, began.fields["cause"]) == ("refresh spike began", "revocation")
    assert began.fields["reason"] == "revoked_kid"
    assert began.fields["peak_rate"] >= 900 / BUCKET
    assert began.fields["baseline_rate"] == pytest.approx(USUALLY / BUCKET, rel=0.05)
    assert began.fields["ratio"] == pytest.approx(9, rel=0.1)
    # One line in the audit, numbered on from the revocation; the ring goes on.
    await one.store.ask(request(led, Command.ROTATE, id="again", version=one.version))
    await until(lambda: len(one.told.named("changed")) > 1)
    told = told_in_audit(led)
    assert [e.number for e in told] == list(range(1, len(told) + 1))
    assert spikes_told(led) == [("refresh spike began", "revocation")]
    newest = views(one)[-1]
    assert newest.is_spike
    assert newest.baseline == pytest.approx(USUALLY / BUCKET, rel=0.05)
    assert {Cause.REVOCATION, Cause.ROTATION} <= {change.cause for change in newest.changes}


async def test_whoever_leads_next_knows_of_the_spike_and_tells_when_it_is_over(
    led: LedRing, candidates: Any
) -> None:
    """State survives a change of leader: what was told of is not told again."""
    former = candidates("a")
    await count(former, an_hour())
    await until(lambda: former.told.named("waiting"))
    await count(former, {newest_bucket(): {"kind_mismatch": 900}})
    await until(lambda: former.told.named("spiked"))
    await former.close()
    successor = candidates("b")
    await until(lambda: len([v for v in views(successor) if v.is_spike]) > 10)
    assert successor.told.named("spiked") == []
    assert spikes_told(led) == [("refresh spike began", "mode_switch")]


async def test_a_spike_that_ended_while_nobody_led_is_told_to_have_ended(
    led: LedRing, candidates: Any
) -> None:
    ago = 30
    first = newest_bucket() - ago
    spike = Spike(first, first, Cause.ROTATION, "unknown_kid", 100.0, 10.0, 800, 700.0)
    began = spike_event(led.ring, SystemClock().now() - timedelta(seconds=ago * BUCKET), spike)
    number = len(told_in_audit(led))
    (began,) = numbered([began], after=number)
    with led.server.client() as client:
        client.xadd(led.layout.events, {"event": sign_event(began, led.root)})
    one = candidates("a")
    await count(one, an_hour(but={ago: 900, ago - 1: 1200, ago - 2: 500}))
    await until(lambda: one.told.named("spiked"))
    (ended,) = one.told.named("spiked")
    assert (ended.event, ended.fields["cause"]) == ("refresh spike ended", "rotation")
    assert ended.fields["duration_seconds"] == 3 * BUCKET
    assert ended.fields["peak_rate"] == 1200 / BUCKET
    assert ended.fields["ratio"] == 12.0
    assert ended.fields["extra_refreshes"] == 900 + 1200 + 500 - 300
    assert ended.number == number + 2


async def test_a_spike_of_before_that_is_put_back_is_not_taken_up(
    led: LedRing, candidates: Any
) -> None:
    """By whoever may write to Redis: signed it was, once."""
    first = newest_bucket() - 200
    spike = Spike(first, first, Cause.ROTATION, "unknown_kid", 100.0, 10.0, 800, 700.0)
    both = [spike, replace(spike, last=first + 3, is_over=True)]
    told = [spike_event(led.ring, begin_of(first + 5), each) for each in both]
    told = list(numbered(told, after=len(told_in_audit(led))))
    with led.server.client() as client:
        for each in (*told, told[0]):
            client.xadd(led.layout.events, {"event": sign_event(each, led.root)})
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: len([v for v in views(one) if v.spike]) > 10)
    assert not views(one)[-1].is_spike
    assert one.told.named("spiked") == []


async def test_a_spike_whose_telling_lost_its_reply_is_told_once(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = RedisLeaderStore.tell
    lost: list[Any] = []

    async def losing(self: RedisLeaderStore, *given: Any) -> Any:
        outcome = await tell(self, *given)
        if not lost:
            lost.append(given)
            raise RedisUnavailable("the reply was lost")
        return outcome

    monkeypatch.setattr(RedisLeaderStore, "tell", losing)
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting"))
    await count(one, {newest_bucket(): {"expired": 900}})
    await until(lambda: lost)
    looks = len(one.told.named("refreshed"))
    await until(lambda: len(one.told.named("refreshed")) > looks + 20)
    assert len(spikes_told(led)) == 1
    assert len(one.told.named("spiked")) == 1, "one log line and one metric, too"
    assert views(one)[-1].is_spike


async def test_a_telling_that_comes_late_is_told_once(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply did not come in time, the command did: after it was told again."""
    tell = RedisLeaderStore.tell
    late: list[asyncio.Task[Any]] = []

    async def lagging(self: RedisLeaderStore, *given: Any) -> Any:
        async def comes_late() -> Any:
            await until(lambda: spikes_told(led))
            return await tell(self, *given)

        if not late:
            late.append(asyncio.ensure_future(comes_late()))
            raise RedisUnavailable("timed out")
        return await tell(self, *given)

    monkeypatch.setattr(RedisLeaderStore, "tell", lagging)
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting"))
    await count(one, {newest_bucket(): {"expired": 900}})
    await until(lambda: one.told.named("spiked"))
    await late[0]
    told = told_in_audit(led)
    assert [e.number for e in told] == list(range(1, len(told) + 1))
    assert spikes_told(led) == [("refresh spike began", "unattributed")]


async def test_an_audit_that_takes_no_event_is_told_later_what_it_lacks(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never an end without its beginning; and keys turn meanwhile."""
    monkeypatch.setattr(refresh_watch, "_AGAIN_AFTER", 0.1)
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting"))
    with led.server.client() as client:
        client.rename(led.layout.events, "kept{access-token}")
        client.set(led.layout.events, "no stream")
        await count(one, {newest_bucket(): {"expired": 900}})
        await until(lambda: len(one.told.named("failed")) > 2)
        assert one.told.named("spiked") == []
        client.delete(led.layout.events)
        client.rename("kept{access-token}", led.layout.events)
    await until(lambda: one.told.named("spiked"))
    assert spikes_told(led) == [("refresh spike began", "unattributed")]


async def test_an_end_that_could_not_be_told_is_told_before_another_begins(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_watch, "_AGAIN_AFTER", 0.1)
    first, trouble = newest_bucket() - 20, [True]
    spike = Spike(first, first, Cause.ROTATION, "unknown_kid", 100.0, 10.0, 800, 700.0)
    began = spike_event(led.ring, begin_of(first), spike)
    (began,) = numbered([began], after=len(told_in_audit(led)))
    with led.server.client() as client:
        client.xadd(led.layout.events, {"event": sign_event(began, led.root)})
    tell = RedisLeaderStore.tell

    async def fails(self: RedisLeaderStore, *given: Any) -> Any:
        return Written(untold="out of memory") if trouble else await tell(self, *given)

    monkeypatch.setattr(RedisLeaderStore, "tell", fails)
    one = candidates("a")
    await count(one, an_hour(but={20: 800}))
    await until(lambda: any(v.spike and v.spike.is_over for v in views(one)))
    await count(one, {newest_bucket(): {"expired": 900}})
    looks = len(views(one))
    await until(lambda: len(views(one)) > looks + 20)
    trouble.clear()
    await until(lambda: len(one.told.named("spiked")) == 2)
    assert spikes_told(led) == [
        ("refresh spike began", "rotation"),
        ("refresh spike ended", "rotation"),
        ("refresh spike began", "unattributed"),
    ]


@pytest.mark.parametrize("broken", ["_recall", "_events"])
async def test_an_audit_that_cannot_be_read_keeps_no_key_from_turning(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    async def fails(_: object) -> None:
        raise RedisUnavailable("that read alone")

    monkeypatch.setattr(refresh_watch.RefreshWatch, broken, fails)
    one = candidates("a")
    await until(lambda: one.told.named("waiting"))
    await one.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    await until(lambda: one.told.named("changed"))
    assert len(one.told.named("leading")) == 1


async def test_a_beginning_that_others_hide_is_not_taken_up(led: LedRing, candidates: Any) -> None:
    """Whoever may write to Redis can put so much behind it that nobody knows what came after."""
    first = newest_bucket() - 20
    spike = Spike(first, first, Cause.ROTATION, "unknown_kid", 100.0, 10.0, 800, 700.0)
    (told,) = numbered([spike_event(led.ring, begin_of(first), spike)], after=0)
    with led.server.client() as client:
        client.delete(led.layout.events)
        client.xadd(led.layout.events, {"event": sign_event(told, led.root)})
    one = candidates("a")
    one.leader.told = 50  # as proofs say that vouch for the ring
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting") and len(views(one)) > 20)
    assert views(one)[-1].spike is None
    assert one.told.named("spiked") == []


async def test_a_successor_knows_what_happened_to_the_ring_just_before(
    led: LedRing, candidates: Any
) -> None:
    former = candidates("a")
    await count(former, an_hour())
    await until(lambda: former.told.named("waiting"))
    await former.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    await until(lambda: former.told.named("changed"))
    await former.close()
    successor = candidates("b")
    await until(lambda: len(views(successor)) > 20)
    await count(successor, {newest_bucket(): {"other": 900}})
    await until(lambda: successor.told.named("spiked"))
    assert spikes_told(led) == [("refresh spike began", "revocation")]


async def test_what_another_ring_told_is_not_ours(led: LedRing, candidates: Any) -> None:
    first = newest_bucket() - 20
    spike = Spike(first, first, Cause.ROTATION, "unknown_kid", 100.0, 10.0, 800, 700.0)
    told = replace(spike_event(led.ring, begin_of(first), spike), ring_id="other", number=99)
    with led.server.client() as client:
        client.xadd(led.layout.events, {"event": sign_event(told, led.root)})
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting") and len(views(one)) > 20)
    assert views(one)[-1].spike is None


async def test_after_trouble_with_redis_apps_are_given_time_to_tell(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting") and len(views(one)) > 20)
    monkeypatch.setattr(refresh_watch, "_SETTLING", 3600.0)
    read = RedisLeaderStore.refreshes
    failed: list[int] = []

    async def fails_once(self: RedisLeaderStore, *given: Any) -> Any:
        if not failed:
            failed.append(1)
            raise RedisUnavailable("away for a moment")
        return await read(self, *given)

    monkeypatch.setattr(RedisLeaderStore, "refreshes", fails_once)
    await until(lambda: failed)
    looks = len(views(one))
    await count(one, {newest_bucket(): {"expired": 900}})
    await until(lambda: len(views(one)) > looks + 20)
    assert one.told.named("spiked") == []


async def test_apps_that_were_cut_off_and_tell_all_at_once_make_no_spike(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = candidates("a")
    fewer = dict.fromkeys(range(120), USUALLY // 10)
    await count(one, an_hour(but=fewer))
    await until(lambda: one.told.named("waiting") and len(views(one)) > 30)
    monkeypatch.setattr(refresh_watch, "_WHOLE_EVERY", 3600.0)
    now = newest_bucket()
    looks = len(views(one))
    await count(one, {now - ago: {"expired": USUALLY - USUALLY // 10} for ago in range(120)})
    await until(lambda: len(views(one)) > looks + 30)
    assert one.told.named("spiked") == []
    await count(one, {newest_bucket(): {"expired": 900}})
    await until(lambda: one.told.named("spiked"))


@pytest.mark.parametrize("by", [timedelta(seconds=-60), timedelta(minutes=-10)])
async def test_a_step_of_redis_clock_makes_no_spike(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    """Buckets that were full are counted in once more."""
    one = candidates("a")
    await count(one, an_hour())
    await until(lambda: one.told.named("waiting") and len(views(one)) > 20)
    before = told_so_far(one)
    renew = RedisLeaderStore.renew

    async def stepped(self: RedisLeaderStore, *given: Any) -> Any:
        there = await renew(self, *given)
        return there and there + by

    monkeypatch.setattr(RedisLeaderStore, "renew", stepped)
    await until(lambda: not views(one)[-1].buckets)
    now = newest_bucket() + by // timedelta(seconds=BUCKET)
    looks = len(views(one))
    await count(one, {now: {"expired": 900}})
    await until(lambda: len(views(one)) > looks + 20)
    assert one.told.named("spiked") == []
    assert told_so_far(one) - before == {"expired": 900}


async def test_counts_ahead_of_redis_clock_are_no_measure(led: LedRing, candidates: Any) -> None:
    """A replica took over whose clock is behind."""
    one, now = candidates("a"), newest_bucket()
    await count(one, an_hour())
    await count(one, {now + ahead: {"expired": USUALLY} for ahead in range(4)})
    await until(lambda: len(views(one)) > 20)
    assert views(one)[-1].buckets == ()
    assert one.told.named("spiked") == []


async def test_counts_that_come_late_are_waited_for_after_a_change_of_leader(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis was away nobody could tell: it looks like calm, and then like a spike."""
    monkeypatch.setattr(refresh_watch, "_SETTLING", 3600.0)
    clock = ShiftedClock()
    one = candidates("a", clock)
    await count(one, an_hour(but=dict.fromkeys(range(1, 200), 0)))
    await count(one, {newest_bucket(): {"expired": USUALLY}})
    await until(lambda: one.told.named("waiting") and len(one.told.named("refreshed")) > 20)
    assert one.told.named("spiked") == []
    late = dict.fromkeys(range(200, SERIES), 0)
    await count(one, an_hour(but=late))
    clock.uptime += timedelta(hours=2)
    looks = len(one.told.named("refreshed"))
    await until(lambda: len(one.told.named("refreshed")) > looks + 20)
    assert one.told.named("spiked") == []


async def test_only_what_is_counted_from_now_on_is_news_to_a_new_leader(
    led: LedRing, candidates: Any
) -> None:
    with led.server.client() as client, client.pipeline() as adding:
        for bucket, counts in an_hour().items():
            adding.hincrby(led.layout.refreshes(bucket), f"{bucket}:expired", counts["expired"])
        adding.execute()
    one = candidates("a")
    await until(lambda: len(views(one)) > 20 and len(views(one)[-1].buckets) > LEARNING)
    assert told_so_far(one) == {}
    await count(one, {newest_bucket(): {"expired": 7, "manual": 2}})
    await until(lambda: told_so_far(one))
    looks = len(views(one))
    await until(lambda: len(views(one)) > looks + 20)
    assert told_so_far(one) == {"expired": 7, "manual": 2}


async def test_a_leader_that_slept_while_another_took_over_counts_nothing_twice(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, slept = ShiftedClock(), list[int]()
    one = candidates("a", clock)
    await until(lambda: one.told.named("waiting") and views(one))
    read = RedisLeaderStore.refreshes

    async def sleeps(self: RedisLeaderStore, first: int, last: int) -> dict[int, dict[str, int]]:
        found = await read(self, first, last)
        if found and not slept:
            slept.append(last)
            clock.uptime += timedelta(minutes=1)  # a lease's life, and more
        return found

    monkeypatch.setattr(RedisLeaderStore, "refreshes", sleeps)
    await count(one, {newest_bucket(): {"expired": 7}})
    await until(lambda: len(one.told.named("leading")) == 2)
    looks = len(one.told.named("refreshed"))
    await until(lambda: len(one.told.named("refreshed")) > looks + 5)
    assert slept
    assert sum(sum(counted.values()) for counted in one.told.named("refreshed")) == 0
    assert one.told.named("unwatched") == []


@pytest.mark.parametrize("broken", ["judge", "spike_event", "cause_in"])
async def test_a_defect_in_watching_keeps_no_key_from_turning(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(refresh_watch, broken, fails)
    one = candidates("a")
    await count(one, an_hour())
    await count(one, {newest_bucket(): {"expired": 900}})
    await until(lambda: one.told.named("waiting"))
    await one.store.ask(request(led, Command.REVOKE, kid=led.signer.kid))
    await until(lambda: one.told.named("changed") and one.told.named("unwatched"))
    assert one.told.named("broken") == []
    assert len(one.told.named("leading")) == 1


async def test_what_anyone_wrote_in_place_of_counts_is_none(led: LedRing, candidates: Any) -> None:
    one, now = candidates("a"), newest_bucket()
    key = led.layout.refreshes(now)
    with led.server.client() as client:
        garbage = ["-5", "1e3", "x", "", "9" * 11, "1_0", "٣", " 7"]
        client.hset(key, mapping={f"{now - ago}:other": text for ago, text in enumerate(garbage)})
        client.hset(key, f"{now}:expired", "12")
        client.hset(key, f"{now}:no reason", "12")
        client.hset(key, f"{now}:manual", "4294967296")
        counted = {"expired": 12, "manual": MOST}
        assert await one.store.refreshes(now - 20, now) == {now: counted}
        other = led.layout.refreshes(now - 60)
        client.set(other, "no hash")
        assert await one.store.refreshes(now - SERIES, now) == {now: counted}


async def test_a_look_across_hashes_finds_every_bucket_once(led: LedRing, candidates: Any) -> None:
    one, now = candidates("a"), newest_bucket()
    counted = {now - ago: {"expired": ago + 1, "other": 3} for ago in range(SERIES)}
    await count(one, counted)
    assert await one.store.refreshes(now - SERIES + 1, now) == counted
    assert set(await one.store.refreshes(now - 61, now - 59)) == {now - 61, now - 60, now - 59}


# --- what is kept of it, without a server --------------------------------------------------------


def test_counts_that_redis_lost_stay_and_are_no_news_when_they_come_again() -> None:
    series = RefreshSeries()
    assert series.take({99: {"expired": 50}}, now=99) == {}, "told by who led before, or by nobody"
    assert series.take({99: {"expired": 50}, 100: {"expired": 5}}, now=100) == {"expired": 5}
    assert series.take({100: {"expired": 2}}, now=101) == {}
    assert series.take({100: {"expired": 6}}, now=101) == {"expired": 1}
    assert [bucket.total for bucket in series.buckets(101)] == [50, 6, 0]
    assert series.take({}, now=100 + SERIES) == {}
    assert series.buckets(100 + SERIES) == ()


def test_rate_and_baseline_are_known_when_there_is_enough_to_know_them_by() -> None:
    def view(*totals: int, spike: Spike | None = None) -> RefreshView:
        buckets = tuple(Bucket(n, {"other": total}) for n, total in enumerate(totals))
        return RefreshView(buckets, (), spike)

    assert (view().rate, view().baseline) == (0.0, None)
    known = view(*[50] * LEARNING, 80, 80, 80, 3)
    assert (known.rate, known.baseline) == (8.0, 5.0)
    assert view(*[50] * (LEARNING - 1)).baseline is None
    spike = Spike(1, 2, Cause.ROTATION, "other", 20.0, 5.0, 80, 60.0)
    assert view(*[50] * LEARNING, 80, spike=spike).baseline == 2.0


def test_a_clock_that_is_set_back_makes_no_news_of_what_was_let_go() -> None:
    series = RefreshSeries()
    series.take({n: {"expired": 100} for n in range(1, SERIES + 1)}, now=SERIES)
    series.take({}, now=SERIES + 5)
    again = {n: {"expired": 100} for n in range(1, SERIES - 5)}
    assert series.take(again, now=SERIES - 6) == {}


def test_a_silence_in_a_busy_series_is_no_calm() -> None:
    series = RefreshSeries()
    busy = {n: {"expired": 100} for n in range(40)}
    series.take(busy | {60: {"expired": 100}}, now=60)
    assert [b.number for b in series.buckets(60)] == [60]
    assert [b.number for b in series.buckets(59)] == list(range(60)), "nobody knows yet"
    quiet = RefreshSeries()
    quiet.take({n: {"expired": 1} for n in range(40)} | {60: {"expired": 100}}, now=60)
    assert len(quiet.buckets(60)) == 61
    short = RefreshSeries()
    short.take(busy | {50: {"expired": 100}}, now=50)
    assert len(short.buckets(50)) == 51


def test_what_is_forgotten_is_no_measure_and_no_news_either() -> None:
    series = RefreshSeries()
    series.take({n: {"expired": 100} for n in range(40)}, now=39)
    series.forget(39)
    assert series.buckets(39) == ()
    assert series.take({39: {"expired": 101}, 40: {"expired": 7}}, now=40) == {"expired": 8}
    assert [b.total for b in series.buckets(40)] == [7]
    series.forget(10)
    assert [b.total for b in series.buckets(40)] == [7]
