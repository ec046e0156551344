"""What operators ask for, done: each request becomes the next version of the ring, or nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ringkeeper.algorithms import PublicKey, algorithm_named
from ringkeeper.errors import (
    ConfigurationError,
    DocumentError,
    RequestRefused,
    SealBroken,
    UnsupportedAlgorithm,
)
from ringkeeper.ring import KeyKind, KeyState
from ringkeeper.sealing import kek_of
from ringkeeper.wire import Command
from ringkeeperd import operations
from ringkeeperd.forecasting import forecast_fields
from ringkeeperd.importing import check_no_root
from ringkeeperd.kids import NEW_KID, is_new_kid
from ringkeeperd.overrides import setting_named
from ringkeeperd.resealing import reseal
from ringkeeperd.rotation import Confirmations, key_wanted, successor
from ringkeeperd.transitions import FreshKey, KeyWanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ringkeeper.algorithms import PublicJwk
    from ringkeeper.ring import Key, Ring
    from ringkeeper.wire import Request
    from ringkeeperd.audit import Fields
    from ringkeeperd.minting import Minted
    from ringkeeperd.term import Term

    Changed = tuple[Ring, Mapping[str, str]]
    """The next version of a ring, and the sealed private keys that come with it, by kid."""

_MINTED_WITHIN: Final = 3.0
"""Seconds: as a rule a key is made in a tenth of one. A thousand rings may want theirs first."""
_LONGEST_DRAIN: Final = 13
"""Digits of milliseconds: some centuries."""
_IMPORTED: Final = (KeyKind.STATIC, KeyKind.FOREIGN)


async def fulfil(term: Term, request: Request, context: Mapping[str, str]) -> bool:
    """Whether the ring is now as `request` asks; False if it moved on meanwhile.

    `context` (who asked, why) goes into the audit.

    Raises:
        RequestRefused: it cannot be done, and why.
    """
    if request.command in (Command.REWRAP, Command.REWRAP_NOW):
        is_forced = request.command == Command.REWRAP_NOW
        return await reseal(term, context, is_forced=is_forced)
    change = _CHANGES.get(request.command)
    if change is None:
        raise RequestRefused(
            f"the daemon that leads knows no command {request.command[:40]!r}; if there is one, it "
            "is of an older release: upgrade the daemons, then ask again"
        )
    began = term.clock.monotonic()
    try:
        after, put = await change(term, request)
    except ValueError as error:  # a key that no ring can hold
        raise RequestRefused(f"{error}; nothing was changed") from None
    expected = await _expected(term, request)
    return await term.commit(after, put, {**context, **expected}, began)


# --- dynamic keys --------------------------------------------------------------------------------


async def _rotated(term: Term, request: Request) -> Changed:
    hasten = request.command == Command.ROTATE_NOW
    return operations.rotate(term.ring, now=term.now(), epoch=term.epoch, hasten=hasten), {}


async def _rolled_back(term: Term, _: Request) -> Changed:
    after = operations.rollback(term.ring, now=term.now(), epoch=term.epoch)
    if returning := after.standby:
        sealed = await term.store.sealed([returning.kid])
        _check_opens(term, returning, sealed.get(returning.kid, ""))
    return after, {}


async def _called_off(term: Term, _: Request) -> Changed:
    return operations.call_off(term.ring, now=term.now(), epoch=term.epoch), {}


async def _drain_called_off(term: Term, request: Request) -> Changed:
    after = operations.call_off_drain(term.ring, request.kid, now=term.now(), epoch=term.epoch)
    return after, {}


async def _revoked(term: Term, request: Request) -> Changed:
    ring, drain = term.ring, _drain_of(request)
    wanted = operations.revocation_wants(ring, request.kid, term.now())
    minted = await _minted_soon(term, request, wanted) if wanted else None
    after = operations.revoke(
        ring,
        request.kid,
        reason=request.reason,
        now=term.now(),
        epoch=term.epoch,
        fresh=minted.fresh if minted else None,
        drain=drain,
        confirmed=Confirmations(await term.instances(), term.trusts_from()) if drain else None,
    )
    return after, minted.put if minted else {}


async def _minted_soon(term: Term, request: Request, wanted: KeyWanted) -> Minted | None:
    """The key to take along; None where others' keys are made first, and a leaked one must go.

    Whoever signs in its stead is there in any case; the leader makes a standby in its next step.
    """
    ring = term.ring
    is_signing = ring.key(request.kid) == ring.active()
    if is_signing and successor(ring, term.now()) is None:
        return await term.mint(wanted)
    try:
        async with asyncio.timeout(_MINTED_WITHIN):
            return await term.mint(wanted)
    except TimeoutError:
        return None


async def _expected(term: Term, request: Request) -> Fields:
    """What is to follow, where that is known: told with the change, and later beside its spike."""
    if request.command != Command.REVOKE:
        return {}
    return await forecast_fields(term, request.kid, drain=_drain_of(request))


def _drain_of(request: Request) -> timedelta | None:
    text = request.given.get("drain_ms", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_DRAIN and int(text)):
        raise RequestRefused("its drain is no number of milliseconds; ask for one with --drain 30m")
    return timedelta(milliseconds=int(text))


# --- static and foreign keys ---------------------------------------------------------------------


async def _created(term: Term, request: Request) -> Changed:
    ring, named = term.ring, request.given.get("algorithm", "")
    wanted = key_wanted(ring.policy, KeyKind.STATIC)
    if named and named != wanted.algorithm:
        wanted = KeyWanted(KeyKind.STATIC, _algorithm(named), 0)
    operations.check_room(ring)
    minted = await term.mint(wanted)
    return operations.add(ring, minted.fresh, now=term.now(), epoch=term.epoch), minted.put


async def _imported(term: Term, request: Request) -> Changed:
    given = request.given
    kind = next((k for k in _IMPORTED if k.value == given.get("kind")), None)
    if kind is None:
        raise RequestRefused("only static and foreign keys are imported into a ring that is there")
    algorithm = _algorithm(given.get("algorithm", ""))
    public = _public_of(given.get("jwk", ""), algorithm)
    fresh = FreshKey(kind, algorithm, public, request.kid)
    check_no_root([(request.kid, public)], term.leader.follower.replica.roots.kids)
    there = term.ring.key(fresh.kid)
    if there is None and not is_new_kid(fresh.kid):
        raise RequestRefused(f"{NEW_KID}; nothing was changed")
    if there and there.state is KeyState.RETIRED and _is_same(there, fresh):
        return await _reinstated(term, there, given.get("sealed", ""))
    after = operations.add(term.ring, fresh, now=term.now(), epoch=term.epoch)
    if kind is KeyKind.FOREIGN:
        return after, {}
    return after, {fresh.kid: _sealed_for(term, after, fresh.kid, given.get("sealed", ""))}


def _is_same(key: Key, fresh: FreshKey) -> bool:
    return (key.kind, key.algorithm, key.public) == (fresh.kind, fresh.algorithm, fresh.public)


async def _reinstated(term: Term, key: Key, sealed: str) -> Changed:
    """A retired key comes in again: with its private half, or by the one that is still there."""
    after = operations.reinstate(term.ring, key.kid, now=term.now(), epoch=term.epoch)
    if key.kind is KeyKind.FOREIGN:
        return after, {}
    if sealed:
        return after, {key.kid: _sealed_for(term, after, key.kid, sealed)}
    held = await term.store.sealed([key.kid])
    _check_opens(term, key, held.get(key.kid, ""))
    return after, {}


def _algorithm(name: str) -> str:
    try:
        return algorithm_named(name).name
    except UnsupportedAlgorithm as error:
        raise RequestRefused(str(error)) from None


def _public_of(text: str, algorithm: str) -> PublicJwk:
    """The public key in a JWK, if it can be used."""
    try:
        members = json.loads(text)
        public = tuple((name, str(members[name])) for name in algorithm_named(algorithm).members)
        PublicKey(public, algorithm)
    except (ValueError, LookupError, TypeError, DocumentError):
        raise RequestRefused("its public key cannot be used; import it anew") from None
    return public


def _sealed_for(term: Term, after: Ring, kid: str, sealed: str) -> str:
    """`sealed`, once it opened: the private half of `kid` in `after`."""
    key = after.key(kid)
    if key is None:
        raise AssertionError(f"{kid} was added just now")
    if kek_of(sealed) != after.kek:
        raise RequestRefused(
            f"its private key is not sealed by the KEK {after.kek}, which seals this ring; import "
            "it where that one is in the file"
        )
    _check_opens(term, key, sealed)
    return sealed


def _check_opens(term: Term, key: Key, sealed: str) -> None:
    """Refuse what would make a key sign of which there is no private half."""
    try:
        term.leader.kek.unseal(sealed, key)
    except SealBroken as error:
        raise RequestRefused(f"{error}; nothing was changed") from None


async def _retired(term: Term, request: Request) -> Changed:
    confirmed = Confirmations(await term.instances(), term.trusts_from())
    after = operations.retire(
        term.ring, request.kid, now=term.now(), epoch=term.epoch, confirmed=confirmed
    )
    return after, {}


# --- settings ------------------------------------------------------------------------------------


async def _set(term: Term, request: Request) -> Changed:
    ring, text = term.ring, request.given.get("value")
    try:
        key = setting_named(request.given.get("setting", "")).key
    except ConfigurationError as error:
        raise RequestRefused(str(error)) from None
    others = [(name, value) for name, value in ring.overrides if name != key]
    try:
        policy = term.policy_under(others if text is None else [*others, (key, text)])
    except ConfigurationError as error:
        if text is not None:
            raise RequestRefused(str(error)) from None
        policy = ring.policy  # what is left contradicts the files: one is taken away at a time
    return operations.override(ring, key, text, policy, now=term.now(), epoch=term.epoch), {}


_CHANGES: Final[Mapping[str, Callable[[Term, Request], Awaitable[Changed]]]] = {
    Command.ROTATE: _rotated,
    Command.ROTATE_NOW: _rotated,
    Command.ROLLBACK: _rolled_back,
    Command.CALL_OFF: _called_off,
    Command.REVOKE: _revoked,
    Command.CALL_OFF_DRAIN: _drain_called_off,
    Command.STATIC_CREATE: _created,
    Command.IMPORT: _imported,
    Command.RETIRE: _retired,
    Command.SET: _set,
}
