"""What cannot be done is refused with reason and remedy, and the ring stays as it was to the byte."""

import secrets
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ringkeeper.clock import SystemClock
from ringkeeper.layout import DEFAULT_NAME, Layout
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import Command, Request, open_event, open_snapshot, sign_request
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
        (("static", "public", dynamic), "gone before long"),
        (("set", interval, "0.0005"), "32 is the most"),
        (("set", "max_staleness", "2s"), "max_staleness"),
        (("set", "algorithm", "--unset"), "files say it"),
    ):  # fmt: skip
        assert told in site.refused(*arguments), arguments
        assert dump(valkey) == before, arguments
    for misuse, told in (
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
    site.done("static", "import", str(files / "good.pem"))
    before = dump(valkey)
    assert "in the ring already" in site.refused("static", "import", str(files / "good.pem"))
    verifying = ("static", "import", str(files / "public.pem"), "--verify-only")
    assert "say which one they have: --kid KID" in site.refused(*verifying)
    named = (*verifying, "--kid", "theirs")
    assert "in the ring already" in site.refused(*named)
    assert dump(valkey) == before


def asked(site: Site, valkey: Server, root: TrustRoot, **changes: Any) -> tuple[str, str]:
    """A request as it was put into the stream, and its id."""
    with valkey.client() as client:
        snapshot = client.hget(LAYOUT.keyring, "snapshot")
    ring, now = open_snapshot(str(snapshot), site.root.public), CLOCK.now()
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
