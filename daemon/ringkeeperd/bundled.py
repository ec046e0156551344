"""One connection for the commands of many rings: what is asked at once goes out at once.

A thousand rings renew a thousand leases. On a connection each, that is a thousand connections; with
a pool, each command pays for a turn of its own. Here a command waits until the former ones are
answered, and whatever came meanwhile goes with it. Each answer, and each error that Redis gives,
is its asker's alone; where the connection fails, all who wait for it hear of that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, NamedTuple

from redis.asyncio.client import Pipeline, Redis

_MOST: Final = 200
"""Commands that go together: one that is slow holds up no more than these."""

_BUSY: Final = 0.02
"""Seconds: who is asked again so soon after an answer has many who ask."""
_GATHER: Final = 0.008
"""Seconds that others have then to come along: each trip costs more than what it carries."""


class _Asked(NamedTuple):
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    answer: asyncio.Future[Any]


class BundledRedis(Redis):
    """A client like redis-py's own, for many who know nothing of each other."""

    def __init__(self, client: Redis) -> None:
        """Speak to the server of `client`, by its connections."""
        super().__init__(connection_pool=client.connection_pool)
        self._asked: deque[_Asked] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._answered_at = -_BUSY
        self._crowd = 0
        """How many asked since something was sent last."""
        self._was_crowded = False
        """Whether several had asked for what was sent last."""
        self._known: dict[str, Any] = {}

    def register_script(self, script: Any) -> Any:
        """The script, one for all who register it."""
        known = self._known.get(script)
        if known is None:
            known = self._known[script] = super().register_script(script)
        return known

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's; whoever is cancelled meanwhile takes no connection along."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ask([_Asked(args, options, answer)])
        return await answer

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002 - redis-py's
        """Several commands, in their order, among those of others."""
        return _Together(self, transaction, shard_hint)

    def _ask(self, asked: list[_Asked]) -> None:
        self._asked.extend(asked)
        self._crowd += 1
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while self._asked:
            # One who asks for one thing after the other waits for nobody.
            if self._was_crowded and loop.time() - self._answered_at < _BUSY:
                await asyncio.sleep(_GATHER)
            self._was_crowded, self._crowd = self._crowd > 1, 0
            waiting = [self._asked.popleft() for _ in range(min(_MOST, len(self._asked)))]
            waiting = [asked for asked in waiting if not asked.answer.done()]
            try:
                answers = await self._answers(waiting)
            except Exception as error:  # noqa: BLE001 - it is for those to judge who asked
                answers = [error] * len(waiting)
            self._answered_at = loop.time()
            for asked, answer in zip(waiting, answers, strict=True):
                if asked.answer.done():  # who asked was cancelled
                    continue
                if isinstance(answer, Exception):
                    asked.answer.set_exception(answer)
                else:
                    asked.answer.set_result(answer)

    async def _answers(self, asked: list[_Asked]) -> list[Any]:
        if len(asked) == 1:
            return [
                await super().execute_command(*asked[0].arguments, **asked[0].options)  # type: ignore[no-untyped-call]
            ]
        async with super().pipeline(transaction=False) as together:
            for each in asked:
                together.pipeline_execute_command(*each.arguments, **each.options)  # type: ignore[no-untyped-call]
            answers: list[Any] = await together.execute(raise_on_error=False)
            return answers


class _Together(Pipeline):
    """Commands of one asker, that go with the others'."""

    def __init__(self, client: BundledRedis, transaction: bool, shard_hint: str | None) -> None:  # noqa: FBT001 - redis-py's
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's
        """The answers, in the order of the commands; the first error is raised."""
        loop = asyncio.get_running_loop()
        asked = [
            _Asked(a, dict(options), loop.create_future()) for a, options in self.command_stack
        ]
        self.command_stack = []
        self._client._ask(asked)  # noqa: SLF001 - they are one thing
        answers = await asyncio.gather(*(each.answer for each in asked), return_exceptions=True)
        failed = next((each for each in answers if isinstance(each, BaseException)), None)
        if failed and raise_on_error:
            raise failed
        return answers
