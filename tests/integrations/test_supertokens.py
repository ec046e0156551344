"""SuperTokens' own SDKs take our JWKS for a core's, and our tokens for a core's.

Apps keep a JWKS for 4 hours, as is their default, unless a test says otherwise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

import ringkeeper.testing
from ringkeeper import Keyring
from ringkeeper.algorithms import ALGORITHMS
from ringkeeper.errors import KindMismatch
from tests.integrations.stage import Stage, eventually, go_through, kid_in
from tests.integrations.supertokens import (
    FAILED,
    HELLO,
    NODEJS,
    PYTHON,
    REFRESH,
    SDKS,
    SESSION,
    UNAUTHORISED,
    VERSION,
    App,
    Core,
    core_of,
    issue,
    needs,
)
from tests.plugins.daemons import Site

pytestmark = pytest.mark.integrations

JWKS = "/.well-known/jwks.json"


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    needs(name)
    return name


def test_sessions_outlive_every_change(sdk: str, stage: Stage, shows: Callable[..., None]) -> None:
    """With a cache of a second, for only then does a revocation get through within a test."""
    app = App(stage, sdk, cached=1).wait_until_up()
    ring = stage.keyring()
    go_through(stage, lambda: issue(ring), app.accepts)
    shows(sdk, "verify", "rotate", "revoke", "algorithm")


def test_a_rotation_needs_nothing_of_a_warm_cache(sdk: str, stage: Stage) -> None:
    """The key that signs next was in the JWKS all along; the one after it is asked for once."""
    ring = stage.keyring()
    with core_of(stage) as core:
        app = App(stage, sdk, core.url).wait_until_up()
        assert core.asked == []
        tokens = [issue(ring)]
        assert app.says(tokens[0]) == HELLO
        assert core.asked == [JWKS], "they ask a core for nothing else"
        for times in (1, 2):
            signer = stage.rotate()
            eventually(partial(signs_by, ring, signer))
            tokens.append(issue(ring))
            assert [app.says(token) for token in tokens] == [HELLO] * len(tokens)
            assert core.asked == [JWKS] * times


def signs_by(ring: Keyring, kid: str) -> bool:
    return kid_in(issue(ring)) == kid


def test_a_revoked_key_s_tokens_count_until_the_jwks_is_read_again(sdk: str, stage: Stage) -> None:
    """When 4 hours are over, at a restart, or for any token with a kid that is not known."""
    ring = stage.keyring()
    with core_of(stage) as core:
        app = App(stage, sdk, core.url).wait_until_up()
        leaked = issue(ring)
        assert app.says(leaked) == HELLO
        stage.revoke(kid_in(leaked))
        eventually(lambda: kid_in(issue(ring)) != kid_in(leaked))
        good = issue(ring)
        assert app.says(good) == HELLO, "the standby's key was known"
        assert app.says(leaked) == HELLO, "as long as the JWKS is kept"
        assert core.asked == [JWKS]
        restarted = App(stage, sdk, core.url).wait_until_up()
        assert (restarted.says(good), restarted.says(leaked)) == (HELLO, REFRESH)
        nobody_s = issue_elsewhere()

        def reads_again() -> bool:
            assert app.says(nobody_s) == REFRESH
            return app.says(leaked) == REFRESH

        # Not within half a second of the last time.
        eventually(reads_again)
        assert app.says(good) == HELLO


def issue_elsewhere() -> str:
    """A token of no key here."""
    with ringkeeper.testing.keyring(algorithm="ES256") as other:
        return other.sign(SESSION, header=VERSION)


def test_each_takes_the_tokens_of_its_own_mode_alone(sdk: str, stage: Stage) -> None:
    """And says `try refresh token` of the others; our own client does with `strict_key_kind`."""
    ring = stage.keyring()
    apps = {is_dynamic: App(stage, sdk, is_dynamic=is_dynamic) for is_dynamic in (True, False)}
    for app in apps.values():
        app.wait_until_up()

    def said(token: str) -> dict[bool, str]:
        return {is_dynamic: app.says(token) for is_dynamic, app in apps.items()}

    by_dynamic = issue(ring)
    assert kid_in(by_dynamic).startswith("d-")
    assert said(by_dynamic) == {True: HELLO, False: REFRESH}
    switch_to_static(stage, ring)
    by_static = issue(ring)
    assert said(by_static) == {True: REFRESH, False: HELLO}
    # Theirs is switched by another setting of the app: what was issued before is to be refreshed.
    assert said(by_dynamic) == {True: HELLO, False: REFRESH}
    # Ours logs nobody out, whichever way.
    assert ring.verify(by_dynamic)["sub"] == ring.verify(by_static)["sub"] == "alice"


def switch_to_static(stage: Stage, ring: Keyring) -> None:
    stage.site.done("set", "use_dynamic_access_token_signing_key", "false")
    eventually(lambda: kid_in(issue(ring)).startswith("s-"))


@pytest.mark.long
def test_ours_says_the_same_if_it_is_told_to_and_counts_it(stage: Stage) -> None:
    ring = stage.keyring()
    by_dynamic = issue(ring)
    switch_to_static(stage, ring)
    strict = Keyring.connect(
        stage.site.redis_url, trust_root=stage.folder / "root.pub.jwk", strict_key_kind=True
    )
    with strict:
        assert strict.verify(issue(ring))["sub"] == "alice"
        with pytest.raises(KindMismatch) as refused:
            strict.verify(by_dynamic)
        strict.record_refresh(refused.value.reason)
    counted = partial(stage.daemon.metric, "session_refreshes_total", reason="kind_mismatch")
    eventually(lambda: counted() == 1, within=20)


def test_while_a_dynamic_key_stands_in_an_sdk_in_static_mode_takes_no_token(
    sdk: str, site: Site
) -> None:
    """Nor does a refresh help; but apps whose SDKs are told so take them (docs/supertokens.md)."""
    stage = Stage(site, publication_interval="15m", use_dynamic_access_token_signing_key=False)
    try:
        ring = stage.keyring()
        static = App(stage, sdk, is_dynamic=False).wait_until_up()
        leaked = issue(ring)
        assert static.says(leaked) == HELLO
        stage.revoke(kid_in(leaked))
        eventually(lambda: kid_in(issue(ring)).startswith("d-"))
        assert static.says(issue(ring)) == REFRESH
        dynamic = App(stage, sdk).wait_until_up()
        assert dynamic.says(issue(ring)) == HELLO
    finally:
        stage.close()


def test_a_static_key_made_before_needs_no_such_wait(stage: Stage) -> None:
    """It has been public for long enough when the one that signs is revoked."""
    ring = stage.keyring()
    switch_to_static(stage, ring)
    leaked = kid_in(issue(ring))
    stage.site.done("static", "create")

    def is_ready() -> bool:
        keys = [k for k in stage.site.status()["keys"] if k["kind"] == "static"]
        spare = next(key for key in keys if key["kid"] != leaked)
        return bool(datetime.fromisoformat(spare["ready_at"]) < datetime.now(UTC))

    eventually(is_ready)
    stage.site.done("set", "publication_interval", "15m")
    stage.revoke(leaked)
    eventually(lambda: kid_in(issue(ring)).startswith("s-") and kid_in(issue(ring)) != leaked)


@pytest.fixture(scope="module")
def signed() -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Of each algorithm a token, and the keys that verify it."""
    made = {}
    for algorithm in ALGORITHMS:
        with ringkeeper.testing.keyring(algorithm=algorithm) as ring:
            made[algorithm] = ring.sign(SESSION, header=VERSION), ring.jwks()["keys"]
    return made


