"""A ring as files, for apps in any language: `jwks.json`, and the signing key where asked for.

Promise 4 has its one exception here: a private key in a file, unsealed, because the operator asked
for it. It is refused on a disk, unless that is allowed, and withdrawn when the ring is staler than
`max_staleness`: from then on its tokens might outlive it. The file's own time is that of the newest
proof of freshness by which this key signs; so a daemon that starts anew knows how old it is, and an
app may look, too.

Promise 2: a version is confirmed once the files hold it (`put`), for so does whoever reads them.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ringkeeper.errors import Defect, FilesUnusable, InfrastructureError
from ringkeeper.secret import Secret
from ringkeeperd.aside import Aside, Hanging
from ringkeeperd.file_set import FileSet, is_in_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from ringkeeper.algorithms import PrivateKey
    from ringkeeper.clock import Clock
    from ringkeeper.notices import Notice
    from ringkeeper.replica import Held

JWKS: Final = "jwks.json"
PEM: Final = "signing-key.pem"
JWK: Final = "signing-key.jwk"
KEY_FILES: Final = (PEM, JWK)
_LOOK_EVERY: Final = 30.0
_SOON: Final = 2.5
"""Seconds after which a former version may be removed, or what failed is tried again."""
_LEAST: Final = 0.05
_SKEW: Final = timedelta(minutes=5)
"""How far ahead the time of a key's file may be: it is a leader's, whose clock is another."""
_WITHIN: Final = 5.0
"""Seconds that a file system has to answer."""


class RingFiles:
    """The files of one ring. `put` is called with each version, `wake` set with each proof."""

    def __init__(  # noqa: PLR0913 - everything that is not pure is handed in
        self,
        directory: Path,
        *,
        has_key: bool,
        may_be_on_disk: bool,
        group: int | None = None,
        max_staleness: timedelta,
        clock: Clock,
        notice: Notice,
        on_write: Callable[[bool], None],
        on_change: Callable[[], None],
    ) -> None:
        """Touch nothing yet.

        `group` may read the key, too.
        `max_staleness` is what the configuration says, for as long as no ring says it.
        `on_write` is told whether a new version of the files could be written.
        `on_change` is called once the files are others.
        """
        self.set = FileSet(directory, closed=KEY_FILES, group=group)
        self.wake = asyncio.Event()
        self._has_key = has_key
        self._may_be_on_disk = may_be_on_disk
        self._configured_staleness = max_staleness
        self._clock = clock
        self._notice = notice
        self._on_write = on_write
        self._on_change = on_change
        self._held: Held | None = None
        self._trouble = ""
        self._aside: Aside[float] = Aside("files", _WITHIN)
        self._is_put = False
        """Whether a version was brought here; before that nothing new is written."""
        self._is_news = True
        """Whether somebody is to be told; of the first version at each start, too: perhaps who was
        to be told of it was not."""

    async def put(self, held: Callable[[], Held | None]) -> None:
        """Let the files be what `held` says once it is their turn: never an older version.

        Raises:
            FilesUnusable: why not. What is there stays, or is withdrawn.
        """
        self._is_put = True
        try:
            await self._bring(held)
        except FilesUnusable as error:
            self._trouble = str(error)  # whoever called tells it
            raise
        self._trouble = ""

    async def run(self, held: Callable[[], Held | None]) -> None:
        """Keep the files as `held` says, as time passes, until cancelled."""
        while True:
            pause = _SOON
            try:
                pause = await self._bring(lambda: held() if self._is_put else None)
            except FilesUnusable as error:
                self._is_troubled(error)
            except Exception as error:  # noqa: BLE001 - the last barrier
                self._is_troubled(Defect.of(error))
            else:
                if self._trouble:
                    self._notice("files well again")
                self._trouble = ""
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.wake.wait()
            self.wake.clear()

    def _is_troubled(self, error: InfrastructureError) -> None:
        if self._trouble != str(error):
            self._notice("files troubled", error=str(error))
        self._trouble = str(error)

    # --- bringing them up to date -----------------------------------------------------------------

    async def _bring(self, held: Callable[[], Held | None]) -> float:
        """Let the files be as they should; seconds until they are to be looked at again."""
        try:
            return await self._aside.do(lambda: self._brought(held(), self._clock.now()))
        except Hanging:
            raise FilesUnusable(
                f"{self.set.directory}: the file system does not answer within {_WITHIN:g} s; see "
                "what holds it up, or set files.directory to another"
            ) from None
        finally:
            if self._is_news and self._is_put:
                self._is_news = False
                self._on_change()

    def _brought(self, held: Held | None, now: datetime) -> float:
        self._held = held
        there = self.set.read()
        if self._has_key and not self._may_be_on_disk:
            check_in_memory(self.set.directory)
        wanted = self._wanted(there, held, now)
        if wanted != there or not all(map(self.set.is_in_place, wanted)):
            self._change(there, wanted)
        if held and self._signs(held, wanted):
            self.set.date(KEY_FILES, held.proof_at)
        return self._until_next_look(now)

    def _change(self, there: Mapping[str, Secret], wanted: Mapping[str, Secret]) -> None:
        gone = tuple(name for name in KEY_FILES if name in there and name not in wanted)
        if gone:
            # Before, and apart: this needs no room on the disk.
            self.set.withdraw(gone)
            self._is_news = True
            self._notice("signing key withdrawn", directory=str(self.set.directory))
        try:
            self.set.replace(wanted)
        except FilesUnusable:
            self._on_write(False)
            raise
        self._on_write(True)
        self._is_news = True
        self._notice("files written", directory=str(self.set.directory), files=sorted(wanted))

    def _wanted(
        self, there: Mapping[str, Secret], held: Held | None, now: datetime
    ) -> dict[str, Secret]:
        if held is None:
            # Nothing is known yet, or any more: what a former self left is good while it is young.
            kept = dict(there)
        else:
            kept = {name: there[name] for name in KEY_FILES if name in there}
            kept |= {JWKS: Secret(_json(held.ring.jwks()))} if held.may_verify(now) else {}
        key = self._key(held, now)
        if key:
            kept |= key
        elif self._is_outdated(there, held, now):
            kept = {name: kept[name] for name in kept if name not in KEY_FILES}
        return kept

    def _key(self, held: Held | None, now: datetime) -> dict[str, Secret]:
        """The files of the key that signs now; none where none may, or it cannot be had."""
        signer = held.ring.signer if held else None
        private = held.signing.get(signer.kid) if held and signer else None
        if not (self._has_key and held and signer and private and held.may_sign(now)):
            return {}
        return _key_files(private, signer.kid)

    def _is_outdated(self, there: Mapping[str, Secret], held: Held | None, now: datetime) -> bool:
        """Whether the key in the files must not sign any more.

        One that retired may: for `max_staleness` after the last proof by which it signed, as in an
        app that was cut off. So a version that cannot be written logs nobody out.
        """
        kid, dated = _kid_of(there.get(JWK)), self.set.dated(JWK)
        if not self._has_key or kid is None or dated is None:
            return True
        key = held.ring.key(kid) if held else None
        if held and (key is None or not key.may_verify):
            return True
        # One from the future was not given by us, or this clock was set back: it says nothing.
        return not -_SKEW <= now - dated <= self._max_staleness

    def _signs(self, held: Held, files: Mapping[str, Secret]) -> bool:
        signer = held.ring.signer
        return signer is not None and _kid_of(files.get(JWK)) == signer.kid

    @property
    def _max_staleness(self) -> timedelta:
        return self._held.ring.policy.max_staleness if self._held else self._configured_staleness

    def _until_next_look(self, now: datetime) -> float:
        """Seconds: to remove what is former, and for the key not to stay too long."""
        if not self.set.clean():
            return _SOON
        dated = self.set.dated(JWK)
        if dated is None:
            return _LOOK_EVERY
        until = dated + self._max_staleness - now
        return min(_LOOK_EVERY, max(_LEAST, until.total_seconds()))


def check_in_memory(directory: Path) -> None:
    """Whether a signing key may stand in `directory`.

    Raises:
        FilesUnusable: it is on a disk.
    """
    if not is_in_memory(directory):
        raise FilesUnusable(
            f"{directory}: is not in memory (tmpfs), and a signing key that was on a disk stays "
            "there for whoever gets hold of it; set files.directory to a folder below /run, or "
            "files.signing_key_on_disk: true if it may"
        )


def _key_files(private: PrivateKey, kid: str) -> dict[str, Secret]:
    told = {"kid": kid, "alg": private.algorithm.name, "use": "sig"}
    # No variable holds them: error reporters ship the locals of all frames.
    return {PEM: Secret(private.secret_pem()), JWK: Secret(_json(private.secret_jwk() | told))}


def _kid_of(jwk: Secret | None) -> str | None:
    """The kid of a JWK that we wrote; None where there is none."""
    try:
        return str(json.loads(jwk.reveal())["kid"]) if jwk else None
    except (ValueError, KeyError, TypeError):
        return None


def _json(document: object) -> str:
    return json.dumps(document, separators=(",", ":")) + "\n"
