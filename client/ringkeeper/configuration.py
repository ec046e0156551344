"""`config.yaml` and the environment, as one checked `Configuration`.

Every setting stands once, in `SETTINGS`: what it is called, how it is read, its default, what it is
for. Parsing, the environment's names and docs/configuration.md come from there. Whatever is wrong
is found in one go and told a line each: the key, the value, why, and what to do. Values are judged
one by one first; what contradicts what is judged among those that could be read.

No message quotes `redis.url`, nor anything in a URL that may be a password.
"""

from __future__ import annotations

import difflib
import math
import os.path
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from ringkeeper.algorithms import ALGORITHMS
from ringkeeper.durations import format_duration, parse_duration
from ringkeeper.errors import ConfigurationError
from ringkeeper.layout import is_ring_name
from ringkeeper.policy import Policy
from ringkeeper.store import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

_LIMIT: Final = 256 * 1024
"""Bytes: a configuration is a page or two."""
_SECRETS_FOLDER: Final = Path("/etc/ringkeeper")
_PREFIX: Final = "RINGKEEPER_"
# Variables with our prefix that are no settings: where the file is, what tests set, and what
# Kubernetes puts into every pod beside a Service whose name begins with "ringkeeper".
_NOT_SETTINGS: Final = re.compile(
    r"RINGKEEPER_(?:CONFIG|SKIPS_FAIL|TEST_.*"
    r"|(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?))"
)


# --- what a message may show ---------------------------------------------------------------------


def _quoted(value: object) -> str:
    """`value` for a message: one short line, and never what may be a password."""
    match value:
        case str():
            return repr(_without_secrets(value)[:60])
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            # Python refuses to print integers of thousands of digits.
            return str(value) if abs(value) < 1e30 or not math.isfinite(value) else "a huge number"  # noqa: PLR2004
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return f"a {type(value).__name__}"


def _label(key: object) -> str:
    """A key as a message names it."""
    return _quoted(key)[1:-1] if isinstance(key, str) and key else _quoted(key)


def _without_secrets(text: str) -> str:
    text = re.sub(r"//.*@", "//…@", text, flags=re.DOTALL)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1…", text)


# --- reading one value ---------------------------------------------------------------------------
# Each reader raises ValueError with "why; what to do", to stand behind key and value.


def _number_of(unit: timedelta, wanted: str) -> Callable[[object], timedelta]:
    """A reader of a count of `unit`, rounded to whole milliseconds."""

    def read(value: object) -> timedelta:
        # A bool is an int to Python, and nobody means one hour by "true".
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"is not a number; write {wanted}")
        if math.isnan(value) or value <= 0 or value == math.inf:
            raise ValueError(f"is not a finite number above 0; write {wanted}")
        if value > _LONGEST / unit:
            raise ValueError(f"is longer than ten years; write {wanted}")
        duration = timedelta(milliseconds=round(value * (unit / timedelta(milliseconds=1))))
        if not duration:
            raise ValueError(f"is shorter than a millisecond; write {wanted}")
        return duration

    return read


_LONGEST: Final = timedelta(days=3660)


def _duration_or_zero(value: object) -> timedelta:
    if not isinstance(value, str):
        raise ValueError("is not a duration; write a number and a unit: 30s, 15m, 24h, 7d")
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"is not a duration that can be used; {error}") from None


def _duration(value: object) -> timedelta:
    duration = _duration_or_zero(value)
    if not duration:
        raise ValueError("must be longer than 0; write e.g. 30s")
    return duration


def _duration_or_off(value: object) -> timedelta | None:
    # YAML reads a bare `off` as false.
    return None if value is False or value == "off" else _duration(value)


def _lease_ttl(value: object) -> timedelta:
    ttl = _duration(value)
    if not timedelta(seconds=1) <= ttl <= timedelta(minutes=10):
        raise ValueError(
            "is not between 1s and 10m: a shorter lease is lost to every hiccup, a longer one "
            "leaves the ring without a leader; 10s suits most"
        )
    return ttl


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false; write one of them")  # noqa: TRY004
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text; put it in quotes")
    if not value.strip() or not value.isprintable():
        raise ValueError("is not a line of text; write one, or leave the setting out")
    return value