def test_every_algorithm_is_taken(
    sdk: str, stage: Stage, signed: dict[str, tuple[str, list[dict[str, Any]]]]
) -> None:
    """Whichever: the token's header names it."""
    document = json.dumps({"keys": [key for _, keys in signed.values() for key in keys]}).encode()
    core = Core(lambda path: document)
    try:
        app = App(stage, sdk, core.url).wait_until_up()
        said = {algorithm: app.says(token) for algorithm, (token, _) in signed.items()}
    finally:
        core.close()
    assert said == dict.fromkeys(ALGORITHMS, HELLO)


def test_another_ring_is_a_core_with_a_path(sdk: str, stage: Stage) -> None:
    """As a connection URI may have one; and it may name several daemons."""
    nobody = "http://127.0.0.1:1"
    ring = f"http://127.0.0.1:{stage.daemon.port}/rings/access-token"
    app = App(stage, sdk, f"{nobody};{ring}").wait_until_up()
    assert app.says(issue(stage.keyring())) == HELLO


def test_without_a_jwks_everybody_is_sent_to_refresh(sdk: str, stage: Stage) -> None:
    """Once the cache has run out and no daemon answers: so name several."""
    ring = stage.keyring()
    with core_of(stage) as core:
        app = App(stage, sdk, core.url, cached=1).wait_until_up()
        assert app.says(issue(ring)) == HELLO
    eventually(lambda: app.says(issue(ring)) == REFRESH)
    assert ring.verify(issue(ring))["sub"] == "alice"


