"""The reference that code writes: the commands, the errors, the Python names, HTTP.

Signatures and docstrings are read from the source, so nothing is imported that is not there: no
framework is needed to say what the helper for it takes.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from ringkeeper import errors
from ringkeeper.errors import InfrastructureError, RefreshReason, RingkeeperError, TokenError
from ringkeeper.gate import Gate, Refused
from ringkeeper.layout import DEFAULT_NAME
from ringkeeper.middleware import METHOD, ROUTE
from ringkeeper.token_cache import DEFAULT_ENTRIES
from ringkeeperd.command_line.tree import parser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Definition = ast.FunctionDef | ast.AsyncFunctionDef

# --- docs/cli.md ---------------------------------------------------------------------------------

_REFUSED: Final = "it was refused, or failed"
_EXIT_1: Final = {
    "check": "something is wrong; with `--alive`, `--ready`: the daemon here says no, or nothing",
    "doctor": "something is to be mended: a line says `fail`",
    "init": "nothing was made: something is wrong, or a ring exists (but see `--if-missing`)",
    "rewrap": "it was refused; with `--check`: a former KEK or root is still needed",
    "watch": "it could not be read; with `--no-follow`: the audit is not whole",
    "backup": "anything of it is not as it should be",
    "restore": "the leader took nothing, or not all of it",
    "plan": "it would break a promise; the numbers are told",
    "demo": "a good token was rejected, or the demo did not come about",
    "token verify": "the token is not good",
    "run": "it cannot begin now: a secret is missing, say, or Redis' data is another ring's",
}
_EXIT_2: Final = {"run": "wrong usage, or a configuration that cannot work"}


def commands() -> str:
    """Every command: what it does, what it takes, what its exit status means."""
    return "\n\n".join(_command(name, sub) for name, sub in subcommands(parser(is_demo=True)))


def subcommands(
    parser: argparse.ArgumentParser, before: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command by its whole name, but for those that only have others below."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, sub in action.choices.items():
                yield from subcommands(sub, f"{before} {name}".strip())
            return
    yield before, parser


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    actions = [each for each in parser._actions if each.dest != "help"]  # noqa: SLF001
    lines = [f"## ringkeeper {name}", "", parser.description or "", ""]
    lines += ["```text", _usage(name, parser, actions), "```", ""]
    told = [each for each in actions if each.dest != "config"]  # the page says it once
    if told:
        lines += ["| | |", "|---|---|"]
        lines += [f"| {_spelt(each)} | {_cell(_help(each))} |" for each in told]
        lines += [""]
    if parser.epilog:
        lines += [parser.epilog, ""]
    first, second = _EXIT_1.get(name, _REFUSED), _EXIT_2.get(name, "wrong usage")
    return "\n".join([*lines, f"Exit: 0 done; 1 {first}; 2 {second}."])


def _usage(name: str, parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    """One line of usage, broken where it is long; argparse's own differs by version."""
    groups = parser._mutually_exclusive_groups  # noqa: SLF001
    of_group = {id(each): group for group in groups for each in group._group_actions}  # noqa: SLF001
    words, done = [], set()
    for action in sorted(actions, key=lambda each: not each.option_strings):
        if id(action) in done:
            continue
        group = of_group.get(id(action))
        members = group._group_actions if group else [action]  # noqa: SLF001
        done |= {id(each) for each in members}
        word = " | ".join(_argument(each) for each in members)
        is_needed = action.required if action.option_strings else action.nargs != "?"
        words.append(word if is_needed else f"[{word}]")
    lines, line = list[str](), f"ringkeeper {name}"
    for word in words:
        if len(f"{line} {word}") > 96:  # noqa: PLR2004 - a line
            lines, line = [*lines, line], " " * 10
        line = f"{line} {word}"
    return "\n".join([*lines, line])


