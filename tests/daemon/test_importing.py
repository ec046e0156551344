"""A ring that is made with the keys of an issuer that has signed before."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RequestRefused, SealBroken
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.sealing import Kek
from ringkeeper.trust import TrustRoot
from ringkeeperd.founding import found
from ringkeeperd.importing import Brought, Move, read_move
from ringkeeperd.leader_store import RedisLeaderStore
from ringkeeperd.minting import mint, mint_aside
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.transitions import FreshKey
from tests.plugins.brought_keys import (
    PASSPHRASE,
    PRIVATE_FORMS,
    DynamicRow,
    StaticRow,
    as_csv,
    halves,
    in_json,
    jwk,
    made,
    pem,
    public_pem,
    put,
)
from tests.plugins.daemons import Site
from tests.plugins.servers import Server

TIME = 1_790_000_000_000
NOW = datetime(2026, 11, 1, tzinfo=UTC)
POLICY = Policy.derive(algorithm="ES256")
STATIC_POLICY = Policy.derive(algorithm="ES256", use_dynamic=False)


def dynamic(*numbers: int) -> bytes:
    return as_csv([DynamicRow("public", TIME + n, halves(made("RS256", n))) for n in numbers])


def static(*numbers: int) -> bytes:
    return as_csv(
        [
            StaticRow("public", f"s-{n}", halves(made("RS256", n)), "RS256", TIME + n)
            for n in numbers
        ]
    )


def static_of_one_age(*numbers: int) -> bytes:
    return as_csv(
        [StaticRow("public", f"s-{n}", halves(made("RS256", n)), "RS256", TIME) for n in numbers]
    )


def ring_of(move: Move, policy: Policy = POLICY) -> Ring:
    """The ring that `init` makes of it."""
    brought = (move.active, None, move.static)
    fresh = [
        each.fresh if each else mint_fresh(wanted)
        for wanted, each in zip(first_keys_wanted(policy), brought, strict=True)
    ]
    return first_ring(
        ring_id="r", name="access-token", policy=policy, fresh=fresh, kek="k", now=NOW, epoch=1,
        former=[each.fresh for each in move.former],
    )  # fmt: skip


def mint_fresh(wanted: Any) -> Any:

    return mint(wanted, Kek.generate()).fresh


def states(ring: Ring) -> dict[str, tuple[KeyKind, KeyState]]:
    return {key.kid: (key.kind, key.state) for key in ring.keys}


# --- what each key will be -----------------------------------------------------------------------


def test_the_newest_dynamic_key_signs_and_the_others_verify_for_a_whole_retire_interval(
    tmp_path: Path,
) -> None:
    """Whatever the order in the files, and however old they are."""
    ring = ring_of(read_move([put(tmp_path / "rows.csv", dynamic(2, 3, 1))], POLICY))
    assert ring.active() == ring.key(f"d-{TIME + 3}")
    retired = ring.in_state(KeyState.RETIRED)
    assert {key.kid for key in retired} == {f"d-{TIME + 1}", f"d-{TIME + 2}"}
    assert {key.remove_at for key in retired} == {NOW + POLICY.retire_interval}
    assert ring.version == 1


def test_what_was_made_here_waits_until_verifiers_know_it(tmp_path: Path) -> None:
    """Promise 2: a cache of the former issuer's JWKS has neither standby nor static key."""
    ring = ring_of(read_move([put(tmp_path / "rows.csv", dynamic(1))], POLICY))
    assert ring.standby
    (fresh,) = ring.in_state(KeyState.PUBLISHED, KeyKind.STATIC)
    assert ring.active(KeyKind.STATIC) is None
    assert {ring.standby.ready_at, fresh.ready_at} == {NOW + POLICY.publication_interval}
    # Where static keys sign, the dynamic one stands in meanwhile.
    ring = ring_of(read_move([tmp_path / "rows.csv"], STATIC_POLICY), STATIC_POLICY)
    assert ring.signer == ring.key(f"d-{TIME + 1}")


def test_the_newest_static_key_goes_on_as_the_static_one(tmp_path: Path) -> None:
    files = [put(tmp_path / "d.csv", dynamic(0)), put(tmp_path / "s.csv", static(1, 2))]
    ring = ring_of(read_move(files, STATIC_POLICY), STATIC_POLICY)
    assert ring.signer == ring.key("s-2")
    assert states(ring)["s-1"] == (KeyKind.STATIC, KeyState.PUBLISHED)
    assert len(ring.keys) == 4  # and no fresh static one