SHAPES: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]] = {
    # what differs: (claims, header, what each SDK says)
    "nothing": ({}, {}, {PYTHON: HELLO, NODEJS: HELLO}),
    "no version": ({}, {"version": ""}, {PYTHON: HELLO, NODEJS: HELLO}),
    "an audience": ({"aud": "api"}, {}, {PYTHON: REFRESH, NODEJS: HELLO}),
    "no rsub": ({"rsub": None}, {}, {PYTHON: UNAUTHORISED, NODEJS: UNAUTHORISED}),
    "no tId": ({"tId": None}, {}, {PYTHON: UNAUTHORISED, NODEJS: HELLO}),
    "no sessionHandle": (
        {"sessionHandle": None}, {}, {PYTHON: UNAUTHORISED, NODEJS: UNAUTHORISED}
    ),
    "no refreshTokenHash1": (
        {"refreshTokenHash1": None}, {}, {PYTHON: UNAUTHORISED, NODEJS: UNAUTHORISED}
    ),
    "what a core would be asked about": (
        {"parentRefreshTokenHash1": "0"}, {}, {PYTHON: FAILED, NODEJS: FAILED}
    ),
}  # fmt: skip


def test_what_an_access_token_has_to_have(sdk: str, stage: Stage) -> None:
    ring = stage.keyring()
    app = App(stage, sdk).wait_until_up()

    def made(claims: dict[str, Any], header: dict[str, str]) -> str:
        whole = {name: value for name, value in {**SESSION, **claims}.items() if value is not None}
        names = {name: value for name, value in {**VERSION, **header}.items() if value}
        return ring.sign(whole, header=names)

    said = {name: app.says(made(claims, header)) for name, (claims, header, _) in SHAPES.items()}
    assert said == {name: expected[sdk] for name, (_, _, expected) in SHAPES.items()}


def test_a_token_is_good_to_the_second_there_and_with_leeway_here(sdk: str, stage: Stage) -> None:
    """The SDKs allow for no difference between two hosts' clocks; `clock_skew` does."""
    ring = stage.keyring()
    app = App(stage, sdk).wait_until_up()
    assert app.says(issue(ring)) == HELLO
    token = ring.sign(SESSION, header=VERSION, lifetime=timedelta(seconds=1))
    eventually(lambda: app.says(token) == REFRESH)
    assert ring.verify(token)["sub"] == "alice"
    ahead = {**SESSION, "iat": int(time.time()) + 3}
    token = ring.sign(ahead, header=VERSION)
    assert app.says(token) == (REFRESH if sdk == PYTHON else HELLO)
    assert ring.verify(token)["sub"] == "alice"


def test_the_example_signs_what_the_sdk_takes(stage: Stage) -> None:
    needs(PYTHON)
    app = App(stage, PYTHON).wait_until_up()
    token = app.login()
    assert app.says(token) == HELLO
    assert kid_in(token).startswith("d-")
    static = App(stage, PYTHON, is_dynamic=False).wait_until_up()
    token = static.login()
    assert static.says(token) == HELLO, "one setting, for what signs and what verifies"
    assert kid_in(token).startswith("s-")