def _ring_name(value: object) -> str:
    if not isinstance(value, str) or not is_ring_name(value):
        raise ValueError(
            "is not a ring's name; use up to 64 of a-z, 0-9, dot, dash and underscore, with a "
            "letter or digit at both ends"
        )
    return value


def _path(value: object) -> Path:
    return Path(_text(value))


def _issuer(value: object) -> str:
    wanted = "write one such as https://auth.example.com"
    try:
        parts = urlsplit(_text(value))
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ValueError(f"is not an http or https URL; {wanted}")
    if parts.query or parts.fragment or "@" in parts.netloc or " " in str(value):
        raise ValueError(f"has more than host and path; {wanted}")
    return str(value).rstrip("/")


_REDIS_WANTED: Final = (
    "write redis://host:6379/0 (rediss:// for TLS, unix:///run/redis.sock, embedded:./var to try "
    "it out), with / ? # @ in a password percent-encoded"
)
# What redis-py takes from a URL wins over what we ask of it, so only these may stand there.
_REDIS_OPTIONS: Final = frozenset({"db", "username", "password"})


def _redis_url(value: object) -> str:
    url = _text(value)
    scheme, _, rest = url.partition(":")
    if scheme == "embedded":
        if not rest or rest.startswith("//"):
            raise ValueError("names no directory; write embedded:./var")
        return url
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ValueError(
            f"{scheme}:// is not supported yet; name the primary with redis:// or rediss://"
        )
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"is no URL that ringkeeper reads; {_REDIS_WANTED}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # whose text may quote the password
        raise ValueError(f"cannot be taken apart; {_REDIS_WANTED}") from None
    if parts.fragment or not rest.startswith("//") or "#" in url:
        raise ValueError(f"cannot be taken apart; {_REDIS_WANTED}")
    if scheme == "unix" and (host or parts.path in ("", "/")):
        raise ValueError("names no socket; write unix:///run/redis.sock, with three slashes")
    if scheme != "unix" and not (host and re.fullmatch(r"(?:/[0-9]{0,5})?", parts.path)):
        raise ValueError(f"names no host, or a database that is no number; {_REDIS_WANTED}")
    for option, given in options:
        if option not in _REDIS_OPTIONS and not (scheme == "rediss" and option.startswith("ssl_")):
            raise ValueError(
                "has an option after ? that is not known here; only db, username, password and, "
                "with rediss://, ssl_… may stand there"
            )
        if option == "db" and not re.fullmatch(r"[0-9]{1,5}", given):
            raise ValueError(f"names a database that is no number; {_REDIS_WANTED}")
    return url


def _listen(value: object) -> tuple[str, int]:
    wanted = "write host:port, e.g. 127.0.0.1:9465 or [::1]:9465"
    host, _, port = _text(value).rpartition(":")
    bracketed = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]", host)
    if not bracketed and not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError(f"is not host:port; {wanted}")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:  # noqa: PLR2004
        raise ValueError(f"has a port that is not 0 to 65535; {wanted}")
    return bracketed[1] if bracketed else host, int(port)


def _one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"is not offered; use one of {', '.join(choices)}")
        return str(value)

    return read


