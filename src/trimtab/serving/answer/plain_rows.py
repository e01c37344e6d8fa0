"""Generate fast checks for rows of Python values that need no conversion.  # D108"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from trimtab.core.codegen import define
from trimtab.core.columns.data import Dtype
from trimtab.core.time import DAY_US
from trimtab.events.formats.column_formats import null_test
from trimtab.features.definitions import Request

PlainCheck: TypeAlias = Callable[[Any], dict[str, Any] | None]

EARLY_US = 30 * DAY_US  # integers from 0 to this may be meant as seconds or milliseconds
YEAR_9999_US = 253_402_300_799_999_999

_PLAIN: dict[Dtype, str] = {  # by type: a test for values that need no conversion
    "float": "{v}.__class__ is float and -1e150 <= {v} <= 1e150",
    "int": f"{{v}}.__class__ is int and {-(2**63)} <= {{v}} <= {2**63 - 1}",
    "bool": "{v}.__class__ is bool",
    "str": "{v}.__class__ is str and {v}.isascii()",
    "time": f"{{v}}.__class__ is int and {EARLY_US} <= {{v}} <= {YEAR_9999_US}",
}


def plain_check(request: Request) -> PlainCheck:
    """Return a function that checks a simple row quickly.

    For a dict of exactly the declared columns, with values of Python's own types within their bounds, the function
    returns the same row as `RequestRows.check`. For any other row, it returns None, and the caller makes the full
    check. Such a row may be valid: it may have a text beyond ASCII, a date, or NaN for null.

    >>> from trimtab.features.definitions import request
    >>> check = plain_check(request("visit", key="id", time="at", columns={"id": str, "x": float}))
    >>> check({"x": 1.5, "id": "a", "at": 1_700_000_000_000_000})
    {'id': 'a', 'x': 1.5, 'at': 1700000000000000}
    >>> check({"id": "a", "x": 1, "at": 1_700_000_000_000_000}) is None
    True
    """
    names = {f"n{number}": name for number, name in enumerate(request.columns)}
    nulls = request.source.reading.nulls
    bound = {**names, "is_null": null_test(nulls)} if nulls else names
    check: PlainCheck = define("check", _lines(request, names), bound, about=f"rows of request {request.name}")
    return check


def _lines(request: Request, names: dict[str, str]) -> list[str]:
    lines = [
        "def check(row):",
        f"  if row.__class__ is not dict or len(row) != {len(names)}: return None",
        f"  try: {'; '.join(f'v{name[1:]} = row[{name}]' for name in names)}",
        "  except KeyError: return None",
    ]
    for name, column in names.items():
        value = f"v{name[1:]}"
        plain = _PLAIN[request.columns[column]].format(v=value)
        if request.columns[column] == "str" and request.source.reading.nulls:
            plain = f"{plain} and not is_null({value})"
        if column == request.key and request.columns[column] == "str":
            plain = f"{value} and {plain}"
        if column not in (request.key, request.time, *request.source.reading.constants):
            plain = f"{value} is None or {plain}"
        lines.append(f"  if not ({plain}): return None")
    return [*lines, f"  return {{{', '.join(f'{name}: v{name[1:]}' for name in names)}}}"]
