"""What docs/wire-format.md shows is done by somebody who has it and a client for Redis, no more."""

import json
import re
import shutil
from datetime import timedelta

import pytest

from ringkeeper.layout import DEFAULT_NAME, Layout
from ringkeeper.policy import Policy
from tests.docs.pages import ROOT
from tests.docs.test_docs import WIRE, blocks
from tests.plugins.daemons import Site, eventually
from tests.plugins.servers import Server

CONFIRM, COUNT, BEAR_WITNESS = blocks(WIRE, "redis")
KEYS = Layout(DEFAULT_NAME)


def say(server: Server, line: str, **values: object) -> None:
    """Give Redis this command, with `values` where the page has words in capitals."""
    line = re.sub(r"(?<=\{)NAME(?=\})", DEFAULT_NAME, line)
    line = re.sub(r"\b[A-Z_]+\b", lambda word: str(values.get(word[0], word[0])), line)
    with server.client() as client:
        client.execute_command(*line.split(" "))


@pytest.mark.runs("docs/wire-format.md", 1)
def test_who_confirms_as_shown_is_waited_for_no_longer(site: Site, valkey: Server) -> None:
    daemon = site.daemon(init=True, poll_interval="30s")  # heard of for a minute and a half
    told = eventually(lambda: site.status() if daemon.leads() else None)
    with valkey.client() as client:
        seconds, _ = client.time()
    for version in (0, told["version"]):
        for line in CONFIRM.splitlines():
            shown = '"epoch":1,"version":1'
            assert (shown in line) == line.startswith("HSET ")
            say(
                valkey,
                line.replace(shown, f'"epoch":{told["epoch"]},"version":{version}'),
                REDIS_TIME_IN_MS=seconds * 1000,
                ID="other-1",
            )
        (seen,) = [each for each in site.status()["instances"] if each["id"] == "other-1"]
        assert (seen["role"], seen["version"]) == ("verify", version)
        assert seen["behind"] == (version == 0)
        assert site.status()["awaiting"] == (["other-1"] if version == 0 else [])


@pytest.mark.runs("docs/wire-format.md", 2)
def test_tokens_that_are_counted_as_shown_are_known_of_their_key(
    site: Site, valkey: Server
) -> None:
    site.daemon(init=True, access_token_validity=3600)
    kid = site.status()["signer"]
    with valkey.client() as client:
        seconds, _ = client.time()
    expires = (seconds // 60 + 60) * 60
    count, expire = COUNT.splitlines()
    *words, until = re.split(r" (?=\()", expire)
    stretch = expires // (60 * 60)
    say(valkey, count, N=stretch, EXP=expires, KID=kid)
    until = str(eval(until, {"N": stretch}))  # noqa: S307 - a sum on a page of ours
    say(valkey, f"{words[0]} {until}", N=stretch)
    keys = json.loads(site.done("plan", "--json"))["before"]["keys"]
    assert [key["outstanding"] for key in keys if key["kid"] == kid] == [12]
    with valkey.client() as client:
        (counted,) = client.keys(KEYS.key("signed:60:*"))
        assert client.expiretime(counted) == (stretch + 1) * 3600 > expires


@pytest.mark.runs("docs/wire-format.md", 3)
def test_who_bears_witness_as_shown_brings_the_ring_back(site: Site, valkey: Server) -> None:
    """Redis was emptied, and the daemon that starts now knows nothing."""
    site.daemon(init=True).kill()
    version = site.status()["version"]
    with valkey.client() as client:
        snapshot, proof = client.hmget(KEYS.keyring, "snapshot", "proof")
        held = {"snapshot": snapshot, "proof": proof, "sealed": client.hgetall(KEYS.sealed)}
        client.flushall()
    shutil.rmtree(site.folder / "state0")
    daemon = site.daemon(is_ready=False)
    eventually(lambda: daemon.events("cannot lead"))
    tell, announce = BEAR_WITNESS.splitlines()
    (shown,) = re.findall(r"\{\".*\}", tell)
    assert json.loads(shown).keys() == held.keys()
    say(valkey, tell.replace(shown, json.dumps(held, separators=(",", ":"))))
    say(valkey, announce)
    eventually(daemon.leads)
    assert site.status()["version"] == version + 1
    with valkey.client() as client:
        assert client.hgetall(KEYS.sealed) == held["sealed"]


@pytest.mark.runs("docs/wire-format.md", 4)
def test_a_backup_has_the_shape_that_is_shown(site: Site) -> None:
    site.daemon(init=True, keyrings={"more": None}).kill()
    path = site.folder / "a.backup"
    site.done("backup", "--out", str(path))
    text = re.sub(r'("sealed":\{)[^}]*\}', r'\1"KID":"…"}', path.read_text())
    text = re.sub(r'(?<="backup":)"[^"]*"', '"JWS"', text)
    text = re.sub(r'("proof":|"snapshot":)"[^"]*"', r'\1"…"', text)
    assert text == blocks(WIRE, "json")[0]


@pytest.mark.runs("docs/lifecycle.md", "text")
def test_the_retire_interval_is_the_sum_that_is_shown() -> None:
    (shown,) = blocks((ROOT / "docs/lifecycle.md").read_text(), "text")
    policy = Policy.derive()
    names, total = (part.strip() for part in shown.split("+")), timedelta()
    for name in names:
        times, _, last = name.rpartition(" ")
        total += int(times[:-2] or 1) * getattr(policy, last)
    assert total == policy.retire_interval
