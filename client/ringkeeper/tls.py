"""TLS to Redis: what is offered, whom it is offered to, and from which files.

TLS 1.2 at least. The server's certificate is always checked: who signed it, until when, and that it
is for the host that was asked for. With a CA file only that CA counts; without one, those of the
system.

redis-py makes a context for each connection, reading all files anew, and trusts the system's CAs
beside the one it was given. Here one context serves all connections of a client. It is made anew
when a file was replaced, so that a renewed certificate needs no restart.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from redis import exceptions
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection

from ringkeeper.errors import SecretError
from ringkeeper.secret_files import check_closed
from ringkeeper.watched import Watched

# What OpenSSL's words hold, and what to do about it. Certificates of servers come first: what is
# wrong with ours arrives as an alert.
REMEDIES: Final = (
    ("certificate has expired", "renew Redis' certificate"),
    ("certificate is not yet valid", "set this host's clock, or renew Redis' certificate"),
    ("certificate is not valid for", "give redis.url a host that Redis' certificate names"),
    ("certificate verify failed", "give redis.tls.ca_file the CA that signs Redis' certificate"),
    ("alert certificate required", "give redis.tls.cert_file a client certificate"),
    ("alert certificate expired", "renew the client certificate, redis.tls.cert_file"),
    (
        "alert handshake failure",
        "give redis.tls.cert_file a client certificate, if Redis wants one",
    ),
    ("alert unknown ca", "give redis.tls.cert_file a certificate of Redis' own CA"),
    ("alert protocol version", "let Redis speak TLS 1.2 or newer (tls-protocols)"),
    ("alert", "give redis.tls.cert_file a client certificate that Redis takes"),
    ("wrong version number", "Redis speaks no TLS on that port: give redis.url redis://"),
    ("no TLS connection", "is Redis up, and does it speak TLS on that port? if not, redis://"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """The files for TLS to Redis, all in PEM; none is needed where the system's CAs will do."""

    ca_file: str | Path | None = None
    """The CA to trust, and no other; else those of the system."""
    cert_file: str | Path | None = None
    """The certificate to show, where Redis asks for one, and its chain."""
    key_file: str | Path | None = None
    """Its private key, unencrypted, closed to others."""

    def problem(self) -> str:
        """What contradicts itself, and what to do; empty if nothing does."""
        if self.cert_file and not self.key_file:
            return "cert_file: is of no use without its key; give key_file as well"
        if self.key_file and not self.cert_file:
            return "key_file: is of no use without its certificate; give cert_file as well"
        return ""

    def __bool__(self) -> bool:
        return any((self.ca_file, self.cert_file, self.key_file))


class Contexts:
    """The newest context that a client's files make; redis-py asks for it whenever it connects."""

    def __init__(self, files: Tls) -> None:
        """Read `files`.

        Raises:
            SecretError: one that cannot be used, and why.
        """
        named = [path for path in (files.ca_file, files.cert_file, files.key_file) if path]
        self._watched = Watched(named, lambda: _context(files))

    def get(self) -> ssl.SSLContext:
        """A context of the files as they are; of what they were while they cannot be used."""
        # Perhaps half of a pair was replaced so far: then the next connection looks again.
        with suppress(SecretError):
            self._watched.renewed()
        return self._watched.value


class TlsConnection(SSLConnection):
    """A connection with TLS, by a context that it shares."""

    def __init__(self, *, contexts: Contexts, **options: Any) -> None:
        """Connect with what `contexts` has."""
        super().__init__(**options)
        self.ssl_context = contexts  # type: ignore[assignment] # all that is asked of it is `get`

    async def _connect(self) -> None:
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            raise exceptions.ConnectionError(
                f"no TLS connection to {self.host}:{self.port} within "
                f"{self.socket_connect_timeout:g} s"
            ) from None


class TlsSentinelConnection(SentinelManagedConnection, TlsConnection):
    """The same, to the primary that Sentinels name."""


# --- files ---------------------------------------------------------------------------------------


def _context(files: Tls) -> ssl.SSLContext:
    if problem := files.problem():
        raise SecretError(f"TLS: {problem}")
    try:
        context = ssl.create_default_context(cafile=_readable(files.ca_file, "CA file"))
    except ssl.SSLError:
        raise SecretError(
            f"{files.ca_file}: holds no certificate in PEM; give the CA file that signs Redis' "
            "certificate"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert_file and files.key_file:
        _load_pair(context, files.cert_file, files.key_file)
    return context


def _load_pair(context: ssl.SSLContext, cert_file: str | Path, key_file: str | Path) -> None:
    cert = _readable(cert_file, "client certificate")
    key = _readable(key_file, "key of the client certificate", is_secret=True)

    def no_passphrase() -> NoReturn:  # OpenSSL would ask whoever sits at the terminal
        raise SecretError(f"{key_file}: is encrypted; give the key without a passphrase")

    try:
        context.load_cert_chain(str(cert), key, no_passphrase)
    except ssl.SSLError as error:
        is_mismatch = "MISMATCH" in str(error)
        why = "are no pair: " if is_mismatch else "are no certificate and key in PEM: "
        raise SecretError(
            f"{cert_file} and {key_file}: {why}give a client certificate and its own key"
        ) from None


def _readable(path: str | Path | None, what: str, *, is_secret: bool = False) -> str | None:
    """`path`, once it can be read: OpenSSL does not say which of its files it was."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            file.read(1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise SecretError(
            f"{path}: the {what} cannot be read ({why}); let this user read it, or name another"
        ) from None
    if is_secret:
        check_closed(path, what, mode)
    return str(path)
