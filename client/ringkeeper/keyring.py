"""The live keyring for threads: one background thread follows, every thread signs and verifies.

Signing and verifying read one reference and take no lock. After a fork (gunicorn's prefork) the
child has what its parent held but no thread: its first use starts one, under an identity of its
own, and reads the hash before it answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import weakref
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from ringkeeper import tokens
from ringkeeper.connection import Connection
from ringkeeper.errors import (
    InfrastructureError,
    RefreshReason,
    RingClosed,
    RingNotLoaded,
    UnknownKid,
)
from ringkeeper.layout import DEFAULT_NAME
from ringkeeper.meter import Meter
from ringkeeper.refreshes import RefreshCounts
from ringkeeper.secret import Secret
from ringkeeper.signed import SignedCounts
from ringkeeper.tasks import first_of
from ringkeeper.token_cache import DEFAULT_ENTRIES, CacheStatistics, TokenCache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping
    from datetime import timedelta
    from pathlib import Path

    from ringkeeper.follower import Follower
    from ringkeeper.refreshes import RefreshTeller
    from ringkeeper.replica import Held, Replica
    from ringkeeper.ring import Ring
    from ringkeeper.sealing import Kek
    from ringkeeper.store import RedisStore
    from ringkeeper.tls import Tls
    from ringkeeper.trust import PinnedRoots

_AFTER_FORK = 2.0
"""Seconds that the first use in a forked child waits for news, at the most."""
_SOUGHT_FOR = 2.0
"""Seconds that an unknown kid is looked for, at the most."""


class Keyring:
    """A ring, held live by a background thread. Make one with `connect`; it is thread-safe."""

    def __init__(self, connection: Connection) -> None:
        """Prepare; `start` begins to follow."""
        self._connection = connection
        self._clock = connection.clock
        self._is_strict = connection.strict_key_kind
        self._use_dynamic = connection.use_dynamic
        self._verifies = connection.verifies
        self._count_anew()
        self._background = self._follow(None)
        self._lock = threading.Lock()
        self._is_forked = False
        self._is_begun = True
        """Whether this very process follows; a fork has yet to begin."""
        self._is_closed = False
        _living.add(self)

    @classmethod
    def connect(  # noqa: PLR0913 - all but one by name
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
        timeout: float = 10.0,
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
        return cls(connection).start(timeout)

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        *,
        name: str = "",
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
        timeout: float = 10.0,
    ) -> Self:
        """As `connect`, told by a `config.yaml` (environment variables override it)."""
        connection = Connection.from_config(
            path,
            name=name,
            strict_key_kind=strict_key_kind,
            use_dynamic_access_token_signing_key=use_dynamic_access_token_signing_key,
            verify=verify,
        )
        return cls(connection).start(timeout)

    @classmethod
    def from_env(
        cls,
        *,
        name: str = "",
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
        timeout: float = 10.0,
    ) -> Self:
        """As `connect`, told by environment variables alone."""
        connection = Connection.from_config(
            None,
            name=name,
            strict_key_kind=strict_key_kind,
            use_dynamic_access_token_signing_key=use_dynamic_access_token_signing_key,
            verify=verify,
        )
        return cls(connection).start(timeout)

    def start(self, timeout: float = 10.0) -> Self:
        """Begin to follow, and wait until the ring is loaded (and, to sign, opened)."""
        try:
            self._background.start()
            self._background.wait_until_ready(timeout)
        except BaseException:
            self.close()
            raise
        return self

    def sign(
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

    def verify(
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
        try:  # spelt out: at each request, where a call more shows
            return tokens.judge(
                self._held(), token, self._clock.timestamp(), audience, issuer,
                self._is_strict, self._use_dynamic, self._verifies, self._cache,
            )  # fmt: skip
        except UnknownKid:
            if not self._seek(tokens.kid_in(token)):
                raise
        return self._judge(self._held(), token, audience, issuer)

    async def verify_async(
        self,
        token: str,
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
    ) -> dict[str, Any]:
        """As `verify`, for an event loop: what has to be looked for is awaited."""
        self._verified.tick()
        try:
            return self._judge(self._held_at_once(), token, audience, issuer)
        except UnknownKid:
            if not await self._seek_async(tokens.kid_in(token)):
                raise
        return self._judge(self._held_at_once(), token, audience, issuer)

    def record_refresh(self, reason: str = RefreshReason.OTHER, count: int = 1) -> None:
        """Count a session that has to be refreshed, for metrics; see `ringkeeper.refreshes`.

        `reason`: a `TokenError`'s `reason` says it. It takes well below a microsecond and never
        raises: a reason that is none counts as `other`. Told to Redis within seconds.
        """
        if self._is_forked:
            self._begin_after_fork()
        self._counts.record(reason, count)

    def retry_after(self, most: timedelta | float = 30) -> int:
        """Whole seconds for a `Retry-After` header, up to `most` (seconds, or a timedelta).

        0 unless a crowd has to refresh whose key was revoked; then what spreads it. See
        `ringkeeper.pacing`.
        """
        return self._counts.retry_after(most, self._clock.monotonic())

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The JWK Set of every key whose tokens count."""
        return self._held().ring.jwks()

    def jwk(self, kid: str) -> dict[str, Any]:
        """The JWK of one key whose tokens count, for verifiers of other libraries.

        An unknown kid is looked for as `verify` does.

        Raises:
            UnknownKid, RevokedKid: there is none.
            StaleRing: only where `max_verify_staleness` is set and exceeded.
        """
        try:
            return tokens.jwk_of(self._held(), kid, self._clock.timestamp())
        except UnknownKid:
            if len(kid) > tokens.MAX_HEADER or not self._seek(kid):
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

    def close(self) -> None:
        """Stop following, and let the connections go. Closing twice is fine."""
        self._is_closed = True
        self._background.stop()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        held = None
        with suppress(RingNotLoaded):  # not followed yet: one that failed to start is shown, too
            held = self._background.replica.held
        return f"<Keyring {self._connection.name} version {held.ring.version if held else '-'}>"

    def _judge(
        self, held: Held, token: str, audience: str | Collection[str] | None, issuer: str | None
    ) -> dict[str, Any]:
        return tokens.judge(
            held, token, self._clock.timestamp(), audience, issuer,
            self._is_strict, self._use_dynamic, self._verifies, self._cache,
        )  # fmt: skip

    def _held(self) -> Held:
        held = None if self._is_closed or self._is_forked else self._background.held
        return held or self._held_after_all()

    def _held_after_all(self) -> Held:
        """What there is to do before, or why there is none."""
        if self._is_closed:
            raise RingClosed(f"ring {self._connection.name!r} was closed by this program")
        if self._is_forked:
            self._follow_after_fork()
        if self._background.has_ended:
            raise RingClosed(
                f"ring {self._connection.name!r}: its thread has ended, and nobody follows the "
                "ring here any more; connect anew"
            )
        return self._background.replica.loaded()

    def _held_at_once(self) -> Held:
        """As `_held`; after a fork, what the parent held, until there is news."""
        if self._is_forked and not self._is_closed:
            self._begin_after_fork()
            if self._is_begun:
                self._background.when_there_is_news(self._has_news)
            return self._background.replica.loaded()
        return self._held()

    def _has_news(self) -> None:
        self._is_forked = False

    async def _seek_async(self, kid: str) -> bool:
        return await self._background.seek_async(kid)

    def _seek(self, kid: str) -> bool:
        is_news = self._background.seek(kid)
        self._held()  # closed meanwhile? Then that is to be told, and no unknown kid
        return is_news

    def _follow_after_fork(self) -> None:
        with self._lock:
            if not self._is_forked:
                return
            self._start_after_fork()
            with suppress(RingNotLoaded):
                self._background.wait_for_news(_AFTER_FORK)
            self._is_forked = False

    def _begin_after_fork(self) -> None:
        """Begin to follow, and to tell what is counted; wait for nothing, and raise nothing."""
        if self._is_begun or self._is_closed or not self._lock.acquire(blocking=False):
            return  # whoever has the lock does it
        try:
            with suppress(InfrastructureError):
                self._start_after_fork()
        finally:
            self._lock.release()

    def _start_after_fork(self) -> None:
        if not self._is_begun:
            replica = self._background.replica
            self._background = self._follow(replica)
            self._background.start()
            self._is_begun = True

    def _count_anew(self) -> None:
        self._counts, self._signed, self._verified = RefreshCounts(), SignedCounts(), Meter()
        self._cache = TokenCache(self._connection.token_cache)

    def _follow(self, replica: Replica | None) -> _Background:
        counted = (self._counts, self._signed, self._verified, self._cache)
        return _Background(self._connection, replica, *counted)

    def _forked(self) -> None:
        """In the child of a fork: the thread is gone, and a lock may be held by nobody."""
        self._lock = threading.Lock()
        self._count_anew()  # what was counted so far is the parent's to tell
        self._is_forked, self._is_begun = True, False


