"""What is kept from one start to the next: read once, and never lost for being of no use here."""

import asyncio
from typing import Any

import pytest

from ringkeeper import kept
from ringkeeper.clock import SystemClock
from ringkeeper.errors import MalformedDocument, StateUnusable
from ringkeeper.kept import Kept
from ringkeeper.testimony import Testimony as Shown
from ringkeeper.troubles import Troubles
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import sign_proof, sign_snapshot
from tests.core.builders import new_ring

ROOT = TrustRoot.generate()
RING = new_ring()
SNAPSHOT = sign_snapshot(RING, ROOT)
KNOWN = Shown(SNAPSHOT, sign_proof(RING, SNAPSHOT, SystemClock().now(), ROOT), {})


class Disk:
    """A file, and what goes wrong with it."""

    def __init__(self, found: Shown | Exception | None = None) -> None:
        self.found = found
        self.fails: Exception | None = None
        self.reads = 0
        self.written: list[Shown] = []

    async def read(self) -> Shown | None:
        self.reads += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def write(self, testimony: Shown) -> None:
        if self.fails:
            raise self.fails
        self.written.append(testimony)

    async def set_aside(self) -> str:
        return "there"


class Case:
    def __init__(self, disk: Any) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self.troubles = Troubles(RING.name, self.tell)
        self.kept = Kept(RING.name, disk, self.tell, self.troubles)

    def tell(self, event: str, /, **fields: object) -> None:
        self.told.append((event, fields))


async def test_it_is_read_once() -> None:
    disk = Disk(KNOWN)
    case = Case(disk)
    for _ in range(2):
        await case.kept.recall(ROOT.public)
    assert (case.kept.testimony, disk.reads, case.told) == (KNOWN, 1, [])


@pytest.mark.parametrize("disk", [None, Disk()])
async def test_where_there_is_nothing_nothing_is_known(disk: Any) -> None:
    case = Case(disk)
    await case.kept.recall(ROOT.public)
    await case.kept.write(KNOWN)
    assert (case.kept.testimony, case.told) == (None, [])


@pytest.mark.parametrize("found", [MalformedDocument("no ring"), KNOWN])
async def test_what_is_of_no_use_is_set_aside_and_told(found: Any) -> None:
    case = Case(Disk(found))
    await case.kept.recall(TrustRoot.generate().public)
    assert case.kept.testimony is None
    ((event, fields),) = case.told
    assert (event, fields["file"]) == ("kept ring set aside", "there")
    assert fields["error"]


async def test_what_was_known_is_known_no_more_once_it_is_set_aside() -> None:
    case = Case(Disk(KNOWN))
    await case.kept.recall(ROOT.public)
    await case.kept.set_aside("replaced")
    assert case.kept.testimony is None
    assert case.told == [
        ("kept ring set aside", {"ring": RING.name, "file": "there", "error": "replaced"})
    ]


@pytest.mark.parametrize("found", [StateUnusable("not readable"), OSError("a defect of ours")])
async def test_a_file_that_cannot_be_read_keeps_nobody_from_starting(found: Exception) -> None:
    case = Case(Disk(found))
    await case.kept.recall(ROOT.public)
    assert case.kept.testimony is None
    assert case.troubles.of("keeping")


async def test_a_disk_that_hangs_keeps_nobody_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kept._RECALL_WITHIN == 5.0
    monkeypatch.setattr(kept, "_RECALL_WITHIN", 0.01)

    class Hanging(Disk):
        async def read(self) -> Shown | None:
            await asyncio.sleep(60)
            return KNOWN

    case = Case(Hanging())
    await case.kept.recall(ROOT.public)
    assert "the disk does not answer within 0.01 s" in str(case.troubles.of("keeping"))


async def test_what_cannot_be_written_is_told_until_it_can() -> None:
    disk = Disk()
    case = Case(disk)
    disk.fails = StateUnusable("a full disk")
    for _ in range(2):
        await case.kept.write(KNOWN)
    disk.fails = None
    await case.kept.write(KNOWN)
    assert [event for event, _ in case.told] == ["ring troubled", "ring well again"]
    assert (disk.written, case.troubles.all) == ([KNOWN], ())
