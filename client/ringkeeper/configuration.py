"""`config.yaml` and the environment, as one checked `Configuration`.

Whatever is wrong is found in one go and told a line each: the key, the value, why, and what to do.
Values are judged one by one first (`settings`); what contradicts what, among those that could be
read. No message holds a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ringkeeper import yaml_file
from ringkeeper.errors import ConfigurationError, SecretError
from ringkeeper.kek_variable import ENV, KekVariable, kek_source
from ringkeeper.policy import Policy
from ringkeeper.redis_url import REDIS_WANTED, has_password, has_tls, shown
from ringkeeper.secret import Secret
from ringkeeper.settings import (
    BY_KEY,
    BY_VARIABLE,
    DEFAULTS,
    GROUPS,
    PREFIX,
    SETTINGS,
    Setting,
    as_markdown,
    label,
    meant,
    quoted,
    ring_name,
)
from ringkeeper.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta

__all__ = [
    "Configuration",
    "RingConfiguration",
    "load",
    "parse",
    "difference",
    "SETTINGS",
    "as_markdown",
]

_MOST_OF_A_SECRET: Final = 256 * 1024
"""Bytes that are read of a file with a password, or of a credential."""
_SECRETS_FOLDER: Final = Path("/etc/ringkeeper")
_SECRETS: Final = {
    "trust_root": "root.jwk",
    "trust_root_public": "root.pub.jwk",
    "kek": "kek.jwk",
}
_TLS: Final = ("redis.tls.ca_file", "redis.tls.cert_file", "redis.tls.key_file")
# Variables with our prefix that are no settings: where the file is, what tests set, and what
# Kubernetes puts into every pod beside a Service whose name begins with "ringkeeper".
_NOT_SETTINGS: Final = re.compile(
    r"RINGKEEPER_(?:(?:CONFIG|SKIPS_FAIL)=|TEST_"
    r"|(?:\w+_)?(?:SERVICE_HOST=|SERVICE_PORT(?:_\w+)?=\d"
    r"|PORT=(?:tcp|udp|sctp)://|PORT_\d+_(?:TCP|UDP|SCTP)\w*=))"
)


@dataclass(frozen=True, slots=True)
class RingConfiguration:
    """One ring's name and policy."""

    name: str
    policy: Policy
    given: Mapping[str, Any] | None = field(default=None, compare=False)
    """The policy's values that are written down, by its names; None: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything that a daemon, a command or an app is told."""

    redis_url: Secret
    rings: tuple[RingConfiguration, ...]
    """The one at the top level, then those of `keyrings:`."""
    trust_root: Path
    trust_root_public: Path
    kek: Path | KekVariable
    is_kek_named: bool = False
    """Whether the configuration says where it is; else it may be missing from an app."""
    state_dir: Path = Path("/var/lib/ringkeeper")
    cache_dir: Path | None = None
    token_cache: int = DEFAULTS["token_cache"]
    """How many verified tokens an app remembers."""
    lead: bool = DEFAULTS["lead"]
    lease_ttl: timedelta = DEFAULTS["lease_ttl"]
    host: str = DEFAULTS["listen"][0]
    port: int = DEFAULTS["listen"][1]
    issuer: str = ""
    """As tokens state it; empty for none."""
    refreshes_token_file: Path | None = None
    files_directory: Path | None = None
    files_signing_key: bool = DEFAULTS["files.signing_key"]
    files_group: str = ""
    files_signing_key_on_disk: bool = DEFAULTS["files.signing_key_on_disk"]
    on_change_command: tuple[str, ...] = ()
    on_change_pid_file: Path | None = None
    on_change_signal: str = DEFAULTS["on_change.signal"]
    on_change_url: Secret | None = None
    on_change_timeout: timedelta = DEFAULTS["on_change.timeout"]
    log_level: str = DEFAULTS["log.level"]
    log_format: str = DEFAULTS["log.format"]
    redis_password_file: Path | None = None
    redis_password: Secret | None = None
    """What the file holds, read by `load`."""
    redis_tls_ca_file: Path | None = None
    redis_tls_cert_file: Path | None = None
    redis_tls_key_file: Path | None = None
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
    def redis_tls(self) -> Tls:
        """The files for TLS to Redis."""
        return Tls(
            ca_file=self.redis_tls_ca_file,
            cert_file=self.redis_tls_cert_file,
            key_file=self.redis_tls_key_file,
        )

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
            [f"ring {quoted(name)} is not configured; use one of {known}, or add it to keyrings"]
        )