def test_public_keys_verify_only(tmp_path: Path) -> None:
    """Even of an issuer that hands out nothing else, and goes on signing."""
    file = put(tmp_path / "k.json", in_json(jwk(made("ES256"), private=False, kid="other")))
    move = read_move([file], POLICY)
    ring = ring_of(move)
    assert states(ring)["other"] == (KeyKind.FOREIGN, KeyState.PUBLISHED)
    assert [each.private for each in move.keys] == [None]
    assert len(ring.keys) == 4


def test_a_kid_tells_the_kind_where_the_file_does_not(tmp_path: Path) -> None:
    keys = [jwk(made("ES256", n), kid=kid) for n, kid in enumerate(("main", "s-main"))]
    ring = ring_of(read_move([put(tmp_path / "k.json", in_json({"keys": keys}))], POLICY))
    assert states(ring)["main"] == (KeyKind.DYNAMIC, KeyState.ACTIVE)
    assert states(ring)["s-main"] == (KeyKind.STATIC, KeyState.ACTIVE)


def test_the_operator_says_which_signs(tmp_path: Path) -> None:
    files = [put(tmp_path / "d.csv", dynamic(0, 1)), put(tmp_path / "s.csv", static(2, 3))]
    ring = ring_of(read_move(files, POLICY, signing=[f"d-{TIME}", "s-2"]))
    assert ring.active() == ring.key(f"d-{TIME}")
    assert ring.active(KeyKind.STATIC) == ring.key("s-2")


def test_as_many_keys_come_along_as_leave_room_for_a_rotation(tmp_path: Path) -> None:
    keys = [jwk(made("ES256", n), kid=f"k{n}") for n in range(30)]
    file = put(tmp_path / "k.json", in_json({"keys": keys[:29]}))
    assert len(ring_of(read_move([file], POLICY, signing=["k0"])).keys) == 31
    put(file, in_json({"keys": keys}))
    with pytest.raises(RequestRefused, match=r"there are 30 keys .* takes 29"):
        read_move([file], POLICY, signing=["k0"])


# --- refusals ------------------------------------------------------------------------------------


@dataclass
class Case:
    """Files that no ring is made of, and a part of why."""

    why: str
    files: Callable[[], dict[str, bytes]]
    options: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    code: int = 1


def pair(first: bytes, second: bytes) -> dict[str, bytes]:
    return {"a": first, "b": second}