class _Background:
    """The thread, its event loop, and the follower that runs there.

    The thread knows nothing of this object: a keyring that is dropped, not closed, ends it, too.
    """

    def __init__(
        self,
        connection: Connection,
        replica: Replica | None,
        counts: RefreshCounts,
        signed: SignedCounts,
        verified: Meter,
        cache: TokenCache,
    ) -> None:
        self._connection = connection
        self._counts = counts
        self._signed = signed
        self._verified = verified
        self._cache = cache
        self._follower: Follower | None = None
        self._known = replica
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._reading: Future[bool] | None = None

    @property
    def held(self) -> Held | None:
        """What is held and followed, if all is as usual."""
        follower, loop = self._follower, self._loop
        if follower is None or loop is None or loop.is_closed():
            return None
        return follower.replica.held

    @property
    def replica(self) -> Replica:
        """The newest verified state."""
        if self._follower is None and self._known:
            return self._known
        return self._following.replica

    @property
    def _following(self) -> Follower:
        if self._follower is None:
            raise RingNotLoaded(f"ring {self._connection.name!r} is not followed yet; call start")
        return self._follower

    def start(self) -> None:
        # Not on the thread: what is wrong with a URL, or this process, is for the caller to hear.
        begun: Future[asyncio.Task[None]] = Future()
        with ExitStack() as failing:
            loop = _event_loop(self._connection.name)
            failing.callback(loop.close)
            follower, store = self._connection.follower(
                self._known, verified=self._verified, known=self._cache.hits
            )
            teller = self._connection.teller(self._counts, self._signed, store)
            thread = threading.Thread(
                target=_run,
                args=(loop, follower, teller, store, begun),
                name="ringkeeper",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as error:
                raise InfrastructureError(
                    f"ring {self._connection.name!r}: no thread to follow it on ({error}); raise "
                    "the limit of processes (ulimit -u)"
                ) from None
            failing.pop_all()
        task = begun.result()
        self._follower, self._loop, self._thread = follower, loop, thread
        # Leave politely even when the program just ends, so that no leader waits for it.
        self._finalizer = weakref.finalize(self, _stop, loop, task, thread, os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether it followed, and does so no more."""
        return self._loop is not None and self._loop.is_closed()

    def wait_until_ready(self, timeout: float) -> None:
        follower = self._following
        if not self._within(follower.ready.wait(), timeout):
            raise follower.trouble or RingNotLoaded(
                f"ring {self._connection.name!r} was not loaded within {timeout:g} s"
            )

    def wait_for_news(self, timeout: float) -> None:
        self._within(self._following.catch_up(), timeout)

    def seek(self, kid: str) -> bool:
        """Whether the follower found news about `kid`; False if it cannot be asked."""
        follower = self._follower
        if follower is None or threading.current_thread() is self._thread:
            return False
        found: list[bool] = []

        async def ask() -> None:
            found.append(await follower.seek(kid))

        return self._within(ask(), _SOUGHT_FOR) and found == [True]

    async def seek_async(self, kid: str) -> bool:
        """As `seek`, awaited in another loop."""
        follower, loop = self._follower, self._loop
        if follower is None or loop is None or loop.is_closed():
            return False
        seeking = follower.seek(kid)
        try:
            found = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(seeking, loop))
        except RuntimeError:  # the loop ended at this very moment
            seeking.close()
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOUGHT_FOR):
                return await found
        return False

    def when_there_is_news(self, tell: Callable[[], None]) -> None:
        """Read the hash, if nobody does yet, and `tell` then; wait for nothing."""
        if self._reading is None and self._loop and self._follower:
            with suppress(RuntimeError):
                reading = self._follower.refresh()
                self._reading = asyncio.run_coroutine_threadsafe(reading, self._loop)
                self._reading.add_done_callback(lambda _: tell())

    def _within(self, doing: Coroutine[Any, Any, object], timeout: float) -> bool:
        """Whether `doing`, run in the background, ended within `timeout` seconds."""
        if self._loop is None or self._loop.is_closed():
            doing.close()
            return False
        try:
            future = asyncio.run_coroutine_threadsafe(doing, self._loop)
        except RuntimeError:  # the loop ended at this very moment
            doing.close()
            return False
        try:
            future.result(timeout)
        except (TimeoutError, CancelledError):  # not asyncio's, which is another one
            future.cancel()
            return False
        return True

    def stop(self) -> None:
        if self._finalizer:
            self._finalizer()


def _event_loop(name: str) -> asyncio.AbstractEventLoop:
    """A fresh event loop.

    Raises:
        InfrastructureError: this process has no file descriptors left.
    """
    try:
        # It needs three. A loop that gets only some of them complains when it is collected.
        with socket.socket(), socket.socket(), socket.socket():
            pass
        return asyncio.new_event_loop()
    except OSError as error:
        raise InfrastructureError(
            f"ring {name!r}: no event loop to follow it on ({error.strerror}); raise the limit of "
            "open files (ulimit -n), or close some"
        ) from None


def _run(
    loop: asyncio.AbstractEventLoop,
    follower: Follower,
    teller: RefreshTeller,
    store: RedisStore,
    begun: Future[asyncio.Task[None]],
) -> None:
    """The thread: follow until the task that `begun` is told of is cancelled."""
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_follow(follower, teller, store, begun))
    finally:
        begun.cancel()  # so that nobody waits for what never began


async def _follow(
    follower: Follower,
    teller: RefreshTeller,
    store: RedisStore,
    begun: Future[asyncio.Task[None]],
) -> None:
    task: asyncio.Task[None] | None = asyncio.current_task()
    assert task  # noqa: S101 - this is one
    begun.set_result(task)
    del task, begun
    try:
        await first_of(follower.run(), teller.run())
    except asyncio.CancelledError:
        pass
    finally:
        await store.close()


def _stop(
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[None],
    thread: threading.Thread,
    pid: int,
) -> None:
    if os.getpid() != pid or not thread.is_alive():
        return
    with suppress(RuntimeError):  # the loop closed meanwhile
        loop.call_soon_threadsafe(task.cancel)
    if threading.current_thread() is not thread:
        thread.join(3.0)


_living: weakref.WeakSet[Keyring] = weakref.WeakSet()


def _after_fork() -> None:
    for ring in list(_living):
        ring._forked()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_after_fork)