def difference(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """The keys of what changed and needs a restart; a reload takes up all else."""
    changed = [
        setting.key
        for setting in SETTINGS
        if setting.key != "name"
        and not setting.is_live
        and not setting.is_an_app_s
        and getattr(old, setting.attribute) != getattr(new, setting.attribute)
    ]
    if "redis.password_file" not in changed and old.redis_password != new.redis_password:
        changed.append("redis.password_file")
    if old.rings[0].name != new.rings[0].name:
        changed.append("name")
    return tuple(changed)


# --- reading all of it ---------------------------------------------------------------------------


def load(path: Path | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration in the file at `path` (None: no file), overridden by the environment.

    Raises:
        ConfigurationError: every problem found.
    """
    problems: list[str] = []
    configuration = _loaded(path, environ, problems)
    if configuration is None or problems:
        # Raised where nothing read is a local: error reporters ship those of all frames.
        raise ConfigurationError(problems)
    return configuration


def _loaded(
    path: Path | None, environ: Mapping[str, str], problems: list[str]
) -> Configuration | None:
    """The configuration, as far as there is one; what is wrong is added to `problems`."""
    try:
        document = yaml_file.read(path, problems) if path else {}
        configuration = parse(
            document,
            environ,
            base=path.absolute().parent if path else Path().absolute(),
            is_there=_is_handed_over,
            source=str(path or ""),
        )
    except ConfigurationError as error:
        problems += error.problems
        return None
    password = _password(configuration.redis_password_file, problems)
    return replace(configuration, path=path, redis_password=password)


def parse(
    document: object,
    environ: Mapping[str, str],
    *,
    base: Path,
    is_there: Callable[[Path], bool] = lambda _: False,
    source: str = "",
) -> Configuration:
    """The configuration in a parsed YAML document, overridden by the environment. Pure.

    Relative paths of either are relative to `base`. `is_there` tells whether systemd handed a
    credential over; the password file is left for `load` to read. `source` is the file's name, for
    what is wrong in it.

    Raises:
        ConfigurationError: every problem found.
    """
    reading = _Reading()
    given, keyrings = _flattened(document, reading.problems)
    values = reading.values(given)
    values |= reading.from_environment(environ, kek=_kek_variable(given, environ))
    rings = reading.rings(values, keyrings)
    url: Secret = values.get("redis.url", Secret(""))
    if not url and "redis.url" not in reading.unread and isinstance(document, dict):
        reading.problems.append(f"redis.url: is missing; {REDIS_WANTED}")
    if directory := _embedded(url):
        url = Secret(f"embedded:{base / directory}")
    kek = reading.kek(values.get("kek"), environ)
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    secrets = {
        key: _secret(
            name, base / values[key] if key in values else None, url, credentials, is_there
        )
        for key, name in _SECRETS.items()
        if key != "kek" or not kek
    }
    reading.contradictions(DEFAULTS | values, rings, url, secrets)
    reading.check(source)
    values = DEFAULTS | values

    def handed(key: str) -> Path | None:
        """The file that `key` names; or systemd's credential of its name, which is its copy."""
        path = _below(base, values.get(key))
        if path and credentials and is_there(Path(credentials) / path.name):
            return Path(credentials) / path.name
        return path

    return Configuration(
        redis_url=url,
        rings=rings,
        trust_root=secrets["trust_root"],
        trust_root_public=secrets["trust_root_public"],
        kek=kek or secrets["kek"],
        is_kek_named="kek" in values,
        state_dir=_state_dir(values, base, url, environ),
        cache_dir=_below(base, values.get("cache_dir")),
        token_cache=values["token_cache"],
        lead=values["lead"],
        lease_ttl=values["lease_ttl"],
        host=values["listen"][0],
        port=values["listen"][1],
        issuer=values.get("issuer", ""),
        refreshes_token_file=handed("refreshes_token_file"),
        files_directory=_below(base, values.get("files.directory")),
        files_signing_key=values["files.signing_key"],
        files_group=values.get("files.group", ""),
        files_signing_key_on_disk=values["files.signing_key_on_disk"],
        on_change_command=values.get("on_change.command", ()),
        on_change_pid_file=_below(base, values.get("on_change.pid_file")),
        on_change_signal=values["on_change.signal"],
        on_change_url=values.get("on_change.url"),
        on_change_timeout=values["on_change.timeout"],
        log_level=values["log.level"],
        log_format=values["log.format"],
        redis_password_file=handed("redis.password_file"),
        redis_tls_ca_file=_below(base, values.get("redis.tls.ca_file")),
        redis_tls_cert_file=_below(base, values.get("redis.tls.cert_file")),
        redis_tls_key_file=handed("redis.tls.key_file"),
    )


def _below(base: Path, path: Path | None) -> Path | None:
    return base / path if path else None


def _kek_variable(given: Mapping[object, object], environ: Mapping[str, str]) -> str:
    """Which variable the KEK is in, if in one: it may have our prefix, and is no setting."""
    told = str(environ.get(BY_KEY["kek"].variable, given.get("kek")))
    return told.removeprefix(ENV) if told.startswith(ENV) else ""


def _state_dir(
    values: Mapping[str, Any], base: Path, url: Secret, environ: Mapping[str, str]
) -> Path:
    """Where a daemon keeps its rings; systemd names a directory of the unit's own."""
    if "state_dir" in values:
        return base.joinpath(values["state_dir"])
    named = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return _embedded(url) or Path(named or "/var/lib/ringkeeper")


class _Reading:
    """One pass over everything given: the problems so far, and the keys that were unreadable."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.of_environment: list[str] = []
        """The problems with what the environment says."""
        self.unread: set[str] = set()

    def check(self, source: str) -> None:
        """Tell what was found; `source` names the file.

        Raises:
            ConfigurationError: something was.
        """
        there = f"{source}: " if source else ""
        problems = [f"{there}{problem}" for problem in self.problems] + self.of_environment
        if problems:
            raise ConfigurationError(problems)

    def values(
        self, given: Mapping[object, object], *, where: str = "", policy_only: bool = False
    ) -> dict[str, Any]:
        """Every value of the file, or of one ring in it, that could be read."""
        values: dict[str, Any] = {}
        for key, value in given.items():
            setting = BY_KEY.get(key) if isinstance(key, str) else None
            if setting is None or (policy_only and not setting.policy):
                self.problems.append(
                    f"{where}{label(key)}: {_unknown(key, policy_only=policy_only)}"
                )
            elif value is not None:  # `issuer:` with nothing behind it leaves the setting out
                self._read(setting, where + setting.key, value, values, self.problems)
        return values

    def kek(self, told: object, environ: Mapping[str, str]) -> KekVariable | None:
        """The KEK's variable, where one is named instead of a file."""
        if not isinstance(told, str):
            return None
        try:
            source = kek_source(told, environ)
        except SecretError as error:
            self.problems.append(f"kek: {error}")
            return None
        return source if isinstance(source, KekVariable) else None

    def from_environment(self, environ: Mapping[str, str], *, kek: str = "") -> dict[str, Any]:
        """Every value that an environment variable sets; `kek` is the one that the KEK is in."""
        values: dict[str, Any] = {}
        for variable, text in environ.items():
            setting = BY_VARIABLE.get(variable)
            if setting:
                self.unread.discard(setting.key)  # what the file says does not count
                value = setting.kind.of_text(text)
                self._read(setting, variable, value, values, self.of_environment)
            elif variable == kek:
                pass
            elif variable.startswith(PREFIX) and not _NOT_SETTINGS.match(f"{variable}={text}"):
                hint = _meant_variable(variable) or "unset it"
                self.of_environment.append(
                    f"{label(variable)}: no such setting in the environment; {hint}"
                )
        return values

    def _read(
        self,
        setting: Setting,
        where: str,
        value: object,
        into: dict[str, Any],
        problems: list[str],
    ) -> None:
        try:
            into[setting.key] = setting.kind.read(value)
        except ValueError as error:
            told = "" if setting.is_secret else f"{quoted(value)} "
            problems.append(f"{where}: {told}{error}")
            self.unread.add(where if where.startswith("keyrings.") else setting.key)

    def rings(self, values: Mapping[str, Any], keyrings: object) -> tuple[RingConfiguration, ...]:
        """The ring at the top level, and those under `keyrings:`, which inherit its policy."""
        if not isinstance(keyrings, dict):
            self.problems.append(
                f"keyrings: {quoted(keyrings)} is not a mapping; write each ring's name, and its "
                "settings below it"
            )
            keyrings = {}
        inherited = _policy_values(values)
        top = values.get("name", DEFAULTS["name"])
        rings = [self._ring(top, inherited, "")]
        for name, given in keyrings.items():
            where = f"keyrings.{label(name)}"
            try:
                ring_name(name)
            except ValueError as error:
                self.problems.append(f"{where}: {error}")
            if name == top and "name" not in self.unread:
                self.problems.append(
                    f"{where}: is the name of the ring at the top level; rename one of them"
                )
            if given is not None and not isinstance(given, dict):
                self.problems.append(
                    f"{where}: {quoted(given)} is not a mapping; write settings below, or nothing"
                )
                continue
            own = self.values(given or {}, where=f"{where}.", policy_only=True)
            rings.append(self._ring(str(name), inherited | _policy_values(own), f"{where}."))
        return tuple(ring for ring in rings if ring)

    def _ring(self, name: str, values: Mapping[str, Any], where: str) -> RingConfiguration | None:
        """The ring, unless its policy contradicts itself or was not read whole."""
        if any(setting.policy for setting in map(BY_KEY.get, self.unread) if setting) or any(
            where and key.startswith(where) for key in self.unread
        ):
            return None
        policy = Policy.derive(**values)
        found = policy.problems()
        # What a ring inherits is told once, at the top level.
        self.problems += [where + problem for problem in found if problem not in self.problems]
        return None if found else RingConfiguration(name, policy, values)

    def contradictions(
        self,
        values: Mapping[str, Any],
        rings: Iterable[RingConfiguration],
        url: Secret,
        secrets: Mapping[str, Path],
    ) -> None:
        """What single values do not show, outside of the policies."""
        ttl: timedelta = values["lease_ttl"]
        for ring in rings if "lease_ttl" not in self.unread else ():
            if problem := ring.policy.lease_problem(ttl, ring.name):
                self.problems.append(problem)
        if "redis.password_file" in values and _embedded(url):
            self.problems.append(
                "redis.password_file: the embedded server has no password; remove it"
            )
        elif "redis.password_file" in values and has_password(url):
            self.problems.append(
                "redis.password_file: redis.url holds a password as well; remove one of them"
            )
        self._contradictions_of_tls(values, url)
        if values["files.signing_key"] and "files.directory" not in values:
            self.problems.append(
                "files.signing_key: there is no directory for it; set files.directory, or remove it"
            )
        first: dict[Path, str] = {}
        for key, path in secrets.items():
            if first.setdefault(path, key) != key:
                self.problems.append(
                    f"{key}: {quoted(str(path))} is what {first[path]} names; give each its file"
                )

    def _contradictions_of_tls(self, values: Mapping[str, Any], url: Secret) -> None:
        given = [key for key in _TLS if key in values]
        if given and url and not has_tls(url):
            self.problems.append(
                f"{given[0]}: redis.url has no TLS; write rediss:// there, or remove redis.tls"
            )
        of_tls = {key.rpartition(".")[2]: values.get(key) for key in _TLS}
        if problem := Tls(**of_tls).problem():
            self.problems.append(f"redis.tls.{problem}")


def _flattened(document: object, problems: list[str]) -> tuple[dict[object, object], object]:
    """The document with `redis: {url: …}` as `redis.url`, and `keyrings` apart from it."""
    if not isinstance(document, dict):
        # Never quoted: the file may be one that holds a password.
        kind = "a list" if isinstance(document, list) else "a single value"
        what = "is empty" if document is None else f"is {kind}, not keys and values"
        problems.append(
            f"the configuration {what}; start from the config.yaml that ships with ringkeeper"
        )
        return {}, {}
    flat: dict[object, object] = {}
    keyrings: object = {}
    for key, value in document.items():
        if key == "keyrings":
            keyrings = {} if value is None else value
        else:
            flat |= _flat(key, value, "", problems)
    return flat, keyrings


def _flat(key: object, value: object, above: str, problems: list[str]) -> dict[object, object]:
    """What stands at `key`, by its full names; `above` is what the key stands below."""
    full = f"{above}{label(key)}" if above else key
    if full in GROUPS and "." not in str(key):
        if isinstance(value, dict):
            below = [_flat(inner, given, f"{full}.", problems) for inner, given in value.items()]
            return {name: given for part in below for name, given in part.items()}
        if value is not None:
            problems.append(f"{full}: has a value of its own; write its settings below, indented")
        return {}
    if isinstance(key, str) and "." in key and (full in BY_KEY or full in GROUPS):
        inner, *outer = reversed(str(full).split("."))
        where = ", ".join(f"below {group}:" for group in outer)
        problems.append(f"{full}: is written in one; write {inner}: {where}, indented")
        return {}
    return {full: value}


def _unknown(key: object, *, policy_only: bool) -> str:
    if policy_only and key in BY_KEY:
        whose = "each app" if BY_KEY[str(key)].is_an_app_s else "the whole daemon"
        return f"is for {whose}, not for one ring; write it at the top level"
    if key == "verify":
        return 'no such setting; it is an argument: Keyring.from_config(…, verify="joserfc")'
    known = [setting.key for setting in SETTINGS if setting.policy or not policy_only]
    hint = meant(str(key) if isinstance(key, str) else "", [*known, "keyrings"])
    return f"no such setting; {hint or 'remove it'}"


def _meant_variable(variable: str) -> str:
    """Compared without what all begin with, which would make any two much the same."""
    names = {known.removeprefix(PREFIX): known for known in BY_VARIABLE}
    hint = meant(variable.removeprefix(PREFIX), names)
    for name, known in names.items():
        if hint == f"did you mean {name}?":
            return f"did you mean {known}?"
    return ""


def _policy_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        setting.policy: values[setting.key]
        for setting in SETTINGS
        if setting.policy and setting.key in values
    }


def _secret(
    name: str,
    told: Path | None,
    url: Secret,
    credentials: str | None,
    is_there: Callable[[Path], bool],
) -> Path:
    """Where it was told to be; else systemd's credential; else the usual folder."""
    if told:
        return told
    if credentials and is_there(Path(credentials) / name):
        return Path(credentials) / name
    return (_embedded(url) or _SECRETS_FOLDER) / name


def _is_handed_over(credential: Path) -> bool:
    """A blank one is systemd's word for none, where the unit has SetCredential= beside it."""
    try:
        with credential.open("rb") as file:
            return bool(file.read(_MOST_OF_A_SECRET).strip())
    except FileNotFoundError:
        return False
    except OSError:
        return True  # whoever reads it says why it cannot be read


def _embedded(url: Secret) -> Path | None:
    scheme, _, directory = url.reveal().partition(":")
    return Path(directory) if scheme == "embedded" else None


def _password(path: Path | None, problems: list[str]) -> Secret | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            password = file.read(_MOST_OF_A_SECRET).decode("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or "not UTF-8 text").lower()
        problems.append(
            f"redis.password_file: {quoted(str(path))} cannot be read ({why}); let this user read "
            "it, or name another"
        )
        return None
    if not password:
        problems.append(
            f"redis.password_file: {quoted(str(path))} is empty; write the password there"
        )
    return Secret(password)
