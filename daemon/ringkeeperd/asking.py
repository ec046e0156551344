"""The commands that ask a leader for a change: what they ask, and what they say came of it.

Each prints the version that the ring is at then, and who has confirmed it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ringkeeper.durations import format_duration
from ringkeeper.errors import ConfigurationError, RequestRefused
from ringkeeper.ring import KeyKind, KeyState, RotationReason
from ringkeeper.secret_files import read_requesting_root
from ringkeeper.wire import Command
from ringkeeperd.misuse import Misused
from ringkeeperd.operator import at_ring, check_not_turned, delay, outlook, some
from ringkeeperd.overrides import setting_named, value_of
from ringkeeperd.planning import signers_to_come
from ringkeeperd.rotation import activation_at, static_followers
from ringkeeperd.words import harmless, hastened, turn_told, unready

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Mapping

    from ringkeeper.configuration import Configuration
    from ringkeeper.ring import Key, Ring
    from ringkeeper.trust import TrustRoot
    from ringkeeper.wire import Event
    from ringkeeperd.operator import Operator, Seen

    Work = Callable[["Asker"], Awaitable[int]]

_WORTH_WAITING: Final = timedelta(minutes=2)
_SOON: Final = timedelta(seconds=1)
_CONFIRMED_WITHIN: Final = timedelta(seconds=3)
"""As a rule the message is there within milliseconds; who polls is named."""
_LOOK_AGAIN: Final = 0.25
_OF_FRESH_KEYS: Final = ("algorithm", "rsa_key_size")
"""Settings that say what kind of key pair is made next."""


def say(line: str) -> None:
    """Tell `line` at once: whoever reads it may be waiting for it."""
    print(line, flush=True)


def _warn(line: str) -> None:
    if line:
        say(line)


def _complain(line: str) -> None:
    print(f"ringkeeper: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Asker:
    """One command at one ring."""

    operator: Operator
    root: TrustRoot
    patience: timedelta
    reason: str
    began: datetime
    """When the command was given, as well as that can be known."""

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
                say(_confirmed(seen, version))
                return seen.ring
            await asyncio.sleep(_LOOK_AGAIN)


def _confirmed(seen: Seen, version: int) -> str:
    count, behind = len(seen.instances), seen.behind
    shown = f"version {version}"
    if seen.ring.version > version:
        shown += f" (the ring is at {seen.ring.version} by now)"
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
        return await work(Asker(operator, root, patience, parsed.reason, _began(operator.now())))

    return at_ring(configuration, configuration.ring(parsed.ring).name, do)


def _began(now: datetime) -> datetime:
    """When this process began, which takes a while to come here."""
    with suppress(OSError, ValueError, IndexError, AttributeError):  # a system without /proc
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - timedelta(seconds=uptime - int(ticks) / os.sysconf("SC_CLK_TCK"))
    return now


def looked_at(parsed: argparse.Namespace, configuration: Configuration) -> Seen:
    """The chosen ring as it is now."""
    name = configuration.ring(parsed.ring).name
    return at_ring(configuration, name, lambda operator: operator.look())


# --- dynamic keys --------------------------------------------------------------------------------


def rotate(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Let the next key sign."""
    if parsed.call_off:
        return _called_off(parsed, configuration)
    if parsed.now and not parsed.reason.strip():
        raise Misused("--now shortens a wait: say why, for the audit (--reason)")
    command = Command.ROTATE_NOW if parsed.now else Command.ROTATE
    return ask(parsed, configuration, lambda asker: _turn(asker, parsed, command))


def _called_off(parsed: argparse.Namespace, configuration: Configuration) -> int:
    if parsed.wait or parsed.no_wait:
        raise Misused("--call-off waits for nothing; leave --wait and --no-wait away")
    return ask(parsed, configuration, _call_off)


async def _call_off(asker: Asker) -> int:
    answer = await asker.ask(Command.CALL_OFF)
    ring = await asker.tell_confirmed(answer.version)
    active, at = ring.active(), activation_at(ring)
    if active and at:
        until = f"until {at:%Y-%m-%d %H:%M:%S} UTC, by the schedule"
        if at <= asker.operator.now():
            until = "only until the next key can: its own time is over"
        say(f"called off: {active.kid} signs on {until}")
        _warn(turn_told(ring))
    return 0


