"""Who may come in, and what whoever may not is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

import ringkeeper.testing
from ringkeeper.errors import RevokedKid, RingClosed, UnknownKid
from ringkeeper.gate import Gate, Refused, token_in
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
    """It is looked for on a thread: here it comes about only once the loop has gone on."""
    other = ringkeeper.testing.keyring()
    token = other.sign({"sub": "alice"})
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        loop = asyncio.get_running_loop()

        def seek(kid: str) -> bool:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)
            return False

        monkeypatch.setattr(ring, "_seek", seek)
        asked = asyncio.ensure_future(Gate(ring).admit_async(f"Bearer {token}"))
        await asyncio.wait_for(begun.wait(), 10)
        assert not asked.done()
        may_end.set()
        with pytest.raises(Refused) as caught:
            await asked
        assert isinstance(caught.value.__cause__, UnknownKid)

    asyncio.run(ask())
    assert ring.refreshes["unknown_kid"] == 1


def test_a_token_is_found_in_its_header() -> None:
    assert token_in("BEARER a.b.c") == "a.b.c"


# --- around whole apps ---------------------------------------------------------------------------

PUBLIC = ["/login", "/static/*"]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    claims = scope.get("state", {}).get("claims")
    await send({"type": "app", "claims": claims, "state": scope.get("state")})


def asked(ring: Any, path: str, *tokens: str, kind: str = "http", **scope: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode()) for token in tokens]
    given = {"type": kind, "path": path, "headers": headers, **scope}
    asyncio.run(RequireToken(asgi, ring, public=PUBLIC)(given, None, send))  # type: ignore[arg-type]
    return sent


def test_an_asgi_app_sees_only_those_with_a_good_token(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    state = {"theirs": 1}
    [message] = asked(ring, "/me", token, state=state)
    assert message["claims"]["sub"] == "alice"
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


PATHS = [
    ("/login", True),
    ("/static/a.css", True),
    ("/login/", False),
    ("/loginx", False),
    ("/static", False),
    ("/static/../me", False),
    ("/", False),
]


@pytest.mark.parametrize(("path", "is_public"), PATHS)
def test_public_paths_are_for_everybody(ring: MemoryKeyring, path: str, is_public: bool) -> None:
    assert (asked(ring, path)[0]["type"] == "app") is is_public
    assert (asked(ring, f"/sub{path}", root_path="/sub")[0]["type"] == "app") is is_public
    assert (wsgi_asked(ring, path)[0] == "200 OK") is is_public


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [str(environ.get("ringkeeper.claims", {}).get("sub")).encode()]


def wsgi_asked(ring: Any, path: str, token: str = "") -> tuple[str, dict[str, str], bytes]:
    told: list[Any] = []
    app = RequireTokenWsgi(wsgi, ring, public=PUBLIC)
    environ = {"PATH_INFO": path, **({"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {})}
    body = b"".join(app(environ, lambda status, headers: told.extend((status, headers))))
    return told[0], dict(told[1]), body


def test_a_wsgi_app_sees_only_those_with_a_good_token(ring: MemoryKeyring) -> None:
    token = ring.sign({"sub": "alice"})
    assert wsgi_asked(ring, "/me", token) == ("200 OK", {}, b"alice")
    status, headers, body = wsgi_asked(ring, "/me")
    assert (status, body) == ("401 Unauthorized", b"no token")
    assert headers["WWW-Authenticate"] == "Bearer"
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
    stranger = ringkeeper.testing.keyring().sign({"sub": "alice"})
    with pytest.raises(AssertionError, match="it looked"):
        await ring.verify(stranger)
    with pytest.raises(UnknownKid):
        await ring.verify(stranger, wait=False)


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
