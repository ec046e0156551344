"""TLS to a real Redis: what is refused, and in which words."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.hazmat.primitives import serialization

from ringkeeper import Tls
from ringkeeper.errors import ConfigurationError, RedisUnavailable, SecretError
from ringkeeper.tls import Contexts
from ringkeeper.topology import connection_for, speaking
from tests.plugins.certificates import Authority, Pair, TlsServer

HOUR = timedelta(hours=1)
Make = Callable[..., TlsServer]


async def asked(url: str, tls: Tls | None = None) -> str:
    """What a client that was refused is told; empty if it was not."""
    client = connection_for(url, tls=tls)
    try:
        with speaking("redis", "asking"):
            await client.ping()
    except RedisUnavailable as error:
        return str(error)
    finally:
        await client.aclose()
    return ""


def trusting(authority: Authority, pair: Pair | None = None) -> Tls:
    if pair is None:
        return Tls(ca_file=authority.file)
    return Tls(ca_file=authority.file, cert_file=pair.cert, key_file=pair.key)


async def test_a_certificate_that_is_in_order_is_taken(
    authority: Authority, tls_server: Make
) -> None:
    assert await asked(tls_server().tls_url, trusting(authority)) == ""


SERVERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "expired": (
        {"begins": -2 * HOUR, "ends": -HOUR},
        "certificate has expired",
        "renew Redis' certificate",
    ),
    "early": (
        {"begins": HOUR, "ends": 2 * HOUR},
        "certificate is not yet valid",
        "set this host's clock, or renew Redis' certificate",
    ),
    "another host": (
        {"name": "redis.example.com"},
        "certificate is not valid for '127.0.0.1'",
        "give redis.url a host that Redis' certificate names",
    ),
    "another address": (
        {"name": "127.0.0.2"},
        "certificate is not valid for '127.0.0.1'",
        "give redis.url a host that Redis' certificate names",
    ),
}


@pytest.mark.parametrize("case", SERVERS)
async def test_a_server_whose_certificate_is_not_in_order_is_refused(
    case: str, authority: Authority, tls_server: Make
) -> None:
    how, why, remedy = SERVERS[case]
    told = await asked(tls_server(authority.issue(**how)).tls_url, trusting(authority))
    assert why in told
    assert told.endswith(f"; {remedy}")


async def test_a_server_of_a_ca_that_nobody_trusts_is_refused(
    authority: Authority, make_authority: Callable[[str], Authority], tls_server: Make
) -> None:
    server = tls_server(make_authority("other").issue())
    for tls in (trusting(authority), None):
        told = await asked(server.tls_url, tls)
        assert "certificate verify failed" in told
        assert told.endswith("; give redis.tls.ca_file the CA that signs Redis' certificate")


async def test_a_ca_file_is_trusted_instead_of_the_systems_cas_not_beside_them(
    authority: Authority,
    make_authority: Callable[[str], Authority],
    tls_server: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    server = tls_server()
    assert await asked(server.tls_url) == "", "the system knows it"
    told = await asked(server.tls_url, trusting(make_authority("own")))
    assert "certificate verify failed" in told


CLIENTS: dict[str, tuple[str, str]] = {
    "missing": ("certificate required", "give redis.tls.cert_file a client certificate"),
    "expired": ("certificate expired", "renew the client certificate, redis.tls.cert_file"),
    "unknown": ("unknown ca", "give redis.tls.cert_file a certificate of Redis' own CA"),
}


@pytest.mark.parametrize("case", CLIENTS)
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_a_client_that_shows_no_good_certificate_is_told(
    case: str,
    version: str,
    authority: Authority,
    make_authority: Callable[[str], Authority],
    tls_server: Make,
) -> None:
    server = tls_server(None, "--tls-protocols", version, wants_certificate=True)
    pair = {
        "missing": None,
        "expired": authority.issue("app", begins=-2 * HOUR, ends=-HOUR),
        "unknown": make_authority("other").issue("app", file="unknown"),
    }[case]
    told = "reset by peer"
    while "reset by peer" in told:  # which may overtake the reason
        told = await asked(server.tls_url, trusting(authority, pair))
    why, remedy = CLIENTS[case]
    if (case, version) == ("missing", "TLSv1.2"):  # which has no alert for it
        why, remedy = "handshake failure", f"{remedy}, if Redis wants one"
    assert why in told
    assert told.endswith(f"; {remedy}")
    good = trusting(authority, authority.issue("good"))
    assert await asked(server.tls_url, good) == ""


def test_what_is_broken_is_not_spoken_where_the_system_would_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where Python was built to take OpenSSL's defaults, and those were lowered."""
    make = ssl.create_default_context

    def lowered(**options: Any) -> ssl.SSLContext:
        context = make(**options)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        return context

    monkeypatch.setattr(ssl, "create_default_context", lowered)
    assert Contexts(Tls()).get().minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_server_that_speaks_only_what_is_broken_is_refused(
    authority: Authority, tls_server: Make
) -> None:
    broken = ("--tls-protocols", "TLSv1.1", "--tls-ciphers", "DEFAULT:@SECLEVEL=0")
    told = await asked(tls_server(None, *broken).tls_url, trusting(authority))
    assert told.endswith("; let Redis speak TLS 1.2 or newer (tls-protocols)")


