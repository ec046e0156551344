"""What a leader does with a request where files, keys or other rings' work stand in its way."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from ringkeeper.algorithms import PrivateKey
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.wire import Command
from ringkeeperd import fulfilment
from ringkeeperd.minting import mint_aside
from tests.plugins.candidates import Candidate, request, told_in_audit, until
from tests.plugins.rings import LedRing

CONFIRMATION = "confirmation_timeout"


def held(candidate: Candidate) -> Ring:
    return candidate.follower.replica.loaded().ring


async def led_here(led: LedRing, candidates: Any) -> Candidate:
    """One that leads, and has heard of whoever there is."""
    candidate: Candidate = candidates("a")
    await until(lambda: candidate.told.named("leading"))
    await until(lambda: candidate.told.named("waiting"))  # nothing is left to be done
    return candidate


async def answer(led: LedRing, candidate: Candidate, command: Command, **changes: Any) -> Any:
    """The event that answers a request; as an operator does, one asks again if the ring moved."""
    while True:
        asked = f"asked-{len(told_in_audit(led))}"
        made = {"id": asked, "version": held(candidate).version, **changes}
        await candidate.store.ask(request(led, command, **made))

        def answered(asked: str = asked) -> list[Any]:
            return [e for e in told_in_audit(led) if e.fields.get("request") == asked]

        await until(answered)
        told = answered()[0]
        # Redis has it before the leader knows that it has.
        await until(lambda told=told: held(candidate).version >= told.version)
        if "look again" not in str(told.fields.get("why")):
            return told


async def set_to(led: LedRing, candidate: Candidate, setting: str, value: str | None) -> Any:
    given = {"setting": setting} | ({} if value is None else {"value": value})
    return await answer(led, candidate, Command.SET, given=given)


async def test_of_two_settings_that_contradict_the_files_each_can_be_taken_away(
    led: LedRing, candidates: Any
) -> None:
    """A file is edited later, and one of them alone would be refused."""
    candidate = await led_here(led, candidates)
    await set_to(led, candidate, "publication_interval", "4h")
    await set_to(led, candidate, CONFIRMATION, "3h")
    was = held(candidate).policy
    short = timedelta(hours=2)
    candidate.leader.change_policy(Policy.derive(cryptoperiod=short), {"cryptoperiod": short})
    await until(lambda: candidate.told.named("contradicted"))
    assert held(candidate).policy == was, "the ring goes on as it is"
    (told,) = candidate.told.named("contradicted")
    assert "contradict this daemon's files" in told
    assert "publication_interval: 4h is longer than the 2h" in told
    for setting in ("publication_interval", CONFIRMATION):
        taken = await set_to(led, candidate, setting, None)
        assert taken.event != "request refused", taken.fields
    assert held(candidate).overrides == ()
    await until(lambda: held(candidate).policy.cryptoperiod == short)
    assert len(candidate.told.named("contradicted")) <= 2, "once, or once more when it changed"


async def test_a_setting_that_leases_are_too_long_for_is_refused(
    led: LedRing, candidates: Any
) -> None:
    candidate = await led_here(led, candidates)
    candidate.leader.ttl = timedelta(minutes=9)
    told = await set_to(led, candidate, "max_staleness", "3m")
    assert told.event == "request refused"
    assert "lease_ttl: 9m is longer than" in str(told.fields["why"])
    assert held(candidate).overrides == ()


async def test_a_lease_too_long_for_the_rings_own_settings_is_told(
    led: LedRing, candidates: Any
) -> None:
    """The daemon's file was edited since: it may lead the ring, but not under what the ring says."""
    candidate = await led_here(led, candidates)
    await set_to(led, candidate, "max_staleness", "3m")
    was = held(candidate).policy
    candidate.leader.ttl = timedelta(minutes=9)
    candidate.leader.wake.set()
    await until(lambda: candidate.told.named("contradicted"))
    assert "lease_ttl: 9m is longer than" in candidate.told.named("contradicted")[0]
    assert held(candidate).policy == was


