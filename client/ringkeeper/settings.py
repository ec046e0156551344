"""The settings: each stands once in `SETTINGS`, with its key, its reader, its default and its why.

`configuration` puts them together; the environment's names and docs/configuration.md come from
here. Readers judge one value at a time. No message quotes a setting that is secret, nor anything
in a URL that may be a password.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ringkeeper.algorithms import ALGORITHMS, RSA_BITS, RSA_SIZES
from ringkeeper.durations import parse_duration
from ringkeeper.kek_variable import ENV
from ringkeeper.layout import DEFAULT_NAME, is_ring_name
from ringkeeper.redis_url import check_url
from ringkeeper.secret import Secret
from ringkeeper.token_cache import DEFAULT_ENTRIES, MOST_ENTRIES, checked_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PREFIX: Final = "RINGKEEPER_"
_LONGEST: Final = timedelta(days=3660)
_LONGEST_SHOWN: Final = 10**30  # Python refuses to print integers of thousands of digits


# --- what a message may show ---------------------------------------------------------------------


def quoted(value: object) -> str:
    """`value` for a message: one short line, and never what may be a password."""
    match value:
        case str():
            return repr(_without_secrets(value)[:60])
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() if abs(value) > _LONGEST_SHOWN:
            return "a huge number"
        case int() | float():
            return str(value)
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def label(key: object) -> str:
    """A key as a message names it."""
    return quoted(key)[1:-1] if isinstance(key, str) and key else quoted(key)


def meant(key: str, known: Iterable[str]) -> str:
    """Which of the `known` names was meant by `key`, as a question; empty if none is like it."""
    import difflib  # noqa: PLC0415 - for whoever mistypes one

    close = difflib.get_close_matches(key[:80], list(known), 1, 0.6)
    return f"did you mean {close[0]}?" if close else ""


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
        if not 0 < value < math.inf:  # NaN is neither
            raise ValueError(f"is not a finite number above 0; write {wanted}")
        if value > _LONGEST / unit:
            raise ValueError(f"is longer than ten years; write {wanted}")
        duration = timedelta(milliseconds=round(value * (unit / timedelta(milliseconds=1))))
        if not duration:
            raise ValueError(f"is shorter than a millisecond; write {wanted}")
        return duration

    return read


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
        raise ValueError("is neither true nor false; write one of them")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text; put it in quotes")
    if not value.strip() or not value.isprintable():
        raise ValueError("is not a line of text; write one, or leave the setting out")
    return value


def ring_name(value: object) -> str:
    """`value`, if it may name a ring."""
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
    return str(value)


def _hook_url(value: object) -> Secret:
    wanted = "write one such as http://127.0.0.1:8080/keys-changed"
    try:
        parts = urlsplit(_text(value))
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or " " in str(value):
        raise ValueError(f"is not an http or https URL; {wanted}")
    return Secret(str(value))


def _command(value: object) -> tuple[str, ...]:
    """A program and its arguments; no shell reads it."""
    wanted = "write a program and its arguments: [touch, /run/ringkeeper/changed]"
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"has a quote that does not end; {wanted}") from None
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise ValueError(f"is not words alone; {wanted}")
    if not words or not words[0] or any("\0" in word for word in words):
        raise ValueError(f"names no program; {wanted}")
    return tuple(words)


def _group(value: object) -> str:
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(name, str) or not re.fullmatch(r"[a-z_][a-z0-9_.-]*\$?|[0-9]{1,9}", name):
        raise ValueError("is no group; write a name as in /etc/group, or a number")
    return name


def _redis_url(value: object) -> Secret:
    return check_url(_text(value))


def _kek(value: object) -> Path | str:
    """A path, or `env:NAME` as it is: who has the environment looks there."""
    text = _text(value)
    if not text.startswith(ENV):
        return Path(text)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text.removeprefix(ENV)):
        raise ValueError("names no environment variable; write e.g. env:KEK_JWK, or a path")
    return text


def _listen(value: object) -> tuple[str, int]:
    wanted = "write host:port, e.g. 127.0.0.1:9465 or [::1]:9465"
    if re.fullmatch(r"[0-9]+", str(value)[:9]):
        raise ValueError(f"is a port alone; {wanted}")
    host, _, port = _text(value).rpartition(":")
    bracketed = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]", host)
    if not bracketed and not re.fullmatch(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}", host):
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


def _rsa_size(value: object) -> int:
    if isinstance(value, bool) or value not in RSA_SIZES:
        raise ValueError(f"is not offered; use one of {', '.join(map(str, RSA_SIZES))}")
    return int(str(value).partition(".")[0])


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


_SIGNALS: Final = ("HUP", "USR1", "USR2", "WINCH", "INT", "TERM")
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
    is_an_app_s: bool = False
    """Whether apps alone look at it, where they read the file, each when it starts."""
    is_secret: bool = False
    """Whether it may hold a password: then no message quotes it."""

    @property
    def variable(self) -> str:
        """The environment variable that overrides it; SuperTokens' three keep their own names."""
        name = self.key.upper().replace(".", "__")
        return name if self.key in _SUPERTOKENS else PREFIX + name

    @property
    def attribute(self) -> str:
        """What holds it in `Configuration`, unless it belongs to a policy."""
        return self.key.replace(".", "_")


