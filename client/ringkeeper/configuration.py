"""`config.yaml` and the environment, as one checked `Configuration`.

Every setting stands once, in `SETTINGS`: what it is called, how it is read, what it is for. The
documentation and the environment's names come from there. Whatever is wrong is found in one go
and told a line each: the key, the value, why, and what to do.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ringkeeper.durations import format_duration, parse_duration
from ringkeeper.errors import ConfigurationError
from ringkeeper.layout import DEFAULT_NAME, is_ring_name
from ringkeeper.policy import Policy
from ringkeeper.store import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LIMIT: Final = 256 * 1024
_PREFIX: Final = "RINGKEEPER_"
# Variables of ours that are no settings: where the file is, and what tests and images set.
_NOT_SETTINGS: Final = ("RINGKEEPER_CONFIG", "RINGKEEPER_SKIPS_FAIL", "RINGKEEPER_TEST_")
_SECRETS_FOLDER: Final = Path("/etc/ringkeeper")


# --- reading one value ---------------------------------------------------------------------------


def _hours(value: object) -> timedelta:
    return _number(value, "a number of hours, e.g. 168", timedelta(hours=1))


def _seconds(value: object) -> timedelta:
    return _number(value, "a number of seconds, e.g. 3600", timedelta(seconds=1))


def _number(value: object, wanted: str, unit: timedelta) -> timedelta:
    """`value` units in whole milliseconds; the environment has only text, so text will do."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"write {wanted}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"write {wanted}")
    if value <= 0:
        raise ValueError(f"must be more than 0; write {wanted}")
    if value * (unit / timedelta(hours=1)) > 10 * 366 * 24:
        raise ValueError(f"longer than ten years; write {wanted}")
    return timedelta(milliseconds=round(value * (unit / timedelta(milliseconds=1))))


def _duration(value: object) -> timedelta:
    if not isinstance(value, str):
        raise ValueError("write a number and a unit: 30s, 15m, 24h, 7d")
    return parse_duration(value)