def forget(candidate: Candidate) -> None:
    """Who was live when it looked last."""
    candidate.told.instances = ()


async def test_who_is_asked_to_come_oftener_counts_as_live_until_it_can_know(
    led: LedRing, candidates: Any
) -> None:
    """A shorter poll interval must not make those forgotten at once who have yet to hear of it."""
    candidate = await led_here(led, candidates)
    await set_to(led, candidate, "poll_interval", "20s")
    with led.server.client() as client:
        client.hset(led.layout.instances, "slow", "{}")
        client.zadd(led.layout.seen, {"slow": client.time()[0] * 1000 - 5000})
    await set_to(led, candidate, "poll_interval", "1s")
    assert held(candidate).policy.liveness_window == timedelta(seconds=3)
    forget(candidate)
    candidate.leader.wake.set()
    await until(lambda: "slow" in [i.id for i in candidate.told.instances])


async def test_a_key_of_which_no_private_half_is_left_does_not_come_back(
    led: LedRing, candidates: Any
) -> None:
    former = led.signer.kid
    led.turn()
    candidate = await led_here(led, candidates)
    with led.server.client() as client:
        client.hdel(led.layout.sealed, former)
    told = await answer(led, candidate, Command.ROLLBACK)
    assert told.event == "request refused"
    assert "nothing was changed" in str(told.fields["why"])
    key = held(candidate).key(former)
    assert key and key.state is KeyState.RETIRED


async def test_an_emergency_does_not_wait_for_key_pairs_that_others_want(
    led: LedRing, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fulfilment, "_MINTED_WITHIN", 0.1)
    candidate = await led_here(led, candidates)
    kid, standby = led.signer.kid, held(candidate).standby
    gate = asyncio.Event()

    async def busy(*wanted: Any) -> Any:
        await gate.wait()
        return await mint_aside(*wanted)

    candidate.leader.mint = busy
    told = await answer(led, candidate, Command.REVOKE, kid=kid)
    assert told.event != "request refused"
    ring = held(candidate)
    gone = ring.key(kid)
    assert gone and gone.state is KeyState.REVOKED
    assert standby and ring.signer and ring.signer.kid == standby.kid
    assert ring.standby is None
    gate.set()
    await until(lambda: held(candidate).standby)


async def test_the_trust_root_is_taken_for_no_key(led: LedRing, candidates: Any) -> None:
    """Whatever a command asks for that does not look, as one of an earlier release."""
    candidate = await led_here(led, candidates)
    root = led.root.public_jwk()
    public = json.dumps({name: root[name] for name in ("kty", "crv", "x")})
    given = {"kind": "foreign", "algorithm": "EdDSA", "jwk": public}
    told = await answer(led, candidate, Command.IMPORT, kid="a-key", given=given)
    assert told.event == "request refused"
    assert "is the trust root, which signs the ring itself" in told.fields["why"]


@pytest.mark.parametrize("flaw", ["", "of another key", "by another KEK", "in clear"])
async def test_a_private_half_that_is_brought_along_is_opened_before_it_is_believed(
    led: LedRing, candidates: Any, flaw: str
) -> None:
    candidate = await led_here(led, candidates)
    private, other = PrivateKey.generate("EdDSA"), PrivateKey.generate("EdDSA")
    kek = Kek.generate() if flaw == "by another KEK" else led.kek
    sealed = kek.seal(other if flaw == "of another key" else private)
    if flaw == "in clear":
        sealed = json.dumps(private.secret_jwk())
    public = json.dumps(dict(private.public_jwk))
    given = {"kind": "static", "algorithm": "EdDSA", "jwk": public, "sealed": sealed}
    told = await answer(led, candidate, Command.IMPORT, kid="s-brought", given=given)
    assert (told.event == "request refused") is bool(flaw), told.fields
    assert (held(candidate).key("s-brought") is None) is bool(flaw)
    with led.server.client() as client:
        assert client.hexists(led.layout.sealed, "s-brought") is not bool(flaw)