REFUSED = {
    "weak": Case(
        "is RSA of 1024 bits",
        lambda: {"a": pem(rsa.generate_private_key(65537, 1024))},  # noqa: S505 - it is refused
    ),
    "P-521": Case("use RSA", lambda: {"a": pem(ec.generate_private_key(ec.SECP521R1()))}),
    "secp256k1": Case("use RSA", lambda: {"a": pem(ec.generate_private_key(ec.SECP256K1()))}),
    "symmetric": Case("symmetric", lambda: {"a": b'{"kty":"oct","k":"c2VjcmV0c2VjcmV0"}'}),
    "one key in two files": Case(
        "d-1790000000000: a has that very key, too",
        lambda: pair(pem(made("RS256", 0)), dynamic(0)),
    ),
    "its public half in another": Case(
        "has that very key, too",
        lambda: pair(pem(made("ES256")), public_pem(made("ES256"))),
    ),
    "one kid in two files": Case(
        "k: a has a key of that kid, too",
        lambda: pair(*(in_json(jwk(made("ES256", n), kid="k")) for n in (0, 1))),
    ),
    "one kid in one file": Case(
        "two keys of one kid",
        lambda: {"a": in_json([jwk(made("ES256", n), kid="k") for n in (0, 1)])},
    ),
    "only a public key to sign": Case(
        "k is to sign, and here is only its public half",
        lambda: {"a": in_json(jwk(made("ES256"), private=False, kid="k"))},
        ("--signing", "k"),
    ),
    "nobody by that kid": Case(
        "no file has a key 'k'; they have d-1790000000000",
        lambda: {"a": dynamic(0)},
        ("--signing", "k"),
    ),
    "two that sign": Case(
        "--signing names 2 dynamic keys",
        lambda: {"a": dynamic(0, 1)},
        ("--signing", f"d-{TIME}", "--signing", f"d-{TIME + 1}"),
    ),
    "nobody knows which is newest": Case(
        "the files do not say: k0, k1; tell it with --signing KID",
        lambda: {"a": in_json([jwk(made("ES256", n), kid=f"k{n}") for n in (0, 1)])},
    ),
    "two static ones of one age": Case(
        "which of these static keys signed last, the files do not say: s-1, s-2; tell it with",
        lambda: pair(dynamic(0), static_of_one_age(1, 2)),
    ),
    "one of unknown age": Case(
        "tell it with --signing KID", lambda: pair(dynamic(0), pem(made("ES256")))
    ),
    "no passphrase": Case(
        "give its passphrase", lambda: {"a": PRIVATE_FORMS["PKCS #8, encrypted"](made("ES256"))}
    ),
    "the wrong passphrase": Case(
        "not opened by this passphrase",
        lambda: {"a": PRIVATE_FORMS["PKCS #8, encrypted"](made("ES256"))},
        ("--passphrase-file", "config.yaml"),
    ),
    "an empty file": Case("a: is empty", lambda: {"a": b"\n"}),
    "another kind of file": Case("holds no key that is known", lambda: {"a": b"key: value\n"}),
    "no file": Case("cannot be read", dict, ("--import", "nowhere")),
    "a good one and no file": Case(
        "cannot be read", lambda: {"a": dynamic(0)}, ("--import", "nowhere")
    ),
    "too many": Case(
        "there are 30 keys in these files",
        lambda: {"a": in_json([jwk(made("ES256", n), kid=f"k{n}") for n in range(30)])},
        ("--signing", "k0"),
    ),
    "static alone where dynamic ones sign": Case(
        "a fresh one would, which no verifier knows yet", lambda: {"a": static(0)}
    ),
    "a static key by a dynamic kid": Case(
        "SuperTokens' SDKs refuse its tokens",
        lambda: pair(
            dynamic(0),
            as_csv([StaticRow("public", "d-7", halves(made("RS256", 1)), "RS256", TIME)]),
        ),
    ),
    "a kid for several files": Case(
        "--kid names the key of one file",
        lambda: pair(dynamic(0), pem(made("ES256"))),
        ("--kid", "k"),
        code=2,
    ),
    "an app of what has none": Case(
        "and only those belong to an app",
        lambda: pair(pem(made("ES256")), public_pem(made("ES384"))),
        ("--app", "shop"),
        code=2,
    ),
    "a key that no token names": Case(
        "a: has no kid, and by that tokens name their key; say which one they have: --import KID=",
        lambda: {"a": pem(made("ES256"))},
    ),
    "an algorithm of no use": Case(
        "does not sign with ES256", lambda: {"a": dynamic(0)}, ("--algorithm", "ES256")
    ),
    "an algorithm that is not offered": Case(
        "'HS256' is not offered", lambda: {"a": dynamic(0)}, ("--algorithm", "HS256"), code=2
    ),
    "another app": Case("no row of the app 'shop'", lambda: {"a": dynamic(0)}, ("--app", "shop")),
    "options of no import": Case("name one: init --import FILE", dict, ("--signing", "k"), code=2),
    "an unknown ring": Case("nosuch", lambda: {"a": dynamic(0)}, ("--into", "nosuch")),
    "a host that does not lead": Case(
        "lead is false here", lambda: {"a": dynamic(0)}, (), {"lead": False}
    ),
}


