"""A command, a signal, a request after each change: tried until it works, holding nothing up."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web

from ringkeeper.secret import Secret
from ringkeeperd import on_change
from ringkeeperd.on_change import Action, Command, News, OnChange, Post, Signal, Unfit

NEWS = News("access-token", 7, "d-abc", "/run/ringkeeper")


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


class Hook:
    """`OnChange`, running, with what it logged and counted."""

    def __init__(self, *actions: Action, within: float = 10.0) -> None:
        self.news = NEWS
        self.counted: list[bool] = []
        self.lines = structlog.testing.LogCapture()
        log: Any = structlog.wrap_logger(None, processors=[self.lines])
        self.it = OnChange(
            actions, lambda: self.news, within=within, log=log, count=self.counted.append
        )

    def events(self, name: str) -> list[Any]:
        return [entry for entry in self.lines.entries if entry["event"] == name]


@asynccontextmanager
async def running(hook: Hook) -> AsyncIterator[Hook]:
    task = asyncio.create_task(hook.it.run())
    try:
        yield hook
    finally:
        task.cancel()
        await asyncio.wait([task])


class Flaky:
    """Fails so often."""

    name = "flaky"
    grace = 0.0

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.told: list[int] = []

    async def __call__(self, news: News) -> str:
        self.told.append(news.version)
        if len(self.told) <= self.failures:
            raise Unfit("not today")
        return ""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_change, "_PAUSE_FIRST", 0.01)


def python(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "\n".join(lines))


# --- trying again --------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_what_fails_is_tried_until_it_works_and_what_worked_is_not_done_again() -> None:
    good, bad = Flaky(0), Flaky(3)
    async with running(Hook(good, bad)) as hook:
        hook.it.changed.set()
        await until(lambda: hook.counted.count(False) == 2)
        assert hook.it.is_failing
        await until(lambda: hook.counted.count(True) == 2)
        await until(lambda: not hook.it.is_failing)
    assert (len(good.told), len(bad.told)) == (1, 4)
    assert hook.counted == [True, False, False, False, True]
    (failed,), (done, _) = hook.events("on_change failed"), hook.events("on_change done")
    assert failed["error"] == "not today; tried again until it works"
    assert (failed["action"], failed["version"], failed["log_level"]) == ("flaky", 7, "warning")
    assert done["ring"] == "access-token"


class Scripted:
    """Fails in these words, one after the other; an empty one is a success."""

    name = "scripted"
    grace = 0.0

    def __init__(self, *whys: str) -> None:
        self.whys = list(whys)

    async def __call__(self, _: News) -> str:
        if why := self.whys.pop(0):
            raise Unfit(why)
        return ""


@pytest.mark.usefixtures("impatient")
async def test_a_failure_is_told_anew_when_its_reason_changes_or_it_had_worked() -> None:
    """Not when only a number in it does: nginx, for one, tells the time and its process' id."""
    hangs = "06:43:16 [emerg] 101#101: no such file"
    again = "06:43:17 [emerg] 102#102: no such file"
    scripted = Scripted(hangs, again, "permission denied", hangs, "", again, "")
    async with running(Hook(scripted)) as hook:
        for successes in (1, 2):
            hook.it.changed.set()
            await until(lambda: hook.counted.count(True) == successes)  # noqa: B023 - awaited here
    told = [entry["error"] for entry in hook.events("on_change failed")]
    assert told == [
        f"{why}; tried again until it works" for why in (hangs, "permission denied", hangs, again)
    ]


async def test_another_change_does_not_wait_and_is_news_for_all() -> None:
    """The pause between two attempts is a second; the next version does not wait for it."""
    good, bad = Flaky(0), Flaky(1)
    async with running(Hook(good, bad)) as hook:
        hook.it.changed.set()
        await until(lambda: len(bad.told) == 1)
        hook.news = News("access-token", 8, "", "")
        hook.it.changed.set()
        async with asyncio.timeout(0.5):
            await until(lambda: len(bad.told) == 2)
    assert (good.told, bad.told) == ([7, 8], [7, 8])


