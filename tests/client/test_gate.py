"""Who may come in, and what whoever may not is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from joserfc.errors import InvalidKeyIdError

import ringkeeper.testing
from ringkeeper.errors import (
    ClaimMismatch,
    RevokedKid,
    RingClosed,
    RingNotLoaded,
    StaleRing,
    UnknownKid,
)
from ringkeeper.gate import Gate, Refused, token_in
from ringkeeper.joserfc import keys_of
from ringkeeper.middleware import RequireToken, RequireTokenWsgi
from ringkeeper.pyjwt import RingJWKClient
from ringkeeper.testing import MemoryKeyring
from ringkeeper.tokens import kid_in


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    with ringkeeper.testing.keyring() as made:
        yield made


def refused(gate: Gate, authorization: str | None) -> Refused:
    with pytest.raises(Refused) as caught:
        gate.admit(authorization)
    with pytest.raises(Refused) as again:
        asyncio.run(gate.admit_async(authorization))
    one, other = caught.value, again.value
    assert (one.status, one.detail, one.headers) == (other.status, other.detail, other.headers)
    return one


def test_whoever_has_a_good_token_comes_in(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice", "aud": "api", "iss": "us"})
    gate = Gate(ring, audience="api", issuer="us")
    assert gate.admit(f"Bearer {token}")["sub"] == "alice"
    assert asyncio.run(gate.admit_async(f"bearer  {token} "))["sub"] == "alice"
    assert Gate(lambda: ring).admit(f"Bearer {token}")["sub"] == "alice"
    assert not ring.refreshes


async def test_an_awaited_ring_lets_in_too() -> None:
    ring = ringkeeper.testing.keyring_async()
    token = await ring.sign({"sub": "alice"})
    assert (await Gate(ring).admit_async(f"Bearer {token}"))["sub"] == "alice"
    with pytest.raises(Refused, match="invalid token"):
        await Gate(ring).admit_async("Bearer x")
    with pytest.raises(TypeError, match=r"use ringkeeper\.Keyring"):
        Gate(ring).admit(f"Bearer {token}")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YWxhZGRpbjpvcGVu", "x"])
def test_who_brings_no_token_is_told_no_error(ring: MemoryKeyring, header: str | None) -> None:
    told = refused(Gate(ring), header)
    assert (told.status, told.headers) == (401, {"WWW-Authenticate": "Bearer"})
    assert not ring.refreshes


def test_a_token_that_is_not_acceptable_is_counted_and_told_nothing(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    other = ring.sign({"sub": "alice", "aud": "elsewhere"})
    ring.rotate()
    ring.revoke(kid_in(token))
    for given in ("x.y.z", token, f"{token}, Bearer {token}"):
        told = refused(Gate(ring), f"Bearer {given}")
        assert told.status == 401
        assert told.headers == {
            "WWW-Authenticate": 'Bearer error="invalid_token", error_description="invalid token"'
        }
        assert told.detail == "invalid token"
    assert refused(Gate(ring, audience="api"), f"Bearer {other}").status == 401
    assert ring.refreshes["revoked_kid"] == 4
    assert isinstance(refused(Gate(ring), f"Bearer {token}").__cause__, RevokedKid)


def test_an_expired_token_is_called_so_and_a_crowd_is_spread(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    ring.advance("3h")
    ring.crowd = 7
    told = refused(Gate(ring), f"Bearer {token}")
    assert told.headers == {
        "WWW-Authenticate": 'Bearer error="invalid_token", error_description="expired token"',
        "Retry-After": "7",
    }


def test_nobody_is_logged_out_because_of_us(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    ring.close()
    told = refused(Gate(ring), f"Bearer {token}")
    assert (told.status, told.detail, told.headers) == (503, "temporarily unavailable", {})
    assert isinstance(told.__cause__, RingClosed)
    assert not ring.refreshes


def test_a_loop_does_not_wait_for_an_unknown_kid(
    ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is found, as a token for somebody else, only once the loop has gone on."""
    other = ringkeeper.testing.keyring()
    token = other.sign({"sub": "alice", "aud": "elsewhere"})
    held = ring._held
    begun, may_end, is_found = asyncio.Event(), asyncio.Event(), []

    async def seek(kid: str) -> bool:
        begun.set()
        await may_end.wait()
        is_found.append(kid)
        return True

    async def ask() -> None:
        monkeypatch.setattr(ring, "_seek_async", seek)
        monkeypatch.setattr(ring, "_held_at_once", lambda: other._held() if is_found else held())
        for audience, error in (("elsewhere", None), ("api", ClaimMismatch)):
            begun.clear()
            may_end.clear()
            is_found.clear()
            gate = Gate(ring, audience=audience)
            asked = asyncio.ensure_future(gate.admit_async(f"Bearer {token}"))
            await asyncio.wait_for(begun.wait(), 10)
            assert not asked.done()
            may_end.set()
            if error is None:
                assert (await asked)["sub"] == "alice"
                continue
            with pytest.raises(Refused) as caught:
                await asked
            assert isinstance(caught.value.__cause__, error)

    asyncio.run(ask())


