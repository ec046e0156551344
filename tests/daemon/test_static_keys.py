"""Static keys by hand: what comes in whole or not at all, who follows whom, and the way back."""

import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from ringkeeper import Keyring
from ringkeeper.algorithms import kid_of
from ringkeeper.errors import RequestRefused
from ringkeeper.ring import KeyKind
from ringkeeperd import static_keys
from ringkeeperd.key_files import read_keys
from ringkeeperd.static_keys import _after
from ringkeeperd.transitions import retired
from tests.core.builders import NOW, new_ring
from tests.daemon.test_refusals import LAYOUT, dump
from tests.plugins.brought_keys import (
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
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

BASE64 = "1234+abc/DEF_x=="


@pytest.mark.parametrize("kid", ["", "k" * 400, 'bad kid"', "a\\b", "a\x1b[2J"])
def test_a_name_that_a_key_may_not_have_is_wrong_usage_and_the_rule_is_told(
    site: Site, kid: str
) -> None:
    site.configure()
    put(site.folder / "key.pem", pem(made("ES256")))
    for arguments in (
        ("static", "import", "key.pem", "--kid", kid),
        ("init", "--import", "key.pem", "--kid", kid),
        ("init", "--import", f"{kid}=key.pem"),
    ):
        done = site.run(*arguments)
        assert done.returncode == 2, done.stderr
        assert "a kid has 1 to 64 characters of A-Z a-z 0-9 and -._~" in done.stderr
        assert "ringkeeper status" not in done.stderr


def test_a_kid_in_base64_is_told_from_the_file_that_it_names(site: Site) -> None:
    site.configure()
    put(site.folder / "key.pem", pem(made("ES256")))
    assert f"{BASE64} signs" in site.done("init", "--import", f"{BASE64}=key.pem")


@pytest.fixture
def led(make_site: Callable[[str], Site], valkey: Server) -> Site:
    site = make_site(valkey.url)
    site.daemon(init=True)
    return site


def keys(count: int, **members: Any) -> list[dict[str, Any]]:
    """So many private JWKs, s-k0 and so on."""
    return [jwk(made("EdDSA", n), kid=f"s-k{n}", **members) for n in range(count)]


# --- all or nothing ------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["root.jwk", "root.pub.jwk"])
def test_the_trust_root_signs_no_tokens(led: Site, valkey: Server, file: str) -> None:
    """It lies beside the keys, and every app that signs would hold it."""
    before = dump(valkey)
    arguments = ("--verify-only",) if file == "root.pub.jwk" else ()
    told = led.refused("static", "import", file, *arguments)
    assert "is the trust root, which signs the ring itself" in told
    assert dump(valkey) == before
    with valkey.client() as client:
        assert not client.exists(LAYOUT.requests), "not even sealed is it sent to Redis"


def test_no_ring_is_made_with_its_trust_root_for_a_key(site: Site) -> None:
    site.configure()
    site.done("init")
    shutil.copy(site.folder / "root.jwk", site.folder / "mine.jwk")
    told = site.refused("init", "--import", "mine.jwk")
    assert "is the trust root, which signs the ring itself" in told


def test_of_several_keys_all_are_imported_or_none(led: Site, valkey: Server) -> None:
    for name, members, told in (
        ("more than there is room for", keys(30), "and the ring takes"),
        ("a dynamic kid", [*keys(1), jwk(made("ES256"), kid="d-zz")], "may not start d-"),
        ("a kid that is no kid", [*keys(1), jwk(made("ES256"), kid="a b")], "a kid has 1 to 64"),
        ("one kid twice", [*keys(1), jwk(made("ES256"), kid="s-k0")], "two keys of one kid"),
        ("one key twice", [*keys(1), {**keys(1)[0], "kid": "s-k1"}], "one key twice"),
        ("only a public one", [*keys(1), jwk(made("ES256"), private=False, kid="s-p")], "public"),
    ):
        put(led.folder / "keys.json", in_json({"keys": members}))
        before = dump(valkey)
        assert told in led.refused("static", "import", "keys.json"), name
        assert dump(valkey) == before, name
    put(led.folder / "keys.json", in_json({"keys": keys(3)}))
    led.done("static", "import", "keys.json")
    assert {"s-k0", "s-k1", "s-k2"} <= {key["kid"] for key in led.status()["keys"]}


def test_as_many_keys_are_imported_as_it_says_there_is_room_for(led: Site) -> None:
    put(led.folder / "keys.json", in_json({"keys": keys(30)}))
    told = led.refused("static", "import", "keys.json")
    (room,) = re.findall(r"takes (\d+) more", told)
    assert "holds 30 keys" in told
    put(led.folder / "keys.json", in_json({"keys": keys(int(room))}))
    led.done("static", "import", "keys.json")
    put(led.folder / "one.json", in_json(jwk(made("ES256"), kid="s-one")))
    assert "retire one first" in led.refused("static", "import", "one.json")


def test_what_was_imported_before_another_operator_came_in_between_is_told() -> None:
    refusal = RequestRefused("bob@host was first")
    assert _after([], refusal) is refusal
    told = _after(["s-k0", "s-k1"], refusal)
    assert isinstance(told, RequestRefused)
    assert str(told) == "bob@host was first; imported before that: s-k0, s-k1"


# --- names ---------------------------------------------------------------------------------------


def test_no_name_is_made_up_for_a_key_without_one(led: Site, valkey: Server) -> None:
    file = put(led.folder / "key.pem", pem(made("ES256")))
    own = kid_of(read_keys(file)[0].public, prefix="s")
    before = dump(valkey)
    told = led.refused("static", "import", "key.pem")
    assert "key.pem: has no kid, and by that tokens name their key; say which one they have" in told
    assert told.endswith(f"--kid {own}")
    several = [*keys(1), jwk(made("ES384")), jwk(made("RS256"))]
    put(led.folder / "several.json", in_json({"keys": several}))
    told = led.refused("static", "import", "several.json")
    assert "several.json: 2 of its 3 keys have no kid" in told
    assert "or put it into a file of its own, and import that with --kid KID" in told
    told = led.refused("static", "import", "several.json", "--verify-only")
    assert "several.json: 2 of its 3 keys have no kid" in told
    told = led.refused("static", "import", "key.pem", "--verify-only")
    assert told.endswith("say which one they have: --kid KID")
    assert dump(valkey) == before
    led.done("static", "import", "key.pem", "--kid", own)  # as it says
    before = dump(valkey)
    again = led.refused("static", "import", "key.pem", "--kid", "theirs")
    assert f"theirs: the same key, as {own}, is in the ring already" in again
    assert f"ringkeeper static retire {own}, and import it under another name once" in again
    assert dump(valkey) == before
    led.done("static", "retire", own)  # as it says
    again = led.refused("static", "import", "key.pem", "--kid", "theirs")
    assert "retired; import it under another name once it is removed" in again


def test_a_name_that_another_key_has_is_refused(led: Site, valkey: Server) -> None:
    put(led.folder / "one.pem", pem(made("ES256")))
    put(led.folder / "two.pem", pem(made("ES256", 1)))
    led.done("static", "import", "one.pem", "--kid", "s-one")
    before = dump(valkey)
    told = led.refused("static", "import", "two.pem", "--kid", "s-one")
    assert "another key of that kid is in the ring already; give this one another" in told
    told = led.refused("static", "import", "two.pem", "--kid", "d-abc")
    assert "may not start d-, by which dynamic ones are told" in told
    assert dump(valkey) == before


def test_an_app_is_chosen_among_rows(led: Site) -> None:
    rows = [
        StaticRow(app, f"s-{app}", halves(made("RS256", n)), "RS256", 1_790_000_000_000)
        for n, app in enumerate(("public", "shop"))
    ]
    put(led.folder / "static.csv", as_csv(rows))
    led.done("static", "import", "static.csv", "--app", "shop")
    assert "s-shop" in led.done("static", "list")


# --- who follows whom ----------------------------------------------------------------------------


def test_of_several_that_wait_only_the_next_one_is_said_to_follow(led: Site) -> None:
    signer = next(key["kid"] for key in led.status()["keys"] if key["kind"] == "static")
    put(led.folder / "keys.json", in_json({"keys": keys(2)}))
    told = led.done("static", "import", "keys.json")
    assert told.count("may follow it from") == 1
    assert "s-k0 may follow it from" in told
    assert f"{signer} goes on as the static key; s-k0 is to follow it, and s-k1 comes after" in told
    rows = {row.split()[0]: row for row in led.done("status").splitlines() if row.startswith("s-")}
    assert f"follows {signer} next" in rows["s-k0"]
    assert "after s-k0" in rows["s-k1"]


# --- the way back --------------------------------------------------------------------------------


def kid_in(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


def static_kid(site: Site) -> str:
    shown = json.loads(site.done("static", "list", "--json"))["keys"]
    return next(str(key["kid"]) for key in shown if key["state"] == "active")


def when_it_may(site: Site, *arguments: str) -> str:
    """As `Site.done`, once what it waits for is there: a new leader listens, a key becomes ready."""
    result = eventually(lambda: (done := site.run(*arguments)).returncode == 0 and done, within=20)
    return str(result.stdout)


def test_a_retirement_is_taken_back_and_the_former_key_signs_again(
    make_site: Callable[[str], Site], valkey: Server
) -> None:
    site = make_site(valkey.url)
    settings: dict[str, Any] = {
        "use_dynamic_access_token_signing_key": False,
        "publication_interval": "1s",
    }
    site.daemon(init=True, jwks_max_age="1s", **settings)
    former = static_kid(site)
    site.done("static", "create")
    told = when_it_may(site, "static", "retire", former)
    assert f"ringkeeper static reinstate {former} takes that back until then" in told
    present = static_kid(site)
    assert present != former
    assert f"\n{present} signs now\n" in told
    root, kek = site.folder / "root.pub.jwk", site.folder / "kek.jwk"
    with Keyring.connect(valkey.url, trust_root=root, kek=kek) as ring:
        between = ring.sign({"sub": "alice"})
        assert kid_in(between) == present
        told = site.done("static", "reinstate", former)
        assert f"{present} goes on as the static key; {former} may follow it" in told
        told = site.done("static", "retire", former)
        assert f"{former} signs no more" in told
        assert "signs now" not in told, "who signs goes on"
        site.done("static", "reinstate", former)
        when_it_may(site, "static", "retire", present)
        assert static_kid(site) == former
        after = eventually(lambda: (made := ring.sign({})) and kid_in(made) == former and made)
        for token in (between, after):
            assert ring.verify(token)
    assert site.daemons[0].told("key returned", 2)


def test_a_retired_key_is_imported_again_and_is_the_one_that_it_was(led: Site) -> None:
    """Also where it is only the public half, which verifies."""
    put(led.folder / "key.pem", pem(made("ES256")))
    put(led.folder / "theirs.pem", public_pem(made("ES384")))
    ways = (
        ("s-one", ("static", "import", "key.pem", "--kid", "s-one")),
        ("theirs", ("static", "import", "theirs.pem", "--kid", "theirs", "--verify-only")),
    )
    for kid, bring in ways:
        led.done(*bring)
        led.done("static", "retire", kid)
        assert f"{kid} (" in led.done(*bring)
        (key,) = [key for key in led.status()["keys"] if key["kid"] == kid]
        assert (key["state"], key["remove_at"]) == ("published", None)
        assert "is in the ring already" in led.refused(*bring)
        led.done("static", "retire", kid)
        assert f"{kid} (" in led.done("static", "reinstate", kid)


def test_what_is_not_retired_for_good_or_not_at_all_is_not_reinstated(
    led: Site, valkey: Server
) -> None:
    put(led.folder / "key.pem", pem(made("ES256")))
    led.done("static", "import", "key.pem", "--kid", "s-one")
    led.done("revoke", "s-one", "--reason", "x")
    before = dump(valkey)
    for kid, told in (
        ("s-one", "is revoked: it never comes back"),
        (static_kid(led), "is active, and not retired"),
        (led.status()["signer"], "ringkeeper rollback"),
        ("s-two", "unknown kid"),
    ):
        assert told in led.refused("static", "reinstate", kid)
        assert dump(valkey) == before
    assert "revoked, and stays so" in led.refused("static", "import", "key.pem", "--kid", "s-one")
    assert dump(valkey) == before


def test_a_key_whose_private_half_is_gone_comes_back_only_with_it(
    led: Site, valkey: Server
) -> None:
    put(led.folder / "key.pem", pem(made("ES256")))
    led.done("static", "import", "key.pem", "--kid", "s-one")
    led.done("static", "retire", "s-one")
    led.daemons[0].kill()
    with valkey.client() as client:
        client.hdel(LAYOUT.sealed, "s-one")
    for state in led.folder.glob("state*"):
        shutil.rmtree(state)
    led.daemon()
    version = led.status()["version"]
    assert "nothing was changed" in led.refused("static", "reinstate", "s-one")
    assert led.status()["version"] == version
    led.done("static", "import", "key.pem", "--kid", "s-one")
    with valkey.client() as client:
        assert client.hget(LAYOUT.sealed, "s-one")


def test_it_is_told_who_is_the_static_key_after_a_revocation_and_what_a_retired_one_did(
    led: Site,
) -> None:
    first = static_kid(led)
    second = led.done("static", "create").splitlines()[1].split()[0]
    told = led.done("static", "retire", second)
    assert f"{second} verifies until " in told
    assert "signs no more" not in told, "it never did"
    assert f"ringkeeper static reinstate {second} publishes it anew until then" in told
    assert f"{first} signs" not in told, "it goes on"
    led.done("static", "reinstate", second)
    third = led.done("static", "create").splitlines()[1].split()[0]
    told = led.done("revoke", third, "--reason", "not needed")
    assert f"{first} goes on as the static key\n" in told
    drain = ("revoke", first, "--drain", "15s", "--reason", "a precaution")
    assert f"{second} is to follow it, and has to be public until" in led.refused(*drain)
    told = led.done("revoke", first, "--reason", "leaked")
    assert f"{second} is the static key from 20" in told, "it has to be public for long enough"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_key_that_is_drained_is_listed_as_such(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = new_ring()
    signer = ring.active(KeyKind.STATIC)
    assert signer
    until = NOW + timedelta(minutes=10)
    drained = replace(retired(signer, NOW), drained_from=NOW, drained_until=until)
    ring = replace(ring, keys=tuple(drained if key is signer else key for key in ring.keys))
    configuration: Any = None
    monkeypatch.setattr(static_keys, "looked_at", lambda *_: SimpleNamespace(ring=ring))
    assert static_keys.list_keys(Namespace(json=as_json), configuration) == 0
    said = capsys.readouterr().out
    if as_json:
        assert json.loads(said)["keys"][0]["drained_until"] == until.isoformat()
    else:
        assert said.endswith(f"is revoked little by little, until {until:%Y-%m-%d %H:%M:%S} UTC\n")
