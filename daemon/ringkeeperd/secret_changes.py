"""`ringkeeper init --new-root`, `--new-kek` and `ringkeeper rewrap`: how secrets are changed.

The files first: each gets a fresh secret, in front of the present one, which stays. Then `rewrap`
asks the leader of each ring to use what is first from now on. Then the former one goes, once
nothing needs it any more. Between any two of these steps everything works, for as long as one
likes; docs/secrets.md tells the whole order.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringkeeper.clock import SystemClock
from ringkeeper.durations import format_duration
from ringkeeper.errors import (
    InfrastructureError,
    RequestRefused,
    RingkeeperError,
    RingMissing,
    SecretError,
)
from ringkeeper.kek_variable import KekVariable, kek_from
from ringkeeper.sealing import Kek, kek_of
from ringkeeper.secret_files import amend, create, is_there, read_kek, read_pair, read_pinned_roots
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Command
from ringkeeperd.many import at_rings, good
from ringkeeperd.operator import some
from ringkeeperd.rewrapping import lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.ring import Ring
    from ringkeeperd.operator import Operator, Seen

_MOST = 2
"""Secrets of one kind in a file: the one in use, and the next or the former one."""
_CONFIRMED_WITHIN = 5.0
"""Seconds: an instance that hears of a new version has confirmed it long before."""
_LOOK_AGAIN_AFTER = 0.2


# --- the files -----------------------------------------------------------------------------------


def add_root(configuration: Configuration) -> tuple[Path, ...]:
    """Put a fresh trust root in front of the present one, private and public; the files written.

    Raises:
        SecretError: a file cannot be used, already holds two, or is not what a ring is under, as
            far as Redis can be asked.
        DocumentError: a ring is signed by a root that is not even pinned here.
    """
    root, pinned = read_pair(configuration.trust_root, configuration.trust_root_public)
    _check_room(configuration.trust_root, root.kids, "root")
    _check_used(configuration, configuration.trust_root, root.kids, lambda seen: seen.signed_by)
    fresh = TrustRoot.generate().joined(root)
    # The public half first: whoever signs by a root that this host itself does not pin is refused.
    amend(configuration.trust_root_public, fresh.public.joined(pinned).as_jwk())
    amend(configuration.trust_root, fresh.secret_jwk())
    return configuration.trust_root_public, configuration.trust_root


def replace_lost_root(configuration: Configuration) -> tuple[Path, ...]:
    """Make a fresh trust root where the private half of the present one is lost; the files written.

    Raises:
        RequestRefused: it is there, or not to be expected here.
        SecretError: a file cannot be used.
    """
    path = configuration.trust_root
    if not configuration.lead:
        raise RequestRefused("lead is false here: run this where the private root was")
    if is_there(path):
        raise RequestRefused(f"{path}: is there, so nothing is lost; leave out --former-lost")
    pinned = read_pinned_roots(configuration.trust_root_public)
    fresh = TrustRoot.generate()
    amend(configuration.trust_root_public, fresh.public.joined(pinned).as_jwk())
    create(path, fresh.secret_jwk())
    return configuration.trust_root_public, path


def add_kek(configuration: Configuration) -> tuple[Path, ...]:
    """Put a fresh KEK in front of the present one; the file written. Raises as `add_root`."""
    path = configuration.kek
    if isinstance(path, KekVariable):
        raise SecretError(f"{path}: an environment variable cannot be amended; keep it in a file")
    kek = read_kek(path)
    _check_room(path, kek.kids, "KEK")
    _check_used(configuration, path, kek.kids, lambda seen: seen.ring.kek)
    amend(path, Kek.generate().joined(kek).secret_jwk())
    return (path,)


def _check_room(path: Path, kids: Sequence[str], what: str) -> None:
    if len(kids) >= _MOST:
        raise SecretError(
            f"{path}: holds {len(kids)} already: the {what} is being changed; finish that first: "
            "ringkeeper rewrap, then ringkeeper rewrap --drop-former"
        )


def _check_used(
    configuration: Configuration, path: Path, kids: Sequence[str], used: Callable[[Seen], str]
) -> None:
    """Whether what each ring uses is in the file, so that the fresh one comes beside the right one.

    Where Redis cannot be asked, nobody knows, and the files can be changed all the same.
    """
    found = at_rings(configuration, configuration.rings, lambda operator, _: operator.look())
    for name, seen in found.items():
        with suppress(InfrastructureError, RingMissing):
            if isinstance(seen, RingkeeperError):
                raise seen
            in_use = used(seen)
            if in_use and in_use not in kids:
                raise SecretError(
                    f"{path}: ring {name!r} uses {in_use}, which is not in this file; put "
                    "that back first"
                )


def held(configuration: Configuration) -> tuple[Kek, TrustRoot]:
    """What the secret files of this host hold."""
    root, _ = read_pair(configuration.trust_root, configuration.trust_root_public)
    return kek_from(configuration.kek), root


def drop_former(
    configuration: Configuration, rings: Sequence[RingConfiguration]
) -> tuple[Path, ...]:
    """Take from the files of this host what no ring uses any more; the files written.

    Raises:
        RequestRefused: some ring still needs it.
    """
    problems = [problem for wrapping in look(configuration, rings) for problem in wrapping.problems]
    if problems:
        raise RequestRefused(f"nothing is dropped: {problems[0]}")
    kek, root = held(configuration)
    pinned = read_pinned_roots(configuration.trust_root_public)
    # A fresh root is put in front, public half first: so this host has but half of a change.
    if pinned.kid not in root.kids:
        raise RequestRefused(
            f"nothing is dropped: {configuration.trust_root_public} has the root {pinned.kid} in "
            f"front, which {configuration.trust_root} does not have: a change of root is under "
            "way; copy that file here, too, and let ringkeeper rewrap do the change"
        )
    written: list[Path] = []
    if len(kek.kids) > 1 and isinstance(configuration.kek, Path):
        amend(configuration.kek, kek.only(kek.kid).secret_jwk())
        written.append(configuration.kek)
    if len(root.kids) > 1:
        amend(configuration.trust_root, root.only(root.kid).secret_jwk())
        written.append(configuration.trust_root)
    if len(pinned.kids) > 1:
        amend(configuration.trust_root_public, pinned.only(root.kid).as_jwk())
        written.append(configuration.trust_root_public)
    return tuple(written)


# --- the rings -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrapping:
    """By what one ring is sealed and signed, and whether anything still needs a former secret."""

    seen: Seen
    sealed: dict[str, str | None]
    """kid to the KEK that sealed its private half."""
    keks: tuple[str, ...]
    roots: tuple[str, ...]
    """What this host's files hold: the first one of each is to seal, and to sign."""
    at: datetime
    """When it was looked at."""

    @property
    def kek(self) -> str:
        """The KEK that is to seal."""
        return self.keks[0]

    @property
    def root(self) -> str:
        """The root that is to sign."""
        return self.roots[0]

    @property
    def ring(self) -> Ring:
        """The ring."""
        return self.seen.ring

    @property
    def is_done(self) -> bool:
        """Whether the leader has nothing left to do."""
        is_sealed_so = {*self.sealed.values(), self.ring.kek} == {self.kek}
        return is_sealed_so and self.seen.signed_by == self.root

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a former secret is still needed, a line each."""
        name = f"ring {self.ring.name!r}"
        others = sorted(kid for kid, kek in self.sealed.items() if kek != self.kek)
        found: list[str] = []
        if self.seen.signed_by != self.root:
            found.append(f"{name} is signed by the root {self.seen.signed_by}, not by {self.root}")
        if self.ring.kek != self.kek:
            found.append(f"{name} is sealed by the KEK {self.ring.kek}, not by {self.kek}")
        elif others:
            found.append(f"{name}: {some(others)} still sealed by another KEK than {self.kek}")
        if found:
            found = [f"{problem}; ringkeeper rewrap changes it" for problem in found]
        elif self.behind:
            forgotten = format_duration(self.ring.policy.liveness_window)
            found.append(
                f"{name}: {some(self.behind)} did not confirm version {self.ring.version} yet; "
                f"give them the new secrets, or wait: who has ended counts for {forgotten} more"
            )
        elif self.lacking:
            found.append(
                f"{name}: {some(self.lacking)}; copy the files that hold the new one there"
            )
        elif self.ahead:
            found.append(
                f"{name}: {some(self.ahead)} would use secrets that this host does not have: a "
                "change is under way; copy the files that were changed here, too"
            )
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "ring": self.ring.name,
            "version": self.ring.version,
            "kek": self.ring.kek,
            "root": self.seen.signed_by,
            "sealed": self.sealed,
            "problems": list(self.problems),
        }

    @property
    def behind(self) -> tuple[str, ...]:
        """The live instances that have not confirmed this version, and when they were heard of."""
        behind = set(self.seen.behind)
        return tuple(sorted(i.named(self.at) for i in self.seen.instances if i.id in behind))

    @property
    def lacking(self) -> tuple[str, ...]:
        """The live instances that could not go on without the former secrets, and what they lack.

        A daemon may pin the new root without its private half: then it follows, and cannot lead.
        """
        behind = lacking(self.seen.instances, kek=self.kek, root=self.root)
        return tuple(f"{instance.named(self.at)} {what}" for instance, what in behind)

    @property
    def ahead(self) -> tuple[str, ...]:
        """The live instances that have in front what this host does not have at all."""
        here = {*self.keks, *self.roots}
        ahead = (i for i in self.seen.instances if not {*i.keks[:1], *i.roots[:1]} <= here)
        return tuple(sorted(i.named(self.at) for i in ahead))


def look(configuration: Configuration, rings: Sequence[RingConfiguration]) -> tuple[Wrapping, ...]:
    """How each of `rings` is wrapped; changes nothing."""
    keks, roots = (holder.kids for holder in held(configuration))

    async def at(operator: Operator, _: RingConfiguration) -> Wrapping:
        seen = await operator.look()
        sealed = await operator.sealed(seen.ring)
        by = {kid: kek_of(blob) for kid, blob in sealed.items()}
        return Wrapping(seen, by, keks, roots, operator.now())

    return tuple(good(at_rings(configuration, rings, at)).values())


def rewrap(
    configuration: Configuration,
    rings: Sequence[RingConfiguration],
    *,
    reason: str,
    wait: timedelta,
    is_forced: bool,
) -> tuple[Wrapping, ...]:
    """Ask the leader of each ring that is not yet so to seal and to sign by the first secrets.

    How they are then, once every live instance has confirmed it, or after a few seconds.

    Raises:
        RequestRefused: the leader said no, and why.
        InfrastructureError: nobody answered.
    """
    _, root = held(configuration)
    command = Command.REWRAP_NOW if is_forced else Command.REWRAP

    async def ask(operator: Operator, _: RingConfiguration) -> None:
        await operator.ask(root, command, reason=reason, wait=wait)

    looked_at = zip(rings, look(configuration, rings), strict=True)
    undone = [ring for ring, wrapping in looked_at if not wrapping.is_done]
    good(at_rings(configuration, undone, ask, "asked"))
    clock = SystemClock()
    patience = clock.monotonic() + _CONFIRMED_WITHIN
    while True:
        found = look(configuration, rings)
        is_settled = not any(wrapping.is_done and wrapping.behind for wrapping in found)
        if is_settled or clock.monotonic() > patience:
            return found
        time.sleep(_LOOK_AGAIN_AFTER)
