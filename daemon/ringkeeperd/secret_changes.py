"""`ringkeeper init --new-root`, `--new-kek` and `ringkeeper rewrap`: how secrets are changed.

The files first: each gets a fresh secret, in front of the present one, which stays. Then `rewrap`
asks the leader of each ring to use what is first from now on. Then the former one goes, once
nothing needs it any more. Between any two of these steps everything works, for as long as one
likes; docs/secrets.md tells the whole order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeper.errors import RequestRefused, SecretError
from ringkeeper.kek_variable import KekVariable, kek_from
from ringkeeper.sealing import Kek, kek_of
from ringkeeper.secret_files import amend, read_kek, read_pair, read_pinned_roots
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Command
from ringkeeperd.operator import at_ring, some

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.ring import Ring
    from ringkeeperd.operator import Operator, Seen

_MOST = 2
"""Secrets of one kind in a file: the one in use, and the next or the former one."""


# --- the files -----------------------------------------------------------------------------------


def add_root(configuration: Configuration) -> tuple[Path, ...]:
    """Put a fresh trust root in front of the present one, private and public; the files written.

    Raises:
        SecretError: a file cannot be used, or already holds two.
    """
    root, pinned = read_pair(configuration.trust_root, configuration.trust_root_public)
    _check_room(configuration.trust_root, root.kids, "root")
    fresh = TrustRoot.generate().joined(root)
    # The public half first: whoever signs by a root that this host itself does not pin is refused.
    amend(configuration.trust_root_public, fresh.public.joined(pinned).as_jwk())
    amend(configuration.trust_root, fresh.secret_jwk())
    return configuration.trust_root_public, configuration.trust_root


def add_kek(configuration: Configuration) -> tuple[Path, ...]:
    """Put a fresh KEK in front of the present one; the file written. Raises as `add_root`."""
    path = configuration.kek
    if isinstance(path, KekVariable):
        raise SecretError(f"{path}: an environment variable cannot be amended; keep it in a file")
    kek = read_kek(path)
    _check_room(path, kek.kids, "KEK")
    amend(path, Kek.generate().joined(kek).secret_jwk())
    return (path,)


def _check_room(path: Path, kids: Sequence[str], what: str) -> None:
    if len(kids) >= _MOST:
        raise SecretError(
            f"{path}: holds {len(kids)} already: the {what} is being changed; finish that first: "
            "ringkeeper rewrap, then ringkeeper rewrap --drop-former"
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
    kek: str
    root: str
    """What is to seal and to sign: the first ones of this host's files."""

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
        elif self.seen.behind:
            found.append(
                f"{name}: {some(self.seen.behind)} did not confirm version {self.ring.version} "
                "yet; give them the new secrets, or wait"
            )
        return tuple(found)


def look(configuration: Configuration, rings: Sequence[RingConfiguration]) -> tuple[Wrapping, ...]:
    """How each of `rings` is wrapped; changes nothing."""
    kek, root = (holder.kid for holder in held(configuration))

    async def at(operator: Operator) -> Wrapping:
        seen = await operator.look()
        sealed = await operator.sealed(seen.ring)
        return Wrapping(seen, {kid: kek_of(blob) for kid, blob in sealed.items()}, kek, root)

    return tuple(at_ring(configuration, ring.name, at) for ring in rings)


def rewrap(
    configuration: Configuration,
    rings: Sequence[RingConfiguration],
    *,
    reason: str,
    wait: timedelta,
    is_forced: bool,
) -> tuple[Wrapping, ...]:
    """Ask the leader of each ring that is not yet so to seal and to sign by the first secrets.

    Raises:
        RequestRefused: the leader said no, and why.
        InfrastructureError: nobody answered.
    """
    _, root = held(configuration)
    command = Command.REWRAP_NOW if is_forced else Command.REWRAP

    async def ask(operator: Operator) -> None:
        await operator.ask(root, command, reason=reason, wait=wait)

    for wrapping in look(configuration, rings):
        if not wrapping.is_done:
            at_ring(configuration, wrapping.ring.name, ask)
    return look(configuration, rings)
