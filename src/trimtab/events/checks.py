"""The rules for values: what a row's fields become in an event, or why the row goes to quarantine."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from trimtab.core.clock import Clock
from trimtab.core.columns import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import moment_us
from trimtab.events.records import Value

Reason = Literal[
    "missing",  # no time, no key, no id where one is needed
    "wrong_type",
    "infinite",
    "too_large",  # beyond 1e150, or beyond 64 bits for an int
    "bad_time",  # no moment, outside the years 1 to 9999, or an integer that counts seconds or milliseconds
    "bad_text",  # text that has no UTF-8 form
    "no_key",  # a deletion in a source that declares no key: declare one
    "future",  # dated further ahead of the clock than the source tolerates
    "bad_line",  # a line of a file that does not fit its header
]
Report = Callable[[int, Reason, object], None]  # row, reason, what was found

EXTRA: dict[str, Dtype] = {"_id": "str", "_known_at": "time", "_op": "str"}  # what a row may carry beside its columns
LARGEST = 1e150  # squares of larger values overflow
# As seconds or milliseconds these integers are moments from 1980 to 2050, as microseconds some of early 1970. # D49
OTHER_UNITS = {"seconds": (315_532_800, 2_524_608_000), "milliseconds": (315_532_800_000, 2_524_608_000_000)}
LAST_OF_OTHER_UNITS_US = OTHER_UNITS["milliseconds"][1]
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_ABSENT = type(None)


def other_unit(value: object) -> str | None:
    """The unit that an integer is most likely in, where it is given as a moment and would lie in early 1970.

    >>> other_unit(1_709_251_200), other_unit(1_709_251_200_000), other_unit(1_709_251_200_000_000)
    ('seconds', 'milliseconds', None)
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return None
    return next((unit for unit, (first, end) in OTHER_UNITS.items() if first <= value < end), None)


def moment_shown(value: object) -> str:
    """A value that is no moment, for people; an integer with the unit that it seems to be in."""
    unit = other_unit(value)
    hint = f", which as microseconds lies in 1970 and looks like {unit}" if unit else ""
    return f"{shown(value)[:150]}{hint}"


def asked_moment(value: str | int | dt.datetime | dt.date, field: str, clock: Clock | None = None) -> int:
    """UTC microseconds of a moment that is asked about; an integer in another unit is none, as in events.  # D49

    Args:
        value: ISO 8601 text, a datetime, a date or microseconds.
        field: What it was given as; messages begin with it.
        clock: While it stands in early 1970 (a test's, a simulation's) such integers are moments.

    Raises:
        Misuse: It is no moment.
    """
    if other_unit(value) and (clock is None or clock.now_us() > LAST_OF_OTHER_UNITS_US):
        raise Misuse(f"{field}: {moment_shown(value)}. Give ISO 8601 text, a datetime or microseconds.")
    try:
        return moment_us(value)
    except Misuse as error:
        raise Misuse(f"{field}: {error}") from None


class _Bad(Exception):
    """A value that cannot be."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def check(dtype: Dtype, values: Sequence[object], report: Report) -> list[Value]:
    """The values as an event holds them: NaN is null, -0.0 is 0.0, times are microseconds.

    A value that cannot be is reported and null in the result.

    >>> check("float", [1, float("nan"), -0.0, "x"], lambda row, reason, found: print(row, reason, found))
    3 wrong_type x
    [1.0, None, 0.0, None]
    """
    quick = _QUICK[dtype](values, set(map(type, values)) - {_ABSENT})
    if quick is not None:
        return quick
    convert = _CONVERT[dtype]
    out: list[Value] = []
    for row, value in enumerate(values):
        try:
            plain = _plain(value)
            out.append(None if plain is None else convert(plain))
        except _Bad as bad:
            report(row, bad.reason, value)
            out.append(None)
    return out


# The quick ways take a whole column when nothing in it is unusual, and answer None when something may be.


def _quick_floats(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if not kinds <= {float, int}:
        return None
    try:
        array = np.array([np.nan if v is None else v for v in values], np.float64) + 0.0  # -0.0 + 0.0 = 0.0
    except OverflowError:
        return None
    if (np.abs(array) > LARGEST).any():
        return None
    out: list[Value] = array.tolist()
    for row in np.flatnonzero(np.isnan(array)).tolist():
        out[row] = None
    return out


def _quick_ints(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if kinds - {int}:
        return None
    there = [v for v in values if v is not None]
    if there and not (min(there) >= _INT_MIN and max(there) <= _INT_MAX):
        return None
    return list(values)


def _quick_bools(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    return None if kinds - {bool} else list(values)


def _quick_texts(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if kinds - {str}:
        return None
    text = "".join([v for v in values if v is not None])
    return list(values) if text.isascii() or _encodable(text) else None


def _quick_times(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if not kinds <= {dt.datetime, str, int}:
        return None
    try:
        return [None if v is None else moment_us(v) for v in values]
    except (Misuse, ValueError):  # a ValueError: an int too long to be written into the message
        return None


_QUICK: dict[Dtype, Callable[[Sequence[Any], set[type]], list[Value] | None]] = {
    "float": _quick_floats,
    "int": _quick_ints,
    "bool": _quick_bools,
    "str": _quick_texts,
    "time": _quick_times,
}


def _plain(value: object) -> Any:
    """A NumPy scalar's Python value; None for every way to say that nothing is there."""
    if hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.astype("M8[us]").item() if isinstance(value, np.datetime64) else value.item()
    if isinstance(value, float | dt.datetime) and value != value:  # NaN, and pandas' NaT
        return None
    if isinstance(value, Decimal):  # a database's way to say a number
        return None if value.is_nan() else float(value)
    return value


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise _Bad("wrong_type")
    try:
        number = float(value)
    except OverflowError:
        raise _Bad("too_large") from None
    if abs(number) > LARGEST:
        raise _Bad("infinite" if number in (np.inf, -np.inf) else "too_large")
    return number + 0.0


def _int(value: object) -> int:
    if isinstance(value, float):
        if value in (np.inf, -np.inf):
            raise _Bad("infinite")
        if not value.is_integer():
            raise _Bad("wrong_type")
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Bad("wrong_type")
    if not _INT_MIN <= value <= _INT_MAX:
        raise _Bad("too_large")
    return int(value)


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Bad("wrong_type")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Bad("wrong_type")
    if not _encodable(value):
        raise _Bad("bad_text")
    return str.__str__(value)  # not what a subclass, such as an enumeration, makes of it


def _time(value: object) -> int:
    if not isinstance(value, str | int | dt.date) or (isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX):
        raise _Bad("bad_time")
    try:
        return moment_us(value)
    except Misuse:
        raise _Bad("bad_time") from None


_CONVERT: dict[Dtype, Callable[[object], Value]] = {
    "float": _float,
    "int": _int,
    "bool": _bool,
    "str": _text,
    "time": _time,
}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
