"""Each command while users come and go: the demo's apps, two daemons, no valid token refused."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import Server

APPS, USERS = 3, 40
ENOUGH = 150
"""Requests after a change: several of each app's, with tokens from before it and after."""
RULES: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 1,
    "access_token_validity": 20,
    "publication_interval": "1s",
    "jwks_max_age": "1s",
    "poll_interval": "1s",
    "confirmation_timeout": "10s",
    "max_staleness": "3m",
    "clock_skew": "1s",
}


class Crowd:
    """The demo's apps at a site, with users who never rest."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.told = [site.folder / f"app{number}.out" for number in range(APPS)]
        self.processes = [self._start(number) for number in range(APPS)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ringkeeperd.demo_app", str(self.site.folder)]
        with self.told[number].open("wb") as out:
            return subprocess.Popen(
                [*command, str(number), str(APPS), str(USERS)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
            )

    def counts(self) -> list[dict[str, Any]]:
        """What each app told last."""
        lines = [path.read_text().splitlines() for path in self.told]
        whole = [[line for line in each if line.endswith("}")] for each in lines]
        return [json.loads(each[-1]) if each else {} for each in whole]

    def total(self, name: str) -> int:
        return sum(each.get(name, 0) for each in self.counts())

    def revoked(self) -> Counter[str]:
        """How many tokens were refused for a revoked key, by the kid that each of them names."""
        return sum((Counter(each.get("revoked_by_kid")) for each in self.counts()), Counter())

    def check(self) -> None:
        """Every app goes on serving its users, and none of them was refused a valid token."""
        before = [each.get("verified", 0) for each in self.counts()]

        def went_on() -> bool:
            counts = self.counts()
            refused = [why for each in counts for why in each.get("rejected", [])]
            assert not refused, refused[:3]
            assert all(process.poll() is None for process in self.processes), self.told
            now = [each.get("verified", 0) for each in counts]
            return all(b - a >= ENOUGH // APPS for a, b in zip(before, now, strict=True))

        eventually(went_on, within=40)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def crowd(make_site: Callable[[str], Site], valkey: Server) -> Iterator[Crowd]:
    site = make_site(valkey.url)
    site.daemon(init=True, **RULES)
    site.daemon(**RULES)
    crowd = Crowd(site)
    try:
        crowd.check()
        yield crowd
    finally:
        crowd.stop()


def keys(site: Site, **wanted: str) -> list[dict[str, Any]]:
    return [k for k in site.status()["keys"] if all(k[name] == v for name, v in wanted.items())]


def confirmed(said: str) -> bool:
    return "confirmed by all 5 live instances" in said


def call_a_drain_off(site: Site) -> None:
    """The wrong key is taken out of use, and signs again."""
    site.done("rotate", "--wait")
    wrong = site.status()["signer"]
    drain = ("--drain", "18s")  # its successor is to be public for a second first
    eventually(lambda: site.run("plan", "--revoke", wrong, *drain).returncode == 0)
    said = site.done("revoke", wrong, *drain, "--reason", "just in case")
    assert f"until then ringkeeper revoke {wrong} --call-off --reason WHY takes that back" in said
    plan = site.done("plan", "--call-off", wrong)
    assert f"ringkeeper revoke {wrong} --call-off --reason WHY" in plan
    said = site.done("revoke", wrong, "--call-off", "--reason", "the wrong key")
    assert f"called off: {wrong} is drained no more, and all of its tokens count again" in said
    assert "to let it sign again: ringkeeper rollback" in said
    assert confirmed(said)
    assert site.refused("revoke", wrong, "--call-off", "--reason", "twice")
    assert f"{wrong} signs now" in site.done("rollback", "--wait")


@pytest.mark.timeout(240)
def test_dynamic_keys_are_turned_turned_back_drained_and_revoked(crowd: Crowd) -> None:
    site = crowd.site
    first = site.status()["signer"]

    said = site.done("rotate", "--wait", "--reason", "test")
    second = site.status()["signer"]
    assert second != first
    assert f"{second} signs now" in said
    assert confirmed(said)
    crowd.check()

    said = site.done("rollback", "--wait", "--reason", "the new key is in the wrong store")
    assert f"{first} signs now" in said
    assert confirmed(said)
    assert site.status()["signer"] == first
    crowd.check()

    site.done("set", "publication_interval", "10m")
    site.done("rotate", "--wait")
    third = site.status()["signer"]
    assert "at the earliest: it has to be public for long enough" in site.done("rotate")
    said = site.done("rotate", "--call-off", "--reason", "not today")
    assert f"called off: {third} signs on until" in said
    assert confirmed(said)
    assert site.status()["signer"] == third
    site.done("set", "publication_interval", "--unset")
    crowd.check()

    site.done("rotate", "--now", "--reason", "a test", "--wait")
    crowd.check()
    assert crowd.total("revoked") == 0

    call_a_drain_off(site)
    crowd.check()

    drained = site.status()["signer"]
    said = site.done("revoke", drained, "--drain", "5s", "--reason", "just in case")
    assert "little by little, all of them in 5s" in said
    assert confirmed(said)
    assert site.status()["signer"] != drained
    eventually(lambda: keys(site, kid=drained, state="revoked"), within=20)
    crowd.check()

    assert crowd.revoked().keys() <= {drained}
    leaked = site.status()["signer"]
    token = site.done("token", "sign", "--claims", '{"sub":"mallory"}')
    said = site.done("revoke", leaked, "--reason", "leaked")
    assert f"{leaked} is revoked: its tokens are refused" in said
    assert confirmed(said)
    assert f"{leaked} was revoked" in site.refused("token", "verify", token)
    eventually(lambda: crowd.revoked()[leaked], within=20)
    crowd.check()
    # Those of the drained one are refused until its last user came; no other's ever are.
    assert crowd.revoked().keys() - {drained} == {leaked}


@pytest.mark.timeout(240)
def test_static_keys_algorithms_and_settings_change(crowd: Crowd, tmp_path: Path) -> None:
    site = crowd.site

    said = site.done("set", "use_dynamic_access_token_signing_key", "false")
    assert confirmed(said)
    first = site.status()["signer"]
    assert first.startswith("s-")
    crowd.check()

    said = site.done("static", "create", "--algorithm", "ES256")
    second = said.splitlines()[1].split()[0]
    assert f"{first} goes on as the static key" in said
    crowd.check()
    eventually(lambda: site.run("static", "retire", first).returncode == 0, within=20)
    assert site.status()["signer"] == second
    crowd.check()

    pem = tmp_path / "key.pem"
    make = ["openssl", "genpkey", "-algorithm", "ED25519", "-out", str(pem)]
    subprocess.run(make, check=True, capture_output=True)
    pem.chmod(0o600)
    third = "s-third"
    site.done("static", "import", str(pem), "--kid", third)
    eventually(lambda: site.run("static", "retire", second).returncode == 0, within=20)
    assert site.status()["signer"] == third
    crowd.check()
    assert "BEGIN PUBLIC KEY" in site.done("static", "public")

    said = site.done("set", "use_dynamic_access_token_signing_key", "--unset")
    assert said.endswith(f"{site.status()['signer']} signs")
    crowd.check()
    assert "next to sign: d-" in site.done("set", "algorithm", "ES384")
    eventually(lambda: keys(site, kind="dynamic", state="published", algorithm="ES384"), within=20)
    site.done("rotate", "--wait")
    crowd.check()

    interval = "access_token_dynamic_signing_key_update_interval"
    site.done("set", interval, "0.003")
    site.done("rotate", "--wait")  # a key that signs keeps its time: the next one has the new one
    by_hand = site.status()["signer"]
    eventually(lambda: site.status()["signer"] != by_hand, within=30)
    crowd.check()
    site.done("set", interval, "--unset")
    assert site.done("set").splitlines() == ["algorithm ES384"]
    assert site.done("set", "algorithm") == "algorithm ES384"
    assert "what files say counts" in site.done("set", interval)
    crowd.check()
    assert crowd.total("revoked") == 0


@pytest.mark.timeout(240)
def test_plans_backups_and_restores_disturb_nobody(crowd: Crowd, valkey: Server) -> None:
    site = crowd.site
    before = site.status()
    (standby,) = keys(site, kind="dynamic", state="published")
    signer, follower = before["signer"], standby["kid"]

    planned = json.loads(site.done("plan", "--rotate", "--now", "--json"))
    assert planned["after"]["next_activation"] == follower
    assert "is revoked" in site.done("plan", "--revoke", signer)
    assert "ES384" in site.done("plan", "--algorithm", "ES384", "--interval", "2")
    (static,) = keys(site, kind="static")
    assert static["kid"] in site.done("static", "list")
    assert site.status()["version"] == before["version"]

    site.done("backup", "--out", "old.json")
    site.done("rotate", "--now", "--reason", "a test", "--wait")
    assert site.status()["signer"] == follower, "as it was planned"
    crowd.check()
    assert "lacks nothing that is in it" in site.done("restore", "old.json")
    assert site.status()["signer"] == follower
    crowd.check()

    site.done("revoke", signer, "--reason", "leaked")
    crowd.check()
    site.done("backup", "--out", "new.json")
    with valkey.client() as client:
        client.flushall()
    crowd.check()
    eventually(lambda: site.run("restore", "new.json").returncode == 0, within=30)
    assert keys(site, kid=signer, state="revoked")
    assert site.status()["signer"] == follower
    crowd.check()
