"""One subscription for all rings of a daemon: each hears of its own channel alone.

To the follower of a ring it is as if it had a connection of its own: the channel is joined, and
that is told; a dead connection ends the subscription of everybody, with an error, and each joins
anew and reads what it missed. A ping goes out where nothing was heard of late, one for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions

from ringkeeper.errors import RedisUnavailable
from ringkeeper.follower import PONG_WITHIN
from ringkeeper.store import Pong, Published, Subscribed
from ringkeeper.topology import speaking, waiting_apart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis.asyncio as redis
    from redis.asyncio.connection import AbstractConnection

    from ringkeeper.clock import Clock
    from ringkeeper.store import Heard

_FRESH: Final = 1.0
"""Seconds for which what was heard shows that the way to Redis is open."""
_LOOK_EVERY: Final = 0.5
_EARLY_NONES: Final = 3
_JOIN_AT_ONCE: Final = 64
_MOST_UNREAD: Final = 64
"""Messages that one ring may leave unread: whoever floods its channel costs no more than these."""


class Line:
    """What one ring hears; `next` and `ping` are a `Subscription`'s."""

    def __init__(self, board: Switchboard, channel: str, where: str) -> None:
        self.channel = channel
        self._board = board
        self._where = where
        self._unread: deque[Heard] = deque()
        self._failed: Exception | None = None
        self._news = asyncio.Event()

    async def next(self, timeout: float) -> Heard | None:  # noqa: ASYNC109
        """The next thing heard, or None after `timeout` seconds of silence."""
        if not self._unread and not self._failed:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._news.wait()
        self._news.clear()
        if self._unread:
            return self._unread.popleft()
        if self._failed:
            with speaking(self._where, "listening"):
                raise self._failed
        return None

    async def ping(self) -> None:
        """Ask for a `Pong`."""
        with speaking(self._where, "listening"):
            await self._board.ping(self)

    def put(self, heard: Heard) -> None:
        """Let the ring hear this."""
        if len(self._unread) >= _MOST_UNREAD:
            # Too much to keep: as if it had been away. It reads what there is, and goes on.
            self._unread.clear()
            heard = Subscribed()
        self._unread.append(heard)
        self._news.set()

    def fail(self, error: Exception) -> None:
        """Let the ring hear that there is nothing more to be heard."""
        self._failed = error
        self._news.set()


class Switchboard:
    """Listens to the channels of all who want to, on one connection."""

    def __init__(self, client: redis.Redis, clock: Clock) -> None:
        """Listen where `client` speaks to; connect once somebody wants to hear something."""
        self._client = client
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._expected: deque[Line] = deque()
        """Who asked to join and was not answered yet: Redis answers in this order."""
        self._asking: set[Line] = set()
        """Who waits for a pong."""
        self._asked_at: float | None = None
        self._heard_at = -_FRESH
        self._connection: AbstractConnection | None = None
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listen(self, channel: str, where: str) -> AsyncIterator[Line]:
        """Hear what is said on `channel`; `where` is for errors."""
        line = Line(self, channel, where)
        self._lines[channel] = line
        try:
            if self._listening is None or self._listening.done():
                self._listening = asyncio.create_task(self._listen())
            elif self._connection:
                with speaking(where, "subscribing"):
                    await self._join([line])
            yield line
        finally:
            await self._leave(line)

    async def close(self) -> None:
        """Hear nothing more."""
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _leave(self, line: Line) -> None:
        self._asking.discard(line)
        if self._lines.get(line.channel) is not line:
            return  # the connection is gone, or it has joined anew
        del self._lines[line.channel]
        # What still comes is heard by nobody: to unsubscribe takes leave that nobody else needs.
        if not self._lines:
            await self.close()

    async def _join(self, lines: list[Line]) -> None:
        """Ask Redis for what `lines` want to hear: each by itself, for one may be refused."""
        for begin in range(0, len(lines), _JOIN_AT_ONCE):
            some = lines[begin : begin + _JOIN_AT_ONCE]
            self._expected.extend(some)
            await self._send(*(["SUBSCRIBE", line.channel] for line in some))

    async def _send(self, *commands: list[str]) -> None:
        if connection := self._connection:
            if not connection.is_connected:
                # It would connect anew, and who joined before would not be there.
                raise exceptions.ConnectionError("the connection is dead")
            packed = connection.pack_commands(commands)
            await connection.send_packed_command(packed, check_health=False)

    async def ping(self, line: Line) -> None:
        """Let `line` hear a `Pong`, once something shows that Redis is there."""
        now = self._clock.monotonic()
        if now - self._heard_at < _FRESH:
            line.put(Pong())
            return
        self._asking.add(line)
        if self._asked_at is None and self._connection:  # else a `Subscribed` is the answer
            self._asked_at = now
            await self._send(["PING"])

    # --- listening -------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Until the connection fails, or everybody has left: then all begin anew."""
        error: Exception = RedisUnavailable("redis: listening: it ended")
        try:
            async with waiting_apart(self._client) as there:
                pool = there.connection_pool
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
                try:
                    await self._serve(connection)
                finally:
                    self._connection = None
                    await connection.disconnect(nowait=True)
                    await pool.release(connection)
        except Exception as failed:  # noqa: BLE001 - each ring tells what that means to it
            error = failed
        finally:
            self._connection = None
            lines, self._lines = self._lines, {}
            self._expected.clear()
            self._asking.clear()
            self._asked_at = None
            for line in lines.values():
                line.fail(error)

    async def _serve(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._heard_at = self._clock.monotonic()
        await self._join(list(self._lines.values()))
        early = 0
        while True:
            began = self._clock.monotonic()
            try:
                message = await connection.read_response(
                    timeout=_LOOK_EVERY if self._asked_at else 10 * _LOOK_EVERY,
                    disconnect_on_error=False,
                    push_request=True,
                )
            except exceptions.ResponseError as error:
                self._refuse(error)
                continue
            # A dead peer may answer without ever yielding to the event loop: let it run.
            await asyncio.sleep(0)
            now = self._clock.monotonic()
            if message is None:
                early = early + 1 if now - began < _LOOK_EVERY / 2 else 0
                self._judge_silence(early, now)
                continue
            early, self._heard_at = 0, now
            self._hand_on(message)

    def _judge_silence(self, early: int, now: float) -> None:
        if early >= _EARLY_NONES:
            raise exceptions.ConnectionError("the connection is dead")
        if self._asked_at is not None and now - self._asked_at >= PONG_WITHIN:
            raise exceptions.ConnectionError("no answer to a ping; connecting anew")

    def _refuse(self, error: exceptions.ResponseError) -> None:
        """Redis refuses what was asked for first: one ring's channel, and no other's."""
        if not self._expected:
            raise error
        line = self._expected.popleft()
        if self._lines.get(line.channel) is line:
            del self._lines[line.channel]
        line.fail(error)

    def _hand_on(self, message: Any) -> None:
        kind, *rest = message if isinstance(message, list) else [str(message).lower()]
        match kind:
            case "message":
                if line := self._lines.get(rest[0]):
                    line.put(Published.decode(str(rest[1])))
            case "subscribe":
                if self._expected:
                    self._expected.popleft().put(Subscribed())
            case "pong":
                asking, self._asking, self._asked_at = self._asking, set(), None
                for line in asking:
                    line.put(Pong())
            case _:
                pass
