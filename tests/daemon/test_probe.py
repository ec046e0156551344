"""`ringkeeper check --alive` and `--ready`, as health checks ask every few seconds."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ringkeeperd.check import _listen_despite
from ringkeeperd.probe import ALIVE, answered, trouble
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import free_port


def asked(question: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A health check that is told by the environment alone, as in our image."""
    return subprocess.run(
        [sys.executable, "-m", "ringkeeperd", "check", question],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=clean_environment() | environment,
    )


def test_a_daemon_that_is_well_is_alive_and_ready(site: Site) -> None:
    daemon = site.daemon(init=True)
    for question in ("--alive", "--ready"):
        assert site.done("check", question, config=daemon.config.name) == ""
        told = asked(question, RINGKEEPER_LISTEN=f"0.0.0.0:{daemon.port}")
        assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_a_daemon_without_its_ring_is_alive_and_not_ready(site: Site) -> None:
    daemon = site.daemon(is_ready=False)
    eventually(lambda: daemon.answers("/healthz"))
    assert site.done("check", "--alive", config=daemon.config.name) == ""
    said = site.refused("check", "--ready", config=daemon.config.name)
    assert "answered 503: " in said
    assert "Redis holds no such ring" in said


def test_a_daemon_that_hangs_is_not_alive(site: Site) -> None:
    daemon = site.daemon(init=True)
    daemon.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        said = asked("--alive", RINGKEEPER_LISTEN=f"127.0.0.1:{daemon.port}")
        assert time.monotonic() - began < 4
        assert said.returncode == 1
        assert "no answer within 2 s" in said.stderr
    finally:
        daemon.signal(signal.SIGCONT)
    site.done("check", "--alive", config=daemon.config.name)


def test_where_no_daemon_is_it_says_where_it_asked(site: Site) -> None:
    port = free_port()
    site.configure(listen=f"127.0.0.1:{port}")
    said = site.refused("check", "--alive")
    assert f"http://127.0.0.1:{port}/healthz: no answer (connection refused)" in said
    told = json.loads(site.run("check", "--alive", "--json").stdout)
    assert (told["ok"], len(told["problems"])) == (False, 1)
    site.configure(listen="127.0.0.1:0")
    assert "nobody knows where to ask" in site.refused("check", "--alive")


def test_a_broken_configuration_makes_no_daemon_of_an_image_unhealthy(site: Site) -> None:
    """It runs on with the former one; that it was rejected is told elsewhere."""
    daemon = site.daemon(init=True)
    daemon.config.write_text("nonsense: 1")
    told = asked(
        "--alive",
        RINGKEEPER_LISTEN=f"127.0.0.1:{daemon.port}",
        RINGKEEPER_CONFIG=str(daemon.config),
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    "written",
    [
        "nonsense: 1\nlisten: 127.0.0.1:{port}\n",
        "redis: [\n'listen':  \"127.0.0.1:{port}\"   # torn",
        '{{"redis": {{"url": 5}}, "listen": "127.0.0.1:{port}", "nonsense": 1}}',
    ],
)
def test_a_file_that_was_edited_amiss_makes_no_daemon_dead(site: Site, written: str) -> None:
    daemon = site.daemon(init=True)
    daemon.config.write_text(written.format(port=daemon.port))
    said = site.done("check", "--alive", config=daemon.config.name)
    assert said.startswith("yet: daemon0.yaml: cannot be used, ringkeeper check tells why")
    assert said.endswith(f"127.0.0.1:{daemon.port}")
    daemon.stop()
    assert "no answer (connection ref" in site.refused("check", "--alive", config="daemon0.yaml")


def test_a_daemon_that_nobody_knows_where_to_find_is_not_called_dead(site: Site) -> None:
    assert _listen_despite("listen: 0.0.0.0", {}) == (("127.0.0.1", 9465), False)
    assert _listen_despite("# nothing\n", {}) == (("127.0.0.1", 9465), True)
    environ = {"RINGKEEPER_LISTEN": "[::1]:5"}
    assert _listen_despite("listen: 0.0.0.0", environ) == (("::1", 5), True)
    assert "there is no" in site.refused("check", "--alive", config="none.yaml")


