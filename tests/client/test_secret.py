"""Passwords: shown to nobody who does not ask for them by name."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring
from ringkeeper.configuration import load
from ringkeeper.connection import Connection
from ringkeeper.errors import ConfigurationError, RedisUnavailable
from ringkeeper.redis_url import fleet_of, server_of
from ringkeeper.secret import Secret
from ringkeeper.topology import connection_for, speaking
from ringkeeper.trust import PinnedRoots, TrustRoot
from tests.plugins.servers import Server
from tests.wire.test_sealing import told_by

HUSH = "hush-9f3a"
ROOTS = PinnedRoots.from_jwk(TrustRoot.generate().public_jwk())
URLS = (
    f"redis://:{HUSH}@h",
    f"rediss://u:{HUSH}@h",
    f"unix://:{HUSH}@/run/r.sock",
    f"redis://h?password={HUSH}",
    f"redis+sentinel://u:{HUSH}@a,b/primary?sentinel_password={HUSH}",
    f"redis+cluster://:{HUSH}@a,b",
)


def test_a_secret_is_revealed_to_who_asks_by_name() -> None:
    assert Secret(HUSH).reveal() == HUSH
    assert Secret.of(Secret(HUSH)).reveal() == Secret.of(HUSH).reveal() == HUSH


def test_a_secret_is_printed_by_nothing() -> None:
    secret = Secret(HUSH)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>30}", "%s" % secret]  # noqa: UP031
    shown += [f"{secret:>30}", repr([secret]), repr(vars(Secret)), repr(dir(secret))]
    shown += [repr(getattr(secret, name, "")) for name in dir(secret) if name != "reveal"]
    assert HUSH not in " ".join(shown)
    assert "<secret>" in shown[0]


def test_a_secret_is_copied_as_itself_and_neither_pickled_nor_dumped() -> None:
    secret = Secret(HUSH)
    assert copy.copy(secret) is copy.deepcopy(secret) is secret
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled") as caught:
            pickle.dumps(secret, protocol)
        assert HUSH not in told_by(caught.value)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_secrets_are_compared_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a", "or a text could be tried out in a log"
    assert len({Secret("a"), Secret("a"), Secret("\udcff")}) == 2
    assert Secret("a")
    assert not Secret("")


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_in_nothing_that_a_configuration_or_a_connection_shows(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "pw").write_text(HUSH)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"redis": {"url": url}}))
    configuration = replace(load(file, {}), redis_password=Secret(HUSH))
    connection = Connection.of(url, trust_root=ROOTS, password=HUSH)
    place = fleet_of(Secret(url)) if "+" in url else server_of(Secret(url))
    for value in (configuration, connection, place):
        shown = [repr(value), str(value), f"{value}", repr(asdict(value))]
        shown.append(repr(copy.deepcopy(value)))
        assert HUSH not in " ".join(shown)
        with pytest.raises(TypeError):
            pickle.dumps(value)


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_in_nothing_that_a_client_shows(url: str) -> None:
    client = connection_for(url)
    pool = client.connection_pool
    shown = [repr(client), repr(pool), repr(pool.connection_kwargs), repr(vars(pool))]
    connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
    shown.append(repr(vars(connection)))
    assert HUSH not in " ".join(shown)


def told_of(attempt: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        attempt()
    return told_by(caught.value)


def test_a_url_that_is_refused_is_no_local_of_the_traceback(tmp_path: Path) -> None:
    """Error reporters ship the locals of every frame."""
    file = tmp_path / "config.yaml"
    for wrong in (f"redis://:{HUSH}@h:port", f"redis+sentinel://:{HUSH}@h", f"rediss://{HUSH}?x"):
        assert HUSH not in told_of(lambda url=wrong: connection_for(url))  # type: ignore[misc]
        document = {"redis": {"url": wrong, "password": HUSH}, "name": f"//:{HUSH}@"}
        file.write_text(json.dumps(document))
        assert HUSH not in told_of(lambda: load(file, {}))
        assert HUSH not in told_of(
            lambda url=wrong: Keyring.connect(url, trust_root=ROOTS, password=HUSH)  # type: ignore[misc]
        )


async def test_a_url_that_an_asyncio_app_gives_is_no_local_either() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await ringkeeper.asyncio.Keyring.connect(
            f"redis://:{HUSH}@h:port", trust_root=ROOTS, password=HUSH
        )
    assert HUSH not in told_by(caught.value)


async def test_a_password_that_redis_refuses_is_no_local_of_the_traceback(
    own_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    """redis-py's own frames hold it while it logs in."""
    server = own_server("--requirepass", "another")
    client = connection_for(server.tcp_url, password=HUSH)
    refused = pytest.raises(RedisUnavailable, match="check the user and password")
    with refused as caught, speaking("redis", "asking"):
        await client.ping()
    await client.aclose()
    assert HUSH not in told_by(caught.value)
    client = connection_for(server.tcp_url, password=Secret("another"))
    assert await client.ping()
    await client.aclose()
    assert not caplog.records, "nor has redis-py a word to say of how it came by it"
