"""The commands that ask a leader for a change: what they ask, and what they say came of it.

Each prints the version that the ring is at then, and who has confirmed it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from ringkeeper.durations import format_duration
from ringkeeper.errors import ConfigurationError, RequestRefused
from ringkeeper.kek_variable import kek_from
from ringkeeper.ring import KeyKind, KeyState
from ringkeeper.secret import Secret
from ringkeeper.secret_files import is_there, read_requesting_root
from ringkeeper.wire import Command
from ringkeeperd.key_files import read_keys, write_public
from ringkeeperd.operator import at_ring, delay, outlook, some
from ringkeeperd.overrides import setting_named, value_of
from ringkeeperd.rotation import activation_at
from ringkeeperd.words import harmless

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from ringkeeper.configuration import Configuration
    from ringkeeper.ring import Key, Ring
    from ringkeeper.trust import TrustRoot
    from ringkeeper.wire import Event
    from ringkeeperd.key_files import FoundKey
    from ringkeeperd.operator import Operator, Seen

    Work = Callable[["Asker"], Awaitable[int]]

_WORTH_WAITING: Final = timedelta(minutes=2)
_SOON: Final = timedelta(seconds=1)
_CONFIRMED_WITHIN: Final = timedelta(seconds=3)
"""As a rule the message is there within milliseconds; who polls is named."""
_LOOK_AGAIN: Final = 0.25
_MOST_PASSPHRASE: Final = 1024


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(line: str) -> None:
    print(f"ringkeeper: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Asker:
    """One command at one ring."""

    operator: Operator
    root: TrustRoot
    patience: timedelta
    reason: str

    async def ask(
        self, command: Command, *, kid: str = "", given: Mapping[str, str] | None = None
    ) -> Event:
        """The leader's answer; raises as `Operator.ask`."""
        return await self.operator.ask(
            self.root,
            command,
            kid=kid,
            reason=self.reason,
            wait=self.patience,
            given=given,
            tell=_complain,
        )

    async def tell_confirmed(self, version: int) -> Ring:
        """Say who has confirmed `version`, once all have, or for a moment long not all."""
        until = self.operator.now() + _CONFIRMED_WITHIN
        while True:
            seen = await self.operator.look()
            if not seen.behind or self.operator.now() >= until:
                _say(_confirmed(seen, version))
                return seen.ring
            await asyncio.sleep(_LOOK_AGAIN)


def _confirmed(seen: Seen, version: int) -> str:
    count, behind = len(seen.instances), seen.behind
    shown = f"version {max(version, seen.ring.version)}"
    if not count:
        return f"{shown}: no live instance is there to confirm it"
    if not behind:
        who = f"all {count} live instances" if count > 1 else "the only live instance"
        return f"{shown}: confirmed by {who}"
    return f"{shown}: confirmed by {count - len(behind)} of {count}; not yet by {some(behind)}"


def ask(parsed: argparse.Namespace, configuration: Configuration, work: Work) -> int:
    """The exit status that `work` gives, done at the chosen ring."""
    root = read_requesting_root(configuration.trust_root, configuration.trust_root_public)
    patience = timedelta(seconds=parsed.answer_within)

    async def do(operator: Operator) -> int:
        return await work(Asker(operator, root, patience, parsed.reason))

    return at_ring(configuration, configuration.ring(parsed.ring).name, do)


# --- dynamic keys --------------------------------------------------------------------------------


