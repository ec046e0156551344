"""Bytes of any kind on a real daemon's port: an answer or a goodbye, and it serves on."""

import socket
from contextlib import suppress
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.fuzz.test_fuzz import mutated
from tests.plugins.daemons import Site, eventually
from tests.plugins.examples import examples

PATIENCE = 20.0
SEEDS = TARGETS["http"].seeds()


def exchanged(port: int, data: bytes) -> bytes:
    """All that comes back until the daemon closes, which hears that we sent all."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        answer = b""
        with suppress(ConnectionError, BrokenPipeError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while got := connection.recv(65536):
                answer += got
        return answer


def test_no_bytes_on_the_port_break_a_daemon_or_learn_what_runs_there(site: Site) -> None:
    site.configure()
    site.done("init")
    daemon = site.daemon(is_ready=False)
    eventually(lambda: daemon.answers("/healthz"), within=60)

    @settings(
        max_examples=examples(150),
        deadline=timedelta(seconds=PATIENCE),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.binary(max_size=300) | mutated(SEEDS))
    def check(data: bytes) -> None:
        answer = exchanged(daemon.port, data)
        head = answer.partition(b"\r\n\r\n")[0]
        assert b" 500 " not in head.partition(b"\r\n")[0]
        assert b"Server:" not in head
        assert b"aiohttp" not in head
        assert b"Traceback" not in answer

    check()
    for data in (
        b"",
        b"\0" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
        b"\r\n" * 9999,
    ):
        exchanged(daemon.port, data)
    assert daemon.answers("/healthz")
    assert daemon.is_running
