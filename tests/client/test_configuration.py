"""The configuration: what is read, what is derived, and what is refused, all at once."""

import io
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ringkeeper.configuration import (
    SETTINGS,
    Configuration,
    as_markdown,
    difference,
    load,
    parse,
)
from ringkeeper.errors import ConfigurationError, SecretError
from ringkeeper.kek_variable import KekVariable, kek_from
from ringkeeper.policy import Policy
from ringkeeper.redis_url import fleet_of, shown
from ringkeeper.sealing import Kek
from ringkeeper.secret import Secret
from ringkeeper.topology import connection_for
from tests.plugins.examples import examples
from tests.wire.test_sealing import told_by

ROOT = Path(__file__).parents[2]
BASE = Path("/srv/ring")
REDIS = {"redis": {"url": "redis://redis:6379/0"}}
SECRET = "hunter2"
HOURS = "access_token_dynamic_signing_key_update_interval"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def parsed(
    document: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Configuration:
    return parse(REDIS | dict(document or {}), environ or {}, base=BASE)


def problems_of(document: object, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        parse(document, environ or {}, base=BASE)
    return caught.value.problems


def problems_with(
    document: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    return problems_of(REDIS | dict(document or {}), environ)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems_in(tmp_path: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, text), {})
    return caught.value.problems


# --- what is read --------------------------------------------------------------------------------


def test_the_shipped_file_runs_on_the_embedded_server_beside_it() -> None:
    configuration = load(ROOT / "config.yaml", {})
    assert configuration.embedded == ROOT / "var"
    assert configuration.trust_root == ROOT / "var/root.jwk"
    assert configuration.trust_root_public == ROOT / "var/root.pub.jwk"
    assert configuration.kek == ROOT / "var/kek.jwk"
    assert configuration.path == ROOT / "config.yaml"


def test_the_shipped_file_says_the_defaults() -> None:
    """Nobody who deletes a line of it should see another behaviour."""
    (ring,) = load(ROOT / "config.yaml", {}).rings
    assert ring.name == "access-token"
    assert ring.policy == Policy.derive()


def test_the_shipped_file_shows_every_key_and_its_comments_are_settings(tmp_path: Path) -> None:
    text = (ROOT / "config.yaml").read_text()
    shown = re.sub(r"^( *)# (?=( *)[a-z_-]+:(?: |$))", r"\1", text, flags=re.MULTILINE)
    shown = shown.replace("password_file: /etc", "# password_file: /etc")  # not with embedded:
    shown = re.sub(
        r"^(    )(\w+_file: /etc/ringkeeper/redis)", r"\1# \2", shown, flags=re.MULTILINE
    )
    configuration = load(written(tmp_path, shown), {})
    assert [ring.name for ring in configuration.rings] == ["access-token", "refresh-token"]
    assert configuration.issuer == "https://auth.example.com"
    assert configuration.kek == Path("/etc/ringkeeper/kek.jwk")
    assert configuration.rings[0].policy == Policy.derive()
    for setting in SETTINGS:
        assert re.search(rf"^[ #]*{setting.key.rpartition('.')[2]}:", text, re.MULTILINE), setting


def test_defaults_of_the_daemon() -> None:
    configuration = parsed()
    assert configuration.listen == ("127.0.0.1", 9465)
    assert configuration.lease_ttl == 10 * SECOND
    assert configuration.lead is True
    assert (configuration.issuer, configuration.log_level, configuration.log_format) == (
        "",
        "info",
        "auto",
    )
    assert configuration.kek == Path("/etc/ringkeeper/kek.jwk")
    assert configuration.trust_root == Path("/etc/ringkeeper/root.jwk")
    assert configuration.trust_root_public == Path("/etc/ringkeeper/root.pub.jwk")


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.policy], ids=lambda s: s.key)
def test_the_defaults_in_the_table_are_those_that_the_policy_derives(setting: Any) -> None:
    value = setting.kind.read(setting.kind.of_text(setting.default))
    assert value == getattr(Policy.derive(), setting.policy)


def test_every_setting_of_a_policy_is_in_the_table() -> None:
    assert {s.policy for s in SETTINGS if s.policy} == set(Policy.__dataclass_fields__)


EVERYTHING: dict[str, tuple[object, str, str, object]] = {
    # key: (in the file, in the environment, where it lands, value)
    HOURS: (0.5, "0.5", "policy.cryptoperiod", 30 * MINUTE),
    "access_token_validity": (90, "90", "policy.access_token_validity", 90 * SECOND),
    "use_dynamic_access_token_signing_key": (False, "false", "policy.use_dynamic", False),
    "rsa_key_size": (3072, "3072", "policy.rsa_key_size", 3072),
    "redis.url": (
        "rediss://:pw@r:1/2",
        "rediss://:pw@r:1/2",
        "redis_url",
        Secret("rediss://:pw@r:1/2"),
    ),
    "redis.password_file": ("pw", "pw", "redis_password_file", BASE / "pw"),
    "refreshes_token_file": ("token", "token", "refreshes_token_file", BASE / "token"),
    "redis.tls.ca_file": ("ca", "ca", "redis_tls_ca_file", BASE / "ca"),
    "redis.tls.cert_file": ("/c", "/c", "redis_tls_cert_file", Path("/c")),
    "redis.tls.key_file": ("k", "k", "redis_tls_key_file", BASE / "k"),
    "name": ("id", "id", "name", "id"),
    "algorithm": ("ES256", "ES256", "policy.algorithm", "ES256"),
    "publication_interval": ("1h", "1h", "policy.publication_interval", HOUR),
    "max_staleness": ("2h", "2h", "policy.max_staleness", 2 * HOUR),
    "max_verify_staleness": ("7d", "7d", "policy.max_verify_staleness", timedelta(days=7)),
    "clock_skew": ("1s", "1s", "policy.clock_skew", timedelta(seconds=1)),
    "confirmation_timeout": ("1h30m", "1h30m", "policy.confirmation_timeout", 90 * MINUTE),
    "jwks_max_age": ("15m", "15m", "policy.jwks_max_age", 15 * MINUTE),
    "poll_interval": ("500ms", "500ms", "policy.poll_interval", SECOND / 2),
    "lead": (False, "off", "lead", False),
    "lease_ttl": ("2s", "2s", "lease_ttl", 2 * SECOND),
    "trust_root": ("a.jwk", "a.jwk", "trust_root", BASE / "a.jwk"),
    "trust_root_public": ("/p.jwk", "/p.jwk", "trust_root_public", Path("/p.jwk")),
    "kek": ("k/k.jwk", "k/k.jwk", "kek", BASE / "k/k.jwk"),
    "state_dir": ("state", "state", "state_dir", BASE / "state"),
    "cache_dir": ("/c", "/c", "cache_dir", Path("/c")),
    "token_cache": (5, "5", "token_cache", 5),
    "listen": ("[::]:0", "[::]:0", "listen", ("::", 0)),
    "issuer": ("https://x.org/a", "https://x.org/a", "issuer", "https://x.org/a"),
    "files.directory": ("f", "f", "files_directory", BASE / "f"),
    "files.signing_key": (True, "true", "files_signing_key", True),
    "files.group": ("myapp", "myapp", "files_group", "myapp"),
    "files.signing_key_on_disk": (True, "on", "files_signing_key_on_disk", True),
    "on_change.command": (
        ["reload", "a b"],
        "reload 'a b'",
        "on_change_command",
        ("reload", "a b"),
    ),
    "on_change.pid_file": ("pid", "pid", "on_change_pid_file", BASE / "pid"),
    "on_change.signal": ("USR1", "USR1", "on_change_signal", "USR1"),
    "on_change.url": ("http://h/x", "http://h/x", "on_change_url", Secret("http://h/x")),
    "on_change.timeout": ("3s", "3s", "on_change_timeout", 3 * SECOND),
    "log.level": ("debug", "debug", "log_level", "debug"),
    "log.format": ("json", "json", "log_format", "json"),
}


