"""Keys of an issuer that has signed before: what each of them is to a ring that is made with them.

Tokens of theirs are out there, and verifiers know them: nobody is logged out by the move. So they
keep their kids, what signed last signs on, and what signed before verifies for as long as a token
of its may live. Nothing here touches Redis or a disk but to read the files. Promise 1.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ringkeeper.algorithms import thumbprint_of
from ringkeeper.errors import RequestRefused
from ringkeeper.policy import MAX_KEYS
from ringkeeper.ring import KeyKind
from ringkeeperd.key_files import read_keys
from ringkeeperd.misuse import Misused
from ringkeeperd.transitions import FreshKey

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from ringkeeper.algorithms import PrivateKey, PublicJwk
    from ringkeeper.policy import Policy
    from ringkeeper.secret import Secret
    from ringkeeperd.key_files import FoundKey

_ROOM: Final = 1
"""Kept free, so that the first rotation finds room for the next standby."""
_MOST_NAMED: Final = 5
NO_APPS: Final = "holds no rows of SuperTokens', and only those belong to an app"


class Brought(NamedTuple):
    """A key that comes along, with its private half unless it is foreign."""

    fresh: FreshKey
    private: PrivateKey | None


class Move(NamedTuple):
    """What an issuer brings along, by what it will be."""

    active: Brought | None
    """The dynamic key that signs; None: a fresh one."""
    static: Brought | None
    """The static key that signs; None: a fresh one."""
    former: tuple[Brought, ...]
    """Dynamic keys that signed before, further static ones, and foreign ones."""

    @property
    def keys(self) -> tuple[Brought, ...]:
        """All of them."""
        return tuple(key for key in (self.active, self.static, *self.former) if key)


class _Found(NamedTuple):
    path: Path
    key: FoundKey
    kind: KeyKind


def read_move(  # noqa: PLR0913 - all but two by name
    paths: Sequence[Path],
    policy: Policy,
    *,
    signing: Sequence[str] = (),
    algorithm: str = "",
    kid: str = "",
    kids: Mapping[Path, str] | None = None,
    passphrase: Secret | None = None,
    app: str = "",
) -> Move:
    """What the files at `paths` bring to a ring under `policy`.

    Args:
        paths: each as `read_keys` takes one.
        policy: that of the ring that they are for.
        signing: the kid that signs, of each kind, where files do not tell which is the newest.
        algorithm: as for `read_keys`.
        kid: as for `read_keys`; of one file only.
        kids: the same for each of several files.
        passphrase: as for `read_keys`.
        app: as for `read_keys`.

    Raises:
        KeyUnusable: one of the keys cannot be used.
        UnsupportedAlgorithm: `algorithm` is not one that ringkeeper offers.
        RequestRefused: they make no ring, or one that would log somebody out.
        Misused: what was said about the files cannot hold of them.
    """
    if kid and len(paths) > 1:
        raise Misused(
            "--kid names the key of one file, and here are several; name each of them: "
            "--import KID=FILE"
        )
    named = kids or {}
    read = partial(read_keys, algorithm=algorithm, passphrase=passphrase, prefix="", app=app)
    found = [
        _Found(path, key, _kind(key))
        for path in paths
        for key in read(path, kid=named.get(path, kid))
    ]
    if app and not any(each.key.kind for each in found):
        raise Misused(f"--app: {paths[0]} {NO_APPS}; leave it out")
    _check_apart(found)
    _check_signing(found, signing)
    active = _signing_one(found, KeyKind.DYNAMIC, signing)
    static = _signing_one(found, KeyKind.STATIC, signing)
    _check_kids(found)
    _check_known(policy, active, static)
    others = tuple(_brought(each) for each in found if each not in (active, static))
    move = Move(_brought(active) if active else None, _brought(static) if static else None, others)
    _check_fits(move)
    _check_named(found)
    return move


def check_no_root(keys: Iterable[tuple[str, PublicJwk]], roots: Collection[str]) -> None:
    """Refuse a key, of kid and public half, that is one of the trust `roots`, of thumbprints.

    Raises:
        RequestRefused: what signs rings is to sign no tokens: every app that signs would hold it.
    """
    for kid, public in keys:
        if thumbprint_of(public) in roots:
            raise RequestRefused(
                f"{kid} is the trust root, which signs the ring itself: no app may hold it, and it "
                "signs no tokens; import the key of your tokens; nothing was changed"
            )


def _check_named(found: Sequence[_Found]) -> None:
    """Refuse a key whose kid was made up here: no token out there names it so."""
    for each in found:
        if not each.key.is_named:
            raise RequestRefused(
                f"{each.path}: has no kid, and by that tokens name their key; say which one they "
                "have: --import KID=FILE"
            )


def _kind(key: FoundKey) -> KeyKind:
    """As the file says it; else by the kid, as SuperTokens' SDKs tell the two apart."""
    if key.private is None:
        return KeyKind.FOREIGN
    is_static = key.kid.startswith(f"{KeyKind.STATIC.prefix}-")
    return key.kind or (KeyKind.STATIC if is_static else KeyKind.DYNAMIC)


