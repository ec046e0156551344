"""While a key is drained its tokens are refused, each user's in turn, by everyone the same ones."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.draining import drained_fraction, is_drained, share_drained
from ringkeeper.errors import InvalidSignature, RefreshReason, RevokedKid
from ringkeeper.replica import Held
from ringkeeper.ring import Key
from ringkeeper.tokens import kid_in, sign, verify
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import open_snapshot, sign_snapshot
from ringkeeperd.operations import call_off_drain, revoke
from tests.client.real_keys import holding, real_ring
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, nobody
from tests.plugins.daemons import eventually
from tests.plugins.rings import LedRing

WINDOW = HOUR / 4
RING = real_ring()
BEFORE = holding(RING)
KID = kid_in(sign(BEFORE, {}, NOW))
DRAINED = revoke(RING, KID, reason="to be sure", now=NOW, epoch=1, drain=WINDOW, confirmed=nobody())
AFTER = holding(DRAINED)
TOKENS = {f"user-{n}": sign(BEFORE, {"sub": f"user-{n}"}, NOW) for n in range(300)}


def drained_key() -> Key:
    key = DRAINED.key(KID)
    assert key
    return key


def is_refused(held: Held, token: str, now: datetime) -> bool:
    try:
        verify(held, token, now)
    except RevokedKid:
        return True
    return False


def refused(now: datetime) -> set[str]:
    return {user for user, token in TOKENS.items() if is_refused(AFTER, token, now)}


def test_nobody_is_refused_at_first_and_everybody_at_the_end() -> None:
    assert refused(NOW - MINUTE) == refused(NOW) == set()
    assert refused(NOW + WINDOW - MINUTE) < refused(NOW + WINDOW) == set(TOKENS)
    assert refused(NOW + WINDOW + MINUTE) == set(TOKENS)


def test_who_is_refused_is_told_why_as_if_the_key_had_been_revoked() -> None:
    with pytest.raises(RevokedKid, match="turn has come; refresh the token") as refusal:
        verify(AFTER, TOKENS["user-1"], NOW + WINDOW)
    assert refusal.value.reason is RefreshReason.REVOKED_KID


def test_who_is_refused_stays_so_and_they_are_the_share_whose_turn_it_is() -> None:
    """The key's tokens live for an hour at most: f(t) = (H - W) t / (W (H - t))."""
    before: set[str] = set()
    for share in (0.1, 0.5, 0.9):
        now = NOW + share * WINDOW
        fraction = 0.75 * share / (1 - share / 4)
        assert share_drained(drained_key(), now) == pytest.approx(fraction)
        assert (
            share_drained(replace(drained_key(), drained_from=None, drained_until=None), now) == 0
        )
        assert drained_fraction(share * WINDOW, WINDOW, HOUR) == pytest.approx(fraction)
        those = refused(now)
        assert those == {user for user in TOKENS if is_drained(KID, user, fraction)}
        assert len(those) == pytest.approx(fraction * len(TOKENS), abs=30)
        assert before < those
        before = those


def test_the_last_token_is_one_from_before_the_key_was_retired() -> None:
    """Retired half an hour ago, it has half an hour left, and not a whole one."""
    early = replace(drained_key(), retired_at=NOW - HOUR / 2)
    fraction = drained_fraction(WINDOW / 2, WINDOW, HOUR / 2)
    assert share_drained(early, NOW + WINDOW / 2) == pytest.approx(fraction)


def test_once_the_window_is_over_all_are_refused_whatever_it_was_like() -> None:
    """A drain that takes longer than the tokens live is not asked for: if it were, it would end."""
    long = replace(drained_key(), drained_until=NOW + 2 * HOUR)
    assert share_drained(long, NOW + 2 * HOUR - SECOND) == 0.0
    assert share_drained(long, NOW + 2 * HOUR) == 1.0


def test_tokens_of_other_keys_are_good() -> None:
    for held, now in ((BEFORE, NOW + WINDOW), (AFTER, NOW + WINDOW)):
        assert verify(held, sign(held, {"sub": "user-1"}, NOW), now)


@pytest.mark.parametrize("claims", [{}, {"sub": 7}, {"sub": None}, {"sub": ""}])
def test_a_token_that_names_nobody_has_a_place_by_its_payload(claims: dict[str, Any]) -> None:
    tokens = [sign(BEFORE, {**claims, "jti": str(n)}, NOW) for n in range(60)]
    half = NOW + WINDOW / 2
    those = [token for token in tokens if is_refused(AFTER, token, half)]
    share = share_drained(drained_key(), half)
    assert those == [t for t in tokens if is_drained(KID, t.split(".")[1], share)]
    assert 0 < len(those) < 60
    assert all(is_refused(AFTER, token, NOW + WINDOW) for token in tokens)


def test_that_a_drain_was_called_off_is_in_the_signed_ring() -> None:
    off, root = call_off_drain(DRAINED, KID, now=NOW + MINUTE, epoch=1), TrustRoot.generate()
    assert open_snapshot(sign_snapshot(off, root), root.public) == off


def test_what_a_drained_key_never_signed_is_forged_and_nothing_else() -> None:
    header, _, signature = TOKENS["user-1"].split(".")
    forged = ".".join((header, TOKENS["user-2"].split(".")[1], signature))
    with pytest.raises(InvalidSignature):
        verify(AFTER, forged, NOW + WINDOW)


# --- every instance --------------------------------------------------------------------------------


class At(SystemClock):
    """A clock that stands still."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def timestamp(self) -> float:
        return self.now().timestamp()


async def test_every_instance_refuses_the_same_ones(
    led: LedRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads or asyncio: they ask nobody, and hash the same."""
    to: dict[str, Any] = {"trust_root": led.root.public, "kek": led.kek}
    one, two = [await asyncio.to_thread(Keyring.connect, led.server.url, **to) for _ in range(2)]
    three = await ringkeeper.asyncio.Keyring.connect(led.server.url, **to)
    tokens = {n: one.sign({"sub": f"user-{n}"}) for n in range(60)}
    kid, began = led.signer.kid, SystemClock().now()
    drained = await asyncio.to_thread(led.revoke, kid, drain=WINDOW)
    await asyncio.to_thread(
        eventually, lambda: {one.version, two.version, three.version} == {drained.version}
    )
    for share in (0.0, 0.3, 0.6, 1.01):
        for ring in (one, two, three):
            monkeypatch.setattr(ring, "_clock", At(began + share * WINDOW))
        waited = set()
        for n, token in tokens.items():
            try:
                await three.verify(token)
            except RevokedKid:
                waited.add(n)
        assert waited == refused_by(one, tokens) == refused_by(two, tokens)
        assert {0.0: not waited, 1.01: waited == set(tokens)}.get(share, 0 < len(waited) < 60)
    off = await asyncio.to_thread(led.call_off_drain, kid)
    await asyncio.to_thread(
        eventually, lambda: {one.version, two.version, three.version} == {off.version}
    )
    assert not refused_by(one, tokens), "called off: every one counts again"
    assert not refused_by(two, tokens)
    await three.close()
    for ring in (one, two):
        await asyncio.to_thread(ring.close)


def refused_by(ring: Keyring, tokens: Mapping[int, str]) -> set[int]:
    those = set()
    for n, token in tokens.items():
        try:
            ring.verify(token)
        except RevokedKid:
            those.add(n)
    return those
