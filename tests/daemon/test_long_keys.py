"""RSA keys of 3072 and 4096 bits: made here or brought along, they sign, verify and turn."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ringkeeper import Keyring
from ringkeeper.sealing import MAX_SEALED
from tests.plugins.brought_keys import made, pem, put
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server

HASTY: dict[str, Any] = {
    "access_token_validity": 600,
    "publication_interval": "2s",
    "jwks_max_age": "1s",
    "confirmation_timeout": "2s",
}


class Running:
    """A ring that is led, an app that signs and verifies, and whoever knows the JWKS alone."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self.site = site
        self.daemon: Daemon = site.daemon(**HASTY, **settings)
        site.leader()
        self.app = Keyring.connect(
            site.redis_url, trust_root=site.folder / "root.pub.jwk", kek=site.folder / "kek.jwk"
        )

    @property
    def published(self) -> dict[str, jwt.PyJWK]:
        told = self.daemon.get("/.well-known/jwks.json")[2].decode()
        return {str(key.key_id): key for key in jwt.PyJWKSet.from_json(told).keys}

    def check(self, token: str) -> None:
        """The app, a command and PyJWT all take it."""
        verified = self.app.verify(token)
        assert jwt.decode(token, self.published[kid_in(token)]) == verified
        assert json.loads(self.site.done("token", "verify", token)) == verified


@pytest.fixture
def run(site: Site) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(**settings: Any) -> Running:
        running.append(Running(site, **settings))
        return running[-1]

    yield start
    for each in running:
        each.app.close()


def kid_in(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def bits(key: jwt.PyJWK) -> int:
    assert isinstance(key.key, rsa.RSAPublicKey)
    return key.key.key_size


@pytest.mark.parametrize(("algorithm", "size"), [("RS256", 4096), ("PS256", 3072)])
def test_long_keys_sign_and_turn(
    site: Site, valkey: Server, run: Callable[..., Running], algorithm: str, size: int
) -> None:
    rules: dict[str, Any] = {"algorithm": algorithm, "rsa_key_size": size}
    site.configure(**HASTY, **rules)
    site.done("init")
    running = run(**rules)
    assert [bits(key) for key in running.published.values()] == [size] * 3
    first = running.app.sign({"sub": "alice"})
    by_command = site.done("token", "sign", "--claims", '{"sub":"bob"}')
    assert jwt.get_unverified_header(first)["alg"] == algorithm
    assert kid_in(first) == kid_in(by_command) == site.status()["signer"]
    site.done("rotate", "--wait")
    signer = site.status()["signer"]
    eventually(lambda: signer in running.published)
    second = running.app.sign({"sub": "carol"})
    assert kid_in(second) == signer != kid_in(first)
    for token in (first, by_command, second):
        running.check(token)
    # The standby that followed is such a key, too, and all of them fit into where they lie sealed.
    eventually(lambda: [bits(key) for key in running.published.values()] == [size] * 4, within=60)
    with valkey.client() as client:
        sealed: Any = client.hgetall("ringkeeper:{access-token}:sealed")
    assert sealed.keys() == running.published.keys()
    assert max(map(len, sealed.values())) < MAX_SEALED


@pytest.mark.parametrize("size", [3072, 4096])
def test_a_ring_is_made_with_a_long_key_of_another_issuer(
    site: Site, run: Callable[..., Running], size: int
) -> None:
    """Whose tokens stay good; what turns after it is as the configuration says."""
    native = made(f"RSA-{size}")
    put(site.folder / "key.pem", pem(native))
    site.configure(**HASTY)
    said = site.done("init", "--import", "main=key.pem")
    assert "made ring access-token: main signs" in said
    running = run()
    theirs = jwt.encode(
        {"sub": "alice", **lifetime(running)}, native, "RS256", headers={"kid": "main"}
    )
    ours = running.app.sign({"sub": "bob"})
    assert kid_in(ours) == "main"
    assert jwt.decode(ours, native.public_key(), ["RS256"])["sub"] == "bob"
    assert bits(running.published["main"]) == size
    site.done("rotate", "--wait")
    eventually(lambda: site.status()["signer"] in running.published)
    assert jwt.get_unverified_header(running.app.sign({"sub": "carol"}))["alg"] == "ES256"
    for token in (theirs, ours):
        running.check(token)


def lifetime(running: Running) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(running.app.sign({}), options={"verify_signature": False})
    return {name: claims[name] for name in ("iat", "exp")}


def test_a_long_static_key_is_imported_into_a_ring_and_signs(
    site: Site, run: Callable[..., Running]
) -> None:
    native = made("RSA-4096")
    put(site.folder / "key.pem", pem(native))
    rules: dict[str, Any] = {"use_dynamic_access_token_signing_key": False}
    site.configure(**HASTY, **rules)
    site.done("init")
    running = run(**rules)
    former, before = site.status()["signer"], running.app.sign({"sub": "alice"})
    imported = "s-long"
    said = site.done("static", "import", "key.pem", "--kid", imported)
    assert f"{imported} (RS256) verifies now" in said
    eventually(lambda: site.run("static", "retire", former).returncode == 0, within=20)
    token = eventually(
        lambda: (t := running.app.sign({"sub": "bob"})) and kid_in(t) != former and t
    )
    assert kid_in(token) == imported
    assert jwt.decode(token, native.public_key(), ["RS256"])["sub"] == "bob"
    eventually(lambda: imported in running.published)
    assert bits(running.published[imported]) == 4096
    for each in (before, token):
        running.check(each)