OVER_TLS = {"RINGKEEPER_REDIS__URL": "rediss://h"}
NEEDS = {
    "redis.tls.ca_file": OVER_TLS,
    "redis.tls.cert_file": OVER_TLS | {"RINGKEEPER_REDIS__TLS__KEY_FILE": "other"},
    "files.signing_key": {"RINGKEEPER_FILES__DIRECTORY": "f"},
    "redis.tls.key_file": OVER_TLS | {"RINGKEEPER_REDIS__TLS__CERT_FILE": "other"},
}
"""What else must be given."""


def landed(configuration: Configuration, where: str) -> object:
    owner: object = configuration
    if where.startswith("policy."):
        owner = configuration.rings[0].policy
    elif where == "name":
        owner = configuration.rings[0]
    return getattr(owner, where.removeprefix("policy."))


def test_the_table_below_knows_every_setting() -> None:
    assert set(EVERYTHING) == {setting.key for setting in SETTINGS}


@pytest.mark.parametrize("key", EVERYTHING)
def test_a_setting_in_the_file_lands_where_it_belongs(key: str) -> None:
    in_file, _, where, value = EVERYTHING[key]
    assert landed(parsed(), where) != value
    document: Any = in_file
    for name in reversed(key.split(".")):
        document = {name: document}
    if "redis" in document:
        document = {"redis": REDIS["redis"] | document["redis"]}
    assert landed(parsed(document, NEEDS.get(key, {})), where) == value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.key)
def test_the_environment_overrides_the_file(setting: Any) -> None:
    _, text, where, value = EVERYTHING[setting.key]
    environ = NEEDS.get(setting.key, {}) | {setting.variable: text}
    assert landed(parsed(environ=environ), where) == value


def test_variables_are_named_as_documented() -> None:
    names = {setting.key: setting.variable for setting in SETTINGS}
    assert names[HOURS] == HOURS.upper()
    assert names["access_token_validity"] == "ACCESS_TOKEN_VALIDITY"
    assert names["use_dynamic_access_token_signing_key"] == "USE_DYNAMIC_ACCESS_TOKEN_SIGNING_KEY"
    assert names["redis.url"] == "RINGKEEPER_REDIS__URL"
    assert names["log.level"] == "RINGKEEPER_LOG__LEVEL"
    assert names["publication_interval"] == "RINGKEEPER_PUBLICATION_INTERVAL"


def test_without_a_file_the_environment_is_enough() -> None:
    configuration = load(None, {"RINGKEEPER_REDIS__URL": "redis://h", "RINGKEEPER_KEK": "kek"})
    assert configuration.redis_url.reveal() == "redis://h"
    assert configuration.kek == Path.cwd() / "kek"
    assert configuration.path is None


def test_without_a_file_the_url_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.url: is missing; write redis://"):
        load(None, {})


@pytest.mark.parametrize(
    "variable",
    [
        "RINGKEEPER_CONFIG=/x",
        "RINGKEEPER_SKIPS_FAIL=1",
        "RINGKEEPER_TEST_REDIS=x",
        "RINGKEEPER_SERVICE_HOST=10.0.0.1",
        "RINGKEEPER_SERVICE_PORT=9465",
        "RINGKEEPER_SERVICE_PORT_HTTP=9465",
        "RINGKEEPER_PORT=tcp://10.0.0.1:9465",
        "RINGKEEPER_PORT_9465_TCP=tcp://10.0.0.1:9465",
        "RINGKEEPER_PORT_9465_TCP_ADDR=10.0.0.1",
        "RINGKEEPER_METRICS_SERVICE_HOST=10.0.0.1",
        "RINGKEEPER_METRICS_PORT_80_TCP_PROTO=tcp",
        "PATH=/bin",
    ],
)
def test_variables_of_tools_and_of_kubernetes_services_are_let_through(variable: str) -> None:
    name, _, value = variable.partition("=")
    assert parsed(environ={name: value}) == parsed()


@pytest.mark.parametrize(
    "variable",
    [
        "RINGKEEPER_CONFIGS=/x",
        "RINGKEEPER_PORT=9465",
        "RINGKEEPER_REDIS_PORT=6379",
        "RINGKEEPER_MAX_STALENES=1h",
    ],
)
def test_other_variables_of_ours_are_refused(variable: str) -> None:
    name, _, value = variable.partition("=")
    (problem,) = problems_with(environ={name: value})
    assert problem.startswith(f"{name}: no such setting")


def test_the_interval_may_be_a_fraction_and_is_whole_milliseconds() -> None:
    assert parsed({HOURS: 1 / 3}).rings[0].policy.cryptoperiod == timedelta(milliseconds=1_200_000)
    third = parsed({HOURS: 100 / 7}).rings[0].policy.cryptoperiod
    assert third == timedelta(milliseconds=round(100 / 7 * 3_600_000))


def test_a_key_with_nothing_behind_it_is_left_out() -> None:
    document = dict.fromkeys(("issuer", "name", "max_staleness", "log", "keyrings"))
    assert parsed(document) == parsed()


@pytest.mark.parametrize("value", [False, "off"], ids=["bare", "quoted"])
def test_a_ring_may_turn_off_what_it_inherits(value: object) -> None:
    keyrings = {"other": {"max_verify_staleness": value}}
    rings = parsed({"max_verify_staleness": "7d", "keyrings": keyrings}).rings
    assert [ring.policy.max_verify_staleness for ring in rings] == [timedelta(days=7), None]


