"""Values as text for messages, results as lines for a screen, and sizes in bytes from and to text."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import msgspec

from trimtab.core.errors import Misuse

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*")
_SHOWN = 100  # characters of a value in a message
_WIDE = 97  # characters of a line, so that it has at most 100 together with the brackets and the comma of a list
_GAP = "…"


def shown(value: object) -> str:
    """Return the `repr` of a value. This never raises an error.

    >>> shown("x"), shown(10**20), shown(2**80_000)[:6]
    ("'x'", '100000000000000000000', '0x1000')
    """
    try:
        return repr(value)
    except Exception as error:  # the `__repr__` of a foreign class may raise any error
        if isinstance(value, int):
            return hex(value)  # Python refuses to write very large integers in decimal
        return f"<a {type(value).__name__} whose repr raises {type(error).__name__}>"


def size_bytes(text: str) -> int:
    """Return the bytes of a size such as "500MB", "20GB" (powers of 1,000) or "16GiB" (powers of 1,024), in any case.

    Raises:
        Misuse: The text is not a size.

    >>> size_bytes("1.5GB"), size_bytes("1 kib")
    (1500000000, 1024)
    """
    match = _SIZE.fullmatch(text) if isinstance(text, str) and len(text) <= _SHOWN else None
    units = {name.lower(): factor for name, factor in (_UNITS | _BINARY).items()}
    if match is None or match[2].lower() not in units:
        raise Misuse(
            f"size: {shown(text)[:_SHOWN]} is not a size. Write a number and one of the units "
            f'{", ".join((*_UNITS, *_BINARY))}: "20GB".'
        )
    return int(float(match[1]) * units[match[2].lower()])


def count_of(number: int, what: str) -> str:
    """Return a number of things in words. `what` is the word for one of them, with a plural in s.

    >>> count_of(1, "row"), count_of(2_500, "row"), count_of(0, "row")
    ('1 row', '2,500 rows', '0 rows')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def format_bytes(size: float) -> str:
    """Return a size as text with about three digits.

    >>> format_bytes(999), format_bytes(12_345_678)
    ('999 B', '12.3 MB')
    """
    for name, factor in reversed(_UNITS.items()):
        units = abs(size) / factor
        if units >= 0.9995 and factor > 1:  # `.3g` would write 999.5 or more of the next smaller unit as 1e+03
            return f"{size / factor:.3g} {name}" if units < 999.5 else f"{size / factor:,.0f} {name}"
    return f"{size:.0f} B"


class Shown:
    """A base of Structs that show themselves on lines of at most 100 characters, except for wide tables.

    The `repr` of a short Struct is the usual one. For a longer Struct, it is the Struct's text for people (`lines()`),
    or one line for each field, in which long values are shortened.

    >>> class Row(Shown, msgspec.Struct, frozen=True):
    ...     name: str
    ...     values: list[int]
    >>> Row("a", [1, 2]), Row("b", list(range(99)))
    (Row(name='a', values=[1, 2]), Row(
        name='b'
        values=list of 99 int
    ))
    """

    __slots__ = ()

    def __repr__(self) -> str:
        assert isinstance(self, msgspec.Struct)
        whole = msgspec.Struct.__repr__(self)
        if len(whole) <= _WIDE and "\n" not in whole:
            return whole
        lines = getattr(self, "lines", None)
        if callable(lines):
            return "\n".join(part for line in lines() for part in _wrapped(line))
        names = type(self).__struct_fields__
        fields = [f"    {name}={_brief(getattr(self, name), _WIDE - 5 - len(name))}" for name in names]
        return "\n".join([f"{type(self).__name__}(", *fields, ")"])


def _wrapped(line: str) -> list[str]:
    if "\n" in line:  # a table
        return line.split("\n")
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, _WIDE, subsequent_indent=indent, drop_whitespace=True) or [""]


def _brief(value: Any, room: int) -> str:
    """Return the `repr` of a value if there is room for it on the line, and otherwise its kind, size or beginning."""
    kind = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"array of {value.dtype}, shape {value.shape}"
    # with so many values, the `repr` would be too long
    if isinstance(value, list | tuple | set | frozenset | dict) and len(value) > room:
        return _counted(value)
    text = repr(value)
    if len(text) <= room and "\n" not in text:
        return text
    if isinstance(value, list | tuple | set | frozenset | dict):
        return _counted(value)
    if isinstance(value, msgspec.Struct):
        return f"{kind}({_GAP})"
    return text.replace("\n", " ")[: room - 1] + _GAP


def _counted(values: Any) -> str:
    kind, held = type(values).__name__, {type(one).__name__ for one in values}
    return f"{kind} of {len(values):,} {held.pop() if len(held) == 1 else 'values'}"
