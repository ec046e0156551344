"""Many rings in one daemon: what they cost at rest, and whether they turn when they are due.

The rings are written as `init` makes them, with key pairs from a pool (making 3,000 of RSA takes
minutes), the daemon is the one that ships, and all figures are those of its process and of the
server. `python -m benchmarks.rings` measures this alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.plugins.servers import VALKEY, Server, free_port

from benchmarks.rest import cpu_ms, memory_mb, private_mb
from ringkeeper.algorithms import PrivateKey
from ringkeeper.clock import SystemClock
from ringkeeper.layout import Layout
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, Ring
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create
from ringkeeper.trust import TrustRoot
from ringkeeper.wire import open_snapshot, sign_proof, sign_snapshot
from ringkeeperd.leader_store import Edition, RedisLeaderStore, Written
from ringkeeperd.rotation import first_keys_wanted, first_ring
from ringkeeperd.transitions import FreshKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COUNTS: Final = (1, 10, 100, 1000)
_PAIRS: Final = 16
_HEAD_START: Final = 45.0
_HEAD_START_OF_EACH: Final = 0.12
"""Seconds before the first ring is due, in all and for each ring: the daemon takes them all up in
that time, and listens for instances."""
_POLL: Final = timedelta(seconds=10)
"""Where rings turn: a leader listens for three of them before it trusts what it heard."""
_SETTLES: Final = 15.0
"""Seconds after which a daemon is at rest."""
_TURNS_A_SECOND: Final = 1.0
"""Of all rings together. A turn makes an RSA key pair, which alone takes a tenth of a second of a
core; a thousand rings with a new key each day would turn once in a minute and a half."""
_SENT: Final = (
    "evalsha", "ping", "time", "hstrlen", "hmget", "zadd", "xread", "subscribe", "getrange",
    "xrevrange", "xinfo|stream", "auth", "client|setname", "eval", "select",
)  # fmt: skip
"""Commands that a daemon sends; others run inside its scripts."""
_READY_WITHIN: Final = 180.0
_PAGE: Final = Path(__file__).parent.parent / "docs" / "performance.md"
_BEGIN: Final = "<!-- rings: written by python -m benchmarks.rings --write -->\n"
_END: Final = "<!-- rings: end -->\n"


@dataclass(frozen=True, slots=True)
class Tenants:
    """So many rings of one policy, in a server."""

    server: Server
    count: int
    policy: Policy
    root: TrustRoot
    kek: Kek

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [f"tenant-{number:04}" for number in range(self.count)]

    async def write(self, head_start: float) -> None:
        """Make them, so that they are due one after the other, the first after `head_start`."""
        clock, pairs = SystemClock(), _key_pairs(self.policy.algorithm)
        spread = max(0.0, self.policy.cryptoperiod.total_seconds() - head_start)
        for number, name in enumerate(self.names):
            store = RedisLeaderStore.connect(self.server.url, name, clock, password=None)
            age = timedelta(milliseconds=int(1000 * spread * number / self.count))
            kids = [pairs[(number + place) % _PAIRS] for place in range(3)]
            wanted = first_keys_wanted(self.policy)
            fresh = tuple(
                FreshKey(want.kind, want.algorithm, pair.public_jwk)
                for want, pair in zip(wanted, kids, strict=True)
            )
            acquired = await store.acquire("bench", timedelta(seconds=30), 0)
            ring = first_ring(
                ring_id=name, name=name, policy=self.policy, fresh=fresh, kek=self.kek.kid,
                now=clock.now() - age, epoch=1,
            )  # fmt: skip
            snapshot = sign_snapshot(ring, self.root)
            proof = sign_proof(ring, snapshot, clock.now(), self.root)
            put = {f.kid: self.kek.seal(p) for f, p in zip(fresh, kids, strict=True)}
            edition = Edition(1, 1, snapshot, proof, put, frozenset(put), ())
            written = await store.publish("bench", "", edition)
            assert isinstance(written, Written), (acquired, written)
            await store.release("bench")
            await store.close()

    def read(self) -> list[Ring]:
        """All of them, as they are now."""
        with self.server.client() as client, client.pipeline(transaction=False) as asking:
            for name in self.names:
                asking.hget(Layout(name).keyring, "snapshot")
            return [open_snapshot(text, self.root.public) for text in asking.execute()]


_pairs: dict[str, list[PrivateKey]] = {}


def _key_pairs(algorithm: str) -> list[PrivateKey]:
    if algorithm not in _pairs:
        _pairs[algorithm] = [PrivateKey.generate(algorithm) for _ in range(_PAIRS)]
    return _pairs[algorithm]


def policy_of(count: int, *, turns: bool) -> Policy:
    """The default one, or one by which `count` rings turn a key a second, together, if many."""
    if not turns:
        return Policy.derive()
    seconds = max(30.0, count / _TURNS_A_SECOND) + head_start(count)
    return Policy.derive(
        cryptoperiod=timedelta(seconds=seconds),
        access_token_validity=timedelta(seconds=60),
        poll_interval=_POLL,
    )


def head_start(count: int) -> float:
    """Seconds before the first of so many rings is due."""
    return _HEAD_START + _HEAD_START_OF_EACH * count


def measure(count: int, seconds: float, *, turns: bool) -> dict[str, Any]:
    """What `count` rings cost one daemon, over `seconds`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, most), most))
    server = Server(VALKEY, "--maxclients", "15000")
    try:
        root, kek = TrustRoot.generate(), Kek.generate()
        tenants = Tenants(server, count, policy_of(count, turns=turns), root, kek)
        asyncio.run(tenants.write(head_start(count)))
        return _measured(tenants, seconds, turns=turns)
    finally:
        server.stop()


