"""ACL users: each role can live its whole life with its own, and do nothing besides."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ringkeeper import Keyring
from ringkeeper.clock import SystemClock, from_ms
from ringkeeper.errors import RedisUnavailable, RevokedKid
from ringkeeper.layout import BUCKET, Layout
from ringkeeper.signed import Signed
from ringkeeper.store import Subscribed
from ringkeeper.tokens import kid_in
from ringkeeperd.acl import SENTINEL_RULES, Role, acl_lines, acl_rules, password_hash
from ringkeeperd.doctor import Way
from ringkeeperd.leader_store import (
    Acquired,
    Edition,
    Entry,
    RedisLeaderStore,
    Written,
    untold,
)
from ringkeeperd.redis_facts import facts_of
from tests.plugins.daemons import Site, eventually
from tests.plugins.fleets import Node
from tests.plugins.servers import REDIS7, VALKEY, Server, free_port

RING = "access-token"
KEYS = Layout(RING)
PASSWORD = "correct-horse"
TTL = timedelta(seconds=30)


@pytest.fixture(params=["valkey", "redis7"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, with a user for each role."""
    if request.param == "redis7" and not REDIS7.exists():
        pytest.skip(
            "Redis 7.0 is not installed: run make provision, or apt-get install redis-server"
        )
    server = Server(VALKEY if request.param == "valkey" else REDIS7)
    for role in Role:
        allow(server, role)
    yield server
    server.stop()


def allow(server: Server, role: Role, *, without: str = "", is_cluster: bool = False) -> None:
    """Let `role` do what it may, but for one command."""
    rules = acl_rules(role, [RING], is_cluster=is_cluster, password_hash=password_hash(PASSWORD))
    lacking = [re.sub(rf"\+{re.escape(without)}(?=[ )]|$)", "", rule) for rule in rules]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", role.user, *filter(None, lacking))


def url_of(server: Server, role: Role, scheme: str = "redis") -> str:
    return f"{scheme}://{role.user}:{PASSWORD}@127.0.0.1:{server.port}"


def as_role(server: Server, role: Role) -> redis.Redis:
    return redis.Redis(
        port=server.port, username=role.user, password=PASSWORD, decode_responses=True,
        protocol=2, driver_info=None, retry=Retry(NoBackoff(), 0),
    )  # fmt: skip


def denied(server: Server) -> list[str]:
    """What the server refused to anybody."""
    with server.client() as client:
        entries: Any = client.acl_log()
    return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]


# --- whole lives ---------------------------------------------------------------------------------


def test_every_role_lives_its_whole_life_and_is_denied_nothing(
    guarded: Server, make_site: Callable[[str], Site]
) -> None:
    site = make_site(url_of(guarded, Role.DAEMON))
    daemon = site.daemon(init=True)
    sidecar = site.daemon(lead=False, redis={"url": url_of(guarded, Role.SIDECAR)})
    site.configure(redis={"url": url_of(guarded, Role.OPERATOR)})
    public = site.folder / "root.pub.jwk"
    signer = Keyring.connect(
        url_of(guarded, Role.SIGNER), trust_root=public, kek=site.folder / "kek.jwk"
    )
    verifier = Keyring.connect(url_of(guarded, Role.VERIFIER), trust_root=public)
    with signer, verifier:
        token = signer.sign({"sub": "alice"})
        assert verifier.verify(token)["sub"] == "alice"
        site.done("rotate", "--now", "--reason", "a test", "--no-wait")
        eventually(lambda: len(site.status()["instances"]) == 4)
        assert "all is well" in site.done("check")
        site.done("revoke", kid_in(token), "--reason", "test")
        eventually(lambda: is_refused(verifier, token), within=2)
        site.done("jwks")
        said = site.done("doctor")
        assert f"acl: user '{Role.OPERATOR.user}', who may not look at itself" in said
        # What Redis forgot is put back; whoever knows it is a witness meanwhile.
        with guarded.client() as client:
            client.flushall()
        eventually(lambda: daemon.events("ring healed"), within=20)
        assert sidecar.answers("/readyz")
        site.done("backup", "--out", "b.json")
        # The commands that are apps, where a KEK lies about.
        site.configure(redis={"url": url_of(guarded, Role.SIGNER)})
        token = site.done("token", "sign", "--claims", '{"sub":"alice"}').strip()
        site.configure(redis={"url": url_of(guarded, Role.VERIFIER)})
        assert "alice" in site.done("token", "verify", token)
        site.configure(redis={"url": url_of(guarded, Role.OPERATOR)})
    eventually(lambda: len(site.status()["instances"]) == 2)
    sidecar.stop()
    daemon.stop()
    with guarded.client() as client:
        client.flushall()
    assert "no leader took it up" in site.refused("restore", "b.json", "--answer-within", "0.5")
    # Who may not call the leader is found by it all the same.
    silent = {f"{role.user}: command publish" for role in (Role.SIDECAR, Role.VERIFIER)}
    # What the doctor would like to know and can do without.
    silent |= {f"{Role.OPERATOR.user}: command {c}" for c in ("config|get", "acl|getuser")}
    assert set(denied(guarded)) <= silent


