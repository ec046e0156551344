"""What is wrong with a daemon, as its metrics say it: alerts rely on each of them."""

import json
import signal
import ssl
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ringkeeper import errors
from ringkeeper.errors import RingkeeperError, SealBroken
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import amend
from ringkeeper.tls import Tls
from ringkeeperd.certificates import Certificates
from ringkeeperd.leader import ANOTHER_LEADS
from ringkeeperd.service import LeadingState
from ringkeeperd.troubles import KINDS, classified, kinds_at
from tests.daemon.test_telling import Daemon as Telling
from tests.plugins.certificates import Authority, TlsServer
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import Server


def troubles(daemon: Daemon) -> set[str]:
    found = {kind: daemon.metric("trouble", kind=kind) for kind in KINDS}
    assert None not in found.values(), "every kind exists, also where all is well"
    return {kind for kind, value in found.items() if value}


# --- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.RingMissing, "missing"),
        (errors.ForkedRing, "rolled_back"),
        (errors.ForgedDocument, "document"),
        (errors.RedisUnavailable, "redis"),
        (errors.ClocksApart, "clock"),
        (errors.StateUnusable, "state"),
        (errors.FilesUnusable, "files"),
        (errors.SealBroken, "secret"),
        (errors.RingNotLoaded, "not_loaded"),
        (errors.Defect, "defect"),
    ],
)
def test_an_error_has_a_kind_and_constant_words(error: type[RingkeeperError], kind: str) -> None:
    found = classified(error("of /etc/a-file at 10.0.0.1"))
    assert found.kind == kind
    assert found.kind in KINDS
    assert "10.0.0.1" not in found.words


def test_what_keeps_a_daemon_from_leading_has_a_kind_until_it_does_not_keep_it() -> None:
    daemon = Telling()
    daemon.telling.cannot_lead(SealBroken("the KEK does not open it"))
    assert daemon.state.trouble_kind == "secret"
    daemon.telling.not_leading("redis: no answer")
    assert (bool(daemon.state.trouble), daemon.state.trouble_kind) == (True, "")
    daemon.telling.cannot_lead(SealBroken("the KEK does not open it"))
    daemon.telling.not_leading(ANOTHER_LEADS)
    assert (daemon.state.trouble, daemon.state.trouble_kind) == ("", "")


def test_what_the_leader_alone_knows_of_is_told_with_what_it_keeps_it_from() -> None:
    """As of clocks that differ: the follower has no use for Redis' clock."""
    service: Any = SimpleNamespace(
        follower=SimpleNamespace(troubles=(), replica=SimpleNamespace(held=None)),
        state=LeadingState(trouble="this clock differs by 70s", trouble_kind="clock"),
    )
    assert set(kinds_at(service)) == {"clock", "leading", "not_loaded"}


# --- real daemons --------------------------------------------------------------------------------


def test_a_daemon_without_trouble_has_none_and_tells_when_redis_is_gone(
    make_site: Callable[[str], Site], own_server: Callable[..., Server]
) -> None:
    server = own_server()
    site = make_site(server.url)
    daemon = site.daemon(init=True)
    eventually(lambda: troubles(daemon) == set())
    server.kill()
    eventually(lambda: troubles(daemon) >= {"redis", "leading"})
    server.start()
    eventually(lambda: "redis" not in troubles(daemon), within=20)


def test_a_ring_that_was_never_made_is_missing(site: Site) -> None:
    daemon = site.daemon(is_ready=False)
    eventually(lambda: daemon.answers("/healthz"))
    eventually(lambda: troubles(daemon) == {"missing", "not_loaded", "leading"})


def test_a_daemon_with_another_kek_says_that_it_is_the_secret(site: Site) -> None:
    first = site.daemon(init=True)
    first.stop()
    amend(site.folder / "kek.jwk", Kek.generate().secret_jwk())
    second = site.daemon(is_ready=False)
    eventually(lambda: second.answers("/healthz"))
    eventually(lambda: troubles(second) >= {"secret", "leading"})


