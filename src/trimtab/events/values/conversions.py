"""The table of conversions: for each kind of value and each declared type, how the value is converted.  # D160

A conversion returns the value for the event, or refuses the value with a reason. All ways of adding events use these
rules: `TYPED` for rows, JSON, Arrow, pandas, polars, DuckDB and Parquet, and `TEXTS` for CSV files. Other modules have
faster functions for whole columns, which tests compare with these rules.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import numpy as np

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.time import parse_time_us
from trimtab.events.formats.column_formats import ColumnFormat
from trimtab.events.formats.number_formats import NumberFormat
from trimtab.events.formats.time_formats import TimeFormat
from trimtab.events.records import Value

Reason = Literal[
    "missing",  # the time or the key is missing
    "wrong_type",
    "infinite",
    "too_large",  # a number beyond 1e150, or an integer that does not fit in 64 bits
    "bad_time",  # not a time, outside of the years 1 to 9999, or an integer that is probably seconds or milliseconds
    "bad_text",  # a text that cannot be encoded as UTF-8
    "no_key",  # a deletion in a source without a key
    "future",  # the time is further ahead of the clock than the source allows
    "bad_line",  # a line of a file that cannot be read, or has not one field for each column of the header
]
Kind = Literal["null", "bool", "int", "float", "decimal", "text", "date", "datetime", "uuid", "other"]
Rule: TypeAlias = Callable[[Any], Value] | Reason

LARGEST = 1e150  # the square of a larger number could overflow
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Refused(Exception):
    """Raised if a value cannot be converted, with the reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def converted(dtype: Dtype, value: object, written: ColumnFormat | None = None) -> Value:
    """Convert a value to the form of an event.

    Args:
        written: The format of the column, if the source declares one.

    Raises:
        Refused: The value cannot be converted to the type.

    >>> converted("float", 3), converted("int", Decimal("9007199254740993")), converted("str", float("nan"))
    (3.0, 9007199254740993, None)
    """
    kind, plain = kind_of(value)
    if kind == "null":
        return None
    if written is not None:
        if kind == "text" and written.is_null(plain):
            return None
        if written.times is not None and kind in WRITTEN:
            return _written(plain, written.times)
        if written.numbers is not None and kind == "text":
            return _formatted(dtype, plain.strip(), written.numbers)
    rule = TYPED[dtype][kind]
    if isinstance(rule, str):
        raise Refused(rule)
    return rule(plain)


def of_text(dtype: Dtype, text: str, written: ColumnFormat | None = None) -> Value:
    """Convert a field of a text file. `written` is as in `converted`.

    Raises:
        Refused: The field cannot be converted to the type.

    >>> of_text("float", " 1.5 "), of_text("int", "1e3"), of_text("bool", "Yes"), of_text("float", "n/a")
    (1.5, 1000, True, None)
    """
    if written is not None and written.is_null(text):
        return None
    if dtype == "str":
        return _text(text)
    bare = text.strip()
    if bare.lower() in NULL_WORDS:
        return None
    if written is not None and written.times is not None:
        return _written(bare, written.times)
    if written is not None and written.numbers is not None:
        return _formatted(dtype, bare, written.numbers)
    return TEXTS[dtype](bare)


def kind_of(value: object) -> tuple[Kind, Any]:
    """Return the kind of a value, and the value as a plain Python object (not of NumPy, pandas or an enumeration)."""
    kind = _KINDS.get(type(value))
    if kind is None:
        kind, value = _unusual(value)
    if kind == "float" and value != value:
        return "null", None
    if kind == "decimal" and isinstance(value, Decimal) and value.is_nan():
        return "null", None
    return kind, value


def _unusual(value: Any) -> tuple[Kind, Any]:
    pandas = sys.modules.get("pandas")
    if value is np.ma.masked or (pandas is not None and (value is pandas.NA or value is pandas.NaT)):
        return "null", None
    if isinstance(value, np.datetime64):
        return ("null", None) if np.isnat(value) else ("datetime", _numpy_us(value))
    if isinstance(value, np.timedelta64):
        return "other", value
    if isinstance(value, np.floating):  # Python has no type for NumPy's long double
        return "float", float(value)
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        inner = value[()] if isinstance(value, np.ndarray) else value.item()
        return ("other", value) if type(inner) is type(value) else kind_of(inner)
    for kind, parent, plain in _PARENTS:
        if isinstance(value, parent):
            return kind, plain(value)
    return "other", value


def _numpy_us(value: Any) -> int:
    """Return a NumPy time of any unit in microseconds, rounded down. (NumPy's own conversion can overflow silently.)"""
    unit, count = np.datetime_data(value.dtype)
    if unit in ("Y", "M"):
        months = (12 if unit == "Y" else 1) * count * int(value.astype(np.int64))
        year, month = 1970 + months // 12, months % 12 + 1
        if not 1 <= year <= 9999:
            return INT_MAX
        return parse_time_us(dt.date(year, month, 1))
    over, under = _PER_UNIT[unit]
    return int(value.astype(np.int64)) * count * over // under