def _number_in(text: str) -> object:
    """The number that the environment wrote; what is none stays text, for a reader to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def _flag_in(text: str) -> object:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    return words.get(text.strip().lower(), text)


@dataclass(frozen=True, slots=True)
class Kind:
    """What may stand behind a key."""

    name: str
    """As the documentation shows it."""
    read: Callable[[object], Any]
    of_text: Callable[[str], object] = str
    """What YAML would have made of the text in an environment variable."""


_HOURS: Final = Kind(
    "hours, a number", _number_of(timedelta(hours=1), "hours: 168, or 0.5"), _number_in
)
_SECONDS: Final = Kind(
    "seconds, a number", _number_of(timedelta(seconds=1), "seconds: 3600"), _number_in
)
_DURATION: Final = Kind("duration", _duration)
_FLAG: Final = Kind("true or false", _flag, _flag_in)
_PATH: Final = Kind("path", _path)


# --- all settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of `config.yaml`."""

    key: str
    """With a dot where it stands below another."""
    kind: Kind
    default: str = ""
    """As one would write it; empty where there is no single one. A policy setting's is applied by
    `Policy.derive`, and a test keeps the two in step."""
    otherwise: str = ""
    """For the documentation: what holds where there is no single default, or what changes it."""
    why: str
    policy: str = ""
    """The `Policy` value that it sets, if it is one: then each ring may have its own."""
    is_live: bool = False
    """Whether a reload takes it up; the others need a restart."""

    @property
    def variable(self) -> str:
        """The environment variable that overrides it; SuperTokens' three keep their own names."""
        name = self.key.upper().replace(".", "__")
        return name if self.key in _SUPERTOKENS else _PREFIX + name

    @property
    def attribute(self) -> str:
        """What holds it in `Configuration`, unless it belongs to a policy."""
        return self.key.replace(".", "_")


def _rule(key: str, kind: Kind, default: str, why: str, **rest: str) -> Setting:
    """A setting of the policy, under its own name unless told otherwise."""
    rest = {"policy": key} | rest
    return Setting(key=key, kind=kind, default=default, why=why, is_live=True, **rest)  # type: ignore[arg-type]


_SUPERTOKENS: Final = (
    "access_token_dynamic_signing_key_update_interval",
    "access_token_validity",
    "use_dynamic_access_token_signing_key",
)

