"""The `ringkeeper` command: exit 0 done, 1 refused or failed, 2 wrong usage.

`run` also exits 2 where its configuration cannot work, so that whoever supervises it need not try
again. Whatever fails says so in one line on standard error: what, why,
what to do.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import ringkeeperd.one_by_one  # noqa: F401  # isort: skip - before what it puts off
from ringkeeper.errors import ConfigurationError, RingkeeperError
from ringkeeperd import commands
from ringkeeperd.command_line.tree import parser
from ringkeeperd.misuse import Misused
from ringkeeperd.undumpable import leave_no_dumps

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    leave_no_dumps()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
    finally:  # --help and --version exit by themselves
        is_heard = _flushed()
    sys.exit(code if is_heard else code or 1)


def _flushed() -> bool:
    """Whether somebody took all that was answered; `head` goes when it has enough, disks are full.

    Else Python says so at exit, with a traceback and a status of its own.
    """
    is_heard = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            is_heard = is_heard and stream is sys.stderr  # a lost line of the log fails no daemon
    return is_heard


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = _parsed(arguments)
        code: int = parsed.run(parsed)
    except ConfigurationError as error:
        for problem in error.problems:
            commands.complain(problem)
        return _USAGE if arguments[:1] == ["run"] else 1
    except RingkeeperError as error:
        commands.complain(str(error))
        return _USAGE if isinstance(error, Misused) else 1
    except ModuleNotFoundError as error:
        commands.complain(
            f"{error.name} is not installed; the daemon and the command need an extra: "
            "pip install '/path/to/ringkeeper[daemon]', with the path of its source"
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return code


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What was given; what no command knows is told with the usage of the command it was given."""
    reader = parser(is_demo=arguments[:1] == ["demo"])
    parsed, unknown = reader.parse_known_args(arguments)
    if unknown:
        parsed.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


if __name__ == "__main__":
    main()
