"""What goes into a backup where Redis and the daemon's own file differ, and who signs it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.configuration import Configuration, load
from ringkeeper.errors import RedisUnavailable
from ringkeeper.ring import Ring
from ringkeeper.secret_files import create
from ringkeeper.state_file import StateFile
from ringkeeper.testimony import Testimony as Shown  # pytest takes a Test… for a test
from ringkeeper.trust import PinnedRoots, TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from ringkeeperd.backup import save, what_it_lacks
from ringkeeperd.backup_file import Backup, Saved, open_backup, sealed_backup
from ringkeeperd.backup_sources import Findings, gather, read_whole
from ringkeeperd.leader_store import RedisLeaderStore
from tests.plugins.rings import LedRing

AN_HOUR_AGO = SystemClock().now() - timedelta(hours=1)


@pytest.fixture
def host(led: LedRing, tmp_path: Path) -> Configuration:
    """A host at that ring's Redis, with its secrets."""
    return host_of(led, tmp_path, led.root, led.root.public)


def host_of(led: LedRing, folder: Path, root: TrustRoot, pinned: PinnedRoots) -> Configuration:
    create(folder / "root.jwk", root.secret_jwk())
    create(folder / "root.pub.jwk", pinned.as_jwk(), mode=0o644)
    create(folder / "kek.jwk", led.kek.secret_jwk())
    told = {
        "redis": {"url": led.server.url},
        "trust_root": "root.jwk",
        "trust_root_public": "root.pub.jwk",
        "kek": "kek.jwk",
        "state_dir": "state",
    }
    (folder / "config.yaml").write_text(json.dumps(told))
    return load(folder / "config.yaml", {})


def known(led: LedRing, ring: Ring, sealed: dict[str, str] | None = None) -> Shown:
    """That edition, signed by the ring's root, proved an hour ago."""
    snapshot = sign_snapshot(ring, led.root)
    proof = sign_proof(ring, snapshot, AN_HOUR_AGO, led.root)
    return Shown(snapshot, proof, led.sealed if sealed is None else sealed)


def gathered(host: Configuration, led: LedRing, kept: Shown) -> tuple[Saved, Findings]:
    """What is saved where Redis holds `led`'s ring, and `state_dir` that one."""
    found = Findings()

    async def work() -> list[Saved]:
        file = StateFile(host.state_dir, led.name, "state_dir")
        await file.write(kept)
        return await gather(host, host.rings, led.root.public, SystemClock(), found)

    (saved,) = asyncio.run(work())
    return saved, found


# --- which of the two ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 9])
def test_another_ring_of_that_name_in_state_dir_is_left_out(
    host: Configuration, led: LedRing, version: int
) -> None:
    """However new it is: the ring was made anew, and that file is of the one before."""
    other = replace(led.ring, id="another", version=version)
    lent = dict.fromkeys(led.sealed, "of the other ring")
    with led.server.client() as client:
        client.hdel(led.layout.sealed, led.signer.kid)
    saved, found = gathered(host, led, known(led, other, lent))
    assert saved.ring == led.ring
    assert saved.testimony.sealed == {k: b for k, b in led.sealed.items() if k != led.signer.kid}
    assert found.problems == []
    assert found.remarks == [
        "ring 'access-token': state_dir holds another ring of that name, which is left out"
    ]


@pytest.mark.parametrize("ahead", [1, 0, -1])
def test_of_two_editions_of_one_version_the_one_of_the_later_leader_is_saved(
    host: Configuration, led: LedRing, ahead: int
) -> None:
    """Two primaries: both leaders went on to the same version, each with an epoch of its own."""
    led.turn()
    kept = replace(led.ring, epoch=led.ring.epoch + ahead)
    saved, found = gathered(host, led, known(led, kept))
    assert saved.ring.epoch == max(kept.epoch, led.ring.epoch)
    assert len(found.remarks) == (ahead > 0)


def test_where_both_hold_the_same_edition_it_is_that_of_redis_which_is_proved_anew(
    host: Configuration, led: LedRing
) -> None:
    led.prove()
    saved, found = gathered(host, led, known(led, led.ring))
    assert saved.testimony.proof == led.proof
    assert saved.history.proved_at > AN_HOUR_AGO
    assert (found.remarks, found.problems) == ([], [])


