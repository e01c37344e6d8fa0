"""Check values: convert them for an event, or report why their row goes to quarantine."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trimtab.core.clock import Clock
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.core.time import EARLIEST_US, LATEST_US, format_time, parse_time_us
from trimtab.events.formats.column_formats import ColumnFormat
from trimtab.events.records import Value
from trimtab.events.values.conversions import INT_MAX, INT_MIN, LARGEST, Reason, Refused, converted, kind_of

Report = Callable[[int, Reason, object], None]  # a function of the row's index, the reason, and the value found

EXTRA: dict[str, Dtype] = {
    "_id": "str",
    "_known_at": "time",
    "_op": "str",
}  # columns that a row may have in addition to the declared ones
# Integers in these ranges are times from 1980 to 2050 in this unit. As microseconds, they are in 1970. D178
OTHER_UNITS = {"seconds": (315_532_800, 2_524_608_000), "milliseconds": (315_532_800_000, 2_524_608_000_000)}
LAST_OF_OTHER_UNITS_US = OTHER_UNITS["milliseconds"][1]
_ABSENT = type(None)


def other_unit(value: object) -> str | None:
    """Return the probable unit of an integer time that as microseconds would be in early 1970; None for other times.

    >>> other_unit(1_709_251_200), other_unit(1_709_251_200_000), other_unit(1_709_251_200_000_000)
    ('seconds', 'milliseconds', None)
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return None
    return next((unit for unit, (first, end) in OTHER_UNITS.items() if first <= value < end), None)


def value_shown(value: object, reason: Reason, written: ColumnFormat | None) -> str:
    """Return a text for people about a value that does not fit its column."""
    if reason == "bad_time" or (written is not None and written.numbers is not None and reason == "wrong_type"):
        return time_shown(value, written)
    return shown(value)[:200]


def time_shown(value: object, written: ColumnFormat | None = None) -> str:
    """Return a text for people about a value that is not a valid time, or does not fit its declared format.

    The text also names this format, or the probable unit of an integer.
    """
    if written is not None and written.text:
        return f"{shown(value)[:150]}, which does not fit the format {written.text!r}"
    unit = other_unit(value)
    hint = f", which as microseconds lies in 1970 and looks like {unit}" if unit else ""
    return f"{shown(value)[:150]}{hint}"


def given_time_us(value: str | int | dt.datetime | dt.date, field: str, clock: Clock | None = None) -> int:
    """Return the time that a caller gave, in UTC microseconds.

    An integer that is probably in another unit is refused, like in events. # D178

    Args:
        value: An ISO 8601 text, a datetime, a date, or an integer in microseconds.
        field: The name of the argument, with which messages begin.
        clock: The clock. If it is in early 1970, as in tests and simulations, small integers are accepted.

    Raises:
        Misuse: The value is not a time, or an integer in another unit.
    """
    if other_unit(value) and (clock is None or clock.now_us() > LAST_OF_OTHER_UNITS_US):
        raise Misuse(f"{field}: {time_shown(value)}. Give ISO 8601 text, a datetime or microseconds.")
    try:
        return parse_time_us(value)
    except Misuse as error:
        raise Misuse(f"{field}: {error}") from None


def typed_time(value: object) -> object:
    """Return a date or datetime as a text that every time format accepts. Return other values unchanged."""
    kind, plain = kind_of(value)
    if kind not in ("date", "datetime"):
        return value
    try:
        return format_time(parse_time_us(plain))
    except Misuse:
        return value


def check(dtype: Dtype, values: Sequence[object], report: Report, written: ColumnFormat | None = None) -> list[Value]:
    """Convert values to the form of an event: NaN becomes null, -0.0 becomes 0.0, and times become microseconds.

    A value that cannot be converted is reported, and is None in the result. `written` is explained in `converted`.

    >>> check("float", [1, float("nan"), -0.0, "x"], lambda row, reason, found: print(row, reason, found))
    3 wrong_type x
    [1.0, None, 0.0, None]
    """
    if written is not None:
        return _one_by_one(lambda dtype, value: converted(dtype, value, written), dtype, values, report)
    quick = _QUICK[dtype](values, set(map(type, values)) - {_ABSENT})
    if quick is not None:
        return quick
    return _one_by_one(converted, dtype, values, report)


def _one_by_one(
    convert: Callable[[Dtype, Any], Value], dtype: Dtype, values: Sequence[Any], report: Report
) -> list[Value]:
    out: list[Value] = []
    for row, value in enumerate(values):
        try:
            out.append(convert(dtype, value))
        except Refused as refused:
            report(row, refused.reason, value)
            out.append(None)
    return out


# These functions convert whole columns. They return None if the column may have values that they do not handle.


def _quick_floats(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if not kinds <= {float, int}:
        return None
    try:
        # adding 0.0 turns -0.0 into 0.0; NaN differs from itself
        out: list[Any] = [None if v is None or v != v else v + 0.0 for v in values]
    except OverflowError:
        return None
    there = [v for v in out if v is not None] if None in out else out
    return out if not there or (min(there) >= -LARGEST and max(there) <= LARGEST) else None


def _quick_ints(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if kinds - {int}:
        return None
    there = [v for v in values if v is not None]
    if there and not (min(there) >= INT_MIN and max(there) <= INT_MAX):
        return None
    return list(values)


def _quick_bools(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    return None if kinds - {bool} else list(values)


def _quick_texts(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if kinds - {str}:
        return None
    text = "".join([v for v in values if v is not None])
    return list(values) if is_utf8(text) else None


def _quick_times(values: Sequence[Any], kinds: set[type]) -> list[Value] | None:
    if not kinds <= {dt.datetime, str, int}:
        return None
    if not kinds - {int}:
        there = [v for v in values if v is not None]
        in_range = not there or (min(there) >= EARLIEST_US and max(there) <= LATEST_US)
        return list(values) if in_range else None
    try:
        return [None if v is None else parse_time_us(v) for v in values]
    except (Misuse, ValueError):  # ValueError: Python cannot write so long an integer into the message
        return None


_QUICK: dict[Dtype, Callable[[Sequence[Any], set[type]], list[Value] | None]] = {
    "float": _quick_floats,
    "int": _quick_ints,
    "bool": _quick_bools,
    "str": _quick_texts,
    "time": _quick_times,
}


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
