"""`ringkeeper static`: keys that nobody turns, made here or elsewhere, and others' public keys.

What they are is told in docs/lifecycle.md; a leader does it all.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from ringkeeper.algorithms import algorithm_named
from ringkeeper.errors import RequestRefused, RingkeeperError, UnsupportedAlgorithm
from ringkeeper.kek_variable import kek_from
from ringkeeper.ring import KeyKind, KeyState
from ringkeeper.secret import Secret
from ringkeeper.secret_files import is_there
from ringkeeper.wire import Command
from ringkeeperd import operations
from ringkeeperd.asking import ask, looked_at, say
from ringkeeperd.importing import NO_APPS, check_no_root
from ringkeeperd.key_files import read_keys, write_public
from ringkeeperd.misuse import Misused
from ringkeeperd.operator import some
from ringkeeperd.rotation import static_followers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from ringkeeper.algorithms import PublicJwk
    from ringkeeper.configuration import Configuration
    from ringkeeper.ring import Key, Ring
    from ringkeeperd.asking import Asker
    from ringkeeperd.key_files import FoundKey

_MOST_PASSPHRASE: Final = 1024


def create_key(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Make a static key."""
    algorithm = offered(parsed.algorithm)
    given = {"algorithm": algorithm} if algorithm else {}

    async def create(asker: Asker) -> int:
        before = (await asker.operator.look()).ring
        answer = await asker.ask(Command.STATIC_CREATE, given=given)
        ring = await asker.tell_confirmed(answer.version)
        for key in ring.keys:
            if before.key(key.kid) is None and key.kind is KeyKind.STATIC:
                _tell_of_new(ring, key)
        return 0

    return ask(parsed, configuration, create)


def _tell_of_new(ring: Ring, key: Key) -> None:
    say(f"{key.kid} ({key.algorithm}) verifies now")
    signer, waiting = ring.active(KeyKind.STATIC), static_followers(ring)
    if signer is None or key not in waiting:
        return
    goes_on = f"{signer.kid} goes on as the static key"
    if at := waiting.index(key):
        first, before = waiting[0].kid, waiting[at - 1].kid
        say(f"{goes_on}; {first} is to follow it, and {key.kid} comes after {before}")
    else:
        say(
            f"{goes_on}; {key.kid} may follow it from "
            f"{key.ready_at:%Y-%m-%d %H:%M:%S} UTC on: ringkeeper static retire {signer.kid}"
        )


