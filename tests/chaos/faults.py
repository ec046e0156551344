"""The faults, a function each: what is done to a running fleet, from beginning to end.

When a function returns, the fault is over, and the fleet has to become normal by itself.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.crowd import SIZE
from tests.chaos.hosts import Host, Network
from tests.chaos.lab import LAYOUT, App, Lab, pause
from tests.plugins.daemons import Daemon, Here, eventually
from tests.plugins.fleets import ClusterFleet, Fleet, Node, SentinelFleet
from tests.plugins.servers import VALKEY, Server, free_port

SECOND = timedelta(seconds=1)
BEYOND_THE_LEASE = 4 * SECOND


# --- fleets --------------------------------------------------------------------------------------


class Standalone(Lab):
    """One Redis; every daemon and app on a host of its own."""

    def __init__(self, seed: int, *options: str, proxied: bool = False) -> None:
        self.network = Network()
        self.redis_host = self.network.host("redis")
        self.server = Server(VALKEY, *options, place=self.redis_host)
        self.proxy: subprocess.Popen[str] | None = None
        url = self._proxy_url() if proxied else self.server.tcp_url
        super().__init__(url, lambda: [self.server.client()], seed)
        self.leaving.callback(self.network.close)
        self.leaving.callback(self.server.stop)
        self.leaving.callback(self._end_proxy)

    def start(self, **settings: Any) -> None:
        daemons: list[Here] = [self.network.host(f"daemon{n}") for n in range(2)]
        self.begin(daemons, [self.network.host(f"app{n}") for n in range(3)], **settings)

    def _proxy_url(self) -> str:
        host, port = self.network.host("proxy"), free_port()
        self.proxy = host.start(
            sys.executable, "-m", "tests.chaos.proxy", str(port), self.server.address,
            str(self.server.port), cwd=Path(__file__).parents[2], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.proxy.stdout
        assert self.proxy.stdout.readline() == "ready\n"
        return f"redis://{host.address}:{port}/0"

    def _end_proxy(self) -> None:
        if self.proxy:
            self.proxy.kill()
            self.proxy.communicate()

    def obey(self, command: str) -> None:
        """Tell the proxy what to do from now on."""
        assert self.proxy
        assert self.proxy.stdin
        self.proxy.stdin.write(f"{command}\n")
        self.proxy.stdin.flush()


class OnFleet(Lab):
    """Sentinels, or a Cluster, on this machine's loopback."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        servers: list[Node] = fleet.servers  # type: ignore[attr-defined]
        super().__init__(fleet.url, lambda: [n.client() for n in servers if n.is_running], seed)
        self.leaving.callback(fleet.stop)

    def start(self) -> None:
        self.begin([Here(), Here()], [Here(), Here(), Here()])


# --- processes -----------------------------------------------------------------------------------


def kill_daemon(which: Callable[[Lab], Daemon], lab: Lab) -> None:
    daemon = which(lab)
    daemon.kill()
    lab.history.seconds_until_normal = lab.await_normal()
    pause(2 * SECOND)
    lab.restart(daemon)


def stop_daemon(which: Callable[[Lab], Daemon], lab: Lab) -> None:
    daemon = which(lab)
    daemon.signal(signal.SIGSTOP)
    pause(BEYOND_THE_LEASE)
    daemon.signal(signal.SIGCONT)


def kill_app(lab: Lab) -> None:
    app = lab.random.choice(lab.apps)
    app.kill()
    pause(2 * SECOND)
    app.start()


def stop_app(lab: Lab) -> None:
    app = lab.random.choice(lab.apps)
    app.signal(signal.SIGSTOP)
    pause(BEYOND_THE_LEASE)
    app.signal(signal.SIGCONT)


def kill_redis(lab: Standalone) -> None:
    lab.server.kill()
    pause(BEYOND_THE_LEASE)
    lab.server.start()


def stop_redis(lab: Standalone) -> None:
    lab.server.pause()
    pause(BEYOND_THE_LEASE)
    lab.server.resume()


# --- the network ---------------------------------------------------------------------------------


def host_of(daemon: Daemon | App) -> Host:
    assert isinstance(daemon.place, Host)
    return daemon.place


def cut(which: Callable[[Standalone], Host], lab: Standalone) -> None:
    host = which(lab)
    host.cut()
    pause(5 * SECOND)
    host.mend()