SETTINGS: Final = (
    _rule(
        "access_token_dynamic_signing_key_update_interval",
        _HOURS,
        "168",
        "How long a key signs before the next one takes over; fractions are fine. SuperTokens' "
        "setting and default.",
        policy="cryptoperiod",
    ),
    _rule(
        "access_token_validity",
        _SECONDS,
        "3600",
        "The longest that an access token may live. SuperTokens' setting and default.",
    ),
    _rule(
        "use_dynamic_access_token_signing_key",
        _FLAG,
        "true",
        "Whether the rotated (dynamic) key signs, or the static one. Both verify in either case, "
        "so a switch logs nobody out.",
        policy="use_dynamic",
    ),
    Setting(
        key="redis.url",
        kind=Kind("URL", _redis_url),
        otherwise="must be set",
        why="Where daemons and apps meet: `redis://`, `rediss://` (TLS), `unix://`, or "
        "`embedded:DIR` for a private server in DIR.",
    ),
    Setting(
        key="redis.password_file",
        kind=_PATH,
        otherwise="none",
        why="A file with the password, so that it stands in no URL.",
    ),
    Setting(
        key="name",
        kind=Kind("ring name", _ring_name),
        default="access-token",
        why="The ring's name, part of its keys in Redis.",
    ),
    _rule(
        "algorithm",
        Kind("one of " + ", ".join(ALGORITHMS), _one_of(*ALGORITHMS)),
        "RS256",
        "What fresh keys are made for: RS256 is what SuperTokens and every verifier speak. Keys "
        "that exist keep their own.",
    ),
    _rule(
        "publication_interval",
        _DURATION,
        "4h",
        "How long a key must have been public before it may sign: 4 h is how long SuperTokens' "
        "SDK caches a JWKS.",
        otherwise="at most a quarter of the update interval",
    ),
    _rule(
        "max_staleness",
        _DURATION,
        "24h",
        "How long an app that hears nothing goes on signing: a day without Redis stops nobody.",
        otherwise="at most the update interval",
    ),
    _rule(
        "max_verify_staleness",
        Kind("duration, or off", _duration_or_off),
        "off",
        "After this long without news an app refuses to verify, which bounds how long a cut-off "
        "app accepts a revoked key. Off, because an outage of Redis should log nobody out.",
    ),
    _rule(
        "clock_skew",
        Kind("duration", _duration_or_zero),
        "60s",
        "The greatest difference between two hosts' clocks, and so the leeway when tokens are "
        "checked.",
    ),
    _rule(
        "confirmation_timeout",
        _DURATION,
        "10m",
        "How long an instance that never confirms the next key may hold it up.",
        otherwise="at most the publication interval",
    ),
    _rule(
        "jwks_max_age",
        _DURATION,
        "5m",
        "How long a verifier behind HTTP may cache the JWKS; a revocation reaches it after that.",
        otherwise="at most the publication interval",
    ),
    _rule(
        "poll_interval",
        _DURATION,
        "30s",
        "How often each instance reads the ring even when no message came; one that was not heard "
        "of within three polls is not waited for.",
        otherwise="at most the publication interval",
    ),
    Setting(
        key="lead",
        kind=_FLAG,
        default="true",
        why="Whether this daemon may turn keys (it then needs the private trust root), or only "
        "follows, serves and reports, as a sidecar does.",
    ),
    Setting(
        key="lease_ttl",
        kind=Kind("duration, 1s to 10m", _lease_ttl),
        default="10s",
        why="How soon another daemon takes over after a crash of the leader; a clean stop hands "
        "over at once.",
    ),
    Setting(
        key="trust_root",
        kind=_PATH,
        otherwise="`root.jwk`, see below",
        why="The private trust root, which signs what daemons publish. Only where `lead` is true.",
    ),
    Setting(
        key="trust_root_public",
        kind=_PATH,
        otherwise="`root.pub.jwk`, see below",
        why="The public trust root, which every app pins.",
    ),
    Setting(
        key="kek",
        kind=_PATH,
        otherwise="`kek.jwk`, see below",
        why="The key that seals the private keys in Redis. Daemons that lead and apps that sign "
        "have it.",
    ),
    Setting(
        key="listen",
        kind=Kind("host:port", _listen),
        default="127.0.0.1:9465",
        why="Where the daemon serves JWKS, metrics and health: on this host alone, unless told.",
    ),
    Setting(
        key="issuer",
        kind=Kind("URL", _issuer),
        otherwise="none",
        why="Your issuer URL; with it `/.well-known/openid-configuration` is served.",
    ),
    Setting(
        key="log.level",
        kind=Kind("debug, info, warning or error", _one_of("debug", "info", "warning", "error")),
        default="info",
        why="What is logged: one line per change of state at info.",
    ),
    Setting(
        key="log.format",
        kind=Kind("auto, json or console", _one_of("auto", "json", "console")),
        default="auto",
        why="auto is JSON, but for people on a terminal.",
    ),
)
_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}
_BY_VARIABLE: Final = {setting.variable: setting for setting in SETTINGS}
_GROUPS: Final = frozenset(key.partition(".")[0] for key in _BY_KEY if "." in key)
_SECRETS: Final = {
    "trust_root": "root.jwk",
    "trust_root_public": "root.pub.jwk",
    "kek": "kek.jwk",
}
_DEFAULTS: Final = {
    setting.key: setting.kind.read(setting.kind.of_text(setting.default))
    for setting in SETTINGS
    if setting.default and not setting.policy
}


