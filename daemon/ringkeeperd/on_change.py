"""What happens after a ring changed here: a command, a signal, a request, as configured.

For programs that read a ring's files, or its JWKS, only when they are told to. Each of the three is
tried until it worked, or until the ring changed again, which is news for all of them. None holds up
the ring: a command that hangs is ended, and keys go on turning.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from ringkeeper.errors import Defect, InfrastructureError
from ringkeeper.settings import PREFIX
from ringkeeperd.words import without_numbers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from structlog.stdlib import BoundLogger

    from ringkeeper.secret import Secret

_PAUSE_FIRST: Final = 1.0
_PAUSE_MOST: Final = 60.0
"""Seconds between two attempts."""
_OUTPUT_MOST: Final = 2000
"""Characters of a command's output that are logged."""
_GRACE: Final = 2.0
"""Seconds that an action has to end by itself what took too long."""
_LAST_WORDS: Final = 0.2
"""Seconds to read on after a command ended: what it left running may hold its output open."""
_OURS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")


class Unfit(InfrastructureError):
    """Why an action did not work."""


@dataclass(frozen=True, slots=True)
class News:
    """What an action is told."""

    ring: str
    version: int
    signer: str
    """The kid of the key that signs now; empty if none does."""
    files: str
    """Where the ring's files are; empty if there are none."""


class Action(Protocol):
    """One thing to do."""

    name: str
    grace: float
    """Seconds that it needs to end by itself what took too long; 0 where it is just ended."""

    async def __call__(self, news: News, /) -> str:
        """Do it; what is to be logged of it. Raises Unfit."""
        ...


class OnChange:
    """Carries `actions` out for one ring, each again and again until it worked."""

    def __init__(
        self,
        actions: Iterable[Action],
        news: Callable[[], News],
        *,
        within: float,
        log: BoundLogger,
        count: Callable[[bool], None],
    ) -> None:
        """`news` says what to tell them, each has `within` seconds, `count` is told how it went."""
        self.changed = asyncio.Event()
        self.is_failing = False
        """Whether something did not work, and has not since."""
        self._actions = tuple(actions)
        self._told: dict[str, str] = {}
        """Why each action fails at the moment, without numbers: told once, not at each attempt."""
        self._news = news
        self._within = within
        self._log = log
        self._count = count

    async def run(self) -> None:
        """Act on each change, until cancelled."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            pending, pause = self._actions, _PAUSE_FIRST
            while pending := tuple([each for each in pending if not await self._is_done(each)]):
                self.is_failing = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.changed.wait()
                if self.changed.is_set():
                    break  # from the beginning, with what is new
                pause = min(2 * pause, _PAUSE_MOST)
            self.is_failing = bool(pending)

    async def _is_done(self, action: Action) -> bool:
        news = self._news()
        about = {"ring": news.ring, "version": news.version, "action": action.name}
        try:
            async with asyncio.timeout(self._within + action.grace):
                told = await action(news)
        except Exception as error:  # noqa: BLE001 - nothing here may end the daemon
            why = _in_words(error, self._within)
            if self._is_news(action, why):
                failed = f"{why}; tried again until it works"
                self._log.warning("on_change failed", **about, error=failed)
            self._count(False)
            return False
        self._told.pop(action.name, None)
        self._log.info("on_change done", **about, **({"output": told} if told else {}))
        self._count(True)
        return True

    def _is_news(self, action: Action, why: str) -> bool:
        """Whether it did not fail so before; a time or a process' id in it makes no difference."""
        said = without_numbers(why)
        is_news = self._told.get(action.name) != said
        self._told[action.name] = said
        return is_news


def _in_words(error: Exception, within: float) -> str:
    match error:
        case Unfit():
            return str(error)
        case TimeoutError():
            return f"it did not end within {within:g} s (on_change.timeout)"
        case _:
            return str(Defect.of(error))


# --- the three actions ---------------------------------------------------------------------------


class Command:
    """Runs a program; what the ring is stands in its environment."""

    name = "command"
    grace = _GRACE

    def __init__(
        self,
        command: tuple[str, ...],
        environ: Mapping[str, str],
        kek: str = "",
        within: float | None = None,
    ) -> None:
        """Of `environ` it gets nothing that is ours: no setting, and not the variable `kek`.

        After `within` seconds it is killed, with its group of processes.
        """
        self._command = command
        self._within = within
        self._environ = {
            name: value
            for name, value in environ.items()
            if not name.startswith(PREFIX) and name not in (*_OURS, kek)
        }

    async def __call__(self, news: News) -> str:
        """Run it; its output.

        Raises:
            Unfit: it cannot be run, or exits with another status than 0.
        """
        told = {"RING": news.ring, "VERSION": str(news.version), "SIGNER": news.signer}
        told |= {"FILES": news.files} if news.files else {}
        async with _output() as (output, end):
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=end,
                    stderr=end,
                    env=self._environ | {PREFIX + name: value for name, value in told.items()},
                    start_new_session=True,
                )
            except OSError as error:
                raise Unfit(f"{self._command[0]}: {(error.strerror or '').lower()}") from None
            finally:
                os.close(end)
            said, status = await _ended(process, output, self._within)
        if status is None:
            raise Unfit(
                f"{self._command[0]}: did not end within {self._within:g} s (on_change.timeout), "
                "and was killed" + (f": {said}" if said else "")
            )
        if status:
            how = f"exited with {status}" if status > 0 else f"was ended by signal {-status}"
            raise Unfit(f"{self._command[0]}: {how}" + (f": {said}" if said else ""))
        return said