def rollback(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Let the key sign again that signed before."""
    if parsed.call_off:
        return _called_off(parsed, configuration)
    return ask(parsed, configuration, lambda asker: _turn(asker, parsed, Command.ROLLBACK))


async def _turn(asker: Asker, parsed: argparse.Namespace, command: Command) -> int:
    operator = asker.operator
    before = await operator.look()
    former = before.ring.active()
    former_kid = former.kid if former else ""
    if command is Command.ROLLBACK:
        _tell_of_pending(before, operator.now())
    elif former and (former.activated_at or asker.began) > asker.began:
        # Two operators at once: the second sees what came of the first's.
        if not parsed.wait:
            check_not_turned(before.ring, "")
        say(f"{former.kid} began to sign while this command began")
        await asker.tell_confirmed(before.ring.version)
        return 0
    version = await _asked(asker, command, former_kid, is_patient=parsed.wait)
    seen, now = await operator.look(), operator.now()
    at = activation_at(seen.ring) or now
    if seen.ring.active() == seen.ring.key(former_kid):
        say("\n".join(outlook(seen, now)))
    if parsed.no_wait or (at - now > _WORTH_WAITING and not parsed.wait):
        await asker.tell_confirmed(version)
        if at > now:
            say("until then ringkeeper rotate --call-off takes that back")
        return 0
    policy, patience = before.ring.policy, 2 * _WORTH_WAITING
    if parsed.wait:  # an instance may hold it up, or a leader that has just begun
        patience += policy.confirmation_timeout + policy.liveness_window
    back = before.ring.former if command is Command.ROLLBACK else None
    returning = back.kid if back else ""
    signer = await _next_signer(operator, former_kid, max(at, now), patience, returning)
    return await _turned(asker, before, signer, returning) if signer else 1


async def _turned(asker: Asker, before: Seen, signer: str, returning: str) -> int:
    """Say that `signer` signs, and whether that is what was waited for: the exit status."""
    say(f"{signer} signs now")
    await asker.tell_confirmed((await asker.operator.look()).ring.version)
    if returning and signer != returning:
        _complain(
            f"{returning} does not: that was called off, or it was revoked, meanwhile (ringkeeper "
            "watch says by whom)"
        )
        return 1
    if not returning and signer in _signed_before(before):
        _complain(f"{signer} signed before: somebody rolled back meanwhile (ringkeeper status)")
        return 1
    return 0


async def _asked(asker: Asker, command: Command, former: str, *, is_patient: bool) -> int:
    """The version that is on its way to what was asked for.

    Raises:
        RequestRefused: the leader said no; and there is nothing to wait for instead.
    """
    try:
        answer = await asker.ask(command)
    except RequestRefused:
        # Whoever waits wants another key to sign, whoever asked for it first.
        seen, now = await asker.operator.look(), asker.operator.now()
        is_under_way = seen.ring.active() != seen.ring.key(former) or _is_turning(seen, now)
        if command is Command.ROLLBACK or not (is_patient and is_under_way):
            raise
        say("a rotation is due already")
        return seen.ring.version
    if until := answer.fields.get("shortened_from"):
        kid = harmless(str(answer.fields.get("kid", "")))
        say(hastened(kid, datetime.fromisoformat(str(until))))
    return answer.version


def _tell_of_pending(seen: Seen, now: datetime) -> None:
    """Say what a rollback is not, where it could be taken for that."""
    if seen.ring.former and _is_turning(seen, now):
        say(
            "a rotation is due: this does not call it off (ringkeeper rotate --call-off), but "
            f"turns to {seen.ring.former.kid}, which signed before"
        )


def _is_turning(seen: Seen, now: datetime) -> bool:
    """Whether the next key, and no former one, takes over as soon as it can."""
    active = seen.ring.active()
    return (
        active is not None
        and _is_due(active, seen, now)
        and active.due_reason is not RotationReason.ROLLBACK
        and not seen.ring.is_full
    )


def _is_called_off(seen: Seen) -> bool:
    """Whether nobody asks for a turn any more, and none is due by the clock of who leads."""
    active, policy = seen.ring.active(), seen.ring.policy
    if active is None or active.due_at is None or seen.proof is None:
        return False
    led_until = seen.proof.at + policy.proof_interval + policy.clock_skew
    return active.due_reason is RotationReason.SCHEDULED and active.due_at > led_until


def _is_due(active: Key, seen: Seen, now: datetime) -> bool:
    """Whether the time of what signs is over, by the leader's clock, which may be ahead."""
    return active.due_at is not None and active.due_at <= now + seen.ring.policy.clock_skew


def _signed_before(seen: Seen) -> set[str]:
    return {key.kid for key in seen.ring.in_state(KeyState.RETIRED)}


async def _next_signer(
    operator: Operator, former: str, at: datetime, patience: timedelta, returning: str
) -> str:
    """The kid that signs once `former` does not; or empty, and it is said why it still does.

    What it waits for is said once that is due, at `at`. `patience`: how long after that to wait.
    `returning`: the key that was rolled back to, if any.
    """
    told, limit = "", at + patience
    while True:
        seen = await operator.look()
        active, back = seen.ring.active(), seen.ring.key(returning)
        if active and active.kid != former:
            return active.kid
        if _is_called_off(seen) or (returning and not (back and back.is_returning)):
            what = f"called off, or {returning} revoked," if returning else "called off"
            _complain(
                f"{what} meanwhile: {former} signs on, and nothing is waited for (ringkeeper watch "
                "says by whom)"
            )
            return ""
        limit = max(limit, (activation_at(seen.ring) or at) + patience)
        if operator.now() > limit:
            _complain(f"it does not sign yet: {delay(seen)}; look again with ringkeeper status")
            return ""
        if operator.now() > at + _SOON and delay(seen) != told:
            told = delay(seen)
            say(told)
        try:
            await asyncio.sleep(_LOOK_AGAIN)
        except asyncio.CancelledError:
            _complain(
                "not waited for any longer; it takes place all the same (ringkeeper status), "
                "unless ringkeeper rotate --call-off takes it back"
            )
            raise


def revoke(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Refuse a key's tokens."""
    if parsed.call_off:
        return ask(parsed, configuration, lambda asker: _call_off_drain(asker, parsed.kid))

    async def refuse(asker: Asker) -> int:
        drain = parsed.drain
        given = {"drain_ms": str(drain // timedelta(milliseconds=1))} if drain else {}
        answer = await asker.ask(Command.REVOKE, kid=parsed.kid, given=given)
        if drain:
            say(
                f"{parsed.kid} signs no more; its tokens are refused little by little, all of them "
                f"in {format_duration(drain)}: then it is revoked; until then ringkeeper revoke "
                f"{parsed.kid} --call-off --reason WHY takes that back"
            )
        else:
            say(f"{parsed.kid} is revoked: its tokens are refused")
        ring = await asker.tell_confirmed(answer.version)
        gone = ring.key(parsed.kid)
        if gone and gone.kind is KeyKind.STATIC and (follower := _static_one(ring)):
            say(_static_after(follower, answer))
        if signer := ring.signer:
            say(f"{signer.kid} signs")
            if signer.activated_version == answer.version:
                _warn(unready(signer, ring.policy, answer.at))
        return 0

    return ask(parsed, configuration, refuse)


def _static_after(follower: Key, answer: Event) -> str:
    """What becomes of the static key that there is after another one was revoked."""
    if follower.state is KeyState.ACTIVE and follower.activated_version != answer.version:
        return f"{follower.kid} goes on as the static key"
    if follower.state is KeyState.ACTIVE or follower.ready_at <= answer.at:
        return f"{follower.kid} is the static key now"
    return f"{follower.kid} is the static key from {follower.ready_at:%Y-%m-%d %H:%M:%S} UTC on"


async def _call_off_drain(asker: Asker, kid: str) -> int:
    answer = await asker.ask(Command.CALL_OFF_DRAIN, kid=kid)
    ring = await asker.tell_confirmed(answer.version)
    say(f"called off: {kid} is drained no more, and all of its tokens count again")
    key = ring.key(kid)
    if key and key == ring.former:
        say("to let it sign again: ringkeeper rollback")
    elif key and key.kind is not KeyKind.DYNAMIC:
        say(f"to bring it back: ringkeeper static reinstate {kid}")
    return 0


def _static_one(ring: Ring) -> Key | None:
    """The static key that signs where static keys do, or will."""
    return ring.active(KeyKind.STATIC) or next(iter(static_followers(ring)), None)


# --- settings ------------------------------------------------------------------------------------


def change_setting(parsed: argparse.Namespace, configuration: Configuration) -> int:
    """Set a setting for the ring itself, leave it to the files again, or show what is set."""
    if parsed.value is not None and parsed.unset:
        raise Misused("set it to a value, or --unset it; not both at once")
    if parsed.unset and parsed.setting is None:
        raise Misused("say which one: ringkeeper set KEY --unset")
    if parsed.setting is None:
        return _show_settings(parsed, configuration)
    try:
        key = setting_named(parsed.setting).key
        if parsed.value is not None:
            value_of(key, parsed.value)
    except ConfigurationError as error:
        raise Misused("; ".join(error.problems)) from None
    if parsed.value is None and not parsed.unset:
        return _show_settings(parsed, configuration, key)
    given = {"setting": key} | ({"value": parsed.value} if parsed.value is not None else {})

    async def change(asker: Asker) -> int:
        answer = await asker.ask(Command.SET, given=given)
        ring = await asker.tell_confirmed(answer.version)
        told = f"is {parsed.value}, whatever files say" if parsed.value else "is what files say"
        say(f"{key} {told}; times that are set already stay as they are")
        if key == "use_dynamic_access_token_signing_key" and ring.signer:
            say(f"{ring.signer.kid} signs")
        if key in _OF_FRESH_KEYS:
            _warn(signers_to_come(ring, asker.operator.now()))
        return 0

    return ask(parsed, configuration, change)


def _show_settings(
    parsed: argparse.Namespace, configuration: Configuration, wanted: str = ""
) -> int:
    ring = looked_at(parsed, configuration).ring
    shown = [(key, text) for key, text in ring.overrides if wanted in ("", key)]
    for key, text in shown:
        say(f"{key} {harmless(text)}")
    if wanted and not shown:
        say(f"{wanted} is not set for the ring {ring.name}: what files say counts")
    elif not shown:
        say(f"ring {ring.name} has no settings of its own: what files say counts")
    return 0