@dataclass(frozen=True, slots=True)
class RingConfiguration:
    """One ring's name and policy."""

    name: str
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that a daemon, a command or an app is told."""

    redis_url: str = field(repr=False)
    rings: tuple[RingConfiguration, ...]
    """The one at the top level, then those of `keyrings:`."""
    trust_root: Path
    trust_root_public: Path
    kek: Path
    lead: bool = _DEFAULTS["lead"]
    lease_ttl: timedelta = _DEFAULTS["lease_ttl"]
    host: str = _DEFAULTS["listen"][0]
    port: int = _DEFAULTS["listen"][1]
    issuer: str = ""
    """Without a slash at its end; empty for none."""
    log_level: str = _DEFAULTS["log.level"]
    log_format: str = _DEFAULTS["log.format"]
    redis_password_file: Path | None = None
    redis_password: str | None = field(default=None, repr=False)
    """What the file holds, read by `load`."""
    path: Path | None = None
    """The file it was read from."""

    @property
    def listen(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    @property
    def embedded(self) -> Path | None:
        """The directory of the embedded server, where there is to be one."""
        return _embedded(self.redis_url)

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
        raise ConfigurationError(
            [f"ring {_quoted(name)} is not configured; use one of {known}, or add it to keyrings"]
        )


def difference(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """The keys of what changed and needs a restart; a reload takes up all else.

    `keyrings` stands for a ring that came or went.
    """
    changed = [
        setting.key
        for setting in SETTINGS
        if setting.key != "name"
        and not setting.is_live
        and getattr(old, setting.attribute) != getattr(new, setting.attribute)
    ]
    if "redis.password_file" not in changed and old.redis_password != new.redis_password:
        changed.append("redis.password_file")
    if old.rings[0].name != new.rings[0].name:
        changed.append("name")
    if {ring.name for ring in old.rings[1:]} != {ring.name for ring in new.rings[1:]}:
        changed.append("keyrings")
    return tuple(changed)


differences = difference  # the daemon calls it so


# --- reading all of it ---------------------------------------------------------------------------


def load(path: Path | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration in the file at `path` (None: no file), overridden by the environment.

    Raises:
        ConfigurationError: every problem found.
    """
    problems: list[str] = []
    document = _read_yaml(path, problems) if path else {}
    base = path.absolute().parent if path else Path().absolute()
    try:
        configuration = parse(document, environ, base=base, is_there=os.path.exists)
    except ConfigurationError as error:
        raise ConfigurationError([*problems, *error.problems]) from None
    password = _password(configuration.redis_password_file, problems)
    if problems:
        raise ConfigurationError(problems)
    return replace(configuration, path=path, redis_password=password)


def parse(
    document: object,
    environ: Mapping[str, str],
    *,
    base: Path,
    is_there: Callable[[Path], bool] = lambda _: False,
) -> Configuration:
    """The configuration in a parsed YAML document, overridden by the environment. Pure.

    Relative paths of either are relative to `base`. `is_there` tells whether systemd handed a
    credential over; the password file is left for `load` to read.

    Raises:
        ConfigurationError: every problem found.
    """
    reading = _Reading()
    given, keyrings = _flattened(document, reading.problems)
    values = reading.values(given)
    values |= reading.from_environment(environ)
    rings = reading.rings(values, keyrings)
    url: str = values.get("redis.url", "")
    if not url and "redis.url" not in reading.unread:
        reading.problems.append(f"redis.url: is missing; {_REDIS_WANTED}")
    if _embedded(url):
        url = f"embedded:{base / url.removeprefix('embedded:')}"
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    secrets = {
        key: _secret(
            name, base / values[key] if key in values else None, url, credentials, is_there
        )
        for key, name in _SECRETS.items()
    }
    reading.contradictions(_DEFAULTS | values, rings, url, secrets)
    if reading.problems:
        raise ConfigurationError(reading.problems)
    plain = {
        setting.attribute: values[setting.key]
        for setting in SETTINGS
        if setting.key in values and setting.key in ("lead", "lease_ttl", "issuer", *_LOG)
    }
    host, port = (_DEFAULTS | values)["listen"]
    password_file = values.get("redis.password_file")
    return Configuration(
        redis_url=url,
        rings=rings,
        host=host,
        port=port,
        redis_password_file=base / password_file if password_file else None,
        **secrets,
        **plain,
    )


_LOG: Final = ("log.level", "log.format")