def test_the_log_says_why(ring: MemoryKeyring, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ringkeeper")
    token = ring.sign({"sub": "alice", "aud": "elsewhere"})
    refused(Gate(ring, audience="api"), f"Bearer {token}")
    ring.close()
    refused(Gate(ring), f"Bearer {token}")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "a token is refused: the token is not for 'api'") in told
    assert told[-1][0] == "WARNING"
    assert "was closed by the program" in told[-1][1]
    assert token not in caplog.text


def test_a_ring_that_cannot_be_had_is_our_fault() -> None:
    def find() -> Any:
        raise RingNotLoaded("not yet")

    told = refused(Gate(find), "Bearer x.y.z")
    assert (told.status, told.headers) == (503, {})


@pytest.mark.parametrize("ring", [None, "config.yaml", 5])
def test_what_is_no_ring_is_refused_at_once(ring: Any) -> None:
    for use in (Gate, RingJWKClient, keys_of):
        with pytest.raises(TypeError, match=r"a ring is what Keyring\.connect returns"):
            use(ring)


def test_what_no_token_could_have_is_refused_at_once() -> None:
    def find() -> Any:
        raise RingNotLoaded("not yet")

    with pytest.raises(TypeError, match="an audience is a string, or several"):
        Gate(find, audience=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the issuer is empty"):
        Gate(find, issuer="")


def test_a_token_is_found_in_its_header() -> None:
    assert token_in("BEARER a.b.c") == "a.b.c"


# --- around whole apps ---------------------------------------------------------------------------

PUBLIC = ["/login", "/static/*", "/über/*"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    claims = scope.get("state", {}).get("claims")
    await send({"type": "app", "claims": claims, "state": scope.get("state")})


def asked(
    ring: Any, path: str, *tokens: str, kind: str = "http", wanted: Any = None, **scope: Any
) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode()) for token in tokens]
    given = {"type": kind, "path": path, "headers": headers, **scope}
    app = RequireToken(asgi, ring, public=PUBLIC, **(wanted or {}))
    asyncio.run(app(given, None, send))  # type: ignore[arg-type]
    return sent


