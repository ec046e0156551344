"""What a leader knows of tokens, on a real server; and what it says of a revocation before it."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper.clock import SystemClock, from_ms
from ringkeeper.errors import RedisUnavailable
from ringkeeper.refreshes import MOST
from ringkeeper.signed import Signed, SignedCounts
from ringkeeper.wire import Command, Request, sign_request
from ringkeeperd import forecasting, leader_store, refresh_watch
from ringkeeperd.audit import KEY_REVOKED
from ringkeeperd.forecast import Outstanding
from ringkeeperd.forecasting import forecast_fields, longest_life, verifying
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.operations import revocation_wants, revoke
from ringkeeperd.spike_events import bucket_at
from ringkeeperd.term import Term
from tests.daemon.test_refresh_watch import USUALLY, an_hour, count, views
from tests.plugins.candidates import Candidate, told_in_audit, until
from tests.plugins.rings import LedRing

DAY = timedelta(days=1)
PAST = from_ms(0)


@pytest.fixture(autouse=True)
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, and is settled at once."""
    monkeypatch.setattr(refresh_watch, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(refresh_watch, "_IDLE_EVERY", 0.02)
    monkeypatch.setattr(refresh_watch, "_SETTLING", 0.1)
    monkeypatch.setattr(refresh_watch, "_WHOLE_EVERY", 0.2)


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> list[Term]:
    """Every term that begins."""
    begun: list[Term] = []
    serve = Term.serve

    async def served(self: Term) -> None:
        begun.append(self)
        await serve(self)

    monkeypatch.setattr(Term, "serve", served)
    return begun


async def leading(candidates: Any, terms: list[Term]) -> tuple[Candidate, Term]:
    one = candidates("a")
    await until(lambda: one.told.named("waiting"))
    return one, terms[-1]


async def sign(one: Candidate, *tokens: tuple[str, float, int]) -> None:
    """Let so many tokens of these kids be signed, that live for so many seconds."""
    signed = SignedCounts()
    for kid, lifetime, many in tokens:
        for _ in range(many):
            signed.record(kid, lifetime, 1000.0)
    signed.gather(1000.0)
    await one.store.count_signed(signed.hand_over(1000.0, await one.store.seconds()))


# --- reading -------------------------------------------------------------------------------------


async def test_tokens_of_every_lifetime_are_found_until_they_expire(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = candidates("a")
    chance = random.Random(1)
    lives = [60, 299, 301, 3600, 86_400, 30 * 86_400]
    lives += [round(30 * 86_400 ** chance.random()) + 30 for _ in range(50)]
    await sign(one, *((f"d-{n % 3}", life, n + 1) for n, life in enumerate(lives)))
    found = await one.store.outstanding(["d-0", "d-1", "d-2", "d-9"], 30 * DAY)
    assert found.total(found.at) == sum(range(1, len(lives) + 1))
    assert found.tokens("d-1", found.at) == sum(range(2, len(lives) + 1, 3))
    assert found.tokens("d-9", found.at) == 0
    monkeypatch.setattr(leader_store, "_FIELDS_AT_ONCE", 1)
    assert (await one.store.outstanding(list(found.counted), 30 * DAY)).counted == found.counted
    left = sum(n + 1 for n, life in enumerate(lives) if life > 7200)
    assert found.total(found.at + timedelta(hours=2)) == left


async def test_what_has_expired_is_not_read(led: LedRing, candidates: Any) -> None:
    one = candidates("a")
    now = await one.store.seconds()
    first = now // 3600 * 3600
    long_gone = [Signed(60, first + n, "d-0", 5) for n in range(0, now - first, 60)]
    await one.store.count_signed([*long_gone, Signed(60, first + 3600, "d-0", 2)])
    found = await one.store.outstanding(["d-0"], timedelta(hours=1))
    assert found.tokens("d-0", PAST) == 2


async def test_what_anyone_wrote_in_place_of_counts_is_none(led: LedRing, candidates: Any) -> None:
    one = candidates("a")
    expires = (await one.store.seconds() // 60 + 3) * 60
    key = led.layout.signed(60, expires)
    garbage = ["-5", "1e3", "x", "", "9" * 11, "1_0", "٣", " 7"]
    with led.server.client() as client:
        client.hset(key, mapping={f"{expires}:d-{n}": text for n, text in enumerate(garbage)})
        client.hset(key, f"{expires}:d-good", "12")
        client.hset(key, f"{expires + 1}:d-good", "12")
        client.hset(key, f"{expires}:d-many", "4294967296")
        client.set(led.layout.signed(60, expires + 3600), "no hash")
    kids = [*(f"d-{n}" for n in range(len(garbage))), "d-good", "d-many"]
    found = await one.store.outstanding(kids, timedelta(hours=2))
    assert {kid: found.tokens(kid, PAST) for kid in kids if found.tokens(kid, PAST)} == {
        "d-good": 12,
        "d-many": MOST,
    }


# --- telling -------------------------------------------------------------------------------------


async def test_a_revocation_says_what_follows_by_what_apps_counted(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    one, term = await leading(candidates, terms)
    kid = led.signer.kid
    assert await forecast_fields(term, kid) == {}, "nobody counts"
    await sign(one, (kid, 3600, 900), (led.standby.kid, 1800, 300))
    told = await forecast_fields(term, kid)
    assert told == {"tokens_outstanding": 900, "forecast_refreshes": 900}, "no peak without a rate"
    await one.store.confirm("app", '{"role":"sign","epoch":1,"version":1,"verifies":30.5}')
    await one.store.confirm("odd", '{"role":"sign","epoch":1,"version":1,"verifies":1e99}')
    told = await forecast_fields(term, kid)
    # 1200 tokens, 1200 / 3600 a second expire: 30 a second are good, one in 40 seconds each.
    assert told["tokens_outstanding"] == 900
    assert 880 <= int(told["forecast_refreshes"]) <= 900
    assert told["forecast_peak_rate"] == pytest.approx(900 * 0.2 / 10, rel=0.15)
    assert await forecast_fields(term, "d-unknown") == {}


async def test_a_drain_says_what_follows_it(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    one, term = await leading(candidates, terms)
    await sign(one, *((led.signer.kid, life, 10) for life in range(36, 3600, 36)))
    told = await forecast_fields(term, led.signer.kid, drain=timedelta(minutes=15))
    # 1,000 tokens that expire within an hour go within a quarter of it: 1000 / 900 a second.
    assert told["tokens_outstanding"] == 990
    assert told["forecast_refreshes"] == pytest.approx(1000 * 3 * 0.287682, rel=0.05)
    assert told["forecast_peak_rate"] == pytest.approx(1000 / 900, abs=0.3)


async def test_the_leader_tells_what_it_expects_of_what_it_is_asked_for(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    one, _ = await leading(candidates, terms)
    await sign(one, (led.signer.kid, 3600, 70), (led.standby.kid, 3600, 30))
    request = Request(
        id="r",
        ring_id=led.ring.id,
        name=led.name,
        version=led.ring.version,
        command=Command.REVOKE,
        kid=led.signer.kid,
        reason="",
        by="alice",
        at=SystemClock().now(),
        until=SystemClock().now() + timedelta(seconds=10),
    )
    await one.store.ask(sign_request(request, led.root))
    await until(lambda: [e for e in told_in_audit(led) if e.event == KEY_REVOKED])
    (told,) = [e for e in told_in_audit(led) if e.event == KEY_REVOKED]
    assert (told.fields["tokens_outstanding"], told.fields["forecast_refreshes"]) == (70, 70)


async def test_a_forecast_is_beside_what_was_measured_and_so_for_who_leads_next(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    one, term = await leading(candidates, terms)
    kid = led.signer.kid
    await count(one, an_hour())
    await sign(one, (kid, 3600, 900))
    await one.store.confirm("app", '{"role":"sign","epoch":1,"version":1,"verifies":400}')
    await until(lambda: len(views(one)) > 20 and views(one)[-1].baseline)
    told = await forecast_fields(term, kid)
    assert told["forecast_peak_rate"] == pytest.approx(900 / 10 + USUALLY / 10, rel=0.15)
    await revoked(term, kid, told)
    await count(one, {bucket_at(SystemClock().now()): {"revoked_kid": 850}})
    await until(lambda: one.told.named("spiked"))
    forecast = {k: v for k, v in told.items() if k.startswith("forecast")}
    (began,) = one.told.named("spiked")
    assert began.fields["cause"] == "revocation"
    assert forecast.items() <= began.fields.items()
    assert began.fields["peak_rate"] == pytest.approx(told["forecast_peak_rate"], rel=0.2)
    await one.close()
    two = candidates("b")
    await until(lambda: any(view.is_spike for view in views(two)))
    spike = views(two)[-1].spike
    assert spike is not None
    assert spike.foretold == (told["forecast_refreshes"], told["forecast_peak_rate"])


async def test_who_takes_over_between_a_revocation_and_its_spike_knows_the_forecast(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    one, term = await leading(candidates, terms)
    await count(one, an_hour())
    await revoked(term, led.signer.kid, {"forecast_refreshes": 777})
    await one.close()
    two = candidates("b")
    await until(lambda: len(views(two)) > 20)
    await count(two, {bucket_at(SystemClock().now()): {"revoked_kid": 850}})
    await until(lambda: two.told.named("spiked"))
    (began,) = two.told.named("spiked")
    assert began.fields["forecast_refreshes"] == 777
    assert "forecast_peak_rate" not in began.fields
    assert [e.fields for e in told_in_audit(led) if "forecast_refreshes" in e.fields]


async def revoked(term: Term, kid: str, told: Any) -> None:
    """Revoke `kid` as a request does, with what is told of it."""
    now = term.now()
    wanted = revocation_wants(term.ring, kid, now)
    minted = await term.mint(wanted) if wanted else None
    after = revoke(
        term.ring, kid, reason="", now=now, epoch=term.epoch, fresh=minted.fresh if minted else None
    )
    assert await term.commit(after, minted.put if minted else {}, told, term.clock.monotonic())


# --- an emergency waits for nothing --------------------------------------------------------------


@pytest.mark.parametrize("error", [RedisUnavailable("away"), ZeroDivisionError()])
async def test_no_trouble_holds_a_revocation_up(
    led: LedRing,
    candidates: Any,
    terms: list[Term],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    one, term = await leading(candidates, terms)
    await sign(one, (led.signer.kid, 3600, 900))

    async def fails(*_: object) -> Outstanding:
        raise error

    monkeypatch.setattr(RedisLeaderStore, "outstanding", fails)
    assert await forecast_fields(term, led.signer.kid) == {}
    assert one.told.named("unwatched") == ([error] if isinstance(error, ZeroDivisionError) else [])


async def test_a_slow_redis_does_not_either(
    led: LedRing, candidates: Any, terms: list[Term], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, term = await leading(candidates, terms)

    async def hangs(*_: object) -> Outstanding:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(RedisLeaderStore, "outstanding", hangs)
    async with asyncio.timeout(2):
        assert await forecast_fields(term, led.signer.kid) == {}
    assert forecasting._WITHIN <= 0.2


async def test_where_nobody_counts_there_is_no_forecast(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    one, term = await leading(candidates, terms)
    one.leader.counts = None
    assert await forecast_fields(term, led.signer.kid) == {}


async def test_an_apps_tokens_are_there_when_it_closes(
    led: LedRing, candidates: Any, terms: list[Term]
) -> None:
    """All of it: an app signs, and its leader knows how many tokens a revocation takes."""
    _, term = await leading(candidates, terms)
    ring = await ringkeeper.asyncio.Keyring.connect(
        led.server.url, trust_root=led.root.public, kek=led.kek
    )
    for _ in range(20):
        await ring.sign({}, lifetime=timedelta(minutes=10))
    await ring.close()
    assert (await forecast_fields(term, led.signer.kid))["tokens_outstanding"] == 20
    assert led.signer.kid in verifying(term.ring)
    assert longest_life(term.ring) == timedelta(hours=1)
