"""`ringkeeper init`: secrets and rings are made, once. Promise 7: nothing that exists is touched.

Secrets may be made apart from the rings, where no Redis can be reached: on the machine of an
operator, who hands them to where the daemons run.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.clock import SystemClock
from ringkeeper.errors import RequestRefused, RingkeeperError, RingLost
from ringkeeper.kek_variable import KekVariable
from ringkeeper.ring import KeyKind, KeyState
from ringkeeper.secret_files import is_there, read_pair
from ringkeeperd.embedded import EmbeddedServer
from ringkeeperd.founding import any_ring, find_ring, found_ring, is_any_kept
from ringkeeperd.many import at_each
from ringkeeperd.own_secrets import make_secrets, make_secrets_at
from ringkeeperd.shared_redis import SharedRedis
from ringkeeperd.words import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.ring import Key, Ring
    from ringkeeperd.importing import Move

_FEW: Final = 5
"""Rings of which each is told by itself."""
_NAMES = ("root.jwk", "root.pub.jwk", "kek.jwk")


async def make_all(configuration: Configuration, *, if_missing: bool) -> AsyncIterator[str]:
    """Make all secrets and rings that there are not; a line for each.

    Rings that exist are refused, once the others are made; or, with `if_missing`, read with the
    secrets that are here. With it, one that Redis lost is left to the daemon, too: in most places
    that is started once this has ended well.

    Raises:
        RequestRefused: a ring exists, or was made before and is lost; or its secrets are.
        DocumentError, SealBroken: it exists, and these are not its secrets.
    """
    async with _server_of(configuration):
        for path in await _secrets_made(configuration):
            yield f"made {path}"
        async for line in _rings_made(configuration, if_missing=if_missing):
            yield line


async def _rings_made(configuration: Configuration, *, if_missing: bool) -> AsyncIterator[str]:
    """A line for each ring, or, where they are many, how many there are of each kind."""
    shared = SharedRedis(configuration, SystemClock())

    async def make(ring: RingConfiguration) -> _Became:
        return await _made(configuration, ring, shared, if_missing=if_missing)

    refusals: list[RingkeeperError] = []
    try:
        if len(configuration.rings) > _FEW:
            became = (await at_each(configuration.rings, make, "made or found")).values()
            good = [each for each in became if isinstance(each, _Became)]
            refusals = [each for each in became if isinstance(each, RingkeeperError)]
            for what, count in Counter(each.kind for each in good).items():
                yield f"{what} {counted(count, 'ring')}"
        else:
            for ring in configuration.rings:
                try:
                    yield (await make(ring)).line
                except RequestRefused as refusal:
                    refusals.append(refusal)
    finally:
        await shared.close()
    if refusals:
        raise _of_many(refusals)


def _of_many(errors: list[RingkeeperError]) -> RingkeeperError:
    """The first of them that no rerun would show to be harmless, and of how many it is one."""
    worst = next((e for e in errors if not isinstance(e, RequestRefused)), errors[-1])
    if len(errors) == 1:
        return worst
    return type(worst)(f"{worst} ({len(errors)} rings were not made)")


async def make_moved(
    configuration: Configuration, wanted: RingConfiguration, move: Move
) -> AsyncIterator[str]:
    """Make the ring `wanted` with the keys that `move` brings, and secrets where there are none.

    Raises:
        RequestRefused: as `make_all`.
    """
    if not configuration.lead:
        raise RequestRefused("lead is false here; make the ring where the private root is")
    async with _server_of(configuration):
        for path in await _secrets_made(configuration):
            yield f"made {path}"
        made = await found_ring(configuration, wanted, move=move)
    yield _told_of(made)
    for brought in move.keys:
        if key := made.key(brought.fresh.kid):
            yield f"  {key.kid} ({key.algorithm}) {_told_of_key(made, key)}"


async def _secrets_made(configuration: Configuration) -> tuple[Path, ...]:
    """The secrets that were made, where there were none, and no ring that needs others."""
    for path, what in (
        (configuration.kek, "there is no KEK"),
        (configuration.trust_root, "there is no trust root"),
    ):
        if not is_there(path) and await any_ring(configuration):
            raise RequestRefused(
                f"{path}: {what} here, but a ring was made before; restore it from where "
                "that was: a fresh one is of no use to that ring (docs/secrets.md)"
            )
    return make_secrets(configuration)


def _told_of(ring: Ring) -> str:
    return f"made ring {ring.name}: {ring.signer.kid if ring.signer else ''} signs"


def _told_of_key(ring: Ring, key: Key) -> str:
    """What a key that came along does from now on."""
    if key.remove_at:
        return f"verifies what it signed, until {key.remove_at:%Y-%m-%d %H:%M:%S} UTC"
    if key.kind is KeyKind.FOREIGN:
        return "verifies only, until ringkeeper static retire"
    if key.state is KeyState.PUBLISHED:
        return "verifies, until ringkeeper static retire"
    is_signer = key == ring.signer
    return "signs" if is_signer else f"signs where {key.kind} keys are chosen"


@asynccontextmanager
async def _server_of(configuration: Configuration) -> AsyncIterator[None]:
    """The embedded server, running meanwhile, where it is the one configured."""
    if configuration.embedded is None:
        yield
        return
    server = await EmbeddedServer.start(configuration.embedded)
    try:
        yield
    finally:
        await server.stop()


class _Became(NamedTuple):
    """What became of one ring."""

    line: str
    kind: str


async def _made(
    configuration: Configuration,
    wanted: RingConfiguration,
    shared: SharedRedis,
    *,
    if_missing: bool,
) -> _Became:
    if if_missing and (there := await find_ring(configuration, wanted, shared)):
        line = f"ring {there.name} exists, version {there.version}, and these secrets open it"
        return _Became(line, "exist, and these secrets open them:")
    try:
        made = await found_ring(configuration, wanted, shared)
    except RingLost:
        if not if_missing:
            raise
        line = f"ring {wanted.name} is known here, and Redis lost it: the daemon puts it back"
        return _Became(line, "known here, and lost by Redis, the daemon puts them back:")
    return _Became(_told_of(made), "made")


def make_secrets_alone(configuration: Configuration) -> tuple[Path, ...]:
    """Make the secrets of this configuration where there are none, and ask no Redis.

    Raises:
        RequestRefused: as `make_secrets_in`; or a ring is known on this host.
    """
    if not configuration.lead:
        raise RequestRefused("lead is false here; make the secrets for where daemons lead")
    return _made_alone(
        configuration.trust_root,
        configuration.trust_root_public,
        configuration.kek,
        is_known=lambda: is_any_kept(configuration),
    )


def make_secrets_in(directory: Path) -> tuple[Path, ...]:
    """Make the secrets in `directory` where there are none, and ask nobody; the files written.

    Raises:
        RequestRefused: one is there without the other, which may be lost and not new.
    """
    private, public, kek = (directory / name for name in _NAMES)
    return _made_alone(private, public, kek, is_known=lambda: False)


def _made_alone(
    private: Path, public: Path, kek: Path | KekVariable, *, is_known: Callable[[], bool]
) -> tuple[Path, ...]:
    """A secret that a ring may have been made with is never replaced by a fresh one."""
    places = [private, kek] if not isinstance(kek, KekVariable) else [private]
    missing = [place for place in places if not is_there(place)]
    present = [place for place in (*places, public) if is_there(place)]
    if missing and present:
        raise RequestRefused(
            f"{missing[0]}: is not there, but {present[0]} is: restore it from where a ring was "
            "made with it; only where none ever was, move what is there away and try again"
        )
    if missing and is_known():
        raise RequestRefused(
            f"{missing[0]}: is not there, but a ring is known on this host; restore it from where "
            "that was made (docs/secrets.md)"
        )
    made = make_secrets_at(private, public, kek)
    read_pair(private, public)  # what was there all along may not belong together
    return made
