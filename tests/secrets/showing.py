"""Every way in which a program may show or hand over an object, without asking it nicely."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import pprint
from collections.abc import Callable
from typing import Any

WAYS: dict[str, Callable[[Any], Any]] = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value!r:>9} {value!s:.500} {value!a}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 - that is one of the ways
    "pprint": pprint.pformat,
    "pickle": pickle.dumps,
    "pickle, protocol 0": lambda value: pickle.dumps(value, protocol=0),
    "copy": lambda value: repr(copy.copy(value)),
    "deepcopy": lambda value: repr(copy.deepcopy(value)),
    "asdict": lambda value: repr(dataclasses.asdict(value)),
    "astuple": lambda value: repr(dataclasses.astuple(value)),
    "vars": lambda value: repr(vars(value)),
    "slots": lambda value: repr(
        [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    ),
    "dir": lambda value: repr([getattr(value, name) for name in dir(value)]),
    "json": lambda value: json.dumps(value, default=repr),
    "json of vars": lambda value: json.dumps(value, default=vars),
    "iteration": lambda value: repr([*value]),
    "in an exception": lambda value: repr(ValueError(value)),
    "in a container": lambda value: repr({"a": [value, (value,)]}),
}


def shown(value: Any) -> dict[str, bytes]:
    """What each way shows of `value`; a refusal counts as what it says."""
    return {way: _shown(show, value) for way, show in WAYS.items()}


def _shown(show: Callable[[Any], Any], value: Any) -> bytes:
    try:
        result = show(value)
    except Exception as error:
        return repr(error).encode()
    return result if isinstance(result, bytes) else str(result).encode()