@pytest.mark.usefixtures("impatient")
async def test_a_defect_in_an_action_is_told_and_ends_nothing() -> None:
    class Broken:
        name = "broken"
        grace = 0.0
        tries = 0

        async def __call__(self, _: News) -> str:
            self.tries += 1
            raise RuntimeError("hunter2")

    broken = Broken()
    async with running(Hook(broken)) as hook:
        hook.it.changed.set()
        await until(lambda: broken.tries > 1)
    assert "RuntimeError at" in hook.lines.entries[0]["error"]
    assert "hunter2" not in str(hook.lines.entries)


# --- a command -----------------------------------------------------------------------------------


async def test_a_command_is_told_what_the_ring_is_and_nothing_of_ours() -> None:
    environ = {
        "PATH": "/bin",
        "RINGKEEPER_REDIS__URL": "redis://:hunter2@r",
        "RING_KEK": "hunter2",
        "NOTIFY_SOCKET": "/run/x",
        "CREDENTIALS_DIRECTORY": "/run/c",
    }
    command = Command(
        python("import os, json; print(json.dumps(dict(os.environ)))"), environ, "RING_KEK"
    )
    told = json.loads(await command(NEWS))
    told.pop("LC_CTYPE", None)
    assert told == {
        "PATH": "/bin",
        "RINGKEEPER_RING": "access-token",
        "RINGKEEPER_VERSION": "7",
        "RINGKEEPER_SIGNER": "d-abc",
        "RINGKEEPER_FILES": "/run/ringkeeper",
    }


async def test_no_shell_reads_a_command(tmp_path: Path) -> None:
    said = await Command(
        (*python("import sys; print(sys.argv[1])"), f"$(touch {tmp_path}/x); *"), {}
    )(NEWS)
    assert said == f"$(touch {tmp_path}/x); *"
    assert not list(tmp_path.iterdir())


async def test_its_output_is_logged_as_one_line_and_no_more_than_is_read() -> None:
    said = await Command(python("print('a\\nb'); print('x' * 1000000)"), {})(NEWS)
    assert said.startswith("a b xxx")
    assert len(said) <= 2000


async def test_one_that_fails_says_how_and_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=r"exited with 3: no such service$"):
        await Command(python("import sys; print('no such service'); sys.exit(3)"), {})(NEWS)
    with pytest.raises(Unfit, match=r"was ended by signal 9$"):
        await Command(python("import os; os.kill(os.getpid(), 9)"), {})(NEWS)
    with pytest.raises(Unfit, match=r"^/no/such: no such file or directory$"):
        await Command(("/no/such",), {})(NEWS)
    plain = tmp_path / "plain"
    plain.touch(0o644)
    with pytest.raises(Unfit, match=r"plain: permission denied$"):
        await Command((str(plain),), {})(NEWS)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


HANG = (
    "import os, signal, time",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "print('half done', flush=True)",
    "pid = os.fork()",
    "open(os.environ['RINGKEEPER_FILES'] + f'/{os.getpid()}', 'w').close()",
    "time.sleep(600)",
)


async def test_one_that_hangs_is_ended_with_all_that_it_began(tmp_path: Path) -> None:
    hook = Hook(Command(python(*HANG), os.environ, within=1.0), within=1.0)
    hook.news = News("access-token", 7, "", str(tmp_path))
    async with running(hook):
        hook.it.changed.set()
        await until(lambda: hook.counted)
    (told,) = hook.lines.entries
    why = "did not end within 1 s (on_change.timeout), and was killed: half done; tried again"
    assert why in told["error"]
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    await until(lambda: not any(map(is_running, pids)))


async def test_the_end_of_the_daemon_ends_a_command(tmp_path: Path) -> None:
    hook = Hook(Command(python(*HANG), os.environ))
    hook.news = News("access-token", 7, "", str(tmp_path))
    async with running(hook):
        hook.it.changed.set()
        await until(lambda: len(list(tmp_path.iterdir())) == 2)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    await until(lambda: not any(map(is_running, pids)))