def rotate(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Let the next key sign."""
    command = Command.ROTATE_NOW if parsed.now else Command.ROTATE
    return ask(parsed, configuration, lambda asker: _turn(asker, parsed, command))


def rollback(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Let the key sign again that signed before."""
    return ask(parsed, configuration, lambda asker: _turn(asker, parsed, Command.ROLLBACK))


async def _turn(asker: Asker, parsed: argparse.Namespace, command: Command) -> int:
    operator = asker.operator
    former = (await operator.look()).ring.active()
    former_kid = former.kid if former else ""
    answer = await asker.ask(command)
    seen, now = await operator.look(), operator.now()
    at = activation_at(seen.ring) or now
    if seen.ring.active() == seen.ring.key(former_kid):
        _say("\n".join(outlook(seen, now)))
    if parsed.no_wait or (at - now > _WORTH_WAITING and not parsed.wait):
        await asker.tell_confirmed(answer.version)
        return 0
    return await _wait_for_turn(asker, former_kid, max(at, now))


async def _wait_for_turn(asker: Asker, former: str, at: datetime) -> int:
    """Wait until another key than `former` signs, and say what for once it is due."""
    operator, told = asker.operator, ""
    limit = at + 2 * _WORTH_WAITING
    while True:
        seen = await operator.look()
        active = seen.ring.active()
        if active and active.kid != former:
            _say(f"{active.kid} signs now")
            await asker.tell_confirmed(seen.ring.version)
            return 0
        limit = max(limit, (activation_at(seen.ring) or at) + 2 * _WORTH_WAITING)
        if operator.now() > limit:
            _complain(f"it does not sign yet: {delay(seen)}; look again with ringkeeper status")
            return 1
        if operator.now() > at + _SOON and delay(seen) != told:
            told = delay(seen)
            _say(told)
        await asyncio.sleep(_LOOK_AGAIN)


def revoke(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Refuse a key's tokens."""

    async def refuse(asker: Asker) -> int:
        drain = parsed.drain
        given = {"drain_ms": str(drain // timedelta(milliseconds=1))} if drain else {}
        answer = await asker.ask(Command.REVOKE, kid=parsed.kid, given=given)
        if drain:
            _say(
                f"{parsed.kid} signs no more; its tokens are refused little by little, all of them "
                f"in {format_duration(drain)}: then it is revoked"
            )
        else:
            _say(f"{parsed.kid} is revoked: its tokens are refused")
        ring = await asker.tell_confirmed(answer.version)
        if ring.signer:
            _say(f"{ring.signer.kid} signs")
        return 0

    return ask(parsed, configuration, refuse)


# --- static and foreign keys ---------------------------------------------------------------------


def static_create(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Make a static key."""

    async def create(asker: Asker) -> int:
        before = (await asker.operator.look()).ring
        given = {"algorithm": parsed.algorithm} if parsed.algorithm else {}
        answer = await asker.ask(Command.STATIC_CREATE, given=given)
        ring = await asker.tell_confirmed(answer.version)
        for key in ring.keys:
            if before.key(key.kid) is None and key.kind is KeyKind.STATIC:
                _tell_of_new(ring, key)
        return 0

    return ask(parsed, configuration, create)


def _tell_of_new(ring: Ring, key: Key) -> None:
    _say(f"{key.kid} ({key.algorithm}) verifies now")
    signer = ring.active(KeyKind.STATIC)
    if key.kind is KeyKind.STATIC and signer and signer != key:
        _say(
            f"{signer.kid} goes on as the static key; {key.kid} may follow it from "
            f"{key.ready_at:%Y-%m-%d %H:%M:%S} UTC on: ringkeeper static retire {signer.kid}"
        )


def static_import(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Bring keys along that were made elsewhere."""
    found = read_keys(
        parsed.file,
        algorithm=parsed.algorithm,
        kid=parsed.kid or "",
        passphrase=passphrase_in(parsed.passphrase_file),
        prefix=KeyKind.FOREIGN.prefix if parsed.verify_only else KeyKind.STATIC.prefix,
        app=parsed.app,
    )
    kind = KeyKind.FOREIGN if parsed.verify_only else KeyKind.STATIC
    if kind is KeyKind.STATIC:
        _check_private(parsed.file, found)

    async def bring(asker: Asker) -> int:
        ring = (await asker.operator.look()).ring
        _check_new(parsed.file, found, ring, kind)
        for each in found:
            given = _imported(each, kind, ring, configuration)
            answer = await asker.ask(Command.IMPORT, kid=each.kid, given=given)
            ring = await asker.tell_confirmed(answer.version)
            if key := ring.key(each.kid):
                _tell_of_new(ring, key)
        return 0

    return ask(parsed, configuration, bring)


def _check_private(path: Path, found: tuple[FoundKey, ...]) -> None:
    lacking = [key.kid for key in found if key.private is None]
    if lacking:
        raise RequestRefused(
            f"{path}: {some(lacking)}: only a public key, and to sign takes the private one; "
            "import that, or with --verify-only what is to verify here and to sign nothing"
        )


def _check_new(path: Path, found: tuple[FoundKey, ...], ring: Ring, kind: KeyKind) -> None:
    """Refuse all where one cannot be imported: half an import helps nobody."""
    for each in found:
        if each.kind is KeyKind.DYNAMIC and kind is not KeyKind.FOREIGN:
            raise RequestRefused(
                f"{path}: {each.kid} is a dynamic key; one moves here with ringkeeper init "
                "--import, where no ring is yet (docs/import.md), or verifies with --verify-only"
            )
        same = next((k for k in ring.keys if each.kid == k.kid or each.public == k.public), None)
        if same:
            raise RequestRefused(f"{path}: {each.kid} is in the ring already, as {same.kid}")


def _imported(
    found: FoundKey, kind: KeyKind, ring: Ring, configuration: Configuration
) -> dict[str, str]:
    given = {
        "kind": kind.value,
        "algorithm": found.algorithm,
        "jwk": json.dumps(dict(found.public), separators=(",", ":")),
    }
    if kind is KeyKind.STATIC and found.private:
        if not is_there(configuration.kek):
            raise RequestRefused(
                "a private key is sealed before it leaves this host, and the KEK is not here: "
                f"{configuration.kek}; import it where that is"
            )
        given["sealed"] = kek_from(configuration.kek).using(ring.kek).seal(found.private)
    return given


def passphrase_in(path: Path | None) -> Secret | None:
    """The passphrase in the file at `path`, or on standard input for `-`.

    Raises:
        RequestRefused: it cannot be read, or there is none.
    """
    if path is None:
        return None
    try:
        if str(path) == "-":
            text = sys.stdin.readline(_MOST_PASSPHRASE)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.readline(_MOST_PASSPHRASE)
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or "not UTF-8 text").lower()
        raise RequestRefused(
            f"--passphrase-file: {path} cannot be read ({why}); let this user read it"
        ) from None
    if not text.rstrip("\r\n"):
        raise RequestRefused(f"--passphrase-file: {path} is empty; write the passphrase there")
    return Secret(text.rstrip("\r\n"))


def static_list(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Show static and foreign keys."""
    ring = _looked_at(parsed, configuration).ring
    shown = [key for key in ring.keys if key.kind is not KeyKind.DYNAMIC]
    if parsed.json:
        members = [
            {
                "kid": key.kid,
                "kind": key.kind.value,
                "state": key.state.value,
                "algorithm": key.algorithm,
                "published_at": key.published_at.isoformat(),
            }
            for key in shown
        ]
        _say(json.dumps({"ring": ring.name, "version": ring.version, "keys": members}, indent=2))
        return 0
    signs = "signs" if ring.signer and ring.signer.kind is KeyKind.STATIC else "signs for apps"
    for key in shown:
        does = signs if key.state is KeyState.ACTIVE else key.state.value
        if key.kind is KeyKind.FOREIGN and key.state is KeyState.PUBLISHED:
            does = "verifies only"
        _say(f"{key.kid:<26} {key.algorithm:<6} {key.kind.value:<8} {does}")
    if not shown:
        _say(f"ring {ring.name} has no static key")
    return 0


def static_public(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Print a public key."""
    ring = _looked_at(parsed, configuration).ring
    key = ring.key(parsed.kid) if parsed.kid else ring.active(KeyKind.STATIC)
    if key is None:
        raise RequestRefused(
            f"unknown kid {parsed.kid!r}; ringkeeper static list has those there are"
            if parsed.kid
            else "no static key is active now; name one: ringkeeper static list"
        )
    if not key.may_verify:
        raise RequestRefused(f"{key.kid} is revoked: nobody is to trust it any more")
    if key.kind is KeyKind.DYNAMIC:
        raise RequestRefused(
            f"{key.kid} is a dynamic key, and gone before long: who hardcodes it refuses every "
            "token then; read the JWKS, or hardcode a static key"
        )
    print(write_public(key, parsed.form), end="", flush=True)
    return 0


def static_retire(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Let a static or foreign key go."""

    async def let_go(asker: Asker) -> int:
        answer = await asker.ask(Command.RETIRE, kid=parsed.kid)
        ring = await asker.tell_confirmed(answer.version)
        key = ring.key(parsed.kid)
        until = f" until {key.remove_at:%Y-%m-%d %H:%M:%S} UTC" if key and key.remove_at else ""
        _say(f"{parsed.kid} signs no more, and verifies what it signed{until}")
        return 0

    return ask(parsed, configuration, let_go)


def _looked_at(parsed: argparse.Namespace, configuration: Configuration) -> Seen:
    name = configuration.ring(parsed.ring).name
    return at_ring(configuration, name, lambda operator: operator.look())


# --- settings ------------------------------------------------------------------------------------


def change_setting(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Set a setting for the ring itself, leave it to the files again, or show what is set."""
    if parsed.setting is None:
        return _show_settings(parsed, configuration)
    if (parsed.value is None) is not parsed.unset:
        raise RequestRefused(
            "say to what: ringkeeper set KEY VALUE, or leave it to the files: set KEY --unset"
        )
    try:
        key = setting_named(parsed.setting).key
        if parsed.value is not None:
            value_of(key, parsed.value)
    except ConfigurationError as error:
        raise RequestRefused("; ".join(error.problems)) from None
    given = {"setting": key} | ({"value": parsed.value} if parsed.value is not None else {})

    async def change(asker: Asker) -> int:
        answer = await asker.ask(Command.SET, given=given)
        await asker.tell_confirmed(answer.version)
        told = f"is {parsed.value}, whatever files say" if parsed.value else "is what files say"
        _say(f"{key} {told}; times that are set already stay as they are")
        return 0

    return ask(parsed, configuration, change)


def _show_settings(parsed: argparse.Namespace, configuration: Configuration) -> int:
    ring = _looked_at(parsed, configuration).ring
    for key, text in ring.overrides:
        _say(f"{key} {harmless(text)}")
    if not ring.overrides:
        _say(f"ring {ring.name} has no settings of its own: what files say counts")
    return 0