# --- what check has to say of the daemon here ----------------------------------------------------


def test_check_repeats_what_only_the_daemon_here_knows(site: Site) -> None:
    taken = site.folder / "taken"
    taken.write_text("a file where the folder is to be")
    daemon = site.daemon(init=True, is_ready=False, files={"directory": str(taken)})
    eventually(lambda: daemon.answers("/healthz"))
    eventually(lambda: b"the files for apps cannot be kept" in daemon.get("/healthz")[2])
    told = "the daemon here, ring 'access-token': the files for apps cannot be kept; its log tells"
    assert told in site.refused("check", config=daemon.config.name)
    taken.unlink()
    eventually(lambda: b"cannot be kept" not in daemon.get("/healthz")[2], within=30)
    assert "all is well" in site.done("check", config=daemon.config.name)


def test_check_remarks_on_what_the_daemon_rejected_and_on_one_that_hangs(site: Site) -> None:
    daemon = site.daemon(init=True)
    good = daemon.config.read_text()
    daemon.config.write_text("{}")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.events("configuration rejected"))
    other = site.configure("other.yaml", listen=f"127.0.0.1:{daemon.port}").name
    assert "yet: the daemon here: configuration: rejected at the last" in site.done(
        "check", config=other
    )
    daemon.config.write_text(good)
    daemon.signal(signal.SIGSTOP)
    try:
        assert "no answer within 2 s; the daemon hangs" in site.done("check", config=other)
    finally:
        daemon.signal(signal.SIGCONT)


def test_check_repeats_nothing_of_what_is_no_daemon(site: Site) -> None:
    site.configure()
    site.done("init")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                rings = b'{"rings": {"access-token": {"trouble": "\\u001b[2J", "on_change": 1}}}'
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + rings)

        thread = threading.Thread(target=answer)
        thread.start()
        site.configure(listen=f"127.0.0.1:{listening.getsockname()[1]}")
        said = site.done("check").splitlines()
        thread.join()
    assert [line.partition(":")[0] for line in said] == ["all is well", "yet"]
    assert "nobody leads" in said[1]


@pytest.mark.parametrize("listen", ["", "9465", "localhost", "127.0.0.1:x"])
def test_an_address_that_is_none_is_left_to_the_command_line(listen: str) -> None:
    assert answered(["check", "--alive"], {"RINGKEEPER_LISTEN": listen}) is None


def test_an_ipv6_address_is_asked_at_its_loopback() -> None:
    with socket.socket(socket.AF_INET6) as listening:
        try:
            listening.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = listening.getsockname()[1]
        told = trouble("::", port, ALIVE)  # bound, and nobody listens
        assert f"http://[::1]:{port}/healthz: no answer (connection refused)" in told


def test_what_is_no_daemon_is_not_quoted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b'HTTP/1.0 404 no\r\n\r\n{"why": "\\u001b[2J"}')

        thread = threading.Thread(target=answer)
        thread.start()
        told = trouble("127.0.0.1", listening.getsockname()[1], ALIVE)
        thread.join()
    assert told.endswith("answered 404: is something else listening there?")


def test_a_health_check_loads_little() -> None:
    """It is run every few seconds: not even the client library is loaded for it."""
    script = (
        "import sys; sys.argv = ['ringkeeper', 'check', '--alive']\n"
        "from ringkeeperd.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 1\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment() | {"RINGKEEPER_LISTEN": f"127.0.0.1:{free_port()}"},
    )
    loaded = set(done.stdout.split())
    assert "http.client" in loaded
    assert not loaded & {"ringkeeper", "asyncio", "argparse", "yaml", "cryptography", "redis"}


def test_as_the_first_process_of_a_container_it_can_be_ended_at_any_time() -> None:
    """The kernel lets no signal through to such a process but those that it handles."""
    waiting = (
        "import os, signal, sys; from ringkeeperd import __main__, cli\n"
        "os.getpid = lambda: 1\n"
        "cli.main = lambda: (print('here', flush=True), signal.pause())\n"
        "__main__.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", waiting], stdout=subprocess.PIPE, env=clean_environment()
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"here\n"
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