def _flag(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(value, str):
        value = words.get(value.lower())
    if not isinstance(value, bool):
        raise ValueError("write true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\n" in value:
        raise ValueError("write a text of one line")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not is_ring_name(value):
        raise ValueError("a ring's name has up to 64 of a-z, 0-9, dot, dash and underscore")
    return value


def _path(value: object) -> Path:
    return Path(_text(value))


def _issuer(value: object) -> str:
    parts = urlsplit(_text(value))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError("write a URL such as https://auth.example.com")
    return str(value).rstrip("/")


def _redis_url(value: object) -> str:
    url = _text(value)
    if url.startswith("embedded:") and url != "embedded:":
        return url
    scheme = urlsplit(url).scheme
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ValueError("Sentinel and Cluster are not supported by this release; use redis://")
    if scheme not in ("redis", "rediss", "unix") or "://" not in url:
        raise ValueError("use embedded:DIR, redis://, rediss:// or unix://")
    return url


def _listen(value: object) -> tuple[str, int]:
    host, _, port = _text(value).rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:  # noqa: PLR2004
        raise ValueError("write host:port, e.g. 127.0.0.1:9465")
    return host.strip("[]"), int(port)


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"use one of {', '.join(choices)}")
        return str(value)

    return read


# --- all settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of `config.yaml`."""

    key: str
    """With a dot where it stands below another."""
    read: Callable[[object], Any]
    default: str
    """As the documentation shows it."""
    why: str
    policy: str = ""
    """The `Policy` value that it sets, if it is one: then each ring may have its own."""

    @property
    def variable(self) -> str:
        """The environment variable that overrides it; SuperTokens' three keep their own names."""
        name = self.key.upper().replace(".", "__")
        return name if self.key in _SUPERTOKENS else _PREFIX + name


_SUPERTOKENS: Final = (
    "access_token_dynamic_signing_key_update_interval",
    "access_token_validity",
    "use_dynamic_access_token_signing_key",
)

SETTINGS: Final = (
    Setting(
        "access_token_dynamic_signing_key_update_interval",
        _hours,
        "168",
        "Hours that a key signs before the next one takes over; fractions are fine.",
        "cryptoperiod",
    ),
    Setting(
        "access_token_validity",
        _seconds,
        "3600",
        "Seconds that a token lives at the most.",
        "access_token_validity",
    ),
    Setting(
        "use_dynamic_access_token_signing_key",
        _flag,
        "true",
        "Whether the rotated key signs, or the static one. Both verify in either case.",
        "use_dynamic",
    ),
    Setting("redis.url", _redis_url, "none: must be set", "Where daemons and apps meet."),
    Setting("redis.password_file", _path, "none", "A file with the password, instead of the URL."),
    Setting("name", _name, DEFAULT_NAME, "The ring's name."),
    Setting(
        "algorithm",
        _text,
        "RS256",
        "What fresh keys are made for: RS256 is what SuperTokens and every verifier speak; ES256, "
        "PS256, EdDSA and others by this line.",
        "algorithm",
    ),
    Setting(
        "publication_interval",
        _duration,
        "4h, or a quarter of the interval",
        "How long a key must have been public before it may sign: 4 h is how long SuperTokens' "
        "SDK caches a JWKS.",
        "publication_interval",
    ),
    Setting(
        "max_staleness",
        _duration,
        "24h, or the interval",
        "How long an app that hears nothing goes on signing: a day without Redis stops nobody.",
        "max_staleness",
    ),
    Setting(
        "max_verify_staleness",
        _duration,
        "off",
        "After this long without news an app refuses to verify; bounds how long a cut-off app "
        "accepts a revoked key.",
        "max_verify_staleness",
    ),
    Setting(
        "clock_skew",
        _duration,
        "60s",
        "The greatest difference between two hosts' clocks; the leeway when tokens are checked.",
        "clock_skew",
    ),
    Setting(
        "confirmation_timeout",
        _duration,
        "10m, or the publication interval",
        "How long an instance that never confirms the next key may hold it up.",
        "confirmation_timeout",
    ),
    Setting(
        "jwks_max_age",
        _duration,
        "5m, or the publication interval",
        "How long a verifier behind HTTP may cache the JWKS; a revocation reaches it after that.",
        "jwks_max_age",
    ),
    Setting(
        "poll_interval",
        _duration,
        "30s, or the publication interval",
        "How often each instance reads the ring even when no message came.",
        "poll_interval",
    ),
    Setting(
        "lead",
        _flag,
        "true",
        "Whether this daemon may turn keys (it then needs the private trust root), or only "
        "follows, serves and reports.",
    ),
    Setting("lease_ttl", _duration, "10s", "After a crash of the leader, when another takes over."),
    Setting(
        "trust_root",
        _path,
        "root.jwk",
        "The private trust root: signs what daemons publish. Only where lead is true.",
    ),
    Setting(
        "trust_root_public",
        _path,
        "root.pub.jwk",
        "The public trust root: what every app pins.",
    ),
    Setting("kek", _path, "kek.jwk", "The key that seals private keys in Redis."),
    Setting("listen", _listen, "127.0.0.1:9465", "Where the daemon serves HTTP."),
    Setting(
        "issuer",
        _issuer,
        "none",
        "Your issuer URL; with it /.well-known/openid-configuration is served.",
    ),
    Setting("log.level", _one_of("debug", "info", "warning", "error"), "info", "What is logged."),
    Setting(
        "log.format",
        _one_of("auto", "json", "console"),
        "auto",
        "auto: JSON, but for people on a terminal.",
    ),
)
_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}
_BY_VARIABLE: Final = {setting.variable: setting for setting in SETTINGS}
_GROUPS: Final = {key.partition(".")[0] for key in _BY_KEY if "." in key}