def is_refused(ring: Keyring, token: str) -> bool:
    try:
        ring.verify(token)
    except RevokedKid:
        return True
    return False


# --- what is forbidden ---------------------------------------------------------------------------

ALL = frozenset(Role)
FOLLOWERS = frozenset({Role.SIDECAR, Role.SIGNER, Role.VERIFIER})
OTHER = Layout("other")
FORBIDDEN: dict[str, tuple[frozenset[Role], tuple[str, ...]]] = {
    "another's configuration": (ALL, ("CONFIG", "GET", "requirepass")),
    "the users": (ALL, ("ACL", "LIST")),
    "to empty Redis": (ALL, ("FLUSHALL",)),
    "to look around": (ALL, ("KEYS", "*")),
    "to watch others": (ALL, ("MONITOR",)),
    "to stop Redis": (ALL, ("SHUTDOWN", "NOSAVE")),
    "to follow another Redis": (ALL, ("REPLICAOF", "127.0.0.1", "1")),
    "to list who is connected": (ALL, ("CLIENT", "LIST")),
    "to load code for others": (ALL, ("FUNCTION", "LIST")),
    "to run a script outright": (ALL, ("EVAL", "return 1", "0")),
    "to read another ring": (ALL, ("HMGET", OTHER.keyring, "snapshot")),
    "to write another ring": (ALL, ("HSET", OTHER.instances, "a", "b")),
    "another ring's messages": (ALL, ("SUBSCRIBE", OTHER.published)),
    "to speak to another ring": (ALL, ("PUBLISH", OTHER.published, "")),
    "any other message": (ALL, ("SUBSCRIBE", "news")),
    "all messages": (ALL, ("PSUBSCRIBE", "*")),
    "to load a script": (FOLLOWERS, ("SCRIPT", "LOAD", "return 1")),
    "to run a script": (FOLLOWERS, ("EVALSHA", "0" * 40, "0")),
    "to write the keyring": (ALL - {Role.DAEMON}, ("HSET", KEYS.keyring, "snapshot", "x")),
    "to delete the keyring": (ALL - {Role.DAEMON}, ("DEL", KEYS.keyring)),
    "to write a sealed key": (ALL - {Role.DAEMON}, ("HSET", KEYS.sealed, "kid", "x")),
    "to take the lease": (ALL - {Role.DAEMON}, ("SET", KEYS.lease, "me")),
    "to count epochs": (ALL - {Role.DAEMON}, ("SET", KEYS.epoch, "9")),
    "to write the audit": (ALL - {Role.DAEMON}, ("XADD", KEYS.events, "*", "event", "x")),
    "to trim the audit": (ALL, ("XTRIM", KEYS.events, "MAXLEN", "0")),
    "to read the audit": (FOLLOWERS, ("XREAD", "STREAMS", KEYS.events, "0")),
    "to ask for a change": (FOLLOWERS, ("XADD", KEYS.requests, "*", "request", "x")),
    "to read requests": (ALL - {Role.DAEMON}, ("XREAD", "STREAMS", KEYS.requests, "0")),
    "to see who leads": (FOLLOWERS, ("GET", KEYS.lease)),
    "to see the instances": (FOLLOWERS, ("HMGET", KEYS.instances, "a")),
    "to see all instances": (FOLLOWERS, ("HGETALL", KEYS.instances)),
    "to replace the instances": (FOLLOWERS, ("SET", KEYS.instances, "x")),
    "to delete the witness": (ALL - {Role.DAEMON}, ("DEL", KEYS.witness)),
    "to read sealed keys": (frozenset({Role.VERIFIER}), ("HMGET", KEYS.sealed, "kid")),
    "to read a sealed key": (ALL - {Role.DAEMON}, ("HGET", KEYS.sealed, "kid")),
    "to publish": (
        frozenset({Role.VERIFIER, Role.SIDECAR}),
        ("PUBLISH", KEYS.published, ""),
    ),
    "to read what was counted": (FOLLOWERS, ("HGETALL", KEYS.refreshes(1))),
    "to count refreshes": (
        frozenset({Role.OPERATOR}),
        ("HINCRBY", KEYS.refreshes(0), "0:expired", "1"),
    ),
    "to see what was signed": (FOLLOWERS, ("HGETALL", KEYS.signed(1, 1))),
    "to count tokens": (
        ALL - {Role.DAEMON, Role.SIGNER},
        ("HINCRBY", KEYS.signed(1, 0), "0:kid", "1"),
    ),
    "to count something else": (FOLLOWERS, ("HINCRBY", KEYS.keyring, "version", "1")),
    "to listen": (frozenset({Role.OPERATOR}), ("SUBSCRIBE", KEYS.published)),
    "to hear of sealed keys": (ALL - {Role.DAEMON, Role.SIGNER}, ("SUBSCRIBE", KEYS.sealed)),
}


