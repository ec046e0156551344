"""Settings that a ring holds itself: they count more than any file does.

Files are edited host by host, and daemons may disagree for a while. What `ringkeeper set` asks for
is in the signed ring: it holds at once, whoever leads.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ringkeeper.errors import ConfigurationError
from ringkeeper.policy import Policy
from ringkeeper.settings import BY_KEY, SETTINGS, label, meant, quoted
from ringkeeper.wire import MAX_SETTING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ringkeeper.settings import Setting


@dataclass(frozen=True, slots=True)
class Rules:
    """What one daemon's files say of a ring's policy."""

    policy: Policy
    """What comes of the files alone."""
    given: Mapping[str, Any]
    """The values that stand in them, by the policy's names; the others are derived from these."""

    @classmethod
    def of(cls, policy: Policy, given: Mapping[str, Any] | None = None) -> Rules:
        """Files that say so; where `given` is None, they say all of it."""
        whole = {field.name: getattr(policy, field.name) for field in fields(Policy)}
        return cls(policy, whole if given is None else given)

    def under(self, overrides: Iterable[tuple[str, str]]) -> Policy:
        """The policy of a ring that has these settings of its own.

        Raises:
            ConfigurationError: they contradict the files, or cannot be read here.
        """
        own = {setting_named(key).policy: value_of(key, text) for key, text in overrides}
        if not own:
            return self.policy
        policy = Policy.derive(**{**self.given, **own})
        if problems := policy.problems():
            raise ConfigurationError(problems)
        return policy


def setting_named(key: str) -> Setting:
    """The setting of a ring's policy that is called `key`.

    Raises:
        ConfigurationError: there is none.
    """
    setting = BY_KEY.get(key)
    if setting and setting.policy:
        return setting
    if setting and setting.is_an_app_s:
        raise ConfigurationError(
            [f"{key} is for each app, and no rule of a ring; edit its configuration, restart it"]
        )
    if setting:
        raise ConfigurationError(
            [f"{key} is for the whole daemon, and no rule of a ring; edit the configuration"]
        )
    names = [setting.key for setting in SETTINGS if setting.policy]
    hint = meant(key, names) or f"there are {', '.join(names)}"
    raise ConfigurationError([f"{label(key)}: no such setting of a ring; {hint}"])


def value_of(key: str, text: str) -> Any:
    """What `text` means for the setting `key`.

    Raises:
        ConfigurationError: nothing.
    """
    kind = setting_named(key).kind
    if len(text) > MAX_SETTING:
        raise ConfigurationError([f"{key}: takes {MAX_SETTING} characters at the most; shorten it"])
    try:
        return kind.read(kind.of_text(text))
    except ValueError as error:
        raise ConfigurationError([f"{key}: {quoted(text)} {error}"]) from None
