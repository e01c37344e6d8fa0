"""Any value as text for messages, and sizes in bytes from text and to text."""

from __future__ import annotations

import re

from trimtab.core.errors import Misuse

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*")
_SHOWN = 100  # characters of a value in a message


def shown(value: object) -> str:
    """Return the `repr` of a value. This never raises an error.

    >>> shown("x"), shown(10**20), shown(2**80_000)[:6]
    ("'x'", '100000000000000000000', '0x1000')
    """
    try:
        return repr(value)
    except Exception as error:  # the `__repr__` of a foreign class may raise anything
        if isinstance(value, int):
            return hex(value)  # Python refuses to write very large integers in decimal
        return f"<a {type(value).__name__} whose repr raises {type(error).__name__}>"


def size_bytes(text: str) -> int:
    """Bytes of a size such as "500MB", "20GB" (thousands) or "16GiB" (1,024s); upper or lower case.

    Raises:
        Misuse: It is no size.

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


def format_bytes(size: float) -> str:
    """A size as text with about three digits.

    >>> format_bytes(999), format_bytes(12_345_678)
    ('999 B', '12.3 MB')
    """
    for name, factor in reversed(_UNITS.items()):
        if abs(size) >= factor > 1:
            return f"{size / factor:.3g} {name}" if abs(size) < 1000 * factor else f"{size / factor:,.0f} {name}"
    return f"{size:.0f} B"