class _Reading:
    """One pass over everything given: the problems so far, and the keys that were unreadable."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.unread: set[str] = set()

    def values(
        self, given: Mapping[object, object], *, where: str = "", policy_only: bool = False
    ) -> dict[str, Any]:
        """Every value of the file, or of one ring in it, that could be read."""
        values: dict[str, Any] = {}
        for key, value in given.items():
            setting = _BY_KEY.get(key) if isinstance(key, str) else None
            if setting is None or (policy_only and not setting.policy):
                self.problems.append(f"{where}{_label(key)}: {_unknown(key, policy_only)}")
            elif value is not None:  # `issuer:` with nothing behind it leaves the setting out
                self._read(setting, where + setting.key, value, values)
        return values

    def from_environment(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Every value that an environment variable sets."""
        values: dict[str, Any] = {}
        for variable, text in environ.items():
            setting = _BY_VARIABLE.get(variable)
            if setting:
                self.unread.discard(setting.key)  # what the file says does not count
                self._read(setting, variable, setting.kind.of_text(text), values)
            elif variable.startswith(_PREFIX) and not _NOT_SETTINGS.fullmatch(variable):
                hint = _meant(variable, _BY_VARIABLE) or "unset it"
                self.problems.append(
                    f"{_label(variable)}: no such setting in the environment; {hint}"
                )
        return values

    def _read(self, setting: Setting, label: str, value: object, into: dict[str, Any]) -> None:
        try:
            into[setting.key] = setting.kind.read(value)
        except ValueError as error:
            quoted = "" if setting.key == "redis.url" else f"{_quoted(value)} "
            self.problems.append(f"{label}: {quoted}{error}")
            self.unread.add(label if label.startswith("keyrings.") else setting.key)

    def rings(self, values: Mapping[str, Any], keyrings: object) -> tuple[RingConfiguration, ...]:
        """The ring at the top level, and those under `keyrings:`, which inherit its policy."""
        if not isinstance(keyrings, dict):
            self.problems.append(
                f"keyrings: {_quoted(keyrings)} is not a mapping; write each ring's name, and its "
                "settings below it"
            )
            keyrings = {}
        inherited = _policy_values(values)
        top = _DEFAULTS["name"] if "name" not in values else values["name"]
        rings = [self._ring(top, inherited, "")]
        for name, given in keyrings.items():
            where = f"keyrings.{_label(name)}"
            try:
                _ring_name(name)
            except ValueError as error:
                self.problems.append(f"{where}: {error}")
            if name == top and "name" not in self.unread:
                self.problems.append(
                    f"{where}: is the name of the ring at the top level; rename one of them"
                )
            if given is not None and not isinstance(given, dict):
                self.problems.append(
                    f"{where}: {_quoted(given)} is not a mapping; write settings below it, or nothing"
                )
                continue
            own = self.values(given or {}, where=f"{where}.", policy_only=True)
            rings.append(self._ring(str(name), inherited | _policy_values(own), f"{where}."))
        return tuple(ring for ring in rings if ring)

    def _ring(self, name: str, values: Mapping[str, Any], where: str) -> RingConfiguration | None:
        """The ring, unless its policy contradicts itself or was not read whole."""
        if any(setting.policy for setting in map(_BY_KEY.get, self.unread) if setting) or any(
            where and key.startswith(where) for key in self.unread
        ):
            return None
        policy = Policy.derive(**values)
        found = policy.problems()
        # What a ring inherits is told once, at the top level.
        self.problems += [where + problem for problem in found if problem not in self.problems]
        return None if found else RingConfiguration(name, policy)

    def contradictions(
        self,
        values: Mapping[str, Any],
        rings: Iterable[RingConfiguration],
        url: str,
        secrets: Mapping[str, Path],
    ) -> None:
        """What single values do not show, outside of the policies."""
        ttl: timedelta = values["lease_ttl"]
        for ring in rings if "lease_ttl" not in self.unread else ():
            most = ring.policy.max_staleness - ring.policy.proof_interval
            if ttl > most:
                self.problems.append(
                    f"lease_ttl: {format_duration(ttl)} is longer than the {format_duration(most)} "
                    f"that ring {ring.name} bears without a leader (max_staleness less one proof "
                    "of freshness), so one crash would stop apps from signing; shorten it, or "
                    "lengthen max_staleness"
                )
        if "redis.password_file" in values and _embedded(url):
            self.problems.append(
                "redis.password_file: the embedded server has no password; remove it"
            )
        elif "redis.password_file" in values and _has_password(url):
            self.problems.append(
                "redis.password_file: redis.url holds a password as well; remove one of them"
            )
        first: dict[Path, str] = {}
        for key, path in secrets.items():
            if first.setdefault(path, key) != key:
                self.problems.append(
                    f"{key}: {_quoted(str(path))} is what {first[path]} names; give each its file"
                )


