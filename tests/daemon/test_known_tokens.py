"""How often apps know a token already: told to the daemons, and shown to Prometheus."""

import asyncio
from typing import Any

import pytest

import ringkeeper.asyncio
from ringkeeper import Keyring, by_joserfc
from ringkeeper.errors import ConfigurationError, InvalidSignature
from tests.plugins.daemons import Site, eventually


def test_how_many_tokens_were_known_is_a_metric(site: Site) -> None:
    daemon = site.daemon(init=True, poll_interval="1s")
    assert daemon.metric("token_cache_hit_ratio") is None, "nobody verifies anything"
    with Keyring.from_config(site.folder / "config.yaml") as ring:
        token = ring.sign({"sub": "alice"})

        def is_told() -> bool:
            for _ in range(200):
                ring.verify(token)
            return (daemon.metric("token_cache_hit_ratio") or 0) > 0.9

        eventually(is_told)
        assert ring.token_cache.misses == 1
        assert ring.token_cache.entries == 1


@pytest.mark.parametrize(("given", "known"), [({}, 9), ({"token_cache": 0}, 0)])
def test_an_app_remembers_as_many_as_its_configuration_says(
    site: Site, given: dict[str, Any], known: int
) -> None:
    site.configure(**given)
    site.done("init")
    daemon = site.daemon(**given)
    assert daemon.answers("/readyz")
    with Keyring.from_config(site.folder / "config.yaml") as ring:
        token = ring.sign({"sub": "alice"})
        assert len([ring.verify(token) for _ in range(10)]) == 10
        assert ring.token_cache[2:] == (known, 10 - known)

    async def awaited() -> None:
        async with await ringkeeper.asyncio.Keyring.from_config(
            site.folder / "config.yaml"
        ) as ring:
            assert len([await ring.verify(token) for _ in range(10)]) == 10
            assert ring.token_cache[2:] == (known, 10 - known)

    asyncio.run(awaited())


def test_joserfc_checks_signatures_where_a_program_says_so(site: Site) -> None:
    site.configure()
    site.done("init")
    site.daemon()
    here = site.folder / "config.yaml"
    with Keyring.from_config(here, verify="joserfc") as ring:
        token = ring.sign({"sub": "alice"})
        assert ring._verifies is by_joserfc.verifies
        assert ring.verify(token)["sub"] == "alice"
        with pytest.raises(InvalidSignature):
            ring.verify(token[:-8] + "AAAAAAAA")
    with pytest.raises(ConfigurationError, match="verify: 'jose' is not offered"):
        Keyring.from_config(here, verify="jose")
    with pytest.raises(ConfigurationError, match="use_dynamic_access_token_signing_key: is True,"):
        Keyring.from_config(here, use_dynamic_access_token_signing_key="false")  # type: ignore[arg-type]
    for size in (-1, 1.5, float("inf"), float("nan"), 10**9, "10", None, True):
        with pytest.raises(ConfigurationError, match="token_cache: "):
            Keyring.connect("redis://h", trust_root=here, token_cache=size)  # type: ignore[arg-type]