def _argument(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return value
    return f"{action.option_strings[-1]} {value}".strip()


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices:
        return "{" + ",".join(str(each) for each in action.choices) + "}"
    metavar = action.metavar
    told = metavar[0] if isinstance(metavar, tuple) else metavar
    if action.option_strings and action.nargs == "?":
        return f"[{told}]"
    return told or (action.dest.upper() if action.option_strings else action.dest)


def _spelt(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{each} {value}`".replace(" `", "`") for each in action.option_strings)


def _help(action: argparse.Action) -> str:
    told = (action.help or "") % {"default": action.default, "prog": "ringkeeper"}
    return f"{told} (needed)" if action.option_strings and action.required else told


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


# --- docs/errors.md ------------------------------------------------------------------------------


def error_table() -> str:
    """Every error with what it means, what a stranger is told, and what is answered for it."""
    rows = ["| error | when | public | reason | answer |", "|---|---|---|---|---|"]
    for error, depth in hierarchy():
        reason = f"`{error.reason.value}`" if issubclass(error, TokenError) else ""
        first = inspect.cleandoc(error.__doc__ or "").split("\n\n")[0]
        cells = (
            f"{'&emsp;' * depth}`{error.__name__}`",
            _cell(first),
            f"`{error.public}`",
            reason,
            answer(error),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def hierarchy() -> Iterator[tuple[type[RingkeeperError], int]]:
    """Every error and how deep it stands, in the order in which the module tells them."""
    known = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, RingkeeperError)
    ]

    def below(error: type[RingkeeperError], depth: int) -> Iterator[tuple[type[Any], int]]:
        yield error, depth
        for each in known:
            if each.__bases__[0] is error:
                yield from below(each, depth + 1)

    yield from below(RingkeeperError, 0)


def answer(error: type[RingkeeperError]) -> str:
    """What `ringkeeper.gate` answers where `verify` raises it: it is asked."""
    if not issubclass(error, TokenError | InfrastructureError):
        return ""
    raised = error("")

    class _Ring:
        def verify(self, *_: object, **__: object) -> dict[str, Any]:
            raise raised

        def record_refresh(self, reason: object) -> None: ...

        def retry_after(self) -> int:
            return 0

    log = logging.getLogger("ringkeeper")  # which would tell of each
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        Gate(_Ring()).admit("Bearer token")  # type: ignore[arg-type]
    except Refused as refused:
        return str(int(refused.status))
    finally:
        log.setLevel(level)
    raise AssertionError(error)


# --- docs/api.md ---------------------------------------------------------------------------------

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ringkeeper.keyring": ("Keyring",),
    "ringkeeper.tls": ("Tls",),
    "ringkeeper.asyncio": ("Keyring",),
    "ringkeeper.tokens": ("issue", "verify", "kid_in"),
    "ringkeeper.token_cache": ("CacheStatistics",),
    "ringkeeper.gate": ("Gate", "Refused", "token_in"),
    "ringkeeper.middleware": (
        "RequireToken",
        "RequireTokenWsgi",
        "CountRefreshes",
        "CountRefreshesWsgi",
    ),
    "ringkeeper.fastapi": ("RingBearer", "unavailable"),
    "ringkeeper.flask": ("TokenRequired", "unavailable"),
    "ringkeeper.django": ("ring", "use", "gate", "token_required", "answer_to"),
    "ringkeeper.rest_framework": ("RingAuthentication", "TokenUser"),
    "ringkeeper.pyjwt": ("RingJWKClient",),
    "ringkeeper.joserfc": ("keys_of",),
    "ringkeeper.authlib": ("keys_of",),
    "ringkeeper.testing": ("MemoryKeyring", "AsyncMemoryKeyring"),
}
"""What an app may import, by the module that has it; docs/errors.md has the errors."""
_SHOWN_AS: Final = {
    "ringkeeper.keyring": "ringkeeper",
    "ringkeeper.tls": "ringkeeper",
    "MemoryKeyring": "keyring",
    "AsyncMemoryKeyring": "keyring_async",
}
_CONSTANTS: Final = {
    "DEFAULT_NAME": DEFAULT_NAME,
    "DEFAULT_ENTRIES": DEFAULT_ENTRIES,
    "ROUTE": ROUTE,
    "METHOD": METHOD,
    "RefreshReason.OTHER": RefreshReason.OTHER.value,
}
_DUNDERS: Final = ("__init__", "__call__")
_SIGNATURE: Final = 88


def names() -> str:
    """Every public Python name with its signature and what its docstring says."""
    parts = []
    for module, wanted in NAMES.items():
        tree = ast.parse(_source(module))
        shown = _SHOWN_AS.get(module, module)
        if shown == module:
            parts += [f"## {module}", _prose(ast.get_docstring(tree) or "")]
        elif f"## {shown}" not in parts:
            whole = ast.parse(_source(shown))
            parts += [f"## {shown}", _prose(ast.get_docstring(whole) or "")]
        top = {each.name: each for each in tree.body if isinstance(each, Definition | ast.ClassDef)}
        for name in wanted:
            parts += _documented(shown, _SHOWN_AS.get(name, name), top[name], top)
    return "\n\n".join(part for part in parts if part)


def _source(module: str) -> str:
    # Found, not imported: its framework may be absent.
    package = importlib.util.find_spec("ringkeeper")
    assert package and package.submodule_search_locations  # noqa: S101, PT018 - we run in it
    folder = Path(package.submodule_search_locations[0])
    name = module.removeprefix("ringkeeper").removeprefix(".") or "__init__"
    return (folder / f"{name}.py").read_text("utf-8")


def _documented(
    module: str, name: str, node: ast.stmt, top: dict[str, Any], within: str = ""
) -> list[str]:
    """A heading, the signature, the docstring; of a class also its methods and properties."""
    whole = f"{within}{name}"
    if isinstance(node, ast.ClassDef):
        members = _members(node, top)
        init = members.get("__init__")
        parts = [f"### {module}.{whole}"]
        if init is not None and not _is_of_library(init):
            parts += [_fenced(_signature(whole, init, drops_self=True))]
        parts += [_prose(ast.get_docstring(node) or "")]
        if init is not None and not _is_of_library(init):
            parts += [_prose(ast.get_docstring(init) or "")]
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        parts += [_fields(node, fields)] if fields else []
        for member in members.values():
            if member.name != "__init__":
                parts += _documented(module, member.name, member, top, f"{whole}.")
        return parts
    assert isinstance(node, Definition)  # noqa: S101 - there is nothing else
    decorators = [ast.unparse(each) for each in node.decorator_list]
    told = _signature(whole, node, drops_self=bool(within), is_property="property" in decorators)
    heading = [] if within else [f"### {module}.{whole}"]
    return [*heading, _fenced(told), _prose(ast.get_docstring(node) or "")]


def _members(node: ast.ClassDef, top: dict[str, Any]) -> dict[str, Definition]:
    """Its public methods, those of bases in the same module first."""
    found: dict[str, Definition] = {}
    for base in node.bases:
        inner = base.value if isinstance(base, ast.Subscript) else base
        parent = top.get(inner.id) if isinstance(inner, ast.Name) else None
        if isinstance(parent, ast.ClassDef):
            found |= _members(parent, top)
    found |= {
        each.name: each
        for each in node.body
        if isinstance(each, Definition) and (not each.name.startswith("_") or each.name in _DUNDERS)
    }
    return found


def _is_of_library(init: Definition) -> bool:
    """Whether only the library itself calls it: a keyring is made with `connect`."""
    return [each.arg for each in init.args.args] == ["self", "connection"]


def _fields(node: ast.ClassDef, fields: list[ast.AnnAssign]) -> str:
    told = dict(zip(node.body, [*node.body[1:], None], strict=True))
    lines = []
    for field in fields:
        after = told[field]
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = f": {' '.join(str(after.value.value).split())}"
        default = f" = {ast.unparse(field.value)}" if field.value else ""
        lines.append(
            f"- `{ast.unparse(field.target)}: {ast.unparse(field.annotation)}{default}`{text}"
        )
    return "\n".join(lines)


def _signature(name: str, node: Definition, *, drops_self: bool, is_property: bool = False) -> str:
    arguments = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(arguments, Definition)  # noqa: S101 - a copy of it
    args = arguments.args
    if drops_self:
        args.args = args.args[1:]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    if is_property:
        return f"{name}{returns.replace(' -> ', ': ')}"
    begin = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
    parts = _split(ast.unparse(args))
    line = f"{begin}{name}({', '.join(parts)}){returns}"
    if len(line) <= _SIGNATURE:
        return line
    return "\n".join([f"{begin}{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def _split(arguments: str) -> list[str]:
    """The arguments one by one; commas in brackets part none."""
    parts, depth, word = list[str](), 0, ""
    for name, value in _CONSTANTS.items():
        arguments = arguments.replace(f"={name}", f"={value!r}")
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts, word = [*parts, word], ""
        else:
            word += character
    whole = [each.strip() for each in (*parts, word) if each.strip()]
    return [each.replace("=", " = ", 1) if ": " in each else each for each in whole]


def _prose(docstring: str) -> str:
    """A docstring as Markdown: what it may raise as a list, its examples as Python."""
    paragraphs = []
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        if paragraph.startswith("Raises:\n"):
            paragraphs.append("Raises:\n\n" + "\n".join(_raised(paragraph)))
        elif paragraph.startswith("    "):
            is_more = bool(paragraphs) and paragraphs[-1].endswith("```")
            code = inspect.cleandoc("\n" + paragraph)
            former = paragraphs.pop()[: -len("\n```")] + "\n\n" if is_more else "```python\n"
            paragraphs.append(f"{former}{code}\n```")
        else:
            # A line for each argument that is explained begins with its name.
            paragraphs.append(re.sub(r"\n(?=`\w+`(?:, `\w+`)*: )", "\n\n", paragraph))
    return "\n\n".join(paragraphs)


def _raised(paragraph: str) -> Iterable[str]:
    text = "\n".join(line[4:] for line in paragraph.splitlines()[1:])
    for entry in re.split(r"\n(?=\S)", text):
        named, _, when = " ".join(entry.split()).partition(": ")
        yield f"- {', '.join(f'`{each}`' for each in named.split(', '))}: {when}"


def _fenced(code: str) -> str:
    # Not "python": that is what can be run.
    return f"```py\n{code}\n```"


# --- docs/http.md --------------------------------------------------------------------------------

OPENAPI: Final = Path(__file__).parent / "openapi.yaml"


def over_http() -> str:
    """What docs/openapi.yaml says, in words."""
    document = yaml.safe_load(OPENAPI.read_text("utf-8"))
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += [f"## {method.upper()} {path}", operation["description"].strip()]
            if rows := [*_parameters(document, operation), *_sent(operation)]:
                parts += ["\n".join(["| it takes | where | |", "|---|---|---|", *rows])]
            rows = list(_answers(document, operation))
            parts += ["\n".join(["| status | type | |", "|---|---|---|", *rows])]
    return "\n\n".join(parts)


def referred(document: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What `given` is, or refers to."""
    if "$ref" not in given:
        return given
    found = document
    for name in given["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def _parameters(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[str]:
    for given in operation.get("parameters", []):
        each = referred(document, given)
        yield f"| `{each['name']}` | {each['in']} | {_cell(each['description'].strip())} |"


def _sent(operation: dict[str, Any]) -> Iterator[str]:
    body = operation.get("requestBody")
    if body:
        for kind in body["content"]:
            yield f"| `{kind}` | body | {_cell(body['description'].strip())} |"


def _answers(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[str]:
    for status, given in operation["responses"].items():
        answered = referred(document, given)
        kinds = ", ".join(f"`{kind}`" for kind in answered.get("content", {}))
        yield f"| {status} | {kinds} | {_cell(' '.join(answered['description'].split()))} |"