def test_a_rejected_configuration_is_so_until_it_is_mended(site: Site) -> None:
    daemon = site.daemon(init=True)

    def is_taken(what: str) -> float | None:
        return daemon.metric("config_last_reload_successful", what=what)

    assert (is_taken("configuration"), is_taken("secrets")) == (1, 1)
    good = daemon.config.read_text()
    daemon.config.write_text(json.dumps({"nonsense": 1}))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: is_taken("configuration") == 0)
    daemon.config.write_text(good)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: is_taken("configuration") == 1)
    assert is_taken("refreshes_token") == 1


def test_secrets_that_cannot_be_read_any_more_are_so_until_they_are_mended(site: Site) -> None:
    daemon = site.daemon(init=True)

    def is_taken() -> float | None:
        return daemon.metric("config_last_reload_successful", what="secrets")

    (site.folder / "kek.jwk").chmod(0o644)
    daemon.signal(signal.SIGHUP)  # files are looked at every five seconds, and now
    eventually(lambda: is_taken() == 0)
    (site.folder / "kek.jwk").chmod(0o600)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: is_taken() == 1)


def test_an_unreadable_token_for_counting_is_told(site: Site) -> None:
    token = site.folder / "token"
    token.write_text("a" * 40)
    token.chmod(0o644)
    daemon = site.daemon(init=True, refreshes_token_file=str(token))
    assert daemon.metric("config_last_reload_successful", what="refreshes_token") == 0
    token.chmod(0o600)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.metric("config_last_reload_successful", what="refreshes_token") == 1)


# --- certificates --------------------------------------------------------------------------------


def test_certificates_are_told_by_constant_names_and_when_they_expire(
    make_site: Callable[[str], Site], tls_server: Callable[..., TlsServer], authority: Authority
) -> None:
    pair = authority.issue(ends=timedelta(hours=5), file="client")
    server = tls_server(wants_certificate=True)
    files = {"ca_file": authority.file, "cert_file": pair.cert, "key_file": pair.key}
    site = make_site(server.tls_url)
    redis = {"url": server.tls_url, "tls": {name: str(path) for name, path in files.items()}}
    daemon = site.daemon(init=True, redis=redis)
    name = "certificate_expiry_timestamp_seconds"
    for file, path in (("ca", authority.file), ("cert", pair.cert)):
        told = ssl._ssl._test_decode_cert(str(path))["notAfter"]  # type: ignore[attr-defined]
        assert daemon.metric(name, file=file) == ssl.cert_time_to_seconds(told)
    assert str(site.folder) not in daemon.get("/metrics")[2].decode()
    renewed = authority.issue(ends=timedelta(hours=9), file="client")
    told = ssl._ssl._test_decode_cert(str(renewed.cert))["notAfter"]  # type: ignore[attr-defined]
    assert daemon.metric(name, file="cert") == ssl.cert_time_to_seconds(told)


def test_without_certificates_there_is_nothing_to_tell(site: Site) -> None:
    assert site.daemon(init=True).metric("certificate_expiry_timestamp_seconds") is None


def test_of_several_certificates_the_first_to_expire_counts(authority: Authority) -> None:
    soon = authority.issue("soon", ends=timedelta(hours=1))
    late = authority.issue("late", ends=timedelta(hours=9))
    bundle = authority.file.with_name("bundle")
    bundle.write_bytes(late.cert.read_bytes() + soon.cert.read_bytes())
    alone = Certificates(Tls(ca_file=soon.cert)).expiries()
    assert Certificates(Tls(ca_file=bundle)).expiries() == alone


def test_a_file_that_is_half_written_leaves_what_was_known(authority: Authority) -> None:
    pair = authority.issue()
    certificates = Certificates(Tls(cert_file=pair.cert, key_file=pair.key))
    known = dict(certificates.expiries())
    pair.cert.write_bytes(pair.cert.read_bytes()[:200])
    assert certificates.expiries() == known
    pair.cert.unlink()
    assert certificates.expiries() == known