def import_keys(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Bring keys along that were made elsewhere."""
    found = read_keys(
        parsed.file,
        algorithm=offered(parsed.algorithm),
        kid=parsed.kid or "",
        passphrase=passphrase_in(parsed.passphrase_file),
        prefix=KeyKind.FOREIGN.prefix if parsed.verify_only else KeyKind.STATIC.prefix,
        app=parsed.app,
    )
    kind = KeyKind.FOREIGN if parsed.verify_only else KeyKind.STATIC
    if parsed.app and not any(key.kind for key in found):
        raise Misused(f"--app: {parsed.file} {NO_APPS}; leave it out")
    if kind is KeyKind.STATIC:
        _check_private(parsed.file, found)
    _check_named(parsed.file, found, kind)

    async def bring(asker: Asker) -> int:
        ring = (await asker.operator.look()).ring
        check_no_root(((each.kid, each.public) for each in found), asker.operator.roots.kids)
        _check_new(parsed.file, found, ring, kind)
        _check_room(parsed.file, found, ring)
        asked = [(each, _imported(each, kind, ring, configuration)) for each in found]
        done: list[str] = []
        for each, given in asked:
            try:
                answer = await asker.ask(Command.IMPORT, kid=each.kid, given=given)
            except RingkeeperError as error:
                raise _after(done, error) from None
            done.append(each.kid)
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


def _check_named(path: Path, found: tuple[FoundKey, ...], kind: KeyKind) -> None:
    """Refuse to make a name up: for a day, which is how long a key stays, it has no other."""
    unnamed = [key for key in found if not key.is_named]
    if not unnamed:
        return
    if len(found) > 1:
        raise RequestRefused(
            f"{path}: {len(unnamed)} of its {len(found)} keys have no kid, and by that tokens name "
            "their key; give each of them one there, or put it into a file of its own, and import "
            "that with --kid KID"
        )
    none = f"; or, if there are none yet, take its thumbprint: --kid {found[0].kid}"
    raise RequestRefused(
        f"{path}: has no kid, and by that tokens name their key; say which one they have: --kid "
        f"KID{none if kind is KeyKind.STATIC else ''}"
    )


def _check_new(path: Path, found: tuple[FoundKey, ...], ring: Ring, kind: KeyKind) -> None:
    """Refuse all where one cannot be imported: half an import helps nobody.

    No file has one key or one kid twice: `read_keys` has seen to it.
    """
    for each in found:
        if each.kind is KeyKind.DYNAMIC and kind is not KeyKind.FOREIGN:
            raise RequestRefused(
                f"{path}: {each.kid} is a dynamic key; one moves here with ringkeeper init "
                "--import, where no ring is yet (docs/import.md), or verifies with --verify-only"
            )
        if each.kid.startswith(f"{KeyKind.DYNAMIC.prefix}-") and kind is not KeyKind.FOREIGN:
            raise RequestRefused(
                f"{path}: {each.kid}: the kid of a static key may not start d-, by which dynamic "
                "ones are told (SuperTokens' SDKs refuse its tokens); give it another kid, or "
                "import it with --verify-only; nothing was changed"
            )
        same = next((k for k in ring.keys if each.kid == k.kid or each.public == k.public), None)
        if same and not _comes_back(each, same, kind):
            raise RequestRefused(f"{path}: {each.kid}: {_why_not(each, same)}; nothing was changed")


def _comes_back(found: FoundKey, there: Key, kind: KeyKind) -> bool:
    """Whether `found` is the very key that was retired, as `static reinstate` brings it back."""
    is_same = (found.kid, found.public, found.algorithm) == (
        there.kid,
        there.public,
        there.algorithm,
    )
    is_retired = there.state is KeyState.RETIRED and not there.drained_until
    return is_same and is_retired and there.kind is kind


def _why_not(found: FoundKey, there: Key) -> str:
    """What of `found` is in the ring already, and what leads on from there."""
    if found.public != there.public:
        return "another key of that kid is in the ring already; give this one another (--kid KID)"
    what = "it" if found.kid == there.kid else f"the same key, as {there.kid},"
    what += " is in the ring already"
    if there.state is KeyState.REVOKED:
        return f"{what}, revoked, and stays so; bring another key"
    if found.kid == there.kid:
        return f"{what} ({there.kind}, {there.algorithm}, {there.state})"
    if there.kind is KeyKind.DYNAMIC:
        return f"{what} and dynamic; its tokens name it so"
    gone = "once it is removed (ringkeeper status says when)"
    if there.state is KeyState.RETIRED:
        return f"{what}, retired; import it under another name {gone}"
    return f"{what}; ringkeeper static retire {there.kid}, and import it under another name {gone}"


def _check_room(path: Path, found: tuple[FoundKey, ...], ring: Ring) -> None:
    """Refuse more than there is room for; of a single key the leader says why."""
    room = operations.room_in(ring)
    if len(found) > max(room, 1):
        raise RequestRefused(
            f"{path}: holds {len(found)} keys, and the ring takes {room} more; import fewer (--kid "
            "KID takes one of them), or retire some first (ringkeeper static retire); nothing was "
            "changed"
        )


def _after(done: Sequence[str], error: RingkeeperError) -> RingkeeperError:
    """`error`, and what had been imported before it: somebody else changed the ring meanwhile."""
    if not done:
        return error
    return type(error)(f"{error}; imported before that: {some(done)}")


def _imported(
    found: FoundKey, kind: KeyKind, ring: Ring, configuration: Configuration
) -> dict[str, str]:
    given = _described(kind, found.algorithm, found.public)
    if kind is KeyKind.STATIC and found.private:
        if not is_there(configuration.kek):
            raise RequestRefused(
                "a private key is sealed before it leaves this host, and the KEK is not here: "
                f"{configuration.kek}; import it where that is"
            )
        given["sealed"] = kek_from(configuration.kek).using(ring.kek).seal(found.private)
    return given


def _described(kind: KeyKind, algorithm: str, public: PublicJwk) -> dict[str, str]:
    jwk = json.dumps(dict(public), separators=(",", ":"))
    return {"kind": kind.value, "algorithm": algorithm, "jwk": jwk}


def offered(algorithm: str) -> str:
    """`algorithm` as it was asked for, or empty where none was.

    Raises:
        Misused: it is not one that ringkeeper offers.
    """
    try:
        return algorithm_named(algorithm).name if algorithm else ""
    except UnsupportedAlgorithm as error:
        raise Misused(str(error)) from None


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
            f"--passphrase-file: {path} cannot be read ({why}); name the right file, and let this "
            "user read it"
        ) from None
    if not text.rstrip("\r\n"):
        raise RequestRefused(f"--passphrase-file: {path} is empty; write the passphrase there")
    return Secret(text.rstrip("\r\n"))


def list_keys(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Show static and foreign keys."""
    ring = looked_at(parsed, configuration).ring
    shown = [key for key in ring.keys if key.kind is not KeyKind.DYNAMIC]
    if parsed.json:
        members = [
            {
                "kid": key.kid,
                "kind": key.kind.value,
                "state": key.state.value,
                "algorithm": key.algorithm,
                "published_at": key.published_at.isoformat(),
                "ready_at": key.ready_at.isoformat(),
                "drained_until": key.drained_until.isoformat() if key.drained_until else None,
            }
            for key in shown
        ]
        say(json.dumps({"ring": ring.name, "version": ring.version, "keys": members}, indent=2))
        return 0
    for key in shown:
        does = _signs(ring) if key.state is KeyState.ACTIVE else key.state.value
        if key.kind is KeyKind.STATIC and key.state is KeyState.PUBLISHED:
            does = f"published; may sign from {key.ready_at:%Y-%m-%d %H:%M:%S} UTC on"
        if key.kind is KeyKind.FOREIGN and key.state is KeyState.PUBLISHED:
            does = "verifies only"
        elif key.state is KeyState.RETIRED and key.drained_until:
            does = f"is revoked little by little, until {key.drained_until:%Y-%m-%d %H:%M:%S} UTC"
        say(f"{key.kid:<26} {key.algorithm:<6} {key.kind.value:<8} {does}")
    if not shown:
        say(f"ring {ring.name} has no static key")
    return 0


def _signs(ring: Ring) -> str:
    """What the active static key does."""
    is_for_all = ring.signer is not None and ring.signer.kind is KeyKind.STATIC
    return "signs" if is_for_all else "signs for apps that choose so"


def print_public(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Print a public key."""
    ring = looked_at(parsed, configuration).ring
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


def retire_key(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Let a static or foreign key go."""

    async def let_go(asker: Asker) -> int:
        former = (await asker.operator.look()).ring.active(KeyKind.STATIC)
        answer = await asker.ask(Command.RETIRE, kid=parsed.kid)
        ring = await asker.tell_confirmed(answer.version)
        key = ring.key(parsed.kid)
        until = f" until {key.remove_at:%Y-%m-%d %H:%M:%S} UTC" if key and key.remove_at else ""
        has_signed = key is not None and key.activated_at is not None
        does = "signs no more, and verifies what it signed" if has_signed else "verifies"
        say(f"{parsed.kid} {does}{until}")
        if former and former.kid == parsed.kid and (signer := ring.active(KeyKind.STATIC)):
            say(f"{signer.kid} {_signs(ring)} now")
        back = "takes that back" if has_signed else "publishes it anew"
        say(f"ringkeeper static reinstate {parsed.kid} {back} until then")
        return 0

    return ask(parsed, configuration, let_go)


def reinstate_key(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Bring a retired static or foreign key back."""

    async def bring_back(asker: Asker) -> int:
        ring = (await asker.operator.look()).ring
        # What a leader would refuse, with its words: what it is asked for is an import.
        operations.reinstate(ring, parsed.kid, now=asker.operator.now(), epoch=ring.epoch)
        there = ring.key(parsed.kid)
        if there is None:
            raise AssertionError(f"{parsed.kid} was there just now")
        given = _described(there.kind, there.algorithm, there.public)
        answer = await asker.ask(Command.IMPORT, kid=there.kid, given=given)
        ring = await asker.tell_confirmed(answer.version)
        if key := ring.key(there.kid):
            _tell_of_new(ring, key)
        return 0

    return ask(parsed, configuration, bring_back)