def test_further_rings_inherit_the_policy_with_what_the_environment_says() -> None:
    keyrings = {"refresh": {"access_token_validity": 7200, "algorithm": "ES256"}, "same": None}
    configuration = parsed({"max_staleness": "6h", "keyrings": keyrings}, {HOURS.upper(): "24"})
    top = configuration.ring("").policy
    assert [ring.name for ring in configuration.rings] == ["access-token", "refresh", "same"]
    assert (top.cryptoperiod, top.max_staleness) == (24 * HOUR, 6 * HOUR)
    changed = replace(top, access_token_validity=2 * HOUR, algorithm="ES256")
    assert configuration.ring("refresh").policy == changed
    assert configuration.ring("same").policy == top


def test_what_a_ring_does_not_inherit_is_derived_anew_from_its_own_interval() -> None:
    document = {"keyrings": {"fast": {HOURS: 4, "access_token_validity": 60}}}
    fast = parsed(document).ring("fast").policy
    assert (fast.publication_interval, fast.max_staleness) == (HOUR, 4 * HOUR)


def test_an_unknown_ring_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="ring 'x' is not configured; use one of access-t"):
        parsed().ring("x")


def test_an_issuer_is_kept_to_the_letter() -> None:
    """Tokens are compared with it (OpenID Connect Core section 3.1.3.7), its slash included."""
    assert parsed({"issuer": "https://x.org/"}).issuer == "https://x.org/"


def test_a_daemon_keeps_its_rings_where_it_may_write() -> None:
    assert parsed().state_dir == Path("/var/lib/ringkeeper")
    assert parsed({"redis": {"url": "embedded:./x"}}).state_dir == BASE / "x"
    environ = {"STATE_DIRECTORY": "/var/lib/private/rk:/var/lib/private/other"}
    assert parsed({}, environ).state_dir == Path("/var/lib/private/rk")
    assert parsed({"state_dir": "mine"}, environ).state_dir == BASE / "mine"