async def test_what_a_command_leaves_running_holds_nothing_up(tmp_path: Path) -> None:
    """A daemon that it starts keeps its output open for ever."""
    lines = (
        "import os, time",
        "print('started', flush=True)",
        "os.fork() or (os.setsid(), time.sleep(600))",
    )
    async with asyncio.timeout(5):
        assert await Command((*python(*lines), "left running"), os.environ)(NEWS) == "started"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(b"left running\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except OSError:
            continue


# --- a signal ------------------------------------------------------------------------------------


async def test_a_signal_reaches_the_process_in_the_file(tmp_path: Path) -> None:
    lines = (
        "import signal",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",  # it may come before we wait
        "print('ready', flush=True)",
        "signal.sigwait([signal.SIGUSR1])",
        "print('got it', flush=True)",
    )
    process = await asyncio.create_subprocess_exec(*python(*lines), stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    (tmp_path / "pid").write_text(f"{process.pid}\n")
    await Signal(tmp_path / "pid", "USR1")(NEWS)
    assert await process.stdout.readline() == b"got it\n"
    await process.wait()
    with pytest.raises(Unfit, match="no such process"):
        await Signal(tmp_path / "pid", "USR1")(NEWS)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1", "-5", "abc", "12 13", "9" * 30, "٣٤٥", "ours"]
)
async def test_a_file_without_a_process_s_number_sends_nothing(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    (tmp_path / "pid").write_text(text.replace("ours", str(os.getpid())))
    with pytest.raises(Unfit, match="holds no number of a process"):
        await Signal(tmp_path / "pid", "HUP")(NEWS)


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="pid: no such file or directory"):
        await Signal(tmp_path / "pid", "HUP")(NEWS)


# --- a request -----------------------------------------------------------------------------------


@asynccontextmanager
async def server(answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/keys?token=hunter2"
    finally:
        await runner.cleanup()


async def test_a_request_says_what_the_ring_is() -> None:
    got: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        got.append((request.method, request.path_qs, await request.json()))
        return web.Response(status=204)

    async with server(answer) as url:
        assert await Post(Secret(url))(NEWS) == ""
    told = {"ring": "access-token", "version": 7, "signer": "d-abc"}
    assert got == [("POST", "/keys?token=hunter2", told)]


@pytest.mark.parametrize("status", [301, 307, 404, 500])
async def test_another_answer_than_2xx_is_a_failure_and_no_redirect_is_followed(
    status: int,
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with server(answer) as url:
        with pytest.raises(Unfit, match=rf"^127\.0\.0\.1: answered {status}, and 2xx was wanted$"):
            await Post(Secret(url))(NEWS)
    assert asked == ["/keys"]


async def test_a_url_that_cannot_be_reached_is_told_without_what_may_be_secret() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:hunter2@127.0.0.1:{taken.getsockname()[1]}/hunter2?x=hunter2"
        async with running(Hook(Post(Secret(url)))) as hook:
            hook.it.changed.set()
            await until(lambda: hook.counted)
    assert hook.counted == [False]
    assert "hunter2" not in str(hook.lines.entries)
    assert "127.0.0.1: connection refused" in hook.lines.entries[0]["error"].lower()


async def test_a_server_that_does_not_answer_is_left() -> None:
    is_over = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await is_over.wait()
        return web.Response()

    async with server(answer) as url, running(Hook(Post(Secret(url)), within=0.3)) as hook:
        hook.it.changed.set()
        await until(lambda: hook.counted)
        is_over.set()
        assert hook.counted == [False]
        assert "within 0.3 s" in hook.lines.entries[0]["error"]


async def test_a_certificate_of_nobody_s_is_refused(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
        task = asyncio.create_task(Post(Secret(url))(NEWS))
        connection, _ = await asyncio.to_thread(listening.accept)
        with connection:
            assert (await asyncio.to_thread(connection.recv, 1)) == b"\x16", "a TLS handshake"
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with pytest.raises(Unfit, match=r"^127\.0\.0\.1: "):
            await task