@dataclass(frozen=True, slots=True)
class RingConfiguration:
    """One ring's name and policy."""

    name: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that a daemon, a command or an app is told."""

    redis_url: str = field(repr=False)
    rings: tuple[RingConfiguration, ...]
    trust_root: Path
    trust_root_public: Path
    kek: Path
    lead: bool = True
    lease_ttl: timedelta = timedelta(seconds=10)
    host: str = "127.0.0.1"
    port: int = 9465
    issuer: str = ""
    log_level: str = "info"
    log_format: str = "auto"
    redis_password: str | None = field(default=None, repr=False)
    path: Path | None = None
    """The file it was read from."""

    @property
    def embedded(self) -> Path | None:
        """The directory of the embedded server, where there is to be one."""
        scheme, _, directory = self.redis_url.partition(":")
        return Path(directory) if scheme == "embedded" else None

    @property
    def redis_shown(self) -> str:
        """Where Redis is, without any password."""
        return shown(self.redis_url)

    def ring(self, name: str) -> RingConfiguration:
        """The ring of that name; the first one for an empty name.

        Raises:
            ConfigurationError: there is none of that name.
        """
        for ring in self.rings:
            if name in ("", ring.name):
                return ring
        known = ", ".join(ring.name for ring in self.rings)
        raise ConfigurationError([f"ring {name!r} is not configured; there is {known}"])


def differences(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """The settings that a reload cannot change: a restart does."""
    pairs: dict[str, tuple[object, object]] = {
        "redis.url": (old.redis_url, new.redis_url),
        "redis.password_file": (old.redis_password, new.redis_password),
        "listen": ((old.host, old.port), (new.host, new.port)),
        "lead": (old.lead, new.lead),
        "lease_ttl": (old.lease_ttl, new.lease_ttl),
        "trust_root": (old.trust_root, new.trust_root),
        "trust_root_public": (old.trust_root_public, new.trust_root_public),
        "kek": (old.kek, new.kek),
        "log.level": (old.log_level, new.log_level),
        "log.format": (old.log_format, new.log_format),
        "issuer": (old.issuer, new.issuer),
        "name, keyrings": ([r.name for r in old.rings], [r.name for r in new.rings]),
    }
    return tuple(key for key, (before, after) in pairs.items() if before != after)


# --- reading all of it ---------------------------------------------------------------------------


def load(path: Path | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration in the file at `path` (None: no file), overridden by the environment.

    Raises:
        ConfigurationError: every problem found.
    """
    document: object = _read_yaml(path) if path else {}
    base = path.parent if path else Path()
    return replace(parse(document, environ, base=base), path=path)


def parse(document: object, environ: Mapping[str, str], *, base: Path) -> Configuration:
    """The configuration in a parsed YAML document; relative paths are relative to `base`.

    Raises:
        ConfigurationError: every problem found.
    """
    problems: list[str] = []
    given = _flattened(document, problems)
    if problems:
        raise ConfigurationError(problems)
    keyrings = given.pop("keyrings", {})
    given |= _from_environment(environ, problems)
    values = _values(given, problems, where="")
    rings = _rings(values, keyrings, problems)
    if "redis.url" not in given:
        problems.append(
            "redis.url: is missing; write redis://host:6379/0, or embedded:./var to try it out"
        )
    if problems:
        raise ConfigurationError(problems)
    url: str = values["redis.url"]
    if url.startswith("embedded:"):
        url = f"embedded:{base / url.removeprefix('embedded:')}"
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    folder = Path(url.removeprefix("embedded:")) if url.startswith("embedded:") else _SECRETS_FOLDER

    def secret(key: str, name: str) -> Path:
        """Where it was told to be; else systemd's credential; else the usual folder."""
        if key in values:
            told: Path = base / values[key]
            return told
        credential = Path(credentials or "/nonexistent") / name
        return credential if credential.exists() else folder / name

    host, port = values.get("listen", ("127.0.0.1", 9465))
    configuration = Configuration(
        redis_url=url,
        rings=rings,
        trust_root=secret("trust_root", "root.jwk"),
        trust_root_public=secret("trust_root_public", "root.pub.jwk"),
        kek=secret("kek", "kek.jwk"),
        lead=values.get("lead", True),
        lease_ttl=values.get("lease_ttl", timedelta(seconds=10)),
        host=host,
        port=port,
        issuer=values.get("issuer", ""),
        log_level=values.get("log.level", "info"),
        log_format=values.get("log.format", "auto"),
        redis_password=_password(values.get("redis.password_file"), base, problems),
    )
    problems += _contradictions(configuration)
    if problems:
        raise ConfigurationError(problems)
    return configuration


def _contradictions(configuration: Configuration) -> list[str]:
    ttl = configuration.lease_ttl
    problems = []
    if not timedelta(seconds=1) <= ttl <= timedelta(minutes=10):
        problems.append(
            f"lease_ttl: {format_duration(ttl)} is not between 1s and 10m; 10s suits most, shorter "
            "takes over sooner and loses the lease to every hiccup"
        )
    problems += [
        f"lease_ttl: {format_duration(ttl)} is longer than max_staleness of ring {ring.name} "
        f"({format_duration(ring.policy.max_staleness)}), so one crash would stop apps from "
        "signing; shorten it"
        for ring in configuration.rings
        if ttl > ring.policy.max_staleness
    ]
    return problems


