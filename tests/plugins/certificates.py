"""Certificates for servers and clients, made when a test needs them, valid for that test alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.plugins.servers import REDIS7, Server, free_port

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority of a test's own, in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True,
            content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            self._builder(self._name, self._key, now - _DAY, now + _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str = "127.0.0.1",
        *,
        begins: timedelta = -_DAY,
        ends: timedelta = _DAY,
        file: str = "",
    ) -> Pair:
        """A certificate for `name` (a host or an address), `begins` and `ends` from now."""
        now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key, now + begins, now + ends)
            .add_extension(x509.SubjectAlternativeName([_named(name)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        stem = self._folder / (file or name)
        pair = Pair(stem.with_name(f"{stem.name}.crt"), stem.with_name(f"{stem.name}.key"))
        pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime,
        ends: datetime,
    ) -> x509.CertificateBuilder:
        ours = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ours),
                critical=False,
            )
        )


def _named(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority in this test's folder."""
    return Authority(tmp_path)


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes authorities by name, for tests that need one that nobody trusts."""
    return lambda name: Authority(tmp_path, name)


class TlsServer(Server):
    """Debian's Redis (there is no TLS in the embedded server), with TLS on a port of its own."""

    def __init__(
        self, authority: Authority, pair: Pair, *options: str, wants_certificate: bool
    ) -> None:
        self.tls_port = free_port()
        super().__init__(
            REDIS7,
            "--tls-port",
            str(self.tls_port),
            *tls_options(authority, pair, wants_certificate=wants_certificate),
            *options,
        )

    @property
    def tls_url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}/0"


def tls_options(authority: Authority, pair: Pair, *, wants_certificate: bool) -> tuple[str, ...]:
    """What makes a server speak TLS, but for its port."""
    return (
        "--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key),
        "--tls-ca-cert-file", str(authority.file),
        "--tls-auth-clients", "yes" if wants_certificate else "no",
    )  # fmt: skip


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[Callable[..., TlsServer]]:
    """Makes servers that speak TLS: with the certificate `pair`, and the server's own options."""
    if not REDIS7.exists():
        pytest.skip(
            "Redis 7.0 is not installed: run make provision, or apt-get install redis-server"
        )
    made: list[TlsServer] = []

    def make(pair: Pair | None = None, *options: str, wants_certificate: bool = False) -> TlsServer:
        shown = pair or authority.issue()
        made.append(TlsServer(authority, shown, *options, wants_certificate=wants_certificate))
        return made[-1]

    yield make
    for server in reversed(made):
        server.stop()
