"""Apps in Node: they sign by a file, or by Redis itself, and verify by the JWKS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ringkeeper import Keyring, TokenError
from ringkeeper.layout import Layout
from ringkeeper.trust import TrustRoot
from ringkeeperd.acl import Role, acl_rules, password_hash
from tests.integrations.bearer import EXAMPLES, App, has_no_eddsa, is_no_fool, needs
from tests.integrations.stage import Stage, eventually, go_through, kid_in
from tests.integrations.table import COLUMNS
from tests.plugins.daemons import Site
from tests.plugins.servers import Server, free_port

pytestmark = pytest.mark.integrations
NODE = EXAMPLES / "node"
ALL = ("EdDSA", "RS256")


def app(stage: Stage, name: str, **environment: str) -> App:
    needs("node", NODE / "node_modules/jose")
    return App.started(stage, "node", str(NODE / name), **environment)


def allow_signers(server: Server) -> None:
    rules = acl_rules(Role.SIGNER, ["access-token"], password_hash=password_hash("secret"))
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", Role.SIGNER.user, *rules)


def by_redis(stage: Stage, valkey: Server) -> App:
    """It may do in Redis what an app may that signs, and no more."""
    allow_signers(valkey)
    return app(
        stage,
        "redis.mjs",
        REDIS_URL=f"redis://{Role.SIGNER.user}:secret@127.0.0.1:{valkey.port}/0",
        TRUST_ROOT=str(stage.folder / "root.pub.jwk"),
        KEK=str(stage.folder / "kek.jwk"),
    )


def test_while_redis_is_away_it_goes_on_and_then_catches_up(
    make_site: Callable[[str], Site],
    own_server: Callable[[], Server],
    request: pytest.FixtureRequest,
) -> None:
    server = own_server()
    stage = Stage(make_site(server.url))
    request.addfinalizer(stage.close)
    node = by_redis(stage, server)
    server.kill()
    eventually(lambda: "redis:" in stage.log())
    token = node.login()
    assert node.accepts(token)
    server.start()  # empty: the daemon puts back what it knows
    allow_signers(server)
    eventually(lambda: stage.site.run("status").returncode == 0)
    signer = stage.rotate()
    eventually(lambda: kid_in(node.login()) == signer)
    assert node.accepts(token)


def test_who_writes_to_redis_forges_nothing_and_turns_nothing_back(
    stage: Stage, valkey: Server
) -> None:
    node = by_redis(stage, valkey)
    token, kid, layout = node.login(), stage.signer, Layout("access-token")
    with valkey.client() as client:
        before = client.hgetall(layout.keyring)
        stage.rotate()
        stage.revoke(kid)
        eventually(lambda: not node.accepts(token))
        stage.daemon.kill()  # it would mend what follows
        now = client.hgetall(layout.keyring)

        client.hset(layout.keyring, mapping=before)
        eventually(lambda: "an older one" in stage.log())
        assert not node.accepts(token)

        forged = f"{now['snapshot'].rpartition('.')[0]}.{before['snapshot'].rpartition('.')[2]}"
        client.hset(layout.keyring, mapping={**now, "snapshot": forged})
        eventually(lambda: "signature verification failed" in stage.log())
        assert not node.accepts(token)

        # Whoever starts now is given each private half under another's name.
        client.hset(layout.keyring, mapping=now)
        sealed = client.hgetall(layout.sealed)
        first, *rest = sealed.values()
        client.hset(layout.sealed, mapping=dict(zip(sealed, [*rest, first], strict=True)))
    late = by_redis(stage, valkey)
    assert "another key's private half" in stage.log(1)
    assert late.get("/login")[0] == 503
    assert late.accepts(node.login())


def test_another_root_than_the_pinned_one_is_not_believed(stage: Stage, valkey: Server) -> None:
    pinned = stage.folder / "root.pub.jwk"
    pinned.write_text(json.dumps(TrustRoot.generate().public_jwk()))
    process = stage.start(
        *("node", str(NODE / "redis.mjs"), str(free_port())),
        env={
            **stage.environment,
            "REDIS_URL": valkey.tcp_url,
            "TRUST_ROOT": str(pinned),
            "KEK": str(stage.folder / "kek.jwk"),
        },
    )
    assert process.wait(20) != 0
    assert "a root that is not pinned" in stage.log()


def states(ring: Keyring, tokens: list[str]) -> list[bool]:
    return [is_good(ring, token) for token in tokens]


def is_good(ring: Keyring, token: str) -> bool:
    try:
        return bool(ring.verify(token))
    except TokenError:
        return False


def node_states(node: App, tokens: list[str]) -> list[bool]:
    return [node.accepts(token) for token in tokens]


def test_jose_signs_by_the_file_and_verifies_by_the_jwks(
    site: Site, memory: Path, request: pytest.FixtureRequest, shows: Callable[..., None]
) -> None:
    stage = Stage(site, files={"directory": str(memory), "signing_key": True})
    request.addfinalizer(stage.close)
    node = app(stage, "jose.mjs", SIGNING_KEY=str(memory / "signing-key.jwk"))
    go_through(stage, node.login, node.accepts, algorithms=ALL)
    is_no_fool(stage, node, node.login())
    shows("Node: jose", *COLUMNS)


def test_jsonwebtoken_verifies_by_the_jwks(stage: Stage, shows: Callable[..., None]) -> None:
    node, ring = app(stage, "jsonwebtoken.mjs"), stage.keyring()
    go_through(stage, lambda: ring.sign({"sub": "alice"}), node.accepts)
    is_no_fool(stage, node, ring.sign({"sub": "alice"}))
    has_no_eddsa(stage, lambda: ring.sign({"sub": "alice"}), node)
    shows("Node: jsonwebtoken", *COLUMNS[1:])


@pytest.mark.parametrize("name", ["jose.mjs", "jsonwebtoken.mjs"])
def test_while_the_daemon_is_away_nobody_is_logged_out(stage: Stage, name: str) -> None:
    node, token = app(stage, name), stage.keyring().sign({"sub": "alice"})
    assert node.accepts(token)
    stage.daemon.kill()

    def missed_it() -> bool:
        assert node.accepts(token)
        return "the JWKS cannot be had" in stage.log()

    eventually(missed_it)


def test_jose_signs_and_verifies_by_redis_itself(
    stage: Stage, valkey: Server, shows: Callable[..., None]
) -> None:
    node, ring = by_redis(stage, valkey), stage.keyring()
    go_through(stage, node.login, node.accepts, algorithms=ALL, within=2)
    is_no_fool(stage, node, node.login())
    assert ring.verify(node.login())["sub"] == "alice"
    assert node.accepts(ring.sign({"sub": "alice"}))
    shows("Node: jose with Redis", *COLUMNS)


def test_a_key_that_drains_does_so_for_all_alike(stage: Stage, valkey: Server) -> None:
    """Who reads the ring in Redis refuses the same tokens as our own client."""
    node, ring = by_redis(stage, valkey), stage.keyring()
    tokens = [ring.sign({"sub": f"user {number}"}) for number in range(40)]
    # A token with no subject has a turn, too.
    tokens += [ring.sign({"sid": number}) for number in range(10)]
    assert all(node.accepts(token) for token in tokens)
    retired = stage.signer
    stage.rotate()
    stage.site.done("revoke", retired, "--drain", "6s", "--reason", "a test")

    def alike() -> bool:
        """Whether some of them, and not all, are refused, by both."""
        before, seen, after = states(ring, tokens), node_states(node, tokens), states(ring, tokens)
        assert [s for s, b, a in zip(seen, before, after, strict=True) if b == a] == [
            b for b, a in zip(before, after, strict=True) if b == a
        ]
        return 5 < sum(seen) < 45

    eventually(alike)
    eventually(lambda: not any(node_states(node, tokens)))