def _rings(
    values: Mapping[str, Any], keyrings: object, problems: list[str]
) -> tuple[RingConfiguration, ...]:
    """The ring at top level, and those under `keyrings:`, which inherit its policy."""
    shared = _policy_values(values)
    rings = [_ring(values.get("name", DEFAULT_NAME), shared, problems)]
    if not isinstance(keyrings, dict):
        problems.append("keyrings: write a mapping of names to settings")
        return ()
    for name, given in keyrings.items():
        if not is_ring_name(str(name)):
            problems.append(f"keyrings.{name}: not a ring's name; use a-z, 0-9, dot, dash")
            continue
        if any(ring and ring.name == name for ring in rings):
            problems.append(f"keyrings.{name}: there is a ring of that name already; rename one")
        own = given if isinstance(given, dict) else {}
        if given is not None and own is not given:
            problems.append(f"keyrings.{name}: write settings below it, or nothing")
        inner = _values(own, problems, where=f"keyrings.{name}.", policy_only=True)
        rings.append(_ring(str(name), shared | _policy_values(inner), problems))
    return tuple(ring for ring in rings if ring)


def _ring(name: str, values: Mapping[str, Any], problems: list[str]) -> RingConfiguration | None:
    policy = Policy.derive(**values)
    found = policy.problems()
    problems += [problem for problem in found if problem not in problems]
    return None if found else RingConfiguration(name, policy)


def _policy_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        setting.policy: values[setting.key]
        for setting in SETTINGS
        if setting.policy and setting.key in values
    }


def _flattened(document: object, problems: list[str]) -> dict[str, Any]:
    """The document with `redis: {url: …}` as `redis.url`."""
    if not isinstance(document, dict):
        what = "is empty" if document is None else "is not a mapping of keys to values"
        problems.append(f"the file {what}; start from the config.yaml that ships with ringkeeper")
        return {}
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key in _GROUPS and isinstance(value, dict):
            flat |= {f"{key}.{inner}": given for inner, given in value.items()}
        elif key in _GROUPS:
            problems.append(f"{key}: write its settings below it, indented")
        else:
            flat[str(key)] = value
    return flat


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for variable, value in environ.items():
        setting = _BY_VARIABLE.get(variable)
        if setting:
            given[setting.key] = value
        elif variable.startswith(_PREFIX) and not variable.startswith(_NOT_SETTINGS):
            problems.append(
                f"{variable}: no such setting (in the environment){_meant(variable, _BY_VARIABLE)}"
            )
    return given


def _values(
    given: Mapping[str, Any], problems: list[str], *, where: str, policy_only: bool = False
) -> dict[str, Any]:
    """Every value that could be read; a problem for each that could not."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        setting = _BY_KEY.get(str(key))
        if setting is None or (policy_only and not setting.policy):
            allowed = [s.key for s in SETTINGS if s.policy or not policy_only]
            hint = _meant(str(key), [*allowed, "keyrings"])
            problems.append(f"{where}{key}: no such setting{hint}")
            continue
        if value is None:  # `issuer:` with nothing behind it is how YAML leaves a setting out
            continue
        try:
            values[setting.key] = setting.read(value)
        except ValueError as error:
            # A URL may hold a password: it is never quoted.
            quoted = "" if setting.key == "redis.url" else f" {str(value)[:60]!r}:"
            problems.append(f"{where}{setting.key}:{quoted} {error}")
    return values


def _meant(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else "; remove it"


def _password(path: Path | None, base: Path, problems: list[str]) -> str | None:
    if path is None:
        return None
    try:
        return (base / path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        problems.append(f"redis.password_file: {base / path}: cannot be read ({why})")
        return None


def _read_yaml(path: Path) -> object:
    text = _read_text(path)
    try:
        import yaml  # noqa: PLC0415 - apps that are configured in code do without it
    except ImportError:
        raise ConfigurationError(
            ["reading a configuration file needs PyYAML: pip install 'ringkeeper[daemon]'"]
        ) from None

    class Loader(yaml.SafeLoader):
        """YAML without keys that stand twice."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"{key} stands twice; keep one of them",
                    problem_mark=key_node.start_mark,
                )
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader)  # noqa: S506 - it derives from SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigurationError([f"{path}{where}: {problem}"]) from None
    except (RecursionError, TypeError, ValueError) as error:
        raise ConfigurationError([f"{path}: not YAML that can be read: {error}"]) from None


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            [f"{path}: there is no such file; name it with --config"]
        ) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from None
    if len(raw) > _LIMIT:
        raise ConfigurationError([f"{path}: larger than any configuration; the right file?"])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: is not UTF-8 text"]) from None


def as_markdown() -> str:
    """The table of all settings, for the documentation."""
    rows = ["| key | default | what it is for | environment |", "|---|---|---|---|"]
    rows += [f"| `{s.key}` | {s.default} | {s.why} | `{s.variable}` |" for s in SETTINGS]
    return "\n".join(rows) + "\n"
