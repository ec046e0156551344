"""Sentinel and Cluster, for real: a ring outlives the server that it is in."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import ringkeeper.asyncio
from ringkeeper import Keyring
from ringkeeper.errors import RevokedKid, RingkeeperError
from ringkeeper.store import RedisStore
from ringkeeper.tokens import kid_in
from ringkeeper.topology import SlotFinder, close, connection_for
from tests.plugins.daemons import Site, eventually
from tests.plugins.fleets import Fleet, SentinelFleet, until
from tests.plugins.servers import Server, free_port

ASKING: dict[str, Any] = {
    "decode_responses": True,
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": 0.5,
}
QUICK: dict[str, Any] = {"poll_interval": "500ms", "lease_ttl": "2s"}


@pytest.fixture
def fleet_site(fleet: Fleet, make_site: Callable[[str], Site]) -> Iterator[Site]:
    """A site at a fleet; daemons end before their servers do."""
    site = make_site(fleet.url)
    yield site
    site.close()


def connect(site: Site, *, signs: bool = True) -> Keyring:
    return Keyring.connect(
        site.redis_url,
        trust_root=site.folder / "root.pub.jwk",
        kek=site.folder / "kek.jwk" if signs else None,
    )


def is_refused(ring: Keyring, token: str) -> bool:
    try:
        ring.verify(token)
    except RevokedKid:
        return True
    return False


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kids of the sealed keys that apps of this process read from Redis."""
    kids: list[str] = []
    read = RedisStore.sealed

    async def noted(store: RedisStore, wanted: Sequence[str]) -> dict[str, str]:
        kids.extend(wanted)
        return await read(store, wanted)

    monkeypatch.setattr(RedisStore, "sealed", noted)
    return kids


def test_a_ring_is_made_led_followed_and_operated(fleet_site: Site, fetched: list[str]) -> None:
    site = fleet_site
    daemon = site.daemon(init=True, **QUICK)
    with connect(site) as ring, connect(site, signs=False) as verifier:
        token = ring.sign({"sub": "alice"})
        assert fetched, "at the start"
        fetched.clear()
        assert verifier.verify(token)["sub"] == "alice"
        site.done("revoke", kid_in(token), "--reason", "test")
        eventually(lambda: is_refused(verifier, token) and is_refused(ring, token), within=1.5)
        assert verifier.verify(ring.sign({"sub": "bob"}))["sub"] == "bob"
        site.done("rotate", "--now", "--reason", "a test")
        eventually(lambda: verifier.version == ring.version > 2)
        status = site.status()
        assert len(status["instances"]) == 3
        assert status["leader"]
        assert fetched == [], "what is new came as messages"
    assert "all is well" in site.done("check")
    assert daemon.answers("/readyz")
    assert daemon.stop() < 3


def test_the_primary_dies_and_nobody_is_logged_out(fleet_site: Site, fleet: Fleet) -> None:
    site = fleet_site
    daemon = site.daemon(init=True, **QUICK)
    with connect(site) as ring, connect(site, signs=False) as verifier:
        token = ring.sign({"sub": "alice"})
        former = fleet.primary()
        former.kill()
        died = time.monotonic()
        while time.monotonic() - died < 2:
            assert verifier.verify(token)["sub"] == "alice"
            assert verifier.verify(ring.sign({"sub": "bob"}))["sub"] == "bob"
        assert fleet.primary() is not former
        eventually(daemon.leads, within=20)
        # What happens from now on is heard at once again, by message.
        eventually(lambda: "revoked" in site.run("revoke", kid_in(token), "--reason", "x").stdout)
        eventually(lambda: is_refused(verifier, token) and is_refused(ring, token), within=5)
        eventually(lambda: verifier.verify(ring.sign({"sub": "carol"})), within=5)
        # The former primary comes back as a replica, and disturbs nobody.
        former.start()
        until(lambda: former.info("replication")["role"] == "slave", "it is a replica")
        before = site.status()["version"]
        site.done("rotate", "--now", "--reason", "a test")
        eventually(lambda: verifier.version > before)


