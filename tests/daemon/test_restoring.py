"""What `ringkeeper restore` waits for, and what it says, whatever a leader does with a backup."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.configuration import Configuration, RingConfiguration
from ringkeeper.ring import Ring
from ringkeeper.testimony import Testimony as Shown  # pytest takes a Test… for a test
from ringkeeper.testimony import open_testimony
from ringkeeper.wire import sign_event, sign_snapshot
from ringkeeperd.audit import RING_HEALED, event
from ringkeeperd.backup_file import Saved, sealed_backup
from ringkeeperd.backup_sources import AT_ONCE, Findings
from ringkeeperd.restore import Became, Outcome, restore
from tests.daemon.test_backup_sources import host_of
from tests.plugins.candidates import until
from tests.plugins.rings import LedRing

ENOUGH = timedelta(seconds=20)
BRIEFLY = timedelta(milliseconds=400)
HERE = "access-token"


@pytest.fixture
def host(led: LedRing, tmp_path: Path) -> Configuration:
    """A host at that ring's Redis, with its secrets."""
    return host_of(led, tmp_path, led.root, led.root.public)


@dataclass
class Said:
    """What a restore said."""

    outcomes: list[Outcome] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def only(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome

    def became(self, what: Became) -> list[str]:
        return [each.name for each in self.outcomes if each.became is what]


def restored(
    host: Configuration, file: Path, wait: timedelta = BRIEFLY, names: tuple[str, ...] = (HERE,)
) -> Said:
    """What comes of `restore`; it takes no longer than nobody's answer takes."""
    said = Said()

    def begin(_: object, found: Findings) -> None:
        said.remarks += found.remarks

    rings = [RingConfiguration(name, host.rings[0].policy) for name in names]
    restore(
        host,
        rings,
        str(file),
        wait=wait,
        is_dry=False,
        takes_back=False,
        begin=begin,
        tell=said.outcomes.append,
    )
    return said


def backup_of(led: LedRing, folder: Path, *rings: Ring) -> Path:
    """A backup of what `led` knows, or of such editions of it."""
    saved = []
    for ring in rings or (led.ring,):
        shown = Shown(sign_snapshot(ring, led.root), "", led.sealed)
        saved.append(Saved(open_testimony(shown, ring.name, led.root.public), shown))
    at = SystemClock().now()
    path = folder / "b.json"
    path.write_text(sealed_backup(saved, led.root, at=at, by="alice@host", release="1"))
    return path


def witness(led: LedRing) -> str:
    with led.server.client() as client:
        return str(client.get(led.layout.witness) or "")


@asynccontextmanager
async def restoring(host: Configuration, file: Path) -> AsyncIterator[asyncio.Future[Said]]:
    """A restore that goes on meanwhile, for as long as it takes."""
    yield (going := asyncio.ensure_future(asyncio.to_thread(restored, host, file, ENOUGH)))
    await going


async def shown(led: LedRing, going: asyncio.Future[Said]) -> None:
    """It is where a leader looks."""
    await until(lambda: witness(led) or going.done())
    assert not going.done(), going.result()


# --- who is waited for ---------------------------------------------------------------------------


def test_where_the_signers_halves_are_lost_nobody_leads_and_no_leader_is_waited_for(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    """For want of them nobody can: the backup is what makes it possible again."""
    file = backup_of(led, tmp_path)
    with led.server.client() as client:
        client.hdel(led.layout.sealed, led.signer.kid)
    outcome = restored(host, file).only
    assert outcome.became is Became.SILENT
    assert "no leader took it up within 0.4 s" in outcome.words
    assert led.signer.kid in witness(led)


def test_where_only_a_former_keys_half_is_lost_somebody_has_to_lead(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    former = led.signer.kid
    led.turn()
    file = backup_of(led, tmp_path)
    with led.server.client() as client:
        client.hdel(led.layout.sealed, former)
    outcome = restored(host, file).only
    assert outcome.became is Became.SILENT
    assert "nobody leads it, and nothing is changed" in outcome.words
    assert witness(led) == ""


async def test_it_is_shown_again_and_again_until_it_was_taken_up(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    """A leader lets each witness go that it has heard; one may have died with what it heard."""
    file = backup_of(led, tmp_path)
    with led.server.client() as client:
        client.delete(led.layout.keyring, led.layout.sealed)
        async with restoring(host, file) as going:
            for _ in range(3):
                await shown(led, going)
                client.delete(led.layout.witness)
            await shown(led, going)
            led.put_back()
            said = await going
    assert said.only.became is Became.HEALED


async def test_another_witness_in_its_place_is_joined_and_not_waited_for(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    """There is room for one, and an app may have spoken first."""
    file = backup_of(led, tmp_path)
    with led.server.client() as client:
        client.delete(led.layout.keyring, led.layout.sealed)
        async with restoring(host, file) as going:
            await shown(led, going)
            client.set(led.layout.witness, Shown(led.snapshot, led.proof, {}).encode())
            await until(lambda: led.signer.kid in Shown.decode(witness(led)).sealed)
            led.put_back()
            await going


def many(led: LedRing, count: int) -> dict[str, Ring]:
    names = [f"ring-{number}" for number in range(count)]
    return {name: replace(led.ring, id=f"id of {name}", name=name) for name in names}


def test_a_hundred_rings_of_which_nobody_answers_are_not_waited_for_one_by_one(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    rings = many(led, 100)
    file = backup_of(led, tmp_path, *rings.values())
    said = restored(host, file, names=tuple(rings))
    silent, untried = said.became(Became.SILENT), said.became(Became.UNTRIED)
    assert sorted(silent + untried) == sorted(rings)
    # As many are waited for at once; the last of them may begin when all but one have ended.
    assert AT_ONCE <= len(silent) < 2 * AT_ONCE
    words = {each.words for each in said.outcomes if each.became is Became.UNTRIED}
    assert words == {"not tried: nobody answered for the others"}


def test_where_one_of_them_was_answered_all_are_tried(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    """Somebody is there, and may lead the others in a moment."""
    rings = many(led, 80)
    file = backup_of(led, tmp_path, led.ring, *rings.values())
    said = restored(host, file, names=(HERE, *rings))
    assert said.became(Became.NOTHING) == [HERE]
    assert sorted(said.became(Became.SILENT)) == sorted(rings)


# --- what it says --------------------------------------------------------------------------------


async def test_an_older_healing_is_not_taken_for_the_answer(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    """Private halves may come back without one: the audit's last is of another day then."""
    healed_before = event(led.ring, SystemClock().now(), RING_HEALED, {"found": "nothing"})
    led.turn()
    file = backup_of(led, tmp_path)
    with led.server.client() as client:
        client.xadd(led.layout.events, {"event": sign_event(healed_before, led.root)})
        client.hdel(led.layout.sealed, led.signer.kid)
        async with restoring(host, file) as going:
            await shown(led, going)
            led.put_back()
            said = await going
    assert said.only.became is Became.HEALED
    assert said.only.words.startswith("healed, version 2;")


async def test_the_answer_is_the_healing_that_followed_whatever_came_after_it(
    led: LedRing, host: Configuration, tmp_path: Path
) -> None:
    file = backup_of(led, tmp_path, replace(led.ring, version=5))
    healed = replace(led.ring, version=6)
    with led.server.client() as client:
        client.delete(led.layout.keyring, led.layout.sealed)
        async with restoring(host, file) as going:
            await shown(led, going)
            told = event(healed, SystemClock().now(), RING_HEALED, {"found": "redis held no ring"})
            client.xadd(led.layout.events, {"event": sign_event(told, led.root)})
            led.ring = replace(led.ring, version=7)
            led.snapshot = sign_snapshot(led.ring, led.root)
            led.put_back()
            said = await going
    assert said.only.words.startswith("healed, version 6;")


def test_it_remarks_that_no_kek_is_here(led: LedRing, host: Configuration, tmp_path: Path) -> None:
    """It is shown all the same: who leads has one. But nobody tried here what is in it."""
    file = backup_of(led, tmp_path)
    assert restored(host, file).remarks == []
    (tmp_path / "kek.jwk").unlink()
    said = restored(host, file)
    assert said.remarks == ["the KEK is not on this host: nobody tried to open the private keys"]
    assert said.only.became is Became.NOTHING