async def test_tls_on_one_side_only_is_told_on_either(
    authority: Authority, tls_server: Make
) -> None:
    server = tls_server()
    told = await asked(server.tls_url.replace("rediss", "redis"))
    assert "; is Redis up and reachable? where it speaks TLS, write rediss://, and where" in told
    told = await asked(server.tcp_url.replace("redis", "rediss"), trusting(authority))
    assert "no TLS connection to 127.0.0.1" in told
    assert told.endswith("; is Redis up, and does it speak TLS on that port? if not, redis://")


# --- files ---------------------------------------------------------------------------------------


def refusal(tls: Tls) -> str:
    with pytest.raises(SecretError) as caught:
        connection_for("rediss://h", tls=tls)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_cannot_serve_is_named(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue(), authority.issue("other")
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN NOTHING-----\n")
    junk.chmod(0o600)
    gone, ca = tmp_path / "gone.pem", authority.file

    def with_pair(cert: Path, key: Path) -> Tls:
        return Tls(ca_file=ca, cert_file=cert, key_file=key)

    for tls, told in (
        (Tls(ca_file=gone), f"{gone}: the CA file cannot be read (no such file"),
        (Tls(ca_file=tmp_path), f"{tmp_path}: the CA file cannot be read (is a directory"),
        (Tls(ca_file=junk), f"{junk}: holds no certificate in PEM"),
        (Tls(ca_file=pair.key), f"{pair.key}: holds no certificate in PEM"),
        (with_pair(gone, pair.key), f"{gone}: the client certificate cannot be read"),
        (with_pair(pair.cert, gone), f"{gone}: the key of the client certificate cannot be read"),
        (with_pair(junk, pair.key), f"{junk} and {pair.key}: are no certificate and key in PEM"),
        (with_pair(pair.cert, junk), f"{pair.cert} and {junk}: are no certificate and key in PEM"),
        (with_pair(pair.cert, other.key), f"{pair.cert} and {other.key}: are no pair"),
        (Tls(cert_file=pair.cert), "TLS: cert_file: is of no use without its key"),
        (Tls(key_file=pair.key), "TLS: key_file: is of no use without its certificate"),
    ):
        assert refusal(tls).startswith(told)


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o601])
def test_a_key_that_is_open_to_others_is_refused(authority: Authority, mode: int) -> None:
    pair = authority.issue()
    pair.key.chmod(mode)
    told = refusal(trusting(authority, pair))
    assert f"is open to others (mode {mode:04o}); chmod 600 {pair.key}" in told
    pair.key.chmod(0o640)
    connection_for("rediss://h", tls=trusting(authority, pair))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_passphrase(
    authority: Authority,
) -> None:
    pair = authority.issue()
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hush"),
        )
    )
    told = refusal(trusting(authority, pair))
    assert told == f"{pair.key}: is encrypted; give the key without a passphrase"


@pytest.mark.parametrize("url", ["redis://h", "unix:///s", "embedded:x", "redis+cluster://h"])
def test_files_for_tls_without_tls_are_refused(url: str, authority: Authority) -> None:
    """Whoever gave them believes that the line is secured."""
    with pytest.raises(ConfigurationError, match="has no TLS, and files for it are given"):
        connection_for(url, tls=trusting(authority))


async def test_a_renewed_certificate_is_shown_without_a_restart(
    authority: Authority, make_authority: Callable[[str], Authority], tls_server: Make
) -> None:
    server = tls_server(wants_certificate=True)
    renewed, pair = authority.issue("new"), make_authority("former").issue("app")
    client = connection_for(server.tls_url, tls=trusting(authority, pair))

    async def is_let_in() -> bool:
        """False where it showed a certificate, whole, that the server does not know."""
        with suppress(redis.ConnectionError):
            return bool(await client.ping())
        return False

    assert not await is_let_in()
    pair.cert.write_bytes(renewed.cert.read_bytes())
    assert not await is_let_in(), "half of a pair is not used"
    pair.key.write_bytes(renewed.key.read_bytes())
    assert await is_let_in()
    # Half of the next one is there: the former, whole, serves until the other half is, too.
    pair.cert.write_bytes(authority.issue("next").cert.read_bytes())
    await client.connection_pool.disconnect()
    assert await is_let_in()
    await client.aclose()