def _rule(
    key: str, kind: Kind, default: str, why: str, *, policy: str = "", otherwise: str = ""
) -> Setting:
    """A setting of the policy, under its own name unless told otherwise."""
    return Setting(
        key=key,
        kind=kind,
        default=default,
        why=why,
        otherwise=otherwise,
        policy=policy or key,
        is_live=True,
    )


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
        is_secret=True,
        otherwise="must be set",
        why="Where daemons and apps meet: `redis://`, `rediss://` (TLS), `unix://`, Sentinels or a "
        "Cluster ([all of them](redis.md)), or `embedded:DIR` for a private server in DIR.",
    ),
    Setting(
        key="redis.password_file",
        kind=_PATH,
        otherwise="none",
        why="A file with the password, so that it stands in no URL.",
    ),
    Setting(
        key="redis.tls.ca_file",
        kind=_PATH,
        otherwise="the system's CAs",
        why="The CA, in PEM, that signs Redis' certificate: then no other is trusted.",
    ),
    Setting(
        key="redis.tls.cert_file",
        kind=_PATH,
        otherwise="none",
        why="The certificate, in PEM, to show to a Redis that asks for one (`tls-auth-clients`).",
    ),
    Setting(
        key="redis.tls.key_file",
        kind=_PATH,
        otherwise="none",
        why="Its private key, unencrypted, and closed to others as the secrets are.",
    ),
    Setting(
        key="name",
        kind=Kind("ring name", ring_name),
        default=DEFAULT_NAME,
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
        "rsa_key_size",
        Kind("bits, one of " + ", ".join(map(str, RSA_SIZES)), _rsa_size, _number_in),
        str(RSA_BITS),
        "The size of fresh RSA keys. A larger one costs every signature and verification: 4096 "
        "bits some six times as much as 2048 to sign.",
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
        _DURATION,
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
        kind=Kind("path, or env:NAME", _kek),
        otherwise="`kek.jwk`, see below",
        why="The key that seals the private keys in Redis. Daemons that lead and apps that sign "
        "have it. `env:NAME` reads it from that variable: [better not](#the-kek-in-a-variable).",
    ),
    Setting(
        key="state_dir",
        kind=_PATH,
        otherwise="where the embedded server is, what systemd names, `/var/lib/ringkeeper`",
        why="Where the daemon keeps each ring as it knows it, sealed, to heal a Redis that lost "
        "its data.",
    ),
    Setting(
        key="cache_dir",
        kind=_PATH,
        otherwise="none",
        why="Where an app keeps the ring, sealed, so that it starts while Redis is away; each app "
        "its own.",
        is_an_app_s=True,
    ),
    Setting(
        key="token_cache",
        kind=Kind(f"number up to {MOST_ENTRIES}", checked_size, _number_in),
        default=str(DEFAULT_ENTRIES),
        why="How many verified tokens an app remembers, so that their signatures are not checked "
        "again; whether a token counts is asked each time. In all up to 4 KiB of memory for each; "
        "0: none.",
        is_an_app_s=True,
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
        key="refreshes_token_file",
        kind=_PATH,
        otherwise="none",
        why="A file with a bearer token of 32 characters or more, closed to others: who has it may "
        "`POST /v1/refreshes`. Without one only this host may.",
    ),
    Setting(
        key="files.directory",
        kind=_PATH,
        otherwise="none",
        why="Where the daemon keeps `jwks.json` for apps in any language; further rings below "
        "`rings/NAME/` ([files](files.md)).",
    ),
    Setting(
        key="files.signing_key",
        kind=_FLAG,
        default="false",
        why="Whether the key that signs stands there, too: `signing-key.pem` and "
        "`signing-key.jwk`, mode 0600. A daemon that only follows then needs the KEK.",
    ),
    Setting(
        key="files.group",
        kind=Kind("name or number of a group", _group),
        otherwise="none",
        why="Whose members may read the signing key there, which then has mode 0640. The daemon "
        "must be one of them.",
    ),
    Setting(
        key="files.signing_key_on_disk",
        kind=_FLAG,
        default="false",
        why="Whether it may stand on a disk; else the directory must be in memory (tmpfs).",
    ),
    Setting(
        key="on_change.command",
        kind=Kind("a program and its arguments", _command),
        otherwise="none",
        why="What to run, without a shell, after a ring changed here: `[touch, "
        "/run/ringkeeper/changed]`. It is told `RINGKEEPER_RING`, `_VERSION`, `_SIGNER` and "
        "`_FILES`.",
    ),
    Setting(
        key="on_change.pid_file",
        kind=_PATH,
        otherwise="none",
        why="Where the number of a process stands that is then sent a signal.",
    ),
    Setting(
        key="on_change.signal",
        kind=Kind("HUP, USR1, USR2, WINCH, INT or TERM", _one_of(*_SIGNALS)),
        default="HUP",
        why="Which one.",
    ),
    Setting(
        key="on_change.url",
        kind=Kind("URL", _hook_url),
        is_secret=True,
        otherwise="none",
        why="Where ring, version and the signing key's kid are then posted as JSON; 2xx is wanted.",
    ),
    Setting(
        key="on_change.timeout",
        kind=_DURATION,
        default="10s",
        why="How long each of these may take. What fails is tried again until it works.",
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
BY_KEY: Final = {setting.key: setting for setting in SETTINGS}
BY_VARIABLE: Final = {setting.variable: setting for setting in SETTINGS}
GROUPS: Final = frozenset(
    key[:at] for key in BY_KEY for at, character in enumerate(key) if character == "."
)
DEFAULTS: Final = {
    setting.key: setting.kind.read(setting.kind.of_text(setting.default))
    for setting in SETTINGS
    if setting.default and not setting.policy
}


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
