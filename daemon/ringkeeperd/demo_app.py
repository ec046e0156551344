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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeper.asyncio import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import (
    ExpiredToken,
    InfrastructureError,
    RefreshReason,
    RevokedKid,
    RingkeeperError,
)
from ringkeeper.tokens import kid_in

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
    paused: int = 0
    """Requests that an app could not serve for want of Redis or a leader: nothing was judged."""
    overdue: int = 0
    """Tokens that were refused as expired, and had expired when the answer came."""
    revoked: int = 0
    """Tokens that were refused because their key was revoked."""
    revoked_by_kid: dict[str, int] = field(default_factory=dict)
    """The same by the key that had signed them."""
    rejected: list[str] = field(default_factory=list)
    propagation_ms: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Session:
    """A user's token, and until when it is used, and good: both in seconds since 1970."""

    token: str = ""
    refresh_at: float = 0.0
    expires_at: float = 0.0


_NO_VERDICT = "paused"
_EXPIRED = f"{ExpiredToken.__name__}:"
_REVOKED = f"{RevokedKid.__name__}:"


class App:
    """One app process."""

    def __init__(self, folder: Path, number: int, apps: int, users: int) -> None:
        """App `number` of `apps`, with `users` users of its own."""
        self._folder = folder
        self._number = number
        self._others = [n for n in range(apps) if n != number]
        self._sessions = dict.fromkeys(range(users), Session())
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
            except InfrastructureError:
                writer.write(f"{_NO_VERDICT}\n".encode())
            except RingkeeperError as error:
                writer.write(f"{type(error).__name__}: {error}\n".encode())
            with suppress(OSError):
                await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(answer, path):
            await asyncio.gather(self._let_users_come(ring), self._report(), self._watch(ring))

    async def _let_users_come(self, ring: Keyring) -> None:
        while True:
            for user in self._random.sample(sorted(self._sessions), _REQUESTS_A_TICK):
                await self._request(ring, user)
            await asyncio.sleep(_TICK)

    async def _request(self, ring: Keyring, user: int) -> None:
        """One request of a user, with a token that is refreshed when three quarters are over."""
        session = self._sessions[user]
        now = _CLOCK.now().timestamp()
        if now >= session.refresh_at:
            try:
                token = await ring.sign({"sub": f"user-{self._number}-{user}"})
                expires_at = (await ring.verify(token))["exp"]
            except InfrastructureError:
                self._counts.paused += 1
                return
            # All came at once when the app began, and must not come back at once.
            share = 0.75 if session.token else self._random.uniform(0, 0.75)
            session = Session(token, now + share * (expires_at - now), expires_at)
            if self._sessions[user].token:
                ring.record_refresh(RefreshReason.EXPIRED)
            self._sessions[user] = session
            self._counts.signed += 1
        try:
            async with asyncio.timeout(2):
                said = await self._asked(self._random.choice(self._others), session.token)
        except (OSError, TimeoutError):
            said = ""
        if said.startswith(_REVOKED):
            self._count_revoked(kid_in(session.token))
            ring.record_refresh(RevokedKid.reason)
            self._sessions[user] = Session()
            return
        self._count(said, has_expired=_CLOCK.now().timestamp() >= session.expires_at)

    def _count_revoked(self, kid: str) -> None:
        self._counts.revoked += 1
        self._counts.revoked_by_kid[kid] = self._counts.revoked_by_kid.get(kid, 0) + 1

    def _count(self, said: str, *, has_expired: bool) -> None:
        """Count an answer. What is not plainly something else is a rejection."""
        if said == "ok":
            self._counts.verified += 1
        elif said == _NO_VERDICT:
            self._counts.paused += 1
        elif not said:
            self._counts.unanswered += 1
        elif has_expired and said.startswith(_EXPIRED):
            self._counts.overdue += 1
        else:
            self._counts.rejected.append(said[:300])
            self._tell()  # at once: this app may be the next to be killed

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

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self._tell()

    def _tell(self) -> None:
        print(json.dumps(asdict(self._counts)), flush=True)  # noqa: T201 - the demo reads it


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