def misbehave(how: str, lab: Standalone) -> None:
    lab.obey(how)
    pause(5 * SECOND)
    lab.obey("open")


# --- what Redis holds ----------------------------------------------------------------------------


def flush(lab: Standalone) -> None:
    before = lab.heals()
    with lab.server.client() as client:
        client.flushall()
    lab.history.seconds_until_normal = lab.await_normal()
    assert lab.heals() > before, "nothing was lost, nothing was healed"


def restart_empty(lab: Standalone) -> None:
    lab.server.restart(keeps_data=False)
    lab.history.seconds_until_normal = lab.await_normal()
    assert lab.heals() > 0, "nothing was lost, nothing was healed"


def evict(lab: Standalone) -> None:
    """Whoever runs Redis as a cache: the ring is thrown out, again and again."""
    with lab.server.client() as client:
        used = int(client.info("memory")["used_memory"])
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", used + 2_000_000)
        until, evicted = time.monotonic() + 5, 0
        while time.monotonic() < until:
            for number in range(50):
                client.set(f"junk:{number}:{time.monotonic_ns()}", "x" * 20_000)
            evicted += not client.exists(LAYOUT.keyring)
        assert int(client.info("stats")["evicted_keys"]) > 0
        assert evicted, "the ring was never thrown out"
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def lose_acknowledged_writes(lab: OnFleet) -> None:
    """The replicas fall behind, the primary acknowledges a new version, and dies with it."""
    primary = lab.fleet.primary()
    with primary.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
        client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        before = str(client.hget(LAYOUT.keyring, "version"))
        eventually(lambda: client.hget(LAYOUT.keyring, "version") != before, within=12)
    time.sleep(0.3)
    primary.kill()
    began = time.monotonic()
    eventually(lambda: lab.heals() > 0, within=40)
    lab.await_normal()
    lab.history.seconds_until_normal = time.monotonic() - began
    primary.start()


# --- disks ---------------------------------------------------------------------------------------


@contextmanager
def small_disks(lab: Lab) -> Iterator[list[Path]]:
    """The daemons' state directories, each on a disk of its own that is soon full."""
    folders = [lab.site.folder / f"state{number}" for number in range(2)]
    for folder in folders:
        folder.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True
        )
    try:
        yield folders
    finally:
        for folder in folders:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def fill_disks(lab: Standalone) -> None:
    for folder in _folders(lab):
        with suppress(OSError), (folder / "junk").open("wb", buffering=0) as junk:
            while True:
                junk.write(b"x" * 4096)
    lab.await_turn()
    flush(lab)
    pause(2 * SECOND)
    for folder in _folders(lab):
        (folder / "junk").unlink()


def read_only_disks(lab: Standalone) -> None:
    _remount(lab, "ro")
    lab.await_turn()
    flush(lab)
    pause(2 * SECOND)
    _remount(lab, "rw")


def _folders(lab: Lab) -> list[Path]:
    return [lab.site.folder / f"state{number}" for number in range(2)]


def _remount(lab: Lab, mode: str) -> None:
    for folder in _folders(lab):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


# --- clocks --------------------------------------------------------------------------------------


def step_clock(which: Callable[[Standalone], Host], by: timedelta, lab: Standalone) -> None:
    host = which(lab)
    apps = [app.name for app in lab.apps if app.place is host]
    began = time.monotonic()
    host.step(by)
    pause(5 * SECOND)
    host.step(timedelta(0))
    # What it signed by a wrong clock, and what it was asked meanwhile, is about for a while.
    lab.history.clock_is_off += [(name, began - 0.1, time.monotonic() + 0.5) for name in apps]


# --- crowds --------------------------------------------------------------------------------------


def slow_subscriber(lab: Standalone) -> None:
    """An app does not keep up, and Redis drops its connection."""
    app = lab.random.choice(lab.apps)
    with lab.server.client() as client:
        client.config_set("client-output-buffer-limit", "pubsub 256kb 0 0")
        app.signal(signal.SIGSTOP)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            client.publish(LAYOUT.published, "x" * 1_000_000)
            time.sleep(0.05)
        dropped = client.info("stats")["client_output_buffer_limit_disconnections"]
        assert int(dropped) > 0, "Redis dropped nobody"
        app.signal(signal.SIGCONT)
        client.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")