def test_nobody_may_do_what_is_not_theirs(guarded: Server) -> None:
    for what, (roles, command) in FORBIDDEN.items():
        for role in roles:
            refused = pytest.raises(redis.exceptions.NoPermissionError)
            with as_role(guarded, role) as client, refused:
                assert client.execute_command(*command) is None, f"{role} may {what}"


def test_what_a_script_does_is_held_to_the_same(guarded: Server) -> None:
    """Daemons and operators can load scripts of their own: these do no more than they may."""
    for role in (Role.DAEMON, Role.OPERATOR):
        with as_role(guarded, role) as client:
            for body in ("'FLUSHALL'", f"'HSET', '{OTHER.keyring}', 'a', 1"):
                sha = client.script_load(f"return redis.call({body})")
                with pytest.raises(redis.ResponseError, match=r"can't|ACL failure"):
                    client.evalsha(sha, 0)


def test_a_user_of_one_ring_may_do_nothing_to_another(guarded: Server) -> None:
    rules = acl_rules(Role.VERIFIER, [RING, "more"], password_hash=password_hash(PASSWORD))
    with guarded.client() as admin:
        admin.execute_command("ACL", "SETUSER", Role.VERIFIER.user, *rules)
    with as_role(guarded, Role.VERIFIER) as client:
        for name in (RING, "more"):
            assert client.hmget(Layout(name).keyring, ["snapshot"]) == [None]
        for name in ("mor", "more2", "other"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.hmget(Layout(name).keyring, ["snapshot"])


# --- each command is needed, and missed in plain words -------------------------------------------

EDITION = Edition(
    version=1, epoch=1, snapshot="s", proof="p", put={"kid": "sealed"}, kept=frozenset({"kid"}), events=("e",)
)  # fmt: skip
Life = Callable[[RedisLeaderStore], Awaitable[None]]


async def follows(store: RedisLeaderStore) -> None:
    """All that a follower does."""
    async with store.subscribe() as subscription:
        assert await subscription.next(2) == Subscribed()
        await subscription.ping()
        assert await subscription.next(2)
    await store.read()
    await store.confirm("here", "{}")
    await store.testimony()
    await store.testify("{}", TTL)
    await store.forget("here")


async def follows_and_opens(store: RedisLeaderStore) -> None:
    await follows(store)
    await store.sealed(["kid"])


async def verifies(store: RedisLeaderStore) -> None:
    """An app counts, too, and so does a sidecar for apps."""
    await follows(store)
    await store.count_refreshes({await store.seconds() // BUCKET: {"expired": 1}})


async def tells_for_others(store: RedisLeaderStore) -> None:
    await follows_and_opens(store)
    await verifies(store)


async def signs(store: RedisLeaderStore) -> None:
    await tells_for_others(store)
    await store.count_signed([Signed(1, await store.seconds() + 9, "kid", 1)])


async def leads(store: RedisLeaderStore) -> None:
    """All that a leader does, and what is left behind by others is dealt with."""
    await follows_and_opens(store)
    taken = await store.acquire("me", TTL, 0)
    assert isinstance(taken, Acquired)
    await store.renew("me", TTL)
    fresh = replace(EDITION, epoch=taken.epoch)
    assert await store.publish("me", "", fresh) == Written()
    another = replace(fresh, snapshot="t", put={}, kept=frozenset())
    assert await store.publish("me", "s", another) == Written()
    assert await store.prove("me", 1, "t", "p", {}) == Written(has_witness=True)
    await store.prove("me", 1, "t", "p", {"kid": "blob"})
    await store.heard("me", "{}")
    await store.roll_call("me", TTL)
    assert (await store.roll_call("me", TTL)).is_whole
    async with store.requests() as requests:
        (asked,) = await requests.next()
    assert await store.tell("me", "answer", asked) == Written()
    await store.newest_events(1)
    now = await store.seconds() // BUCKET
    await store.count_refreshes({now: {"expired": 1}})
    assert await store.refreshes(now, now) == {now: {"expired": 1}}
    assert (await store.outstanding(["kid"], TTL)).tokens("kid", from_ms(0)) == 3
    if (await facts_of(store._client, Way.TLS, is_brief=True)).info is None:
        raise RedisUnavailable("info")
    await store.release("me")


async def finds_a_mess(store: RedisLeaderStore) -> None:
    """Whoever may write to Redis left other types where tables belong, and rows of long ago."""
    await store.instances(TTL)
    await store.instances(TTL)


async def finds_an_exhausted_stream(store: RedisLeaderStore) -> None:
    async with store.requests() as requests, asyncio.timeout(1):
        await requests.next()


async def answers(store: RedisLeaderStore) -> None:
    assert isinstance(await store.acquire("me", TTL, 0), Acquired)
    outcome = await store.tell("me", "answer", Entry("1-1", ""))
    await store.release("me")
    if isinstance(outcome, Written) and outcome.untold:
        raise untold(RING, outcome)


async def operates(store: RedisLeaderStore) -> None:
    """All that `ringkeeper check`, `status`, `plan`, `rotate` and `restore` do."""
    await store.read()
    await store.sealed(["kid"])
    await store.owner()
    await store.instances(TTL)
    after = await store.last_event()
    assert (await store.outstanding(["kid"], TTL)).tokens("kid", from_ms(0)) == 3
    entry = await store.ask("request")
    async with store.events("0" if after == "0" else "0-0") as events:
        await events.next()
    await store.withdraw(entry)
    await store.testimony()
    await store.testify("{}", TTL)


def litter(server: Server, *, is_wrong: bool) -> None:
    """A ring's keys as others may leave them; the request and the event that are waited for."""
    with server.client() as client:
        client.flushall()
        client.script_flush()
        client.xadd(KEYS.requests, {"request": "please"})
        client.xadd(KEYS.events, {"event": "told"})
        client.hset(KEYS.instances, mapping={"live": "{}", "gone": "{}"})
        now, _ = client.time()
        client.zadd(KEYS.seen, {"live": now * 1000, "gone": 1})
        client.hset(KEYS.signed(1, now + 20), f"{now + 20}:kid", "3")
        if is_wrong:
            client.delete(KEYS.instances)
            client.set(KEYS.instances, "no hash")


LIVES: dict[Role, Life] = {
    Role.DAEMON: leads,
    Role.SIDECAR: tells_for_others,
    Role.SIGNER: signs,
    Role.VERIFIER: verifies,
    Role.OPERATOR: operates,
}
# What is done without where an ACL has no leave for it.
SILENT = {
    (Role.SIGNER, "publish"),
    (Role.OPERATOR, "publish"),
    (Role.DAEMON, "info"),
    (Role.OPERATOR, "info"),
    (Role.OPERATOR, "acl|whoami"),
}
ELSEWHERE = {
    (Role.DAEMON, "del"): (finds_a_mess, True),
    (Role.OPERATOR, "del"): (finds_a_mess, True),
    (Role.DAEMON, "xadd"): (answers, False),
    (Role.DAEMON, "xinfo|stream"): (finds_an_exhausted_stream, False),
}


def told_without(server: Server, role: Role, command: str) -> str:
    """What `role` is told without `command`; empty if it lives on all the same."""
    life, is_wrong = ELSEWHERE.get((role, command), (LIVES[role], False))

    async def live() -> None:
        store = RedisLeaderStore.connect(url_of(server, role), RING, SystemClock(), password=None)
        async with AsyncExitStack() as leaving:
            leaving.push_async_callback(store.close)
            await life(store)

    allow(server, role, without=command)
    litter(server, is_wrong=is_wrong)
    try:
        asyncio.run(live())
    except RedisUnavailable as error:
        return str(error)
    finally:
        allow(server, role)
    return ""


def commands_of(role: Role) -> list[str]:
    return re.findall(r"\+([a-z|]+)", " ".join(acl_rules(role, [RING])))


@pytest.mark.parametrize("role", Role)
def test_each_command_is_needed_and_its_absence_told_in_one_line(
    role: Role, guarded: Server
) -> None:
    """A command that nobody misses is one too many."""
    assert told_without(guarded, role, "nothing") == ""
    remedy = "widen this user's ACL: docs/redis.md has what each needs"
    unclear: dict[str, str] = {}
    for command in sorted(set(commands_of(role))):
        told = told_without(guarded, role, command)
        is_named = re.search(rf"\b{re.escape(command)}\b[^;\n]*; {re.escape(remedy)}$", told)
        if bool(is_named) == ((role, command) in SILENT):
            unclear[command] = told or "not missed"
        assert not re.search(r"\(['\"]", told), "words, not Python"
    assert unclear == {}


@pytest.mark.parametrize("command", ["hset", "publish"])
def test_a_daemon_that_may_not_publish_says_so_and_loses_nothing(
    command: str, guarded: Server, make_site: Callable[[str], Site]
) -> None:
    """Nor is anything that it could not replace gone: the keys that verify are all still there."""
    site = make_site(url_of(guarded, Role.DAEMON))
    daemon = site.daemon(init=True)
    site.leader()
    site.configure(redis={"url": url_of(guarded, Role.OPERATOR)})
    with guarded.client() as client:
        sealed: Any = client.hgetall(KEYS.sealed)
        before: Any = client.hgetall(KEYS.keyring)
    allow(guarded, Role.DAEMON, without=command)
    site.run("rotate", "--now", "--reason", "a test", "--no-wait", "--answer-within", "2")
    eventually(lambda: "widen this user's ACL" in daemon.log, within=15)
    assert re.search(rf"\b{command}\b[^;]*; widen this user's ACL", daemon.log)
    with guarded.client() as client:
        assert sealed.items() <= client.hgetall(KEYS.sealed).items()
        after: Any = client.hgetall(KEYS.keyring)
    if command == "hset":
        assert after["snapshot"] == before["snapshot"]
    allow(guarded, Role.DAEMON)
    eventually(
        lambda: site.run("rotate", "--now", "--reason", "a test", "--no-wait").returncode == 0,
        within=20,
    )
    with Keyring.connect(
        url_of(guarded, Role.SIGNER),
        trust_root=site.folder / "root.pub.jwk",
        kek=site.folder / "kek.jwk",
    ) as ring:
        assert ring.verify(ring.sign({"sub": "alice"}))["sub"] == "alice"


# --- as files, and elsewhere ---------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(binary: Path, *options: str) -> Server:
        made.append(Server(binary, *options))
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.mark.parametrize("binary", [VALKEY, REDIS7], ids=["valkey", "redis7"])
def test_the_lines_are_taken_by_a_configuration_and_without_comments_by_an_aclfile(
    binary: Path, tmp_path: Path, started: Callable[..., Server]
) -> None:
    if not binary.exists():
        pytest.skip("Redis 7.0 is not installed: run make provision")
    hashes = dict.fromkeys(Role, password_hash(PASSWORD))
    lines = acl_lines([RING, "more"], database=1, hashes=hashes)
    assert all(line.startswith(("# ", "user ringkeeper-")) for line in lines)
    everyone = "user default on nopass ~* &* +@all"
    aclfile = tmp_path / "users.acl"
    users = [line for line in lines if not line.startswith("#")]
    aclfile.write_text("\n".join([everyone, *users, ""]))
    configuration = tmp_path / "users.conf"
    configuration.write_text("\n".join([*lines, ""]))
    for options in (("--aclfile", str(aclfile)), ("--include", str(configuration))):
        server = started(binary, *options)
        for role in Role:
            client = as_role(server, role)
            with client, pytest.raises(redis.exceptions.NoPermissionError):
                client.keys()
            assert client.select(1)


def test_without_a_password_nobody_is_let_in(own_server: Callable[..., Server]) -> None:
    server = own_server()
    lines = acl_lines([RING])
    assert not [line for line in lines if "nopass" in line or "CHANGE" in line]
    assert any("nobody can log in" in line for line in lines)
    with server.client() as admin:
        for line in lines:
            if line.startswith("user "):
                _, user, *rules = line.split()
                admin.execute_command("ACL", "SETUSER", user, *rules)
    for role in Role:
        for password in ("", PASSWORD, "nopass"):
            with server.client() as client, pytest.raises(redis.AuthenticationError):
                client.execute_command("AUTH", role.user, password)


def test_what_makes_no_user_is_refused() -> None:
    with pytest.raises(ValueError, match="name a ring"):
        acl_rules(Role.DAEMON, [])
    with pytest.raises(ValueError, match="64 hex digits"):
        acl_rules(Role.DAEMON, [RING], password_hash=PASSWORD)


async def test_in_a_cluster_messages_go_by_shard(own_server: Callable[..., Server]) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    node = own_server(*options, "--cluster-announce-ip", "127.0.0.1")
    with node.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
    for role in Role:
        allow(node, role, is_cluster=True)
        await asyncio.to_thread(litter, node, is_wrong=False)
        store = RedisLeaderStore.connect(
            url_of(node, role, "redis+cluster"), RING, SystemClock(), password=None
        )
        await LIVES[role](store)
        await store.close()
    quiet = {f"{role.user}: command spublish" for role in (Role.SIDECAR, Role.VERIFIER)}
    assert set(denied(node)) == quiet
    with as_role(node, Role.VERIFIER) as client:
        for command in ("PUBLISH", "SPUBLISH"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(command, KEYS.published, "")


async def test_a_user_at_sentinels_needs_to_ask_for_primaries_alone(
    own_server: Callable[..., Server], tmp_path: Path
) -> None:
    primary = own_server()
    allow(primary, Role.VERIFIER)
    sentinel = Node(tmp_path, is_sentinel=True)
    try:
        sentinel.call("SENTINEL", "MONITOR", "keys", "127.0.0.1", primary.port, 1)
        sentinel.call("ACL", "SETUSER", "asking", "reset", "on", f">{PASSWORD}", *SENTINEL_RULES)
        url = (
            f"redis+sentinel://{Role.VERIFIER.user}:{PASSWORD}@127.0.0.1:{sentinel.port}/keys"
            f"?sentinel_username=asking&sentinel_password={PASSWORD}"
        )
        store = RedisLeaderStore.connect(url, RING, SystemClock(), password=None)
        await follows(store)
        await store.close()
        assert sentinel.call("ACL", "LOG") == []
    finally:
        sentinel.kill()
