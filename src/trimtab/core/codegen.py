"""Compilation of generated functions: the one place that executes code written by code."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping
from typing import Any

_BUILTINS = ("KeyError", "bool", "dict", "float", "int", "len", "str")
_UNSAFE = re.compile(r"[^\w\s.,:;=<>+*/%()\[\]{}!-]|__(?!class__)(?<!__class__)|\b(?:import|global|nonlocal|class)\b")


def define(name: str, lines: Iterable[str], names: Mapping[str, object], *, about: str) -> Any:
    """The function `name` that the lines define.

    The text may hold numbers, operators and names. Quotes are refused, so a text of others (a column's name, say)
    can only come in as the value of a name. A name is one of `names`, of a few harmless builtins, or made in the text.

    Args:
        name: The function's.
        lines: Its `def` and body.
        names: What it may use: its globals.
        about: Shown in tracebacks.

    Raises:
        ValueError: The text holds something else; that is a bug of the caller.

    >>> define("scaled", ["def scaled(x):", "  return factor * x + 1"], {"factor": 3}, about="a scale")(2)
    7
    """
    text = "\n".join(lines)
    found = _UNSAFE.search(text)
    wrong = next((each for each in names if not each.isidentifier() or each.startswith("__")), None)
    if found is not None or wrong is not None:
        raise ValueError(f"{about}: generated code may not hold {wrong if found is None else found[0]!r}.")
    scope: dict[str, Any] = {**names, "__builtins__": {each: getattr(builtins, each) for each in _BUILTINS}}
    exec(compile(text, f"<{about}>", "exec"), scope)
    return scope.pop(name)  # a function that its own globals hold would wait for the collector
