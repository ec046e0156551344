"""What cannot be done is refused with reason and remedy, and the ring stays as it was to the byte."""

import secrets
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import SystemClock
from ringkeeper.layout import DEFAULT_NAME, Layout
from ringkeeper.policy import CAPACITY
from ringkeeper.ring import Key, KeyState, Ring
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import (
    Command,
    Request,
    open_event,
    open_snapshot,
    sign_proof,
    sign_request,
    sign_snapshot,
)
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

LAYOUT = Layout(DEFAULT_NAME)
CLOCK = SystemClock()
FOREIGN = {
    "kind": "foreign",
    "algorithm": "EdDSA",
    "jwk": '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}',
}
"""The public key of RFC 8037, appendix A."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys as an operator may bring them along."""
    folder = tmp_path_factory.mktemp("keys")
    for name, *options in (
        ("weak.pem", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
        ("curve.pem", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp521r1"),
        ("good.pem", "-algorithm", "ED25519"),
        ("locked.pem", "-algorithm", "ED25519", "-aes256", "-pass", "pass:right"),
    ):
        make = ["openssl", "genpkey", *options, "-out", str(folder / name)]
        subprocess.run(make, check=True, capture_output=True)
        (folder / name).chmod(0o600)
    public = ["openssl", "pkey", "-in", str(folder / "good.pem"), "-pubout"]
    out = subprocess.run(public, check=True, capture_output=True)
    (folder / "public.pem").write_bytes(out.stdout)
    (folder / "wrong").write_text("wrong\n")
    return folder


@pytest.fixture
def led(make_site: Callable[[str], Site], valkey: Server) -> Site:
    site = make_site(valkey.url)
    site.daemon(init=True)
    return site


def dump(valkey: Server) -> dict[str, Any]:
    """What lies in Redis for good; the proof alone is made anew all the time."""
    with valkey.client() as client:
        ring: Any = client.hgetall(LAYOUT.keyring)
        ring.pop("proof")
        return {"ring": ring, "sealed": client.hgetall(LAYOUT.sealed)}


def test_each_bad_request_is_one_line_with_a_remedy_and_changes_nothing(
    led: Site, valkey: Server, files: Path
) -> None:
    site = led
    dynamic = site.status()["signer"]
    static = next(k["kid"] for k in site.status()["keys"] if k["kind"] == "static")
    standby = next(k["kid"] for k in site.status()["keys"] if k["state"] == "published")
    interval = "access_token_dynamic_signing_key_update_interval"
    before = dump(valkey)
    # A leader that has just begun says first that it listens.
    too_long = ("revoke", dynamic, "--drain", "9d", "--reason", "x")
    eventually(lambda: "must be shorter than that" in site.refused(*too_long), within=20)
    for arguments, told in (
        (("revoke", "d-nobody", "--reason", "x"), "unknown kid 'd-nobody'; ringkeeper status lists"),
        (("revoke", standby, "--drain", "1m", "--reason", "x"), "no tokens to drain; revoke it"),
        (("rollback",), "too early: "),
        (("rotate", "--call-off"), "the next one is the schedule's (ringkeeper plan)"),
        (("static", "retire", static), "the only static key; make the one"),
        (("static", "retire", dynamic), "which retires by itself; ringkeeper rotate"),
        (("static", "import", str(files / "weak.pem")), "1024"),
        (("static", "import", str(files / "curve.pem")), "P-256"),
        (("static", "import", str(files / "public.pem")), "only a public key, and to sign takes"),
        (("static", "import", str(files / "locked.pem")), "--passphrase-file"),
        (
            (
                "static", "import", str(files / "locked.pem"),
                "--passphrase-file", str(files / "wrong"),
            ),
            "is not opened by this passphrase",
        ),
        (("static", "import", str(files / "none.pem")), "cannot be read"),
        (("static", "import", str(files / "good.pem")), "has no kid, and by that tokens name"),
        (("static", "public", dynamic), "gone before long"),
        (("set", interval, "0.0005"), "32 is the most"),
        (("set", "max_staleness", "2s"), "max_staleness"),
        (("set", "algorithm", "--unset"), "files say it"),
    ):  # fmt: skip
        assert told in site.refused(*arguments), arguments
        assert dump(valkey) == before, arguments
    for misuse, told in (
        (("rotate", "--call-off", "--wait"), "--call-off waits for nothing"),
        (("rotate", "--call-off", "--no-wait"), "--call-off waits for nothing"),
        (("set", interval, "-1"), "above 0"),
        (("set", interval, "24", "--unset"), "not both at once"),
        (("set", "--unset"), "say which one"),
        (("set", "intervall"), "no such setting of a ring"),
        (("static", "create", "--algorithm", "HS256"), "'HS256' is not offered"),
        (
            ("static", "import", str(files / "good.pem"), "--algorithm", "HS256"),
            "'HS256' is not offered",
        ),
        (
            ("static", "import", str(files / "good.pem"), "--app", "foo"),
            "holds no rows of SuperTokens', and only those belong to an app; leave it out",
        ),
    ):
        assert told in site.misused(*misuse), misuse
        assert dump(valkey) == before, misuse
    good = ("static", "import", str(files / "good.pem"), "--kid", "good")
    site.done(*good)
    before = dump(valkey)
    assert "in the ring already" in site.refused(*good)
    verifying = ("static", "import", str(files / "public.pem"), "--verify-only")
    assert "say which one they have: --kid KID" in site.refused(*verifying)
    named = (*verifying, "--kid", "theirs")
    assert "in the ring already" in site.refused(*named)
    assert dump(valkey) == before


# --- where the ring has come to ------------------------------------------------------------------


def ring_in(site: Site, valkey: Server) -> Ring:
    with valkey.client() as client:
        return open_snapshot(str(client.hget(LAYOUT.keyring, "snapshot")), site.root.public)


def come_to(site: Site, valkey: Server, change: Callable[[Ring], tuple[Key, ...]]) -> Ring:
    """A ring that has these keys by now, before anybody leads it."""
    site.configure()
    site.done("init")
    made = ring_in(site, valkey)
    ring = replace(made, keys=change(made))
    snapshot = sign_snapshot(ring, site.root)
    proof = sign_proof(ring, snapshot, CLOCK.now(), site.root)
    with valkey.client() as client:
        client.hset(LAYOUT.keyring, mapping={"snapshot": snapshot, "proof": proof})
    return ring


def retired(key: Key, remove_in: timedelta) -> Key:
    """`key`, as if it had signed before."""
    now = CLOCK.now()
    return replace(
        key,
        state=KeyState.RETIRED,
        token_validity=timedelta(hours=1),
        activated_at=now - timedelta(hours=1),
        retired_at=now - timedelta(minutes=1),
        remove_at=now + remove_in,
    )


def without_standby(ring: Ring) -> tuple[Key, ...]:
    """Its keys, one of which can sign, and as many others as there is room for."""
    assert ring.standby
    keys = [key for key in ring.keys if key != ring.standby]
    for number in range(CAPACITY - len(keys)):
        public = PrivateKey.generate("ES256").public_jwk
        former = retired(replace(ring.standby, public=public), timedelta(hours=1))
        keys.append(replace(former, kid=f"d-{number}"))
    return tuple(keys)


def test_the_last_key_that_can_sign_is_not_revoked(site: Site, valkey: Server) -> None:
    """Emergencies have used up the room that is kept for them: nobody could sign after one more."""
    come_to(site, valkey, without_standby)
    site.daemon()
    site.leader()
    ring, before = ring_in(site, valkey), dump(valkey)
    active = ring.active()
    assert active
    assert (len(ring.keys), ring.standby) == (CAPACITY, None)
    for how in ((), ("--drain", "1m")):
        told = site.refused("revoke", active.kid, *how, "--reason", "leaked")
        assert f"{active.kid} is the last key that can sign, and the ring has no room" in told
        assert "wait until a key is removed" in told
        assert dump(valkey) == before, how
    site.done("revoke", "d-0", "--reason", "leaked")  # and the leader goes on


def standby_as_former(remove_in: timedelta) -> Callable[[Ring], tuple[Key, ...]]:
    """The standby signed before the active key, and another one is yet to be made."""

    def change(ring: Ring) -> tuple[Key, ...]:
        active = ring.active()
        assert active
        keys = (replace(k, activated_version=2) if k == active else k for k in ring.keys)
        return tuple(retired(k, remove_in) if k == ring.standby else k for k in keys)

    return change


@pytest.mark.parametrize("end", ["removed", "revoked", "drained"])
def test_a_rollback_comes_too_late(site: Site, valkey: Server, end: str) -> None:
    """There was a key to go back to."""
    remove_in = timedelta(hours=0 if end == "removed" else 1)
    former = come_to(site, valkey, standby_as_former(remove_in)).former
    assert former
    site.daemon()
    site.leader()
    if end != "removed":
        assert ring_in(site, valkey).former == former
        how = ("--drain", "1m") if end == "drained" else ()
        site.done("revoke", former.kid, *how, "--reason", "leaked")
    ring = eventually(lambda: (r := ring_in(site, valkey)).standby and r.former is None and r)
    key = ring.key(former.kid)
    assert (key and str(key.state)) == {"revoked": "revoked", "drained": "retired"}.get(end)
    before = dump(valkey)
    told = site.refused("rollback")
    why = {
        "removed": "too late: the key that signed before is removed",
        "revoked": f"too late: {former.kid}, which signed before, is revoked",
        "drained": f"{former.kid}, which signed before, is being drained (ringkeeper revoke ",
    }
    assert why[end] in told
    assert "ringkeeper rotate turns to the next one" in told
    assert dump(valkey) == before


# --- what is in the stream of requests -----------------------------------------------------------


def asked(site: Site, valkey: Server, root: TrustRoot, **changes: Any) -> tuple[str, str]:
    """A request as it was put into the stream, and its id."""
    ring, now = ring_in(site, valkey), CLOCK.now()
    told: dict[str, Any] = {
        "id": secrets.token_urlsafe(12), "ring_id": ring.id, "name": ring.name,
        "version": ring.version, "command": Command.ROTATE, "kid": "", "reason": "test",
        "by": "mallory", "at": now, "until": now + timedelta(seconds=30), **changes,
    }  # fmt: skip
    request = Request(**told)
    document = sign_request(request, root)
    put(valkey, document)
    return document, request.id


def put(valkey: Server, document: str) -> None:
    with valkey.client() as client:
        client.xadd(LAYOUT.requests, {"request": document})
        eventually(lambda: client.xlen(LAYOUT.requests) == 0)


def why_of(site: Site, valkey: Server, request: str) -> str:
    """Why it was refused, by the audit."""
    with valkey.client() as client:
        entries: Any = client.xrange(LAYOUT.events)
    events = [open_event(fields["event"], site.root.public) for _, fields in entries]
    (answer,) = [e for e in events if e.fields.get("request") == request]
    assert answer.event == "request refused"
    return str(answer.fields["why"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 7}, "decided on version 7"),
        ({"ring_id": "another"}, "for another ring"),
        ({"until": datetime(2026, 1, 1, tzinfo=UTC)}, "it came too late"),
        ({"command": Command.REVOKE, "given": {"drain_ms": "soon"}}, "no number of milliseconds"),
        (
            {"command": Command.REVOKE, "given": {"drain_ms": "9" * 400}},
            "no number of milliseconds",
        ),
        ({"command": Command.REVOKE, "given": {"drain_ms": "9" * 13}}, "unknown kid"),
        (
            {
                "command": Command.SET,
                "given": {"setting": "poll_interval", "value": "20s" + 300 * " "},
            },
            "200 characters at the most",
        ),
        (
            {
                "command": Command.IMPORT,
                "given": {"kind": "foreign", "algorithm": "ES256", "jwk": 4000 * "["},
            },
            "",
        ),
        ({"command": Command.IMPORT, "kid": 65 * "k", "given": FOREIGN}, "1 to 64 characters"),
        ({"command": Command.IMPORT, "kid": 'a "kid"', "given": FOREIGN}, "1 to 64 characters"),
        ({"command": Command.STATIC_CREATE, "given": {"algorithm": 6000 * "x"}}, ""),
        ({"command": Command.IMPORT}, "only static and foreign keys"),
        ({"command": Command.IMPORT, "given": {"kind": "dynamic"}}, "only static and foreign"),
        ({"command": Command.IMPORT, "given": {"kind": "static"}}, ""),
        (
            {
                "command": Command.IMPORT,
                "given": {"kind": "foreign", "algorithm": "ES256", "jwk": "["},
            },
            "its public key cannot be used",
        ),
        (
            {
                "command": Command.IMPORT,
                "given": {"kind": "foreign", "algorithm": "ES256", "jwk": "{}"},
            },
            "its public key cannot be used",
        ),
        ({"command": Command.STATIC_CREATE, "given": {"algorithm": "none"}}, "none"),
        ({"command": Command.SET}, "no such setting of a ring"),
        ({"command": Command.SET, "given": {"setting": "lead", "value": "x"}}, "whole daemon"),
        ({"command": Command.RETIRE, "kid": "\x00"}, "unknown kid"),
        (
            {"command": "dance"},
            "knows no command 'dance'; if there is one, it is of an older release",
        ),
        ({"command": 60 * "x"}, f"knows no command '{40 * 'x'}'; "),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_an_operator_s_root_signed_is_judged_all_the_same(
    led: Site, valkey: Server, changes: dict[str, Any], told: str
) -> None:
    before = dump(valkey)
    _, request = asked(led, valkey, led.root, **changes)
    assert told in why_of(led, valkey, request)
    assert dump(valkey) == before
    led.done("rotate", "--no-wait")  # and the leader goes on


def test_a_request_that_is_replayed_or_forged_does_nothing(led: Site, valkey: Server) -> None:
    document, _ = asked(led, valkey, led.root, command=Command.STATIC_CREATE)
    assert led.status()["version"] == 2
    before = dump(valkey)
    put(valkey, document)
    asked(led, valkey, TrustRoot.generate())
    put(valkey, document[:-4] + "AAAA")
    put(valkey, "x" * 100_000)
    assert dump(valkey) == before
    assert led.done("static", "create").startswith("version 3: confirmed by the only live")