@asynccontextmanager
async def _output() -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """A pipe: where to read what a process writes, and the end to give to it."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )
    try:
        yield reader, writing
    finally:
        transport.close()


async def _ended(
    process: asyncio.subprocess.Process, output: asyncio.StreamReader, within: float | None
) -> tuple[str, int | None]:
    """The first of what a process writes, as one line, and how it ended; None if it had to be.

    It is ended with its group: when it takes too long, and if nobody waits any more.
    """
    status: int | None = None
    reading = asyncio.create_task(_first_of(output))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                status = await process.wait()
    except asyncio.CancelledError:
        reading.cancel()
        raise
    finally:
        if status is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    await asyncio.wait([reading], timeout=_LAST_WORDS)
    reading.cancel()
    return await reading, status


async def _first_of(output: asyncio.StreamReader) -> str:
    """The first of what comes, as one line; the rest is read, too, so that nobody waits for us."""
    kept = b""
    try:
        while some := await output.read(4096):
            kept = (kept + some)[:_OUTPUT_MOST]
    except asyncio.CancelledError:
        pass  # something holds it open, and is silent
    return " ".join(kept.decode("utf-8", "replace").split())


class Signal:
    """Sends a signal to the process whose number is in a file."""

    name = "signal"
    grace = 0.0

    def __init__(self, pid_file: Path, name: str) -> None:
        """`name` as in HUP."""
        self._pid_file = pid_file
        self._number = signal.Signals[f"SIG{name}"]

    async def __call__(self, _: News) -> str:
        """Send it.

        Raises:
            Unfit: the file holds no process that may be sent one.
        """
        pid = await asyncio.to_thread(self._pid)
        try:
            os.kill(pid, self._number)
        except OSError as error:
            why = (error.strerror or "").lower()
            raise Unfit(f"{self._pid_file}: process {pid}: {why}") from None
        return ""

    def _pid(self) -> int:
        try:
            with self._pid_file.open("rb") as file:
                text = file.read(32).strip()
        except OSError as error:
            raise Unfit(f"{self._pid_file}: {(error.strerror or '').lower()}") from None
        # 0 and below mean groups of processes, 1 is whatever keeps the system, or the pod.
        if not text.isdigit() or len(text) > 9 or int(text) <= 1 or int(text) == os.getpid():  # noqa: PLR2004
            raise Unfit(f"{self._pid_file}: holds no number of a process that may be sent a signal")
        return int(text)


class Post:
    """Posts to a URL, as JSON, what the ring is."""

    name = "post"
    grace = 0.0

    def __init__(self, url: Secret) -> None:
        """The URL may hold a token: it is shown to nobody but its host."""
        self._url = url

    async def __call__(self, news: News) -> str:
        """Post it.

        Raises:
            Unfit: there is no answer, or another than 2xx.
        """
        import ssl  # noqa: PLC0415 - most daemons never post

        from ringkeeperd.lean import aiohttp, load_client  # noqa: PLC0415

        load_client()
        host = urlsplit(self._url.reveal()).hostname
        told = {"ring": news.ring, "version": news.version, "signer": news.signer}
        context = ssl.create_default_context()
        status, failure = 0, ""
        try:
            async with (
                aiohttp.ClientSession(trust_env=True) as session,
                session.post(
                    self._url.reveal(), json=told, ssl=context, allow_redirects=False
                ) as answer,
            ):
                status = answer.status
        except aiohttp.ClientError as error:
            failure = _failure(error)
        # Raised out here: what the library raised may quote the URL.
        if failure:
            raise Unfit(f"{host}: {failure}")
        if not 200 <= status < 300:  # noqa: PLR2004
            raise Unfit(f"{host}: answered {status}, and 2xx was wanted")
        return ""


def _failure(error: BaseException) -> str:
    """The system's words for `error`, or its kind: its own text may hold the URL."""
    causes = filter(None, [error, error.__cause__, error.__context__])
    numbers = filter(None, (getattr(cause, "errno", None) for cause in causes))
    words = (os.strerror(number).lower() for number in numbers if number > 0)
    return next(words, type(error).__name__)