def _flattened(document: object, problems: list[str]) -> tuple[dict[object, object], object]:
    """The document with `redis: {url: …}` as `redis.url`, and apart from it `keyrings`."""
    if not isinstance(document, dict):
        what = "is empty" if document is None else f"is {_quoted(document)}, not keys and values"
        problems.append(
            f"the configuration {what}; start from the config.yaml that ships with ringkeeper"
        )
        return {}, {}
    flat: dict[object, object] = {}
    keyrings: object = {}
    for key, value in document.items():
        if key == "keyrings":
            keyrings = {} if value is None else value
        elif key in _GROUPS and isinstance(value, dict):
            flat |= {f"{key}.{_label(inner)}": given for inner, given in value.items()}
        elif key in _GROUPS:
            if value is not None:
                problems.append(
                    f"{key}: has a value of its own; write its settings below, indented"
                )
        elif isinstance(key, str) and key in _BY_KEY and "." in key:
            group, _, inner = key.partition(".")
            problems.append(f"{key}: is written in one; write {inner}: below {group}:, indented")
        else:
            flat[key] = value
    return flat, keyrings


def _unknown(key: object, policy_only: bool) -> str:  # noqa: FBT001
    if policy_only and key in _BY_KEY:
        return "is for the whole daemon, not for one ring; write it at the top level"
    known = [setting.key for setting in SETTINGS if setting.policy or not policy_only]
    hint = _meant(str(key) if isinstance(key, str) else "", [*known, "keyrings"])
    return f"no such setting; {hint or 'remove it'}"


def _meant(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key[:80], list(known), 1, 0.6)
    return f"did you mean {close[0]}?" if close else ""


def _policy_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        setting.policy: values[setting.key]
        for setting in SETTINGS
        if setting.policy and setting.key in values
    }


def _secret(
    name: str,
    told: Path | None,
    url: str,
    credentials: str | None,
    is_there: Callable[[Path], bool],
) -> Path:
    """Where it was told to be; else systemd's credential; else the usual folder."""
    if told:
        return told
    if credentials and is_there(Path(credentials) / name):
        return Path(credentials) / name
    return (_embedded(url) or _SECRETS_FOLDER) / name


def _embedded(url: str) -> Path | None:
    scheme, _, directory = url.partition(":")
    return Path(directory) if scheme == "embedded" else None


def _has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or "password" in dict(parse_qsl(parts.query))


