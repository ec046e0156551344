"""The live keyring for asyncio: as `ringkeeper.Keyring`, awaited."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Self

from ringkeeper import tokens
from ringkeeper.connection import Connection
from ringkeeper.errors import RefreshReason, RingClosed, RingNotLoaded, UnknownKid
from ringkeeper.layout import DEFAULT_NAME
from ringkeeper.meter import Meter
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.secret import Secret
from ringkeeper.signed import SignedCounts
from ringkeeper.tasks import first_of
from ringkeeper.token_cache import DEFAULT_ENTRIES, CacheStatistics, TokenCache

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import timedelta
    from pathlib import Path

    from ringkeeper.follower import Follower
    from ringkeeper.replica import Held
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.tls import Tls
    from ringkeeper.trust import PinnedRoots

__all__ = ["Keyring"]


class Keyring:
    """A ring, held live by a task of the running event loop. Make one with `connect`."""

    def __init__(self, connection: Connection) -> None:
        """Prepare; `start` begins to follow."""
        self._connection = connection
        self._clock = connection.clock
        self._is_strict = connection.strict_key_kind
        self._use_dynamic = connection.use_dynamic
        self._verifies = connection.verifies
        self._cache = TokenCache(connection.token_cache)
        self._verified = Meter()
        self._follower, self._store = connection.follower(
            verified=self._verified, known=self._cache.hits
        )
        self._counts, self._signed = RefreshCounts(), SignedCounts()
        self._teller = connection.teller(self._counts, self._signed, self._store)
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._pid = os.getpid()
        self._is_closed = False

    @classmethod
    async def connect(  # noqa: PLR0913 - all but one by name
        cls,
        url: str | Secret,
        *,
        name: str = DEFAULT_NAME,
        trust_root: str | Path | PinnedRoots,
        kek: str | Path | Kek | None = None,
        password: str | Secret | None = None,
        tls: Tls | None = None,
        cache_dir: str | Path | None = None,
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
        token_cache: int = DEFAULT_ENTRIES,
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> Self:
        """A keyring that holds the ring `name`; waits up to `timeout` seconds for it.

        `trust_root`: the path of the public root. `kek`: the path of the KEK, for apps that sign.
        `tls`: the files for a `rediss://` URL, if the system's CAs do not know Redis' certificate,
        or Redis asks for one: `ringkeeper.Tls(ca_file="ca.pem")`.
        `cache_dir`: a directory to keep the ring in (signed and sealed), so that this app also
        starts while Redis is away, for as long as the ring is fresh enough to sign with.
        `strict_key_kind`: refuse the tokens of keys of the kind that does not sign now, as
        SuperTokens does. A switch between dynamic and static then makes every user refresh.
        `use_dynamic_access_token_signing_key`: what this app signs with, whatever the ring's policy
        says: the rotated (dynamic) key, or the static one. Both verify in either case.
        `verify`: who checks signatures: `"own"`, or `"joserfc"`, which takes longer.
        `token_cache`: how many verified tokens are remembered, so that their signatures are not
        checked again; 0 for none. In all up to 4 KiB of memory for each of them.

        Raises:
            InfrastructureError: the ring could not be had in time, and why.
            DocumentError: what Redis holds is missing, forged or of another ring.
            SecretError: a file that cannot be used.
        """
        # Hidden at once: error reporters ship the locals of all frames.
        url, password = Secret.of(url), None if password is None else Secret.of(password)
        connection = Connection.of(
            url,
            name=name,
            trust_root=trust_root,
            kek=kek,
            password=password,
            tls=tls,
            cache_dir=cache_dir,
            strict_key_kind=strict_key_kind,
            use_dynamic_access_token_signing_key=use_dynamic_access_token_signing_key,
            verify=verify,
            token_cache=token_cache,
        )
        return await cls(connection).start(timeout)

    @classmethod
    async def from_config(
        cls,
        path: str | Path,
        *,
        name: str = "",
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> Self:
        """As `connect`, told by a `config.yaml` (environment variables override it)."""
        connection = Connection.from_config(
            path,
            name=name,
            strict_key_kind=strict_key_kind,
            use_dynamic_access_token_signing_key=use_dynamic_access_token_signing_key,
            verify=verify,
        )
        return await cls(connection).start(timeout)

    @classmethod
    async def from_env(
        cls,
        *,
        name: str = "",
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
        timeout: float = 10.0,  # noqa: ASYNC109
    ) -> Self:
        """As `connect`, told by environment variables alone."""
        connection = Connection.from_config(
            None,
            name=name,
            strict_key_kind=strict_key_kind,
            use_dynamic_access_token_signing_key=use_dynamic_access_token_signing_key,
            verify=verify,
        )
        return await cls(connection).start(timeout)

    async def start(self, timeout: float = 10.0) -> Self:  # noqa: ASYNC109
        """Begin to follow, and wait until the ring is loaded (and, to sign, opened)."""
        work = first_of(self._follower.run(), self._teller.run())
        self._task = asyncio.create_task(work, name="ringkeeper")
        self._pid = os.getpid()
        try:
            async with asyncio.timeout(timeout):
                await self._follower.ready.wait()
        except TimeoutError:
            trouble = self._follower.trouble
            await self.close()
            raise trouble or RingNotLoaded(
                f"ring {self._connection.name!r} was not loaded within {timeout:g} s"
            ) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def sign(
        self,
        claims: Mapping[str, Any],
        *,
        lifetime: timedelta | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """A token with `claims`; see `ringkeeper.tokens.issue`."""
        issued = tokens.issue(
            self._held(),
            claims,
            self._clock.timestamp(),
            lifetime=lifetime,
            header=header,
            use_dynamic=self._use_dynamic,
        )
        self._signed.record(issued.kid, issued.lifetime, self._clock.monotonic())
        return issued.token

    async def verify(
        self,
        token: str,
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
    ) -> dict[str, Any]:
        """The claims of `token`; see `ringkeeper.tokens.verify`.

        An unknown kid is looked for in Redis once, within a second.
        """
        self._verified.tick()
        try:
            return tokens.judge(
                self._held(), token, self._clock.timestamp(), audience, issuer,
                self._is_strict, self._use_dynamic, self._verifies, self._cache,
            )  # fmt: skip
        except UnknownKid:
            if not await self._seek(tokens.kid_in(token)):
                raise
        return tokens.judge(
            self._held(), token, self._clock.timestamp(), audience, issuer,
            self._is_strict, self._use_dynamic, self._verifies, self._cache,
        )  # fmt: skip

    def record_refresh(self, reason: str = RefreshReason.OTHER, count: int = 1) -> None:
        """As `ringkeeper.Keyring.record_refresh`; not awaited."""
        self._counts.record(reason, count)

    def retry_after(self, most: timedelta | float = 30) -> int:
        """As `ringkeeper.Keyring.retry_after`; not awaited."""
        return self._counts.retry_after(most, self._clock.monotonic())

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The JWK Set of every key whose tokens count."""
        return self._held().ring.jwks()

    async def jwk(self, kid: str) -> dict[str, Any]:
        """The JWK of one key whose tokens count, for verifiers of other libraries.

        An unknown kid is looked for as `verify` does.

        Raises:
            UnknownKid, RevokedKid: there is none.
            StaleRing: only where `max_verify_staleness` is set and exceeded.
        """
        try:
            return tokens.jwk_of(self._held(), kid, self._clock.timestamp())
        except UnknownKid:
            if len(kid) > tokens.MAX_HEADER or not await self._seek(kid):
                raise
        return tokens.jwk_of(self._held(), kid, self._clock.timestamp())

    @property
    def snapshot(self) -> Ring:
        """The version that is held, whole: keys, states, times, policy."""
        return self._held().ring

    @property
    def version(self) -> int:
        """The version of the ring that is held."""
        return self._held().ring.version

    @property
    def token_cache(self) -> CacheStatistics:
        """What the cache of verified tokens holds, and how often it was of use."""
        return self._cache.statistics

    @property
    def staleness(self) -> timedelta:
        """How old the newest proof of freshness is."""
        return self._held().staleness(self._clock.now())

    async def close(self) -> None:
        """Stop following, and let the connections go. Closing twice is fine."""
        self._is_closed = True
        if self._task and not self._is_here(self._task):
            return  # its connections went with its loop, or are the parent's
        if self._closing is None:
            self._closing = asyncio.create_task(self._end(), name="ringkeeper closing")
        # Whoever is cancelled while it waits hears of it; what was begun is done all the same.
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        try:
            if self._task:
                self._task.cancel()
                await asyncio.wait([self._task])
        finally:
            await self._store.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    def __repr__(self) -> str:
        follower: Follower | None = getattr(self, "_follower", None)  # none where it did not start
        held = follower.replica.held if follower else None
        return f"<Keyring {self._connection.name} version {held.ring.version if held else '-'}>"

    async def _seek(self, kid: str) -> bool:
        return await self._follower.seek(kid)

    def _held(self) -> Held:
        if self._is_closed:
            raise RingClosed(f"ring {self._connection.name!r} was closed by this program")
        if self._task and self._has_ended(self._task):
            raise RingClosed(
                f"ring {self._connection.name!r}: its event loop has ended, or belongs to the "
                "parent of a fork, and nobody follows the ring here any more; connect anew"
            )
        return self._follower.replica.loaded()

    def _has_ended(self, task: asyncio.Task[None]) -> bool:
        return task.done() or task.get_loop().is_closed() or os.getpid() != self._pid

    def _is_here(self, task: asyncio.Task[None]) -> bool:
        return task.get_loop() is asyncio.get_running_loop() and os.getpid() == self._pid