# --- as Redis holds it ---------------------------------------------------------------------------


@pytest.fixture
def stores(led: LedRing) -> Callable[[], RedisLeaderStore]:
    def connect() -> RedisLeaderStore:
        return RedisLeaderStore.connect(led.server.url, led.name, SystemClock(), password=None)

    return connect


async def whole(store: RedisLeaderStore, led: LedRing) -> Saved:
    try:
        saved = await read_whole(store, led.name, led.root.public)
    finally:
        await store.close()
    assert saved
    return saved


def moving(store: RedisLeaderStore, led: LedRing, times: int) -> None:
    """The ring turns between the two reads of it, that often."""
    read, left = store.sealed, iter(range(times))

    async def sealed(kids: Any) -> dict[str, str]:
        for _ in left:
            led.turn()
            break
        return await read(kids)

    store.sealed = sealed  # type: ignore[method-assign]


async def test_a_ring_that_moves_on_while_it_is_read_is_read_again(
    led: LedRing, stores: Callable[[], RedisLeaderStore]
) -> None:
    """Else its next signer would be in the backup, or its private half, and not the other."""
    store = stores()
    moving(store, led, 2)
    saved = await whole(store, led)
    assert saved.ring == led.ring
    assert saved.testimony.sealed == led.sealed
    assert {key.kid for key in saved.ring.may_sign_next} <= saved.testimony.sealed.keys()


async def test_a_ring_that_never_rests_is_not_saved_by_halves(
    led: LedRing, stores: Callable[[], RedisLeaderStore]
) -> None:
    store = stores()
    moving(store, led, 9)
    with pytest.raises(RedisUnavailable, match="changes all the time; try again"):
        await whole(store, led)


@pytest.mark.parametrize("forged", ["by another root", "of another ring", "garbage"])
async def test_a_forged_proof_is_left_out_and_the_ring_saved(
    led: LedRing, stores: Callable[[], RedisLeaderStore], forged: str
) -> None:
    """A backup with it in it would be one that nobody can open."""
    now = SystemClock().now()
    proof = {
        "by another root": sign_proof(led.ring, led.snapshot, now, TrustRoot.generate()),
        "of another ring": sign_proof(replace(led.ring, id="x"), led.snapshot, now, led.root),
        "garbage": "a.b.c",
    }[forged]
    with led.server.client() as client:
        client.hset(led.layout.keyring, "proof", proof)
    saved = await whole(stores(), led)
    assert saved.ring == led.ring
    assert saved.testimony.proof == ""
    made_at = datetime(2026, 1, 1, tzinfo=UTC)
    text = sealed_backup([saved], led.root, at=made_at, by="alice", release="1")
    assert [each.ring for each in open_backup(text, led.root.public).rings] == [led.ring]


# --- who signs it --------------------------------------------------------------------------------


def made(host: Configuration, folder: Path) -> Backup:
    path, backup, found = save(host, host.rings, str(folder / "b.json"))
    assert (found.problems, found.remarks) == ([], [])
    assert path == str(folder / "b.json")
    return backup


def test_while_the_root_is_changed_the_one_that_the_rings_are_under_signs(
    led: LedRing, tmp_path: Path
) -> None:
    """A host that has not got the coming root yet can restore it all the same."""
    coming = TrustRoot.generate()
    both = coming.joined(led.root)
    backup = made(host_of(led, tmp_path, both, both.public), tmp_path)
    assert backup.root == led.root.kid
    assert backup.roots == (led.root.kid,)
    opened = open_backup((tmp_path / "b.json").read_text(), led.root.public)
    assert [each.ring for each in opened.rings] == [led.ring]


def test_where_the_rings_root_is_not_on_this_host_one_that_is_pinned_signs_and_both_are_named(
    led: LedRing, tmp_path: Path
) -> None:
    """Whoever is to restore it has to have pinned the one and the other."""
    here, unpinned = TrustRoot.generate(), TrustRoot.generate()
    pinned = led.root.public.joined(here.public)
    backup = made(host_of(led, tmp_path, unpinned.joined(here), pinned), tmp_path)
    assert backup.root == here.kid
    assert backup.roots == tuple(sorted((here.kid, led.root.kid)))
    told = what_it_lacks(backup)
    assert here.kid in told
    assert led.root.kid in told