# --- secrets -------------------------------------------------------------------------------------


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    """And stay so when the process changes its directory."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "config.yaml").write_text("redis: {url: 'embedded:./var'}\nkek: keys/kek.jwk\n")
    monkeypatch.chdir(tmp_path)
    configuration = load(Path("etc/config.yaml"), {})
    assert configuration.kek == folder / "keys/kek.jwk"
    assert configuration.embedded == folder / "var"
    assert configuration.redis_url.reveal() == f"embedded:{folder / 'var'}"
    assert configuration.trust_root == folder / "var/root.jwk"


def test_a_credential_of_systemd_is_preferred_where_there_is_one(tmp_path: Path) -> None:
    handed, file = tmp_path / "credentials", written(tmp_path, "redis: {url: 'redis://h'}")
    handed.mkdir()
    (handed / "kek.jwk").write_text("{}")
    (handed / "root.jwk").write_text("\n")  # a blank one says that there is none
    environ = {"CREDENTIALS_DIRECTORY": str(handed)}
    configuration = load(file, environ)
    assert configuration.kek == handed / "kek.jwk"
    assert configuration.trust_root == Path("/etc/ringkeeper/root.jwk")
    assert load(file, environ | {"RINGKEEPER_KEK": "/my.jwk"}).kek == Path("/my.jwk")


def test_a_credential_of_its_name_is_read_instead_of_a_file_that_only_root_may_read(
    tmp_path: Path,
) -> None:
    """So that the daemon and the commands of root have one configuration."""
    handed = tmp_path / "credentials"
    handed.mkdir()
    for name in ("redis.password", "client.key", "refreshes.token"):
        (handed / name).write_text(SECRET)
    text = """
        redis:
          url: rediss://h
          password_file: /etc/ringkeeper/redis.password
          tls: {cert_file: /etc/c.crt, key_file: /etc/ringkeeper/client.key}
        refreshes_token_file: /etc/ringkeeper/refreshes.token
    """
    configuration = load(written(tmp_path, text), {"CREDENTIALS_DIRECTORY": str(handed)})
    assert configuration.redis_password == Secret(SECRET)
    assert configuration.redis_tls_key_file == handed / "client.key"
    assert configuration.refreshes_token_file == handed / "refreshes.token"
    assert configuration.redis_tls_cert_file == Path("/etc/c.crt")
    (handed / "redis.password").write_text("\n")  # a blank one says that there is none
    with pytest.raises(ConfigurationError, match=r"/etc/ringkeeper/redis\.password"):
        load(written(tmp_path, text), {"CREDENTIALS_DIRECTORY": str(handed)})


def test_a_kek_may_stand_in_a_variable_of_any_name(tmp_path: Path) -> None:
    kek = Kek.generate()
    jwk = json.dumps(kek.secret_jwk())
    file = written(tmp_path, "redis: {url: 'redis://h'}\nkek: env:THE_KEK")
    by_file = load(file, {"THE_KEK": jwk})
    told = {"RINGKEEPER_KEK": "env:RINGKEEPER_KEK_JWK", "RINGKEEPER_KEK_JWK": jwk}
    by_variable = load(file, told)
    for configuration in (by_file, by_variable):
        assert configuration.is_kek_named
        assert isinstance(configuration.kek, KekVariable)
        assert kek_from(configuration.kek).kid == kek.kid
        assert kek.secret_jwk()["k"] not in repr(configuration)
    assert str(by_variable.kek) == "env:RINGKEEPER_KEK_JWK"
    both = json.dumps({"keys": [kek.secret_jwk(), Kek.generate().secret_jwk()]})
    assert kek_from(load(file, {"THE_KEK": both}).kek).kid == kek.kid


@pytest.mark.parametrize(
    ("told", "environ", "why"),
    [
        ("env:THE_KEK", {}, "kek: env:THE_KEK: that variable is not set; set it to what kek.jwk"),
        ("env:THE_KEK", {"THE_KEK": ""}, "kek: env:THE_KEK: that variable is not set"),
        ("env:", {}, "kek: 'env:' names no environment variable; write e.g. env:KEK_JWK"),
        ("env:A B", {}, "kek: 'env:A B' names no environment variable"),
    ],
)
def test_a_variable_that_cannot_hold_a_kek_is_named(
    told: str, environ: dict[str, str], why: str
) -> None:
    (problem,) = problems_with({"redis": {"url": "redis://h"}, "kek": told}, environ)
    assert problem.startswith(why)


@pytest.mark.parametrize("text", [SECRET, f'["{SECRET}"]', f'{{"kty": "oct", "k": "{SECRET}"}}'])
def test_what_is_no_kek_in_a_variable_is_shown_nowhere(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, "redis: {url: 'redis://h'}\nkek: env:THE_KEK")
    configuration = load(file, {"THE_KEK": text})
    with pytest.raises(SecretError, match=r"^env:THE_KEK: ") as caught:
        kek_from(configuration.kek)
    assert SECRET not in told_by(caught.value)


def test_the_variable_of_the_kek_alone_may_have_our_prefix() -> None:
    environ = {"RINGKEEPER_KEK": "env:RINGKEEPER_MINE", "RINGKEEPER_MINE": "{}"}
    (problem,) = problems_with({"redis": {"url": "redis://h"}}, environ | {"RINGKEEPER_KEX": ""})
    assert problem.startswith("RINGKEEPER_KEX: no such setting in the environment")


def test_a_password_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f" {SECRET}\n")
    text = "redis: {url: 'redis://user@h', password_file: pw}"
    configuration = load(written(tmp_path, text), {})
    assert configuration.redis_password == Secret(f" {SECRET}")
    assert SECRET not in repr(configuration)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no such file"), (b"\xff\xfe", "not UTF-8"), (b"\n", "is empty")],
    ids=["missing", "binary", "empty"],
)
def test_a_password_file_that_cannot_serve_is_refused(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "pw").write_bytes(content)
    text = "redis: {url: 'redis://h', password_file: pw}"
    (problem,) = problems_in(tmp_path, text)
    assert problem.startswith("redis.password_file: ")
    assert why.lower() in problem.lower()


@pytest.mark.parametrize("url", [f"redis://:{SECRET}@h", f"redis://h?password={SECRET}"])
def test_a_password_is_in_no_repr(url: str) -> None:
    configuration = parsed({"redis": {"url": url}})
    for text in (repr(configuration), str(configuration), configuration.redis_shown):
        assert SECRET not in text


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{SECRET}@h",
        SECRET,
        f"redis://:{SECRET}@h:port",
        f"redis://h:{SECRET}",
        f"redis://:{SECRET}/x@h",
        f"redis://:#{SECRET}@h",
        f"redis://:{SECRET}\u2100@h",  # urlsplit quotes the whole of it for this
        f"redis://[{SECRET}@h",
        f"redis+sentinel://:{SECRET}@h",
        f"redis://h/0?{SECRET}",
        f"redis://h/0?db={SECRET}",
        f"redis://h/0?{SECRET}=1",
        f"redis://:{SECRET}\n@h",
        f"rediss//:{SECRET}@h",
        f"redis://:a/{SECRET}@h",
        f"redis:{SECRET}@h",
        f"redis://h?password=a&{SECRET}",
        f"redis+cluster://a?password=a@{SECRET}",
    ],
)
def test_a_password_is_in_no_error(url: str) -> None:
    """Of the configuration or of an app that was given the URL; nor in what a log shows of it."""
    (problem,) = problems_with({"redis": {"url": url}})
    with pytest.raises(ConfigurationError) as caught:
        connection_for(url)
    for told in (problem, str(caught.value)):
        assert told.startswith("redis.url: ")
        assert SECRET not in told
    assert SECRET not in shown(Secret(url))


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        (f"redis://h:1/2?password=a@{SECRET}", "redis://h:1/2"),
        (f"rediss://user:{SECRET}@[::1]:7", "rediss://[::1]:7"),
        (f"unix://:{SECRET}@/run/r.sock?db=1", "unix:///run/r.sock"),
        (f"unix:///run/r.sock?password=a@{SECRET}", "unix:///run/r.sock"),
        (f"unix:///u:{SECRET}@/run/r.sock", "unix://…@/run/r.sock"),
        (
            f"redis+sentinel://u:{SECRET}@a,[::1]:7/primary/3?sentinel_password=x@{SECRET}",
            "redis+sentinel://a:26379,[::1]:7/primary",
        ),
        ("redis+cluster://user:pw@a:1,b", "redis+cluster://a:1,b:6379"),
        ("embedded:./var", "embedded:./var"),
    ],
)
def test_of_a_url_it_is_shown_where_it_leads(url: str, seen: str) -> None:
    assert shown(Secret(url)) == seen


@pytest.mark.parametrize(
    "url", [f"redis://:{SECRET}@h", f"redis://h?password={SECRET}", f"redis+cluster://u:{SECRET}@h"]
)
def test_a_program_that_gives_two_passwords_is_told(url: str) -> None:
    """Of two, one would be left out without a word: which one hung on the kind of URL."""
    with pytest.raises(ConfigurationError, match="remove one") as caught:
        connection_for(url, password="another")
    assert SECRET not in str(caught.value)


def test_an_address_that_is_missing_is_told_as_such() -> None:
    with pytest.raises(ConfigurationError, match="is no line of text"):
        connection_for(None)  # type: ignore[arg-type] # os.environ.get, of what is not set


@pytest.mark.parametrize("option", ["decode_responses=no", "socket_timeout=9", "protocol=3"])
def test_a_url_given_by_a_program_changes_nothing_that_ringkeeper_needs(option: str) -> None:
    with pytest.raises(ConfigurationError, match="an option after"):
        connection_for(f"redis://h?{option}")


@pytest.mark.parametrize(
    "document",
    [
        {"redis": f"redis://:{SECRET}@h"},
        {"issuer": f"https://u:{SECRET}@h"},
        {"listen": f"redis://:{SECRET}@h"},
        {f"redis://:{SECRET}@h": 1},
        {"redis": {f"redis://:{SECRET}@h": 1}},
        {"name": f"redis://h?password={SECRET}"},
        {"redis": {"password": SECRET}},
        {"keyrings": {"a": {"redis": f"redis://:{SECRET}@h"}}},
        {"keyrings": f"redis://:{SECRET}@h"},
    ],
    ids=str,
)
def test_a_password_in_the_wrong_place_is_in_no_error(document: dict[str, Any]) -> None:
    assert SECRET not in "\n".join(problems_with(document))


@pytest.mark.parametrize(
    "text",
    [
        f"redis: {{url: !{SECRET}}}",
        f"redis: {{url: *{SECRET}}}",
        f"redis:\n  url: !{SECRET}!x y",
        f"redis:\n  url: &{SECRET} x y: z",
        f"redis:\n  url:redis://:{SECRET}@h",
        f"redis:\n  url: '{SECRET}",
        f"redis:\n  url: %{SECRET}",
        f"redis:\n  url: @{SECRET}",
        f'redis:\n  url: "\\{SECRET}"',
    ],
)
def test_a_password_that_is_no_yaml_is_in_no_error(tmp_path: Path, text: str) -> None:
    assert SECRET not in "\n".join(problems_in(tmp_path, text))


# --- single values that are refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (HOURS, "abc", "'abc' is not a number"),
        (HOURS, "168", "'168' is not a number"),  # in quotes, in the file
        (HOURS, True, "true is not a number"),
        (HOURS, 0, "0 is not a finite number above 0"),
        (HOURS, -1, "-1 is not a finite number above 0"),
        (HOURS, float("nan"), "nan is not a finite"),
        (HOURS, float("inf"), "inf is not a finite"),
        (HOURS, 1e9, "is longer than ten years"),
        (HOURS, 10**400, "a huge number is longer than ten years"),
        (HOURS, -(1 << 20000), "a huge number is not a finite"),
        (HOURS, 1e-9, "1e-09 is shorter than a millisecond"),
        (HOURS, [168], "a list is not a number"),
        ("access_token_validity", "1h", "'1h' is not a number; write seconds"),
        ("access_token_validity", {"a": 1}, "a mapping is not a number"),
        ("use_dynamic_access_token_signing_key", "true", "'true' is neither true nor false"),
        ("lead", 1, "1 is neither true nor false"),
        ("algorithm", "HS256", "'HS256' is not offered; use one of RS256"),
        ("algorithm", ["RS256"], "a list is not offered"),
        ("publication_interval", 30, "30 is not a duration; write a number and a unit"),
        ("publication_interval", "0s", "'0s' must be longer than 0"),
        ("publication_interval", "-5s", "'-5s' is not a duration"),
        ("max_staleness", "4000d", "longer than ten years"),
        ("clock_skew", "5", "'5' is not a duration"),
        ("max_verify_staleness", True, "true is not a duration"),
        ("max_verify_staleness", "0ms", "must be longer than 0"),
        ("confirmation_timeout", "soon", "'soon' is not a duration"),
        ("jwks_max_age", "0.1ms", "must be longer than 0"),
        ("poll_interval", "1y", "'1y' is not a duration"),
        ("name", "A", "'A' is not a ring's name"),
        ("name", "-a", "'-a' is not a ring's name"),
        ("name", "a" * 65, "is not a ring's name"),
        ("name", 7, "7 is not a ring's name"),
        ("lease_ttl", "999ms", "'999ms' is not between 1s and 10m"),
        ("lease_ttl", "601s", "'601s' is not between 1s and 10m"),
        ("files.signing_key", "perhaps", "is neither true nor false"),
        ("files.group", "My App", "'My App' is no group; write a name as in /etc/group"),
        ("files.group", True, "true is no group"),
        ("files.group", -1, "-1 is no group"),
        ("files.directory", 5, "5 is not text"),
        ("on_change.command", [], "a list names no program; write a program and its arg"),
        ("on_change.command", "", "'' names no program"),
        ("on_change.command", ["a", 1], "a list is not words alone"),
        ("on_change.command", "reload 'it", "has a quote that does not end; write a program"),
        ("on_change.command", ["", "a"], "names no program"),
        ("on_change.command", ["a\0b"], "names no program"),
        ("on_change.signal", "KILL", "'KILL' is not offered; use one of HUP, USR1"),
        ("on_change.timeout", 10, "10 is not a duration"),
        ("on_change.url", "ftp://h", "on_change.url: is not an http or https URL; write one such"),
        ("on_change.url", f"http:/{SECRET}", "on_change.url: is not an http or https URL"),
        ("listen", "9465", "'9465' is a port alone; write host:port"),
        ("listen", 9465, "9465 is a port alone; write host:port"),
        ("listen", ":9465", "':9465' is not host:port"),
        ("listen", "::1:9465", "is not host:port"),
        ("listen", "a:65536", "has a port that is not 0 to 65535"),
        ("listen", "a:²", "has a port that is not"),
        ("listen", "a..b:80", "is not host:port"),
        ("listen", "a" * 64 + ":80", "is not host:port"),
        ("listen", "a:" + "9" * 5000, "has a port that is not"),
        ("issuer", "auth.example.com", "is not an http or https URL"),
        ("issuer", "ftp://x", "is not an http or https URL"),
        ("issuer", "https://", "is not an http or https URL"),
        ("issuer", "https://x:99999", "is not an http or https URL"),
        ("issuer", "https://[x", "is not an http or https URL"),
        ("issuer", "https://x/?a=b", "has more than host and path"),
        ("issuer", "https://x/#a", "has more than host and path"),
        ("kek", "", "'' is not a line of text"),
        ("kek", "a\nb", "is not a line of text"),
        ("kek", "a\0b", "is not a line of text"),
        ("trust_root", 5, "5 is not text; put it in quotes"),
    ],
    ids=lambda value: "" if isinstance(value, int) else str(value)[:20],
)
def test_a_value_that_cannot_be_is_refused_with_the_reason(
    key: str, value: object, told: str
) -> None:
    group, _, name = key.rpartition(".")
    (problem,) = problems_with({group: {name: value}} if group else {key: value})
    assert problem.startswith(f"{key}: ")
    assert SECRET not in problem
    assert told in problem
    assert "\n" not in problem
    assert re.search(r"; (write|use|put|10s)|ten years", problem), "no remedy"


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "abc", "", "1e999", "9" * 5000, "true"])
def test_a_number_in_the_environment_is_held_to_the_same(text: str) -> None:
    (problem,) = problems_with(environ={HOURS.upper(): text})
    assert problem.startswith(f"{HOURS.upper()}: ")


@pytest.mark.parametrize("text", ["", "maybe", "2"])
def test_a_flag_in_the_environment_is_true_or_false(text: str) -> None:
    (problem,) = problems_with(environ={"RINGKEEPER_LEAD": text})
    assert problem == f"RINGKEEPER_LEAD: '{text}' is neither true nor false; write one of them"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h:6379/0",
        "redis://[::1]:6379/15",
        "redis://user:p%40ss@h/3",
        "redis://h?db=3",
        "rediss://h:1",
        "rediss+sentinel://a,b/primary",
        "rediss+cluster://a,b",
        "unix:///run/redis.sock",
        "unix://user:pw@/run/redis.sock?db=1",
        "redis+sentinel://a:26379,b,[::1]:7/primary/3",
        "redis+sentinel://user:p%40ss@a/primary?sentinel_password=x",
        "redis+cluster://user:pw@a:1,b",
    ],
)
def test_urls_that_are_read(url: str) -> None:
    assert parsed({"redis": {"url": url}}).redis_url.reveal() == url


def test_a_url_of_several_servers_is_taken_apart() -> None:
    fleet = fleet_of(Secret("redis+sentinel://user:p%40ss@a:1,[::1]/primary/3?sentinel_password=s"))
    assert fleet.nodes == (("a", 1), ("::1", 26379))
    assert (fleet.service, fleet.db) == ("primary", 3)
    assert (fleet.username, fleet.sentinel_username) == ("user", None)
    assert (fleet.password, fleet.sentinel_password) == (Secret("p@ss"), Secret("s"))
    assert "p@ss" not in repr(fleet)
    assert fleet_of(Secret("redis+cluster://a,b:7")).nodes == (("a", 6379), ("b", 7))
    assert fleet_of(Secret("redis+sentinel://h/p?db=3")).db == 3
    assert fleet_of(Secret("redis+sentinel://h/p")).db == 0


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+sentinel://a,b", "does not say what the Sentinels call the primary"),
        ("redis+sentinel://a,b/", "does not say what the Sentinels call the primary"),
        ("redis+sentinel:///primary", "cannot be taken apart"),
        ("redis+sentinel://a,,b/primary", "names no host"),
        ("redis+sentinel://a:port/primary", "names no host"),
        ("redis+sentinel://a/primary/x", "a database that is no number"),
        ("redis+sentinel://user:12/rest-of-it@a", "names a primary that no Sentinel knows"),
        ("redis+sentinel://a/pri%20mary", "names a primary that no Sentinel knows"),
        ("redis+sentinel://a/primary?ssl=1", "an option after ?"),
        ("redis+cluster://a,b/1", "a Cluster has only one"),
        ("redis+cluster://a,b?db=1", "an option after ?"),
        ("redis+cluster:a", "cannot be taken apart"),
        ("http://h", "is no URL that ringkeeper reads"),
        ("localhost:6379", "is no URL that ringkeeper reads"),
        ("redis:h", "cannot be taken apart"),
        ("redis://h:99999", "cannot be taken apart"),
        ("redis://:6379", "names no host"),
        ("redis://h/zero", "a database that is no number"),
        ("redis://h?db=x", "a database that is no number"),
        ("redis://h?decode_responses=1", "an option after ?"),
        ("rediss://h?ssl_ca_certs=x", "give redis.tls.ca_file"),
        ("rediss://h?ssl_check_hostname=no", "an option for TLS after ?; give redis.tls"),
        ("unix://run/redis.sock", "names no socket"),
        ("unix://", "names no socket"),
        ("embedded:", "names no directory"),
        ("embedded://var", "names no directory"),
        (7, "is not text"),
        (" ", "is not a line of text"),
    ],
)
def test_urls_that_are_refused(url: object, told: str) -> None:
    (problem,) = problems_with({"redis": {"url": url}})
    assert problem.startswith("redis.url: ")
    assert told in problem


# --- what contradicts what -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({HOURS: 1, "access_token_validity": 30 * 86400}, "and 32 is the most"),
        ({"publication_interval": "8d"}, "publication_interval: 8d is longer"),
        ({"jwks_max_age": "5h"}, "jwks_max_age: 5h is longer"),
        ({"max_staleness": "90s"}, "max_staleness: 1m 30s is shorter"),
        ({"max_verify_staleness": "1h"}, "max_verify_staleness: 1h is shorter"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(document: dict[str, Any], told: str) -> None:
    (problem,) = problems_with(document)
    assert told in problem


@pytest.mark.parametrize(
    ("url", "tls", "told"),
    [
        ("redis://h", {"ca_file": "c"}, "redis.tls.ca_file: redis.url has no TLS; write rediss://"),
        ("unix:///s", {"cert_file": "c", "key_file": "k"}, "redis.tls.cert_file: redis.url has no"),
        ("rediss://h", {"cert_file": "c"}, "redis.tls.cert_file: is of no use without its key"),
        ("rediss://h", {"key_file": "k"}, "redis.tls.key_file: is of no use without its cert"),
        ("rediss://h", {"verify": False}, "redis.tls.verify: no such setting"),
        ("rediss://h", "ca.pem", "redis.tls: has a value of its own; write its settings below"),
    ],
)
def test_tls_that_contradicts_itself_is_refused(url: str, tls: object, told: str) -> None:
    (problem,) = problems_with({"redis": {"url": url, "tls": tls}})
    assert problem.startswith(told)


@pytest.mark.parametrize("document", [{"redis.tls.ca_file": "c"}, {"redis": {"tls.ca_file": "c"}}])
def test_a_setting_two_levels_down_is_not_written_in_one(document: dict[str, Any]) -> None:
    document["redis"] = {"url": "rediss://h"} | document.get("redis", {})
    (problem,) = problems_with(document)
    told = "redis.tls.ca_file: is written in one; write ca_file: below tls:, below redis:, indented"
    assert problem == told


def test_a_problem_of_one_ring_names_it() -> None:
    (problem,) = problems_with({"keyrings": {"a": {"publication_interval": "8d"}}})
    assert problem.startswith("keyrings.a.publication_interval: 8d is longer")


def test_a_problem_that_all_rings_inherit_is_told_once() -> None:
    document = {"publication_interval": "8d", "keyrings": {"a": None, "b": None}}
    (problem,) = problems_with(document)
    assert problem.startswith("publication_interval: 8d is longer")


def test_what_could_not_be_read_contradicts_nothing() -> None:
    """A default in its place would make up problems that nobody has."""
    assert len(problems_with({HOURS: "abc", "publication_interval": "8d"})) == 1
    keyrings = {"a": {HOURS: "abc", "publication_interval": "8d"}}
    assert len(problems_with({"keyrings": keyrings})) == 1
    assert len(problems_with({"lease_ttl": "x", "max_staleness": "2m"})) == 1


def test_a_lease_that_outlives_the_patience_of_apps_is_refused() -> None:
    """Proofs come every minute: 2 min less one of them is what a ring bears without a leader."""
    assert parsed({"max_staleness": "2m", "lease_ttl": "60s"}).lease_ttl == MINUTE
    (problem,) = problems_with({"max_staleness": "2m", "lease_ttl": "61s"})
    assert problem.startswith("lease_ttl: 1m 1s is longer than the 1m that ring access-token bears")


def test_the_demo_of_fast_keys_is_accepted() -> None:
    """A key every 10 s, tokens of 20 s: the whole lifecycle within a minute."""
    document = {HOURS: 10 / 3600, "access_token_validity": 20, "clock_skew": "1s"}
    configuration = parsed(document | {"lease_ttl": "2s"})
    assert configuration.rings[0].policy.cryptoperiod == 10 * SECOND
    assert len(problems_with(document)) == 1, "the default lease of 10s is too long for it"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:pw@h", "redis.url holds a password as well"),
        ("redis://h?password=pw", "redis.url holds a password as well"),
        ("embedded:var", "the embedded server has no password"),
    ],
)
def test_a_password_told_twice_or_in_vain_is_refused(url: str, told: str) -> None:
    (problem,) = problems_with({"redis": {"url": url, "password_file": "pw"}})
    assert problem.startswith("redis.password_file: ")
    assert told in problem


def test_one_file_cannot_be_two_secrets() -> None:
    (problem,) = problems_with({"kek": "a.jwk", "trust_root": "./a.jwk"})
    assert problem.startswith("kek: '/srv/ring/a.jwk' is what trust_root names")


# --- keys that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"algoritm": 1}, "algoritm: no such setting; did you mean algorithm?"),
        ({"redis_url": 1}, "redis_url: no such setting; did you mean redis.url?"),
        ({"keyring": {}}, "keyring: no such setting; did you mean keyrings?"),
        ({"xyzzy": 1}, "xyzzy: no such setting; remove it"),
        ({"log": {"levle": "x"}}, "log.levle: no such setting; did you mean log.level?"),
        ({"log.level": "info"}, "log.level: is written in one; write level: below log:"),
        ({"log": "info"}, "log: has a value of its own; write its settings below"),
        ({True: 1}, "true: no such setting; remove it"),
        ({None: 1}, "nothing: no such setting"),
        ({"": 1}, "'': no such setting"),
        ({"keyrings": []}, "keyrings: a list is not a mapping"),
        ({"keyrings": {"a": 5}}, "keyrings.a: 5 is not a mapping"),
        ({"keyrings": {"A": None}}, "keyrings.A: is not a ring's name"),
        ({"keyrings": {1: None}}, "keyrings.1: is not a ring's name"),
        ({"keyrings": {"access-token": None}}, "keyrings.access-token: is the name of the ring at"),
        ({"keyrings": {"a": {"listen": "x"}}}, "keyrings.a.listen: is for the whole daemon"),
        ({"keyrings": {"a": {"token_cache": 1}}}, "keyrings.a.token_cache: is for each app, not"),
        (
            {"verify": "joserfc"},
            'verify: no such setting; it is an argument: Keyring.from_config(…, verify="joserfc")',
        ),
        (
            {"keyrings": {"a": {"clock_skw": "1s"}}},
            "keyrings.a.clock_skw: no such setting; did you mean clock_skew?",
        ),
        ({"keyrings": {"a": {"name": "b"}}}, "keyrings.a.name: is for the whole daemon"),
    ],
    ids=str,
)
def test_a_key_that_is_none_is_refused_with_what_was_meant(
    document: dict[str, Any], told: str
) -> None:
    (problem,) = problems_with(document)
    assert problem.startswith(told)


def test_every_problem_is_found_at_once() -> None:
    document = {
        HOURS: "abc",
        "lease_ttl": "1h",
        "xyzzy": 1,
        "redis": {"url": "http://h"},
        "keyrings": {"a": {"clock_skew": 5}, "B": None},
    }
    environ = {"RINGKEEPER_LOG__LEVEL": "loud", "RINGKEEPER_NO": "1"}
    named = [problem.partition(": ")[0] for problem in problems_of(document, environ)]
    assert sorted(named) == sorted(
        [
            HOURS,
            "lease_ttl",
            "xyzzy",
            "redis.url",
            "keyrings.a.clock_skew",
            "keyrings.B",
            "RINGKEEPER_LOG__LEVEL",
            "RINGKEEPER_NO",
        ]
    )


# --- files that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the configuration is empty; start from the config.yaml"),
        ("# only this\n", "the configuration is empty"),
        ("- a\n- b\n", "the configuration is a list, not keys and values"),
        ("just text", "the configuration is a single value, not keys"),
        ("name: [", "line 1, column 8: "),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("name: a\n\tlead: true\n", "line 2, column 1: "),
        ("name: a\nlead: \x07\n", "line 2, column 7: a character that may not stand here"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
        ("name: !x y\n", "line 1, column 7: tags (!) are not read here"),
        ("name: !!python/object/apply:os.getpid []\n", "tags (!) are not read here"),
        ("log: &a {}\nname: *a\n", "line 2, column 7: aliases (*) are not read here"),
        ('name: "\\U00110000"\n', "an escape (\\U…) that is no character"),
        ('name: "\\UFFFFFFFF"\n', "an escape (\\U…) that is no character"),
        ("<<: {name: a}\n", "line 1, column 1: only a plain word may stand before the colon"),
        ("? [a]\n: b\n", "line 1, column 3: only a plain word may stand before the colon"),
        ("access_token_validity: 1:00\n", "line 1, column 24: with a colon YAML reads a number"),
        ("redis:\n\turl: x\n", "line 2, column 1: a tab, where YAML wants spaces"),
        ("name: 2024-13-45\n", "line 1, column 7: a value that cannot be read"),
        ("access_token_validity: " + "9" * 5000, "line 1, column 24: a value that cannot be read"),
        ("[" * 20_000, "is nested too deeply"),
        (b"name: a\nissuer: \xff\n", "line 2: is not UTF-8 text"),
        ("name: a\n".encode("utf-16"), "is not UTF-8 text"),
        (b"#" * (256 * 1024 + 1), "is larger than 256 KiB"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    (problem,) = problems_in(tmp_path, text)
    assert told in problem
    assert "\n" not in problem


def test_keys_that_stand_twice_are_all_told_beside_other_problems(tmp_path: Path) -> None:
    text = "name: a\nlead: true\nname: b\nredis:\n  url: embedded:x\n  url: embedded:y\nxyzzy: 1\n"
    path = tmp_path / "config.yaml"
    assert problems_in(tmp_path, text) == (
        f"{path}, line 3: name stands twice, first in line 1; keep one",
        f"{path}, line 6: url stands twice, first in line 5; keep one",
        f"{path}: xyzzy: no such setting; remove it",
    )


def test_what_is_wrong_in_the_file_names_it_and_the_environment_does_not(tmp_path: Path) -> None:
    path = written(tmp_path, "redis: {url: 'redis://h'}\nlead: 7\npublication_interval: 8d\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path, {"RINGKEEPER_LISTEN": "x", "RINGKEEPER_NAMES": "1", "RINGKEEPER_VERIFY": "1"})
    named = [problem.split(": ")[:2] for problem in caught.value.problems]
    assert named == [
        [str(path), "lead"],
        [str(path), "publication_interval"],
        [
            "RINGKEEPER_LISTEN",
            "'x' is not host:port; write host:port, e.g. 127.0.0.1:9465 or [::1]:9465",
        ],
        ["RINGKEEPER_NAMES", "no such setting in the environment; did you mean RINGKEEPER_NAME?"],
        ["RINGKEEPER_VERIFY", "no such setting in the environment; unset it"],
    ]


@pytest.mark.parametrize("text", [SECRET, "123456789", "- " + SECRET, "2001-01-01", "true"])
def test_a_password_file_taken_for_the_configuration_is_not_quoted(
    tmp_path: Path, text: str
) -> None:
    (problem,) = problems_in(tmp_path, text)
    assert "not keys and values" in problem
    assert text.removeprefix("- ") not in problem


@pytest.mark.parametrize("number", ["03600", "0o17", "0x10", "0b11", "-010", "0_1"])
def test_a_number_to_another_base_than_ten_is_refused(tmp_path: Path, number: str) -> None:
    """03600 seconds would be half an hour: nobody means that."""
    text = f"redis: {{url: 'redis://h'}}\naccess_token_validity: {number}\n"
    (problem,) = problems_in(tmp_path, text)
    assert "to base 8, 2 or 16" in problem or "is not a number" in problem
    for plain in ("3600", "36.5", "3_600"):
        load(written(tmp_path, text.replace(number, plain)), {})


def test_a_key_that_stands_twice_is_refused_even_if_all_else_is_fine(tmp_path: Path) -> None:
    (problem,) = problems_in(tmp_path, "redis: {url: 'redis://h'}\nlead: true\nlead: true\n")
    assert problem.endswith("line 3: lead stands twice, first in line 2; keep one")


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfredis: {url: 'redis://h'}\n"
    assert load(written(tmp_path, text), {}).redis_url.reveal() == "redis://h"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file; name the right one"):
        load(tmp_path / "none.yaml", {})


def test_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read \\(is a directory\\)"):
        load(tmp_path, {})


def test_an_unreadable_file_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    """Refused by the system where it refuses; root may read all, so there it is acted."""
    path = written(tmp_path, "name: a")
    path.chmod(0)
    if os.geteuid() == 0:

        def denied(*args: Any) -> io.BytesIO:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ConfigurationError, match="cannot be read \\(permission denied\\); let"):
        load(path, {})


def test_without_pyyaml_it_is_told_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    path = written(tmp_path, "redis: {url: 'redis://h'}")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match="pip install pyyaml"):
        load(path, {})
    assert load(None, {"RINGKEEPER_REDIS__URL": "redis://h"}).redis_url.reveal() == "redis://h"


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    """Nine lists of nine would be a billion texts."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{after}: &{after} [{','.join(['*' + before] * 9)}]\n"
        for before, after in zip("abcdefgh", "bcdefghi", strict=True)
    )
    began = time.monotonic()
    (problem,) = problems_in(tmp_path, bomb)
    assert "aliases" in problem
    assert time.monotonic() - began < 2


