"""One app of the demo: it issues tokens to its users, and checks those that others issued.

It is what an app would be: a live keyring and nothing else of ringkeeper. Its users' requests go
to a randomly chosen other app, as behind a load balancer.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringkeeper.asyncio import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RingkeeperError

if TYPE_CHECKING:
    from datetime import datetime

    from ringkeeper.ring import Ring

_TICK = 0.02
_REPORT_EVERY = 0.5
_REQUESTS_A_TICK = 2
_CLOCK = SystemClock()


@dataclass
class Counts:
    """What happened since this process began."""

    signed: int = 0
    verified: int = 0
    unanswered: int = 0
    """Requests to an app that was being killed: no answer is not a refusal."""
    rejected: list[str] = field(default_factory=list)
    propagation_ms: list[int] = field(default_factory=list)


class App:
    """One app process."""

    def __init__(self, folder: Path, number: int, apps: int, users: int) -> None:
        """App `number` of `apps`, with `users` users of its own."""
        self._folder = folder
        self._number = number
        self._others = [n for n in range(apps) if n != number]
        self._sessions: dict[int, tuple[str, float]] = dict.fromkeys(range(users), ("", 0.0))
        self._counts = Counts()
        self._random = random.Random(number)  # noqa: S311 - which user comes next

    async def run(self, ring: Keyring) -> None:
        """Serve, and let users come, until killed."""
        path = self._folder / f"app{self._number}.sock"
        path.unlink(missing_ok=True)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            token = (await reader.readline()).decode().strip()
            try:
                await ring.verify(token)
                writer.write(b"ok\n")
            except RingkeeperError as error:
                writer.write(f"{type(error).__name__}: {error}\n".encode())
            with suppress(OSError):
                await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(answer, path):
            await asyncio.gather(self._let_users_come(ring), self._report(ring), self._watch(ring))

    async def _let_users_come(self, ring: Keyring) -> None:
        while True:
            for user in self._random.sample(sorted(self._sessions), _REQUESTS_A_TICK):
                await self._request(ring, user)
            await asyncio.sleep(_TICK)

    async def _request(self, ring: Keyring, user: int) -> None:
        """One request of a user, with a token that is refreshed when three quarters are over."""
        token, refresh_at = self._sessions[user]
        now = _CLOCK.now().timestamp()
        if now >= refresh_at:
            token = await ring.sign({"sub": f"user-{self._number}-{user}"})
            claims = await ring.verify(token)
            self._sessions[user] = (token, now + 0.75 * (claims["exp"] - now))
            self._counts.signed += 1
        try:
            async with asyncio.timeout(2):
                said = await self._asked(self._random.choice(self._others), token)
        except (OSError, TimeoutError):
            self._counts.unanswered += 1
            return
        if said == "ok":
            self._counts.verified += 1
        elif said:
            self._counts.rejected.append(said[:300])
        else:
            self._counts.unanswered += 1

    async def _asked(self, other: int, token: str) -> str:
        path = self._folder / f"app{other}.sock"
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"{token}\n".encode())
        said = (await reader.readline()).decode().strip()
        writer.close()
        return said

    async def _watch(self, ring: Keyring) -> None:
        """How long after it was decided each new version is usable here."""
        changed_at = _changed_at(ring.snapshot)
        while True:
            await asyncio.sleep(0.005)
            newest = _changed_at(ring.snapshot)
            if newest > changed_at:
                changed_at = newest
                age = _CLOCK.now() - changed_at
                self._counts.propagation_ms.append(int(age.total_seconds() * 1000))

    async def _report(self, ring: Keyring) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            line: dict[str, Any] = {
                "version": ring.version,
                "signed": self._counts.signed,
                "verified": self._counts.verified,
                "unanswered": self._counts.unanswered,
                "rejected": self._counts.rejected,
                "propagation_ms": self._counts.propagation_ms,
            }
            print(json.dumps(line), flush=True)  # noqa: T201 - the demo reads it


def _changed_at(ring: Ring) -> datetime:
    """When the leader decided on this version, by the newest change of a key in it."""
    times: list[datetime | None] = []
    for key in ring.keys:
        times += [key.published_at, key.activated_at, key.retired_at, key.revoked_at]
    return max(time for time in times if time)


async def main() -> None:
    """Run one app, as the demo tells it to."""
    folder, number, apps, users = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    async with await Keyring.from_config(folder / "config.yaml", timeout=30) as ring:
        await App(folder, number, apps, users).run(ring)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
