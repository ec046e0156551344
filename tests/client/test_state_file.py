"""The file that keeps a ring: replaced whole, and never at the cost of another's memory."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ringkeeper.errors import MalformedDocument, StateUnusable
from ringkeeper.state_file import StateFile
from ringkeeper.testimony import MAX_TESTIMONY
from ringkeeper.testimony import Testimony as Shown
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_snapshot
from tests.core.builders import new_ring, policy

ROOT = TrustRoot.generate()
RING = new_ring(policy())


def shown(root: TrustRoot = ROOT, ring_id: str = RING.id) -> Shown:
    return Shown(sign_snapshot(replace(RING, id=ring_id), root), "", {})


def kept_in(folder: Path, root: TrustRoot = ROOT) -> StateFile:
    return StateFile(folder, RING.name, "state_dir", root.public)


async def test_what_was_set_aside_before_stays_there(tmp_path: Path) -> None:
    file, places = kept_in(tmp_path), []
    for number in range(3):
        file.path.write_text(f"odd {number}")
        with pytest.raises(MalformedDocument):
            await file.read()
        places.append(Path(await file.set_aside()))
    assert [place.read_text() for place in places] == ["odd 0", "odd 1", "odd 2"]
    assert not file.path.exists()


async def test_a_ring_of_another_root_is_named_and_left_alone(tmp_path: Path) -> None:
    """Staging and production on one host, both without a state_dir of their own."""
    other = TrustRoot.generate()
    await kept_in(tmp_path, other).write(shown(other, "production"))
    ours = kept_in(tmp_path)
    before = ours.path.read_bytes()
    with pytest.raises(StateUnusable, match=r"not pinned here.*a state_dir of its own"):
        await ours.read()
    with pytest.raises(StateUnusable, match=r"not pinned here.*a state_dir of its own"):
        await ours.write(shown())
    assert ours.path.read_bytes() == before


async def test_the_same_ring_goes_on_under_another_root(tmp_path: Path) -> None:
    """Its root was changed while this daemon was down: what it kept is not its own any more."""
    former = TrustRoot.generate()
    await kept_in(tmp_path, former).write(shown(former))
    file = kept_in(tmp_path)
    with pytest.raises(StateUnusable, match="not pinned here"):
        await file.read()
    await file.write(shown())
    assert await file.read() == shown()


async def test_another_ring_of_the_same_root_and_name_is_not_replaced(tmp_path: Path) -> None:
    file = kept_in(tmp_path)
    await file.write(shown())
    await file.write(shown())
    before = file.path.read_bytes()
    with pytest.raises(StateUnusable, match=r"holds another ring.*remove that file if"):
        await file.write(shown(ring_id="another"))
    assert file.path.read_bytes() == before
    file.path.unlink()
    await file.write(shown(ring_id="another"))


async def test_what_is_nobodys_is_replaced(tmp_path: Path) -> None:
    file = kept_in(tmp_path)
    for odd in ("", "odd", Shown("not signed", "", {}).encode()):
        file.path.write_text(odd)
        await file.write(shown())
        assert await file.read() == shown()


async def test_no_event_loop_waits_for_a_disk(tmp_path: Path) -> None:
    """One that hangs would hold up an app's users, or a daemon's lease."""
    threads = set[int]()

    class Watched(StateFile):
        def _read(self) -> Shown | None:
            threads.add(threading.get_ident())
            return super()._read()

        def _keep(self, testimony: Shown) -> None:
            threads.add(threading.get_ident())
            super()._keep(testimony)

        def _set_aside(self) -> Path:
            threads.add(threading.get_ident())
            return super()._set_aside()

    file = Watched(tmp_path, RING.name, "state_dir", ROOT.public)
    await file.write(shown())
    assert await file.read() == shown()
    await file.set_aside()
    assert threads
    assert threading.get_ident() not in threads


def test_what_is_longer_than_any_ring_is_not_read() -> None:
    text = shown().encode()
    assert Shown.decode(text) == shown()
    with pytest.raises(MalformedDocument, match="more than a ring has"):
        Shown.decode(text + " " * MAX_TESTIMONY)