_PER_UNIT = {  # by unit: (a, b) means that a microseconds are b units
    **{u: (us, 1) for u, us in {"W": 604_800_000_000, "D": 86_400_000_000, "h": 3_600_000_000}.items()},
    **{u: (us, 1) for u, us in {"m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}.items()},
    **{u: (1, of) for u, of in {"ns": 1_000, "ps": 10**6, "fs": 10**9, "as": 10**12}.items()},
}
_KINDS: dict[type, Kind] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    Decimal: "decimal",
    dt.datetime: "datetime",
    dt.date: "date",
    UUID: "uuid",
}
_PARENTS: tuple[tuple[Kind, type, Callable[[Any], Any]], ...] = (
    ("int", int, int.__int__),  # a member of an integer enumeration becomes its number
    ("float", float, float.__float__),
    # a member of a text enumeration becomes its text, whatever `str` returns for it
    ("text", str, str.__str__),
    ("decimal", Decimal, lambda value: value),
    ("datetime", dt.datetime, lambda value: value),
    ("date", dt.date, lambda value: value),
    ("uuid", UUID, lambda value: value),
)


def _float(value: int | float | Decimal) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise Refused("too_large") from None
    if abs(number) > LARGEST:
        raise Refused("infinite" if _is_infinite(value) else "too_large")
    return number + 0.0


def _is_infinite(value: int | float | Decimal) -> bool:
    return value.is_infinite() if isinstance(value, Decimal) else isinstance(value, float) and math.isinf(value)


def _int(value: int | float | Decimal) -> int:
    if not isinstance(value, int):
        if _is_infinite(value):
            raise Refused("infinite")
        if isinstance(value, Decimal) and value.adjusted() > 20:
            raise Refused("too_large" if value == value.to_integral_value() else "wrong_type")
        if value != int(value):
            raise Refused("wrong_type")
        value = int(value)
    if not INT_MIN <= value <= INT_MAX:
        raise Refused("too_large")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused("bad_text") from None
    return value


def _time(value: Any) -> int:
    try:
        return parse_time_us(value)
    except Misuse:
        raise Refused("bad_time") from None


def _written(value: Any, written: TimeFormat) -> int:
    try:
        return written.us(value)
    except Misuse:
        raise Refused("bad_time") from None


def _formatted(dtype: Dtype, text: str, written: NumberFormat) -> Value:
    number = written.number(text)
    if number is None:
        raise Refused("wrong_type")
    return _int(number) if dtype == "int" else _float(number)


def _same(value: Any) -> Value:
    given: Value = value
    return given


def _rules(otherwise: Reason, **rules: Rule) -> Mapping[Kind, Rule]:
    """Return the rule for each kind of value except null: one of `rules`, or else the reason to refuse it."""
    return {kind: rules.get(kind, otherwise) for kind in get_args(Kind) if kind != "null"}


# by declared type and kind of value: the function that converts the value, or the reason to refuse it
TYPED: Mapping[Dtype, Mapping[Kind, Rule]] = {
    "float": _rules("wrong_type", int=_float, float=_float, decimal=_float),
    "int": _rules("wrong_type", int=_int, float=_int, decimal=_int),
    "bool": _rules("wrong_type", bool=_same, text=lambda text: _bool_of(text.strip())),
    "str": _rules("wrong_type", text=_text, uuid=str),
    "time": _rules("bad_time", int=_time, text=_time, date=_time, datetime=_time),
}

# the kinds of values that a declared time format reads, instead of the rules in `TYPED`
WRITTEN: frozenset[Kind] = frozenset({"int", "float", "decimal", "text"})

# For text files. Their values are all texts, so more forms are accepted than from other sources. In columns of other
# types than text, these words mean null, in upper or lower case.
NULL_WORDS = frozenset({"", "na", "n/a", "nan", "nat", "null", "none"})
_TRUE = ("true", "t", "yes", "y", "1", "ja", "j", "oui", "si", "sí")
_FALSE = ("false", "f", "no", "n", "0", "nein", "nee", "nej", "non")
BOOL_WORDS: Mapping[str, bool] = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)  # in lower case
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?")
_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)


def _number(text: str) -> Decimal:
    if _INFINITE.fullmatch(text):
        raise Refused("infinite")
    if not _NUMBER.fullmatch(text):
        raise Refused("wrong_type")
    return Decimal(text)


def _int_of(text: str) -> int:
    number = _number(text)
    if "e" not in text.lower():
        return _int(number)
    nearest = float(number)  # as in JSON, a number with an exponent is a float
    if math.isinf(nearest):
        raise Refused("too_large")
    return _int(nearest)


def _bool_of(text: str) -> bool:
    found = BOOL_WORDS.get(text.lower())
    if found is None:
        raise Refused("wrong_type")
    return found


TEXTS: Mapping[Dtype, Callable[[str], Value]] = {
    "float": lambda text: _float(_number(text)),
    "int": _int_of,
    "bool": _bool_of,
    "str": _text,
    "time": _time,
}