async def test_an_asyncio_app_outlives_the_primary(fleet_site: Site, fleet: Fleet) -> None:
    site = fleet_site
    daemon = await asyncio.to_thread(lambda: site.daemon(init=True, **QUICK))
    async with await ringkeeper.asyncio.Keyring.connect(
        site.redis_url,
        trust_root=site.folder / "root.pub.jwk",
        kek=site.folder / "kek.jwk",
    ) as ring:
        token = await ring.sign({"sub": "alice"})
        (await asyncio.to_thread(fleet.primary)).kill()
        await asyncio.to_thread(lambda: eventually(daemon.leads, within=20))
        assert (await ring.verify(token))["sub"] == "alice"
        version = ring.version

        def rotates() -> bool:
            return site.run("rotate", "--now", "--reason", "a test", "--no-wait").returncode == 0

        await asyncio.to_thread(lambda: eventually(rotates, within=20))
        async with asyncio.timeout(10):
            while ring.version <= version:
                await asyncio.sleep(0.02)
        assert await ring.verify(await ring.sign({"sub": "bob"}))


@pytest.fixture
def cluster_of_one(own_server: Callable[..., Server]) -> Callable[..., Server]:
    """Makes Clusters of one node; `port` is where it says that it is, if not where it is."""

    def make(port: int = 0) -> Server:
        options = {"--cluster-enabled": "yes", "--cluster-port": str(free_port())}
        options |= {"--cluster-announce-ip": "127.0.0.1", "--cluster-announce-port": str(port)}
        node = own_server(*(part for option in options.items() for part in option))
        with node.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        return node

    return make


async def test_one_node_that_answers_is_enough_to_find_the_ring(
    cluster_of_one: Callable[..., Server],
) -> None:
    live = cluster_of_one()
    dead = [("127.0.0.1", free_port()) for _ in range(2)]
    finder = SlotFinder([*dead, ("127.0.0.1", live.port)], "key", ASKING)
    # In whatever order they are asked.
    assert {await finder.primary() for _ in range(10)} == {("127.0.0.1", live.port)}


async def test_a_node_that_was_heard_of_is_asked_when_all_in_the_url_are_dead(
    cluster_of_one: Callable[..., Server],
) -> None:
    """A Cluster is rolled over node by node while an app runs on with an old URL."""
    later = cluster_of_one()
    seed = cluster_of_one(later.port)
    finder = SlotFinder([("127.0.0.1", seed.port)], "key", ASKING)
    assert await finder.primary() == ("127.0.0.1", later.port)
    seed.kill()
    assert await finder.primary() == ("127.0.0.1", later.port)
    later.kill()
    with pytest.raises(redis.ConnectionError):
        await finder.primary()
    seed.start()
    assert await finder.primary() == ("127.0.0.1", later.port), "nor is the URL ever forgotten"


async def test_of_many_who_ask_at_once_none_loses_a_sentinel(sentinel_fleet: SentinelFleet) -> None:
    first, *others = sentinel_fleet.sentinels
    client = connection_for(sentinel_fleet.url, key="k")
    try:
        first.kill()
        await asyncio.gather(*(client.ping() for _ in range(4)))
        first.start()
        for other in others:
            other.kill()
        await client.connection_pool.disconnect()
        assert await client.ping(), "the only Sentinel left is asked"
    finally:
        await close(client)


def test_an_app_says_what_is_wrong_with_its_url(fleet_site: Site, fleet: Fleet) -> None:
    site = fleet_site
    site.done("init", config=site.configure().name)
    if site.redis_url.startswith("redis+sentinel"):
        url, told = site.redis_url.replace("/keys", "/nobody"), "No master found.*call the primary"
    else:
        port = next(node.port for node in fleet.nodes if node is not fleet.primary())
        url, told = f"redis://127.0.0.1:{port}", "MOVED.*redis.cluster://"
    with pytest.raises(RingkeeperError, match=told):
        Keyring.connect(url, trust_root=site.folder / "root.pub.jwk", timeout=3)
