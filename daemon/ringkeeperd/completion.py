"""What `ringkeeper completion SHELL` prints: a script that completes the command line in a shell.

Each holds all that it offers, so pressing Tab starts no Python. It knows commands, options, and
which values are files; the kids and rings of a Redis it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ringkeeperd.grammar import in_short, names_file, names_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ringkeeperd.grammar import Argument, Command, Option


def script(shell: str, grammar: Command) -> str:
    """The script for `shell`, one of `SHELLS`."""
    return _BY_SHELL[shell](grammar)


# --- bash ----------------------------------------------------------------------------------------

_BASH: Final = r"""# ringkeeper in bash 4.4 or newer; made by: ringkeeper completion bash
_ringkeeper() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command="" kind="" words="" word
    COMPREPLY=()
    if [[ $cur == "=" ]]; then # --option=value is three words to bash
        cur=""
    elif [[ $prev == "=" ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "${command:+$command }$word" in
        @PATHS@) command="${command:+$command }$word" ;;
        esac
    done
    case "$command $prev" in
@VALUES@
    esac
    if [[ -z $kind ]]; then
        case "$command" in
@WORDS@
        esac
        [[ $cur == -* ]] && kind="words"
    fi
    case "$kind" in
    file) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    folder) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    none) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
    esac
}
complete -F _ringkeeper ringkeeper
"""


def _bash(grammar: Command) -> str:
    values, words = [], []
    for command in grammar.all():
        path = " ".join(command.words)
        for option in command.options:
            if option.metavar:
                found = f'words="{" ".join(option.choices)}" kind=words'
                kind = found if option.choices else f"kind={_kind(option)}"
                flags = " | ".join(f'"{path} {flag}"' for flag in option.flags)
                values.append(f"    {flags}) {kind} ;;")
        offered = " ".join(_offered(command))
        is_file = any(names_file(argument.metavar) for argument in command.arguments)
        words.append(f'        "{path}") words="{offered}"{" kind=file" if is_file else ""} ;;')
    paths = " | ".join(f'"{" ".join(each.words)}"' for each in grammar.all() if each.words)
    text = _BASH.replace("@PATHS@", paths).replace("@VALUES@", "\n".join(values))
    return text.replace("@WORDS@", "\n".join(words))


def _kind(value: Option | Argument) -> str:
    if names_file(value.metavar):
        return "file"
    return "folder" if names_folder(value.metavar) else "none"


def _offered(command: Command) -> Iterable[str]:
    """The words that may come next."""
    yield from (below.words[-1] for below in command.commands)
    for argument in command.arguments:
        yield from argument.choices
    for option in command.options:
        yield from option.flags


# --- zsh -----------------------------------------------------------------------------------------

_ZSH: Final = """#compdef ringkeeper
# ringkeeper in zsh; made by: ringkeeper completion zsh

@FUNCTIONS@
if [[ $funcstack[1] == _ringkeeper ]]; then
    _ringkeeper "$@" # a file of that name in $fpath
else
    compdef _ringkeeper ringkeeper # it was sourced
fi
"""


def _zsh(grammar: Command) -> str:
    functions = "\n".join(_zsh_function(command) for command in grammar.all())
    return _ZSH.replace("@FUNCTIONS@", functions)


def _zsh_function(command: Command) -> str:
    specs = [_zsh_option(option) for option in command.options]
    lines = [f"{_zsh_name(command)}() {{"]
    if command.commands:
        lines += ["    local -a commands", "    local curcontext=$curcontext state line"]
        lines += ["    commands=("]
        lines += [
            f"        {_quoted(_no_colon(each.words[-1]) + ':' + _no_colon(in_short(each.text)))}"
            for each in command.commands
        ]
        lines += ["    )", "    _arguments -C \\"]
        lines += [f"        {spec} \\" for spec in specs]
        lines += ["        '1: :->command' '*:: :->rest'", "    case $state in"]
        lines += [
            "    command) _describe command commands ;;",
            "    rest)",
            "        case $line[1] in",
        ]
        lines += [f"        {each.words[-1]}) {_zsh_name(each)} ;;" for each in command.commands]
        lines += ["        esac ;;", "    esac"]
    else:
        specs += [_zsh_argument(argument) for argument in command.arguments]
        lines += ["    _arguments \\", " \\\n".join(f"        {spec}" for spec in specs)]
    return "\n".join([*lines, "}", ""])


def _zsh_name(command: Command) -> str:
    return "_".join(("_ringkeeper", *command.words))


def _zsh_option(option: Option) -> str:
    text = in_short(option.text).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    value = ""
    if option.metavar:
        value = f":{_no_colon(option.metavar)}:{_zsh_values(option)}"
    if len(option.flags) == 1:
        equals = "=" if option.metavar else ""
        return _quoted(f"{option.flags[0]}{equals}[{text}]{value}")
    return f"'({' '.join(option.flags)})'{{{','.join(option.flags)}}}{_quoted(f'[{text}]{value}')}"


def _zsh_argument(argument: Argument) -> str:
    colons = ":" if argument.is_required else "::"
    return _quoted(f"{colons}{_no_colon(argument.metavar)}:{_zsh_values(argument)}")


def _zsh_values(value: Option | Argument) -> str:
    if value.choices:
        return f"({' '.join(value.choices)})"
    return {"file": "_files", "folder": "_files -/", "none": " "}[_kind(value)]


def _no_colon(text: str) -> str:
    return text.replace(":", "\\:")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish ----------------------------------------------------------------------------------------

_FISH: Final = """# ringkeeper in fish; made by: ringkeeper completion fish
function __ringkeeper_at
    set -l found ""
    for word in (commandline -opc)[2..-1]
        set -l longer (string trim -- "$found $word")
        contains -- "$longer" @PATHS@; and set found $longer
    end
    test "$found" = "$argv"
end
complete -c ringkeeper -f
"""


def _fish(grammar: Command) -> str:
    paths = " ".join(_for_fish(" ".join(each.words)) for each in grammar.all() if each.words)
    lines = [_FISH.replace("@PATHS@", paths)]
    for command in grammar.all():
        at = f"complete -c ringkeeper -n {_for_fish(' '.join(('__ringkeeper_at', *command.words)))}"
        for below in command.commands:
            text = _for_fish(in_short(below.text))
            lines.append(f"{at} -a {_for_fish(below.words[-1])} -d {text}\n")
        for argument in command.arguments:
            if argument.choices:
                lines.append(f"{at} -a {_for_fish(' '.join(argument.choices))}\n")
            elif names_file(argument.metavar):
                lines.append(f"{at} -F\n")
        for option in command.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in option.flags
            )
            lines.append(
                f"{at} {flags}{_fish_value(option)} -d {_for_fish(in_short(option.text))}\n"
            )
    return "".join(lines)


def _fish_value(option: Option) -> str:
    if not option.metavar:
        return ""
    if option.choices:
        return f" -x -a {_for_fish(' '.join(option.choices))}"
    kinds = {"file": " -r -F", "folder": " -x -a '(__fish_complete_directories)'", "none": " -x"}
    return kinds[_kind(option)]


def _for_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_BY_SHELL: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}
SHELLS: Final = tuple(_BY_SHELL)
