"""Compile generated functions. No other module executes generated code."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping
from typing import Any

_BUILTINS = ("KeyError", "bool", "dict", "float", "int", "len", "str")
_UNSAFE = re.compile(r"[^\w\s.,:;=<>+*/%()\[\]{}!-]|__(?!class__)(?<!__class__)|\b(?:import|global|nonlocal|class)\b")


def define(name: str, lines: Iterable[str], names: Mapping[str, object], *, about: str) -> Any:
    """Compile generated code, and return the function `name` that it defines.

    The code may have numbers, operators and names, but no quotes. So a text from outside, such as a column's name, can
    never become code; it can only be a value in `names`. Each name must be in `names`, defined in the code, or one of a
    few harmless builtins.

    Args:
        lines: The lines of the code: the `def` of the function and its body.
        names: The global variables that the code may use.
        about: What the code computes, shown in tracebacks.

    Raises:
        ValueError: The code has anything else, which is a bug in the caller.

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
    # remove the function from its own globals: only the garbage collector would free this cycle
    return scope.pop(name)