# --- arbitrary input -----------------------------------------------------------------------------


def tells_a_line_each(error: ConfigurationError) -> None:
    assert error.problems
    assert all(len(problem.splitlines()) == 1 for problem in error.problems)


KEYS = st.sampled_from(
    [*(s.key for s in SETTINGS), *("redis", "log", "keyrings", "url", "level", "a", "b")]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**6), max_value=10**6)
    | st.floats()
    | st.dates()
    | st.binary(max_size=9)
    | st.text(max_size=20)
    | st.sampled_from(["1h", "10s", "0s", "RS256", "redis://h", "embedded:x", "https://x", "h:1"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | SCALARS, inner, max_size=5),
    max_leaves=12,
)
ENVIRONMENTS = st.dictionaries(
    st.sampled_from([s.variable for s in SETTINGS])
    | st.text(max_size=12).map("RINGKEEPER_".__add__),
    st.text(max_size=20) | st.sampled_from(["1", "true", "1h", "redis://h"]),
    max_size=3,
)


@given(document=st.dictionaries(KEYS | SCALARS, VALUES, max_size=8) | VALUES, environ=ENVIRONMENTS)
@settings(max_examples=examples(300), deadline=None)
@example(document={"redis": {"url": None}}, environ={})
@example(document={HOURS: 1 << 20000}, environ={})
def test_any_document_is_a_configuration_or_refused(
    document: object, environ: dict[str, str]
) -> None:
    try:
        configuration = parse(document, environ, base=BASE)
    except ConfigurationError as error:
        tells_a_line_each(error)
    else:
        assert configuration.redis_url
        assert configuration.rings
        assert not [p for ring in configuration.rings for p in ring.policy.problems()]