def _brought(found: _Found) -> Brought:
    key = found.key
    return Brought(FreshKey(found.kind, key.algorithm, key.public, key.kid), key.private)


def _signing_one(found: Sequence[_Found], kind: KeyKind, signing: Sequence[str]) -> _Found | None:
    """The key of that kind that signs: the one that was named, the only one, or the newest."""
    able = [each for each in found if each.kind is kind]
    named = [each for each in able if each.key.kid in signing]
    if len(named) > 1:
        raise RequestRefused(
            f"--signing names {len(named)} {kind} keys, and one signs; name only that one"
        )
    if named or len(able) < 2:  # noqa: PLR2004 - nothing to choose from
        return next(iter(named or able), None)
    ages = {each.key.made_at for each in able}
    if None in ages or len(ages) < len(able):
        raise RequestRefused(
            f"which of these {kind} keys signed last, the files do not say: "
            f"{_named([each.key.kid for each in able])}; tell it with --signing KID"
        )
    return max(able, key=lambda each: each.key.made_at.timestamp() if each.key.made_at else 0)


# --- refusing ------------------------------------------------------------------------------------


def _check_apart(found: Sequence[_Found]) -> None:
    """Whether no file has what another one has, too; within one, `read_keys` has seen to it."""
    kids: dict[str, _Found] = {}
    keys: dict[str, _Found] = {}
    for each in found:
        for seen, mark in ((kids, each.key.kid), (keys, thumbprint_of(each.key.public))):
            if other := seen.setdefault(mark, each):
                if other is each:
                    continue
                what = "a key of that kid" if seen is kids else "that very key"
                raise RequestRefused(
                    f"{each.path}: {each.key.kid}: {other.path} has {what}, too; leave one of "
                    "them out"
                )


def _check_signing(found: Sequence[_Found], signing: Sequence[str]) -> None:
    for kid in signing:
        each = next((each for each in found if each.key.kid == kid), None)
        if each is None:
            held = _named([each.key.kid for each in found])
            raise RequestRefused(f"--signing: no file has a key {kid!r}; they have {held}")
        if each.key.private is None:
            raise RequestRefused(
                f"{each.path}: {kid} is to sign, and here is only its public half; import the "
                "private one"
            )


def _check_kids(found: Sequence[_Found]) -> None:
    for each in found:
        if each.kind is KeyKind.STATIC and each.key.kid.startswith(f"{KeyKind.DYNAMIC.prefix}-"):
            raise RequestRefused(
                f"{each.path}: {each.key.kid} is a static key with the kid of a dynamic one, by "
                "which SuperTokens' SDKs refuse its tokens; leave it out"
            )


def _check_known(policy: Policy, active: _Found | None, static: _Found | None) -> None:
    """Promise 2: what signs the first token is a key that verifiers know.

    Where only public keys come along, the former issuer signs on, and nothing signs here yet.
    """
    if policy.use_dynamic and static and active is None:
        raise RequestRefused(
            f"{static.path}: {static.key.kid} is a static key, and dynamic ones sign: a fresh one "
            "would, which no verifier knows yet; import the dynamic ones, too, or set "
            "use_dynamic_access_token_signing_key to false until verifiers read the JWKS here"
        )


def _check_fits(move: Move) -> None:
    # The standby is always fresh; the two that sign are, where none came along.
    fresh = 1 + (move.active is None) + (move.static is None)
    most = MAX_KEYS - _ROOM - fresh
    if len(move.keys) > most:
        raise RequestRefused(
            f"there are {len(move.keys)} keys in these files, and a ring takes {most} of them at "
            "the most; leave out those whose last token has expired"
        )


def _named(kids: Sequence[str]) -> str:
    more = len(kids) - _MOST_NAMED
    return ", ".join(kids[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