def all_reconnect(lab: Standalone) -> None:
    program = ("tests.chaos.crowd", str(lab.apps[0].config), str(SIZE))
    crowd = App(lab, "crowd", lab.apps[0].config, lab.network.host("crowd"), program)
    lab.apps.append(crowd)
    assert lab.await_normal() is not None
    with lab.server.client() as client:
        live = int(client.zcard(LAYOUT.seen))
        assert live >= SIZE, f"only {live} instances"
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "YES")
        began = time.monotonic()

        def all_listen() -> bool:
            ((_, listening),) = client.pubsub_numsub(LAYOUT.published)
            return int(listening) >= live

        assert not all_listen()
        eventually(all_listen, within=30)
        assert lab.await_normal() is not None
        lab.history.seconds_until_normal = time.monotonic() - began


# --- all of them ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    do: Callable[[Any], None]
    options: tuple[str, ...] = ()
    """Of Redis."""
    kind: str = "standalone"
    """standalone, proxied, sentinel, cluster, or small disks."""
    is_alone: bool = False
    """Whether it wants the whole machine: nothing runs beside it."""


_AOF = ("--appendonly", "yes", "--appendfsync", "always")


def _leader_host(lab: Standalone) -> Host:
    return host_of(lab.leader())


def _app_host(lab: Standalone) -> Host:
    return host_of(lab.random.choice(lab.apps))


def _redis_host(lab: Standalone) -> Host:
    return lab.redis_host


def _clocks() -> Iterator[Fault]:
    for who, which in (("leader", _leader_host), ("an app", _app_host), ("Redis", _redis_host)):
        for minutes in (60, -60, 10, -10):
            by = timedelta(minutes=minutes)
            yield Fault(f"wall clock of {who} {minutes:+d} min", partial(step_clock, which, by))


FAULTS = (
    Fault("kill -9 the leader", partial(kill_daemon, Lab.leader)),
    Fault("SIGSTOP the leader beyond the TTL", partial(stop_daemon, Lab.leader)),
    Fault("kill -9 the standby daemon", partial(kill_daemon, Lab.standby)),
    Fault("SIGSTOP the standby daemon", partial(stop_daemon, Lab.standby)),
    Fault("kill -9 an app", kill_app),
    Fault("SIGSTOP an app", stop_app),
    Fault("kill -9 Redis (its data kept)", kill_redis, _AOF),
    Fault("SIGSTOP Redis beyond the TTL", stop_redis),
    Fault("leader cut off", partial(cut, _leader_host)),
    Fault("an app cut off", partial(cut, _app_host)),
    Fault("Redis cut off", partial(cut, _redis_host)),
    Fault("way to Redis: blackhole", partial(misbehave, "blackhole"), kind="proxied"),
    Fault("way to Redis: reset", partial(misbehave, "reset"), kind="proxied"),
    Fault("way to Redis: 400 ms late", partial(misbehave, "delay 0.4"), kind="proxied"),
    Fault("Sentinel failover, writes lost", lose_acknowledged_writes, kind="sentinel"),
    Fault("Cluster failover, writes lost", lose_acknowledged_writes, kind="cluster"),
    Fault("restart of Redis, empty", restart_empty),
    Fault("FLUSHALL", flush),
    Fault("eviction: allkeys-random", evict),
    Fault("state_dir full, then FLUSHALL", fill_disks, kind="small disks"),
    Fault("state_dir read-only, then FLUSHALL", read_only_disks, kind="small disks"),
    *_clocks(),
    Fault("slow subscriber, dropped by Redis", slow_subscriber),
    Fault(f"{SIZE} instances reconnect at once", all_reconnect, is_alone=True),
)


def lab_for(fault: Fault, seed: int) -> Lab:
    """A running fleet of the kind that `fault` needs."""
    lab: Standalone | OnFleet
    if fault.kind in ("sentinel", "cluster"):
        lab = OnFleet(SentinelFleet() if fault.kind == "sentinel" else ClusterFleet(), seed)
    else:
        lab = Standalone(seed, *fault.options, proxied=fault.kind == "proxied")
        if fault.kind == "small disks":
            lab.leaving.enter_context(small_disks(lab))
    try:
        lab.start()
    except BaseException:
        lab.close()
        raise
    return lab