YAMLISH = st.lists(
    st.sampled_from(
        [
            *(
                " ",
                "\n",
                "  ",
                ": ",
                "- ",
                "? ",
                "&a ",
                "*a",
                "<<",
                "!",
                "!!int ",
                "!!bool ",
                "|",
                ">",
            ),
            *("[", "]", "{", "}", ",", "'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "\\", "\t"),
            *("name", "redis", "url", "keyrings", "redis://h", "lead", HOURS, "10", "0x1f", "1:2"),
            *("2024-01-01", "2024-99-01", ".nan", ".inf", "1e5", "yes", "~", "=", "\ufeff", "é"),
        ]
    ),
    max_size=25,
).map("".join)


@given(
    text=(YAMLISH | st.text(max_size=60) | VALUES.map(yaml.safe_dump)).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
    | st.binary(max_size=40)
)
@settings(
    max_examples=examples(400),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(text=b"!!int ''")
@example(text=b"!!bool maybe")
@example(text=b"a: 0b")
@example(text=b"a: 2024-01-01T00:00:00+99:99")
def test_any_text_is_a_configuration_or_refused(tmp_path: Path, text: bytes) -> None:
    try:
        load(written(tmp_path, text), {"RINGKEEPER_REDIS__URL": "redis://h"})
    except ConfigurationError as error:
        tells_a_line_each(error)


# --- reloading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"redis": {"url": "redis://other"}}, ("redis.url",)),
        (
            {"redis": {"url": "redis://redis:6379/0", "password_file": "x"}},
            ("redis.password_file",),
        ),
        ({"listen": "0.0.0.0:9465"}, ("listen",)),
        ({"listen": "127.0.0.1:1"}, ("listen",)),
        ({"lead": False}, ("lead",)),
        ({"lease_ttl": "20s"}, ("lease_ttl",)),
        ({"trust_root": "x"}, ("trust_root",)),
        ({"trust_root_public": "x"}, ("trust_root_public",)),
        ({"kek": "x", "lease_ttl": "9s"}, ("lease_ttl", "kek")),
        ({"issuer": "https://x"}, ("issuer",)),
        ({"log": {"level": "debug", "format": "json"}}, ("log.level", "log.format")),
        ({"name": "other"}, ("name",)),
        ({"keyrings": {"other": None}}, ()),
        ({HOURS: 24, "algorithm": "ES256", "clock_skew": "5s", "max_staleness": "1h"}, ()),
        ({}, ()),
    ],
    ids=str,
)
def test_what_needs_a_restart_is_named_and_a_new_policy_does_not(
    document: dict[str, Any], named: tuple[str, ...]
) -> None:
    assert difference(parsed(), parsed(document)) == named


def test_another_password_in_the_same_file_needs_a_restart() -> None:
    old = parsed({"redis": {"url": "redis://h", "password_file": "x"}})
    new = replace(old, redis_password=Secret("other"))
    assert difference(old, new) == ("redis.password_file",)


def test_the_order_of_further_rings_and_their_policies_is_no_difference() -> None:
    old = parsed({"keyrings": {"a": None, "b": None}})
    new = parsed({"keyrings": {"b": {"clock_skew": "1s"}, "a": None}})
    assert difference(old, new) == ()


# --- documentation -------------------------------------------------------------------------------


def test_the_documented_table_is_the_code_s() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    table = re.search(r"<!-- settings:[^\n]*-->\n(.*?)<!-- /settings -->", text, re.DOTALL)
    assert table
    assert table[1] == as_markdown(), "run make docs"


@pytest.mark.runs("docs/configuration.md", 1)
def test_the_documented_example_is_a_configuration(tmp_path: Path) -> None:
    example = re.search(
        r"```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(), re.DOTALL
    )
    assert example
    assert len(load(written(tmp_path, example[1]), {}).rings) == 3