def everything(site: Site, server: Server) -> tuple[dict[str, Any], dict[bytes, bytes]]:
    """All files with their modes, and all of Redis."""
    files = {
        str(path.relative_to(site.folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(site.folder.rglob("*"))
        if path.is_file()
    }
    with server.client() as client:
        return files, {key: client.dump(key) for key in client.scan_iter()}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_ring_leaves_everything_as_it_is(
    site: Site, valkey: Server, name: str
) -> None:
    case = REFUSED[name]
    for secret in ("root.jwk", "root.pub.jwk", "kek.jwk"):  # they would be made, too
        (site.folder / secret).unlink()
    site.configure(**case.settings)
    files = case.files()
    for file, data in files.items():
        put(site.folder / file, data)
    before = everything(site, valkey)
    options = [word for file in files for word in ("--import", file)]
    assert case.why in site.refused("init", *options, *case.options, code=case.code)
    assert everything(site, valkey) == before


def test_a_ring_that_exists_is_not_touched(site: Site, valkey: Server) -> None:
    site.configure()
    site.done("init")
    put(site.folder / "rows.csv", dynamic(0))
    before = everything(site, valkey)
    assert "exists already" in site.refused("init", "--import", "rows.csv")
    assert everything(site, valkey) == before


def test_an_import_is_no_start_that_may_be_repeated(site: Site) -> None:
    """What is content with a ring that exists would be content without the keys."""
    site.configure()
    done = site.run("init", "--if-missing", "--import", "rows.csv")
    assert done.returncode == 2
    assert "not allowed with argument" in done.stderr


# --- made in Redis -------------------------------------------------------------------------------


def test_a_pem_signs_on_under_the_kid_that_its_tokens_name(site: Site) -> None:
    """One commit: whoever reads the ring sees all of it, and can sign with it."""
    site.configure()
    native = made("ES256")
    put(site.folder / "key.pem", PRIVATE_FORMS["PKCS #8, encrypted"](native))
    put(site.folder / "passphrase", PASSPHRASE.encode() + b"\n")
    said = site.done(
        "init", "--import", "key.pem", "--kid", "main", "--passphrase-file", "passphrase"
    )
    assert "made ring access-token: main signs" in said
    token = site.done("token", "sign", "--claims", '{"sub":"alice"}')
    assert jwt.get_unverified_header(token)["kid"] == "main"
    assert jwt.decode(token, native.public_key(), algorithms=["ES256"])["sub"] == "alice"


def test_one_of_several_rings_takes_the_keys(site: Site, valkey: Server) -> None:
    site.configure(keyrings={"shop": {}})
    put(site.folder / "rows.csv", dynamic(0))
    said = site.done("init", "--import", "rows.csv", "--into", "shop")
    assert "made ring shop: d-1790000000000 signs" in said
    with valkey.client() as client:
        assert not client.exists("ringkeeper:{access-token}:keyring")
    # The others are made as ever.
    assert "made ring access-token" in site.done("init", "--if-missing")


def test_every_private_half_is_sealed_and_none_is_readable(site: Site, valkey: Server) -> None:
    site.configure()
    foreign = jwk(made("ES256"), private=False, kid="other")
    put(site.folder / "a", dynamic(0, 1))
    put(site.folder / "b", static(2))
    put(site.folder / "c", in_json(foreign))
    said = site.done("init", "--import", "a", "--import", "b", "--import", "c")
    assert "other (ES256) verifies only" in said
    with valkey.client() as client:
        sealed = client.hgetall("ringkeeper:{access-token}:sealed")
        stored = b"".join(filter(None, (client.dump(key) for key in client.scan_iter())))
    told = json.loads(site.done("status", "--json"))["keys"]
    assert set(sealed) == {key["kid"] for key in told} - {"other"}
    for number in range(3):
        whole = jwk(made("RS256", number))
        assert not any(whole[part].encode() in stored for part in ("d", "p", "q"))
        assert halves(made("RS256", number)).split("|")[1][40:120].encode() not in stored


async def test_a_private_half_that_does_not_fit_makes_no_ring(valkey: Server) -> None:
    """Whatever read the files: what apps could not sign with is found before it is published."""
    root, kek, clock = TrustRoot.generate(), Kek.generate(), SystemClock()
    key, other = PrivateKey.generate("ES256"), PrivateKey.generate("ES256")
    brought = Brought(FreshKey(KeyKind.DYNAMIC, "ES256", key.public_jwk, "main"), other)
    store = RedisLeaderStore.connect(valkey.url, "access-token", clock, password=None)
    moves = [Move(brought, None, ()), Move(None, None, (brought,))]
    try:
        for move in moves:
            with pytest.raises(SealBroken, match="under main is some other key's"):
                await found(
                    name="access-token", ring_id="r", policy=POLICY, store=store, root=root,
                    kek=kek, mint=mint_aside, clock=clock, owner="init", move=move,
                )  # fmt: skip
            assert not await store.owner()
    finally:
        await store.close()
    with valkey.client() as client:
        left = set(client.scan_iter())
    assert left <= {"ringkeeper:{access-token}:epoch"}


def test_the_audit_tells_what_came_along(site: Site) -> None:
    site.configure()
    put(site.folder / "rows.csv", dynamic(0, 1))
    site.done("init", "--import", "rows.csv")
    lines = site.done("watch", "--json", "--no-follow").splitlines()
    told = [(line["event"], line["fields"].get("kid")) for line in map(json.loads, lines)]
    assert ("key activated", f"d-{TIME + 1}") in told
    assert ("key retired", f"d-{TIME}") in told


def test_retired_keys_are_kept_for_as_long_as_the_policy_says(tmp_path: Path) -> None:
    """A former issuer's tokens that live longer need its validity in the configuration."""
    file = put(tmp_path / "rows.csv", dynamic(0, 1))
    for validity in (timedelta(hours=1), timedelta(days=3)):
        policy = Policy.derive(algorithm="ES256", access_token_validity=validity)
        (retired,) = ring_of(read_move([file], policy), policy).in_state(KeyState.RETIRED)
        assert retired.remove_at
        assert retired.remove_at - NOW >= validity + policy.max_staleness
