"""A YAML file that holds a configuration, read strictly: what misleads is refused, in one line.

Nothing is loaded for it before it is asked for: apps that are configured in code need no PyYAML.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ringkeeper.errors import ConfigurationError
from ringkeeper.settings import label

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT: Final = 256 * 1024
"""Bytes: a configuration is a page or two."""


def read(path: Path, problems: list[str]) -> object:
    """The document in the file; keys that stand twice are added to `problems`.

    Raises:
        ConfigurationError: the file cannot be read, or is no such YAML.
    """
    text = _read_text(path)
    try:
        import yaml  # noqa: PLC0415 - apps that are configured in code do without it
    except ImportError:
        raise ConfigurationError(
            ["reading a configuration file needs PyYAML: pip install pyyaml, or use from_env"]
        ) from None
    twice: list[str] = []
    try:
        document: object = yaml.load(text, _loader(twice))  # noqa: S506 - a SafeLoader
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n"), error.position - (before.rfind("\n") + 1)
        raise _no_yaml(path, line, column, "a character that may not stand here") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        # What a scanner quotes may be part of a password that nobody put in quotes.
        why = re.sub(r"'(?!<)[^']{2,}'", "…", error.problem or error.context or "no YAML")
        if mark and text[mark.index : mark.index + 1] == "\t":
            why = "a tab, where YAML wants spaces"
        raise _no_yaml(path, line, column, why) from None
    except (ValueError, OverflowError):
        # PyYAML passes on what `chr` says of an escape beyond Unicode, without the place.
        raise ConfigurationError(
            [f"{path}: an escape (\\U…) that is no character; correct it, or use single quotes"]
        ) from None
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


def _loader(twice: list[str]) -> Any:  # noqa: C901 - flat; all of it needs yaml imported
    """SafeLoader without what a configuration has no use for, and without what misleads.

    Aliases and merge keys (a page of them can grow to gigabytes), tags, numbers to any base but ten
    (24:00 would be 1440, 03600 would be 1920). A key that stands twice is noted in `twice`.
    """
    import yaml  # noqa: PLC0415 - see `read`

    def refuse(there: Any, why: str) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=why, problem_mark=there.start_mark)

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            loader: Any = self
            event: Any = loader.peek_event()
            if isinstance(event, yaml.AliasEvent):
                refuse(event, "aliases (*) are not read here: write it out, or quote it")
            if event.tag is not None:
                refuse(event, "tags (!) are not read here: leave it out, or quote it")
            return super().compose_node(parent, index)

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                refuse(key_node, "only a plain word may stand before the colon")
            key = loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                first = lines[key]
                twice.append(
                    f"line {line}: {label(key)} stands twice, first in line {first}; keep one"
                )
            lines.setdefault(key, line)
            result[key] = loader.construct_object(value_node, deep=True)
        return result

    def scalar(construct: Any) -> Any:
        def constructed(loader: Any, node: Any) -> Any:
            if node.tag.endswith(":int") and re.match(r"[-+]?0[0-9_bx]", node.value):
                refuse(
                    node,
                    "with a 0 in front YAML reads a number to base 8, 2 or 16: write it plain, or "
                    "quoted if it is text",
                )
            if ":" in node.value and not node.tag.endswith(":timestamp"):
                refuse(
                    node, "with a colon YAML reads a number to base 60: write it plain or quoted"
                )
            try:
                return construct(loader, node)
            except (ValueError, ArithmeticError):  # a date in month 13, a number of a mile
                refuse(node, "a value that cannot be read: quote it if it is text")

        return constructed

    safe: Any = yaml.SafeLoader
    tag = "tag:yaml.org,2002:"
    Loader.add_constructor(f"{tag}map", mapping)
    Loader.add_constructor(f"{tag}int", scalar(safe.construct_yaml_int))
    Loader.add_constructor(f"{tag}float", scalar(safe.construct_yaml_float))
    Loader.add_constructor(f"{tag}timestamp", scalar(safe.construct_yaml_timestamp))
    # As values, `=` and `<<` are text like any other.
    Loader.add_constructor(f"{tag}value", safe.construct_yaml_str)
    Loader.add_constructor(f"{tag}merge", safe.construct_yaml_str)
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
            [f"{path}: cannot be read ({why}); let this user read it, or name another"]
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