def _measured(tenants: Tenants, seconds: float, *, turns: bool) -> dict[str, Any]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:
        config, began = _configured(tenants, folder, port), time.monotonic()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ringkeeperd",
                "run",
                "--config",
                config,
            ],
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if not k.startswith("RINGKEEPER_")},
        )
        try:
            while _leads(port) < tenants.count and time.monotonic() < began + _READY_WITHIN:
                assert process.poll() is None
                time.sleep(0.05 if tenants.count < 100 else 0.5)
            led = _leads(port)
            ready = time.monotonic() - began
            time.sleep(max(_SETTLES, head_start(tenants.count) - ready if turns else 0.0))
            found = _window(tenants, process.pid, port, seconds)
        finally:
            process.terminate()
            process.wait()
    return {"start_to_leading_all_s": round(ready, 1), "led": led, **found}


def _configured(tenants: Tenants, folder: str, port: int) -> str:
    place = Path(folder)
    create(place / "root.jwk", tenants.root.secret_jwk())
    create(place / "root.pub.jwk", tenants.root.public_jwk(), mode=0o644)
    create(place / "kek.jwk", tenants.kek.secret_jwk())
    hours = tenants.policy.cryptoperiod / timedelta(hours=1)
    document = {
        "redis": {"url": tenants.server.url},
        "listen": f"127.0.0.1:{port}",
        "access_token_dynamic_signing_key_update_interval": hours,
        "access_token_validity": int(tenants.policy.access_token_validity.total_seconds()),
        "poll_interval": f"{tenants.policy.poll_interval.total_seconds():g}s",
        "name": tenants.names[0],
        "keyrings": dict.fromkeys(tenants.names[1:]),
        "trust_root": "root.jwk",
        "trust_root_public": "root.pub.jwk",
        "kek": "kek.jwk",
        "state_dir": "state",
    }
    config = place / "config.yaml"
    config.write_text(json.dumps(document))
    return str(config)