def test_an_asgi_app_sees_only_those_with_a_good_token(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    state = {"theirs": 1}
    [message] = asked(ring, "/me", token, state={**state, "claims": "a client's"})
    assert message["claims"]["sub"] == "alice"
    [message] = asked(ring, "/me", token, state=state)
    assert message["state"]["theirs"] == 1
    assert state == {"theirs": 1}, "the server's own, and of every request"
    start, body = asked(ring, "/me")
    assert start["status"] == 401
    assert (b"www-authenticate", b"Bearer") in start["headers"]
    assert body["body"] == b"no token"
    assert asked(ring, "/me", token, token)[0]["status"] == 401, "whose would it be?"


def test_a_websocket_is_refused_before_it_is_accepted(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    assert asked(ring, "/ws", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert asked(ring, "/ws", token, kind="websocket")[0]["claims"]["sub"] == "alice"
    assert asked(ring, "/", kind="lifespan")[0]["type"] == "app"
    assert asked(ring, "/", kind="webtransport")[0]["type"] != "app", "unheard of, and let in?"
    told = asked(ring, "/ws", kind="websocket", extensions={"websocket.http.response": {}})
    assert [(m["type"], m.get("status")) for m in told] == [
        ("websocket.http.response.start", 401),
        ("websocket.http.response.body", None),
    ]
    ring.close()
    closed = asked(ring, "/ws", token, kind="websocket")
    assert closed == [{"type": "websocket.close", "code": 1013}]


def test_who_is_around_sees_what_is_written_further_in(ring: MemoryKeyring) -> None:
    async def route(scope: Any, receive: Any, send: Any) -> None:
        scope["endpoint"] = "me"

    headers = [(b"authorization", f"Bearer {ring.sign({'sub': 'alice'})}".encode())]
    scope: Any = {"type": "http", "path": "/me", "headers": headers}
    asyncio.run(RequireToken(route, ring)(scope, None, None))  # type: ignore[arg-type]
    assert scope["endpoint"] == "me"


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_audience_and_issuer_are_asked_around_apps(ring: MemoryKeyring, kind: str) -> None:
    token = ring.sign({"sub": "alice", "aud": "web", "iss": "us"})
    for audience, issuer, status in (("web", "us", 200), ("api", "us", 401), ("web", "x", 401)):
        wanted = {"audience": audience, "issuer": issuer}
        if kind == "wsgi":
            told = wsgi_asked(ring, "/me", token, **wanted)[0]
            assert told.startswith(str(status))
        else:
            [first, *_] = asked(ring, "/me", token, wanted=wanted)
            assert first.get("status", 200) == status


PATHS = [
    ("/login", True),
    ("/static/a.css", True),
    ("/login/", False),
    ("/loginx", False),
    ("/static", False),
    ("/static/../me", False),
    ("/STATIC/a.css", False),
    ("/Login", False),
    ("/", False),
    ("/über/uns", True),
]


@pytest.mark.parametrize(("path", "is_public"), PATHS)
def test_public_paths_are_for_everybody(ring: MemoryKeyring, path: str, is_public: bool) -> None:
    assert (asked(ring, path)[0]["type"] == "app") is is_public
    assert (asked(ring, f"/sub{path}", root_path="/sub")[0]["type"] == "app") is is_public
    assert (wsgi_asked(ring, path)[0] == "200 OK") is is_public


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [str(environ.get("ringkeeper.claims", {}).get("sub")).encode()]


def wsgi_asked(
    ring: Any, path: str, token: str = "", method: str = "GET", **wanted: Any
) -> tuple[str, dict[str, str], bytes]:
    told: list[Any] = []
    app = RequireTokenWsgi(wsgi, ring, public=PUBLIC, **wanted)
    environ = {
        "PATH_INFO": path.encode().decode("latin-1"),
        "REQUEST_METHOD": method,
        "ringkeeper.claims": {"sub": "a client's"},
        **({"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {}),
    }
    body = b"".join(app(environ, lambda status, headers: told.extend((status, headers))))
    return told[0], dict(told[1]), body


def test_a_wsgi_app_sees_only_those_with_a_good_token(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    assert wsgi_asked(ring, "/me", token) == ("200 OK", {}, b"alice")
    status, headers, body = wsgi_asked(ring, "/me")
    assert (status, body) == ("401 Unauthorized", b"no token")
    assert (headers["WWW-Authenticate"], headers["Content-Length"]) == ("Bearer", "8")
    assert wsgi_asked(ring, "/me", method="HEAD")[2] == b"", "it would begin the next answer"
    ring.close()
    assert wsgi_asked(ring, "/me", token)[0] == "503 Service Unavailable"


@pytest.mark.parametrize("public", ["/login", ["login"], ["*"]])
def test_paths_that_can_be_none_are_refused(ring: MemoryKeyring, public: Any) -> None:
    with pytest.raises(ValueError, match="write paths in a list"):
        RequireToken(asgi, ring, public=public)


# --- keys for other libraries --------------------------------------------------------------------


def test_a_jwk_is_had_by_its_kid(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    kid = kid_in(token)
    assert ring.jwk(kid) in ring.jwks()["keys"]
    ring.revoke(kid)
    with pytest.raises(RevokedKid):
        ring.jwk(kid)
    with pytest.raises(UnknownKid):
        ring.jwk("d-none")


async def test_an_awaited_ring_has_jwks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = ringkeeper.testing.keyring_async()
    token = await ring.sign({"sub": "alice"})
    assert (await ring.jwk(kid_in(token)))["kid"] == kid_in(token)

    async def seek(kid: str) -> bool:
        raise AssertionError("it looked")

    monkeypatch.setattr(ring, "_seek", seek)
    with pytest.raises(AssertionError, match="it looked"):
        await ring.jwk("d-none")
    with pytest.raises(UnknownKid):
        await ring.jwk("x" * 600)  # nobody's, and nothing to keep


def test_nobody_verifies_by_a_ring_that_is_too_old() -> None:
    with ringkeeper.testing.keyring(max_verify_staleness="1h", max_staleness="1h") as ring:
        token, client = ring.sign({"sub": "alice"}), RingJWKClient(ring)
        key = client.get_signing_key_from_jwt(token)
        find = keys_of(ring)
        message: Any = SimpleNamespace(headers=lambda: {"kid": key.key_id, "alg": "ES256"})
        assert find(message).kid == key.key_id
        ring.advance("3h", led=False)
        for ask in (lambda: ring.jwk(key.key_id or ""), lambda: find(message)):
            with pytest.raises(StaleRing):
                ask()
        with pytest.raises(jwt.PyJWKClientConnectionError):
            client.get_signing_key_from_jwt(token)


def test_a_key_is_for_its_own_algorithm_alone(ring: MemoryKeyring) -> None:
    kid = kid_in(ring.sign({"sub": "alice"}))
    message: Any = SimpleNamespace(headers=lambda: {"kid": kid, "alg": "RS256"})
    with pytest.raises(InvalidKeyIdError, match="verifies ES256 alone"):
        keys_of(ring)(message)
    message = SimpleNamespace(headers=lambda: {"kid": "d-none", "alg": "ES256"})
    with pytest.raises(InvalidKeyIdError, match="unknown kid"):
        keys_of(ring)(message)


def test_pyjwt_takes_the_keys_of_a_ring(ring: MemoryKeyring) -> None:
    client: jwt.PyJWKClient = RingJWKClient(ring)
    token = ring.sign({"sub": "alice"})
    key = client.get_signing_key_from_jwt(token)
    assert jwt.decode(token, key, algorithms=["ES256"])["sub"] == "alice"
    assert client.get_signing_key(key.key_id or "") is key, "loaded once a version"
    ring.rotate()
    newer = ring.sign({"sub": "alice"})
    assert client.get_signing_key_from_jwt(newer).key_id == kid_in(newer)
    held = {jwk["kid"] for jwk in ring.jwks()["keys"]}
    assert {key.key_id for key in client.get_signing_keys()} == held
    assert {key.key_id for key in client.get_jwk_set(refresh=True).keys} == held
    ring.revoke(kid_in(token))
    with pytest.raises(jwt.PyJWKClientError, match="was revoked"):
        client.get_signing_key_from_jwt(token)
    with pytest.raises(jwt.PyJWKClientError, match="unknown kid"):
        client.get_signing_key("d-none")
    ring.close()
    for ask in (client.get_jwk_set, client.get_signing_keys, client.fetch_data):
        with pytest.raises(jwt.PyJWKClientConnectionError):
            ask()
    with pytest.raises(jwt.PyJWKClientConnectionError):
        client.get_signing_key_from_jwt(newer)
