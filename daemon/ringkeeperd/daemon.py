"""The daemon: rings, HTTP and signals, from start to stop. I/O is put in order here."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import ringkeeperd.lean  # noqa: F401  # isort: skip - before what it loads
from ringkeeper.clock import SystemClock
from ringkeeper.configuration import difference, load
from ringkeeper.errors import (
    ConfigurationError,
    Defect,
    FilesUnusable,
    InfrastructureError,
    RedisUnavailable,
    RequestRefused,
    RingkeeperError,
    RingLed,
    SecretError,
)
from ringkeeper.kek_variable import WHY_NOT, KekVariable
from ringkeeper.secret_files import read_token
from ringkeeper.tasks import first_of, to_beat
from ringkeeper.watched import Watched, signature
from ringkeeperd.balance import Balance
from ringkeeperd.doctor import Level, examine_server
from ringkeeperd.embedded import EmbeddedServer
from ringkeeperd.founding import FOUNDING_TTL, any_ring, found_ring
from ringkeeperd.handing_on import check_files, remove_orphans
from ringkeeperd.intake import TokenMissing
from ringkeeperd.lean import web
from ringkeeperd.limits import Runner
from ringkeeperd.memory import give_memory_back
from ringkeeperd.metrics import Metrics
from ringkeeperd.own_secrets import Secrets, make_secrets, read_secrets, secret_paths
from ringkeeperd.redis_facts import server_facts
from ringkeeperd.report import Report
from ringkeeperd.running import RunningRings
from ringkeeperd.service import RingService
from ringkeeperd.shared_redis import SharedRedis
from ringkeeperd.supervisor import Supervisor
from ringkeeperd.web import Pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from structlog.stdlib import BoundLogger

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.secret import Secret

_AT_REST: Final = 0.5
"""Seconds without a change, after which nobody is writing a file any more."""
_LOOK_AT_REDIS_EVERY = 600.0
_SETTLES_AFTER: Final = 2.0
_SETTLES_WITHIN: Final = 60.0
"""Seconds from when all rings are loaded, and at the most, until the start is over."""
_LOOK_EVERY = 5.0
"""Seconds between two looks at the configuration file."""
_STOP_IT = "stop what uses it, or choose another address in listen"
_REMEDIES = {
    errno.EACCES: (
        "ports below 1024 need a privilege: choose a higher one in listen, or write into the unit "
        "AmbientCapabilities=CAP_NET_BIND_SERVICE and CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    ),
    errno.EADDRNOTAVAIL: "no interface of this host has that address: choose another in listen",
}


class Daemon:
    """A running daemon."""

    def __init__(
        self, configuration: Configuration, log: BoundLogger, supervisor: Supervisor | None = None
    ) -> None:
        """Read nothing yet; `run` does."""
        self.configuration = configuration
        self.log = log
        self.metrics = Metrics()
        self.rings = RunningRings()
        self.services = self.rings.services
        self.clock = SystemClock()
        self._balance = Balance(self.services, self.clock)
        self.rejected = ""
        """Why the edited configuration is not the one in force."""
        self.warnings: tuple[str, ...] = ()
        """What is not as it should be with Redis, in constant words."""
        self._token: Watched[Secret | TokenMissing] | None = None
        """Who has it may count refreshes; None where none is configured."""
        self._reload_asked = asyncio.Event()
        self._file_seen = signature(configuration.path)
        self.secrets_rejected = ""
        """Why the secret files of now are not in use."""
        self._report = Report(supervisor or Supervisor(), self.services, self._remarks, log)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            RingkeeperError: it cannot start, and why.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._ask_for_reload)
        configuration = self.configuration
        await check_listen(configuration.host, configuration.port)  # before anything is made
        check_files(configuration)
        self._remove_orphans()
        async with AsyncExitStack() as stack:
            server = None
            if configuration.embedded:
                server = await EmbeddedServer.start(configuration.embedded)
                stack.push_async_callback(server.stop)
                await self._found_embedded(configuration.embedded, configuration.rings)
            secrets = Watched(secret_paths(configuration), partial(read_secrets, configuration))
            own = secrets.value
            if path := configuration.refreshes_token_file:
                self._token = Watched([path], partial(self._read_token, path))
            shared = SharedRedis(configuration, self.clock)
            stack.push_async_callback(shared.close)
            for ring in configuration.rings:
                self.rings.add(self._service(ring, secrets.value, shared))
            self.metrics.watch(self.services, configuration.redis_tls)
            await stack.enter_async_context(self._serving())
            self.log.info(
                "serving",
                url=f"http://{_bracketed(configuration.host)}:{configuration.port}",
                redis=configuration.redis_shown,
                rings=list(self.services),
                lead=configuration.lead,
            )
            if own.kek and isinstance(configuration.kek, KekVariable):
                name = configuration.kek.name
                self.log.warning("kek in the environment", variable=name, why=WHY_NOT)
            work = [self.rings.run(), self._reload_when_due(secrets, shared)]
            if server:
                work.append(server.supervise(self._tell))
            work += [self._balance.run(), self._look_at_redis(), self._report.run()]
            work.append(self._settle())
            await first_of(self._until(stop), *work)
            self.log.info("stopping")

    async def _settle(self) -> None:
        """Give back what the start needed, once it is over: for a moment, all else waits."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLES_WITHIN):
                for service in list(self.services.values()):
                    await service.follower.ready.wait()
                await asyncio.sleep(_SETTLES_AFTER)
        give_memory_back()
        await asyncio.Event().wait()

    def _service(self, ring: RingConfiguration, own: Secrets, shared: SharedRedis) -> RingService:
        service = RingService(
            ring, self.configuration, own, self.clock, self.log, self.metrics, shared
        )
        if service.leader:
            service.leader.hesitation = self._balance.hesitation
        self._balance.changed.set()
        return service

    async def reload(self, own: Secrets, shared: SharedRedis) -> None:
        """Take up the edited configuration; a bad one is told, and the running one kept."""
        try:
            # A thousand rings are read in a second or so, and leases are renewed meanwhile.
            new = await asyncio.to_thread(load, self.configuration.path, os.environ)
        except ConfigurationError as error:
            self._count_reload("configuration", is_taken=False)
            # What is wrong may quote a setting: that is for the log, not for whoever asks.
            self.rejected = (
                f"rejected at the last reload, the former one is in force: {len(error.problems)} "
                "to be mended; ringkeeper check tells what"
            )
            self.log.error(  # noqa: TRY400 - the problems say it all
                "configuration rejected", problems=list(error.problems)
            )
            return
        self._count_reload("configuration", is_taken=True)
        self.rejected = ""
        for ring in new.rings:
            service = self.services.get(ring.name)
            if service and service.leader:
                service.leader.change_policy(ring.policy, ring.given)
        await self._change_rings(new, own, shared)
        # Compared with what this process began with: that is what still holds until a restart.
        later = difference(self.configuration, new)
        self.log.info("configuration reloaded", needs_restart=list(later))

    async def _change_rings(self, new: Configuration, own: Secrets, shared: SharedRedis) -> None:
        """Begin with rings that came, and let those go that went; the first is this daemon's.

        Nothing is changed in Redis: a ring is made by `init`, or here if the server is ours alone.
        """
        running = self.configuration.rings
        wanted = (running[0], *(ring for ring in new.rings[1:] if ring.name != running[0].name))
        names = {ring.name for ring in wanted}
        fresh = [ring for ring in wanted if ring.name not in self.services]
        self.configuration = replace(self.configuration, rings=wanted)
        gone = [name for name in self.services if name not in names]
        await self.rings.remove(gone)
        for name in gone:
            self.metrics.forget(name)
            self.log.info("ring let go", ring=name)
        self._remove_orphans()
        if fresh and self.configuration.embedded:
            try:
                await self._found_embedded(self.configuration.embedded, fresh)
            except RingkeeperError as error:  # what runs goes on
                self.log.error("ring not made", why=str(error))  # noqa: TRY400
        for ring in fresh:
            self.metrics.add(ring.name)
            self.rings.add(self._service(ring, own, shared))
            self.log.info("ring taken on", ring=ring.name)

    def _remove_orphans(self) -> None:
        try:
            remove_orphans(self.configuration)
        except FilesUnusable as error:
            self.log.error("files troubled", error=str(error))  # noqa: TRY400

    def _ask_for_reload(self) -> None:
        self._report.reload_asked()  # at once: whoever asks may wait for the end of it
        self._reload_asked.set()

    async def _until(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._report.stopping()

    async def _reload_when_due(self, secrets: Watched[Secrets], shared: SharedRedis) -> None:
        """Reload at a SIGHUP, and when a file was changed, or replaced as Kubernetes does it."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(to_beat(_LOOK_EVERY)):
                    await self._reload_asked.wait()
            await self._renew(secrets)
            if self._token:
                await asyncio.to_thread(self._token.renewed)
            found = signature(self.configuration.path)
            if found != self._file_seen and not self._reload_asked.is_set():
                # Half a file may be a good one, with fewer rings: it is read once it is at rest.
                await asyncio.sleep(_AT_REST)
                if signature(self.configuration.path) != found:
                    continue
            if self._reload_asked.is_set() or found != self._file_seen:
                self._reload_asked.clear()
                self._file_seen = found
                with self._report.reloading():
                    await self.reload(secrets.value, shared)

    async def _look_at_redis(self) -> None:
        """Look now and then at what would lose keys one day, and tell of it once (`doctor`)."""
        while self.configuration.lead:
            with suppress(RedisUnavailable, SecretError):
                facts = await server_facts(self.configuration, is_brief=True)
                found = examine_server(facts, self.configuration.rings[0].policy)
                bad = [finding for finding in found if finding.level is Level.FAIL]
                warnings = tuple(f"redis: {finding.about}" for finding in bad)
                for finding in bad:
                    if f"redis: {finding.about}" not in self.warnings:
                        told = {"about": finding.about, "what": finding.what}
                        self.log.warning("redis endangers rings", **told, remedy=finding.remedy)
                self.warnings = warnings
            await asyncio.sleep(_LOOK_AT_REDIS_EVERY)
        await asyncio.Event().wait()

    def _reservations(self) -> tuple[str, ...]:
        """What is not as it should be, in constant words."""
        rejected = ("secrets: the files of now cannot be used; the log says why",)
        return self.warnings + (rejected if self.secrets_rejected else ())

    def _remarks(self) -> tuple[str, ...]:
        """The same, and whether the edited configuration is in force: for the supervisor."""
        is_in_force = ("configuration " + self.rejected,) if self.rejected else ()
        return is_in_force + self._reservations()

    async def _renew(self, secrets: Watched[Secrets]) -> None:
        """Take up secret files that were changed or replaced; bad ones are told, and not used."""
        try:
            own = await asyncio.to_thread(secrets.renewed)
        except SecretError as error:
            if str(error) != self.secrets_rejected:
                self.secrets_rejected = str(error)
                self._count_reload("secrets", is_taken=False)
                self.log.error("secrets rejected", error=str(error))  # noqa: TRY400
            return
        self.secrets_rejected = ""  # also where the very file came back that is in use
        self.metrics.last_reload.labels("secrets").set(1)
        if own is None:
            return
        self._count_reload("secrets", is_taken=True)
        for service in self.services.values():
            await service.change_secrets(own)
        keks = own.kek.kids if own.kek else ()
        self.log.info("secrets taken up", roots=own.roots.kids, keks=keks)

    def _count_reload(self, what: str, *, is_taken: bool) -> None:
        self.metrics.config_reloads.labels("success" if is_taken else "failure").inc()
        self.metrics.last_reload.labels(what).set(is_taken)

    def _read_token(self, path: Path) -> Secret | TokenMissing:
        """The token for counting, in use or told why not; keys turn without it, too."""
        try:
            token = read_token(path)
        except SecretError as error:
            self._count_reload("refreshes_token", is_taken=False)
            self.log.error("refreshes token rejected", error=str(error))  # noqa: TRY400
            return TokenMissing()
        self.metrics.last_reload.labels("refreshes_token").set(1)
        self.log.info("refreshes token taken up", file=str(path))
        return token

    async def _found_embedded(self, directory: Path, rings: Sequence[RingConfiguration]) -> None:
        """The first start makes secrets and rings by itself, here alone; no later one does."""
        configuration = self.configuration
        markers = {ring: directory / f"founded-{ring.name}" for ring in rings}
        fresh = [ring for ring, marker in markers.items() if not marker.exists()]
        if not fresh or not configuration.lead:
            return
        # Promise 7: a secret that is missing where a ring was made before is never made anew.
        if not list(directory.glob("founded-*")) and not await any_ring(configuration):
            make_secrets(configuration)
        for ring in fresh:
            try:
                await self._found_patiently(ring)
                self.metrics.bootstraps.labels(ring.name).inc()
                self.log.info("ring made", ring=ring.name, directory=str(directory))
            except RingLed:
                raise
            except RequestRefused as refusal:
                self.log.info("ring not made", ring=ring.name, why=str(refusal))
            markers[ring].touch(mode=0o600)

    async def _found_patiently(self, ring: RingConfiguration) -> None:
        """Make `ring`; a start that was killed in the midst of it may still keep us out."""
        until = self.clock.monotonic() + 1.2 * FOUNDING_TTL.total_seconds()
        while True:
            try:
                await found_ring(self.configuration, ring)
            except RingLed:
                if self.clock.monotonic() > until:
                    raise
                await asyncio.sleep(_LOOK_EVERY / 10)
            else:
                return

    def _tell(self, event: str, /, **fields: object) -> None:
        self.log.warning(event, **fields)

    def _serving(self) -> _Serving:
        pages = Pages(
            self.services,
            self.metrics,
            self.configuration.issuer,
            lambda: self.rejected,
            self._reservations,
            lambda: self._token.value if self._token else None,
        )
        runner = Runner(pages.application(), self._count_refusal, self._tell_defect)
        return _Serving(runner, self.configuration.host, self.configuration.port)

    def _count_refusal(self, reason: str) -> None:
        self.metrics.http_refused.labels(reason).inc()

    def _tell_defect(self, error: BaseException) -> None:
        self.log.error("page failed", error=str(Defect.of(error)), exc_info=error)


class _Serving:
    """The HTTP server, as a context."""

    def __init__(self, runner: Runner, host: str, port: int) -> None:
        self._runner = runner
        self._where = host, port

    async def __aenter__(self) -> None:
        host, port = self._where
        await self._runner.setup()
        try:
            with _listening(host, port):
                await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        except InfrastructureError:
            await self._runner.cleanup()
            raise

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()


async def check_listen(host: str, port: int) -> None:
    """Whether one can listen there.

    Raises:
        InfrastructureError: why not.
    """
    loop = asyncio.get_running_loop()
    with _listening(host, port):
        tried = await loop.create_server(
            asyncio.Protocol, host, port, reuse_address=True, start_serving=False
        )
    tried.close()


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise InfrastructureError(
            f"listen: {host}:{port}: {why.lower()}; {_REMEDIES.get(error.errno or 0, _STOP_IT)}"
        ) from None


def _bracketed(host: str) -> str:
    """As a URL has it."""
    return f"[{host}]" if ":" in host else host
