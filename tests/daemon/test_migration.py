"""A running system moves to ringkeeper, and away from it, and nobody is logged out."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from ringkeeper import Keyring
from ringkeeper.clock import SystemClock
from tests.plugins.brought_keys import Issuer, StaticRow, as_csv, halves, in_json, jwk, made, put
from tests.plugins.daemons import Daemon, Site, eventually

DAY = timedelta(days=1)
MOVED: dict[str, Any] = {
    "access_token_validity": 3600,
    "publication_interval": "2s",
    "jwks_max_age": "1s",
    "confirmation_timeout": "2s",
}
"""As SuperTokens has it, but that nobody has to wait for a rotation."""


@pytest.fixture
def issuer() -> Issuer:
    """One that turned its key an hour ago: tokens of both keys are out there."""
    return Issuer(7 * DAY, DAY / 24, now=SystemClock().now())


class Moved:
    """A system that moved here: the daemon, an app with our client, one with the JWKS alone."""

    def __init__(self, site: Site, *options: str, **settings: Any) -> None:
        self.site = site
        site.configure(**{**MOVED, **settings})
        self.said = site.done("init", *options)
        self.daemon: Daemon = site.daemon(**{**MOVED, **settings})
        site.leader()
        self.app = Keyring.connect(
            site.redis_url,
            trust_root=site.folder / "root.pub.jwk",
            kek=site.folder / "kek.jwk",
        )

    @property
    def published(self) -> jwt.PyJWKSet:
        return jwt.PyJWKSet.from_json(self.daemon.get("/.well-known/jwks.json")[2].decode())

    def verified_over_http(self, token: str) -> Any:
        """What PyJWT says, which knows the daemon's address and nothing else."""
        address = f"http://127.0.0.1:{self.daemon.port}/.well-known/jwks.json"
        key = jwt.PyJWKClient(address).get_signing_key_from_jwt(token)
        return jwt.decode(token, key)

    def check_good(self, *tokens: str) -> None:
        """Every verifier takes each of them."""
        for token in tokens:
            assert self.app.verify(token) == self.verified_over_http(token)

    def turn(self) -> None:
        """Let the next key sign, and wait until the daemon hands out its JWKS."""
        self.site.done("rotate", "--wait")
        signer = next(k["kid"] for k in self.keys if k["state"] == "active")
        eventually(lambda: self.published[signer])

    @property
    def keys(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.site.status()["keys"]
        return told

    def removed_at(self, kid: str) -> datetime:
        key = next(key for key in self.keys if key["kid"] == kid)
        return datetime.fromisoformat(key["remove_at"])


@pytest.fixture
def move(site: Site) -> Iterator[Callable[..., Moved]]:
    moved: list[Moved] = []

    def make(*options: str, **settings: Any) -> Moved:
        moved.append(Moved(site, *options, **settings))
        return moved[-1]

    yield make
    for each in moved:
        each.app.close()


def kid_in(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


def expiry(token: str) -> float:
    expires: float = jwt.decode(token, options={"verify_signature": False})["exp"]
    return expires


def table(site: Site, issuer: Issuer) -> Path:
    return put(site.folder / "rows.csv", as_csv(issuer.rows))


# --- here ----------------------------------------------------------------------------------------


def test_a_running_supertokens_moves_here_and_nobody_is_logged_out(
    site: Site, issuer: Issuer, move: Callable[..., Moved]
) -> None:
    former, signing = issuer.keys
    before = [issuer.sign(former), issuer.sign(signing)]
    table(site, issuer)
    moved = move("--import", "rows.csv")
    assert f"made ring access-token: {signing} signs" in moved.said
    moved.check_good(*before)

    # Ours and theirs, side by side: one key signs for both.
    ours = moved.app.sign({"sub": "bob"})
    theirs = issuer.sign()
    assert kid_in(ours) == kid_in(theirs) == signing
    assert jwt.decode(ours, issuer.keys[signing].public_key(), ["RS256"])["sub"] == "bob"
    moved.check_good(ours, theirs)

    # A rotation, and one more; the former issuer has not heard of it.
    moved.turn()
    turned = moved.app.sign({"sub": "carol"})
    assert kid_in(turned) not in issuer.keys
    late = issuer.sign()
    assert kid_in(late) == signing
    moved.check_good(*before, ours, theirs, turned, late)
    moved.turn()
    moved.check_good(*before, ours, theirs, turned, late, moved.app.sign({"sub": "dora"}))

    # None of their keys goes before the last token that it may have signed has expired.
    for token in (*before, ours, theirs, late):
        assert moved.removed_at(kid_in(token)).timestamp() > expiry(token)


def test_the_longest_token_of_theirs_is_outlived_if_its_validity_is_configured(
    site: Site, issuer: Issuer, move: Callable[..., Moved]
) -> None:
    """With access_token_validity as SuperTokens had it; nothing else tells how long they live."""
    former = next(iter(issuer.keys))
    month = 30 * DAY
    token = issuer.sign(former, lifetime=month)
    table(site, issuer)
    hours, validity = 60 * 24, int(month.total_seconds())
    moved = move(
        "--import", "rows.csv",
        access_token_dynamic_signing_key_update_interval=hours, access_token_validity=validity,
    )  # fmt: skip
    moved.check_good(token)
    assert moved.removed_at(former).timestamp() > expiry(token)


def test_a_key_is_removed_before_a_token_that_lives_longer_than_configured(
    site: Site, issuer: Issuer, move: Callable[..., Moved]
) -> None:
    """What docs/import.md warns of."""
    former = next(iter(issuer.keys))
    token = issuer.sign(former, lifetime=30 * DAY)
    table(site, issuer)
    moved = move("--import", "rows.csv")
    assert moved.removed_at(former).timestamp() < expiry(token)


def test_static_keys_move_along_with_those_who_hardcode_them(
    site: Site, issuer: Issuer, move: Callable[..., Moved]
) -> None:
    native = made("RS256")
    put(
        site.folder / "static.csv", as_csv([StaticRow("public", "s-1", halves(native), "RS256", 1)])
    )
    table(site, issuer)
    options = ("--import", "rows.csv", "--import", "static.csv")
    moved = move(*options, use_dynamic_access_token_signing_key=False)
    ours = moved.app.sign({"sub": "bob"})
    assert kid_in(ours) == "s-1"
    hardcoded = site.done("static", "public")
    assert jwt.decode(ours, hardcoded, algorithms=["RS256"])["sub"] == "bob"
    theirs = jwt.encode(
        {"sub": "a", "exp": expiry(ours)}, native, "RS256", headers={"kid": "s-1", "version": "5"}
    )
    moved.check_good(ours, theirs, issuer.sign())


def test_a_fresh_static_key_signs_once_verifiers_may_know_it(
    site: Site, issuer: Issuer, move: Callable[..., Moved]
) -> None:
    """Until then the key signs that came along."""
    table(site, issuer)
    moved = move("--import", "rows.csv", use_dynamic_access_token_signing_key=False)
    eventually(lambda: kid_in(moved.app.sign({})).startswith("s-"), within=20)
    (told,) = eventually(lambda: moved.daemon.events("key activated"))
    assert told["rotation"] == "first"
    moved.check_good(moved.app.sign({"sub": "bob"}), issuer.sign())


# --- and away ------------------------------------------------------------------------------------


def test_a_system_that_leaves_logs_nobody_out(site: Site, move: Callable[..., Moved]) -> None:
    moved = move()
    ours = [moved.app.sign({"sub": "alice"})]
    moved.turn()
    ours.append(moved.app.sign({"sub": "bob"}))

    # Before the next issuer signs, all who verify by our ring know its key.
    native = made("RS256", 1)
    put(site.folder / "next.json", in_json(jwk(native, private=False, kid="next-1")), 0o644)
    said = site.done("static", "import", "next.json", "--verify-only")
    assert "next-1 (RS256) verifies now" in said
    eventually(lambda: "next-1" in {key.key_id for key in moved.published.keys})
    # And all who verify by its JWKS know ours.
    handed = json.loads(site.done("jwks"))["keys"]
    theirs = jwt.PyJWKSet([*handed, jwk(native, private=False, kid="next-1", alg="RS256")])

    now = int(SystemClock().now().timestamp())
    claims = {"sub": "carol", "iat": now, "exp": now + 3600}
    after = jwt.encode(claims, native, "RS256", headers={"kid": "next-1"})
    late = moved.app.sign({"sub": "dora"})
    moved.check_good(*ours, after, late)
    for token in (*ours, after, late):
        assert jwt.decode(token, theirs[kid_in(token)])["sub"]
    # A rotation meanwhile changes nothing for either.
    moved.turn()
    moved.check_good(*ours, after, late)


def test_what_only_verifies_is_never_signed_with(site: Site, move: Callable[..., Moved]) -> None:
    public = jwk(made("ES256"), private=False, kid="other")
    put(site.folder / "other.json", in_json(public), 0o644)
    moved = move("--import", "other.json")
    for _ in range(2):
        moved.turn()
        assert kid_in(moved.app.sign({})).startswith("d-")
    now = int(SystemClock().now().timestamp())
    moved.check_good(
        jwt.encode({"sub": "a", "exp": now + 60}, made("ES256"), "ES256", headers={"kid": "other"})
    )