def _window(tenants: Tenants, pid: int, port: int, seconds: float) -> dict[str, Any]:
    """What happens within `seconds`."""
    before, cpu, began = _commands(tenants.server), cpu_ms(pid), time.monotonic()
    since = SystemClock().now()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    spent, sent = cpu_ms(pid) - cpu, _commands(tenants.server) - before
    until = SystemClock().now()
    with tenants.server.client() as client:
        clients: Any = client.info("clients")
    late: list[float] = []
    turned = overdue = 0
    for ring in tenants.read():
        retired = [key for key in ring.keys if key.kind is KeyKind.DYNAMIC and key.retired_at]
        lateness = [
            (key.retired_at - key.due_at).total_seconds()
            for key in retired
            if key.retired_at and key.due_at and since <= key.retired_at <= until
        ]
        late += lateness
        turned += bool(lateness)
        active = ring.active()
        overdue += bool(active and active.due_at and active.due_at < until)
    scrape, size = _scraped(port)
    return {
        "rss_mb": round(memory_mb(pid), 1),
        "private_mb": round(private_mb(pid), 1),
        "lasted_s": round(lasted),
        "cpu_percent": round(spent / lasted / 10, 2),
        "commands_a_second": round(sent / lasted, 1),
        "connections": clients["connected_clients"] - 1,
        "turns_made": len(late),
        "turns_due": len(late) + overdue,
        "rings_turned": turned,
        "late_median_s": round(statistics.median(late), 3) if late else None,
        "late_worst_s": round(max(late), 3) if late else None,
        "scrape_s": round(scrape, 3),
        "scrape_bytes": size,
    }


def _leads(port: int) -> int:
    """How many rings the daemon leads, once it is ready; as long as it does not answer, none."""
    try:
        _get(port, "/readyz")
        told = json.loads(_get(port, "/healthz"))["rings"]
    except OSError:
        return 0
    return sum(ring["leading"] for ring in told.values())


def _get(port: int, place: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{place}", timeout=10) as answer:
        body: bytes = answer.read()
        return body


def _scraped(port: int) -> tuple[float, int]:
    """Seconds that a scrape takes, and its bytes; none where it is not answered."""
    asked = time.monotonic()
    with suppress(OSError):
        size = len(_get(port, "/metrics"))
        return time.monotonic() - asked, size
    return time.monotonic() - asked, 0


def _commands(server: Server) -> int:
    with server.client() as client:
        stats: Any = client.info("commandstats")
    return sum(
        value["calls"] for name, value in stats.items() if name.removeprefix("cmdstat_") in _SENT
    )


def table(seconds: float, counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """For each number of rings: at rest for so long, and turning until each turned once."""
    return {
        str(count): {
            "rest": measure(count, seconds, turns=False),
            "turning": measure(count, once_each(count), turns=True),
        }
        for count in counts
    }


def once_each(count: int) -> float:
    """Seconds in which each of so many rings is due once."""
    return policy_of(count, turns=True).cryptoperiod.total_seconds()


_COLUMNS: Final = (
    ("rings led", "{led}"),
    ("all led after", "{start_to_leading_all_s} s"),
    ("resident", "{rss_mb} MB"),
    ("private", "{private_mb} MB"),
    ("CPU of one core", "{cpu_percent} %"),
    ("Redis commands a second", "{commands_a_second}"),
    ("connections", "{connections}"),
    ("over", "{lasted_s} s"),
    ("turns made of due", "{turns_made} of {turns_due}"),
    ("rings that turned", "{rings_turned}"),
    ("late, median and worst", "{late_median_s} s, {late_worst_s} s"),
    ("a scrape", "{scrape_s} s"),
)


def as_markdown(found: Mapping[str, Any]) -> str:
    """A table for people."""
    rows = [["rings, and what they do", *(title for title, _ in _COLUMNS)]]
    rows.append(["---"] * len(rows[0]))
    for count, both in found.items():
        for what, figures in both.items():
            cells = (text.format(**figures) for _, text in _COLUMNS)
            none = (cell.replace("None s, None s", "") for cell in cells)
            rows.append([f"{count}, {'at rest' if what == 'rest' else what}", *none])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write(found: Mapping[str, Any]) -> None:
    """Put the table into docs/performance.md."""
    before, begin, rest = _PAGE.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, f"{_PAGE} has no place for it"
    _PAGE.write_text(f"{before}{begin}{as_markdown(found)}{end}{after}")


def main() -> int:
    """Measure, and print JSON and a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.rings", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of rest (60)")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md's table")
    given = parser.parse_args()
    found = table(given.seconds, given.counts)
    print(json.dumps(found, indent=2))
    print(as_markdown(found))
    if given.write:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
