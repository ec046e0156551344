"""A ring as files: whole at every moment, as closed as it was, gone when it must not sign."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import ringkeeper.testing
from ringkeeper.errors import FilesUnusable, SealBroken
from ringkeeper.secret import Secret
from ringkeeperd import file_set
from ringkeeperd.file_set import FileSet, is_in_memory
from ringkeeperd.ring_files import JWK, JWKS, PEM, RingFiles

RULES: dict[str, Any] = {"algorithm": "EdDSA", "access_token_validity": 60, "max_staleness": "10m"}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that reaches no disk."""
    folder = Path(tempfile.mkdtemp(prefix="rk-files-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


class Sink:
    """The files of a ring in memory, and what was told of them."""

    def __init__(self, folder: Path, *, has_key: bool = True, on_disk: bool = False) -> None:
        self.ring = ringkeeper.testing.keyring(**RULES)
        self.told: list[str] = []
        self.writes: list[bool] = []
        self.changes = 0
        self.is_sealed = False
        """Whether no private half is opened yet."""
        self.folder = folder
        self.files = self.made(has_key=has_key, on_disk=on_disk)

    def made(
        self, *, has_key: bool = True, on_disk: bool = False, group: int | None = None
    ) -> RingFiles:
        return RingFiles(
            self.folder,
            has_key=has_key,
            may_be_on_disk=on_disk,
            group=group,
            max_staleness=timedelta(minutes=10),
            clock=self.ring._clock,
            notice=lambda event, /, **_: self.told.append(event),
            on_write=self.writes.append,
            on_change=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def held(self) -> Any:
        held = self.ring._replica.held
        return without_private_halves(held) if self.is_sealed else held

    async def put(self) -> None:
        await self.files.put(self.held)

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def signer(self) -> str:
        return str(self.held().ring.signer.kid)


@pytest.fixture
def sink(memory: Path) -> Sink:
    return Sink(memory)


@contextmanager
def running(sink: Sink) -> Iterator[None]:
    """`run`, meanwhile; a wake-up stands for a proof, or for time that passed."""
    task = asyncio.ensure_future(sink.files.run(sink.held))
    try:
        yield
    finally:
        task.cancel()
        for thread in threading.enumerate():
            if thread.name == "files":
                thread.join(10)  # what was begun is not cancelled


async def until(is_so: Any) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


def without_private_halves(held: Any) -> Any:
    """As where the KEK does not open them."""
    return replace(held, signing={})


# --- what stands there ---------------------------------------------------------------------------


async def test_the_jwks_is_the_ring_s_and_the_key_is_the_one_that_signs(sink: Sink) -> None:
    await sink.put()
    assert sink.read(JWKS) == sink.ring.jwks()
    jwk = sink.read(JWK)
    assert jwk["kid"] == sink.signer
    assert (jwk["alg"], jwk["use"]) == ("EdDSA", "sig")
    (public,) = (key for key in sink.read(JWKS)["keys"] if key["kid"] == sink.signer)
    assert jwk["x"] == public["x"]
    pem = load_pem_private_key((sink.folder / PEM).read_bytes(), None)
    raw: Any = pem
    assert ringkeeper.algorithms.PrivateKey.from_secret_jwk(jwk, "EdDSA").secret_pem().encode() == (
        (sink.folder / PEM).read_bytes()
    )
    assert raw.public_key()


async def test_without_being_asked_no_key_is_written(memory: Path) -> None:
    sink = Sink(memory, has_key=False)
    await sink.put()
    assert [path.name for path in (memory / "..data").iterdir()] == [JWKS]


async def test_the_key_is_for_its_owner_alone_and_the_jwks_for_all(memory: Path) -> None:
    sink = Sink(memory / "rings" / "one")
    before = os.umask(0o077)  # as the unit has it
    try:
        await sink.put()
    finally:
        os.umask(before)
    modes = {name: (sink.folder / name).stat().st_mode & 0o777 for name in (JWKS, PEM, JWK)}
    assert modes == {JWKS: 0o644, PEM: 0o600, JWK: 0o600}
    for folder in (sink.folder / "..data", sink.folder, sink.folder.parent):
        assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="only root is in every group")
async def test_the_members_of_a_group_may_read_the_key_where_they_are_to(memory: Path) -> None:
    sink = Sink(memory)
    await sink.put()
    sink.files = sink.made(group=4321)  # set once there were files
    for _ in range(2):
        await sink.put()
        status = (memory / PEM).stat()
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 0, 4321)
        assert (memory / JWKS).stat().st_gid != 4321
        sink.ring.rotate()
    (memory / PEM).chmod(0o600)  # what was done by hand counts
    await sink.put()
    assert (memory / PEM).stat().st_mode & 0o777 == 0o600


async def test_mode_and_owner_stay_through_versions_and_a_withdrawal(sink: Sink) -> None:
    await sink.put()
    (sink.folder / PEM).chmod(0o640)
    (sink.folder / JWKS).chmod(0o600)
    if os.getuid() == 0:
        os.chown(sink.folder / PEM, 1234, 1235)
    sink.ring.rotate()
    await sink.put()
    assert (sink.folder / PEM).stat().st_mode & 0o777 == 0o640
    (sink.folder / PEM).chmod(0o440)
    sink.ring.advance("11m", led=False)
    await sink.put()
    assert not (sink.folder / PEM).exists()
    sink.ring.advance("1s")
    await sink.put()
    status = (sink.folder / PEM).stat()
    assert status.st_mode & 0o777 == 0o440
    assert (sink.folder / JWKS).stat().st_mode & 0o777 == 0o600
    if os.getuid() == 0:
        assert (status.st_uid, status.st_gid) == (1234, 1235)


async def test_a_key_that_was_opened_to_all_is_closed_again(sink: Sink) -> None:
    await sink.put()
    (sink.folder / JWK).chmod(0o646)
    sink.ring.rotate()
    await sink.put()
    assert (sink.folder / JWK).stat().st_mode & 0o777 == 0o640


async def test_nothing_is_written_or_told_where_nothing_changed(sink: Sink) -> None:
    await sink.put()
    first = (sink.folder / "..data").readlink()
    await sink.put()
    again = sink.made()  # a daemon that starts anew
    await again.put(sink.held)
    assert (sink.folder / "..data").readlink() == first
    assert (sink.writes, sink.told) == ([True], ["files written"])
    assert sink.changes == 2, "each daemon tells once: perhaps the former one could not"


async def test_what_somebody_removed_is_put_back(sink: Sink) -> None:
    await sink.put()
    for gone in ([JWKS], [PEM, "..data"], [JWKS, PEM, JWK, "..data"]):
        before = sink.changes
        for name in gone:
            (sink.folder / name).unlink()
        await sink.put()
        assert sink.read(JWKS) == sink.ring.jwks()
        assert sink.read(JWK)["kid"] == sink.signer
        assert (sink.folder / PEM).exists()
        assert sink.changes == before + 1, "readers found nothing meanwhile"


# --- never torn ----------------------------------------------------------------------------------

READER = """
import json, os, sys
folder, reads, seen, apart = sys.argv[1], 0, set(), 0
print("reading", flush=True)
while not os.path.exists(folder + "/stop"):
    jwks = json.loads(open(folder + "/jwks.json").read())
    pem = open(folder + "/signing-key.pem").read()
    assert pem.startswith("-----BEGIN") and pem.endswith("-----END PRIVATE KEY-----\\n"), pem
    jwk = json.loads(open(folder + "/signing-key.jwk").read())
    assert jwk["d"] and jwks["keys"]
    apart += jwk["kid"] not in [key["kid"] for key in jwks["keys"]]
    # Whoever opens the folder once reads one version of all of them.
    one = os.open(folder + "/..data", os.O_RDONLY)
    def read(name):
        with open(os.open(name, os.O_RDONLY, dir_fd=one)) as file:
            return file.read()
    jwks, jwk, pem = json.loads(read("jwks.json")), json.loads(read("signing-key.jwk")), read("signing-key.pem")
    os.close(one)
    (public,) = [key for key in jwks["keys"] if key["kid"] == jwk["kid"]]
    assert public["x"] == jwk["x"]
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    import base64
    x = load_pem_private_key(pem.encode(), None).public_key().public_bytes_raw()
    assert base64.urlsafe_b64encode(x).decode().rstrip("=") == jwk["x"]
    seen.add(jwk["kid"])
    reads += 1
print(json.dumps({"reads": reads, "versions": len(seen)}), flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("times", [250, pytest.param(1000, marks=pytest.mark.minutes)])
async def test_a_reader_in_a_tight_loop_through_many_rotations_reads_whole_files(
    sink: Sink, times: int
) -> None:
    await sink.put()
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(sink.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout
        assert reader.stdout.readline() == "reading\n"
        for _ in range(times):
            assert reader.poll() is None, reader.stderr and reader.stderr.read()
            sink.ring.advance("20m")  # what retired is gone, and the ring has room
            sink.ring.rotate()
            await sink.put()
        (sink.folder / "stop").touch()
        told, failed = await asyncio.to_thread(reader.communicate, timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert reader.returncode == 0, failed
    read = json.loads(told)
    assert sink.changes == times + 1
    # It was reading all the while, and not the same thing.
    assert read["reads"] > 100
    assert read["versions"] > 50


async def test_former_versions_go_once_nobody_can_be_reading_them(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.put()
    sink.ring.rotate()
    await sink.put()
    assert len(list(sink.folder.glob("..*"))) == 3  # two versions, and ..data
    monkeypatch.setattr(file_set, "_GRACE", -1.0)
    with running(sink):
        await until(lambda: len(list(sink.folder.glob("..*"))) == 2)


def dying(real: Any, last: int) -> Any:
    """`real`, which can be called `last` times."""
    calls = count()

    def dies(*arguments: Any, **more: Any) -> Any:
        if next(calls) >= last:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    return dies


@pytest.mark.parametrize("at", ["fsync", "rename", "symlink", "fchmod"])
async def test_a_death_at_any_moment_leaves_the_former_files_or_the_new_ones(
    sink: Sink, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call to the system is the last one, in turn; then another daemon goes on."""
    await sink.put()
    for last in range(12):
        before = {name: (sink.folder / name).read_bytes() for name in (JWKS, PEM, JWK)}
        sink.ring.advance("20m")
        sink.ring.rotate()
        died = False
        with monkeypatch.context() as patch:
            patch.setattr(os, at, dying(getattr(os, at), last))
            try:
                sink.files.set.replace(sink.files._wanted({}, sink.held(), sink.ring._clock.now()))
            except KeyboardInterrupt:
                died = True
        after = {name: (sink.folder / name).read_bytes() for name in (JWKS, PEM, JWK)}
        changed = [name for name in after if after[name] != before[name]]
        assert changed in ([], [JWKS, PEM, JWK])
        sink.files = sink.made()
        await sink.put()
        assert sink.read(JWK)["kid"] == sink.signer
        if not died:
            break
    assert last > 0, "it died before"


@pytest.mark.parametrize("at", ["rename", "symlink"])
async def test_a_death_at_the_first_version_is_made_up_for(
    sink: Sink, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the folder's link and those that readers look for, too."""
    for last in range(10):
        shutil.rmtree(sink.folder)
        sink.folder.mkdir()
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, at, dying(getattr(os, at), last))
            sink.files.set.replace(sink.files._wanted({}, sink.held(), sink.ring._clock.now()))
            break
        sink.files = sink.made()
        await sink.put()
        assert sink.read(JWKS) == sink.ring.jwks()
        assert sink.read(JWK)["kid"] == sink.signer
        assert (sink.folder / PEM).exists()
    assert last > 3, "a link each, and the folder's"


async def test_a_file_system_that_hangs_is_told_in_time_and_used_once_it_answers(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of a pipe stands for it. Else the version would never be confirmed, nor missed."""
    await sink.put()
    sink.ring.rotate()
    pipe = sink.folder / "..data" / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(sink.files._aside, "_within", 0.2)
    for _ in range(3):
        with pytest.raises(FilesUnusable, match=r"does not answer within"):
            await sink.put()
    threads = [each for each in threading.enumerate() if each.name == "files"]
    assert len(threads) == 1, "no thread more for each attempt"
    assert threads[0].daemon, "nor one that keeps the process from ending"
    monkeypatch.setattr(sink.files._aside, "_within", 5.0)
    with pipe.open("wb"):
        pipe.unlink()
    threads[0].join(10)
    await sink.put()
    assert sink.read(JWK)["kid"] == sink.signer


# --- when the key must not sign ------------------------------------------------------------------


async def test_the_key_goes_when_the_ring_is_staler_than_it_may_be_and_comes_back(
    sink: Sink,
) -> None:
    await sink.put()
    with running(sink):
        sink.ring.advance("9m", led=False)
        sink.files.wake.set()
        await until(lambda: not sink.files.wake.is_set())
        assert (sink.folder / PEM).exists()
        sink.ring.advance("2m", led=False)
        sink.files.wake.set()
        await until(lambda: not (sink.folder / JWK).exists())
        assert not list(sink.folder.glob("..*/signing*")), "in former versions, too"
        assert sink.read(JWKS)["keys"], "what signs no more still verifies"
        sink.ring.advance("1s")  # a fresh proof
        sink.files.wake.set()
        await until((sink.folder / JWK).exists)
    assert sink.told == ["files written", "signing key withdrawn", "files written", "files written"]


async def test_it_goes_by_itself_and_in_time(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing wakes it: it knows when it has to look."""
    await sink.put()
    sink.ring.advance(timedelta(minutes=10) - timedelta(milliseconds=300), led=False)
    sink.files.set.clean = lambda: True  # type: ignore[method-assign]
    with running(sink):
        await asyncio.sleep(0)  # it has looked once
        assert (sink.folder / JWK).exists()
        until_then = sink.files._until_next_look(sink.ring._clock.now())
        assert 0.05 <= until_then <= 0.4
        sink.ring.advance("1s", led=False)
        await until(lambda: not (sink.folder / JWK).exists())


async def test_its_time_is_that_of_the_newest_proof(sink: Sink) -> None:
    await sink.put()
    sink.ring.advance("5m")
    with running(sink):
        sink.files.wake.set()
        proved = sink.held().proof_at.timestamp()
        await until(lambda: abs((sink.folder / JWK).stat().st_mtime - proved) < 0.001)
        seen = (sink.folder / JWK).stat().st_ctime_ns
        sink.files.wake.set()
        await until(lambda: not sink.files.wake.is_set())
        await sink.put()
        assert (sink.folder / JWK).stat().st_ctime_ns == seen, "touched only by a younger proof"


async def test_a_daemon_that_knows_no_ring_yet_judges_by_that_time(sink: Sink) -> None:
    await sink.put()
    again = sink.made()
    await again.put(lambda: None)
    assert (sink.folder / JWK).exists(), "an outage of a minute takes nobody's key"
    sink.ring.advance("11m", led=False)
    await again.put(lambda: None)
    assert not (sink.folder / JWK).exists()
    assert sink.read(JWKS)["keys"]


async def test_a_revoked_key_is_gone_though_the_next_one_does_not_open(sink: Sink) -> None:
    await sink.put()
    sink.ring.revoke(sink.signer)
    bare = without_private_halves(sink.held())
    await sink.files.put(lambda: bare)
    assert not (sink.folder / JWK).exists()


async def test_a_retired_key_stays_while_the_next_one_does_not_open_and_may(sink: Sink) -> None:
    """As in an app that was cut off: for `max_staleness` after it signed last."""
    await sink.put()
    kid = sink.signer
    sink.ring.rotate()
    bare = without_private_halves(sink.held())
    await sink.files.put(lambda: bare)
    assert sink.read(JWK)["kid"] == kid
    sink.ring.advance("11m")
    with suppress(SealBroken):
        await sink.files.put(lambda: bare)
    assert not (sink.folder / JWK).exists()


@pytest.mark.parametrize("time", [2**40, 2**33, -(2**33), 4_000_000_000])
async def test_a_time_that_its_owner_made_up_ends_nothing_and_counts_for_nothing(
    sink: Sink, time: int
) -> None:
    await sink.put()
    os.utime(sink.folder / JWK, (time, time))
    with running(sink):
        sink.files.wake.set()
        await until(lambda: not sink.files.wake.is_set())
        sink.files.wake.set()
        proved = sink.held().proof_at.timestamp()
        await until(lambda: abs((sink.folder / JWK).stat().st_mtime - proved) < 0.001)
    os.utime(sink.folder / JWK, (time, time))
    again = sink.made()
    await again.put(lambda: None)
    assert not (sink.folder / JWK).exists(), "nobody knows how old it is"


async def test_a_key_that_stays_is_no_younger_for_the_versions_that_come(sink: Sink) -> None:
    """Its private half's successor does not open; meanwhile other keys come and go."""
    await sink.put()
    kid, dated = sink.signer, (sink.folder / JWK).stat().st_mtime_ns
    sink.ring.rotate()
    for _ in range(2):
        sink.ring.advance("4m")
        sink.ring.rotate()
        bare = without_private_halves(sink.held())
        await sink.files.put(lambda held=bare: held)  # type: ignore[misc]
        assert (sink.read(JWK)["kid"], (sink.folder / JWK).stat().st_mtime_ns) == (kid, dated)
    sink.ring.advance("3m")
    await sink.files.put(lambda: bare)
    assert not (sink.folder / JWK).exists(), "11 minutes after it signed last"


async def test_a_withdrawal_is_told_even_if_nothing_can_be_written(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.put()
    sink.ring.advance("11m", led=False)
    before = sink.changes

    def is_full(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", is_full)
        patch.setattr(file_set, "sync", lambda _: None)
        with suppress(FilesUnusable):
            await sink.put()
    assert not (sink.folder / JWK).exists()
    assert sink.changes == before + 1


async def test_former_versions_go_though_the_clock_was_set_back(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.put()
    sink.ring.rotate()
    await sink.put()
    monkeypatch.setattr(file_set, "_age", lambda _: -3600.0)
    assert sink.files.set.clean()
    assert len(list(sink.folder.glob("..*"))) == 2


async def test_a_link_that_a_death_left_keeps_no_key_from_going(sink: Sink) -> None:
    await sink.put()
    (sink.folder / "..left").symlink_to("..data/jwks.json")
    sink.ring.advance("11m", led=False)
    await sink.put()
    assert not (sink.folder / JWK).exists()


async def test_what_is_to_be_told_is_told_once_a_version_is_there(sink: Sink) -> None:
    """What is not opened yet is no news; and the key does not come after the rest."""
    sink.is_sealed = True
    with running(sink):
        sink.files.wake.set()
        await until(lambda: not sink.files.wake.is_set())
        sink.files.wake.set()
        await until(lambda: not sink.files.wake.is_set())
        assert (sink.changes, sink.told) == (0, [])
        sink.is_sealed = False
        await sink.put()
        sink.files.wake.set()
        await until(lambda: not sink.files.wake.is_set())
    assert (sink.changes, sink.told) == (1, ["files written"])


async def test_a_key_that_is_not_asked_for_any_more_is_removed(sink: Sink) -> None:
    await sink.put()
    await sink.made(has_key=False).put(sink.held)
    assert not list(sink.folder.glob("..*/signing*"))
    assert sink.read(JWKS)["keys"]


# --- bad input -----------------------------------------------------------------------------------


def test_what_is_in_memory_is_asked_of_the_kernel(memory: Path) -> None:
    assert is_in_memory(memory)
    assert is_in_memory(memory / "not" / "made" / "yet")
    assert not is_in_memory(Path(__file__).parent)


async def test_a_key_on_a_disk_is_refused_unless_allowed() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rk-files-", dir=Path(__file__).parent))
    try:
        sink = Sink(folder)
        with pytest.raises(FilesUnusable, match=r"not in memory.*signing_key_on_disk: true"):
            await sink.put()
        assert not list(folder.iterdir())
        allowed = Sink(folder, on_disk=True)
        await allowed.put()
        assert (folder / PEM).exists()
    finally:
        shutil.rmtree(folder)


async def test_a_folder_that_cannot_be_written_is_told_once_and_used_once_it_can(
    sink: Sink,
) -> None:
    sink.folder.rmdir()
    sink.folder.write_text("somebody else's")
    with pytest.raises(FilesUnusable, match=r"cannot be written .*files\.directory"):
        await sink.put()
    with running(sink):
        sink.files.wake.set()
        await until(lambda: len(sink.writes) > 1)
        assert sink.told == [], "whoever put it told"
        sink.folder.unlink()
        sink.folder.mkdir()
        sink.files.wake.set()
        await until((sink.folder / JWK).exists)
    assert sink.writes[-1] is True
    assert sink.told == ["files written", "files well again"]


async def test_a_file_of_somebody_else_s_is_not_replaced(sink: Sink) -> None:
    (sink.folder / JWKS).write_text("mine")
    with pytest.raises(FilesUnusable, match="somebody else's"):
        await sink.put()
    assert (sink.folder / JWKS).read_text() == "mine"
    assert not (sink.folder / JWK).exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_an_owner_that_cannot_be_kept_is_named(memory: Path) -> None:
    child = f"""
import os, pathlib
from ringkeeper.errors import FilesUnusable
from ringkeeper.secret import Secret
from ringkeeperd.file_set import FileSet
files = FileSet(pathlib.Path({str(memory)!r}), closed=["a"])
files.replace({{"a": Secret("1")}})
os.chown({str(memory)!r}, 4321, 4321)
os.chown({str(memory)!r} + "/a", 77, 77)
os.setuid(4321)
try:
    files.replace({{"a": Secret("2")}})
except FilesUnusable as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert "is to belong to 77:77, and this user may not give it" in told.stdout
    assert (memory / "a").read_text() == "1"
    assert not [path for path in memory.glob("..*") if not (path / "a").exists()]


def test_no_error_shows_what_a_file_holds(memory: Path) -> None:
    memory.joinpath("a").write_text("mine")
    try:
        FileSet(memory, closed=["a"]).replace({"a": Secret("hunter2")})
    except FilesUnusable as error:
        trace = error.__traceback__
        shown = [str(error)]
        while trace:
            shown.append(repr(trace.tb_frame.f_locals))
            trace = trace.tb_next
        assert "hunter2" not in str(shown).replace('Secret("hunter2")', "")
    else:
        pytest.fail("it was replaced")