def _password(path: Path | None, problems: list[str]) -> str | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            password = file.read(_LIMIT).decode("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or "not UTF-8 text").lower()
        problems.append(
            f"redis.password_file: {_quoted(str(path))} cannot be read ({why}); let this user read "
            "it, or name another"
        )
        return None
    if not password:
        problems.append(
            f"redis.password_file: {_quoted(str(path))} is empty; write the password there"
        )
    return password


# --- YAML ----------------------------------------------------------------------------------------


def _read_yaml(path: Path, problems: list[str]) -> object:
    """The document in the file; keys that stand twice are added to `problems`."""
    text = _read_text(path)
    try:
        import yaml  # noqa: PLC0415 - apps that are configured in code do without it
    except ImportError:
        raise ConfigurationError(
            ["reading a configuration file needs PyYAML; pip install 'ringkeeper[daemon]'"]
        ) from None
    twice: list[str] = []
    try:
        document: object = yaml.load(text, _loader(yaml, twice))  # noqa: S506 - a SafeLoader
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1)
        raise _no_yaml(
            path, before.count("\n"), column, "a character that may not stand here"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # Names of aliases and tags may be a password that nobody put in quotes.
        why = re.sub(r"'(?!<)[^']{2,}'", "…", error.problem or error.context or "no YAML")
        raise _no_yaml(path, mark.line if mark else 0, mark.column if mark else 0, why) from None
    except RecursionError:
        raise ConfigurationError(
            [f"{path}: is nested too deeply; start from the config.yaml that ships with ringkeeper"]
        ) from None
    problems += [f"{path}, {line}" for line in twice]
    return document


def _no_yaml(path: Path, line: int, column: int, why: str) -> ConfigurationError:
    return ConfigurationError(
        [f"{path}, line {line + 1}, column {column + 1}: {why}; correct the YAML there"]
    )


def _loader(yaml: ModuleType, twice: list[str]) -> Any:
    """SafeLoader without what a configuration has no use for, and what would mislead.

    Aliases and merge keys (a page of them can grow to gigabytes), tags, numbers to base 60 (24:00
    would be 1440). A key that stands twice is noted in `twice`.
    """

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                _refuse(event, "aliases (*) are not read here: write it out, or quote it")
            if getattr(event, "tag", None):
                _refuse(event, "tags (!) are not read here: leave it out, or quote it")
            return super().compose_node(parent, index)

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                _refuse(key_node, "only a plain word may stand before the colon")
            key = loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in seen:
                twice.append(
                    f"line {line}: {_label(key)} stands twice, first in line {seen[key]}; keep one"
                )
            seen.setdefault(key, line)
            result[key] = loader.construct_object(value_node, deep=True)
        return result

    def number(loader: Any, node: Any) -> Any:
        if ":" in node.value:
            _refuse(
                node, "with a colon YAML reads a number to base 60: write it plain, or quote it"
            )
        construct = loader.construct_yaml_int if node.tag.endswith(":int") else None
        return (construct or loader.construct_yaml_float)(node)

    def careful(construct: Any) -> Any:
        """`construct`, with the place told if it cannot (a date in month 13)."""

        def constructed(loader: Any, node: Any) -> Any:
            try:
                return construct(loader, node)
            except (ValueError, ArithmeticError):
                _refuse(node, "a value that cannot be read: quote it if it is text")

        return constructed

    def _refuse(there: Any, why: str) -> None:
        raise yaml.MarkedYAMLError(problem=why, problem_mark=there.start_mark)

    tag = "tag:yaml.org,2002:"
    Loader.add_constructor(f"{tag}map", mapping)
    Loader.add_constructor(f"{tag}int", careful(number))
    Loader.add_constructor(f"{tag}float", careful(number))
    Loader.add_constructor(f"{tag}timestamp", careful(yaml.SafeLoader.construct_yaml_timestamp))
    # As values, `=` and `<<` are text like any other.
    Loader.add_constructor(f"{tag}value", yaml.SafeLoader.construct_yaml_str)
    Loader.add_constructor(f"{tag}merge", yaml.SafeLoader.construct_yaml_str)
    return Loader


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            [f"{path}: there is no such file; name the right one with --config"]
        ) from None
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigurationError(
            [
                f"{path}: cannot be read ({why}); let this user read it, or name another with --config"
            ]
        ) from None
    if len(raw) > _LIMIT:
        raise ConfigurationError(
            [f"{path}: is larger than {_LIMIT // 1024} KiB; is this the right file?"]
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            [f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8"]
        ) from None


# --- documentation -------------------------------------------------------------------------------


def as_markdown() -> str:
    """The table of all settings, as it stands in docs/configuration.md."""
    rows = ["| key | type | default | why | environment |", "|---|---|---|---|---|"]
    rows += [
        f"| `{setting.key}` | {setting.kind.name} | {_default_shown(setting)} | {setting.why} "
        f"| `{setting.variable}` |"
        for setting in SETTINGS
    ]
    return "\n".join(rows) + "\n"


def _default_shown(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    return ", ".join(part for part in (default, setting.otherwise) if part)
